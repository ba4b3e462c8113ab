"""vmx/tdx.c of 6.16 to 6.18: pages are pinned while mapped, and before finalisation mapping only counts them."""

from libc.stdint cimport uint64_t

from tdpfast._sync.cpu cimport Cpu
from tdpfast._tdx.state cimport Tdx

cdef int pins_init(Tdx *t) noexcept nogil
cdef void pins_free(Tdx *t) noexcept nogil
cdef uint64_t *pin_count(Tdx *t, uint64_t pfn) noexcept nogil
cdef uint64_t *pin_step(Tdx *t, uint64_t pfn) noexcept nogil

cdef int premap_set_private_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t pfn) noexcept nogil
cdef int premap_remove_private_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t pfn) noexcept nogil
cdef int premap_add(Cpu *c, Tdx *t, uint64_t gfn, uint64_t pfn) noexcept nogil
