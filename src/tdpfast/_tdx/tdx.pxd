"""vmx/tdx.c: KVM's TDX side. SEAMCALLs, kicks, pages, and what carries a leaf or a table to the module."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from tdpfast._names cimport SYNC_LOAD
from tdpfast._mmu.arena cimport Sp
from tdpfast._sync.atomic cimport tdp_load32
from tdpfast._tdx.state cimport TD_STATE_RUNNABLE, Tdx
from tdpfast._ops.ops cimport Op, Vm
from tdpfast._seam.module cimport Seam, SeamRegs
from tdpfast._sync.cpu cimport Cpu, SpinLock, sync_rare
from tdpfast._mmu.tdp_mmu cimport Kvm

# What changes when the TD is finalised or loses its key, offered as a read.
cdef inline int32_t tdx_state(Cpu *c, Tdx *t) noexcept nogil:
    sync_rare(c, SYNC_LOAD, <uint64_t>&t.state)
    return <int32_t>tdp_load32(&t.state)

cdef inline bint tdx_runnable(Cpu *c, Tdx *t) noexcept nogil:
    return tdx_state(c, t) == TD_STATE_RUNNABLE

cdef inline bint tdx_pre_fault_allowed(Cpu *c, Tdx *t) noexcept nogil:
    sync_rare(c, SYNC_LOAD, <uint64_t>&t.pre_fault_allowed)
    return tdp_load32(&t.pre_fault_allowed) != 0

cdef inline int32_t tdx_hkid(Cpu *c, Tdx *t) noexcept nogil:
    sync_rare(c, SYNC_LOAD, <uint64_t>&t.hkid)
    return t.hkid

cdef bint tdx_operand_busy(uint64_t err) noexcept nogil
cdef uint64_t tdx_seamcall(Cpu *c, Tdx *t, int leaf, SeamRegs *r) noexcept nogil
cdef uint64_t seamcall3(Cpu *c, Tdx *t, int leaf, uint64_t rcx, uint64_t rdx, uint64_t r8, SeamRegs *r) noexcept nogil
cdef bint tdx_kick(Cpu *c, Tdx *t, int vcpu) noexcept nogil
cdef void tdx_request_outside_guest_mode(Cpu *c, Tdx *t) noexcept nogil
cdef void tdx_vm_dead(Cpu *c, Kvm *kvm) noexcept nogil
cdef void tdx_bug(Cpu *c, Tdx *t, const char *fn, const char *id, int leaf, uint64_t err) noexcept nogil
cdef int tdx_reclaim_page(Cpu *c, Tdx *t, uint64_t page) noexcept nogil
cdef void tdx_free_page(Cpu *c, Tdx *t, uint64_t page) noexcept nogil
cdef bint tdx_vcpu_inside(Tdx *t, int vcpu) noexcept nogil
cdef void tdx_vcpu_begin(Cpu *c, Tdx *t, int vcpu) noexcept nogil
cdef void tdx_vcpu_end(Cpu *c, Tdx *t, int vcpu) noexcept nogil
cdef Tdx *tdx_of(Kvm *kvm) noexcept nogil
cdef uint64_t tdx_alloc_external(Cpu *c, Kvm *kvm) noexcept nogil
cdef void tdx_free_external(Cpu *c, Kvm *kvm, uint64_t page) noexcept nogil
cdef uint64_t tdh_do_no_vcpus(Cpu *c, Tdx *t, int leaf, uint64_t rcx, uint64_t rdx, uint64_t r8,
                              SeamRegs *r) noexcept nogil
cdef uint64_t base_tdh_do_no_vcpus(Cpu *c, Tdx *t, int leaf, uint64_t rcx, uint64_t rdx, uint64_t r8,
                                   SeamRegs *r) noexcept nogil
cdef void tdx_track(Cpu *c, Tdx *t) noexcept nogil
cdef uint64_t tdx_page_add_src(Cpu *c, Tdx *t) noexcept nogil
cdef uint64_t tdx_page_add(Cpu *c, Tdx *t, uint64_t gfn, uint64_t pfn, uint64_t src) noexcept nogil
cdef void base_tdx_track(Cpu *c, Tdx *t) noexcept nogil
cdef int tdx_mem_page_aug(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t pfn) noexcept nogil
cdef int tdx_write_back(Cpu *c, Tdx *t, uint64_t pfn, int level, const char *fn) noexcept nogil
cdef uint64_t tdx_spte_to_sept_pt(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil
cdef bint tdx_huge_allowed(const Tdx *t) noexcept nogil
cdef int tdx_sept_map_leaf_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil
cdef int base_tdx_sept_map_leaf_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil
cdef int tdx_sept_map_nonleaf_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil
cdef int base_tdx_sept_map_nonleaf_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil
cdef int tdx_sept_add(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t page, const char *fn) noexcept nogil
cdef int tdx_sept_remove_leaf_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil
cdef int base_tdx_sept_remove_leaf_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil
cdef int tdx_sept_free_private_spt(Cpu *c, Tdx *t, Sp *sp) noexcept nogil
cdef int base_tdx_sept_free_private_spt(Cpu *c, Tdx *t, Sp *sp) noexcept nogil
cdef int tdx_sept_reclaim_private_spt(Cpu *c, Tdx *t, Sp *sp) noexcept nogil
cdef int base_tdx_sept_reclaim_private_spt(Cpu *c, Tdx *t, Sp *sp) noexcept nogil
