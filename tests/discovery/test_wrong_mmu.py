"""Wrong variants of the generic MMU: each is found by the check that is about it, and the right design holds.

Every check of what operations come to has a design here that it alone finds.
"""

import pytest

from tdpfast._explore.explorer import Explorer
from tdpfast._testing.generate import Generator
from tdpfast.check import Limits, SetupError, build, check
from tdpfast.checks import names_of
from tdpfast.design import PRESETS
from tdpfast.scenario import parse

SHARED = {"op": "map", "gfn": 0x200, "pfn": 0x140200, "private": 0, "write": 1}
NEXT = SHARED | {"gfn": 0x201, "pfn": 0x140201}
FAR = SHARED | {"gfn": 0x40200, "pfn": 0x180200}
PRIVATE = {"op": "map", "gfn": 0x200, "pfn": 0x140200}
RANGE = {"start": 0x200, "end": 0x201}
UNMAP = {"op": "unmap", "filter": 1, **RANGE}
FREE = {"op": "free_pfn", "gfn": 0x200, "pfn": 0x140200}
ACCESS = {"op": "access", "gfn": 0x200}
WRITE = ACCESS | {"write": 1}
ENTER = {"op": "vp_enter", "vcpu": 0}
HUGE = PRIVATE | {"level": 2}
ACCEPT_2M = {"op": "accept", "vcpu": 0, "gpa": 0x200000, "level": 1}
INVALID = {"op": "invalidate_roots", "types": 2}
WALK = {"op": "get_walk", "gfn": 0x200}
PLAIN = {"tdx": 0}
LOGS = [{"base_gfn": 0x200, "npages": 0x200, "dirty_log": 1}]
CODE = {"op": "map", "gfn": 0x200, "pfn": 0x140200, "level": 2, "exec": 1}
DATA_2M = {"op": "map", "gfn": 0x400, "pfn": 0x140400, "level": 2}
DATA_1G = {"op": "map", "gfn": 0, "pfn": 0x140000, "level": 3}
NX = {"tdx": 0, "nx_huge_pages": 1}


def case(telling, threads, setup=(), base="v7.3", **rest):
    return telling, base, {"setup": list(setup), "thread": [{"ops": ops} for ops in threads], **rest}


# knob -> (checks that are violated, the design it is a variant of, the scenario)
CASES = {
    "iter_advance": case(["leak", "stat"], [[{"op": "zap_invalidated_roots", "shared": 1, "resched": 1}],
                                            [{"op": "reload"}]], [SHARED, INVALID]),
    "yielded_ignored": case(["life", "stat"], [[{"op": "zap_leafs", "start": 0x200, "end": 0x202, "resched": 1}],
                                       [{"op": "zap_all"}]], [SHARED, NEXT]),
    "no_progress_test": case(["progress"], [[{"op": "zap_leafs", "start": 0x200, "end": 0x202, "resched": 1}], [WALK]],
                             [SHARED]),
    "yield_in_rcu": case(["lock"], [[{"op": "zap_leafs", "start": 0x200, "end": 0x202, "resched": 1}], [WALK]],
                         [SHARED]),
    "plain_store": case(["dirty"], [[UNMAP], [WRITE]], [SHARED, {"op": "clear_dirty_slot", **RANGE}],
                        vm=PLAIN | {"pml": 1}, slot=LOGS),
    "no_stale_check": case(["kernel"], [[INVALID], [NEXT | {"retries": -1}]], [SHARED]),
    "fixed_on_error": case(["fixed"], [[PRIVATE | {"hook": [{"hook": "set", "ret": -16}]}], [WALK]],
                           [PRIVATE | {"gfn": 0x201, "pfn": 0x140201}]),
    "table_leaked": case(["leak"], [[SHARED], [NEXT]]),
    "nx_no_recheck": case(["kernel"], [[{"op": "zap_nx"}], [DATA_1G]], [DATA_2M, CODE], vm=NX),
    "notifier_valid_only": case(["page"], [[UNMAP, FREE], [{"op": "mwalk", "gfn": 0x200}]], [SHARED, INVALID]),
    "filter_ignored": case(["data"], [[UNMAP], [{"op": "mwalk", "gfn": 0x201}]],
                           [PRIVATE, ENTER, {"op": "accept", "vcpu": 0, "gpa": 0x200000}]),
    "no_split_first": case(["data"], [[{"op": "punch_hole", "pfn": 0x140200, **RANGE}],
                                      [{"op": "mwalk", "gfn": 0x203}]], [HUGE, ENTER, ACCEPT_2M], "hugepage"),
    "flush_lost_at_yield": case(["tlb"], [[UNMAP | {"end": 0x202, "resched": 1}], [ACCESS]], [SHARED, NEXT]),
    "flush_lost_in_nx": case(["tlb"], [[{"op": "recover_nx", "to_zap": 2, "resched": 1}], [ACCESS]],
                             [CODE, CODE | {"gfn": 0x400, "pfn": 0x140400}], vm=NX),
    "flush_wrong_range": case(["tlb"], [[SHARED | {"level": 2}], [ACCESS | {"gfn": 0x201}]], [NEXT]),
    "split_keeps_root": case(["refs"], [[{"op": "split", "start": 0x200, "end": 0x400, "slot": -1,
                                          "enomem": [{"what": "table"}]}], [WALK]], [SHARED | {"level": 2}], vm=PLAIN),
    "wrprot_skips_ro": case(["track"], [[{"op": "track", "gfn": 0x200}, {"op": "write_protect_gfn", "gfn": 0x200}],
                                        [{"op": "fast_page_fault", "gfn": 0x200, "write": 1}]],
                            [SHARED, {"op": "set_dirty_log", "on": 1}, {"op": "wrprot_slot", **RANGE}], vm=PLAIN),
    "track_ignored": case(["track"], [[{"op": "track", "gfn": 0x200}, {"op": "write_protect_gfn", "gfn": 0x200}],
                                      [SHARED]], vm=PLAIN),
    "fast_pf_unlogged": case(["dirty"], [[{"op": "fast_page_fault", "gfn": 0x200, "write": 1}, WRITE],
                                         [{"op": "clear_dirty_pt_masked", "gfn": 0x200, "mask": 1, "wrprot": 1}]],
                             [SHARED], vm=PLAIN, slot=LOGS),
    "no_rcu_barrier": case(["leak"], [[{"op": "uninit"}], [WALK]], [SHARED, INVALID, {"op": "put_roots"}], vm=PLAIN),
    "keep_sept_wait": case(["leak"], [[{"op": "unmap", "filter": 2, **RANGE, "inject": [
        {"leaf": "MEM.RANGE.BLOCK", "lock": "entry"}]}], [{"op": "mwalk", "gfn": 0x200}]], [PRIVATE]),
}
ALONE = {"page": "notifier_valid_only", "tlb": "flush_lost_at_yield", "data": "no_split_first", "dirty": "plain_store",
         "track": "track_ignored", "refs": "split_keeps_root", "leak": "table_leaked", "fixed": "fixed_on_error",
         "lock": "yield_in_rcu"}

LONG = {"iter_advance", "no_rcu_barrier"}        # whole roots are zapped


def explored(knob, design):
    scenario = parse({"name": knob, **CASES[knob][2]}, "here")
    return check(scenario, design, limits=Limits(max_transitions=600_000))


@pytest.mark.parametrize("knob", CASES)
def test_each_is_found(knob):
    telling, base, _ = CASES[knob]
    verdict = explored(knob, f"{base}+{knob}")
    assert verdict.checks == telling and verdict.token


@pytest.mark.parametrize("knob", CASES)
def test_the_right_design_holds(knob):
    verdict = explored(knob, CASES[knob][1])
    assert verdict.checks == [] and (verdict.complete or knob in LONG)


def test_each_check_has_a_design_that_it_alone_finds():
    for name, knob in ALONE.items():
        assert CASES[knob][0] == [name]


def test_right_designs_are_silent_on_generated_scenarios():
    """Every operation and modifier, by today's callers: none of these checks is violated."""
    seen = 0
    for seed in range(250):
        make = Generator(seed)
        scenario, design = make.scenario(), PRESETS[make.design().name]
        try:
            program = build(scenario, design)
        except SetupError:
            continue
        found = Explorer(program, "dpor", max_transitions=600).run()["checks"]
        found |= Explorer(program, "pct", seed=seed, max_executions=4, max_transitions=1500).run()["checks"]
        assert not set(names_of(found)) & (set(ALONE) - {"page", "lock"}), (seed, design.name, scenario)
        seen += 1
    assert seen > 200
