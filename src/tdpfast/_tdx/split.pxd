"""vmx/tdx.c: what each huge-page design makes of a 2M leaf that becomes a table."""

from libc.stdint cimport uint64_t

from tdpfast._sync.cpu cimport Cpu
from tdpfast._mmu.tdp_mmu cimport Kvm
from tdpfast._tdx.state cimport Tdx

cdef int tdx_sept_split_private_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t old_spte, uint64_t new_spte,
                                     bint shared) noexcept nogil
cdef int base_tdx_sept_split_private_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t old_spte, uint64_t new_spte,
                                          bint shared) noexcept nogil
cdef int tdx_gmem_max_mapping_level(Cpu *c, Kvm *kvm, uint64_t gfn, int max_level) noexcept nogil
cdef void tdx_request_reset(Cpu *c, Tdx *t) noexcept nogil
