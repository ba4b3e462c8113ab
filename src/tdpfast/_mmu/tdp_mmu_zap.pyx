# cython: language_level=3
"""tdp_mmu.c: zapping leaves, whole roots, and one table."""

from tdpfast._names cimport CHECK_LEAK, KVM_DIRECT_ROOTS, KVM_INVALID_ROOTS, KVM_VALID_ROOTS, SYNC_RMW, SYNC_STORE, UAF_SP
from tdpfast._spte cimport SHADOW_NONPRESENT_VALUE, is_last_spte, is_shadow_present_pte
from tdpfast._sync.atomic cimport tdp_read_once, tdp_read_once32
from tdpfast._mmu.arena cimport SP_FREED, sp_invalid, sp_note_uaf
from tdpfast._sync.cpu cimport (
    lockdep_assert_held_read, lockdep_assert_held_write, rcu_barrier, rcu_read_lock, rcu_read_unlock, read_lock,
    read_unlock, sync_load, sync_rare, write_lock, write_unlock,
)
from tdpfast._mmu.tdp_iter cimport TdpIter, spte_to_child_pt, tdp_iter_next, tdp_iter_start
from tdpfast._mmu.tdp_mmu cimport (
    kvm_bug_on, kvm_gfn_root_bits, kvm_warn, sp_point, tdp_mmu_iter_set_spte, tdp_mmu_set_spte_atomic,
)
from tdpfast._mmu.hardware cimport tlb_forget
from tdpfast._mmu.tdp_mmu_loop cimport mmu_unlocking, tdp_mmu_iter_cond_resched, tdp_mmu_retry
from tdpfast._mmu.tdp_mmu_roots cimport (
    kvm_gfn_range_filter_to_root_types, kvm_tdp_mmu_invalidate_roots, kvm_tdp_mmu_put_root, root_flags_point,
    tdp_mmu_next_root,
)


cdef uint64_t tdp_mmu_max_gfn_exclusive(const Kvm *kvm) noexcept nogil:
    return kvm.spte.max_gfn + 1


cdef void __tdp_mmu_zap_root(Cpu *c, Kvm *kvm, Sp *root, bint shared, int zap_level) noexcept nogil:
    if kvm.ops != NULL:
        kvm.ops.__tdp_mmu_zap_root(c, kvm, root, shared, zap_level)
    else:
        base___tdp_mmu_zap_root(c, kvm, root, shared, zap_level)


cdef void base___tdp_mmu_zap_root(Cpu *c, Kvm *kvm, Sp *root, bint shared, int zap_level) noexcept nogil:
    """One pass: everything present at zap_level or below goes. Gfns carry the shared bit, as the kernel's do."""
    cdef TdpIter iter
    cdef int ret
    tdp_iter_start(c, &iter, kvm.arena, root, zap_level, 0, 0)
    while iter.valid and iter.gfn < tdp_mmu_max_gfn_exclusive(kvm):
        while True:
            if tdp_mmu_iter_cond_resched(c, kvm, &iter, False, shared):
                break
            if not is_shadow_present_pte(iter.old_spte) or iter.level > zap_level:
                break
            if not shared:
                tdp_mmu_iter_set_spte(c, kvm, &iter, SHADOW_NONPRESENT_VALUE)
                break
            ret = tdp_mmu_set_spte_atomic(c, kvm, &iter, SHADOW_NONPRESENT_VALUE)
            if ret == 0:
                break
            tdp_mmu_retry(c, kvm, &iter, ret)
        tdp_iter_next(c, &iter)


cdef void tdp_mmu_zap_root(Cpu *c, Kvm *kvm, Sp *root, bint shared) noexcept nogil:
    """Zaps a whole root in passes of growing size, so that need_resched() is honoured. mmu_lock as `shared`."""
    if tdp_read_once(&root.root_count) == 0:
        kvm_warn(c, b"tdp_mmu_zap_root", b"no_reference")
    if shared:
        lockdep_assert_held_read(c, b"tdp_mmu_zap_root", b"mmu_lock_read")
    else:
        lockdep_assert_held_write(c, b"tdp_mmu_zap_root", b"mmu_lock_write")
    rcu_read_lock(c)
    if not kvm.design.prove_mmu:
        __tdp_mmu_zap_root(c, kvm, root, shared, 1)
        __tdp_mmu_zap_root(c, kvm, root, shared, 2)
    __tdp_mmu_zap_root(c, kvm, root, shared, 3)
    __tdp_mmu_zap_root(c, kvm, root, shared, root.level)
    rcu_read_unlock(c)


cdef bint tdp_mmu_zap_leafs(Cpu *c, Kvm *kvm, Sp *root, uint64_t start, uint64_t end, bint can_yield,
                            bint flush) noexcept nogil:
    if kvm.ops != NULL:
        return kvm.ops.tdp_mmu_zap_leafs(c, kvm, root, start, end, can_yield, flush)
    return base_tdp_mmu_zap_leafs(c, kvm, root, start, end, can_yield, flush)


cdef bint base_tdp_mmu_zap_leafs(Cpu *c, Kvm *kvm, Sp *root, uint64_t start, uint64_t end, bint can_yield,
                                 bint flush) noexcept nogil:
    """Zaps the leaves of [start, end) in one root; whether a TLB flush is due. mmu_lock for write. May yield."""
    cdef TdpIter iter
    end = min(end, tdp_mmu_max_gfn_exclusive(kvm))
    lockdep_assert_held_write(c, b"tdp_mmu_zap_leafs", b"mmu_lock_write")
    rcu_read_lock(c)
    tdp_iter_start(c, &iter, kvm.arena, root, 1, start, kvm_gfn_root_bits(kvm, root))
    while iter.valid and iter.gfn < end:
        if can_yield and tdp_mmu_iter_cond_resched(c, kvm, &iter, flush, False):
            flush = False
        elif is_shadow_present_pte(iter.old_spte) and is_last_spte(iter.old_spte, iter.level):
            tdp_mmu_iter_set_spte(c, kvm, &iter, SHADOW_NONPRESENT_VALUE)
            # Nobody runs on an invalid root any more.
            if not sp_invalid(root):
                flush = True
        tdp_iter_next(c, &iter)
    rcu_read_unlock(c)
    return flush


cdef bint kvm_tdp_mmu_zap_leafs(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end, bint flush) noexcept nogil:
    """Zaps the leaves of [start, end) in every valid root, mirrors included. mmu_lock for write. May yield."""
    cdef Sp *root
    lockdep_assert_held_write(c, b"kvm_tdp_mmu_zap_leafs", b"mmu_lock_write")
    root = tdp_mmu_next_root(c, kvm, NULL, KVM_VALID_ROOTS)
    while root != NULL:
        flush = tdp_mmu_zap_leafs(c, kvm, root, start, end, True, flush)
        root = tdp_mmu_next_root(c, kvm, root, KVM_VALID_ROOTS)
    return flush


cdef bint kvm_tdp_mmu_unmap_gfn_range(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end, int attr_filter,
                                      bint may_block, bint flush) noexcept nogil:
    """The MMU notifier's zap: roots by the range's attribute filter, invalid ones too. mmu_lock for write."""
    cdef int types = kvm_gfn_range_filter_to_root_types(c, kvm, attr_filter)
    cdef Sp *root
    if not kvm.design.notifier_valid_only:
        types |= KVM_INVALID_ROOTS
    root = tdp_mmu_next_root(c, kvm, NULL, types)
    while root != NULL:
        flush = tdp_mmu_zap_leafs(c, kvm, root, start, end, may_block, flush)
        root = tdp_mmu_next_root(c, kvm, root, types)
    return flush


cdef void kvm_tdp_mmu_zap_all(Cpu *c, Kvm *kvm) noexcept nogil:
    """Zaps every direct root, invalid ones too; mirrors are left to VM destruction. mmu_lock for write."""
    cdef int types = KVM_DIRECT_ROOTS | KVM_INVALID_ROOTS
    cdef Sp *root
    lockdep_assert_held_write(c, b"kvm_tdp_mmu_zap_all", b"mmu_lock_write")
    if kvm.tlb.on:
        tlb_forget(&kvm.tlb, NULL, -1)      # the process is gone: no vCPU runs again
    root = tdp_mmu_next_root(c, kvm, NULL, types)
    while root != NULL:
        tdp_mmu_zap_root(c, kvm, root, False)
        root = tdp_mmu_next_root(c, kvm, root, types)


cdef void kvm_tdp_mmu_zap_invalidated_roots(Cpu *c, Kvm *kvm, bint shared) noexcept nogil:
    """Zaps the roots that invalidation scheduled and drops the TDP MMU's reference. Takes mmu_lock itself."""
    cdef int types = KVM_VALID_ROOTS | KVM_INVALID_ROOTS
    cdef Sp *root
    if shared:
        read_lock(c, &kvm.mmu_lock)
    else:
        write_lock(c, &kvm.mmu_lock)
    root = tdp_mmu_next_root(c, kvm, NULL, types)
    while root != NULL:
        root_flags_point(c, root, SYNC_RMW)
        if root.scheduled_to_zap:
            root.scheduled_to_zap = 0
            if not sp_invalid(root):
                kvm_bug_on(c, kvm, b"kvm_tdp_mmu_zap_invalidated_roots", b"valid_root")
            tdp_mmu_zap_root(c, kvm, root, shared)
            # Only now: until here the root had to be reachable for the MMU notifiers.
            kvm_tdp_mmu_put_root(c, kvm, root)
        root = tdp_mmu_next_root(c, kvm, root, types)
    mmu_unlocking(c, kvm)
    if shared:
        read_unlock(c, &kvm.mmu_lock)
    else:
        write_unlock(c, &kvm.mmu_lock)


cdef bint kvm_tdp_mmu_zap_possible_nx_huge_page(Cpu *c, Kvm *kvm, Sp *sp) noexcept nogil:
    """Zaps one table so that a huge page can come back; False if it is not there any more. mmu_lock for read, in 6.16
    for write."""
    cdef TdpIter iter
    cdef const char *fn = b"kvm_tdp_mmu_zap_possible_nx_huge_page"
    if kvm.design.nx_write_lock:
        lockdep_assert_held_write(c, b"kvm_tdp_mmu_zap_sp", b"mmu_lock_write")
    else:
        lockdep_assert_held_read(c, fn, b"mmu_lock_read")
    sp_point(c, sp)
    if tdp_read_once32(&sp.state) == SP_FREED:
        sp_note_uaf(kvm.arena, c, sp, UAF_SP)
    if sp.ptep == NULL:
        kvm_warn(c, fn, b"no_parent")
        return False
    iter.old_spte = sync_load(c, sp.ptep)
    iter.sptep = sp.ptep
    iter.level = sp.level + 1
    iter.gfn = sp.gfn
    iter.yielded = False
    iter.valid = True
    # Present is not enough: by now a leaf or another table may stand there.
    if spte_to_child_pt(kvm.arena, iter.old_spte, iter.level) != sp.spt and not kvm.design.nx_no_recheck:
        return False
    if kvm.design.nx_write_lock:
        tdp_mmu_iter_set_spte(c, kvm, &iter, SHADOW_NONPRESENT_VALUE)
    elif tdp_mmu_set_spte_atomic(c, kvm, &iter, SHADOW_NONPRESENT_VALUE):
        if spte_to_child_pt(kvm.arena, iter.old_spte, iter.level) == sp.spt:
            kvm_warn(c, fn, b"still_linked")
        return False
    return True


cdef int kvm_mmu_uninit_tdp_mmu(Cpu *c, Kvm *kvm) noexcept nogil:
    """The end of the VM: every root goes, under the write lock, then all callbacks run; how many ran."""
    cdef int ran = 0
    # Who invalidates roots looks at it in the step that begins with the list of roots: a store to that for both.
    sync_rare(c, SYNC_STORE, <uint64_t>&kvm.tdp_mmu_roots)
    kvm.users = False
    kvm_tdp_mmu_invalidate_roots(c, kvm, KVM_VALID_ROOTS)
    kvm_tdp_mmu_zap_invalidated_roots(c, kvm, False)
    if kvm.tdp_mmu_pages and kvm.design.prove_mmu:
        kvm_warn(c, b"kvm_mmu_uninit_tdp_mmu", b"pages_left")
    if kvm.tdp_mmu_roots != NULL:
        kvm_warn(c, b"kvm_mmu_uninit_tdp_mmu", b"roots_left")
    if kvm.tlb.on:
        tlb_forget(&kvm.tlb, NULL, -1)
    if not kvm.design.no_rcu_barrier:
        ran = rcu_barrier(c, &kvm.rcu)
    if tdp_read_once(<uint64_t *>&kvm.rcu.head):
        c.found.checks |= CHECK_LEAK        # what they free nobody waits for any more
    return ran
