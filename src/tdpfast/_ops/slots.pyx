# cython: language_level=3
"""Memslots: what acts on one, what today's callers refuse because of one, and NX huge page recovery, which asks them."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from tdpfast._names cimport (
    OP_CLEAR_DIRTY_PT_MASKED, OP_CLEAR_DIRTY_SLOT, OP_RECOVER, OP_RECOVER_NX, OP_SET_DIRTY_LOG, OP_SPLIT,
    OP_WRITE_PROTECT_GFN, OP_WRPROT_SLOT, SYNC_LOAD, SYNC_STORE,
)
from tdpfast._mmu.arena cimport Sp
from tdpfast._mmu.invalidate cimport srcu_enter, srcu_exit
from tdpfast._mmu.tdp_mmu cimport (
    Kvm, Slot, gfn_to_memslot, kvm_warn, slot_logs, untrack_possible_nx_huge_page,
)
from tdpfast._mmu.tdp_mmu_huge cimport kvm_tdp_mmu_recover_huge_pages, kvm_tdp_mmu_try_split_huge_pages
from tdpfast._mmu.hardware cimport log_fetch
from tdpfast._mmu.tdp_mmu_loop cimport flush_due, kvm_flush_remote_tlbs, mmu_unlocking
from tdpfast._mmu.tdp_mmu_map cimport track_arm
from tdpfast._mmu.tdp_mmu_slot cimport (
    kvm_tdp_mmu_clear_dirty_pt_masked, kvm_tdp_mmu_clear_dirty_slot, kvm_tdp_mmu_write_protect_gfn,
    kvm_tdp_mmu_wrprot_slot,
)
from tdpfast._mmu.tdp_mmu_zap cimport kvm_tdp_mmu_zap_possible_nx_huge_page
from tdpfast._ops.ops cimport Op, OpResult, Vm, op_row, op_slot
from tdpfast._sync.atomic cimport tdp_read_once8, tdp_write_once8
from tdpfast._sync.cpu cimport (
    Cpu, need_resched, rcu_read_lock, rcu_read_unlock, read_lock, read_unlock, spin_lock, spin_unlock, sync_rare,
    write_lock, write_unlock,
)


cdef int op_space(const Kvm *kvm, const Op *op) noexcept nogil:
    """The address space of that memslot."""
    cdef const Slot *slot = op_slot(kvm, op)
    return slot.as_id if slot != NULL else 0


cdef void op_clear_dirty_pt_masked(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    log_fetch(&vm.kvm.log, op.gfn, op.mask)
    op.log_fetches = vm.kvm.log.fetches
    kvm_tdp_mmu_clear_dirty_pt_masked(c, &vm.kvm, op_space(&vm.kvm, op), op.gfn, op.mask, op.on != 0)


cdef void op_write_protect_gfn(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    res.ret = kvm_tdp_mmu_write_protect_gfn(c, &vm.kvm, op_space(&vm.kvm, op), op.gfn, op.level)
    flush_due(c, &vm.kvm, res.ret == 1)
    if op.level == 1 and op_space(&vm.kvm, op) == 0:
        track_arm(&vm.kvm, op.gfn)


cdef void op_wrprot_slot(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    res.ret = kvm_tdp_mmu_wrprot_slot(c, &vm.kvm, op_space(&vm.kvm, op), op.start, op.end, op.level)


cdef void op_clear_dirty_slot(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    kvm_tdp_mmu_clear_dirty_slot(c, &vm.kvm, op_space(&vm.kvm, op), op.start, op.end)


cdef void op_split(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    kvm_tdp_mmu_try_split_huge_pages(c, &vm.kvm, op_space(&vm.kvm, op), op.start, op.end, op.level, op.shared != 0)


cdef void op_recover(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    cdef Kvm *kvm = &vm.kvm
    cdef const Slot *whole = op_slot(kvm, op)
    cdef Slot slot
    memset(&slot, 0, sizeof(slot))
    slot.dirty_log = slot_logs(c, whole)
    slot.as_id = whole.as_id if whole != NULL else 0
    slot.base_gfn = op.start
    slot.npages = op.end - op.start
    kvm_tdp_mmu_recover_huge_pages(c, kvm, &slot, op.level)


cdef void op_set_dirty_log(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """KVM_SET_USER_MEMORY_REGION that changes flags alone; of every slot unless one is named."""
    cdef Kvm *kvm = &vm.kvm
    cdef uint32_t i
    cdef int more
    for i in range(kvm.nslots):
        if op.slot >= 0 and <uint32_t>op.slot != i:
            continue
        sync_rare(c, SYNC_STORE, <uint64_t>&kvm.slots[i].dirty_log)
        more = (op.on != 0) - kvm.slots[i].dirty_log
        kvm.slots[i].dirty_log = op.on != 0
        sync_rare(c, SYNC_STORE, <uint64_t>&kvm.nr_dirty_logging)
        kvm.nr_dirty_logging += <uint32_t>more


# ---- NX huge page recovery ----------------------------------------------------------------------------------------

cdef void nx_lock(Cpu *c, Kvm *kvm) noexcept nogil:
    """mmu_lock in the mode that the worker holds it in, and its RCU read section."""
    if kvm.design.nx_write_lock:
        write_lock(c, &kvm.mmu_lock)
    else:
        read_lock(c, &kvm.mmu_lock)
    if not kvm.design.nx_outside_rcu:
        rcu_read_lock(c)


cdef void nx_unlock(Cpu *c, Kvm *kvm) noexcept nogil:
    if not kvm.design.nx_outside_rcu:
        rcu_read_unlock(c)
    mmu_unlocking(c, kvm)
    if kvm.design.nx_write_lock:
        write_unlock(c, &kvm.mmu_lock)
    else:
        read_unlock(c, &kvm.mmu_lock)


cdef Sp *nx_take(Cpu *c, Kvm *kvm) noexcept nogil:
    """The oldest table of possible_nx_huge_pages, which leaves the list; NULL when that is empty. mmu_lock held."""
    cdef Sp *sp
    spin_lock(c, &kvm.tdp_mmu_pages_lock)
    sp = kvm.nx_head
    if sp != NULL:
        if not sp.nx_huge_page_disallowed:
            kvm_warn(c, b"kvm_recover_nx_huge_pages", b"not_disallowed")
        # Before the zap: the mark guards nothing, and the lock need not be taken again.
        if not kvm.design.nx_keep_listed:
            untrack_possible_nx_huge_page(kvm, sp)
            tdp_write_once8(&sp.nx_huge_page_disallowed, 0)
    spin_unlock(c, &kvm.tdp_mmu_pages_lock)
    return sp


cdef bint nx_slot_logs(Cpu *c, Kvm *kvm, const Sp *sp) noexcept nogil:
    """kvm_mmu_sp_dirty_logging_enabled(): the pages would come back as small ones at once."""
    cdef const Slot *slot
    sync_rare(c, SYNC_LOAD, <uint64_t>&kvm.nr_dirty_logging)
    if kvm.nr_dirty_logging == 0:
        return False
    slot = gfn_to_memslot(kvm, sp.smm and not kvm.design.nx_wrong_space, sp.gfn)
    if slot == NULL:
        kvm_warn(c, b"kvm_recover_nx_huge_pages", b"no_slot")
    return slot_logs(c, slot)


cdef void op_recover_nx(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """kvm_recover_nx_huge_pages(), the worker's whole turn: at most to_zap tables leave the list, and those whose slot
    logs no dirty pages are zapped; ret: how many. Within SRCU; takes mmu_lock. Yields."""
    cdef Kvm *kvm = &vm.kvm
    cdef bint flush = False
    cdef Sp *sp
    cdef int left = op.to_zap
    srcu_enter(c, kvm)
    nx_lock(c, kvm)
    while left > 0:
        sp = nx_take(c, kvm)
        if sp == NULL:
            break
        left -= 1
        if not nx_slot_logs(c, kvm, sp) and kvm_tdp_mmu_zap_possible_nx_huge_page(c, kvm, sp):
            flush = True
            res.ret += 1
        if tdp_read_once8(&sp.nx_huge_page_disallowed):
            kvm_warn(c, b"kvm_recover_nx_huge_pages", b"still_disallowed")
        if need_resched(c):
            c.count.yields += 1
            if flush and not kvm.design.flush_lost_in_nx:
                kvm_flush_remote_tlbs(c, kvm)
            flush = False
            nx_unlock(c, kvm)
            nx_lock(c, kvm)
    if flush:
        kvm_flush_remote_tlbs(c, kvm)
    nx_unlock(c, kvm)
    srcu_exit(c, kvm)


op_row(OP_WRPROT_SLOT).fn = op_wrprot_slot
op_row(OP_CLEAR_DIRTY_SLOT).fn = op_clear_dirty_slot
op_row(OP_CLEAR_DIRTY_PT_MASKED).fn = op_clear_dirty_pt_masked
op_row(OP_WRITE_PROTECT_GFN).fn = op_write_protect_gfn
op_row(OP_SPLIT).fn = op_split
op_row(OP_RECOVER).fn = op_recover
op_row(OP_SET_DIRTY_LOG).fn = op_set_dirty_log
op_row(OP_RECOVER_NX).fn = op_recover_nx
