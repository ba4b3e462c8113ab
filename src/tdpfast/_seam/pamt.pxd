"""TDH.PHYMEM.PAMT.ADD and REMOVE: the page pair of a 2M range (dynamic PAMT)."""

from libc.stdint cimport uint64_t

from tdpfast._seam.core cimport PageHold, PamtEntry, Seam, SeamRegs
from tdpfast._sync.cpu cimport Cpu

cdef uint64_t tdh_phymem_pamt_add(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_phymem_pamt_remove(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
