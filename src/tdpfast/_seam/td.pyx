# cython: language_level=3
"""The life of a TD, from TDH.MNG.CREATE to TDH.MNG.KEY.FREEID. TDH.MNG.INIT's TD_PARAMS are params.pyx's.

Every function here may yield; what a call holds is given back when it returns.
"""

from libc.string cimport memset

from tdpfast._names cimport (
    TDH_MNG_ADDCX, TDH_MNG_CREATE, TDH_MNG_INIT, TDH_MNG_KEY_CONFIG, TDH_MNG_KEY_FREEID, TDH_MNG_KEY_RECLAIMID,
    TDH_MNG_VPFLUSHDONE, TDH_VP_ADDCX, TDH_VP_CREATE, TDH_VP_INIT,
)
from tdpfast._sync.atomic cimport tdp_fetch_add, tdp_load_seq, tdp_try_cmpxchg
from tdpfast._seam.defs cimport *
from tdpfast._seam.leaf cimport *
from tdpfast._seam.locks cimport *
from tdpfast._seam.state cimport *
from tdpfast._seam.steps cimport *
from tdpfast._seam.mr cimport mr_begin
from tdpfast._seam.params cimport ATTR_SEPT_VE_DISABLE, TdParams, params_check, params_read
from tdpfast._seam.vp cimport vp_associate, vp_pages

cdef enum:
    FIRST_RIP = 0x1000

cdef Leaf *row
cdef uint64_t NO_X2APIC_ID = ~<uint64_t>0


cdef Td *td_slot(Seam *s, int *slot) noexcept nogil:
    cdef uint64_t unused
    cdef int i
    for i in range(s.ntd):
        unused = 0
        if tdp_try_cmpxchg(&s.td[i].used, &unused, 1):
            undo_taken(s, &s.td[i].used)
            slot[0] = i
            return &s.td[i]
    return NULL


cdef uint64_t tdh_mng_create(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX page for the TDR, RDX HKID. Leaf 9, version 0."""
    cdef PageHold page
    cdef uint64_t status
    if r.rdx >= SEAM_HKIDS or r.rdx < <uint64_t>s.hkid_private:
        return TDX_OPERAND_INVALID | OP_RDX
    status = page_lock_new(c, s, r.rcx, 0, OP_RCX, &page)
    if status != TDX_SUCCESS:
        return status
    if not sharex_try_excl(c, &s.kot_lock):
        status = TDX_OPERAND_BUSY | OP_KOT
    else:
        status = TDX_HKID_NOT_FREE
        if s.kot[r.rdx] == KOT_FREE:
            status = create_td(s, r, page.leaf)
        sharex_put_excl(c, &s.kot_lock)
    page_unlock(c, s, &page)
    return status

page_leaf(TDH_MNG_CREATE, tdh_mng_create, 2, 0, 0)


cdef uint64_t create_td(Seam *s, SeamRegs *r, PamtEntry *e) noexcept nogil:
    cdef int slot
    cdef Td *td = td_slot(s, &slot)
    if td == NULL:
        return TDX_OPERAND_BUSY | OP_TDR     # out of slots: the model's limit, not the module's
    memset(&td.tdr_pa, 0, sizeof(Td) - sizeof(td.used))      # the slot stays taken
    td.tdr_pa = r.rcx
    td.hkid = r.rdx
    td.lifecycle = TD_HKID_ASSIGNED
    s.kot[r.rdx] = KOT_ASSIGNED
    pamt_control(s, e, PT_TDR, 0)
    e.ref = <uint16_t>(slot + 1)
    return TDX_SUCCESS


cdef uint64_t tdh_mng_key_config(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX TDR. The TD's key is programmed. Leaf 8, version 0."""
    if k.td != NULL and k.td.fatal:
        return TDX_TD_FATAL
    if k.td == NULL or k.td.lifecycle != TD_HKID_ASSIGNED:
        return TDX_LIFECYCLE_STATE_INCORRECT
    k.td.lifecycle = TD_KEYS_CONFIGURED
    return TDX_SUCCESS

td_leaf(TDH_MNG_KEY_CONFIG, tdh_mng_key_config, TDR_IN_RCX, HOLD_EXCL, WANTS_NOTHING, 0, 1)


cdef uint64_t tdh_mng_addcx(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX page, RDX TDR. OP_STATE is looked at last. Leaf 1, version 0."""
    cdef PageHold page
    cdef uint64_t status
    if k.td.num_tdcx >= SEAM_TDCS_PAGES + 3:
        return TDX_TDCX_NUM_INCORRECT
    status = page_lock_new(c, s, r.rcx, 0, OP_RCX, &page)
    if status != TDX_SUCCESS:
        return status
    if k.td.op_state != OPS_UNINITIALIZED:
        status = TDX_OP_STATE_INCORRECT
    else:
        pamt_control(s, page.leaf, PT_TDCX, k.td.tdr_pa)
        k.td.tdcx_pa[k.td.num_tdcx] = r.rcx
        k.td.num_tdcx += 1
        tdp_fetch_add(&k.td.chldcnt, 1)
    page_unlock(c, s, &page)
    return status

td_leaf(TDH_MNG_ADDCX, tdh_mng_addcx, TDR_IN_RDX, HOLD_EXCL, WANTS_KEYS, 0, 2)


cdef uint64_t tdh_mng_init(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX TDR, RDX HPA of TD_PARAMS. RCX comes back as 0, or as the CPUID leaf that is refused. A call that failed may
    be repeated. Leaf 21, version 0."""
    cdef TdParams p
    cdef uint64_t status = params_read(s, k.rdx, &p)
    if status == TDX_SUCCESS:
        status = params_check(&p, k.td.num_tdcx, &r.rcx)
    if status == TDX_SUCCESS:
        init_td(s, &p, k.td)
    return status

row = td_leaf(TDH_MNG_INIT, tdh_mng_init, TDR_IN_RCX, HOLD_EXCL, WANTS_TDCS, OPS_FOR_NEW, 2)
row.zeroed = IN_RCX


cdef void init_td(Seam *s, const TdParams *p, Td *td) noexcept nogil:
    cdef int vm, i
    td.levels = <int>(p.eptp_controls >> 3 & 7) + 1
    td.gpaw = <int>(p.config_flags & 1)
    td.num_l2 = p.num_l2_vms
    td.max_vcpus = p.max_vcpus
    td.attributes = p.attributes
    td.td_ctls = 1 if p.attributes & ATTR_SEPT_VE_DISABLE else 0
    td.xfam = p.xfam
    td.config_flags = p.config_flags
    td.eptp_controls = p.eptp_controls
    td.tsc_frequency = p.tsc_frequency
    for i in range(18):
        td.mr_config[i] = p.mr_config[i]
    mr_begin(td)
    td.td_epoch = 1
    td.root[0] = table_named(s, td.tdcx_pa[SEAM_ROOT_PAGE])
    sept_page_init(s, td.root[0], SEPT_FREE)
    for vm in range(1, td.num_l2 + 1):
        td.root[vm] = table_named(s, td.tdcx_pa[SEAM_TDCS_PAGES + vm - 1])
        sept_page_init(s, td.root[vm], 0)
    td.op_state = OPS_INITIALIZED


cdef uint64_t tdh_mng_vpflushdone(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX TDR. No VCPU may be associated any more; the TD can never run again. Leaf 19, version 0."""
    cdef uint64_t status = TDX_SUCCESS
    if not sharex_try_excl(c, &s.kot_lock):
        return TDX_OPERAND_BUSY | OP_KOT
    if k.td == NULL or k.td.lifecycle > TD_KEYS_CONFIGURED:
        status = TDX_LIFECYCLE_STATE_INCORRECT
    elif tdp_load_seq(&k.td.assoc_vcpus) != 0:
        status = TDX_FLUSHVP_NOT_DONE
    else:
        k.td.lifecycle = TD_BLOCKED
        s.kot[k.td.hkid] = KOT_FLUSHED
    sharex_put_excl(c, &s.kot_lock)
    return status

td_leaf(TDH_MNG_VPFLUSHDONE, tdh_mng_vpflushdone, TDR_IN_RCX, HOLD_EXCL, WANTS_NOTHING, 0, 1)


cdef uint64_t tdh_mng_key_freeid(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX TDR. The HKID is free again; pages can be reclaimed. Leaf 20, version 0."""
    cdef uint64_t status = TDX_SUCCESS
    if k.td == NULL or k.td.lifecycle != TD_BLOCKED:
        return TDX_LIFECYCLE_STATE_INCORRECT
    if not sharex_try_excl(c, &s.kot_lock):
        return TDX_OPERAND_BUSY | OP_KOT
    if s.kot[k.td.hkid] != KOT_WRITTEN_BACK:
        status = TDX_WBCACHE_NOT_COMPLETE
    else:
        s.kot[k.td.hkid] = KOT_FREE
        k.td.lifecycle = TD_TEARDOWN
    sharex_put_excl(c, &s.kot_lock)
    return status

td_leaf(TDH_MNG_KEY_FREEID, tdh_mng_key_freeid, TDR_IN_RCX, HOLD_EXCL, WANTS_NOTHING, 0, 1)


cdef uint64_t tdh_mng_key_reclaimid(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """There for old VMMs only: succeeds whatever RCX is, and does nothing. Leaf 27, version 0."""
    return TDX_SUCCESS

page_leaf(TDH_MNG_KEY_RECLAIMID, tdh_mng_key_reclaimid, 1, 0, 0)


# ---- VCPUs --------------------------------------------------------------------------------------------------

cdef uint64_t tdh_vp_create(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX page for the TDVPR, RDX TDR. Leaf 10, version 0."""
    cdef PageHold page
    cdef uint64_t status = page_lock_new(c, s, r.rcx, 0, OP_RCX, &page)
    if status == TDX_SUCCESS:
        status = create_vp(s, r, k, page.leaf)
        page_unlock(c, s, &page)
    return status

td_leaf(TDH_VP_CREATE, tdh_vp_create, TDR_IN_RDX, HOLD_SHARED, WANTS_TDCS, OPS_FOR_VP, 2)


cdef uint64_t create_vp(Seam *s, SeamRegs *r, Call *k, PamtEntry *e) noexcept nogil:
    cdef uint64_t unused
    cdef int i
    for i in range(s.nvp):
        unused = 0
        if tdp_try_cmpxchg(&s.vp[i].used, &unused, 1):
            undo_taken(s, &s.vp[i].used)
            break
    else:
        return TDX_OPERAND_BUSY | OP_TDVPR   # out of slots: the model's limit, not the module's
    memset(&s.vp[i].tdvpr_pa, 0, sizeof(Vp) - sizeof(s.vp[i].used))      # the slot stays taken
    s.vp[i].tdvpr_pa = r.rcx
    s.vp[i].td = <uint16_t>(k.tdr.leaf.ref - 1)
    pamt_control(s, e, PT_TDVPR, k.td.tdr_pa)
    e.ref = <uint16_t>(i + 1)
    tdp_fetch_add(&k.td.chldcnt, 1)
    return TDX_SUCCESS


cdef bint vp_is_new(const Call *k) noexcept nogil:
    """A TDVPR that is being built."""
    return k.vp != NULL and k.vp.state == VP_UNINITIALIZED


cdef uint64_t tdh_vp_addcx(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX page, RDX TDVPR. Leaf 4, version 0."""
    cdef PageHold page
    cdef uint64_t status
    if not vp_is_new(k):
        return TDX_VCPU_STATE_INCORRECT
    if k.vp.num_tdvpx >= SEAM_MAX_TDVPX:
        return TDX_TDCX_NUM_INCORRECT
    status = page_lock_new(c, s, r.rcx, 0, OP_RCX, &page)
    if status == TDX_SUCCESS:
        pamt_control(s, page.leaf, PT_TDCX, k.td.tdr_pa)
        page_unlock(c, s, &page)
        k.vp.tdvpx_pa[k.vp.num_tdvpx] = r.rcx
        k.vp.num_tdvpx += 1
        tdp_fetch_add(&k.td.chldcnt, 1)
    return status

td_leaf(TDH_VP_ADDCX, tdh_vp_addcx, TDVPR_IN_RDX, HOLD_EXCL, WANTS_TDCS, OPS_FOR_VP, 2)


cdef uint64_t tdh_vp_init(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX TDVPR, RDX what the guest finds in RCX, version 1: R8 x2APIC id. The VCPU is associated with this logical
    processor and can be entered. Version 1 holds the TDR exclusive and is later than module 1.5.01 (TDX_FEATURES0
    bit 20). Leaf 22, versions 0 and 1."""
    cdef uint64_t n
    cdef uint64_t status = vp_pages(k)
    if status == TDX_SUCCESS and k.vp.state != VP_UNINITIALIZED:
        status = TDX_VCPU_STATE_INCORRECT
    if status != TDX_SUCCESS:
        return status
    n = tdp_fetch_add(&k.td.num_vcpus, 1)
    if n >= k.td.max_vcpus:
        status = TDX_MAX_VCPUS_EXCEEDED
    elif k.version:
        status = x2apic_check(s, k)
    if status != TDX_SUCCESS:
        tdp_fetch_add(&k.td.num_vcpus, <uint64_t>-1)
        return status
    vp_associate(c, k.td, k.vp)
    k.vp.x2apic_id = k.r8 if k.version else NO_X2APIC_ID
    k.vp.index = <uint32_t>n
    k.vp.rip = FIRST_RIP
    k.vp.state = VP_READY
    return TDX_SUCCESS

row = td_leaf(TDH_VP_INIT, tdh_vp_init, TDVPR_IN_RCX, HOLD_EXCL, WANTS_TDCS, OPS_FOR_BUILD, 2)
row.version = 1
row.flags = LEAF_V1_EXCL


cdef uint64_t x2apic_check(const Seam *s, const Call *k) noexcept nogil:
    """R8 is an id of 32 bits that no other VCPU of the TD has; the exclusive TDR keeps others from adding one."""
    cdef const Vp *vp
    cdef int i
    if k.r8 >> 32:
        return TDX_OPERAND_INVALID | OP_R8
    for i in range(s.nvp):
        vp = &s.vp[i]
        if vp.used and vp != k.vp and vp.td == k.vp.td and vp.state != VP_UNINITIALIZED and vp.x2apic_id == k.r8:
            return TDX_X2APIC_ID_NOT_UNIQUE | k.r8
    return TDX_SUCCESS
