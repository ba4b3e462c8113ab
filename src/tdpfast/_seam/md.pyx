# cython: language_level=3
"""Metadata fields: TDH.SYS.RD, TDH.MNG.RD and WR, TDH.VP.RD and WR (the table is _seam_fields.h).

A field is found by its class and field code; element size, context and the non-architectural bit are ignored, as in
the module. A field of module 1.5 that the table lacks answers TDX_METADATA_FIELD_ID_INCORRECT, and "the next field"
that version 1 returns in RDX is the table's next one.

Every function here may yield; what a call holds is given back when it returns.
"""

from tdpfast._names cimport TDH_MNG_RD, TDH_MNG_WR, TDH_SYS_RD, TDH_VP_RD, TDH_VP_WR
from tdpfast._sync.atomic cimport tdp_read_once, tdp_write_once
from tdpfast._seam.defs cimport *
from tdpfast._seam.leaf cimport *
from tdpfast._seam.locks cimport *
from tdpfast._seam.state cimport *
from tdpfast._seam.steps cimport *
from tdpfast._seam.vp cimport vp_associate

cdef extern from "tdpfast/_seam/fields.h" nogil:
    ctypedef struct md_field "struct md_field":
        uint64_t id
        uint32_t count
        uint32_t debug
        uint64_t wr
        uint64_t dbg_wr
    ctypedef struct md_value "struct md_value":
        uint64_t id
        uint64_t value
    const md_field *td_fields
    const md_field *vp_fields
    const md_value *sys_fields
    enum:
        SYS_FIELDS
        TD_FATAL, TD_NUM_TDCX, TD_CHLDCNT, TD_LIFECYCLE, TD_TDCX_PA, TD_HKID, TD_PKG_CONFIG, TD_HANDOFF_VERSION
        TD_NUM_VCPUS, TD_NUM_ASSOC_VCPUS, TD_OP_STATE, TD_NUM_L2_VMS, TD_ATTRIBUTES, TD_XFAM, TD_MAX_VCPUS, TD_GPAW
        TD_EPTP, TD_TSC_OFFSET, TD_TSC_MULTIPLIER, TD_TSC_FREQUENCY, TD_NOTIFY_ENABLES, TD_CONFIG_FLAGS, TD_TD_CTLS
        TD_TD_EPOCH, TD_REFCOUNT, TD_MRTD, TD_MRCONFIGID, TD_MROWNER, TD_MROWNERCONFIG
        TD_FIELDS
        VP_STATE_DETAILS, VP_STATE, VP_INDEX, VP_ASSOC_LPID, VP_EPOCH, VP_PEND_NMI, VP_FIELDS

cdef enum:
    DEBUG_TD = 1

cdef uint64_t FEATURES0 = 0x0a00000300000008
cdef uint64_t FEATURE_TOPOLOGY = <uint64_t>1 << 20
cdef uint64_t FEATURE_DYNAMIC_PAMT = <uint64_t>1 << 36
cdef uint64_t TSC_MULTIPLIER = <uint64_t>1 << 47      # the TSC runs at the TD's own frequency
cdef uint64_t NO_FIELD = ~<uint64_t>0
cdef uint64_t ID_RESERVED = 0x4083fffcff000000      # and last element, last field
cdef uint64_t ID_KEY = 0x3f00000000ffffff           # class and field code


cdef bint id_single(uint64_t id) noexcept nogil:
    """Whether an identifier names one element."""
    return id & ID_RESERVED == 0


cdef int find_field(const md_field *table, int n, uint64_t id, uint64_t *index) noexcept nogil:
    """The table's entry and the element in it; -1 for none."""
    cdef uint64_t key = id & ID_KEY
    cdef uint64_t first
    cdef int i
    for i in range(n):
        first = table[i].id & ID_KEY
        if first <= key < first + table[i].count:
            index[0] = key - first
            return i
    return -1


cdef uint64_t next_field(const md_field *table, int n, int i, uint64_t index) noexcept nogil:
    if i < 0:
        return table[0].id
    if index + 1 < table[i].count:
        return table[i].id + index + 1
    return table[i + 1].id if i + 1 < n else NO_FIELD


cdef uint64_t features(const Seam *s) noexcept nogil:
    """Bits of TDX_FEATURES0 beyond those of 1.5.01: SYS.CONFIG of a later module takes dynamic PAMT."""
    return FEATURE_TOPOLOGY | FEATURE_DYNAMIC_PAMT if s.topology else 0


cdef uint64_t tdh_sys_rd(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RDX field, -1: asks for the first. R8 value, RDX the next field. Leaf 34, version 0."""
    cdef uint64_t id = k.rdx
    cdef int i
    r.rdx = NO_FIELD
    if not (s.lp_ready >> (<uint32_t>c.lp & 63)) & 1:
        return TDX_SYS_LP_INIT_NOT_DONE
    if id == NO_FIELD:
        r.rdx = sys_fields[0].id
        return TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT
    if not id_single(id):
        return TDX_METADATA_FIELD_ID_INCORRECT
    for i in range(SYS_FIELDS):
        if sys_fields[i].id & ID_KEY == id & ID_KEY:
            r.r8 = sys_fields[i].value
            if sys_fields[i].id == FEATURES0:
                r.r8 |= features(s)
            if i + 1 < SYS_FIELDS:
                r.rdx = sys_fields[i + 1].id
            return TDX_SUCCESS
    return TDX_METADATA_FIELD_ID_INCORRECT

page_leaf(TDH_SYS_RD, tdh_sys_rd, 2, IN_R8, LEAF_EARLY)


# ---- the TD -------------------------------------------------------------------------------------------------

cdef uint64_t *td_field(Td *td, int field, uint64_t index) noexcept nogil:
    """Where a field is kept; NULL for one that is computed."""
    if field == TD_FATAL:
        return &td.fatal
    if field == TD_NUM_TDCX:
        return &td.num_tdcx
    if field == TD_CHLDCNT:
        return &td.chldcnt
    if field == TD_LIFECYCLE:
        return &td.lifecycle
    if field == TD_TDCX_PA:
        return &td.tdcx_pa[index]
    if field == TD_HKID:
        return &td.hkid
    if field == TD_NUM_VCPUS:
        return &td.num_vcpus
    if field == TD_NUM_ASSOC_VCPUS:
        return &td.assoc_vcpus
    if field == TD_OP_STATE:
        return &td.op_state
    return td_config_field(td, field, index)


cdef uint64_t *td_config_field(Td *td, int field, uint64_t index) noexcept nogil:
    if field == TD_ATTRIBUTES:
        return &td.attributes
    if field == TD_XFAM:
        return &td.xfam
    if field == TD_MAX_VCPUS:
        return &td.max_vcpus
    if field == TD_TSC_FREQUENCY:
        return &td.tsc_frequency
    if field == TD_MRCONFIGID or field == TD_MROWNER or field == TD_MROWNERCONFIG:
        return &td.mr_config[6 * (field - TD_MRCONFIGID) + index]
    if field == TD_NOTIFY_ENABLES:
        return &td.notify_enables
    if field == TD_CONFIG_FLAGS:
        return &td.config_flags
    if field == TD_TD_CTLS:
        return &td.td_ctls
    if field == TD_TD_EPOCH:
        return &td.td_epoch
    if field == TD_REFCOUNT:
        return &td.refcount[index]
    if field == TD_MRTD:
        return &td.mrtd[index]
    return NULL


cdef uint64_t td_read(Td *td, int field, uint64_t index) noexcept nogil:
    cdef uint64_t *word = td_field(td, field, index)
    if word != NULL:
        return tdp_read_once(word)
    if field == TD_NUM_L2_VMS:
        return <uint64_t>td.num_l2
    if field == TD_GPAW:
        return <uint64_t>td.gpaw
    if field == TD_PKG_CONFIG:
        return 1             # the key is configured on the one package
    if field == TD_TSC_MULTIPLIER:
        return TSC_MULTIPLIER
    if field == TD_EPTP:
        return td.tdcx_pa[SEAM_ROOT_PAGE] | <uint64_t>(td.levels - 1) << 3 | 6
    return 0


cdef uint64_t write_word(const md_field *f, uint64_t *word, bint debug, uint64_t value, uint64_t mask) noexcept nogil:
    cdef uint64_t may = f.dbg_wr if debug else f.wr
    if word == NULL or may & mask == 0:
        return TDX_METADATA_FIELD_NOT_WRITABLE
    if (value ^ word[0]) & mask & ~may:
        return TDX_METADATA_FIELD_VALUE_NOT_VALID
    tdp_write_once(word, (word[0] & ~(may & mask)) | (value & may & mask))
    return TDX_SUCCESS


cdef uint64_t td_access(Td *td, SeamRegs *r, const Call *k, bint write) noexcept nogil:
    """RDX field, and to write R8 value, R9 mask. R8: the value read, or the old one."""
    cdef bint debug = td.attributes & DEBUG_TD
    cdef uint64_t id = k.rdx, value = k.r8, index = 0
    cdef int i
    if k.version:
        if id == NO_FIELD:
            r.rdx = td_fields[0].id
            return TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT
    i = find_field(td_fields, TD_FIELDS, id, &index) if id_single(id) else -1
    if i < 0:
        return TDX_METADATA_FIELD_ID_INCORRECT
    if td_fields[i].debug and not debug:
        return TDX_METADATA_FIELD_NOT_WRITABLE if write else TDX_METADATA_FIELD_NOT_READABLE
    r.r8 = td_read(td, i, index)
    if k.version:
        r.rdx = next_field(td_fields, TD_FIELDS, i, index)
    if not write:
        return TDX_SUCCESS
    index = write_word(&td_fields[i], td_field(td, i, index), debug, value, r.r9)
    if index != TDX_SUCCESS:
        r.r8 = 0
    return index


cdef uint64_t tdh_mng_rd(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX TDR, RDX field. R8 value; version 1: RDX the next field, -1 when it failed. Leaf 11, versions 0 and 1."""
    return td_access(k.td, r, k, False)

cdef Leaf *row = td_leaf(TDH_MNG_RD, tdh_mng_rd, TDR_IN_RCX, HOLD_SHARED, WANTS_TDCS, OPS_FOR_READ, 2)
row.version = 1
row.zeroed = IN_R8
row.nulled = IN_RDX


cdef uint64_t tdh_mng_wr(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX TDR, RDX field, R8 value, R9 mask. R8 the old value. Leaf 13, version 0."""
    return td_access(k.td, r, k, True)

row = td_leaf(TDH_MNG_WR, tdh_mng_wr, TDR_IN_RCX, HOLD_SHARED, WANTS_TDCS, OPS_FOR_WRITE, 4)
row.zeroed = IN_R8


# ---- VCPUs --------------------------------------------------------------------------------------------------

cdef uint64_t vp_read(Vp *vp, int field) noexcept nogil:
    if field == VP_STATE:
        return vp.state
    if field == VP_INDEX:
        return vp.index
    if field == VP_ASSOC_LPID:
        return vp.lp - 1
    if field == VP_EPOCH:
        return vp.vcpu_epoch
    if field == VP_PEND_NMI:
        return vp.pend_nmi
    return 0                 # VCPU_STATE_DETAILS: no interrupt is ever pending here


cdef uint64_t vp_access(Td *td, Vp *vp, SeamRegs *r, const Call *k, bint write) noexcept nogil:
    """As td_access()."""
    cdef bint debug = td.attributes & DEBUG_TD
    cdef uint64_t id = k.rdx, value = k.r8, index = 0
    cdef uint64_t status = TDX_SUCCESS
    cdef int i
    if k.version:
        if id == NO_FIELD:
            r.rdx = vp_fields[0].id
            return TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT
    i = find_field(vp_fields, VP_FIELDS, id, &index) if id_single(id) else -1
    if i < 0:
        return TDX_METADATA_FIELD_ID_INCORRECT
    if vp_fields[i].debug and not debug:
        return TDX_METADATA_FIELD_NOT_WRITABLE if write else TDX_METADATA_FIELD_NOT_READABLE
    index = vp_read(vp, i)
    if k.version:
        r.rdx = next_field(vp_fields, VP_FIELDS, i, 0)
    if write:
        status = write_word(&vp_fields[i], &vp.pend_nmi if i == VP_PEND_NMI else NULL, debug, value, r.r9)
    r.r8 = index if status == TDX_SUCCESS else 0
    return status


cdef uint64_t vp_rdwr(Cpu *c, Seam *s, SeamRegs *r, Call *k, bint write) noexcept nogil:
    if k.vp == NULL or k.vp.num_tdvpx < SEAM_TDVPX_PAGES:
        return TDX_TDCX_NUM_INCORRECT
    if k.vp.state != VP_READY:
        return TDX_VCPU_STATE_INCORRECT
    if not vp_associate(c, k.td, k.vp):
        return TDX_VCPU_ASSOCIATED
    return vp_access(k.td, k.vp, r, k, write)


cdef uint64_t tdh_vp_rd(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX TDVPR, RDX field. R8 value; version 1: RDX the next field, -1 when it failed. The VCPU is associated with
    this logical processor. Leaf 26, versions 0 and 1."""
    return vp_rdwr(c, s, r, k, False)

row = td_leaf(TDH_VP_RD, tdh_vp_rd, TDVPR_IN_RCX, HOLD_SHARED, WANTS_TDCS, OPS_FOR_READ, 2)
row.version = 1
row.zeroed = IN_R8
row.nulled = IN_RDX


cdef uint64_t tdh_vp_wr(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX TDVPR, RDX field, R8 value, R9 mask. R8 the old value. Leaf 43, version 0."""
    return vp_rdwr(c, s, r, k, True)

row = td_leaf(TDH_VP_WR, tdh_vp_wr, TDVPR_IN_RCX, HOLD_SHARED, WANTS_TDCS, OPS_FOR_WRITE, 4)
row.zeroed = IN_R8
