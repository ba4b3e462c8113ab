# cython: language_level=3
"""The guest's side (see _seam_guest.pxd). Every function here may yield.

A TDCALL takes no lock but that of the S-EPT entry, and yields to a host that waits for it (host priority).
"""

from tdpfast._atomic cimport tdp_fetch_and, tdp_fetch_or
from tdpfast._seam_core cimport *
from tdpfast._seam_defs cimport *
from tdpfast._seam_l2 cimport (
    L2_R, L2_SSS, L2_RESERVED, L2_VALID, L2_W, L2_XS, L2_XU, alias_bit, has_alias, l2_alias_unblock, l2_attributes, l2_find,
    l2_leaf, l2_leaf_attr, l2_walk_failed, l2_write,
)
from tdpfast._seam_vp cimport td_exit, td_exit_ept_violation, vp_running

cdef enum EeqType:       # extended exit qualification, bits 3:0
    EEQ_NONE = 0
    EEQ_ACCEPT = 1
    EEQ_ATTR_WR = 5
    EEQ_PENDING = 6

cdef enum:
    TDCALL_LENGTH = 4
    ACCESS_LENGTH = 3
    ACCESS_WRITE = 2         # exit qualification


cdef int guest_enter(Cpu *c, Seam *s, Call *k, Vp **vp) noexcept nogil:
    vp[0] = vp_running(c, s)
    if vp[0] == NULL:
        return GUEST_NOT_INSIDE
    k.td = &s.td[vp[0].td]
    k.held = 0
    return GUEST_DONE


cdef int guest_return(Vp *vp, SeamRegs *r, uint64_t status) noexcept nogil:
    """The TDCALL is over, whatever its status."""
    vp.rip += TDCALL_LENGTH
    vp.hp_busy = 0
    r.rax = status
    return GUEST_DONE


cdef int exit_on_entry(Cpu *c, Seam *s, Call *k, Vp *vp, SeamRegs *r, int asked, int at, uint64_t entry,
                       int eeq) noexcept nogil:
    """EPT violation on behalf of a TDCALL: says which entry was in the way. The filter does not count it."""
    cdef uint64_t qual = (entry & SEPT_RWX) << 3
    cdef uint64_t info = 0
    if eeq != EEQ_NONE:
        qual |= ACCESS_WRITE
        info = <uint64_t>eeq | <uint64_t>asked << 32 | <uint64_t>at << 35 | sept_public(entry) << 38
        if entry & SEPT_PS:
            info |= <uint64_t>1 << 46
    td_exit_ept_violation(c, s, vp, r, k.gpa, qual, info)
    return GUEST_TDEXIT


cdef inline bint guest_try_lock(Cpu *c, Seam *s, Vp *vp, uint64_t *ep, uint64_t *entry) noexcept nogil:
    """Guest side: gives way when the host-priority bit is set, and never sets it."""
    cdef uint64_t old
    sync_point(c, SYNC_TRY_EXCL, <uint64_t>ep)
    undo_word(s, ep)
    old = tdp_fetch_or(ep, SEPT_TDEL)
    entry[0] = old & ~(SEPT_TDEL | SEPT_TDHP)
    if old & SEPT_TDEL:
        return False
    if old & SEPT_TDHP:
        tdp_fetch_and(ep, ~SEPT_TDEL)
        vp.hp_busy = 1
        return False
    return True


cdef int guest_busy(Cpu *c, Seam *s, Vp *vp, SeamRegs *r) noexcept nogil:
    """BUSY for the guest; when the host had priority for too long, a TD exit instead."""
    cdef bint waiting = vp.hp_busy
    if waiting and vp.hp_expired:
        vp.hp_busy = 0
        td_exit(c, s, vp)
        r.rax = TDX_HOST_PRIORITY_BUSY_TIMEOUT
        r.rcx = r.rdx = r.r8 = r.r9 = r.r10 = r.r11 = 0
        return GUEST_TDEXIT
    guest_return(vp, r, TDX_OPERAND_BUSY | OP_RCX)
    vp.hp_busy = waiting
    return GUEST_DONE


# ---- ACCEPT -------------------------------------------------------------------------------------------------

cdef int tdg_mem_page_accept(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """RCX GPA|level (4K or 2M). A pending page is zeroed and becomes usable. Guest registers but RAX stay."""
    cdef Call k
    cdef Vp *vp
    cdef uint64_t status
    cdef uint32_t flags
    cdef int at
    if guest_enter(c, s, &k, &vp) != GUEST_DONE:
        return GUEST_NOT_INSIDE
    status = gpa_decode(&k, r.rcx, 0, 1)
    if status != TDX_SUCCESS:
        return guest_return(vp, r, status)
    at = sept_walk(c, s, k.td.root[0], k.gpa, k.td.levels - 1, k.level, &k.ep, &k.entry)
    if at != k.level:
        if sept_flags(k.entry) & ST_GUEST_LEAF:
            return guest_return(vp, r, TDX_PAGE_ALREADY_ACCEPTED | <uint64_t>at)
        return exit_on_entry(c, s, &k, vp, r, k.level, at, k.entry, EEQ_ACCEPT)
    if not guest_try_lock(c, s, vp, k.ep, &k.entry):
        return guest_busy(c, s, vp, r)
    flags = sept_flags(k.entry)
    if not flags & ST_ACCEPTABLE:
        entry_unlock(c, s, k.ep)
        if not flags & ST_FREE and not k.entry & SEPT_PS:
            return guest_return(vp, r, TDX_PAGE_SIZE_MISMATCH | <uint64_t>at)
        if flags & ST_GUEST_LEAF:
            return guest_return(vp, r, TDX_PAGE_ALREADY_ACCEPTED | <uint64_t>at)
        return exit_on_entry(c, s, &k, vp, r, k.level, at, k.entry, EEQ_ACCEPT)
    return accept_page(c, s, &k, vp, r)


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


cdef int tdg_mem_page_attr_rd(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """RCX GPA. RCX GPA|level|pending, RDX attributes of all VMs."""
    cdef Call k
    cdef Vp *vp
    cdef uint64_t rcx = r.rcx
    cdef int at
    if guest_enter(c, s, &k, &vp) != GUEST_DONE:
        return GUEST_NOT_INSIDE
    r.rcx = r.rdx = 0
    if gpa_decode(&k, rcx & ~<uint64_t>0xfff, 0, 0) != TDX_SUCCESS:
        return guest_return(vp, r, TDX_OPERAND_INVALID | OP_RCX)
    at = sept_leaf(c, s, k.td, k.gpa, &k.ep, &k.entry)
    if sept_flags(k.entry) & ST_ATTR_RD:
        if not guest_try_lock(c, s, vp, k.ep, &k.entry):
            return guest_busy(c, s, vp, r)
        if sept_flags(k.entry) & ST_ATTR_RD:
            k.level = at
            k.gpa &= ~(level_size(at) - 1)
            attr_regs(r, &k, at, l2_attributes(c, s, &k))
            entry_unlock(c, s, k.ep)
            return guest_return(vp, r, TDX_SUCCESS)
        entry_unlock(c, s, k.ep)
    return exit_on_entry(c, s, &k, vp, r, 0, at, k.entry, EEQ_NONE)


cdef int tdg_mem_page_attr_wr(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """RCX GPA|level, RDX attributes, R8 masks. RCX GPA|level|pending, RDX the new attributes."""
    cdef Call k
    cdef Vp *vp
    cdef uint64_t rcx = r.rcx
    cdef uint64_t attr = r.rdx
    cdef uint64_t status
    cdef int at
    if guest_enter(c, s, &k, &vp) != GUEST_DONE:
        return GUEST_NOT_INSIDE
    r.rcx = r.rdx = 0
    status = attr_wr_check(&k, attr, r.r8)
    if status == TDX_SUCCESS:
        status = gpa_decode(&k, rcx, 0, 2)
    if status != TDX_SUCCESS:
        return guest_return(vp, r, status)
    at = sept_walk(c, s, k.td.root[0], k.gpa, k.td.levels - 1, k.level, &k.ep, &k.entry)
    if at != k.level:
        return exit_on_entry(c, s, &k, vp, r, k.level, at, k.entry, EEQ_ATTR_WR)
    if not guest_try_lock(c, s, vp, k.ep, &k.entry):
        return guest_busy(c, s, vp, r)
    if not sept_flags(k.entry) & ST_ATTR_WR:
        entry_unlock(c, s, k.ep)
        if not sept_flags(k.entry) & ST_FREE and not k.entry & SEPT_PS:
            return guest_return(vp, r, TDX_PAGE_SIZE_MISMATCH | <uint64_t>at)
        return exit_on_entry(c, s, &k, vp, r, k.level, at, k.entry, EEQ_ATTR_WR)
    status = attr_wr_vms(c, s, &k, r, attr, r.r8)
    return guest_return(vp, r, status)


cdef uint64_t attr_wr_check(Call *k, uint64_t attr, uint64_t mask) noexcept nogil:
    """L1's own attributes cannot be written, nor those of VMs that are not there."""
    cdef uint64_t a
    cdef int vm
    for vm in range(4):
        a = (attr >> (16 * vm)) & 0xffff
        if vm == 0 or vm > k.td.num_l2:
            if a:
                return TDX_OPERAND_INVALID | OP_RDX
            if (mask >> (16 * vm)) & 0xffff:
                return TDX_OPERAND_INVALID | OP_R8
        elif a and (not a & L2_VALID or a & L2_RESERVED):
            return TDX_OPERAND_INVALID | OP_RDX
    return TDX_SUCCESS


cdef uint64_t attr_wr_vms(Cpu *c, Seam *s, Call *k, SeamRegs *r, uint64_t attr, uint64_t mask) noexcept nogil:
    """Checks every VM named, then writes; the L1 entry is locked and given back here."""
    cdef uint64_t *ep[4]
    cdef uint64_t new[4]
    cdef uint64_t entry = k.entry
    cdef uint64_t shown = 0
    cdef uint64_t status
    cdef int vm
    for vm in range(1, 4):
        ep[vm] = NULL
        if not (attr >> (16 * vm)) & L2_VALID:
            continue
        status = attr_wr_vm(c, s, k, r, vm, attr >> (16 * vm), mask >> (16 * vm), &ep[vm], &new[vm])
        if status != TDX_SUCCESS:
            entry_unlock(c, s, k.ep)
            return status
        shown |= (new[vm] | L2_VALID) << (16 * vm)
    for vm in range(1, 4):
        if ep[vm] == NULL:
            continue
        if new[vm] == 0:
            l2_write(c, s, ep[vm], 0)
            entry &= ~alias_bit(vm)
        else:
            l2_write(c, s, ep[vm], l2_leaf(entry & SEPT_HPA, new[vm], entry & SEPT_TDP != 0))
            entry |= alias_bit(vm)
    attr_regs(r, k, k.level, shown)
    entry_write_unlock(c, s, k.ep, entry)
    return TDX_SUCCESS


cdef uint64_t attr_wr_vm(Cpu *c, Seam *s, Call *k, SeamRegs *r, int vm, uint64_t attr, uint64_t mask, uint64_t **ep,
                         uint64_t *new) noexcept nogil:
    """The new attributes of one VM, and its entry unless there is nothing to write."""
    cdef uint64_t old = 0, e
    cdef int at
    mask &= 0x7f
    if has_alias(k.entry, vm):
        if not l2_find(c, s, k, vm, ep, &e, &at):
            return TDX_L2_SEPT_WALK_FAILED | <uint64_t>vm << 16 | <uint64_t>at
        old = l2_leaf_attr(e)
    new[0] = (old & ~mask) | (attr & mask)
    if new[0] & (L2_W | L2_XS | L2_XU | L2_SSS) and not new[0] & L2_R:
        if has_alias(k.entry, vm):
            r.rdx = (old | L2_VALID) << (16 * vm)
        return TDX_PAGE_ATTR_INVALID
    if new[0] == 0 and not has_alias(k.entry, vm):
        ep[0] = NULL
        return TDX_SUCCESS
    if not has_alias(k.entry, vm) and not l2_find(c, s, k, vm, ep, &e, &at):
        return TDX_L2_SEPT_WALK_FAILED | <uint64_t>vm << 16 | <uint64_t>at
    return TDX_SUCCESS


# ---- memory -------------------------------------------------------------------------------------------------

cdef int td_guest_access(Cpu *c, Seam *s, uint64_t gpa, bint same_rip, SeamRegs *r) noexcept nogil:
    """A write by the guest to gpa, as the hardware walks. same_rip: the instruction that faulted last runs again."""
    cdef uint64_t *ep
    cdef uint64_t e
    cdef Vp *vp = vp_running(c, s)
    if vp == NULL:
        return GUEST_NOT_INSIDE
    if not same_rip:
        vp.rip += ACCESS_LENGTH
    if sept_leaf(c, s, &s.td[vp.td], gpa, &ep, &e) <= 2 and e & SEPT_PS and e & ACCESS_WRITE:
        vp.rip += ACCESS_LENGTH
        return GUEST_DONE
    return td_ept_violation(c, s, vp, gpa, r)


cdef int td_ept_violation(Cpu *c, Seam *s, Vp *vp, uint64_t gpa, SeamRegs *r) noexcept nogil:
    """The module's answer to an EPT violation by a write: #VE for a page the guest has not accepted, else an exit."""
    cdef Td *td = &s.td[vp.td]
    cdef uint64_t *ep
    cdef uint64_t e
    cdef uint64_t eeq = EEQ_NONE
    sept_leaf(c, s, td, gpa, &ep, &e)
    if sept_flags(e) & ST_ACCEPTABLE:
        if not td.td_ctls & 1:
            vp.ve_valid = 1
            vp.ve_gpa = gpa
            return GUEST_VE
        eeq = EEQ_PENDING
    zero_step_count(vp, gpa)
    td_exit_ept_violation(c, s, vp, r, gpa, ACCESS_WRITE, eeq)
    return GUEST_TDEXIT


cdef void zero_step_count(Vp *vp, uint64_t gpa) noexcept nogil:
    """Faults at one RIP are counted; after SEAM_ZERO_STEP of them their GPAs are remembered for VP.ENTER."""
    cdef uint32_t i
    if vp.rip != vp.epf_rip:
        vp.epf_rip = vp.rip
        vp.epf_count = 1
        vp.epf_n = 0
        return
    if vp.epf_count < SEAM_ZERO_STEP:
        vp.epf_count += 1
        return
    for i in range(vp.epf_n):
        if vp.epf_gpa[i] == gpa & SEPT_HPA:
            return
    if vp.epf_n < SEAM_EPF_LIST:
        vp.epf_gpa[vp.epf_n] = gpa & SEPT_HPA
        vp.epf_n += 1
