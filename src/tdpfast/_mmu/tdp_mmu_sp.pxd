"""tdp_mmu.c: tables from allocation to link."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from tdpfast._mmu.arena cimport Sp
from tdpfast._mmu.tdp_iter cimport TdpIter
from tdpfast._mmu.tdp_mmu cimport Kvm
from tdpfast._sync.cpu cimport Cpu

cdef Sp *tdp_mmu_alloc_sp(Cpu *c, Kvm *kvm, bint external) noexcept nogil
cdef void tdp_mmu_free_unused_sp(Cpu *c, Kvm *kvm, Sp *sp) noexcept nogil
cdef void tdp_mmu_init_sp(Cpu *c, Kvm *kvm, Sp *sp, uint64_t *sptep, uint64_t gfn, int level, bint is_mirror,
                          uint8_t access) noexcept nogil
cdef void tdp_mmu_init_child_sp(Cpu *c, Kvm *kvm, Sp *child, const TdpIter *iter) noexcept nogil
cdef void track_possible_nx_huge_page(Kvm *kvm, Sp *sp) noexcept nogil
cdef int64_t kvm_page_stat(const Kvm *kvm, int level) noexcept nogil
cdef int tdp_mmu_link_sp(Cpu *c, Kvm *kvm, TdpIter *iter, Sp *sp, bint shared) noexcept nogil
cdef int base_tdp_mmu_link_sp(Cpu *c, Kvm *kvm, TdpIter *iter, Sp *sp, bint shared) noexcept nogil
