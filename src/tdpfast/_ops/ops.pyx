# cython: language_level=3
"""Runs one operation the way the kernel's callers do: which lock, in which mode, and what happens after it."""

from libc.string cimport memset

from tdpfast._names cimport (
    CHECK_LOCK, EINVAL, EIO, ENOMEM, ENOSPC, EV_RACE, GUEST_RET_NONE, GUEST_RET_NOT_INSIDE, KVM_MIRROR_ROOTS, NOMEM_SEPT, NOMEM_TABLE, OP_AGE, OP_ALLOC_ROOT, OP_CLEAR_DIRTY_PT_MASKED,
    OP_CLEAR_DIRTY_SLOT, NOMEM_KINDS,
    OP_FAST_PAGE_FAULT, OP_FAST_PF_LAST, OP_GET_WALK, OP_GMEM_CONVERT, OP_HONOR_ACCEPT, OP_INVALIDATE_ROOTS, OP_MAP,
    OP_MWALK, OP_POKE, OP_POKE_RAW, OP_PUT_ROOT, OP_PUT_ROOTS, OP_RELOAD, OP_SET_DIRTY_LOG, OP_SET_GEN, OP_SYNC_RCU, OP_WRPROT_SLOT,
    OP_TEST_AGE, OP_TRACK, OP_UNINIT, OP_UNMAP, OP_ZAP_ALL, OP_ZAP_INVALIDATED_ROOTS, OP_ZAP_LEAFS, OP_ZAP_NX,
    OP_ZAP_NX_SP, OP_ZAP_SPTE, RACE_INSTALL, RET_PF_CONTINUE, RET_PF_FIXED,
    RET_PF_RETRY, SYNC_STORE,
)
from tdpfast._mmu.arena cimport Sp, sptep_to_sp
from tdpfast._sync.atomic cimport tdp_guarded_call, tdp_landing, tdp_read_once, tdp_unlikely, tdp_write_once
from tdpfast._mmu.fast_pf cimport fast_page_fault, kvm_tdp_mmu_fast_pf_get_last_sptep
from tdpfast._mmu.gmem cimport kvm_gmem_convert, tdx_honor_guest_accept_level
from tdpfast._mmu.invalidate cimport (
    HOLE_BEGINS, HOLE_ENDS, fault_mapped, faultin_pfn, kvm_gmem_invalidate_begin, kvm_gmem_invalidate_end,
    is_page_fault_stale, slot_retired, srcu_enter, srcu_exit,
)
from tdpfast._spte cimport (
    PFERR_FETCH_MASK, PFERR_PRESENT_MASK, PFERR_USER_MASK, PFERR_WRITE_MASK, SHADOW_NONPRESENT_VALUE, is_last_spte,
    is_mmu_writable_spte, is_shadow_present_pte,
)
from tdpfast._sync.cpu cimport (
    ABORT_LIVELOCK, SLOW_RMW, SLOW_YIELD, no_memory, rcu_read_lock, rcu_read_unlock, rcu_run, read_lock, read_unlock,
    spin_lock, spin_unlock, sync_rare, sync_retry, sync_try_cmpxchg, trace5, write_lock, write_unlock,
)
from tdpfast._mmu.tdp_iter cimport TdpIter, pages_per_hpage, tdp_iter_next, tdp_iter_start
from tdpfast._mmu.tdp_mmu cimport (
    Fault, MAX_TRACKED, ROOT_DIRECT, ROOT_GUEST_MODE, ROOT_KINDS, ROOT_MIRROR, ROOT_SMM, Slot, gfn_to_memslot,
    kvm_gfn_root_bits, spte_to_child_sp, tdp_mmu_iter_set_spte, tdp_mmu_set_spte_atomic, vcpu_roots,
)
from tdpfast._mmu.hardware cimport log_promise
from tdpfast._mmu.tdp_mmu_loop cimport flush_due, kvm_flush_remote_tlbs, mmu_unlocking, tdp_mmu_retry
from tdpfast._mmu.tdp_mmu_map cimport kvm_tdp_mmu_get_walk, kvm_tdp_mmu_map, track_disarm
from tdpfast._mmu.tdp_mmu_roots cimport (
    kvm_tdp_mmu_alloc_root, kvm_tdp_mmu_invalidate_roots, vcpu_load_root, vcpu_put_root,
    vcpu_reload,
)
from tdpfast._mmu.tdp_mmu_slot cimport (
    kvm_tdp_mmu_age_gfn_range,
)
from tdpfast._mmu.tdp_mmu_zap cimport (
    kvm_mmu_uninit_tdp_mmu, kvm_tdp_mmu_unmap_gfn_range, kvm_tdp_mmu_zap_all, kvm_tdp_mmu_zap_invalidated_roots,
    kvm_tdp_mmu_zap_leafs, kvm_tdp_mmu_zap_possible_nx_huge_page,
)

from tdpfast.ops import LOCKS, OPS

cdef extern from *:
    """
    #define KVM_PFN_NOSLOT (1ull << 63)
    """
    const uint64_t KVM_PFN_NOSLOT

cdef enum:
    OP_ROWS = 128

cdef OpRow rows[OP_ROWS]     # by OpKind


cdef OpRow *op_row(int kind) noexcept nogil:
    """The row of an operation."""
    return &rows[kind]


# ---- what another CPU does just before an atomic ----------------------------------------------------------------

cdef void race_on_rmw(Cpu *c, uint64_t *sptep) noexcept nogil:
    """A scripted write by "another CPU" just before the n-th atomic read-modify-write of an operation."""
    cdef Vm *vm = <Vm *>c.vm
    cdef const Op *op = <const Op *>c.user
    cdef uint64_t addr = <uint64_t>sptep
    cdef uint64_t before, after
    cdef Sp *sp
    if addr < <uint64_t>vm.arena.base or addr >= <uint64_t>vm.arena.base + (vm.arena.npages << 12):
        c.rmw_count -= 1     # not an SPTE
        return
    if c.rmw_count != <uint64_t>op.race_n + 1:
        return
    sp = sptep_to_sp(&vm.arena, sptep)
    before = tdp_read_once(sptep)
    after = before
    if op.race_kind == RACE_INSTALL:
        if not is_shadow_present_pte(before):
            after = op.race_set
    elif is_shadow_present_pte(before) and is_last_spte(before, sp.level):
        after = (before | op.race_set) & ~op.race_clear
        if not is_mmu_writable_spte(&vm.kvm.spte, before):
            after = (after & ~<uint64_t>2) | (before & 2)
    tdp_write_once(sptep, after)
    trace5(c, EV_RACE, sp.gfn + ((addr >> 3) & 511) * pages_per_hpage(sp.level), sp.level, before, after, 0)


# ---- faults ---------------------------------------------------------------------------------------------------

cdef int op_root(const Kvm *kvm, const Op *op) noexcept nogil:
    """The RootKind that an operation of a vCPU is about."""
    if op.is_private and kvm.has_mirror:
        return ROOT_MIRROR
    return ROOT_SMM if op.smm else ROOT_GUEST_MODE if op.guest_mode else ROOT_DIRECT


cdef void op_fault(const Kvm *kvm, const Op *op, Fault *fault) noexcept nogil:
    """struct kvm_page_fault of a map operation."""
    memset(fault, 0, sizeof(Fault))
    fault.gfn = op.gfn
    fault.pfn = KVM_PFN_NOSLOT if op.noslot else op.pfn
    fault.max_level = op.level
    if op.is_private and kvm.has_mirror and not kvm.design.ungated:
        # Above 4K only where the promotion of a mirror table is kept from happening.
        fault.max_level = min(fault.max_level, kvm.design.max_level if kvm.design.promo_block else 1)
    fault.write = op.write
    fault.exec_ = op.exec_
    fault.user = op.user
    fault.present = op.present
    fault.prefetch = op.prefetch
    fault.map_writable = op.map_writable
    fault.is_private = op.is_private
    fault.noslot = op.noslot
    fault.root = op_root(kvm, op)
    fault.slot = NULL if op.noslot else &kvm.slots[0]
    fault.mmu_seq = kvm.invalidate.seq
    fault.nx_huge_page_workaround_enabled = kvm.nx_huge_pages
    fault.error_code = ((op.present != 0) * PFERR_PRESENT_MASK | (op.write != 0) * PFERR_WRITE_MASK
                        | (op.user != 0) * PFERR_USER_MASK | (op.exec_ != 0) * PFERR_FETCH_MASK)


cdef uint64_t fault_key(Cpu *c, Vm *vm, const Op *op) noexcept nogil:
    """Digests what the next try of a fault depends on beside the words it reads: scripts, what hooks keep, what the
    last try asked for."""
    cdef uint64_t key = <uint64_t>op ^ c.script.pos ^ c.used_up << 32
    if vm.fault_state != NULL:
        key = (key ^ vm.fault_state(c, vm)) * 0x9e3779b97f4a7c15u
    return key


cdef inline int mmu_topup_memory_caches(Cpu *c, const Kvm *kvm, const Fault *fault) noexcept nogil:
    """Before each try of a fault: RET_PF_CONTINUE, or -ENOMEM and nothing else has happened."""
    if no_memory(c, NOMEM_TABLE) or (fault.root == ROOT_MIRROR and no_memory(c, NOMEM_SEPT)):
        return -ENOMEM
    return RET_PF_CONTINUE


cdef void op_map(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """A fault: kvm_tdp_mmu_map() under the read lock, retried as tdx_handle_ept_violation() does.

    A vCPU with roots of its own takes valid ones before each try, and one that went invalid since makes it retry; so
    does an invalidation that was under way, or ended, since it looked its page up.
    """
    cdef Kvm *kvm = &vm.kvm
    cdef Fault fault
    cdef uint64_t pfn
    cdef int tries = 0
    cdef int ret
    srcu_enter(c, kvm)
    while True:
        op_fault(kvm, op, &fault)
        if c.has_roots or fault.root > ROOT_MIRROR:
            vcpu_reload(c, kvm, fault.root)
        ret = mmu_topup_memory_caches(c, kvm, &fault)
        if ret == RET_PF_CONTINUE:
            ret = faultin_pfn(c, kvm, &fault)
        pfn = fault.pfn
        if ret == RET_PF_CONTINUE:
            read_lock(c, &kvm.mmu_lock)
            if is_page_fault_stale(c, kvm, &fault):
                ret = RET_PF_RETRY
            else:
                ret = kvm_tdp_mmu_map(c, kvm, &fault)
                if ret == RET_PF_FIXED:
                    fault_mapped(c, kvm, &fault, pfn)
            mmu_unlocking(c, kvm)
            read_unlock(c, &kvm.mmu_lock)
        tries += 1
        if ret != RET_PF_RETRY or (op.retries >= 0 and tries > op.retries) or c.hook_raised or slot_retired(c, kvm, &fault):
            break
        if op.gp_at_retry and not c.slow & SLOW_YIELD:
            rcu_run(c, &kvm.rcu, 0)
        if vm.fault_cancelled != NULL and vm.fault_cancelled(c, vm):
            ret = -EIO
            break
        sync_retry(c, fault_key(c, vm, op))
    srcu_exit(c, kvm)
    res.ret = ret
    res.level = fault.goal_level
    res.pfn = fault.pfn
    res.tries = tries


cdef void op_fast_page_fault(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """A fault as far as it can be handled without mmu_lock: fast_page_fault()."""
    cdef Fault fault
    op_fault(&vm.kvm, op, &fault)
    if c.has_roots or fault.root > ROOT_MIRROR:
        vcpu_reload(c, &vm.kvm, fault.root)
    res.ret = fast_page_fault(c, &vm.kvm, &fault)


cdef void op_gmem_convert(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    res.ret = kvm_gmem_convert(c, &vm.kvm, op.start, op.end)


cdef void op_honor_accept(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    res.ret = tdx_honor_guest_accept_level(c, &vm.kvm, op.gfn, op.level)


# ---- roots ----------------------------------------------------------------------------------------------------

cdef void op_invalidate_roots(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    cdef Kvm *kvm = &vm.kvm
    cdef int types = op.types
    # The fast zap of a memslot update spares mirrors: they go with the VM.
    if kvm.has_mirror and not kvm.design.ungated:
        types &= ~KVM_MIRROR_ROOTS
    if types or not op.types:
        kvm_tdp_mmu_invalidate_roots(c, kvm, types)


cdef void op_zap_invalidated_roots(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    kvm_tdp_mmu_zap_invalidated_roots(c, &vm.kvm, op.shared)


cdef void op_reload(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    cdef int kind
    res.ret = 2 * vcpu_load_root(c, &vm.kvm, ROOT_MIRROR)
    res.ret += vcpu_load_root(c, &vm.kvm, ROOT_DIRECT)
    for kind in range(ROOT_MIRROR + 1, ROOT_KINDS):
        vcpu_load_root(c, &vm.kvm, kind)


cdef void op_put_root(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    vcpu_put_root(c, &vm.kvm, op_root(&vm.kvm, op))


cdef void op_put_roots(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    cdef int kind
    vcpu_put_root(c, &vm.kvm, ROOT_MIRROR)
    vcpu_put_root(c, &vm.kvm, ROOT_DIRECT)
    for kind in range(ROOT_MIRROR + 1, ROOT_KINDS):
        vcpu_put_root(c, &vm.kvm, kind)


cdef void op_alloc_root(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    cdef Kvm *kvm = &vm.kvm
    cdef int kind = op_root(kvm, op)
    if vcpu_roots(c, kvm)[kind] == NULL:
        vcpu_roots(c, kvm)[kind] = kvm_tdp_mmu_alloc_root(c, kvm, kind)


cdef void op_uninit(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    kvm_mmu_uninit_tdp_mmu(c, &vm.kvm)


cdef void op_sync_rcu(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """Nothing: what an operation leaves to RCU runs at its end."""


# ---- memslots ------------------------------------------------------------------------------------------------------

cdef const Slot *op_slot(const Kvm *kvm, const Op *op) noexcept nogil:
    """The memslot that an operation with a field slot is about: the one it names, else the one that holds its first
    gfn; NULL in a hole."""
    if op.slot >= 0:
        return &kvm.slots[op.slot] if <uint32_t>op.slot < kvm.nslots else NULL
    return gfn_to_memslot(kvm, 0, op.start if op.end else op.gfn)


cdef bint slots_refuse(const Kvm *kvm, const Op *op) noexcept nogil:
    """Whether a TD's memslots keep today's callers from it: what has a guest_memfd knows no dirty log."""
    cdef uint64_t start = op.start if op.end else op.gfn
    cdef uint64_t end = op.end if op.end else op.gfn + (64 if op.mask else 1)
    cdef const Slot *slot
    cdef uint32_t i
    for i in range(kvm.nslots):
        slot = &kvm.slots[i]
        if not slot.gmem or (op.slot >= 0 and <uint32_t>op.slot != i):
            continue
        if op.kind == OP_SET_DIRTY_LOG or op.slot >= 0 or kvm.nslots == 1:
            return True
        if slot.as_id == 0 and start < slot.base_gfn + slot.npages and slot.base_gfn < end:
            return True
    return False


cdef bint slot_named(const Kvm *kvm, Op *op) noexcept nogil:
    """An operation that names its memslot and no range is about all of it. False for a slot that is not there."""
    if op.slot < 0:
        return True
    if <uint32_t>op.slot >= kvm.nslots:
        return False
    if op.start == op.end and op.kind != OP_SET_DIRTY_LOG:
        op.start = kvm.slots[op.slot].base_gfn
        op.end = op.start + kvm.slots[op.slot].npages
    return True


# ---- ranges ---------------------------------------------------------------------------------------------------

cdef void op_zap_leafs(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    res.ret = kvm_tdp_mmu_zap_leafs(c, &vm.kvm, op.start, op.end, op.flush != 0)


cdef void op_unmap(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    res.ret = kvm_tdp_mmu_unmap_gfn_range(c, &vm.kvm, op.start, op.end, op.filter, op.may_block != 0, op.flush != 0)


cdef void op_zap_all(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    kvm_tdp_mmu_zap_all(c, &vm.kvm)


cdef void op_zap_nx(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """The first table of possible_nx_huge_pages, as kvm_recover_nx_huge_pages() takes it; ret -1 = none."""
    cdef Kvm *kvm = &vm.kvm
    cdef bint write = kvm.design.nx_write_lock
    cdef Sp *sp
    if write:
        write_lock(c, &kvm.mmu_lock)
    else:
        read_lock(c, &kvm.mmu_lock)
    rcu_read_lock(c)
    spin_lock(c, &kvm.tdp_mmu_pages_lock)
    sp = kvm.nx_head
    spin_unlock(c, &kvm.tdp_mmu_pages_lock)
    res.ret = -1
    if sp != NULL:
        res.gfn = sp.gfn
        res.sp_level = sp.level
        res.ret = kvm_tdp_mmu_zap_possible_nx_huge_page(c, kvm, sp)
        flush_due(c, kvm, res.ret == 1)
    rcu_read_unlock(c)
    mmu_unlocking(c, kvm)
    if write:
        write_unlock(c, &kvm.mmu_lock)
    else:
        read_unlock(c, &kvm.mmu_lock)


cdef void op_age(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    res.ret = kvm_tdp_mmu_age_gfn_range(c, &vm.kvm, op.start, op.end, op.filter, op.kind == OP_TEST_AGE)


# ---- walks ----------------------------------------------------------------------------------------------------

cdef void op_walk(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """get_walk and fast_pf_last on the direct root, mwalk on the mirror. Lockless."""
    cdef Kvm *kvm = &vm.kvm
    cdef Sp *root = vcpu_roots(c, kvm)[op.kind == OP_MWALK]
    cdef TdpIter iter
    cdef int i
    if root == NULL:
        res.ret = -1
        return
    if op.kind == OP_FAST_PF_LAST:
        res.ret = -1
        rcu_read_lock(c)
        if kvm_tdp_mmu_fast_pf_get_last_sptep(c, kvm, ROOT_DIRECT, op.gfn, &iter):
            res.level = iter.level
            res.spte = iter.old_spte
            res.ret = (<uint64_t>iter.sptep >> 3) & 511
        rcu_read_unlock(c)
        return
    res.root_level = root.level
    res.ret = kvm_tdp_mmu_get_walk(c, kvm, root, op.gfn, res.sptes)
    for i in range(<int>res.ret if res.ret >= 1 else 1, root.level + 1):
        res.has_spte[i] = 1


cdef bint find_spte(Cpu *c, Kvm *kvm, const Op *op, int level, TdpIter *iter) noexcept nogil:
    """Leaves the iterator on the entry a walk to op.gfn stops at (level 0) or passes at that level. Inside RCU."""
    cdef Sp *root = vcpu_roots(c, kvm)[op_root(kvm, op)]
    cdef TdpIter walk
    cdef bint found = False
    if root == NULL:
        return False
    tdp_iter_start(c, &walk, kvm.arena, root, level if level else 1, op.gfn, kvm_gfn_root_bits(kvm, root))
    while walk.valid and walk.gfn < op.gfn + 1:
        iter[0] = walk
        found = True
        tdp_iter_next(c, &walk)
    return found


cdef void op_poke(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """What hardware or a test writes straight into an SPTE; a change that is lost to another CPU is not made."""
    cdef TdpIter iter
    cdef uint64_t new_spte
    res.ret = -1
    rcu_read_lock(c)
    if find_spte(c, &vm.kvm, op, op.level if op.kind == OP_POKE_RAW else 0, &iter):
        if op.kind == OP_POKE_RAW:
            track_disarm(&vm.kvm, op.gfn, 1)
            # A table out of nothing would have no descriptor: only leaves and what is not present.
            if (iter.level == op.level and not is_shadow_present_pte(iter.old_spte)
                    and not (is_shadow_present_pte(op.value) and not is_last_spte(op.value, op.level))
                    and sync_try_cmpxchg(c, iter.sptep, &iter.old_spte, op.value)):
                res.ret = 0
        elif is_shadow_present_pte(iter.old_spte) and is_last_spte(iter.old_spte, iter.level):
            new_spte = (iter.old_spte | op.set_bits) & ~op.clear_bits
            track_disarm(&vm.kvm, op.gfn, 1)
            if (is_shadow_present_pte(new_spte) and is_last_spte(new_spte, iter.level)
                    and sync_try_cmpxchg(c, iter.sptep, &iter.old_spte, new_spte)):
                res.ret = iter.level
                res.spte = new_spte
    rcu_read_unlock(c)


# ---- the review's questions: one SPTE, one table -----------------------------------------------------------------

cdef bint find_present(Cpu *c, Kvm *kvm, const Op *op, TdpIter *iter) noexcept nogil:
    """Leaves the iterator on the present mirror SPTE of op.gfn at op.level. Inside RCU unless op.rcu == 0."""
    cdef Sp *root = vcpu_roots(c, kvm)[1]
    if root == NULL:
        return False
    tdp_iter_start(c, iter, kvm.arena, root, op.level, op.gfn, 0)
    while iter.valid and iter.gfn < op.gfn + 1:
        if iter.level == op.level:
            return is_shadow_present_pte(iter.old_spte)
        tdp_iter_next(c, iter)
    return False


cdef void op_zap_spte(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """The present mirror SPTE at a level -> non-present, in either mode; ret 0, errno, or 1 = nothing there."""
    cdef Kvm *kvm = &vm.kvm
    cdef TdpIter iter
    cdef int tries = 0
    if op.rcu:
        rcu_read_lock(c)
    res.ret = 1
    if find_present(c, kvm, op, &iter):
        if op.shared:
            while True:
                res.ret = tdp_mmu_set_spte_atomic(c, kvm, &iter, SHADOW_NONPRESENT_VALUE)
                tries += 1
                if res.ret == 0 or (op.tries >= 0 and tries >= op.tries):
                    break
                tdp_mmu_retry(c, kvm, &iter, <int>res.ret)
        else:
            tdp_mmu_iter_set_spte(c, kvm, &iter, SHADOW_NONPRESENT_VALUE)
            res.ret = 0
            tries = 1
    res.tries = tries
    if op.rcu:
        rcu_read_unlock(c)


cdef void op_zap_nx_sp(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """NX huge page recovery aimed at the child table of a mirror SPTE; ret 1/0, -1 = no table there."""
    cdef Kvm *kvm = &vm.kvm
    cdef TdpIter iter
    cdef Sp *sp = NULL
    if op.rcu:
        rcu_read_lock(c)
    res.ret = -1
    if find_present(c, kvm, op, &iter) and not is_last_spte(iter.old_spte, iter.level):
        sp = spte_to_child_sp(kvm, iter.old_spte)
    if sp != NULL:
        res.ret = kvm_tdp_mmu_zap_possible_nx_huge_page(c, kvm, sp)
    if op.rcu:
        rcu_read_unlock(c)


# ---- settings -------------------------------------------------------------------------------------------------

cdef bint track_gfn(Kvm *kvm, uint64_t gfn, bint on) noexcept nogil:
    """Write tracking of one gfn; mmu_lock for write. False, and nothing done, beyond MAX_TRACKED gfns."""
    cdef uint32_t i
    for i in range(kvm.ntracked):
        if kvm.tracked[i] == gfn:
            if not on:
                kvm.ntracked -= 1
                kvm.tracked[i] = kvm.tracked[kvm.ntracked]
                kvm.track_armed[i] = kvm.track_armed[kvm.ntracked]
            return True
    if on and kvm.ntracked < MAX_TRACKED:
        kvm.tracked[kvm.ntracked] = gfn
        kvm.track_armed[kvm.ntracked] = 0
        kvm.ntracked += 1
        return True
    return not on


cdef void op_track(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    sync_rare(c, SYNC_STORE, <uint64_t>&vm.kvm.ntracked)
    if not track_gfn(&vm.kvm, op.gfn, op.on != 0):
        res.ret = -ENOSPC


cdef void op_set_gen(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    sync_rare(c, SYNC_STORE, <uint64_t>&vm.kvm.mmio_generation)
    vm.kvm.mmio_generation = op.value


# ---- the table ------------------------------------------------------------------------------------------------

rows[<int>OP_MAP].fn = op_map
rows[<int>OP_ZAP_LEAFS].fn = op_zap_leafs
rows[<int>OP_UNMAP].fn = op_unmap
rows[<int>OP_ZAP_ALL].fn = op_zap_all
rows[<int>OP_INVALIDATE_ROOTS].fn = op_invalidate_roots
rows[<int>OP_ZAP_INVALIDATED_ROOTS].fn = op_zap_invalidated_roots
rows[<int>OP_RELOAD].fn = op_reload
rows[<int>OP_PUT_ROOT].fn = op_put_root
rows[<int>OP_ALLOC_ROOT].fn = op_alloc_root
rows[<int>OP_AGE].fn = op_age
rows[<int>OP_TEST_AGE].fn = op_age
rows[<int>OP_GET_WALK].fn = op_walk
rows[<int>OP_FAST_PF_LAST].fn = op_walk
rows[<int>OP_ZAP_NX].fn = op_zap_nx
rows[<int>OP_POKE].fn = op_poke
rows[<int>OP_POKE_RAW].fn = op_poke
rows[<int>OP_TRACK].fn = op_track
rows[<int>OP_SET_GEN].fn = op_set_gen
rows[<int>OP_ZAP_SPTE].fn = op_zap_spte
rows[<int>OP_ZAP_NX_SP].fn = op_zap_nx_sp
rows[<int>OP_MWALK].fn = op_walk
rows[<int>OP_SYNC_RCU].fn = op_sync_rcu
rows[<int>OP_UNINIT].fn = op_uninit
rows[<int>OP_PUT_ROOTS].fn = op_put_roots
rows[<int>OP_FAST_PAGE_FAULT].fn = op_fast_page_fault
rows[<int>OP_GMEM_CONVERT].fn = op_gmem_convert
rows[<int>OP_HONOR_ACCEPT].fn = op_honor_accept


cdef int take_rows() except -1:
    """Takes the rest of each row from OPS."""
    cdef OpRow *row
    for kind, spec in enumerate(OPS.values()):
        row = &rows[kind]
        row.lock = LOCKS.index(spec.lock)
        row.roots = spec.roots
        row.ends_roots = spec.ends_roots
        row.td_only = spec.td_only
        row.on_vcpu = "vcpu" in spec.fields
        row.refused_gated = spec.refused == "gated"
        row.refused_private = spec.refused == "private"
        row.refused_slot = spec.refused == "slot"
        row.on_slot = "slot" in spec.fields
        row.flushes = "flush of the TLB is due" in spec.ret
    return 0


take_rows()


def functions():
    """Names of the operations that have a function so far: those of a TD get theirs with its room."""
    return tuple([name for kind, name in enumerate(OPS) if rows[kind].fn != NULL])


cdef bint op_refused(const Kvm *kvm, const OpRow *row, const Op *op) noexcept nogil:
    """Whether today's callers never get there (see OpSpec.refused)."""
    return (kvm.has_mirror and not kvm.design.ungated
            and (row.refused_gated or (row.refused_private and op.is_private != 0)
                 or (row.refused_slot and slots_refuse(kvm, op))))


cdef void dispatch(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """Runs the operation's function, with mmu_lock as its row says."""
    cdef const OpRow *row = &rows[op.kind]
    cdef int lock = row.lock
    if row.td_only:
        res.kind = GUEST_RET_NONE
        if row.on_vcpu and op.vcpu >= vm.nvcpus:
            res.kind = GUEST_RET_NOT_INSIDE
            res.ret = -EINVAL
            return
    if row.on_slot and not slot_named(&vm.kvm, op):
        res.ret = -EINVAL
        return
    if op_refused(&vm.kvm, row, op):
        res.ret = -EINVAL
        return
    if lock == OP_LOCK_SHARED:
        lock = OP_LOCK_READ if op.shared else OP_LOCK_WRITE
    if lock == OP_LOCK_READ:
        read_lock(c, &vm.kvm.mmu_lock)
    elif lock == OP_LOCK_WRITE:
        write_lock(c, &vm.kvm.mmu_lock)
    row.fn(c, vm, op, res)
    if tdp_unlikely(vm.kvm.tlb.on) and (lock == OP_LOCK_READ or lock == OP_LOCK_WRITE):
        flush_due(c, &vm.kvm, row.flushes and res.ret > 0)
        mmu_unlocking(c, &vm.kvm)
    if lock == OP_LOCK_READ:
        read_unlock(c, &vm.kvm.mmu_lock)
    elif lock == OP_LOCK_WRITE:
        write_unlock(c, &vm.kvm.mmu_lock)


cdef void hole_step_ends(Cpu *c, Kvm *kvm, int hole) noexcept nogil:
    """The invalidation ends with the operation that frees the hole's last page; wrongly, with the one that zaps."""
    if hole & (HOLE_BEGINS if kvm.design.end_before_free else HOLE_ENDS):
        kvm_gmem_invalidate_end(c, kvm)


cdef void nomem_begins(Cpu *c, const Op *op) noexcept nogil:
    """The allocations of the operation that fail are counted from here on."""
    cdef int i
    c.nomem.failed = 0
    c.nomem.on = True
    for i in range(NOMEM_KINDS):
        c.nomem.skip[i] = op.nomem_skip[i]
        c.nomem.count[i] = op.nomem_count[i]


cdef void log_cleared(Cpu *c, Kvm *kvm, const Op *op) noexcept nogil:
    """What KVM's callers do after pages were taken out of the dirty log, mmu_lock dropped: the flush, and from then on
    writes are seen. By W where they are write-protected, else by PML. Yields."""
    cdef const Slot *slot = op_slot(kvm, op)
    cdef bint by_w = op.kind == OP_WRPROT_SLOT or (op.kind == OP_CLEAR_DIRTY_PT_MASKED and op.on)
    cdef uint64_t i
    if kvm.tlb.on:
        kvm_flush_remote_tlbs(c, kvm)
    if kvm.log.n == 0 or slot == NULL or slot.as_id or (op.kind == OP_WRPROT_SLOT and op.level > 1):
        return
    if not (by_w or kvm.pml or not kvm.spte.kvm_ad_enabled):
        return
    if op.kind != OP_CLEAR_DIRTY_PT_MASKED:
        log_promise(c, &kvm.log, op.start, op.end, op.log_fetches)
        return
    for i in range(64):
        if op.mask >> i & 1:
            log_promise(c, &kvm.log, op.gfn + i, op.gfn + i + 1, op.log_fetches)


cdef void op_over(Cpu *c, Vm *vm, const Op *op, const OpResult *res) noexcept nogil:
    """Under the explorer, when an operation has returned: nothing may be held any more, else `lock`."""
    if c.rcu_depth or c.held.mmu_read or c.held.mmu_write or c.held.pages_lock or c.held.slots_lock:
        c.found.checks |= CHECK_LOCK
    if op.kind in (OP_WRPROT_SLOT, OP_CLEAR_DIRTY_SLOT, OP_CLEAR_DIRTY_PT_MASKED) and res.ret >= 0:
        log_cleared(c, &vm.kvm, op)


cdef void vm_run_op(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """Runs one operation on this CPU; takes and drops its locks itself. Off the explorer the RCU callbacks that
    are due run at its end, unless the operation says no_gp."""
    if op.kind != OP_MAP or c.slow & SLOW_YIELD:      # op_map() sets what a map's result has; a digest reads all of it
        memset(res, 0, sizeof(OpResult))
    if tdp_unlikely(vm.arena.keep_dead):      # else no use of a freed table is recorded
        tdp_write_once(&vm.arena.op_seq, tdp_read_once(&vm.arena.op_seq) + 1)
    # Under the explorer the grace-period agent may come between any two steps anyway.
    c.resched.gp_at_yield = op.gp_at_yield != 0 and not c.slow & SLOW_YIELD
    c.resched.at = op.resched
    c.resched.calls = 0
    c.hook_raised = False
    c.script.len = op.nscript
    if op.nscript:
        c.script.ret = op.script
        c.script.pos = 0
    c.user = op
    if tdp_unlikely(op.nomem_armed != 0):
        nomem_begins(c, op)
    if op.race_kind:
        c.rmw_count = 0
        c.on_rmw = race_on_rmw
        c.slow |= SLOW_RMW
    c.retry.key = 0
    c.retry.count = 0
    if vm.op_begin != NULL:
        vm.op_begin(c, vm, op)
    if op.hole & HOLE_BEGINS:
        kvm_gmem_invalidate_begin(c, &vm.kvm, op.start, op.end)
    if tdp_unlikely(vm.kvm.log.n != 0):
        op.log_fetches = vm.kvm.log.fetches
    dispatch(c, vm, op, res)
    if tdp_unlikely(c.slow & SLOW_YIELD != 0):
        op_over(c, vm, op, res)
    if op.hole:
        hole_step_ends(c, &vm.kvm, op.hole)
    if vm.op_end != NULL:
        vm.op_end(c, vm, op)
    c.user = NULL
    if tdp_unlikely(op.nomem_armed != 0):
        op.nomem_used = c.nomem.failed
        c.nomem.on = False
    c.slow &= ~<uint32_t>SLOW_RMW
    c.script.len = 0
    if not op.no_gp and not c.slow & SLOW_YIELD and tdp_read_once(<uint64_t *>&vm.kvm.rcu.head):
        rcu_run(c, &vm.kvm.rcu, 0)


cdef struct GuardedOp:
    Cpu *c
    Vm *vm
    Op *op
    OpResult *res


cdef void run_guarded(void *arg) noexcept nogil:
    cdef GuardedOp *g = <GuardedOp *>arg
    vm_run_op(g.c, g.vm, g.op, g.res)


cdef void vm_run_op_guarded(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """As vm_run_op(), but BUG() and livelocks end the operation here (c.abort says which); the VM is then over,
    locks stay as they were."""
    cdef tdp_landing landing
    cdef GuardedOp g
    g.c = c
    g.vm = vm
    g.op = op
    g.res = res
    c.landing = &landing
    if tdp_guarded_call(&landing, run_guarded, &g):
        c.slow &= ~<uint32_t>SLOW_RMW
        c.script.len = 0
        if vm.op_end != NULL:
            vm.op_end(c, vm, op)
        c.user = NULL
        c.nomem.on = False
        c.code.depth = 0
        if c.abort == ABORT_LIVELOCK:
            c.dead = False
        # Whoever reads the tables from here on finds what a grace period leaves of them.
        c.rcu_depth = 0
        c.rcu_seq = 0
        if not op.no_gp:
            rcu_run(c, &vm.kvm.rcu, 0)
    c.landing = NULL
