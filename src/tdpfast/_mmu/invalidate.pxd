"""kvm_main.c, guest_memfd.c and mmu.c: how a fault notices that its page, or what its gfn is, changed meanwhile.

An invalidation is a bracket: start, what it zaps, what it frees or stores, end. A fault samples mmu_invalidate_seq,
looks its page up, takes mmu_lock, and goes round again if an invalidation of its gfn is under way or ended since.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from tdpfast._mmu.tdp_mmu cimport Fault, Kvm, Slot
from tdpfast._names cimport RET_PF_CONTINUE
from tdpfast._sync.atomic cimport tdp_likely, tdp_load32, tdp_read_once
from tdpfast._sync.cpu cimport Cpu

cdef enum:
    HOLE_BEGINS = 1          # Op.hole: the operation zaps what a later one of its thread frees
    HOLE_ENDS = 2            # ... and this one frees the last of it
    HOLE_INSIDE = 4          # ... or some of it
    HOLE_SHARED = 8          # its thread zapped the gfn's shared memory before

cdef void kvm_mmu_invalidate_start(Cpu *c, Kvm *kvm) noexcept nogil
cdef void kvm_mmu_invalidate_range_add(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end) noexcept nogil
cdef void kvm_mmu_invalidate_end(Cpu *c, Kvm *kvm) noexcept nogil
cdef bint __mmu_invalidate_retry_gfn(Cpu *c, Kvm *kvm, uint64_t seq, uint64_t gfn) noexcept nogil

cdef inline bint mmu_invalidate_retry_gfn(Cpu *c, Kvm *kvm, uint64_t seq, uint64_t gfn) noexcept nogil:
    if tdp_likely(kvm.invalidate.in_progress == 0 and kvm.invalidate.seq == seq):
        return False
    return __mmu_invalidate_retry_gfn(c, kvm, seq, gfn)

cdef bint is_page_fault_stale(Cpu *c, Kvm *kvm, Fault *fault) noexcept nogil
cdef bint base_is_page_fault_stale(Cpu *c, Kvm *kvm, const Fault *fault) noexcept nogil

cdef void gmem_lock(Cpu *c, Kvm *kvm) noexcept nogil
cdef void gmem_unlock(Cpu *c, Kvm *kvm) noexcept nogil
cdef void kvm_gmem_invalidate_begin(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end) noexcept nogil
cdef void kvm_gmem_invalidate_end(Cpu *c, Kvm *kvm) noexcept nogil
cdef void gmem_forget(Cpu *c, Kvm *kvm, uint64_t gfn, uint64_t pfn) noexcept nogil
cdef uint64_t kvm_gmem_get_pfn(Cpu *c, Kvm *kvm, uint64_t gfn, uint64_t pfn) noexcept nogil

cdef int kvm_mmu_faultin_pfn(Cpu *c, Kvm *kvm, Fault *fault) noexcept nogil
# A VM in which nothing of the kind ever happened has no more to say than its sequence.
cdef inline int faultin_pfn(Cpu *c, Kvm *kvm, Fault *fault) noexcept nogil:
    if tdp_likely(not kvm.invalidations and not kvm.slot_moves and kvm.invalidate.in_progress == 0 and kvm.plain_slots
                  and tdp_load32(&kvm.nattributes) == 0 and tdp_load32(&kvm.slots_invalid) == 0):
        fault.mmu_seq = tdp_read_once(&kvm.invalidate.seq)
        return RET_PF_CONTINUE
    return kvm_mmu_faultin_pfn(c, kvm, fault)

cdef void fault_mapped(Cpu *c, Kvm *kvm, const Fault *fault, uint64_t pfn) noexcept nogil
cdef bint slot_retired(Cpu *c, Kvm *kvm, const Fault *fault) noexcept nogil

cdef int kvm_set_mem_attributes(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end, bint to_private,
                                bint pinned) noexcept nogil

cdef void srcu_enter(Cpu *c, Kvm *kvm) noexcept nogil
cdef void srcu_exit(Cpu *c, Kvm *kvm) noexcept nogil
cdef void kvm_move_memslot(Cpu *c, Kvm *kvm, Slot *slot, uint64_t start, uint64_t end) noexcept nogil
