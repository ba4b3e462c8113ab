# cython: language_level=3
"""mmu.c: fast_page_fault() (7.3, the same in 6.18): a write-protected or access-tracked leaf gets its permissions
back without mmu_lock, by one cmpxchg inside an RCU read section."""

from tdpfast._names cimport EV_DIRTY, EV_FAST_PF, RET_PF_FIXED, RET_PF_INVALID, RET_PF_SPURIOUS
from tdpfast._mmu.arena cimport Sp, sptep_to_sp
from tdpfast._sync.atomic cimport tdp_read_once, tdp_unlikely
from tdpfast._spte cimport (
    PT_WRITABLE_MASK, is_access_track_spte, is_last_spte, is_mmu_writable_spte, is_shadow_present_pte,
    is_writable_pte, restore_acc_track_spte,
)
from tdpfast._sync.cpu cimport rcu_read_lock, rcu_read_unlock, sync_try_cmpxchg, trace1, trace5
from tdpfast._mmu.hardware cimport log_mark
from tdpfast._mmu.tdp_iter cimport tdp_iter_next, tdp_iter_start
from tdpfast._mmu.tdp_mmu cimport kvm_gfn_root_bits, kvm_warn, slot_dirty_log, vcpu_roots
from tdpfast._mmu.tdp_mmu_map cimport fault_allowed

cdef enum:
    FAST_PF_RETRIES = 4


cdef bint kvm_tdp_mmu_fast_pf_get_last_sptep(Cpu *c, Kvm *kvm, int kind, uint64_t gfn, TdpIter *last) noexcept nogil:
    """Leaves *last where a walk to gfn in the CPU's root of a kind ends; False without a root. Lockless, inside RCU."""
    cdef Sp *root = vcpu_roots(c, kvm)[kind]
    cdef TdpIter iter
    cdef bint found = False
    if root == NULL:
        return False
    tdp_iter_start(c, &iter, kvm.arena, root, 1, gfn, kvm_gfn_root_bits(kvm, root))
    while iter.valid and iter.gfn < gfn + 1:
        last[0] = iter
        found = True
        tdp_iter_next(c, &iter)
    return found


cdef inline bint page_fault_can_be_fast(const Kvm *kvm, const Fault *fault) noexcept nogil:
    """A write to what is present, or, without A/D bits, what access tracking made not present. Never the mirror."""
    if kvm.has_mirror and fault.is_private:
        return False
    if not fault.present:
        return not kvm.spte.kvm_ad_enabled
    return fault.write


cdef uint64_t fast_pf_new_spte(Cpu *c, const Kvm *kvm, const Fault *fault, const Sp *sp, uint64_t spte) noexcept nogil:
    """What the leaf becomes; spte itself if only the slow path can help."""
    cdef uint64_t new_spte = spte
    if not kvm.spte.kvm_ad_enabled and is_access_track_spte(&kvm.spte, spte):
        new_spte = restore_acc_track_spte(&kvm.spte, spte) | kvm.spte.shadow_accessed_mask
    if fault.write and is_mmu_writable_spte(&kvm.spte, spte):
        new_spte |= PT_WRITABLE_MASK
        # Only the first page would be marked dirty: the slow path makes small pages instead.
        if sp.level > 1 and slot_dirty_log(c, kvm, fault):
            return spte
    return new_spte if fault_allowed(kvm, fault, new_spte) else spte


cdef bint fast_pf_fix_direct_spte(Cpu *c, Kvm *kvm, const Fault *fault, TdpIter *iter,
                                  uint64_t new_spte) noexcept nogil:
    """The cmpxchg; False when it is lost. A leaf that gains W is dirty from here on. May yield."""
    cdef uint64_t old_spte = iter.old_spte
    if not sync_try_cmpxchg(c, iter.sptep, &old_spte, new_spte):
        return False
    if is_writable_pte(new_spte) and not is_writable_pte(old_spte) and slot_dirty_log(c, kvm, fault):
        if not kvm.design.fast_pf_unlogged:
            trace1(c, EV_DIRTY, fault.gfn)      # mark_page_dirty_in_slot()
            log_mark(&kvm.log, fault.gfn)
    return True


cdef int fast_pf_once(Cpu *c, Kvm *kvm, const Fault *fault, TdpIter *iter, uint64_t *new_spte) noexcept nogil:
    """One walk and one cmpxchg; a negative number when that was lost to another CPU."""
    cdef Sp *sp
    new_spte[0] = iter.old_spte = kvm.spte.frozen_spte
    if not kvm_tdp_mmu_fast_pf_get_last_sptep(c, kvm, fault.root, fault.gfn, iter):
        kvm_warn(c, b"fast_page_fault", b"no_sptep")
        return RET_PF_INVALID
    new_spte[0] = iter.old_spte
    sp = sptep_to_sp(kvm.arena, iter.sptep)
    if not is_shadow_present_pte(iter.old_spte) or not is_last_spte(iter.old_spte, sp.level):
        return RET_PF_INVALID
    # TLBs are flushed lazily, and another CPU may have been here first.
    if fault_allowed(kvm, fault, iter.old_spte):
        return RET_PF_SPURIOUS
    new_spte[0] = fast_pf_new_spte(c, kvm, fault, sp, iter.old_spte)
    if new_spte[0] == iter.old_spte:
        return RET_PF_INVALID
    return RET_PF_FIXED if fast_pf_fix_direct_spte(c, kvm, fault, iter, new_spte[0]) else -1


cdef int fast_page_fault(Cpu *c, Kvm *kvm, const Fault *fault) noexcept nogil:
    """RET_PF_FIXED, RET_PF_SPURIOUS, or RET_PF_INVALID: the slow path must see to it. No lock, RCU only. Yields.

    A lost cmpxchg is tried again up to four times, from the root.
    """
    cdef TdpIter iter
    cdef uint64_t new_spte
    cdef int tries = 0
    cdef int ret
    if not page_fault_can_be_fast(kvm, fault):
        return RET_PF_INVALID
    rcu_read_lock(c)
    while True:
        ret = fast_pf_once(c, kvm, fault, &iter, &new_spte)
        tries += 1
        if ret >= 0 or tries > FAST_PF_RETRIES:
            break
    if tdp_unlikely(ret < 0):
        ret = RET_PF_INVALID
        new_spte = tdp_read_once(iter.sptep)    # the tracepoint shows what stands there, not what was wanted
    trace5(c, EV_FAST_PF, fault.gfn, fault.error_code, iter.old_spte, new_spte, ret)
    rcu_read_unlock(c)
    return ret
