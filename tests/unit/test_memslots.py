"""Memslots as objects of the VM: what each field changes, and what is refused because of one."""

import pytest

from tdpfast import Memslot, RetPf, TdVm, UsageError, Vm
from tdpfast.check import build, check
from tdpfast.scenario import parse
from tdpfast.vmfile import parse_vm_file

MAP = {"op": "map", "gfn": 0x200, "pfn": 0x140200}
TWO = (Memslot(0, 0x400), Memslot(0x400, 0x400, dirty_log=True))
PRIVATE, SHARED = 0x200, 0x600


def scenario(*ops, setup=(), **fields):
    return parse({"name": "slots", "setup": list(setup), "thread": [{"ops": [op]} for op in ops], **fields}, "here")


def refused(*ops, **fields):
    with pytest.raises(UsageError) as error:
        scenario(*(ops or (MAP,)), **fields)
    return str(error.value)


def td(**options):
    vm = Vm("v7.3", memslots=TWO, **options)
    vm.map(PRIVATE, 0x140000 + PRIVATE)
    vm.map(SHARED, 0x140000 + SHARED, private=False)
    return vm


def test_a_td_may_log_its_shared_slots_and_no_other():
    vm = td()
    assert vm.wrprot_slot(SHARED, SHARED + 1) and not vm.walk(SHARED, private=False).entries[-1].spte & 2
    assert vm.fast_page_fault(SHARED) is RetPf.RET_PF_FIXED
    vm.clear_dirty_slot(SHARED, SHARED + 1)
    assert vm.write_protect_gfn(SHARED)
    for call in (lambda: vm.wrprot_slot(PRIVATE, PRIVATE + 1), lambda: vm.wrprot_slot(PRIVATE, SHARED + 1),
                 lambda: vm.write_protect_gfn(PRIVATE), lambda: vm.clear_dirty_pt_masked(0x3ff, 1),
                 lambda: vm.split(0, 0x400), lambda: vm.recover(0, 0x400), lambda: vm.set_dirty_log(True)):
        with pytest.raises(UsageError, match="without guest_memfd"):
            call()
    vm.set_dirty_log(False, slot=1)
    assert td(ungated=True).wrprot_slot(PRIVATE, PRIVATE + 1)


def test_private_memory_needs_a_guest_memfd():
    vm = td()
    with pytest.raises(UsageError, match="EFAULT"):
        vm.map(SHARED, 0x140000 + SHARED)
    assert vm.map(PRIVATE, 0x180000 + PRIVATE, private=False).ret is RetPf.RET_PF_FIXED
    on_module = TdVm("v7.3", memslots=TWO, runnable=False)
    assert on_module.populate(SHARED, 0x140000 + SHARED) == -22 and on_module.populate(PRIVATE, 0x140000 + PRIVATE) == 0


def test_a_hole_between_slots_is_mmio():
    vm = Vm("v7.3", tdx=False, memslots=(Memslot(0, 0x200), Memslot(0x400, 0x200)))
    assert vm.map(0x300, 0x140300).ret is RetPf.RET_PF_EMULATE
    assert vm.walk(0x300).entries[-1].kind == "mmio" and vm.map(0x400, 0x140400).ret is RetPf.RET_PF_FIXED


def test_huge_pages_end_where_their_slot_does():
    vm = Vm("v7.3", tdx=False, memslots=(Memslot(0, 0x300), Memslot(0x300, 0x500)))
    assert vm.map(0x200, 0x140200, level=2).level == 1 and vm.map(0x400, 0x140400, level=2).level == 2
    vm.set_dirty_log(True, slot=1)
    assert vm.map(0x600, 0x140600, level=2).level == 1 and vm.map(0, 0x140000, level=2).level == 2


@pytest.mark.parametrize("slots, message", [
    ([], "1 to 8"), ([Memslot(i << 9, 1) for i in range(9)], "1 to 8"), ("slots", "not a list of Memslot"),
    ([Memslot(0, 2), Memslot(1, 2)], "EEXIST"), ([Memslot(0, 2), Memslot(4, 0)], "empty"),
    ([Memslot(0, 2), Memslot(4, 1 << 40)], "beyond the guest's frames"), ([Memslot(0, 2, smm=True)], "no such mode")])
def test_slots_that_kvm_would_refuse(slots, message):
    with pytest.raises(UsageError, match=message):
        Vm("v7.3", memslots=slots)


def test_flags_that_do_not_go_together():
    with pytest.raises(UsageError, match="logs no private memory"):
        Memslot(0, 1, guest_memfd=True, dirty_log=True)
    with pytest.raises(UsageError, match="no private memory"):
        Vm("v7.3", tdx=False, memslots=[Memslot(0, 1, guest_memfd=True)])
    with pytest.raises(UsageError, match="two names"):
        Vm("v7.3", memslot=Memslot(), memslots=[Memslot()])


def test_vm_files_have_them():
    content = parse_vm_file("[vm]\ntdx = false\n[[vm.memslots]]\nbase_gfn = 0\nnpages = 16\n[[vm.memslots]]\n"
                            "base_gfn = 512\nnpages = 16\ndirty_log = true\n", "here")
    vm = content.make_vm()
    assert [(slot.base_gfn, slot.dirty_log) for slot in vm.memslots] == [(0, False), (512, True)]
    assert "memslots=[Memslot(**{'base_gfn': 0, 'npages': 16}), " in content.script()


# ---- scenarios

BOTH = {"slot": [{"npages": 0x400}, {"base_gfn": 0x400, "npages": 0x400, "dirty_log": 1}]}
WRITE = {"op": "fast_page_fault", "gfn": SHARED, "write": 1}
SHARED_MAP = {"op": "map", "gfn": SHARED, "pfn": 0x140000 + SHARED, "private": 0}


def test_what_a_shared_slot_allows_runs():
    made = scenario({"op": "wrprot_slot", "slot": 1}, WRITE, setup=[MAP, SHARED_MAP], **BOTH)
    verdict = check(made, "v7.3")
    assert (verdict.verdict, verdict.complete, verdict.checks) == ("holds", True, [])
    logger = verdict.reach["operations"][0][0]
    assert logger["ran"] == logger["done"] > 0 and not logger["refused"]
    assert parse(made.to_record(), "again") == made and made.canonical() != scenario(MAP).canonical()


def test_without_slots_there_is_one_as_the_operations_need_it():
    log = {"op": "clear_dirty_slot", "start": SHARED, "end": SHARED + 1}
    for setup, refusals in (([SHARED_MAP], 0), ([MAP, SHARED_MAP], 1)):
        reached = check(scenario(log, setup=setup), "v7.3").reach["operations"][0][0]
        assert reached["refused"] == refusals * reached["ran"]


@pytest.mark.parametrize("fields, message", [
    ({"slot": [{"base_gfn": 0}]}, "no npages"), ({"slot": [{"npages": 0x10}]}, "lies in no slot"),
    ({"slot": [{"npages": 0x400, "dirty_log": 1}]}, "without guest_memfd"),
    ({"slot": [{"npages": 0x400, "dirty_log": 1, "guest_memfd": 1}]}, "logs no private memory"),
    ({"slot": [{"npages": 0x400}, {"base_gfn": 0x3ff, "npages": 2}]}, "overlaps"),
    ({"slot": {"npages": 1}}, "no list of tables"), ({"slot": [{"pages": 1}]}, "unknown field 'pages'"),
    ({"slot": [{"npages": -1}]}, "a number from 0"), ({"vm": {"tdx": 2}}, "vm.tdx is 2"),
    ({"vm": {"pml": 1}}, "does nothing here"), ({"vm": {"mmu": "npt"}}, "does nothing here"),
    ({"vm": {"tdx": 0, "runnable": 1}}, "does nothing here"), ({"vm": {"levels": 4, "root_level": 4}}, "two names"),
    ({"vm": {"tdx": 0, "mmu": "shadow"}}, "vm.mmu is 'shadow'"), ({"vm": {"maxphyaddr": 40}}, "does nothing here"),
    ({"attributes": [{"start": 0, "end": 0, "private": 1}]}, "empty range"),
    ({"attributes": [{"start": 0, "end": 1}]}, "lacks a field"),
    ({"attributes": [{"start": 0, "end": 1, "private": 1}] * 17}, "at most 16")])
def test_bad_vms(fields, message):
    assert message in refused(**fields)


@pytest.mark.parametrize("op, message", [
    ({"op": "vp_enter"}, "this VM is no TD"), ({**MAP, "smm": 1}, "that address space is empty"),
    ({**MAP, "private": 1, "guest_mode": 1}, "a fault is for one root"),
    ({"op": "wrprot_slot", "slot": 1}, "slot 1"), ({"op": "wrprot_slot", "slot": 9}, "at most 8")])
def test_operations_that_a_vm_without_tdx_does_not_know(op, message):
    assert message in refused(op, vm={"tdx": 0})


def test_a_td_runs_no_l2():
    assert "neither in a TD" in refused({**MAP, "private": 0, "guest_mode": 1})
    with pytest.raises(UsageError, match="neither in one"):
        Vm("v7.3").map(0x200, 0x140200, guest_mode=True)


@pytest.mark.parametrize("vm, changed", [
    ({"mmu": "npt"}, lambda vm: vm.sptes()), ({"mmu": "ept_noad"}, lambda vm: vm.sptes()),
    ({"nx_huge_pages": 1}, lambda vm: vm.stats()["nx_possible"]), ({"root_level": 5}, lambda vm: vm.roots())])
def test_each_field_changes_the_vm(vm, changed):
    def made(**fields):
        setup = [MAP | {"level": 2, "exec": 1}]
        return build(scenario(MAP, setup=setup, vm={"tdx": 0, **fields}), Vm("v7.3").design).vm
    assert changed(made(**vm)) != changed(made())


def test_maxphyaddr_bounds_what_the_guest_has():
    far = {**MAP, "gfn": 1 << 28}
    assert scenario(far, vm={"tdx": 0}) and "no memory of the guest" in refused(far, vm={"tdx": 0, "maxphyaddr": 40})


def test_pml_is_what_makes_l2_different():
    for pml, bit in ((1, 2), (0, 1 << 9)):
        vm = Vm("v7.3", tdx=False, pml=bool(pml))
        vm.map(0x200, 0x140200, guest_mode=True)
        vm.map(0x200, 0x140200)
        assert sorted(root.guest_mode for root in vm.roots) == [False, True]
        before = [vm.walk(0x200, guest_mode=mode).entries[-1].spte for mode in (True, False)]
        vm.clear_dirty_slot(0x200, 0x201)
        after = [vm.walk(0x200, guest_mode=mode).entries[-1].spte for mode in (True, False)]
        assert before[0] ^ after[0] == bit and before[1] ^ after[1] == 1 << 9


def test_attributes_decide_what_a_gfn_is():
    shared = [{"start": 0x200, "end": 0x201, "private": 0}]
    fault = check(scenario(MAP, attributes=shared), "v7.3").reach["operations"][0][0]
    assert fault["ran"] == 1 and fault["done"] == 0, "-EFAULT"
    assert check(scenario(MAP), "v7.3").reach["operations"][0][0]["done"] == 1
