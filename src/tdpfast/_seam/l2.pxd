"""The S-EPTs of L2 VMs: pages and aliases that follow the L1 entry. The L1 entry's lock covers them."""

from libc.stdint cimport uint64_t

from tdpfast._seam.defs cimport *
from tdpfast._seam.state cimport Seam, SeamRegs
from tdpfast._seam.steps cimport Call, PageHold
from tdpfast._sync.cpu cimport Cpu

cdef enum:               # page attributes of one VM, 16 bits
    L2_R = 1
    L2_W = 2
    L2_XS = 4
    L2_XU = 8
    L2_PRESENT = 0x0f
    L2_VGP = 0x10        # verify guest paging
    L2_PWA = 0x20        # paging-write access
    L2_SSS = 0x40        # supervisor shadow stack
    L2_SVE = 0x80
    L2_RESERVED = 0x7f00
    L2_VALID = 0x8000

cdef enum L2Public:
    L2_FREE = 64
    L2_BLOCKED = 65
    L2_MAPPED = 68
    L2_NL_BLOCKED = 193
    L2_NL_MAPPED = 196

cdef inline bint has_alias(uint64_t entry, int vm) noexcept nogil:
    return (entry >> (SEPT_TDAL_SHIFT + vm - 1)) & 1

cdef inline uint64_t alias_bit(int vm) noexcept nogil:
    return <uint64_t>1 << (SEPT_TDAL_SHIFT + vm - 1)

cdef inline uint64_t *l2_page_reg(SeamRegs *r, int vm) noexcept nogil:
    """R9, R10 or R11."""
    return &r.r8 + vm

cdef inline bint l2_free(uint64_t e) noexcept nogil:
    return e & L2_STATE == 0

cdef uint64_t l2_leaf(uint64_t e, uint64_t hpa, uint64_t attr, bint blocked) noexcept nogil
cdef uint64_t l2_leaf_put(uint64_t e, uint64_t attr) noexcept nogil
cdef uint64_t l2_leaf_attr(uint64_t e, bint blockedw) noexcept nogil
cdef bint l2_attr_legal(uint64_t attr) noexcept nogil
cdef uint64_t l2_unblocked(uint64_t e) noexcept nogil
cdef bint l2_find(Cpu *c, Seam *s, Call *k, int vm, uint64_t **ep, uint64_t *entry, int *at) noexcept nogil
cdef bint l2_find_guest(Cpu *c, Seam *s, Call *k, int vm, uint64_t **ep, uint64_t *entry, int *at) noexcept nogil
cdef uint64_t l2_failed(Call *k, SeamRegs *r, int vm, uint64_t entry, int at, uint64_t status) noexcept nogil
cdef bint l2_uniform(Cpu *c, const uint64_t *table, int level) noexcept nogil
cdef uint64_t l2_table_lock(Cpu *c, Seam *s, uint64_t entry, PageHold *h) noexcept nogil
cdef void l2_write(Cpu *c, Seam *s, uint64_t *ep, uint64_t v) noexcept nogil
cdef uint64_t l2_add_pages(Cpu *c, Seam *s, Call *k, SeamRegs *r, uint64_t version, bint existing,
                           PageHold *l1) noexcept nogil
cdef uint64_t l2_remove_pages(Cpu *c, Seam *s, Call *k, SeamRegs *r, uint64_t version) noexcept nogil
cdef void l2_alias_block(Cpu *c, Seam *s, Call *k) noexcept nogil
cdef void l2_alias_unblock(Cpu *c, Seam *s, Call *k) noexcept nogil
cdef void l2_alias_free(Cpu *c, Seam *s, Call *k) noexcept nogil
cdef void l2_alias_move(Cpu *c, Seam *s, Call *k, uint64_t hpa) noexcept nogil
cdef uint64_t l2_attributes(Cpu *c, Seam *s, Call *k) noexcept nogil
