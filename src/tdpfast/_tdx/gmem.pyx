# cython: language_level=3
"""vmx/tdx.c: populating, pre-faulting (see gmem.pxd)."""

from libc.string cimport memset

from tdpfast._names cimport (
    EINVAL, EIO, ENOMEM, EOPNOTSUPP, EPERM, NOMEM_SEPT, NOMEM_TABLE, OP_MAP, RET_PF_FIXED, RET_PF_RETRY, RET_PF_SPURIOUS, SYNC_LOAD, SYNC_STORE,
    TDH_MR_EXTEND,
)
from tdpfast._sync.atomic cimport tdp_read_once32, tdp_write_once
from tdpfast._ops.ops cimport op_fault, op_map
from tdpfast._seam.module cimport SeamRegs
from tdpfast._sync.cpu cimport (
    no_memory, read_lock, read_unlock, sync_point, sync_rare, sync_retry, write_lock, write_unlock,
)
from tdpfast._mmu.tdp_mmu cimport Fault, ROOT_MIRROR, gfn_to_memslot, kvm_bug_on, slot_has_gmem
from tdpfast._mmu.invalidate cimport gmem_lock, gmem_unlock, kvm_gmem_get_pfn
from tdpfast._mmu.tdp_mmu_map cimport gfn_tracked, kvm_mem_attribute, kvm_tdp_mmu_map
from tdpfast._mmu.tdp_mmu_roots cimport vcpu_reload
from tdpfast._tdx.tdx cimport tdx_bug, tdx_page_add_src, tdx_pre_fault_allowed, tdx_runnable, tdx_seamcall
from tdpfast._tdx.state cimport Tdx
from tdpfast._tdx.premap cimport premap_add
from tdpfast._tdx.td cimport tdx_slots_lock, tdx_slots_unlock

cdef enum:
    TDX_EXTENDMR_CHUNKSIZE = 256


cdef bint tdx_fault_cancelled(Cpu *c, Vm *vm) noexcept nogil:
    """What ends the local retries of a private fault: the VM is dead."""
    sync_point(c, SYNC_LOAD, <uint64_t>&vm.kvm.vm_dead)
    return tdp_read_once32(&vm.kvm.vm_dead)


cdef uint64_t tdx_fault_state(Cpu *c, Vm *vm) noexcept nogil:
    """What the last try of a private fault left for the next one: the level it asked for (SPLIT_IGNORE)."""
    return (<Tdx *>vm.tdx).request_2m[c.id & 31]


cdef int map_private_page(Cpu *c, Vm *vm, uint64_t gfn, uint64_t pfn) noexcept nogil:
    """Maps a given page at 4K, as often as RET_PF_RETRY asks for; the last answer, or -EPERM for a write-tracked gfn.
    slots_lock held; takes mmu_lock for read. Yields."""
    cdef Fault fault
    cdef int ret = RET_PF_RETRY
    sync_rare(c, SYNC_LOAD, <uint64_t>&vm.kvm.ntracked)
    if gfn_tracked(&vm.kvm, gfn):
        return -EPERM
    if c.has_roots:
        vcpu_reload(c, &vm.kvm, ROOT_MIRROR)
    memset(&fault, 0, sizeof(fault))
    fault.gfn = gfn
    fault.pfn = pfn
    fault.max_level = fault.req_level = fault.goal_level = 1
    fault.prefetch = True
    fault.map_writable = True
    fault.is_private = True
    fault.root = ROOT_MIRROR
    fault.nx_huge_page_workaround_enabled = vm.kvm.nx_huge_pages
    if no_memory(c, NOMEM_TABLE) or no_memory(c, NOMEM_SEPT):
        return -ENOMEM
    while not tdx_fault_cancelled(c, vm):
        read_lock(c, &vm.kvm.mmu_lock)
        ret = kvm_tdp_mmu_map(c, &vm.kvm, &fault)
        read_unlock(c, &vm.kvm.mmu_lock)
        if ret != RET_PF_RETRY:
            break
        sync_retry(c, gfn ^ c.script.pos ^ c.used_up << 32)
    return ret


cdef int map_and_add(Cpu *c, Vm *vm, const Op *op) noexcept nogil:
    """The page gets into mirror and S-EPT: by kvm_tdp_mmu_map_private_pfn(), whose hook adds it and which takes only a
    page that was not mapped; before 6.19 by kvm_tdp_map_page(), which counts it and takes one that was, and PAGE.ADD. 0,
    -EPERM, -EBUSY (before 6.19), or -EIO: mapped already, refused, or the VM is dead. slots_lock held. Yields."""
    cdef int ret = map_private_page(c, vm, op.gfn, op.pfn)
    if ret < 0:
        return ret
    if not (<Tdx *>vm.tdx).design.premap:
        return 0 if ret == RET_PF_FIXED else -EIO
    if ret != RET_PF_FIXED and ret != RET_PF_SPURIOUS:
        return -EIO
    return premap_add(c, <Tdx *>vm.tdx, op.gfn, op.pfn)


cdef int tdx_gmem_post_populate(Cpu *c, Vm *vm, const Op *op) noexcept nogil:
    """Maps and adds the page and, if asked, measures it, 256 bytes at a time. slots_lock held. 0 or an errno. A failed
    measurement leaves the page where it is; from 6.19 on it bugs the VM."""
    cdef Tdx *t = <Tdx *>vm.tdx
    cdef SeamRegs r
    cdef uint64_t err
    cdef int ret, i
    if tdx_page_add_src(c, t):
        kvm_bug_on(c, &vm.kvm, b"tdx_gmem_post_populate", b"page_add_src")
        return -EIO
    sync_rare(c, SYNC_STORE, <uint64_t>&t.page_add_src)
    tdp_write_once(&t.page_add_src, op.src)
    ret = map_and_add(c, vm, op)
    sync_rare(c, SYNC_STORE, <uint64_t>&t.page_add_src)
    tdp_write_once(&t.page_add_src, 0)
    if ret or not op.measure:
        return ret
    for i in range(4096 // TDX_EXTENDMR_CHUNKSIZE):
        memset(&r, 0, sizeof(r))
        r.rcx = op.gfn << 12 | <uint64_t>i * TDX_EXTENDMR_CHUNKSIZE
        r.rdx = t.tdr_pa
        err = tdx_seamcall(c, t, TDH_MR_EXTEND, &r)
        if err:
            if not t.design.premap:
                tdx_bug(c, t, b"tdx_gmem_post_populate", b"seamcall_failed", TDH_MR_EXTEND, err)
            return -EIO
    return 0


cdef int tdx_gmem_populate(Cpu *c, Vm *vm, const Op *op) noexcept nogil:
    """KVM_TDX_INIT_MEM_REGION of one page before finalisation. Takes slots_lock. 0 or an errno. Yields."""
    cdef Tdx *t = <Tdx *>vm.tdx
    cdef Op part = op[0]
    cdef int ret
    tdx_slots_lock(c, t)
    # The lock of the file keeps holes away: the fault inside compares no sequence.
    gmem_lock(c, &vm.kvm)
    part.pfn = kvm_gmem_get_pfn(c, &vm.kvm, op.gfn, op.pfn)
    if (kvm_mem_attribute(&vm.kvm, op.gfn, vm.kvm.nattributes) == 0 or tdx_runnable(c, t)
            or not slot_has_gmem(gfn_to_memslot(&vm.kvm, 0, op.gfn))):
        ret = -EINVAL
    else:
        ret = tdx_gmem_post_populate(c, vm, &part)
    gmem_unlock(c, &vm.kvm)
    tdx_slots_unlock(c, t)
    return ret


cdef void tdx_private_fault(Cpu *c, Vm *vm, Op *part, OpResult *res) noexcept nogil:
    """A fault as part of another operation, of which `part` is a copy that turns into a map: a write to private memory,
    with its gfn, pfn, level, prefetch and retries. Takes mmu_lock for read; res as a map's. Yields."""
    part.kind = OP_MAP
    part.write = part.map_writable = part.is_private = 1
    op_map(c, vm, part, res)


cdef void tdx_pre_fault_memory(Cpu *c, Vm *vm, const Op *op, OpResult *res) noexcept nogil:
    """KVM_PRE_FAULT_MEMORY of one page: as a fault that prefetches; -EOPNOTSUPP until finalisation allows it.
    Yields."""
    cdef Op part = op[0]
    if not tdx_pre_fault_allowed(c, <Tdx *>vm.tdx):
        res.ret = -EOPNOTSUPP
        return
    part.prefetch = 1
    part.retries = -1
    tdx_private_fault(c, vm, &part, res)


cdef void tdx_map_exclusive(Cpu *c, Vm *vm, const Op *op, OpResult *res) noexcept nogil:
    """A private fault with mmu_lock for write. No caller in the kernel does so, and a gated design refuses: -EINVAL.
    The S-EPT may still be busy, with a guest's TDCALL or a VP.ENTER, and then nobody can go back. Yields."""
    cdef Fault fault
    if not vm.kvm.design.ungated:
        res.ret = -EINVAL
        return
    op_fault(&vm.kvm, op, &fault)
    if c.has_roots:
        vcpu_reload(c, &vm.kvm, ROOT_MIRROR)
    write_lock(c, &vm.kvm.mmu_lock)
    res.ret = kvm_tdp_mmu_map(c, &vm.kvm, &fault)
    write_unlock(c, &vm.kvm.mmu_lock)
    res.level = fault.goal_level
    res.tries = 1
