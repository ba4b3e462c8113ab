# cython: language_level=3
"""The exploration engine: runs a strategy over a Program until it is done or told to stop (see explorer.pxd).

One search runs without the GIL in slices of some 50 ms; between slices signals are looked at. Nothing is allocated
per execution. One Explorer belongs to one thread, and no two Explorers may run one Program at the same time.
"""

from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from cpython.exc cimport PyErr_CheckSignals

from tdpfast._names cimport END_DIVERGED, END_PRUNED, END_STEPS, EXPLORE_BOUND, EXPLORE_PCT, EXPLORE_RANDOM
from tdpfast._explore.execution cimport MAX_AGENTS, StepRecord, exec_finish, exec_free, exec_init
from tdpfast._explore.search cimport (
    SEARCH_SLEEP, search_execution, search_free, search_init, search_progress, search_restart,
)
from tdpfast._explore.walk cimport WALK_FOLLOW, WALK_PCT, WALK_RANDOM, WALK_REPLAY, walk_execution

from collections import deque

from tdpfast._arguments import check_bool, check_int, check_u64, one_of, shown
from tdpfast.errors import UsageError

from tdpfast._names import EndKind, Strategy, SyncKind

STRATEGIES = tuple(name[8:].lower() for name in Strategy.__members__)
END_NAMES = tuple(name[4:].lower() for name in EndKind.__members__)
KIND_NAMES = tuple(name[5:].lower() for name in SyncKind.__members__)


cdef double now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec + t.tv_nsec * 1e-9


# ---- what is kept of an execution ----------------------------------------------------------------------------

cdef void digest_put(uint64_t *slot, size_t cap, uint64_t d) noexcept nogil:
    cdef size_t h = <size_t>((d * 0x9e3779b97f4a7c15u) >> 20) & (cap - 1)
    while slot[h] != 0 and slot[h] != d:
        h = (h + 1) & (cap - 1)
    slot[h] = d


cdef void digest_grow(DigestSet *set) noexcept nogil:
    cdef size_t cap = set.cap * 2 if set.cap else 1024
    cdef size_t i
    cdef uint64_t *slot = <uint64_t *>calloc(cap, sizeof(uint64_t))
    if slot == NULL:
        set.lost = True
        return
    for i in range(set.cap):
        if set.slot[i]:
            digest_put(slot, cap, set.slot[i])
    free(set.slot)
    set.slot = slot
    set.cap = cap


cdef void digest_add(DigestSet *set, uint64_t d) noexcept nogil:
    cdef size_t h
    if d == 0:
        set.zero = True
        return
    if 2 * (set.n + 1) > set.cap:
        digest_grow(set)
        if set.lost:
            return
    h = <size_t>((d * 0x9e3779b97f4a7c15u) >> 20) & (set.cap - 1)
    while set.slot[h] != 0:
        if set.slot[h] == d:
            return
        h = (h + 1) & (set.cap - 1)
    set.slot[h] = d
    set.n += 1


cdef uint32_t count_switches(const uint8_t *schedule, uint32_t n) noexcept nogil:
    cdef uint32_t i, k = 0
    for i in range(1, n):
        k += schedule[i] != schedule[i - 1]
    return k


cdef void keep_failure(Engine *e, uint32_t bits) noexcept nogil:
    cdef Exec *x = &e.exec
    cdef uint32_t switches = count_switches(x.schedule, x.depth)
    cdef Failure *f
    cdef void *grown
    cdef int i
    for i in range(32):
        f = &e.failure[i]
        if not bits & (1u << i):
            continue
        if f.seen and (switches > f.switches or (switches == f.switches and x.depth >= f.n)):
            continue
        if f.cap < x.depth:
            grown = realloc(f.schedule, x.depth)
            if grown == NULL:
                e.no_memory = True
                return
            f.schedule = <uint8_t *>grown
            f.cap = x.depth
        if x.depth:
            memcpy(f.schedule, x.schedule, x.depth)
        f.n = x.depth
        f.switches = switches
        f.seen = True


# ---- the search ----------------------------------------------------------------------------------------------

cdef inline uint64_t outcome(Exec *x, uint32_t bits) noexcept nogil:
    """What an execution came to: its final state, what it violated, and how it ended."""
    return x.prog.digest(x.prog.user) + (<uint64_t>bits << 8 | <uint64_t>x.end) * 0x9e3779b97f4a7c15u


cdef void engine_note(Engine *e) noexcept nogil:
    """Takes down the execution that just ended."""
    cdef Exec *x = &e.exec
    cdef uint32_t bits = exec_finish(x)
    e.last_checks = bits
    e.ends[<int>x.end] += 1
    if x.end != END_PRUNED:
        e.executions += 1
    if x.depth > e.max_depth:
        e.max_depth = x.depth
    if x.end == END_STEPS or x.spun or x.end == END_DIVERGED:
        e.complete = False
    if x.end != END_PRUNED and x.end != END_DIVERGED and e.counting and x.prog.digest != NULL:
        digest_add(&e.digests, outcome(x, bits))
    if bits:
        e.checks |= bits
        keep_failure(e, bits)
        if e.stop_first or (e.wanted and e.wanted & ~e.checks == 0):
            e.finished = True
            e.complete = e.complete and e.strategy <= EXPLORE_BOUND and e.search.exhausted


cdef void engine_tree_step(Engine *e) noexcept nogil:
    if not search_execution(&e.search):
        e.no_memory = e.finished = True
        e.complete = False
        return
    if e.search.exhausted and e.strategy == EXPLORE_BOUND and e.search.suppressed and (
            e.search.bound < e.bound and not e.finished):
        engine_note(e)
        if not e.finished:
            e.before_bound = e.executions
            search_restart(&e.search, e.search.bound + 1)
        return
    if e.search.exhausted:
        e.finished = True
        e.complete = e.complete and not e.search.suppressed
    engine_note(e)


cdef void engine_once(Engine *e) noexcept nogil:
    """The next execution of the strategy."""
    if e.strategy <= EXPLORE_BOUND:
        engine_tree_step(e)
    else:
        walk_execution(&e.walk)
        engine_note(e)


cdef inline bint limit_reached(const Engine *e) noexcept nogil:
    return (e.max_executions and e.executions >= e.max_executions) or (
        e.max_transitions and e.search.transitions + e.walk.transitions >= e.max_transitions)


cdef void engine_run(Engine *e, double until) noexcept nogil:
    """Executions until the strategy is done, a stop condition holds, or the clock passes `until`."""
    cdef uint32_t steps = 0
    cdef double t
    while not e.finished:
        if limit_reached(e):
            e.finished = True
            e.complete = False
            break
        engine_once(e)
        steps += e.exec.depth + 1
        if steps >= 2000:
            steps = 0
            t = now()
            if e.deadline and t >= e.deadline:
                e.finished = e.timed_out = True
                e.complete = False
            if t >= until:
                break


# ---- Python --------------------------------------------------------------------------------------------------

cdef bytes schedule_of(object schedule):
    """A schedule as bytes; UsageError for anything else."""
    if not isinstance(schedule, (bytes, bytearray, memoryview)):
        raise UsageError(f"a schedule of type {type(schedule).__name__}", "not bytes", "one byte per step: its agent")
    return bytes(schedule)


cdef class ProgramRef:
    """A program to explore. Made by the native modules that have programs; subclasses own the memory."""

    cdef int explored(self, bint on) except -1:
        """Takes the program for an exploration, or gives it back; UsageError when it is taken: by another Explorer,
        by another thread, or because a hook asks for it while it is explored."""
        if on and self.taken:
            raise UsageError("an exploration inside another", "the program is being explored",
                             "one exploration after the other")
        self.taken = on
        return 0

    @property
    def nthreads(self):
        """How many threads it has."""
        return 0 if self.p == NULL else self.p.nthreads

    def failed(self):
        """Whether going on is useless: something that Python called raised."""
        return False


cdef class Explorer:
    """Explores the schedules of a program with one strategy.

    run() goes on until the strategy is done or a limit is reached and returns the result as a dict; schedules are
    bytes, one agent per step. replay() runs one schedule again and returns what happened, step by step. With a
    prefix every execution begins with that schedule, and "complete" is about what can follow it; a prefix that does
    not fit the program ends the search with "diverged" executions. asleep: agents (bits) whose steps in place of the
    prefix's last one need not be explored again, see cut(). states: whether final states are counted, which costs a few
    microseconds each.
    """

    def __init__(self, ProgramRef program not None, strategy="dpor", *, bound=2, depth=3, seed=0, first=0,
                 max_executions=0, max_transitions=0, max_seconds=0.0, max_steps=100000, retry_bound=64,
                 stop_first=False, wanted=0, prefix=b"", asleep=0, states=True):
        cdef uint64_t first_seed = check_u64("seed", seed), index = check_u64("first", first)
        cdef uint64_t executions = check_u64("max_executions", max_executions)
        cdef uint64_t transitions = check_u64("max_transitions", max_transitions)
        cdef uint32_t bits = check_int("wanted", wanted, 0, (1 << 32) - 1)
        cdef uint32_t rounds = check_int("retry_bound", retry_bound, 1, (1 << 31) - 1)
        cdef uint32_t steps = check_int("max_steps", max_steps, 1, 1 << 30)
        cdef bint once = check_bool("stop_first", stop_first), counting = check_bool("states", states)
        cdef bytes agents = schedule_of(prefix)
        cdef uint32_t sleeping = check_int("asleep", asleep, 0, (1 << MAX_AGENTS) - 1)
        cdef double budget
        check_int("bound", bound, 0, (1 << 31) - 1)
        check_int("depth", depth, 1, 64)
        if program.p == NULL:
            raise UsageError("the program is empty", "it was not made", "a program that its __init__() made")
        if not isinstance(strategy, str) or strategy not in STRATEGIES:
            raise UsageError(f"unknown strategy {shown(strategy)}", "not one of them", one_of(STRATEGIES))
        if sleeping and (strategy not in ("dpor", "sleep") or not agents):
            raise UsageError(f"asleep {asleep:#x} with {strategy}",
                             "agents sleep at the last step of a prefix, in searches by dependence",
                             "dpor or sleep with a prefix that cut() gave")
        if not isinstance(max_seconds, (int, float)) or not 0 <= max_seconds < 1e9:
            raise UsageError(f"bad max_seconds {shown(max_seconds)}", "out of range", "0..1e9")
        budget = max_seconds
        if self.ready:
            raise UsageError("a second __init__()", "an Explorer is initialised once", "a new one")
        self.program = program
        self.strategy_name = strategy
        self.prefix = agents
        self.options = {"bound": bound, "depth": depth, "seed": seed, "first": first}
        exec_init(&self.e.exec, program.p, steps, rounds)
        self.ready = True
        self.e.strategy = STRATEGIES.index(strategy)
        self.e.bound = bound
        self.e.max_executions = executions
        self.e.max_transitions = transitions
        self.e.stop_first = once
        self.e.counting = counting
        self.e.wanted = bits
        self.e.deadline = budget      # relative until run() starts
        self.e.complete = self.e.strategy <= EXPLORE_BOUND
        self.e.walk.x = &self.e.exec
        self.e.walk.seed = first_seed
        self.e.walk.index = index
        self.e.walk.depth = depth
        self.e.walk.script = self.prefix
        self.e.walk.nscript = len(self.prefix)
        if self.e.strategy <= EXPLORE_BOUND:
            search_init(&self.e.search, &self.e.exec, self.e.strategy, 0)
            self.e.search.fixed = self.prefix
            self.e.search.nfixed = len(self.prefix)
            self.e.search.asleep = sleeping
        else:
            self.e.walk.kind = WALK_RANDOM if self.e.strategy == EXPLORE_RANDOM else WALK_PCT

    def __dealloc__(self):
        cdef int i
        search_free(&self.e.search)
        for i in range(32):
            free(self.e.failure[i].schedule)
        free(self.e.digests.slot)
        if self.ready:
            exec_free(&self.e.exec)

    cdef int made(self) except -1:
        if not self.ready:
            raise UsageError("an Explorer without a program", "it was not made", "an Explorer that __init__() made")
        return 0

    cdef int take(self) except -1:
        """Before anything of the program runs; whoever called it calls program.explored(False) after."""
        self.made()
        return self.program.explored(True)

    cdef int prepare(self) except -1:
        if self.e.strategy == EXPLORE_PCT and self.e.walk.length == 0:
            self.e.walk.length = self.run_script(self.prefix, WALK_FOLLOW, False)
        return 0

    def step(self):
        """Runs one more execution: dict of checks, end and schedule; None once the strategy is done.

        Executions that end "pruned" were cut short: what they would have come to was explored before.
        """
        self.take()
        try:
            self.prepare()
            if self.e.finished or limit_reached(&self.e):
                return None
            with nogil:
                engine_once(&self.e)
            if self.e.no_memory:
                raise MemoryError("the search ran out of memory")
            return {
                "checks": self.e.last_checks,
                "end": END_NAMES[<int>self.e.exec.end],
                "schedule": <bytes>self.e.exec.schedule[:self.e.exec.depth],
            }
        finally:
            self.program.explored(False)

    def cut(self, pieces):
        """Beginnings that the tree of this search (dpor or sleep) is cut into: a list of (prefix, asleep) for Explorers
        of the same program that together explore it once, `pieces` or a few more of them, fewer if the tree has no more
        branches. Those on which everything is explored by others are left out.

        Every agent is tried at the places where the tree is cut, which a search by dpor in one piece need not do.
        """
        check_int("pieces", pieces, 1, 1 << 20)
        self.made()
        if self.strategy_name not in ("dpor", "sleep"):
            raise UsageError(f"a cut of a search by {self.strategy_name}",
                             "only searches by dependence have such pieces", "dpor or sleep")
        leaves, todo = [], deque([(self.prefix, self.e.search.asleep)])
        while todo and len(leaves) + len(todo) < pieces:
            prefix, asleep = todo.popleft()
            schedule, sleep, choices, ended = self.next_choice(prefix, asleep)
            if ended:
                leaves.append((prefix, asleep))
            last = schedule[len(schedule) - 1] if schedule else 0
            for agent in (last, *range(MAX_AGENTS)):       # in the order of a search in one piece
                if choices >> agent & 1:
                    choices ^= 1 << agent
                    todo.append((schedule + bytes([agent]), sleep))
                    sleep |= 1 << agent
        return [*leaves, *todo]

    cdef tuple next_choice(self, bytes prefix, uint32_t asleep):
        """Goes on after a prefix up to where there is a choice: (schedule, agents asleep there, choices, whether the
        execution ended without one)."""
        cdef Exec *x = &self.e.exec
        cdef Search s
        cdef bint memory
        self.take()
        try:
            search_init(&s, x, SEARCH_SLEEP, 0)
            s.fixed = prefix
            s.nfixed = len(prefix)
            s.asleep = asleep
            s.at_choice = True
            with nogil:
                memory = search_execution(&s)
                exec_finish(x)
            if not memory:
                raise MemoryError("the search ran out of memory")
            return (<bytes>x.schedule[:x.depth], s.node[s.n].sleep if s.choices else 0, s.choices,
                    x.end != END_PRUNED)
        finally:
            search_free(&s)
            self.program.explored(False)

    cdef object share(self):
        """The share of the tree that was explored, estimated; None for walks."""
        if self.e.strategy > EXPLORE_BOUND:
            return None
        return 1.0 if self.e.search.exhausted else search_progress(&self.e.search)

    def progress(self):
        """How much of the search is done, 0..1: an estimate from the tree known so far, or the share of the limit.
        None: no estimate (a walk without a limit)."""
        self.made()
        if self.e.finished:
            return 1.0
        if self.e.strategy <= EXPLORE_BOUND:
            return search_progress(&self.e.search)
        if self.e.max_executions:
            return min(1.0, <double>self.e.executions / self.e.max_executions)
        if self.e.max_transitions:
            return min(1.0, <double>self.e.walk.transitions / self.e.max_transitions)
        return None

    def run(self, progress=None):
        """Explores; returns the result so far (see result()). KeyboardInterrupt leaves it usable.

        progress: called with this Explorer some 20 times a second.
        """
        if progress is not None and not callable(progress):
            raise UsageError(f"progress is of type {type(progress).__name__}", "not callable",
                             "a function of an Explorer")
        self.take()
        try:
            self.search(progress)
        finally:
            self.program.explored(False)
        if self.e.no_memory:
            raise MemoryError("the search ran out of memory")
        return self.result()

    cdef int search(self, progress) except -1:
        """The slices of run(): the program is taken."""
        cdef double start = now()
        cdef double until
        self.prepare()
        if self.e.deadline > 0:
            self.e.deadline += start
        try:
            while not self.e.finished:
                until = now() + 0.05
                with nogil:
                    engine_run(&self.e, until)
                PyErr_CheckSignals()
                if progress is not None:
                    progress(self)
                if self.program.failed():
                    break
        finally:
            self.elapsed += now() - start
            if self.e.deadline > 0:
                self.e.deadline = max(self.e.deadline - now(), 1e-9)
        return 0

    cdef uint32_t run_script(self, bytes script, int kind, bint record) except? 0:
        """One execution after a script; its number of steps."""
        cdef Walk w
        memset(&w, 0, sizeof(Walk))
        w.x = &self.e.exec
        w.kind = kind
        w.script = script
        w.nscript = len(script)
        self.e.exec.record = record
        with nogil:
            walk_execution(&w)
        self.e.exec.record = False
        return self.e.exec.depth

    def result(self):
        """What was found so far, as a dict."""
        self.made()
        e = &self.e
        failures = {}
        for i in range(32):
            if e.failure[i].seen:
                failures[1 << i] = <bytes>e.failure[i].schedule[:e.failure[i].n]
        return {
            "strategy": self.strategy_name, **self.options,
            "executions": e.executions,
            "pruned": e.ends[<int>END_PRUNED],
            "transitions": e.search.transitions + e.walk.transitions,
            "max_depth": e.max_depth,
            "complete": bool(e.complete and e.finished),
            "exhausted": bool(e.strategy <= EXPLORE_BOUND and e.search.exhausted),
            "finished": bool(e.finished),
            "timed_out": bool(e.timed_out),
            "explored": self.share(),
            "covered": e.executions - e.before_bound if self.strategy_name == "bound" and e.search.exhausted else 0,
            "checks": e.checks,
            "failures": failures,
            "ends": {END_NAMES[i]: e.ends[i] for i in range(8) if e.ends[i]},
            "states": e.digests.n + e.digests.zero,
            "seconds": self.elapsed,
        }

    def states(self):
        """What executions came to, as numbers, sorted: one for each final state, with the checks it violates and how
        it ended. Empty if the program has no digest."""
        found = [self.e.digests.slot[i] for i in range(self.e.digests.cap) if self.e.digests.slot[i]]
        return sorted([*found, 0] if self.e.digests.zero else found)

    def try_schedule(self, schedule):
        """Follows a schedule where it can be, without traces: dict of checks, end and the schedule that ran."""
        cdef uint32_t bits
        cdef bytes agents = schedule_of(schedule)
        self.take()
        try:
            self.run_script(agents, WALK_FOLLOW, False)
            bits = exec_finish(&self.e.exec)
        finally:
            self.program.explored(False)
        return {
            "checks": bits,
            "end": END_NAMES[<int>self.e.exec.end],
            "schedule": <bytes>self.e.exec.schedule[:self.e.exec.depth],
        }

    def replay(self, schedule, *, follow=False):
        """Runs one schedule again with traces on: dict of checks, end, schedule, steps.

        steps are tuples (agent, kind, object, value before). end is "diverged" if the schedule does not fit the
        program; with follow=True it is followed where it can be, then whoever ran last goes on.
        """
        cdef StepRecord *r
        cdef size_t i
        cdef uint32_t bits
        cdef bytes agents = schedule_of(schedule)
        self.take()
        try:
            self.run_script(agents, WALK_FOLLOW if follow else WALK_REPLAY, True)
            bits = exec_finish(&self.e.exec)
        finally:
            self.program.explored(False)
        steps = []
        for i in range(self.e.exec.nsteps):
            r = &self.e.exec.steps[i]
            steps.append((r.agent, r.kind, r.obj, r.val))
        digest = None
        if self.program.p.digest != NULL:
            digest = outcome(&self.e.exec, bits)
        return {
            "checks": bits,
            "end": END_NAMES[<int>self.e.exec.end],
            "schedule": <bytes>self.e.exec.schedule[:self.e.exec.depth],
            "state": digest,
            "steps": steps,
        }
