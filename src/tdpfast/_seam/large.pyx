# cython: language_level=3
"""Splitting a large page into 512 small ones, and merging them again.

Every function here may yield; what a call holds is given back when it returns.
"""

from tdpfast._names cimport TDH_MEM_PAGE_DEMOTE, TDH_MEM_PAGE_PROMOTE
from tdpfast._sync.atomic cimport tdp_fetch_add
from tdpfast._seam.defs cimport *
from tdpfast._seam.leaf cimport *
from tdpfast._seam.locks cimport *
from tdpfast._seam.state cimport *
from tdpfast._seam.steps cimport *
from tdpfast._seam.l2 cimport (
    alias_bit, has_alias, l2_failed, l2_find, l2_page_reg, l2_table_lock, l2_unblocked, l2_uniform, l2_write,
)

cdef struct L2Split:      # by VM, 1..3
    PageHold page[4]      # of the table that is made or goes away
    uint64_t *ep[4]
    uint64_t entry[4]


cdef void l2_split_init(L2Split *l2) noexcept nogil:
    cdef int vm
    for vm in range(4):
        l2.page[vm].leaf = l2.page[vm].p2m = l2.page[vm].p1g = NULL


cdef void l2_split_unlock(Cpu *c, Seam *s, L2Split *l2) noexcept nogil:
    cdef int vm
    for vm in range(1, 4):
        page_unlock(c, s, &l2.page[vm])


cdef uint64_t commit_enter(Cpu *c, Seam *s, PamtEntry *large, bint interrupted) noexcept nogil:
    """After the last look for an interrupt: the lock of the large page, which is held if all goes well."""
    if interrupted:
        return TDX_INTERRUPTED_RESTARTABLE
    return TDX_SUCCESS if hp_try_excl(c, s, &large.lock) else TDX_OPERAND_BUSY | OP_RCX


# ---- DEMOTE -------------------------------------------------------------------------------------------------

cdef uint64_t tdh_mem_page_demote(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX GPA|level, RDX TDR (bit 0: L2_SEPT_ADD_MODE,
    use the L2 pages only where there is an alias), R8 page for the table, R9..R11 pages for L2 tables.
    Leaf 15, version 0."""
    cdef PageHold page
    cdef PamtEntry *large
    cdef uint64_t status = TDX_SUCCESS
    k.entry = entry_clean(k.entry, k.level)
    large = entry_pamt(s, k.entry, k.level)
    if not s.nonblocking_resize or sept_flags(k.entry) & ST_BLOCKED:
        status = blocked_and_tracked(c, s, k, large, r)
    if status == TDX_SUCCESS:
        status = page_lock_new(c, s, r.r8, 0, OP_R8, &page)
    if status == TDX_SUCCESS:
        status = demote_pages(c, s, k, r, k.rdx & 1, large, &page)
        page_unlock(c, s, &page)
    if status == TDX_INTERRUPTED_RESTARTABLE:
        r.rcx = k.rcx
        r.rdx = k.rdx
    return status

cdef Leaf *row = mem_leaf(TDH_MEM_PAGE_DEMOTE, tdh_mem_page_demote, 0, OPS_FOR_CHANGE, 1, 2, TREE_SHARED, ST_DEMOTE, 3)
row.options = 1
row.flags = LEAF_STATIC_PAMT | LEAF_R8_PAGE     # the page pair it would need is not modelled


cdef inline bint demote_interrupted(Cpu *c, Seam *s) noexcept nogil:
    return not s.enhanced_demote and interrupt_pending(s, c)


cdef uint64_t demote_pages(Cpu *c, Seam *s, Call *k, SeamRegs *r, bint add_mode, PamtEntry *large,
                           PageHold *page) noexcept nogil:
    cdef L2Split l2
    cdef uint64_t *table = page_memory(s, r.r8)
    cdef uint64_t size = level_size(k.level - 1)
    cdef uint64_t child = demoted_leaf(k)
    cdef uint64_t status
    cdef int i
    l2_split_init(&l2)
    status = demote_l2_lock(c, s, k, r, add_mode, &l2)
    if status == TDX_SUCCESS:
        undo_page(s, table)
        for i in range(512):
            table[i] = child + <uint64_t>i * size
        status = demote_l2_fill(c, s, k, r, &l2)
    if status == TDX_SUCCESS:
        status = commit_enter(c, s, large, demote_interrupted(c, s))
    if status == TDX_SUCCESS:
        demote_commit(c, s, k, r, large, page, &l2)
        hp_put_excl(c, s, &large.lock)
    l2_split_unlock(c, s, &l2)
    return status


cdef uint64_t demoted_leaf(Call *k) noexcept nogil:
    """The first of the 512 leaves: unblocked, with no progress of an interrupted ACCEPT."""
    cdef uint64_t e = k.entry & ~(SEPT_TDB | SEPT_RWX)
    e &= ~((level_size(k.level) - 1) & SEPT_HPA)
    if not e & SEPT_TDP:
        e |= SEPT_RWX
    return e


cdef uint64_t demote_l2_lock(Cpu *c, Seam *s, Call *k, SeamRegs *r, bint add_mode, L2Split *l2) noexcept nogil:
    """Locks the pages given for L2 tables (bit 63 is ignored); every VM with an alias needs one."""
    cdef uint64_t hpa, status
    cdef int vm
    for vm in range(1, k.td.num_l2 + 1):
        hpa = l2_page_reg(r, vm)[0]
        if hpa == <uint64_t>-1:
            if has_alias(k.entry, vm):
                return TDX_L2_SEPT_PAGE_NOT_PROVIDED | <uint64_t>(OP_R8 + vm)
            continue
        if add_mode and not has_alias(k.entry, vm):
            continue
        status = page_lock_new(c, s, hpa & ~SEPT_SVE, 0, OP_R8 + vm, &l2.page[vm])
        if status != TDX_SUCCESS:
            return status
    return TDX_SUCCESS


cdef uint64_t demote_l2_fill(Cpu *c, Seam *s, Call *k, SeamRegs *r, L2Split *l2) noexcept nogil:
    """Fills the L2 tables one by one, with a look for interrupts before each."""
    cdef uint64_t *table
    cdef uint64_t hpa = k.entry & SEPT_HPA & ~(level_size(k.level) - 1)
    cdef uint64_t size = level_size(k.level - 1)
    cdef uint64_t leaf
    cdef int vm, i, at
    for vm in range(1, 4):
        if l2.page[vm].leaf == NULL:
            continue
        if demote_interrupted(c, s):
            return TDX_INTERRUPTED_RESTARTABLE
        if not l2_find(c, s, k, vm, &l2.ep[vm], &l2.entry[vm], &at):
            return l2_failed(k, r, vm, l2.entry[vm], at, TDX_L2_SEPT_WALK_FAILED)
        leaf = l2.entry[vm] if k.entry & SEPT_TDP else l2_unblocked(l2.entry[vm])
        table = page_memory(s, l2_page_reg(r, vm)[0] & ~SEPT_SVE)
        undo_page(s, table)
        for i in range(512):
            table[i] = (leaf & ~SEPT_HPA | hpa + <uint64_t>i * size) if has_alias(k.entry, vm) else 0
    return TDX_SUCCESS


cdef void demote_commit(Cpu *c, Seam *s, Call *k, SeamRegs *r, PamtEntry *large, PageHold *page,
                        L2Split *l2) noexcept nogil:
    cdef uint64_t hpa = k.entry & SEPT_HPA & ~(level_size(k.level) - 1)
    cdef PamtEntry *small = pamt_named(s, hpa, k.level - 1)
    cdef uint64_t entry = r.r8 | SEPT_NL_BITS
    cdef int i, vm
    for i in range(512):
        pamt_set(s, &small[i], PT_REG, k.td.tdr_pa)
        small[i].content = large.content
    pamt_free(s, large)
    pamt_touch(s, page.leaf)
    page.leaf.pt = PT_EPT
    page.leaf.owner = k.td.tdr_pa
    tdp_fetch_add(&k.td.chldcnt, 1)
    for vm in range(1, 4):
        if l2.page[vm].leaf == NULL:
            if l2_page_reg(r, vm)[0] != <uint64_t>-1 and vm <= k.td.num_l2:
                l2_page_reg(r, vm)[0] |= SEPT_SVE    # not used
            continue
        pamt_touch(s, l2.page[vm].leaf)
        l2.page[vm].leaf.pt = PT_EPT
        l2.page[vm].leaf.owner = k.td.tdr_pa
        tdp_fetch_add(&k.td.chldcnt, 1)
        l2_write(c, s, l2.ep[vm], (l2_page_reg(r, vm)[0] & ~SEPT_SVE) | L2E_RWXX)
        entry |= alias_bit(vm)
    entry_commit(c, s, k, entry)


# ---- PROMOTE ------------------------------------------------------------------------------------------------

cdef uint64_t tdh_mem_page_promote(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX GPA|level, RDX TDR. Success: RCX the freed S-EPT page (version 1: R9..R11 those of the L2 VMs).
    Leaf 23, versions 0 and 1."""
    cdef PamtEntry *page = pamt_named(s, k.entry & SEPT_HPA, 0)
    cdef uint64_t status
    if not hp_try_excl(c, s, &page.lock):
        return TDX_OPERAND_BUSY | OP_RCX
    status = blocked_and_tracked(c, s, k, page, r)
    if status == TDX_SUCCESS:
        status = promote_children(c, s, k, r, page, k.version)
    if status == TDX_INTERRUPTED_RESTARTABLE:
        r.rcx = k.rcx
        r.rdx = k.rdx
    hp_put_excl(c, s, &page.lock)
    return status

row = mem_leaf(TDH_MEM_PAGE_PROMOTE, tdh_mem_page_promote, 1, OPS_FOR_CHANGE, 1, 2, TREE_SHARED, ST_PROMOTE, 2)
row.nulled = IN_R9 | IN_R10 | IN_R11
row.flags = LEAF_STATIC_PAMT


cdef uint64_t promote_children(Cpu *c, Seam *s, Call *k, SeamRegs *r, PamtEntry *page,
                               uint64_t version) noexcept nogil:
    """Locks all 512 children, compares them, and merges them; gives back the child locks."""
    cdef uint64_t *table = table_named(s, k.entry & SEPT_HPA)
    cdef uint64_t size = level_size(k.level - 1)
    cdef uint64_t first = 0, e, clean
    cdef uint64_t status = TDX_SUCCESS
    cdef bint alike = True
    cdef int i, locked = 0
    for i in range(512):
        if not entry_try_lock(c, s, &table[i], &e):
            regs_entry(r, k.entry, k.level)
            status = TDX_OPERAND_BUSY | OP_RCX
            break
        locked += 1
        clean = entry_clean(e, k.level - 1)
        if i == 0:
            first = e
            alike = promotable(e, k.level)
        alike = alike and clean == entry_clean(first, k.level - 1) + <uint64_t>i * size
        if not alike:
            regs_entry(r, k.entry, k.level)
            status = TDX_EPT_INVALID_PROMOTE_CONDITIONS | OP_RCX
            break
    if status == TDX_SUCCESS:
        status = promote_merge(c, s, k, r, page, first, version)
    for i in range(locked):
        entry_unlock(c, s, &table[i])
    return status


cdef inline bint promotable(uint64_t e, int level) noexcept nogil:
    cdef uint32_t enc = sept_enc(e)
    if enc != ENC_MAPPED and enc != ENC_PENDING:
        return False
    return entry_clean(e, level - 1) & SEPT_HPA & (level_size(level) - 1) == 0


cdef uint64_t promote_merge(Cpu *c, Seam *s, Call *k, SeamRegs *r, PamtEntry *page, uint64_t first,
                            uint64_t version) noexcept nogil:
    cdef PamtEntry *large = pamt_named(s, entry_clean(first, k.level - 1) & SEPT_HPA, k.level)
    cdef L2Split l2
    cdef uint64_t status
    l2_split_init(&l2)
    status = promote_l2_check(c, s, k, r, &l2)
    if status == TDX_SUCCESS:
        status = commit_enter(c, s, large, interrupt_pending(s, c))
    if status == TDX_SUCCESS:
        promote_commit(c, s, k, r, page, large, first, &l2, version)
        hp_put_excl(c, s, &large.lock)
    l2_split_unlock(c, s, &l2)
    return status


cdef uint64_t promote_l2_check(Cpu *c, Seam *s, Call *k, SeamRegs *r, L2Split *l2) noexcept nogil:
    """Locks the L2 tables beside the L1 table, with a look for interrupts before each; all must be uniform."""
    cdef uint64_t status
    cdef int vm, at
    for vm in range(1, 4):
        if not has_alias(k.entry, vm):
            continue
        if interrupt_pending(s, c):
            return TDX_INTERRUPTED_RESTARTABLE
        if not l2_find(c, s, k, vm, &l2.ep[vm], &l2.entry[vm], &at):
            return SEAM_MODULE_HALT      # an alias without an entry
        status = l2_table_lock(c, s, l2.entry[vm], &l2.page[vm])
        if status != TDX_SUCCESS:
            return status
        if not l2_uniform(c, table_named(s, l2.entry[vm] & SEPT_HPA), k.level - 1):
            regs_entry(r, k.entry, k.level)
            return TDX_EPT_INVALID_PROMOTE_CONDITIONS | OP_RCX
    return TDX_SUCCESS


cdef void promote_commit(Cpu *c, Seam *s, Call *k, SeamRegs *r, PamtEntry *page, PamtEntry *large, uint64_t first,
                         L2Split *l2, uint64_t version) noexcept nogil:
    cdef PamtEntry *small = pamt_named(s, entry_clean(first, k.level - 1) & SEPT_HPA, k.level - 1)
    cdef uint64_t hpa
    cdef int vm, i
    pamt_touch(s, large)
    large.pt = small[0].pt
    large.owner = small[0].owner
    large.content = small[0].content
    for i in range(512):
        pamt_free(s, &small[i])
    pamt_free(s, page)
    tdp_fetch_add(&k.td.chldcnt, <uint64_t>-1)
    for vm in range(1, 4):
        if l2.page[vm].leaf == NULL:
            continue
        hpa = l2.entry[vm] & SEPT_HPA
        pamt_free(s, l2.page[vm].leaf)
        tdp_fetch_add(&k.td.chldcnt, <uint64_t>-1)
        l2_write(c, s, l2.ep[vm], table_named(s, hpa)[0])
        if version:
            l2_page_reg(r, vm)[0] = hpa
    r.rcx = k.entry & SEPT_HPA
    entry_commit(c, s, k, first)
