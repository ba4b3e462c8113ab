# cython: language_level=3
"""The measurement of a TD's build: TDH.MR.EXTEND, TDH.MR.FINALIZE, MRTD.

MRTD is a SHA-384 over 128-byte blocks, in the order of the calls that succeeded:

    TDH.MEM.PAGE.ADD   one block: "MEM.PAGE.ADD" zero-padded to 16 bytes, the GPA (8 bytes, little endian), zeroes
    TDH.MR.EXTEND      one block: "MR.EXTEND" and the GPA in the same way; then the 256 bytes at the GPA as two blocks

PAGE.ADD does not measure content. MNG.INIT starts the hash, FINALIZE ends it; before that MRTD reads as 0. The hash is
our own re-implementation of what module 1.5 does, not an output of it. A page added without its bytes counts as zeroes.

Every function here may yield; what a call holds is given back when it returns.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

from tdpfast._names cimport TDH_MR_EXTEND, TDH_MR_FINALIZE
from tdpfast._seam.defs cimport *
from tdpfast._seam.leaf cimport *
from tdpfast._seam.locks cimport *
from tdpfast._seam.state cimport *
from tdpfast._seam.steps cimport *

cdef extern from "tdpfast/_seam/sha384.h" nogil:
    void sha384_start(uint64_t *h) noexcept
    void sha384_block(uint64_t *h, const uint8_t *block) noexcept
    void sha384_end(const uint64_t *h, uint64_t blocks, uint64_t *digest) noexcept


cdef void mr_begin(Td *td) noexcept nogil:
    """TDH.MNG.INIT: nothing measured yet."""
    sha384_start(td.sha)
    td.sha_blocks = 0
    memset(td.mrtd, 0, sizeof(td.mrtd))


cdef void measure(Td *td, const uint8_t *block) noexcept nogil:
    sha384_block(td.sha, block)
    td.sha_blocks += 1


cdef void measure_name(Td *td, const char *name, int length, uint64_t gpa) noexcept nogil:
    cdef uint8_t block[128]
    memset(block, 0, sizeof(block))
    memcpy(block, name, length)
    memcpy(block + 16, &gpa, 8)
    measure(td, block)


cdef void mr_page_add(Td *td, uint64_t gpa) noexcept nogil:
    """TDH.MEM.PAGE.ADD, TDR held exclusive: the GPA, not the content."""
    measure_name(td, b"MEM.PAGE.ADD", 12, gpa)


cdef void measure_bytes(Seam *s, Td *td, uint64_t hpa) noexcept nogil:
    """256 bytes of a page."""
    cdef uint8_t zero[128]
    cdef const uint8_t *bytes = zero
    cdef PamtEntry *e = pamt_entry(s, hpa, 0)
    memset(zero, 0, sizeof(zero))
    if e != NULL and e.flags & PAMT_BYTES:
        bytes = <const uint8_t *>page_memory(s, hpa) + (hpa & 0xfff)
        measure(td, bytes)
        measure(td, bytes + 128)
        return
    measure(td, zero)
    measure(td, zero)


cdef uint64_t tdh_mr_extend(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX GPA of 256 bytes, RDX TDR. Leaf 16, version 0."""
    cdef uint64_t status
    cdef int at
    if k.rcx & 0xff:
        return TDX_OPERAND_INVALID | OP_RCX
    status = gpa_decode(k, k.rcx & ~<uint64_t>0xfff, 0, 0)
    if status != TDX_SUCCESS:
        return status
    at = sept_leaf(c, s, k.td, k.gpa, &k.ep, &k.entry)
    if at != 0 or sept_flags(k.entry) & ST_FREE:
        regs_entry(r, k.entry, at)
        return TDX_EPT_ENTRY_NOT_PRESENT | OP_RCX
    if sept_enc(k.entry) != ENC_MAPPED:
        return TDX_EPT_ENTRY_NOT_PRESENT
    measure_name(k.td, b"MR.EXTEND", 9, k.rcx)
    measure_bytes(s, k.td, (k.entry & SEPT_HPA) | (k.rcx & 0xfff))
    return TDX_SUCCESS

cdef Leaf *row = td_leaf(TDH_MR_EXTEND, tdh_mr_extend, TDR_IN_RDX, HOLD_EXCL, WANTS_TDCS, OPS_FOR_BUILD, 2)
row.zeroed = IN_RCX | IN_RDX


cdef uint64_t tdh_mr_finalize(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX TDR. The TD becomes runnable, MRTD is fixed; the exclusive TDR stands for OP_STATE's lock. Leaf 17,
    version 0."""
    if k.td.num_vcpus == 0:
        return TDX_NO_VCPUS
    sha384_end(k.td.sha, k.td.sha_blocks, k.td.mrtd)
    k.td.op_state = OPS_RUNNABLE
    return TDX_SUCCESS

td_leaf(TDH_MR_FINALIZE, tdh_mr_finalize, TDR_IN_RCX, HOLD_EXCL, WANTS_TDCS, OPS_FOR_BUILD, 1)
