"""TDH.MR.EXTEND, TDH.MR.FINALIZE and the measurement they keep."""

from libc.stdint cimport uint64_t

from tdpfast._seam.core cimport Seam, SeamRegs, Td
from tdpfast._sync.cpu cimport Cpu

cdef void mr_begin(Td *td) noexcept nogil
cdef void mr_page_add(Td *td, uint64_t gpa) noexcept nogil
cdef uint64_t tdh_mr_extend(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_mr_finalize(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
