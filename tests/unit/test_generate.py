"""Generated scenarios, and scenarios made smaller."""

import pytest

from tdpfast.check import Limits, check
from tdpfast.design import PRESETS
from tdpfast.errors import UsageError
from tdpfast.generate import BEFORE, CORE, HOST, NEAR, TROUBLE, VCPU, Generator
from tdpfast.minimised import minimise_scenario, summary
from tdpfast.scenario import parse
from tdpfast.shrink import operations, shrink

MAP = {"op": "map", "gfn": 0x200, "pfn": 0x140200, "private": 1, "write": 1, "retries": -1}


def test_a_number_of_a_seed_is_one_scenario():
    one, two = Generator(7), Generator(7)
    assert [one.shape(n) for n in range(300)] == [two.shape(n) for n in range(300)]
    assert [one.shape(n) for n in range(300)] != [Generator(8).shape(n) for n in range(300)]
    assert [one.shape(n) for n in range(len(CORE))] == list(CORE)
    whole = dict(one.scenarios(0, 60))
    assert {n: s.name for n, s in one.scenarios(30, 30)}.items() >= {
        (n, s.name) for n, s in whole.items() if n >= 30}


def test_everything_there_is_gets_drawn():
    shapes = [Generator(0).shape(n) for n in range(4000)]
    assert {what for shape in shapes for what in shape.threads} == {*VCPU, *HOST}
    assert {shape.near for shape in shapes} == set(NEAR) and {shape.before for shape in shapes} == set(BEFORE)
    assert {shape.trouble for shape in shapes} == set(TROUBLE) and {shape.inside for shape in shapes} == {True, False}


def test_focus_is_drawn_more_often():
    def share(focus):
        shapes = [Generator(0, focus).shape(n) for n in range(100, 1100)]
        return sum("recover" in shape.threads for shape in shapes)

    assert share(("recover",)) > 2 * share(())
    with pytest.raises(UsageError, match="nothing that scenarios are made of"):
        Generator(0, ("nonsense",))


def test_every_generated_scenario_can_be_explored():
    for _, scenario in Generator(3).scenarios(0, 60):
        assert check(scenario, "v7.3", limits=Limits(max_transitions=2_000)).executions > 0, scenario.name


def test_shrink_leaves_out_what_is_not_wanted():
    scenario = parse({"name": "big", "setup": [MAP, {**MAP, "gfn": 0x201, "pfn": 0x140201}], "thread": [
        {"ops": [{"op": "mwalk", "gfn": 0x200}, {"op": "unmap", "start": 0x200, "end": 0x400, "filter": 2}]},
        {"ops": [{"op": "mwalk", "gfn": 0x201}]}]}, "big")

    def unmaps_the_last(less):
        return any(op["op"] == "unmap" and op["end"] == 0x400 for thread in less.threads for op in thread.ops)

    small = shrink(scenario, unmaps_the_last)
    assert operations(small) == 1 and not small.setup
    assert small.threads[0].ops[0] == {"op": "unmap", "start": 0x3ff, "end": 0x400, "filter": 2}
    assert shrink(scenario, unmaps_the_last, attempts=0) == scenario


def test_a_violation_keeps_its_check():
    zap = {"op": "zap_leafs", "start": 0x200, "end": 0x204}
    scenario = parse({"name": "zap", "setup": [MAP], "thread": [
        {"ops": [{"op": "mwalk", "gfn": 0x203}, {"op": "mwalk", "gfn": 0x203}]}, {"ops": [zap]}]}, "zap")
    broken = PRESETS["v7.3"].replace(name="mine", no_hook_on_zap=True)
    small = minimise_scenario(scenario, broken)
    assert operations(small.scenario) == 1 and small.kept == "agree" and "agree" in small.verdict.checks
    assert small.scenario.threads[0].ops[0]["end"] == 0x201
    assert summary(small).startswith("agree: 3 -> 1 operations") and "reproduced 10/10" in summary(small)
    with pytest.raises(UsageError, match="nothing is violated"):
        minimise_scenario(scenario, "v7.3")
    with pytest.raises(UsageError, match="pamt is not violated"):
        minimise_scenario(scenario, broken, wanted="pamt")
    with pytest.raises(UsageError, match="not one of the checks"):
        minimise_scenario(scenario, broken, wanted="nonsense")
