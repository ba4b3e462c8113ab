# cython: language_level=3
"""S-EPT pages and leaf aliases of L2 VMs (see _seam_l2.pxd).

Every function here may yield. An L2 leaf that is blocked keeps its permissions in other bits: R, Xs, Xu in 5:3, W in
59. It is blocked whenever the L1 leaf is blocked or pending.
"""

from tdpfast._atomic cimport tdp_fetch_add, tdp_store_release
from tdpfast._seam_core cimport *
from tdpfast._seam_defs cimport *
from tdpfast._sync cimport SYNC_STORE, sync_load, sync_point

cdef uint64_t L2_SAVED_R = 0x08
cdef uint64_t L2_SAVED_XS = 0x10
cdef uint64_t L2_SAVED_XU = 0x20
cdef uint64_t L2_SAVED_W = <uint64_t>1 << 59
cdef uint64_t L2_SSS_BIT = <uint64_t>1 << 60
cdef uint64_t L2_XU_BIT = <uint64_t>1 << 10
cdef uint64_t L2_TABLE = 0x407       # R, W, Xs, Xu


cdef uint64_t l2_leaf(uint64_t hpa, uint64_t attr, bint blocked) noexcept nogil:
    cdef uint64_t e = hpa | SEPT_PS | SEPT_IPAT
    if attr & L2_SSS:
        e |= L2_SSS_BIT
    if not blocked:
        e |= SEPT_MT_WB | (attr & 7)
        return e | L2_XU_BIT if attr & L2_XU else e
    e |= SEPT_TDB
    if attr & L2_R:
        e |= L2_SAVED_R
    if attr & L2_W:
        e |= L2_SAVED_W
    if attr & L2_XS:
        e |= L2_SAVED_XS
    if attr & L2_XU:
        e |= L2_SAVED_XU
    return e


cdef uint64_t l2_leaf_attr(uint64_t e) noexcept nogil:
    cdef uint64_t attr = L2_SSS if e & L2_SSS_BIT else 0
    if not e & SEPT_TDB:
        attr |= e & 7
        return attr | L2_XU if e & L2_XU_BIT else attr
    if e & L2_SAVED_R:
        attr |= L2_R
    if e & L2_SAVED_W:
        attr |= L2_W
    if e & L2_SAVED_XS:
        attr |= L2_XS
    if e & L2_SAVED_XU:
        attr |= L2_XU
    return attr


cdef int l2_public(uint64_t e) noexcept nogil:
    """State number shown to the VMM, from TDB, IPAT, PS and R as the module decodes them."""
    cdef uint64_t enc = (e >> 55) & 1 | (e >> 5) & 6 | (e & 1) << 3
    if enc == 0:
        return L2_FREE
    if enc == 8:
        return L2_NL_MAPPED
    if enc == 1:
        return L2_NL_BLOCKED
    if enc == 6:
        return L2_MAPPED
    if enc == 7:
        return L2_BLOCKED
    return 0


cdef void l2_write(Cpu *c, Seam *s, uint64_t *ep, uint64_t v) noexcept nogil:
    sync_point(c, SYNC_STORE, <uint64_t>ep)
    undo_word(s, ep)
    tdp_store_release(ep, v)


cdef bint l2_find(Cpu *c, Seam *s, Call *k, int vm, uint64_t **ep, uint64_t *entry, int *at) noexcept nogil:
    """Walks the S-EPT of an L2 VM to k.gpa at k.level; False if it ends above."""
    at[0] = sept_walk(c, s, k.td.root[vm], k.gpa, k.td.levels - 1, k.level, ep, entry)
    if at[0] != k.level:
        return False
    entry[0] = sync_load(c, ep[0])
    return True


cdef uint64_t l2_walk_failed(SeamRegs *r, int vm, uint64_t entry, int at) noexcept nogil:
    if entry == 0:
        r.rcx = SEPT_SVE
    elif entry & SEPT_PS:
        r.rcx = entry & SEPT_LEAF_SHOWN
    else:
        r.rcx = entry & 0x87
    r.rdx = <uint64_t>at | <uint64_t>l2_public(entry) << 8 | <uint64_t>vm << 16
    return TDX_L2_SEPT_WALK_FAILED | <uint64_t>vm << 16 | <uint64_t>at


# ---- S-EPT pages --------------------------------------------------------------------------------------------

cdef uint64_t l2_add_pages(Cpu *c, Seam *s, Call *k, SeamRegs *r, uint64_t version, bint fresh,
                           PageHold *l1) noexcept nogil:
    """The rest of SEPT.ADD: locks the L2 pages, then adds the L1 page (if held) and them one by one."""
    cdef PageHold hold[4]
    cdef uint64_t *ep[4]
    cdef uint64_t entry
    cdef uint64_t status = TDX_SUCCESS
    cdef int vm, at
    for vm in range(4):
        hold[vm].leaf = hold[vm].p2m = hold[vm].p1g = NULL
        ep[vm] = NULL
    for vm in range(1, 4):
        if version == 0 or l2_page_reg(r, vm)[0] == <uint64_t>-1:
            continue
        if vm > k.td.num_l2:
            status = TDX_OPERAND_INVALID | <uint64_t>(OP_R8 + vm)
            break
        if not l2_find(c, s, k, vm, &ep[vm], &entry, &at):
            status = l2_walk_failed(r, vm, entry, at)
            break
        if entry != 0:
            ep[vm] = NULL      # there is one already: the page stays unused
            continue
        status = page_lock_new(c, s, l2_page_reg(r, vm)[0] & ~SEPT_SVE, 0, OP_R8 + vm, &hold[vm])
        if status != TDX_SUCCESS:
            break
    if status == TDX_SUCCESS:
        status = add_commit(c, s, k, r, version, fresh, l1, hold, ep)
    page_unlock(c, s, l1)
    for vm in range(1, 4):
        page_unlock(c, s, &hold[vm])
    return status


cdef uint64_t add_commit(Cpu *c, Seam *s, Call *k, SeamRegs *r, uint64_t version, bint fresh, PageHold *l1,
                         PageHold *hold, uint64_t **ep) noexcept nogil:
    cdef uint64_t hpa
    cdef uint64_t entry = k.entry
    cdef uint64_t status = TDX_SUCCESS
    cdef bint added = fresh
    cdef int vm
    if fresh:
        hpa = r.r8 & ~SEPT_SVE
        sept_page_init(s, page_memory(s, hpa), SEPT_FREE)
        pamt_set(s, l1.leaf, PT_EPT, k.td.tdr_pa)
        tdp_fetch_add(&k.td.chldcnt, 1)
        entry = hpa | SEPT_NL_BITS
        if version:
            r.r8 = <uint64_t>-1
    elif version and r.r8 != <uint64_t>-1:
        r.r8 |= SEPT_SVE
    for vm in range(1, 4):
        if version == 0 or l2_page_reg(r, vm)[0] == <uint64_t>-1:
            continue
        if ep[vm] == NULL:
            l2_page_reg(r, vm)[0] |= SEPT_SVE
            continue
        if added and interrupt_pending(s, c):
            status = TDX_INTERRUPTED_RESUMABLE
            break
        hpa = l2_page_reg(r, vm)[0] & ~SEPT_SVE
        sept_page_init(s, page_memory(s, hpa), 0)
        pamt_set(s, hold[vm].leaf, PT_EPT, k.td.tdr_pa)
        tdp_fetch_add(&k.td.chldcnt, 1)
        l2_write(c, s, ep[vm], hpa | L2_TABLE)
        entry |= alias_bit(vm)
        l2_page_reg(r, vm)[0] = <uint64_t>-1
        added = True
    if entry != k.entry:
        entry_write_unlock(c, s, k.ep, entry)
        k.held &= ~<uint32_t>HELD_ENTRY
    return status


cdef void l2_remove_pages(Cpu *c, Seam *s, Call *k, SeamRegs *r, uint64_t version) noexcept nogil:
    """The L2 S-EPT pages beside an L1 S-EPT page that goes away. Version 1 returns them in R9..R11."""
    cdef uint64_t *ep
    cdef uint64_t entry
    cdef int vm, at
    for vm in range(1, 4):
        if not has_alias(k.entry, vm) or not l2_find(c, s, k, vm, &ep, &entry, &at):
            continue
        pamt_free(s, pamt_entry(s, entry & SEPT_HPA, 0))
        tdp_fetch_add(&k.td.chldcnt, <uint64_t>-1)
        l2_write(c, s, ep, 0)
        if version:
            l2_page_reg(r, vm)[0] = entry & SEPT_HPA


# ---- aliases ------------------------------------------------------------------------------------------------

cdef uint64_t kept_attr(uint64_t e, bint pending) noexcept nogil:
    """Attributes that survive when the L2 leaf e is written anew. Beside a pending L1 leaf (where it is blocked
    already) the module loses the permissions."""
    cdef uint64_t attr = l2_leaf_attr(e)
    return attr & L2_SSS if pending else attr


cdef void l2_alias_block(Cpu *c, Seam *s, Call *k) noexcept nogil:
    cdef bint pending
    cdef uint64_t *ep
    cdef uint64_t e
    cdef int vm, at
    for vm in range(1, 4):
        if has_alias(k.entry, vm) and l2_find(c, s, k, vm, &ep, &e, &at):
            if e & SEPT_PS:
                pending = k.entry & SEPT_TDP != 0
                l2_write(c, s, ep, l2_leaf(k.entry & SEPT_HPA, kept_attr(e, pending), True))
            else:
                l2_write(c, s, ep, (e & SEPT_HPA) | SEPT_TDB)


cdef void l2_alias_unblock(Cpu *c, Seam *s, Call *k) noexcept nogil:
    """Aliases of a pending leaf stay blocked."""
    cdef uint64_t *ep
    cdef uint64_t e
    cdef int vm, at
    for vm in range(1, 4):
        if has_alias(k.entry, vm) and l2_find(c, s, k, vm, &ep, &e, &at):
            if not e & SEPT_PS:
                l2_write(c, s, ep, (e & SEPT_HPA) | L2_TABLE)
            elif not k.entry & SEPT_TDP:
                l2_write(c, s, ep, l2_leaf(e & SEPT_HPA, l2_leaf_attr(e), False))


cdef void l2_alias_free(Cpu *c, Seam *s, Call *k) noexcept nogil:
    cdef uint64_t *ep
    cdef uint64_t e
    cdef int vm, at
    for vm in range(1, 4):
        if has_alias(k.entry, vm) and l2_find(c, s, k, vm, &ep, &e, &at):
            l2_write(c, s, ep, 0)


cdef uint64_t l2_leaf_again(uint64_t hpa, uint64_t e, bint pending) noexcept nogil:
    """The L2 leaf e for another page."""
    return l2_leaf(hpa, kept_attr(e, pending), pending)


cdef void l2_alias_move(Cpu *c, Seam *s, Call *k, uint64_t hpa) noexcept nogil:
    """RELOCATE: the aliases name the new page, and are usable again with the L1 leaf."""
    cdef uint64_t *ep
    cdef uint64_t e
    cdef int vm, at
    for vm in range(1, 4):
        if has_alias(k.entry, vm) and l2_find(c, s, k, vm, &ep, &e, &at):
            l2_write(c, s, ep, l2_leaf_again(hpa, e, k.entry & SEPT_TDP != 0))


cdef uint64_t l2_attributes(Cpu *c, Seam *s, Call *k) noexcept nogil:
    """Attributes of all VMs with an alias of k.entry (a table has all permissions): VM i in bits 16i+15:16i."""
    cdef uint64_t *ep
    cdef uint64_t e
    cdef uint64_t attr = 0
    cdef int vm, at
    for vm in range(1, 4):
        if has_alias(k.entry, vm) and l2_find(c, s, k, vm, &ep, &e, &at):
            attr |= (l2_leaf_attr(e) | L2_VALID) << (16 * vm)
    return attr
