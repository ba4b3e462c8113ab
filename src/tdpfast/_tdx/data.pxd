"""Whether a TD lost memory that nobody wanted to take from it (see data.pyx)."""

from libc.stdint cimport uint64_t

from tdpfast._sync.cpu cimport Cpu
from tdpfast._tdx.state cimport Tdx

cdef bint private_accepted(const Tdx *t, uint64_t gfn, int level) noexcept nogil
cdef void private_removed(Cpu *c, Tdx *t, uint64_t gfn, int level) noexcept nogil
