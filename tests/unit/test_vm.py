"""Vm: operations by their kernel names."""
import gc
import threading

import numpy as np
import pytest

from tdpfast import Memslot, RetPf, UsageError, Vm, VmEnded, get_design
from tdpfast.spte import SPTE_DTYPE
from tdpfast.threads import audit

FIXED, SPURIOUS, RETRY = RetPf.RET_PF_FIXED, RetPf.RET_PF_SPURIOUS, RetPf.RET_PF_RETRY
DESIGNS = ["v7.3", "v6.18", "patch07", "patch15", "single-hook", "single-hook-4k", "hugepage"]


@pytest.fixture(params=DESIGNS)
def td(request):
    return Vm(request.param)


@pytest.fixture
def plain():
    return Vm(tdx=False)


def kinds(vm):
    return [record.kind for record in vm.records()]


def test_fault_and_zap(td):
    assert td.map(0x600, 0x100600) == (FIXED, 1, 0x100600, 1)
    assert td.map(0x600, 0x100600).ret is SPURIOUS
    assert td.stats["pages_4k"] == 1 and td.stats["sp_linked"] == 3
    assert td.walk(0x600).pfn == 0x100600 and td.walk(0x601).pfn is None
    assert td.zap_leafs(0, 0x1000) is True and td.zap_leafs(0, 0x1000) is False
    assert audit(td) == []
    assert td.destroy()["sp_live"] == 0


def test_shared_and_private_are_two_roots(td):
    td.map(5, 50)
    td.map(5, 60, private=False)
    assert (td.walk(5).pfn, td.walk(5, private=False).pfn) == (50, 60)
    td.unmap(0, 10, private=False)
    assert (td.walk(5).pfn, td.walk(5, private=False).pfn) == (50, None)
    td.zap_all()
    assert td.walk(5).pfn == 50


def test_mirror_fault_reaches_the_external_table():
    vm = Vm("v7.3")
    vm.map(0, 1)
    assert kinds(vm).count("set_ext") == 4
    vm.map(0, 1, private=False)
    assert "set_ext" not in kinds(vm)


def test_hook_that_fails_makes_the_fault_retry():
    vm = Vm("v7.3")
    assert vm.map(7, 7, hook=[0, 0, 0, -16]).ret is RETRY
    assert vm.walk(7).entries[-1].kind == "none"
    assert vm.map(7, 7, hook=[-16], retries=1) == (FIXED, 1, 7, 2)
    vm.zap_leafs(7, 8, hook=[-5])
    assert vm.stats["vm_bugged"] == 1
    assert vm.vcpus[0].asserts["KVM_BUG_ON"] == (1, "handle_changed_spte", "external_update_failed")


def test_huge_pages(plain):
    assert plain.map(0x200, 0x1200, 2).level == 2
    plain.split(0, 0x1000)
    assert plain.stats["pages_4k"] == 512 and plain.walk(0x3FF).pfn == 0x13FF
    plain.recover(0, 0x1000)
    assert plain.stats["pages_2m"] == 1 and plain.walk(0x3FF).pfn == 0x13FF
    assert audit(plain) == []


def test_memslot_and_dirty_log_lower_the_level(plain):
    plain.set_dirty_log(True)
    assert plain.map(0x200, 0x1200, 2).level == 1
    vm = Vm(tdx=False, memslot=Memslot(0x100, 0x200))
    assert vm.map(0x100, 0x100, 2).level == 1
    assert vm.memslot.end == 0x300


def test_dirty_and_write_protection(plain):
    plain.map_range(0, 0x1000, 4)
    assert plain.wrprot_slot(0, 2) is True and plain.wrprot_slot(0, 2) is False
    plain.clear_dirty_slot(2, 3)
    plain.clear_dirty_pt_masked(0, 0b1000)
    fields = plain.decode_table(plain.walk(0).entries[-1].table)[:4]
    assert fields["write"].tolist() == [False, False, True, True]
    assert fields["dirty"].tolist() == [True, True, False, False]
    assert plain.write_protect_gfn(3) is True and plain.write_protect_gfn(3) is False
    assert not plain.decode_table(plain.walk(3).entries[-1].table)["mmu_writable"][3]


def test_ageing(plain):
    plain.map(1, 1)
    assert plain.test_age(0, 2) and plain.age(0, 2) and not plain.age(0, 2) and not plain.test_age(0, 2)
    assert plain.poke(1, set=0x100) & 0x100 and plain.test_age(0, 2)
    assert plain.poke(2, set=0x100) is None
    assert plain.poke(1, clear=0x800) is None


def test_roots(td):
    td.map(1, 1, private=False)
    td.invalidate_roots(mirror=False)
    assert [root.invalid for root in td.roots] == [False, True]
    assert td.reload() == 1 and [root.is_mirror for root in td.roots] == [True, False, False]
    td.zap_invalidated_roots()
    assert len(td.roots) == 2 and audit(td) == []


def test_nx_recovery():
    vm = Vm(tdx=False, nx_huge_pages=True)
    assert vm.zap_possible_nx_huge_page() is None
    assert vm.map(0x200, 0x200, 2, exec=True).level == 1
    assert vm.stats["nx_possible"] == 1
    assert vm.zap_possible_nx_huge_page() == (True, 0x200, 1)
    assert vm.stats["nx_possible"] == 0 and audit(vm) == []


def test_mmio_and_tracking(plain):
    plain.set_memslots_generation(77)
    assert plain.map(9, 0, noslot=True).ret is RetPf.RET_PF_EMULATE
    entry = plain.walk(9).entries[-1]
    assert entry.kind == "mmio" and int(plain.spte.get_mmio_spte_generation(entry.spte)) == 77
    plain.track(3)
    assert plain.map(3, 3).ret is RetPf.RET_PF_WRITE_PROTECTED
    plain.track(4)
    plain.track(4, False)
    assert plain.map(4, 4).ret is FIXED


def test_lookups(td):
    td.map(1, 1, private=False)
    td.map(2, 2)
    assert td.get_walk(1, private=False).leaf == 1
    assert sorted(td.get_walk(2).sptes) == [1, 2, 3, 4]
    assert td.fast_page_fault_last_sptep(1)[:2] == (1, 1)


@pytest.mark.parametrize("design", ["v7.3", "single-hook"])
def test_gates(design):
    gated = Vm(design)
    with pytest.raises(UsageError, match="guest_memfd"):
        gated.wrprot_slot(0, 8)
    gated.invalidate_roots()
    assert [root.invalid for root in gated.roots] == [False, True]
    lifted = Vm(design, ungated=True)
    lifted.map(1, 1)
    assert lifted.wrprot_slot(0, 8) is True


def test_prove_mmu_skips_the_small_passes():
    passes = {}
    for prove in (False, True):
        vm = Vm(get_design("v7.3").replace(prove_mmu=prove), tdx=False)
        vm.map(5, 5)
        vm.zap_all()
        passes[prove] = [(r.fields["level"], r.fields["new_spte"] == vm.spte.FROZEN_SPTE)
                         for r in vm.records() if r.kind == "chg"]
        assert audit(vm) == [] and vm.stats["sp_linked"] == 0
    # Leaf, then its table, by zaps of their own; or both as children of a 1G entry's table.
    assert passes[False][0] == (1, False) and (1, True) not in passes[False]
    assert passes[True][0] == (1, True)


def test_prove_mmu_warns_of_a_second_yield():
    vm = Vm(get_design("v7.3").replace(prove_mmu=True), tdx=False)
    vm.map_range(0, 0x1000, 600)
    vm.run({"op": "zap_leafs", "start": 0, "end": 600, "resched": 1})
    assert vm.stats["pages_4k"] == 0 and vm.vcpus[0].asserts["WARN"].count == 0


def test_batches_leave_what_single_faults_leave(td):
    other = Vm(td.design)
    td.map(0x20A, 0x777, write=False)
    other.map(0x20A, 0x777, write=False)
    for private in (False, True):
        counts = td.map_range(0x1F0, 0x1001F0, 700, private=private)
        assert counts == ({FIXED: 699, SPURIOUS: 1} if private else {FIXED: 700})
        for i in range(700):
            other.map(0x1F0 + i, 0x1001F0 + i, private=private)
    assert td.dump() == other.dump() and td.stats == other.stats
    assert audit(td) == []


def test_batch_events_are_those_of_single_faults():
    batch, single = Vm(trace="all"), Vm(trace="all")
    batch.map_range(0x1FE, 0x11FE, 4)
    for i in range(4):
        single.map(0x1FE + i, 0x11FE + i)
    assert list(batch.records()) == list(single.records())
    batch.clear_events()
    assert len(batch.events) == 0


def test_batch_at_a_slot_boundary_and_of_huge_pages(plain):
    assert plain.map_range(0x200, 0x1200, 3, 2) == {FIXED: 3} and plain.stats["pages_2m"] == 3
    vm = Vm(tdx=False, memslot=Memslot(0, 0x500))
    assert vm.map_range(0, 0, 3, 2) == {FIXED: 3}
    assert (vm.stats["pages_2m"], vm.stats["pages_4k"]) == (2, 1)
    assert vm.map_range(0, 0, 0) == {}


@pytest.mark.parametrize("n, spread", [(3000, 3000), (40000, 1 << 24)])
def test_walk_many(n, spread):
    vm = Vm(tdx=False, memory_pages=50000)
    random = np.random.default_rng(7)
    mapped = np.unique(random.integers(0, spread, n // 4))
    for gfn in mapped.tolist():
        vm.map(gfn, gfn + 1)
    gfns = random.choice(np.concatenate([mapped, random.integers(0, spread, n)]), n)
    for order in (gfns, np.sort(gfns)):
        sptes, levels = vm.walk_many(order)
        assert np.array_equal(vm.spte.is_shadow_present_pte(sptes) & (levels == 1), np.isin(order, mapped))
    some = gfns[:100]
    sptes, levels = vm.walk_many(some.reshape(10, 10))
    assert sptes.shape == levels.shape == (10, 10)
    for gfn, spte, level in zip(some.tolist(), sptes.flat, levels.flat):
        walk = vm.get_walk(gfn)
        assert (walk.leaf, walk.sptes[walk.leaf]) == (level, spte)


def test_walk_many_without_a_root():
    vm = Vm(want_direct=False)
    _, levels = vm.walk_many([1, 2], private=False)
    assert levels.tolist() == [0, 0]


def test_views_are_not_copies_and_keep_the_memory():
    vm = Vm()
    arena = vm.arena
    assert arena.shape == (2, 512) and not arena.flags.writeable and not arena.flags.owndata
    vm.map(0, 1)
    assert arena[0, 0] == vm.table(vm.roots[0])[0] != vm.spte.SHADOW_NONPRESENT_VALUE
    with pytest.raises(ValueError):
        arena[0, 0] = 0
    writable = vm.writable_arena()
    value = arena[0, 0]
    del vm
    gc.collect()
    assert arena[0, 0] == value
    writable[0, 0] = 5
    assert arena[0, 0] == 5


def test_decode_table(td):
    td.map(3, 0x33, map_writable=False)
    records = td.decode_table(td.walk(3).entries[-1].table)
    assert records.dtype == SPTE_DTYPE and records["pfn"][3] == 0x33 and not records["write"][3]
    assert records["present"].sum() == 1


def test_vcpus_have_their_own_roots_and_traces(td):
    vcpu = td.create_vcpu()
    assert [root.root_count for root in td.roots] == [3, 3]
    vcpu.map(1, 1)
    assert len(vcpu.events) and not len(td.events)
    td.invalidate_roots(mirror=False)
    assert vcpu.map(1, 1, private=False).ret is FIXED      # reloads by itself
    td.reload()
    td.zap_invalidated_roots()
    assert len(td.roots) == 2
    assert td.destroy()["sp_live"] == 0


def test_vcpus_in_python_threads(td):
    vcpus = [td.create_vcpu() for _ in range(3)]

    def work(vcpu, base):
        for i in range(300):
            assert vcpu.map(base + i, base + i, retries=-1).ret in (FIXED, SPURIOUS)

    threads = [threading.Thread(target=work, args=(vcpu, 100 * i)) for i, vcpu in enumerate(vcpus)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert td.stats["pages_4k"] == 500 and audit(td) == []


def test_bug_ends_the_vm(plain):
    plain.map(1, 1, write=False, map_writable=False)
    with pytest.raises(VmEnded) as info:
        plain.map(1, 2)
    assert (info.value.why, info.value.function) == ("BUG", "__handle_changed_spte")
    assert "BUG" in str(info.value)
    for again in (lambda: plain.map(5, 5), lambda: plain.map_range(5, 5, 2), plain.create_vcpu,
                  lambda: plain.walk_many([1])):
        with pytest.raises(VmEnded):
            again()
    assert plain.walk(1).root.level == 4 and plain.dump()


def test_livelock_ends_the_vm():
    vm = Vm("v7.3", ungated=True)
    vm.map(1, 1)
    entry = vm.walk(1).entries[-1]
    vm.writable_arena()[entry.table, entry.index] = vm.spte.FROZEN_SPTE
    with pytest.raises(VmEnded, match="LIVELOCK"):
        vm.map(1, 1, retries=-1)


def test_context_manager():
    with Vm() as vm:
        vm.map(1, 1)
    assert vm.stats["sp_live"] == 0
    with pytest.raises(VmEnded, match="destroyed"):
        vm.map(1, 1)


def test_out_of_page_table_pages():
    vm = Vm(tdx=False, memory_pages=8)
    assert vm.map(0, 0).ret is FIXED
    counts = vm.map_range(0, 0, 512 * 8)
    assert counts[RETRY] > 0 and audit(vm) == []
    assert vm.destroy()["sp_live"] == 0
