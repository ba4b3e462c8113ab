# cython: language_level=3
"""tdp_mmu.c: the fault path, lockless walks, and splitting one huge page."""

from libc.stdint cimport uint32_t
from libc.string cimport memset

from tdpfast._names cimport (
    CHECK_FIXED, EV_DIRTY, EV_SPLIT, RET_PF_EMULATE, RET_PF_FIXED, RET_PF_RETRY, RET_PF_SPURIOUS, RET_PF_WRITE_PROTECTED,
    SYNC_LOAD,
)
from tdpfast._mmu.arena cimport SPTE_ENTRIES, sp_invalid, sptep_to_sp
from tdpfast._sync.atomic cimport (
    tdp_fetch_add, tdp_likely, tdp_load32, tdp_read_once, tdp_read_once8, tdp_store32, tdp_unlikely,
)
from tdpfast._spte cimport (
    MakeSpteIn, MakeSpteOut, is_frozen_spte, is_large_pte, is_last_spte, is_mmio_spte,
    is_shadow_present_pte, leaf_spte_change_needs_tlb_flush, make_mmio_spte, make_plain_spte,
    make_small_spte, make_spte, spte_to_pfn,
)
from tdpfast._mmu.hardware cimport log_mark
from tdpfast._sync.cpu cimport (
    SLOW_YIELD, rcu_read_lock, rcu_read_unlock, spin_lock, spin_unlock, sync_rare, trace1, trace5,
)
from tdpfast._mmu.tdp_iter cimport (
    gfn_round_for_level, pages_per_hpage, tdp_iter_descend, tdp_iter_next, tdp_iter_start,
)
from tdpfast._mmu.tdp_mmu cimport (
    MAX_INHIBIT, ROOT_SMM, Slot, gfn_to_memslot, kvm_bug_on, kvm_gfn_root_bits, kvm_spte_warn, kvm_update_page_stats, kvm_warn, slot_dirty_log,
    spte_to_child_sp, tdp_mmu_set_spte_atomic, tdp_mmu_iter_set_spte, vcpu_roots,
)
from tdpfast._mmu.tdp_mmu_sp cimport (
    tdp_mmu_alloc_sp, tdp_mmu_free_unused_sp, tdp_mmu_init_child_sp, tdp_mmu_link_sp,
    track_possible_nx_huge_page,
)
from tdpfast._mmu.tdp_mmu_loop cimport kvm_flush_remote_tlbs_range


cdef int max_mapping_level_in(uint64_t gfn, uint64_t base, uint64_t npages, int max_level) noexcept nogil:
    """The largest level up to max_level at which the page around gfn lies inside [base, base + npages)."""
    cdef uint64_t first
    while max_level > 1:
        first = gfn_round_for_level(gfn, max_level)
        if first >= base and first + pages_per_hpage(max_level) <= base + npages:
            break
        max_level -= 1
    return max_level


cdef bint gfn_tracked(const Kvm *kvm, uint64_t gfn) noexcept nogil:
    cdef uint32_t i
    for i in range(kvm.ntracked):
        if kvm.tracked[i] == gfn:
            return True
    return False


cdef void track_arm(Kvm *kvm, uint64_t gfn) noexcept nogil:
    """A tracked gfn was write-protected: from now on no 4K leaf of it may be writable. mmu_lock for write."""
    cdef uint32_t i
    for i in range(kvm.ntracked):
        if kvm.tracked[i] == gfn:
            kvm.track_armed[i] = 1


cdef void track_disarm(Kvm *kvm, uint64_t gfn, uint64_t npages) noexcept nogil:
    """The scenario itself made it writable: KVM never maps a huge page there (kvm_mmu_gfn_disallow_lpage())."""
    cdef uint32_t i
    for i in range(kvm.ntracked):
        if gfn <= kvm.tracked[i] < gfn + npages:
            kvm.track_armed[i] = 0


cdef bint hugepage_test_guest_inhibit(const Kvm *kvm, uint64_t gfn, int level) noexcept nogil:
    """Whether the guest asked for pages below level around gfn. Bits only ever get set, under mmu_lock for write."""
    cdef uint32_t i
    if level < 2:
        return False
    if tdp_load32(&kvm.lpage.inhibit_all):
        return True
    for i in range(tdp_load32(&kvm.lpage.ninhibit)):
        if kvm.lpage.inhibit[i] >> (9 * (level - 2)) == gfn >> (9 * (level - 1)):
            return True
    return False


cdef void hugepage_set_guest_inhibit(Kvm *kvm, uint64_t gfn) noexcept nogil:
    """From now on nothing above 4K is mapped around gfn. mmu_lock for write."""
    cdef uint32_t n = kvm.lpage.ninhibit
    if hugepage_test_guest_inhibit(kvm, gfn, 2):
        return
    if n == MAX_INHIBIT:
        tdp_store32(&kvm.lpage.inhibit_all, 1)
        return
    kvm.lpage.inhibit[n] = gfn >> 9
    tdp_store32(&kvm.lpage.ninhibit, n + 1)


cdef int kvm_mem_attribute(const Kvm *kvm, uint64_t gfn, uint32_t n) noexcept nogil:
    """kvm_mem_is_private() by the first n stores: 1 or 0; -1 where none was made, and a fault is of the kind it says."""
    while n > 0:
        n -= 1
        if kvm.attributes[n].start <= gfn < kvm.attributes[n].end:
            return kvm.attributes[n].is_private
    return -1


cdef bint hugepage_mixed(const Kvm *kvm, uint64_t gfn, int level) noexcept nogil:
    """lpage_info's flag of the huge page around gfn: its gfns differ in what they are. Written at the end of a
    conversion, under mmu_lock for write; what no conversion named counts as private."""
    cdef uint64_t first = gfn_round_for_level(gfn, level)
    cdef uint64_t g
    cdef bint private_first
    if kvm.nposted == 0 or level == 1:
        return False
    private_first = kvm_mem_attribute(kvm, first, kvm.nposted) != 0
    for g in range(first + 1, first + pages_per_hpage(level)):
        if (kvm_mem_attribute(kvm, g, kvm.nposted) != 0) != private_first:
            return True
    return False


cdef void kvm_mmu_hugepage_adjust(Cpu *c, Kvm *kvm, Fault *fault) noexcept nogil:
    """Raises the goal level as far as slot, TDX side, dirty logging and the NX mitigation allow."""
    cdef const Slot *slot
    cdef uint64_t mask
    if fault.is_private and kvm.hooks.gmem_max_mapping_level != NULL:
        fault.max_level = kvm.hooks.gmem_max_mapping_level(c, kvm, fault.gfn, fault.max_level)
    fault.huge_page_disallowed = fault.exec_ and fault.nx_huge_page_workaround_enabled
    fault.goal_level = fault.req_level = 1
    if fault.max_level == 1 or fault.noslot or slot_dirty_log(c, kvm, fault):
        return
    slot = gfn_to_memslot(kvm, fault.root == ROOT_SMM, fault.gfn)
    if slot == NULL:
        return
    fault.req_level = max_mapping_level_in(fault.gfn, slot.base_gfn, slot.npages, fault.max_level)
    while (hugepage_test_guest_inhibit(kvm, fault.gfn, fault.req_level)
           or hugepage_mixed(kvm, fault.gfn, fault.req_level)):
        fault.req_level -= 1
    if fault.req_level == 1 or fault.huge_page_disallowed:
        return
    fault.goal_level = fault.req_level
    mask = pages_per_hpage(fault.goal_level) - 1
    fault.pfn &= ~mask


cdef void disallowed_hugepage_adjust(Kvm *kvm, Fault *fault, uint64_t spte, int level, bint mirror) noexcept nogil:
    """Goes one level further down where a table exists on purpose, and puts the gfn's bits back into the pfn."""
    cdef Sp *child
    if level == 1 or level != fault.goal_level or not is_shadow_present_pte(spte) or is_large_pte(spte):
        return
    child = spte_to_child_sp(kvm, spte)
    if child == NULL or not (tdp_read_once8(&child.nx_huge_page_disallowed) or mirror):
        return
    fault.pfn |= fault.gfn & (pages_per_hpage(level) - pages_per_hpage(level - 1))
    fault.goal_level -= 1


cdef bint make_fault_spte(Cpu *c, Kvm *kvm, const Fault *fault, const Sp *sp, const TdpIter *iter,
                          uint64_t *new_spte) noexcept nogil:
    """make_spte() or make_mmio_spte() for this fault; whether the page had to stay write-protected."""
    cdef MakeSpteIn inp
    cdef MakeSpteOut out
    cdef bint dirty_log
    if fault.noslot:
        sync_rare(c, SYNC_LOAD, <uint64_t>&kvm.mmio_generation)
        new_spte[0] = make_mmio_spte(&kvm.spte, kvm.shadow_mmio_value, iter.gfn, kvm.spte.acc_all,
                                     kvm.mmio_generation)
        return False
    dirty_log = slot_dirty_log(c, kvm, fault)
    if tdp_likely(not (fault.prefetch or kvm.nx_huge_pages or kvm.ntracked or dirty_log or sp.ad_disabled or kvm.pml)
                  and fault.map_writable and 1 <= sp.level <= 3):
        new_spte[0] = make_plain_spte(&kvm.spte, sp.level, kvm.ipat != 0, fault.pfn)
        if tdp_likely(new_spte[0] != 0):
            return False
    memset(&inp, 0, sizeof(inp))
    inp.level = sp.level
    inp.access = kvm.spte.acc_all
    inp.gfn = iter.gfn
    inp.pfn = fault.pfn
    inp.old_spte = iter.old_spte
    inp.prefetch = fault.prefetch
    inp.host_writable = fault.map_writable
    inp.nx_huge_pages = kvm.nx_huge_pages
    inp.tracked = gfn_tracked(kvm, iter.gfn) and not kvm.design.track_ignored
    inp.dirty_log = dirty_log
    inp.ad_disabled = sp.ad_disabled
    inp.pml = kvm.pml
    inp.guest_mode = sp.guest_mode
    inp.ipat = kvm.ipat
    make_spte(&kvm.spte, &inp, &out)
    if out.warn:
        kvm_spte_warn(c, out.warn)
    if kvm.ntracked and sp.level > 1:
        track_disarm(kvm, iter.gfn, pages_per_hpage(sp.level))
    if out.dirty:
        trace1(c, EV_DIRTY, iter.gfn)
        log_mark(&kvm.log, iter.gfn)
    new_spte[0] = out.spte
    return out.wrprot != 0


cdef inline int set_spte(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil:
    """As mmu_lock is held: for read, as every fault does; for write, as nothing in today's KVM does, it cannot fail."""
    if tdp_unlikely(c.held.mmu_write != 0):
        tdp_mmu_iter_set_spte(c, kvm, iter, new_spte)
        return 0
    return tdp_mmu_set_spte_atomic(c, kvm, iter, new_spte)


cdef int tdp_mmu_map_handle_target_level(Cpu *c, Kvm *kvm, Fault *fault, TdpIter *iter) noexcept nogil:
    if tdp_unlikely(kvm.ops != NULL):
        return kvm.ops.tdp_mmu_map_handle_target_level(c, kvm, fault, iter)
    return base_tdp_mmu_map_handle_target_level(c, kvm, fault, iter)


cdef inline int base_tdp_mmu_map_handle_target_level(Cpu *c, Kvm *kvm, Fault *fault, TdpIter *iter) noexcept nogil:
    """Installs the leaf. RET_PF_*; any failure to set the SPTE, of whatever kind, is RET_PF_RETRY."""
    cdef Sp *sp = sptep_to_sp(kvm.arena, iter.sptep)
    cdef const char *fn = b"tdp_mmu_map_handle_target_level"
    cdef uint64_t new_spte
    cdef bint wrprot
    cdef int ret = RET_PF_FIXED
    if sp.level != fault.goal_level:
        kvm_warn(c, fn, b"wrong_level")
        return RET_PF_RETRY
    if (is_shadow_present_pte(iter.old_spte) and is_last_spte(iter.old_spte, iter.level)
            and (fault.prefetch or fault_allowed(kvm, fault, iter.old_spte))):
        if fault.pfn != spte_to_pfn(iter.old_spte):
            kvm_warn(c, fn, b"spurious_fault_pfn_mismatch")
        return RET_PF_SPURIOUS
    wrprot = make_fault_spte(c, kvm, fault, sp, iter, &new_spte)
    if new_spte == iter.old_spte:
        ret = RET_PF_SPURIOUS
    elif set_spte(c, kvm, iter, new_spte):
        return RET_PF_FIXED if kvm.design.fixed_on_error else RET_PF_RETRY
    elif is_shadow_present_pte(iter.old_spte):
        if not is_last_spte(iter.old_spte, iter.level):
            kvm_flush_remote_tlbs_range(c, kvm, gfn_round_for_level(iter.gfn, iter.level),
                                        1 if kvm.design.flush_wrong_range else pages_per_hpage(iter.level))
        elif leaf_spte_change_needs_tlb_flush(&kvm.spte, iter.old_spte, new_spte):
            kvm_warn(c, fn, b"leaf_change_needs_flush")
            kvm_flush_remote_tlbs_range(c, kvm, gfn_round_for_level(iter.gfn, iter.level),
                                        pages_per_hpage(iter.level))
    if wrprot and fault.write:
        ret = RET_PF_WRITE_PROTECTED
    if is_mmio_spte(&kvm.spte, kvm.shadow_mmio_value, new_spte):
        tdp_fetch_add(&kvm.mmio_created, 1)
        ret = RET_PF_EMULATE
    return ret


cdef int tdp_mmu_split_huge_page(Cpu *c, Kvm *kvm, TdpIter *iter, Sp *sp, bint shared) noexcept nogil:
    if tdp_unlikely(kvm.ops != NULL):
        return kvm.ops.tdp_mmu_split_huge_page(c, kvm, iter, sp, shared)
    return base_tdp_mmu_split_huge_page(c, kvm, iter, sp, shared)


cdef int base_tdp_mmu_split_huge_page(Cpu *c, Kvm *kvm, TdpIter *iter, Sp *sp, bint shared) noexcept nogil:
    """Replaces a huge leaf by sp, filled with 512 small leaves. Under the write lock it reports success even
    when the external table refused (the VM is bugged then)."""
    cdef uint64_t huge_spte = iter.old_spte
    cdef uint32_t warn = 0
    cdef int i, ret
    for i in range(SPTE_ENTRIES):
        sp.spt[i] = make_small_spte(&kvm.spte, huge_spte, sp.level, sp.access, i, kvm.nx_huge_pages, &warn)
    if warn:
        kvm_spte_warn(c, warn)
    ret = tdp_mmu_link_sp(c, kvm, iter, sp, shared)
    if ret == 0:
        # The link counted the huge page's end; the small ones are counted here.
        kvm_update_page_stats(c, kvm, sp.level, SPTE_ENTRIES)
    trace5(c, EV_SPLIT, iter.gfn, sp.level + 1, huge_spte, <uint64_t>ret, 0)
    return ret


cdef int link_or_split(Cpu *c, Kvm *kvm, Fault *fault, TdpIter *iter) noexcept nogil:
    """One step down for the fault path: a new table below iter. 0 or an errno (the table is freed again)."""
    cdef bint mirror = sptep_to_sp(kvm.arena, iter.sptep).is_mirror
    cdef Sp *sp = tdp_mmu_alloc_sp(c, kvm, mirror)
    cdef int ret
    if sp == NULL:
        return -12
    tdp_mmu_init_child_sp(c, kvm, sp, iter)
    sp.nx_huge_page_disallowed = fault.huge_page_disallowed
    if is_shadow_present_pte(iter.old_spte):
        if mirror and kvm.design.bug_mirror_split:
            kvm_bug_on(c, kvm, b"kvm_tdp_mmu_map", b"mirror_huge_page_split")
        ret = tdp_mmu_split_huge_page(c, kvm, iter, sp, not c.held.mmu_write)
    else:
        ret = tdp_mmu_link_sp(c, kvm, iter, sp, not c.held.mmu_write)
    if ret:
        if not kvm.design.table_leaked:
            tdp_mmu_free_unused_sp(c, kvm, sp)
        return ret
    if fault.huge_page_disallowed and fault.req_level >= iter.level:
        spin_lock(c, &kvm.tdp_mmu_pages_lock)
        if sp.nx_huge_page_disallowed:
            track_possible_nx_huge_page(kvm, sp)
        spin_unlock(c, &kvm.tdp_mmu_pages_lock)
    return 0


cdef int kvm_tdp_mmu_map(Cpu *c, Kvm *kvm, Fault *fault) noexcept nogil:
    """One attempt to map fault->gfn, making tables on the way. mmu_lock for read. Yields.

    RET_PF_RETRY when an SPTE was frozen, changed under us, or the external table refused: tables linked so far
    stay. The caller has looked for an obsolete root: one that is invalid all the same is warned of and mapped into.
    """
    cdef bint mirror = kvm.has_mirror and fault.is_private
    cdef Sp *root = vcpu_roots(c, kvm)[fault.root]
    cdef TdpIter iter
    cdef bint was_present
    cdef int ret = RET_PF_RETRY
    if root == NULL or sp_invalid(root):
        kvm_warn(c, b"kvm_tdp_mmu_map", b"no_valid_root")
    kvm_mmu_hugepage_adjust(c, kvm, fault)
    rcu_read_lock(c)
    tdp_iter_start(c, &iter, kvm.arena, root, 1, fault.gfn, kvm_gfn_root_bits(kvm, root) if root != NULL else 0)
    if not (fault.nx_huge_page_workaround_enabled or (mirror and kvm.design.promo_block)):
        tdp_iter_descend(c, &iter, fault.goal_level, NULL)
    while iter.valid and iter.gfn < fault.gfn + 1:
        if fault.nx_huge_page_workaround_enabled or (mirror and kvm.design.promo_block):
            disallowed_hugepage_adjust(kvm, fault, iter.old_spte, iter.level, mirror and kvm.design.promo_block)
        if is_frozen_spte(&kvm.spte, iter.old_spte):
            break
        if iter.level == fault.goal_level:
            was_present = is_shadow_present_pte(iter.old_spte)
            ret = tdp_mmu_map_handle_target_level(c, kvm, fault, &iter)
            # Nobody else made a step since the SPTE was set, where nothing had to be taken apart after it.
            if (tdp_unlikely(c.slow & SLOW_YIELD != 0) and ret == RET_PF_FIXED and not was_present
                    and not is_shadow_present_pte(tdp_read_once(iter.sptep))):
                c.found.checks |= CHECK_FIXED
            break
        if not is_shadow_present_pte(iter.old_spte) or is_large_pte(iter.old_spte):
            if link_or_split(c, kvm, fault, &iter):
                break
        tdp_iter_next(c, &iter)
    else:
        # The walk ended above the goal, because an upper SPTE froze meanwhile.
        if iter.valid and iter.level == fault.goal_level:
            kvm_warn(c, b"kvm_tdp_mmu_map", b"goal_level_passed")
    rcu_read_unlock(c)
    return ret


cdef int kvm_tdp_mmu_get_walk(Cpu *c, Kvm *kvm, Sp *root, uint64_t gfn, uint64_t *sptes) noexcept nogil:
    """Reads the SPTEs on the way to gfn into sptes[level]; the lowest level read, or -1. Lockless, inside RCU."""
    cdef TdpIter iter
    cdef int leaf = -1
    rcu_read_lock(c)
    tdp_iter_start(c, &iter, kvm.arena, root, 1, gfn, kvm_gfn_root_bits(kvm, root))
    if tdp_iter_descend(c, &iter, 1, sptes):
        leaf = iter.level
        sptes[leaf] = iter.old_spte
    else:
        while iter.valid and iter.gfn < gfn + 1:
            leaf = iter.level
            sptes[leaf] = iter.old_spte
            tdp_iter_next(c, &iter)
    rcu_read_unlock(c)
    return leaf
