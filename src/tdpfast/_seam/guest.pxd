"""What a guest does: memory accesses, TDG.MEM.PAGE.ACCEPT, ATTR.RD, ATTR.WR. The VCPU that runs on this LP acts."""

from libc.stdint cimport uint64_t

from tdpfast._seam.state cimport Seam, SeamRegs, Vp
from tdpfast._sync.cpu cimport Cpu

cdef enum GuestResult:
    GUEST_DONE = 0           # the guest goes on; registers are the guest's, RAX the status of a TDCALL
    GUEST_TDEXIT             # back in the VMM; registers are the VMM's
    GUEST_VE                 # #VE injected
    GUEST_REEXECUTE          # interrupted; the guest runs the TDCALL again
    GUEST_NOT_INSIDE         # no VCPU runs on this LP
    GUEST_DF                 # #DF injected: a #VE whose predecessor's VE_INFO was not read

cdef int tdcall(Cpu *c, Seam *s, int leaf, SeamRegs *r) noexcept nogil
cdef bint tdcall_exists(int leaf) noexcept nogil
cdef int tdg_mem_page_accept(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef int tdg_mem_page_attr_rd(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef int tdg_mem_page_attr_wr(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef int td_guest_access(Cpu *c, Seam *s, uint64_t gpa, bint same_rip, SeamRegs *r) noexcept nogil
cdef int td_ept_violation(Cpu *c, Seam *s, Vp *vp, uint64_t gpa, SeamRegs *r) noexcept nogil
