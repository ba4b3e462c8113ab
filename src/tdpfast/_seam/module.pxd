"""The TDX module: instance, SEAMCALL dispatcher, injection, snapshots, inspection without locks.

    cdef Seam *s = seam_new(4, 64)
    seam_add_tdmr(s, 0x100000000, 0x200000000, True)
    memset(&regs, 0, sizeof(regs)); regs.rcx = gpa | level; regs.rdx = tdr; regs.r8 = hpa
    status = seamcall(c, s, TDH_MEM_PAGE_AUG, &regs)

The leaves are rows of a table (leaf.pxd); seamcall() is the only way in. regs.rax is set to the status. The logical
processor is c.lp & 63.
"""

from libc.stdint cimport int32_t, uint64_t

from tdpfast._seam.state cimport PamtEntry, Seam, SeamInject, SeamLp, SeamRegs, Td, Vp, pamt_entry
from tdpfast._sync.cpu cimport Cpu

# Instance. NULL or -1: out of memory or a bad range.
cdef Seam *seam_new(int max_td, int max_vp) noexcept nogil
cdef void seam_free(Seam *s) noexcept nogil
cdef void seam_not_ready(Seam *s, int nlp) noexcept nogil
cdef void seam_reset(Seam *s) noexcept nogil

# What the VMM writes to memory outside of TDMRs, for leaves that read it there: -1 beyond SEAM_HOST_PAGES pages
cdef int seam_write(Seam *s, uint64_t pa, const void *bytes, size_t n) noexcept nogil

# Calls
cdef uint64_t seamcall(Cpu *c, Seam *s, int leaf, SeamRegs *r) noexcept nogil
cdef int seam_inject(Seam *s, const SeamInject *inject) noexcept nogil
cdef void seam_inject_off(Seam *s, int index) noexcept nogil
cdef int seam_inject_put(Seam *s, int index) noexcept nogil
cdef void seam_inject_clear(Seam *s) noexcept nogil

# Snapshots: one thread only
cdef int seam_snapshot(Seam *s) noexcept nogil
cdef void seam_restore(Seam *s) noexcept nogil

# Inspection: takes no lock, offers no yield point
cdef Td *seam_td(Seam *s, uint64_t tdr_pa) noexcept nogil
cdef Vp *seam_vp(Seam *s, uint64_t tdvpr_pa) noexcept nogil
cdef int seam_walk(Seam *s, const Td *td, int vm, uint64_t gpa, int level, uint64_t *raw, int *reached) noexcept nogil
cdef uint64_t *seam_entry(Seam *s, const Td *td, int vm, uint64_t gpa, int level, int *reached) noexcept nogil
cdef const PamtEntry *pamt_peek(Seam *s, uint64_t hpa, int size) noexcept nogil

cdef struct SeptIter:    # every entry of a TD's S-EPT that is not free, top down, in GPA order
    Seam *s
    const Td *td
    int32_t vm
    int32_t level        # of the entry found
    uint64_t gpa
    uint64_t raw
    uint64_t *page[5]
    int32_t index[5]
    int32_t depth

cdef void sept_iter_init(SeptIter *it, Seam *s, const Td *td, int vm) noexcept nogil
cdef bint sept_iter_next(SeptIter *it) noexcept nogil
