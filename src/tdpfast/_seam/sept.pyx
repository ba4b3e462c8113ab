# cython: language_level=3
"""S-EPT pages and ranges: ADD, RD, REMOVE, BLOCK, UNBLOCK, and TLB tracking.

Every function here may yield; what a call holds is given back when it returns.
"""

from tdpfast._names cimport (
    TDH_MEM_RANGE_BLOCK, TDH_MEM_RANGE_UNBLOCK, TDH_MEM_SEPT_ADD, TDH_MEM_SEPT_RD, TDH_MEM_SEPT_REMOVE, TDH_MEM_TRACK,
)
from tdpfast._sync.atomic cimport tdp_fetch_add, tdp_write_once
from tdpfast._seam.defs cimport *
from tdpfast._seam.leaf cimport *
from tdpfast._seam.locks cimport *
from tdpfast._seam.state cimport *
from tdpfast._seam.steps cimport *
from tdpfast._seam.l2 cimport (
    l2_add_pages, l2_alias_block, l2_alias_unblock, l2_attributes, l2_remove_pages,
)
from tdpfast._sync.cpu cimport sync_load, sync_store

cdef Leaf *row

cdef enum:
    ALLOW_EXISTING = 1


cdef uint64_t tdh_mem_sept_add(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX GPA|level, RDX TDR|ALLOW_EXISTING, R8 page, R9..R11 pages for the L2 VMs (version 1).
    Version 1 returns in R8..R11, whatever its status, which pages are still wanted. Leaf 3, versions 0 and 1."""
    cdef uint64_t status = sept_add_pages(c, s, k, r, k.version, k.rdx & ALLOW_EXISTING)
    if status == TDX_INTERRUPTED_RESUMABLE:
        r.rcx = k.rcx
        r.rdx = k.rdx
    return status

row = mem_leaf(TDH_MEM_SEPT_ADD, tdh_mem_sept_add, 1, OPS_FOR_SEPT_ADD, 1, TO_ROOT, TREE_SHARED, ST_SEPT_ADD, 3)
row.options = ALLOW_EXISTING
row.flags = LEAF_NO_ALIAS_BIT | LEAF_R8_PAGE


cdef uint64_t sept_add_pages(Cpu *c, Seam *s, Call *k, SeamRegs *r, uint64_t version, bint existing) noexcept nogil:
    """Adds the L1 page unless there is one, then the L2 pages. The entry is locked."""
    cdef PageHold page
    cdef uint64_t status
    cdef bint given = r.r8 != <uint64_t>-1
    cdef bint fresh = sept_enc(k.entry) == ENC_FREE
    page.leaf = page.p2m = page.p1g = NULL
    if not given and version == 0:
        return TDX_OPERAND_INVALID | OP_R8
    if given and fresh:
        status = page_lock_new(c, s, r.r8 & ~SEPT_SVE, 0, OP_R8, &page)
        if status != TDX_SUCCESS:
            return status
    elif fresh or (given and not existing):
        regs_entry(r, k.entry, k.level)
        return TDX_EPT_ENTRY_STATE_INCORRECT | OP_RCX
    elif given and version:
        r.r8 |= SEPT_SVE
    return l2_add_pages(c, s, k, r, version, existing, &page)


cdef uint64_t tdh_mem_sept_rd(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX GPA|level, RDX TDR, bit 0: read the L2 attributes too. Success: RCX entry, RDX level and state.
    Leaf 25, version 0."""
    regs_entry(r, k.entry, k.level)
    if k.rdx & 1:
        r.r8 = l2_attributes(c, s, k)
    return TDX_SUCCESS

row = mem_leaf(TDH_MEM_SEPT_RD, tdh_mem_sept_rd, 0, OPS_FOR_READ, 0, TO_ROOT, TREE_SHARED, 0, 2)
row.options = 1
row.flags = LEAF_DEBUG_BIT


cdef uint64_t tdh_mem_sept_remove(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX GPA|level, RDX TDR. Success: RCX the freed page (version 1: R9..R11 those of the L2 VMs).
    Leaf 30, versions 0 and 1."""
    cdef PamtEntry *page = pamt_named(s, k.entry & SEPT_HPA, 0)
    cdef uint64_t *table
    cdef uint64_t status
    cdef int i
    if not hp_try_excl(c, s, &page.lock):
        return TDX_OPERAND_BUSY | OP_RCX
    status = blocked_and_tracked(c, s, k, page, r)
    if status == TDX_SUCCESS:
        table = table_named(s, k.entry & SEPT_HPA)
        for i in range(512):
            if sept_enc(sync_load(c, &table[i])) != ENC_FREE:
                status = fail_entry(k, r, TDX_EPT_PAGE_NOT_FREE | OP_RCX)
                break
    if status == TDX_SUCCESS:
        status = l2_remove_pages(c, s, k, r, k.version)
    if status == TDX_SUCCESS:
        pamt_free(s, page)
        tdp_fetch_add(&k.td.chldcnt, <uint64_t>-1)
        entry_commit(c, s, k, SEPT_FREE)
        r.rcx = k.entry & SEPT_HPA
    hp_put_excl(c, s, &page.lock)
    return status

row = mem_leaf(TDH_MEM_SEPT_REMOVE, tdh_mem_sept_remove, 1, OPS_FOR_READ, 1, TO_ROOT, TREE_EXCL, ST_SEPT_REMOVE, 2)
row.nulled = IN_R9 | IN_R10 | IN_R11


cdef uint64_t tdh_mem_range_block(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX GPA|level, RDX TDR. The entry loses its permissions; the page's BEPOCH becomes the TD's epoch.
    Leaf 7, version 0."""
    cdef uint64_t entry = (entry_clean(k.entry, k.level) & ~(SEPT_RWX | SEPT_TDBW)) | SEPT_TDB
    cdef PamtEntry *page
    if entry & SEPT_TDAL:
        l2_alias_block(c, s, k)
    page = entry_pamt(s, entry, k.level)
    pamt_touch(s, page)
    tdp_write_once(&page.bepoch, sync_load(c, &k.td.td_epoch))
    entry_commit(c, s, k, entry)
    return TDX_SUCCESS

mem_leaf(TDH_MEM_RANGE_BLOCK, tdh_mem_range_block, 0, OPS_FOR_CHANGE, 0, TO_ROOT, TREE_EXCL, ST_BLOCK, 2)


cdef uint64_t tdh_mem_range_unblock(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX GPA|level, RDX TDR. BEPOCH stays as it is. Leaf 39, version 0."""
    cdef PamtEntry *page = entry_pamt(s, k.entry, k.level)
    cdef uint64_t entry
    if blocked_and_tracked(c, s, k, page, r) != TDX_SUCCESS:
        return TDX_TLB_TRACKING_NOT_DONE | OP_SEPT_TREE
    entry = k.entry & ~SEPT_TDB
    if not entry & SEPT_TDP:
        entry |= SEPT_RWX
    if entry & SEPT_TDAL:
        l2_alias_unblock(c, s, k)
    entry_commit(c, s, k, entry)
    return TDX_SUCCESS

mem_leaf(TDH_MEM_RANGE_UNBLOCK, tdh_mem_range_unblock, 0, OPS_FOR_CHANGE, 0, TO_ROOT, TREE_EXCL, ST_UNBLOCK, 2)


cdef uint64_t tdh_mem_track(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX TDR. A new TLB epoch, once nobody is left from the one before the current. Registers stay.
    Leaf 38, version 0."""
    cdef uint64_t status = TDX_SUCCESS
    cdef uint64_t epoch
    if not sharex_try_excl(c, &k.td.epoch_lock):
        return TDX_OPERAND_BUSY | OP_TD_EPOCH
    epoch = sync_load(c, &k.td.td_epoch)
    if sync_load(c, &k.td.refcount[1 - (epoch & 1)]) != 0:
        status = TDX_PREVIOUS_TLB_EPOCH_BUSY
    else:
        sync_store(c, &k.td.td_epoch, epoch + 1)
    sharex_put_excl(c, &k.td.epoch_lock)
    return status

td_leaf(TDH_MEM_TRACK, tdh_mem_track, TDR_IN_RCX, HOLD_SHARED, WANTS_TDCS, OPS_FOR_TRACK, 1)
