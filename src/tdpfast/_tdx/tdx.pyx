# cython: language_level=3
"""vmx/tdx.c: KVM's TDX side (see tdx.pxd).

"mmu_lock for write" is asserted here, where the kernel asserts it; what runs under the read lock all the same runs,
as in the kernel.
"""

from libc.string cimport memset

from tdpfast._names cimport (
    ASSERT_LOCKDEP, CHECK_EPOCH, CHECK_KERNEL, CHECK_LIFE, DISPATCH_V618, EBUSY, EIO, EV_FREE_PAGE, EV_KICK, EV_REQ,
    EV_RESET_PADDR, EV_SEAMCALL_FAILED, SYNC_LOAD, SYNC_RMW, SYNC_STORE, TDH_MEM_PAGE_ADD, TDH_MEM_PAGE_AUG,
    TDH_MEM_PAGE_DEMOTE, TDH_MEM_PAGE_REMOVE, TDH_MEM_RANGE_BLOCK, TDH_MEM_SEPT_ADD, TDH_MEM_TRACK,
    TDH_PHYMEM_PAGE_RECLAIM, TDH_PHYMEM_PAGE_WBINVD, UAF_SP,
)
from tdpfast._mmu.arena cimport ARENA_SHARES, SP_FREED, sp_note_uaf
from tdpfast._sync.atomic cimport (
    tdp_fetch_add, tdp_load32, tdp_read_once, tdp_store32, tdp_try_cmpxchg8, tdp_try_cmpxchg32, tdp_unlikely,
    tdp_write_once32, tdp_xchg32,
)
from tdpfast._seam.module cimport pamt_peek, seam_inject_off, seam_vp, seamcall
from tdpfast._seam.state cimport PT_NDA, SEAM_MAX_INJECT, PamtEntry, VP_ACTIVE, Vp
from tdpfast._seam.defs cimport TDX_GPA_RANGE_NOT_BLOCKED, TDX_OPERAND_BUSY, TDX_TLB_TRACKING_NOT_DONE
from tdpfast._seam.vp cimport td_async_exit
from tdpfast._spte cimport spte_to_pfn
from tdpfast._sync.cpu cimport (
    lockdep_assert_held_write, sync_assert, sync_point, sync_rare, sync_wait_eq, trace1, trace3,
)
from tdpfast._mmu.tdp_iter cimport pages_per_hpage
from tdpfast._tdx.data cimport private_accepted, private_removed
from tdpfast._tdx.design_ops cimport TdxOps, tdx_ops
from tdpfast._tdx.state cimport (
    SEPT_PAGE_FREE, SEPT_PAGE_OWNED, TDX_PA_OF_NULL, TDX_SEPT_PAGES, TD_STATE_RUNNABLE,
)
from tdpfast._tdx.pamt cimport tdx_pamt_get, tdx_pamt_put
from tdpfast._mmu.tdp_mmu cimport kvm_bug_on, kvm_warn, sp_point, spte_to_child_sp


cdef Tdx *tdx_of(Kvm *kvm) noexcept nogil:
    return <Tdx *>kvm.hooks.opaque


# ---- SEAMCALLs ------------------------------------------------------------------------------------------------

cdef bint tdx_operand_busy(uint64_t err) noexcept nogil:
    return err >> 32 == TDX_OPERAND_BUSY >> 32


cdef uint64_t tdx_seamcall(Cpu *c, Tdx *t, int leaf, SeamRegs *r) noexcept nogil:
    """One SEAMCALL; the module puts it into the trace. Yields."""
    cdef uint64_t err = seamcall(c, t.seam, leaf, r)
    c.count.busy += tdx_operand_busy(err)
    return err


cdef uint64_t seamcall3(Cpu *c, Tdx *t, int leaf, uint64_t rcx, uint64_t rdx, uint64_t r8, SeamRegs *r) noexcept nogil:
    memset(r, 0, sizeof(SeamRegs))
    r.rcx = rcx
    r.rdx = rdx
    r.r8 = r8
    if leaf == TDH_MEM_PAGE_DEMOTE:
        r.r9 = r.r10 = r.r11 = <uint64_t>-1      # no pages for L2 tables
    return tdx_seamcall(c, t, leaf, r)


cdef void tdx_bug(Cpu *c, Tdx *t, const char *fn, const char *id, int leaf, uint64_t err) noexcept nogil:
    """TDX_BUG_ON(err) that fired: warns, kills the VM and prints the status, once per VM."""
    if err >> 32 == TDX_TLB_TRACKING_NOT_DONE >> 32 or err >> 32 == TDX_GPA_RANGE_NOT_BLOCKED >> 32:
        c.found.checks |= CHECK_EPOCH
    sync_point(c, SYNC_RMW, <uint64_t>&t.vm.kvm.vm_dead)
    if tdp_xchg32(&t.vm.kvm.vm_bugged, True):
        # Silent in the kernel's log, but the call failed all the same.
        c.found.checks |= CHECK_KERNEL
        return
    kvm_warn(c, fn, id)
    tdp_write_once32(&t.vm.kvm.vm_dead, True)
    tdx_vm_dead(c, &t.vm.kvm)
    trace3(c, EV_SEAMCALL_FAILED, leaf, err, 0)


# ---- kicks ----------------------------------------------------------------------------------------------------

cdef bint tdx_vcpu_inside(Tdx *t, int vcpu) noexcept nogil:
    cdef Vp *vp = seam_vp(t.seam, t.tdvpr_pa[vcpu])
    return vp != NULL and tdp_read_once(&vp.state) == VP_ACTIVE


cdef bint tdx_vcpu_try_begin(Cpu *c, Tdx *t, int vcpu) noexcept nogil:
    """As tdx_vcpu_begin(), but False while the processor does something else. May yield."""
    cdef uint32_t idle = 0
    sync_point(c, SYNC_RMW, <uint64_t>&t.guest_busy[vcpu])
    return tdp_try_cmpxchg32(&t.guest_busy[vcpu], &idle, 1)


cdef void tdx_vcpu_begin(Cpu *c, Tdx *t, int vcpu) noexcept nogil:
    """From here to tdx_vcpu_end() the vCPU's processor does one thing: a guest instruction, an entry, or the exit
    an IPI makes; no two of these overlap. Yields."""
    while True:
        sync_wait_eq(c, &t.guest_busy[vcpu], 0)
        if tdx_vcpu_try_begin(c, t, vcpu):
            return


cdef void tdx_vcpu_end(Cpu *c, Tdx *t, int vcpu) noexcept nogil:
    sync_point(c, SYNC_STORE, <uint64_t>&t.guest_busy[vcpu])
    tdp_store32(&t.guest_busy[vcpu], 0)


cdef bint tdx_kick(Cpu *c, Tdx *t, int vcpu) noexcept nogil:
    """Makes a vCPU that is in the guest leave it, as the IPI does; whether it was. Inside tdx_vcpu_begin()."""
    cdef SeamRegs r
    cdef int lp = c.lp
    cdef uint64_t err
    if not tdx_vcpu_inside(t, vcpu):
        return False
    memset(&r, 0, sizeof(r))
    c.lp = t.lp_base + vcpu + 1
    err = td_async_exit(c, t.seam, &r)
    c.lp = lp
    c.count.kicks += 1
    trace3(c, EV_KICK, vcpu, err, r.rax)
    return True


cdef void tdx_request_outside_guest_mode(Cpu *c, Tdx *t) noexcept nogil:
    """KVM_REQ_OUTSIDE_GUEST_MODE to all vCPUs; waits until none is in the guest. Yields."""
    cdef uint32_t kicked = 0
    cdef int i
    trace1(c, EV_REQ, 0)
    sync_rare(c, SYNC_STORE, <uint64_t>&t.seam.side_lock)      # calls of others look whether they are injected
    for i in range(SEAM_MAX_INJECT):
        if tdp_load32(&t.until_kick) >> i & 1:
            seam_inject_off(t.seam, i)
    for i in range(t.nvcpus):
        tdx_vcpu_begin(c, t, i)
        if tdx_kick(c, t, i):
            kicked |= <uint32_t>1 << i
        tdx_vcpu_end(c, t, i)
    if c.user == NULL or not (<Op *>c.user).reenter or t.reenter_fn == NULL:
        return
    for i in range(t.nvcpus):
        if kicked >> i & 1:
            t.reenter_fn(c, t, i)


cdef void tdx_vm_dead(Cpu *c, Kvm *kvm) noexcept nogil:
    """KVM_REQ_VM_DEAD to all vCPUs; nobody waits for it."""
    cdef Tdx *t = tdx_of(kvm)
    cdef int i
    trace1(c, EV_REQ, 1)
    for i in range(t.nvcpus):
        if tdx_vcpu_try_begin(c, t, i):
            tdx_kick(c, t, i)
            tdx_vcpu_end(c, t, i)


cdef uint64_t tdh_do_no_vcpus(Cpu *c, Tdx *t, int leaf, uint64_t rcx, uint64_t rdx, uint64_t r8,
                              SeamRegs *r) noexcept nogil:
    cdef const TdxOps *ops = tdx_ops(t)
    if tdp_unlikely(ops != NULL):
        return ops.tdh_do_no_vcpus(c, t, leaf, rcx, rdx, r8, r)
    return base_tdh_do_no_vcpus(c, t, leaf, rcx, rdx, r8, r)


cdef uint64_t base_tdh_do_no_vcpus(Cpu *c, Tdx *t, int leaf, uint64_t rcx, uint64_t rdx, uint64_t r8,
                                   SeamRegs *r) noexcept nogil:
    """Runs a SEAMCALL that vCPUs may hold up: on BUSY once more with all of them out and kept out. mmu_lock for
    write, so only one of these runs. Yields."""
    cdef uint64_t err
    lockdep_assert_held_write(c, b"tdh_do_no_vcpus", b"mmu_lock_write")
    err = seamcall3(c, t, leaf, rcx, rdx, r8, r)
    if tdx_operand_busy(err):
        sync_point(c, SYNC_STORE, <uint64_t>&t.wait_for_sept_zap)
        tdp_store32(&t.wait_for_sept_zap, 1)
        tdx_request_outside_guest_mode(c, t)
        err = seamcall3(c, t, leaf, rcx, rdx, r8, r)
        if not t.design.keep_sept_wait:
            sync_point(c, SYNC_STORE, <uint64_t>&t.wait_for_sept_zap)
            tdp_store32(&t.wait_for_sept_zap, 0)
    return err


cdef void tdx_track(Cpu *c, Tdx *t) noexcept nogil:
    cdef const TdxOps *ops = tdx_ops(t)
    if tdp_unlikely(ops != NULL):
        ops.tdx_track(c, t)
    else:
        base_tdx_track(c, t)


cdef void base_tdx_track(Cpu *c, Tdx *t) noexcept nogil:
    """Bumps the TD's epoch and makes every vCPU leave the guest once. mmu_lock for write. Cannot fail upward."""
    cdef SeamRegs r
    cdef uint64_t err
    if tdx_state(c, t) != TD_STATE_RUNNABLE or t.design.no_track:
        return
    lockdep_assert_held_write(c, b"tdx_track", b"mmu_lock_write")
    err = tdh_do_no_vcpus(c, t, TDH_MEM_TRACK, t.tdr_pa, 0, 0, &r)
    if err:
        tdx_bug(c, t, b"tdx_track", b"seamcall_failed", TDH_MEM_TRACK, err)
    tdx_request_outside_guest_mode(c, t)


# ---- pages ----------------------------------------------------------------------------------------------------

cdef uint64_t tdx_alloc_external(Cpu *c, Kvm *kvm) noexcept nogil:
    """A page for the S-EPT from KVM's cache; 0 when all are out. Lock-free."""
    cdef Tdx *t = tdx_of(kvm)
    cdef uint64_t n = 0
    cdef uint64_t i
    cdef uint32_t cpu = <uint32_t>c.id & (ARENA_SHARES - 1)
    if kvm.arena.share:
        # Exploring: a share per CPU, as for the tables themselves.
        i = t.sept_share_base + cpu * kvm.arena.share + t.sept_share_used[cpu]
        if t.sept_share_used[cpu] == kvm.arena.share or i >= TDX_SEPT_PAGES:
            return 0
        t.sept_share_used[cpu] += 1
        t.sept_state[i] = SEPT_PAGE_OWNED
        tdp_fetch_add(&t.sept_owned, 1)
        return t.sept_base + (i << 12)
    while n < TDX_SEPT_PAGES:
        i = tdp_fetch_add(&t.sept_next, 1) % TDX_SEPT_PAGES
        if tdp_try_cmpxchg8(&t.sept_state[i], SEPT_PAGE_FREE, SEPT_PAGE_OWNED):
            tdp_fetch_add(&t.sept_owned, 1)
            return t.sept_base + (i << 12)
        n += 1
    return 0


cdef void tdx_free_page(Cpu *c, Tdx *t, uint64_t page) noexcept nogil:
    """free_page() of a page KVM owned. One that the module still uses is use after free in the making."""
    cdef uint64_t i = (page - t.sept_base) >> 12
    cdef const PamtEntry *e = pamt_peek(t.seam, page, 0)
    sync_rare(c, SYNC_LOAD, <uint64_t>e)
    trace1(c, EV_FREE_PAGE, page)
    if e != NULL and e.pt != PT_NDA:
        c.found.checks |= CHECK_LIFE
    if page >= t.sept_base and i < TDX_SEPT_PAGES and tdp_try_cmpxchg8(&t.sept_state[i], SEPT_PAGE_OWNED,
                                                                       SEPT_PAGE_FREE):
        tdp_fetch_add(&t.sept_owned, <uint64_t>-1)


cdef void tdx_free_external(Cpu *c, Kvm *kvm, uint64_t page) noexcept nogil:
    tdx_free_page(c, tdx_of(kvm), page)


cdef int tdx_reclaim_page(Cpu *c, Tdx *t, uint64_t page) noexcept nogil:
    """__tdx_reclaim_page(): takes a page back from the module after the key is gone; 0 or -EIO."""
    cdef SeamRegs r
    cdef uint64_t pa = page if page else TDX_PA_OF_NULL
    cdef uint64_t err = seamcall3(c, t, TDH_PHYMEM_PAGE_RECLAIM, pa, 0, 0, &r)
    if err:
        kvm_warn(c, b"__tdx_reclaim_page", b"seamcall_failed")
        trace3(c, EV_SEAMCALL_FAILED, TDH_PHYMEM_PAGE_RECLAIM, err, 0)
        return -EIO
    trace1(c, EV_RESET_PADDR, page)
    tdx_pamt_put(c, t, page)
    return 0


cdef int pamt_put_on_error(Cpu *c, Tdx *t, uint64_t page, int ret) noexcept nogil:
    """Gives back what tdx_pamt_get() took for a page that the module did not take after all; ret."""
    if ret and not t.design.pamt_no_put:
        tdx_pamt_put(c, t, page)
    return ret


# ---- leaves and tables ------------------------------------------------------------------------------------------

cdef uint64_t tdx_page_add_src(Cpu *c, Tdx *t) noexcept nogil:
    """page_add_src, which who populates sets under slots_lock and a fault reads without. May yield."""
    sync_rare(c, SYNC_LOAD, <uint64_t>&t.page_add_src)
    return tdp_read_once(&t.page_add_src)


cdef uint64_t tdx_page_add(Cpu *c, Tdx *t, uint64_t gfn, uint64_t pfn, uint64_t src) noexcept nogil:
    """TDH.MEM.PAGE.ADD of a 4K page with the content at src; its status. Yields."""
    cdef SeamRegs r
    memset(&r, 0, sizeof(r))
    r.rcx = gfn << 12
    r.rdx = t.tdr_pa
    r.r8 = pfn << 12
    r.r9 = src
    return tdx_seamcall(c, t, TDH_MEM_PAGE_ADD, &r)


cdef int tdx_mem_page_add(Cpu *c, Tdx *t, uint64_t gfn, uint64_t pfn) noexcept nogil:
    """Before finalisation: adds a page with its content. slots_lock and a source page are needed."""
    cdef uint64_t err, src
    if not c.held.slots_lock:
        sync_assert(c, ASSERT_LOCKDEP, b"tdx_mem_page_add", b"slots_lock")
    if tdx_pre_fault_allowed(c, t):
        kvm_bug_on(c, &t.vm.kvm, b"tdx_mem_page_add", b"pre_fault_allowed")
        return -EIO
    src = tdx_page_add_src(c, t)
    if not src:
        kvm_bug_on(c, &t.vm.kvm, b"tdx_mem_page_add", b"no_page_add_src")
        return -EIO
    err = tdx_page_add(c, t, gfn, pfn, src)
    if tdx_operand_busy(err):
        return -EBUSY
    if err:
        tdx_bug(c, t, b"tdx_mem_page_add", b"seamcall_failed", TDH_MEM_PAGE_ADD, err)
        return -EIO
    return 0


cdef int tdx_mem_page_aug(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t pfn) noexcept nogil:
    cdef SeamRegs r
    cdef uint64_t err = seamcall3(c, t, TDH_MEM_PAGE_AUG, gfn << 12 | (level - 1), t.tdr_pa, pfn << 12, &r)
    if tdx_operand_busy(err):
        return -EBUSY
    if err:
        tdx_bug(c, t, b"tdx_mem_page_aug", b"seamcall_failed", TDH_MEM_PAGE_AUG, err)
        return -EIO
    return 0


cdef bint tdx_huge_allowed(const Tdx *t) noexcept nogil:
    """The designs on a huge-page base take leaves above 4K once the TD runs."""
    return t.vm.kvm.design.max_level > 1


cdef inline const char *name_of(const Tdx *t, const char *name, const char *v618) noexcept nogil:
    """What a function is called in the design's kernel."""
    return v618 if t.design.dispatch == DISPATCH_V618 else name


cdef int tdx_sept_map_leaf_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil:
    cdef const TdxOps *ops = tdx_ops(t)
    if tdp_unlikely(ops != NULL):
        return ops.tdx_sept_map_leaf_spte(c, t, gfn, level, spte)
    return base_tdx_sept_map_leaf_spte(c, t, gfn, level, spte)


cdef int base_tdx_sept_map_leaf_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil:
    """Maps a leaf in the S-EPT: 0, -EBUSY, or -EIO with the VM bugged. mmu_lock in either mode."""
    cdef const char *fn = name_of(t, b"tdx_sept_map_leaf_spte", b"tdx_sept_set_private_spte")
    cdef int ret
    if level != 1 and not (tdx_huge_allowed(t) and tdx_runnable(c, t)):
        kvm_bug_on(c, &t.vm.kvm, fn, b"level_not_4k")
        return -EIO
    if spte & 7 != 7:
        kvm_warn(c, fn, b"not_rwx")
    ret = tdx_pamt_get(c, t, spte_to_pfn(spte) << 12)
    if ret:
        return ret
    if not tdx_runnable(c, t):
        ret = tdx_mem_page_add(c, t, gfn, spte_to_pfn(spte))
    else:
        ret = tdx_mem_page_aug(c, t, gfn, level, spte_to_pfn(spte))
    return pamt_put_on_error(c, t, spte_to_pfn(spte) << 12, ret)


cdef uint64_t tdx_spte_to_sept_pt(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil:
    """The external page of the table spte points to; 0 with the VM bugged when it does not fit."""
    cdef Sp *sp = spte_to_child_sp(&t.vm.kvm, spte)
    cdef const char *fn = b"tdx_spte_to_sept_pt"
    if sp == NULL or not sp.external_spt:
        kvm_bug_on(c, &t.vm.kvm, fn, b"no_external_spt")
        return 0
    if sp.level + 1 != level:
        kvm_bug_on(c, &t.vm.kvm, fn, b"child_level")
        return 0
    if sp.gfn != gfn:
        kvm_bug_on(c, &t.vm.kvm, fn, b"child_gfn")
        return 0
    return sp.external_spt


cdef int tdx_sept_add(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t page, const char *fn) noexcept nogil:
    cdef SeamRegs r
    cdef uint64_t err
    cdef int ret = tdx_pamt_get(c, t, page)
    if ret:
        return ret
    err = seamcall3(c, t, TDH_MEM_SEPT_ADD, gfn << 12 | (level - 1), t.tdr_pa, page if page else TDX_PA_OF_NULL, &r)
    if tdx_operand_busy(err):
        return pamt_put_on_error(c, t, page, -EBUSY)
    if err:
        tdx_bug(c, t, fn, b"seamcall_failed", TDH_MEM_SEPT_ADD, err)
        return pamt_put_on_error(c, t, page, -EIO)
    return 0


cdef int tdx_sept_map_nonleaf_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil:
    cdef const TdxOps *ops = tdx_ops(t)
    if tdp_unlikely(ops != NULL):
        return ops.tdx_sept_map_nonleaf_spte(c, t, gfn, level, spte)
    return base_tdx_sept_map_nonleaf_spte(c, t, gfn, level, spte)


cdef int base_tdx_sept_map_nonleaf_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil:
    """Links a table into the S-EPT: 0, -EBUSY, or -EIO with the VM bugged."""
    cdef uint64_t page = tdx_spte_to_sept_pt(c, t, gfn, level, spte)
    if not page:
        return -EIO
    return tdx_sept_add(c, t, gfn, level, page, b"tdx_sept_map_nonleaf_spte")


cdef int tdx_write_back(Cpu *c, Tdx *t, uint64_t pfn, int level, const char *fn) noexcept nogil:
    """Flushes the TD's cache lines of a removed page, 4K by 4K, and resets it for the host in one go. 0, or -EIO with
    the VM bugged."""
    cdef SeamRegs r
    cdef uint64_t err, i, hpa
    for i in range(pages_per_hpage(level)):
        hpa = (pfn + i) << 12
        err = seamcall3(c, t, TDH_PHYMEM_PAGE_WBINVD, hpa | <uint64_t>tdx_hkid(c, t) << t.seam.hkid_shift, 0, 0, &r)
        if err:
            tdx_bug(c, t, fn, b"wbinvd_failed", TDH_PHYMEM_PAGE_WBINVD, err)
            return -EIO
    trace1(c, EV_RESET_PADDR, pfn << 12)
    return 0


cdef int tdx_sept_remove_leaf_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil:
    cdef const TdxOps *ops = tdx_ops(t)
    if tdp_unlikely(ops != NULL):
        return ops.tdx_sept_remove_leaf_spte(c, t, gfn, level, spte)
    return base_tdx_sept_remove_leaf_spte(c, t, gfn, level, spte)


cdef int base_tdx_sept_remove_leaf_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil:
    """Takes a leaf out of the S-EPT: BLOCK, TRACK, REMOVE, write back. mmu_lock for write. 0, or -EIO with the VM
    bugged and the S-EPT entry as far as it got. Yields."""
    cdef const char *fn = name_of(t, b"tdx_sept_remove_leaf_spte", b"tdx_sept_remove_private_spte")
    cdef uint64_t rcx = gfn << 12 | (level - 1)
    cdef uint64_t err
    cdef SeamRegs r
    cdef bint accepted
    lockdep_assert_held_write(c, fn, b"mmu_lock_write")
    if tdx_hkid(c, t) < 0:
        kvm_bug_on(c, &t.vm.kvm, fn, b"hkid_not_assigned")
        return -EIO
    if level != 1 and not tdx_huge_allowed(t):
        kvm_bug_on(c, &t.vm.kvm, fn, b"level_not_4k")
        return -EIO
    if not t.design.no_block:
        err = tdh_do_no_vcpus(c, t, TDH_MEM_RANGE_BLOCK, rcx, t.tdr_pa, 0, &r)
        if err:
            tdx_bug(c, t, fn, b"block_failed", TDH_MEM_RANGE_BLOCK, err)
            return -EIO
    tdx_track(c, t)
    accepted = private_accepted(t, gfn, level)
    err = tdh_do_no_vcpus(c, t, TDH_MEM_PAGE_REMOVE, rcx, t.tdr_pa, 0, &r)
    if err:
        tdx_bug(c, t, fn, b"remove_failed", TDH_MEM_PAGE_REMOVE, err)
        return -EIO
    if accepted:
        private_removed(c, t, gfn, level)
    if tdx_write_back(c, t, spte_to_pfn(spte), level, fn):
        return -EIO
    tdx_pamt_put(c, t, spte_to_pfn(spte) << 12)      # 4K: with dynamic PAMT there are no larger leaves
    return 0


cdef int tdx_sept_free_private_spt(Cpu *c, Tdx *t, Sp *sp) noexcept nogil:
    cdef const TdxOps *ops = tdx_ops(t)
    if tdp_unlikely(ops != NULL):
        return ops.tdx_sept_free_private_spt(c, t, sp)
    return base_tdx_sept_free_private_spt(c, t, sp)


cdef int base_tdx_sept_free_private_spt(Cpu *c, Tdx *t, Sp *sp) noexcept nogil:
    """Takes the page of an unlinked table back. Only after the HKID is gone; 0 or -EIO (the page is leaked)."""
    if tdx_hkid(c, t) >= 0:
        kvm_bug_on(c, &t.vm.kvm, b"tdx_sept_free_private_spt", b"hkid_assigned")
        return -EIO
    return tdx_reclaim_page(c, t, sp.external_spt)


cdef int tdx_sept_reclaim_private_spt(Cpu *c, Tdx *t, Sp *sp) noexcept nogil:
    cdef const TdxOps *ops = tdx_ops(t)
    if tdp_unlikely(ops != NULL):
        return ops.tdx_sept_reclaim_private_spt(c, t, sp)
    return base_tdx_sept_reclaim_private_spt(c, t, sp)


cdef int base_tdx_sept_reclaim_private_spt(Cpu *c, Tdx *t, Sp *sp) noexcept nogil:
    """single-hook: as above, but from the set hook, after the table was queued for freeing. mmu_lock for write."""
    cdef int ret = -EIO
    lockdep_assert_held_write(c, b"tdx_sept_reclaim_private_spt", b"mmu_lock_write")
    sp_point(c, sp)
    if sp.state == SP_FREED:
        sp_note_uaf(&t.vm.arena, c, sp, UAF_SP)
    if tdx_hkid(c, t) >= 0:
        kvm_bug_on(c, &t.vm.kvm, b"tdx_sept_reclaim_private_spt", b"hkid_assigned")
    elif tdx_reclaim_page(c, t, sp.external_spt) == 0:
        tdx_free_page(c, t, sp.external_spt)
        ret = 0
    sp_point(c, sp)
    sp.external_spt = 0
    return ret
