"""vmx/tdx.c: the hooks that carry mirror changes to the module, in each design's shape."""

from libc.stdint cimport uint64_t

from tdpfast._sync.cpu cimport Cpu
from tdpfast._mmu.tdp_mmu cimport Kvm
from tdpfast._tdx.state cimport Tdx

cdef void tdx_hooks(Kvm *kvm, Tdx *t) noexcept nogil
cdef int tdx_sept_set_private_spte(Cpu *c, Tdx *t, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                                   int level) noexcept nogil
cdef int base_tdx_sept_set_private_spte(Cpu *c, Tdx *t, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                                        int level) noexcept nogil
