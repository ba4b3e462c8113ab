# cython: language_level=3
"""S-EPT pages and leaf aliases of L2 VMs (see l2.pxd).

Every function here that takes a Cpu may yield. An L2 leaf that is blocked keeps its permissions in other bits
(L2E_SAVED_*). It is blocked whenever the L1 leaf is blocked or pending; blocking it twice loses them.
"""

from tdpfast._names cimport SYNC_STORE
from tdpfast._sync.atomic cimport tdp_fetch_add, tdp_store_release
from tdpfast._seam.defs cimport *
from tdpfast._seam.locks cimport *
from tdpfast._seam.state cimport *
from tdpfast._seam.steps cimport *
from tdpfast._sync.cpu cimport sync_load, sync_point


# ---- one entry ----------------------------------------------------------------------------------------------

cdef uint64_t l2_blocked(uint64_t e, bint keep_w) noexcept nogil:
    """The entry blocked. keep_w: the L1 leaf is BLOCKEDW, so W was saved before."""
    if not e & SEPT_PS:
        return (e & ~(L2_STATE | L2E_RWXX)) | SEPT_TDB
    if not keep_w:
        e = (e & ~L2E_SAVED_W) | (e & 2) << 58
    e = (e & ~L2E_MT) | (e & 1) << 3 | (e & 4) << 2 | (e & L2E_XU) >> 5
    return (e & ~L2E_RWXX) | SEPT_TDB | SEPT_PS | SEPT_IPAT


cdef uint64_t l2_unblocked(uint64_t e) noexcept nogil:
    cdef uint64_t perms
    if not e & SEPT_TDB:
        return e
    if not e & SEPT_PS:
        return (e & ~(SEPT_TDB | L2E_MT | L2E_SAVED_W)) | L2E_RWXX
    perms = (e & L2E_SAVED_R) >> 3 | (e & L2E_SAVED_W) >> 58 | (e & L2E_SAVED_XS) >> 2 | (e & L2E_SAVED_XU) << 5
    return (e & ~(SEPT_TDB | L2E_MT | L2E_SAVED_W | L2E_RWXX)) | SEPT_MT_WB | perms


cdef uint64_t attr_bits(uint64_t attr) noexcept nogil:
    """Attributes where an entry that is not blocked has them."""
    cdef uint64_t e = attr & (L2_R | L2_W | L2_XS)
    if attr & L2_XU:
        e |= L2E_XU
    if attr & L2_SSS:
        e |= L2E_SSS
    return e | (attr & (L2_VGP | L2_PWA)) << 53 | (attr & L2_SVE) << 56


cdef uint64_t l2_leaf(uint64_t e, uint64_t hpa, uint64_t attr, bint blocked) noexcept nogil:
    """A leaf where there was none; bits of no meaning here stay."""
    e &= ~(L2E_ATTR | L2E_MT | L2E_SAVED_W | SEPT_HPA | SEPT_TDB)
    e |= attr_bits(attr) | hpa | SEPT_MT_WB | SEPT_IPAT | SEPT_PS
    return l2_blocked(e, False) if blocked else e


cdef uint64_t l2_leaf_put(uint64_t e, uint64_t attr) noexcept nogil:
    """The leaf with other attributes; blocked if it was."""
    cdef bint blocked = e & SEPT_TDB != 0
    e = (e & ~L2E_ATTR) | attr_bits(attr)
    return l2_blocked(e, False) if blocked else e


cdef uint64_t l2_leaf_attr(uint64_t e, bint blockedw) noexcept nogil:
    """Attributes of an entry; a table has all permissions. blockedw: the L1 leaf is."""
    cdef uint64_t attr
    if l2_free(e):
        return L2_SVE if e & SEPT_SVE else 0
    if not e & SEPT_PS:
        return L2_VALID | L2_PRESENT
    attr = L2_VALID | (e >> 53) & (L2_VGP | L2_PWA) | (e >> 56) & L2_SVE
    if e & L2E_SSS:
        attr |= L2_SSS
    if e & SEPT_TDB and not blockedw:
        e = l2_unblocked(e)
    elif e & SEPT_TDB:
        e = (e & ~<uint64_t>L2_W) | (e & L2E_SAVED_W) >> 58
    attr |= e & (L2_R | L2_W | L2_XS)
    return attr | L2_XU if e & L2E_XU else attr


cdef bint l2_attr_legal(uint64_t attr) noexcept nogil:
    """Whether an entry may have these attributes, some permission among them."""
    if attr & (L2_RESERVED | L2_SVE) or not attr & L2_VALID:
        return False
    return attr & L2_R or not attr & (L2_W | L2_PWA)


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


# ---- the way to it ------------------------------------------------------------------------------------------

cdef bint l2_find(Cpu *c, Seam *s, Call *k, int vm, uint64_t **ep, uint64_t *entry, int *at) noexcept nogil:
    """Walks the S-EPT of an L2 VM to k.gpa at k.level; False if it ends above."""
    at[0] = sept_walk(c, s, k.td.root[vm], k.gpa, k.td.levels - 1, k.level, ep, entry)
    if at[0] != k.level:
        return False
    entry[0] = sync_load(c, ep[0])
    return True


cdef bint l2_find_guest(Cpu *c, Seam *s, Call *k, int vm, uint64_t **ep, uint64_t *entry, int *at) noexcept nogil:
    """As l2_find(), through blocked tables: TLB tracking protects what the guest's own call found."""
    cdef uint64_t *page = k.td.root[vm] if k.td.root[vm] != NULL else &s.nowhere_page[0]
    at[0] = k.td.levels - 1
    while True:
        ep[0] = &page[sept_index(k.gpa, at[0])]
        entry[0] = sync_load(c, ep[0])
        if at[0] == k.level:
            return True
        if l2_free(entry[0]) or entry[0] & SEPT_PS:
            return False
        page = table_named(s, entry[0] & SEPT_HPA)
        at[0] -= 1


cdef uint64_t l2_failed(Call *k, SeamRegs *r, int vm, uint64_t entry, int at, uint64_t status) noexcept nogil:
    """RCX and RDX describe the L2 entry, its permissions only to the VMM of a debug TD."""
    if l2_free(entry):
        r.rcx = SEPT_SVE
    elif not entry & SEPT_PS:
        r.rcx = entry & L2_TABLE_SHOWN
    elif k.td.attributes & 1:
        r.rcx = entry & (L2_LEAF_SHOWN | L2E_ATTR)
    else:
        r.rcx = entry & L2_LEAF_SHOWN
        if not entry & SEPT_TDB:
            r.rcx |= L2E_RWXX
    r.rdx = <uint64_t>at | <uint64_t>l2_public(entry) << 8 | <uint64_t>vm << 16
    return status | <uint64_t>vm << 16 | <uint64_t>at


cdef uint64_t l2_table_lock(Cpu *c, Seam *s, uint64_t entry, PageHold *h) noexcept nogil:
    """Locks the PAMT entry of the S-EPT page that an L2 entry names."""
    cdef PamtEntry *page = pamt_named(s, entry & SEPT_HPA, 0)
    if not hp_try_excl(c, s, &page.lock):
        return TDX_OPERAND_BUSY | OP_RCX
    h.leaf = page
    h.excl = True
    return TDX_SUCCESS


cdef bint l2_uniform(Cpu *c, const uint64_t *table, int level) noexcept nogil:
    """Whether the entries of a table at level can become one: all free, or leaves alike but for their pages."""
    cdef uint64_t first = sync_load(c, <uint64_t *>table)
    cdef uint64_t hpa = first & SEPT_HPA & ~(level_size(level) - 1)
    cdef int i
    if not l2_free(first) and (not first & SEPT_PS or hpa & (level_size(level + 1) - 1)):
        return False
    for i in range(1, 512):
        if (sync_load(c, <uint64_t *>&table[i]) ^ first) & ~SEPT_HPA:
            return False
    return True


# ---- S-EPT pages --------------------------------------------------------------------------------------------

cdef uint64_t l2_add_pages(Cpu *c, Seam *s, Call *k, SeamRegs *r, uint64_t version, bint existing,
                           PageHold *l1) noexcept nogil:
    """The rest of SEPT.ADD: locks the L2 pages, then adds the L1 page (if held) and them one by one.

    In version 1 bit 63 of R8..R11 marks a page that is not needed.
    """
    cdef PageHold hold[4]
    cdef uint64_t *ep[4]
    cdef uint64_t entry
    cdef uint64_t status = TDX_SUCCESS
    cdef int vm, at
    for vm in range(4):
        hold[vm].leaf = hold[vm].p2m = hold[vm].p1g = NULL
    for vm in range(1, 4):
        if version == 0 or l2_page_reg(r, vm)[0] == <uint64_t>-1:
            continue
        if vm > k.td.num_l2:
            status = TDX_OPERAND_INVALID | <uint64_t>(OP_R8 + vm)
        elif not l2_find(c, s, k, vm, &ep[vm], &entry, &at):
            status = l2_failed(k, r, vm, entry, at, TDX_L2_SEPT_WALK_FAILED)
        elif l2_free(entry):
            status = page_lock_new(c, s, l2_page_reg(r, vm)[0], 0, OP_R8 + vm, &hold[vm])
        elif existing:
            l2_page_reg(r, vm)[0] |= SEPT_SVE
        else:
            status = l2_failed(k, r, vm, entry, at, TDX_L2_SEPT_ENTRY_NOT_FREE)
        if status != TDX_SUCCESS:
            break
    if status == TDX_SUCCESS:
        status = add_commit(c, s, k, r, version, l1, hold, ep)
    page_unlock(c, s, l1)
    for vm in range(1, 4):
        page_unlock(c, s, &hold[vm])
    return status


cdef uint64_t add_commit(Cpu *c, Seam *s, Call *k, SeamRegs *r, uint64_t version, PageHold *l1, PageHold *hold,
                         uint64_t **ep) noexcept nogil:
    cdef uint64_t hpa
    cdef uint64_t entry = k.entry
    cdef uint64_t status = TDX_SUCCESS
    cdef bint added = l1.leaf != NULL
    cdef int vm
    if added:
        hpa = r.r8 & ~SEPT_SVE
        sept_page_init(s, page_memory(s, hpa), SEPT_FREE)
        pamt_set(s, l1.leaf, PT_EPT, k.td.tdr_pa)
        tdp_fetch_add(&k.td.chldcnt, 1)
        entry = hpa | SEPT_NL_BITS
        if version:
            r.r8 = <uint64_t>-1
    for vm in range(1, 4):
        if hold[vm].leaf == NULL:
            continue
        if added and interrupt_pending(s, c):
            status = TDX_INTERRUPTED_RESUMABLE
            break
        hpa = l2_page_reg(r, vm)[0]
        sept_page_init(s, page_memory(s, hpa), 0)
        pamt_set(s, hold[vm].leaf, PT_EPT, k.td.tdr_pa)
        tdp_fetch_add(&k.td.chldcnt, 1)
        l2_write(c, s, ep[vm], hpa | L2E_RWXX)
        entry |= alias_bit(vm)
        l2_page_reg(r, vm)[0] = <uint64_t>-1
        added = True
    if entry != k.entry:
        entry_commit(c, s, k, entry)
    return status


cdef uint64_t l2_remove_pages(Cpu *c, Seam *s, Call *k, SeamRegs *r, uint64_t version) noexcept nogil:
    """Frees the L2 S-EPT pages beside an L1 S-EPT page that goes away, all of them or, if one is locked, none.
    Version 1 returns them in R9..R11."""
    cdef PageHold hold[4]
    cdef uint64_t *ep[4]
    cdef uint64_t entry[4]
    cdef uint64_t status = TDX_SUCCESS
    cdef int vm, at
    for vm in range(1, 4):
        hold[vm].leaf = hold[vm].p2m = hold[vm].p1g = NULL
        if status == TDX_SUCCESS and has_alias(k.entry, vm) and l2_find(c, s, k, vm, &ep[vm], &entry[vm], &at):
            status = l2_table_lock(c, s, entry[vm], &hold[vm])
    for vm in range(1, 4):
        if status == TDX_SUCCESS and hold[vm].leaf != NULL:
            pamt_free(s, hold[vm].leaf)
            tdp_fetch_add(&k.td.chldcnt, <uint64_t>-1)
            l2_write(c, s, ep[vm], 0)
            if version:
                l2_page_reg(r, vm)[0] = entry[vm] & SEPT_HPA
        page_unlock(c, s, &hold[vm])
    return status


# ---- aliases ------------------------------------------------------------------------------------------------

cdef void l2_alias_block(Cpu *c, Seam *s, Call *k) noexcept nogil:
    cdef bint blockedw = sept_flags(k.entry) & ST_BLOCKEDW != 0
    cdef uint64_t *ep
    cdef uint64_t e
    cdef int vm, at
    for vm in range(1, 4):
        if has_alias(k.entry, vm) and l2_find(c, s, k, vm, &ep, &e, &at):
            l2_write(c, s, ep, l2_blocked(e, blockedw))


cdef void l2_alias_unblock(Cpu *c, Seam *s, Call *k) noexcept nogil:
    """Aliases of a pending leaf stay blocked."""
    cdef uint64_t *ep
    cdef uint64_t e
    cdef int vm, at
    if k.entry & SEPT_TDP:
        return
    for vm in range(1, 4):
        if has_alias(k.entry, vm) and l2_find(c, s, k, vm, &ep, &e, &at) and e & SEPT_TDB:
            l2_write(c, s, ep, l2_unblocked(e))


cdef void l2_alias_free(Cpu *c, Seam *s, Call *k) noexcept nogil:
    cdef uint64_t *ep
    cdef uint64_t e
    cdef int vm, at
    for vm in range(1, 4):
        if has_alias(k.entry, vm) and l2_find(c, s, k, vm, &ep, &e, &at):
            l2_write(c, s, ep, 0)


cdef void l2_alias_move(Cpu *c, Seam *s, Call *k, uint64_t hpa) noexcept nogil:
    """RELOCATE: the aliases name the new page, and are usable again with the L1 leaf."""
    cdef uint64_t *ep
    cdef uint64_t e
    cdef int vm, at
    for vm in range(1, 4):
        if has_alias(k.entry, vm) and l2_find(c, s, k, vm, &ep, &e, &at):
            e = (e & ~SEPT_HPA) | hpa
            l2_write(c, s, ep, e if k.entry & SEPT_TDP else l2_unblocked(e))


cdef uint64_t l2_attributes(Cpu *c, Seam *s, Call *k) noexcept nogil:
    """Attributes of all VMs with an alias of k.entry: VM i in bits 16i+15:16i."""
    cdef bint blockedw = sept_flags(k.entry) & ST_BLOCKEDW != 0
    cdef uint64_t *ep
    cdef uint64_t e
    cdef uint64_t attr = 0
    cdef int vm, at
    for vm in range(1, 4):
        if has_alias(k.entry, vm) and l2_find_guest(c, s, k, vm, &ep, &e, &at):
            attr |= l2_leaf_attr(e, blockedw) << (16 * vm)
    return attr
