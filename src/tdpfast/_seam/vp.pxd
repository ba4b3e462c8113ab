"""TDH.VP.ENTER and FLUSH, and the ways out of a TD."""

from libc.stdint cimport uint64_t

from tdpfast._seam.core cimport Call, PageHold, Seam, SeamRegs, Td, Vp
from tdpfast._sync.cpu cimport Cpu

cdef struct VpCall:
    Call k
    Vp *vp
    PageHold page
    bint tdr_held        # the 4K PAMT entry of the TDR, shared

cdef uint64_t vp_lock(Cpu *c, Seam *s, uint64_t tdvpr_pa, bint excl, uint64_t opid, VpCall *v) noexcept nogil
cdef void vp_unlock(Cpu *c, Seam *s, VpCall *v) noexcept nogil
cdef uint64_t vp_pages(VpCall *v) noexcept nogil
cdef bint vp_associate(Cpu *c, Td *td, Vp *vp) noexcept nogil
cdef uint64_t tdh_vp_enter(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_vp_flush(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef Vp *vp_running(Cpu *c, Seam *s) noexcept nogil
cdef void vm_exit(Cpu *c, Seam *s, Vp *vp) noexcept nogil
cdef void td_exit(Cpu *c, Seam *s, Vp *vp) noexcept nogil
cdef uint64_t td_async_exit(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef void td_exit_ept_violation(Cpu *c, Seam *s, Vp *vp, SeamRegs *r, uint64_t gpa, uint64_t qual,
                                uint64_t eeq) noexcept nogil
