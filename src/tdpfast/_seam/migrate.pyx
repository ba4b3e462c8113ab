# cython: language_level=3
"""Migration's S-EPT side, as far as no stream is needed: TDH.EXPORT.BLOCKW, UNBLOCKW, RESTORE.

BLOCKW and RESTORE work on a list of GPAs in the VMM's memory, entry by entry: one that cannot be done gets operation NOP
and a status, and the call goes on. Nothing is encrypted here, and nobody counts but the TD's words.

Every function here may yield; what a call holds is given back when it returns.
"""

from tdpfast._names cimport TDH_EXPORT_BLOCKW, TDH_EXPORT_RESTORE, TDH_EXPORT_UNBLOCKW
from tdpfast._sync.atomic cimport tdp_fetch_add
from tdpfast._seam.defs cimport *
from tdpfast._seam.leaf cimport *
from tdpfast._seam.locks cimport *
from tdpfast._seam.state cimport *
from tdpfast._seam.steps cimport *
from tdpfast._sync.cpu cimport sync_load

cdef Leaf *row

cdef enum:
    LIST_FIRST_SHIFT = 3
    LIST_LAST_SHIFT = 55
    GPA_OP_SHIFT = 52
    GPA_STATUS_SHIFT = 56
    OP_NOP = 0
    OP_CANCEL = 2
    OPS_LIVE = 0x008         # LIVE_EXPORT
    OPS_AFTER = 0x004        # RUNNABLE
    OPS_EXPORTING = 0x03c    # and RUNNABLE

cdef enum GpaStatus:
    GPA_OK = 0
    GPA_SKIPPED = 1
    GPA_WALK = 2
    GPA_BUSY = 3
    GPA_STATE = 4
    GPA_INVALID = 15

cdef uint64_t LIST_RESERVED = <uint64_t>7 << 52 | 7      # format 0, and what is always zero
cdef uint64_t GPA_RESERVED = <uint64_t>7 << 61 | <uint64_t>3 << 54 | 0x78
cdef uint64_t GPA_TYPE = <uint64_t>1 << 10      # bit 11 is not looked at


cdef uint64_t tdh_export_unblockw(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX GPA|level (4K), RDX TDR. A page that was blocked for writing is writable again; if it was exported, it is
    dirty from now on. No tracking is asked for. Leaf 75, version 0."""
    cdef uint64_t entry = k.entry & ~SEPT_TDBW
    if sept_flags(k.entry) & ST_EXPORTED:
        if not entry & SEPT_D:
            tdp_fetch_add(&k.td.dirty_count, 1)
        entry |= SEPT_D
    if not entry & SEPT_TDP:
        entry |= 2
    entry_commit(c, s, k, entry)
    return TDX_SUCCESS

row = mem_leaf(TDH_EXPORT_UNBLOCKW, tdh_export_unblockw, 0, OPS_EXPORTING, 0, 0, TREE_SHARED, ST_BLOCKEDW, 2)
row.flags = LEAF_QUIET_BUSY


# ---- lists of GPAs ------------------------------------------------------------------------------------------

ctypedef bint (*entry_fn)(Cpu *c, Seam *s, Call *k) noexcept nogil


cdef uint64_t list_next(uint64_t info, uint64_t first) noexcept nogil:
    return (info & ~(<uint64_t>0x1ff << LIST_FIRST_SHIFT)) | (first & 0x1ff) << LIST_FIRST_SHIFT


cdef int gpa_do(Cpu *c, Seam *s, Call *k, uint64_t gpa_entry, entry_fn change) noexcept nogil:
    """One page of the list: a GpaStatus."""
    cdef int at
    cdef bint done
    k.gpa = gpa_entry & SEPT_HPA
    k.level = 0
    at = sept_walk(c, s, k.td.root[0], k.gpa, k.td.levels - 1, 0, &k.ep, &k.entry)
    if at != 0:
        return GPA_WALK
    if not entry_try_lock(c, s, k.ep, &k.entry):
        return GPA_BUSY
    k.held |= HELD_ENTRY
    done = change(c, s, k)
    if k.held & HELD_ENTRY:
        entry_unlock(c, s, k.ep)
        k.held &= ~<uint32_t>HELD_ENTRY
    return GPA_OK if done else GPA_STATE


cdef uint64_t gpa_list(Cpu *c, Seam *s, SeamRegs *r, Call *k, entry_fn change) noexcept nogil:
    """Works through a list; RCX says where it goes on."""
    cdef uint64_t info = k.rcx
    cdef uint64_t first = (info >> LIST_FIRST_SHIFT) & 0x1ff, last = info >> LIST_LAST_SHIFT
    cdef uint64_t failed = 0, i = first, e, operation
    cdef uint64_t *words
    cdef int status
    if info & LIST_RESERVED or first > last or (
            (info & SEPT_HPA & s.hkid_bits) >> s.hkid_shift >= <uint64_t>s.hkid_private):
        return TDX_OPERAND_INVALID | OP_RCX
    words = host_words(s, info & SEPT_HPA)
    while i <= last:
        e = words[i] if words != NULL else 0
        operation = (e >> GPA_OP_SHIFT) & 3
        if operation == OP_NOP or operation == OP_CANCEL:
            status = GPA_SKIPPED
            e &= ~(<uint64_t>0x1f << GPA_STATUS_SHIFT)
        elif e & (GPA_RESERVED | GPA_TYPE | 3) or (e & SEPT_HPA) >> (51 if k.td.gpaw else 47):
            status = GPA_INVALID
        else:
            status = gpa_do(c, s, k, e, change)
        e &= ~(<uint64_t>0x1f << GPA_STATUS_SHIFT)
        if status != GPA_OK:
            e = (e & ~(<uint64_t>3 << GPA_OP_SHIFT)) | <uint64_t>status << GPA_STATUS_SHIFT
            failed += status != GPA_SKIPPED
        if words != NULL:
            words[i] = e
        if status == GPA_INVALID:
            r.rcx = list_next(info, i)
            return TDX_OPERAND_INVALID | OP_GPA_LIST_ENTRY
        i += 1
        r.rcx = list_next(info, i)
        if i <= last and interrupt_pending(s, c):
            return TDX_INTERRUPTED_RESUMABLE
    return TDX_SUCCESS | failed


cdef bint blockw_entry(Cpu *c, Seam *s, Call *k) noexcept nogil:
    if not sept_flags(k.entry) & ST_BLOCKW:
        return False
    k.td.bw_epoch = sync_load(c, &k.td.td_epoch)
    entry_commit(c, s, k, (k.entry & ~<uint64_t>2) | SEPT_TDBW)
    return True


cdef uint64_t tdh_export_blockw(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX list of GPAs, RDX TDR. The pages are no longer writable, once the TD's TLBs are tracked. Success: how many
    entries were not done in the status's details. Leaf 65, version 0."""
    return gpa_list(c, s, r, k, blockw_entry)

row = td_leaf(TDH_EXPORT_BLOCKW, tdh_export_blockw, TDR_IN_RDX, HOLD_SHARED, WANTS_TDCS, OPS_LIVE, 2)
row.tree = TREE_SHARED


cdef bint restore_entry(Cpu *c, Seam *s, Call *k) noexcept nogil:
    cdef uint64_t entry = k.entry & ~(SEPT_TDBW | SEPT_TDEX | SEPT_D)
    if not sept_flags(k.entry) & ST_EXPORTED:
        return False
    if not entry & SEPT_TDP:
        entry |= SEPT_RWX
    tdp_fetch_add(&k.td.mig_count, <uint64_t>-1)
    entry_commit(c, s, k, entry)
    return True


cdef uint64_t tdh_export_restore(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX list of GPAs, RDX TDR. After an export that was aborted: the pages are no longer exported. Leaf 66,
    version 0."""
    return gpa_list(c, s, r, k, restore_entry)

row = td_leaf(TDH_EXPORT_RESTORE, tdh_export_restore, TDR_IN_RDX, HOLD_SHARED, WANTS_TDCS, OPS_AFTER, 2)
row.tree = TREE_SHARED
