# cython: language_level=3
"""The core as a design file sees it (see include/tdpfast/api.h, where each function has a line).

Every function finds the CPU that runs it by running_cpu(). One with `line` first is a step of the explorer: the line is
kept on the CPU while the access is offered, for the story. Lock modes are those of the kernel's function of the name.
"""

from libc.stdint cimport uint64_t, uint8_t, uint16_t, uint32_t

from tdpfast._names cimport (
    ASSERT_BUG, ASSERT_LOCKDEP, ASSERT_WARN, CHECK_CRASH, CHECK_HANG, CHECK_PROGRESS, EV_CODE_FAULT, EV_PREPARE_ZAP,
    EV_SPLIT, EV_SPTE_FROZEN, EV_YIELD, FAULT_HANG, FAULT_WILD, SYNC_LOAD, UAF_SP, SYNC_RMW, SYNC_STORE,
)
from tdpfast._mmu.arena cimport SP_FREED, SP_QUEUED, Arena, Sp, sp_note_uaf, sptep_to_sp
from tdpfast._mmu.tracepoints cimport trace_page
from tdpfast._mmu.tdp_iter cimport TdpIter
from tdpfast._mmu.tdp_mmu cimport kvm_bug_on, queue_removed_sp, trace_spte_changed
from tdpfast._mmu.tdp_mmu_loop cimport tdp_mmu_iter_cond_resched, tdp_mmu_retry
from tdpfast._spte cimport is_frozen_spte
from tdpfast._sync.atomic cimport tdp_read_once, tdp_read_once32
from tdpfast._sync.cpu cimport (
    running_cpu, ABORT_CODE, SLOW_CHECK, SLOW_YIELD, RETRY_FROZEN_CHILD, RwLock, SpinLock, call_rcu, rcu_read_lock, rcu_read_unlock, read_lock, read_unlock,
    need_resched, rcu_run, spin_lock, spin_unlock, sync_abort, sync_assert, sync_point, sync_rare, sync_retry, trace1, trace3, trace5, write_lock, write_unlock,
)
from tdpfast._tdx.state cimport Tdx

cdef extern from *:
    """
    #include <stdint.h>
    #define TDP_SIZED(size, expr8, expr16, expr32, expr64) \\
        ((size) == 8 ? (uint64_t)(expr64) : (size) == 4 ? (uint64_t)(expr32) : (size) == 2 ? (uint64_t)(expr16) \\
         : (uint64_t)(expr8))
    static uint64_t tdp_sized_load(const void *p, unsigned size)
    {
        return TDP_SIZED(size, __atomic_load_n((const uint8_t *)p, __ATOMIC_RELAXED),
                         __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED),
                         __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED),
                         __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED));
    }
    static void tdp_sized_store(void *p, uint64_t v, unsigned size)
    {
        if (size == 8)
            __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELAXED);
        else if (size == 4)
            __atomic_store_n((uint32_t *)p, (uint32_t)v, __ATOMIC_RELAXED);
        else if (size == 2)
            __atomic_store_n((uint16_t *)p, (uint16_t)v, __ATOMIC_RELAXED);
        else
            __atomic_store_n((uint8_t *)p, (uint8_t)v, __ATOMIC_RELAXED);
    }
    static uint64_t tdp_sized_xchg(void *p, uint64_t v, unsigned size)
    {
        return TDP_SIZED(size, __atomic_exchange_n((uint8_t *)p, (uint8_t)v, __ATOMIC_SEQ_CST),
                         __atomic_exchange_n((uint16_t *)p, (uint16_t)v, __ATOMIC_SEQ_CST),
                         __atomic_exchange_n((uint32_t *)p, (uint32_t)v, __ATOMIC_SEQ_CST),
                         __atomic_exchange_n((uint64_t *)p, v, __ATOMIC_SEQ_CST));
    }
    #define TDP_CAS(type) __atomic_compare_exchange_n((type *)p, (type *)old, (type)v, 0, __ATOMIC_SEQ_CST, \\
                                                      __ATOMIC_SEQ_CST)
    static int tdp_sized_cas(void *p, void *old, uint64_t v, unsigned size)
    {
        return size == 8 ? TDP_CAS(uint64_t) : size == 4 ? TDP_CAS(uint32_t) : size == 2 ? TDP_CAS(uint16_t)
               : TDP_CAS(uint8_t);
    }
    static uint64_t tdp_sized_fetch(void *p, unsigned op, uint64_t v, unsigned size)
    {
        uint64_t old = tdp_sized_load(p, size), next;

        do {
            next = op == 0 ? old + v : op == 1 ? (old & v) : op == 2 ? (old | v) : old ^ v;
        } while (!tdp_sized_cas(p, &old, next, size));
        return old;
    }
    """
    uint64_t tdp_sized_load(const void *p, unsigned size) nogil
    void tdp_sized_store(void *p, uint64_t v, unsigned size) nogil
    uint64_t tdp_sized_xchg(void *p, uint64_t v, unsigned size) nogil
    bint tdp_sized_cas(void *p, void *old, uint64_t v, unsigned size) nogil
    uint64_t tdp_sized_fetch(void *p, unsigned op, uint64_t v, unsigned size) nogil

cdef enum Region:
    NOBODYS = 0
    PRIVATE          # of the CPU, or constant
    TABLE
    SHARED           # any other word that others can see
    RARE             # one that only rare operations change, never a file


# ---- faults -----------------------------------------------------------------------------------------------------

cdef void code_fault(Cpu *c, int what) noexcept nogil:
    """The file's code cannot go on: the execution ends here as after BUG(). Does not return."""
    if not c.dead:
        c.found.checks |= CHECK_HANG if what == FAULT_HANG else CHECK_CRASH
        trace3(c, EV_CODE_FAULT, <uint64_t>what, c.code.line if c.code.line else c.code.called, c.code.pc)
    sync_abort(c, ABORT_CODE)


# ---- memory -----------------------------------------------------------------------------------------------------

cdef bint constant_of_sp(uint64_t offset) noexcept nogil:
    """Members of a table's descriptor that never change once it is linked."""
    cdef Sp *sp = NULL
    return (offset < <uint64_t>&sp.ptep + 8
            or <uint64_t>&sp.index <= offset < <uint64_t>&sp.index + 4
            or <uint64_t>&sp.level <= offset < <uint64_t>&sp.level + 8
            or offset == <uint64_t>&sp.is_mirror or offset == <uint64_t>&sp.ad_disabled
            or offset == <uint64_t>&sp.access)


cdef bint constant_of_kvm(uint64_t offset) noexcept nogil:
    """What a VM is made with: formats, the design, its hooks."""
    cdef Kvm *kvm = NULL
    return offset < <uint64_t>&kvm.rcu


cdef int region_of(Cpu *c, uint64_t p, bint write) noexcept nogil:
    cdef Vm *vm = <Vm *>c.vm
    cdef Arena *a = &vm.arena
    cdef const CodeFile *f
    cdef bint constant
    if c.code.stack <= p < c.code.stack_end:
        return PRIVATE
    if <uint64_t>a.base <= p < <uint64_t>a.base + (a.npages << 12):
        return TABLE
    if <uint64_t>a.sps <= p < <uint64_t>a.sps + a.npages * sizeof(Sp):
        return PRIVATE if constant_of_sp((p - <uint64_t>a.sps) % sizeof(Sp)) and not write else SHARED
    if <uint64_t>&vm.kvm <= p < <uint64_t>&vm.kvm + sizeof(Kvm):
        constant = constant_of_kvm(p - <uint64_t>&vm.kvm)
        return NOBODYS if constant and write else PRIVATE if constant else SHARED
    f = <const CodeFile *>vm.kvm.ops.file if vm.kvm.ops != NULL else NULL
    if f != NULL and f.data <= p < f.data_end:
        return SHARED
    if f != NULL and f.text <= p < f.text_end:
        return NOBODYS if write else PRIVATE
    if <uint64_t>c <= p < <uint64_t>c + sizeof(Cpu):
        return NOBODYS if write else PRIVATE
    return NOBODYS if write and of_td(c, p) != SHARED else of_td(c, p)


cdef void note_descriptor(Cpu *c, uint64_t p) noexcept nogil:
    """A word of a table's descriptor that changes in its life: a use after free where the table is gone, told once a
    call of the file."""
    cdef Arena *a = &(<Vm *>c.vm).arena
    cdef Sp *sp
    if not <uint64_t>a.sps <= p < <uint64_t>a.sps + a.npages * sizeof(Sp):
        return
    if constant_of_sp((p - <uint64_t>a.sps) % sizeof(Sp)):
        return
    sp = &a.sps[(p - <uint64_t>a.sps) / sizeof(Sp)]
    if tdp_read_once32(&sp.state) == SP_FREED and c.code.uaf != <uint64_t>sp:
        c.code.uaf = <uint64_t>sp
        sp_note_uaf(a, c, sp, UAF_SP)


cdef inline bint exact(Cpu *c, uint64_t p) noexcept nogil:
    """Fields that the core itself offers by their own address."""
    cdef Kvm *kvm = running_kvm(c)
    return p == <uint64_t>&kvm.vm_dead or p == <uint64_t>&kvm.vm_bugged or of_td(c, p) == SHARED


cdef int of_td(Cpu *c, uint64_t p) noexcept nogil:
    """The region of a word of struct kvm_tdx: what changes in its life the core offers by its own address."""
    cdef Tdx *t = <Tdx *>(<Vm *>c.vm).tdx
    if t == NULL or not <uint64_t>t <= p < <uint64_t>t + sizeof(Tdx):
        return NOBODYS
    if p == <uint64_t>&t.state or p == <uint64_t>&t.hkid or p == <uint64_t>&t.pre_fault_allowed:
        return RARE
    if (p == <uint64_t>&t.wait_for_sept_zap or p == <uint64_t>&t.nr_premapped or p == <uint64_t>&t.page_add_src):
        return SHARED
    return PRIVATE


cdef bint offer(Cpu *c, uint32_t line, int kind, const void *p) noexcept nogil:
    """Before the access: offers it if others can see the word. An address that is nobody's ends the execution; NULL
    is left to the processor. Whether the word is one of a table. May yield."""
    cdef int region = TABLE
    c.code.steps += 1
    if line:
        c.code.line = line
    if c.slow & SLOW_CHECK:
        note_descriptor(c, <uint64_t>p)
    if c.slow & SLOW_YIELD:
        region = region_of(c, <uint64_t>p, kind != SYNC_LOAD)
        if region == NOBODYS and <uint64_t>p >= 4096:
            code_fault(c, FAULT_WILD)
    if region == TABLE:
        sync_point(c, kind, <uint64_t>p)
    elif region == RARE:
        sync_rare(c, kind, <uint64_t>p)
    elif region == SHARED:
        sync_point(c, kind, <uint64_t>p if exact(c, <uint64_t>p) else <uint64_t>p & ~<uint64_t>7)
    return region == TABLE


cdef inline void done(Cpu *c) noexcept nogil:
    c.code.called = c.code.line if c.code.line else c.code.called
    c.code.line = 0


cdef inline void saw(Cpu *c, const void *p, uint64_t v) noexcept nogil:
    """For the key of the loop that this access may be part of."""
    c.code.seen = ((c.code.seen ^ <uint64_t>p) * 0x9e3779b97f4a7c15u ^ v) * 0x9e3779b97f4a7c15u


cdef inline void saw_spte(Cpu *c, const void *p, uint64_t v) noexcept nogil:
    if is_frozen_spte(&running_kvm(c).spte, v):
        c.code.frozen = <uint64_t>p


cdef uint64_t api_load(uint32_t line, const void *p, uint32_t size) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef bint table = offer(c, line, SYNC_LOAD, p)
    cdef uint64_t v = tdp_sized_load(p, size)
    saw(c, p, v)
    if table and size == 8:
        saw_spte(c, p, v)
    done(c)
    return v


cdef void api_store(uint32_t line, void *p, uint64_t v, uint32_t size) noexcept nogil:
    cdef Cpu *c = running_cpu()
    offer(c, line, SYNC_STORE, p)
    tdp_sized_store(p, v, size)
    done(c)


cdef uint64_t api_xchg(uint32_t line, void *p, uint64_t v, uint32_t size) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef bint table
    cdef uint64_t old
    c.offer.arg = 1          # unlike a cmpxchg it writes for certain
    table = offer(c, line, SYNC_RMW, p)
    c.offer.arg = 0
    old = tdp_sized_xchg(p, v, size)
    saw(c, p, old)
    if table and size == 8:
        saw_spte(c, p, old)
    done(c)
    return old


cdef bint api_cmpxchg(uint32_t line, void *p, void *old, uint64_t v, uint32_t size) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef bint table = offer(c, line, SYNC_RMW, p)
    cdef bint won = tdp_sized_cas(p, old, v, size)
    cdef Sp *sp
    if not won:
        c.count.lost_cmpxchg += 1
        saw(c, p, tdp_sized_load(old, size))
    elif table and size == 8 and is_frozen_spte(&running_kvm(c).spte, v):
        sp = sptep_to_sp(running_kvm(c).arena, <uint64_t *>p)
        trace3(c, EV_SPTE_FROZEN, sp.gfn + ((<uint64_t>p >> 3 & 511) << (9 * (sp.level - 1))), sp.level,
               (<uint64_t *>old)[0])
    done(c)
    return won


cdef uint64_t api_fetch(uint32_t line, void *p, uint32_t op, uint64_t v, uint32_t size) noexcept nogil:
    """add, and, or, xor. The VM's own counters only commute: no step."""
    cdef Cpu *c = running_cpu()
    cdef uint64_t old
    if p != &running_kvm(c).tdp_mmu_pages:
        offer(c, line, SYNC_RMW, p)
    old = tdp_sized_fetch(p, op, v, size)
    done(c)
    return old


cdef void api_plain(const void *p, uint64_t size, uint32_t write, const void *pc) noexcept nogil:
    """A plain C access of the file. Outside the explorer it is nobody's business."""
    cdef Cpu *c = running_cpu()
    if c == NULL or not c.slow & (SLOW_YIELD | SLOW_CHECK) or c.code.depth == 0:
        return
    c.code.pc = <uint64_t>pc - (<const CodeFile *>running_kvm(c).ops.file).text
    offer(c, 0, SYNC_STORE if write else SYNC_LOAD, p)
    c.code.pc = 0


cdef void api_relax(uint32_t line) noexcept nogil:
    """cpu_relax(): a loop goes round. Its key digests what it read since it last did. Yields."""
    cdef Cpu *c = running_cpu()
    cdef uint64_t key = c.code.seen
    c.code.line = line
    c.code.steps += 1
    note_queued(c)
    c.retry.why = RETRY_FROZEN_CHILD if c.code.frozen else 0
    c.code.seen = c.code.frozen = 0
    sync_retry(c, key)
    done(c)


cdef void note_queued(Cpu *c) noexcept nogil:
    """Whoever froze an entry of a table before it was queued for freeing will not come back to unfreeze it."""
    cdef Kvm *kvm = running_kvm(c)
    if c.code.frozen and tdp_read_once32(&sptep_to_sp(kvm.arena, <uint64_t *>c.code.frozen).state) == SP_QUEUED:
        c.found.checks |= CHECK_PROGRESS


# ---- locks, RCU, scheduling ---------------------------------------------------------------------------------------

cdef void api_spin(uint32_t line, void *lock, bint on) noexcept nogil:
    """The owner stands in the lock word beside its lowest bit, for unlocks by others."""
    cdef Cpu *c = running_cpu()
    cdef Kvm *kvm = running_kvm(c)
    cdef uint64_t me = <uint64_t>(c.id + 1) << 1
    c.code.line = line
    c.code.steps += 1
    if on:
        spin_lock(c, <SpinLock *>lock)
        if lock == &kvm.tdp_mmu_pages_lock:
            c.held.pages_lock += 1
        else:
            (<SpinLock *>lock).val = me | 1
    else:
        if lock == &kvm.tdp_mmu_pages_lock:
            c.held.pages_lock -= 1
        elif tdp_read_once(&(<SpinLock *>lock).val) != (me | 1):
            sync_assert(c, ASSERT_LOCKDEP, b"spin_unlock", b"not_the_owner")
        spin_unlock(c, <SpinLock *>lock)
    done(c)


cdef bint api_spin_trylock(uint32_t line, void *lock) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef uint64_t free_ = 0
    cdef bint won
    offer(c, line, SYNC_RMW, lock)
    won = tdp_sized_cas(lock, &free_, (<uint64_t>(c.id + 1) << 1) | 1, 8)
    saw(c, lock, free_)
    done(c)
    return won


cdef void api_rwlock(uint32_t line, void *lock, bint write, bint on) noexcept nogil:
    cdef Cpu *c = running_cpu()
    c.code.line = line
    c.code.steps += 1
    if on and write:
        write_lock(c, <RwLock *>lock)
    elif on:
        read_lock(c, <RwLock *>lock)
    elif write:
        write_unlock(c, <RwLock *>lock)
    else:
        read_unlock(c, <RwLock *>lock)
    done(c)


cdef void api_rcu(uint32_t line, bint on) noexcept nogil:
    cdef Cpu *c = running_cpu()
    c.code.line = line
    c.code.steps += 1
    if on:
        rcu_read_lock(c)
    else:
        rcu_read_unlock(c)
    done(c)


cdef bint api_rcu_held() noexcept nogil:
    return running_cpu().rcu_depth != 0


cdef void api_call_rcu(uint32_t line, void *head, void *func) noexcept nogil:
    """call_rcu() of a table's head, with the judgement of its life that the built-in code makes. func NULL: the
    table's usual callback."""
    cdef Cpu *c = running_cpu()
    cdef Arena *a = running_kvm(c).arena
    cdef Sp *none = NULL
    cdef Sp *sp
    c.code.line = line
    c.code.steps += 1
    if not <uint64_t>a.sps <= <uint64_t>head < <uint64_t>a.sps + a.npages * sizeof(Sp):
        code_fault(c, FAULT_WILD)
        return
    sp = <Sp *>(<uint64_t>head - <uint64_t>&none.rcu_head)
    if sp.state != SP_QUEUED:
        sp.rcu_head.func = func
    queue_removed_sp(c, sp)
    done(c)


cdef bint api_resched(void *kvm, TdpIter *iter, bint flush, bint shared) noexcept nogil:
    cdef Cpu *c = running_cpu()
    api_retry(0, iter, 0)
    return tdp_mmu_iter_cond_resched(c, running_kvm(c), iter, flush, shared)


cdef void api_retry(uint32_t line, TdpIter *iter, int error) noexcept nogil:
    """error: setting the SPTE of this walk failed. 0: the loop goes on with a walk; at the SPTE that failed, that is
    going round, as `goto retry` does. May yield."""
    cdef Cpu *c = running_cpu()
    cdef int was = c.code.error
    if error:
        c.code.iter = iter
        c.code.error = error
        return
    if c.code.iter != iter or not was:
        return
    c.code.iter = NULL
    c.code.error = 0
    c.code.line = line
    tdp_mmu_retry(c, running_kvm(c), iter, was)
    done(c)


# ---- assertions and traces ----------------------------------------------------------------------------------------

cdef void api_warn(uint32_t line, void *kvm, int kind, const char *func, const char *what) noexcept nogil:
    cdef Cpu *c = running_cpu()
    c.code.called = line
    if c.code.id != NULL:
        what = c.code.id
        c.code.id = NULL
    if kind == 1:
        kvm_bug_on(c, running_kvm(c), func, what)
    else:
        sync_assert(c, ASSERT_BUG if kind == 2 else ASSERT_LOCKDEP if kind == 3 else ASSERT_WARN, func, what)


cdef bint api_is_held(const void *lock, int mode) noexcept nogil:
    """lockdep_is_held(): by this CPU. mode: of mmu_lock, 1 for read, 2 for write, 0 either."""
    cdef Cpu *c = running_cpu()
    cdef Kvm *kvm = running_kvm(c)
    if lock == &kvm.mmu_lock:
        return (c.held.mmu_write != 0 and mode != 1) or (c.held.mmu_read != 0 and mode != 2)
    if lock == &kvm.tdp_mmu_pages_lock:
        return c.held.pages_lock != 0
    return tdp_read_once(&(<SpinLock *>lock).val) == ((<uint64_t>(c.id + 1) << 1) | 1)


cdef void api_named(const char *id) noexcept nogil:
    """TDPFAST_ID(): the condition holds, and its assertion is called so."""
    running_cpu().code.id = id


cdef void api_lockdep(uint32_t line, const void *lock, int mode, const char *func) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *kvm = running_kvm(c)
    if api_is_held(lock, mode):
        return
    if lock == &kvm.mmu_lock:
        sync_assert(c, ASSERT_LOCKDEP, func, b"mmu_lock_write" if mode == 2 else b"mmu_lock_read" if mode == 1
                    else b"mmu_lock")
    else:
        sync_assert(c, ASSERT_LOCKDEP, func, b"tdp_mmu_pages_lock" if lock == &kvm.tdp_mmu_pages_lock else b"own_lock")


cdef void api_might_sleep(uint32_t line, const char *func) noexcept nogil:
    """might_sleep(): not under mmu_lock, tdp_mmu_pages_lock or in an RCU read section."""
    cdef Cpu *c = running_cpu()
    if c.held.mmu_read or c.held.mmu_write or c.held.pages_lock or c.rcu_depth:
        c.code.called = line if line else c.code.called
        sync_assert(c, ASSERT_LOCKDEP, func, b"might_sleep_rcu" if c.rcu_depth else b"might_sleep_locked")


cdef bint api_need_resched() noexcept nogil:
    return need_resched(running_cpu())


cdef bint api_resched_lock(uint32_t line, void *lock, bint write) noexcept nogil:
    """cond_resched_rwlock_read() or _write(): whether mmu_lock was dropped for a moment. Leaves RCU to the caller."""
    cdef Cpu *c = running_cpu()
    if not need_resched(c):
        return False
    c.count.yields += 1
    api_rwlock(line, lock, write, 0)
    trace1(c, EV_YIELD, write)
    if c.resched.gp_at_yield:
        rcu_run(c, &running_kvm(c).rcu, 0)
    api_rwlock(line, lock, write, 1)
    return True


cdef void api_trace_changed(uint64_t gfn, int level, uint64_t old_spte, uint64_t new_spte) noexcept nogil:
    trace_spte_changed(running_cpu(), gfn, level, old_spte, new_spte)


cdef void api_trace_prepare_zap(Sp *sp) noexcept nogil:
    trace_page(running_cpu(), EV_PREPARE_ZAP, sp)


cdef void api_traced_split(const TdpIter *iter, int level, uint64_t huge_spte, int ret) noexcept nogil:
    trace5(running_cpu(), EV_SPLIT, iter.gfn, level, huge_spte, <uint64_t>ret, 0)


def api():
    """The address of each function here, by its name in api.h."""
    return {
        "load": <size_t>api_load, "store": <size_t>api_store, "xchg": <size_t>api_xchg,
        "cmpxchg": <size_t>api_cmpxchg, "fetch": <size_t>api_fetch, "plain": <size_t>api_plain,
        "relax": <size_t>api_relax, "spin": <size_t>api_spin, "spin_trylock": <size_t>api_spin_trylock,
        "rwlock": <size_t>api_rwlock, "rcu": <size_t>api_rcu, "rcu_held": <size_t>api_rcu_held,
        "is_held": <size_t>api_is_held, "might_sleep": <size_t>api_might_sleep,
        "need_resched": <size_t>api_need_resched, "resched_lock": <size_t>api_resched_lock,
        "call_rcu": <size_t>api_call_rcu, "resched": <size_t>api_resched, "retry": <size_t>api_retry,
        "warn": <size_t>api_warn, "named": <size_t>api_named,
        "lockdep": <size_t>api_lockdep, "trace_changed": <size_t>api_trace_changed,
        "trace_prepare_zap": <size_t>api_trace_prepare_zap, "traced_split": <size_t>api_traced_split,
    }
