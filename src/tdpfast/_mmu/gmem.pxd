"""guest_memfd and lpage_info: what asks the huge-page designs for smaller private mappings."""

from libc.stdint cimport uint64_t

from tdpfast._sync.cpu cimport Cpu
from tdpfast._mmu.tdp_mmu cimport Kvm

cdef int gmem_split_ends(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end) noexcept nogil
cdef int kvm_gmem_convert(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end) noexcept nogil
cdef int tdx_honor_guest_accept_level(Cpu *c, Kvm *kvm, uint64_t gfn, int level) noexcept nogil
