"""Depth-first search over the schedules of a program by re-execution: all of them, one per class of equivalent
ones (dynamic partial-order reduction), or those with few preemptions."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from tdpfast._explore.execution cimport MAX_AGENTS, Exec

cdef enum SearchMode:
    SEARCH_DPOR = 0      # backtrack sets and sleep sets
    SEARCH_SLEEP         # every enabled agent, sleep sets only
    SEARCH_DFS           # every schedule
    SEARCH_BOUND         # every schedule with at most `bound` preemptions

cdef enum:
    SEARCH_HEADS = 1024      # as many as hash_of() tells apart

# One step of the current path and the choices left where it was made.
cdef struct Node:
    uint64_t obj
    uint64_t arg
    int32_t agent
    int32_t kind
    uint32_t enabled
    uint32_t backtrack   # agents to be tried here
    uint32_t done        # agents tried
    uint32_t sleep       # agents that need not be tried
    uint32_t spent       # preemptions before this step
    int32_t lone         # see Exec.lone
    int32_t prev         # earlier step with the same hash of obj (a free: the earlier free), -1: none
    int32_t mine         # earlier step of the same agent, -1: none
    uint32_t clock[MAX_AGENTS]   # clock[q]: 1 + the last step of q that happens before this one, itself included

cdef struct Search:
    Exec *x
    int mode
    uint32_t bound
    bint suppressed      # the bound took a choice away
    bint exhausted
    bint started
    const uint8_t *fixed # every execution begins with these agents, and nothing is tried in their place
    uint32_t nfixed
    uint32_t asleep      # agents that need not be tried in place of the last of these: another search did
    bint at_choice       # SEARCH_SLEEP: the execution ends where there is a choice after the beginning,
    uint32_t choices     # namely between these; 0: there was none
    uint32_t enabled     # after the last step
    Node *node
    size_t cap
    uint32_t n           # steps on the path
    uint32_t prefix      # of which the next execution repeats
    int32_t heads[SEARCH_HEADS]
    int32_t last_free
    int32_t last_of[MAX_AGENTS]
    uint64_t transitions
    uint64_t pruned

cdef int search_init(Search *s, Exec *x, int mode, uint32_t bound) except -1
cdef void search_free(Search *s) noexcept nogil
cdef void search_restart(Search *s, uint32_t bound) noexcept nogil
cdef bint search_execution(Search *s) noexcept nogil
cdef double search_progress(const Search *s) noexcept nogil
