"""The steps leaves share: physical pages by their PAMT entries, walks of the S-EPT, TLB tracking. The order in which a
call takes them is its row's (leaf.pxd). Every function here that takes a Cpu may yield."""

from libc.stdint cimport int32_t, uint64_t

from tdpfast._seam.defs cimport *
from tdpfast._seam.locks cimport *
from tdpfast._seam.state cimport *
from tdpfast._sync.cpu cimport Cpu

cdef enum Held:
    HELD_TDR_SHARED = 1
    HELD_TDR_EXCL = 2
    HELD_OP_STATE = 4
    HELD_TREE_SHARED = 8
    HELD_TREE_EXCL = 16
    HELD_ENTRY = 32
    HELD_TDVPR = 64          # and its TDR's own PAMT entry, shared

cdef struct PageHold:    # a physical page looked up through the PAMT, and the locks that keeps
    PamtEntry *leaf      # NULL: nothing held
    PamtEntry *p2m
    PamtEntry *p1g
    int32_t size         # of leaf: 0 4K, 1 2M, 2 1G
    bint excl

cdef struct Call:        # one SEAMCALL or TDCALL, as far as it got
    Td *td               # NULL: a TDR that was never created
    Vp *vp               # NULL: none is named, or a TDVPR that was never created
    PageHold tdr
    PageHold tdvpr
    uint64_t rcx         # registers as the caller left them
    uint64_t rdx
    uint64_t r8
    uint64_t version
    uint64_t gpa
    uint64_t *ep         # S-EPT entry found
    uint64_t entry       # its value, without lock and host-priority bits
    int32_t level
    uint32_t held

cdef inline uint64_t regs_version(const SeamRegs *r) noexcept nogil:
    return r.rax >> 16

cdef inline uint64_t leaf_pa_check(Seam *s, uint64_t pa, uint64_t opid) noexcept nogil:
    if pa & (s.pa_reserved | 0xfff):
        return TDX_OPERAND_INVALID | opid
    return TDX_SUCCESS

# ---- physical pages ----
cdef uint64_t page_lock(Cpu *c, Seam *s, uint64_t hpa, int size, bint excl, uint64_t opid,
                        PageHold *h) noexcept nogil
cdef void page_unlock(Cpu *c, Seam *s, PageHold *h) noexcept nogil
cdef int small_page_used(Cpu *c, const PamtEntry *small, bint strict) noexcept nogil
cdef uint64_t page_lock_new(Cpu *c, Seam *s, uint64_t hpa, int size, uint64_t opid, PageHold *h) noexcept nogil

# ---- the S-EPT ----
cdef uint64_t gpa_decode(Call *k, uint64_t rcx, int lowest, int highest) noexcept nogil
cdef int sept_walk(Cpu *c, Seam *s, uint64_t *root, uint64_t gpa, int top, int level, uint64_t **ep,
                   uint64_t *entry) noexcept nogil
cdef int sept_leaf(Cpu *c, Seam *s, Td *td, uint64_t gpa, uint64_t **ep, uint64_t *entry) noexcept nogil
cdef void regs_entry(SeamRegs *r, uint64_t entry, int level) noexcept nogil
cdef PamtEntry *entry_pamt(Seam *s, uint64_t entry, int level) noexcept nogil
cdef uint64_t blocked_and_tracked(Cpu *c, Seam *s, Call *k, PamtEntry *page, SeamRegs *r) noexcept nogil

cdef inline uint64_t fail_entry(Call *k, SeamRegs *r, uint64_t status) noexcept nogil:
    """The status; RCX and RDX describe the entry."""
    regs_entry(r, k.entry, k.level)
    return status

cdef inline void entry_commit(Cpu *c, Seam *s, Call *k, uint64_t v) noexcept nogil:
    """The call's entry gets its new value, and its lock is given back."""
    entry_write_unlock(c, s, k.ep, v)
    k.held &= ~<uint32_t>HELD_ENTRY
