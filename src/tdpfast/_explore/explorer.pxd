"""The exploration engine: what other native modules need to have their programs explored.

Fill in a Program, wrap it in a subclass of ProgramRef that owns the memory, and hand that to Explorer.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tdpfast._explore.execution cimport Exec, Program
from tdpfast._explore.search cimport Search
from tdpfast._explore.walk cimport Walk

# The shortest failing schedule seen for one check: fewest context switches, then fewest steps.
cdef struct Failure:
    bint seen
    uint32_t switches
    uint32_t n
    uint32_t cap
    uint8_t *schedule

# A set of 64-bit digests of final states; 0 stands apart.
cdef struct DigestSet:
    uint64_t *slot
    size_t cap
    size_t n
    bint zero
    bint lost

cdef struct Engine:
    Exec exec
    Search search
    Walk walk
    int strategy
    uint32_t bound       # EXPLORE_BOUND: the largest; the current one is search.bound
    uint64_t executions
    uint64_t before_bound # executions before the search with the current bound
    uint64_t max_executions
    uint64_t max_transitions
    uint64_t ends[8]     # by EndKind
    uint32_t max_depth
    uint32_t checks
    uint32_t last_checks # of the last execution
    uint32_t wanted      # stop once all of these were seen
    bint stop_first
    bint counting        # final states by their digest
    bint finished        # no more to do
    bint complete
    bint no_memory
    double deadline      # CLOCK_MONOTONIC, 0: none
    bint timed_out
    Failure failure[32]  # by bit of Check
    DigestSet digests

cdef class ProgramRef:
    """Keeps a Program and what it points to alive."""
    cdef Program *p
    cdef bint taken
    cdef int explored(self, bint on) except -1

cdef class Explorer:
    cdef ProgramRef program
    cdef Engine e
    cdef bint ready
    cdef object strategy_name
    cdef object options
    cdef bytes prefix
    cdef double elapsed
    cdef int made(self) except -1
    cdef int take(self) except -1
    cdef int prepare(self) except -1
    cdef object share(self)
    cdef tuple next_choice(self, bytes prefix, uint32_t asleep)
    cdef int search(self, progress) except -1
    cdef uint32_t run_script(self, bytes script, int kind, bint record) except? 0

