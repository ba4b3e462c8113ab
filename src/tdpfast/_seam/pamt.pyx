# cython: language_level=3
"""Dynamic PAMT: the 4K entries of a 2M range live in a pair of pages that the VMM adds and takes back.

An option of the module (SYS.CONFIG R8 bit 16): without it both leaves answer OPERAND_INVALID. With it, a leaf that
takes a new 4K page answers TDX_MISSING_PAMT_PAGE_PAIR for a range without a pair, and DEMOTE and PROMOTE, which would
move a pair themselves, are refused: they are not modelled. A pair's pages count as used by nobody else (PAMT_PAGE).

Newer modules of the 1.5 line have it; nothing here is backed by recorded answers.
Every function here may yield, and holds no lock when it returns.
"""

from tdpfast._names cimport TDH_PHYMEM_PAMT_ADD, TDH_PHYMEM_PAMT_REMOVE
from tdpfast._sync.atomic cimport tdp_fetch_and, tdp_fetch_or
from tdpfast._seam.defs cimport *
from tdpfast._seam.leaf cimport *
from tdpfast._seam.locks cimport *
from tdpfast._seam.state cimport *
from tdpfast._seam.steps cimport *


cdef inline uint64_t flag_bits(int flag) noexcept nogil:
    """PamtEntry.flags as bits of the entry's last word, which is how it is set atomically."""
    return <uint64_t>flag << 56


cdef inline uint64_t *flag_word(PamtEntry *e) noexcept nogil:
    return <uint64_t *>e + 3


cdef uint64_t range_lock(Cpu *c, Seam *s, SeamRegs *r, PageHold *h) noexcept nogil:
    """The 2M range RCX names (HPA | 1), locked exclusive."""
    cdef uint64_t hpa = r.rcx & ~<uint64_t>0xfff
    if r.rcx & 0xfff != 1 or hpa & (s.pa_reserved | (level_size(1) - 1)):
        return TDX_OPERAND_INVALID | OP_RCX
    return page_lock(c, s, hpa, 1, True, OP_RCX, h)


cdef uint64_t pair_page_check(Seam *s, uint64_t hpa, uint64_t opid) noexcept nogil:
    cdef uint64_t status = leaf_pa_check(s, hpa, opid)
    if status == TDX_SUCCESS and pamt_entry(s, hpa, 0) == NULL:
        return TDX_OPERAND_ADDR_RANGE_ERROR | opid
    return status


cdef uint64_t pair_page_take(Cpu *c, Seam *s, uint64_t hpa, uint64_t range_hpa, uint64_t opid) noexcept nogil:
    """Marks a page as one of a pair; TDX_PAGE_NOT_FREE if it has another use."""
    cdef PageHold h
    cdef PamtEntry *e = pamt_entry(s, hpa, 0)
    cdef bint other = hpa >> 21 != range_hpa >> 21       # the range itself is locked already
    cdef uint64_t status = TDX_SUCCESS
    if other:
        status = page_lock(c, s, hpa, 0, False, opid, &h)
        if status != TDX_SUCCESS:
            return status
        if h.leaf.pt != PT_NDA:
            status = TDX_PAGE_NOT_FREE | opid
    if status == TDX_SUCCESS:
        pamt_touch(s, e)
        if tdp_fetch_or(flag_word(e), flag_bits(PAMT_PAGE)) & flag_bits(PAMT_PAGE):
            status = TDX_PAGE_NOT_FREE | opid
    if other:
        page_unlock(c, s, &h)
    return status


cdef void pair_page_drop(Seam *s, uint64_t hpa) noexcept nogil:
    cdef PamtEntry *e = pamt_entry(s, hpa, 0)
    pamt_touch(s, e)
    tdp_fetch_and(flag_word(e), ~flag_bits(PAMT_PAGE))


cdef uint64_t add_pair(Cpu *c, Seam *s, SeamRegs *r, PageHold *h) noexcept nogil:
    cdef uint64_t status
    if h.size != 1 or h.leaf.pt != PT_NDA:
        return TDX_HPA_RANGE_NOT_FREE | OP_RCX
    status = pair_page_take(c, s, r.rdx, r.rcx, OP_RDX)
    if status != TDX_SUCCESS:
        return status
    status = pair_page_take(c, s, r.r8, r.rcx, OP_R8)
    if status != TDX_SUCCESS:
        pair_page_drop(s, r.rdx)
        return status
    pamt_touch(s, h.leaf)
    h.leaf.pt = PT_PAMT
    h.leaf.owner = r.rdx
    h.leaf.bepoch = r.r8
    return TDX_SUCCESS


cdef uint64_t tdh_phymem_pamt_add(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX 2M range | 1, RDX and R8 the page pair. Leaf 58, version 0."""
    cdef PageHold h
    cdef uint64_t status
    h.leaf = h.p2m = h.p1g = NULL
    if r.rcx & 0xfff == 1:
        status = pair_page_check(s, r.rdx, OP_RDX)
        if status == TDX_SUCCESS:
            status = pair_page_check(s, r.r8, OP_R8)
        if status != TDX_SUCCESS:
            return status
    status = range_lock(c, s, r, &h)
    if status == TDX_SUCCESS:
        status = add_pair(c, s, r, &h)
        page_unlock(c, s, &h)
    return status

page_leaf(TDH_PHYMEM_PAMT_ADD, tdh_phymem_pamt_add, 3, 0,
          LEAF_DYNAMIC_PAMT | LEAF_RCX_RANGE | LEAF_LATER | LEAF_UNRECORDED)


cdef uint64_t remove_pair(Cpu *c, Seam *s, SeamRegs *r, PageHold *h) noexcept nogil:
    cdef int used
    if h.size != 1 or h.leaf.pt != PT_PAMT:
        return TDX_NO_PAMT_PAGE_PAIR | OP_RCX
    used = small_page_used(c, pamt_entry(s, r.rcx & ~<uint64_t>0xfff, 0), False)
    if used >= 0:
        return TDX_PAMT_PAGE_NOT_EMPTY | <uint64_t>(used >> 8)
    r.rdx = h.leaf.owner
    r.r8 = h.leaf.bepoch
    pair_page_drop(s, r.rdx)
    pair_page_drop(s, r.r8)
    pamt_touch(s, h.leaf)
    h.leaf.pt = PT_NDA
    h.leaf.owner = h.leaf.bepoch = 0
    return TDX_SUCCESS


cdef uint64_t tdh_phymem_pamt_remove(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX 2M range | 1. Success: RDX and R8 the page pair. Leaf 59, version 0."""
    cdef PageHold h
    cdef uint64_t status
    h.leaf = h.p2m = h.p1g = NULL
    status = range_lock(c, s, r, &h)
    if status == TDX_SUCCESS:
        status = remove_pair(c, s, r, &h)
        page_unlock(c, s, &h)
    return status

page_leaf(TDH_PHYMEM_PAMT_REMOVE, tdh_phymem_pamt_remove, 1, 0,
          LEAF_DYNAMIC_PAMT | LEAF_RCX_RANGE | LEAF_LATER | LEAF_UNRECORDED)
