"""tdp_mmu.c: eager splitting of huge pages, and their recovery."""

from libc.stdint cimport uint64_t

from tdpfast._sync.cpu cimport Cpu
from tdpfast._mmu.tdp_mmu cimport Kvm, Slot

cdef int kvm_tdp_mmu_try_split_huge_pages(Cpu *c, Kvm *kvm, int as_id, uint64_t start, uint64_t end, int target_level,
                                          bint shared) noexcept nogil
cdef int kvm_tdp_mmu_mirrors_split_huge_pages(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end,
                                              int target_level) noexcept nogil
cdef void kvm_tdp_mmu_recover_huge_pages(Cpu *c, Kvm *kvm, const Slot *slot, int max_level) noexcept nogil
