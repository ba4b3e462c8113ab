# cython: language_level=3
"""Small programs that show the explorer at work: a freeze protocol over a few words, and scripts.

A script is one list of instructions per thread over a handful of words, locks and pages. Each thread digests the
values it read, so two schedules end in the same state only if every thread saw the same.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
import random

from tdpfast._names cimport (
    CHECK_AGREE, CHECK_FROZEN, CHECK_STAT, MAX_THREADS, SYNC_HOOK, SYNC_OP, SYNC_PUT_EXCL, SYNC_PUT_SHARED,
    SYNC_RMW, SYNC_TRY_EXCL, SYNC_TRY_SHARED,
)
from tdpfast._sync.atomic cimport tdp_cpu_yield
from tdpfast._explore.explorer cimport ProgramRef
from tdpfast._explore.execution cimport Program
from tdpfast._sync.cpu cimport (
    ABORT_BUG, SLOW_CHECK, Cpu, Event, Rcu, RcuHead, RwLock, SpinLock, Trace, call_rcu, rcu_barrier, rcu_init,
    rcu_read_lock, rcu_read_unlock, read_lock, read_unlock, spin_lock, spin_unlock, sync_abort, sync_init_cpu,
    sync_load, sync_new_cpu, sync_point, sync_retry, sync_store, sync_try_cmpxchg, sync_wait_eq, sync_xchg,
    trace_free, trace_reset, write_lock, write_unlock,
)

from tdpfast._arguments import one_of
from tdpfast.errors import UsageError

cdef enum:
    WORDS = 16
    PAGES = 4
    FROZEN = 0x1a0

OPS = (
    "op", "load", "store", "add", "xchg", "cmpxchg", "lock", "unlock", "rlock", "runlock", "wlock", "wunlock",
    "await", "await_not", "wait", "try", "put", "tries", "puts", "rcu", "end_rcu", "call_rcu", "barrier", "look",
    "bug_if", "hook", "spin",
)

cdef enum Op:
    OP_OP = 0        # the next operation begins
    OP_LOAD          # a: word
    OP_STORE         # a: word, b: value
    OP_ADD           # a: word, b: value; a load and a store, which is the point
    OP_XCHG          # a: word, b: value
    OP_CMPXCHG       # a: word, b: old, c: new
    OP_LOCK          # a: spin lock
    OP_UNLOCK
    OP_RLOCK         # a: rwlock
    OP_RUNLOCK
    OP_WLOCK
    OP_WUNLOCK
    OP_AWAIT         # goes round until word a == b
    OP_AWAIT_NOT
    OP_WAIT          # blocks until word a == b
    OP_TRY           # goes round until word a could be taken (0 -> 1)
    OP_PUT
    OP_TRY_SHARED    # goes round until word a could be shared (+2)
    OP_PUT_SHARED
    OP_RCU
    OP_END_RCU
    OP_CALL_RCU      # a: page
    OP_BARRIER
    OP_LOOK          # reads page a
    OP_BUG_IF        # BUG() if the last value read is a
    OP_HOOK
    OP_SPIN          # toggles word a until word b is nonzero: keeps others awake

cdef struct Instr:
    int32_t op
    uint64_t a
    uint64_t b
    uint64_t c

cdef struct Script:
    Instr *code
    uint32_t n
    uint32_t pc
    uint64_t seen        # digest of the values read
    uint64_t last

cdef struct Toy:
    Program program
    Cpu cpu[17]
    Cpu *cpus[17]
    void *args[16]
    uint64_t word[16]
    uint64_t shadow[16]
    uint64_t initial[16]
    SpinLock spin[16]
    RwLock rw[16]
    Rcu rcu
    RcuHead heads[4]
    uint8_t freed[4]
    uint64_t *pages
    Script script[16]
    int words
    int mappers
    bint broken
    Trace trace          # all CPUs', in order
    int counter          # STAT unless word 0 ends with this value; -1: not checked


cdef class ToyRef(ProgramRef):
    """Owns one toy program."""
    cdef Toy *t
    cdef readonly list hooks

    def __cinit__(self, *args, **kwargs):
        self.hooks = []
        self.t = <Toy *>calloc(1, sizeof(Toy))
        if self.t == NULL:
            raise MemoryError
        self.t.counter = -1

    def __dealloc__(self):
        if self.t != NULL:
            for i in range(<int>MAX_THREADS):
                free(self.t.script[i].code)
            free(self.t.pages)
            trace_free(&self.t.trace)
        free(self.t)

    @property
    def words(self):
        """The words as the last execution left them."""
        return [self.t.word[i] for i in range(WORDS)]

    @property
    def trace(self):
        """What the last replay recorded: (event kind, cpu, step, first four operands)."""
        cdef Event *e
        cdef size_t i
        events = []
        for i in range(self.t.trace.n):
            e = &self.t.trace.ev[i]
            events.append((e.kind, e.cpu, e.step, e.a[0], e.a[1], e.a[2], e.a[3]))
        return events


cdef void toy_setup(Toy *t, int nthreads) noexcept nogil:
    cdef int i
    cdef Program *p = &t.program
    for i in range(nthreads + 1):
        sync_init_cpu(&t.cpu[i], i)
        t.cpu[i].vm = t
        t.cpu[i].trace = &t.trace
        t.cpus[i] = &t.cpu[i]
    p.nthreads = nthreads
    p.cpus = t.cpus
    p.args = t.args
    p.user = t


cdef inline uint64_t mix(uint64_t h, uint64_t v) noexcept nogil:
    h = (h ^ v) * 0xff51afd7ed558ccdu
    return h ^ (h >> 32)


# ---- freeze, update, unfreeze ---------------------------------------------------------------------------------

cdef void freeze_reset(void *user) noexcept nogil:
    cdef Toy *t = <Toy *>user
    memset(t.word, 0, sizeof(t.word))
    memset(t.shadow, 0, sizeof(t.shadow))


cdef void freeze_body(Cpu *c, void *arg) noexcept nogil:
    """Thread i writes i + 1 into every word, the last one (the zapper) 0: freeze, shadow, unfreeze. Yields."""
    cdef Toy *t = <Toy *>c.vm
    cdef uint64_t own = <uint64_t>arg
    cdef uint64_t old
    cdef int i
    for i in range(t.words):
        old = sync_load(c, &t.word[i])
        if old == FROZEN or old == own:
            continue
        if not sync_try_cmpxchg(c, &t.word[i], &old, own if t.broken else FROZEN):
            continue
        sync_store(c, &t.shadow[i], own)
        if not t.broken:
            sync_store(c, &t.word[i], own)


cdef uint32_t freeze_check(void *user, bint quiescent) noexcept nogil:
    cdef Toy *t = <Toy *>user
    cdef uint32_t bits = 0
    cdef int i
    for i in range(t.words):
        if t.word[i] == FROZEN:
            bits |= CHECK_FROZEN
        elif t.word[i] != t.shadow[i]:
            bits |= CHECK_AGREE
    return bits if quiescent else 0


cdef uint64_t freeze_digest(void *user) noexcept nogil:
    cdef Toy *t = <Toy *>user
    cdef uint64_t h = 1
    cdef int i
    for i in range(t.words):
        h = mix(mix(h, t.word[i]), t.shadow[i])
    return h


def freeze(int mappers, *, int words=2, bint broken=False):
    """Mappers and one zapper on the freeze, update, unfreeze protocol; broken: without the freeze."""
    if not 1 <= mappers < MAX_THREADS or not 1 <= words <= WORDS:
        raise UsageError(f"{mappers} mappers, {words} words", "out of range", "1 to 15 mappers and 1 to 16 words")
    cdef ToyRef ref = ToyRef()
    cdef Toy *t = ref.t
    cdef int i
    toy_setup(t, mappers + 1)
    t.mappers = mappers
    t.words = words
    t.broken = broken
    for i in range(mappers):
        t.args[i] = <void *><size_t>(i + 1)
    t.program.body = freeze_body
    t.program.reset = freeze_reset
    t.program.check = freeze_check
    t.program.digest = freeze_digest
    ref.p = &t.program
    return ref


# ---- scripts --------------------------------------------------------------------------------------------------

cdef inline void script_saw(Script *s, uint64_t v) noexcept nogil:
    s.last = v
    s.seen = mix(s.seen, v + 1)


cdef void run_word_op(Cpu *c, Toy *t, Script *s, const Instr *i) noexcept nogil:
    """Plain accesses and locks. Yields."""
    cdef uint64_t old
    if i.op == OP_LOAD:
        script_saw(s, sync_load(c, &t.word[i.a]))
    elif i.op == OP_STORE:
        sync_store(c, &t.word[i.a], i.b)
    elif i.op == OP_ADD:
        old = sync_load(c, &t.word[i.a])
        sync_store(c, &t.word[i.a], old + i.b)
    elif i.op == OP_XCHG:
        script_saw(s, sync_xchg(c, &t.word[i.a], i.b))
    elif i.op == OP_CMPXCHG:
        old = i.b
        sync_try_cmpxchg(c, &t.word[i.a], &old, i.c)
        script_saw(s, old)
    elif i.op == OP_LOCK:
        spin_lock(c, &t.spin[i.a])
    elif i.op == OP_UNLOCK:
        spin_unlock(c, &t.spin[i.a])
    elif i.op == OP_RLOCK:
        read_lock(c, &t.rw[i.a])
    elif i.op == OP_RUNLOCK:
        read_unlock(c, &t.rw[i.a])
    elif i.op == OP_WLOCK:
        write_lock(c, &t.rw[i.a])
    elif i.op == OP_WUNLOCK:
        write_unlock(c, &t.rw[i.a])


cdef bint try_take(Cpu *c, Toy *t, const Instr *i) noexcept nogil:
    """A module lock: 1 exclusive, 2 per reader. Yields."""
    if i.op == OP_TRY:
        sync_point(c, SYNC_TRY_EXCL, <uint64_t>&t.word[i.a])
        if t.word[i.a] != 0:
            return False
        t.word[i.a] = 1
        return True
    sync_point(c, SYNC_TRY_SHARED, <uint64_t>&t.word[i.a])
    if t.word[i.a] & 1:
        return False
    t.word[i.a] += 2
    return True


cdef void run_loop_op(Cpu *c, Toy *t, Script *s, const Instr *i) noexcept nogil:
    """Retry loops and module locks. Yields."""
    cdef uint64_t v
    if i.op == OP_AWAIT or i.op == OP_AWAIT_NOT:
        while True:
            v = sync_load(c, &t.word[i.a])
            if (v == i.b) == (i.op == OP_AWAIT):
                break
            sync_retry(c, v)
        script_saw(s, v)
    elif i.op == OP_WAIT:
        sync_wait_eq(c, <uint32_t *>&t.word[i.a], <uint32_t>i.b)
    elif i.op == OP_TRY or i.op == OP_TRY_SHARED:
        while not try_take(c, t, i):
            sync_retry(c, i.a)
    elif i.op == OP_PUT:
        sync_point(c, SYNC_PUT_EXCL, <uint64_t>&t.word[i.a])
        t.word[i.a] = 0
    elif i.op == OP_PUT_SHARED:
        sync_point(c, SYNC_PUT_SHARED, <uint64_t>&t.word[i.a])
        t.word[i.a] -= 2
    elif i.op == OP_SPIN:
        while sync_load(c, &t.word[i.b]) == 0:
            sync_point(c, SYNC_RMW, <uint64_t>&t.word[i.a])
            t.word[i.a] += 1
            sync_retry(c, i.a)


cdef void run_rcu_op(Cpu *c, Toy *t, Script *s, const Instr *i) noexcept nogil:
    """Read sections, pages and the rest. Yields."""
    if i.op == OP_RCU:
        rcu_read_lock(c)
    elif i.op == OP_END_RCU:
        rcu_read_unlock(c)
    elif i.op == OP_CALL_RCU:
        call_rcu(c, &t.heads[i.a], <uint64_t>t.pages + (i.a << 12))
    elif i.op == OP_BARRIER:
        rcu_barrier(c, &t.rcu)
    elif i.op == OP_LOOK:
        script_saw(s, sync_load(c, t.pages + (i.a << 9)))
    elif i.op == OP_BUG_IF and s.last == i.a:
        sync_abort(c, ABORT_BUG)
    elif i.op == OP_HOOK:
        sync_point(c, SYNC_HOOK, i.a)
    elif i.op == OP_OP:
        sync_point(c, SYNC_OP, i.a)


cdef void script_body(Cpu *c, void *arg) noexcept nogil:
    cdef Toy *t = <Toy *>c.vm
    cdef Script *s = &t.script[c.id]
    cdef const Instr *i
    while s.pc < s.n:
        i = &s.code[s.pc]
        if OP_LOAD <= i.op <= OP_WUNLOCK:
            run_word_op(c, t, s, i)
        elif OP_AWAIT <= i.op <= OP_PUT_SHARED or i.op == OP_SPIN:
            run_loop_op(c, t, s, i)
        else:
            run_rcu_op(c, t, s, i)
        s.pc += 1


cdef void page_freed(Cpu *c, void *owner, RcuHead *head) noexcept nogil:
    cdef Toy *t = <Toy *>owner
    cdef uint64_t i = (head.page - <uint64_t>t.pages) >> 12
    t.freed[i] = 1
    t.pages[i << 9] = 0xdead
    head.epoch = 0


cdef void script_reset(void *user) noexcept nogil:
    cdef Toy *t = <Toy *>user
    cdef Rcu *r = &t.rcu
    cdef int i
    cdef uint32_t no_grace = r.no_grace
    trace_reset(&t.trace)
    for i in range(WORDS):
        t.word[i] = t.initial[i]
        t.spin[i].val = t.rw[i].val = 0
    for i in range(t.program.nthreads):
        t.script[i].pc = 0
        t.script[i].seen = t.script[i].last = 0
    if t.pages == NULL:
        return
    for i in range(PAGES):
        t.freed[i] = 0
        t.pages[i << 9] = 0
    memset(t.heads, 0, sizeof(t.heads))
    rcu_init(r)
    r.no_grace = no_grace
    r.cpus = t.cpus
    r.ncpu = t.program.nthreads
    r.callback = page_freed
    r.owner = t


cdef uint32_t script_check(void *user, bint quiescent) noexcept nogil:
    cdef Toy *t = <Toy *>user
    return CHECK_STAT if quiescent and t.counter >= 0 and t.word[0] != <uint64_t>t.counter else 0


cdef uint64_t script_digest(void *user) noexcept nogil:
    cdef Toy *t = <Toy *>user
    cdef uint64_t h = 1
    cdef int i
    for i in range(WORDS):
        h = mix(h, t.word[i])
        h = mix(h, t.spin[i].val * 3 + t.rw[i].val)
    for i in range(PAGES):
        h = mix(h, t.freed[i])
    for i in range(t.program.nthreads):
        h = mix(mix(h, t.script[i].pc), t.script[i].seen)
        h = mix(h, t.cpu[i].found.checks)
    return h


cdef void call_hook(Cpu *c) noexcept with gil:
    (<ToyRef>c.user).hooks.append((c.id, c.offer.obj))


cdef int load_thread(Toy *t, int i, list code) except -1:
    cdef Script *s = &t.script[i]
    cdef Instr *ins
    s.n = len(code)
    s.code = <Instr *>calloc(s.n + 1, sizeof(Instr))
    if s.code == NULL:
        raise MemoryError
    for k in range(s.n):
        if not isinstance(code[k], (list, tuple)) or not code[k]:
            raise UsageError(f"not an instruction: {code[k]!r}", "no name and operands", '("store", 0, 1)')
        name, *operands = code[k]
        if name not in OPS or len(operands) > 3:
            raise UsageError(f"not an instruction: {code[k]!r}", "unknown, or too long", one_of(OPS))
        operands += [0] * (3 - len(operands))
        ins = &s.code[k]
        ins.op = OPS.index(name)
        ins.a, ins.b, ins.c = operands
        limit = PAGES if name in ("look", "call_rcu") else WORDS
        if name not in ("bug_if", "hook", "op") and ins.a >= limit or name == "spin" and ins.b >= WORDS:
            raise UsageError(f"no such word, lock or page: {code[k]!r}", "out of range", f"0..{limit - 1}")
    return 0


def script(threads, *, initial=(), counter=-1, rcu=False, grace=True, hidden=False, every=False):
    """A program from one instruction list per thread, for example [("lock", 0), ("add", 0, 1), ("unlock", 0)].

    counter: the check `stat` fails unless word 0 ends so. rcu: with read sections and pages that can be freed;
    grace=False frees them without waiting for readers. every: check between operations, too.
    """
    if not 1 <= len(threads) <= MAX_THREADS or len(initial) > WORDS:
        raise UsageError(f"{len(threads)} threads, {len(initial)} words", "out of range", "1 to 16, and at most 16")
    cdef ToyRef ref = ToyRef()
    cdef Toy *t = ref.t
    cdef int i
    toy_setup(t, len(threads))
    for i in range(len(threads)):
        load_thread(t, i, list(threads[i]))
        t.cpu[i].user = <void *>ref
    if not rcu and any([code[0] in ("call_rcu", "barrier", "look") for thread in threads for code in thread]):
        raise UsageError("call_rcu, barrier and look", "there is no RCU", "rcu=True")
    for i in range(len(initial)):
        t.initial[i] = initial[i]
    t.counter = counter
    if rcu:
        script_rcu(t, grace)
    t.program.body = script_body
    t.program.reset = script_reset
    t.program.check = script_check
    t.program.digest = script_digest
    t.program.python_hook = call_hook
    t.program.hidden_state = hidden
    t.program.check_every_quiescent = every
    ref.p = &t.program
    return ref


cdef int script_rcu(Toy *t, bint grace) except -1:
    cdef int i
    t.pages = <uint64_t *>calloc(PAGES + 1, 4096)
    if t.pages == NULL:
        raise MemoryError
    t.rcu.no_grace = not grace
    t.program.rcu = &t.rcu
    t.program.rcu_cpu = &t.cpu[t.program.nthreads]
    for i in range(t.program.nthreads):
        t.cpu[i].rcu = &t.rcu
        t.cpu[i].slow = SLOW_CHECK
        t.cpu[i].tables.freed = t.freed
        t.cpu[i].tables.base = <uint64_t>t.pages
        t.cpu[i].tables.count = PAGES
    return 0


# ---- random scripts -------------------------------------------------------------------------------------------

def random_threads(seed, *, threads=0, length=4, words=2, locks=2, loops=True, rcu=False, bugs=True):
    """Instruction lists from a seed: locks are balanced, loops may stand for ever."""
    rng = random.Random(seed)
    count = threads or rng.randint(2, 3)
    return [_random_thread(rng, i, length, words, locks, loops, rcu, bugs) for i in range(count)]


def _random_thread(rng, i, length, words, locks, loops, rcu, bugs):
    code, held, reading = [], [], False
    for _ in range(rng.randint(1, length)):
        pick = rng.random()
        word = rng.randrange(words)
        if pick < 0.2 and locks:
            lock, kind = rng.randrange(locks), rng.choice(("lock", "rlock", "wlock", "try", "tries"))
            at = 8 + lock if kind in ("try", "tries") else lock
            if all(lock != other for _, other in held):
                code.append((kind, at))
                held.append((kind, lock))
        elif pick < 0.3 and held:
            code.append(_release(*held.pop(rng.randrange(len(held)))))
        elif pick < 0.42 and loops:
            code.append((rng.choice(("await", "await_not", "wait")), word, rng.randrange(3)))
        elif pick < 0.6 and rcu:
            page = rng.randrange(2)
            kind = rng.choice(("look", "call_rcu", "rcu", "look"))
            if kind == "rcu":
                code.append(("end_rcu",) if reading else ("rcu",))
                reading = not reading
            else:
                code.append((kind, page))
        elif pick < 0.64 and bugs:
            code.append(("bug_if", rng.randrange(3)))
        elif pick < 0.67:
            code.append(("op", 0))
        else:
            kind = rng.choice(("load", "load", "store", "store", "add", "xchg", "cmpxchg"))
            code.append((kind, word, rng.randrange(3), rng.randrange(3)))
    code += [_release(*lock) for lock in reversed(held)]
    return code + [("end_rcu",)] if reading else code


def _release(kind, lock):
    name = {"lock": "unlock", "rlock": "runlock", "wlock": "wunlock", "try": "put", "tries": "puts"}[kind]
    return (name, 8 + lock if kind in ("try", "tries") else lock)


# ---- a lock on native threads -----------------------------------------------------------------------------------

cdef class LockTorture:
    """One RwLock between native threads: writers move two plain words together, readers look whether they are apart.
    Thread-safety: one thread per CPU."""
    cdef RwLock lock
    cdef Rcu rcu
    cdef Cpu *cpus[16]
    cdef uint64_t word[2]
    cdef readonly int ncpu

    def __cinit__(self, int ncpu):
        cdef int i
        if not 1 <= ncpu <= 16:
            raise UsageError(f"{ncpu} CPUs", "out of range", "1..16")
        rcu_init(&self.rcu)
        for i in range(ncpu):
            self.cpus[i] = sync_new_cpu(i)
            if self.cpus[i] == NULL:
                raise MemoryError("no memory for a CPU")
            self.cpus[i].rcu = &self.rcu
        self.rcu.cpus = self.cpus
        self.rcu.ncpu = self.ncpu = ncpu

    def __dealloc__(self):
        cdef int i
        for i in range(16):
            free(self.cpus[i])

    cdef Cpu *cpu(self, int i) except NULL:
        if not 0 <= i < self.ncpu:
            raise UsageError(f"CPU {i}", "out of range", f"0..{self.ncpu - 1}")
        return self.cpus[i]

    def write(self, int cpu, long n):
        """Moves the words n times."""
        cdef Cpu *c = self.cpu(cpu)
        cdef long i
        with nogil:
            for i in range(n):
                write_lock(c, &self.lock)
                self.word[0] += 1
                if i & 15 == 0:
                    tdp_cpu_yield()          # a chance for those who should wait
                self.word[1] += 1
                write_unlock(c, &self.lock)

    def read(self, int cpu, long n, bint nested=False):
        """Looks n times, under one read lock or one in another; how often the words were apart."""
        cdef Cpu *c = self.cpu(cpu)
        cdef long apart = 0, i
        cdef uint64_t first
        with nogil:
            for i in range(n):
                read_lock(c, &self.lock)
                if nested:
                    read_lock(c, &self.lock)
                    read_unlock(c, &self.lock)
                first = self.word[0]
                if i & 15 == 0:
                    tdp_cpu_yield()
                apart += first != self.word[1]
                read_unlock(c, &self.lock)
        return apart

    def hold(self, int cpu):
        """Takes the lock for read and keeps it until release()."""
        read_lock(self.cpu(cpu), &self.lock)

    def release(self, int cpu):
        """Gives it back."""
        read_unlock(self.cpu(cpu), &self.lock)

    @property
    def moved(self):
        """How often the words were moved, while nobody moves them (or somebody holds the lock)."""
        return self.word[0], self.word[1]

    @property
    def held(self):
        """Whether anybody holds the lock, while nobody takes it."""
        return self.lock.val != 0 or any([self.cpus[i].reading != 0 for i in range(self.ncpu)])
