# cython: language_level=3
"""Faults against invalidations, memory attributes, a memslot that moves (see invalidate.pxd). Linux 7.3 unless a design
says otherwise.

The words below are written under mmu_lock for write and read without it, so each access is offered, but only in a
scenario that both faults and invalidates (kvm.invalidations): in all others nobody could tell.
"""

from tdpfast._names cimport (
    CHECK_PAGE, EAGAIN, EFAULT, ENOSPC, KVM_FILTER_PRIVATE, KVM_FILTER_SHARED, RET_PF_CONTINUE, RET_PF_RETRY,
    SYNC_LOAD, SYNC_STORE,
)
from tdpfast._mmu.arena cimport Sp, sp_invalid
from tdpfast._mmu.gmem cimport gmem_split_ends
from tdpfast._spte cimport is_last_spte, is_shadow_present_pte
from tdpfast._mmu.tdp_iter cimport gfn_round_for_level, pages_per_hpage
from tdpfast._mmu.tdp_mmu cimport (
    INVALID_GFN, MAX_ATTRIBUTES, MAX_FREED, ROOT_SMM, SRCU_CPUS, Slot, gfn_to_memslot, kvm_bug_on, kvm_warn, slot_has_gmem,
)
from tdpfast._mmu.tdp_mmu_roots cimport obsolete_root_of
from tdpfast._mmu.tdp_mmu_loop cimport flush_due, mmu_unlocking
from tdpfast._mmu.tdp_mmu_map cimport kvm_mem_attribute, kvm_tdp_mmu_get_walk
from tdpfast._mmu.tdp_mmu_zap cimport kvm_tdp_mmu_unmap_gfn_range, kvm_tdp_mmu_zap_leafs
from tdpfast._sync.atomic cimport tdp_load32, tdp_read_once, tdp_store32
from tdpfast._sync.cpu cimport (
    SLOW_YIELD, spin_lock, spin_unlock, sync_point, sync_wait_eq, write_lock, write_unlock,
)

cdef uint64_t NO_PFN = <uint64_t>1 << 63      # KVM_PFN_NOSLOT

cdef enum:
    FRESH_PFN = 0x1f0000     # where a hole's next pages come from: no scenario's own lie there


# ---- mmu_invalidate_* ---------------------------------------------------------------------------------------------

cdef inline void seq_point(Cpu *c, const Kvm *kvm, int kind) noexcept nogil:
    if kvm.invalidations:
        sync_point(c, kind, <uint64_t>&kvm.invalidate.seq)


cdef void kvm_mmu_invalidate_start(Cpu *c, Kvm *kvm) noexcept nogil:
    """mmu_lock for write. The range is unset until the first range is added."""
    seq_point(c, kvm, SYNC_STORE)
    if kvm.invalidate.in_progress == 0:
        kvm.invalidate.start = kvm.invalidate.end = INVALID_GFN
    kvm.invalidate.in_progress += 1


cdef void kvm_mmu_invalidate_range_add(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end) noexcept nogil:
    """The union of all ranges of the invalidations under way. mmu_lock for write."""
    if kvm.invalidate.in_progress == 0:
        kvm_warn(c, b"kvm_mmu_invalidate_range_add", b"not_in_progress")
    if kvm.design.no_inval_range:
        return
    seq_point(c, kvm, SYNC_STORE)
    if kvm.invalidate.start == INVALID_GFN:
        kvm.invalidate.start = start
        kvm.invalidate.end = end
    else:
        kvm.invalidate.start = min(kvm.invalidate.start, start)
        kvm.invalidate.end = max(kvm.invalidate.end, end)


cdef void kvm_mmu_invalidate_end(Cpu *c, Kvm *kvm) noexcept nogil:
    """Who sees that nothing is in progress sees the new sequence. mmu_lock for write."""
    seq_point(c, kvm, SYNC_STORE)
    kvm.invalidate.seq += 1
    if kvm.invalidate.in_progress == 0:
        kvm_bug_on(c, kvm, b"kvm_mmu_invalidate_end", b"not_in_progress")
        return
    kvm.invalidate.in_progress -= 1


cdef uint64_t sample_seq(Cpu *c, const Kvm *kvm) noexcept nogil:
    seq_point(c, kvm, SYNC_LOAD)
    return tdp_read_once(&kvm.invalidate.seq)


cdef bint in_progress_for(const Kvm *kvm, uint64_t gfn) noexcept nogil:
    return kvm.invalidate.in_progress != 0 and kvm.invalidate.start <= gfn < kvm.invalidate.end


cdef bint mmu_invalidate_retry_gfn_unsafe(Cpu *c, const Kvm *kvm, uint64_t seq, uint64_t gfn) noexcept nogil:
    """Spares a fault the rest of its way; may miss an invalidation. No lock."""
    seq_point(c, kvm, SYNC_LOAD)
    return in_progress_for(kvm, gfn) or (not kvm.design.no_seq and tdp_read_once(&kvm.invalidate.seq) != seq)


cdef bint __mmu_invalidate_retry_gfn(Cpu *c, Kvm *kvm, uint64_t seq, uint64_t gfn) noexcept nogil:
    """Whether the fault has to look its page up again. May say so for a gfn between two ranges; never misses one.
    mmu_lock held."""
    if kvm.invalidate.in_progress:
        if kvm.invalidate.start == INVALID_GFN:
            if not kvm.design.no_inval_range:
                kvm_warn(c, b"mmu_invalidate_retry_gfn", b"range_unset")
                return True
        elif in_progress_for(kvm, gfn):
            return True
    return not kvm.design.no_seq and kvm.invalidate.seq != seq


cdef bint is_page_fault_stale(Cpu *c, Kvm *kvm, Fault *fault) noexcept nogil:
    if kvm.ops != NULL:
        return kvm.ops.is_page_fault_stale(c, kvm, fault)
    return base_is_page_fault_stale(c, kvm, fault)


cdef inline bint base_is_page_fault_stale(Cpu *c, Kvm *kvm, const Fault *fault) noexcept nogil:
    """Whether a root went invalid between reload and mmu_lock, or an invalidation of its gfn is under way or ended since
    fault.mmu_seq: the fault is retried then. mmu_lock in either mode."""
    if obsolete_root_of(c, fault.root) and not kvm.design.no_stale_check:
        return True
    return mmu_invalidate_retry_gfn(c, kvm, fault.mmu_seq, fault.gfn)


# ---- guest_memfd ---------------------------------------------------------------------------------------------------
# What its file has for a gfn is what the fault names, until a hole is punched there: then another page. Only searches
# keep such a list; whoever calls an operation himself says what the file has.

cdef void gmem_lock(Cpu *c, Kvm *kvm) noexcept nogil:
    """The file's invalidate lock. Blocks; may yield."""
    if kvm.invalidations:
        spin_lock(c, &kvm.filemap_lock)


cdef void gmem_unlock(Cpu *c, Kvm *kvm) noexcept nogil:
    if kvm.invalidations:
        spin_unlock(c, &kvm.filemap_lock)


cdef void kvm_gmem_invalidate_begin(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end) noexcept nogil:
    """From here on faults in [start, end) retry. Takes mmu_lock; leaves the file locked."""
    gmem_lock(c, kvm)
    write_lock(c, &kvm.mmu_lock)
    kvm_mmu_invalidate_start(c, kvm)
    kvm_mmu_invalidate_range_add(c, kvm, start, end)
    write_unlock(c, &kvm.mmu_lock)


cdef void kvm_gmem_invalidate_end(Cpu *c, Kvm *kvm) noexcept nogil:
    """Takes mmu_lock; unlocks the file."""
    write_lock(c, &kvm.mmu_lock)
    kvm_mmu_invalidate_end(c, kvm)
    write_unlock(c, &kvm.mmu_lock)
    gmem_unlock(c, kvm)


cdef void file_point(Cpu *c, const Kvm *kvm, int kind) noexcept nogil:
    if kvm.invalidations:
        sync_point(c, kind, <uint64_t>&kvm.nfreed)


cdef void gmem_forget(Cpu *c, Kvm *kvm, uint64_t gfn, uint64_t pfn) noexcept nogil:
    """The page of gfn has left the file."""
    if not c.slow & SLOW_YIELD or kvm.nfreed == MAX_FREED:
        return
    file_point(c, kvm, SYNC_STORE)
    kvm.freed[kvm.nfreed].gfn = gfn
    kvm.freed[kvm.nfreed].pfn = pfn
    kvm.nfreed += 1


cdef bint gmem_freed(const Kvm *kvm, uint64_t gfn, uint64_t pfn) noexcept nogil:
    cdef uint32_t i
    for i in range(kvm.nfreed):
        if kvm.freed[i].gfn == gfn and kvm.freed[i].pfn == pfn:
            return True
    return False


cdef bint frame_has_hole(const Kvm *kvm, uint64_t gfn) noexcept nogil:
    """Whether a page of the 2M around gfn was freed: its folio is no huge one any more."""
    cdef uint32_t i
    for i in range(kvm.nfreed):
        if kvm.freed[i].gfn >> 9 == gfn >> 9:
            return True
    return False


cdef uint64_t kvm_gmem_get_pfn(Cpu *c, Kvm *kvm, uint64_t gfn, uint64_t pfn) noexcept nogil:
    """The page the file has for gfn: pfn, or a new one where that was freed. No lock in 7.3."""
    cdef uint32_t i, n = 0
    file_point(c, kvm, SYNC_LOAD)
    if kvm.nfreed == 0 or not gmem_freed(kvm, gfn, pfn):
        return pfn
    for i in range(kvm.nfreed):
        n += kvm.freed[i].gfn == gfn
    return FRESH_PFN + ((gfn & 0x3ff) << 5 | (n & 31))


# ---- the fault -----------------------------------------------------------------------------------------------------

cdef bint slot_invalid(Cpu *c, const Kvm *kvm, const Slot *slot) noexcept nogil:
    if slot == NULL:
        return False
    if kvm.slot_moves:
        sync_point(c, SYNC_LOAD, <uint64_t>&slot.invalid)
    return tdp_load32(&slot.invalid) != 0


cdef const Slot *slot_of(const Kvm *kvm, const Fault *fault) noexcept nogil:
    return gfn_to_memslot(kvm, fault.root == ROOT_SMM, fault.gfn)


cdef bint slot_retired(Cpu *c, Kvm *kvm, const Fault *fault) noexcept nogil:
    """Whether local retries of a fault end because its slot is going away. 6.16 does not look: who moves the slot waits
    for the vCPU to leave its read section, and the vCPU for the slot."""
    return not kvm.design.slot_blind and slot_invalid(c, kvm, slot_of(kvm, fault))


cdef int look_up(Cpu *c, Kvm *kvm, Fault *fault, uint64_t seq) noexcept nogil:
    """What the gfn is, whether its slot stays, and which page it has. RET_PF_CONTINUE, RET_PF_RETRY or an errno."""
    cdef const Slot *slot = slot_of(kvm, fault)
    cdef int attribute
    if kvm.invalidations:
        sync_point(c, SYNC_LOAD, <uint64_t>&kvm.nattributes)
    attribute = kvm_mem_attribute(kvm, fault.gfn, tdp_load32(&kvm.nattributes))
    if attribute >= 0 and attribute != fault.is_private:
        return -EFAULT
    if fault.is_private and kvm.has_mirror and not slot_has_gmem(slot):
        return -EFAULT
    if slot == NULL:
        fault.noslot = True          # MMIO
        fault.pfn = NO_PFN
        return RET_PF_CONTINUE
    if slot_invalid(c, kvm, slot):
        return -EAGAIN if fault.prefetch and not kvm.design.slot_blind else RET_PF_RETRY
    if not kvm.design.seq_after_lookup and mmu_invalidate_retry_gfn_unsafe(c, kvm, seq, fault.gfn):
        return RET_PF_RETRY
    fault.pfn = kvm_gmem_get_pfn(c, kvm, fault.gfn, fault.pfn)
    if frame_has_hole(kvm, fault.gfn):
        fault.max_level = 1
    return RET_PF_CONTINUE


cdef int kvm_mmu_faultin_pfn(Cpu *c, Kvm *kvm, Fault *fault) noexcept nogil:
    """What comes before mmu_lock: samples the sequence, then looks the page up. RET_PF_CONTINUE with fault.pfn and
    fault.mmu_seq set; RET_PF_RETRY; -EAGAIN for a prefetch in a slot that is going away; -EFAULT when the gfn is not
    what the fault takes it for. May yield."""
    cdef int ret
    if fault.noslot:
        fault.mmu_seq = kvm.invalidate.seq
        return RET_PF_CONTINUE
    if not kvm.design.seq_after_lookup:
        fault.mmu_seq = sample_seq(c, kvm)
    if kvm.design.inplace:
        gmem_lock(c, kvm)
    ret = look_up(c, kvm, fault, fault.mmu_seq)
    if kvm.design.inplace:
        gmem_unlock(c, kvm)
    if ret != RET_PF_CONTINUE:
        return ret
    if kvm.design.seq_after_lookup:
        fault.mmu_seq = sample_seq(c, kvm)
    return RET_PF_RETRY if mmu_invalidate_retry_gfn_unsafe(c, kvm, fault.mmu_seq, fault.gfn) else RET_PF_CONTINUE


cdef void fault_mapped(Cpu *c, Kvm *kvm, const Fault *fault, uint64_t pfn) noexcept nogil:
    """A leaf was installed: pfn, as it was looked up, must still be the page of its gfn, and every gfn under the leaf
    of the kind it is mapped as. Else `page`. mmu_lock held."""
    cdef uint64_t gfn
    if kvm.nfreed and gmem_freed(kvm, fault.gfn, pfn):
        c.found.checks |= CHECK_PAGE
    if kvm.nattributes == 0:
        return
    for gfn in range(gfn_round_for_level(fault.gfn, fault.goal_level),
                     gfn_round_for_level(fault.gfn, fault.goal_level) + pages_per_hpage(fault.goal_level)):
        if kvm_mem_attribute(kvm, gfn, kvm.nattributes) == (not fault.is_private):
            c.found.checks |= CHECK_PAGE
            return


# ---- memory attributes --------------------------------------------------------------------------------------------

cdef void add_widened(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end) noexcept nogil:
    """The range of a conversion, with the huge pages that it cuts into at its ends: a fault beside it could still map
    one whole."""
    if not kvm.design.attr_narrow:
        start = gfn_round_for_level(start, 2)
        end = gfn_round_for_level(end + 511, 2)
    kvm_mmu_invalidate_range_add(c, kvm, start, end)


cdef int invalidate_attributes(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end, bint to_private) noexcept nogil:
    """The first half: from here on faults retry, and nothing of the other kind is mapped. 0, or -ENOMEM and nothing
    zapped. Takes mmu_lock. Yields."""
    cdef int ret = 0
    write_lock(c, &kvm.mmu_lock)
    kvm_mmu_invalidate_start(c, kvm)
    add_widened(c, kvm, start, end)
    if not to_private:
        ret = gmem_split_ends(c, kvm, start, end)
    if ret == 0:
        flush_due(c, kvm, kvm_tdp_mmu_unmap_gfn_range(
            c, kvm, start, end, KVM_FILTER_SHARED if to_private else KVM_FILTER_PRIVATE, True, False))
    mmu_unlocking(c, kvm)
    write_unlock(c, &kvm.mmu_lock)
    return ret


cdef bint maps_as(Cpu *c, Kvm *kvm, uint64_t gfn, bint mirror) noexcept nogil:
    """Whether a valid root of that kind has a leaf over gfn. mmu_lock held."""
    cdef Sp *root = kvm.tdp_mmu_roots
    cdef uint64_t sptes[6]
    cdef int level
    while root != NULL:
        if root.is_mirror == mirror and not sp_invalid(root):
            level = kvm_tdp_mmu_get_walk(c, kvm, root, gfn, sptes)
            if level >= 1 and is_shadow_present_pte(sptes[level]) and is_last_spte(sptes[level], level):
                return True
        root = root.next
    return False


cdef void end_attributes(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end, bint to_private) noexcept nogil:
    """The second half: faults go on, and lpage_info learns what is mixed. What is mapped as the other kind all the same
    (at the ends, where a huge page may reach in) violates `page`. Takes mmu_lock. Yields."""
    write_lock(c, &kvm.mmu_lock)
    if start < end and (maps_as(c, kvm, start, not to_private) or maps_as(c, kvm, end - 1, not to_private)):
        c.found.checks |= CHECK_PAGE
    kvm_mmu_invalidate_end(c, kvm)
    kvm.nposted = kvm.nattributes
    write_unlock(c, &kvm.mmu_lock)


cdef int kvm_set_mem_attributes(Cpu *c, Kvm *kvm, uint64_t start, uint64_t end, bint to_private,
                                bint pinned) noexcept nogil:
    """[start, end) becomes private or shared: by kvm_vm_set_mem_attributes(), slots_lock held, or in place in
    guest_memfd (kvm.design.inplace), its file locked. 0; -ENOSPC; -ENOMEM; in place also -EAGAIN when somebody holds a
    reference to a folio that is to become private (pinned), and then nothing is done. Yields."""
    cdef int ret
    if kvm.nattributes == MAX_ATTRIBUTES:
        return -ENOSPC
    if kvm.design.inplace:
        gmem_lock(c, kvm)
        if to_private and pinned:
            gmem_unlock(c, kvm)
            return -EAGAIN
    ret = invalidate_attributes(c, kvm, start, end, to_private)
    if ret == 0:
        # No mmu_lock: who read the old value finds another sequence, or the invalidation still under way.
        if kvm.invalidations:
            sync_point(c, SYNC_STORE, <uint64_t>&kvm.nattributes)
        kvm.attributes[kvm.nattributes].start = start
        kvm.attributes[kvm.nattributes].end = end
        kvm.attributes[kvm.nattributes].is_private = to_private
        tdp_store32(&kvm.nattributes, kvm.nattributes + 1)
    end_attributes(c, kvm, start, end if ret == 0 else start, to_private)
    if kvm.design.inplace:
        gmem_unlock(c, kvm)
    return ret


# ---- a memslot that moves -----------------------------------------------------------------------------------------

cdef void srcu_enter(Cpu *c, Kvm *kvm) noexcept nogil:
    """kvm->srcu, held by a vCPU from exit to entry. Only scenarios that wait for readers count them."""
    if kvm.slot_moves:
        sync_point(c, SYNC_STORE, <uint64_t>&kvm.srcu[c.id & (SRCU_CPUS - 1)])
        tdp_store32(&kvm.srcu[c.id & (SRCU_CPUS - 1)], 1)


cdef void srcu_exit(Cpu *c, Kvm *kvm) noexcept nogil:
    if kvm.slot_moves:
        sync_point(c, SYNC_STORE, <uint64_t>&kvm.srcu[c.id & (SRCU_CPUS - 1)])
        tdp_store32(&kvm.srcu[c.id & (SRCU_CPUS - 1)], 0)


cdef void set_slot_invalid(Cpu *c, Kvm *kvm, Slot *slot, bint invalid) noexcept nogil:
    if kvm.slot_moves:
        sync_point(c, SYNC_STORE, <uint64_t>&slot.invalid)
    tdp_store32(&slot.invalid, invalid)
    tdp_store32(&kvm.slots_invalid, kvm.slots_invalid + 1 if invalid else kvm.slots_invalid - 1)


cdef void kvm_move_memslot(Cpu *c, Kvm *kvm, Slot *slot, uint64_t start, uint64_t end) noexcept nogil:
    """kvm_set_memslot() with KVM_MR_MOVE, of a slot's [start, end): the slot is INVALID while readers of the old one are waited
    for and its leaves are zapped, private ones too. slots_lock held. Yields."""
    cdef int i
    set_slot_invalid(c, kvm, slot, True)
    if kvm.slot_moves:
        for i in range(SRCU_CPUS):
            if kvm.srcu_used >> i & 1 and i != c.id & (SRCU_CPUS - 1):
                sync_wait_eq(c, &kvm.srcu[i], 0)
    write_lock(c, &kvm.mmu_lock)
    flush_due(c, kvm, kvm_tdp_mmu_zap_leafs(c, kvm, start, end, False))
    mmu_unlocking(c, kvm)
    write_unlock(c, &kvm.mmu_lock)
    set_slot_invalid(c, kvm, slot, False)
