# cython: language_level=3
"""The life of a TD, from TDH.MNG.CREATE to TDH.MNG.KEY.FREEID.

Every function here may yield, and holds no lock when it returns. TD_PARAMS is not memory here: TDH.MNG.INIT takes
R8 attributes, R9 max VCPUs | levels << 16 | GPAW << 24 | L2 VMs << 32, R10 TD_CTLS, R11 XFAM.
"""

from libc.string cimport memset

from tdpfast._sync.atomic cimport tdp_fetch_add, tdp_load_seq, tdp_try_cmpxchg
from tdpfast._seam.core cimport *
from tdpfast._seam.defs cimport *
from tdpfast._seam.mr cimport mr_begin
from tdpfast._seam.vp cimport VpCall, vp_associate, vp_lock, vp_pages, vp_unlock

cdef enum:
    FIRST_RIP = 0x1000


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


cdef uint64_t tdh_mng_create(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """RCX page for the TDR, RDX HKID. Leaf 9, version 0."""
    cdef PageHold page
    cdef uint64_t status
    if regs_version(r) != 0:
        return TDX_OPERAND_INVALID
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
    pamt_set(s, e, PT_TDR, 0)
    e.ref = <uint16_t>(slot + 1)
    return TDX_SUCCESS


cdef uint64_t td_lock_excl(Cpu *c, Seam *s, SeamRegs *r, uint64_t tdr_pa, uint64_t opid, Call *k) noexcept nogil:
    if regs_version(r) != 0:
        return TDX_OPERAND_INVALID
    return td_lock(c, s, tdr_pa, True, opid, k)


cdef uint64_t tdh_mng_key_config(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """RCX TDR. The TD's key is programmed. Leaf 8, version 0."""
    cdef Call k
    cdef uint64_t status = td_lock_excl(c, s, r, r.rcx, OP_RCX, &k)
    if status != TDX_SUCCESS:
        return status
    if k.td != NULL and k.td.fatal:
        status = TDX_TD_FATAL
    elif k.td == NULL or k.td.lifecycle != TD_HKID_ASSIGNED:
        status = TDX_LIFECYCLE_STATE_INCORRECT
    else:
        k.td.lifecycle = TD_KEYS_CONFIGURED
    call_leave(c, s, &k)
    return status


cdef uint64_t tdh_mng_addcx(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """RCX page, RDX TDR. Leaf 1, version 0."""
    cdef Call k
    cdef PageHold page
    cdef uint64_t status = td_lock_excl(c, s, r, r.rdx, OP_RDX, &k)
    if status != TDX_SUCCESS:
        return status
    status = td_keys(&k)
    if status == TDX_SUCCESS and k.td.op_state != OPS_UNINITIALIZED:
        status = TDX_OP_STATE_INCORRECT
    if status == TDX_SUCCESS and k.td.num_tdcx >= SEAM_TDCS_PAGES + 3:
        status = TDX_TDCX_NUM_INCORRECT
    if status == TDX_SUCCESS:
        status = page_lock_new(c, s, r.rcx, 0, OP_RCX, &page)
    if status == TDX_SUCCESS:
        pamt_set(s, page.leaf, PT_TDCX, k.td.tdr_pa)
        page_unlock(c, s, &page)
        k.td.tdcx_pa[k.td.num_tdcx] = r.rcx
        k.td.num_tdcx += 1
        tdp_fetch_add(&k.td.chldcnt, 1)
    call_leave(c, s, &k)
    return status


cdef uint64_t tdh_mng_init(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """RCX TDR; TD_PARAMS in R8..R11 (see above). Leaf 21, version 0."""
    cdef Call k
    cdef uint64_t status = td_lock_excl(c, s, r, r.rcx, OP_RCX, &k)
    if status != TDX_SUCCESS:
        return status
    status = td_ready(&k)
    if status == TDX_SUCCESS and k.td.op_state != OPS_UNINITIALIZED:
        status = TDX_OP_STATE_INCORRECT
    if status == TDX_SUCCESS:
        status = init_td(s, r, k.td)
    call_leave(c, s, &k)
    return status


cdef uint64_t init_td(Seam *s, SeamRegs *r, Td *td) noexcept nogil:
    cdef int levels = <int>((r.r9 >> 16) & 0xff)
    cdef int num_l2 = <int>((r.r9 >> 32) & 0xff)
    cdef int vm
    if levels < 4 or levels > 5 or num_l2 > 3 or r.r9 & 0xffff == 0:
        return TDX_OPERAND_INVALID | OP_RDX
    if td.num_tdcx < <uint64_t>(SEAM_TDCS_PAGES + num_l2):
        return TDX_TDCS_NOT_ALLOCATED
    td.levels = levels
    td.gpaw = 1 if (r.r9 >> 24) & 1 and levels == 5 else 0
    td.num_l2 = num_l2
    td.max_vcpus = r.r9 & 0xffff
    td.attributes = r.r8
    td.td_ctls = r.r10
    td.xfam = r.r11
    td.config_flags = <uint64_t>td.gpaw
    mr_begin(td)
    td.td_epoch = 1
    td.root[0] = table_named(s, td.tdcx_pa[SEAM_ROOT_PAGE])
    sept_page_init(s, td.root[0], SEPT_FREE)
    for vm in range(1, num_l2 + 1):
        td.root[vm] = table_named(s, td.tdcx_pa[SEAM_TDCS_PAGES + vm - 1])
        sept_page_init(s, td.root[vm], 0)
    td.op_state = OPS_INITIALIZED
    return TDX_SUCCESS


cdef uint64_t tdh_mng_vpflushdone(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """RCX TDR. No VCPU may be associated any more; the TD can never run again. Leaf 19, version 0."""
    cdef Call k
    cdef uint64_t status = td_lock_excl(c, s, r, r.rcx, OP_RCX, &k)
    if status != TDX_SUCCESS:
        return status
    if k.td == NULL or k.td.lifecycle > TD_KEYS_CONFIGURED:
        status = TDX_LIFECYCLE_STATE_INCORRECT
    elif tdp_load_seq(&k.td.assoc_vcpus) != 0:
        status = TDX_FLUSHVP_NOT_DONE
    elif not sharex_try_excl(c, &s.kot_lock):
        status = TDX_OPERAND_BUSY | OP_KOT
    else:
        k.td.lifecycle = TD_BLOCKED
        s.kot[k.td.hkid] = KOT_FLUSHED
        sharex_put_excl(c, &s.kot_lock)
    call_leave(c, s, &k)
    return status


cdef uint64_t tdh_mng_key_freeid(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """RCX TDR. The HKID is free again; pages can be reclaimed. Leaf 20, version 0."""
    cdef Call k
    cdef uint64_t status = td_lock_excl(c, s, r, r.rcx, OP_RCX, &k)
    if status != TDX_SUCCESS:
        return status
    if k.td == NULL or k.td.lifecycle != TD_BLOCKED:
        status = TDX_LIFECYCLE_STATE_INCORRECT
    elif not sharex_try_excl(c, &s.kot_lock):
        status = TDX_OPERAND_BUSY | OP_KOT
    else:
        if s.kot[k.td.hkid] != KOT_WRITTEN_BACK:
            status = TDX_WBCACHE_NOT_COMPLETE
        else:
            s.kot[k.td.hkid] = KOT_FREE
            k.td.lifecycle = TD_TEARDOWN
        sharex_put_excl(c, &s.kot_lock)
    call_leave(c, s, &k)
    return status


cdef uint64_t tdh_mng_key_reclaimid(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """There for old VMMs only: succeeds whatever RCX is, and does nothing. Leaf 27, version 0."""
    return TDX_SUCCESS if regs_version(r) == 0 else TDX_OPERAND_INVALID


# ---- VCPUs --------------------------------------------------------------------------------------------------

cdef uint64_t tdh_vp_create(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """RCX page for the TDVPR, RDX TDR. Leaf 10, version 0."""
    cdef Call k
    cdef PageHold page
    cdef uint64_t status
    if regs_version(r) != 0:
        return TDX_OPERAND_INVALID
    status = td_lock(c, s, r.rdx, False, OP_RDX, &k)
    if status != TDX_SUCCESS:
        return status
    status = td_ready(&k)
    if status == TDX_SUCCESS:
        status = op_state_lock(c, s, &k, OPS_FOR_VP)
    if status == TDX_SUCCESS:
        status = page_lock_new(c, s, r.rcx, 0, OP_RCX, &page)
    if status == TDX_SUCCESS:
        status = create_vp(s, r, &k, page.leaf)
        page_unlock(c, s, &page)
    call_leave(c, s, &k)
    return status


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
    pamt_set(s, e, PT_TDVPR, k.td.tdr_pa)
    e.ref = <uint16_t>(i + 1)
    tdp_fetch_add(&k.td.chldcnt, 1)
    return TDX_SUCCESS


cdef uint64_t vp_build(Cpu *c, Seam *s, SeamRegs *r, uint64_t tdvpr_pa, uint64_t opid, uint64_t ops,
                       VpCall *v) noexcept nogil:
    """A TDVPR that is being built: locked exclusive, in a TD in one of the states ops."""
    cdef uint64_t status
    if regs_version(r) != 0:
        return TDX_OPERAND_INVALID
    status = vp_lock(c, s, tdvpr_pa, True, opid, v)
    if status != TDX_SUCCESS:
        return status
    status = td_ready(&v.k)
    if status == TDX_SUCCESS:
        status = op_state_lock(c, s, &v.k, ops)
    if status == TDX_SUCCESS and (v.vp == NULL or v.vp.state != VP_UNINITIALIZED):
        status = TDX_VCPU_STATE_INCORRECT
    if status != TDX_SUCCESS:
        vp_unlock(c, s, v)
    return status


cdef uint64_t tdh_vp_addcx(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """RCX page, RDX TDVPR. Leaf 4, version 0."""
    cdef VpCall v
    cdef PageHold page
    cdef uint64_t status = vp_build(c, s, r, r.rdx, OP_RDX, OPS_FOR_VP, &v)
    if status != TDX_SUCCESS:
        return status
    if v.vp.num_tdvpx >= <uint64_t>(SEAM_TDVPX_PAGES + 3 * v.k.td.num_l2):
        status = TDX_TDCX_NUM_INCORRECT
    if status == TDX_SUCCESS:
        status = page_lock_new(c, s, r.rcx, 0, OP_RCX, &page)
    if status == TDX_SUCCESS:
        pamt_set(s, page.leaf, PT_TDCX, v.k.td.tdr_pa)
        page_unlock(c, s, &page)
        v.vp.num_tdvpx += 1
        tdp_fetch_add(&v.k.td.chldcnt, 1)
    vp_unlock(c, s, &v)
    return status


cdef uint64_t tdh_vp_init(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil:
    """RCX TDVPR. The VCPU is associated with this logical processor and can be entered. Leaf 22,
    version 0."""
    cdef VpCall v
    cdef uint64_t n
    cdef uint64_t status = vp_build(c, s, r, r.rcx, OP_RCX, OPS_FOR_BUILD, &v)
    if status != TDX_SUCCESS:
        return status
    status = vp_pages(&v)
    if status == TDX_SUCCESS:
        n = tdp_fetch_add(&v.k.td.num_vcpus, 1)
        if n >= v.k.td.max_vcpus:
            tdp_fetch_add(&v.k.td.num_vcpus, <uint64_t>-1)
            status = TDX_MAX_VCPUS_EXCEEDED
        else:
            vp_associate(c, v.k.td, v.vp)
            v.vp.index = <uint32_t>n
            v.vp.rip = FIRST_RIP
            v.vp.state = VP_READY
    vp_unlock(c, s, &v)
    return status
