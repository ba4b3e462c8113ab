"""fast_page_fault(): permissions back by one cmpxchg, and what it leaves to the slow path."""
import pytest

from tdpfast import RetPf, UsageError, Vm
from tdpfast.trace import trace_event

FIXED, SPURIOUS, INVALID = RetPf.RET_PF_FIXED, RetPf.RET_PF_SPURIOUS, RetPf.RET_PF_INVALID
DESIGNS = ["v7.3", "v6.18"]


@pytest.fixture(params=DESIGNS)
def vm(request):
    vm = Vm(request.param, tdx=False)
    vm.map(5, 50)
    return vm


def leaf(vm, gfn=5):
    return vm.fast_page_fault_last_sptep(gfn).spte


def test_write_protected_by_dirty_logging(vm):
    before = leaf(vm)
    vm.set_dirty_log(True)
    vm.wrprot_slot(0, 8)
    assert not vm.spte.is_writable_pte(leaf(vm))
    assert vm.fast_page_fault(5) is FIXED
    assert [(r.kind, r.fields["gfn"]) for r in vm.records()] == [("dirty", 5), ("fast_pf", 5)]
    assert leaf(vm) == before and vm.fast_page_fault(5) is SPURIOUS


def test_trace(vm):
    vm.wrprot_slot(0, 8)
    old = leaf(vm)
    vm.fast_page_fault(5)
    [record] = vm.records()
    assert trace_event(record) == (f"fast_page_fault: vcpu 0 gva 5000 error_code P|W sptep 0000000000000000 "
                                   f"old {old:#x} new {leaf(vm):x} spurious 0 fixed 1")


@pytest.mark.parametrize("access", [{"write": False}, {"write": False, "exec": True}, {"present": False}])
def test_other_faults_are_slow(vm, access):
    vm.wrprot_slot(0, 8)
    assert vm.fast_page_fault(5, **access) is INVALID and not vm.spte.is_writable_pte(leaf(vm))


def test_what_is_not_there_is_slow(vm):
    assert vm.fast_page_fault(6) is INVALID and vm.fast_page_fault(1 << 30) is INVALID


def test_write_tracking_keeps_it_protected(vm):
    vm.write_protect_gfn(5)
    assert vm.fast_page_fault(5) is INVALID and not vm.spte.is_writable_pte(leaf(vm))


def test_huge_page_under_dirty_logging_is_slow():
    vm = Vm(tdx=False)
    vm.map(0, 512, 2)
    vm.wrprot_slot(0, 512)
    vm.set_dirty_log(True)
    assert vm.fast_page_fault(3) is INVALID
    vm.set_dirty_log(False)
    assert vm.fast_page_fault(3) is FIXED and vm.spte.is_writable_pte(leaf(vm, 3))


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("design", DESIGNS)
def test_access_tracking(design, write):
    vm = Vm(design, tdx=False, mmu="ept_noad")
    vm.map(5, 50)
    before = leaf(vm)
    assert vm.age(0, 8) is True and vm.spte.is_access_track_spte(leaf(vm))
    aged = leaf(vm)
    assert vm.fast_page_fault(5, write=write, present=False) is FIXED
    assert not vm.spte.is_access_track_spte(leaf(vm)) and leaf(vm) != aged
    assert vm.spte.is_accessed_spte(leaf(vm))
    assert leaf(vm) == (before if write else before & ~2)
    assert vm.fast_page_fault(5, write=write, present=False) is SPURIOUS


def test_only_the_direct_root():
    vm = Vm("v7.3", ungated=True)
    vm.map(5, 50)
    vm.map(5, 60, private=False)
    vm.wrprot_slot(0, 8)
    assert vm.fast_page_fault(5, private=True) is INVALID and list(vm.records()) == []
    assert vm.fast_page_fault(5) is FIXED
    assert not vm.spte.is_writable_pte(vm.get_walk(5).sptes[1])
    with pytest.raises(UsageError):
        Vm(tdx=False).fast_page_fault(5, private=True)


def race(n, clear):
    return {"op": "fast_page_fault", "gfn": 5, "write": 1, "race": [n, "hw", 0, clear]}


def test_a_lost_cmpxchg_is_tried_again(vm):
    vm.wrprot_slot(0, 8)
    assert vm.run(race(0, 1 << 9))["ret"] == FIXED
    assert vm.spte.is_writable_pte(leaf(vm)) and not leaf(vm) >> 9 & 1


def test_bad_gfn(vm):
    with pytest.raises(UsageError):
        vm.fast_page_fault(-1)
    with pytest.raises(UsageError):
        vm.run({"op": "fast_page_fault", "pfn": 1})
