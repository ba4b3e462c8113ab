# cython: language_level=3
"""vmx/tdx.c of 6.16 to 6.18 (see premap.pxd).

Mapping a leaf before the TD is finalised makes no SEAMCALL: it counts, in nr_premapped, a mirror leaf the S-EPT does
not have yet, and the populate path adds the page afterwards, with mmu_lock dropped in between. So a zap may find
nothing in the S-EPT (tdx_is_sept_zap_err_due_to_premap()), and the count has no lock of its own: every access to it is
one step here, as reading, testing and decrementing it are in the kernel.

KVM_BUG_ON()s answer -EINVAL, where later kernels say -EIO.
"""

from libc.stdint cimport int64_t

from tdpfast._names cimport EBUSY, EINVAL, EIO, SYNC_LOAD, SYNC_RMW, TDH_MEM_PAGE_REMOVE, TDH_MEM_RANGE_BLOCK
from tdpfast._sync.atomic cimport tdp_fetch_add, tdp_read_once
from tdpfast._seam.module cimport SeamRegs
from tdpfast._seam.state cimport undo_word
from tdpfast._seam.defs cimport OP_RCX, TDX_EPT_ENTRY_STATE_INCORRECT, seam_map, seam_unmap
from tdpfast._spte cimport is_last_spte
from tdpfast._sync.cpu cimport sync_point
from tdpfast._mmu.tdp_iter cimport pages_per_hpage
from tdpfast._mmu.tdp_mmu cimport kvm_bug_on, kvm_warn
from tdpfast._tdx.data cimport private_accepted, private_removed
from tdpfast._tdx.tdx cimport (
    tdh_do_no_vcpus, tdx_bug, tdx_hkid, tdx_huge_allowed, tdx_mem_page_aug, tdx_operand_busy, tdx_page_add,
    tdx_page_add_src, tdx_pre_fault_allowed, tdx_runnable, tdx_track, tdx_write_back,
)

cdef enum:
    RWX = 7


# ---- references to pages --------------------------------------------------------------------------------------

cdef int pins_init(Tdx *t) noexcept nogil:
    """Counts for every 4K page from the first TDMR to the last; 0, or -1 without memory."""
    cdef uint64_t start, end
    if t.seam.ntdmr == 0:
        return -1
    start = t.seam.tdmr[0].start
    end = t.seam.tdmr[t.seam.ntdmr - 1].end
    t.pins = <uint64_t *>seam_map(((end - start) >> 12) * sizeof(uint64_t))
    if t.pins == NULL:
        return -1
    t.pin_base = start >> 12
    t.npins = (end - start) >> 12
    return 0


cdef void pins_free(Tdx *t) noexcept nogil:
    seam_unmap(t.pins, t.npins * sizeof(uint64_t))
    t.pins = NULL


cdef uint64_t *pin_count(Tdx *t, uint64_t pfn) noexcept nogil:
    """How many references KVM holds to a page; NULL for designs that hold none, and outside the TDMRs."""
    if t.pins == NULL or not t.pin_base <= pfn < t.pin_base + t.npins:
        return NULL
    return &t.pins[pfn - t.pin_base]


cdef uint64_t *pin_step(Tdx *t, uint64_t pfn) noexcept nogil:
    """The word that stands for the counts of a 2M frame where the scheduler is asked; NULL as for pin_count()."""
    return pin_count(t, pfn & ~<uint64_t>511)


cdef void pin_add(Cpu *c, Tdx *t, uint64_t pfn, int level, int64_t n) noexcept nogil:
    """get_page() or put_page() of every 4K page of a leaf: one step."""
    cdef uint64_t *pins = pin_count(t, pfn)
    cdef uint64_t i
    if pins == NULL or pin_count(t, pfn + pages_per_hpage(level) - 1) == NULL:
        return
    sync_point(c, SYNC_RMW, <uint64_t>pin_step(t, pfn))
    for i in range(pages_per_hpage(level)):
        undo_word(t.seam, pins + i)
        tdp_fetch_add(pins + i, <uint64_t>n)
    tdp_fetch_add(<uint64_t *>&t.pinned, <uint64_t>n * pages_per_hpage(level))


# ---- nr_premapped -------------------------------------------------------------------------------------------------

cdef bint premapped_is_zero(Cpu *c, Tdx *t) noexcept nogil:
    sync_point(c, SYNC_LOAD, <uint64_t>&t.nr_premapped)
    return tdp_read_once(<uint64_t *>&t.nr_premapped) == 0


cdef void premapped_add(Cpu *c, Tdx *t, int64_t n) noexcept nogil:
    sync_point(c, SYNC_RMW, <uint64_t>&t.nr_premapped)
    tdp_fetch_add(<uint64_t *>&t.nr_premapped, <uint64_t>n)


cdef bint premapped_take(Cpu *c, Tdx *t, const char *fn) noexcept nogil:
    """One less, unless there is none: then the VM is bugged and it stays. False: bugged."""
    if premapped_is_zero(c, t):
        kvm_bug_on(c, &t.vm.kvm, fn, b"nothing_premapped")
        return False
    premapped_add(c, t, -1)
    return True


# ---- mapping ------------------------------------------------------------------------------------------------------

cdef int record_premap_cnt(Cpu *c, Tdx *t) noexcept nogil:
    """tdx_mem_page_record_premap_cnt(): 0, or -EINVAL with the VM bugged (and the page's reference kept)."""
    if tdx_pre_fault_allowed(c, t):
        kvm_bug_on(c, &t.vm.kvm, b"tdx_mem_page_record_premap_cnt", b"pre_fault_allowed")
        return -EINVAL
    premapped_add(c, t, 1)
    return 0


cdef int premap_set_private_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t pfn) noexcept nogil:
    """tdx_sept_set_private_spte(): pins the page, and augments the TD by it or counts it. mmu_lock in either mode. 0,
    -EBUSY, -EIO or -EINVAL, the last two with the VM bugged; the reference goes when AUG fails. Yields."""
    cdef int ret
    if level != 1 and not (tdx_huge_allowed(t) and tdx_runnable(c, t)):
        kvm_bug_on(c, &t.vm.kvm, b"tdx_sept_set_private_spte", b"level_not_4k")
        return -EINVAL
    pin_add(c, t, pfn, level, 1)
    if not tdx_runnable(c, t):
        return record_premap_cnt(c, t)
    ret = tdx_mem_page_aug(c, t, gfn, level, pfn)
    if ret:
        pin_add(c, t, pfn, level, -1)
    return ret


cdef int premap_add(Cpu *c, Tdx *t, uint64_t gfn, uint64_t pfn) noexcept nogil:
    """The second half of tdx_gmem_post_populate(), with slots_lock but without mmu_lock: PAGE.ADD of a page that was
    mapped before. 0, -EBUSY or -EIO with the mirror's leaf and the count as they were. Yields."""
    cdef uint64_t err = tdx_page_add(c, t, gfn, pfn, tdx_page_add_src(c, t))
    if err:
        return -EBUSY if tdx_operand_busy(err) else -EIO
    premapped_take(c, t, b"tdx_gmem_post_populate")
    return 0


# ---- removal ------------------------------------------------------------------------------------------------------

cdef bint zap_err_due_to_premap(Cpu *c, Tdx *t, uint64_t err, uint64_t entry, int level) noexcept nogil:
    """Whether BLOCK failed because the page was never added: before finalisation, on an entry that maps nothing."""
    if not err or tdx_runnable(c, t) or err != TDX_EPT_ENTRY_STATE_INCORRECT | OP_RCX:
        return False
    return not (is_last_spte(entry, level) and entry & RWX)


cdef int zap_private_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t pfn) noexcept nogil:
    """tdx_sept_zap_private_spte(): BLOCK. 1 blocked; 0 there was nothing and the count says so too; -EIO with the VM
    bugged. mmu_lock for write. Yields."""
    cdef const char *fn = b"tdx_sept_zap_private_spte"
    cdef SeamRegs r
    cdef uint64_t err
    if level != 1 and not (tdx_huge_allowed(t) and tdx_runnable(c, t)):
        kvm_warn(c, fn, b"level_not_4k")
    err = tdh_do_no_vcpus(c, t, TDH_MEM_RANGE_BLOCK, gfn << 12 | (level - 1), t.tdr_pa, 0, &r)
    if zap_err_due_to_premap(c, t, err, r.rcx, level) and premapped_take(c, t, fn):
        pin_add(c, t, pfn, level, -1)
        return 0
    if err:
        tdx_bug(c, t, fn, b"block_failed", TDH_MEM_RANGE_BLOCK, err)
        return -EIO
    return 1


cdef int drop_private_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t pfn) noexcept nogil:
    """tdx_sept_drop_private_spte(): REMOVE, write back, and the page's reference goes. 0, or -EIO or -EINVAL with the
    VM bugged: the page then stays pinned. mmu_lock for write. Yields."""
    cdef const char *fn = b"tdx_sept_drop_private_spte"
    cdef SeamRegs r
    cdef uint64_t err
    cdef bint accepted
    if level != 1 and not tdx_huge_allowed(t):
        kvm_bug_on(c, &t.vm.kvm, fn, b"level_not_4k")
        return -EINVAL
    accepted = private_accepted(t, gfn, level)
    err = tdh_do_no_vcpus(c, t, TDH_MEM_PAGE_REMOVE, gfn << 12 | (level - 1), t.tdr_pa, 0, &r)
    if err:
        tdx_bug(c, t, fn, b"remove_failed", TDH_MEM_PAGE_REMOVE, err)
        return -EIO
    if accepted:
        private_removed(c, t, gfn, level)
    if tdx_write_back(c, t, pfn, level, fn):
        return -EIO
    pin_add(c, t, pfn, level, -1)
    return 0


cdef int premap_remove_private_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t pfn) noexcept nogil:
    """tdx_sept_remove_private_spte(): zap, TRACK, drop. mmu_lock for write. 0, or an errno with the VM bugged.
    Yields."""
    cdef int ret
    if tdx_hkid(c, t) < 0:
        kvm_bug_on(c, &t.vm.kvm, b"tdx_sept_remove_private_spte", b"hkid_not_assigned")
        return -EINVAL
    ret = zap_private_spte(c, t, gfn, level, pfn)
    if ret <= 0:
        return ret
    tdx_track(c, t)
    return drop_private_spte(c, t, gfn, level, pfn)
