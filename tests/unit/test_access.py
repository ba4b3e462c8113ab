"""A guest's access to shared memory as hardware makes it: walks, A and D, what processors keep."""

import pytest

from tdpfast import TdVm, Vm
from tdpfast._explore.explorer import Explorer
from tdpfast.check import build, check
from tdpfast.design import get_design
from tdpfast.scenario import parse

SHARED = {"op": "map", "gfn": 0x200, "pfn": 0x140200, "private": 0}
ACCESS = {"op": "access", "gfn": 0x200}
READ_ONLY = SHARED | {"map_writable": 0}
SHARED_GPA = 1 << 47
ENTER = {"op": "vp_enter", "vcpu": 0}


def results(setup, *threads, design="v7.3", **rest):
    program = build(parse({"name": "access", "setup": list(setup), "thread": [{"ops": ops} for ops in threads], **rest},
                          "here"), get_design(design))
    Explorer(program).run()
    return program.results()


def test_a_walk_sets_what_hardware_sets():
    vm = Vm("v7.3", tdx=False)
    assert vm.core.run(ACCESS)["ret"] == 0
    vm.map(0x200, 0x140200, prefetch=True)
    young = vm.walk(0x200).entries[-1].spte
    assert vm.core.run(ACCESS) == {"ret": 1, "pfn": 0x140200}
    assert vm.walk(0x200).entries[-1].spte == young | 0x100
    vm.clear_dirty_slot(0x200, 0x201)
    clean = vm.walk(0x200).entries[-1].spte
    vm.core.run(ACCESS | {"write": 1})
    assert vm.walk(0x200).entries[-1].spte == clean | 0x200
    vm.map(0x400, 0x140400, level=2)
    assert vm.core.run(ACCESS | {"gfn": 0x403}) == {"ret": 2, "pfn": 0x140403}


def test_a_write_to_what_is_read_only_faults():
    vm = TdVm("v7.3")
    vm.core.run(READ_ONLY)
    assert vm.core.run(ACCESS)["ret"] == 1 and vm.core.run(ACCESS | {"write": 1})["ret"] == 0


def test_a_processor_keeps_its_translation_until_a_flush():
    poke = {"op": "poke_raw", "private": 0, "gfn": 0x40200, "level": 1, "value": 0}
    (kept, *_), = [[r["ret"] for r in thread] for thread in results([SHARED], [ACCESS, poke, ACCESS])]
    assert kept == 1
    zapped, = results([SHARED], [ACCESS, {"op": "unmap", "start": 0x200, "end": 0x201, "filter": 1}, ACCESS])
    assert [r["ret"] for r in zapped] == [1, 1, 0]


@pytest.mark.parametrize("inside", [True, False])
def test_a_td_guest_reaches_shared_memory_by_its_shared_bit(inside):
    guest = {"op": "guest_access", "vcpu": 0, "gpa": SHARED_GPA | 0x200000}
    ops, = results([SHARED], [ENTER, guest] if inside else [guest, ENTER])
    found = ops[1 if inside else 0]
    assert found["kind"] == (1 if inside else 5)


def test_a_td_guest_beside_a_notifier():
    scenario = {"name": "flush", "setup": [SHARED, SHARED | {"gfn": 0x201, "pfn": 0x140201}], "thread": [
        {"ops": [{"op": "unmap", "start": 0x200, "end": 0x202, "filter": 1, "resched": 1},
                 {"op": "free_pfn", "gfn": 0x200, "pfn": 0x140200}]},
        {"ops": [ENTER, {"op": "guest_access", "vcpu": 0, "gpa": SHARED_GPA | 0x200000}]}]}
    assert check(parse(scenario, "here"), "v7.3").checks == []
    assert check(parse(scenario, "here"), "v7.3+flush_lost_at_yield").checks == ["tlb"]


@pytest.mark.parametrize("design", ["v6.18", "v7.3"])
@pytest.mark.parametrize("pml", [0, 1])
def test_a_logged_write_is_seen(design, pml):
    """By PML, or because the page was write-protected."""
    scenario = parse({"name": "log", "vm": {"tdx": 0, "pml": pml},
                      "slot": [{"base_gfn": 0x200, "npages": 0x200, "dirty_log": 1}],
                      "setup": [SHARED | {"write": 1}], "thread": [
        {"ops": [{"op": "clear_dirty_pt_masked", "gfn": 0x200, "mask": 1, "wrprot": 1 - pml}]},
        {"ops": [ACCESS | {"write": 1}, {"op": "fast_page_fault", "gfn": 0x200, "write": 1}, ACCESS | {"write": 1}]}]},
        "here")
    verdict = check(scenario, design)
    assert (verdict.checks, verdict.complete) == ([], True)


def test_l2_writes_that_pml_does_not_log():
    l2 = {"guest_mode": 1}
    scenario = parse({"name": "l2", "vm": {"tdx": 0, "pml": 1},
                      "slot": [{"base_gfn": 0x200, "npages": 2, "dirty_log": 1}],
                      "setup": [SHARED | {"write": 1} | l2], "thread": [
        {"ops": [{"op": "clear_dirty_slot", "slot": 0}]}, {"ops": [ACCESS | {"write": 1} | l2]}]}, "here")
    assert check(scenario, "v7.3").checks == [] and check(scenario, "v7.3+l2_dirty_bits").checks == ["dirty"]
