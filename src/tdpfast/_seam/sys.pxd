"""TDH.SYS.*: how the module comes up."""

from libc.stdint cimport uint64_t

from tdpfast._seam.state cimport Seam

# -1: a bad range, too many, or no memory
cdef int seam_add_tdmr(Seam *s, uint64_t start, uint64_t end, bint initialised) noexcept nogil
cdef void seam_reserve(Seam *s, uint64_t start, uint64_t end) noexcept nogil
