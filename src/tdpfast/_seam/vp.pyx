# cython: language_level=3
"""VCPUs: ENTER, FLUSH, TD exits, and the filter against zero-stepping.

Every function here may yield. Between VP.ENTER and the TD exit the TDVPR (with its PAMT parents) and the TDR's 4K
PAMT entry stay locked shared; nothing else does.
"""

from tdpfast._names cimport SYNC_RMW
from tdpfast._sync.atomic cimport tdp_fetch_add, tdp_try_cmpxchg
from tdpfast._seam.core cimport *
from tdpfast._seam.defs cimport *
from tdpfast._sync.cpu cimport sync_load

cdef uint64_t VP_HINT = <uint64_t>1 << 52      # host recoverability hint
cdef uint64_t VP_RESUME_L1 = <uint64_t>1 << 53


cdef uint64_t vp_lock(Cpu *c, Seam *s, uint64_t tdvpr_pa, bint excl, uint64_t opid, VpCall *v) noexcept nogil:
    """Locks a TDVPR operand and, shared, its TDR. Nothing is held on failure."""
    cdef uint64_t status = leaf_pa_check(s, tdvpr_pa, opid)
    v.page.leaf = v.page.p2m = v.page.p1g = NULL
    v.tdr_held = False
    v.vp = NULL
    v.k.td = NULL
    v.k.held = 0
    if status == TDX_SUCCESS:
        status = page_lock(c, s, tdvpr_pa, 0, excl, opid, &v.page)
    if status != TDX_SUCCESS:
        return status
    if v.page.leaf.pt != PT_TDVPR:
        page_unlock(c, s, &v.page)
        return TDX_PAGE_METADATA_INCORRECT | opid
    v.k.tdr.leaf = pamt_named(s, v.page.leaf.owner, 0)
    if not hp_try_shared(c, s, &v.k.tdr.leaf.lock):
        page_unlock(c, s, &v.page)
        return TDX_OPERAND_BUSY | OP_TDR
    v.tdr_held = True
    if v.k.tdr.leaf.pt == PT_TDR and v.k.tdr.leaf.ref != 0:
        v.k.td = &s.td[v.k.tdr.leaf.ref - 1]
    if v.page.leaf.ref != 0:
        v.vp = &s.vp[v.page.leaf.ref - 1]
    return TDX_SUCCESS


cdef void vp_unlock(Cpu *c, Seam *s, VpCall *v) noexcept nogil:
    if v.k.held & HELD_OP_STATE:
        hp_put_shared(c, s, &v.k.td.op_lock)
    if v.tdr_held:
        hp_put_shared(c, s, &v.k.tdr.leaf.lock)
    page_unlock(c, s, &v.page)
    v.k.held = 0


cdef bint vp_associate(Cpu *c, Td *td, Vp *vp) noexcept nogil:
    """Ties the VCPU to this logical processor; False if it is tied to another one."""
    cdef uint64_t lp = 1 + (<uint64_t>c.lp & 63)
    cdef uint64_t old = 0
    sync_point(c, SYNC_RMW, <uint64_t>&vp.lp)
    if not tdp_try_cmpxchg(&vp.lp, &old, lp):
        return old == lp
    tdp_fetch_add(&td.assoc_vcpus, 1)
    return True


cdef uint64_t vp_pages(VpCall *v) noexcept nogil:
    """Every page of the VCPU is there: its own and three for each L2 VM."""
    if v.vp == NULL or v.vp.num_tdvpx < <uint64_t>(SEAM_TDVPX_PAGES + 3 * v.k.td.num_l2):
        return TDX_TDCX_NUM_INCORRECT
    return TDX_SUCCESS


cdef uint64_t tdh_vp_enter(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """RCX TDVPR and flags. SEAM_ENTERED_TD when the guest runs; registers stay otherwise. Leaf 0, version 0."""
    cdef VpCall v
    cdef uint64_t status
    if regs_version(r) != 0:
        return TDX_OPERAND_INVALID
    status = vp_lock(c, s, r.rcx & ~(VP_HINT | VP_RESUME_L1), False, OP_RCX, &v)
    if status != TDX_SUCCESS:
        return status
    status = td_ready(&v.k)
    if status == TDX_SUCCESS:
        status = op_state_lock(c, s, &v.k, OPS_TRACKED)
    if status == TDX_SUCCESS:
        status = vp_pages(&v)
    if status == TDX_SUCCESS and v.vp.state != VP_READY:
        status = TDX_VCPU_STATE_INCORRECT
    if status == TDX_SUCCESS and not vp_associate(c, v.k.td, v.vp):
        status = TDX_VCPU_ASSOCIATED
    if status == TDX_SUCCESS and (r.rcx & VP_RESUME_L1 or (r.rcx & VP_HINT and not v.vp.trap_exit)):
        status = TDX_OPERAND_INVALID | OP_RCX      # no L2 VM to leave, nothing to recover from
    if status == TDX_SUCCESS:
        status = vp_enter_epoch(c, s, &v, r)
    if status != SEAM_ENTERED_TD:
        vp_unlock(c, s, &v)
        return status
    hp_put_shared(c, s, &v.k.td.op_lock)
    tdp_write_once(&v.vp.state, VP_ACTIVE)
    lp_of(s, c).vp = v.page.leaf.ref
    return status


cdef uint64_t vp_enter_epoch(Cpu *c, Seam *s, VpCall *v, SeamRegs *r) noexcept nogil:
    """Joins the TD's epoch, then asks the zero-step filter."""
    cdef Td *td = v.k.td
    cdef uint64_t epoch
    cdef uint64_t status
    if not sharex_try_shared(c, &td.epoch_lock):
        return TDX_OPERAND_BUSY | OP_TD_EPOCH
    epoch = sync_load(c, &td.td_epoch)
    v.vp.vcpu_epoch = epoch
    sync_point(c, SYNC_RMW, <uint64_t>&td.refcount[epoch & 1])
    tdp_fetch_add(&td.refcount[epoch & 1], 1)
    sharex_put_shared(c, &td.epoch_lock)
    lp_of(s, c).entry_rip = v.vp.rip
    if v.vp.epf_n == 0:
        return SEAM_ENTERED_TD
    status = zero_step_check(c, s, td, v.vp, r)
    if status != SEAM_ENTERED_TD:
        sync_point(c, SYNC_RMW, <uint64_t>&td.refcount[epoch & 1])
        tdp_fetch_add(&td.refcount[epoch & 1], <uint64_t>-1)
    return status


cdef uint64_t zero_step_check(Cpu *c, Seam *s, Td *td, Vp *vp, SeamRegs *r) noexcept nogil:
    """A VCPU that faulted too often at one RIP may only enter once a write to every recorded GPA would succeed. What is
    recorded stays until the guest gets on."""
    cdef uint64_t *ep
    cdef uint64_t e
    cdef uint32_t i
    cdef uint64_t status = SEAM_ENTERED_TD
    if not sharex_try_excl(c, &td.tree_lock):
        return TDX_OPERAND_BUSY | OP_SEPT_TREE
    for i in range(vp.epf_n):
        sept_leaf(c, s, td, vp.epf_gpa[i], &ep, &e)
        if not e & SEPT_PS or e & SEPT_RWX != SEPT_RWX:
            vp.trap_exit = 0
            regs_exit(r, 0x30, 2, 0, vp.epf_gpa[i] & ~<uint64_t>0xfff)
            status = 0x30
            break
    sharex_put_excl(c, &td.tree_lock)
    return status


cdef uint64_t tdh_vp_flush(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """RCX TDVPR. The VCPU is no longer associated with a logical processor. Leaf 18, version 0."""
    cdef VpCall v
    cdef uint64_t status
    if regs_version(r) != 0:
        return TDX_OPERAND_INVALID
    status = vp_lock(c, s, r.rcx, True, OP_RCX, &v)
    if status != TDX_SUCCESS:
        return status
    if v.k.td == NULL or v.k.td.lifecycle != TD_KEYS_CONFIGURED:
        status = TDX_TD_KEYS_NOT_CONFIGURED
    if status == TDX_SUCCESS:
        status = vp_pages(&v)
    if status == TDX_SUCCESS and v.vp.lp != 1 + (<uint64_t>c.lp & 63):
        status = TDX_VCPU_NOT_ASSOCIATED
    if status == TDX_SUCCESS:
        v.vp.lp = 0
        tdp_fetch_add(&v.k.td.assoc_vcpus, <uint64_t>-1)
    vp_unlock(c, s, &v)
    return status


# ---- out of the TD ------------------------------------------------------------------------------------------

cdef Vp *vp_running(Cpu *c, Seam *s) noexcept nogil:
    cdef uint32_t slot = lp_of(s, c).vp
    return &s.vp[slot - 1] if slot != 0 else NULL


cdef void regs_exit(SeamRegs *r, uint64_t rax, uint64_t rcx, uint64_t rdx, uint64_t r8) noexcept nogil:
    r.rax = rax
    r.rcx = rcx
    r.rdx = rdx
    r.r8 = r8
    r.r9 = r.r10 = r.r11 = 0


cdef void vm_exit(Cpu *c, Seam *s, Vp *vp) noexcept nogil:
    """The guest has exited to the module. If it got on since VP.ENTER here, the zero-step filter starts over."""
    if vp.rip != lp_of(s, c).entry_rip:
        vp.epf_n = 0
        vp.epf_count = 0


cdef void td_exit(Cpu *c, Seam *s, Vp *vp) noexcept nogil:
    """The VCPU leaves the TD: its hold on the TLB epoch, then the locks."""
    cdef Td *td = &s.td[vp.td]
    vp.trap_exit = 0
    cdef PageHold h
    sync_point(c, SYNC_RMW, <uint64_t>&td.refcount[vp.vcpu_epoch & 1])
    tdp_fetch_add(&td.refcount[vp.vcpu_epoch & 1], <uint64_t>-1)
    tdp_write_once(&vp.state, VP_READY)
    lp_of(s, c).vp = 0
    hp_put_shared(c, s, &pamt_named(s, td.tdr_pa, 0).lock)
    h.excl = False
    h.leaf = pamt_named(s, vp.tdvpr_pa, 0)
    h.p2m = pamt_named(s, vp.tdvpr_pa, 1)
    h.p1g = pamt_named(s, vp.tdvpr_pa, 2)
    page_unlock(c, s, &h)


cdef uint64_t td_async_exit(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """External interrupt; the guest has got on. Returns the exit reason, or 0 if no guest ran here."""
    cdef Vp *vp = vp_running(c, s)
    if vp == NULL:
        return 0
    vp.rip += 2
    vm_exit(c, s, vp)
    td_exit(c, s, vp)
    regs_exit(r, 1, 0, 0, 0)
    return 1


cdef void td_exit_ept_violation(Cpu *c, Seam *s, Vp *vp, SeamRegs *r, uint64_t gpa, uint64_t qual,
                                uint64_t eeq) noexcept nogil:
    """Exit to the VMM: RCX exit qualification, RDX extended qualification, R8 GPA."""
    td_exit(c, s, vp)
    regs_exit(r, 0x30, qual, eeq, gpa & SEPT_HPA)
