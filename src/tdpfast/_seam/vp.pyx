# cython: language_level=3
"""VCPUs: ENTER, FLUSH, TD exits, and the filter against zero-stepping.

Every function here may yield. Between VP.ENTER and the TD exit the TDVPR (with its PAMT parents) and the TDR's 4K
PAMT entry stay locked shared; nothing else does.
"""

from tdpfast._names cimport SYNC_RMW, TDH_VP_ENTER, TDH_VP_FLUSH
from tdpfast._sync.atomic cimport tdp_fetch_add, tdp_try_cmpxchg, tdp_write_once
from tdpfast._seam.defs cimport *
from tdpfast._seam.leaf cimport *
from tdpfast._seam.locks cimport *
from tdpfast._seam.state cimport *
from tdpfast._seam.steps cimport *
from tdpfast._sync.cpu cimport sync_load, sync_point

cdef uint64_t VP_HINT = <uint64_t>1 << 52      # host recoverability hint
cdef uint64_t VP_RESUME_L1 = <uint64_t>1 << 53


cdef bint vp_associate(Cpu *c, Td *td, Vp *vp) noexcept nogil:
    """Ties the VCPU to this logical processor; False if it is tied to another one."""
    cdef uint64_t lp = 1 + (<uint64_t>c.lp & 63)
    cdef uint64_t old = 0
    sync_point(c, SYNC_RMW, <uint64_t>&vp.lp)
    if not tdp_try_cmpxchg(&vp.lp, &old, lp):
        return old == lp
    tdp_fetch_add(&td.assoc_vcpus, 1)
    return True


cdef uint64_t vp_pages(const Call *k) noexcept nogil:
    """Every page of the VCPU is there: its own and three for each L2 VM."""
    if k.vp == NULL or k.vp.num_tdvpx < <uint64_t>(SEAM_TDVPX_PAGES + 3 * k.td.num_l2):
        return TDX_TDCX_NUM_INCORRECT
    return TDX_SUCCESS


cdef uint64_t tdh_vp_enter(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX TDVPR and flags. SEAM_ENTERED_TD when the guest runs; registers stay otherwise. Leaf 0, version 0."""
    cdef uint64_t status = vp_pages(k)
    if status == TDX_SUCCESS and k.vp.state != VP_READY:
        status = TDX_VCPU_STATE_INCORRECT
    if status == TDX_SUCCESS and not vp_associate(c, k.td, k.vp):
        status = TDX_VCPU_ASSOCIATED
    if status == TDX_SUCCESS and (r.rcx & VP_RESUME_L1 or (r.rcx & VP_HINT and not k.vp.trap_exit)):
        status = TDX_OPERAND_INVALID | OP_RCX      # no L2 VM to leave, nothing to recover from
    if status == TDX_SUCCESS:
        status = vp_enter_epoch(c, s, k, r)
    if status != SEAM_ENTERED_TD:
        return status
    hp_put_shared(c, s, &k.td.op_lock)
    tdp_write_once(&k.vp.state, VP_ACTIVE)
    lp_of(s, c).vp = k.tdvpr.leaf.ref
    k.held = 0               # TDVPR and TDR stay locked until td_exit()
    return status

cdef Leaf *row = td_leaf(TDH_VP_ENTER, tdh_vp_enter, TDVPR_IN_RCX, HOLD_SHARED, WANTS_TDCS, OPS_TRACKED, 1)
row.options = VP_HINT | VP_RESUME_L1


cdef uint64_t vp_enter_epoch(Cpu *c, Seam *s, Call *k, SeamRegs *r) noexcept nogil:
    """Joins the TD's epoch, then asks the zero-step filter."""
    cdef Td *td = k.td
    cdef uint64_t epoch
    cdef uint64_t status
    if not sharex_try_shared(c, &td.epoch_lock):
        return TDX_OPERAND_BUSY | OP_TD_EPOCH
    epoch = sync_load(c, &td.td_epoch)
    k.vp.vcpu_epoch = epoch
    sync_point(c, SYNC_RMW, <uint64_t>&td.refcount[epoch & 1])
    tdp_fetch_add(&td.refcount[epoch & 1], 1)
    sharex_put_shared(c, &td.epoch_lock)
    lp_of(s, c).entry_rip = k.vp.rip
    if k.vp.epf_n == 0:
        return SEAM_ENTERED_TD
    status = zero_step_check(c, s, td, k.vp, r)
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
    if status == SEAM_ENTERED_TD and td.notify_enables & 1 and not vp.ve_valid:
        vp.ve_valid = 1          # the guest is told by a #VE on entry
        vp.ve_gpa = vp.epf_gpa[0]
        vp.ve_qual = 2
    return status


cdef uint64_t tdh_vp_flush(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX TDVPR. The VCPU is no longer associated with a logical processor. Leaf 18, version 0."""
    cdef uint64_t status
    if k.td == NULL or k.td.lifecycle != TD_KEYS_CONFIGURED:
        return TDX_TD_KEYS_NOT_CONFIGURED
    status = vp_pages(k)
    if status == TDX_SUCCESS and k.vp.lp != 1 + (<uint64_t>c.lp & 63):
        status = TDX_VCPU_NOT_ASSOCIATED
    if status == TDX_SUCCESS:
        k.vp.lp = 0
        tdp_fetch_add(&k.td.assoc_vcpus, <uint64_t>-1)
    return status

td_leaf(TDH_VP_FLUSH, tdh_vp_flush, TDVPR_IN_RCX, HOLD_EXCL, WANTS_NOTHING, 0, 1)


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
