# cython: language_level=3
"""tdp_mmu.c: tables before they are linked, and linking them (see tdp_mmu_sp.pxd)."""

from tdpfast._names cimport EV_GET_PAGE
from tdpfast._mmu.arena cimport SP_LINKED, arena_alloc, arena_free, sp_hpa, sptep_to_sp
from tdpfast._spte cimport make_nonleaf_spte
from tdpfast._sync.atomic cimport tdp_fetch_add, tdp_read_once, tdp_unlikely, tdp_write_once32
from tdpfast._mmu.tracepoints cimport trace_page
from tdpfast._mmu.tdp_mmu cimport tdp_mmu_free_sp, tdp_mmu_iter_set_spte, tdp_mmu_set_spte_atomic


cdef Sp *tdp_mmu_alloc_sp(Cpu *c, Kvm *kvm, bint external) noexcept nogil:
    """A table from the vCPU's caches, with a page for the external table if asked; NULL without memory."""
    cdef Sp *sp = arena_alloc(kvm.arena, c)
    if sp == NULL:
        return NULL
    if external and kvm.hooks.alloc_external != NULL:
        sp.external_spt = kvm.hooks.alloc_external(c, kvm)
        if sp.external_spt == 0:
            arena_free(kvm.arena, sp)
            return NULL
    return sp


cdef void tdp_mmu_free_unused_sp(Cpu *c, Kvm *kvm, Sp *sp) noexcept nogil:
    """Frees a table that was never linked, at once."""
    tdp_mmu_free_sp(c, kvm, sp)


cdef void tdp_mmu_init_sp(Cpu *c, Kvm *kvm, Sp *sp, uint64_t *sptep, uint64_t gfn, int level, bint is_mirror,
                          uint8_t access) noexcept nogil:
    sp.gfn = gfn
    sp.ptep = sptep
    sp.level = level
    sp.is_mirror = is_mirror
    sp.access = access
    trace_page(c, EV_GET_PAGE, sp)


cdef void tdp_mmu_init_child_sp(Cpu *c, Kvm *kvm, Sp *child, const TdpIter *iter) noexcept nogil:
    cdef Sp *parent = sptep_to_sp(kvm.arena, iter.sptep)
    child.ad_disabled = parent.ad_disabled
    child.guest_mode = parent.guest_mode
    child.smm = parent.smm
    tdp_mmu_init_sp(c, kvm, child, iter.sptep, iter.gfn, parent.level - 1, parent.is_mirror, parent.access)


cdef void track_possible_nx_huge_page(Kvm *kvm, Sp *sp) noexcept nogil:
    """Under tdp_mmu_pages_lock. Newest last."""
    if sp.nx_tracked:
        return
    sp.nx_tracked = 1
    sp.nx_next = NULL
    sp.nx_prev = kvm.nx_tail
    if kvm.nx_tail != NULL:
        kvm.nx_tail.nx_next = sp
    else:
        kvm.nx_head = sp
    kvm.nx_tail = sp
    kvm.nx_lpage_splits += 1
    kvm.nx_possible += 1


cdef int64_t kvm_page_stat(const Kvm *kvm, int level) noexcept nogil:
    """Mapped leaves of a level (1..3) now; exact while nobody maps or zaps."""
    cdef uint64_t n = kvm.pages[level - 1]
    cdef int i
    for i in range(kvm.rcu.ncpu):
        n += tdp_read_once(&kvm.rcu.cpus[i].pages[level - 1])
    return <int64_t>n


cdef int tdp_mmu_link_sp(Cpu *c, Kvm *kvm, TdpIter *iter, Sp *sp, bint shared) noexcept nogil:
    if tdp_unlikely(kvm.ops != NULL):
        return kvm.ops.tdp_mmu_link_sp(c, kvm, iter, sp, shared)
    return base_tdp_mmu_link_sp(c, kvm, iter, sp, shared)


cdef inline int base_tdp_mmu_link_sp(Cpu *c, Kvm *kvm, TdpIter *iter, Sp *sp, bint shared) noexcept nogil:
    """Replaces the SPTE by a pointer to sp; 0, or an errno under the read lock with the SPTE as it was."""
    cdef uint64_t spte = make_nonleaf_spte(&kvm.spte, sp_hpa(sp), not kvm.spte.kvm_ad_enabled)
    cdef int ret
    tdp_write_once32(&sp.state, SP_LINKED)
    if shared:
        ret = tdp_mmu_set_spte_atomic(c, kvm, iter, spte)
        if ret:
            return ret
    else:
        tdp_mmu_iter_set_spte(c, kvm, iter, spte)
    tdp_fetch_add(&kvm.tdp_mmu_pages, 1)
    return 0
