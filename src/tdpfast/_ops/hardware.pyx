# cython: language_level=3
"""A guest's access to memory of a direct root, as hardware makes it: by what the processor keeps, else by a walk that
sets A and D."""

from libc.stdint cimport uint64_t

from tdpfast._names cimport CHECK_DIRTY, EV_DIRTY, OP_ACCESS, SYNC_LOAD, SYNC_RMW
from tdpfast._mmu.arena cimport Sp, sp_invalid, sptep_to_sp
from tdpfast._mmu.fast_pf cimport kvm_tdp_mmu_fast_pf_get_last_sptep
from tdpfast._mmu.hardware cimport TlbEntry, log_mark, log_promised, tlb_find, tlb_insert
from tdpfast._mmu.tdp_iter cimport TdpIter, gfn_round_for_level, pages_per_hpage
from tdpfast._mmu.tdp_mmu cimport (
    Kvm, ROOT_DIRECT, ROOT_GUEST_MODE, ROOT_MIRROR, ROOT_SMM, Slot, gfn_to_memslot, vcpu_roots,
)
from tdpfast._mmu.tdp_mmu_roots cimport vcpu_reload
from tdpfast._ops.ops cimport Op, op_row
from tdpfast._spte cimport PT_WRITABLE_MASK, is_last_spte, is_shadow_present_pte, spte_to_pfn
from tdpfast._sync.atomic cimport tdp_read_once, tdp_try_cmpxchg
from tdpfast._sync.cpu cimport rcu_read_lock, rcu_read_unlock, sync_point, trace1

cdef enum:
    SPTE_READABLE = 1        # of EPT; present, of NPT


cdef void written(Cpu *c, Kvm *kvm, int kind, uint64_t gfn) noexcept nogil:
    """The page was written; if its slot logs, the log must know already, or have promised nothing. Else `dirty`."""
    cdef const Slot *slot
    if kvm.log.n == 0 or kind == ROOT_SMM or not log_promised(&kvm.log, gfn):
        return
    slot = gfn_to_memslot(kvm, 0, gfn)
    if slot != NULL and slot.dirty_log:
        c.found.checks |= CHECK_DIRTY


cdef uint64_t with_bits(const Kvm *kvm, const Sp *sp, uint64_t spte, bint write) noexcept nogil:
    """The SPTE with what the access sets."""
    if not kvm.spte.kvm_ad_enabled or sp.ad_disabled:
        return spte
    return spte | kvm.spte.shadow_accessed_mask | (kvm.spte.shadow_dirty_mask if write else 0)


cdef bint translate(Cpu *c, Kvm *kvm, int kind, uint64_t gfn, bint write, OpResult *res) noexcept nogil:
    """One walk; False: the leaf changed under it, go again. res.ret: the leaf's level, or 0, an EPT violation. Inside
    RCU, which stands for what protects a walk: who frees tables waits for the vCPU to leave the guest first. Yields."""
    cdef Sp *root = vcpu_roots(c, kvm)[kind]
    cdef TdpIter iter
    cdef uint64_t spte, new_spte
    cdef const Sp *sp
    res.ret = 0
    if not kvm_tdp_mmu_fast_pf_get_last_sptep(c, kvm, kind, gfn, &iter):
        return True
    if kvm.log.n and write:
        sync_point(c, SYNC_LOAD, <uint64_t>&kvm.log.n)
    sync_point(c, SYNC_RMW, <uint64_t>iter.sptep)
    spte = tdp_read_once(iter.sptep)
    sp = sptep_to_sp(kvm.arena, iter.sptep)
    if not is_shadow_present_pte(spte) or not spte & SPTE_READABLE:
        return True
    if not is_last_spte(spte, iter.level):
        return False
    if write and not spte & PT_WRITABLE_MASK:
        return True
    new_spte = with_bits(kvm, sp, spte, write)
    if new_spte != spte and not tdp_try_cmpxchg(iter.sptep, &spte, new_spte):
        return False
    if write:
        if new_spte & ~spte & kvm.spte.shadow_dirty_mask and kvm.pml and not sp.guest_mode:
            trace1(c, EV_DIRTY, gfn)        # the guest's page-modification log, which KVM empties at each exit
            log_mark(&kvm.log, gfn)
        written(c, kvm, kind, gfn)
    res.ret = iter.level
    res.pfn = spte_to_pfn(spte) + (gfn & (pages_per_hpage(iter.level) - 1))
    if kvm.tlb.on and not sp_invalid(root):
        tlb_insert(c, &kvm.tlb, root, gfn_round_for_level(gfn, iter.level), pages_per_hpage(iter.level),
                   spte_to_pfn(spte), new_spte & PT_WRITABLE_MASK and with_bits(kvm, sp, new_spte, True) == new_spte)
    return True


cdef void hardware_access(Cpu *c, Vm *vm, int kind, uint64_t gfn, bint write, OpResult *res) noexcept nogil:
    """res.ret: the level of the translation, 0: an EPT violation; res.pfn: the page. The vCPU takes valid roots first.
    No lock; yields."""
    cdef Kvm *kvm = &vm.kvm
    cdef const TlbEntry *e
    if c.has_roots or kind > ROOT_MIRROR:
        vcpu_reload(c, kvm, kind)
    if kvm.tlb.on:
        sync_point(c, SYNC_LOAD, <uint64_t>&kvm.tlb.gen)
        e = tlb_find(c, &kvm.tlb, vcpu_roots(c, kvm)[kind], gfn, write)
        if e != NULL:
            res.ret = 1 if e.npages == 1 else 2 if e.npages == 512 else 3
            res.pfn = e.pfn + (gfn - e.gfn)
            if write:
                written(c, kvm, kind, gfn)
            return
    rcu_read_lock(c)
    while not translate(c, kvm, kind, gfn, write, res):
        pass
    rcu_read_unlock(c)


cdef void op_access(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil:
    hardware_access(c, vm, ROOT_SMM if op.smm else ROOT_GUEST_MODE if op.guest_mode else ROOT_DIRECT, op.gfn,
                    op.write != 0, res)


op_row(OP_ACCESS).fn = op_access
