"""The measurement that a TD's build leaves: MRTD."""

from libc.stdint cimport uint64_t

from tdpfast._seam.state cimport Td

cdef void mr_begin(Td *td) noexcept nogil
cdef void mr_page_add(Td *td, uint64_t gpa) noexcept nogil
