"""Page-table pages and their kvm_mmu_page descriptors, in one arena that numpy can look into.

A page and its descriptor share an index. The arena stands for a stretch of host physical memory from
ARENA_HPA on, so an SPTE that points to a table holds ARENA_HPA + index * 4096.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from tdpfast._sync.atomic cimport tdp_read_once, tdp_read_once8
from tdpfast._sync.cpu cimport Cpu, RcuHead

cdef enum:
    SPTE_ENTRIES = 512
    ARENA_MAX_PAGES = 1 << 22
    ARENA_SHARES = 32

cdef extern from *:
    """
    #define ARENA_HPA 0x10000000000ull
    """
    const uint64_t ARENA_HPA

cdef enum SpState:
    SP_FREE = 0          # in the allocator (or never used)
    SP_UNUSED            # allocated, not linked
    SP_LINKED            # reachable from its parent, or a root
    SP_REMOVED           # handle_removed_pt() began: unreachable for new walks
    SP_QUEUED            # call_rcu() done
    SP_FREED             # the callback ran; kept as evidence when the arena keeps its dead

cdef struct Sp:          # struct kvm_mmu_page
    uint64_t *spt
    uint64_t gfn
    uint64_t *ptep
    Sp *next             # kvm->arch.tdp_mmu_roots, newest first
    Sp *nx_next          # possible_nx_huge_pages, oldest first
    Sp *nx_prev
    uint64_t external_spt
    uint64_t root_count  # tdp_mmu_root_count
    RcuHead rcu_head
    uint32_t index
    int32_t state
    int32_t level
    int32_t root_number  # order of creation, roots only; -1 otherwise
    uint8_t is_mirror
    uint8_t invalid
    uint8_t ad_disabled
    uint8_t access
    uint8_t nx_huge_page_disallowed
    uint8_t nx_tracked
    uint8_t scheduled_to_zap   # tdp_mmu_scheduled_root_to_zap
    uint8_t is_root
    uint8_t guest_mode     # role.guest_mode: L2 runs on it
    uint8_t smm            # role.smm: the address space of system management mode
    uint64_t private_word  # a design file's own; 0 in a fresh table
    uint64_t uaf_op      # operation the next four belong to
    uint32_t uaf_event[4]  # by UafKind: 1 + place of the record of its use after free
    uint32_t free_next   # last: the allocator may look at it while a new owner clears what is before it

cdef struct Arena:
    uint64_t *base
    uint64_t npages
    uint64_t next_fresh
    uint64_t free_head   # index + 1 of the first free page, tag in the upper half
    uint64_t live
    Sp *sps
    uint8_t *freed
    bint keep_dead       # freed pages are poisoned and never reused
    uint64_t fill        # value of a fresh entry
    uint64_t op_seq      # number of the current operation, for use-after-free records
    # While exploring, each CPU allocates from a share of its own, so that who allocates first changes nothing.
    uint64_t share           # pages per CPU; 0: one allocator for all
    uint64_t share_base
    uint64_t share_used[ARENA_SHARES]
    # snapshot
    uint8_t *dirty           # pages written since
    uint64_t snap_fresh
    uint64_t snap_live
    uint64_t snap_free_head
    uint64_t *snap_pages
    Sp *snap_sps
    uint8_t *snap_freed
    uint64_t snap_cap

cdef extern from *:
    """
    #define SPTE_POISON 0x8000dead0dead000ull
    """
    const uint64_t SPTE_POISON

cdef void arena_watch(Arena *a, Cpu *c) noexcept nogil
cdef void sp_note_uaf(Arena *a, Cpu *c, Sp *sp, int kind) noexcept nogil
cdef int arena_init(Arena *a, uint64_t npages, uint64_t fill) noexcept nogil
cdef void arena_destroy(Arena *a) noexcept nogil
cdef Sp *arena_alloc(Arena *a, const Cpu *c) noexcept nogil
cdef void arena_free(Arena *a, Sp *sp) noexcept nogil
cdef void arena_bury(Arena *a) noexcept nogil
cdef int arena_snapshot(Arena *a, uint64_t share) noexcept nogil
cdef void arena_restore(Arena *a) noexcept nogil

cdef inline uint64_t sp_hpa(const Sp *sp) noexcept nogil:
    return ARENA_HPA + (<uint64_t>sp.index << 12)

cdef inline Sp *sptep_to_sp(const Arena *a, const uint64_t *sptep) noexcept nogil:
    return &a.sps[(<uint64_t>sptep - <uint64_t>a.base) >> 12]

# root->role.invalid: set under mmu_lock for write, looked at by whoever holds less.
cdef inline bint sp_invalid(const Sp *sp) noexcept nogil:
    return tdp_read_once8(&sp.invalid)

# NULL when hpa is not a page of the arena: a wild table pointer.
cdef inline Sp *hpa_to_sp(const Arena *a, uint64_t hpa) noexcept nogil:
    cdef uint64_t index = (hpa - ARENA_HPA) >> 12
    if hpa < ARENA_HPA or index >= tdp_read_once(&a.next_fresh):
        return NULL
    return &a.sps[index]
