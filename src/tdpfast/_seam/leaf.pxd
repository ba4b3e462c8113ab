"""One row for each leaf: what a call of it asks for before the leaf itself runs, and in which order, is said once.

A SEAMCALL's row says which register names the TD or VCPU, how that is locked, what the TD must be, which GPA, tree lock
and entry state the leaf wants; call_enter() takes these steps in the module's order. The families (page, sept, td, ...)
put their rows beside their functions; seamcall() runs them. Python sees them by seam_tables.leaf_row().
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from tdpfast._names cimport SeamLeaf
from tdpfast._seam.state cimport Seam, SeamRegs
from tdpfast._seam.steps cimport Call
from tdpfast._sync.cpu cimport Cpu

ctypedef uint64_t (*leaf_fn)(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil

cdef enum About:         # which register names whom the call is about
    ABOUT_NOBODY = 0
    TDR_IN_RCX
    TDR_IN_RDX
    TDVPR_IN_RCX
    TDVPR_IN_RDX

cdef enum Hold:          # how the page that it names is locked
    HOLD_SHARED = 0
    HOLD_EXCL            # a TDR: stands for all the other locks of its TD

cdef enum Wants:         # what the TD has to be
    WANTS_NOTHING = 0
    WANTS_KEYS           # not fatal, keys configured
    WANTS_TDCS           # and all its TDCS pages there

cdef enum Tree:          # the lock of the S-EPT
    TREE_NONE = 0
    TREE_SHARED
    TREE_EXCL

cdef enum:               # of gpa_decode(): RCX holds no GPA; down from the root
    NO_GPA = -1
    TO_ROOT = -1

cdef enum LeafFlag:
    LEAF_EARLY = 1           # runs before the module is ready
    LEAF_NO_ALIAS_BIT = 2    # version 1: bit 63 of the pages in R8..R11 means nothing on the way in
    LEAF_DEBUG_BIT = 4       # RDX bit 0 is for debug TDs alone
    LEAF_STATIC_PAMT = 8     # refused with dynamic PAMT
    LEAF_DYNAMIC_PAMT = 16   # refused without it
    LEAF_R8_PAGE = 32        # R8 is a page that the leaf is given
    LEAF_R8_SIZED = 64       # ... of the size that RCX says
    LEAF_RCX_RANGE = 128     # RCX is a range of 2M
    LEAF_UNRECORDED = 256    # no answer of the real module is at hand
    LEAF_LATER = 512         # not in module 1.5.01
    LEAF_QUIET_BUSY = 2048   # RCX and RDX say nothing of an entry that is busy
    LEAF_V1_EXCL = 1024      # version 1 takes the TDR of its TDVPR exclusive

cdef enum:               # registers, as sets
    IN_RCX = 1
    IN_RDX = 2
    IN_R8 = 4
    IN_R9 = 8
    IN_R10 = 16
    IN_R11 = 32

cdef struct Leaf:
    leaf_fn fn           # NULL: there is no such leaf
    uint32_t version     # the highest
    uint32_t flags       # LeafFlag
    int32_t about        # About
    int32_t hold         # Hold
    int32_t wants        # Wants
    uint64_t options     # bits beside the address in the register that names the TD or VCPU
    uint32_t ops         # set of OP_STATEs; 0: not looked at. Its lock is taken shared unless the TDR is exclusive
    int32_t lowest       # level of the GPA in RCX, or NO_GPA
    int32_t highest
    int32_t tree         # Tree; with a GPA the entry is found and locked
    uint32_t state       # ST_*: the entry states it takes; 0: it looks itself
    uint32_t zeroed      # registers that become 0, and from version 1 on -1, whatever comes of the call
    uint32_t nulled
    int32_t operands     # how many registers it is given

# ---- making rows: at import, by the families ----
cdef Leaf *leaf_row(int number) noexcept nogil
cdef Leaf *mem_leaf(SeamLeaf number, leaf_fn fn, int version, uint32_t ops, int lowest, int highest, Tree tree,
                    uint32_t state, int operands)
cdef Leaf *td_leaf(SeamLeaf number, leaf_fn fn, About about, Hold hold, Wants wants, uint32_t ops, int operands)
cdef Leaf *page_leaf(SeamLeaf number, leaf_fn fn, int operands, uint32_t zeroed, uint32_t flags)

# ---- running them ----
cdef uint64_t call_enter(Cpu *c, Seam *s, const Leaf *row, SeamRegs *r, Call *k) noexcept nogil
cdef void call_leave(Cpu *c, Seam *s, Call *k) noexcept nogil
