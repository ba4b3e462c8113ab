# cython: language_level=3
"""Physical pages: RECLAIM, RDMD, WBINVD, and the cache write-back of flushed HKIDs.

Every function here may yield, and holds no lock when it returns.
"""

from tdpfast._names cimport (
    TDH_PHYMEM_CACHE_WB, TDH_PHYMEM_PAGE_RDMD, TDH_PHYMEM_PAGE_RECLAIM, TDH_PHYMEM_PAGE_WBINVD,
)
from tdpfast._sync.atomic cimport tdp_fetch_add, tdp_load_seq, tdp_read_once
from tdpfast._seam.defs cimport *
from tdpfast._seam.leaf cimport *
from tdpfast._seam.locks cimport *
from tdpfast._seam.state cimport *
from tdpfast._seam.steps cimport *


cdef void regs_page(SeamRegs *r, PageHold *h) noexcept nogil:
    r.rcx = h.leaf.pt
    r.rdx = h.leaf.owner if h.leaf.pt != PT_TDR else 0
    r.r8 = <uint64_t>h.size


cdef enum:
    ALL = IN_RCX | IN_RDX | IN_R8 | IN_R9 | IN_R10 | IN_R11
    WB_PARTS = 4


cdef uint64_t page_operand(Cpu *c, Seam *s, uint64_t hpa, bint excl, PageHold *h) noexcept nogil:
    """A 4K page in RCX, whatever it is used for: address checks, then its PAMT lock. May yield. Nothing is held on
    failure."""
    cdef uint64_t status = leaf_pa_check(s, hpa, OP_RCX)
    if status != TDX_SUCCESS:
        return status
    return page_lock(c, s, hpa, 0, excl, OP_RCX, h)


cdef uint64_t tdh_phymem_page_reclaim(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX page. A page of a TD in teardown becomes free. RCX type, RDX owner, R8 size even when it fails late.
    Leaf 28, version 0."""
    cdef PageHold h
    cdef uint64_t hpa = k.rcx
    cdef uint64_t status
    status = page_operand(c, s, hpa, True, &h)
    if status != TDX_SUCCESS:
        return status
    if h.leaf.pt == PT_NDA or h.leaf.pt == PT_RSVD:
        page_unlock(c, s, &h)
        return TDX_PAGE_METADATA_INCORRECT | OP_RCX
    regs_page(r, &h)
    if hpa & (level_size(h.size) - 1):
        status = TDX_OPERAND_INVALID | OP_RCX
    elif h.leaf.pt == PT_TDR:
        status = reclaim_tdr(s, h.leaf)
    else:
        status = reclaim_page(c, s, &h)
    page_unlock(c, s, &h)
    return status

page_leaf(TDH_PHYMEM_PAGE_RECLAIM, tdh_phymem_page_reclaim, 1, ALL, 0)


cdef uint64_t reclaim_tdr(Seam *s, PamtEntry *e) noexcept nogil:
    cdef Td *td
    if e.ref == 0:
        return TDX_LIFECYCLE_STATE_INCORRECT
    td = &s.td[e.ref - 1]
    if td.lifecycle != TD_TEARDOWN:
        return TDX_LIFECYCLE_STATE_INCORRECT
    if tdp_load_seq(&td.chldcnt) != 0:
        return TDX_TD_ASSOCIATED_PAGES_EXIST
    pamt_free(s, e)
    e.ref = 0
    td.used = 0
    return TDX_SUCCESS


cdef uint64_t reclaim_page(Cpu *c, Seam *s, PageHold *h) noexcept nogil:
    cdef PamtEntry *tdr = pamt_entry(s, h.leaf.owner, 0)
    cdef uint64_t status = TDX_SUCCESS
    cdef Td *td
    if tdr == NULL or tdr.pt != PT_TDR or tdr.ref == 0:
        return TDX_LIFECYCLE_STATE_INCORRECT
    if not hp_try_shared(c, s, &tdr.lock):
        return TDX_OPERAND_BUSY | OP_TDR
    td = &s.td[tdr.ref - 1]
    if td.lifecycle != TD_TEARDOWN:
        status = TDX_LIFECYCLE_STATE_INCORRECT
    else:
        tdp_fetch_add(&td.chldcnt, -(<uint64_t>1 << (9 * h.size)))
        if h.leaf.pt == PT_TDVPR and h.leaf.ref != 0:
            s.vp[h.leaf.ref - 1].used = 0
        pamt_free(s, h.leaf)
        h.leaf.ref = 0
    hp_put_shared(c, s, &tdr.lock)
    return status


cdef uint64_t tdh_phymem_page_rdmd(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX page. RCX type, RDX owner, R8 size, R9 BEPOCH of guest and S-EPT pages. Leaf 24, version 0."""
    cdef PageHold h
    cdef uint64_t hpa = k.rcx
    cdef uint64_t status
    status = page_operand(c, s, hpa, False, &h)
    if status != TDX_SUCCESS:
        return status
    regs_page(r, &h)
    if h.leaf.pt == PT_REG or h.leaf.pt == PT_EPT:
        r.r9 = tdp_read_once(&h.leaf.bepoch)
    page_unlock(c, s, &h)
    return TDX_SUCCESS

page_leaf(TDH_PHYMEM_PAGE_RDMD, tdh_phymem_page_rdmd, 1, ALL, 0)


cdef uint64_t tdh_phymem_page_wbinvd(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX page, with or without HKID. Only a free 4K page can be written back. Registers stay. Leaf 41, version 0."""
    cdef PageHold h
    cdef uint64_t hpa = r.rcx & ~s.hkid_bits
    cdef uint64_t status
    status = page_operand(c, s, hpa, False, &h)
    if status != TDX_SUCCESS:
        return status
    if h.leaf.pt != PT_NDA or h.size != 0:
        status = TDX_PAGE_METADATA_INCORRECT | OP_RCX
    page_unlock(c, s, &h)
    return status

page_leaf(TDH_PHYMEM_PAGE_WBINVD, tdh_phymem_page_wbinvd, 1, 0, 0)


cdef bint wb_wanted(const Seam *s) noexcept nogil:
    """Some HKID is flushed, written back or not."""
    cdef int i
    for i in range(SEAM_HKIDS):
        if s.kot[i] == KOT_FLUSHED or s.kot[i] == KOT_WRITTEN_BACK:
            return True
    return False


cdef uint64_t wb_run(Cpu *c, Seam *s, bint resume) noexcept nogil:
    """Writes back the caches, a part at a time; with an interrupt pending it stops after one."""
    cdef uint64_t part = s.wb_next if resume else 0
    cdef int i
    if resume and s.wb_next == 0:
        return TDX_WBCACHE_RESUME_ERROR
    if not resume:
        s.wb_next = 0
        if not wb_wanted(s):
            return TDX_NO_HKID_READY_TO_WBCACHE
        s.wb_hkids = 0
        for i in range(SEAM_HKIDS):
            if s.kot[i] == KOT_FLUSHED:
                s.wb_hkids |= <uint64_t>1 << i
    while part < WB_PARTS:
        part += 1
        if part < WB_PARTS and interrupt_pending(s, c):
            s.wb_next = part
            return TDX_INTERRUPTED_RESUMABLE
    s.wb_next = 0
    for i in range(SEAM_HKIDS):
        if (s.wb_hkids >> i) & 1 and s.kot[i] == KOT_FLUSHED:
            s.kot[i] = KOT_WRITTEN_BACK
    return TDX_SUCCESS


cdef uint64_t tdh_phymem_cache_wb(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX 0 starts anew, 1 resumes what an interrupt ended. Writes back the caches of every HKID that is flushed when
    it starts; there is one package. Leaf 40, version 0."""
    cdef uint64_t status
    if r.rcx > 1:
        return TDX_OPERAND_INVALID | OP_RCX
    if not sharex_try_excl(c, &s.wbcache_lock):
        return TDX_OPERAND_BUSY | OP_WBCACHE
    if not sharex_try_shared(c, &s.kot_lock):
        sharex_put_excl(c, &s.wbcache_lock)
        return TDX_OPERAND_BUSY | OP_KOT
    status = wb_run(c, s, r.rcx == 1)
    sharex_put_shared(c, &s.kot_lock)
    sharex_put_excl(c, &s.wbcache_lock)
    return status

page_leaf(TDH_PHYMEM_CACHE_WB, tdh_phymem_cache_wb, 1, 0, 0)
