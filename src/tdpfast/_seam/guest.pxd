"""What a guest does: accesses, and TDCALLs, each a row beside its function. The VCPU that runs on this LP acts."""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from tdpfast._seam.state cimport Seam, SeamRegs, Vp
from tdpfast._seam.steps cimport Call
from tdpfast._sync.cpu cimport Cpu

cdef enum GuestResult:
    GUEST_DONE = 0           # the guest goes on; registers are the guest's, RAX the status of a TDCALL
    GUEST_TDEXIT             # back in the VMM; registers are the VMM's
    GUEST_VE                 # #VE injected
    GUEST_REEXECUTE          # interrupted; the guest runs the TDCALL again
    GUEST_NOT_INSIDE         # no VCPU runs on this LP
    GUEST_DF                 # #DF injected: a #VE whose predecessor's VE_INFO was not read

cdef enum:
    TDCALLS = 64             # numbers of TDCALL leaves are below this

cdef enum GuestLeafFlag:
    GUEST_PLAIN_GPA = 1      # RCX is a GPA alone, and its low 12 bits mean nothing
    GUEST_UNRECORDED = 2     # no answer of the real module is at hand

cdef struct GuestLeaf
# given: the registers as the guest set them. r: as it finds them, those of `zeroed` 0 already.
ctypedef int (*guest_fn)(Cpu *c, Seam *s, const GuestLeaf *leaf, Call *k, Vp *vp, const SeamRegs *given,
                         SeamRegs *r) noexcept nogil

cdef struct GuestLeaf:       # what a TDCALL asks for before it runs, in the module's order
    guest_fn fn              # NULL: tdpfast has no such leaf
    uint32_t version         # the highest
    uint64_t (*check)(const Call *k, uint64_t rdx, uint64_t r8) noexcept nogil     # before the GPA, or NULL
    int32_t lowest           # level of the GPA in RCX, or NO_GPA
    int32_t highest
    uint32_t state           # ST_*: the entry states it takes
    uint32_t zeroed          # registers that become 0, whatever comes of the call
    uint32_t flags           # GuestLeafFlag

cdef const GuestLeaf *guest_row(int number) noexcept nogil
cdef int tdcall(Cpu *c, Seam *s, int leaf, SeamRegs *r) noexcept nogil
cdef int td_guest_access(Cpu *c, Seam *s, uint64_t gpa, bint same_rip, SeamRegs *r) noexcept nogil
cdef int td_ept_violation(Cpu *c, Seam *s, Vp *vp, uint64_t gpa, SeamRegs *r) noexcept nogil
