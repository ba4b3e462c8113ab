"""tdp_mmu.c: the VM, the design it runs, the hooks to the external page table, and the ways to change an SPTE.

Kernel names where the thing is the kernel's. Every function takes the emulated CPU first; what the kernel
asserts of locks is asserted here, in the same functions.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from tdpfast._arena cimport Arena, Sp
from tdpfast._atomic cimport tdp_unlikely, tdp_write_once
from tdpfast._spte cimport SpteCfg, is_ept_ve_possible
from tdpfast._sync cimport (
    Cpu, Rcu, RcuHead, RwLock, SLOW_YIELD, SYNC_LOAD, SpinLock, sync_rare, sync_store,
)
from tdpfast._tdp_iter cimport TdpIter

cdef enum Gate:              # when __handle_changed_spte() propagates a change to the external table
    GATE_HELPER = 0          # v6.18: not there; set_external_spte_present() before the bookkeeping
    GATE_ELIF_PRESENT        # patch07: not for removed tables, only for present new values
    GATE_ELIF_MIRROR         # patch15, v7.3: not for removed tables
    GATE_IF_MIRROR           # single-hook: always
    GATE_TWICE               # RFCv5: before the bookkeeping, and again in it for what was a leaf

cdef enum Reclaim:           # how a table's external page is taken back
    RECLAIM_OP_RCU = 0       # int free_external_spt(); the page itself is freed by the RCU callback
    RECLAIM_OP_NOW           # void free_external_spt() frees the page, before call_rcu()
    RECLAIM_IN_SET           # by set_external_spte(), after call_rcu()

cdef enum Dispatch:          # KVM's TDX side
    DISPATCH_V618 = 0        # link / set / remove / free
    DISPATCH_PATCH07         # set (to present) / remove / free
    DISPATCH_V73             # set / free
    DISPATCH_SINGLE          # set only
    DISPATCH_HUGEPAGE        # set / free, with demote

cdef enum SplitShared:       # what the TDX side makes of a split under the read lock
    SPLIT_ASSERT = 0         # lockdep complains, then BLOCK, TRACK, DEMOTE as under the write lock
    SPLIT_REFUSE             # WARN, -EOPNOTSUPP
    SPLIT_IGNORE             # -EBUSY, and this vCPU's next fault there asks for 2M
    SPLIT_UNBLOCK            # BLOCK, TRACK, DEMOTE without kicks; on BUSY UNBLOCK, -EBUSY
    SPLIT_NONBLOCKING        # DEMOTE of an entry that is not blocked; -EBUSY on BUSY

cdef struct Design:
    int32_t layout
    int32_t gate
    int32_t reclaim
    int32_t dispatch
    int32_t max_level        # largest mirror mapping level
    int32_t split_shared
    bint refresh_old_spte    # a lost cmpxchg on a mirror SPTE refreshes iter->old_spte
    bint remove_op_after     # leaves are removed by remove_external_spte(), after the bookkeeping
    bint trace_before        # trace and statistics precede the work
    bint trace_np_np         # a non-present to non-present change is traced
    bint bug_atomic_zap      # KVM_BUG_ON(new not present) in __tdp_mmu_set_spte_atomic()
    bint bug_shared_child    # KVM_BUG_ON(shared) in handle_removed_pt()
    bint bug_new_present     # KVM_BUG_ON(new present) in tdp_mmu_set_spte() of a mirror
    bint bug_mirror_split    # KVM_BUG_ON() before the fault path splits a mirror leaf
    bint assert_rcu          # RCU_LOCKDEP_WARN() before the hook
    bint split_external      # eager split allocates an external page for a mirror
    bint promo_block         # the fault path lowers its goal at a present mirror table
    bint prove_mmu           # CONFIG_KVM_PROVE_MMU: root zaps skip the 4K and 2M passes
    bint age_mirror          # mirrors are aged (6.18) instead of refused (7.3)
    bint age_cmpxchg         # ageing with A/D bits is one cmpxchg (7.3) instead of an atomic and (6.18)
    bint ungated             # operations that today's callers keep away from the mirror reach it
    bint dynamic_pamt        # 4K pages need PAMT memory, counted per 2M range
    bint split_op            # splits travel through split_external_spt()
    bint bug_old_present     # KVM_BUG_ON(old present) in __tdp_mmu_set_spte_atomic() of a mirror
    bint premap              # 6.16: before finalisation mapping only counts, PAGE.ADD follows; pages are pinned
    bint demote_retry        # an interrupted DEMOTE is called again without bound
    bint enhanced_demote     # 2M only on a module with ENHANCED_DEMOTE_INTERRUPTIBILITY
    # wrong on purpose
    bint no_freeze           # publish the new value first, then update the external table
    bint no_rollback         # a failed external update leaves the SPTE frozen
    bint no_grace_period     # tables are freed without waiting for readers
    bint no_track            # removal without TDH.MEM.TRACK
    bint no_block            # removal without TDH.MEM.RANGE.BLOCK
    bint no_hook_on_zap      # the zap of a leaf never reaches the external table
    bint stats_on_failure    # statistics count a change that was rolled back
    bint pamt_no_put         # an S-EPT update that failed keeps the PAMT reference it took
    bint pamt_dec_outside    # tdx_pamt_put() drops the count to 0 before it takes pamt_lock
    bint inhibit_first       # the guest's inhibit of huge pages is set before the split it is about
    bint split_direct_root   # the split for a guest's ACCEPT walks the direct root
    bint prefault_first      # finalisation allows pre-faults before it says RUNNABLE

cdef struct Kvm

cdef struct Hooks:           # the external half of kvm_x86_ops; NULL = not implemented
    int (*set_external_spte)(Cpu *c, Kvm *kvm, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                             int level) noexcept nogil
    int (*link_external_spt)(Cpu *c, Kvm *kvm, uint64_t gfn, int level, uint64_t external_spt) noexcept nogil
    void (*remove_external_spte)(Cpu *c, Kvm *kvm, uint64_t gfn, int level, uint64_t mirror_spte) noexcept nogil
    int (*free_external_spt)(Cpu *c, Kvm *kvm, uint64_t gfn, int level, Sp *sp) noexcept nogil
    int (*split_external_spt)(Cpu *c, Kvm *kvm, uint64_t gfn, int level, uint64_t old_spte, uint64_t new_spte,
                              bint shared) noexcept nogil
    uint64_t (*alloc_external)(Cpu *c, Kvm *kvm) noexcept nogil     # a page for the external table; 0 = none
    void (*free_external)(Cpu *c, Kvm *kvm, uint64_t page) noexcept nogil
    int (*gmem_max_mapping_level)(Cpu *c, Kvm *kvm, uint64_t gfn, int max_level) noexcept nogil
    void (*vm_dead)(Cpu *c, Kvm *kvm) noexcept nogil                # KVM_REQ_VM_DEAD to all vCPUs
    void *opaque
    void *native             # Hooks *: the design's own, behind Python ones
    void *python             # the VmCore whose Python hooks these are (borrowed: it owns the VM)

cdef enum:
    MAX_INHIBIT = 64

cdef struct Slot:            # struct kvm_memory_slot
    uint64_t base_gfn
    uint64_t npages
    bint dirty_log
    # lpage_info: 2M frames (gfn >> 9) for which the guest asked for small pages; beyond MAX_INHIBIT: all of them
    uint32_t ninhibit
    uint32_t inhibit_all
    uint64_t inhibit[MAX_INHIBIT]

cdef enum:
    MAX_TRACKED = 64
    EINVAL = 22
    KVM_INVALID_ROOTS = 1
    KVM_DIRECT_ROOTS = 2
    KVM_MIRROR_ROOTS = 4
    KVM_VALID_ROOTS = 6
    KVM_FILTER_SHARED = 1
    KVM_FILTER_PRIVATE = 2
    EPERM = 1
    EBUSY = 16
    EIO = 5
    EAGAIN = 11
    ENOENT = 2
    ENOMEM = 12
    EOPNOTSUPP = 95

cdef enum RetPf:
    RET_PF_CONTINUE = 0
    RET_PF_RETRY = 1
    RET_PF_EMULATE = 2
    RET_PF_WRITE_PROTECTED = 3
    RET_PF_INVALID = 4
    RET_PF_FIXED = 5
    RET_PF_SPURIOUS = 6

cdef struct Kvm:             # struct kvm and the parts of kvm_arch that the TDP MMU uses
    SpteCfg spte
    Design design
    Hooks hooks
    Arena *arena
    Rcu rcu
    RwLock mmu_lock
    SpinLock tdp_mmu_pages_lock
    Sp *tdp_mmu_roots
    uint32_t nroots
    int32_t root_level
    uint64_t gfn_direct_bits
    uint64_t shadow_mmio_value
    Sp *vcpu_root[2]         # [is_mirror]: the roots vCPU 0 holds, and every CPU without roots of its own
    bint roots_change        # explorer: some thread invalidates roots, so that a look at one is an access of its own
    Slot slot
    bint has_mirror
    bint nx_huge_pages
    bint ipat
    bint pml
    int32_t vm_bugged        # these two change at any time, on any CPU
    int32_t vm_dead
    bint users               # somebody holds a reference to the VM
    uint64_t mmio_generation
    uint64_t tracked[MAX_TRACKED]
    uint32_t ntracked
    Sp *nx_head              # possible_nx_huge_pages
    Sp *nx_tail
    # statistics, updated atomically
    uint64_t pages[3]        # what the explorer's CPUs counted; kvm_page_stat() adds the other CPUs' own counts
    uint64_t tdp_mmu_pages
    uint64_t nx_lpage_splits
    uint64_t nx_possible
    uint64_t mmio_created
    uint64_t external_next   # the recording hooks' external pages: next number, and how many are out
    uint64_t external_live
    const bint *cut          # set: the next attempt to set an SPTE ends the operation (a recording's rule)
    uint64_t hook_failures   # external updates that failed; part of what a retry loop looks at

cdef struct Fault:           # struct kvm_page_fault
    uint64_t gfn
    uint64_t pfn
    uint64_t error_code
    int32_t max_level
    int32_t req_level
    int32_t goal_level
    bint write
    bint exec_
    bint user
    bint present         # PFERR_PRESENT_MASK: something was mapped, but not for this access
    bint prefetch
    bint map_writable
    bint is_private
    bint noslot
    bint huge_page_disallowed
    bint nx_huge_page_workaround_enabled

# ---- assertions -----------------------------------------------------------------------------------------
cdef void kvm_bug_on(Cpu *c, Kvm *kvm, const char *fn, const char *id) noexcept nogil
cdef void kvm_warn(Cpu *c, const char *fn, const char *id) noexcept nogil
cdef void kvm_spte_warn(Cpu *c, uint32_t warn) noexcept nogil

# ---- tables ---------------------------------------------------------------------------------------------
cdef Sp *tdp_mmu_alloc_sp(Cpu *c, Kvm *kvm, bint external) noexcept nogil
cdef void tdp_mmu_free_unused_sp(Cpu *c, Kvm *kvm, Sp *sp) noexcept nogil
cdef void tdp_mmu_init_sp(Cpu *c, Kvm *kvm, Sp *sp, uint64_t *sptep, uint64_t gfn, int level, bint is_mirror,
                          uint8_t access) noexcept nogil
cdef void tdp_mmu_init_child_sp(Cpu *c, Kvm *kvm, Sp *child, const TdpIter *iter) noexcept nogil
cdef int tdp_mmu_link_sp(Cpu *c, Kvm *kvm, TdpIter *iter, Sp *sp, bint shared) noexcept nogil
cdef Sp *spte_to_child_sp(const Kvm *kvm, uint64_t spte) noexcept nogil
cdef void track_possible_nx_huge_page(Kvm *kvm, Sp *sp) noexcept nogil
cdef int64_t kvm_page_stat(const Kvm *kvm, int level) noexcept nogil

# A CPU counts by itself, so that threads do not meet here. The explorer counts in the VM, which a snapshot restores.
cdef inline void kvm_update_page_stats(Cpu *c, Kvm *kvm, int level, int64_t count) noexcept nogil:
    if not 1 <= level <= 3:
        return
    if c.slow & SLOW_YIELD:
        kvm.pages[level - 1] += <uint64_t>count
    else:
        tdp_write_once(&c.pages[level - 1], c.pages[level - 1] + <uint64_t>count)

# ---- SPTE changes ---------------------------------------------------------------------------------------
cdef void trace_spte_changed(Cpu *c, uint64_t gfn, int level, uint64_t old_spte, uint64_t new_spte) noexcept nogil
cdef int __tdp_mmu_set_spte_atomic(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil
cdef int tdp_mmu_set_spte_atomic(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil
# KVM_MMU_WARN_ON(): such a value would hand the guest a #VE. The MMIO SPTEs of a TD are meant to, and come by cmpxchg.
cdef inline void check_ve_possible(Cpu *c, const Kvm *kvm, uint64_t spte, const char *fn) noexcept nogil:
    if tdp_unlikely(kvm.design.prove_mmu) and is_ept_ve_possible(&kvm.spte, spte):
        kvm_warn(c, fn, b"ve_possible")

cdef inline void __kvm_tdp_mmu_write_spte(Cpu *c, const Kvm *kvm, uint64_t *sptep, uint64_t spte) noexcept nogil:
    check_ve_possible(c, kvm, spte, b"__kvm_tdp_mmu_write_spte")
    sync_store(c, sptep, spte)

cdef void tdp_mmu_iter_set_spte(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil
cdef uint64_t tdp_mmu_clear_spte_bits(Cpu *c, Kvm *kvm, uint64_t *sptep, uint64_t old_spte, uint64_t mask,
                                      int level) noexcept nogil
cdef inline uint64_t kvm_gfn_root_bits(const Kvm *kvm, const Sp *root) noexcept nogil:
    return 0 if root.is_mirror else kvm.gfn_direct_bits

# The roots this CPU runs on, [is_mirror].
cdef inline Sp **vcpu_roots(Cpu *c, Kvm *kvm) noexcept nogil:
    return <Sp **>c.root if c.has_roots else kvm.vcpu_root

cdef inline bint slot_dirty_log(Cpu *c, const Kvm *kvm) noexcept nogil:
    """kvm_slot_dirty_track_enabled(), offered as a read."""
    sync_rare(c, SYNC_LOAD, <uint64_t>&kvm.slot.dirty_log)
    return kvm.slot.dirty_log

cdef inline void sp_point(Cpu *c, const Sp *sp) noexcept nogil:
    """A table's descriptor is about to be looked at or written. Outside a read section, or when grace periods wait
    for nobody, the table may be freed meanwhile: offered as a read of it. May yield."""
    if tdp_unlikely(c.slow & SLOW_YIELD != 0) and (c.rcu_depth == 0 or c.rcu.no_grace):
        c.y_kind = SYNC_LOAD
        c.y_obj = <uint64_t>sp.spt
        c.yield_to(c)

cdef void kvm_init(Kvm *kvm, Arena *arena) noexcept nogil
