"""Entries that no other thread comes to are no steps: what that saves, and that nothing is lost by it."""

from pathlib import Path

import pytest

from tdpfast._testing.generate import Generator
from tdpfast.check import Limits, build, check, explore, replay_token
from tdpfast.design import PRESETS, Design
from tdpfast.errors import UsageError
from tdpfast.ops import OPS
from tdpfast.scenario import parse
from tdpfast.spans import SPANS
from tdpfast.token import Token

PRIVATE = {"op": "map", "gfn": 0x200, "pfn": 0x140200}
SHARED = {"op": "map", "gfn": 0x200, "pfn": 0x180200, "private": 0}
FAULT = {"op": "map", "gfn": 0x201, "pfn": 0x140201, "retries": -1}
SHARED_FAULT = {"op": "map", "gfn": 0x201, "pfn": 0x180201, "private": 0, "retries": -1}
WALK = {"op": "get_walk", "gfn": 0x200}
FAST_ZAP = [{"op": "invalidate_roots", "types": 2}, {"op": "zap_invalidated_roots", "shared": 1}]


def scenario_of(*threads, setup=(PRIVATE, SHARED), vm=None):
    return parse({"name": "spans", "vm": vm or {}, "setup": list(setup),
                  "thread": [{"ops": ops} for ops in threads]}, "here")


def searched(scenario, design="v7.3", *, every_entry=False, budget=3_000_000):
    """(program, result, digests of the final states) of a search by DPOR."""
    design = PRESETS[design] if isinstance(design, str) else design
    program = build(scenario, design, every_entry=every_entry)
    search = explore(program, Limits(max_transitions=budget, states=True))
    result = search.run()
    return program, result, frozenset(search.states())


def difference(scenario, design, budget):
    """What the search with fewer steps came to otherwise than the one with all; None if the latter is too long."""
    _, whole, states = searched(scenario, design, every_entry=True, budget=budget)
    if not whole["complete"]:
        return None
    program, result, some = searched(scenario, design, budget=budget)
    # A loop that nobody ends may go round once more for nothing, by who stood when: then the checks are compared.
    endless = bool(whole["ends"].keys() & {"stuck", "spin"})
    if result["checks"] != whole["checks"] or not (endless or some == states):
        return (f"{scenario.setup} {[t.ops for t in scenario.threads]} on {design.name}: checks {result['checks']:#x}, "
                f"{len(some)} states, not {whole['checks']:#x} and {len(states)}")
    return f"{program.outside} writes beyond its spans" if program.outside else ""


# ---- what it saves -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("threads, executions, steps, every", [
    (([{"op": "zap_all"}], [SHARED_FAULT]), 2, 130, 19_536),
    (([{"op": "zap_all"}], [WALK]), 46, 2_734, 449_026),
    (([*FAST_ZAP[:1], {"op": "zap_invalidated_roots", "shared": 0}], [SHARED_FAULT]), 14, 1_603, 137_445),
    (([{"op": "zap_all"}], [{"op": "age", "start": 0x200, "end": 0x201}]), 58, 3_494, 566_210),
], ids=["zap_all-fault", "zap_all-walk", "zapped-roots-fault", "zap_all-age"])
def test_root_zaps(threads, executions, steps, every):
    scenario = scenario_of(*threads)
    _, whole, states = searched(scenario, every_entry=True)
    _, result, some = searched(scenario)
    assert whole["complete"] and (whole["executions"], whole["transitions"]) == (executions, every)
    assert result["complete"] and (result["executions"], result["transitions"]) == (executions, steps)
    assert (some, result["checks"]) == (states, whole["checks"])


@pytest.mark.parametrize("fault, ends", [(FAULT, 7), (SHARED_FAULT, 5)], ids=["private", "shared"])
def test_the_end_of_the_vm_beside_a_fault(fault, ends):
    _, result, states = searched(scenario_of([{"op": "uninit"}], [fault]))
    assert result["complete"] and result["executions"] <= 100 and len(states) == ends


def test_a_fast_zap_under_the_read_lock_beside_a_fault():
    """Twelve million steps with every entry; what is left are the two walks and the locks."""
    _, result, states = searched(scenario_of(FAST_ZAP, [SHARED_FAULT]))
    assert result["complete"] and result["transitions"] < 200_000 and len(states) > 1


# ---- what must not be lost -----------------------------------------------------------------------------------------

def compared(cases, budget):
    """(how many could be compared, texts of what differs)."""
    number, wrong = 0, []
    for scenario, design in cases:
        try:
            text = difference(scenario, design, budget)
        except UsageError:               # a broken design need not survive the set-up
            continue
        number += text is not None
        wrong += [text] if text else []
    return number, wrong


def generated(seeds):
    for seed in seeds:
        make = Generator(seed)
        yield make.scenario(), make.design()


def test_nothing_is_lost():
    number, wrong = compared(generated(range(250)), 20_000)
    assert not wrong, "\n".join(wrong)
    assert number > 180


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 5000, 500))
def test_nothing_is_lost_in_many_scenarios(first):
    number, wrong = compared(generated(range(first, first + 500)), 300_000)
    assert not wrong, "\n".join(wrong)
    assert number > 350


RIVALS = [
    ("zap_all", [{"op": "zap_all"}], [WALK]),
    ("zap_invalidated_roots", FAST_ZAP, [WALK]),
    ("uninit", [{"op": "uninit"}], [WALK]),
    ("get_walk", [{"op": "zap_all"}], [WALK]),
    ("mwalk", [{"op": "unmap", "start": 0x200, "end": 0x202}], [{"op": "mwalk", "gfn": 0x200}]),
    ("unmap", [{"op": "unmap", "start": 0x200, "end": 0x202}], [{"op": "mwalk", "gfn": 0x200}]),
    ("zap_leafs", [{"op": "zap_leafs", "start": 0x200, "end": 0x202}], [{"op": "mwalk", "gfn": 0x200}]),
    ("map", [SHARED_FAULT], [{"op": "get_walk", "gfn": 0x201}]),
    ("poke", [{"op": "poke", "private": 0, "gfn": 0x200, "clear": 0x100}], [WALK]),
    ("clear_dirty_slot", [{"op": "clear_dirty_slot", "start": 0x200, "end": 0x202}], [WALK]),
    ("clear_dirty_pt_masked", [{"op": "clear_dirty_pt_masked", "gfn": 0x1ff, "mask": 2}], [WALK]),
    ("recover_nx", [{"op": "recover_nx"}], [WALK]),
    ("zap_nx", [{"op": "zap_nx"}], [WALK]),
    ("age", [{"op": "age", "start": 0x200, "end": 0x202}], [{"op": "fast_page_fault", "gfn": 0x200, "write": 1}]),
]
SPLIT = [{"op": "map", "gfn": 0x200, "pfn": 0x180200, "level": 2, "exec": 1}]
SETUPS = {"recover_nx": SPLIT, "zap_nx": SPLIT}


@pytest.mark.parametrize("name, one, other", RIVALS, ids=[name for name, *_ in RIVALS])
def test_a_span_that_is_too_small_loses_states(name, one, other, monkeypatch):
    """The comparison above can see it: with nothing said of one operation, other final states are missing."""
    plain = name in SETUPS
    scenario = scenario_of(one, other, setup=SETUPS.get(name, (PRIVATE, SHARED)),
                           vm={"tdx": 0, "nx_huge_pages": 1} if plain else None)
    assert difference(scenario, PRESETS["v7.3"].replace(ungated=True), 10_000_000) == ""
    monkeypatch.setitem(SPANS, name, "none")
    assert difference(scenario, PRESETS["v7.3"].replace(ungated=True), 10_000_000) not in ("", None)


# ---- where it is off ---------------------------------------------------------------------------------------------

def spans(*threads, setup=(PRIVATE, SHARED), design="v7.3", **more):
    return build(scenario_of(*threads, setup=setup), PRESETS[design].replace(ungated=True), **more).spans


def test_spans_of_threads():
    assert spans([{"op": "zap_all"}], [FAULT]) == [None, [(0x201, 0x202)]]
    assert spans([{"op": "unmap", "start": 0x200, "end": 0x210}], [{"op": "track", "gfn": 1}]) == [[(0x200, 0x210)], []]
    assert spans([{"op": "clear_dirty_pt_masked", "gfn": 0x200, "mask": 1}], [WALK])[0] == [(0x200, 0x240)]
    assert spans([FAULT] * 33, [WALK])[0] is None


@pytest.mark.parametrize("op, start, end", [
    ({**SHARED, "level": 2}, 0x200, 0x400),
    ({"op": "recover", "start": 0x201, "end": 0x202, "max_level": 2}, 0x200, 0x400),
    ({"op": "zap_spte", "gfn": 0x3ff, "level": 3}, 0, 0x40000), ({"op": "zap_nx_sp", "gfn": 0x401}, 0x400, 0x600)])
def test_what_takes_tables_away_comes_to_all_below(op, start, end):
    assert spans([op], [WALK])[0] == [(start, end)]


def test_a_design_with_huge_pages_may_take_tables_away_in_any_fault():
    assert spans([FAULT], [WALK], design="hugepage")[0] == [(0x200, 0x400)]
    assert spans([{"op": "guest_accept", "vcpu": 0, "gpa": 0x3ff000, "pfn": 0x1403ff, "level": 1}], [WALK],
                 setup=[{"op": "vp_enter", "vcpu": 0}])[0] == [(0x200, 0x400)]


def test_a_table_taken_away_beside_a_fault_of_another_page_of_it():
    """The collapse walks all 512 entries of the table; the fault is at the last of them."""
    scenario = scenario_of([{**PRIVATE, "level": 2, "retries": 1}],
                           [{"op": "map", "gfn": 0x3ff, "pfn": 0x1403ff, "retries": 1}], setup=[PRIVATE])
    for design in ("single-hook", "v6.19"):
        assert difference(scenario, PRESETS[design].replace(ungated=True), 10_000_000) == ""


def test_operations_without_a_span_switch_it_off(monkeypatch):
    assert set(SPANS) <= set(OPS)
    monkeypatch.delitem(SPANS, "track")
    assert spans([{"op": "track", "gfn": 0x200}], [WALK]) is None


def test_what_is_off_by_request_or_by_a_scripted_write():
    assert spans([{**SHARED_FAULT, "race": [1, "install", 1]}], [WALK]) is None
    assert spans([{"op": "zap_all"}], [FAULT], every_entry=True) is None


def test_a_table_that_the_set_up_linked_twice_switches_it_off():
    walk = build(scenario_of([WALK], [WALK], setup=[SHARED]), PRESETS["v7.3"])
    explore(walk, Limits()).run()
    table = dict(walk.results()[0][0]["sptes"])[3]
    again = {**SHARED, "gfn": 0x40000, "pfn": 0x1c0000, "race": [0, "install", table]}
    assert spans([{"op": "zap_all"}], [FAULT], setup=[SHARED, again]) is None
    assert spans([{"op": "zap_all"}], [FAULT], setup=[SHARED, {**again, "race": [0, "install", 0]}]) is not None


def test_code_of_others_switches_it_off():
    scenario = scenario_of([{"op": "zap_all"}], [FAULT])
    assert build(scenario, PRESETS["v7.3"], {"set_external_spte": lambda *args: None}).spans is None
    example = Path(__file__).parents[2] / "examples" / "designs" / "v7.3.c"
    assert build(scenario, Design.from_file(example)).spans is None


# ---- the option ----------------------------------------------------------------------------------------------------

def test_a_token_says_what_its_steps_are():
    scenario = scenario_of([{**FAULT, "gfn": 0x200}], [{"op": "unmap", "start": 0x200, "end": 0x202}], setup=[FAULT])
    design = PRESETS["v7.3"].replace(no_freeze=True)
    for every_entry in (False, True):
        verdict = check(scenario, design, limits=Limits(every_entry=every_entry))
        assert verdict.token is not None
        *_, program, replay = replay_token(Token.parse(verdict.token), [scenario], [design])
        assert (program.spans is None) == every_entry and replay["checks"]


def test_bad_option():
    with pytest.raises(UsageError, match="every_entry"):
        Limits(every_entry="yes")
