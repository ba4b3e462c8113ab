# cython: language_level=3
"""vmx/tdx.c: splitting a private 2M leaf (see split.pxd).

Under the write lock every design does the same: BLOCK, TRACK, DEMOTE, none of which may fail after its kick. What the
designs disagree about is a split under the read lock, where nobody may be kicked out for good and the caller can undo
the change of the mirror: `split_shared` of the design.
"""

from tdpfast._names cimport (
    EBUSY, EINVAL, EIO, EOPNOTSUPP, SPLIT_ASSERT, SPLIT_IGNORE, SPLIT_NONBLOCKING, SPLIT_REFUSE, SPLIT_UNBLOCK,
    TDH_MEM_PAGE_DEMOTE, TDH_MEM_RANGE_BLOCK, TDH_MEM_RANGE_UNBLOCK, TDH_MEM_TRACK,
)
from tdpfast._seam.module cimport SeamRegs
from tdpfast._seam.defs cimport TDX_INTERRUPTED_RESTARTABLE, TDX_PREVIOUS_TLB_EPOCH_BUSY
from tdpfast._sync.atomic cimport tdp_unlikely
from tdpfast._sync.cpu cimport lockdep_assert_held_write, sync_retry
from tdpfast._mmu.tdp_mmu cimport kvm_bug_on, kvm_warn
from tdpfast._tdx.design_ops cimport TdxOps, tdx_ops
from tdpfast._tdx.tdx cimport (
    seamcall3, tdh_do_no_vcpus, tdx_bug, tdx_of, tdx_operand_busy, tdx_request_outside_guest_mode, tdx_runnable,
    tdx_spte_to_sept_pt, tdx_track,
)

cdef enum:
    REQUESTS = 31            # mask of Tdx.request_2m


# ---- how large a fault may map ------------------------------------------------------------------------------------

cdef int tdx_gmem_max_mapping_level(Cpu *c, Kvm *kvm, uint64_t gfn, int max_level) noexcept nogil:
    """What a private fault that asks for max_level may map: 4K until the TD runs, and without the module's help; 2M
    where this vCPU's last fault met a leaf that nobody splits for it (SPLIT_IGNORE). Yields while others may finalise
    the TD."""
    cdef Tdx *t = tdx_of(kvm)
    if kvm.design.split_shared == SPLIT_IGNORE and t.request_2m[c.id & REQUESTS] == (gfn >> 9) + 1:
        return 2
    if max_level == 1 or kvm.design.ungated:
        return max_level
    if t.design.enhanced_demote and not t.seam.enhanced_demote:
        return 1
    return max_level if tdx_runnable(c, t) else 1


cdef void tdx_request_reset(Cpu *c, Tdx *t) noexcept nogil:
    """A new EPT violation forgets what the last one asked for."""
    t.request_2m[c.id & REQUESTS] = 0


# ---- under the write lock -----------------------------------------------------------------------------------------

cdef uint64_t demote(Cpu *c, Tdx *t, uint64_t rcx, uint64_t page, SeamRegs *r) noexcept nogil:
    """DEMOTE under the write lock, with a kick on BUSY; its status. Some designs call an interrupted one again, as
    often as it takes; the others want a module that does not give way to interrupts. Yields."""
    cdef uint64_t err
    while True:
        err = tdh_do_no_vcpus(c, t, TDH_MEM_PAGE_DEMOTE, rcx, t.tdr_pa, page, r)
        if err != TDX_INTERRUPTED_RESTARTABLE or not t.design.demote_retry:
            return err
        sync_retry(c, rcx ^ page ^ c.script.pos ^ c.used_up << 32)


cdef int split_exclusive(Cpu *c, Tdx *t, uint64_t rcx, uint64_t page, const char *fn) noexcept nogil:
    """BLOCK, TRACK, DEMOTE. 0, or -EIO with the VM bugged and the S-EPT entry as far as it got. Yields."""
    cdef SeamRegs r
    cdef uint64_t err = tdh_do_no_vcpus(c, t, TDH_MEM_RANGE_BLOCK, rcx, t.tdr_pa, 0, &r)
    if err:
        tdx_bug(c, t, fn, b"block_failed", TDH_MEM_RANGE_BLOCK, err)
        return -EIO
    tdx_track(c, t)
    err = demote(c, t, rcx, page, &r)
    if err:
        tdx_bug(c, t, fn, b"demote_failed", TDH_MEM_PAGE_DEMOTE, err)
        return -EIO
    return 0


# ---- under the read lock ------------------------------------------------------------------------------------------

cdef int shared_result(Cpu *c, Tdx *t, const char *fn, const char *id, int leaf, uint64_t err) noexcept nogil:
    """-EBUSY for a lock that somebody held; anything else that failed bugs the VM, -EIO."""
    if tdx_operand_busy(err):
        return -EBUSY
    if err:
        tdx_bug(c, t, fn, id, leaf, err)
        return -EIO
    return 0


cdef int split_nonblocking(Cpu *c, Tdx *t, uint64_t rcx, uint64_t page, const char *fn) noexcept nogil:
    """DEMOTE of the entry as it is. 0; -EBUSY with nothing changed; -EIO with the VM bugged. Yields."""
    cdef SeamRegs r
    cdef uint64_t err = seamcall3(c, t, TDH_MEM_PAGE_DEMOTE, rcx, t.tdr_pa, page, &r)
    return shared_result(c, t, fn, b"demote_failed", TDH_MEM_PAGE_DEMOTE, err)


cdef int split_or_unblock(Cpu *c, Tdx *t, uint64_t rcx, uint64_t page, const char *fn) noexcept nogil:
    """BLOCK, TRACK, DEMOTE with one try each, and UNBLOCK when a later one is BUSY. 0, -EBUSY, or -EIO with the VM
    bugged. UNBLOCK may be BUSY itself: the S-EPT entry then stays blocked. Yields."""
    cdef SeamRegs r
    cdef uint64_t err = seamcall3(c, t, TDH_MEM_RANGE_BLOCK, rcx, t.tdr_pa, 0, &r)
    cdef int ret = shared_result(c, t, fn, b"block_failed", TDH_MEM_RANGE_BLOCK, err)
    if ret:
        return ret
    err = seamcall3(c, t, TDH_MEM_TRACK, t.tdr_pa, 0, 0, &r)
    if err >> 32 == TDX_PREVIOUS_TLB_EPOCH_BUSY >> 32:
        ret = -EBUSY
    else:
        ret = shared_result(c, t, fn, b"track_failed", TDH_MEM_TRACK, err)
    if ret == 0:
        tdx_request_outside_guest_mode(c, t)
        err = seamcall3(c, t, TDH_MEM_PAGE_DEMOTE, rcx, t.tdr_pa, page, &r)
        ret = shared_result(c, t, fn, b"demote_failed", TDH_MEM_PAGE_DEMOTE, err)
    if ret == -EBUSY:
        err = seamcall3(c, t, TDH_MEM_RANGE_UNBLOCK, rcx, t.tdr_pa, 0, &r)
        shared_result(c, t, fn, b"unblock_failed", TDH_MEM_RANGE_UNBLOCK, err)
    return ret


cdef int tdx_sept_split_private_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t old_spte, uint64_t new_spte,
                                     bint shared) noexcept nogil:
    cdef const TdxOps *ops = tdx_ops(t)
    if tdp_unlikely(ops != NULL):
        return ops.tdx_sept_split_private_spte(c, t, gfn, level, old_spte, new_spte, shared)
    return base_tdx_sept_split_private_spte(c, t, gfn, level, old_spte, new_spte, shared)


cdef int base_tdx_sept_split_private_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t old_spte, uint64_t new_spte,
                                          bint shared) noexcept nogil:
    """Demotes a 2M leaf into the table new_spte points to. mmu_lock for write unless `shared`. 0, or -EIO (-EINVAL
    where 6.16's routines say so) with the VM bugged; shared: also -EBUSY or -EOPNOTSUPP, nothing changed. Yields."""
    cdef const char *fn = b"tdx_sept_split_private_spte"
    cdef int mode = t.vm.kvm.design.split_shared
    cdef uint64_t rcx = gfn << 12 | (level - 1)
    cdef uint64_t page
    if not shared or mode == SPLIT_ASSERT:
        lockdep_assert_held_write(c, fn, b"mmu_lock_write")
    elif mode == SPLIT_REFUSE:
        kvm_warn(c, fn, b"mmu_lock_shared")
        return -EOPNOTSUPP
    if not tdx_runnable(c, t) or level != 2:
        kvm_bug_on(c, &t.vm.kvm, fn, b"not_runnable_2m")
        return -EINVAL if t.design.premap else -EIO
    if shared and mode == SPLIT_IGNORE:
        t.request_2m[c.id & REQUESTS] = (gfn >> 9) + 1
        return -EBUSY
    page = tdx_spte_to_sept_pt(c, t, gfn, level, new_spte)
    if not page:
        return -EIO
    if shared and mode == SPLIT_NONBLOCKING:
        return split_nonblocking(c, t, rcx, page, fn)
    if shared and mode == SPLIT_UNBLOCK:
        return split_or_unblock(c, t, rcx, page, fn)
    return split_exclusive(c, t, rcx, page, fn)
