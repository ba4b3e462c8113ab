# cython: language_level=3
"""S-EPT pages and ranges: ADD, RD, REMOVE, BLOCK, UNBLOCK, and TLB tracking.

Every function here may yield, and holds no lock when it returns.
"""

from tdpfast._sync.atomic cimport tdp_fetch_add, tdp_write_once
from tdpfast._seam.core cimport *
from tdpfast._seam.defs cimport *
from tdpfast._seam.l2 cimport (
    l2_add_pages, l2_alias_block, l2_alias_unblock, l2_attributes, l2_page_reg, l2_remove_pages,
)
from tdpfast._sync.cpu cimport sync_load, sync_store

cdef enum:
    ALLOW_EXISTING = 1


cdef uint64_t tdh_mem_sept_add(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """RCX GPA|level, RDX TDR|ALLOW_EXISTING, R8 page, R9..R11 pages for the L2 VMs (version 1).
    Version 1 returns in R8..R11, whatever its status, which pages are still wanted. Leaf 3, versions 0 and 1."""
    cdef Call k
    cdef uint64_t version = regs_version(r)
    cdef uint64_t rcx = r.rcx
    cdef uint64_t rdx = r.rdx
    cdef uint64_t status
    cdef int vm
    if version > 1:
        r.rcx = r.rdx = 0
        return TDX_OPERAND_INVALID
    for vm in range(4 if version else 0):
        if l2_page_reg(r, vm)[0] != <uint64_t>-1:
            l2_page_reg(r, vm)[0] &= ~SEPT_SVE
    status = mem_enter(c, s, r, &k, rdx & ~<uint64_t>ALLOW_EXISTING, OPS_FOR_SEPT_ADD, 1, -1, False)
    if status != TDX_SUCCESS:
        return status
    if not sept_flags(k.entry) & ST_SEPT_ADD:
        return call_fail_entry(c, s, &k, r, TDX_EPT_ENTRY_STATE_INCORRECT | OP_RCX)
    status = sept_add_pages(c, s, &k, r, version, rdx & ALLOW_EXISTING)
    if status == TDX_INTERRUPTED_RESUMABLE:
        r.rcx = rcx
        r.rdx = rdx
    call_leave(c, s, &k)
    return status


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


cdef uint64_t tdh_mem_sept_rd(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """RCX GPA|level, RDX TDR, bit 0: read the L2 attributes too. Success: RCX entry, RDX level and state.
    Leaf 25, version 0."""
    cdef Call k
    cdef uint64_t status
    cdef uint64_t rcx = r.rcx
    cdef uint64_t rdx = r.rdx
    if regs_version(r) != 0:
        return TDX_OPERAND_INVALID
    r.rcx = r.rdx = 0
    status = td_lock(c, s, rdx & ~<uint64_t>1, False, OP_RDX, &k)
    if status != TDX_SUCCESS:
        return status
    status = td_ready(&k)
    if status == TDX_SUCCESS:
        status = op_state_lock(c, s, &k, OPS_FOR_READ)
    if status == TDX_SUCCESS and rdx & 1 and not k.td.attributes & 1:
        status = TDX_OPERAND_INVALID | OP_RDX
    if status == TDX_SUCCESS:
        status = gpa_decode(&k, rcx, 0, -1)
    if status == TDX_SUCCESS:
        status = tree_lock(c, &k, False)
    if status == TDX_SUCCESS:
        status = sept_find(c, s, &k, r)
    if status == TDX_SUCCESS:
        regs_entry(r, k.entry, k.level)
        if rdx & 1:
            r.r8 = l2_attributes(c, s, &k)
    call_leave(c, s, &k)
    return status


cdef uint64_t tdh_mem_sept_remove(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """RCX GPA|level, RDX TDR. Success: RCX the freed page (version 1: R9..R11 those of the L2 VMs).
    Leaf 30, versions 0 and 1."""
    cdef Call k
    cdef PamtEntry *page
    cdef uint64_t *table
    cdef uint64_t version = regs_version(r)
    cdef uint64_t status
    cdef int i
    if version:
        r.r9 = r.r10 = r.r11 = <uint64_t>-1
    if version > 1:
        r.rcx = r.rdx = 0
        return TDX_OPERAND_INVALID
    status = mem_enter(c, s, r, &k, r.rdx, OPS_FOR_READ, 1, -1, True)
    if status != TDX_SUCCESS:
        return status
    if not sept_flags(k.entry) & ST_SEPT_REMOVE:
        return call_fail_entry(c, s, &k, r, TDX_EPT_ENTRY_STATE_INCORRECT | OP_RCX)
    page = pamt_named(s, k.entry & SEPT_HPA, 0)
    if not hp_try_excl(c, s, &page.lock):
        return call_fail(c, s, &k, TDX_OPERAND_BUSY | OP_RCX)
    status = blocked_and_tracked(c, s, &k, page, r)
    if status == TDX_SUCCESS:
        table = table_named(s, k.entry & SEPT_HPA)
        for i in range(512):
            if sept_enc(sync_load(c, &table[i])) != ENC_FREE:
                regs_entry(r, k.entry, k.level)
                status = TDX_EPT_PAGE_NOT_FREE | OP_RCX
                break
    if status == TDX_SUCCESS:
        status = l2_remove_pages(c, s, &k, r, version)
    if status == TDX_SUCCESS:
        pamt_free(s, page)
        tdp_fetch_add(&k.td.chldcnt, <uint64_t>-1)
        entry_write_unlock(c, s, k.ep, SEPT_FREE)
        k.held &= ~<uint32_t>HELD_ENTRY
        r.rcx = k.entry & SEPT_HPA
    hp_put_excl(c, s, &page.lock)
    call_leave(c, s, &k)
    return status


cdef uint64_t tdh_mem_range_block(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """RCX GPA|level, RDX TDR. The entry loses its permissions; the page's BEPOCH becomes the TD's epoch.
    Leaf 7, version 0."""
    cdef Call k
    cdef PamtEntry *page
    cdef uint64_t entry
    cdef uint64_t status
    if regs_version(r) != 0:
        return TDX_OPERAND_INVALID
    status = mem_enter(c, s, r, &k, r.rdx, OPS_FOR_CHANGE, 0, -1, True)
    if status != TDX_SUCCESS:
        return status
    if sept_flags(k.entry) & ST_BLOCKED:
        return call_fail_entry(c, s, &k, r, TDX_GPA_RANGE_ALREADY_BLOCKED | OP_RCX)
    if not sept_flags(k.entry) & ST_BLOCK:
        return call_fail_entry(c, s, &k, r, TDX_EPT_ENTRY_STATE_INCORRECT | OP_RCX)
    entry = (entry_clean(k.entry, k.level) & ~(SEPT_RWX | SEPT_TDBW)) | SEPT_TDB
    if entry & SEPT_TDAL:
        l2_alias_block(c, s, &k)
    page = entry_pamt(s, entry, k.level)
    pamt_touch(s, page)
    tdp_write_once(&page.bepoch, sync_load(c, &k.td.td_epoch))
    entry_write_unlock(c, s, k.ep, entry)
    k.held &= ~<uint32_t>HELD_ENTRY
    call_leave(c, s, &k)
    return TDX_SUCCESS


cdef uint64_t tdh_mem_range_unblock(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """RCX GPA|level, RDX TDR. BEPOCH stays as it is. Leaf 39, version 0."""
    cdef Call k
    cdef PamtEntry *page
    cdef uint64_t entry
    cdef uint64_t status
    if regs_version(r) != 0:
        return TDX_OPERAND_INVALID
    status = mem_enter(c, s, r, &k, r.rdx, OPS_FOR_CHANGE, 0, -1, True)
    if status != TDX_SUCCESS:
        return status
    if not sept_flags(k.entry) & ST_UNBLOCK:
        return call_fail_entry(c, s, &k, r, TDX_EPT_ENTRY_STATE_INCORRECT | OP_RCX)
    page = entry_pamt(s, k.entry, k.level)
    if blocked_and_tracked(c, s, &k, page, r) != TDX_SUCCESS:
        return call_fail(c, s, &k, TDX_TLB_TRACKING_NOT_DONE | OP_SEPT_TREE)
    entry = k.entry & ~SEPT_TDB
    if not entry & SEPT_TDP:
        entry |= SEPT_RWX
    if entry & SEPT_TDAL:
        l2_alias_unblock(c, s, &k)
    entry_write_unlock(c, s, k.ep, entry)
    k.held &= ~<uint32_t>HELD_ENTRY
    call_leave(c, s, &k)
    return TDX_SUCCESS


cdef uint64_t tdh_mem_track(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """RCX TDR. A new TLB epoch, once nobody is left from the one before the current. Registers stay.
    Leaf 38, version 0."""
    cdef Call k
    cdef uint64_t status
    cdef uint64_t epoch
    if regs_version(r) != 0:
        return TDX_OPERAND_INVALID
    status = td_lock(c, s, r.rcx, False, OP_RCX, &k)
    if status != TDX_SUCCESS:
        return status
    status = td_ready(&k)
    if status == TDX_SUCCESS:
        status = op_state_lock(c, s, &k, OPS_FOR_TRACK)
    if status == TDX_SUCCESS:
        if not sharex_try_excl(c, &k.td.epoch_lock):
            status = TDX_OPERAND_BUSY | OP_TD_EPOCH
        else:
            epoch = sync_load(c, &k.td.td_epoch)
            if sync_load(c, &k.td.refcount[1 - (epoch & 1)]) != 0:
                status = TDX_PREVIOUS_TLB_EPOCH_BUSY
            else:
                sync_store(c, &k.td.td_epoch, epoch + 1)
            sharex_put_excl(c, &k.td.epoch_lock)
    call_leave(c, s, &k)
    return status
