"""Single schedules: random walks, PCT, and replay of a given one."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tdpfast._explore.execution cimport MAX_AGENTS, Exec

cdef enum WalkKind:
    WALK_RANDOM = 0      # every enabled agent is as likely
    WALK_PCT             # priorities with depth - 1 changes (Burckhardt et al., ASPLOS 2010)
    WALK_REPLAY          # the script, and nothing else
    WALK_FOLLOW          # the script where it can be followed, then the default order

# Execution `index` of a seed depends on nothing but (seed, index, depth, length): seeds and ranges of indexes can
# be mapped over processes.
cdef struct Walk:
    Exec *x
    int kind
    uint64_t seed
    uint64_t index       # of the next execution
    uint32_t depth       # PCT: bugs of this depth
    uint32_t length      # PCT: steps an execution is expected to have
    uint64_t rng
    uint32_t priority[MAX_AGENTS]
    uint32_t change[64]
    const uint8_t *script    # random walks and PCT begin with it
    uint32_t nscript
    uint64_t transitions

cdef void walk_execution(Walk *w) noexcept nogil
