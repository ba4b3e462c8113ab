# cython: language_level=3
"""tdp_mmu.c, the part every operation goes through: how one SPTE changes, in every design.

tdp_mmu_set_spte_atomic() is for mmu_lock held for read, tdp_mmu_set_spte() for write. What differs between
the designs is read from kvm->design at the step where the kernels differ.
"""

from libc.string cimport memset

from tdpfast._names cimport (
    ASSERT_BUG, ASSERT_KVM_BUG_ON, ASSERT_LOCKDEP, ASSERT_WARN, CHECK_LIFE, CHECK_PROGRESS, EBUSY, EOPNOTSUPP,
    EV_CHG, EV_PREPARE_ZAP, EV_RCU_AGAIN, EV_RCU_FREE, EV_SPTE_FROZEN, GATE_ELIF_MIRROR, GATE_HELPER,
    GATE_IF_MIRROR, GATE_TWICE, RECLAIM_IN_SET, RECLAIM_OP_RCU, SYNC_RMW,
)
from tdpfast._mmu.arena cimport (
    SP_FREED, SP_LINKED, SP_QUEUED, SP_REMOVED, SPTE_ENTRIES, arena_free, hpa_to_sp, sptep_to_sp,
)
from tdpfast._sync.atomic cimport (
    tdp_fetch_add, tdp_read_once, tdp_read_once32, tdp_unlikely, tdp_write_once8, tdp_write_once32, tdp_xchg32,
)
from tdpfast._spte cimport (
    PT64_ROOT_MAX_LEVEL, SPTE_BASE_ADDR_MASK, check_spte_writable_invariants, is_frozen_spte, is_last_spte,
    is_mmio_spte, is_shadow_present_pte, kvm_tdp_mmu_spte_need_atomic_update, spte_to_pfn,
)
from tdpfast._sync.cpu cimport (
    ABORT_LIVELOCK, RETRY_ANNOUNCED, RETRY_FROZEN_CHILD, call_rcu, lockdep_assert_held, lockdep_assert_held_read,
    lockdep_assert_held_write, spin_lock, spin_unlock, sync_abort, sync_assert, sync_fetch_and, sync_load,
    sync_point, sync_retry, sync_try_cmpxchg, sync_xchg, trace3, trace5,
)
from tdpfast._mmu.hardware cimport spte_bits_lost, tlb_leaf_gone
from tdpfast._mmu.tdp_iter cimport pages_per_hpage, spte_to_child_pt
from tdpfast._mmu.tracepoints cimport trace_page


# ---- assertions ---------------------------------------------------------------------------------------------

cdef void kvm_bug_on(Cpu *c, Kvm *kvm, const char *fn, const char *id) noexcept nogil:
    """KVM_BUG_ON() that fired: the VM is dead, the host goes on. Only the first one requests the vCPUs' end."""
    cdef bint first
    sync_point(c, SYNC_RMW, <uint64_t>&kvm.vm_dead)
    first = not tdp_xchg32(&kvm.vm_bugged, True)
    tdp_write_once32(&kvm.vm_dead, True)
    sync_assert(c, ASSERT_KVM_BUG_ON, fn, id)
    if first and kvm.hooks.vm_dead != NULL:
        kvm.hooks.vm_dead(c, kvm)


cdef void kvm_warn(Cpu *c, const char *fn, const char *id) noexcept nogil:
    sync_assert(c, ASSERT_WARN, fn, id)


cdef void kvm_spte_warn(Cpu *c, uint32_t warn) noexcept nogil:
    """Reports what the SPTE layer's mask says, in the order of SPTE_WARNS."""
    cdef int i
    for i in range(8):
        if warn >> i & 1:
            sync_assert(c, ASSERT_KVM_BUG_ON if i == 3 or i == 4 else ASSERT_WARN, WARN_FN[i], WARN_ID[i])


cdef const char *WARN_FN[8]
cdef const char *WARN_ID[8]
WARN_FN[:] = [b"make_spte", b"make_spte", b"make_spte", b"make_small_spte", b"make_huge_spte",
              b"check_spte_writable_invariants", b"check_spte_writable_invariants", b"mark_spte_for_access_track"]
WARN_ID[:] = [b"no_access", b"reserved_bits", b"dirty_log_on_huge_page", b"not_a_large_leaf", b"not_present_or_4k",
              b"mmu_writable_not_host_writable", b"writable_not_mmu_writable", b"saved_bits_in_use"]


# ---- tables -------------------------------------------------------------------------------------------------

cdef Sp *spte_to_child_sp(const Kvm *kvm, uint64_t spte) noexcept nogil:
    return hpa_to_sp(kvm.arena, spte & SPTE_BASE_ADDR_MASK)


cdef void tdp_mmu_free_sp(Cpu *c, Kvm *kvm, Sp *sp) noexcept nogil:
    if sp.external_spt and kvm.hooks.free_external != NULL:
        kvm.hooks.free_external(c, kvm, sp.external_spt)
        sp.external_spt = 0
    arena_free(kvm.arena, sp)


cdef void tdp_mmu_free_sp_rcu_callback(Cpu *c, void *owner, RcuHead *head) noexcept nogil:
    cdef Kvm *kvm = <Kvm *>owner
    if tdp_unlikely(kvm.ops != NULL):
        if head.func != NULL:
            kvm.ops.own_rcu_callback(c, kvm, head)
        else:
            kvm.ops.tdp_mmu_free_sp_rcu_callback(c, kvm, head)
        return
    base_tdp_mmu_free_sp_rcu_callback(c, kvm, head)


cdef void base_tdp_mmu_free_sp_rcu_callback(Cpu *c, Kvm *kvm, RcuHead *head) noexcept nogil:
    """Runs after the grace period. Designs that free the external page elsewhere must have done so."""
    cdef Sp *sp = sptep_to_sp(kvm.arena, <uint64_t *>head.page)
    head.epoch = 0
    trace3(c, EV_RCU_FREE, sp.level, sp.gfn, not sp.is_mirror)
    if kvm.design.reclaim != RECLAIM_OP_RCU:
        if sp.external_spt:
            kvm_warn(c, b"tdp_mmu_free_sp_rcu_callback", b"external_spt_left")
        arena_free(kvm.arena, sp)
        return
    tdp_mmu_free_sp(c, kvm, sp)


cdef void untrack_possible_nx_huge_page(Kvm *kvm, Sp *sp) noexcept nogil:
    """Under tdp_mmu_pages_lock."""
    if not sp.nx_tracked:
        return
    sp.nx_tracked = 0
    if sp.nx_prev != NULL:
        sp.nx_prev.nx_next = sp.nx_next
    else:
        kvm.nx_head = sp.nx_next
    if sp.nx_next != NULL:
        sp.nx_next.nx_prev = sp.nx_prev
    else:
        kvm.nx_tail = sp.nx_prev
    kvm.nx_lpage_splits -= 1
    kvm.nx_possible -= 1


# ---- removal of a table ---------------------------------------------------------------------------------------

cdef inline void sp_unlinked(Sp *sp) noexcept nogil:
    """New walks do not find the table any more: for the checks."""
    if sp.state == SP_LINKED:
        tdp_write_once32(&sp.state, SP_REMOVED)


cdef void tdp_mmu_unlink_sp(Cpu *c, Kvm *kvm, Sp *sp) noexcept nogil:
    if tdp_unlikely(kvm.ops != NULL):
        kvm.ops.tdp_mmu_unlink_sp(c, kvm, sp)
    else:
        base_tdp_mmu_unlink_sp(c, kvm, sp)


cdef inline void base_tdp_mmu_unlink_sp(Cpu *c, Kvm *kvm, Sp *sp) noexcept nogil:
    """Takes a table that was just removed out of the accounts. mmu_lock in either mode; takes tdp_mmu_pages_lock."""
    sp_unlinked(sp)
    tdp_fetch_add(&kvm.tdp_mmu_pages, <uint64_t>-1)
    if not sp.nx_huge_page_disallowed:
        return
    spin_lock(c, &kvm.tdp_mmu_pages_lock)
    c.held.pages_lock += 1
    tdp_write_once8(&sp.nx_huge_page_disallowed, 0)    # a fault may look at it without the lock
    untrack_possible_nx_huge_page(kvm, sp)
    c.held.pages_lock -= 1
    spin_unlock(c, &kvm.tdp_mmu_pages_lock)


cdef uint64_t freeze_removed_spte(Cpu *c, Kvm *kvm, uint64_t *sptep, int level, bint shared,
                                  bint *skip) noexcept nogil:
    """Writes FROZEN_SPTE over one entry of a removed table and returns what stood there. May spin and yield.

    Shared: another CPU may have frozen it and will write it back, so go on until the old value is not frozen.
    Exclusive: nobody else can make it present, so entries that are not present are left alone (*skip).
    """
    cdef uint64_t old_spte
    skip[0] = False
    if shared:
        while True:
            old_spte = sync_xchg(c, sptep, kvm.spte.frozen_spte)
            if not is_frozen_spte(&kvm.spte, old_spte):
                return old_spte
            # Whoever froze it before this table was queued for freeing will not come back to unfreeze it.
            if tdp_read_once32(&sptep_to_sp(kvm.arena, sptep).state) == SP_QUEUED:
                c.found.checks |= CHECK_PROGRESS
            c.retry.why = RETRY_FROZEN_CHILD
            sync_retry(c, <uint64_t>sptep)
            c.retry.why = 0
    old_spte = sync_load(c, sptep)
    if not is_shadow_present_pte(old_spte):
        skip[0] = True
        return old_spte
    return kvm_tdp_mmu_write_spte(c, kvm, sptep, old_spte, kvm.spte.frozen_spte, level)


cdef void remove_external_spte(Cpu *c, Kvm *kvm, uint64_t gfn, uint64_t old_spte, int level) noexcept nogil:
    """v6.1x and patch07: takes a leaf out of the external table. mmu_lock for write; cannot fail."""
    if not is_last_spte(old_spte, level):
        return
    lockdep_assert_held_write(c, b"remove_external_spte", b"mmu_lock_write")
    if kvm.hooks.remove_external_spte != NULL and not kvm.design.no_hook_on_zap:
        kvm.hooks.remove_external_spte(c, kvm, gfn, level, old_spte)


cdef void free_external_table(Cpu *c, Kvm *kvm, Sp *sp) noexcept nogil:
    """The design's way to take the external page of a removed table back, before call_rcu()."""
    cdef int ret
    if kvm.design.reclaim == RECLAIM_IN_SET or kvm.hooks.free_external_spt == NULL:
        return
    ret = kvm.hooks.free_external_spt(c, kvm, sp.gfn, sp.level, sp)
    if kvm.design.reclaim == RECLAIM_OP_RCU and ret:
        # The module still holds the page: leak it.
        kvm_warn(c, b"handle_removed_pt", b"free_external_spt_failed")
        sp.external_spt = 0


cdef void queue_removed_sp(Cpu *c, Sp *sp) noexcept nogil:
    """call_rcu() of a table, which must happen once in its life."""
    if sp.state == SP_QUEUED or sp.state == SP_FREED:
        c.found.checks |= CHECK_LIFE
        trace3(c, EV_RCU_AGAIN, sp.level, sp.gfn, sp.state)
        return
    # Before it is queued: another CPU may run the callback at once.
    tdp_write_once32(&sp.state, SP_QUEUED)
    call_rcu(c, &sp.rcu_head, <uint64_t>sp.spt)


cdef void handle_removed_pt(Cpu *c, Kvm *kvm, uint64_t *pt, bint shared) noexcept nogil:
    if tdp_unlikely(kvm.ops != NULL):
        kvm.ops.handle_removed_pt(c, kvm, pt, shared)
    else:
        base_handle_removed_pt(c, kvm, pt, shared)


cdef void base_handle_removed_pt(Cpu *c, Kvm *kvm, uint64_t *pt, bint shared) noexcept nogil:
    """Tears a table down that was just unlinked: freezes its entries, recurses, queues the page for freeing.

    mmu_lock in the mode `shared` says; inside RCU. May yield. Nothing is undone here on failure.
    """
    cdef Sp *sp = sptep_to_sp(kvm.arena, pt)
    cdef int level = sp.level
    cdef uint64_t base_gfn = sp.gfn
    cdef uint64_t old_spte, gfn
    cdef bint skip
    cdef int i
    trace_page(c, EV_PREPARE_ZAP, sp)
    tdp_mmu_unlink_sp(c, kvm, sp)
    for i in range(SPTE_ENTRIES):
        gfn = base_gfn + i * pages_per_hpage(level)
        old_spte = freeze_removed_spte(c, kvm, pt + i, level, shared, &skip)
        if skip:
            continue
        handle_changed_spte(c, kvm, sp, gfn, old_spte, kvm.spte.frozen_spte, level, shared)
        if sp.is_mirror and kvm.design.remove_op_after:
            if shared and kvm.design.bug_shared_child:
                kvm_bug_on(c, kvm, b"handle_removed_pt", b"shared")
            remove_external_spte(c, kvm, gfn, old_spte, level)
    if sp.is_mirror:
        free_external_table(c, kvm, sp)
    queue_removed_sp(c, sp)


# ---- bookkeeping of a change ----------------------------------------------------------------------------------

cdef void trace_spte_changed(Cpu *c, uint64_t gfn, int level, uint64_t old_spte, uint64_t new_spte) noexcept nogil:
    """Tracepoint kvm_tdp_mmu_spte_changed; the address space is always 0 here."""
    trace5(c, EV_CHG, 0, gfn, level, old_spte, new_spte)


cdef inline void check_changed_spte(Cpu *c, uint64_t gfn, uint64_t old_spte, uint64_t new_spte, int level,
                                    bint leaf_to_leaf, const char *fn) noexcept nogil:
    if tdp_unlikely(level > PT64_ROOT_MAX_LEVEL or level < 1):
        kvm_warn(c, fn, b"bad_level")
    if tdp_unlikely((gfn & (pages_per_hpage(level) - 1)) != 0):
        kvm_warn(c, fn, b"misaligned_gfn")
    if tdp_unlikely(leaf_to_leaf and spte_to_pfn(old_spte) != spte_to_pfn(new_spte)):
        sync_assert(c, ASSERT_BUG, fn, b"leaf_pfn_changed")


cdef void check_nonpresent_change(Cpu *c, Kvm *kvm, uint64_t old_spte, uint64_t new_spte,
                                  const char *fn) noexcept nogil:
    """From not present to not present: only MMIO SPTEs come and go so, and FROZEN_SPTE is written so."""
    if (not is_mmio_spte(&kvm.spte, kvm.shadow_mmio_value, old_spte)
            and not is_mmio_spte(&kvm.spte, kvm.shadow_mmio_value, new_spte)
            and not is_frozen_spte(&kvm.spte, new_spte)):
        kvm_warn(c, fn, b"nonpresent_change")


cdef int propagate_external(Cpu *c, Kvm *kvm, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                            int level) noexcept nogil:
    """set_external_spte() as this design calls it; 0 when the hook is not set (RET0)."""
    cdef int ret
    if kvm.design.assert_rcu and c.rcu_depth == 0:
        sync_assert(c, ASSERT_LOCKDEP, b"__handle_changed_spte", b"rcu_read_lock")
    if kvm.hooks.set_external_spte == NULL:
        return 0
    if kvm.design.no_hook_on_zap and not is_shadow_present_pte(new_spte):
        return 0
    ret = kvm.hooks.set_external_spte(c, kvm, gfn, old_spte, new_spte, level)
    if ret:
        tdp_fetch_add(&kvm.hook_failures, 1)
    return ret


cdef inline bint frozen_by_helper(const Kvm *kvm) noexcept nogil:
    """__tdp_mmu_set_spte_atomic() freezes, updates the external table and writes the result, all of it before the
    bookkeeping."""
    return kvm.design.gate == GATE_HELPER or kvm.design.gate == GATE_TWICE


cdef inline bint gate_open(const Kvm *kvm, bint is_mirror, bint removed_table, bint was_leaf,
                           bint is_present) noexcept nogil:
    if not is_mirror or kvm.design.gate == GATE_HELPER:
        return False
    if kvm.design.gate == GATE_IF_MIRROR:
        return True
    if removed_table:
        return False
    if kvm.design.gate == GATE_TWICE:
        return was_leaf
    return kvm.design.gate == GATE_ELIF_MIRROR or is_present


cdef int __handle_changed_spte(Cpu *c, Kvm *kvm, Sp *sp, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                               int level, bint shared) noexcept nogil:
    if tdp_unlikely(kvm.ops != NULL):
        return kvm.ops.__handle_changed_spte(c, kvm, sp, gfn, old_spte, new_spte, level, shared)
    return base___handle_changed_spte(c, kvm, sp, gfn, old_spte, new_spte, level, shared)


cdef inline int base___handle_changed_spte(Cpu *c, Kvm *kvm, Sp *sp, uint64_t gfn, uint64_t old_spte,
                                           uint64_t new_spte, int level, bint shared) noexcept nogil:
    """Bookkeeping of one SPTE change, and in the centralised designs its way to the external table.

    0, or the hook's errno: then the change is neither traced nor counted. mmu_lock as `shared` says, inside RCU.
    """
    cdef bint was_present = is_shadow_present_pte(old_spte)
    cdef bint is_present = is_shadow_present_pte(new_spte)
    cdef bint was_leaf = was_present and is_last_spte(old_spte, level)
    cdef bint is_leaf = is_present and is_last_spte(new_spte, level)
    cdef bint removed_table
    cdef uint64_t *child
    cdef const char *fn = b"handle_changed_spte" if frozen_by_helper(kvm) else b"__handle_changed_spte"
    cdef uint32_t warn
    cdef int ret
    check_changed_spte(c, gfn, old_spte, new_spte, level, was_leaf and is_leaf, fn)
    if old_spte == new_spte:
        return 0
    if tdp_unlikely(kvm.tlb.on) and was_leaf and not is_present and not sp.is_mirror:
        tlb_leaf_gone(c, &kvm.tlb, kvm.arena, sp, gfn, pages_per_hpage(level))
    if kvm.design.trace_before:
        trace_spte_changed(c, gfn, level, old_spte, new_spte)
    if is_leaf:
        warn = check_spte_writable_invariants(&kvm.spte, new_spte)
        if tdp_unlikely(warn != 0):
            kvm_spte_warn(c, warn)
    if tdp_unlikely(not was_present and not is_present):
        check_nonpresent_change(c, kvm, old_spte, new_spte, fn)
        if kvm.design.trace_np_np:
            trace_spte_changed(c, gfn, level, old_spte, new_spte)
        return 0
    if tdp_unlikely(kvm.design.trace_before or kvm.design.stats_on_failure) and is_leaf != was_leaf:
        kvm_update_page_stats(c, kvm, level, 1 if is_leaf else -1)
    removed_table = was_present and not was_leaf and (
        is_leaf or not is_present or spte_to_pfn(old_spte) != spte_to_pfn(new_spte))
    if tdp_unlikely(removed_table):
        if is_present and not is_leaf:
            kvm_warn(c, fn, b"table_pfn_changed")
        child = spte_to_child_pt(kvm.arena, old_spte, level)
        if child != NULL:
            handle_removed_pt(c, kvm, child, shared)
    if gate_open(kvm, sp.is_mirror, removed_table, was_leaf, is_present):
        ret = propagate_external(c, kvm, gfn, old_spte, new_spte, level)
        if ret:
            return ret
    if not kvm.design.trace_before:
        trace_spte_changed(c, gfn, level, old_spte, new_spte)
        if is_leaf != was_leaf and not kvm.design.stats_on_failure:
            kvm_update_page_stats(c, kvm, level, 1 if is_leaf else -1)
    return 0


cdef void handle_changed_spte(Cpu *c, Kvm *kvm, Sp *sp, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                              int level, bint shared) noexcept nogil:
    if tdp_unlikely(kvm.ops != NULL):
        kvm.ops.handle_changed_spte(c, kvm, sp, gfn, old_spte, new_spte, level, shared)
    elif base___handle_changed_spte(c, kvm, sp, gfn, old_spte, new_spte, level, shared):
        kvm_bug_on(c, kvm, b"handle_changed_spte", b"external_update_failed")


cdef void base_handle_changed_spte(Cpu *c, Kvm *kvm, Sp *sp, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                                   int level, bint shared) noexcept nogil:
    """For callers that cannot undo the change: a failed external update kills the VM."""
    if __handle_changed_spte(c, kvm, sp, gfn, old_spte, new_spte, level, shared):
        kvm_bug_on(c, kvm, b"handle_changed_spte", b"external_update_failed")


# ---- changes under the read lock ------------------------------------------------------------------------------

cdef int update_external_present(Cpu *c, Kvm *kvm, const TdpIter *iter, uint64_t old_spte,
                                 uint64_t new_spte) noexcept nogil:
    """The hook for a change to a present value in the designs that call it from set_external_spte_present(); its
    errno. RFCv5 has one hook for all, the others one each for leaf, table and (huge pages) split."""
    cdef bint is_leaf = is_last_spte(new_spte, iter.level)
    cdef uint64_t external = 0
    cdef Sp *child
    if kvm.design.gate == GATE_TWICE:
        return 0 if kvm.hooks.set_external_spte == NULL else kvm.hooks.set_external_spte(
            c, kvm, iter.gfn, old_spte, new_spte, iter.level)
    if kvm.design.split_op and is_shadow_present_pte(old_spte):
        if is_leaf or not is_last_spte(old_spte, iter.level):
            kvm_bug_on(c, kvm, b"set_external_spte_present", b"promotion")
            return -EOPNOTSUPP
        return split_external_spt(c, kvm, iter.gfn, old_spte, new_spte, iter.level, True)
    if is_leaf:
        return 0 if kvm.hooks.set_external_spte == NULL else kvm.hooks.set_external_spte(
            c, kvm, iter.gfn, old_spte, new_spte, iter.level)
    child = spte_to_child_sp(kvm, new_spte)
    if child != NULL:
        if child.level + 1 != iter.level:
            kvm_warn(c, b"get_external_spt", b"child_level")
        if child.gfn != iter.gfn:
            kvm_warn(c, b"get_external_spt", b"child_gfn")
        external = child.external_spt
    if not external:
        kvm_bug_on(c, kvm, b"set_external_spte_present", b"no_external_spt")
    return 0 if kvm.hooks.link_external_spt == NULL else kvm.hooks.link_external_spt(
        c, kvm, iter.gfn, iter.level, external)


cdef int split_external_spt(Cpu *c, Kvm *kvm, uint64_t gfn, uint64_t old_spte, uint64_t new_spte, int level,
                            bint shared) noexcept nogil:
    """The huge-page postings before RFCv5: a leaf becomes the table new_spte points to. mmu_lock as `shared` says; the
    hook's errno, which the exclusive path does not look at."""
    if kvm.hooks.split_external_spt == NULL:
        return 0
    return kvm.hooks.split_external_spt(c, kvm, gfn, level, old_spte, new_spte, shared)


cdef inline int set_spte_of(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte, bint built_in) noexcept nogil:
    if built_in:
        return base___tdp_mmu_set_spte_atomic(c, kvm, iter, new_spte)
    return __tdp_mmu_set_spte_atomic(c, kvm, iter, new_spte)


cdef int set_external_spte_present(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil:
    """v6.1x, RFCv5: freezes the mirror SPTE, updates the external table, writes the result. iter->old_spte is only
    refreshed by some when the freezing cmpxchg is lost. Restores the old value when the hook fails."""
    cdef bint was_present = is_shadow_present_pte(iter.old_spte)
    cdef uint64_t old_spte = iter.old_spte
    cdef int ret
    if was_present and kvm.design.gate == GATE_HELPER and not kvm.design.split_op:
        kvm_bug_on(c, kvm, b"set_external_spte_present", b"was_present")
    lockdep_assert_held(c, b"set_external_spte_present", b"mmu_lock")
    if not sync_try_cmpxchg(c, iter.sptep, &old_spte, kvm.spte.frozen_spte):
        if kvm.design.refresh_old_spte:
            iter.old_spte = old_spte
        return -EBUSY
    trace3(c, EV_SPTE_FROZEN, iter.gfn, iter.level, old_spte)
    ret = update_external_present(c, kvm, iter, old_spte, new_spte)
    if ret:
        tdp_fetch_add(&kvm.hook_failures, 1)
    __kvm_tdp_mmu_write_spte(c, kvm, iter.sptep, old_spte if ret else new_spte)
    return ret


cdef int __tdp_mmu_set_spte_atomic(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil:
    if tdp_unlikely(kvm.ops != NULL):
        return kvm.ops.__tdp_mmu_set_spte_atomic(c, kvm, iter, new_spte)
    return base___tdp_mmu_set_spte_atomic(c, kvm, iter, new_spte)


cdef inline int base___tdp_mmu_set_spte_atomic(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil:
    """One cmpxchg, no bookkeeping; -EBUSY when it is lost (iter->old_spte is then what stands there)."""
    if iter.yielded or is_frozen_spte(&kvm.spte, iter.old_spte):
        kvm_warn(c, b"__tdp_mmu_set_spte_atomic", b"yielded_or_frozen")
    if (frozen_by_helper(kvm) and sptep_to_sp(kvm.arena, iter.sptep).is_mirror
            and not is_frozen_spte(&kvm.spte, new_spte)):
        if not is_shadow_present_pte(new_spte) and kvm.design.bug_atomic_zap:
            kvm_bug_on(c, kvm, b"__tdp_mmu_set_spte_atomic", b"atomic_zap")
            return -EBUSY
        if is_shadow_present_pte(iter.old_spte) and kvm.design.bug_old_present:
            kvm_bug_on(c, kvm, b"__tdp_mmu_set_spte_atomic", b"old_present")
            return -EBUSY
        return set_external_spte_present(c, kvm, iter, new_spte)
    if not sync_try_cmpxchg(c, iter.sptep, &iter.old_spte, new_spte):
        return -EBUSY
    return 0


cdef int tdp_mmu_set_spte_atomic(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil:
    if tdp_unlikely(kvm.special):
        return special_set_spte_atomic(c, kvm, iter, new_spte)
    return set_spte_atomic(c, kvm, iter, new_spte, True)


cdef int special_set_spte_atomic(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil:
    if kvm.cut != NULL and kvm.cut[0]:
        c.retry.why = RETRY_ANNOUNCED
        sync_abort(c, ABORT_LIVELOCK)
    if kvm.ops != NULL:
        return kvm.ops.tdp_mmu_set_spte_atomic(c, kvm, iter, new_spte)
    return set_spte_atomic(c, kvm, iter, new_spte, True)


cdef int base_tdp_mmu_set_spte_atomic(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil:
    return set_spte_atomic(c, kvm, iter, new_spte, False)


cdef inline int set_spte_atomic(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte, bint built_in) noexcept nogil:
    """Changes an SPTE with mmu_lock held for read. 0, or an errno with the SPTE as it was (or as another CPU
    made it). In the centralised designs a mirror SPTE is frozen while the external table is updated.

    built_in, a constant: no design file replaces the functions called here."""
    cdef Sp *sp = sptep_to_sp(kvm.arena, iter.sptep)
    cdef bint freeze = sp.is_mirror and not frozen_by_helper(kvm) and not kvm.design.no_freeze
    cdef uint64_t old_spte
    cdef int ret
    lockdep_assert_held_read(c, b"tdp_mmu_set_spte_atomic", b"mmu_lock_read")
    if is_frozen_spte(&kvm.spte, new_spte):
        kvm_warn(c, b"tdp_mmu_set_spte_atomic", b"frozen")
    if frozen_by_helper(kvm):
        ret = set_spte_of(c, kvm, iter, new_spte, built_in)
        if ret:
            return ret
        handle_changed_spte(c, kvm, sp, iter.gfn, iter.old_spte, new_spte, iter.level, True)
        return 0
    old_spte = iter.old_spte
    ret = set_spte_of(c, kvm, iter, kvm.spte.frozen_spte if freeze else new_spte, built_in)
    if ret:
        if sp.is_mirror and not kvm.design.refresh_old_spte:
            iter.old_spte = old_spte
        return ret
    if freeze:
        trace3(c, EV_SPTE_FROZEN, iter.gfn, iter.level, iter.old_spte)
    if built_in:
        ret = base___handle_changed_spte(c, kvm, sp, iter.gfn, iter.old_spte, new_spte, iter.level, True)
    else:
        ret = __handle_changed_spte(c, kvm, sp, iter.gfn, iter.old_spte, new_spte, iter.level, True)
    if sp.is_mirror:
        if freeze or ret:
            if not (ret and kvm.design.no_rollback):
                __kvm_tdp_mmu_write_spte(c, kvm, iter.sptep, iter.old_spte if ret else new_spte)
    elif ret:
        kvm_bug_on(c, kvm, b"tdp_mmu_set_spte_atomic", b"direct_update_failed")
    return ret


# ---- changes under the write lock -----------------------------------------------------------------------------

cdef uint64_t kvm_tdp_mmu_write_spte(Cpu *c, Kvm *kvm, uint64_t *sptep, uint64_t old_spte, uint64_t new_spte,
                                     int level) noexcept nogil:
    """Writes an SPTE under the write lock; with xchg when hardware or a lockless path may change it meanwhile."""
    if kvm_tdp_mmu_spte_need_atomic_update(&kvm.spte, old_spte, level):
        check_ve_possible(c, kvm, new_spte, b"kvm_tdp_mmu_write_spte_atomic")
        if tdp_unlikely(kvm.design.plain_store):     # what a store would lose, an xchg tells
            spte_bits_lost(c, &kvm.spte, old_spte, sync_xchg(c, sptep, new_spte))
            return old_spte
        return sync_xchg(c, sptep, new_spte)
    __kvm_tdp_mmu_write_spte(c, kvm, sptep, new_spte)
    return old_spte


cdef uint64_t tdp_mmu_set_spte(Cpu *c, Kvm *kvm, uint64_t *sptep, uint64_t old_spte, uint64_t new_spte,
                               uint64_t gfn, int level) noexcept nogil:
    if tdp_unlikely(kvm.ops != NULL):
        return kvm.ops.tdp_mmu_set_spte(c, kvm, sptep, old_spte, new_spte, gfn, level)
    return base_tdp_mmu_set_spte(c, kvm, sptep, old_spte, new_spte, gfn, level)


cdef inline uint64_t base_tdp_mmu_set_spte(Cpu *c, Kvm *kvm, uint64_t *sptep, uint64_t old_spte, uint64_t new_spte,
                                           uint64_t gfn, int level) noexcept nogil:
    """Changes an SPTE with mmu_lock held for write; the value that stood there. A failed external update is a
    KVM_BUG_ON and the mirror keeps the new value."""
    cdef Sp *sp = sptep_to_sp(kvm.arena, sptep)
    lockdep_assert_held_write(c, b"tdp_mmu_set_spte", b"mmu_lock_write")
    if is_frozen_spte(&kvm.spte, old_spte) or is_frozen_spte(&kvm.spte, new_spte):
        kvm_warn(c, b"tdp_mmu_set_spte", b"frozen")
    old_spte = kvm_tdp_mmu_write_spte(c, kvm, sptep, old_spte, new_spte, level)
    handle_changed_spte(c, kvm, sp, gfn, old_spte, new_spte, level, False)
    if sp.is_mirror and kvm.design.remove_op_after:
        if kvm.design.split_op and is_shadow_present_pte(new_spte):
            if is_last_spte(old_spte, level) and not is_last_spte(new_spte, level):
                split_external_spt(c, kvm, gfn, old_spte, new_spte, level, False)
            else:
                kvm_bug_on(c, kvm, b"tdp_mmu_set_spte", b"no_split")
            return old_spte
        if is_shadow_present_pte(new_spte) and kvm.design.bug_new_present:
            kvm_bug_on(c, kvm, b"tdp_mmu_set_spte", b"new_present")
        remove_external_spte(c, kvm, gfn, old_spte, level)
    return old_spte


cdef void tdp_mmu_iter_set_spte(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil:
    if iter.yielded:
        kvm_warn(c, b"tdp_mmu_iter_set_spte", b"yielded")
    iter.old_spte = tdp_mmu_set_spte(c, kvm, iter.sptep, iter.old_spte, new_spte, iter.gfn, iter.level)


# ---- the VM -------------------------------------------------------------------------------------------------

cdef void kvm_set_special(Kvm *kvm, const DesignOps *ops, const bint *cut) noexcept nogil:
    """Ties a design file, or the switch that ends an operation, to the VM. Nothing runs in it meanwhile."""
    kvm.ops = ops
    kvm.cut = cut
    kvm.special = ops != NULL or cut != NULL


cdef void kvm_init(Kvm *kvm, Arena *arena) noexcept nogil:
    """Zeroes the VM and ties it to its arena; the caller fills in formats, design and hooks."""
    memset(kvm, 0, sizeof(Kvm))
    kvm.arena = arena
    kvm.users = True
    kvm.rcu.gp = 1
    kvm.rcu.callback = tdp_mmu_free_sp_rcu_callback
    kvm.rcu.owner = kvm
    kvm.external_next = 1
