# SPDX-License-Identifier: GPL-2.0-only
# cython: language_level=3
"""spte.c: the SPTE formats of a VM, and what makes and changes an SPTE."""
from libc.string cimport memset


# Bit i of a warn mask, as [kind, kernel function, id].
SPTE_WARNS = (
    ("WARN", "make_spte", "no_access"),
    ("WARN", "make_spte", "reserved_bits"),
    ("WARN", "make_spte", "dirty_log_on_huge_page"),
    ("KVM_BUG_ON", "make_small_spte", "not_a_large_leaf"),
    ("KVM_BUG_ON", "make_huge_spte", "not_present_or_4k"),
    ("WARN", "check_spte_writable_invariants", "mmu_writable_not_host_writable"),
    ("WARN", "check_spte_writable_invariants", "writable_not_mmu_writable"),
    ("WARN", "mark_spte_for_access_track", "saved_bits_in_use"),
)

cdef extern from "errno.h":
    const int EINVAL


cdef inline uint64_t bits(int first, int last) noexcept nogil:
    """rsvd_bits(): a mask of bits [first, last], none when last < first."""
    if last < first:
        return 0
    return (<uint64_t>-1 >> (63 - (last - first))) << first


cdef void cfg_init_layout(SpteCfg *cfg) noexcept nogil:
    """What depends on the release alone."""
    cdef bint v73 = cfg.layout == SPTE_LAYOUT_7_3
    cdef int low_bits
    cfg.nonpresent = SHADOW_NONPRESENT_VALUE
    cfg.frozen_spte = SHADOW_NONPRESENT_VALUE | (0x1a0 if v73 else 0x5a0)
    cfg.ad_shift = 60 if v73 else 52
    cfg.tdp_ad_mask = <uint64_t>3 << cfg.ad_shift
    cfg.tdp_ad_disabled = <uint64_t>1 << cfg.ad_shift
    cfg.tdp_ad_wrprot_only = <uint64_t>2 << cfg.ad_shift
    cfg.saved_bits_mask = VMX_EPT_READABLE_MASK | VMX_EPT_EXECUTABLE_MASK
    if v73:
        cfg.saved_bits_mask |= VMX_EPT_USER_EXECUTABLE_MASK
    cfg.saved_bits_shift = 52 if v73 else 54
    cfg.mmio_gen_low_start = 3
    cfg.mmio_gen_low_end = 9 if v73 else 10
    cfg.mmio_gen_high_start = 52
    cfg.mmio_gen_high_end = 62
    cfg.mmio_gen_low_mask = bits(cfg.mmio_gen_low_start, cfg.mmio_gen_low_end)
    cfg.mmio_gen_high_mask = bits(cfg.mmio_gen_high_start, cfg.mmio_gen_high_end)
    low_bits = cfg.mmio_gen_low_end - cfg.mmio_gen_low_start + 1
    cfg.mmio_gen_mask = bits(0, low_bits + cfg.mmio_gen_high_end - cfg.mmio_gen_high_start)
    cfg.mmio_allowed_mask = ((SPTE_BASE_ADDR_MASK | bits(63, 63) | bits(0, 10) | bits(52, 62))
                             & ~(cfg.mmio_gen_low_mask | cfg.mmio_gen_high_mask)
                             & ~<uint64_t>SPTE_MMU_PRESENT_MASK)
    cfg.acc_read = 1 if v73 else 0
    cfg.acc_write = 2
    cfg.acc_user = 4
    cfg.acc_exec = 8 if v73 else 1
    cfg.acc_all = cfg.acc_read | cfg.acc_write | cfg.acc_user | cfg.acc_exec


cdef void cfg_init_masks(SpteCfg *cfg) noexcept nogil:
    """kvm_mmu_reset_all_pte_masks() and, for EPT, kvm_mmu_set_ept_masks()."""
    cdef bint v73 = cfg.layout == SPTE_LAYOUT_7_3
    if cfg.mmu == SPTE_MMU_NPT:
        cfg.shadow_host_writable_mask = bits(9, 9)
        cfg.shadow_mmu_writable_mask = bits(10, 10)
        cfg.shadow_nx_mask = PT64_NX_MASK
        cfg.shadow_user_mask = PT_USER_MASK
        cfg.shadow_accessed_mask = PT_ACCESSED_MASK
        cfg.shadow_dirty_mask = PT_DIRTY_MASK
        cfg.shadow_present_mask = PT_PRESENT_MASK
        if cfg.maxphyaddr < 52:
            cfg.shadow_mmio_value = bits(51, 51) | PT_PRESENT_MASK
        cfg.shadow_mmio_mask = cfg.shadow_mmio_value
        cfg.shadow_mmio_access_mask = 2 | 4         # ACC_WRITE | ACC_USER
    else:
        cfg.shadow_host_writable_mask = bits(53, 53) if v73 else bits(57, 57)
        cfg.shadow_mmu_writable_mask = bits(55, 55) if v73 else bits(58, 58)
        cfg.shadow_x_mask = VMX_EPT_EXECUTABLE_MASK
        cfg.shadow_accessed_mask = VMX_EPT_ACCESS_BIT
        cfg.shadow_dirty_mask = VMX_EPT_DIRTY_BIT
        cfg.shadow_present_mask = VMX_EPT_SUPPRESS_VE_BIT
        cfg.shadow_memtype_mask = VMX_EPT_MT_MASK | VMX_EPT_IPAT_BIT
        cfg.shadow_acc_track_mask = VMX_EPT_RWX_MASK
        if v73:
            cfg.shadow_xu_mask = VMX_EPT_USER_EXECUTABLE_MASK
            cfg.shadow_acc_track_mask |= VMX_EPT_USER_EXECUTABLE_MASK
        else:
            cfg.shadow_user_mask = VMX_EPT_READABLE_MASK
            if not cfg.exec_only:
                cfg.shadow_present_mask |= VMX_EPT_READABLE_MASK
        cfg.shadow_mmio_value = VMX_EPT_MISCONFIG_WX_VALUE
        cfg.shadow_mmio_mask = VMX_EPT_RWX_MASK | VMX_EPT_SUPPRESS_VE_BIT
    if v73:
        cfg.shadow_read_mask = PT_PRESENT_MASK
    cfg.kvm_ad_enabled = cfg.mmu != SPTE_MMU_EPT_NOAD
    cfg.enable_mmio_caching = cfg.shadow_mmio_value != 0


cdef void cfg_init_physical(SpteCfg *cfg) noexcept nogil:
    """The L1TF split of an MMIO SPTE's address, and the highest gfn."""
    cdef int low_phys_bits = cfg.phys_bits
    if cfg.l1tf and cfg.cache_bits < 52 - SHADOW_NONPRESENT_OR_RSVD_MASK_LEN:
        low_phys_bits = cfg.cache_bits - SHADOW_NONPRESENT_OR_RSVD_MASK_LEN
        cfg.shadow_nonpresent_or_rsvd_mask = bits(low_phys_bits, cfg.cache_bits - 1)
    cfg.shadow_nonpresent_or_rsvd_lower_gfn_mask = bits(PAGE_SHIFT, low_phys_bits - 1)
    cfg.max_gfn = bits(0, cfg.maxphyaddr - PAGE_SHIFT - 1)


cdef void cfg_init_rsvd(SpteCfg *cfg) noexcept nogil:
    """reset_tdp_shadow_zero_bits_mask() for a 5-level root with 1G pages."""
    cdef uint64_t high = bits(cfg.maxphyaddr, 51)
    cdef bint npt = cfg.mmu == SPTE_MMU_NPT
    cdef uint64_t upper = high | (bits(7, 8) if npt else bits(3, 7))
    cdef uint64_t table = high | (0 if npt else bits(3, 6))
    cdef int first = 13 if npt else 12              # NPT: bit 12 is the PAT of a huge page
    cdef int i
    for i in range(2):
        cfg.rsvd_bits_mask[i][0] = high
        cfg.rsvd_bits_mask[i][3] = upper
        cfg.rsvd_bits_mask[i][4] = upper
    cfg.rsvd_bits_mask[0][1] = table
    cfg.rsvd_bits_mask[0][2] = table
    cfg.rsvd_bits_mask[1][1] = high | bits(first, 20)
    cfg.rsvd_bits_mask[1][2] = high | bits(first, 29)
    if npt:
        return
    # Bit (memtype << 3 | XWR): memory types 2, 3 and 7; W without R; X alone.
    for i in range(64):
        if (i >> 3) in (2, 3, 7) or (i & 7) in (2, 4, 6):
            cfg.bad_mt_xwr |= <uint64_t>1 << i


cdef void cfg_init_permissions(SpteCfg *cfg) noexcept nogil:
    """7.3: bit ACC of permissions[error code >> 1] is 1 when that access faults."""
    cdef uint32_t pfec, access, need
    if cfg.layout != SPTE_LAYOUT_7_3:
        return
    for pfec in range(0, 32, 2):
        if pfec & PFERR_FETCH_MASK:
            need = cfg.acc_exec
            if pfec & PFERR_WRITE_MASK:
                need |= cfg.acc_write
        elif pfec & PFERR_WRITE_MASK:
            need = cfg.acc_write
        else:
            need = cfg.acc_read
        if pfec & PFERR_USER_MASK and cfg.mmu == SPTE_MMU_NPT:
            need |= cfg.acc_user
        for access in range(16):
            if need & ~access:
                cfg.permissions[pfec >> 1] |= <uint16_t>(1 << access)


cdef int spte_cfg_init(SpteCfg *cfg, int layout, int mmu, int maxphyaddr, bint l1tf,
                       int cache_bits, bint exec_only) noexcept nogil:
    if layout != SPTE_LAYOUT_6_18 and layout != SPTE_LAYOUT_7_3:
        return -EINVAL
    if mmu < SPTE_MMU_EPT_AD or mmu > SPTE_MMU_NPT:
        return -EINVAL
    if maxphyaddr < 32 or maxphyaddr > 52:
        return -EINVAL
    if cache_bits != 0 and (cache_bits < 32 or cache_bits > 52):
        return -EINVAL
    memset(cfg, 0, sizeof(SpteCfg))
    cfg.layout = layout
    cfg.mmu = mmu
    cfg.maxphyaddr = maxphyaddr
    cfg.l1tf = l1tf
    cfg.phys_bits = maxphyaddr if maxphyaddr < 46 else 46
    cfg.cache_bits = cache_bits if cache_bits else cfg.phys_bits
    cfg.exec_only = exec_only
    cfg_init_layout(cfg)
    cfg_init_masks(cfg)
    cfg_init_physical(cfg)
    cfg_init_rsvd(cfg)
    cfg_init_permissions(cfg)
    cfg_init_plain(cfg)
    return 0


cdef void cfg_init_plain(SpteCfg *cfg) noexcept nogil:
    """What make_spte() makes of frame 0 when nothing restricts the access; see make_plain_spte()."""
    cdef MakeSpteIn inp
    cdef MakeSpteOut out
    cdef int level, ipat
    memset(&inp, 0, sizeof(inp))
    inp.access = cfg.acc_all
    inp.host_writable = 1
    for ipat in range(2):
        for level in range(PG_LEVEL_4K, PG_LEVEL_1G + 1):
            inp.level = level
            inp.ipat = ipat
            make_spte(cfg, &inp, &out)
            cfg.plain_leaf[ipat][level] = 0 if out.warn else out.spte


cdef inline uint64_t get_mt_mask(const SpteCfg *cfg, uint64_t pfn, bint ipat) noexcept nogil:
    """vmx_get_mt_mask(); SVM has none."""
    cdef uint64_t mt = MTRR_TYPE_WRBACK << VMX_EPT_MT_EPTE_SHIFT
    if cfg.shadow_memtype_mask == 0:
        return 0
    if MMIO_HOLE_START_PFN <= pfn < MMIO_HOLE_END_PFN:
        return MTRR_TYPE_UNCACHABLE << VMX_EPT_MT_EPTE_SHIFT
    if ipat:
        mt |= VMX_EPT_IPAT_BIT
    return mt


cdef inline uint64_t access_to_spte(const SpteCfg *cfg, uint32_t access) noexcept nogil:
    """The R, X, XU, U and NX bits of ACC_*; W is make_spte()'s own business."""
    cdef uint64_t spte = cfg.shadow_x_mask if access & cfg.acc_exec else cfg.shadow_nx_mask
    if access & cfg.acc_read:
        spte |= cfg.shadow_read_mask
    if access & cfg.acc_user:
        spte |= cfg.shadow_user_mask | cfg.shadow_xu_mask
    return spte


cdef void make_spte(const SpteCfg *cfg, const MakeSpteIn *inp, MakeSpteOut *out) noexcept nogil:
    """make_spte(): a leaf SPTE for inp; out is overwritten."""
    cdef uint32_t access = inp.access
    cdef uint64_t spte = SPTE_MMU_PRESENT_MASK | cfg.shadow_present_mask
    cdef uint64_t old = inp.old_spte
    out.wrprot = 0
    out.dirty = 0
    out.warn = 0
    if (access | cfg.shadow_present_mask) == SHADOW_NONPRESENT_VALUE:
        out.warn |= SPTE_WARN_NO_ACCESS
    if inp.ad_disabled:
        spte |= cfg.tdp_ad_disabled
    elif inp.pml and inp.guest_mode:
        spte |= cfg.tdp_ad_wrprot_only
    if not inp.prefetch or inp.synchronizing:
        spte |= cfg.shadow_accessed_mask
    # NX huge pages: only 4K pages may be executable.
    if inp.level > PG_LEVEL_4K and inp.nx_huge_pages:
        access &= ~cfg.acc_exec
        if cfg.shadow_xu_mask:
            access &= ~cfg.acc_user
    spte |= access_to_spte(cfg, access)
    if inp.level > PG_LEVEL_4K:
        spte |= PT_PAGE_SIZE_MASK
    spte |= get_mt_mask(cfg, inp.pfn, inp.ipat)
    if inp.host_writable:
        spte |= cfg.shadow_host_writable_mask
    else:
        access &= ~cfg.acc_write
    spte |= cfg.shadow_me_value | (inp.pfn << PAGE_SHIFT)
    if access & cfg.acc_write:
        # A leaf that was writable already has no page left to write-protect.
        if inp.tracked and not (is_last_spte(old, inp.level) and is_writable_pte(old)):
            out.wrprot = 1
        else:
            spte |= PT_WRITABLE_MASK | cfg.shadow_mmu_writable_mask | cfg.shadow_dirty_mask
    if inp.prefetch and not inp.synchronizing:
        spte = mark_spte_for_access_track(cfg, spte, &out.warn)
    if is_rsvd_spte(cfg, spte, inp.level):
        out.warn |= SPTE_WARN_RESERVED_BITS
    if spte & PT_WRITABLE_MASK and inp.dirty_log:
        if inp.level > PG_LEVEL_4K:
            out.warn |= SPTE_WARN_DIRTY_LOG_ON_HUGE_PAGE
        out.dirty = 1
    out.spte = spte


cdef uint64_t make_nonleaf_spte(const SpteCfg *cfg, uint64_t child_pa,
                                bint ad_disabled) noexcept nogil:
    return (SPTE_MMU_PRESENT_MASK | child_pa | cfg.shadow_present_mask | cfg.shadow_read_mask
            | PT_WRITABLE_MASK | cfg.shadow_user_mask | cfg.shadow_x_mask | cfg.shadow_xu_mask
            | cfg.shadow_me_value
            | (cfg.tdp_ad_disabled if ad_disabled else cfg.shadow_accessed_mask))


cdef uint64_t modify_spte_protections(const SpteCfg *cfg, uint64_t spte, uint64_t set_bits,
                                      uint64_t clear_bits, uint32_t *warn) noexcept nogil:
    """Change R/X bits where they are: in place, or saved by access tracking."""
    cdef bint track = is_access_track_spte(cfg, spte)
    if track:
        spte = restore_acc_track_spte(cfg, spte)
    spte = (spte | set_bits) & ~clear_bits
    if track:
        spte = mark_spte_for_access_track(cfg, spte, warn)
    return spte


cdef uint64_t make_small_spte(const SpteCfg *cfg, uint64_t huge_spte, int level,
                              uint32_t access, int index, bint nx_huge_pages,
                              uint32_t *warn) noexcept nogil:
    """The child of a huge leaf at `level` (of the child) and `index`."""
    cdef uint64_t spte = huge_spte
    cdef uint64_t set_bits, x_mask
    if not is_shadow_present_pte(huge_spte) or not is_large_pte(huge_spte):
        warn[0] |= SPTE_WARN_NOT_A_LARGE_LEAF
    spte |= <uint64_t>index << (PAGE_SHIFT + (level - 1) * SPTE_LEVEL_BITS)
    if level != PG_LEVEL_4K:
        return spte
    spte &= ~<uint64_t>PT_PAGE_SIZE_MASK
    if not nx_huge_pages:
        return spte
    # The mitigation ends at 4K: execution is what the role allows. 7.3 also
    # takes it away where the role has none; 6.18 leaves the huge page's bits.
    x_mask = cfg.shadow_x_mask | cfg.shadow_xu_mask
    if access & cfg.acc_exec:
        set_bits = cfg.shadow_x_mask
    elif cfg.layout == SPTE_LAYOUT_6_18:
        return spte
    else:
        set_bits = cfg.shadow_nx_mask
    if access & cfg.acc_user:
        set_bits |= cfg.shadow_xu_mask
    return modify_spte_protections(cfg, spte, set_bits,
                                   (x_mask | cfg.shadow_nx_mask) & ~set_bits, warn)


cdef uint64_t make_huge_spte(const SpteCfg *cfg, uint64_t small_spte, int level,
                             bint nx_huge_pages, uint32_t *warn) noexcept nogil:
    """The huge leaf at `level` that covers a small leaf."""
    cdef uint64_t spte = small_spte | PT_PAGE_SIZE_MASK
    if not is_shadow_present_pte(small_spte) or level == PG_LEVEL_4K:
        warn[0] |= SPTE_WARN_NOT_PRESENT_OR_4K
    spte &= ~bits(PAGE_SHIFT, PAGE_SHIFT + (level - 1) * SPTE_LEVEL_BITS - 1)
    if nx_huge_pages:
        spte = modify_spte_protections(cfg, spte, cfg.shadow_nx_mask,
                                       cfg.shadow_x_mask | cfg.shadow_xu_mask, warn)
    return spte


cdef uint32_t check_spte_writable_invariants(const SpteCfg *cfg,
                                             uint64_t spte) noexcept nogil:
    """MMU-writable implies host-writable, writable implies MMU-writable."""
    if spte & cfg.shadow_mmu_writable_mask:
        return 0 if spte & cfg.shadow_host_writable_mask else SPTE_WARN_MMU_WRITABLE
    return SPTE_WARN_WRITABLE if is_writable_pte(spte) else 0


cdef uint64_t mark_spte_for_access_track(const SpteCfg *cfg, uint64_t spte,
                                         uint32_t *warn) noexcept nogil:
    """Make the next access fault or, with A/D bits, show itself in A."""
    if spte_ad_enabled(cfg, spte):
        return spte & ~cfg.shadow_accessed_mask
    if is_access_track_spte(cfg, spte):
        return spte
    warn[0] |= check_spte_writable_invariants(cfg, spte)
    if spte & (cfg.saved_bits_mask << cfg.saved_bits_shift):
        warn[0] |= SPTE_WARN_SAVED_BITS
    spte |= (spte & cfg.saved_bits_mask) << cfg.saved_bits_shift
    return spte & ~(cfg.shadow_acc_track_mask | cfg.shadow_accessed_mask)


cdef uint64_t restore_acc_track_spte(const SpteCfg *cfg, uint64_t spte) noexcept nogil:
    cdef uint64_t saved = (spte >> cfg.saved_bits_shift) & cfg.saved_bits_mask
    spte &= ~(cfg.shadow_acc_track_mask | (cfg.saved_bits_mask << cfg.saved_bits_shift))
    return spte | saved


cdef uint64_t make_mmio_spte(const SpteCfg *cfg, uint64_t kvm_shadow_mmio_value,
                             uint64_t gfn, uint32_t access,
                             uint64_t generation) noexcept nogil:
    cdef uint64_t gpa = gfn << PAGE_SHIFT
    cdef uint64_t gen = generation & cfg.mmio_gen_mask
    cdef int low_bits = cfg.mmio_gen_low_end - cfg.mmio_gen_low_start + 1
    cdef uint64_t rsvd = cfg.shadow_nonpresent_or_rsvd_mask
    return (((gen << cfg.mmio_gen_low_start) & cfg.mmio_gen_low_mask)
            | ((gen >> low_bits) << cfg.mmio_gen_high_start)
            | kvm_shadow_mmio_value | (access & cfg.shadow_mmio_access_mask)
            | gpa | rsvd | ((gpa & rsvd) << SHADOW_NONPRESENT_OR_RSVD_MASK_LEN))


cdef uint64_t get_mmio_spte_generation(const SpteCfg *cfg, uint64_t spte) noexcept nogil:
    cdef int low_bits = cfg.mmio_gen_low_end - cfg.mmio_gen_low_start + 1
    return (((spte & cfg.mmio_gen_low_mask) >> cfg.mmio_gen_low_start)
            | (((spte & cfg.mmio_gen_high_mask) >> cfg.mmio_gen_high_start) << low_bits))


cdef uint64_t get_mmio_spte_gfn(const SpteCfg *cfg, uint64_t spte) noexcept nogil:
    cdef uint64_t gpa = spte & cfg.shadow_nonpresent_or_rsvd_lower_gfn_mask
    gpa |= (spte >> SHADOW_NONPRESENT_OR_RSVD_MASK_LEN) & cfg.shadow_nonpresent_or_rsvd_mask
    return gpa >> PAGE_SHIFT
