"""TDH.SYS.RD, TDH.MNG.RD, WR, TDH.VP.RD, WR: metadata fields by identifier."""

from libc.stdint cimport uint64_t

from tdpfast._seam.core cimport Seam, SeamRegs
from tdpfast._sync.cpu cimport Cpu

cdef uint64_t tdh_sys_rd(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_mng_rd(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_mng_wr(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_vp_rd(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_vp_wr(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
