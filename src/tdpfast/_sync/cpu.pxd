"""What one emulated CPU may touch of shared state, and how: yield points, locks, RCU, lockdep, trace.

Every access to shared state first calls sync_point(). Off the explorer that is one predictable branch; on a
fiber it offers the access (kind, object) to the scheduler, and the access happens when the fiber is resumed.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from tdpfast._names cimport ASSERT_LOCKDEP, SYNC_LOAD, SYNC_RCU_LOCK, SYNC_RCU_UNLOCK, SYNC_RMW, SYNC_STORE
from tdpfast._sync.atomic cimport (
    tdp_fetch_add, tdp_fetch_and, tdp_landing, tdp_likely, tdp_load_seq, tdp_read_once, tdp_store_release,
    tdp_store_seq, tdp_try_cmpxchg, tdp_unlikely, tdp_write_once, tdp_xchg,
)

cdef enum:
    SLOW_YIELD = 1       # a scheduler wants to see every access
    SLOW_CHECK = 2       # accesses to freed pages are looked for
    SLOW_RMW = 4         # on_rmw wants to run before each atomic read-modify-write
    SLOW_RARE = 8        # the scheduler wants to see sync_rare() as well
    SLOW_NOISE = 16      # native threads: now and then the processor is given away before an access

cdef enum AbortCode:
    ABORT_NONE = 0
    ABORT_BUG = 1
    ABORT_LIVELOCK = 2
    ABORT_CODE = 3       # a design file's code crashed or hung

cdef struct Event:
    int32_t kind
    int32_t cpu
    uint64_t step
    uint64_t a[8]
    const char *s0
    const char *s1

cdef struct Trace:
    Event *ev
    size_t n
    size_t cap
    bint lost            # memory ran out: the tail is missing

cdef struct RwLock:
    uint64_t val         # RW_WRITER, or how many hold it for read without a slot of their own (Cpu.reading)

cdef enum:
    RW_WRITER = 0x40000000

cdef struct SpinLock:
    uint64_t val

cdef struct RcuHead:
    RcuHead *next
    uint64_t epoch       # 0: not queued
    uint64_t page        # address of the page this callback frees
    uint64_t step        # explorer: the step that queued it
    void *func           # a design file's own callback; NULL: the owner's

cdef enum RetryWhy:      # what a loop waits for, for the record of its livelock
    RETRY_FROZEN_CHILD = 1
    RETRY_ANNOUNCED = 2  # the record is there already

cdef struct Counters:    # what contention cost a CPU, since it was made
    uint64_t lost_cmpxchg
    uint64_t retries     # rounds of retry loops
    uint64_t busy        # SEAMCALLs that answered TDX_OPERAND_BUSY
    uint64_t kicks       # vCPUs it made leave the guest
    uint64_t yields      # cond_resched_rwlock that dropped mmu_lock

cdef struct Cpu

cdef struct Rcu:
    RcuHead *head        # first: the word a barrier looks at is the object itself
    RcuHead *tail
    uint64_t gp          # grace-period counter; readers sample it
    SpinLock lock
    Cpu **cpus           # everybody who may be inside a read section
    int32_t ncpu
    uint32_t no_grace    # broken design: callbacks do not wait for readers
    void (*callback)(Cpu *c, void *owner, RcuHead *head) noexcept nogil
    void *owner

cdef struct CpuOffer:        # the access a CPU offers the scheduler
    int32_t kind         # SyncKind
    uint64_t obj
    uint64_t arg

cdef struct CpuTables:       # the page tables' memory, as far as a CPU looks after it
    const uint8_t *freed     # use after free: one byte per page, 1 = freed
    uint64_t base
    uint64_t count
    uint8_t *dirty           # one byte per page, set where this CPU writes: what a restore must copy back
    void *arena              # for on_freed
    void (*on_freed)(Cpu *c, int kind, uint64_t addr) noexcept nogil
    uint64_t uaf_count       # uses of freed tables, and where the first one was
    uint64_t uaf_gfn
    int32_t uaf_level

cdef struct CpuHeld:         # lockdep
    int32_t mmu_read
    int32_t mmu_write
    int32_t pages_lock
    int32_t slots_lock

cdef struct CpuRetry:        # the retry loop it is in
    uint64_t key
    uint32_t count
    uint32_t limit
    uint64_t ns              # and as long as this, at least, where others may merely be slow; 0: rounds alone decide
    uint64_t since           # when the rounds with this key began to be timed
    int32_t why              # RetryWhy

cdef struct CpuScript:       # what the external hooks of a VM without a module return, in order
    const int32_t *ret
    uint32_t len
    uint32_t pos

cdef struct CpuFound:        # what went wrong on a CPU
    uint32_t checks          # Check bits
    uint32_t asserts[4]      # by AssertKind
    const char *first_fn[4]
    const char *first_id[4]

cdef struct CpuResched:      # need_resched()
    uint32_t at              # 0 never, 1 always, n from the n-th call on
    uint32_t calls
    bint gp_at_yield         # a grace period ends whenever a walk yields

cdef struct CpuNoMem:        # allocations of the operation that fail on purpose, by NoMem
    bint on              # some do
    uint32_t skip[3]     # so many succeed before
    uint32_t count[3]    # and so many fail then
    uint32_t failed

cdef struct CpuCode:         # the design file's code that runs on a CPU
    int32_t depth        # its calls that are under way; 0: none, and what follows means nothing
    uint32_t line        # of the file: what makes the access offered now; 0: the core itself
    uint64_t pc          # where the file's machine code makes it, when it is a plain access
    uint32_t called      # the line that called the core function now running
    uint64_t seen        # digests what the file's code read since it last went round a loop
    uint64_t frozen      # the SPTE it found frozen last, since then
    void *iter           # the walk whose SPTE it failed to set last: going on with it is going round
    int32_t error        # and what that failed with
    const char *id       # what the file calls the assertion that is about to fire; NULL: its condition
    uint64_t uaf         # the freed table whose descriptor this call of the file used last: told once
    uint32_t steps       # accesses made, so that code that makes none is noticed
    uint64_t stack       # the stack that a fiber runs on: [stack, stack_end)
    uint64_t stack_end

cdef struct Cpu:
    int32_t id
    int32_t lp           # the logical processor it runs on, for the module
    uint32_t slow        # SLOW_* bits; zero on native threads
    void (*yield_to)(Cpu *c) noexcept nogil   # to the scheduler's stack and back
    void *fiber
    CpuOffer offer
    CpuTables tables
    void (*on_rmw)(Cpu *c, uint64_t *sptep) noexcept nogil
    uint64_t rmw_count
    # RCU
    Rcu *rcu
    int32_t rcu_depth
    uint64_t rcu_seq     # 0 outside a read section (and outside of mmu_lock for read, see reader_slot_set())
    uint64_t reading     # the RwLock this CPU holds for read through its slot, which is this word; 0: none
    CpuHeld held
    CpuResched resched
    CpuRetry retry
    CpuScript script
    CpuCode code
    bint hook_raised     # a Python hook raised in this operation: its loops end
    uint64_t used_up     # scripted failures and injected faults so far: a retry after one is not the same round again
    # results
    Event scratch        # where records go when memory ran out
    Trace *trace         # NULL: nothing is recorded
    CpuFound found
    int32_t abort
    bint dead            # after BUG(): nothing is recorded any more
    uint64_t step
    tdp_landing *landing
    void *vm             # whose CPU this is (Kvm or a test's own)
    bint has_roots       # a vCPU of its own: root[] counts, not the VM's vcpu_root[]
    void *root[4]        # Sp *, by RootKind of the MMU
    void *user           # the layer that drives this CPU
    uint64_t pages[3]    # leaves by level that this CPU added, less those it removed
    uint64_t noise       # state of the noise's random numbers, never 0
    Counters count
    CpuNoMem nomem


cdef uint64_t now_ns() noexcept nogil
cdef bint out_of_memory(Cpu *c, int what) noexcept nogil

# Whether an allocation (NoMem) fails on purpose: a scenario may say so of the n-th of an operation.
cdef inline bint no_memory(Cpu *c, int what) noexcept nogil:
    return tdp_unlikely(c.nomem.on) and out_of_memory(c, what)

# The CPU that this OS thread runs a design file's code for: its functions have no argument that says so. Set at every
# entry of such code and after every switch back to a fiber inside it.
cdef Cpu *running_cpu() noexcept nogil
cdef void run_as(Cpu *c) noexcept nogil

cdef inline uint64_t xorshift(uint64_t *x) noexcept nogil:
    x[0] ^= x[0] << 13
    x[0] ^= x[0] >> 7
    x[0] ^= x[0] << 17
    return x[0] * 0x2545f4914f6cdd1du

cdef void sync_slow(Cpu *c, int kind, uint64_t obj) noexcept nogil
cdef void sync_init_cpu(Cpu *c, int32_t id) noexcept nogil
cdef Cpu *sync_new_cpu(int32_t id) noexcept nogil
cdef bint sync_enabled(const Cpu *c) noexcept nogil
cdef void sync_retry(Cpu *c, uint64_t key) noexcept nogil
cdef void sync_wait_eq(Cpu *c, uint32_t *word, uint32_t value) noexcept nogil
cdef void sync_abort(Cpu *c, int code) noexcept nogil
cdef void sync_assert(Cpu *c, int kind, const char *fn, const char *id) noexcept nogil

cdef inline void sync_point(Cpu *c, int kind, uint64_t obj) noexcept nogil:
    if tdp_unlikely(c.slow != 0):
        sync_slow(c, kind, obj)

# A word that only rare operations change: roots that come and go, a slot's flags, the TD's life. Offered only if some
# thread of the scenario has such an operation; in all others the word is constant and the step would be wasted.
cdef inline void sync_rare(Cpu *c, int kind, uint64_t obj) noexcept nogil:
    if tdp_unlikely(c.slow & SLOW_RARE != 0):
        sync_slow(c, kind, obj)

# The four ways to touch an SPTE (or any word another CPU may touch). May yield.
cdef inline uint64_t sync_load(Cpu *c, const uint64_t *p) noexcept nogil:
    sync_point(c, SYNC_LOAD, <uint64_t>p)
    return tdp_read_once(p)

cdef inline void sync_store(Cpu *c, uint64_t *p, uint64_t v) noexcept nogil:
    sync_point(c, SYNC_STORE, <uint64_t>p)
    tdp_write_once(p, v)

cdef inline uint64_t sync_xchg(Cpu *c, uint64_t *p, uint64_t v) noexcept nogil:
    if tdp_unlikely(c.slow != 0):
        c.offer.arg = 1          # unlike a cmpxchg it writes for certain
        sync_slow(c, SYNC_RMW, <uint64_t>p)
        c.offer.arg = 0
    return tdp_xchg(p, v)

cdef inline bint sync_try_cmpxchg(Cpu *c, uint64_t *p, uint64_t *old, uint64_t v) noexcept nogil:
    sync_point(c, SYNC_RMW, <uint64_t>p)
    if tdp_try_cmpxchg(p, old, v):
        return True
    c.count.lost_cmpxchg += 1
    return False

cdef inline uint64_t sync_fetch_and(Cpu *c, uint64_t *p, uint64_t v) noexcept nogil:
    sync_point(c, SYNC_RMW, <uint64_t>p)
    return tdp_fetch_and(p, v)

# mmu_lock. The first three may block (and yield); lockdep state is kept on the CPU.
#
# On native threads a reader takes the lock by a store to a word of its own, so that readers share no cache line they
# write. A writer claims the lock first, then waits until no slot names it: who comes later sees the claim. Under the
# explorer readers are counted in the lock itself, where a snapshot holds them and the scheduler can see them.
cdef void read_lock_slow(Cpu *c, RwLock *l) noexcept nogil
cdef void read_unlock_counted(Cpu *c, RwLock *l) noexcept nogil

cdef inline void reader_slot_clear(Cpu *c) noexcept nogil:
    if c.rcu_depth == 0:
        tdp_store_release(&c.rcu_seq, 0)
    tdp_store_release(&c.reading, 0)

cdef inline bint reader_slot_set(Cpu *c, RwLock *l) noexcept nogil:
    """Takes the lock through this CPU's slot; False, and nothing taken, while a writer has it."""
    if c.rcu_depth == 0:
        # An RCU read section nearly always follows: announced here, the store below orders it as well.
        tdp_write_once(&c.rcu_seq, tdp_load_seq(&c.rcu.gp))
    # Both in one order for all CPUs: either the load sees the writer's claim, or the writer sees the slot.
    tdp_store_seq(&c.reading, <uint64_t>l)
    if tdp_likely(tdp_load_seq(&l.val) != RW_WRITER):
        return True
    reader_slot_clear(c)
    return False

cdef inline void read_lock(Cpu *c, RwLock *l) noexcept nogil:
    if tdp_likely(c.slow & SLOW_YIELD == 0 and c.held.mmu_read == 0 and c.rcu != NULL):
        if tdp_likely(reader_slot_set(c, l)):
            c.held.mmu_read = 1
            return
    read_lock_slow(c, l)

cdef inline void read_unlock(Cpu *c, RwLock *l) noexcept nogil:
    if tdp_likely(c.reading == <uint64_t>l):
        c.held.mmu_read -= 1
        if c.held.mmu_read == 0:
            reader_slot_clear(c)
        return
    read_unlock_counted(c, l)

cdef void write_lock(Cpu *c, RwLock *l) noexcept nogil
cdef void write_unlock(Cpu *c, RwLock *l) noexcept nogil
cdef void spin_lock(Cpu *c, SpinLock *l) noexcept nogil
cdef void spin_unlock(Cpu *c, SpinLock *l) noexcept nogil

cdef inline bint need_resched(Cpu *c) noexcept nogil:
    if tdp_unlikely(c.resched.at != 0):
        c.resched.calls += 1
        return c.resched.calls >= c.resched.at
    return False

cdef inline void lockdep_assert_held(Cpu *c, const char *fn, const char *id) noexcept nogil:
    if tdp_unlikely(c.held.mmu_read == 0 and c.held.mmu_write == 0):
        sync_assert(c, ASSERT_LOCKDEP, fn, id)

cdef inline void lockdep_assert_held_write(Cpu *c, const char *fn, const char *id) noexcept nogil:
    if tdp_unlikely(c.held.mmu_write == 0):
        sync_assert(c, ASSERT_LOCKDEP, fn, id)

cdef inline void lockdep_assert_held_read(Cpu *c, const char *fn, const char *id) noexcept nogil:
    if tdp_unlikely(c.held.mmu_read == 0):
        sync_assert(c, ASSERT_LOCKDEP, fn, id)

# RCU
cdef void rcu_init(Rcu *r) noexcept nogil
cdef inline void rcu_read_lock(Cpu *c) noexcept nogil:
    c.rcu_depth += 1
    if c.rcu_depth == 1 and c.rcu != NULL:
        sync_point(c, SYNC_RCU_LOCK, <uint64_t>c.rcu)
        # The store must be visible before the first pointer is followed: full order, as smp_mb() in a lock. With
        # mmu_lock for read that was seen to.
        if c.rcu_seq == 0:
            tdp_store_seq(&c.rcu_seq, tdp_load_seq(&c.rcu.gp))

cdef inline void rcu_read_unlock(Cpu *c) noexcept nogil:
    if c.rcu_depth == 1 and c.rcu != NULL:
        sync_point(c, SYNC_RCU_UNLOCK, <uint64_t>c.rcu)
        tdp_store_release(&c.rcu_seq, 0)
    c.rcu_depth -= 1

cdef bint call_rcu(Cpu *c, RcuHead *head, uint64_t page) noexcept nogil
cdef RcuHead *rcu_ready(Rcu *r) noexcept nogil
cdef int rcu_run(Cpu *c, Rcu *r, int most) noexcept nogil
cdef int rcu_barrier(Cpu *c, Rcu *r) noexcept nogil

# Trace
cdef Event *trace_new(Cpu *c, int kind) noexcept nogil
cdef void trace_reset(Trace *t) noexcept nogil
cdef void trace_free(Trace *t) noexcept nogil

cdef inline void trace1(Cpu *c, int kind, uint64_t a) noexcept nogil:
    cdef Event *e
    if tdp_unlikely(c.trace != NULL):
        e = trace_new(c, kind)
        e.a[0] = a

cdef inline void trace3(Cpu *c, int kind, uint64_t a0, uint64_t a1, uint64_t a2) noexcept nogil:
    cdef Event *e
    if tdp_unlikely(c.trace != NULL):
        e = trace_new(c, kind)
        e.a[0] = a0
        e.a[1] = a1
        e.a[2] = a2

cdef inline void trace5(Cpu *c, int kind, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3,
                        uint64_t a4) noexcept nogil:
    cdef Event *e
    if tdp_unlikely(c.trace != NULL):
        e = trace_new(c, kind)
        e.a[0] = a0
        e.a[1] = a1
        e.a[2] = a2
        e.a[3] = a3
        e.a[4] = a4
