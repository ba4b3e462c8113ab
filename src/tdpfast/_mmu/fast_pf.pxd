"""mmu.c: the fast page fault, which repairs the direct root's leaf without mmu_lock."""

from libc.stdint cimport uint64_t

from tdpfast._sync.cpu cimport Cpu
from tdpfast._mmu.tdp_iter cimport TdpIter
from tdpfast._mmu.tdp_mmu cimport Fault, Kvm

cdef bint kvm_tdp_mmu_fast_pf_get_last_sptep(Cpu *c, Kvm *kvm, int kind, uint64_t gfn, TdpIter *last) noexcept nogil
cdef int fast_page_fault(Cpu *c, Kvm *kvm, const Fault *fault) noexcept nogil
