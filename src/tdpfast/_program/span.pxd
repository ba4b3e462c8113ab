"""Entries of page tables that no other thread of a scenario comes to are no steps of the explorer (tdpfast.spans)."""

from libc.stdint cimport uint64_t

from tdpfast._ops.ops cimport Op
from tdpfast._program.world cimport Spans, World

cdef bint spans_possible(World *w, tuple threads) except -1
cdef int span_add(World *w, Spans *spans, const Op *op, str span) except -1
cdef bint lone_entry(void *user, int agent, int kind, uint64_t obj) noexcept nogil
