"""tdp_mmu.c: the VM, the design it runs, the hooks to the external page table, and the ways to change an SPTE.

Kernel names where the thing is the kernel's. Every function takes the emulated CPU first; what the kernel
asserts of locks is asserted here, in the same functions.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from tdpfast._names cimport SYNC_LOAD
from tdpfast._mmu.arena cimport Arena, Sp
from tdpfast._mmu.design cimport Design
from tdpfast._mmu.hardware cimport DirtyLog, Tlb
from tdpfast._sync.atomic cimport tdp_unlikely, tdp_write_once
from tdpfast._spte cimport SpteCfg, is_ept_ve_possible
from tdpfast._sync.cpu cimport Cpu, Rcu, RcuHead, RwLock, SLOW_YIELD, SpinLock, sync_rare, sync_store
from tdpfast._mmu.tdp_iter cimport TdpIter

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

cdef struct Fault

# A design file: what stands for each replaceable function, the file's (entered through an adapter) or the built-in one.
# Same functions, contracts and names as below; `tdx` is the same for KVM's TDX side (_tdx/design_ops.pxd).
cdef struct DesignOps:
    int (*__tdp_mmu_set_spte_atomic)(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil
    int (*tdp_mmu_set_spte_atomic)(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil
    int (*__handle_changed_spte)(Cpu *c, Kvm *kvm, Sp *sp, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                                 int level, bint shared) noexcept nogil
    void (*handle_changed_spte)(Cpu *c, Kvm *kvm, Sp *sp, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                                int level, bint shared) noexcept nogil
    void (*handle_removed_pt)(Cpu *c, Kvm *kvm, uint64_t *pt, bint shared) noexcept nogil
    uint64_t (*tdp_mmu_set_spte)(Cpu *c, Kvm *kvm, uint64_t *sptep, uint64_t old_spte, uint64_t new_spte,
                                 uint64_t gfn, int level) noexcept nogil
    int (*tdp_mmu_link_sp)(Cpu *c, Kvm *kvm, TdpIter *iter, Sp *sp, bint shared) noexcept nogil
    void (*tdp_mmu_unlink_sp)(Cpu *c, Kvm *kvm, Sp *sp) noexcept nogil
    int (*tdp_mmu_split_huge_page)(Cpu *c, Kvm *kvm, TdpIter *iter, Sp *sp, bint shared) noexcept nogil
    int (*tdp_mmu_map_handle_target_level)(Cpu *c, Kvm *kvm, Fault *fault, TdpIter *iter) noexcept nogil
    bint (*is_page_fault_stale)(Cpu *c, Kvm *kvm, Fault *fault) noexcept nogil
    void (*clear_dirty_gfn_range)(Cpu *c, Kvm *kvm, Sp *root, uint64_t start, uint64_t end) noexcept nogil
    bint (*wrprot_gfn_range)(Cpu *c, Kvm *kvm, Sp *root, uint64_t start, uint64_t end, int min_level) noexcept nogil
    bint (*age_gfn_range)(Cpu *c, Kvm *kvm, Sp *root, uint64_t start, uint64_t end, bint test_only) noexcept nogil
    void (*__tdp_mmu_zap_root)(Cpu *c, Kvm *kvm, Sp *root, bint shared, int zap_level) noexcept nogil
    bint (*tdp_mmu_zap_leafs)(Cpu *c, Kvm *kvm, Sp *root, uint64_t start, uint64_t end, bint can_yield,
                              bint flush) noexcept nogil
    void (*tdp_mmu_free_sp_rcu_callback)(Cpu *c, Kvm *kvm, RcuHead *head) noexcept nogil
    void (*own_rcu_callback)(Cpu *c, Kvm *kvm, RcuHead *head) noexcept nogil    # RcuHead.func
    void (*restore)(const DesignOps *ops) noexcept nogil     # the file's static data, as it was when it was loaded
    const void *tdx
    void *file

cdef enum:
    MAX_INHIBIT = 64
    PRIVATE_WORDS = 8

cdef enum:
    MAX_SLOTS = 8

cdef enum RootKind:          # what distinguishes the roles of roots here; a vCPU may hold one of each
    ROOT_DIRECT = 0
    ROOT_MIRROR
    ROOT_GUEST_MODE          # direct, for L2
    ROOT_SMM                 # direct, for system management mode
    ROOT_KINDS

cdef struct Slot:            # struct kvm_memory_slot
    uint64_t base_gfn
    uint64_t npages
    bint dirty_log           # KVM_MEM_LOG_DIRTY_PAGES
    bint gmem                # KVM_MEM_GUEST_MEMFD: its gfns may be private
    int32_t as_id            # address space: 1 is that of system management mode
    uint32_t invalid         # KVM_MEMSLOT_INVALID: it is being moved

cdef struct LpageInfo:       # 2M frames (gfn >> 9) for which the guest asked for small pages; beyond MAX_INHIBIT: all
    uint32_t ninhibit
    uint32_t inhibit_all
    uint64_t inhibit[MAX_INHIBIT]

cdef enum:
    MAX_TRACKED = 64

cdef enum:
    MAX_FREED = 32
    MAX_ATTRIBUTES = 16
    SRCU_CPUS = 32

cdef extern from *:
    """
    #define INVALID_GFN (~0ull)
    """
    const uint64_t INVALID_GFN

cdef struct Invalidate:      # kvm->mmu_invalidate_*
    uint64_t seq
    uint64_t in_progress
    uint64_t start
    uint64_t end

cdef struct Freed:           # a page that guest_memfd's file had for a gfn once
    uint64_t gfn
    uint64_t pfn

cdef struct Attribute:       # a store to kvm->mem_attr_array
    uint64_t start
    uint64_t end
    int32_t is_private

cdef struct Kvm:             # struct kvm and the parts of kvm_arch that the TDP MMU uses
    bint special             # ops or cut is set: what changes an SPTE goes a longer way
    const DesignOps *ops     # NULL: no design file
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
    Sp *vcpu_root[ROOT_KINDS]    # the roots vCPU 0 holds, and every CPU without roots of its own
    bint roots_change        # explorer: some thread invalidates roots, so that a look at one is an access of its own
    Slot slots[MAX_SLOTS]
    LpageInfo lpage
    uint32_t nslots
    uint32_t nr_dirty_logging    # slots that log
    uint32_t slots_invalid       # slots that are being moved
    bint plain_slots         # one slot, and whoever asks for private memory has it: no fault has to look
    # faults against invalidations (invalidate.pxd)
    Invalidate invalidate
    bint invalidations       # explorer: some thread invalidates and some thread faults, so each look is an access
    bint slot_moves          # explorer: the same of a slot that moves
    uint32_t nfreed
    uint32_t nattributes
    uint32_t nposted         # stores that lpage_info knows of
    Freed freed[MAX_FREED]
    Attribute attributes[MAX_ATTRIBUTES]
    uint32_t srcu_used       # CPUs (bits) that ever are in a read section
    uint32_t srcu[SRCU_CPUS] # by CPU: it is in a read section
    SpinLock filemap_lock    # guest_memfd's invalidate_lock
    bint has_mirror
    bint nx_huge_pages
    bint ipat
    bint pml
    int32_t vm_bugged        # these two change at any time, on any CPU
    int32_t vm_dead
    bint users               # somebody holds a reference to the VM
    uint32_t workers         # zaps of roots that were handed to another thread and are not done
    uint64_t users_count     # kvm->users_count
    bint destroyed           # the last reference is gone, and what it kept is freed
    uint64_t mmio_generation
    uint64_t tracked[MAX_TRACKED]
    uint32_t ntracked
    uint8_t track_armed[MAX_TRACKED]     # by tracked[]: write-protected since: no SPTE may be writable
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
    uint64_t private_words[PRIVATE_WORDS]    # a design file's own
    uint64_t hook_failures   # external updates that failed; part of what a retry loop looks at
    Tlb tlb                  # last: what nothing but searches fills is out of the way
    DirtyLog log

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
    int32_t root         # RootKind
    bint huge_page_disallowed
    bint nx_huge_page_workaround_enabled
    const Slot *slot     # NULL: none. Some slot otherwise: gfn_to_memslot() says which
    uint64_t mmu_seq     # mmu_invalidate_seq before its pfn was looked up

# ---- assertions -----------------------------------------------------------------------------------------
cdef void kvm_bug_on(Cpu *c, Kvm *kvm, const char *fn, const char *id) noexcept nogil
cdef void kvm_warn(Cpu *c, const char *fn, const char *id) noexcept nogil
cdef void kvm_spte_warn(Cpu *c, uint32_t warn) noexcept nogil

# ---- tables ---------------------------------------------------------------------------------------------
cdef void tdp_mmu_unlink_sp(Cpu *c, Kvm *kvm, Sp *sp) noexcept nogil
cdef void base_tdp_mmu_unlink_sp(Cpu *c, Kvm *kvm, Sp *sp) noexcept nogil
cdef void sp_unlinked(Sp *sp) noexcept nogil
cdef void untrack_possible_nx_huge_page(Kvm *kvm, Sp *sp) noexcept nogil
cdef void tdp_mmu_free_sp(Cpu *c, Kvm *kvm, Sp *sp) noexcept nogil
cdef void base_tdp_mmu_free_sp_rcu_callback(Cpu *c, Kvm *kvm, RcuHead *head) noexcept nogil
cdef void queue_removed_sp(Cpu *c, Sp *sp) noexcept nogil
cdef Sp *spte_to_child_sp(const Kvm *kvm, uint64_t spte) noexcept nogil

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
# f() is what everybody calls: a design file's function if there is one, else base_f(), the built-in one.
cdef void kvm_set_special(Kvm *kvm, const DesignOps *ops, const bint *cut) noexcept nogil
cdef int __tdp_mmu_set_spte_atomic(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil
cdef int base___tdp_mmu_set_spte_atomic(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil
cdef int tdp_mmu_set_spte_atomic(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil
cdef int base_tdp_mmu_set_spte_atomic(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil
cdef int __handle_changed_spte(Cpu *c, Kvm *kvm, Sp *sp, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                               int level, bint shared) noexcept nogil
cdef int base___handle_changed_spte(Cpu *c, Kvm *kvm, Sp *sp, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                                    int level, bint shared) noexcept nogil
cdef void handle_changed_spte(Cpu *c, Kvm *kvm, Sp *sp, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                              int level, bint shared) noexcept nogil
cdef void base_handle_changed_spte(Cpu *c, Kvm *kvm, Sp *sp, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                                   int level, bint shared) noexcept nogil
cdef void handle_removed_pt(Cpu *c, Kvm *kvm, uint64_t *pt, bint shared) noexcept nogil
cdef void base_handle_removed_pt(Cpu *c, Kvm *kvm, uint64_t *pt, bint shared) noexcept nogil
cdef uint64_t tdp_mmu_set_spte(Cpu *c, Kvm *kvm, uint64_t *sptep, uint64_t old_spte, uint64_t new_spte,
                               uint64_t gfn, int level) noexcept nogil
cdef uint64_t base_tdp_mmu_set_spte(Cpu *c, Kvm *kvm, uint64_t *sptep, uint64_t old_spte, uint64_t new_spte,
                                    uint64_t gfn, int level) noexcept nogil
cdef int propagate_external(Cpu *c, Kvm *kvm, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                            int level) noexcept nogil
cdef uint64_t kvm_tdp_mmu_write_spte(Cpu *c, Kvm *kvm, uint64_t *sptep, uint64_t old_spte, uint64_t new_spte,
                                     int level) noexcept nogil
# KVM_MMU_WARN_ON(): such a value would hand the guest a #VE. The MMIO SPTEs of a TD are meant to, and come by cmpxchg.
cdef inline void check_ve_possible(Cpu *c, const Kvm *kvm, uint64_t spte, const char *fn) noexcept nogil:
    if tdp_unlikely(kvm.design.prove_mmu) and is_ept_ve_possible(&kvm.spte, spte):
        kvm_warn(c, fn, b"ve_possible")

cdef inline void __kvm_tdp_mmu_write_spte(Cpu *c, const Kvm *kvm, uint64_t *sptep, uint64_t spte) noexcept nogil:
    check_ve_possible(c, kvm, spte, b"__kvm_tdp_mmu_write_spte")
    sync_store(c, sptep, spte)

cdef void tdp_mmu_iter_set_spte(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil
cdef inline uint64_t kvm_gfn_root_bits(const Kvm *kvm, const Sp *root) noexcept nogil:
    return 0 if root.is_mirror else kvm.gfn_direct_bits

# The roots this CPU runs on, by RootKind.
cdef inline Sp **vcpu_roots(Cpu *c, Kvm *kvm) noexcept nogil:
    return <Sp **>c.root if c.has_roots else kvm.vcpu_root

cdef inline const Slot *gfn_to_memslot(const Kvm *kvm, int as_id, uint64_t gfn) noexcept nogil:
    """The slot of gfn, NULL in a hole. A VM with one slot has it everywhere: its bounds only limit huge pages."""
    cdef uint32_t i
    if kvm.nslots == 1:
        return &kvm.slots[0]
    for i in range(kvm.nslots):
        if kvm.slots[i].as_id == as_id and gfn - kvm.slots[i].base_gfn < kvm.slots[i].npages:
            return &kvm.slots[i]
    return NULL

cdef inline bint slot_has_gmem(const Slot *slot) noexcept nogil:
    return slot != NULL and slot.gmem

cdef inline bint slot_logs(Cpu *c, const Slot *slot) noexcept nogil:
    """kvm_slot_dirty_track_enabled(), offered as a read."""
    if slot == NULL:
        return False
    sync_rare(c, SYNC_LOAD, <uint64_t>&slot.dirty_log)
    return slot.dirty_log

cdef inline bint slot_dirty_log(Cpu *c, const Kvm *kvm, const Fault *fault) noexcept nogil:
    """Whether the slot of a fault logs dirty pages."""
    return slot_logs(c, gfn_to_memslot(kvm, fault.root == ROOT_SMM, fault.gfn))

cdef inline void sp_point(Cpu *c, const Sp *sp) noexcept nogil:
    """A table's descriptor is about to be looked at or written. Outside a read section, or when grace periods wait
    for nobody, the table may be freed meanwhile: offered as a read of it. May yield."""
    if tdp_unlikely(c.slow & SLOW_YIELD != 0) and (c.rcu_depth == 0 or c.rcu.no_grace):
        c.offer.kind = SYNC_LOAD
        c.offer.obj = <uint64_t>sp.spt
        c.yield_to(c)

cdef void kvm_init(Kvm *kvm, Arena *arena) noexcept nogil
