"""TDH.MEM.PAGE.ADD, AUG, REMOVE, RELOCATE."""

from libc.stdint cimport uint64_t

from tdpfast._seam.core cimport Seam, SeamRegs
from tdpfast._sync.cpu cimport Cpu

cdef uint64_t tdh_mem_page_add(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_mem_page_aug(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_mem_page_remove(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_mem_page_relocate(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
