"""One design against another, and the sweep of a design's guards."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tdpfast.against import CALLS, GONE, STATES, VIOLATION, against, text, to_json
from tdpfast.design import PRESETS, WRONG_KNOBS, with_knobs
from tdpfast.errors import UsageError
from tdpfast.sweep import guards_of, markdown, sweep
from tdpfast.sweep import text as sweep_text
from tdpfast.sweep import to_json as sweep_json


def test_tables_linked_without_freezing_are_found_on_two_first_faults():
    mine = with_knobs("v7.3", {"no_freeze": True})
    result = against(mine, "v7.3", scenarios=4, jobs=1)
    found = next(d for d in result.differences if d.kind == VIOLATION and d.gated and "life" in d.text)
    assert found.scenario.name == "fault+fault-same-fresh" and not found.scenario.setup
    assert result.violated and result.tried == 4 and result.next == 4
    assert "life" in found.verdict.checks
    assert "new violation, gated: " in text(result)


def test_removed_tables_propagated_first_take_agree_away():
    """single-hook propagates what v7.3 does not, and v7.3 what single-hook does: seen from both sides."""
    result = against("single-hook-4k", "v7.3", scenarios=9, jobs=1)
    kinds = {d.kind for d in result.differences}
    assert GONE in kinds or VIOLATION in kinds
    back = against("v7.3", "single-hook-4k", scenarios=9, jobs=1)
    gone = {(d.text, d.gated) for d in result.differences if d.kind == GONE}
    assert gone == {(d.text, d.gated) for d in back.differences if d.kind == VIOLATION}


def test_calls_and_states_of_designs_that_hold():
    result = against(with_knobs("v7.3", {"no_track": True}), "v7.3", scenarios=6, jobs=1)
    assert any(d.kind == VIOLATION for d in result.differences)
    same = against(PRESETS["v7.3"].replace(name="twin"), "v7.3", scenarios=12, jobs=1)
    assert same.differences == [] and not same.violated and "no difference found" in text(same)
    assert same.compared + same.undecided + same.refused == 2 * same.tried
    assert {CALLS, STATES}.isdisjoint(d.kind for d in same.differences)


def test_how_it_is_spread_changes_nothing():
    mine = with_knobs("v7.3", {"no_rollback": True})
    here = to_json(against(mine, "v7.3", scenarios=20, jobs=1, seed=3))
    with ThreadPoolExecutor(1) as pool:
        assert to_json(against(mine, "v7.3", scenarios=20, executor=pool, seed=3)) == here
    assert json.loads(json.dumps(here)) == here


def test_bad_comparisons():
    with pytest.raises(UsageError, match="against itself"):
        against("v7.3", "v7.3")
    with pytest.raises(UsageError, match="unknown design"):
        against("v7.3", "nonsense")
    with pytest.raises(UsageError, match="no map"):
        against("v7.3", "patch07", executor=3)
    with pytest.raises(UsageError, match="scenarios"):
        against("v7.3", "patch07", scenarios=0)


def test_sweep_finds_what_needs_each_guard():
    result = sweep("v7.3", generated=0, jobs=1)
    needed = {g.knob: g for g in result.guards}
    assert set(needed) | set(result.not_read) == set(WRONG_KNOBS)
    for knob, checks in (("no_freeze", "kernel"), ("no_rollback", "progress"), ("no_hook_on_zap", "agree"),
                         ("no_grace_period", "life"), ("stats_on_failure", "stat")):
        assert checks in needed[knob].checks and needed[knob].scenario is not None, knob
        assert needed[knob].verdict.token
    for guard in result.guards:
        assert guard.scenario is not None or f"nothing in {guard.decided} searches needs it" in sweep_text(result)
    assert max(map(len, sweep_text(result).split("\n"))) <= 120
    assert markdown(result).count("\n| `") == len(result.guards)
    assert [g["knob"] for g in json.loads(json.dumps(sweep_json(result)))["guards"]] == list(needed)


def test_a_guard_that_is_gone_already_is_not_asked():
    has, has_not = guards_of(with_knobs("v7.3", {"no_freeze": True}))
    assert "no_freeze" in has_not and "no_freeze" not in has
