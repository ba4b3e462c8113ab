# cython: language_level=3
"""vmx/tdx.c: a TD's life on KVM's side: build, vCPUs, HKID release, teardown (see td.pxd).

Runs while nobody else uses the TD, so no lock is taken here; the SEAMCALLs still take the module's.
"""

from libc.stdint cimport uint32_t
from libc.string cimport memset

from tdpfast._names cimport (
    EBUSY, EINVAL, EIO, EV_KEYID_FREE, EV_RESET_PADDR, EV_SEAMCALL_FAILED, SYNC_LOAD, SYNC_STORE, TDH_MNG_ADDCX,
    TDH_MNG_CREATE, TDH_MNG_INIT, TDH_MNG_KEY_CONFIG, TDH_MNG_KEY_FREEID, TDH_MNG_VPFLUSHDONE, TDH_MR_FINALIZE,
    TDH_PHYMEM_CACHE_WB, TDH_PHYMEM_PAGE_RECLAIM, TDH_PHYMEM_PAGE_WBINVD, TDH_VP_ADDCX, TDH_VP_CREATE, TDH_VP_FLUSH,
    TDH_VP_INIT, TDX_MAX_VCPUS, TD_PARAMS_PA,
)
from tdpfast._sync.atomic cimport tdp_read_once, tdp_store32
from tdpfast._seam.module cimport SeamRegs, seam_write
from tdpfast._seam.params cimport ATTR_SEPT_VE_DISABLE, TdParams
from tdpfast._seam.defs cimport (
    TDX_FLUSHVP_NOT_DONE, TDX_INTERRUPTED_RESUMABLE, TDX_NO_HKID_READY_TO_WBCACHE, TDX_OPERAND_BUSY,
    TDX_VCPU_NOT_ASSOCIATED,
)
from tdpfast._sync.cpu cimport (
    spin_lock, spin_unlock, sync_point, sync_rare, trace1, trace3, write_lock, write_unlock,
)
from tdpfast._mmu.tdp_mmu cimport kvm_bug_on, kvm_warn
from tdpfast._tdx.tdx cimport (
    seamcall3, tdx_bug, tdx_free_page, tdx_hkid, tdx_kick, tdx_operand_busy, tdx_reclaim_page, tdx_seamcall,
    tdx_state, tdx_vcpu_begin, tdx_vcpu_end,
)
from tdpfast._tdx.state cimport (
    TD_STATE_INITIALIZED, TD_STATE_RUNNABLE, TD_STATE_UNINITIALIZED, TDX_GLOBAL_HKID, TDX_TDCS_PAGES,
    TDX_TDCX_PAGES,
)
from tdpfast._tdx.pamt cimport tdx_pamt_get, tdx_pamt_put

cdef enum:
    TDVPR_OFFSET = 0x20000   # where a TD's vCPU pages begin, behind its TDR
    TDX_SEAMCALL_RETRIES = 10000


cdef uint64_t give_page(Cpu *c, Tdx *t, int leaf, uint64_t page, uint64_t to) noexcept nogil:
    """A control page goes to the module: CREATE, ADDCX. With dynamic PAMT its range gets a user first."""
    cdef SeamRegs r
    cdef uint64_t err
    if tdx_pamt_get(c, t, page):
        return TDX_OPERAND_BUSY
    err = seamcall3(c, t, leaf, page, to, 0, &r)
    if err:
        tdx_pamt_put(c, t, page)
    return err


cdef uint64_t vp_init(Cpu *c, Tdx *t, int v) noexcept nogil:
    """TDH.VP.INIT with the x2APIC id: version 1, unless the module has version 0 only. Version 1 takes the TDR for
    itself, so since 6.19 mmu_lock is held for write: no SEAMCALL about memory runs beside it, and none finds the TDR
    taken twice. Its status. Yields."""
    cdef SeamRegs r
    cdef uint64_t err
    cdef int lp = c.lp
    memset(&r, 0, sizeof(r))
    r.rax = TDH_VP_INIT | <uint64_t>(1 if t.seam.topology else 0) << 16
    r.rcx = t.tdvpr_pa[v]
    r.r8 = v
    if not t.design.vp_init_unlocked:
        write_lock(c, &t.vm.kvm.mmu_lock)
    c.lp = t.lp_base + v + 1
    err = tdx_seamcall(c, t, TDH_VP_INIT, &r)
    c.lp = lp
    if not t.design.vp_init_unlocked:
        write_unlock(c, &t.vm.kvm.mmu_lock)
    return err


cdef uint64_t give_vcpu(Cpu *c, Tdx *t, int v) noexcept nogil:
    """VP.CREATE and ADDCX of vCPU v's pages, which lie in a row: TDX_SUCCESS or the first status that is not."""
    cdef uint64_t err
    cdef int i
    for i in range(TDX_TDCX_PAGES):
        t.tdcx_pa[v][i] = t.tdvpr_pa[v] + (<uint64_t>(i + 1) << 12)
    err = give_page(c, t, TDH_VP_CREATE, t.tdvpr_pa[v], t.tdr_pa)
    for i in range(TDX_TDCX_PAGES):
        if err == 0:
            err = give_page(c, t, TDH_VP_ADDCX, t.tdcx_pa[v][i], t.tdvpr_pa[v])
    return err


cdef uint64_t build_vcpu(Cpu *c, Tdx *t, int v) noexcept nogil:
    """VP.CREATE, ADDCX, INIT; the vCPU ends up not associated with a logical processor."""
    cdef SeamRegs r
    cdef int lp = c.lp
    cdef uint64_t err = give_vcpu(c, t, v)
    if err == 0:
        err = vp_init(c, t, v)
    if err == 0:
        c.lp = t.lp_base + v + 1
        err = seamcall3(c, t, TDH_VP_FLUSH, t.tdvpr_pa[v], 0, 0, &r)
        c.lp = lp
    return err


cdef uint64_t init_td(Cpu *c, Tdx *t, const TdConfig *cfg) noexcept nogil:
    """TD_PARAMS and TDH.MNG.INIT."""
    cdef TdParams p
    cdef SeamRegs r
    memset(&p, 0, sizeof(p))
    p.attributes = cfg.attributes | (ATTR_SEPT_VE_DISABLE if cfg.td_ctls & 1 else 0)
    p.xfam = 3
    p.max_vcpus = TDX_MAX_VCPUS
    p.eptp_controls = 6 | <uint64_t>(cfg.levels - 1) << 3
    p.config_flags = <uint64_t>cfg.gpaw
    p.tsc_frequency = 40
    if seam_write(t.seam, TD_PARAMS_PA, &p, sizeof(p)) < 0:
        return TDX_OPERAND_BUSY
    return seamcall3(c, t, TDH_MNG_INIT, t.tdr_pa, TD_PARAMS_PA, 0, &r)


cdef uint64_t tdx_td_build(Cpu *c, Tdx *t, const TdConfig *cfg) noexcept nogil:
    """From nothing to a TD with its vCPUs, finalised if asked; TDX_SUCCESS or the first status that is not."""
    cdef SeamRegs r
    cdef uint64_t err
    cdef int i, v
    t.tdr_pa = cfg.tdr_pa
    t.hkid = cfg.hkid
    t.nvcpus = cfg.nvcpus
    t.lp_base = cfg.lp_base
    t.sept_base = cfg.sept_base
    for i in range(TDX_TDCS_PAGES):
        t.tdcs_pa[i] = cfg.tdcs_base + (<uint64_t>i << 12)
    for v in range(cfg.nvcpus):
        t.tdvpr_pa[v] = cfg.tdvpr_base + (<uint64_t>v << 16)
    err = give_page(c, t, TDH_MNG_CREATE, t.tdr_pa, cfg.hkid)
    if err == 0:
        err = seamcall3(c, t, TDH_MNG_KEY_CONFIG, t.tdr_pa, 0, 0, &r)
    for i in range(TDX_TDCS_PAGES):
        if err == 0:
            err = give_page(c, t, TDH_MNG_ADDCX, t.tdcs_pa[i], t.tdr_pa)
    if err:
        return err
    err = init_td(c, t, cfg)
    for v in range(cfg.nvcpus):
        if err == 0:
            err = build_vcpu(c, t, v)
    if err:
        return err
    t.tdr_owned = t.tdcs_owned = True
    t.state = TD_STATE_INITIALIZED
    if cfg.runnable:
        tdx_finalize(c, t, &err)
    return err


cdef void tdx_slots_lock(Cpu *c, Tdx *t) noexcept nogil:
    """kvm->slots_lock, a mutex. May block and yield."""
    spin_lock(c, &t.slots_lock)
    c.held.slots_lock += 1


cdef void tdx_slots_unlock(Cpu *c, Tdx *t) noexcept nogil:
    c.held.slots_lock -= 1
    spin_unlock(c, &t.slots_lock)


cdef void publish(Cpu *c, Tdx *t, uint32_t *word, uint32_t value) noexcept nogil:
    sync_rare(c, SYNC_STORE, <uint64_t>word)
    tdp_store32(word, value)


cdef int tdx_finalize(Cpu *c, Tdx *t, uint64_t *hw_error) noexcept nogil:
    """tdx_td_finalize(), under slots_lock: 0, -EINVAL when done already, without a key, or while pages wait for their
    PAGE.ADD, -EBUSY, -EIO with the VM bugged; the SEAMCALL's status in *hw_error. May yield."""
    cdef int ret
    tdx_slots_lock(c, t)
    ret = finalize_locked(c, t, hw_error)
    tdx_slots_unlock(c, t)
    return ret


cdef int finalize_locked(Cpu *c, Tdx *t, uint64_t *hw_error) noexcept nogil:
    cdef SeamRegs r
    hw_error[0] = 0
    if tdx_hkid(c, t) < 0 or tdx_state(c, t) == TD_STATE_RUNNABLE:
        return -EINVAL
    if t.design.premap:
        sync_point(c, SYNC_LOAD, <uint64_t>&t.nr_premapped)
        if tdp_read_once(<uint64_t *>&t.nr_premapped):
            return -EINVAL
    hw_error[0] = seamcall3(c, t, TDH_MR_FINALIZE, t.tdr_pa, 0, 0, &r)
    if tdx_operand_busy(hw_error[0]):
        return -EBUSY
    if hw_error[0]:
        tdx_bug(c, t, b"tdx_td_finalize", b"seamcall_failed", TDH_MR_FINALIZE, hw_error[0])
        return -EIO
    # Who sees pre_fault_allowed must see RUNNABLE: map_leaf pairs with this order.
    if t.design.prefault_first:
        publish(c, t, &t.pre_fault_allowed, True)
    publish(c, t, &t.state, TD_STATE_RUNNABLE)
    publish(c, t, &t.pre_fault_allowed, True)
    return 0


cdef void tdx_flush_vp(Cpu *c, Tdx *t, int vcpu) noexcept nogil:
    """Ends the vCPU's association with its logical processor, on that processor."""
    cdef SeamRegs r
    cdef int lp = c.lp
    cdef uint64_t err = 0
    # An IPI: what the processor is doing ends first, and nothing else begins meanwhile.
    tdx_vcpu_begin(c, t, vcpu)
    sync_rare(c, SYNC_STORE, <uint64_t>&t.loaded[vcpu])
    if t.loaded[vcpu]:
        tdx_kick(c, t, vcpu)
        c.lp = t.lp_base + vcpu + 1
        err = seamcall3(c, t, TDH_VP_FLUSH, t.tdvpr_pa[vcpu], 0, 0, &r)
        c.lp = lp
        t.loaded[vcpu] = False
    tdx_vcpu_end(c, t, vcpu)
    if err and err != TDX_VCPU_NOT_ASSOCIATED:
        tdx_bug(c, t, b"tdx_flush_vp_on_cpu", b"seamcall_failed", TDH_VP_FLUSH, err)


cdef void phymem_cache_wb(Cpu *c, Tdx *t) noexcept nogil:
    """smp_func_do_phymem_cache_wb(): goes on while interrupted; that another TD's release did it is fine too."""
    cdef SeamRegs r
    cdef uint64_t err = 0
    cdef int i
    for i in range(TDX_SEAMCALL_RETRIES):
        err = seamcall3(c, t, TDH_PHYMEM_CACHE_WB, err != 0, 0, 0, &r)
        if err != TDX_INTERRUPTED_RESUMABLE:
            break
    if err and err != TDX_NO_HKID_READY_TO_WBCACHE:
        kvm_warn(c, b"smp_func_do_phymem_cache_wb", b"seamcall_failed")
        trace3(c, EV_SEAMCALL_FAILED, TDH_PHYMEM_CACHE_WB, err, 0)


cdef void tdx_mmu_release_hkid(Cpu *c, Tdx *t) noexcept nogil:
    """Flushes every vCPU and the caches and gives the key back: the TD can only be torn down from here on."""
    cdef SeamRegs r
    cdef uint64_t err
    cdef int v
    if tdx_hkid(c, t) < 0:
        return
    for v in range(t.nvcpus):
        tdx_flush_vp(c, t, v)
    err = seamcall3(c, t, TDH_MNG_VPFLUSHDONE, t.tdr_pa, 0, 0, &r)
    if err == TDX_FLUSHVP_NOT_DONE:
        return
    if err:
        tdx_bug(c, t, b"tdx_mmu_release_hkid", b"vpflushdone_failed", TDH_MNG_VPFLUSHDONE, err)
        return
    phymem_cache_wb(c, t)
    err = seamcall3(c, t, TDH_MNG_KEY_FREEID, t.tdr_pa, 0, 0, &r)
    if err:
        tdx_bug(c, t, b"tdx_mmu_release_hkid", b"key_freeid_failed", TDH_MNG_KEY_FREEID, err)
        return
    trace1(c, EV_KEYID_FREE, t.hkid)
    sync_rare(c, SYNC_STORE, <uint64_t>&t.hkid)
    t.hkid = -1


cdef void reclaim_control_page(Cpu *c, Tdx *t, uint64_t page) noexcept nogil:
    if tdx_reclaim_page(c, t, page) == 0:
        tdx_free_page(c, t, page)


cdef int tdx_vcpu_create(Cpu *c, Tdx *t, uint64_t *hw_error) noexcept nogil:
    """tdx_td_vcpu_init() of the next vCPU: VP.CREATE, ADDCX, INIT, under slots_lock (which stands for all the locks that
    change a TD's state). Its number; -EINVAL when the TD runs, has no key or has all its vCPUs; -EIO, with the pages
    that the module has lost to it, and with the VM bugged if it was VP.INIT that failed. *hw_error: that status.
    Yields."""
    cdef int v = t.nvcpus
    cdef int ret = v
    tdx_slots_lock(c, t)
    if v == TDX_MAX_VCPUS or tdx_hkid(c, t) < 0 or tdx_state(c, t) != TD_STATE_INITIALIZED:
        tdx_slots_unlock(c, t)
        return -EINVAL
    t.tdvpr_pa[v] = t.tdr_pa + TDVPR_OFFSET + (<uint64_t>v << 16)
    hw_error[0] = give_vcpu(c, t, v)
    if hw_error[0]:
        ret = -EIO
    else:
        hw_error[0] = vp_init(c, t, v)
        if hw_error[0]:
            tdx_bug(c, t, b"tdx_td_vcpu_init", b"seamcall_failed", TDH_VP_INIT, hw_error[0])
            ret = -EIO
        else:
            sync_rare(c, SYNC_STORE, <uint64_t>&t.nvcpus)
            t.loaded[v] = True
            t.nvcpus += 1
    tdx_slots_unlock(c, t)
    return ret


cdef void tdx_vcpu_free(Cpu *c, Tdx *t, int vcpu) noexcept nogil:
    """Takes the vCPU's control pages back. With the HKID still assigned, or of a vCPU that was loaded again after
    its release, they are leaked."""
    cdef int i
    sync_rare(c, SYNC_LOAD, <uint64_t>&t.loaded[vcpu])
    if t.loaded[vcpu]:
        kvm_bug_on(c, &t.vm.kvm, b"tdx_vcpu_free", b"still_initialized")
        tdx_flush_vp(c, t, vcpu)
        return
    if tdx_hkid(c, t) >= 0:
        return
    for i in range(TDX_TDCX_PAGES):
        reclaim_control_page(c, t, t.tdcx_pa[vcpu][i])
    reclaim_control_page(c, t, t.tdvpr_pa[vcpu])


cdef void tdx_vm_destroy(Cpu *c, Tdx *t) noexcept nogil:
    """Takes TDCS and TDR back. A page the module still counts for the TD keeps the TDR, which is then leaked."""
    tdx_reclaim_td_control_pages(c, t)
    sync_rare(c, SYNC_STORE, <uint64_t>&t.state)
    t.state = TD_STATE_UNINITIALIZED


cdef void tdx_reclaim_td_control_pages(Cpu *c, Tdx *t) noexcept nogil:
    cdef SeamRegs r
    cdef uint64_t err
    cdef int i
    if tdx_hkid(c, t) >= 0:
        return
    sync_rare(c, SYNC_LOAD, <uint64_t>&t.tdcs_owned)
    if t.tdcs_owned:
        for i in range(TDX_TDCS_PAGES):
            reclaim_control_page(c, t, t.tdcs_pa[i])
        sync_rare(c, SYNC_STORE, <uint64_t>&t.tdcs_owned)
        t.tdcs_owned = False
    sync_rare(c, SYNC_LOAD, <uint64_t>&t.tdr_owned)
    if not t.tdr_owned:
        return
    err = seamcall3(c, t, TDH_PHYMEM_PAGE_RECLAIM, t.tdr_pa, 0, 0, &r)
    if err:
        kvm_warn(c, b"__tdx_reclaim_page", b"seamcall_failed")
        trace3(c, EV_SEAMCALL_FAILED, TDH_PHYMEM_PAGE_RECLAIM, err, 0)
        return
    err = seamcall3(c, t, TDH_PHYMEM_PAGE_WBINVD,
                    t.tdr_pa | <uint64_t>TDX_GLOBAL_HKID << t.seam.hkid_shift, 0, 0, &r)
    if err:
        tdx_bug(c, t, b"tdx_reclaim_td_control_pages", b"wbinvd_failed", TDH_PHYMEM_PAGE_WBINVD, err)
        return
    trace1(c, EV_RESET_PADDR, t.tdr_pa)
    tdx_pamt_put(c, t, t.tdr_pa)
    tdx_free_page(c, t, t.tdr_pa)
    sync_rare(c, SYNC_STORE, <uint64_t>&t.tdr_owned)
    t.tdr_owned = False
