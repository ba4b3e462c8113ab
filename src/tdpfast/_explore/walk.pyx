# cython: language_level=3
"""Schedulers of single executions (see walk.pxd)."""

from tdpfast._names cimport END_DIVERGED, END_RUNNING
from tdpfast._explore.execution cimport exec_begin, exec_enabled, exec_step, exec_stop


cdef inline uint64_t rng_next(Walk *w) noexcept nogil:
    """splitmix64."""
    cdef uint64_t z
    w.rng += 0x9e3779b97f4a7c15u
    z = w.rng
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu
    return z ^ (z >> 31)


cdef inline uint32_t rng_below(Walk *w, uint32_t n) noexcept nogil:
    return <uint32_t>(((rng_next(w) >> 32) * n) >> 32)


cdef int pick_random(Walk *w, uint32_t enabled) noexcept nogil:
    cdef int n = 0, i
    for i in range(w.x.nagents):
        n += (enabled >> i) & 1
    n = rng_below(w, n)
    for i in range(w.x.nagents):
        if enabled & (1u << i):
            if n == 0:
                return i
            n -= 1
    return 0


cdef void pct_begin(Walk *w) noexcept nogil:
    """Random distinct priorities above the depth, and the steps at which the leader drops below all others."""
    cdef int i, j
    cdef uint32_t swap
    for i in range(w.x.nagents):
        w.priority[i] = w.depth + i
    i = w.x.nagents - 1
    while i > 0:
        j = rng_below(w, i + 1)
        swap = w.priority[i]
        w.priority[i] = w.priority[j]
        w.priority[j] = swap
        i -= 1
    for i in range(<int>w.depth - 1):
        w.change[i] = rng_below(w, w.length if w.length else 1)


cdef int leader(const Walk *w, uint32_t enabled) noexcept nogil:
    cdef int i, best = -1
    for i in range(w.x.nagents):
        if enabled & (1u << i) and (best < 0 or w.priority[i] > w.priority[best]):
            best = i
    return best


cdef int pick_pct(Walk *w, uint32_t enabled) noexcept nogil:
    cdef int i, best = leader(w, enabled)
    for i in range(<int>w.depth - 1):
        if w.change[i] == w.x.depth:
            w.priority[best] = i
            best = leader(w, enabled)
    return best


cdef int pick_default(Walk *w, uint32_t enabled) noexcept nogil:
    """Whoever ran last, else the first that can."""
    cdef int i = w.x.current
    if i >= 0 and enabled & (1u << i):
        return i
    i = 0
    while not enabled & (1u << i):
        i += 1
    return i


cdef int pick_script(Walk *w, uint32_t enabled, uint32_t *at) noexcept nogil:
    """The script's next agent; -1 if it cannot go (WALK_REPLAY). WALK_FOLLOW skips what cannot."""
    cdef int a
    while at[0] < w.nscript:
        a = w.script[at[0]]
        at[0] += 1
        if a < w.x.nagents and enabled & (1u << a):
            return a
        if w.kind != WALK_FOLLOW:
            return -1
    return -1 if w.kind == WALK_REPLAY else pick_default(w, enabled)


cdef void walk_execution(Walk *w) noexcept nogil:
    """One execution up to its end. WALK_REPLAY ends in END_DIVERGED if the script does not fit the program."""
    cdef Exec *x = w.x
    cdef uint32_t enabled, at = 0
    cdef int a = 0
    w.rng = w.seed
    w.rng = rng_next(w) ^ w.index
    w.index += 1
    exec_begin(x)
    if w.kind == WALK_PCT:
        pct_begin(w)
    while x.end == END_RUNNING:
        enabled = exec_enabled(x)
        if enabled == 0:
            exec_stop(x)
            break
        if w.kind <= WALK_PCT and at < w.nscript:
            a = pick_script(w, enabled, &at)
        elif w.kind == WALK_RANDOM:
            a = pick_random(w, enabled)
        elif w.kind == WALK_PCT:
            a = pick_pct(w, enabled)
        else:
            a = pick_script(w, enabled, &at)
        if a < 0:
            x.end = END_DIVERGED
            break
        exec_step(x, a)
    if w.kind == WALK_REPLAY and at < w.nscript:
        x.end = END_DIVERGED
    w.transitions += x.depth
