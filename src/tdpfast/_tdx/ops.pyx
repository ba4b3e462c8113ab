# cython: language_level=3
"""Operations that only a TD has (see ops.pxd). A vCPU v acts on logical processor lp_base + v + 1."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from tdpfast._names cimport (
    CHECK_PAGE, KVM_DIRECT_ROOTS, KVM_FILTER_PRIVATE, KVM_INVALID_ROOTS, EBUSY, EINVAL, EIO, EV_OP_END, EV_TD_EXIT, EV_WAIT_FOR_SEPT_ZAP, GUEST_RET_NONE,
    GUEST_RET_NOT_INSIDE, GUEST_RET_NO_FAULT, GUEST_RET_REEXECUTE, GUEST_RET_STATUS, GUEST_RET_TDEXIT, GUEST_RET_VE,
    OP_ACCEPT, OP_FINALIZE, OP_FREE_PFN, OP_GUEST_ACCEPT, OP_GUEST_ACCESS, OP_MAP_EXCLUSIVE, OP_PAMT_GET,
    OP_PAMT_PUT, OP_POPULATE, OP_PREFAULT, OP_RAW, OP_RELEASE_HKID, OP_TD_EXIT, OP_TOUCH, OP_VCPU_FREE,
    OP_MOVE_SLOT, OP_PUNCH_HOLE, OP_SET_ATTRIBUTES, OP_VCPU_CREATE,
    OP_VM_DESTROY, OP_VP_ENTER, SPLIT_IGNORE, SYNC_LOAD, SYNC_STORE, TDG_MEM_PAGE_ACCEPT,
    TDH_VP_ENTER,
)
from tdpfast._ops.hardware cimport hardware_access
from tdpfast._ops.ops cimport OpResult, op_row, op_slot
from tdpfast._sync.atomic cimport (
    tdp_fetch_and32, tdp_fetch_or32, tdp_load32, tdp_read_once, tdp_read_once32, tdp_write_once32,
)
from tdpfast._mmu.gmem cimport gmem_split_ends, tdx_honor_guest_accept_level
from tdpfast._mmu.invalidate cimport (
    HOLE_SHARED, gmem_forget, kvm_gmem_invalidate_begin, kvm_gmem_invalidate_end, kvm_move_memslot, kvm_set_mem_attributes,
)
from tdpfast._mmu.arena cimport Sp
from tdpfast._mmu.hardware cimport tlb_maps
from tdpfast._mmu.tdp_mmu_loop cimport flush_due, mmu_unlocking
from tdpfast._mmu.tdp_mmu_roots cimport next_root_rcu
from tdpfast._mmu.tdp_mmu_zap cimport kvm_tdp_mmu_unmap_gfn_range
from tdpfast._seam.module cimport SeamInject, SeamRegs, pamt_peek, seam_inject, seam_inject_put, seam_vp
from tdpfast._seam.state cimport PT_NDA, PT_PAMT, PamtEntry, Seam
from tdpfast._seam.defs cimport SEAM_ENTERED_TD, TDX_OPERAND_BUSY
from tdpfast._seam.guest cimport (
    GUEST_NOT_INSIDE, GUEST_REEXECUTE, GUEST_TDEXIT, GUEST_VE, td_guest_access, tdcall,
)
from tdpfast._seam.vp cimport td_async_exit
from tdpfast._sync.cpu cimport (
    Event, rcu_read_lock, rcu_read_unlock, sync_point, sync_rare, sync_retry, trace1, trace3, trace_new, write_lock, write_unlock,
)
from tdpfast._mmu.tdp_mmu cimport Kvm, ROOT_DIRECT, Slot, vcpu_roots
from tdpfast._spte cimport is_last_spte, is_shadow_present_pte, spte_to_pfn
from tdpfast._mmu.tdp_iter cimport pages_per_hpage
from tdpfast._mmu.tdp_mmu_map cimport kvm_tdp_mmu_get_walk
from tdpfast._tdx.tdx cimport tdx_seamcall, tdx_vcpu_begin, tdx_vcpu_end, tdx_vcpu_inside, tdx_vm_dead
from tdpfast._tdx.state cimport Tdx
from tdpfast._tdx.gmem cimport tdx_gmem_populate, tdx_map_exclusive, tdx_pre_fault_memory, tdx_private_fault
from tdpfast._tdx.pamt cimport tdx_pamt_get, tdx_pamt_put
from tdpfast._tdx.premap cimport pin_count, pin_step
from tdpfast._tdx.split cimport tdx_request_reset
from tdpfast._tdx.td cimport (
    tdx_finalize, tdx_mmu_release_hkid, tdx_slots_lock, tdx_slots_unlock, tdx_vcpu_create, tdx_vcpu_free, tdx_vm_destroy,
)

cdef enum:
    EXT_QUAL_PENDING = 6
    TDCALL_LENGTH = 4


# ---- injection ------------------------------------------------------------------------------------------------

cdef void tdx_op_begin(Cpu *c, Vm *vm, Op *op) noexcept nogil:
    """Arms what the operation injects: locks held by another processor around its SEAMCALLs."""
    cdef Tdx *t = <Tdx *>vm.tdx
    cdef SeamInject inj
    cdef int i
    tdx_request_reset(c, t)
    if t.livelock_after:
        t.same_failures = 0
        t.last_failure = 0
        t.cut = False
    for i in range(op.ninject):
        memset(&inj, 0, sizeof(inj))
        inj.leaf = op.inject[i].leaf
        inj.lock = op.inject[i].lock
        inj.exclusive = op.inject[i].exclusive
        inj.skip = op.inject[i].skip
        inj.count = op.inject[i].count
        inj.intr_after = 0 if op.inject[i].intr else -1
        inj.cpu = c.id + 1
        op.inject[i].slot = seam_inject(t.seam, &inj)
        if op.inject[i].until_kick and op.inject[i].slot >= 0:
            sync_rare(c, SYNC_STORE, <uint64_t>&t.seam.side_lock)
            tdp_fetch_or32(&t.until_kick, <uint32_t>1 << op.inject[i].slot)


cdef void tdx_op_end(Cpu *c, Vm *vm, Op *op) noexcept nogil:
    """Disarms them again and notes how often each one acted."""
    cdef Tdx *t = <Tdx *>vm.tdx
    cdef int i
    for i in range(op.ninject):
        if op.inject[i].slot >= 0:
            if op.inject[i].until_kick:
                sync_rare(c, SYNC_STORE, <uint64_t>&t.seam.side_lock)
            op.inject[i].used = seam_inject_put(t.seam, op.inject[i].slot)
            tdp_fetch_and32(&t.until_kick, ~(<uint32_t>1 << op.inject[i].slot))


# ---- into the guest and out of it ---------------------------------------------------------------------------------

cdef int vp_enter(Cpu *c, Tdx *t, int vcpu, OpResult *res) noexcept nogil:
    """tdx_vcpu_run(): 1 inside, 0 came back at once, -1 kept out by a zap, -2 VM dead, -3 inside already. Yields."""
    cdef SeamRegs r
    cdef uint64_t err
    cdef int lp = c.lp
    # From here a kick waits for us: the tests below and the entry are one step to a kicker.
    tdx_vcpu_begin(c, t, vcpu)
    res.ret = 0
    if tdx_vcpu_inside(t, vcpu):
        tdx_vcpu_end(c, t, vcpu)
        res.ret = -3
        return -3
    sync_point(c, SYNC_LOAD, <uint64_t>&t.vm.kvm.vm_dead)
    if tdp_read_once32(&t.vm.kvm.vm_dead):
        res.ret = -2
    else:
        sync_point(c, SYNC_LOAD, <uint64_t>&t.wait_for_sept_zap)
        if tdp_load32(&t.wait_for_sept_zap):
            trace1(c, EV_WAIT_FOR_SEPT_ZAP, vcpu)
            res.ret = -1
        else:
            sync_rare(c, SYNC_STORE, <uint64_t>&t.loaded[vcpu])
            t.loaded[vcpu] = True
            memset(&r, 0, sizeof(r))
            r.rcx = t.tdvpr_pa[vcpu]
            c.lp = t.lp_base + vcpu + 1
            err = tdx_seamcall(c, t, TDH_VP_ENTER, &r)
            c.lp = lp
            res.rax = err
            res.ret = 1 if err == SEAM_ENTERED_TD else 0
    tdx_vcpu_end(c, t, vcpu)
    return <int>res.ret


cdef void tdx_reenter(Cpu *c, Tdx *t, int vcpu) noexcept nogil:
    """A vCPU that was just kicked wants back at once."""
    cdef OpResult res
    memset(&res, 0, sizeof(res))
    sync_rare(c, SYNC_LOAD, <uint64_t>&t.loaded[vcpu])
    if t.loaded[vcpu]:                   # vp_enter() sees to the rest
        vp_enter(c, t, vcpu, &res)


cdef void op_vp_enter(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    vp_enter(c, <Tdx *>vm.tdx, op.vcpu, res)


cdef void op_td_exit(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """An interrupt takes the vCPU out of the guest; ret 1, or -3: it was not inside. Waits for nobody; yields."""
    cdef Tdx *t = <Tdx *>vm.tdx
    cdef int vcpu = op.vcpu
    cdef SeamRegs r
    cdef int lp = c.lp
    cdef uint64_t err
    tdx_vcpu_begin(c, t, vcpu)
    res.ret = -3
    if tdx_vcpu_inside(t, vcpu):
        memset(&r, 0, sizeof(r))
        c.lp = t.lp_base + vcpu + 1
        err = td_async_exit(c, t.seam, &r)
        c.lp = lp
        trace3(c, EV_TD_EXIT, vcpu, err, r.rax)
        res.ret = 1
    tdx_vcpu_end(c, t, vcpu)


cdef bint unexpected_pending(const SeamRegs *r) noexcept nogil:
    """A TD that disabled #VE for pending pages touched one: KVM cannot help it. Qualification bits 5:3 and 6 say
    that the entry allowed nothing and that no user execute permission was there."""
    return (r.rdx & 0xf) == EXT_QUAL_PENDING and not r.rcx & 0x78


cdef void guest_op(Cpu *c, Tdx *t, const Op *op, bint accept, OpResult *res) noexcept nogil:
    """One guest instruction, the same one again with same_rip. An EPT violation that KVM cannot handle kills the
    VM. Yields; kicks wait for it."""
    cdef SeamRegs r
    cdef int old_lp = c.lp
    cdef int result
    memset(&r, 0, sizeof(r))
    tdx_vcpu_begin(c, t, op.vcpu)
    c.lp = t.lp_base + op.vcpu + 1
    if accept:
        r.rcx = op.value | <uint64_t>op.level
        if not op.same_rip and tdx_vcpu_inside(t, op.vcpu):
            seam_vp(t.seam, t.tdvpr_pa[op.vcpu]).rip += TDCALL_LENGTH
        result = tdcall(c, t.seam, TDG_MEM_PAGE_ACCEPT, &r)
    else:
        result = td_guest_access(c, t.seam, op.value, op.same_rip != 0, &r)
    c.lp = old_lp
    tdx_vcpu_end(c, t, op.vcpu)
    res.rax = r.rax
    res.out[0] = r.rcx
    res.out[1] = r.rdx
    res.out[2] = r.r8
    if result == GUEST_NOT_INSIDE:
        res.kind = GUEST_RET_NOT_INSIDE
    elif result == GUEST_VE:
        res.kind = GUEST_RET_VE
        seam_vp(t.seam, t.tdvpr_pa[op.vcpu]).ve_valid = 0        # its handler reads VE_INFO at once
    elif result == GUEST_REEXECUTE:
        res.kind = GUEST_RET_REEXECUTE
    elif result == GUEST_TDEXIT:
        res.kind = GUEST_RET_TDEXIT
        res.flags = unexpected_pending(&r)
        if res.flags:
            sync_point(c, SYNC_STORE, <uint64_t>&t.vm.kvm.vm_dead)
            tdp_write_once32(&t.vm.kvm.vm_dead, True)
            tdx_vm_dead(c, &t.vm.kvm)
    else:
        res.kind = GUEST_RET_STATUS if accept else GUEST_RET_NO_FAULT


cdef void op_accept(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    guest_op(c, <Tdx *>vm.tdx, op, True, res)


cdef void shared_access(Cpu *c, Vm *vm, const Op *op, OpResult *res) noexcept nogil:
    """A guest's write to shared memory, which the module has no part in."""
    cdef Tdx *t = <Tdx *>vm.tdx
    cdef bint inside
    tdx_vcpu_begin(c, t, op.vcpu)
    inside = tdx_vcpu_inside(t, op.vcpu)
    tdx_vcpu_end(c, t, op.vcpu)
    res.kind = GUEST_RET_NOT_INSIDE
    if inside:
        hardware_access(c, vm, ROOT_DIRECT, (op.value >> 12) & ~vm.kvm.gfn_direct_bits, True, res)
        res.kind = GUEST_RET_NO_FAULT if res.ret else GUEST_RET_TDEXIT
        res.ret = 0


cdef void op_guest_access(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    if (op.value >> 12) & vm.kvm.gfn_direct_bits:
        shared_access(c, vm, op, res)
    else:
        guest_op(c, <Tdx *>vm.tdx, op, False, res)


cdef void end_sub(Cpu *c, int what, const OpResult *res) noexcept nogil:
    """Marks the end of one part of a composed operation in the trace."""
    cdef Event *e
    if c.trace == NULL:
        return
    e = trace_new(c, EV_OP_END)
    e.a[0] = what
    e.a[1] = <uint64_t>res.ret
    e.a[2] = res.rax
    e.a[3] = res.out[0]
    e.a[4] = res.out[1]
    e.a[5] = res.out[2]
    e.a[6] = <uint64_t>res.kind
    e.a[7] = (<uint64_t>res.flags << 32) | (<uint64_t>res.level << 16) | <uint64_t>res.tries


cdef void op_touch(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """A guest access and what KVM makes of its EPT violation: map, with local retries, and enter again."""
    cdef Tdx *t = <Tdx *>vm.tdx
    cdef Op part = op[0]
    cdef OpResult sub
    part.value = op.gfn << 12
    part.same_rip = 1
    guest_op(c, t, &part, False, res)
    end_sub(c, 0, res)
    if res.kind != GUEST_RET_TDEXIT or res.flags:
        return
    part.level = 1
    memset(&sub, 0, sizeof(sub))
    sub.kind = GUEST_RET_NONE
    tdx_private_fault(c, vm, &part, &sub)
    end_sub(c, 1, &sub)
    # A fault that killed the VM goes on too: vp_enter() finds it dead.
    memset(&sub, 0, sizeof(sub))
    sub.kind = GUEST_RET_NONE
    vp_enter(c, t, op.vcpu, &sub)
    end_sub(c, 2, &sub)


cdef int handle_accept_violation(Cpu *c, Vm *vm, const Op *op) noexcept nogil:
    """tdx_handle_ept_violation() of an ACCEPT: makes room for the guest's level, then a fault with local retries; its
    RET_PF_*, or an errno. Yields."""
    cdef Tdx *t = <Tdx *>vm.tdx
    cdef Op part = op[0]
    cdef OpResult sub
    cdef int ret
    tdx_request_reset(c, t)
    part.gfn = op.value >> 12
    ret = tdx_honor_guest_accept_level(c, &vm.kvm, part.gfn, op.level + 1)
    if ret:
        return ret
    part.level = vm.kvm.design.max_level
    if vm.kvm.design.split_shared == SPLIT_IGNORE:
        part.level = min(part.level, op.level + 1)
    part.retries = -1
    memset(&sub, 0, sizeof(sub))
    sub.kind = GUEST_RET_NONE
    tdx_private_fault(c, vm, &part, &sub)
    return <int>sub.ret


cdef void op_guest_accept(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """A guest that wants to accept one page: every exit is handled as KVM does, and the vCPU enters again, until the
    TDCALL comes back or was made `tries` times (-1: no end). ret: 0, 1 out of tries, or an errno. Yields."""
    cdef Tdx *t = <Tdx *>vm.tdx
    cdef OpResult sub
    cdef uint64_t key = c.retry.key
    cdef uint32_t count = c.retry.count
    cdef int ret = 0
    res.tries = 0
    while True:
        guest_op(c, t, op, True, res)
        if res.kind != GUEST_RET_NOT_INSIDE:
            res.tries += 1
        if res.kind == GUEST_RET_STATUS and res.rax >> 32 != TDX_OPERAND_BUSY >> 32:
            return
        if res.kind == GUEST_RET_TDEXIT:
            ret = -EIO if res.flags else handle_accept_violation(c, vm, op)
        memset(&sub, 0, sizeof(sub))
        if ret >= 0 and vp_enter(c, t, op.vcpu, &sub) == -2:
            ret = -EIO
        res.ret = min(ret, 0)
        if ret < 0:
            return
        if op.tries >= 0 and res.tries >= op.tries:
            res.ret = 1
            return
        # The loop inside counted its own rounds meanwhile; these are the rounds around it.
        c.retry.key = key
        c.retry.count = count
        sync_retry(c, <uint64_t>op ^ c.script.pos ^ c.used_up << 32)
        key = c.retry.key
        count = c.retry.count


# ---- build and teardown -------------------------------------------------------------------------------------------

cdef void op_raw(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """A SEAMCALL past KVM."""
    cdef SeamRegs r
    memset(&r, 0, sizeof(r))
    r.rax = <uint64_t>op.leaf | <uint64_t>op.version << 16
    r.rcx = op.regs[0]
    r.rdx = op.regs[1]
    r.r8 = op.regs[2]
    res.rax = tdx_seamcall(c, <Tdx *>vm.tdx, op.leaf, &r)
    res.kind = GUEST_RET_STATUS


cdef bint leads_to(const uint64_t *sptes, int level, uint64_t gfn, uint64_t pfn) noexcept nogil:
    """Whether a walk to gfn, which ended at a level, came to a leaf that maps it to that page."""
    return (level >= 1 and is_shadow_present_pte(sptes[level]) and is_last_spte(sptes[level], level)
            and spte_to_pfn(sptes[level]) + (gfn & (pages_per_hpage(level) - 1)) == pfn)


cdef bint mirror_maps(Cpu *c, Vm *vm, uint64_t gfn, uint64_t pfn) noexcept nogil:
    """Whether the mirror still has a leaf of that page for gfn."""
    cdef uint64_t sptes[6]
    cdef int level
    if vcpu_roots(c, &vm.kvm)[1] == NULL:
        return False
    level = kvm_tdp_mmu_get_walk(c, &vm.kvm, vcpu_roots(c, &vm.kvm)[1], gfn, sptes)
    return leads_to(sptes, level, gfn, pfn)


cdef bint module_holds(Cpu *c, Seam *s, uint64_t hpa) noexcept nogil:
    """Whether the PAMT says that a 4K page is in use, by itself or as part of a 2M page. May yield."""
    cdef const PamtEntry *e = pamt_peek(s, hpa, 1)
    if e == NULL:
        return False
    # What splits or merges the page holds this entry's lock, and what adds or removes it that of the next.
    sync_point(c, SYNC_LOAD, <uint64_t>e)
    if e.pt != PT_NDA and e.pt != PT_PAMT:
        return True
    e = pamt_peek(s, hpa, 0)
    sync_point(c, SYNC_LOAD, <uint64_t>e)
    return e.pt != PT_NDA


cdef int give_back(Cpu *c, Vm *vm, uint64_t gfn, uint64_t pfn) noexcept nogil:
    """The page of gfn leaves guest_memfd's file. 0; 1: the module still uses it, `page`; 2: KVM keeps a reference."""
    cdef Tdx *t = <Tdx *>vm.tdx
    cdef uint64_t *pins = pin_count(t, pfn)
    if pins != NULL:
        sync_point(c, SYNC_LOAD, <uint64_t>pin_step(t, pfn))
        if tdp_read_once(pins):
            return 2
    gmem_forget(c, &vm.kvm, gfn, pfn)
    if module_holds(c, t.seam, pfn << 12):
        c.found.checks |= CHECK_PAGE
        return 1
    return 0


cdef bint still_reached(Cpu *c, Kvm *kvm, uint64_t gfn, uint64_t pfn) noexcept nogil:
    """Whether a leaf of gfn in some direct root, valid or not, or a processor still leads to the page. Yields."""
    cdef uint64_t sptes[6]
    cdef bint found = False
    cdef Sp *root
    cdef int level
    rcu_read_lock(c)
    root = next_root_rcu(c, kvm, NULL, KVM_DIRECT_ROOTS | KVM_INVALID_ROOTS)
    while root != NULL and not found:
        level = kvm_tdp_mmu_get_walk(c, kvm, root, gfn, sptes)
        found = leads_to(sptes, level, gfn, pfn)
        root = next_root_rcu(c, kvm, root, KVM_DIRECT_ROOTS | KVM_INVALID_ROOTS)
    rcu_read_unlock(c)
    if kvm.tlb.on:
        sync_point(c, SYNC_LOAD, <uint64_t>&kvm.tlb.gen)
        found |= tlb_maps(&kvm.tlb, gfn, pfn)
    return found


cdef void op_free_pfn(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """guest_memfd gives the page of a gfn back to the host, as it does once KVM says it is unmapped: the module
    must not use it any more. ret 0 freed, 1 freed although the module uses it, 2 kept by a reference of KVM's,
    -EBUSY (and nothing freed) while the mirror maps it.

    In a thread that zapped the gfn before, both are one punched hole, and nothing can map the page in between. By
    itself it looks at the mirror first, inside an invalidation of its own."""
    if op.hole & HOLE_SHARED and still_reached(c, &vm.kvm, op.gfn, op.pfn):
        c.found.checks |= CHECK_PAGE
        res.ret = 1
    if op.hole & ~HOLE_SHARED:
        res.ret = max(res.ret, give_back(c, vm, op.gfn, op.pfn))
        return
    if vm.kvm.invalidations:
        kvm_gmem_invalidate_begin(c, &vm.kvm, op.gfn, op.gfn + 1)
    if mirror_maps(c, vm, op.gfn, op.pfn):
        res.ret = -EBUSY
    else:
        res.ret = max(res.ret, give_back(c, vm, op.gfn, op.pfn))
    if vm.kvm.invalidations:
        kvm_gmem_invalidate_end(c, &vm.kvm)


cdef void op_punch_hole(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """fallocate(PUNCH_HOLE) of guest_memfd: the pages of [start, end), the first of which is pfn, are invalidated,
    unmapped and freed. ret 1 if the module still uses one (violates `page`), -ENOMEM and nothing done without memory to
    split a huge page. Yields."""
    cdef Kvm *kvm = &vm.kvm
    cdef uint64_t gfn
    cdef int ret
    kvm_gmem_invalidate_begin(c, kvm, op.start, op.end)
    write_lock(c, &kvm.mmu_lock)
    ret = gmem_split_ends(c, kvm, op.start, op.end)
    if ret == 0:
        flush_due(c, kvm, kvm_tdp_mmu_unmap_gfn_range(c, kvm, op.start, op.end, KVM_FILTER_PRIVATE, True, False))
    mmu_unlocking(c, kvm)
    write_unlock(c, &kvm.mmu_lock)
    if ret:
        kvm_gmem_invalidate_end(c, kvm)
        res.ret = ret
        return
    if kvm.design.end_before_free:
        kvm_gmem_invalidate_end(c, kvm)
    for gfn in range(op.start, op.end):
        if give_back(c, vm, gfn, op.pfn + gfn - op.start) == 1:
            res.ret = 1
    if not kvm.design.end_before_free:
        kvm_gmem_invalidate_end(c, kvm)


cdef void op_set_attributes(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """KVM_SET_MEMORY_ATTRIBUTES of [start, end), or guest_memfd's own conversion (the design's `inplace`). Yields."""
    cdef Tdx *t = <Tdx *>vm.tdx
    if not vm.kvm.design.inplace:
        tdx_slots_lock(c, t)
    res.ret = kvm_set_mem_attributes(c, &vm.kvm, op.start, op.end, op.is_private != 0, op.pinned != 0)
    if not vm.kvm.design.inplace:
        tdx_slots_unlock(c, t)


cdef void op_move_slot(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """KVM_SET_USER_MEMORY_REGION that moves the memslot around [start, end). Yields."""
    cdef Tdx *t = <Tdx *>vm.tdx
    cdef const Slot *slot = op_slot(&vm.kvm, op)
    if slot == NULL:
        res.ret = -EINVAL
        return
    tdx_slots_lock(c, t)
    kvm_move_memslot(c, &vm.kvm, &vm.kvm.slots[slot - &vm.kvm.slots[0]], op.start, op.end)
    tdx_slots_unlock(c, t)


cdef void op_vcpu_create(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    """KVM_CREATE_VCPU and KVM_TDX_INIT_VCPU of the next vCPU, before finalisation. Yields."""
    res.ret = tdx_vcpu_create(c, <Tdx *>vm.tdx, &res.rax)


cdef void op_populate(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    res.ret = tdx_gmem_populate(c, vm, op)


cdef void op_finalize(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    res.ret = tdx_finalize(c, <Tdx *>vm.tdx, &res.rax)


cdef void op_release_hkid(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    tdx_mmu_release_hkid(c, <Tdx *>vm.tdx)


cdef void op_vcpu_free(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    tdx_vcpu_free(c, <Tdx *>vm.tdx, op.vcpu)


cdef void op_vm_destroy(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    tdx_vm_destroy(c, <Tdx *>vm.tdx)


cdef void op_prefault(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    tdx_pre_fault_memory(c, vm, op, res)


cdef void op_map_exclusive(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    tdx_map_exclusive(c, vm, op, res)


cdef void op_pamt_get(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    res.ret = tdx_pamt_get(c, <Tdx *>vm.tdx, op.pfn << 12)


cdef void op_pamt_put(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    tdx_pamt_put(c, <Tdx *>vm.tdx, op.pfn << 12)


op_row(OP_VP_ENTER).fn = op_vp_enter
op_row(OP_TD_EXIT).fn = op_td_exit
op_row(OP_ACCEPT).fn = op_accept
op_row(OP_GUEST_ACCESS).fn = op_guest_access
op_row(OP_TOUCH).fn = op_touch
op_row(OP_RAW).fn = op_raw
op_row(OP_POPULATE).fn = op_populate
op_row(OP_FINALIZE).fn = op_finalize
op_row(OP_RELEASE_HKID).fn = op_release_hkid
op_row(OP_VCPU_FREE).fn = op_vcpu_free
op_row(OP_VM_DESTROY).fn = op_vm_destroy
op_row(OP_FREE_PFN).fn = op_free_pfn
op_row(OP_PAMT_GET).fn = op_pamt_get
op_row(OP_PAMT_PUT).fn = op_pamt_put
op_row(OP_GUEST_ACCEPT).fn = op_guest_accept
op_row(OP_PREFAULT).fn = op_prefault
op_row(OP_MAP_EXCLUSIVE).fn = op_map_exclusive
op_row(OP_PUNCH_HOLE).fn = op_punch_hole
op_row(OP_SET_ATTRIBUTES).fn = op_set_attributes
op_row(OP_MOVE_SLOT).fn = op_move_slot
op_row(OP_VCPU_CREATE).fn = op_vcpu_create
