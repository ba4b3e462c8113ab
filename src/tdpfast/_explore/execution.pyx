# cython: language_level=3
"""Running one execution on fibers (see execution.pxd for the contracts)."""

from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memset

from tdpfast._names cimport (
    CHECK_PROGRESS, END_ABORT, END_DIVERGED, END_DONE, END_PRUNED, END_RUNNING, END_SPIN, END_STEPS, END_STUCK,
    EV_STEP, MAX_THREADS, SYNC_ABORT, SYNC_DONE, SYNC_HOOK, SYNC_LOAD, SYNC_OP, SYNC_PUT_EXCL, SYNC_PUT_SHARED,
    SYNC_RCU_FREE, SYNC_READ_LOCK, SYNC_RETRY, SYNC_RMW, SYNC_START, SYNC_STORE, SYNC_TRY_SHARED, SYNC_WAIT,
)
from tdpfast._sync.fiber cimport tdp_fiber_arm, tdp_fiber_map, tdp_fiber_switch, tdp_fiber_unmap
from tdpfast._sync.atomic cimport tdp_unlikely
from tdpfast._sync.cpu cimport SLOW_YIELD, Event, rcu_ready, rcu_run, run_as, sync_enabled, trace_new


cdef int exec_init(Exec *x, Program *prog, uint32_t max_steps, uint32_t retry_bound) except -1:
    cdef int i
    memset(x, 0, sizeof(Exec))
    if not 1 <= prog.nthreads <= MAX_THREADS:
        raise ValueError(f"a program has 1 to {MAX_THREADS} threads, not {prog.nthreads}")
    x.prog = prog
    x.nthreads = prog.nthreads
    x.nagents = prog.nthreads + (1 if prog.rcu != NULL else 0)
    x.max_steps = max_steps
    x.retry_bound = retry_bound
    x.schedule = <uint8_t *>calloc(max_steps + 1, 1)
    if x.schedule == NULL:
        raise MemoryError
    for i in range(x.nagents):
        x.agent[i].exec = x
        x.agent[i].id = i
        x.agent[i].cpu = prog.rcu_cpu if i == x.nthreads else prog.cpus[i]
        x.agent[i].trace = x.agent[i].cpu.trace
        if i == x.nthreads:
            break
        x.agent[i].seen = <Seen *>malloc(SEEN_MAX * sizeof(Seen))
        x.agent[i].slots = <SeenSlot *>calloc(SEEN_SLOTS, sizeof(SeenSlot))
        if x.agent[i].seen == NULL or x.agent[i].slots == NULL or tdp_fiber_map(&x.agent[i].fiber) != 0:
            exec_free(x)
            raise MemoryError
    return 0


cdef void exec_free(Exec *x) noexcept nogil:
    cdef int i
    for i in range(MAX_THREADS):
        free(x.agent[i].seen)
        free(x.agent[i].slots)
        tdp_fiber_unmap(&x.agent[i].fiber)
    free(x.schedule)
    free(x.steps)
    memset(x, 0, sizeof(Exec))


# ---- fibers -------------------------------------------------------------------------------------------------

cdef void fiber_yield(Cpu *c) noexcept nogil:
    """Cpu.yield_to: leaves the fiber; returns when the scheduler chose this thread."""
    cdef Agent *g = <Agent *>c.fiber
    tdp_fiber_switch(&g.fiber, &g.exec.main)
    if tdp_unlikely(c.code.depth != 0):
        run_as(c)


cdef void fiber_main(void *arg) noexcept nogil:
    cdef Agent *g = <Agent *>arg
    g.exec.prog.body(g.cpu, g.exec.prog.args[g.id] if g.exec.prog.args != NULL else NULL)
    while True:
        g.cpu.offer.kind = SYNC_DONE
        g.cpu.offer.obj = 0
        fiber_yield(g.cpu)


cdef inline void run_to_offer(Exec *x, Agent *g) noexcept nogil:
    """Resumes the fiber until it offers an access that others could notice."""
    cdef Seen *seen = NULL
    cdef size_t record = 0
    cdef uint64_t obj = 0
    while True:
        tdp_fiber_switch(&x.main, &g.fiber)
        if record:
            g.cpu.trace.ev[record - 1].a[3] = word_at(SYNC_RMW, obj)
            record = 0
        if seen != NULL:
            seen.after = (<uint64_t *>seen.obj)[0]
            seen = NULL
        g.kind = g.cpu.offer.kind
        if g.kind == SYNC_OP or g.kind == SYNC_START:
            g.at_op = True
            seen_clear(g)
            continue
        # The first access of an operation stays a step: all threads may stand between two operations before it.
        if SYNC_LOAD <= g.kind <= SYNC_RMW and x.prog.lone != NULL and not g.at_op:
            if x.prog.lone(x.prog.user, g.id, g.kind, g.cpu.offer.obj):
                # A loop may go round for what it wrote itself: noted as if it had been read first, as it may have been.
                obj = g.cpu.offer.obj
                if g.kind != SYNC_LOAD:
                    seen = seen_access(g, SYNC_RMW, obj & ~<uint64_t>7)
                if x.record:             # no step, but a story tells it
                    record = trace_access(g, g.kind, obj, g.cpu.offer.arg, word_at(g.kind, obj))
                continue
        break
    g.obj = g.cpu.offer.obj
    g.arg = g.cpu.offer.arg


cdef inline void rcu_offer(Exec *x) noexcept nogil:
    cdef Agent *g
    if x.nagents > x.nthreads:
        g = &x.agent[x.nthreads]
        if x.prog.rcu.head != NULL:
            g.kind = SYNC_RCU_FREE
            g.obj = x.prog.rcu.head.page
            g.arg = x.prog.rcu.head.epoch
        else:
            g.kind = SYNC_DONE


cdef void attach(Exec *x) noexcept nogil:
    """From here on the threads' accesses go through the scheduler."""
    cdef int i
    for i in range(x.nthreads):
        x.agent[i].cpu.slow |= SLOW_YIELD


cdef void detach(Exec *x) noexcept nogil:
    cdef int i
    for i in range(x.nthreads):
        x.agent[i].cpu.slow &= ~<uint32_t>SLOW_YIELD


cdef void cpu_clear(Cpu *c) noexcept nogil:
    """What an execution cut short leaves behind on a CPU."""
    c.rcu_depth = c.held.mmu_read = c.held.mmu_write = c.held.pages_lock = c.held.slots_lock = 0
    c.rcu_seq = c.rmw_count = c.retry.key = c.used_up = c.step = 0
    c.resched.calls = c.retry.count = c.found.checks = 0
    memset(c.found.asserts, 0, sizeof(c.found.asserts))
    memset(c.found.first_fn, 0, sizeof(c.found.first_fn))
    memset(c.found.first_id, 0, sizeof(c.found.first_id))
    memset(&c.code, 0, sizeof(c.code))
    c.abort = 0
    c.dead = False
    c.offer.kind = SYNC_START


cdef void exec_begin(Exec *x) noexcept nogil:
    """Resets the program and runs every thread to its first offer."""
    cdef Agent *g
    cdef int i
    detach(x)
    if x.prog.cut != NULL:
        x.prog.cut(x.prog.user)
    for i in range(x.nagents):
        cpu_clear(x.agent[i].cpu)
    x.prog.reset(x.prog.user)
    x.current = -1
    x.depth = 0
    x.end = END_RUNNING
    x.checks = 0
    x.nsteps = 0
    x.spun = False
    for i in range(x.nagents):
        g = &x.agent[i]
        g.at_op = True
        g.equal = 0
        if not x.record:
            g.cpu.trace = NULL
        elif g.cpu.trace == NULL:
            g.cpu.trace = g.trace
        if i < x.nthreads:
            seen_clear(g)
            g.cpu.fiber = g
            g.cpu.yield_to = fiber_yield
            g.cpu.code.stack = <uint64_t>g.fiber.map
            g.cpu.code.stack_end = <uint64_t>g.fiber.map + g.fiber.map_len
            tdp_fiber_arm(&g.fiber, fiber_main, g)
    attach(x)
    for i in range(x.nthreads):
        run_to_offer(x, &x.agent[i])
    rcu_offer(x)
    if x.prog.watch != NULL:
        x.prog.watch(x.prog.user, -1, 0, 0, 0)


# ---- retry loops ---------------------------------------------------------------------------------------------
# A round of a loop is decided by the words it looked at. Going round again is useless as long as each of them was left
# alone by others during the round and since, and has the value that the round found first. What an operation did
# before its loop counts as part of the first round: at worst the loop goes round once for nothing. Words of earlier
# rounds count with their value at the last retry, so that a loop around the loop is woken as well.
# A module lock word is held exclusively if bit 0 is set: nothing else in it concerns somebody who wants to share it.
# What the loop itself did to such a word is no reason to go round. The state that Python hooks keep is one such word.

cdef inline uint64_t word_at(int kind, uint64_t obj) noexcept nogil:
    if kind == SYNC_WAIT:
        return (<uint32_t *>obj)[0]
    # A field smaller than a word is offered by its own address: it comes out lowest.
    return (<uint64_t *>(obj & ~<uint64_t>7))[0] >> 8 * (obj & 7)


cdef inline bint shows_word(int kind) noexcept nogil:
    """Whether the object is a word in memory."""
    return SYNC_LOAD <= kind <= SYNC_PUT_EXCL or kind == SYNC_WAIT


cdef inline bint may_decide(int kind) noexcept nogil:
    """The accesses that a loop may depend on: what blocks tells nothing once it is passed."""
    return SYNC_LOAD <= kind <= SYNC_RMW or SYNC_TRY_SHARED <= kind <= SYNC_PUT_EXCL


cdef inline void seen_clear(Agent *g) noexcept nogil:
    """A new operation has looked at nothing yet. Slots of older generations count as empty."""
    g.nseen = 0
    g.round = 0
    g.equal = 0
    g.has_key = g.seen_lost = False
    g.generation += 1
    if g.generation == 0:
        memset(g.slots, 0, SEEN_SLOTS * sizeof(SeenSlot))
        g.generation = 1


cdef inline Seen *seen_find(Agent *g, uint64_t obj) noexcept nogil:
    """The agent's note about the word at obj, made if there is none; NULL if there are too many."""
    cdef uint32_t h = <uint32_t>((obj * 0x9e3779b97f4a7c15u) >> 51)
    cdef SeenSlot *slot = &g.slots[h]
    cdef Seen *s
    while slot.generation == g.generation:
        s = &g.seen[slot.index]
        if s.obj == obj:
            return s
        h = (h + 1) & (SEEN_SLOTS - 1)
        slot = &g.slots[h]
    if g.nseen == SEEN_MAX:
        g.seen_lost = True
        return NULL
    slot.generation = g.generation
    slot.index = g.nseen
    s = &g.seen[g.nseen]
    g.nseen += 1
    s.obj = obj
    s.round = <uint64_t>-1
    return s


cdef inline Seen *seen_access(Agent *g, int kind, uint64_t obj) noexcept nogil:
    """The agent is about to access the word at obj; the caller sets Seen.after when it has."""
    cdef Seen *s = seen_find(g, obj)
    cdef uint64_t val = (<uint64_t *>obj)[0]
    cdef uint64_t mask = 1 if kind == SYNC_TRY_SHARED or kind == SYNC_PUT_SHARED else ~<uint64_t>0
    cdef bint blind = kind == SYNC_STORE or kind == SYNC_PUT_SHARED or kind == SYNC_PUT_EXCL
    if s == NULL:
        return NULL
    if s.round != g.round:
        s.round = g.round
        s.first = val
        s.mask = mask
        s.own = blind or SYNC_TRY_SHARED <= kind
        s.disturbed = False
        return s
    s.mask |= mask
    if not blind and (val ^ s.after) & s.mask:
        s.disturbed = True
    return s


cdef inline bint seen_changed(const Agent *g) noexcept nogil:
    """Whether another round could differ from the last."""
    cdef const Seen *s
    cdef uint64_t val
    cdef uint32_t i
    for i in range(g.nseen):
        s = &g.seen[i]
        val = (<uint64_t *>s.obj)[0]
        if s.disturbed or (val ^ s.after) & s.mask or (not s.own and (val ^ s.first) & s.mask):
            return True
    return False


cdef bint agent_looks_at(const Agent *g, uint64_t obj) noexcept nogil:
    """Whether the loop of an agent in SYNC_RETRY depends on that word."""
    cdef uint32_t i
    if g.seen_lost:
        return True
    obj &= ~<uint64_t>7
    for i in range(g.nseen):
        if g.seen[i].obj == obj:
            return True
    return False


cdef void retry_resume(Exec *x, Agent *g) noexcept nogil:
    """The loop goes round: what it knew is what it could see now."""
    cdef uint32_t i
    if g.has_key and g.last_key == g.obj:
        g.equal += 1
        if g.equal >= x.retry_bound:
            x.spun = True
    else:
        g.equal = 0
    g.last_key = g.obj
    g.has_key = True
    g.round += 1
    for i in range(g.nseen):
        g.seen[i].first = g.seen[i].after = (<uint64_t *>g.seen[i].obj)[0]
        g.seen[i].disturbed = False


# ---- what can happen next ------------------------------------------------------------------------------------

cdef inline bint key_changed(const Agent *g) noexcept nogil:
    return not g.has_key or g.last_key != g.obj


cdef inline bint agent_enabled(Exec *x, Agent *g) noexcept nogil:
    if SYNC_LOAD <= g.kind < SYNC_READ_LOCK:
        return True
    if g.kind == SYNC_RETRY:
        return g.seen_lost or seen_changed(g) or (x.prog.hidden_state and key_changed(g))
    if g.kind == SYNC_RCU_FREE:
        return rcu_ready(x.prog.rcu) != NULL
    return g.kind == SYNC_ABORT or sync_enabled(g.cpu)


cdef uint32_t exec_enabled(Exec *x) noexcept nogil:
    """The agents that can make a step, as bits.

    A loop that went round retry_bound times with one key rests until nobody else can go on, as in fair scheduling
    (Musuvathi and Qadeer, PLDI 2008), or makes a step outside such rounds. If all that are left rest, they keep each
    other awake for ever.
    """
    cdef uint32_t mask = 0, resting = 0
    cdef Agent *g
    cdef int i
    for i in range(x.nagents):
        g = &x.agent[i]
        if g.kind == SYNC_DONE or not agent_enabled(x, g):
            continue
        if g.kind == SYNC_RETRY and g.equal >= x.retry_bound and not key_changed(g):
            resting |= 1u << i
            continue
        mask |= 1u << i
    x.lone = False
    if mask == 0:
        for i in range(x.nthreads):
            if x.agent[i].kind == SYNC_RETRY and key_changed(&x.agent[i]):
                mask |= 1u << i
        x.lone = mask != 0
    x.resting = mask == 0 and resting != 0
    return mask


# ---- one step -------------------------------------------------------------------------------------------------

cdef void wake_resting(Exec *x) noexcept nogil:
    """Somebody who does not merely go round makes a step: that may be what the resting loops need."""
    cdef int i
    for i in range(x.nthreads):
        if x.agent[i].equal >= x.retry_bound:
            x.agent[i].equal = 1


cdef size_t trace_access(Agent *g, int kind, uint64_t obj, uint64_t arg, uint64_t val) noexcept nogil:
    """Puts the access that comes now into the trace; the number of its record, counted from 1, or 0 if it has none."""
    cdef Event *e
    if g.cpu.trace == NULL:
        return 0
    e = trace_new(g.cpu, EV_STEP)
    e.a[0] = kind
    e.a[1] = obj
    e.a[2] = e.a[3] = val
    e.a[4] = arg
    e.a[5] = g.cpu.code.line
    e.a[6] = g.cpu.code.pc
    return g.cpu.trace.n if e != &g.cpu.scratch else 0


cdef size_t record_step(Exec *x, Agent *g, uint64_t val) noexcept nogil:
    """Puts the step that comes now into the trace and among the steps; the number of its record in the trace, counted
    from 1, or 0 if it has none."""
    cdef size_t cap, n = trace_access(g, g.kind, g.obj, g.arg, val)
    cdef void *grown
    if x.nsteps == x.steps_cap:
        cap = x.steps_cap * 2 if x.steps_cap else 1024
        grown = realloc(x.steps, cap * sizeof(StepRecord))
        if grown == NULL:
            return n
        x.steps = <StepRecord *>grown
        x.steps_cap = cap
    x.steps[x.nsteps].agent = g.id
    x.steps[x.nsteps].kind = g.kind
    x.steps[x.nsteps].obj = g.obj
    x.steps[x.nsteps].val = val
    x.nsteps += 1
    return n


cdef void check_quiescent(Exec *x) noexcept nogil:
    cdef int i
    for i in range(x.nthreads):
        if not x.agent[i].at_op and x.agent[i].kind != SYNC_DONE:
            return
    detach(x)
    x.checks |= x.prog.check(x.prog.user, True)
    attach(x)


cdef void exec_step(Exec *x, int a) noexcept nogil:
    """Agent a performs the access it offers and runs on to its next offer. May set x.end."""
    cdef Agent *g = &x.agent[a]
    cdef Seen *seen = NULL
    cdef size_t record = 0
    cdef int kind = g.kind
    cdef uint64_t obj = g.obj, arg = g.arg
    if may_decide(kind):
        seen = seen_access(g, kind, g.obj & ~<uint64_t>7)
    elif kind == SYNC_HOOK and x.prog.python_word != NULL:
        seen = seen_access(g, kind, <uint64_t>x.prog.python_word)
    if x.spun and g.equal == 0:
        wake_resting(x)
    x.schedule[x.depth] = a
    x.current = a
    g.at_op = False
    g.cpu.step = x.depth
    if x.record:
        record = record_step(x, g, word_at(kind, g.obj) if shows_word(kind) else 0)
    x.depth += 1
    if kind == SYNC_ABORT:
        x.end = END_ABORT
        return
    if kind == SYNC_RCU_FREE:
        rcu_run(g.cpu, x.prog.rcu, 1)
    else:
        if kind == SYNC_RETRY:
            retry_resume(x, g)
        elif kind == SYNC_HOOK and x.prog.python_hook != NULL:
            x.prog.python_hook(g.cpu)
        run_to_offer(x, g)
        if seen != NULL:
            seen.after = (<uint64_t *>seen.obj)[0]
        if record and shows_word(kind):
            g.cpu.trace.ev[record - 1].a[3] = word_at(kind, obj)
    rcu_offer(x)
    if x.prog.watch != NULL:
        x.prog.watch(x.prog.user, a, kind, obj, arg)
    if x.depth >= x.max_steps and x.end == END_RUNNING:
        x.end = END_STEPS
    if x.prog.check_every_quiescent and not x.replaying and x.prog.check != NULL:
        check_quiescent(x)


# ---- the end --------------------------------------------------------------------------------------------------

cdef void exec_stop(Exec *x) noexcept nogil:
    """Nobody is enabled: says whether that is the end or a standstill."""
    cdef int i
    x.end = END_SPIN if x.resting else END_DONE
    for i in range(x.nthreads):
        if x.end == END_DONE and x.agent[i].kind != SYNC_DONE:
            x.end = END_STUCK


cdef uint32_t exec_finish(Exec *x) noexcept nogil:
    """Check bits of the execution that ended."""
    cdef uint32_t bits = x.checks
    cdef int i
    detach(x)
    if x.prog.cut != NULL:
        x.prog.cut(x.prog.user)
    for i in range(x.nagents):
        bits |= x.agent[i].cpu.found.checks
        x.agent[i].cpu.trace = x.agent[i].trace
    if x.end == END_STUCK or x.end == END_SPIN:
        bits |= CHECK_PROGRESS
    if x.end != END_PRUNED and x.end != END_DIVERGED and x.prog.check != NULL:
        bits |= x.prog.check(x.prog.user, x.end == END_DONE)
    return bits
