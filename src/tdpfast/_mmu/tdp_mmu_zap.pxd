"""tdp_mmu.c: zapping leaves, whole roots, and one table."""

from libc.stdint cimport uint64_t

from tdpfast._mmu.arena cimport Sp
from tdpfast._sync.cpu cimport Cpu
from tdpfast._mmu.tdp_mmu cimport Kvm

cdef void base___tdp_mmu_zap_root(Cpu *c, Kvm *kvm, Sp *root, bint shared, int zap_level) noexcept nogil
cdef bint base_tdp_mmu_zap_leafs(Cpu *c, Kvm *kvm, Sp *root, uint64_t start, uint64_t end, bint can_yield,
                                 bint flush) noexcept nogil
cdef bint kvm_tdp_mmu_zap_leafs(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end, bint flush) noexcept nogil
cdef bint kvm_tdp_mmu_unmap_gfn_range(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end, int attr_filter,
                                      bint may_block, bint flush) noexcept nogil
cdef void kvm_tdp_mmu_zap_all(Cpu *c, Kvm *kvm) noexcept nogil
cdef void kvm_tdp_mmu_zap_invalidated_roots(Cpu *c, Kvm *kvm, bint shared) noexcept nogil
cdef bint kvm_tdp_mmu_zap_possible_nx_huge_page(Cpu *c, Kvm *kvm, Sp *sp) noexcept nogil
cdef int kvm_mmu_uninit_tdp_mmu(Cpu *c, Kvm *kvm) noexcept nogil
