# SPDX-License-Identifier: GPL-2.0-only
# cython: language_level=3, boundscheck=False
"""The Python face of _spte: one SPTE at a time, and whole arrays without the GIL.

Internal: tdpfast.spte checks arguments and shapes, this module only what keeps
native code safe.
"""
from libc.string cimport memset
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from tdpfast._spte cimport *

from tdpfast._arguments import BYTES, WORDS, flat_buffer
from tdpfast._spte import SPTE_WARNS

# The record of unpack(); tdpfast.spte.SPTE_DTYPE says the same to numpy.
cdef struct SpteFields:
    uint64_t pfn
    uint64_t gfn
    uint64_t other
    uint32_t generation
    uint16_t saved
    uint8_t present
    uint8_t frozen
    uint8_t mmio
    uint8_t leaf
    uint8_t read
    uint8_t write
    uint8_t exec_
    uint8_t user_exec
    uint8_t user
    uint8_t accessed
    uint8_t dirty
    uint8_t memtype
    uint8_t ipat
    uint8_t large
    uint8_t host_writable
    uint8_t mmu_writable
    uint8_t ad_type
    uint8_t suppress_ve
    uint8_t mmio_access

SIZEOF_SPTE_FIELDS = sizeof(SpteFields)

PREDICATES = (
    "is_shadow_present_pte", "is_mmio_spte", "is_frozen_spte", "is_ept_ve_possible",
    "is_large_pte", "is_last_spte", "spte_ad_enabled", "spte_ad_need_write_protect",
    "is_access_track_spte", "is_accessed_spte", "is_dirty_spte", "is_writable_pte",
    "is_mmu_writable_spte", "is_executable_pte", "spte_needs_atomic_update",
    "kvm_tdp_mmu_spte_need_atomic_update", "is_rsvd_spte",
)

MAPS = ("spte_to_pfn", "spte_to_child_pa", "get_mmio_spte_generation", "get_mmio_spte_gfn",
        "restore_acc_track_spte", "mark_spte_for_access_track")

ctypedef bint (*pred_fn)(const SpteCfg *, uint64_t, int, uint64_t) noexcept nogil


cdef bint p_present(const SpteCfg *cfg, uint64_t spte, int level, uint64_t mmio) noexcept nogil:
    return is_shadow_present_pte(spte)

cdef bint p_mmio(const SpteCfg *cfg, uint64_t spte, int level, uint64_t mmio) noexcept nogil:
    return is_mmio_spte(cfg, mmio, spte)

cdef bint p_frozen(const SpteCfg *cfg, uint64_t spte, int level, uint64_t mmio) noexcept nogil:
    return is_frozen_spte(cfg, spte)

cdef bint p_ve(const SpteCfg *cfg, uint64_t spte, int level, uint64_t mmio) noexcept nogil:
    return is_ept_ve_possible(cfg, spte)

cdef bint p_large(const SpteCfg *cfg, uint64_t spte, int level, uint64_t mmio) noexcept nogil:
    return is_large_pte(spte)

cdef bint p_last(const SpteCfg *cfg, uint64_t spte, int level, uint64_t mmio) noexcept nogil:
    return is_last_spte(spte, level)

cdef bint p_ad(const SpteCfg *cfg, uint64_t spte, int level, uint64_t mmio) noexcept nogil:
    return spte_ad_enabled(cfg, spte)

cdef bint p_adwp(const SpteCfg *cfg, uint64_t spte, int level, uint64_t mmio) noexcept nogil:
    return spte_ad_need_write_protect(cfg, spte)

cdef bint p_track(const SpteCfg *cfg, uint64_t spte, int level, uint64_t mmio) noexcept nogil:
    return is_access_track_spte(cfg, spte)

cdef bint p_accessed(const SpteCfg *cfg, uint64_t spte, int level, uint64_t mmio) noexcept nogil:
    return is_accessed_spte(cfg, spte)

cdef bint p_dirty(const SpteCfg *cfg, uint64_t spte, int level, uint64_t mmio) noexcept nogil:
    return is_dirty_spte(cfg, spte)

cdef bint p_writable(const SpteCfg *cfg, uint64_t spte, int level, uint64_t mmio) noexcept nogil:
    return is_writable_pte(spte)

cdef bint p_mmu_writable(const SpteCfg *cfg, uint64_t spte, int level,
                         uint64_t mmio) noexcept nogil:
    return is_mmu_writable_spte(cfg, spte)

cdef bint p_exec(const SpteCfg *cfg, uint64_t spte, int level, uint64_t mmio) noexcept nogil:
    return is_executable_pte(cfg, spte)

cdef bint p_atomic(const SpteCfg *cfg, uint64_t spte, int level, uint64_t mmio) noexcept nogil:
    return spte_needs_atomic_update(cfg, spte)

cdef bint p_tdp_atomic(const SpteCfg *cfg, uint64_t spte, int level,
                       uint64_t mmio) noexcept nogil:
    return kvm_tdp_mmu_spte_need_atomic_update(cfg, spte, level)

cdef bint p_rsvd(const SpteCfg *cfg, uint64_t spte, int level, uint64_t mmio) noexcept nogil:
    return is_rsvd_spte(cfg, spte, level)

cdef enum:
    NR_PREDICATES = 17

cdef pred_fn[NR_PREDICATES] pred_table         # in the order of PREDICATES
pred_table[:] = [p_present, p_mmio, p_frozen, p_ve, p_large, p_last, p_ad, p_adwp, p_track,
                 p_accessed, p_dirty, p_writable, p_mmu_writable, p_exec, p_atomic,
                 p_tdp_atomic, p_rsvd]


cdef uint64_t spte_map(const SpteCfg *cfg, int which, uint64_t spte, uint32_t *warn) noexcept nogil:
    """MAPS[which] of one SPTE."""
    if which == 0:
        return spte_to_pfn(spte)
    if which == 1:
        return spte_to_child_pa(spte)
    if which == 2:
        return get_mmio_spte_generation(cfg, spte)
    if which == 3:
        return get_mmio_spte_gfn(cfg, spte)
    if which == 4:
        return restore_acc_track_spte(cfg, spte)
    return mark_spte_for_access_track(cfg, spte, warn)


cdef inline uint64_t pack_present(const SpteCfg *cfg, const SpteFields *f) noexcept nogil:
    """The bits that the fields of a present SPTE stand for."""
    cdef uint64_t spte = SPTE_MMU_PRESENT_MASK | (f.pfn << PAGE_SHIFT)
    spte |= f.read | <uint64_t>f.write << 1 | <uint64_t>f.large << 7
    spte |= <uint64_t>f.saved << cfg.saved_bits_shift
    spte |= <uint64_t>f.ad_type << cfg.ad_shift
    spte |= cfg.shadow_accessed_mask if f.accessed else 0
    spte |= cfg.shadow_dirty_mask if f.dirty else 0
    spte |= cfg.shadow_host_writable_mask if f.host_writable else 0
    spte |= cfg.shadow_mmu_writable_mask if f.mmu_writable else 0
    spte |= cfg.shadow_x_mask if f.exec_ else cfg.shadow_nx_mask
    if cfg.mmu == SPTE_MMU_NPT:
        return spte | <uint64_t>f.user << 2
    spte |= cfg.shadow_xu_mask if f.user_exec else 0
    spte |= <uint64_t>f.memtype << VMX_EPT_MT_EPTE_SHIFT | <uint64_t>f.ipat << 6
    return spte | <uint64_t>f.suppress_ve << 63


cdef inline uint64_t pack_base(const SpteCfg *cfg, const SpteFields *f,
                               uint64_t mmio) noexcept nogil:
    """The SPTE that the fields give when nothing else is in it."""
    if f.frozen:
        return cfg.frozen_spte
    if f.present:
        return pack_present(cfg, f)
    if f.mmio:
        return make_mmio_spte(cfg, mmio, f.gfn, f.mmio_access, f.generation)
    return cfg.nonpresent


cdef inline void unpack_present(const SpteCfg *cfg, uint64_t spte, SpteFields *f) noexcept nogil:
    f.pfn = spte_to_pfn(spte)
    f.saved = (spte >> cfg.saved_bits_shift) & cfg.saved_bits_mask
    f.ad_type = (spte & cfg.tdp_ad_mask) >> cfg.ad_shift
    f.read = spte & 1
    f.write = (spte >> 1) & 1
    f.large = is_large_pte(spte)
    f.accessed = is_accessed_spte(cfg, spte)
    f.dirty = is_dirty_spte(cfg, spte)
    f.host_writable = (spte & cfg.shadow_host_writable_mask) != 0
    f.mmu_writable = is_mmu_writable_spte(cfg, spte)
    f.exec_ = is_executable_pte(cfg, spte)
    if cfg.mmu == SPTE_MMU_NPT:
        f.user = (spte >> 2) & 1
        return
    f.user_exec = (spte & cfg.shadow_xu_mask) != 0
    f.memtype = (spte >> VMX_EPT_MT_EPTE_SHIFT) & 7
    f.ipat = (spte >> 6) & 1
    f.suppress_ve = spte >> 63


cdef inline void unpack(const SpteCfg *cfg, uint64_t spte, int level, uint64_t mmio,
                        SpteFields *f) noexcept nogil:
    memset(f, 0, sizeof(SpteFields))
    if is_frozen_spte(cfg, spte):
        f.frozen = 1
    elif is_shadow_present_pte(spte):
        f.present = 1
        f.leaf = is_last_spte(spte, level)
        unpack_present(cfg, spte, f)
    elif is_mmio_spte(cfg, mmio, spte):
        f.mmio = 1
        f.gfn = get_mmio_spte_gfn(cfg, spte)
        f.generation = get_mmio_spte_generation(cfg, spte)
        f.mmio_access = spte & cfg.shadow_mmio_access_mask
    f.other = spte ^ pack_base(cfg, f, mmio)


cdef inline bint fields_fit(const SpteCfg *cfg, const SpteFields *f) noexcept nogil:
    """No field is too wide for its place."""
    return (f.pfn >> 40 == 0 and f.gfn >> 40 == 0 and f.memtype < 8 and f.ad_type < 4
            and f.saved & ~cfg.saved_bits_mask == 0 and f.generation & ~cfg.mmio_gen_mask == 0
            and f.mmio_access & ~cfg.shadow_mmio_access_mask == 0
            and (f.read | f.write | f.large | f.ipat | f.suppress_ve | f.user) < 2)


cdef list warn_names(uint32_t warn):
    return [SPTE_WARNS[i] for i in range(len(SPTE_WARNS)) if warn >> i & 1]


cdef int checked_level(int level) except -1:
    if level < 1 or level > PT64_ROOT_MAX_LEVEL:
        raise ValueError(f"level {level} is not one of 1..5")
    return level


cdef int checked(int which, int count) except -1:
    if which < 0 or which >= count:
        raise ValueError(f"no function number {which}")
    return which


cdef class SpteFormat:
    """The SPTE format of one VM. Thread-safety: immutable once made."""
    cdef SpteCfg cfg

    def __cinit__(self, int layout, int mmu, int maxphyaddr, bint l1tf, int cache_bits,
                  bint exec_only):
        if spte_cfg_init(&self.cfg, layout, mmu, maxphyaddr, l1tf, cache_bits, exec_only):
            raise ValueError("layout, mmu, maxphyaddr or cache_bits out of range")

    def masks(self):
        """Every number of the format, by its name in struct SpteCfg."""
        return dict(self.cfg)

    # Arrays. `levels` holds one level for all values, or as many as values.

    def pred_array(self, int which, numbers, level_of, uint64_t mmio, answers):
        cdef const uint64_t[::1] values = flat_buffer("values", numbers, WORDS)
        cdef const uint8_t[::1] levels = flat_buffer("levels", level_of, BYTES)
        cdef uint8_t[::1] out = flat_buffer("out", answers, BYTES)
        cdef Py_ssize_t i, n = values.shape[0]
        cdef Py_ssize_t step = self.check_arrays(n, out.shape[0], levels)
        cdef pred_fn fn = pred_table[checked(which, NR_PREDICATES)]
        with nogil:
            for i in range(n):
                out[i] = fn(&self.cfg, values[i], levels[i * step], mmio)

    def map_array(self, int which, numbers, answers):
        """The assertions that fired for any of the values."""
        cdef const uint64_t[::1] values = flat_buffer("values", numbers, WORDS)
        cdef uint64_t[::1] out = flat_buffer("out", answers, WORDS)
        cdef Py_ssize_t i, n = values.shape[0]
        cdef uint32_t warn = 0
        checked(which, len(MAPS))
        if out.shape[0] != n:
            raise ValueError("arrays differ in length")
        with nogil:
            for i in range(n):
                out[i] = spte_map(&self.cfg, which, values[i], &warn)
        return warn_names(warn)

    def flush_array(self, before, after, answers):
        cdef const uint64_t[::1] old = flat_buffer("old", before, WORDS)
        cdef const uint64_t[::1] new = flat_buffer("new", after, WORDS)
        cdef uint8_t[::1] out = flat_buffer("out", answers, BYTES)
        cdef Py_ssize_t i, n = old.shape[0]
        if new.shape[0] != n or out.shape[0] != n:
            raise ValueError("arrays differ in length")
        with nogil:
            for i in range(n):
                out[i] = leaf_spte_change_needs_tlb_flush(&self.cfg, old[i], new[i])

    def unpack_array(self, numbers, level_of, uint64_t mmio, answers):
        """`answers`: bytes of n SpteFields, aligned."""
        cdef const uint64_t[::1] values = flat_buffer("values", numbers, WORDS)
        cdef const uint8_t[::1] levels = flat_buffer("levels", level_of, BYTES)
        cdef uint8_t[::1] out = flat_buffer("out", answers, BYTES)
        cdef Py_ssize_t i, n = values.shape[0]
        cdef Py_ssize_t step = self.check_arrays(n, n, levels)
        cdef SpteFields *fields
        if n == 0:
            return
        fields = check_fields(&out[0], out.shape[0], n)
        with nogil:
            for i in range(n):
                unpack(&self.cfg, values[i], levels[i * step], mmio, &fields[i])

    def pack_array(self, fields_of, uint64_t mmio, answers):
        """The index of the first record with a field too wide, or -1."""
        cdef const uint8_t[::1] records = flat_buffer("records", fields_of, BYTES)
        cdef uint64_t[::1] out = flat_buffer("out", answers, WORDS)
        cdef Py_ssize_t i, n = out.shape[0]
        cdef const SpteFields *fields
        if n == 0:
            return -1
        fields = check_fields(&records[0], records.shape[0], n)
        with nogil:
            for i in range(n):
                if not fields_fit(&self.cfg, &fields[i]):
                    break
                out[i] = pack_base(&self.cfg, &fields[i], mmio) ^ fields[i].other
            else:
                i = -1
        return i

    cdef Py_ssize_t check_arrays(self, Py_ssize_t n, Py_ssize_t nout,
                                 const uint8_t[::1] levels) except -1:
        """The step through `levels`: 0 or 1."""
        cdef Py_ssize_t i
        if nout != n or levels.shape[0] not in (1, n):
            raise ValueError("arrays differ in length")
        for i in range(levels.shape[0]):
            checked_level(levels[i])
        return 0 if levels.shape[0] == 1 else 1

    # One SPTE.

    def pred(self, int which, uint64_t spte, int level, uint64_t mmio):
        return bool(pred_table[checked(which, NR_PREDICATES)](&self.cfg, spte,
                                                              checked_level(level), mmio))

    def make_spte(self, int level, uint32_t access, uint64_t gfn, uint64_t pfn, uint64_t old_spte,
                  bint prefetch, bint synchronizing, bint host_writable, bint nx_huge_pages,
                  bint tracked, bint dirty_log, bint ad_disabled, bint guest_mode, bint pml,
                  bint ipat):
        """(spte, wrprot, dirty, warns)"""
        cdef MakeSpteIn inp = MakeSpteIn(
            checked_level(level), access, gfn, pfn, old_spte, prefetch, synchronizing,
            host_writable, nx_huge_pages, tracked, dirty_log, ad_disabled, guest_mode, pml, ipat)
        cdef MakeSpteOut out
        make_spte(&self.cfg, &inp, &out)
        return out.spte, bool(out.wrprot), bool(out.dirty), warn_names(out.warn)

    def make_nonleaf_spte(self, uint64_t child_pa, bint ad_disabled):
        return make_nonleaf_spte(&self.cfg, child_pa, ad_disabled)

    def make_small_spte(self, uint64_t huge_spte, int level, uint32_t access, int index,
                        bint nx_huge_pages):
        """(spte, warns)"""
        cdef uint32_t warn = 0
        spte = make_small_spte(&self.cfg, huge_spte, checked_level(level), access,
                               checked(index, SPTE_ENT_PER_PAGE), nx_huge_pages, &warn)
        return spte, warn_names(warn)

    def make_huge_spte(self, uint64_t small_spte, int level, bint nx_huge_pages):
        """(spte, warns)"""
        cdef uint32_t warn = 0
        spte = make_huge_spte(&self.cfg, small_spte, checked_level(level), nx_huge_pages, &warn)
        return spte, warn_names(warn)

    def map_one(self, int which, uint64_t spte):
        """(value, warns)"""
        cdef uint32_t warn = 0
        value = spte_map(&self.cfg, checked(which, len(MAPS)), spte, &warn)
        return value, warn_names(warn)

    def make_mmio_spte(self, uint64_t mmio, uint64_t gfn, uint32_t access, uint64_t generation):
        return make_mmio_spte(&self.cfg, mmio, gfn, access, generation)

    def check_spte_writable_invariants(self, uint64_t spte):
        return warn_names(check_spte_writable_invariants(&self.cfg, spte))

    def is_access_allowed(self, uint64_t spte, bint exec_, bint write):
        return bool(is_access_allowed(&self.cfg, spte, exec_, write))

    def spte_permission_fault(self, uint64_t spte, uint64_t error_code):
        return bool(spte_permission_fault(&self.cfg, spte, error_code))


cdef SpteFields *check_fields(const uint8_t *data, Py_ssize_t nbytes, Py_ssize_t n) except NULL:
    if nbytes != n * <Py_ssize_t>sizeof(SpteFields) or <size_t>data % 8:
        raise ValueError("not an aligned array of as many records as values")
    return <SpteFields *>data
