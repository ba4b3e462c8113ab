"""vmx/tdx.c: KVM's TDX side. SEAMCALLs, kicks, pages, and what carries a leaf or a table to the module."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from tdpfast._arena cimport Sp
from tdpfast._atomic cimport tdp_load32
from tdpfast._ops cimport Op, Vm
from tdpfast._seam cimport Seam, SeamRegs
from tdpfast._sync cimport Cpu, SYNC_LOAD, SpinLock, sync_rare
from tdpfast._tdp_mmu cimport Kvm

cdef enum:
    TDX_MAX_VCPUS = 8
    TDX_TDCS_PAGES = 6
    TDX_TDCX_PAGES = 5
    TDX_SEPT_PAGES = 32768       # external pages KVM can have out at once
    TDX_GLOBAL_HKID = 32

cdef extern from *:
    """
    #define TDX_PA_OF_NULL 0x778000000000ull
    """
    const uint64_t TDX_PA_OF_NULL  # page_to_phys(virt_to_page(NULL)): what reclaiming a table without S-EPT page names

cdef enum TdState:
    TD_STATE_UNINITIALIZED = 0
    TD_STATE_INITIALIZED = 1
    TD_STATE_RUNNABLE = 2

cdef enum SeptPage:
    SEPT_PAGE_FREE = 0
    SEPT_PAGE_OWNED = 1

cdef struct Tdx

cdef struct Tdx:                 # struct kvm_tdx and its vCPUs
    Seam *seam
    Vm *vm
    uint64_t tdr_pa
    uint64_t tdcs_pa[TDX_TDCS_PAGES]
    uint64_t tdvpr_pa[TDX_MAX_VCPUS]
    uint64_t tdcx_pa[TDX_MAX_VCPUS][TDX_TDCX_PAGES]
    int32_t nvcpus
    int32_t lp_base              # vCPU v acts on logical processor lp_base + 1 + v
    int32_t hkid                 # -1: released
    uint32_t state               # TdState
    uint32_t wait_for_sept_zap
    uint32_t pre_fault_allowed
    int64_t nr_premapped         # 6.16: mirror leaves that wait for their PAGE.ADD
    uint64_t *pins               # 6.16: references KVM holds, per 4K page from pin_base on; NULL for other designs
    uint64_t pin_base
    uint64_t npins
    uint64_t request_2m[32]      # per CPU: 1 + the 2M frame its next fault wants whole (SPLIT_IGNORE)
    bint tdr_owned
    bint tdcs_owned
    SpinLock slots_lock          # kvm->slots_lock, as far as KVM's TDX side takes it
    uint64_t page_add_src
    uint32_t guest_busy[TDX_MAX_VCPUS]   # the vCPU is inside an instruction or on its way in: a kick waits
    bint loaded[TDX_MAX_VCPUS]
    # pages for the S-EPT: from sept_base on, given out in order, reused only after a wrap
    uint64_t sept_base
    uint64_t sept_next
    uint64_t sept_owned
    uint8_t *sept_state
    uint8_t *sept_state_copy
    uint64_t sept_share_base
    uint64_t sept_share_used[32]
    uint32_t until_kick          # injections (bits) whose holder goes away at the next kick
    # LIVELOCK rule of the recordings: that many identical failing hook calls in one operation
    uint32_t livelock_after
    uint32_t same_failures
    uint64_t last_failure
    bint cut_at_next             # finish the round before the cut
    bint cut
    void (*reenter_fn)(Cpu *c, Tdx *t, int vcpu) noexcept nogil      # what a kicked vCPU does at once

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
cdef void tdx_track(Cpu *c, Tdx *t) noexcept nogil
cdef uint64_t tdx_page_add(Cpu *c, Tdx *t, uint64_t gfn, uint64_t pfn) noexcept nogil
cdef int tdx_mem_page_aug(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t pfn) noexcept nogil
cdef int tdx_write_back(Cpu *c, Tdx *t, uint64_t pfn, int level, const char *fn) noexcept nogil
cdef uint64_t tdx_spte_to_sept_pt(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil
cdef bint tdx_huge_allowed(const Tdx *t) noexcept nogil
cdef int tdx_sept_map_leaf_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil
cdef int tdx_sept_map_nonleaf_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil
cdef int tdx_sept_add(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t page, const char *fn) noexcept nogil
cdef int tdx_sept_remove_leaf_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil
cdef int tdx_sept_free_private_spt(Cpu *c, Tdx *t, Sp *sp) noexcept nogil
cdef int tdx_sept_reclaim_private_spt(Cpu *c, Tdx *t, Sp *sp) noexcept nogil
