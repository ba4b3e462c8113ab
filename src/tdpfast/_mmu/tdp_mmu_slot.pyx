# cython: language_level=3
"""tdp_mmu.c: write protection, dirty clearing and ageing."""

from libc.stdint cimport uint32_t

from tdpfast._names cimport ASSERT_BUG, CHECK_DIRTY, KVM_VALID_ROOTS
from tdpfast._mmu.arena cimport Sp, sptep_to_sp
from tdpfast._spte cimport (
    PT_WRITABLE_MASK, SPTE_LAYOUT_6_18, is_accessed_spte, is_last_spte, is_shadow_present_pte,
    kvm_tdp_mmu_spte_need_atomic_update, mark_spte_for_access_track, spte_ad_enabled, spte_ad_need_write_protect,
)
from tdpfast._sync.cpu cimport (
    lockdep_assert_held_read, lockdep_assert_held_write, rcu_read_lock, rcu_read_unlock, sync_assert,
    sync_fetch_and, sync_xchg,
)
from tdpfast._mmu.hardware cimport spte_bits_lost
from tdpfast._mmu.tdp_iter cimport TdpIter, tdp_iter_next, tdp_iter_start
from tdpfast._mmu.tdp_mmu cimport (
    __tdp_mmu_set_spte_atomic, __kvm_tdp_mmu_write_spte, kvm_bug_on, kvm_gfn_root_bits, kvm_spte_warn, kvm_warn,
    tdp_mmu_iter_set_spte, tdp_mmu_set_spte_atomic, trace_spte_changed,
)
from tdpfast._mmu.tdp_mmu_loop cimport tdp_mmu_iter_cond_resched, tdp_mmu_retry
from tdpfast._mmu.tdp_mmu_roots cimport (
    kvm_gfn_range_filter_to_root_types, next_root_rcu, next_root_write, of_space, tdp_mmu_next_root,
)

cdef enum:
    KVM_MAX_HUGEPAGE_LEVEL = 3


cdef uint64_t tdp_mmu_clear_spte_bits(Cpu *c, Kvm *kvm, uint64_t *sptep, uint64_t old_spte, uint64_t mask,
                                      int level) noexcept nogil:
    """Clears bits, atomically when others may change the SPTE; the value that stood there."""
    if kvm_tdp_mmu_spte_need_atomic_update(&kvm.spte, old_spte, level):
        if kvm.design.plain_store:
            spte_bits_lost(c, &kvm.spte, old_spte, sync_xchg(c, sptep, old_spte & ~mask))
            return old_spte
        return sync_fetch_and(c, sptep, ~mask)
    __kvm_tdp_mmu_write_spte(c, kvm, sptep, old_spte & ~mask)
    return old_spte


cdef inline bint is_leaf(const TdpIter *iter) noexcept nogil:
    return is_shadow_present_pte(iter.old_spte) and is_last_spte(iter.old_spte, iter.level)


cdef void check_min_level(Cpu *c, Kvm *kvm, int min_level, const char *fn) noexcept nogil:
    """No leaf is larger than 1G: BUG_ON() in 6.18, KVM_BUG_ON() since."""
    if min_level <= KVM_MAX_HUGEPAGE_LEVEL:
        return
    if kvm.spte.layout == SPTE_LAYOUT_6_18:
        sync_assert(c, ASSERT_BUG, fn, b"min_level")
    kvm_bug_on(c, kvm, fn, b"min_level")


cdef bint wrprot_gfn_range(Cpu *c, Kvm *kvm, Sp *root, uint64_t start, uint64_t end, int min_level) noexcept nogil:
    if kvm.ops != NULL:
        return kvm.ops.wrprot_gfn_range(c, kvm, root, start, end, min_level)
    return base_wrprot_gfn_range(c, kvm, root, start, end, min_level)


cdef bint base_wrprot_gfn_range(Cpu *c, Kvm *kvm, Sp *root, uint64_t start, uint64_t end,
                                int min_level) noexcept nogil:
    """Takes W from the leaves at or above min_level; whether one changed. mmu_lock for read. May yield."""
    cdef TdpIter iter
    cdef bint spte_set = False
    cdef int ret
    rcu_read_lock(c)
    check_min_level(c, kvm, min_level, b"wrprot_gfn_range")
    tdp_iter_start(c, &iter, kvm.arena, root, min_level, start, kvm_gfn_root_bits(kvm, root))
    while iter.valid and iter.gfn < end:
        while True:
            if tdp_mmu_iter_cond_resched(c, kvm, &iter, False, True):
                break
            if not is_leaf(&iter) or not iter.old_spte & PT_WRITABLE_MASK:
                break
            ret = tdp_mmu_set_spte_atomic(c, kvm, &iter, iter.old_spte & ~<uint64_t>PT_WRITABLE_MASK)
            if ret == 0:
                spte_set = True
                break
            tdp_mmu_retry(c, kvm, &iter, ret)
        tdp_iter_next(c, &iter)
    rcu_read_unlock(c)
    return spte_set


cdef bint kvm_tdp_mmu_wrprot_slot(Cpu *c, Kvm *kvm, int as_id, uint64_t start, uint64_t end,
                                  int min_level) noexcept nogil:
    """Write-protects the leaves of [start, end) in every valid root of an address space; whether a flush is due.
    mmu_lock for read."""
    cdef int types = of_space(KVM_VALID_ROOTS, as_id)
    cdef bint spte_set = False
    cdef Sp *root
    lockdep_assert_held_read(c, b"kvm_tdp_mmu_wrprot_slot", b"mmu_lock_read")
    root = tdp_mmu_next_root(c, kvm, NULL, types)
    while root != NULL:
        spte_set |= wrprot_gfn_range(c, kvm, root, start, end, min_level)
        root = tdp_mmu_next_root(c, kvm, root, types)
    return spte_set


cdef inline uint64_t dirty_bit(const Kvm *kvm, const Sp *root, bint wrprot) noexcept nogil:
    """What marks a page dirty: W when writes must be caught, as L2's, which are not in the guest's log; else D."""
    if wrprot or not kvm.spte.kvm_ad_enabled or (kvm.pml and root.guest_mode and not kvm.design.l2_dirty_bits):
        return PT_WRITABLE_MASK
    return kvm.spte.shadow_dirty_mask


cdef inline void check_logged(Cpu *c, const Kvm *kvm, const Sp *root, uint64_t spte) noexcept nogil:
    """A page was taken out of the dirty log: the next write to it must be seen. PML sees it where D is clear, of L1
    alone; of L2 the fault does, if W is gone. Else `dirty`."""
    if root.guest_mode and kvm.pml and spte & PT_WRITABLE_MASK:
        c.found.checks |= CHECK_DIRTY


cdef inline void check_dirty_bit(Cpu *c, const Kvm *kvm, uint64_t spte, uint64_t dbit, const char *fn) noexcept nogil:
    """KVM_MMU_WARN_ON(): where D alone marks a page dirty, no SPTE may ask for write protection."""
    if kvm.design.prove_mmu and dbit == kvm.spte.shadow_dirty_mask and spte_ad_need_write_protect(&kvm.spte, spte):
        kvm_warn(c, fn, b"ad_need_write_protect")


cdef void clear_dirty_gfn_range(Cpu *c, Kvm *kvm, Sp *root, uint64_t start, uint64_t end) noexcept nogil:
    if kvm.ops != NULL:
        kvm.ops.clear_dirty_gfn_range(c, kvm, root, start, end)
    else:
        base_clear_dirty_gfn_range(c, kvm, root, start, end)


cdef void base_clear_dirty_gfn_range(Cpu *c, Kvm *kvm, Sp *root, uint64_t start, uint64_t end) noexcept nogil:
    """Clears the dirty state of the leaves. mmu_lock for read. May yield.

    Unlike the other loops it looks at the SPTE before it asks whether to yield.
    """
    cdef uint64_t dbit = dirty_bit(kvm, root, False)
    cdef TdpIter iter
    cdef int ret
    rcu_read_lock(c)
    tdp_iter_start(c, &iter, kvm.arena, root, 1, start, kvm_gfn_root_bits(kvm, root))
    while iter.valid and iter.gfn < end:
        while is_leaf(&iter):
            if tdp_mmu_iter_cond_resched(c, kvm, &iter, False, True):
                break
            check_dirty_bit(c, kvm, iter.old_spte, dbit, b"clear_dirty_gfn_range")
            if not iter.old_spte & dbit:
                break
            ret = tdp_mmu_set_spte_atomic(c, kvm, &iter, iter.old_spte & ~dbit)
            if ret == 0:
                check_logged(c, kvm, root, iter.old_spte & ~dbit)
                break
            tdp_mmu_retry(c, kvm, &iter, ret)
        tdp_iter_next(c, &iter)
    rcu_read_unlock(c)


cdef void kvm_tdp_mmu_clear_dirty_slot(Cpu *c, Kvm *kvm, int as_id, uint64_t start, uint64_t end) noexcept nogil:
    """Clears the dirty state of [start, end) in every valid root of an address space. mmu_lock for read."""
    cdef int types = of_space(KVM_VALID_ROOTS, as_id)
    cdef Sp *root
    lockdep_assert_held_read(c, b"kvm_tdp_mmu_clear_dirty_slot", b"mmu_lock_read")
    root = tdp_mmu_next_root(c, kvm, NULL, types)
    while root != NULL:
        clear_dirty_gfn_range(c, kvm, root, start, end)
        root = tdp_mmu_next_root(c, kvm, root, types)


cdef uint64_t lowest_bit(uint64_t mask) noexcept nogil:
    cdef uint64_t i = 0
    while not mask >> i & 1:
        i += 1
    return i


cdef void clear_dirty_pt_masked(Cpu *c, Kvm *kvm, Sp *root, uint64_t gfn, uint64_t mask, bint wrprot) noexcept nogil:
    """Clears D or W of the 4K leaves named by mask, straight in the SPTE: no hook, mirrors included."""
    cdef uint64_t dbit = dirty_bit(kvm, root, wrprot)
    cdef TdpIter iter
    cdef uint64_t index
    rcu_read_lock(c)
    tdp_iter_start(c, &iter, kvm.arena, root, 1, gfn + lowest_bit(mask), kvm_gfn_root_bits(kvm, root))
    while iter.valid and iter.gfn < gfn + 64 and mask:
        if is_leaf(&iter):
            check_dirty_bit(c, kvm, iter.old_spte, dbit, b"clear_dirty_pt_masked")
            index = iter.gfn - gfn
            if iter.level == 1 and mask >> index & 1:
                mask &= ~(<uint64_t>1 << index)
                if iter.old_spte & dbit:
                    iter.old_spte = tdp_mmu_clear_spte_bits(c, kvm, iter.sptep, iter.old_spte, dbit, iter.level)
                    trace_spte_changed(c, iter.gfn, iter.level, iter.old_spte, iter.old_spte & ~dbit)
                    check_logged(c, kvm, root, iter.old_spte & ~dbit)
        tdp_iter_next(c, &iter)
    rcu_read_unlock(c)


cdef void kvm_tdp_mmu_clear_dirty_pt_masked(Cpu *c, Kvm *kvm, int as_id, uint64_t gfn, uint64_t mask,
                                            bint wrprot) noexcept nogil:
    """The dirty-log call of one 64-page word, in every valid root of an address space. mmu_lock for write."""
    cdef int types = of_space(KVM_VALID_ROOTS, as_id)
    cdef const char *fn = b"clear_dirty_pt_masked"
    cdef Sp *root
    if mask == 0:
        return
    root = next_root_write(c, kvm, NULL, types, fn)
    while root != NULL:
        clear_dirty_pt_masked(c, kvm, root, gfn, mask, wrprot)
        root = next_root_write(c, kvm, root, types, fn)


cdef bint write_protect_gfn(Cpu *c, Kvm *kvm, Sp *root, uint64_t gfn, int min_level) noexcept nogil:
    """Takes W and MMU-writable from the leaf of gfn. mmu_lock for write."""
    cdef TdpIter iter
    cdef uint64_t new_spte
    cdef bint spte_set = False
    check_min_level(c, kvm, min_level, b"write_protect_gfn")
    rcu_read_lock(c)
    tdp_iter_start(c, &iter, kvm.arena, root, min_level, gfn, kvm_gfn_root_bits(kvm, root))
    while iter.valid and iter.gfn < gfn + 1:
        if is_leaf(&iter):
            new_spte = iter.old_spte & ~(<uint64_t>PT_WRITABLE_MASK | kvm.spte.shadow_mmu_writable_mask)
            if new_spte == iter.old_spte or (kvm.design.wrprot_skips_ro and not iter.old_spte & PT_WRITABLE_MASK):
                break
            tdp_mmu_iter_set_spte(c, kvm, &iter, new_spte)
            spte_set = True
        tdp_iter_next(c, &iter)
    rcu_read_unlock(c)
    return spte_set


cdef bint kvm_tdp_mmu_write_protect_gfn(Cpu *c, Kvm *kvm, int as_id, uint64_t gfn, int min_level) noexcept nogil:
    """Write-protects one gfn so that every later write is caught, in every valid root of an address space. mmu_lock for
    write."""
    cdef int types = of_space(KVM_VALID_ROOTS, as_id)
    cdef const char *fn = b"kvm_tdp_mmu_write_protect_gfn"
    cdef bint spte_set = False
    cdef Sp *root
    lockdep_assert_held_write(c, fn, b"mmu_lock_write")
    root = next_root_write(c, kvm, NULL, types, fn)
    while root != NULL:
        spte_set |= write_protect_gfn(c, kvm, root, gfn, min_level)
        root = next_root_write(c, kvm, root, types, fn)
    return spte_set


cdef void kvm_tdp_mmu_age_spte(Cpu *c, Kvm *kvm, TdpIter *iter) noexcept nogil:
    """Marks one leaf old. Lockless: one cmpxchg that may be lost (6.18 with A/D: an atomic and)."""
    cdef uint64_t new_spte
    cdef uint32_t warn = 0
    if not kvm.design.age_mirror and sptep_to_sp(kvm.arena, iter.sptep).is_mirror:
        kvm_warn(c, b"kvm_tdp_mmu_age_spte", b"mirror_spte")
        return
    if spte_ad_enabled(&kvm.spte, iter.old_spte) and not kvm.design.age_cmpxchg:
        iter.old_spte = sync_fetch_and(c, iter.sptep, ~kvm.spte.shadow_accessed_mask)
        new_spte = iter.old_spte & ~kvm.spte.shadow_accessed_mask
    else:
        if spte_ad_enabled(&kvm.spte, iter.old_spte):
            new_spte = iter.old_spte & ~kvm.spte.shadow_accessed_mask
        else:
            new_spte = mark_spte_for_access_track(&kvm.spte, iter.old_spte, &warn)
        if warn:
            kvm_spte_warn(c, warn)
        if __tdp_mmu_set_spte_atomic(c, kvm, iter, new_spte):
            return
    trace_spte_changed(c, iter.gfn, iter.level, iter.old_spte, new_spte)


cdef bint base_age_gfn_range(Cpu *c, Kvm *kvm, Sp *root, uint64_t start, uint64_t end, bint test_only) noexcept nogil:
    """The leaves of one root. Inside RCU; no lock."""
    cdef TdpIter iter
    cdef bint ret = False
    tdp_iter_start(c, &iter, kvm.arena, root, 1, start, kvm_gfn_root_bits(kvm, root))
    while iter.valid and iter.gfn < end:
        if is_leaf(&iter) and is_accessed_spte(&kvm.spte, iter.old_spte):
            ret = True
            if test_only:
                return True
            kvm_tdp_mmu_age_spte(c, kvm, &iter)
        tdp_iter_next(c, &iter)
    return ret


cdef bint kvm_tdp_mmu_age_gfn_range(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end, int attr_filter,
                                    bint test_only) noexcept nogil:
    """Whether a page of [start, end) was accessed; clears that unless test_only. No lock, RCU only."""
    cdef int types = kvm_gfn_range_filter_to_root_types(c, kvm, attr_filter)
    cdef bint ret = False
    cdef Sp *root
    rcu_read_lock(c)
    root = next_root_rcu(c, kvm, NULL, types)
    while root != NULL:
        if kvm.ops != NULL:
            ret |= kvm.ops.age_gfn_range(c, kvm, root, start, end, test_only)
        else:
            ret |= base_age_gfn_range(c, kvm, root, start, end, test_only)
        if ret and test_only:
            break
        root = next_root_rcu(c, kvm, root, types)
    rcu_read_unlock(c)
    return ret
