"""One execution of a program under a scheduler: fibers, offers, what is enabled, one step at a time.

An agent is a thread on its fiber, or (the last one) the RCU agent that runs ready callbacks one at a time. Each
agent offers its next access; exec_step() lets one of them perform it and run on to its next offer. Nothing here
chooses: the searches of _explore_search and _explore_walk do.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from tdpfast._sync.fiber cimport tdp_fiber
from tdpfast._sync.cpu cimport Cpu, Rcu, Trace

cdef enum:
    MAX_AGENTS = 17      # the threads and RCU

cdef struct Program:
    int nthreads                       # <= MAX_THREADS
    Cpu **cpus                         # one per thread
    void (*body)(Cpu *c, void *arg) noexcept nogil       # runs one thread to completion, on its fiber
    void **args
    Rcu *rcu                           # NULL, or an extra agent runs ready callbacks one at a time
    Cpu *rcu_cpu                       # the Cpu the callbacks run on; none of cpus
    # reset, check and digest run on the scheduler's stack and never yield. reset restores the state before the
    # threads start; what an execution left in the Cpus themselves is cleared before it is called.
    void (*reset)(void *user) noexcept nogil
    uint32_t (*check)(void *user, bint quiescent) noexcept nogil   # Check bits; may be NULL
    uint64_t (*digest)(void *user) noexcept nogil        # of a final state, to count distinct ones; may be NULL
    void (*python_hook)(Cpu *c) noexcept nogil           # SYNC_HOOK, on the scheduler's stack; takes the GIL itself
    # NULL, or called after each step that agent made, with what it had offered; agent -1: an execution begins
    void (*watch)(void *user, int agent, int kind, uint64_t obj, uint64_t arg) noexcept nogil
    # NULL, or whether no other thread can tell when that agent makes this access to a word in memory (SYNC_LOAD,
    # SYNC_STORE, SYNC_RMW): it is then no step. Asked of each such access but the first of an operation.
    bint (*lone)(void *user, int agent, int kind, uint64_t obj) noexcept nogil
    uint64_t *python_word              # stands for all state that Python hooks keep: changes when it may have changed
    void (*cut)(void *user) noexcept nogil               # before reset() and at the end: ends what hooks left half done
    void *user
    bint check_every_quiescent         # also call check whenever every thread is between two operations
    bint hidden_state                  # retry loops consume state no yield point shows (injected faults): a key
                                       # that changed lets a loop go round at once, not only when all else stands

# A word an agent looked at in this operation, and how it stood in the last round of its loop that touched it.
cdef struct Seen:
    uint64_t obj
    uint64_t first       # before the first access of the round
    uint64_t after       # after the last one
    uint64_t mask        # the bits that matter
    uint64_t round
    bint own             # what the agent itself did to it is no reason to look again
    bint disturbed       # others changed it between two accesses of one round

cdef struct SeenSlot:
    uint32_t generation
    uint32_t index

cdef struct StepRecord:
    int32_t agent
    int32_t kind
    uint64_t obj
    uint64_t val         # before the access

cdef struct Agent:
    Exec *exec
    Cpu *cpu
    tdp_fiber fiber
    Trace *trace         # the Cpu's, while it is switched off
    int32_t id
    int32_t kind         # the access offered (SyncKind)
    uint64_t obj
    uint64_t arg
    bint at_op           # between two operations
    bint has_key
    bint seen_lost
    uint64_t last_key    # of the last retry
    uint32_t equal       # retries in a row with that key
    uint32_t nseen       # words looked at in this operation
    uint32_t generation  # of slots
    uint64_t round
    Seen *seen
    SeenSlot *slots

cdef enum:
    SEEN_MAX = 4096
    SEEN_SLOTS = 8192

cdef struct Exec:
    Program *prog
    int nthreads
    int nagents
    tdp_fiber main
    Agent agent[MAX_AGENTS]
    int current          # who made the last step; -1 at the start
    uint32_t depth       # steps made
    uint32_t max_steps
    uint32_t retry_bound
    int end              # EndKind
    bint lone            # exec_enabled() found only loops whose key changed
    bint spun            # a loop was made to rest: what it would have done instead was not explored
    bint resting         # exec_enabled() found nobody but such loops
    bint replaying       # a prefix that was checked before
    bint record          # keep StepRecords and traces
    uint32_t checks      # found on the way
    uint8_t *schedule    # max_steps agents
    StepRecord *steps
    size_t nsteps
    size_t steps_cap

cdef int exec_init(Exec *x, Program *prog, uint32_t max_steps, uint32_t retry_bound) except -1
cdef void exec_free(Exec *x) noexcept nogil
cdef void exec_begin(Exec *x) noexcept nogil
cdef uint32_t exec_enabled(Exec *x) noexcept nogil
cdef void exec_step(Exec *x, int a) noexcept nogil
cdef void exec_stop(Exec *x) noexcept nogil
cdef uint32_t exec_finish(Exec *x) noexcept nogil
cdef bint agent_looks_at(const Agent *g, uint64_t obj) noexcept nogil
