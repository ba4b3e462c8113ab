"""A digest of what an execution of a scenario left: two executions with one digest cannot be told apart."""

from libc.stdint cimport uint64_t

cdef uint64_t world_digest(void *user) noexcept nogil
