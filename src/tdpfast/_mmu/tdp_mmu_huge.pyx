# cython: language_level=3
"""tdp_mmu.c: eager splitting of huge pages, and their recovery."""

from libc.stdint cimport uint32_t

from tdpfast._names cimport (
    EAGAIN, ENOENT, ENOMEM, EV_SPLIT, KVM_DIRECT_ROOTS, KVM_MIRROR_ROOTS, KVM_VALID_ROOTS, NOMEM_SEPT,
    NOMEM_TABLE,
)
from tdpfast._mmu.arena cimport Sp, sptep_to_sp
from tdpfast._spte cimport is_large_pte, is_last_spte, is_shadow_present_pte, make_huge_spte
from tdpfast._sync.cpu cimport (
    lockdep_assert_held_read, lockdep_assert_held_write, rcu_read_lock, rcu_read_unlock, read_lock, read_unlock,
    no_memory, trace5, write_lock, write_unlock,
)
from tdpfast._mmu.tdp_iter cimport TdpIter, pages_per_hpage, tdp_iter_next, tdp_iter_start
from tdpfast._mmu.tdp_mmu cimport (
    kvm_gfn_root_bits, kvm_spte_warn, kvm_warn, spte_to_child_sp, tdp_mmu_set_spte_atomic,
)
from tdpfast._mmu.tdp_mmu_sp cimport tdp_mmu_alloc_sp, tdp_mmu_free_unused_sp, tdp_mmu_init_child_sp
from tdpfast._mmu.tdp_mmu_loop cimport (
    kvm_flush_remote_tlbs_memslot, mmu_unlocking, tdp_mmu_iter_cond_resched, tdp_mmu_iter_need_resched, tdp_mmu_retry,
)
from tdpfast._mmu.tdp_mmu_map cimport max_mapping_level_in, tdp_mmu_split_huge_page
from tdpfast._mmu.tdp_mmu_roots cimport kvm_tdp_mmu_put_root, of_space, tdp_mmu_next_root

cdef enum:
    KVM_MAX_HUGEPAGE_LEVEL = 3


cdef Sp *alloc_sp_for_split(Cpu *c, Kvm *kvm, const TdpIter *iter, bint shared) noexcept nogil:
    """Drops RCU and mmu_lock to allocate a table; the walk must restart. NULL without memory."""
    cdef bint external = kvm.design.split_external and sptep_to_sp(kvm.arena, iter.sptep).is_mirror
    cdef Sp *sp = NULL
    rcu_read_unlock(c)
    mmu_unlocking(c, kvm)
    if shared:
        read_unlock(c, &kvm.mmu_lock)
    else:
        write_unlock(c, &kvm.mmu_lock)
    if not no_memory(c, NOMEM_TABLE) and not (external and no_memory(c, NOMEM_SEPT)):
        sp = tdp_mmu_alloc_sp(c, kvm, external)
    if shared:
        read_lock(c, &kvm.mmu_lock)
    else:
        write_lock(c, &kvm.mmu_lock)
    rcu_read_lock(c)
    return sp


cdef int tdp_mmu_split_huge_pages_root(Cpu *c, Kvm *kvm, Sp *root, uint64_t start, uint64_t end,
                                       int target_level, bint shared) noexcept nogil:
    """Splits the huge leaves of [start, end) down to target_level; 0 or -ENOMEM. mmu_lock as `shared`. Yields."""
    cdef Sp *sp = NULL
    cdef TdpIter iter
    cdef int ret
    rcu_read_lock(c)
    tdp_iter_start(c, &iter, kvm.arena, root, target_level + 1, start, kvm_gfn_root_bits(kvm, root))
    while iter.valid and iter.gfn < end:
        while True:
            if tdp_mmu_iter_cond_resched(c, kvm, &iter, False, shared):
                break
            if not is_shadow_present_pte(iter.old_spte) or not is_large_pte(iter.old_spte):
                break
            if sp == NULL:
                sp = alloc_sp_for_split(c, kvm, &iter, shared)
                if sp == NULL:
                    trace5(c, EV_SPLIT, iter.gfn, iter.level, iter.old_spte, <uint64_t>-ENOMEM, 0)
                    rcu_read_unlock(c)
                    return -ENOMEM
                iter.yielded = True
                break
            tdp_mmu_init_child_sp(c, kvm, sp, &iter)
            ret = tdp_mmu_split_huge_page(c, kvm, &iter, sp, shared)
            if ret == 0:
                sp = NULL
                break
            tdp_mmu_retry(c, kvm, &iter, ret)
        tdp_iter_next(c, &iter)
    rcu_read_unlock(c)
    if sp != NULL:
        tdp_mmu_free_unused_sp(c, kvm, sp)
    return 0


cdef int split_huge_pages_in(Cpu *c, Kvm *kvm, int types, uint64_t start, uint64_t end, int target_level,
                             bint shared) noexcept nogil:
    """Splits in every root of these types; 0 or -ENOMEM. mmu_lock as `shared`. Yields."""
    cdef Sp *root = tdp_mmu_next_root(c, kvm, NULL, types)
    cdef int ret = 0
    while root != NULL:
        ret = tdp_mmu_split_huge_pages_root(c, kvm, root, start, end, target_level, shared)
        if ret:
            if not kvm.design.split_keeps_root:
                kvm_tdp_mmu_put_root(c, kvm, root)
            break
        root = tdp_mmu_next_root(c, kvm, root, types)
    return ret


cdef int kvm_tdp_mmu_try_split_huge_pages(Cpu *c, Kvm *kvm, int as_id, uint64_t start, uint64_t end, int target_level,
                                          bint shared) noexcept nogil:
    """Splits in every valid root of an address space, mirrors included; 0 or -ENOMEM. mmu_lock as `shared`. Yields."""
    cdef const char *fn = b"kvm_tdp_mmu_try_split_huge_pages"
    if shared:
        lockdep_assert_held_read(c, fn, b"mmu_lock_read")
    else:
        lockdep_assert_held_write(c, fn, b"mmu_lock_write")
    return split_huge_pages_in(c, kvm, of_space(KVM_VALID_ROOTS, as_id), start, end, target_level, shared)


cdef int kvm_tdp_mmu_mirrors_split_huge_pages(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end,
                                              int target_level) noexcept nogil:
    """The huge-page designs: splits the leaves that reach into [start, end) in the mirrors, for a conversion or a guest
    that accepts smaller pages; 0 or -ENOMEM. mmu_lock for write, which it drops to allocate. Yields."""
    lockdep_assert_held_write(c, b"kvm_tdp_mmu_mirrors_split_huge_pages", b"mmu_lock_write")
    return split_huge_pages_in(c, kvm, KVM_DIRECT_ROOTS if kvm.design.split_direct_root else KVM_MIRROR_ROOTS,
                               start, end, target_level, False)


cdef int tdp_mmu_make_huge_spte(Cpu *c, Kvm *kvm, TdpIter *parent, uint64_t *huge_spte) noexcept nogil:
    """A huge SPTE after the first present leaf below parent; -ENOENT without one, -EAGAIN when the caller, who knows
    what must be flushed before it, should yield."""
    cdef Sp *root = spte_to_child_sp(kvm, parent.old_spte)
    cdef uint64_t end = parent.gfn + pages_per_hpage(parent.level)
    cdef uint32_t warn = 0
    cdef TdpIter iter
    if root == NULL:
        return -ENOENT
    tdp_iter_start(c, &iter, kvm.arena, root, 1, parent.gfn, parent.gfn_bits)
    while iter.valid and iter.gfn < end:
        if is_shadow_present_pte(iter.old_spte) and is_last_spte(iter.old_spte, iter.level):
            # The parent decides whether there was progress, or this would yield for ever.
            if tdp_mmu_iter_need_resched(c, parent):
                return -EAGAIN
            huge_spte[0] = make_huge_spte(&kvm.spte, iter.old_spte, parent.level, kvm.nx_huge_pages, &warn)
            if warn:
                kvm_spte_warn(c, warn)
            return 0
        tdp_iter_next(c, &iter)
    return -ENOENT


cdef bint recoverable(const TdpIter *iter, const Slot *slot, int max_level) noexcept nogil:
    if iter.level > KVM_MAX_HUGEPAGE_LEVEL or not is_shadow_present_pte(iter.old_spte):
        return False
    if is_last_spte(iter.old_spte, iter.level):
        return False
    if iter.gfn < slot.base_gfn or iter.gfn >= slot.base_gfn + slot.npages:
        return False
    return max_mapping_level_in(iter.gfn, slot.base_gfn, slot.npages, max_level) >= iter.level


cdef void recover_huge_pages_range(Cpu *c, Kvm *kvm, Sp *root, const Slot *slot, int max_level) noexcept nogil:
    """Replaces tables by huge leaves where the slot allows. mmu_lock for read. May yield."""
    cdef uint64_t huge_spte = 0
    cdef TdpIter iter
    cdef bint flush = False
    cdef int ret
    if slot.dirty_log:
        kvm_warn(c, b"recover_huge_pages_range", b"dirty_tracking_enabled")
        return
    rcu_read_lock(c)
    tdp_iter_start(c, &iter, kvm.arena, root, 2, slot.base_gfn, kvm_gfn_root_bits(kvm, root))
    while iter.valid and iter.gfn < slot.base_gfn + slot.npages:
        while True:
            if tdp_mmu_iter_cond_resched(c, kvm, &iter, flush, True):
                flush = False
                break
            if not recoverable(&iter, slot, max_level):
                break
            ret = tdp_mmu_make_huge_spte(c, kvm, &iter, &huge_spte)
            if ret == -EAGAIN:
                continue
            if ret:
                break
            ret = tdp_mmu_set_spte_atomic(c, kvm, &iter, huge_spte)
            if ret == 0:
                flush = True
                break
            tdp_mmu_retry(c, kvm, &iter, ret)
        tdp_iter_next(c, &iter)
    if flush:
        kvm_flush_remote_tlbs_memslot(c, kvm, slot.base_gfn, slot.npages)
    rcu_read_unlock(c)


cdef void kvm_tdp_mmu_recover_huge_pages(Cpu *c, Kvm *kvm, const Slot *slot, int max_level) noexcept nogil:
    """Brings huge pages back after dirty logging, in every valid root, mirrors included. mmu_lock for read."""
    cdef int types = of_space(KVM_VALID_ROOTS, slot.as_id)
    cdef Sp *root
    lockdep_assert_held_read(c, b"kvm_tdp_mmu_recover_huge_pages", b"mmu_lock_read")
    root = tdp_mmu_next_root(c, kvm, NULL, types)
    while root != NULL:
        recover_huge_pages_range(c, kvm, root, slot, max_level)
        root = tdp_mmu_next_root(c, kvm, root, types)
