# cython: language_level=3
"""The steps the TDX module's leaves share (see steps.pxd)."""

from tdpfast._names cimport SYNC_LOAD
from tdpfast._sync.cpu cimport sync_load


# ---- physical pages -----------------------------------------------------------------------------------------

cdef uint64_t page_lock(Cpu *c, Seam *s, uint64_t hpa, int size, bint excl, uint64_t opid,
                        PageHold *h) noexcept nogil:
    """Locks the page that contains hpa: parents shared, the leaf as asked. May yield.

    The walk ends early at a larger page that is in use. Larger pages are locked shared on the way down and
    promoted; 4K pages are locked in the right mode at once. Nothing is held on failure.
    """
    cdef Tdmr *t = tdmr_of(s, hpa)
    cdef uint64_t at
    cdef PamtEntry *e
    h.leaf = NULL
    h.p1g = NULL
    h.p2m = NULL
    h.excl = excl
    if t == NULL or hpa >= t.ready:
        return TDX_OPERAND_ADDR_RANGE_ERROR | opid
    at = hpa - t.start
    e = &t.p1g[at >> 30]
    if not hp_try_shared(c, s, &e.lock):
        return TDX_OPERAND_BUSY | opid
    if e.pt != PT_NDA or size == 2:
        return page_lock_large(c, s, e, 2, opid, h)
    h.p1g = e
    e = &t.p2m[at >> 21]
    if not hp_try_shared(c, s, &e.lock):
        return page_lock_fail(c, s, h, opid)
    if tdp_unlikely(e.pt != PT_NDA or size == 1 or s.dynamic_pamt):
        # With dynamic PAMT a 2M entry either has a page pair with 4K entries below it, or is where the walk ends.
        if size == 1 or e.pt != PT_PAMT:
            return page_lock_large(c, s, e, 1, opid, h)
    h.p2m = e
    e = &t.p4k[at >> 12]
    if not (hp_try_excl(c, s, &e.lock) if excl else hp_try_shared(c, s, &e.lock)):
        return page_lock_fail(c, s, h, opid)
    h.leaf = e
    h.size = 0
    return TDX_SUCCESS


cdef uint64_t page_lock_large(Cpu *c, Seam *s, PamtEntry *e, int size, uint64_t opid, PageHold *h) noexcept nogil:
    if h.excl and not hp_promote(c, s, &e.lock):
        return page_lock_fail(c, s, h, opid)
    h.leaf = e
    h.size = size
    return TDX_SUCCESS


cdef uint64_t page_lock_fail(Cpu *c, Seam *s, PageHold *h, uint64_t opid) noexcept nogil:
    page_unlock(c, s, h)
    return TDX_OPERAND_BUSY | opid


cdef void page_unlock(Cpu *c, Seam *s, PageHold *h) noexcept nogil:
    if h.leaf != NULL:
        if h.excl:
            hp_put_excl(c, s, &h.leaf.lock)
        else:
            hp_put_shared(c, s, &h.leaf.lock)
        h.leaf = NULL
    if h.p2m != NULL:
        hp_put_shared(c, s, &h.p2m.lock)
        h.p2m = NULL
    if h.p1g != NULL:
        hp_put_shared(c, s, &h.p1g.lock)
        h.p1g = NULL


cdef uint64_t page_lock_new(Cpu *c, Seam *s, uint64_t hpa, int size, uint64_t opid, PageHold *h) noexcept nogil:
    """An operand page that must be unused: address checks, exclusive lock, page type. May yield."""
    cdef uint64_t status
    h.leaf = NULL
    h.p2m = NULL
    h.p1g = NULL
    if hpa & (s.pa_reserved | (level_size(size) - 1)):
        return TDX_OPERAND_INVALID | opid
    status = page_lock(c, s, hpa, size, True, opid, h)
    if status != TDX_SUCCESS:
        return status
    if h.leaf.pt != PT_NDA or h.size != size or h.leaf.flags & PAMT_PAGE:
        status = TDX_PAGE_METADATA_INCORRECT | opid
        if s.dynamic_pamt and h.leaf.pt == PT_NDA and h.size == 1 and size == 0:
            status = TDX_MISSING_PAMT_PAGE_PAIR | opid
        page_unlock(c, s, h)
        return status
    if size == 1 and small_page_used(c, pamt_entry(s, hpa, 0), True) >= 0:
        page_unlock(c, s, h)
        return TDX_PAGE_METADATA_INCORRECT | opid
    return TDX_SUCCESS


cdef int small_page_used(Cpu *c, const PamtEntry *small, bint strict) noexcept nogil:
    """The first 4K page in use of a 2M range that is locked exclusive, -1: none. strict: reserved ones and those of a
    pair are. May yield: the lock keeps new uses out, but not the end of one, so what ever had a use is looked at."""
    cdef int i
    for i in range(512):
        if small[i].pt != PT_NDA or small[i].owner:
            sync_point(c, SYNC_LOAD, <uint64_t>&small[i].lock)
        if strict and (small[i].pt != PT_NDA or small[i].flags & PAMT_PAGE):
            return i
        if small[i].pt != PT_NDA and small[i].pt != PT_RSVD:
            return i
    return -1


# ---- the S-EPT ----------------------------------------------------------------------------------------------

cdef uint64_t gpa_decode(Call *k, uint64_t rcx, int lowest, int highest) noexcept nogil:
    """RCX = GPA and level; highest < 0 means the root's level."""
    cdef int level = <int>(rcx & 7)
    cdef uint64_t gpa = rcx & SEPT_HPA
    if highest < 0:
        highest = k.td.levels - 1
    if rcx & ~(SEPT_HPA | 7) or level < lowest or level > highest or level >= k.td.levels:
        return TDX_OPERAND_INVALID | OP_RCX
    if gpa & (level_size(level) - 1) or gpa >> (51 if k.td.gpaw else 47):
        return TDX_OPERAND_INVALID | OP_RCX
    k.gpa = gpa
    k.level = level
    return TDX_SUCCESS


cdef int sept_walk(Cpu *c, Seam *s, uint64_t *root, uint64_t gpa, int top, int level, uint64_t **ep,
                   uint64_t *entry) noexcept nogil:
    """Walks from the root (level top) to level; returns the level reached. Yields at each entry above level.

    *entry is the value of the entry it ended at, without lock and host-priority bits.
    """
    cdef uint64_t *page = root
    cdef uint64_t e
    cdef int at = top
    while at > level:
        ep[0] = &page[sept_index(gpa, at)]
        e = sync_load(c, ep[0]) & ~(SEPT_TDEL | SEPT_TDHP)
        if e & SEPT_STATE or not e & SEPT_RWX:
            entry[0] = e
            return at
        page = table_named(s, e & SEPT_HPA)
        at -= 1
    ep[0] = &page[sept_index(gpa, at)]
    return at


cdef int sept_leaf(Cpu *c, Seam *s, Td *td, uint64_t gpa, uint64_t **ep, uint64_t *entry) noexcept nogil:
    """Walks as hardware does, to the leaf or to where it ends; the level reached. Yields at each entry."""
    cdef int at = sept_walk(c, s, td.root[0], gpa, td.levels - 1, 0, ep, entry)
    if at == 0:
        entry[0] = sync_load(c, ep[0]) & ~(SEPT_TDEL | SEPT_TDHP)
    return at


cdef void regs_entry(SeamRegs *r, uint64_t entry, int level) noexcept nogil:
    """What the VMM may know of an entry: RCX its visible bits, RDX level and state."""
    if entry & SEPT_PS:
        r.rcx = entry & SEPT_LEAF_SHOWN
    elif sept_enc(entry) == ENC_FREE:
        r.rcx = SEPT_SVE
    else:
        r.rcx = entry & 0x87
    r.rdx = <uint64_t>level | sept_public(entry) << 8


cdef PamtEntry *entry_pamt(Seam *s, uint64_t entry, int level) noexcept nogil:
    """PAMT entry of the page an entry names: of the leaf's size, or of the S-EPT page."""
    return pamt_named(s, entry & SEPT_HPA, level if entry & SEPT_PS else 0)


cdef bint tlb_tracked(Cpu *c, Seam *s, Td *td, uint64_t bepoch) noexcept nogil:
    """Whether no VCPU can still hold a translation blocked in epoch bepoch. May yield."""
    cdef uint64_t epoch = sync_load(c, &td.td_epoch)
    if bepoch >> 63 or bepoch + 1 > epoch:
        return False
    if bepoch + 1 < epoch:
        return True
    return sync_load(c, &td.refcount[bepoch & 1]) == 0


cdef uint64_t blocked_and_tracked(Cpu *c, Seam *s, Call *k, PamtEntry *page, SeamRegs *r) noexcept nogil:
    """Where TLB tracking matters: the entry must be blocked, and long enough ago. May yield."""
    cdef uint32_t flags = sept_flags(k.entry)
    if not (OPS_TRACKED >> k.td.op_state) & 1 or not flags & ST_TRACK:
        return TDX_SUCCESS
    if not flags & ST_BLOCKED and not s.no_block_check:
        regs_entry(r, k.entry, k.level)
        return TDX_GPA_RANGE_NOT_BLOCKED | OP_RCX
    if not s.no_track_check and not tlb_tracked(c, s, k.td, tdp_read_once(&page.bepoch)):
        return TDX_TLB_TRACKING_NOT_DONE | OP_RCX
    return TDX_SUCCESS
