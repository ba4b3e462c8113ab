"""Scenario files: what is read, and what is refused."""

import json
from dataclasses import replace

import pytest

from tdpfast._face.seam_module import SeamModule
from tdpfast._face.td import TdVmCore
from tdpfast._program.program import ScenarioProgram, lower
from tdpfast.catalogue import CATALOGUES, catalogue
from tdpfast.check import MEMORY, SetupError, build, check, check_many
from tdpfast.design import get_design
from tdpfast.errors import UsageError
from tdpfast.ops import OPS
from tdpfast.scenario import TD_PAGES, Scenario, Thread, load, parse

MAP = {"op": "map", "gfn": 0x600, "pfn": 0x140600}
GOOD = {"name": "x", "thread": [{"name": "a", "ops": [MAP]}]}
TOML = """\
name = "two"
issue = "7"
title = "a title"
text = "why"
[vm]
levels = 5
vcpus = 3
[[setup]]
op = "map"
gfn = 0x600
pfn = "0x140600"
[[thread]]
name = "vcpu0"
ops = [{op = "map", gfn = 0x601, pfn = 0x140601, retries = -1, hook = [0, -16]}]
[[thread]]
ops = [{op = "unmap", start = 0x600, end = 0x601, inject = [{leaf = "MEM.RANGE.BLOCK", lock = "sept_tree"}]}]
[expect]
"v7.3" = "holds"
patch07 = "agree page"
[reason]
gated = "so"
"""


def refused(record, where="here"):
    with pytest.raises(UsageError) as info:
        parse(record, where)
    text = str(info.value)
    assert text.startswith(where) and "; try " in text and "\n" not in text
    return text


def with_op(op):
    return {**GOOD, "thread": [{"ops": [op]}]}


def test_toml_and_json_are_the_same(tmp_path):
    (tmp_path / "a.toml").write_text(TOML)
    scenario = load(tmp_path / "a.toml")
    assert (scenario.name, scenario.issue, scenario.vm) == ("two", "7", {"levels": 5, "vcpus": 3})
    assert [t.name for t in scenario.threads] == ["vcpu0", "thread1"]
    assert scenario.threads[0].ops[0]["hook"] == [0, -16]
    assert scenario.expect == {"v7.3": "holds", "patch07": "agree page"} and scenario.reason == {"gated": "so"}
    (tmp_path / "a.json").write_text(json.dumps(scenario.to_record()))
    assert load(str(tmp_path / "a.json")) == scenario
    assert load(tmp_path / "a.json").canonical() == scenario.canonical()


@pytest.mark.parametrize("name", CATALOGUES)
def test_catalogues_round_trip(name, tmp_path):
    scenarios = catalogue(name)
    assert len({s.name for s in scenarios}) == len(scenarios)
    for scenario in scenarios:
        path = tmp_path / f"{scenario.name}.json"
        path.write_text(json.dumps(scenario.to_record()))
        assert load(path) == scenario


def test_what_tokens_are_tied_to():
    scenario = parse(GOOD, "here")
    assert replace(scenario, text="other", expect={"v7.3": "holds"}).canonical() == scenario.canonical()
    others = [replace(scenario, name="y"), replace(scenario, vm={"levels": 5}), replace(scenario, setup=(MAP,)),
              replace(scenario, threads=(Thread("a", ({**MAP, "gfn": 1},)),))]
    assert len({s.canonical() for s in [scenario, *others]}) == 5


@pytest.mark.parametrize("op, message", [
    ({"op": "map"}, "no gfn"), ({"op": "map", "gfn": 0x600}, "no pfn"), ({"op": "unmap"}, "no start"),
    ({"op": "unmap", "end": 5}, "no start"), ({"op": "unmap", "start": 5, "end": 5}, "empty range"),
    ({"op": "unmap", "start": 5, "end": 6, "filter": 0}, "leaves nothing to do"),
    ({"op": "clear_dirty_pt_masked", "gfn": 5, "mask": 0}, "leaves nothing to do"),
    ({"op": "raw"}, "SEAMCALL leaf"), ({"op": "mwalk"}, "no gfn"), ({"op": "pamt_get"}, "no pfn"),
    ({**MAP, "pfn": 0x200600}, "outside the module's memory"),
    ({**MAP, "pfn": 0x600}, "outside the module's memory"),
    ({"op": "touch", "vcpu": 1, "gfn": 0x600, "pfn": 0x140600}, "vCPU 1, which is outside the guest"),
    ({"op": "accept", "gpa": 0x1000}, "outside the guest"), ({"op": "td_exit"}, "outside the guest")])
def test_what_can_do_nothing_is_refused(op, message):
    assert message in refused(with_op(op))


def test_what_looks_like_nothing_and_is_something():
    for ops in ([{**MAP, "private": 0, "pfn": 5}], [{"op": "map", "gfn": 5, "noslot": 1}],
                [{"op": "vp_enter", "vcpu": 1}, {"op": "touch", "vcpu": 1, "gfn": 0x600, "pfn": 0x140600}],
                [{"op": "guest_accept", "vcpu": 1, "gpa": 0x600000, "pfn": 0x140600}, {"op": "td_exit", "vcpu": 1}]):
        parse({**GOOD, "thread": [{"ops": ops}]}, "here")


def test_a_thread_without_operations_is_refused():
    assert "thread 0 has no operations" in refused({**GOOD, "thread": [{"ops": []}]})


@pytest.mark.parametrize("change, message", [
    ({"name": ""}, "no name"), ({"name": 5}, "no name"), ({"name": None}, "no name"),
    ({"colour": 1}, "unknown field colour"), ({"thread": []}, "no threads"), ({"thread": {}}, "no threads"),
    ({"thread": None}, "no threads"), ({"thread": [{"ops": [MAP]}] * 17}, "more than 16"),
    ({"thread": [5]}, "thread 0"), ({"thread": [{"ops": [], "cpu": 1}]}, "thread 0"),
    ({"thread": [{}]}, "thread 0 is no list"), ({"thread": [{"ops": {}}]}, "no list"),
    ({"thread": [{"ops": [5]}]}, "holds 5"),
    ({"thread": [{"ops": [{}]}]}, "holds {}"), ({"thread": [{"ops": [{"op": 1}]}]}, "holds"),
    ({"setup": 5}, "setup is no list"), ({"setup": ["map"]}, "setup holds"), ({"issue": 1}, "issue"),
    ({"title": 1}, "title"), ({"text": []}, "text"), ({"vm": 5}, "vm is no table"), ({"vm": {"cpus": 1}}, "cpus"),
    ({"vm": {"levels": 3}}, "vm.levels"), ({"vm": {"levels": "4"}}, "vm.levels"), ({"vm": {"vcpus": 9}}, "vm.vcpus"),
    ({"vm": {"vcpus": -1}}, "vm.vcpus"), ({"vm": {"runnable": True}}, "vm.runnable"),
    ({"vm": {"vcpus": 1.0}}, "vm.vcpus"), ({"expect": 5}, "expect is no table"), ({"expect": {"v9": "holds"}}, "v9"),
    ({"expect": {"v7.3+fly": "holds"}}, "unknown design knob 'fly'"), ({"expect": {5: "holds"}}, "unknown design 5"),
    ({"expect": {"v7.3": ""}}, "expect.v7.3"), ({"expect": {"v7.3": 5}}, "expect.v7.3"),
    ({"expect": {"v7.3": "holds agree"}}, "expect.v7.3"), ({"expect": {"v7.3": "fails"}}, "expect.v7.3"),
    ({"reason": 5}, "reason"), ({"reason": {"v7.3": 5}}, "reason"), ({"issue": 1 << 70}, "64 bits")])
def test_malformed(change, message):
    assert message in refused({**GOOD, **change})


def test_no_table():
    for value in ([], 5, "x", None):
        assert "no table" in refused(value)


@pytest.mark.parametrize("op, message", [
    ({"op": "fly"}, "unknown op 'fly'"), ({"op": "map", "gfm": 1}, "no field 'gfm'"),
    ({"op": "vp_enter", "gfn": 1}, "no field 'gfn'"), ({**MAP, "gfn": 1 << 52}, "gfn"), ({**MAP, "gfn": -1}, "gfn"),
    ({**MAP, "gfn": 1 << 35}, "not private memory"), ({**MAP, "gfn": 1 << 200}, "64 bits"),
    ({**MAP, "gfn": "x"}, "not a number"), ({**MAP, "gfn": 1.5}, "not a number"),
    ({**MAP, "gfn": None}, "not a number"), ({**MAP, "gfn": []}, "not a number"), ({**MAP, "pfn": 1 << 40}, "pfn"),
    ({**MAP, "level": 0}, "level"),
    ({**MAP, "level": 4}, "level"), ({**MAP, "level": -1}, "level"), ({**MAP, "level": "2M"}, "level"),
    ({**MAP, "level": 2, "pfn": 0x140601}, "do not lie alike"), ({**MAP, "level": 3, "pfn": 0x800}, "do not lie alike"),
    ({**MAP, "write": "yes"}, "write"), ({**MAP, "retries": 1 << 40}, "retries"),
    ({"op": "unmap", "start": 2, "end": 1}, "reversed"), ({"op": "unmap", "start": 1 << 52, "end": 1 << 53}, "start"),
    ({"op": "zap_leafs", "start": 0, "end": 1 << 36}, "not private memory"),
    ({"op": "split", "start": 0, "end": 1, "target_level": 9}, "target_level"),
    ({"op": "zap_spte", "gfn": 0, "level": 6}, "level"), ({"op": "vp_enter", "vcpu": 8}, "vcpu"),
    ({"op": "vp_enter", "vcpu": 2}, "vcpu 2"), ({"op": "vp_enter", "vcpu": -1}, "vcpu"),
    ({"op": "accept", "vcpu": 0, "gpa": 0x601}, "no page"), ({"op": "guest_access", "gpa": 1 << 60}, "private memory"),
    ({"op": "raw"}, "SEAMCALL"), ({"op": "raw", "leaf": "FLY"}, "FLY"), ({**MAP, "hook": 5}, "hook"),
    ({**MAP, "hook": [5]}, "hook return"), ({**MAP, "hook": [0] * 65}, "hook"), ({**MAP, "hook": ["x"]}, "hook"),
    ({**MAP, "hook": [{"hook": "eat"}]}, "'eat'"), ({**MAP, "hook": [{"kind": "eat"}]}, "'eat'"),
    ({**MAP, "hook": [{"kind": []}]}, "kind"), ({**MAP, "hook": [{"ret": 1}]}, "ret"),
    ({**MAP, "hook": [{"when": 1}]}, "no field 'when'"), ({**MAP, "hook": [{}, 5]}, "hook"),
    ({**MAP, "hook": [{}] * 9}, "9 hook rules"), ({**MAP, "inject": 5}, "inject"), ({**MAP, "inject": [5]}, "inject"),
    ({**MAP, "inject": [{}]}, "leaf"), ({**MAP, "inject": [{"leaf": "MEM.TRACK", "lock": "door"}]}, "'door'"),
    ({**MAP, "inject": [{"leaf": "MEM.TRACK", "lock": "epoch", "mode": "x"}]}, "'x'"),
    ({**MAP, "inject": [{"leaf": "MEM.TRACK", "lock": "epoch"}] * 9}, "9 injections"), ({**MAP, "race": 5}, "race"),
    ({**MAP, "race": [1, "fly", 0]}, "race"), ({**MAP, "race": [1, "hw", "x"]}, "race")])
def test_bad_operations(op, message):
    assert message in refused(with_op(op))
    assert message in refused({**GOOD, "setup": [op]})


def test_a_refusal_says_where():
    assert refused(with_op({**MAP, "gfn": -1})).startswith("here: thread 0, op 0: ")
    assert refused({**GOOD, "setup": [MAP, {"op": "fly"}]}).startswith("here: setup 1: ")


def test_five_levels_and_more_vcpus():
    parse({**with_op({**MAP, "gfn": 1 << 35}), "vm": {"levels": 5}}, "here")
    parse({**with_op({"op": "vp_enter", "vcpu": 7}), "vm": {"vcpus": 8}}, "here")


@pytest.mark.parametrize("name, content, message", [
    ("a.toml", None, "No such file"), ("a.toml", b"\xff\xfe\x00", "cannot read"), ("a.toml", b"name = ", "malformed"),
    ("a.json", b"{", "malformed"), ("a.json", b"", "malformed"), ("a.json", b'{"a":' * 100_000, "malformed"),
    ("a.toml", b"a = " + b"[" * 100_000, "malformed"), ("a.json", b'{"issue": ' + b"9" * 6000 + b"}", "malformed"),
    ("a.toml", b"issue = 0x" + b"f" * 6000, "64 bits"), ("a.json", b'{"vm": ' + b"[" * 60 + b"]" * 60 + b"}", "nested"),
    ("a.toml", b"", "no name"), ("a.json", b"[]", "no table"), ("a.toml", b'name = "x"\nname = "y"', "malformed"),
    ("a.toml", b'name = "x"\nthread = [{ops = [{op = "map", gfn = 1979-05-27}]}]', "not a number"),
    ("a.json", b'{"name": "x", "thread": [{"ops": [{"op": "map", "gfn": NaN}]}]}', "not a number")])
def test_bad_files(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as info:
        load(tmp_path / name)
    assert message in str(info.value) and str(tmp_path / name) in str(info.value)


def test_a_directory(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        load(tmp_path)


def test_unknown_catalogue_and_design():
    with pytest.raises(UsageError, match="unknown catalogue"):
        catalogue("reviews")
    for design in ("v9", "", None, 5):
        with pytest.raises(UsageError, match="unknown design"):
            check(parse(GOOD, "here"), design)


def test_made_in_python_is_checked_as_well():
    with pytest.raises(UsageError, match="y: thread 0, op 0: op 'map' has no field 'gfm'"):
        Scenario("y", (Thread("a", ({**MAP, "gfm": 1},)),))
    vm = TdVmCore(get_design("v7.3"), SeamModule([MEMORY]), nvcpus=1)
    for threads in ([], [[]] * 17, [[{"op": "map", "gfm": 1}]], [[{"op": "fly"}]], [[{"op": "map", "gfn": -1}]]):
        with pytest.raises(UsageError):
            ScenarioProgram(vm, threads)


def with_setup(*ops, threads=(MAP,)):
    return Scenario("y", (Thread("a", threads),), setup=ops)


def test_a_setup_that_ends_the_vm():
    busy = {**MAP, "retries": -1, "hook": [{"count": -1, "ret": -16}]}
    with pytest.raises(SetupError, match=r"y: setup 0 .op 'map'. on v7.3 ended in LIVELOCK"):
        check(with_setup(busy), "v7.3")


def test_a_setup_that_fails_or_kills_the_vm():
    huge = {"op": "map", "gfn": 0x200, "pfn": 0x140200, "level": 2}
    with pytest.raises(SetupError, match=r"setup 0 .op 'map'. on v7.3 kills the VM"):
        check(with_setup(huge), "v7.3", gated=False)
    assert check(with_setup(huge), "hugepage", gated=False).verdict == "holds"
    enter = {"op": "vp_enter", "vcpu": 1}
    with pytest.raises(SetupError, match=r"setup 1 .op 'vp_enter'. on v7.3 fails .it answered -3 "):
        check(with_setup(enter, enter), "v7.3")
    with pytest.raises(SetupError, match=r"setup 0 .op 'split'. on v7.3 fails .it answered -EINVAL"):
        check(with_setup({"op": "split", "start": 0x200, "end": 0x400}), "v7.3")
    with pytest.raises(SetupError, match=r"setup 1 .op 'accept'. on v7.3 fails .an EPT violation"):
        check(with_setup(enter, {"op": "accept", "vcpu": 1, "gpa": 0x600000}), "v7.3")
    # What is scripted to fail may.
    once = {**MAP, "hook": [{"count": 1, "ret": -16}]}
    assert check(with_setup(once, MAP), "v7.3").verdict == "holds"


def test_several_designs_where_the_setup_fails_on_one():
    huge = {"op": "map", "gfn": 0x200, "pfn": 0x140200, "level": 2}
    found = list(check_many([(with_setup(huge), design, False) for design in ("v7.3", "hugepage")], jobs=1))
    assert [v.verdict for v in found] == ["impossible", "holds"] and "kills the VM" in found[0].reason


def test_every_operation_is_in_the_table():
    from tdpfast._face.vm import OP_NAMES

    assert tuple(OPS) == OP_NAMES
    for name in OP_NAMES:
        lower({"op": name} | ({"leaf": "MEM.TRACK"} if name == "raw" else {}))


@pytest.mark.parametrize("pfn, ours", [(0x1000FF, False), (0x100100, True), ("0x1090ff", True), (0x109100, False)])
def test_pages_that_kvm_has_itself(pfn, ours):
    record = {**GOOD, "thread": [{"ops": [{**MAP, "pfn": pfn}]}]}
    if ours:
        assert "for the TD itself" in refused(record)
    else:
        vm = build(parse(record, "here"), get_design("v7.3")).vm
        assert (vm.tdr >> 12, vm.sept_range[1] >> 12) == TD_PAGES


def test_a_design_with_knobs_is_expected_by_name():
    scenario = parse({**GOOD, "expect": {"v7.3+no_freeze+prove_mmu": "life"}}, "here")
    assert scenario.expected("v7.3+prove_mmu+no_freeze", gated=False) == "life"
    assert scenario.expected("v7.3+no_freeze", gated=False) is None
