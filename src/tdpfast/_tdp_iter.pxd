"""tdp_iter.c: the pre-order walk over a TDP paging structure (Linux 7.3, the same in 6.18)."""

from libc.stdint cimport int32_t, uint64_t

from tdpfast._arena cimport Arena, Sp
from tdpfast._sync cimport Cpu

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
    bint valid
    bint yielded

cdef inline uint64_t pages_per_hpage(int level) noexcept nogil:
    return <uint64_t>1 << (9 * (level - 1))

cdef inline uint64_t gfn_round_for_level(uint64_t gfn, int level) noexcept nogil:
    return gfn & ~(pages_per_hpage(level) - 1)

cdef inline uint64_t spte_index(uint64_t gfn, int level) noexcept nogil:
    return (gfn >> (9 * (level - 1))) & 511

cdef void tdp_iter_start(Cpu *c, TdpIter *iter, const Arena *arena, Sp *root, int min_level,
                         uint64_t next_last_level_gfn, uint64_t gfn_bits) noexcept nogil
cdef void tdp_iter_restart(Cpu *c, TdpIter *iter) noexcept nogil
cdef void tdp_iter_next(Cpu *c, TdpIter *iter) noexcept nogil
cdef uint64_t *spte_to_child_pt(const Arena *arena, uint64_t spte, int level) noexcept nogil
