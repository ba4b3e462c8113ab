"""Wrong designs about memslots, L2 and NX recovery: each is found, and the right one holds."""

import pytest

from tdpfast.check import Limits, check
from tdpfast.scenario import parse

CODE = {"op": "map", "gfn": 0x200, "pfn": 0x140200, "level": 2, "exec": 1}
NX = {"vm": {"tdx": 0, "nx_huge_pages": 1}, "setup": [CODE]}
WORKER = {"op": "recover_nx"}
SMM = {**NX, "setup": [CODE | {"smm": 1}],
       "slot": [{"npages": 0x200, "dirty_log": 1}, {"base_gfn": 0x200, "npages": 0x200, "smm": 1}]}
LOGGED = {**NX, "setup": [CODE, {"op": "set_dirty_log", "on": 1}]}
L2 = {"vm": {"tdx": 0, "pml": 1}, "slot": [{"base_gfn": 0x200, "npages": 2, "dirty_log": 1}],
      "setup": [{"op": "map", "gfn": 0x200, "pfn": 0x140200, "write": 1, "guest_mode": 1}]}
FASTZAP = {**NX, "setup": [CODE, {"op": "invalidate_roots", "types": 2}]}
CASES = {
    "l2_dirty_bits": (L2, [{"op": "clear_dirty_slot", "slot": 0},
                           {"op": "map", "gfn": 0x201, "pfn": 0x140201, "write": 1, "guest_mode": 1}], "dirty"),
    "nx_wrong_space": (SMM, [WORKER, {"op": "map", "gfn": 0x10, "pfn": 0x140010}], "kernel"),
    "nx_keep_listed": (LOGGED, [WORKER, {"op": "map", "gfn": 0x201, "pfn": 0x140201, "exec": 1}], "kernel"),
    "nx_outside_rcu": (FASTZAP, [WORKER, {"op": "zap_invalidated_roots", "shared": 1}], "life"),
}


def explored(knob, design):
    vm, ops, _ = CASES[knob]
    scenario = parse({"name": knob, "thread": [{"ops": [op]} for op in ops], **vm}, "here")
    return check(scenario, design, limits=Limits(max_transitions=300_000))


@pytest.mark.parametrize("knob", CASES)
def test_each_wrong_design_is_found(knob):
    assert explored(knob, f"v7.3+{knob}").checks == [CASES[knob][2]]


@pytest.mark.parametrize("knob", CASES)
@pytest.mark.parametrize("design", ["v6.16", "v7.3"])
def test_the_right_one_holds(knob, design):
    verdict = explored(knob, design)
    assert not verdict.checks and (verdict.complete or knob == "nx_outside_rcu")


@pytest.mark.parametrize("design", ["v6.16", "v7.3"])
def test_dirty_logging_of_shared_memory_beside_private_faults(design):
    slots = [{"npages": 0x400}, {"base_gfn": 0x400, "npages": 0x400, "dirty_log": 1}]
    shared = {"op": "map", "gfn": 0x600, "pfn": 0x140600, "private": 0, "write": 1}
    verdict = check(parse({"name": "beside", "slot": slots, "setup": [shared], "thread": [
        {"ops": [{"op": "wrprot_slot", "start": 0x600, "end": 0x601}]},
        {"ops": [{"op": "fast_page_fault", "gfn": 0x600, "write": 1}]},
        {"ops": [{"op": "map", "gfn": 0x200, "pfn": 0x140200, "retries": 2}]}]}, "here"), design)
    assert verdict.verdict == "holds" and verdict.complete
    assert all(thread[0]["done"] for thread in verdict.reach["operations"])
