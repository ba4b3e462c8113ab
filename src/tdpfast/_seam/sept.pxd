"""TDH.MEM.SEPT.*, TDH.MEM.RANGE.* and TDH.MEM.TRACK."""

from libc.stdint cimport uint64_t

from tdpfast._seam.core cimport Seam, SeamRegs
from tdpfast._sync.cpu cimport Cpu

cdef uint64_t tdh_mem_sept_add(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_mem_sept_rd(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_mem_sept_remove(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_mem_range_block(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_mem_range_unblock(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_mem_track(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
