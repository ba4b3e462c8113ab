"""TDH.VP.ENTER and FLUSH, and the ways out of a TD."""

from libc.stdint cimport uint64_t

from tdpfast._seam.state cimport Seam, SeamRegs, Td, Vp
from tdpfast._seam.steps cimport Call
from tdpfast._sync.cpu cimport Cpu

cdef uint64_t vp_pages(const Call *k) noexcept nogil
cdef bint vp_associate(Cpu *c, Td *td, Vp *vp) noexcept nogil
cdef Vp *vp_running(Cpu *c, Seam *s) noexcept nogil
cdef void vm_exit(Cpu *c, Seam *s, Vp *vp) noexcept nogil
cdef void td_exit(Cpu *c, Seam *s, Vp *vp) noexcept nogil
cdef uint64_t td_async_exit(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef void td_exit_ept_violation(Cpu *c, Seam *s, Vp *vp, SeamRegs *r, uint64_t gpa, uint64_t qual,
                                uint64_t eeq) noexcept nogil
