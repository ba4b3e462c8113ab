# cython: language_level=3
"""How the module comes up: SYS.INIT, SYS.LP.INIT on every logical processor, SYS.CONFIG, SYS.KEY.CONFIG, SYS.TDMR.INIT.

There is one package, all memory is convertible (no CMRs), and TDMR_INFO entries are handed over by Python
(SeamModule.write_tdmr_info) instead of being read from memory. Until KEY.CONFIG succeeded every leaf but these and
SYS.RD answers TDX_SYS_NOT_READY. Snapshots do not cover this state.

Every function here may yield, and holds no lock when it returns.
"""

from libc.string cimport memset

from tdpfast._names cimport (
    TDH_SYS_CONFIG, TDH_SYS_INIT, TDH_SYS_KEY_CONFIG, TDH_SYS_LP_INIT, TDH_SYS_TDMR_INIT,
)
from tdpfast._sync.atomic cimport tdp_fetch_or
from tdpfast._seam.defs cimport *
from tdpfast._seam.leaf cimport *
from tdpfast._seam.locks cimport *
from tdpfast._seam.state cimport *
from tdpfast._seam.steps cimport *

cdef enum:
    PAMT_ENTRY_SIZE = 16     # of the module; PamtEntry has another size
    MAX_RESERVED = 16
    CONFIG_DYNAMIC_PAMT = 1 << 16

cdef uint64_t GIB = 1 << 30


cdef int seam_add_tdmr(Seam *s, uint64_t start, uint64_t end, bint initialised) noexcept nogil:
    """[start, end) of HPA, 1G aligned and in no other, becomes a TDMR; 0, or -1."""
    cdef Tdmr *t
    cdef uint64_t size = end - start
    cdef int i
    for i in range(s.ntdmr):
        if start < s.tdmr[i].end and s.tdmr[i].start < end:
            return -1
    if s.ntdmr == SEAM_MAX_TDMR or start >= end or (start | end) & (GIB - 1) or (end - 1) & s.pa_reserved:
        return -1
    t = &s.tdmr[s.ntdmr]
    memset(t, 0, sizeof(Tdmr))
    t.start = start
    t.end = end
    t.ready = start
    s.ntdmr += 1
    if not initialised:
        return 0
    t.p4k = <PamtEntry *>seam_map((size >> 12) * sizeof(PamtEntry))
    t.p2m = <PamtEntry *>seam_map((size >> 21) * sizeof(PamtEntry))
    t.p1g = <PamtEntry *>seam_map((size >> 30) * sizeof(PamtEntry))
    t.memory = <uint8_t *>seam_map(size)
    if t.p4k == NULL or t.p2m == NULL or t.p1g == NULL or t.memory == NULL:
        return -1
    t.ready = end
    return 0


cdef void seam_reserve(Seam *s, uint64_t start, uint64_t end) noexcept nogil:
    """[start, end) of HPA is a reserved area of its TDMR."""
    cdef uint64_t hpa, last
    cdef int i
    for i in range(s.ntdmr):
        hpa = max(start & ~<uint64_t>0xfff, s.tdmr[i].start)
        last = min(end, s.tdmr[i].ready)
        while hpa < last:
            pamt_entry(s, hpa, 0).pt = PT_RSVD
            hpa += 4096


cdef uint64_t tdh_sys_init(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX attributes, 0. Leaf 33, version 0."""
    cdef uint64_t attributes = k.rcx
    cdef uint64_t status = TDX_SUCCESS
    if not sharex_try_excl(c, &s.sys_lock):
        return TDX_SYS_BUSY
    if attributes:
        status = TDX_OPERAND_INVALID | OP_RCX
    elif s.sys_state != SYS_INIT_PENDING:
        status = TDX_SYS_INIT_NOT_PENDING
    else:
        s.sys_state = SYS_INIT_DONE
    sharex_put_excl(c, &s.sys_lock)
    return status

page_leaf(TDH_SYS_INIT, tdh_sys_init, 1, IN_RCX | IN_RDX | IN_R8 | IN_R9 | IN_R10, LEAF_EARLY)


cdef uint64_t tdh_sys_lp_init(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """On each logical processor once. Leaf 35, version 0."""
    cdef uint64_t bit = <uint64_t>1 << (<uint32_t>c.lp & 63)
    cdef uint64_t status = TDX_SUCCESS
    if not sharex_try_shared(c, &s.sys_lock):
        return TDX_SYS_BUSY
    if s.sys_state != SYS_INIT_DONE:
        status = TDX_SYS_LP_INIT_NOT_PENDING
    elif tdp_fetch_or(&s.lp_ready, bit) & bit:
        status = TDX_SYS_LP_INIT_DONE
    sharex_put_shared(c, &s.sys_lock)
    return status

page_leaf(TDH_SYS_LP_INIT, tdh_sys_lp_init, 0, IN_RCX | IN_RDX | IN_R8, LEAF_EARLY)


# ---- SYS.CONFIG ---------------------------------------------------------------------------------------------

cdef bint all_lps_ready(const Seam *s) noexcept nogil:
    cdef uint64_t want = ~<uint64_t>0 if s.nlp >= 64 else (<uint64_t>1 << s.nlp) - 1
    return s.lp_ready & want == want


cdef uint64_t at_tdmr(uint64_t status, int i, int j) noexcept nogil:
    """A status about TDMR i (bits 31:24) and its part j (bits 23:16)."""
    return status | <uint64_t>i << 24 | <uint64_t>j << 16


cdef uint64_t check_place(Seam *s, const TdmrInfo *info, int i) noexcept nogil:
    cdef const TdmrInfo *t = &info[i]
    if t.start + t.size < t.start:
        return at_tdmr(TDX_INVALID_TDMR, i, 0)
    if i > 0 and t.start < info[i - 1].start + info[i - 1].size:
        return at_tdmr(TDX_NON_ORDERED_TDMR, i, 0)
    if (t.start | t.size) & (GIB - 1) or t.size == 0 or (t.start | (t.start + t.size - 1)) & s.pa_reserved:
        return at_tdmr(TDX_INVALID_TDMR, i, 0)
    return TDX_SUCCESS


cdef uint64_t check_reserved(const TdmrInfo *t, int i) noexcept nogil:
    """Reserved areas lie in the TDMR, in order, 4K by 4K; one of size 0 ends the list."""
    cdef uint64_t end = 0
    cdef uint64_t at
    cdef int j
    for j in range(MAX_RESERVED):
        at = t.rsvd_offset[j]
        if t.rsvd_size[j] == 0:
            if j + 1 < MAX_RESERVED and t.rsvd_size[j + 1] != 0:
                return at_tdmr(TDX_NON_ORDERED_RESERVED_IN_TDMR, i, j)
            continue
        if at + t.rsvd_size[j] < at:
            return at_tdmr(TDX_INVALID_RESERVED_IN_TDMR, i, j)
        if at < end:
            return at_tdmr(TDX_NON_ORDERED_RESERVED_IN_TDMR, i, j)
        end = at + t.rsvd_size[j]
        if (at | t.rsvd_size[j]) & 0xfff or end > t.size:
            return at_tdmr(TDX_INVALID_RESERVED_IN_TDMR, i, j)
    return TDX_SUCCESS


cdef uint64_t pamt_bytes(uint64_t size, int level, bint dynamic) noexcept nogil:
    """What the module needs for the entries of one page size: with dynamic PAMT, 4K has a bitmap instead."""
    if dynamic and level == 0:
        return (size >> 12) // 8
    return (size >> (12 + 9 * level)) * PAMT_ENTRY_SIZE


cdef uint64_t check_pamt(Seam *s, const TdmrInfo *t, int i, bint dynamic) noexcept nogil:
    cdef uint64_t base, size
    cdef int level
    for level in range(3):
        base = t.pamt_base[level]
        size = t.pamt_size[level]
        if (base | size) & 0xfff or base + size < base or (base | (base + size - 1)) & s.pa_reserved or (
                size < pamt_bytes(t.size, level, dynamic)):
            return at_tdmr(TDX_INVALID_PAMT, i, level)
    return TDX_SUCCESS


cdef bint meets_available(const TdmrInfo *t, uint64_t start, uint64_t end) noexcept nogil:
    """Whether [start, end) meets a part of the TDMR that is not reserved."""
    cdef uint64_t at = t.start
    cdef int j
    for j in range(MAX_RESERVED):
        if t.rsvd_size[j] == 0:
            break
        if start < t.start + t.rsvd_offset[j] and at < end and at < t.start + t.rsvd_offset[j]:
            return True
        at = t.start + t.rsvd_offset[j] + t.rsvd_size[j]
    return start < t.start + t.size and at < end and at < t.start + t.size


cdef uint64_t check_overlap(const TdmrInfo *info, int i) noexcept nogil:
    """PAMT areas lie in no TDMR's available part, and not in each other."""
    cdef uint64_t start, end
    cdef int a, b, j
    for a in range(3):
        start = info[i].pamt_base[a]
        end = start + info[i].pamt_size[a]
        for j in range(i + 1):
            if meets_available(&info[j], start, end):
                return at_tdmr(TDX_PAMT_OVERLAP, i, a) | <uint64_t>j << 8
            for b in range(3):
                if (j < i or b < a) and start < info[j].pamt_base[b] + info[j].pamt_size[b] and (
                        info[j].pamt_base[b] < end):
                    return at_tdmr(TDX_PAMT_OVERLAP, i, a) | <uint64_t>j << 8
    for j in range(i):
        for b in range(3):
            if meets_available(&info[i], info[j].pamt_base[b], info[j].pamt_base[b] + info[j].pamt_size[b]):
                return at_tdmr(TDX_PAMT_OVERLAP, j, b) | <uint64_t>i << 8
    return TDX_SUCCESS


cdef uint64_t check_tdmrs(Seam *s, int n, bint dynamic) noexcept nogil:
    cdef uint64_t status
    cdef int i
    for i in range(n):
        status = check_place(s, s.info, i)
        if status == TDX_SUCCESS:
            status = check_reserved(&s.info[i], i)
        if status == TDX_SUCCESS:
            status = check_pamt(s, &s.info[i], i, dynamic)
        if status == TDX_SUCCESS:
            status = check_overlap(s.info, i)
        if status != TDX_SUCCESS:
            return status
    return TDX_SUCCESS


cdef uint64_t config_operands(Seam *s, const SeamRegs *r) noexcept nogil:
    cdef uint64_t hkid = r.r8 & 0xffff
    if s.sys_state != SYS_INIT_DONE or not all_lps_ready(s):
        return TDX_SYS_CONFIG_NOT_PENDING
    if s.info == NULL or r.rcx != s.info_pa or r.rcx & 0x1ff:
        return TDX_OPERAND_INVALID | OP_RCX
    if r.rdx == 0 or r.rdx > <uint64_t>s.ninfo or r.rdx > SEAM_MAX_TDMR:
        return TDX_OPERAND_INVALID | OP_RDX
    if r.r8 & ~<uint64_t>(0xffff | CONFIG_DYNAMIC_PAMT) or hkid < <uint64_t>s.hkid_private or hkid >= SEAM_HKIDS:
        return TDX_OPERAND_INVALID | OP_R8
    return check_tdmrs(s, <int>r.rdx, (r.r8 & CONFIG_DYNAMIC_PAMT) != 0)


cdef uint64_t configure(Seam *s, const SeamRegs *r) noexcept nogil:
    cdef int i
    for i in range(<int>r.rdx):
        # Its entries come with SYS.TDMR.INIT; out of memory here is the model's limit, not the module's.
        if seam_add_tdmr(s, s.info[i].start, s.info[i].start + s.info[i].size, True) < 0:
            return TDX_OPERAND_BUSY | OP_RCX
        s.tdmr[i].ready = s.tdmr[i].start
    s.global_hkid = r.r8 & 0xffff
    s.kot[s.global_hkid] = KOT_RESERVED
    s.dynamic_pamt = (r.r8 & CONFIG_DYNAMIC_PAMT) != 0
    s.sys_state = SYS_CONFIG_DONE
    return TDX_SUCCESS


cdef uint64_t tdh_sys_config(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX PA of the TDMR_INFO list, RDX how many, R8 global HKID and options (bit 16: dynamic PAMT). Leaf 45,
    version 0."""
    cdef uint64_t status
    if not sharex_try_excl(c, &s.sys_lock):
        return TDX_SYS_BUSY
    status = config_operands(s, r)
    if status == TDX_SUCCESS:
        status = configure(s, r)
    sharex_put_excl(c, &s.sys_lock)
    return status

page_leaf(TDH_SYS_CONFIG, tdh_sys_config, 3, 0, LEAF_EARLY)


cdef uint64_t tdh_sys_key_config(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """Programs the global key on this package; there is one, so the module is ready. Leaf 31, version 0."""
    cdef uint64_t status = TDX_SUCCESS
    if not sharex_try_excl(c, &s.sys_lock):
        return TDX_SYS_BUSY
    if s.sys_state != SYS_CONFIG_DONE:
        status = TDX_SYS_KEY_CONFIG_NOT_PENDING
    else:
        s.sys_state = SYS_READY
    sharex_put_excl(c, &s.sys_lock)
    return status

page_leaf(TDH_SYS_KEY_CONFIG, tdh_sys_key_config, 0, 0, LEAF_EARLY)


# ---- SYS.TDMR.INIT ------------------------------------------------------------------------------------------

cdef void reserve_block(Seam *s, Tdmr *t, uint64_t start) noexcept nogil:
    """The reserved areas of one gigabyte that just became ready."""
    cdef TdmrInfo *info = NULL
    cdef uint64_t a, b
    cdef int i
    for i in range(s.ninfo):
        if s.info[i].start == t.start:
            info = &s.info[i]
    if info == NULL:
        return
    for i in range(MAX_RESERVED):
        a = max(start, t.start + info.rsvd_offset[i])
        b = min(start + GIB, t.start + info.rsvd_offset[i] + info.rsvd_size[i])
        if info.rsvd_size[i] and a < b:
            seam_reserve(s, a, b)


cdef uint64_t tdh_sys_tdmr_init(Cpu *c, Seam *s, SeamRegs *r, Call *k) noexcept nogil:
    """RCX TDMR. Initialises its next gigabyte; RDX: up to where it is ready. Leaf 36, version 0."""
    cdef Tdmr *t = tdmr_of(s, r.rcx)
    cdef uint64_t status = TDX_SUCCESS
    if t == NULL or r.rcx != t.start:
        return TDX_OPERAND_INVALID | OP_RCX
    if not sharex_try_excl(c, &t.lock):
        return TDX_OPERAND_BUSY | OP_RCX
    if t.ready >= t.end or t.p4k == NULL:
        status = TDX_TDMR_ALREADY_INITIALIZED
    else:
        t.ready += GIB
        reserve_block(s, t, t.ready - GIB)
        r.rdx = t.ready
    sharex_put_excl(c, &t.lock)
    return status

page_leaf(TDH_SYS_TDMR_INIT, tdh_sys_tdmr_init, 1, IN_RDX, 0)
