"""The catalogue `history`: each broken variant of a bug that was fixed is violated, each fixed one holds."""
import pytest

from tdpfast.catalogue import CATALOGUES, catalogue
from tdpfast.check import HOLDS, build, check, check_many
from tdpfast.design import PRESETS, get_design
from tdpfast.report import unexpected
from tdpfast.scenario import parse

HISTORY = {s.name: s for s in catalogue("history")}
HOLE = [{"op": "unmap", "start": 0x200, "end": 0x201}, {"op": "free_pfn", "gfn": 0x200, "pfn": 0x140200}]
FAULT = {"op": "map", "gfn": 0x200, "pfn": 0x140200, "retries": -1}


@pytest.fixture(scope="module")
def verdicts():
    tasks = [(s, d, True) for s in HISTORY.values() for d in s.expect_gated]
    return {(v.scenario, v.design): v for v in check_many(tasks)}


def test_every_expectation_holds(verdicts):
    assert [text for v in verdicts.values() if (text := unexpected(v, HISTORY[v.scenario]))] == []


def test_right_variants_hold_whole(verdicts):
    for (scenario, design), v in verdicts.items():
        if "+" not in design:
            assert (v.verdict, v.complete) == (HOLDS, True), scenario


def test_each_scenario_has_both_variants():
    for s in HISTORY.values():
        assert s.expect_gated["v7.3"] == HOLDS and any("+" in d for d in s.expect_gated)
        assert set(s.expect_gated) <= set(CATALOGUES["history"])


@pytest.mark.parametrize("design", PRESETS)
def test_a_punched_hole_is_no_bug_of_any_design(design):
    v = check(HISTORY["fault-against-punch-hole"], design)
    assert (v.verdict, v.complete) == (HOLDS, True)


def test_a_page_that_was_freed_and_faulted_again_is_another(verdicts):
    scenario = parse({"name": "again", "setup": [FAULT | {"gfn": 0x201, "pfn": 0x140201}], "thread": [
        {"ops": [FAULT, *HOLE, FAULT]}]}, "here")
    program = build(scenario, get_design("v7.3"))
    from tdpfast._explore.explorer import Explorer
    assert Explorer(program).run()["failures"] == {}
    first, _, freed, again = program.results()[0]
    assert (first["pfn"], freed["ret"], again["ret"]) == (0x140200, 0, 5) and again["pfn"] != first["pfn"]


@pytest.mark.parametrize("knob", ["no_seq", "seq_after_lookup", "no_inval_range", "end_before_free"])
def test_one_operation_that_punches_a_hole(knob):
    scenario = parse({"name": "hole", "setup": [FAULT | {"gfn": 0x201, "pfn": 0x140201}], "thread": [
        {"ops": [{"op": "punch_hole", "start": 0x200, "end": 0x201, "pfn": 0x140200}]}, {"ops": [FAULT]}]}, "here")
    assert check(scenario, "v7.3").verdict == HOLDS
    assert "page" in check(scenario, f"v7.3+{knob}").checks


def test_conversion_in_place_gives_way_to_a_pin():
    scenario = parse({"name": "pinned", "setup": [
        {"op": "set_attributes", "start": 0x200, "end": 0x201, "private": 0}], "thread": [{"ops": [
            {"op": "set_attributes", "start": 0x200, "end": 0x201, "private": 1, "pinned": 1}, FAULT,
            {"op": "set_attributes", "start": 0x200, "end": 0x201, "private": 1}, FAULT]}]}, "here")
    for design, rets in (("inplace", [-11, -14, 0, 5]), ("v7.3", [0, 5, 0, 6])):
        program = build(scenario, get_design(design))
        from tdpfast._explore.explorer import Explorer
        Explorer(program).run()
        assert [r["ret"] for r in program.results()[0]] == rets


def test_a_prefetch_in_a_slot_that_goes_away_is_refused():
    scenario = parse({"name": "prefetch", "setup": [FAULT | {"gfn": 0x201, "pfn": 0x140201}], "thread": [
        {"ops": [{"op": "move_slot", "start": 0x200, "end": 0x202}]},
        {"ops": [{"op": "prefault", "gfn": 0x200, "pfn": 0x140200}]}]}, "here")
    assert check(scenario, "v7.3").verdict == HOLDS and check(scenario, "v6.18").verdict == HOLDS
    assert check(scenario, "v6.16").checks == ["progress"]


def test_a_leaf_of_another_page_stays_a_bug():
    same = {"op": "map", "gfn": 0x200, "private": 0, "retries": 2}
    scenario = parse({"name": "leaf-of-another-page", "setup": [FAULT | {"gfn": 0x201, "pfn": 0x140201, "private": 0}],
                      "thread": [{"ops": [same | {"pfn": 0x140200, "write": 0, "map_writable": 0}]},
                                 {"ops": [same | {"pfn": 0x140a00, "write": 1}]}]}, "here")
    v = check(scenario, "v7.3")
    assert "kernel" in v.checks and any("leaf_pfn_changed" in text for text in v.counterexample.assertions)


@pytest.mark.parametrize("busy, verdict", [(1, HOLDS), (2, HOLDS), (3, HOLDS), (10 ** 6, "violated")])
def test_a_hook_that_is_busy_for_a_while_is_no_livelock(busy, verdict):
    left = [busy]

    def hook(gfn, old, new, level):
        if gfn == 0x201 and left[0]:
            left[0] -= 1
            return -16
        return None

    def reset():
        left[0] = busy

    scenario = parse({"name": "busy-hook", "setup": [FAULT], "thread": [
        {"ops": [FAULT | {"gfn": 0x201, "pfn": 0x140201}]}, {"ops": [{"op": "mwalk", "gfn": 0x200}]}]}, "x")
    assert check(scenario, "v7.3", hooks={"set_external_spte": hook}, reset=reset).verdict == verdict


def test_a_fault_whose_next_try_asks_for_another_level():
    """hugepage-v5a: what a split under the read lock is asked for, the next try maps whole."""
    scenario = parse({"name": "asks-for-2m", "setup": [FAULT | {"level": 2}], "thread": [
        {"ops": [FAULT | {"gfn": 0x203, "pfn": 0x140203}]}, {"ops": [{"op": "mwalk", "gfn": 0x200}]}]}, "x")
    v = check(scenario, "hugepage-v5a")
    assert (v.verdict, v.complete) == (HOLDS, True)
