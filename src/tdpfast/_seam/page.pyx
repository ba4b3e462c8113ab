# cython: language_level=3
"""Guest pages: ADD, AUG, REMOVE, RELOCATE.

Every function here may yield; what a call holds is given back when it returns.
"""

from libc.string cimport memcpy

from tdpfast._names cimport (
    SYNC_TRY_EXCL, TDH_MEM_PAGE_ADD, TDH_MEM_PAGE_AUG, TDH_MEM_PAGE_RELOCATE, TDH_MEM_PAGE_REMOVE,
)
from tdpfast._sync.atomic cimport tdp_fetch_add, tdp_fetch_or, tdp_read_once
from tdpfast._seam.defs cimport *
from tdpfast._seam.leaf cimport *
from tdpfast._seam.locks cimport *
from tdpfast._seam.state cimport *
from tdpfast._seam.steps cimport *
from tdpfast._seam.l2 cimport l2_alias_free, l2_alias_move
from tdpfast._seam.mr cimport mr_page_add
from tdpfast._sync.cpu cimport sync_point

cdef Leaf *row


cdef uint64_t tdh_mem_page_add(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX GPA, RDX TDR, R8 page, R9 source page. The TDR is held exclusive and stands for all the other locks.
    Leaf 2, version 0."""
    cdef int at = sept_walk(c, s, k.td.root[0], k.gpa, k.td.levels - 1, 0, &k.ep, &k.entry)
    if at != 0:
        regs_entry(r, k.entry, at)
        return TDX_EPT_WALK_FAILED | OP_RCX
    k.entry = tdp_read_once(k.ep) & ~(SEPT_TDEL | SEPT_TDHP)
    if not sept_flags(k.entry) & ST_PAGE_ADD:
        return fail_entry(k, r, TDX_EPT_ENTRY_STATE_INCORRECT | OP_RCX)
    return page_add_copy(c, s, k, r)

row = td_leaf(TDH_MEM_PAGE_ADD, tdh_mem_page_add, TDR_IN_RDX, HOLD_EXCL, WANTS_TDCS, OPS_FOR_BUILD, 4)
row.lowest = row.highest = 0
row.zeroed = IN_RCX | IN_RDX
row.flags = LEAF_R8_PAGE


cdef uint64_t page_add_copy(Cpu *c, Seam *s, Call *k, SeamRegs *r) noexcept nogil:
    cdef PageHold page
    cdef uint64_t status
    if r.r9 & 0xfff or r.r9 >> 52 or is_private_hkid(s, r.r9) or s.seamrr_start <= r.r9 < s.seamrr_end:
        return TDX_OPERAND_INVALID | OP_R9
    status = page_lock_new(c, s, r.r8, 0, OP_R8, &page)
    if status != TDX_SUCCESS:
        return status
    sync_point(c, SYNC_TRY_EXCL, <uint64_t>k.ep)
    undo_word(s, k.ep)
    if tdp_fetch_or(k.ep, SEPT_TDEL) & SEPT_TDEL:
        status = SEAM_MODULE_HALT      # nobody else can hold it: the TDR is exclusive
    else:
        pamt_set(s, page.leaf, PT_REG, k.td.tdr_pa)
        page.leaf.content = <uint32_t>(r.r9 >> 12) | 1
        copy_source(s, r.r9, r.r8, page.leaf)
        mr_page_add(k.td, k.gpa)
        tdp_fetch_add(&k.td.chldcnt, 1)
        entry_write_unlock(c, s, k.ep, r.r8 | SEPT_LEAF_BITS | SEPT_RWX)
    page_unlock(c, s, &page)
    return status


cdef void copy_source(Seam *s, uint64_t pa, uint64_t hpa, PamtEntry *e) noexcept nogil:
    """The bytes of a source page that the VMM wrote; of others the page only has the content's id."""
    cdef uint64_t *words = host_words(s, pa)
    cdef uint64_t *page = page_memory(s, hpa)
    if words != NULL:
        undo_page(s, page)
        memcpy(page, words, 4096)
        e.flags |= PAMT_BYTES


cdef inline bint is_private_hkid(Seam *s, uint64_t pa) noexcept nogil:
    return ((pa & s.hkid_bits) >> s.hkid_shift) >= <uint64_t>s.hkid_private


cdef uint64_t tdh_mem_page_aug(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX GPA|level (4K or 2M), RDX TDR, R8 page. The page becomes PENDING. Leaf 6, version 0."""
    cdef PageHold page
    cdef uint64_t status = page_lock_new(c, s, r.r8, k.level, OP_R8, &page)
    if status != TDX_SUCCESS:
        return status
    pamt_set(s, page.leaf, PT_REG, k.td.tdr_pa)
    tdp_fetch_add(&k.td.chldcnt, <uint64_t>1 << (9 * k.level))
    entry_commit(c, s, k, r.r8 | SEPT_LEAF_BITS | SEPT_TDP)
    page_unlock(c, s, &page)
    return TDX_SUCCESS

row = mem_leaf(TDH_MEM_PAGE_AUG, tdh_mem_page_aug, 0, OPS_FOR_AUG, 0, 1, TREE_SHARED, ST_PAGE_AUG, 3)
row.flags = LEAF_R8_PAGE | LEAF_R8_SIZED


cdef uint64_t tdh_mem_page_remove(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX GPA|level, RDX TDR. Success: RCX the freed page. Leaf 29, version 0."""
    cdef PamtEntry *page
    cdef uint64_t status
    k.entry = entry_clean(k.entry, k.level)
    page = entry_pamt(s, k.entry, k.level)
    if not hp_try_excl(c, s, &page.lock):
        return TDX_OPERAND_BUSY | OP_RCX
    status = blocked_and_tracked(c, s, k, page, r)
    if status == TDX_SUCCESS:
        if k.entry & SEPT_TDAL:
            l2_alias_free(c, s, k)
        pamt_free(s, page)
        tdp_fetch_add(&k.td.chldcnt, -(<uint64_t>1 << (9 * k.level)))
        entry_commit(c, s, k, SEPT_REMOVED if (OPS_IMPORTING >> k.td.op_state) & 1 else SEPT_FREE)
        r.rcx = leaf_page(k.entry, k.level)
    hp_put_excl(c, s, &page.lock)
    return status

mem_leaf(TDH_MEM_PAGE_REMOVE, tdh_mem_page_remove, 0, OPS_FOR_REMOVE, 0, 2, TREE_SHARED, ST_PAGE_REMOVE, 2)


cdef inline uint64_t leaf_page(uint64_t entry, int level) noexcept nogil:
    """HPA of a leaf; the low bits of a 2M entry may hold what is left of the progress of an ACCEPT."""
    return entry & SEPT_HPA & ~(level_size(level) - 1)


cdef uint64_t tdh_mem_page_relocate(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX GPA, RDX TDR, R8 new page. Success: RCX the old page; the entry is unblocked. Leaf 5, version 0."""
    cdef PamtEntry *old
    cdef PageHold page
    cdef uint64_t status
    if r.r8 == k.entry & SEPT_HPA:
        return TDX_OPERAND_INVALID | OP_R8
    old = entry_pamt(s, k.entry, 0)
    if not hp_try_excl(c, s, &old.lock):
        return TDX_OPERAND_BUSY | OP_RCX
    status = blocked_and_tracked(c, s, k, old, r)
    if status == TDX_SUCCESS:
        status = page_lock_new(c, s, r.r8, 0, OP_R8, &page)
    if status == TDX_SUCCESS:
        relocate_commit(c, s, k, r, old, &page)
        page_unlock(c, s, &page)
    hp_put_excl(c, s, &old.lock)
    return status

row = mem_leaf(TDH_MEM_PAGE_RELOCATE, tdh_mem_page_relocate, 0, OPS_FOR_CHANGE, 0, 0, TREE_SHARED, ST_RELOCATE, 3)
row.flags = LEAF_R8_PAGE


cdef void move_bytes(Seam *s, uint64_t to, uint64_t hpa, PamtEntry *e) noexcept nogil:
    cdef uint64_t *page = page_memory(s, to)
    undo_page(s, page)
    memcpy(page, table_named(s, hpa), 4096)
    e.flags |= PAMT_BYTES


cdef void relocate_commit(Cpu *c, Seam *s, Call *k, SeamRegs *r, PamtEntry *old, PageHold *page) noexcept nogil:
    cdef uint64_t entry = (k.entry & ~(SEPT_HPA | SEPT_TDB)) | r.r8
    pamt_set(s, page.leaf, PT_REG, k.td.tdr_pa)
    if not entry & SEPT_TDP:
        page.leaf.content = old.content
        if old.flags & PAMT_BYTES:
            move_bytes(s, r.r8, k.entry & SEPT_HPA, page.leaf)
        if sept_flags(k.entry) & ST_BLOCKED:
            entry |= SEPT_RWX
    pamt_free(s, old)
    if entry & SEPT_TDAL:
        l2_alias_move(c, s, k, r.r8)
    r.rcx = k.entry & SEPT_HPA
    entry_commit(c, s, k, entry)
