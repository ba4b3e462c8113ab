# cython: language_level=3
"""guest_memfd and lpage_info (see gmem.pxd). These functions take mmu_lock themselves."""

from tdpfast._names cimport KVM_FILTER_PRIVATE, SPLIT_IGNORE, SYNC_LOAD, SYNC_STORE
from tdpfast._sync.cpu cimport sync_point, write_lock, write_unlock
from tdpfast._mmu.tdp_iter cimport gfn_round_for_level
from tdpfast._mmu.tdp_mmu_huge cimport kvm_tdp_mmu_mirrors_split_huge_pages
from tdpfast._mmu.tdp_mmu_loop cimport flush_due, mmu_unlocking
from tdpfast._mmu.tdp_mmu_map cimport hugepage_set_guest_inhibit, hugepage_test_guest_inhibit
from tdpfast._mmu.tdp_mmu_zap cimport kvm_tdp_mmu_unmap_gfn_range


cdef int gmem_split_ends(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end) noexcept nogil:
    """Splits the huge private leaves that reach over the ends of [start, end). mmu_lock for write. 0 or -ENOMEM.
    Yields."""
    cdef int ret = 0
    if kvm.design.max_level == 1 or start >= end or kvm.design.no_split_first:
        return 0
    if start != gfn_round_for_level(start, 2):
        ret = kvm_tdp_mmu_mirrors_split_huge_pages(c, kvm, start, start + 1, 1)
    if ret == 0 and end != gfn_round_for_level(end, 2):
        ret = kvm_tdp_mmu_mirrors_split_huge_pages(c, kvm, end - 1, end, 1)
    return ret


cdef int kvm_gmem_convert(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end) noexcept nogil:
    """[start, end) goes from private to shared: the huge leaves that reach over its ends are split first, then what is
    private in it is zapped, all with mmu_lock for write. 1 zapped something, 0, or -ENOMEM with nothing zapped.

    A split that the external table refused is not seen here: the VM is bugged then and the zap goes on. Yields.
    """
    cdef int ret
    write_lock(c, &kvm.mmu_lock)
    ret = gmem_split_ends(c, kvm, start, end)
    if ret == 0:
        ret = kvm_tdp_mmu_unmap_gfn_range(c, kvm, start, end, KVM_FILTER_PRIVATE, True, False)
        flush_due(c, kvm, ret != 0)
    mmu_unlocking(c, kvm)
    write_unlock(c, &kvm.mmu_lock)
    return ret


cdef void set_guest_inhibit(Cpu *c, Kvm *kvm, uint64_t gfn) noexcept nogil:
    sync_point(c, SYNC_STORE, <uint64_t>&kvm.lpage.ninhibit)
    hugepage_set_guest_inhibit(kvm, gfn)


cdef int tdx_honor_guest_accept_level(Cpu *c, Kvm *kvm, uint64_t gfn, int level) noexcept nogil:
    """The guest accepts gfn at a mapping level (1: 4K): splits what is mapped above it, then sets lpage_info's guest
    inhibit for good. 0, or -ENOMEM.

    The test at the start takes no lock: it may, because the inhibit is set after the split, both with mmu_lock for
    write, and never cleared. Takes mmu_lock only when it has something to do. Yields.
    """
    cdef int ret
    # 2M is the largest private mapping; designs that ignore the guest's level have no inhibit.
    if level > 1 or kvm.design.max_level == 1 or kvm.design.split_shared == SPLIT_IGNORE:
        return 0
    sync_point(c, SYNC_LOAD, <uint64_t>&kvm.lpage.ninhibit)
    if hugepage_test_guest_inhibit(kvm, gfn, level + 1):
        return 0
    write_lock(c, &kvm.mmu_lock)
    if kvm.design.inhibit_first:
        set_guest_inhibit(c, kvm, gfn)
    ret = kvm_tdp_mmu_mirrors_split_huge_pages(c, kvm, gfn, gfn + 1, level)
    if ret == 0:
        set_guest_inhibit(c, kvm, gfn)
    write_unlock(c, &kvm.mmu_lock)
    return ret
