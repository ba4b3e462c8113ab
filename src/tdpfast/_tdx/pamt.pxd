"""Dynamic PAMT on KVM's side: how many users each 2M range has, and the page pair they share."""

from libc.stdint cimport int64_t, uint64_t

from tdpfast._seam.state cimport Seam
from tdpfast._sync.cpu cimport Cpu, SpinLock
from tdpfast._tdx.state cimport Tdx

cdef struct PamtHost:            # of the machine: all TDs of a module share it (Seam.host)
    SpinLock lock                # pamt_lock
    uint64_t pages_out           # pages taken for pairs and not given back
    uint64_t nranges
    uint64_t base                # HPA of the first range's
    uint64_t pool                # HPA: range i's pair is at + i * 8K
    uint64_t refs[1]             # users of each range

cdef int pamt_host_init(Seam *s) noexcept nogil
cdef PamtHost *pamt_host(const Seam *s) noexcept nogil
cdef int tdx_pamt_get(Cpu *c, Tdx *t, uint64_t hpa) noexcept nogil
cdef int base_tdx_pamt_get(Cpu *c, Tdx *t, uint64_t hpa) noexcept nogil
cdef void tdx_pamt_put(Cpu *c, Tdx *t, uint64_t hpa) noexcept nogil
cdef void base_tdx_pamt_put(Cpu *c, Tdx *t, uint64_t hpa) noexcept nogil
cdef bint pamt_balanced(Seam *s, uint64_t *range_hpa, int64_t *refs, int64_t *live) noexcept nogil
