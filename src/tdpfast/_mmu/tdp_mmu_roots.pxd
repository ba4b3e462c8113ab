"""tdp_mmu.c: roots. Allocation, iteration with references, invalidation."""

from tdpfast._mmu.arena cimport Sp
from tdpfast._sync.cpu cimport Cpu
from tdpfast._mmu.tdp_mmu cimport Fault, Kvm

cdef enum:
    SPACE_SHIFT = 8          # of root types: bits from here on name an address space, 1 + its number

cdef inline int of_space(int types, int as_id) noexcept nogil:
    """Root types, of one address space alone."""
    return types | (1 + as_id) << SPACE_SHIFT

cdef Sp *tdp_mmu_next_root(Cpu *c, Kvm *kvm, Sp *prev, int types) noexcept nogil
cdef void root_flags_point(Cpu *c, Sp *root, int kind) noexcept nogil
cdef Sp *next_root_write(Cpu *c, Kvm *kvm, Sp *prev, int types, const char *fn) noexcept nogil
cdef Sp *next_root_rcu(Cpu *c, Kvm *kvm, Sp *prev, int types) noexcept nogil
cdef bint kvm_tdp_mmu_get_root(Cpu *c, Sp *root) noexcept nogil
cdef Sp *kvm_tdp_mmu_alloc_root(Cpu *c, Kvm *kvm, int kind) noexcept nogil
cdef void kvm_tdp_mmu_put_root(Cpu *c, Kvm *kvm, Sp *root) noexcept nogil
cdef void kvm_tdp_mmu_invalidate_roots(Cpu *c, Kvm *kvm, int types) noexcept nogil
cdef int kvm_gfn_range_filter_to_root_types(Cpu *c, Kvm *kvm, int attr_filter) noexcept nogil

# mmu.c: the roots that a vCPU runs on
cdef int vcpu_load_root(Cpu *c, Kvm *kvm, int kind) noexcept nogil
cdef void vcpu_put_root(Cpu *c, Kvm *kvm, int kind) noexcept nogil
cdef void vcpu_reload(Cpu *c, Kvm *kvm, int kind) noexcept nogil
cdef bint obsolete_root_of(const Cpu *c, int kind) noexcept nogil
