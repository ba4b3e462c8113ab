# cython: language_level=3
"""The search by re-execution (see search.pxd).

Dynamic partial-order reduction after Flanagan and Godefroid (POPL 2005), with the source sets of Abdulla et al.
(POPL 2014): vector clocks find races, each race adds to the backtrack set of the state before it an agent that
leads to the other order. Sleep sets (Godefroid, 1996) keep equivalent schedules from being explored twice.

What is particular here:
- A lock and its unlock are never enabled together, so they order steps but are no race. An agent that stands at a
  lock races with what made it stand, whether or not it ever gets there.
- Freeing a page conflicts with accesses to that page; it happens after its call_rcu() and after the unlocks of the
  readers it waited for.
- A loop in SYNC_RETRY is a read of all words its round looked at. It has no effect of its own, so races are those of
  the accesses of the next round, and those that would have let it go round while a word differed.
- SYNC_ABORT ends the execution: it conflicts with everything.
"""

from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from tdpfast._names cimport (
    END_DIVERGED, END_PRUNED, END_RUNNING, SYNC_ABORT, SYNC_CALL_RCU, SYNC_DONE, SYNC_HOOK, SYNC_LOAD,
    SYNC_PUT_EXCL, SYNC_PUT_SHARED, SYNC_RCU_FREE, SYNC_RCU_LOCK, SYNC_RCU_UNLOCK, SYNC_READ_LOCK, SYNC_READ_UNLOCK,
    SYNC_RETRY, SYNC_SPIN_LOCK, SYNC_SPIN_UNLOCK, SYNC_TRY_SHARED, SYNC_WAIT, SYNC_WRITE_LOCK, SYNC_WRITE_UNLOCK,
)
from tdpfast._explore.execution cimport Agent, agent_looks_at, exec_begin, exec_enabled, exec_step, exec_stop
from tdpfast._sync.cpu cimport RcuHead

cdef enum:
    BIT_READERS = (1 << SYNC_LOAD | 1 << SYNC_READ_LOCK | 1 << SYNC_READ_UNLOCK | 1 << SYNC_TRY_SHARED
                   | 1 << SYNC_PUT_SHARED | 1 << SYNC_RCU_LOCK | 1 << SYNC_RCU_UNLOCK | 1 << SYNC_WAIT)
    BIT_LOCKS = 1 << SYNC_READ_LOCK | 1 << SYNC_WRITE_LOCK | 1 << SYNC_SPIN_LOCK
    BIT_UNLOCKS = 1 << SYNC_READ_UNLOCK | 1 << SYNC_WRITE_UNLOCK | 1 << SYNC_SPIN_UNLOCK
    HOOK_OBJECT = 1      # all Python hooks conflict with one another, also where no word stands for their state


cdef int search_init(Search *s, Exec *x, int mode, uint32_t bound) except -1:
    memset(s, 0, sizeof(Search))
    s.x = x
    s.mode = mode
    s.cap = 4096
    s.node = <Node *>realloc(NULL, s.cap * sizeof(Node))
    if s.node == NULL:
        raise MemoryError
    search_restart(s, bound)
    return 0


cdef void search_free(Search *s) noexcept nogil:
    free(s.node)
    s.node = NULL


cdef void search_restart(Search *s, uint32_t bound) noexcept nogil:
    s.bound = bound
    s.suppressed = s.exhausted = s.started = False
    s.n = s.prefix = 0
    memset(s.heads, 0xff, sizeof(s.heads))
    memset(s.last_of, 0xff, sizeof(s.last_of))
    s.last_free = -1


# ---- dependence ----------------------------------------------------------------------------------------------

cdef inline uint32_t hash_of(uint64_t obj) noexcept nogil:
    return <uint32_t>((obj * 0x9e3779b97f4a7c15u) >> 54)


cdef inline bint reads(int kind) noexcept nogil:
    return (1 << kind) & BIT_READERS != 0


cdef inline bint free_conflicts(Search *s, uint64_t page, int kind, uint64_t obj, uint64_t arg) noexcept nogil:
    """Whether an access conflicts with the end of that page's grace period."""
    if SYNC_LOAD <= kind <= SYNC_PUT_EXCL or kind == SYNC_WAIT:
        return obj >> 12 == page >> 12 or obj == <uint64_t>s.x.prog.rcu
    return kind == SYNC_CALL_RCU and arg == page


cdef inline bint conflict(Search *s, int kind, uint64_t obj, uint64_t arg, int kind2, uint64_t obj2,
                          uint64_t arg2) noexcept nogil:
    """Whether two offered accesses of different agents do not commute (SYNC_RETRY apart)."""
    if kind == SYNC_ABORT or kind2 == SYNC_ABORT:
        return True
    if kind == SYNC_RCU_FREE:
        return free_conflicts(s, obj, kind2, obj2, arg2)
    if kind2 == SYNC_RCU_FREE:
        return free_conflicts(s, obj2, kind, obj, arg)
    return obj == obj2 and not (reads(kind) and reads(kind2))


cdef inline bint together(int kind, int kind2) noexcept nogil:
    """Whether two accesses of one object can be enabled in the same state: a lock and its unlock cannot."""
    cdef uint32_t bits = 1 << kind | 1 << kind2
    return not (bits & BIT_LOCKS and bits & BIT_UNLOCKS)


cdef inline uint64_t object_of(const Agent *g) noexcept nogil:
    # What a hook offers is the name of its step; what it may touch is all that hooks keep.
    if g.kind != SYNC_HOOK:
        return g.obj
    return <uint64_t>g.exec.prog.python_word if g.exec.prog.python_word != NULL else HOOK_OBJECT


cdef inline uint64_t arg_of(const Agent *g) noexcept nogil:
    return g.cpu.rcu_seq if g.kind == SYNC_RCU_UNLOCK else g.arg


cdef inline void offer_of(Search *s, int a, Node *e) noexcept nogil:
    cdef const Agent *g = &s.x.agent[a]
    e.agent = a
    e.kind = g.kind
    e.obj = object_of(g)
    e.arg = arg_of(g)


cdef bint commutes(Search *s, const Agent *q, const Agent *a, const Node *e) noexcept nogil:
    """Whether q's offer is unaffected by the step e that a is about to make."""
    if q.kind == SYNC_RETRY:
        return e.kind == SYNC_LOAD or e.kind == SYNC_RETRY or (
            e.kind != SYNC_RCU_FREE and e.kind != SYNC_ABORT and not agent_looks_at(q, e.obj))
    if e.kind == SYNC_RETRY:
        return q.kind != SYNC_ABORT and q.kind != SYNC_RCU_FREE and not agent_looks_at(a, object_of(q))
    return not conflict(s, q.kind, object_of(q), arg_of(q), e.kind, e.obj, e.arg)


# ---- the path ------------------------------------------------------------------------------------------------

cdef inline void path_push(Search *s, uint32_t i) noexcept nogil:
    """Links step i, which is about to be made, to the earlier ones of its object and agent."""
    cdef Node *e = &s.node[i]
    cdef int32_t *head
    e.mine = s.last_of[e.agent]
    s.last_of[e.agent] = i
    if e.kind == SYNC_RCU_FREE:
        e.prev = s.last_free
        s.last_free = i
    else:
        head = &s.heads[hash_of(e.obj)]
        e.prev = head[0]
        head[0] = i


cdef void path_truncate(Search *s, uint32_t n) noexcept nogil:
    cdef Node *e
    while s.n > n:
        s.n -= 1
        e = &s.node[s.n]
        s.last_of[e.agent] = e.mine
        if e.kind == SYNC_RCU_FREE:
            s.last_free = e.prev
        else:
            s.heads[hash_of(e.obj)] = e.prev


cdef bint path_reserve(Search *s) noexcept nogil:
    cdef void *grown
    if s.n + 2 <= s.cap:
        return True
    grown = realloc(s.node, 2 * s.cap * sizeof(Node))
    if grown == NULL:
        return False
    s.node = <Node *>grown
    s.cap *= 2
    return True


# ---- clocks --------------------------------------------------------------------------------------------------

cdef inline void join(Search *s, uint32_t *clock, int32_t i) noexcept nogil:
    cdef int q
    if i >= 0 and clock[s.node[i].agent] <= <uint32_t>i:
        for q in range(s.x.nagents):
            if clock[q] < s.node[i].clock[q]:
                clock[q] = s.node[i].clock[q]


cdef inline void clock_of_agent(Search *s, int a, uint32_t *clock) noexcept nogil:
    if s.last_of[a] >= 0:
        memcpy(clock, s.node[s.last_of[a]].clock, MAX_AGENTS * sizeof(uint32_t))
    else:
        memset(clock, 0, MAX_AGENTS * sizeof(uint32_t))


cdef void clock_of_free(Search *s, uint32_t *clock) noexcept nogil:
    """What happens before the ready callback: its call_rcu() and the unlocks of the readers it waited for."""
    cdef RcuHead *head = s.x.prog.rcu.head
    cdef int32_t i, since = <int32_t>head.step
    clock_of_agent(s, s.x.nthreads, clock)
    if since >= <int32_t>s.n:
        return
    join(s, clock, since)
    if s.x.prog.rcu.no_grace:
        return
    for i in range(since + 1, <int32_t>s.n):
        if s.node[i].kind == SYNC_RCU_UNLOCK and s.node[i].arg < head.epoch:
            join(s, clock, i)


cdef void clock_of_step(Search *s, const Node *e, uint32_t *clock) noexcept nogil:
    """The clock e would have if it were made now (its own component apart)."""
    cdef int32_t j
    if e.kind == SYNC_RCU_FREE:
        clock_of_free(s, clock)
        j = <int32_t>s.n - 1
        while j >= 0:
            if s.node[j].kind != SYNC_RCU_FREE and free_conflicts(s, e.obj, s.node[j].kind, s.node[j].obj,
                                                                  s.node[j].arg):
                join(s, clock, j)
            j -= 1
        return
    clock_of_agent(s, e.agent, clock)
    j = s.heads[hash_of(e.obj)] if e.kind != SYNC_RETRY else -1
    while j >= 0:
        if s.node[j].obj == e.obj and s.node[j].kind != SYNC_RETRY:
            if not (reads(e.kind) and reads(s.node[j].kind)):
                join(s, clock, j)
            if not reads(s.node[j].kind):
                break            # everything earlier on this object happens before that write
        j = s.node[j].prev
    j = s.last_free
    while j >= 0:
        if free_conflicts(s, s.node[j].obj, e.kind, e.obj, e.arg):
            join(s, clock, j)
        j = s.node[j].prev


# ---- races ---------------------------------------------------------------------------------------------------

cdef void reverse(Search *s, uint32_t i, const Node *f, bint causal) noexcept nogil:
    """Step i races with f, which comes after the path: sees to it that f goes first, too.

    The steps after i that do not happen after it, and then f, must be explored from the state before i. Any agent
    that can begin that sequence will do (source sets, Abdulla et al., POPL 2014); one that is asleep did.
    causal: only those of the steps that lead to f.
    """
    cdef Node *e = &s.node[i]
    cdef const Node *k
    cdef int32_t first[MAX_AGENTS]
    cdef uint32_t j, initials = 0
    memset(first, 0xff, sizeof(first))
    for j in range(i + 1, s.n):
        k = &s.node[j]
        if k.clock[e.agent] > i or first[k.agent] >= 0 or (causal and f.clock[k.agent] <= j):
            continue
        if not follows(s, k.clock, first, k.agent):
            initials |= 1u << k.agent
        first[k.agent] = j
    if first[f.agent] < 0 and not follows(s, f.clock, first, f.agent):
        initials |= 1u << f.agent
    initials &= e.enabled
    if initials == 0 or initials & (e.backtrack | e.sleep):
        return
    e.backtrack |= 1u << f.agent if initials & (1u << f.agent) else 1u << lowest(initials)


cdef inline bint follows(Search *s, const uint32_t *clock, const int32_t *first, int agent) noexcept nogil:
    cdef int q
    for q in range(s.x.nagents):
        if first[q] >= 0 and q != agent and clock[q] > <uint32_t>first[q]:
            return True
    return False


cdef void races_of(Search *s, const Node *f, bint causal) noexcept nogil:
    """Reverses every race between the path and f, an offer whose clock is known."""
    cdef uint32_t clock[MAX_AGENTS]
    cdef Node *e
    cdef int32_t j
    if f.kind == SYNC_RCU_FREE:
        clock_of_free(s, clock)
    else:
        clock_of_agent(s, f.agent, clock)
    if f.kind == SYNC_RCU_FREE or f.kind == SYNC_ABORT:
        j = <int32_t>s.n - 1
        while j >= 0:
            e = &s.node[j]
            if e.agent != f.agent and conflict(s, e.kind, e.obj, e.arg, f.kind, f.obj, f.arg):
                race_with(s, j, f, clock, causal)
            j -= 1
        return
    j = s.heads[hash_of(f.obj)]
    while j >= 0:
        e = &s.node[j]
        if e.obj == f.obj and e.kind != SYNC_RETRY:
            if clock[e.agent] > <uint32_t>j and not reads(e.kind):
                break
            if not (reads(e.kind) and reads(f.kind)) and together(e.kind, f.kind):
                race_with(s, j, f, clock, causal)
        j = e.prev
    j = s.last_free
    while j >= 0:
        if free_conflicts(s, s.node[j].obj, f.kind, f.obj, f.arg):
            race_with(s, j, f, clock, causal)
        j = s.node[j].prev


cdef inline void race_with(Search *s, int32_t i, const Node *f, uint32_t *clock, bint causal) noexcept nogil:
    if clock[s.node[i].agent] <= <uint32_t>i:
        reverse(s, i, f, causal)
        join(s, clock, i)


cdef void races_of_retry(Search *s, const Node *f, bint causal) noexcept nogil:
    """f's loop stands: the steps before which it could have found a word changed."""
    cdef const Agent *g = &s.x.agent[f.agent]
    cdef uint32_t clock[MAX_AGENTS]
    cdef Node *e
    cdef int32_t j = <int32_t>s.n - 1
    clock_of_agent(s, f.agent, clock)
    while j >= 0:
        e = &s.node[j]
        if e.agent != f.agent and e.kind != SYNC_LOAD and e.kind != SYNC_RETRY and (
                e.kind == SYNC_RCU_FREE or agent_looks_at(g, e.obj)):
            race_with(s, j, f, clock, causal)
        j -= 1


cdef void races_of_standing(Search *s, int p, bint causal) noexcept nogil:
    """Races of an offer that cannot happen now: what stands in its way might have come later."""
    cdef Node f
    if s.x.agent[p].kind == SYNC_DONE:
        return
    offer_of(s, p, &f)
    clock_of_step(s, &f, f.clock)
    if f.kind == SYNC_RETRY:
        races_of_retry(s, &f, causal)
    else:
        races_of(s, &f, causal)


cdef void races_after_step(Search *s, uint32_t i) noexcept nogil:
    """Step i was made: those it brought to a stand could have gone before it; its agent may stand itself now."""
    cdef Node *e = &s.node[i]
    cdef uint32_t stood = ~<uint32_t>0 if s.x.lone else ~s.enabled
    cdef int p
    if e.kind == SYNC_ABORT:
        e.backtrack |= e.enabled
        return
    for p in range(s.x.nthreads):
        if p != e.agent and e.enabled & stood & (1u << p):
            e.backtrack |= 1u << p
    if e.agent < s.x.nthreads and stood & (1u << e.agent):
        races_of_standing(s, e.agent, True)


cdef void races_at_end(Search *s) noexcept nogil:
    """The execution is over: those who still stand."""
    cdef uint32_t stood = ~<uint32_t>0 if s.x.lone else ~s.enabled
    cdef int p
    for p in range(s.x.nthreads):
        if stood & (1u << p):
            races_of_standing(s, p, False)


# ---- one execution -------------------------------------------------------------------------------------------

cdef uint32_t allowed(Search *s, Node *e, int current) noexcept nogil:
    """SEARCH_BOUND: the choices the preemption bound leaves (Musuvathi and Qadeer, PLDI 2007)."""
    if current < 0 or not e.enabled & (1u << current) or e.spent < s.bound:
        return e.enabled
    if e.enabled != 1u << current:
        s.suppressed = True
    return 1u << current


cdef bint node_open(Search *s, uint32_t i, uint32_t sleep) noexcept nogil:
    """A new state at depth i: what can be done, and what is done first. False: nothing."""
    cdef Exec *x = s.x
    cdef Node *e = &s.node[i]
    cdef uint32_t choices
    e.enabled = s.enabled
    e.lone = x.lone
    e.sleep = 0 if x.lone else sleep
    e.done = 0
    e.spent = 0
    if e.enabled == 0:
        exec_stop(x)
        return False
    if i < s.nfixed:
        return node_fixed(s, e, s.fixed[i], s.asleep if i + 1 == s.nfixed else 0)
    choices = e.enabled & ~e.sleep
    if choices == 0:
        x.end = END_PRUNED
        s.pruned += 1
        return False
    if s.at_choice and choices & (choices - 1):
        s.choices = choices
        x.end = END_PRUNED
        return False
    if i > 0:
        e.spent = s.node[i - 1].spent
        if i > 1 and s.node[i - 1].agent != s.node[i - 2].agent and (
                s.node[i - 1].enabled & (1u << s.node[i - 2].agent)):
            e.spent += 1
    e.backtrack = e.enabled
    if s.mode == SEARCH_BOUND:
        e.backtrack = choices = allowed(s, e, x.current)
    e.agent = x.current
    if x.current < 0 or not choices & (1u << x.current):
        e.agent = lowest(choices)
    if s.mode == SEARCH_DPOR and not x.lone:
        e.backtrack = 1u << e.agent
    return True


cdef bint node_fixed(Search *s, Node *e, int agent, uint32_t asleep) noexcept nogil:
    """A state of the given beginning: its agent and no other. False: it does not fit the program."""
    if not e.enabled & (1u << agent):
        s.x.end = END_DIVERGED
        return False
    e.sleep = 0 if e.lone else asleep
    e.agent = agent
    e.backtrack = 1u << agent
    return True


cdef inline int lowest(uint32_t mask) noexcept nogil:
    cdef int i = 0
    while not mask & (1u << i):
        i += 1
    return i


cdef uint32_t node_step(Search *s, uint32_t i) noexcept nogil:
    """Makes the step chosen at depth i; the agents asleep after it."""
    cdef Exec *x = s.x
    cdef Node *e = &s.node[i]
    cdef Agent *g = &x.agent[e.agent]
    cdef uint32_t sleep = 0, asleep
    cdef int q
    offer_of(s, e.agent, e)
    if s.mode <= SEARCH_SLEEP and not e.lone:
        asleep = (e.sleep | e.done) & ~(1u << e.agent)
        for q in range(x.nagents):
            if asleep & (1u << q) and commutes(s, &x.agent[q], g, e):
                sleep |= 1u << q
    e.done |= 1u << e.agent
    if s.mode == SEARCH_DPOR:
        clock_of_step(s, e, e.clock)
        if e.kind != SYNC_RETRY:
            races_of(s, e, False)
        e.clock[e.agent] = i + 1
    path_push(s, i)
    s.n = i + 1
    exec_step(x, e.agent)
    s.transitions += 1
    s.enabled = exec_enabled(x)
    if s.mode == SEARCH_DPOR:
        races_after_step(s, i)
    return sleep


cdef bint repeat_prefix(Search *s) noexcept nogil:
    """Repeats the steps up to the one that changes; False if the program did not repeat itself."""
    cdef Exec *x = s.x
    cdef Node *e
    cdef uint32_t i
    x.replaying = True
    for i in range(s.prefix):
        e = &s.node[i]
        if x.end != END_RUNNING or x.agent[e.agent].kind != e.kind or object_of(&x.agent[e.agent]) != e.obj:
            x.end = END_DIVERGED
            break
        exec_step(x, e.agent)
    s.transitions += s.prefix
    x.replaying = False
    return x.end == END_RUNNING


cdef void next_branch(Search *s) noexcept nogil:
    """The deepest state with an agent left to try becomes the end of the next prefix."""
    cdef uint32_t todo, i = s.n
    while i > s.nfixed:
        i -= 1
        todo = s.node[i].backtrack & ~s.node[i].done & ~s.node[i].sleep
        if todo:
            path_truncate(s, i)
            s.node[i].agent = lowest(todo)
            s.prefix = i
            return
    s.exhausted = True


cdef bint search_execution(Search *s) noexcept nogil:
    """Runs the next execution of the tree up to its end (x.end); afterwards s.exhausted may be set.

    False: no memory.
    """
    cdef Exec *x = s.x
    cdef uint32_t i, sleep = 0
    cdef bint fresh = not s.started
    s.started = True
    exec_begin(x)
    if not repeat_prefix(s):
        s.exhausted = True
        return True
    if fresh:
        s.enabled = exec_enabled(x)
    i = s.prefix
    while True:
        if not path_reserve(s):
            return False
        if (fresh or i > s.prefix) and not node_open(s, i, sleep):
            break
        sleep = node_step(s, i)
        i += 1
        if x.end != END_RUNNING:
            break
    if s.mode == SEARCH_DPOR and x.end != END_PRUNED:
        races_at_end(s)
    next_branch(s)
    return True


cdef inline int bits(uint32_t mask) noexcept nogil:
    cdef int n = 0
    while mask:
        mask &= mask - 1
        n += 1
    return n


cdef double search_progress(const Search *s) noexcept nogil:
    """How much of the tree is done, 0..1, if what is known of it now were all and its branches alike (Knuth, 1975).
    Backtrack sets grow, so it may go back."""
    cdef double part = 1, done = 0
    cdef uint32_t i, tried
    cdef int choices
    if s.exhausted:
        return 1
    for i in range(s.n):
        tried = s.node[i].done
        choices = bits((s.node[i].backtrack & ~s.node[i].sleep) | tried)
        if choices > 1:
            part /= choices
            done += part * (bits(tried) - 1)
    return done
