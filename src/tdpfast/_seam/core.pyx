# cython: language_level=3
"""The steps the TDX module's leaves share, in the order the module takes them (see core.pxd)."""

from libc.string cimport memcpy

from tdpfast._names cimport SYNC_LOAD
from tdpfast._sync.cpu cimport sync_load


cdef void undo_push(Seam *s, uint64_t *addr, uint64_t old) noexcept nogil:
    if s.nundo == s.cap_undo:
        s.undo_lost = 1
        return
    s.undo[s.nundo].addr = addr
    s.undo[s.nundo].old = old
    s.nundo += 1


cdef void undo_page(Seam *s, uint64_t *page) noexcept nogil:
    if not s.tracking:
        return
    if s.npages == s.cap_pages:
        s.undo_lost = 1
        return
    memcpy(s.pages + s.npages * 512, page, 4096)
    undo_push(s, <uint64_t *>(<uint64_t>page | 1), s.npages)
    s.npages += 1


cdef void sept_page_init(Seam *s, uint64_t *page, uint64_t fill) noexcept nogil:
    cdef int i
    undo_page(s, page)
    for i in range(512):
        page[i] = fill


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


# ---- the TD -------------------------------------------------------------------------------------------------

cdef uint64_t td_lock(Cpu *c, Seam *s, uint64_t tdr_pa, bint excl, uint64_t opid, Call *k) noexcept nogil:
    """Checks and locks a TDR operand; k.td is NULL for a TDR that was never created. May yield."""
    cdef uint64_t status = leaf_pa_check(s, tdr_pa, opid)
    k.held = 0
    k.td = NULL
    if status != TDX_SUCCESS:
        return status
    status = page_lock(c, s, tdr_pa, 0, excl, opid, &k.tdr)
    if status != TDX_SUCCESS:
        return status
    k.held = HELD_TDR_EXCL if excl else HELD_TDR_SHARED
    if k.tdr.leaf.pt != PT_TDR:
        return call_fail(c, s, k, TDX_PAGE_METADATA_INCORRECT | opid)
    if k.tdr.leaf.ref != 0:
        k.td = &s.td[k.tdr.leaf.ref - 1]
    return TDX_SUCCESS


cdef uint64_t td_keys(Call *k) noexcept nogil:
    if k.td == NULL:
        return TDX_TD_KEYS_NOT_CONFIGURED
    if k.td.fatal:
        return TDX_TD_FATAL
    if k.td.lifecycle != TD_KEYS_CONFIGURED:
        return TDX_TD_KEYS_NOT_CONFIGURED
    return TDX_SUCCESS


cdef uint64_t td_ready(Call *k) noexcept nogil:
    """Not fatal, keys configured, all TDCS pages there."""
    cdef uint64_t status = td_keys(k)
    if status == TDX_SUCCESS and k.td.num_tdcx < SEAM_TDCS_PAGES:
        return TDX_TDCS_NOT_ALLOCATED
    return status


cdef uint64_t op_state_lock(Cpu *c, Seam *s, Call *k, uint64_t allowed) noexcept nogil:
    if not hp_try_shared(c, s, &k.td.op_lock):
        return TDX_OPERAND_BUSY | OP_STATE
    k.held |= HELD_OP_STATE
    if not (allowed >> k.td.op_state) & 1:
        return TDX_OP_STATE_INCORRECT
    return TDX_SUCCESS


cdef uint64_t build_enter(Cpu *c, Seam *s, uint64_t tdr_pa, Call *k) noexcept nogil:
    """Locks the TDR (RDX) exclusive, for what only builds a TD: PAGE.ADD and MR.EXTEND. May yield. Nothing is held
    on failure."""
    cdef uint64_t status = td_lock(c, s, tdr_pa, True, OP_RDX, k)
    if status != TDX_SUCCESS:
        return status
    status = td_ready(k)
    if status == TDX_SUCCESS and not (OPS_FOR_BUILD >> k.td.op_state) & 1:
        status = TDX_OP_STATE_INCORRECT
    return call_fail(c, s, k, status) if status != TDX_SUCCESS else status


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


cdef uint64_t tree_lock(Cpu *c, Call *k, bint excl) noexcept nogil:
    if excl:
        if not sharex_try_excl(c, &k.td.tree_lock):
            return TDX_OPERAND_BUSY | OP_SEPT_TREE
        k.held |= HELD_TREE_EXCL
        return TDX_SUCCESS
    if not sharex_try_shared(c, &k.td.tree_lock):
        return TDX_OPERAND_BUSY | OP_SEPT_TREE
    k.held |= HELD_TREE_SHARED
    return TDX_SUCCESS


# ---- the S-EPT ----------------------------------------------------------------------------------------------

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


cdef uint64_t sept_find(Cpu *c, Seam *s, Call *k, SeamRegs *r) noexcept nogil:
    """Walks to the entry of k.gpa at k.level and locks it. May yield."""
    cdef int at = sept_walk(c, s, k.td.root[0], k.gpa, k.td.levels - 1, k.level, &k.ep, &k.entry)
    if at != k.level:
        regs_entry(r, k.entry, at)
        return TDX_EPT_WALK_FAILED | OP_RCX
    if not entry_try_lock(c, s, k.ep, &k.entry):
        regs_entry(r, k.entry, k.level)
        return TDX_OPERAND_BUSY | OP_RCX
    k.held |= HELD_ENTRY
    return TDX_SUCCESS


cdef uint64_t mem_enter(Cpu *c, Seam *s, SeamRegs *r, Call *k, uint64_t tdr_pa, uint64_t ops, int lowest, int highest,
                        bint tree_excl) noexcept nogil:
    """The checks and locks with which every TDH.MEM leaf on a GPA begins, up to the locked entry. May yield.

    RCX and RDX are cleared, or describe the entry. Nothing is held on failure.
    """
    cdef uint64_t rcx = r.rcx
    cdef uint64_t status
    r.rcx = 0
    r.rdx = 0
    status = td_lock(c, s, tdr_pa, False, OP_RDX, k)
    if status != TDX_SUCCESS:
        return status
    status = td_ready(k)
    if status == TDX_SUCCESS:
        status = op_state_lock(c, s, k, ops)
    if status == TDX_SUCCESS:
        status = gpa_decode(k, rcx, lowest, highest)
    if status == TDX_SUCCESS:
        status = tree_lock(c, k, tree_excl)
    if status == TDX_SUCCESS:
        status = sept_find(c, s, k, r)
    if status != TDX_SUCCESS:
        call_leave(c, s, k)
    return status


cdef void call_leave(Cpu *c, Seam *s, Call *k) noexcept nogil:
    """Gives back whatever the call still holds."""
    if k.held & HELD_ENTRY:
        entry_unlock(c, s, k.ep)
    if k.held & HELD_TREE_EXCL:
        sharex_put_excl(c, &k.td.tree_lock)
    elif k.held & HELD_TREE_SHARED:
        sharex_put_shared(c, &k.td.tree_lock)
    if k.held & HELD_OP_STATE:
        hp_put_shared(c, s, &k.td.op_lock)
    if k.held & (HELD_TDR_SHARED | HELD_TDR_EXCL):
        page_unlock(c, s, &k.tdr)
    k.held = 0


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
