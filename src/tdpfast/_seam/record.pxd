"""What SEAMCALLs leave behind: an event in the trace of the CPU that makes them, a record, or nothing. All of it is safe
while others call; a reset or a snapshot is not."""

from libc.stdint cimport uint64_t

from tdpfast._seam.state cimport Seam, SeamRecord, SeamRegs
from tdpfast._sync.cpu cimport Cpu

cdef enum:               # Seam.observed
    SEAM_UNSEEN = 0
    SEAM_TRACED
    SEAM_RECORDED        # and traced

cdef void seam_record(Seam *s, bint on) noexcept nogil
cdef void seam_trace(Seam *s, bint on) noexcept nogil
cdef SeamRecord *seam_records(Seam *s, uint64_t *n) noexcept nogil
cdef void observe_call(Cpu *c, Seam *s, int leaf, SeamRegs *before, SeamRegs *after, int inject) noexcept nogil
