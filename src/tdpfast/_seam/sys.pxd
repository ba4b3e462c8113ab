"""TDH.SYS.*: how the module comes up."""

from libc.stdint cimport uint64_t

from tdpfast._seam.core cimport Seam, SeamRegs
from tdpfast._sync.cpu cimport Cpu

# -1: a bad range, too many, or no memory
cdef int seam_add_tdmr(Seam *s, uint64_t start, uint64_t end, bint initialised) noexcept nogil
cdef void seam_reserve(Seam *s, uint64_t start, uint64_t end) noexcept nogil
cdef bint sys_allows(const Seam *s, int leaf) noexcept nogil
cdef uint64_t tdh_sys_init(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_sys_lp_init(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_sys_config(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_sys_key_config(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_sys_tdmr_init(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
