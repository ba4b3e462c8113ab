# cython: language_level=3
"""Locks, RCU, lockdep, yield points and the trace of one emulated CPU (see cpu.pxd for the contracts)."""

from libc.stdlib cimport free, realloc
from libc.string cimport memset

from tdpfast._names cimport (
    ASSERT_BUG, ASSERT_LOCKDEP, CHECK_KERNEL, CHECK_LIFE, CHECK_LOCK, CHECK_PROGRESS, EV_ASSERT, EV_LIVELOCK,
    SYNC_ABORT, SYNC_CALL_RCU, SYNC_DONE, SYNC_LOAD, SYNC_READ_LOCK, SYNC_READ_UNLOCK, SYNC_RETRY, SYNC_RMW,
    SYNC_SPIN_LOCK, SYNC_SPIN_UNLOCK, SYNC_WAIT, SYNC_WRITE_LOCK, SYNC_WRITE_UNLOCK,
)
from tdpfast._sync.atomic cimport (
    tdp_cpu_relax, tdp_cpu_yield, tdp_escape, tdp_load32, tdp_try_cmpxchg,
)

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size)


cdef extern from "time.h" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *ts)
    int nanosleep(const timespec *request, timespec *left)
    enum: CLOCK_MONOTONIC

cdef enum:
    TIMED_ROUNDS = 4096  # rounds of a loop between two looks at the clock
    NOISE_SHIFT = 56     # one access in 256 is disturbed
    NAP_NS = 10000


cdef extern from *:
    """
    static __thread void *tdp_running;
    """
    void *tdp_running


cdef Cpu *running_cpu() noexcept nogil:
    return <Cpu *>tdp_running


cdef void run_as(Cpu *c) noexcept nogil:
    global tdp_running
    tdp_running = c


cdef uint64_t now_ns() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    return <uint64_t>ts.tv_sec * 1000000000 + <uint64_t>ts.tv_nsec


cdef bint out_of_memory(Cpu *c, int what) noexcept nogil:
    """One allocation of the operation: whether it is one that fails. A try after it is not the same round again."""
    if c.nomem.skip[what]:
        c.nomem.skip[what] -= 1
        return False
    if c.nomem.count[what] == 0:
        return False
    c.nomem.count[what] -= 1
    c.nomem.failed += 1
    c.used_up += 1
    return True


cdef void make_noise(Cpu *c) noexcept nogil:
    """Lets others go first, now and then: for as long as a nap takes, or one time of four merely once."""
    cdef uint64_t random = xorshift(&c.noise)
    cdef timespec nap
    if random >> NOISE_SHIFT:
        return
    if random & 3:
        nap.tv_sec = 0
        nap.tv_nsec = NAP_NS
        nanosleep(&nap, NULL)
    else:
        tdp_cpu_yield()


cdef void sync_init_cpu(Cpu *c, int32_t id) noexcept nogil:
    memset(c, 0, sizeof(Cpu))
    c.id = id
    c.lp = id
    c.retry.limit = 1000


cdef Cpu *sync_new_cpu(int32_t id) noexcept nogil:
    """A CPU on cache lines of its own, for native threads; NULL without memory. free() takes it back."""
    cdef Cpu *c = <Cpu *>aligned_alloc(64, (sizeof(Cpu) + 63) // 64 * 64)
    if c != NULL:
        sync_init_cpu(c, id)
    return c


cdef void sync_slow(Cpu *c, int kind, uint64_t obj) noexcept nogil:
    """Offers the access to the scheduler, lets a scripted race happen, and looks for a freed page. Yields."""
    cdef uint64_t page
    if c.slow & SLOW_NOISE:
        make_noise(c)
    if c.slow & SLOW_YIELD:
        c.offer.kind = kind
        c.offer.obj = obj
        c.yield_to(c)
    if c.slow & SLOW_RMW and kind == SYNC_RMW:
        c.rmw_count += 1
        c.on_rmw(c, <uint64_t *>obj)
    if c.slow & SLOW_CHECK and SYNC_LOAD <= kind <= SYNC_RMW:
        page = (obj - c.tables.base) >> 12
        if obj >= c.tables.base and page < c.tables.count:
            if kind != SYNC_LOAD and c.tables.dirty != NULL:
                c.tables.dirty[page] = 1
            if c.tables.freed[page]:
                c.found.checks |= CHECK_LIFE
                if c.tables.on_freed != NULL:
                    c.tables.on_freed(c, kind, obj)


cdef bint sync_enabled(const Cpu *c) noexcept nogil:
    """Whether the access this CPU offers can happen now (the explorer asks before it resumes a fiber)."""
    if c.offer.kind == SYNC_READ_LOCK:
        return (<RwLock *>c.offer.obj).val != RW_WRITER
    if c.offer.kind == SYNC_WRITE_LOCK:
        return (<RwLock *>c.offer.obj).val == 0
    if c.offer.kind == SYNC_SPIN_LOCK:
        return (<SpinLock *>c.offer.obj).val == 0
    if c.offer.kind == SYNC_WAIT:
        return tdp_load32(<uint32_t *>c.offer.obj) == <uint32_t>c.offer.arg
    return c.offer.kind != SYNC_ABORT and c.offer.kind != SYNC_DONE


cdef bint goes_round_for_ever(Cpu *c) noexcept nogil:
    """Whether the rounds with one key are too many, and where time counts went on for too long. Looks at the clock
    seldom: a CPU that is not under the explorer only waits here."""
    if not c.retry.limit or c.retry.count < c.retry.limit:
        return False
    if c.retry.ns == 0:
        return True
    if (c.retry.count - c.retry.limit) % TIMED_ROUNDS:
        return False
    if c.retry.count == c.retry.limit:
        c.retry.since = now_ns()
    return now_ns() - c.retry.since >= c.retry.ns


cdef void sync_retry(Cpu *c, uint64_t key) noexcept nogil:
    """Called where a loop goes round; key digests what the loop looked at. Yields; ends a livelock.

    Under the explorer the scheduler resumes this CPU only once another one has written something. Alone, the
    limit-th round in a row with the same key is a livelock; on threads, once that also lasted retry_ns.
    """
    c.count.retries += 1
    if key == c.retry.key:
        c.retry.count += 1
        if not c.slow & SLOW_YIELD and goes_round_for_ever(c):
            sync_abort(c, ABORT_LIVELOCK)
    else:
        c.retry.key = key
        c.retry.count = 0
    if c.slow & SLOW_YIELD:
        c.offer.kind = SYNC_RETRY
        c.offer.obj = key
        c.yield_to(c)
    elif c.retry.count & 63 == 63:
        # Whoever holds the SPTE frozen may be waiting for this processor.
        tdp_cpu_yield()
    else:
        tdp_cpu_relax()


cdef void sync_wait_eq(Cpu *c, uint32_t *word, uint32_t value) noexcept nogil:
    """Blocks until *word == value. Yields."""
    cdef uint32_t spins = 0
    if c.slow & SLOW_YIELD:
        c.offer.arg = value
        sync_slow(c, SYNC_WAIT, <uint64_t>word)
        return
    while tdp_load32(word) != value:
        spins += 1
        if spins & 63 == 0:
            tdp_cpu_yield()
        else:
            tdp_cpu_relax()


cdef void sync_abort(Cpu *c, int code) noexcept nogil:
    """Ends this CPU's work at once; does not return. Locks stay as they are: the machine is gone."""
    c.abort = code
    if code == ABORT_LIVELOCK:
        c.found.checks |= CHECK_PROGRESS
        if c.retry.why != RETRY_ANNOUNCED:
            trace1(c, EV_LIVELOCK, c.retry.why)
        c.retry.why = 0
    c.dead = True
    if c.slow & SLOW_YIELD:
        c.offer.kind = SYNC_ABORT
        c.offer.obj = 0
        c.yield_to(c)
    if c.landing != NULL:
        tdp_escape(c.landing)


cdef void sync_assert(Cpu *c, int kind, const char *fn, const char *id) noexcept nogil:
    """Records that a kernel assertion fired. BUG() does not return."""
    cdef Event *e
    if c.dead:
        return
    c.found.checks |= CHECK_LOCK if kind == ASSERT_LOCKDEP else CHECK_KERNEL
    c.found.asserts[kind] += 1
    if c.found.first_fn[kind] == NULL:
        c.found.first_fn[kind] = fn
        c.found.first_id[kind] = id
    if c.trace != NULL:
        e = trace_new(c, EV_ASSERT)
        e.a[0] = kind
        e.s0 = fn
        e.s1 = id
    if kind == ASSERT_BUG:
        sync_abort(c, ABORT_BUG)


# ---- locks --------------------------------------------------------------------------------------------------

cdef inline void spin_wait(uint32_t *spins) noexcept nogil:
    spins[0] += 1
    if spins[0] & 127 == 0:
        tdp_cpu_yield()
    else:
        tdp_cpu_relax()


cdef void read_lock_slow(Cpu *c, RwLock *l) noexcept nogil:
    """What read_lock() leaves over: the explorer, a CPU without slot, a writer in the way, one read lock in another.
    Yields."""
    sync_point(c, SYNC_READ_LOCK, <uint64_t>l)
    if c.slow & SLOW_YIELD or c.rcu == NULL or (c.held.mmu_read and not c.reading):
        read_lock_counted(l)
    elif not c.reading:
        read_lock_slot(c, l)
    c.held.mmu_read += 1


cdef void read_lock_counted(RwLock *l) noexcept nogil:
    cdef uint32_t spins = 0
    cdef uint64_t v
    while True:
        v = tdp_read_once(&l.val)
        if v < RW_WRITER and tdp_try_cmpxchg(&l.val, &v, v + 1):
            return
        spin_wait(&spins)


cdef void read_lock_slot(Cpu *c, RwLock *l) noexcept nogil:
    cdef uint32_t spins = 0
    while True:
        while tdp_read_once(&l.val) == RW_WRITER:
            spin_wait(&spins)
        if reader_slot_set(c, l):
            return


cdef void read_unlock_counted(Cpu *c, RwLock *l) noexcept nogil:
    sync_point(c, SYNC_READ_UNLOCK, <uint64_t>l)
    tdp_fetch_add(&l.val, <uint64_t>-1)
    c.held.mmu_read -= 1


cdef void wait_for_readers(Cpu *c, const RwLock *l) noexcept nogil:
    """The lock is claimed for write: waits for those who hold it through their slots."""
    cdef uint32_t spins = 0
    cdef int i
    for i in range(c.rcu.ncpu):
        while tdp_load_seq(&c.rcu.cpus[i].reading) == <uint64_t>l:
            spin_wait(&spins)


cdef void write_lock(Cpu *c, RwLock *l) noexcept nogil:
    cdef uint64_t v
    cdef uint32_t spins = 0
    sync_point(c, SYNC_WRITE_LOCK, <uint64_t>l)
    while True:
        v = 0
        if tdp_read_once(&l.val) == 0 and tdp_try_cmpxchg(&l.val, &v, RW_WRITER):
            break
        spin_wait(&spins)
    if not c.slow & SLOW_YIELD and c.rcu != NULL:
        wait_for_readers(c, l)
    c.held.mmu_write += 1


cdef void write_unlock(Cpu *c, RwLock *l) noexcept nogil:
    sync_point(c, SYNC_WRITE_UNLOCK, <uint64_t>l)
    tdp_store_release(&l.val, 0)
    c.held.mmu_write -= 1


cdef void spin_lock(Cpu *c, SpinLock *l) noexcept nogil:
    cdef uint64_t v
    cdef uint32_t spins = 0
    sync_point(c, SYNC_SPIN_LOCK, <uint64_t>l)
    while True:
        v = 0
        if tdp_read_once(&l.val) == 0 and tdp_try_cmpxchg(&l.val, &v, 1):
            return
        spin_wait(&spins)


cdef void spin_unlock(Cpu *c, SpinLock *l) noexcept nogil:
    sync_point(c, SYNC_SPIN_UNLOCK, <uint64_t>l)
    tdp_store_release(&l.val, 0)


# ---- RCU ----------------------------------------------------------------------------------------------------

cdef void rcu_init(Rcu *r) noexcept nogil:
    memset(r, 0, sizeof(Rcu))
    r.gp = 1


cdef bint call_rcu(Cpu *c, RcuHead *head, uint64_t page) noexcept nogil:
    """Queues the callback that frees page; False (and nothing queued) if it is queued already."""
    cdef Rcu *r = c.rcu
    c.offer.arg = page
    sync_point(c, SYNC_CALL_RCU, <uint64_t>r)
    if head.epoch != 0:
        c.found.checks |= CHECK_LIFE
        return False
    rcu_queue_lock(r)
    head.next = NULL
    head.page = page
    head.step = c.step
    head.epoch = tdp_fetch_add(&r.gp, 1) + 1
    if r.tail != NULL:
        r.tail.next = head
    else:
        rcu_set_head(r, head)
    r.tail = head
    rcu_queue_unlock(r)
    return True


# The queue's own lock is never a yield point: call_rcu is one step.
cdef inline void rcu_queue_lock(Rcu *r) noexcept nogil:
    cdef uint64_t v
    cdef uint32_t spins = 0
    while True:
        v = 0
        if tdp_try_cmpxchg(&r.lock.val, &v, 1):
            return
        spin_wait(&spins)


cdef inline void rcu_queue_unlock(Rcu *r) noexcept nogil:
    tdp_store_release(&r.lock.val, 0)


cdef inline void rcu_set_head(Rcu *r, RcuHead *head) noexcept nogil:
    """Under the queue's lock; rcu_pending() looks without."""
    tdp_write_once(<uint64_t *>&r.head, <uint64_t>head)


cdef inline bint rcu_pending(const Rcu *r) noexcept nogil:
    """Whether a callback is queued, looked at without the queue's lock."""
    return tdp_read_once(<const uint64_t *>&r.head) != 0


cdef RcuHead *rcu_ready(Rcu *r) noexcept nogil:
    """The oldest callback if every reader that was active when it was queued has left, else NULL."""
    cdef RcuHead *head = r.head
    cdef uint64_t seq
    cdef int i
    if head == NULL or r.no_grace:
        return head
    for i in range(r.ncpu):
        seq = tdp_load_seq(&r.cpus[i].rcu_seq)
        if seq != 0 and seq < head.epoch:
            return NULL
    return head


cdef int rcu_run(Cpu *c, Rcu *r, int most) noexcept nogil:
    """Runs callbacks whose grace period is over, oldest first, `most` at the most (0: all); how many."""
    cdef RcuHead *head
    cdef int n = 0
    while most == 0 or n < most:
        if not rcu_pending(r):
            break
        rcu_queue_lock(r)
        head = rcu_ready(r)
        if head != NULL:
            rcu_set_head(r, head.next)
            if r.head == NULL:
                r.tail = NULL
        rcu_queue_unlock(r)
        if head == NULL:
            break
        r.callback(c, r.owner, head)
        n += 1
    return n


cdef int rcu_barrier(Cpu *c, Rcu *r) noexcept nogil:
    """Waits until every queued callback has run. Must not be called inside a read section."""
    cdef int n = 0
    cdef uint32_t spins = 0
    if c.slow & SLOW_YIELD:           # the RCU agent runs them, one step each; the list's low half is 0 when it is empty
        while True:
            sync_wait_eq(c, <uint32_t *>&r.head, 0)
            if not rcu_pending(r):
                return 0
    while rcu_pending(r):
        n += rcu_run(c, r, 0)
        if rcu_pending(r):
            spin_wait(&spins)
    return n


# ---- trace --------------------------------------------------------------------------------------------------

cdef Event *trace_new(Cpu *c, int kind) noexcept nogil:
    """The next record of the CPU's trace, zeroed. Never NULL: without memory a scratch record is handed out."""
    cdef Trace *t = c.trace
    cdef Event *e
    cdef void *grown
    cdef size_t cap
    if t == NULL or c.dead:
        return &c.scratch
    if t.n == t.cap:
        cap = t.cap * 2 if t.cap else 256
        grown = realloc(t.ev, cap * sizeof(Event))
        if grown == NULL:
            t.lost = True
            return &c.scratch
        t.ev = <Event *>grown
        t.cap = cap
    e = &t.ev[t.n]
    t.n += 1
    memset(e, 0, sizeof(Event))
    e.kind = kind
    e.cpu = c.id
    e.step = c.step
    return e


cdef void trace_reset(Trace *t) noexcept nogil:
    t.n = 0
    t.lost = False


cdef void trace_free(Trace *t) noexcept nogil:
    free(t.ev)
    t.ev = NULL
    t.n = t.cap = 0
