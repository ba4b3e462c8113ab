"""The module's lock words. Each function is one step and may yield; all of them are try-locks: a leaf never waits.

sharex: bit 0 exclusive, bits 15:1 readers. sharex_hp (PAMT entries, OP_STATE): bit 0 exclusive, bit 1 host priority,
bits 15:2 readers. S-EPT entry: bit 11 lock, bit 52 host priority.
"""

from libc.stdint cimport uint64_t

from tdpfast._names cimport SYNC_PUT_EXCL, SYNC_PUT_SHARED, SYNC_TRY_EXCL, SYNC_TRY_SHARED
from tdpfast._sync.atomic cimport (
    tdp_fetch_add, tdp_fetch_and, tdp_fetch_or, tdp_read_once, tdp_store_release, tdp_try_cmpxchg, tdp_unlikely,
)
from tdpfast._sync.cpu cimport Cpu, sync_point
from tdpfast._seam.defs cimport *
from tdpfast._seam.state cimport Seam, undo_word

cdef inline bint sharex_try_shared(Cpu *c, uint64_t *l) noexcept nogil:
    """A failed attempt leaves the reader count one higher, as the module's does."""
    sync_point(c, SYNC_TRY_SHARED, <uint64_t>l)
    return tdp_fetch_add(l, 2) & 1 == 0

cdef inline void sharex_put_shared(Cpu *c, uint64_t *l) noexcept nogil:
    sync_point(c, SYNC_PUT_SHARED, <uint64_t>l)
    tdp_fetch_add(l, <uint64_t>-2)

cdef inline bint sharex_try_excl(Cpu *c, uint64_t *l) noexcept nogil:
    cdef uint64_t old = 0
    sync_point(c, SYNC_TRY_EXCL, <uint64_t>l)
    return tdp_try_cmpxchg(l, &old, 1)

cdef inline void sharex_put_excl(Cpu *c, uint64_t *l) noexcept nogil:
    sync_point(c, SYNC_PUT_EXCL, <uint64_t>l)
    tdp_store_release(l, 0)

cdef inline bint hp_try_shared(Cpu *c, Seam *s, uint64_t *l) noexcept nogil:
    """Host side: failure sets the host-priority bit (and leaves the count), success clears it."""
    cdef uint64_t old
    sync_point(c, SYNC_TRY_SHARED, <uint64_t>l)
    undo_word(s, l)
    old = tdp_fetch_add(l, 4)
    if tdp_unlikely(old & 3 != 0):
        if old & 1:
            tdp_fetch_or(l, 2)
            return False
        tdp_fetch_and(l, ~<uint64_t>2)
    return True

cdef inline void hp_put_shared(Cpu *c, Seam *s, uint64_t *l) noexcept nogil:
    sync_point(c, SYNC_PUT_SHARED, <uint64_t>l)
    undo_word(s, l)
    tdp_fetch_add(l, <uint64_t>-4)

cdef inline bint hp_try_excl(Cpu *c, Seam *s, uint64_t *l) noexcept nogil:
    cdef uint64_t old
    sync_point(c, SYNC_TRY_EXCL, <uint64_t>l)
    undo_word(s, l)
    old = tdp_read_once(l)
    while old & ~<uint64_t>2 == 0:
        if tdp_try_cmpxchg(l, &old, 1):
            return True
    tdp_fetch_or(l, 2)
    return False

cdef inline bint hp_promote(Cpu *c, Seam *s, uint64_t *l) noexcept nogil:
    """Shared to exclusive; only the last reader can. On failure the shared hold is gone too."""
    cdef uint64_t old = 4
    sync_point(c, SYNC_TRY_EXCL, <uint64_t>l)
    undo_word(s, l)
    while old & ~<uint64_t>2 == 4:
        if tdp_try_cmpxchg(l, &old, 1):
            return True
    tdp_fetch_or(l, 2)
    tdp_fetch_add(l, <uint64_t>-4)
    return False

cdef inline void hp_put_excl(Cpu *c, Seam *s, uint64_t *l) noexcept nogil:
    sync_point(c, SYNC_PUT_EXCL, <uint64_t>l)
    undo_word(s, l)
    if tdp_read_once(l) == 1:
        tdp_store_release(l, 0)
    else:
        tdp_fetch_and(l, 2)      # whoever failed meanwhile keeps the host's priority

# ---- of S-EPT entries, the host's side
cdef inline bint entry_try_lock(Cpu *c, Seam *s, uint64_t *ep, uint64_t *entry) noexcept nogil:
    """Host side. *entry: the value, without lock and host-priority bits."""
    cdef uint64_t old
    sync_point(c, SYNC_TRY_EXCL, <uint64_t>ep)
    undo_word(s, ep)
    old = tdp_fetch_or(ep, SEPT_TDEL)
    entry[0] = old & ~(SEPT_TDEL | SEPT_TDHP)
    if tdp_unlikely(old & (SEPT_TDEL | SEPT_TDHP) != 0):
        if old & SEPT_TDEL:
            tdp_fetch_or(ep, SEPT_TDHP)
            return False
        tdp_fetch_and(ep, ~SEPT_TDHP)
    return True

cdef inline void entry_unlock(Cpu *c, Seam *s, uint64_t *ep) noexcept nogil:
    sync_point(c, SYNC_PUT_EXCL, <uint64_t>ep)
    undo_word(s, ep)
    tdp_fetch_and(ep, ~SEPT_TDEL)

cdef inline void entry_write_unlock(Cpu *c, Seam *s, uint64_t *ep, uint64_t v) noexcept nogil:
    """Publishes the new value and gives the lock back in one store."""
    sync_point(c, SYNC_PUT_EXCL, <uint64_t>ep)
    undo_word(s, ep)
    tdp_store_release(ep, v)
