"""tdp_iter.c: the pre-order walk over a TDP paging structure (Linux 7.3, the same in 6.18).

All of it runs inside an RCU read section and may yield at each SPTE read. It is inline because a walk is a
handful of steps, and a call into another module costs as much as a step.
"""

from libc.stdint cimport int32_t, uint64_t

from tdpfast._names cimport ASSERT_WARN
from tdpfast._mmu.arena cimport ARENA_HPA, SPTE_ENTRIES, Arena, Sp
from tdpfast._sync.atomic cimport tdp_read_once, tdp_unlikely
from tdpfast._spte cimport SPTE_BASE_ADDR_MASK, is_last_spte, is_shadow_present_pte
from tdpfast._sync.cpu cimport Cpu, sync_assert, sync_load

cdef struct TdpIter:
    uint64_t next_last_level_gfn
    uint64_t yielded_gfn
    uint64_t gfn
    uint64_t gfn_bits          # the shared bit of a TD's direct root, as a GFN bit
    uint64_t old_spte
    uint64_t *sptep
    uint64_t *pt_path[5]
    const Arena *arena
    int32_t root_level
    int32_t min_level
    int32_t level
    int32_t as_id              # address space: 0, as there is no SMM here
    bint valid
    bint yielded

cdef inline uint64_t pages_per_hpage(int level) noexcept nogil:
    return <uint64_t>1 << (9 * (level - 1))

cdef inline uint64_t gfn_round_for_level(uint64_t gfn, int level) noexcept nogil:
    return gfn & ~(pages_per_hpage(level) - 1)

cdef inline uint64_t spte_index(uint64_t gfn, int level) noexcept nogil:
    return (gfn >> (9 * (level - 1))) & 511

cdef inline uint64_t *spte_to_child_pt(const Arena *arena, uint64_t spte, int level) noexcept nogil:
    """The table spte points to, or NULL: not present, a leaf, or an address that is no table page."""
    cdef uint64_t index = ((spte & SPTE_BASE_ADDR_MASK) - ARENA_HPA) >> 12
    # A wild address wraps around to an index beyond every page.
    if not is_shadow_present_pte(spte) or is_last_spte(spte, level) or index >= tdp_read_once(&arena.next_fresh):
        return NULL
    return arena.base + index * SPTE_ENTRIES

cdef inline void tdp_iter_refresh_sptep(Cpu *c, TdpIter *iter) noexcept nogil:
    iter.sptep = iter.pt_path[iter.level - 1] + spte_index(iter.gfn | iter.gfn_bits, iter.level)
    iter.old_spte = sync_load(c, iter.sptep)

cdef inline void tdp_iter_restart(Cpu *c, TdpIter *iter) noexcept nogil:
    iter.yielded = False
    iter.yielded_gfn = iter.next_last_level_gfn
    iter.level = iter.root_level
    iter.gfn = gfn_round_for_level(iter.next_last_level_gfn, iter.level)
    tdp_iter_refresh_sptep(c, iter)
    iter.valid = True

cdef inline void tdp_iter_start(Cpu *c, TdpIter *iter, const Arena *arena, Sp *root, int min_level,
                         uint64_t next_last_level_gfn, uint64_t gfn_bits) noexcept nogil:
    """Begins a pre-order walk at next_last_level_gfn; an impossible start leaves the iterator invalid."""
    if root == NULL or root.level < 1 or root.level > 5 or (gfn_bits and next_last_level_gfn >= gfn_bits):
        sync_assert(c, ASSERT_WARN, b"tdp_iter_start", b"bad_start")
        iter.valid = False
        return
    iter.arena = arena
    iter.next_last_level_gfn = next_last_level_gfn
    iter.gfn_bits = gfn_bits
    iter.root_level = root.level
    iter.min_level = min_level
    iter.as_id = 0
    iter.pt_path[root.level - 1] = root.spt
    tdp_iter_restart(c, iter)

cdef inline bint tdp_iter_descend(Cpu *c, TdpIter *iter, int level, uint64_t *sptes) noexcept nogil:
    """Just after tdp_iter_start(): goes down to `level`, or to where the tables end, as so many tdp_iter_next() would,
    for a caller that has nothing to do at a present table. sptes[level of each table passed] unless NULL.

    On a CPU that nobody watches; elsewhere it does nothing and returns False: the caller takes the steps one by one.
    """
    cdef uint64_t gfn = iter.next_last_level_gfn | iter.gfn_bits
    cdef uint64_t spte = iter.old_spte
    cdef uint64_t *sptep = iter.sptep
    cdef uint64_t *child_pt
    cdef int at = iter.level
    if tdp_unlikely(c.slow != 0 or not iter.valid):
        return False
    while at > level:
        child_pt = spte_to_child_pt(iter.arena, spte, at)
        if child_pt == NULL:
            break
        if sptes != NULL:
            sptes[at] = spte
        at -= 1
        iter.pt_path[at - 1] = child_pt
        sptep = child_pt + spte_index(gfn, at)
        spte = tdp_read_once(sptep)
    iter.level = at
    iter.gfn = gfn_round_for_level(iter.next_last_level_gfn, at)
    iter.sptep = sptep
    iter.old_spte = spte
    return True

cdef inline bint try_step_down(Cpu *c, TdpIter *iter) noexcept nogil:
    cdef uint64_t *child_pt
    if iter.level == iter.min_level:
        return False
    # The table may have been unlinked since old_spte was read: look again before following the pointer.
    iter.old_spte = sync_load(c, iter.sptep)
    child_pt = spte_to_child_pt(iter.arena, iter.old_spte, iter.level)
    if child_pt == NULL:
        return False
    iter.level -= 1
    iter.pt_path[iter.level - 1] = child_pt
    iter.gfn = gfn_round_for_level(iter.next_last_level_gfn, iter.level)
    tdp_iter_refresh_sptep(c, iter)
    return True

cdef inline bint try_step_side(Cpu *c, TdpIter *iter) noexcept nogil:
    if spte_index(iter.gfn | iter.gfn_bits, iter.level) == 511:
        return False
    iter.gfn += pages_per_hpage(iter.level)
    iter.next_last_level_gfn = iter.gfn
    iter.sptep += 1
    iter.old_spte = sync_load(c, iter.sptep)
    return True

cdef inline bint try_step_up(Cpu *c, TdpIter *iter) noexcept nogil:
    if iter.level == iter.root_level:
        return False
    iter.level += 1
    iter.gfn = gfn_round_for_level(iter.gfn, iter.level)
    tdp_iter_refresh_sptep(c, iter)
    return True

cdef inline void tdp_iter_next(Cpu *c, TdpIter *iter) noexcept nogil:
    """Down if possible, else to the side, else up and to the side; from the root again after a yield."""
    if iter.yielded:
        tdp_iter_restart(c, iter)
        return
    if try_step_down(c, iter):
        return
    while True:
        if try_step_side(c, iter):
            return
        if not try_step_up(c, iter):
            break
    iter.valid = False
