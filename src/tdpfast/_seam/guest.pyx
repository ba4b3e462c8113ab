# cython: language_level=3
"""The guest's side (see guest.pxd). Every function here may yield.

A TDCALL takes no lock but that of the S-EPT entry, and yields to a host that waits for it (host priority).
"""

from tdpfast._names cimport (
    SYNC_PUT_EXCL, SYNC_TRY_EXCL, TDG_MEM_PAGE_ACCEPT, TDG_MEM_PAGE_ATTR_RD, TDG_MEM_PAGE_ATTR_WR, TDG_VP_VEINFO_GET,
    TdCall,
)
from tdpfast._sync.atomic cimport tdp_fetch_and, tdp_fetch_or
from tdpfast._seam.defs cimport *
from tdpfast._seam.leaf cimport IN_R8, IN_R9, IN_RCX, IN_RDX, NO_GPA
from tdpfast._seam.locks cimport *
from tdpfast._seam.state cimport *
from tdpfast._seam.steps cimport *
from tdpfast._seam.l2 cimport (
    L2_PRESENT, L2_VALID, alias_bit, has_alias, l2_alias_unblock, l2_attr_legal, l2_attributes, l2_find_guest, l2_leaf,
    l2_leaf_attr, l2_leaf_put, l2_write,
)
from tdpfast._seam.vp cimport td_exit, td_exit_ept_violation, vm_exit, vp_running
from tdpfast._sync.cpu cimport sync_load, sync_point

cdef enum EeqType:       # extended exit qualification, bits 3:0
    EEQ_NONE = 0
    EEQ_ACCEPT = 1
    EEQ_ATTR_WR = 5
    EEQ_PENDING = 6

cdef enum:
    TDCALL_LENGTH = 4
    ACCESS_LENGTH = 3
    ACCESS_WRITE = 2         # exit qualification
    EXIT_EPT_VIOLATION = 0x30

cdef enum GuestLock:
    LOCK_TAKEN = 0
    LOCK_BUSY
    LOCK_PRIORITY            # it was free, but a host waits for it


# ---- rows ---------------------------------------------------------------------------------------------------

cdef GuestLeaf rows[TDCALLS]
cdef GuestLeaf *row


cdef GuestLeaf *guest_leaf(TdCall number, guest_fn fn, int lowest, int highest, uint32_t state, uint32_t zeroed,
                           uint32_t flags):
    """Fills the row of a TDCALL, at import."""
    cdef GuestLeaf *new = &rows[<int>number]
    new.fn = fn
    new.lowest = lowest
    new.highest = highest
    new.state = state
    new.zeroed = zeroed
    new.flags = flags
    return new


cdef const GuestLeaf *guest_row(int number) noexcept nogil:
    """The row of a TDCALL that tdpfast has; NULL for other numbers."""
    return &rows[number] if 0 <= number < TDCALLS and rows[number].fn != NULL else NULL


cdef uint64_t operands_check(const GuestLeaf *leaf, Call *k, const SeamRegs *given, SeamRegs *r) noexcept nogil:
    """What a row asks of the operands, in the module's order: registers become 0, the leaf's own look, the GPA."""
    cdef uint64_t status = TDX_SUCCESS
    if leaf.zeroed & IN_RCX:
        r.rcx = 0
    if leaf.zeroed & IN_RDX:
        r.rdx = 0
    if leaf.zeroed & IN_R8:
        r.r8 = 0
    if leaf.zeroed & IN_R9:
        r.r9 = 0
    if leaf.check != NULL:
        status = leaf.check(k, given.rdx, given.r8)
    if status == TDX_SUCCESS and leaf.lowest != NO_GPA:
        if leaf.flags & GUEST_PLAIN_GPA:
            status = gpa_decode(k, given.rcx & ~<uint64_t>0xfff, leaf.lowest, leaf.highest)
            return TDX_OPERAND_INVALID | OP_RCX if status != TDX_SUCCESS else TDX_SUCCESS
        status = gpa_decode(k, given.rcx, leaf.lowest, leaf.highest)
    return status


cdef int tdcall(Cpu *c, Seam *s, int leaf, SeamRegs *r) noexcept nogil:
    """A TDCALL by its number: a GuestResult. One that tdpfast does not have, and a version above the row's (bits 23:16
    of RAX), is answered TDX_OPERAND_INVALID."""
    cdef const GuestLeaf *found = guest_row(leaf)
    cdef SeamRegs given = r[0]
    cdef Call k
    cdef Vp *vp = vp_running(c, s)
    cdef uint64_t status = TDX_OPERAND_INVALID
    if vp == NULL:
        return GUEST_NOT_INSIDE
    k.td = &s.td[vp.td]
    k.held = 0
    vm_exit(c, s, vp)
    if found != NULL and (r.rax >> 16 & 0xff) <= found.version:
        status = operands_check(found, &k, &given, r)
    if status != TDX_SUCCESS:
        return guest_return(vp, r, status)
    return found.fn(c, s, found, &k, vp, &given, r)


cdef int guest_return(Vp *vp, SeamRegs *r, uint64_t status) noexcept nogil:
    """The TDCALL is over, whatever its status."""
    vp.rip += TDCALL_LENGTH
    vp.hp_busy = 0
    r.rax = status
    return GUEST_DONE


cdef int exit_on_entry(Cpu *c, Seam *s, Call *k, Vp *vp, SeamRegs *r, int asked, int at, uint64_t entry,
                       int eeq) noexcept nogil:
    """EPT violation on behalf of a TDCALL: says which entry was in the way. The filter does not count it."""
    cdef uint64_t qual = 0
    cdef uint64_t info = 0
    if eeq != EEQ_NONE:
        qual = ACCESS_WRITE | (entry & SEPT_RWX) << 3
        info = <uint64_t>eeq | <uint64_t>asked << 32 | <uint64_t>at << 35 | sept_public(entry) << 38
        if entry & SEPT_PS:
            info |= <uint64_t>1 << 46
    td_exit_ept_violation(c, s, vp, r, k.gpa, qual, info)
    return GUEST_TDEXIT


cdef inline int guest_try_lock(Cpu *c, Seam *s, uint64_t *ep, uint64_t *entry) noexcept nogil:
    """Guest side: gives way when the host-priority bit is set, and never sets it. A GuestLock."""
    cdef uint64_t old
    sync_point(c, SYNC_TRY_EXCL, <uint64_t>ep)
    undo_word(s, ep)
    old = tdp_fetch_or(ep, SEPT_TDEL)
    entry[0] = old & ~(SEPT_TDEL | SEPT_TDHP)
    if old & SEPT_TDEL:
        return LOCK_BUSY
    if old & SEPT_TDHP:
        tdp_fetch_and(ep, ~SEPT_TDEL)
        return LOCK_PRIORITY
    return LOCK_TAKEN


cdef int guest_busy(Cpu *c, Seam *s, Vp *vp, SeamRegs *r, int lock) noexcept nogil:
    """BUSY for the guest; when the host had priority already last time and for too long, a trap-like TD exit."""
    if lock == LOCK_PRIORITY and vp.hp_busy and vp.hp_expired:
        vp.hp_busy = 0
        vp.rip += TDCALL_LENGTH
        td_exit(c, s, vp)
        vp.trap_exit = 1
        r.rax = TDX_HOST_PRIORITY_BUSY_TIMEOUT
        r.rcx = r.rdx = r.r8 = r.r9 = r.r10 = r.r11 = 0
        return GUEST_TDEXIT
    guest_return(vp, r, TDX_OPERAND_BUSY | OP_RCX)
    vp.hp_busy = lock == LOCK_PRIORITY
    return GUEST_DONE


# ---- ACCEPT -------------------------------------------------------------------------------------------------

cdef int tdg_mem_page_accept(Cpu *c, Seam *s, const GuestLeaf *leaf, Call *k, Vp *vp, const SeamRegs *given,
                             SeamRegs *r) noexcept nogil:
    """RCX GPA|level (4K or 2M). A pending page is zeroed and becomes usable. Guest registers but RAX stay."""
    cdef uint32_t flags
    cdef int at, lock
    at = sept_walk(c, s, k.td.root[0], k.gpa, k.td.levels - 1, k.level, &k.ep, &k.entry)
    if at != k.level:
        if sept_flags(k.entry) & ST_GUEST_LEAF:
            return guest_return(vp, r, TDX_PAGE_ALREADY_ACCEPTED | <uint64_t>at)
        return exit_on_entry(c, s, k, vp, r, k.level, at, k.entry, EEQ_ACCEPT)
    lock = guest_try_lock(c, s, k.ep, &k.entry)
    if lock != LOCK_TAKEN:
        return guest_busy(c, s, vp, r, lock)
    flags = sept_flags(k.entry)
    if not flags & leaf.state:
        entry_unlock(c, s, k.ep)
        if not flags & ST_FREE and not k.entry & SEPT_PS:
            return guest_return(vp, r, TDX_PAGE_SIZE_MISMATCH | <uint64_t>at)
        if flags & ST_GUEST_LEAF:
            return guest_return(vp, r, TDX_PAGE_ALREADY_ACCEPTED | <uint64_t>at)
        return exit_on_entry(c, s, k, vp, r, k.level, at, k.entry, EEQ_ACCEPT)
    return accept_page(c, s, k, vp, r)

row = guest_leaf(TDG_MEM_PAGE_ACCEPT, tdg_mem_page_accept, 0, 1, ST_ACCEPTABLE, 0, 0)


cdef int accept_page(Cpu *c, Seam *s, Call *k, Vp *vp, SeamRegs *r) noexcept nogil:
    """Zeroes the locked, pending page; a 2M page in steps, with the progress kept in the entry."""
    cdef PamtEntry *page = entry_pamt(s, k.entry, k.level)
    cdef uint64_t done = 0
    if k.level == 1:
        done = (k.entry & SEPT_COUNTER) >> 12
        while done < 511:
            done += 1
            if interrupt_pending(s, c):
                entry_write_unlock(c, s, k.ep, (k.entry & ~SEPT_COUNTER) | done << 12)
                return GUEST_REEXECUTE
        k.entry &= ~SEPT_COUNTER
    pamt_touch(s, page)
    page.content = 0
    k.entry = (k.entry & ~SEPT_TDP) | SEPT_RWX
    if k.entry & SEPT_TDAL:
        l2_alias_unblock(c, s, k)
    entry_write_unlock(c, s, k.ep, k.entry)
    return guest_return(vp, r, TDX_SUCCESS)


# ---- attributes ---------------------------------------------------------------------------------------------

cdef void attr_regs(SeamRegs *r, Call *k, int level, uint64_t attr) noexcept nogil:
    r.rcx = (k.gpa & ~(level_size(level) - 1)) | <uint64_t>level
    if k.entry & SEPT_TDP:
        r.rcx |= <uint64_t>1 << 62
    r.rdx = attr


cdef int tdg_mem_page_attr_rd(Cpu *c, Seam *s, const GuestLeaf *leaf, Call *k, Vp *vp, const SeamRegs *given,
                              SeamRegs *r) noexcept nogil:
    """RCX GPA, its low bits meaning nothing. RCX GPA|level|pending, RDX attributes of all VMs."""
    cdef int at, lock
    at = sept_leaf(c, s, k.td, k.gpa, &k.ep, &k.entry)
    lock = guest_try_lock(c, s, k.ep, &k.entry)
    if lock != LOCK_TAKEN:
        return guest_busy(c, s, vp, r, lock)
    if not sept_flags(k.entry) & leaf.state:
        entry_unlock(c, s, k.ep)
        return exit_on_entry(c, s, k, vp, r, 0, at, k.entry, EEQ_NONE)
    k.level = at
    k.gpa &= ~(level_size(at) - 1)
    attr_regs(r, k, at, l2_attributes(c, s, k))
    entry_unlock(c, s, k.ep)
    return guest_return(vp, r, TDX_SUCCESS)

row = guest_leaf(TDG_MEM_PAGE_ATTR_RD, tdg_mem_page_attr_rd, 0, 0, ST_ATTR_RD, IN_RCX | IN_RDX, GUEST_PLAIN_GPA)


cdef struct AttrWr:          # by VM
    uint64_t *ep[4]          # NULL: nothing to write
    uint64_t new[4]


cdef int tdg_mem_page_attr_wr(Cpu *c, Seam *s, const GuestLeaf *leaf, Call *k, Vp *vp, const SeamRegs *given,
                              SeamRegs *r) noexcept nogil:
    """RCX GPA|level, RDX attributes, R8 masks. RCX GPA|level|pending, RDX the new attributes; with
    TDX_PAGE_ATTR_INVALID RCX 0, RDX the attributes as they are where they stay so."""
    cdef uint64_t attr = given.rdx
    cdef uint64_t status
    cdef int at, lock
    at = sept_walk(c, s, k.td.root[0], k.gpa, k.td.levels - 1, k.level, &k.ep, &k.entry)
    if at != k.level:
        return exit_on_entry(c, s, k, vp, r, k.level, at, k.entry, EEQ_ATTR_WR)
    lock = guest_try_lock(c, s, k.ep, &k.entry)
    if lock != LOCK_TAKEN:
        return guest_busy(c, s, vp, r, lock)
    if not sept_flags(k.entry) & leaf.state:
        entry_unlock(c, s, k.ep)
        if not sept_flags(k.entry) & ST_FREE and not k.entry & SEPT_PS:
            return guest_return(vp, r, TDX_PAGE_SIZE_MISMATCH | <uint64_t>at)
        return exit_on_entry(c, s, k, vp, r, k.level, at, k.entry, EEQ_ATTR_WR)
    status = attr_wr_vms(c, s, k, r, attr, given.r8)
    return guest_return(vp, r, status)

row = guest_leaf(TDG_MEM_PAGE_ATTR_WR, tdg_mem_page_attr_wr, 0, 2, ST_ATTR_WR, IN_RCX | IN_RDX, 0)
row.check = attr_wr_check


cdef uint64_t attr_wr_check(const Call *k, uint64_t attr, uint64_t mask) noexcept nogil:
    """RDX and R8: L1's own attributes cannot be written, nor those of VMs that are not there."""
    cdef uint64_t a
    cdef int vm
    for vm in range(4):
        a = (attr >> (16 * vm)) & 0xffff
        if vm == 0 or vm > k.td.num_l2:
            if a:
                return TDX_OPERAND_INVALID | OP_RDX
            if (mask >> (16 * vm)) & 0xffff:
                return TDX_OPERAND_INVALID | OP_R8
        elif a and not a & L2_VALID:
            return TDX_OPERAND_INVALID | OP_RDX
    return TDX_SUCCESS


cdef uint64_t attr_wr_vms(Cpu *c, Seam *s, Call *k, SeamRegs *r, uint64_t attr, uint64_t mask) noexcept nogil:
    """Checks every VM named, then writes; the L1 entry is locked and given back here."""
    cdef AttrWr w
    cdef uint64_t result = TDX_SUCCESS
    cdef uint64_t status
    cdef int vm
    for vm in range(1, 4):
        w.ep[vm] = NULL
        w.new[vm] = (attr >> (16 * vm)) & 0xffff
        status = attr_wr_vm(c, s, k, vm, (mask >> (16 * vm)) & 0xffff, &w)
        if status == TDX_PAGE_ATTR_INVALID:
            result = status          # the others are looked at all the same
        elif status != TDX_SUCCESS:
            entry_unlock(c, s, k.ep)
            return status
    if result == TDX_SUCCESS:
        attr_wr_commit(c, s, k, &w)
        attr_regs(r, k, k.level, 0)
    else:
        entry_unlock(c, s, k.ep)
    r.rdx = w.new[1] << 16 | w.new[2] << 32 | w.new[3] << 48
    return result


cdef uint64_t attr_wr_vm(Cpu *c, Seam *s, Call *k, int vm, uint64_t mask, AttrWr *w) noexcept nogil:
    """The new attributes of one VM, and its entry if there is something to write."""
    cdef uint64_t asked = w.new[vm] & (mask | L2_VALID)
    cdef uint64_t old, e
    cdef int at
    if not asked & L2_VALID:
        return TDX_SUCCESS
    if has_alias(k.entry, vm):
        if not l2_find_guest(c, s, k, vm, &w.ep[vm], &e, &at):
            return SEAM_MODULE_HALT      # an alias without an entry
        old = l2_leaf_attr(e, sept_flags(k.entry) & ST_BLOCKEDW != 0)
        w.new[vm] = (old & ~(mask | L2_VALID)) | asked
        if w.new[vm] & L2_PRESENT and not l2_attr_legal(w.new[vm]):
            w.new[vm] = old
            return TDX_PAGE_ATTR_INVALID
    elif asked & L2_PRESENT:
        if not l2_attr_legal(asked):
            w.new[vm] = 0
            return TDX_PAGE_ATTR_INVALID
        w.new[vm] = asked
        if not l2_find_guest(c, s, k, vm, &w.ep[vm], &e, &at):
            return TDX_L2_SEPT_WALK_FAILED | <uint64_t>vm << 16 | <uint64_t>at
    return TDX_SUCCESS


cdef void attr_wr_commit(Cpu *c, Seam *s, Call *k, AttrWr *w) noexcept nogil:
    """Writes the L2 entries, then the aliases in the L1 entry and gives that back: a host that waits keeps its
    priority."""
    cdef uint64_t made = 0, gone = 0
    cdef uint64_t e
    cdef int vm
    for vm in range(1, 4):
        if w.ep[vm] == NULL:
            continue
        e = sync_load(c, w.ep[vm])
        if not has_alias(k.entry, vm):
            l2_write(c, s, w.ep[vm], l2_leaf(e, k.entry & SEPT_HPA, w.new[vm], k.entry & SEPT_TDP != 0))
            made |= alias_bit(vm)
        elif w.new[vm] & L2_PRESENT:
            l2_write(c, s, w.ep[vm], l2_leaf_put(e, w.new[vm]))
        else:
            l2_write(c, s, w.ep[vm], 0)
            w.new[vm] = L2_VALID
            gone |= alias_bit(vm)
    sync_point(c, SYNC_PUT_EXCL, <uint64_t>k.ep)
    undo_word(s, k.ep)
    tdp_fetch_or(k.ep, made)
    tdp_fetch_and(k.ep, ~(SEPT_TDEL | gone))


# ---- memory -------------------------------------------------------------------------------------------------

cdef int td_guest_access(Cpu *c, Seam *s, uint64_t gpa, bint same_rip, SeamRegs *r) noexcept nogil:
    """A write by the guest to gpa, as the hardware walks. same_rip: at the last access's RIP, whether it faulted
    or not."""
    cdef uint64_t *ep
    cdef uint64_t e
    cdef Vp *vp = vp_running(c, s)
    if vp == NULL:
        return GUEST_NOT_INSIDE
    if not same_rip:
        vp.rip += ACCESS_LENGTH
    if sept_leaf(c, s, &s.td[vp.td], gpa, &ep, &e) <= 2 and e & SEPT_PS and e & ACCESS_WRITE:
        return GUEST_DONE
    return td_ept_violation(c, s, vp, gpa, r)


cdef int inject_ve(Vp *vp, uint64_t gpa) noexcept nogil:
    """#VE about a page; VE_INFO is the guest's until VP.VEINFO.GET read it, and one more #VE meanwhile is a #DF."""
    if vp.ve_valid:
        return GUEST_DF
    vp.ve_valid = 1
    vp.ve_gpa = gpa
    vp.ve_qual = ACCESS_WRITE
    return GUEST_VE


cdef int td_ept_violation(Cpu *c, Seam *s, Vp *vp, uint64_t gpa, SeamRegs *r) noexcept nogil:
    """The module's answer to an EPT violation by a write: #VE for a page the guest has not accepted, else an exit.
    Those of shared GPAs are the host's EPT's: the zero-step filter does not count them."""
    cdef Td *td = &s.td[vp.td]
    cdef uint64_t *ep
    cdef uint64_t e
    cdef uint64_t eeq = EEQ_NONE
    vm_exit(c, s, vp)
    if (gpa >> (51 if td.gpaw else 47)) & 1:
        td_exit_ept_violation(c, s, vp, r, gpa, ACCESS_WRITE, EEQ_NONE)
        return GUEST_TDEXIT
    sept_leaf(c, s, td, gpa, &ep, &e)
    if sept_flags(e) & ST_ACCEPTABLE:
        if not td.td_ctls & 1:
            return inject_ve(vp, gpa)
        eeq = EEQ_PENDING
    zero_step_count(vp, gpa)
    td_exit_ept_violation(c, s, vp, r, gpa, ACCESS_WRITE, eeq)
    return GUEST_TDEXIT


cdef void zero_step_count(Vp *vp, uint64_t gpa) noexcept nogil:
    """Faults without progress are counted; after SEAM_ZERO_STEP of them their GPAs are remembered for VP.ENTER."""
    cdef uint32_t i
    if vp.epf_count < SEAM_ZERO_STEP:
        vp.epf_count += 1
        return
    for i in range(vp.epf_n):
        if vp.epf_gpa[i] == gpa:
            return
    if vp.epf_n < SEAM_EPF_LIST:
        vp.epf_gpa[vp.epf_n] = gpa
        vp.epf_n += 1


# ---- VE_INFO ------------------------------------------------------------------------------------------------

cdef int tdg_vp_veinfo_get(Cpu *c, Seam *s, const GuestLeaf *leaf, Call *k, Vp *vp, const SeamRegs *given,
                           SeamRegs *r) noexcept nogil:
    """RCX exit reason, RDX qualification, R8 GLA (0: nobody keeps it here), R9 GPA of the last #VE."""
    if not vp.ve_valid:
        return guest_return(vp, r, TDX_NO_VALID_VE_INFO)
    r.rcx = EXIT_EPT_VIOLATION
    r.rdx = vp.ve_qual
    r.r9 = vp.ve_gpa
    vp.ve_valid = 0
    return guest_return(vp, r, TDX_SUCCESS)

row = guest_leaf(TDG_VP_VEINFO_GET, tdg_vp_veinfo_get, NO_GPA, NO_GPA, 0, IN_RCX | IN_RDX | IN_R8 | IN_R9,
                 GUEST_UNRECORDED)
