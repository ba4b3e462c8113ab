"""TDH.MNG.*, TDH.VP.CREATE, ADDCX and INIT: the life of a TD."""

from libc.stdint cimport uint64_t

from tdpfast._seam.core cimport Seam, SeamRegs
from tdpfast._sync.cpu cimport Cpu

cdef enum KotState:
    KOT_FREE = 0
    KOT_ASSIGNED = 1
    KOT_FLUSHED = 2
    KOT_WRITTEN_BACK = 3
    KOT_RESERVED = 4

cdef uint64_t tdh_mng_create(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_mng_key_config(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_mng_addcx(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_mng_init(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_mng_vpflushdone(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_mng_key_freeid(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_mng_key_reclaimid(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_vp_create(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_vp_addcx(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
cdef uint64_t tdh_vp_init(Cpu *c, Seam *s, SeamRegs *r) noexcept nogil
