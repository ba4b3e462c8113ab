# cython: language_level=3
"""The rows of the leaves, and the steps that a row asks for (see leaf.pxd)."""

from tdpfast._names cimport SEAM_LEAVES
from tdpfast._sync.atomic cimport tdp_unlikely
from tdpfast._seam.defs cimport *
from tdpfast._seam.locks cimport *
from tdpfast._seam.state cimport *
from tdpfast._seam.steps cimport *

cdef Leaf rows[SEAM_LEAVES]


cdef Leaf *leaf_row(int number) noexcept nogil:
    """The row of a number below SEAM_LEAVES."""
    return &rows[number]


cdef Leaf *leaf_new(SeamLeaf number, leaf_fn fn, int operands):
    cdef Leaf *row = &rows[<int>number]
    row.fn = fn
    row.lowest = NO_GPA
    row.operands = operands
    return row


cdef Leaf *mem_leaf(SeamLeaf number, leaf_fn fn, int version, uint32_t ops, int lowest, int highest, Tree tree,
                    uint32_t state, int operands):
    """A leaf on a GPA (RCX) of a TD (RDX) whose entry is found and locked; RCX and RDX come back with what it was."""
    cdef Leaf *row = td_leaf(number, fn, TDR_IN_RDX, HOLD_SHARED, WANTS_TDCS, ops, operands)
    row.version = version
    row.lowest = lowest
    row.highest = highest
    row.tree = tree
    row.state = state
    row.zeroed = IN_RCX | IN_RDX
    return row


cdef Leaf *td_leaf(SeamLeaf number, leaf_fn fn, About about, Hold hold, Wants wants, uint32_t ops, int operands):
    """A leaf on a TD or VCPU as a whole."""
    cdef Leaf *row = leaf_new(number, fn, operands)
    row.about = about
    row.hold = hold
    row.wants = wants
    row.ops = ops
    return row


cdef Leaf *page_leaf(SeamLeaf number, leaf_fn fn, int operands, uint32_t zeroed, uint32_t flags):
    """A leaf on a physical page or on the module itself: it looks at its operands alone."""
    cdef Leaf *row = leaf_new(number, fn, operands)
    row.zeroed = zeroed
    row.flags = flags
    return row


# ---- the TD -------------------------------------------------------------------------------------------------

cdef uint64_t td_lock(Cpu *c, Seam *s, uint64_t tdr_pa, bint excl, uint64_t opid, Call *k) noexcept nogil:
    """Checks and locks a TDR operand; k.td is NULL for a TDR that was never created. May yield."""
    cdef uint64_t status = leaf_pa_check(s, tdr_pa, opid)
    if status != TDX_SUCCESS:
        return status
    status = page_lock(c, s, tdr_pa, 0, excl, opid, &k.tdr)
    if status != TDX_SUCCESS:
        return status
    k.held = HELD_TDR_EXCL if excl else HELD_TDR_SHARED
    if k.tdr.leaf.pt != PT_TDR:
        return TDX_PAGE_METADATA_INCORRECT | opid
    if k.tdr.leaf.ref != 0:
        k.td = &s.td[k.tdr.leaf.ref - 1]
    return TDX_SUCCESS


cdef uint64_t vp_lock(Cpu *c, Seam *s, uint64_t tdvpr_pa, bint excl, bint tdr_excl, uint64_t opid,
                      Call *k) noexcept nogil:
    """Locks a TDVPR operand and its TDR's own PAMT entry. May yield."""
    cdef uint64_t status = leaf_pa_check(s, tdvpr_pa, opid)
    if status == TDX_SUCCESS:
        status = page_lock(c, s, tdvpr_pa, 0, excl, opid, &k.tdvpr)
    if status != TDX_SUCCESS:
        return status
    if k.tdvpr.leaf.pt != PT_TDVPR:
        page_unlock(c, s, &k.tdvpr)
        return TDX_PAGE_METADATA_INCORRECT | opid
    k.tdr.leaf = pamt_named(s, k.tdvpr.leaf.owner, 0)
    k.tdr.excl = tdr_excl
    if not (hp_try_excl(c, s, &k.tdr.leaf.lock) if tdr_excl else hp_try_shared(c, s, &k.tdr.leaf.lock)):
        page_unlock(c, s, &k.tdvpr)
        return TDX_OPERAND_BUSY | OP_TDR
    k.held = HELD_TDVPR
    if k.tdr.leaf.pt == PT_TDR and k.tdr.leaf.ref != 0:
        k.td = &s.td[k.tdr.leaf.ref - 1]
    if k.tdvpr.leaf.ref != 0:
        k.vp = &s.vp[k.tdvpr.leaf.ref - 1]
    return TDX_SUCCESS


cdef uint64_t td_keys(Call *k) noexcept nogil:
    if k.td == NULL:
        return TDX_TD_KEYS_NOT_CONFIGURED
    if k.td.fatal:
        return TDX_TD_FATAL
    if k.td.lifecycle != TD_KEYS_CONFIGURED:
        return TDX_TD_KEYS_NOT_CONFIGURED
    return TDX_SUCCESS


cdef uint64_t op_state_check(Cpu *c, Seam *s, Call *k, uint64_t allowed) noexcept nogil:
    """Takes OP_STATE's lock shared, unless the exclusive TDR stands for it."""
    if not k.held & HELD_TDR_EXCL:
        if not hp_try_shared(c, s, &k.td.op_lock):
            return TDX_OPERAND_BUSY | OP_STATE
        k.held |= HELD_OP_STATE
    if not (allowed >> k.td.op_state) & 1:
        return TDX_OP_STATE_INCORRECT
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


# ---- a call -------------------------------------------------------------------------------------------------

cdef void regs_begin(const Leaf *row, SeamRegs *r) noexcept nogil:
    """What becomes of the registers whatever the call answers."""
    cdef uint64_t *reg = &r.rcx
    cdef uint32_t nulled = row.nulled if regs_version(r) else 0
    cdef int i
    for i in range(6):
        if (row.zeroed >> i) & 1:
            reg[i] = 0
        if (nulled >> i) & 1:
            reg[i] = <uint64_t>-1
    if row.flags & LEAF_NO_ALIAS_BIT and regs_version(r) == 1:
        for i in range(2, 6):
            if reg[i] != <uint64_t>-1:
                reg[i] &= ~SEPT_SVE


cdef uint64_t call_enter(Cpu *c, Seam *s, const Leaf *row, SeamRegs *r, Call *k) noexcept nogil:
    """The steps before the leaf itself, in the module's order: version, the page that names the TD or VCPU, keys and
    TDCS, OP_STATE, GPA, tree lock, walk and entry lock, entry state. May yield. k.held says what is held, on failure as
    well: call_leave() gives it back. RCX and RDX describe the entry where that is what failed."""
    cdef uint64_t operand, status
    k.rcx = r.rcx
    k.rdx = r.rdx
    k.r8 = r.r8
    k.version = regs_version(r)
    k.held = 0
    k.td = NULL
    k.vp = NULL
    if row.zeroed | row.nulled:
        regs_begin(row, r)
    if k.version > row.version or row.flags & (LEAF_DYNAMIC_PAMT if not s.dynamic_pamt else LEAF_STATIC_PAMT):
        return TDX_OPERAND_INVALID
    if row.about == ABOUT_NOBODY:
        return TDX_SUCCESS
    operand = (k.rdx if row.about == TDR_IN_RDX or row.about == TDVPR_IN_RDX else k.rcx) & ~row.options
    status = OP_RDX if row.about == TDR_IN_RDX or row.about == TDVPR_IN_RDX else OP_RCX
    if row.about == TDR_IN_RDX or row.about == TDR_IN_RCX:
        status = td_lock(c, s, operand, row.hold == HOLD_EXCL, status, k)
    else:
        status = vp_lock(c, s, operand, row.hold == HOLD_EXCL, k.version != 0 and row.flags & LEAF_V1_EXCL != 0, status,
                         k)
    if status == TDX_SUCCESS and row.wants != WANTS_NOTHING:
        status = td_keys(k)
        if status == TDX_SUCCESS and row.wants == WANTS_TDCS and k.td.num_tdcx < SEAM_TDCS_PAGES:
            status = TDX_TDCS_NOT_ALLOCATED
    if status == TDX_SUCCESS and row.ops:
        status = op_state_check(c, s, k, row.ops)
    if status == TDX_SUCCESS and row.flags & LEAF_DEBUG_BIT and k.rdx & 1 and not k.td.attributes & 1:
        status = TDX_OPERAND_INVALID | OP_RDX
    if status == TDX_SUCCESS and row.lowest != NO_GPA:
        status = gpa_decode(k, k.rcx, row.lowest, row.highest)
    if status == TDX_SUCCESS and row.tree != TREE_NONE:
        status = tree_lock(c, k, row.tree == TREE_EXCL)
        if status == TDX_SUCCESS and row.lowest != NO_GPA:
            status = entry_find(c, s, row, r, k)
    return status


cdef inline uint64_t entry_find(Cpu *c, Seam *s, const Leaf *row, SeamRegs *r, Call *k) noexcept nogil:
    """Walks to the entry, locks it and looks at its state."""
    cdef uint64_t status = sept_find(c, s, k, r)
    cdef uint32_t flags
    if tdp_unlikely(status == TDX_OPERAND_BUSY | OP_RCX) and row.flags & LEAF_QUIET_BUSY:
        r.rcx = r.rdx = 0
    if status != TDX_SUCCESS or row.state == 0:
        return status
    flags = sept_flags(k.entry)
    if row.state == ST_BLOCK and flags & ST_BLOCKED:
        return fail_entry(k, r, TDX_GPA_RANGE_ALREADY_BLOCKED | OP_RCX)
    if not flags & row.state:
        return fail_entry(k, r, TDX_EPT_ENTRY_STATE_INCORRECT | OP_RCX)
    return TDX_SUCCESS


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
    if k.held & HELD_TDVPR:
        if k.tdr.excl:
            hp_put_excl(c, s, &k.tdr.leaf.lock)
        else:
            hp_put_shared(c, s, &k.tdr.leaf.lock)
        page_unlock(c, s, &k.tdvpr)
    k.held = 0
