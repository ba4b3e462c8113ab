"""KVM's state of a TD: struct kvm_tdx, its vCPUs, and the pages it gives to the module."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from tdpfast._names cimport TDX_MAX_VCPUS
from tdpfast._ops.ops cimport Vm
from tdpfast._seam.module cimport Seam
from tdpfast._sync.cpu cimport Cpu, SpinLock
from tdpfast._tdx.design cimport TdxDesign

cdef enum:
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
    TdxDesign design
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
    int64_t nr_premapped         # up to 6.18: mirror leaves that wait for their PAGE.ADD
    uint64_t *pins               # up to 6.18: references KVM holds, per 4K page from pin_base on; NULL for other designs
    uint64_t pin_base
    uint64_t npins
    int64_t pinned               # references in all of them
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
