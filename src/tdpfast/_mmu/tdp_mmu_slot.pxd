"""tdp_mmu.c: write protection, dirty clearing and ageing."""

from libc.stdint cimport uint64_t

from tdpfast._sync.cpu cimport Cpu
from tdpfast._mmu.arena cimport Sp
from tdpfast._mmu.tdp_iter cimport TdpIter
from tdpfast._mmu.tdp_mmu cimport Kvm

cdef bint base_wrprot_gfn_range(Cpu *c, Kvm *kvm, Sp *root, uint64_t start, uint64_t end,
                                int min_level) noexcept nogil
cdef void base_clear_dirty_gfn_range(Cpu *c, Kvm *kvm, Sp *root, uint64_t start, uint64_t end) noexcept nogil
cdef bint base_age_gfn_range(Cpu *c, Kvm *kvm, Sp *root, uint64_t start, uint64_t end, bint test_only) noexcept nogil
cdef void kvm_tdp_mmu_age_spte(Cpu *c, Kvm *kvm, TdpIter *iter) noexcept nogil
cdef bint kvm_tdp_mmu_wrprot_slot(Cpu *c, Kvm *kvm, int as_id, uint64_t start, uint64_t end,
                                  int min_level) noexcept nogil
cdef void kvm_tdp_mmu_clear_dirty_slot(Cpu *c, Kvm *kvm, int as_id, uint64_t start, uint64_t end) noexcept nogil
cdef void kvm_tdp_mmu_clear_dirty_pt_masked(Cpu *c, Kvm *kvm, int as_id, uint64_t gfn, uint64_t mask,
                                            bint wrprot) noexcept nogil
cdef bint kvm_tdp_mmu_write_protect_gfn(Cpu *c, Kvm *kvm, int as_id, uint64_t gfn, int min_level) noexcept nogil
cdef bint kvm_tdp_mmu_age_gfn_range(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end, int attr_filter,
                                    bint test_only) noexcept nogil
