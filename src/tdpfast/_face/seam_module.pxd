"""SeamModule: the TDX module as a Python object. Native code takes its Seam pointer."""

from libc.stdint cimport uint64_t

from tdpfast._seam.state cimport PamtEntry, Seam, SeamRegs, Td, Vp
from tdpfast._sync.cpu cimport Cpu

cdef class SeamModule:
    cdef Seam *s
    cdef Cpu *cpu            # one per logical processor

    cdef Cpu *lp(self, int lp) except NULL
    cdef Td *_td(self, uint64_t tdr) except NULL
    cdef Vp *_vp(self, uint64_t tdvpr) except NULL
    cdef PamtEntry *_pamt(self, uint64_t hpa, int size) except NULL
