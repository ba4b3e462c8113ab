"""TDH.MEM.PAGE.DEMOTE and PROMOTE."""

from libc.stdint cimport uint64_t

from tdpfast._seam.core cimport Seam, SeamRegs
from tdpfast._sync.cpu cimport Cpu

cdef uint64_t tdh_mem_page_demote(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_mem_page_promote(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
