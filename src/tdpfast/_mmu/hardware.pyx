# cython: language_level=3
"""Translations that processors keep, and the dirty log (see hardware.pxd).

An entry of the TLB is what its SPTE said when it was made. A CPU that changes the SPTE owes a flush from then on, and
must have made it when it lets go of mmu_lock. Whoever changes an entry does so in the step that changes its SPTE;
whoever flushes or looks offers Tlb.gen.
"""

from tdpfast._names cimport CHECK_DIRTY, CHECK_TLB, SYNC_LOAD, SYNC_STORE
from tdpfast._mmu.arena cimport sptep_to_sp
from tdpfast._spte cimport PT_WRITABLE_MASK
from tdpfast._sync.cpu cimport sync_point


cdef void tlb_insert(Cpu *c, Tlb *tlb, Sp *root, uint64_t gfn, uint64_t npages, uint64_t pfn,
                     bint writable) noexcept nogil:
    """This CPU keeps a translation of a root: [gfn, gfn + npages). Part of the step that reads the SPTE."""
    cdef TlbEntry *e
    cdef int i
    for i in range(TLB_ENTRIES):
        e = &tlb.entry[i]
        if e.cpu == <uint32_t>c.id + 1 and e.root == root and e.gfn == gfn and e.npages == npages:
            break
    else:
        e = &tlb.entry[tlb.next]
        tlb.next = (tlb.next + 1) % TLB_ENTRIES
    e.root = root
    e.gfn = gfn
    e.npages = npages
    e.pfn = pfn
    e.cpu = <uint32_t>c.id + 1
    e.owed = 0
    e.late = 0
    e.writable = writable


cdef const TlbEntry *tlb_find(Cpu *c, const Tlb *tlb, const Sp *root, uint64_t gfn, bint write) noexcept nogil:
    """What this CPU keeps for a gfn, as far as it allows the access; NULL for nothing. Its use is `tlb` when a flush of
    it is late."""
    cdef const TlbEntry *e
    cdef int i
    for i in range(TLB_ENTRIES):
        e = &tlb.entry[i]
        if e.cpu == <uint32_t>c.id + 1 and e.root == root and gfn - e.gfn < e.npages and (e.writable or not write):
            if e.late:
                c.found.checks |= CHECK_TLB
            return e
    return NULL


cdef bint tlb_maps(const Tlb *tlb, uint64_t gfn, uint64_t pfn) noexcept nogil:
    """Whether some processor still reaches that page by that gfn."""
    cdef const TlbEntry *e
    cdef int i
    for i in range(TLB_ENTRIES):
        e = &tlb.entry[i]
        if e.cpu and gfn - e.gfn < e.npages and e.pfn + (gfn - e.gfn) == pfn:
            return True
    return False


cdef void tlb_leaf_gone(Cpu *c, Tlb *tlb, const Arena *arena, const Sp *sp, uint64_t gfn,
                        uint64_t npages) noexcept nogil:
    """A leaf of a table does not map its pages any more: who keeps a translation of them is owed a flush. Part of the
    step that changes the SPTE."""
    cdef TlbEntry *e
    cdef int i
    while not sp.is_root and sp.ptep != NULL:
        sp = sptep_to_sp(arena, sp.ptep)
    for i in range(TLB_ENTRIES):
        e = &tlb.entry[i]
        if e.cpu and e.root == sp and e.gfn < gfn + npages and gfn < e.gfn + e.npages:
            e.owed = <uint32_t>c.id + 1
            tlb.owing |= <uint64_t>1 << (c.id & 63)


cdef void tlb_flush(Cpu *c, Tlb *tlb, uint64_t gfn, uint64_t npages) noexcept nogil:
    """Every processor forgets what it keeps of [gfn, gfn + npages). May yield."""
    cdef TlbEntry *e
    cdef int i
    sync_point(c, SYNC_STORE, <uint64_t>&tlb.gen)
    for i in range(TLB_ENTRIES):
        e = &tlb.entry[i]
        if e.gfn < gfn + npages and gfn < e.gfn + e.npages:
            e.cpu = e.owed = e.late = 0


cdef void tlb_forget(Tlb *tlb, const Sp *root, int cpu) noexcept nogil:
    """What is kept of a root (NULL: of any), by one CPU (-1: by all), is forgotten without a flush: nobody runs on it."""
    cdef TlbEntry *e
    cdef int i
    for i in range(TLB_ENTRIES):
        e = &tlb.entry[i]
        if (root == NULL or e.root == root) and (cpu < 0 or e.cpu == <uint32_t>cpu + 1):
            e.cpu = e.owed = e.late = 0


cdef void tlb_unlocking(Cpu *c, Tlb *tlb) noexcept nogil:
    """The CPU is about to let go of mmu_lock: the flushes it owes must have been made. Else `tlb`. May yield."""
    cdef TlbEntry *e
    cdef int i
    if not tlb.owing >> (c.id & 63) & 1:
        return
    sync_point(c, SYNC_LOAD, <uint64_t>&tlb.gen)
    tlb.owing &= ~(<uint64_t>1 << (c.id & 63))
    for i in range(TLB_ENTRIES):
        e = &tlb.entry[i]
        if e.cpu and e.owed == <uint32_t>c.id + 1:
            e.late = 1
            c.found.checks |= CHECK_TLB


cdef void spte_bits_lost(Cpu *c, const SpteCfg *cfg, uint64_t old_spte, uint64_t now) noexcept nogil:
    """An SPTE was replaced by who took it for old_spte: D and W that came meanwhile are nowhere now, `dirty`. A may be lost,
    as in the kernel."""
    if (now & ~old_spte) & (cfg.shadow_dirty_mask | PT_WRITABLE_MASK):
        c.found.checks |= CHECK_DIRTY


# ---- the dirty log ------------------------------------------------------------------------------------------------

cdef void log_mark(DirtyLog *log, uint64_t gfn) noexcept nogil:
    """mark_page_dirty_in_slot()."""
    cdef uint64_t i
    for i in range(log.n):
        if log.page[i].gfn == gfn:
            log.page[i].state = LOG_DIRTY


cdef void log_fetch(DirtyLog *log, uint64_t gfn, uint64_t mask) noexcept nogil:
    """Userspace gets the pages of a mask, which leave the log. mmu_lock for write."""
    cdef uint64_t i
    if log.n == 0:
        return
    log.fetches += 1
    for i in range(log.n):
        if log.page[i].gfn - gfn < 64 and mask >> (log.page[i].gfn - gfn) & 1:
            log.page[i].state = LOG_UNKNOWN


cdef void log_promise(Cpu *c, DirtyLog *log, uint64_t start, uint64_t end, uint64_t fetches) noexcept nogil:
    """From now on a write to [start, end) must be seen, unless somebody took pages out since `fetches`. May yield."""
    cdef uint64_t i
    if log.n == 0:
        return
    sync_point(c, SYNC_STORE, <uint64_t>&log.n)
    if log.fetches != fetches:
        return
    for i in range(log.n):
        if start <= log.page[i].gfn < end and log.page[i].state == LOG_UNKNOWN:
            log.page[i].state = LOG_CLEAN


cdef bint log_promised(const DirtyLog *log, uint64_t gfn) noexcept nogil:
    """Whether a write to gfn that nobody has seen is lost to the log."""
    cdef uint64_t i
    for i in range(log.n):
        if log.page[i].gfn == gfn:
            return log.page[i].state == LOG_CLEAN
    return False
