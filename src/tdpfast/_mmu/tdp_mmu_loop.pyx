# cython: language_level=3
"""tdp_mmu.c: what walks over many SPTEs share: yielding, going round again, flushing."""

from tdpfast._names cimport EV_FLUSH_ALL, EV_FLUSH_RANGE, EV_YIELD
from tdpfast._sync.cpu cimport (
    need_resched, rcu_read_lock, rcu_read_unlock, rcu_run, read_lock, read_unlock, sync_retry, trace1, trace3,
    write_lock, write_unlock,
)
from tdpfast._mmu.tdp_mmu cimport kvm_warn


cdef bint tdp_mmu_iter_need_resched(Cpu *c, const TdpIter *iter) noexcept nogil:
    """Whether the CPU is wanted elsewhere and the walk moved since it yielded last."""
    return need_resched(c) and iter.next_last_level_gfn != iter.yielded_gfn


cdef bint __tdp_mmu_iter_cond_resched(Cpu *c, Kvm *kvm, TdpIter *iter, bint flush, bint shared) noexcept nogil:
    """Drops RCU and mmu_lock for a moment if the CPU is wanted elsewhere and the walk moved since the last time.

    True: it yielded, iter.yielded is set and the caller must go to the next iteration.
    """
    if iter.yielded and kvm.design.prove_mmu:
        kvm_warn(c, b"tdp_mmu_iter_cond_resched", b"yielded")
    if not tdp_mmu_iter_need_resched(c, iter):
        return False
    c.count.yields += 1
    if flush:
        kvm_flush_remote_tlbs(c, kvm)
    rcu_read_unlock(c)
    if shared:
        read_unlock(c, &kvm.mmu_lock)
        trace1(c, EV_YIELD, 0)
        if c.resched.gp_at_yield:
            rcu_run(c, &kvm.rcu, 0)
        read_lock(c, &kvm.mmu_lock)
    else:
        write_unlock(c, &kvm.mmu_lock)
        trace1(c, EV_YIELD, 1)
        if c.resched.gp_at_yield:
            rcu_run(c, &kvm.rcu, 0)
        write_lock(c, &kvm.mmu_lock)
    rcu_read_lock(c)
    if iter.gfn > iter.next_last_level_gfn:
        kvm_warn(c, b"tdp_mmu_iter_cond_resched", b"gfn_beyond_next")
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


cdef void kvm_flush_remote_tlbs_range(Cpu *c, Kvm *kvm, uint64_t gfn, uint64_t npages) noexcept nogil:
    trace3(c, EV_FLUSH_RANGE, gfn, npages, 0)
