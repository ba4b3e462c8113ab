"""tdp_mmu.c: the fault path, lockless walks, and splitting one huge page."""

from libc.stdint cimport uint32_t, uint64_t

from tdpfast._mmu.arena cimport Sp
from tdpfast._spte cimport is_access_allowed, spte_permission_fault
from tdpfast._sync.cpu cimport Cpu
from tdpfast._mmu.tdp_iter cimport TdpIter
from tdpfast._mmu.tdp_mmu cimport Fault, Kvm

# is_access_allowed(): would the access still fault?
cdef inline bint fault_allowed(const Kvm *kvm, const Fault *fault, uint64_t spte) noexcept nogil:
    if kvm.spte.layout == 618 or kvm.design.access_allowed:
        return is_access_allowed(&kvm.spte, spte, fault.exec_, fault.write)
    return not spte_permission_fault(&kvm.spte, spte, fault.error_code)

cdef int kvm_tdp_mmu_map(Cpu *c, Kvm *kvm, Fault *fault) noexcept nogil
cdef int tdp_mmu_split_huge_page(Cpu *c, Kvm *kvm, TdpIter *iter, Sp *sp, bint shared) noexcept nogil
cdef int base_tdp_mmu_split_huge_page(Cpu *c, Kvm *kvm, TdpIter *iter, Sp *sp, bint shared) noexcept nogil
cdef int kvm_tdp_mmu_get_walk(Cpu *c, Kvm *kvm, Sp *root, uint64_t gfn, uint64_t *sptes) noexcept nogil
cdef int max_mapping_level_in(uint64_t gfn, uint64_t base, uint64_t npages, int max_level) noexcept nogil
cdef bint hugepage_test_guest_inhibit(const Kvm *kvm, uint64_t gfn, int level) noexcept nogil
cdef void hugepage_set_guest_inhibit(Kvm *kvm, uint64_t gfn) noexcept nogil
cdef int kvm_mem_attribute(const Kvm *kvm, uint64_t gfn, uint32_t n) noexcept nogil
cdef bint gfn_tracked(const Kvm *kvm, uint64_t gfn) noexcept nogil
cdef void track_arm(Kvm *kvm, uint64_t gfn) noexcept nogil
cdef void track_disarm(Kvm *kvm, uint64_t gfn, uint64_t npages) noexcept nogil

# Parts of kvm_tdp_mmu_map(), for batches that walk on instead of starting at the root again.
cdef void kvm_mmu_hugepage_adjust(Cpu *c, Kvm *kvm, Fault *fault) noexcept nogil
cdef int tdp_mmu_map_handle_target_level(Cpu *c, Kvm *kvm, Fault *fault, TdpIter *iter) noexcept nogil
cdef int base_tdp_mmu_map_handle_target_level(Cpu *c, Kvm *kvm, Fault *fault, TdpIter *iter) noexcept nogil
cdef bint make_fault_spte(Cpu *c, Kvm *kvm, const Fault *fault, const Sp *sp, const TdpIter *iter,
                          uint64_t *new_spte) noexcept nogil
cdef int link_or_split(Cpu *c, Kvm *kvm, Fault *fault, TdpIter *iter) noexcept nogil
