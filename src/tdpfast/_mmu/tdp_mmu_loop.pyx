# cython: language_level=3
"""tdp_mmu.c: what walks over many SPTEs share: yielding, going round again, flushing."""

from tdpfast._names cimport CHECK_LOCK, EV_FLUSH_ALL, EV_FLUSH_RANGE, EV_FLUSH_SLOT, EV_YIELD
from tdpfast._sync.cpu cimport (
    need_resched, rcu_read_lock, rcu_read_unlock, rcu_run, read_lock, read_unlock, sync_retry, trace1, trace3,
    write_lock, write_unlock,
)
from tdpfast._mmu.hardware cimport tlb_flush
from tdpfast._mmu.tdp_iter cimport tdp_iter_restart
from tdpfast._mmu.tdp_mmu cimport kvm_warn


cdef bint tdp_mmu_iter_need_resched(Cpu *c, const TdpIter *iter) noexcept nogil:
    """Whether the CPU is wanted elsewhere and the walk moved since it yielded last."""
    return need_resched(c) and iter.next_last_level_gfn != iter.yielded_gfn


cdef inline void asleep(Cpu *c, Kvm *kvm, const TdpIter *iter) noexcept nogil:
    """In the middle of a yield: nothing may be held any more, else `lock`. Having got nowhere since the last time is
    going round."""
    if c.rcu_depth or c.held.mmu_read or c.held.mmu_write or c.held.pages_lock:
        c.found.checks |= CHECK_LOCK
    if iter.next_last_level_gfn == iter.yielded_gfn:
        tdp_mmu_retry(c, kvm, iter, 0)
    if c.resched.gp_at_yield:
        rcu_run(c, &kvm.rcu, 0)


cdef bint __tdp_mmu_iter_cond_resched(Cpu *c, Kvm *kvm, TdpIter *iter, bint flush, bint shared) noexcept nogil:
    """Drops RCU and mmu_lock for a moment if the CPU is wanted elsewhere and the walk moved since the last time.

    True: it yielded, iter.yielded is set and the caller must go to the next iteration.
    """
    if iter.yielded and kvm.design.prove_mmu:
        kvm_warn(c, b"tdp_mmu_iter_cond_resched", b"yielded")
    if not (tdp_mmu_iter_need_resched(c, iter) or (kvm.design.no_progress_test and need_resched(c))):
        return False
    c.count.yields += 1
    if flush and not kvm.design.flush_lost_at_yield:
        kvm_flush_remote_tlbs(c, kvm)
    if not kvm.design.yield_in_rcu:
        rcu_read_unlock(c)
    mmu_unlocking(c, kvm)
    if shared:
        read_unlock(c, &kvm.mmu_lock)
        trace1(c, EV_YIELD, 0)
        asleep(c, kvm, iter)
        read_lock(c, &kvm.mmu_lock)
    else:
        write_unlock(c, &kvm.mmu_lock)
        trace1(c, EV_YIELD, 1)
        asleep(c, kvm, iter)
        write_lock(c, &kvm.mmu_lock)
    if not kvm.design.yield_in_rcu:
        rcu_read_lock(c)
    if iter.gfn > iter.next_last_level_gfn:
        kvm_warn(c, b"tdp_mmu_iter_cond_resched", b"gfn_beyond_next")
    if kvm.design.yielded_ignored:
        return False
    if kvm.design.iter_advance:
        tdp_iter_restart(c, iter)
    else:
        iter.yielded = True
    return True


cdef void tdp_mmu_retry(Cpu *c, const Kvm *kvm, const TdpIter *iter, int error) noexcept nogil:
    """`goto retry` of a walk: the key digests all that the next round depends on."""
    cdef uint64_t key = <uint64_t>iter.sptep
    key = (key ^ iter.old_spte) * 0x9e3779b97f4a7c15u
    key = (key ^ <uint64_t>error) * 0x9e3779b97f4a7c15u
    key = (key ^ c.script.pos ^ c.used_up << 32) * 0x9e3779b97f4a7c15u
    sync_retry(c, key)


cdef void kvm_flush_remote_tlbs(Cpu *c, Kvm *kvm) noexcept nogil:
    trace1(c, EV_FLUSH_ALL, 0)
    if kvm.tlb.on:
        tlb_flush(c, &kvm.tlb, 0, <uint64_t>1 << 52)


cdef void kvm_flush_remote_tlbs_range(Cpu *c, Kvm *kvm, uint64_t gfn, uint64_t npages) noexcept nogil:
    trace3(c, EV_FLUSH_RANGE, gfn, npages, 0)
    if kvm.tlb.on:
        tlb_flush(c, &kvm.tlb, gfn, npages)


cdef void kvm_flush_remote_tlbs_memslot(Cpu *c, Kvm *kvm, uint64_t gfn, uint64_t npages) noexcept nogil:
    trace3(c, EV_FLUSH_SLOT, gfn, npages, 0)
    if kvm.tlb.on:
        tlb_flush(c, &kvm.tlb, gfn, npages)
