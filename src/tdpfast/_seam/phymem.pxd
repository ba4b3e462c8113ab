"""TDH.PHYMEM.*"""

from libc.stdint cimport uint64_t

from tdpfast._seam.core cimport Seam, SeamRegs
from tdpfast._sync.cpu cimport Cpu

cdef uint64_t tdh_phymem_page_reclaim(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_phymem_page_rdmd(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_phymem_page_wbinvd(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_phymem_cache_wb(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
