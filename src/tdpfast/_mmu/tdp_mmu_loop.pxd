"""tdp_mmu.c: what walks over many SPTEs share: yielding, going round again, flushing."""

from libc.stdint cimport uint64_t

from tdpfast._sync.atomic cimport tdp_likely, tdp_unlikely
from tdpfast._sync.cpu cimport Cpu
from tdpfast._mmu.hardware cimport tlb_unlocking
from tdpfast._mmu.tdp_iter cimport TdpIter
from tdpfast._mmu.tdp_mmu cimport Kvm

cdef bint tdp_mmu_iter_need_resched(Cpu *c, const TdpIter *iter) noexcept nogil
cdef bint __tdp_mmu_iter_cond_resched(Cpu *c, Kvm *kvm, TdpIter *iter, bint flush, bint shared) noexcept nogil

cdef inline bint tdp_mmu_iter_cond_resched(Cpu *c, Kvm *kvm, TdpIter *iter, bint flush, bint shared) noexcept nogil:
    if tdp_likely(c.resched.at == 0 and not iter.yielded):
        return False
    return __tdp_mmu_iter_cond_resched(c, kvm, iter, flush, shared)

cdef void tdp_mmu_retry(Cpu *c, const Kvm *kvm, const TdpIter *iter, int error) noexcept nogil
cdef void kvm_flush_remote_tlbs(Cpu *c, Kvm *kvm) noexcept nogil
cdef void kvm_flush_remote_tlbs_range(Cpu *c, Kvm *kvm, uint64_t gfn, uint64_t npages) noexcept nogil
cdef void kvm_flush_remote_tlbs_memslot(Cpu *c, Kvm *kvm, uint64_t gfn, uint64_t npages) noexcept nogil

# The flush that a zap's caller makes before it lets go of mmu_lock, where somebody can tell.
cdef inline void flush_due(Cpu *c, Kvm *kvm, bint flush) noexcept nogil:
    if tdp_unlikely(kvm.tlb.on) and flush:
        kvm_flush_remote_tlbs(c, kvm)

# mmu_lock is about to be dropped. May yield.
cdef inline void mmu_unlocking(Cpu *c, Kvm *kvm) noexcept nogil:
    if tdp_unlikely(kvm.tlb.on):
        tlb_unlocking(c, &kvm.tlb)
