# SPDX-License-Identifier: GPL-2.0-only
# spte.h: the SPTE formats of one VM, the predicates on an SPTE, and what
# makes and changes one. Pure functions of their arguments: nothing here locks,
# yields or allocates. A SpteCfg is immutable once spte_cfg_init() has run.
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #define SPTE_BASE_ADDR_MASK     0x000ffffffffff000ull
    #define SHADOW_NONPRESENT_VALUE (1ull << 63)
    #define VMX_EPT_SUPPRESS_VE_BIT (1ull << 63)
    #define PT64_NX_MASK            (1ull << 63)
    """
    const uint64_t SPTE_BASE_ADDR_MASK
    const uint64_t SHADOW_NONPRESENT_VALUE
    const uint64_t VMX_EPT_SUPPRESS_VE_BIT
    const uint64_t PT64_NX_MASK

cdef enum:
    PAGE_SHIFT = 12
    SPTE_LEVEL_BITS = 9
    SPTE_ENT_PER_PAGE = 512
    PG_LEVEL_4K = 1
    PG_LEVEL_2M = 2
    PG_LEVEL_1G = 3
    PG_LEVEL_512G = 4
    PG_LEVEL_256T = 5
    PT64_ROOT_MAX_LEVEL = 5

    PT_PRESENT_MASK = 0x1
    PT_WRITABLE_MASK = 0x2
    PT_USER_MASK = 0x4
    PT_ACCESSED_MASK = 0x20
    PT_DIRTY_MASK = 0x40
    PT_PAGE_SIZE_MASK = 0x80
    SPTE_MMU_PRESENT_MASK = 0x800

    VMX_EPT_READABLE_MASK = 0x1
    VMX_EPT_WRITABLE_MASK = 0x2
    VMX_EPT_EXECUTABLE_MASK = 0x4
    VMX_EPT_RWX_MASK = 0x7
    VMX_EPT_MISCONFIG_WX_VALUE = 0x6
    VMX_EPT_MT_EPTE_SHIFT = 3
    VMX_EPT_MT_MASK = 0x38
    VMX_EPT_IPAT_BIT = 0x40
    VMX_EPT_ACCESS_BIT = 0x100
    VMX_EPT_DIRTY_BIT = 0x200
    VMX_EPT_USER_EXECUTABLE_MASK = 0x400

    # Host frames of the MMIO hole below 4G: kvm_is_mmio_pfn() here.
    MMIO_HOLE_START_PFN = 0xfe000
    MMIO_HOLE_END_PFN = 0x100000

    SHADOW_NONPRESENT_OR_RSVD_MASK_LEN = 5
    MTRR_TYPE_UNCACHABLE = 0
    MTRR_TYPE_WRBACK = 6

# Page fault error code bits that the permission table looks at.
cdef enum:
    PFERR_PRESENT_MASK = 0x1
    PFERR_WRITE_MASK = 0x2
    PFERR_USER_MASK = 0x4
    PFERR_RSVD_MASK = 0x8
    PFERR_FETCH_MASK = 0x10

cdef enum:
    SPTE_LAYOUT_6_18 = 618
    SPTE_LAYOUT_7_3 = 703

cdef enum:
    SPTE_MMU_EPT_AD = 0
    SPTE_MMU_EPT_NOAD = 1
    SPTE_MMU_NPT = 2

# Which assertions of the kernel fired: a mask. SPTE_WARNS in _spte.pyx names
# each as (kind, kernel function, id).
cdef enum:
    SPTE_WARN_NO_ACCESS = 0x1
    SPTE_WARN_RESERVED_BITS = 0x2
    SPTE_WARN_DIRTY_LOG_ON_HUGE_PAGE = 0x4
    SPTE_WARN_NOT_A_LARGE_LEAF = 0x8
    SPTE_WARN_NOT_PRESENT_OR_4K = 0x10
    SPTE_WARN_MMU_WRITABLE = 0x20
    SPTE_WARN_WRITABLE = 0x40
    SPTE_WARN_SAVED_BITS = 0x80

cdef struct SpteCfg:
    int32_t layout                  # SPTE_LAYOUT_*
    int32_t mmu                     # SPTE_MMU_*
    int32_t maxphyaddr              # bits of a host physical address
    int32_t l1tf                    # X86_BUG_L1TF
    int32_t phys_bits               # boot_cpu_data.x86_phys_bits
    int32_t cache_bits              # boot_cpu_data.x86_cache_bits
    int32_t exec_only               # VMX capability; 6.18 alone looks at it
    int32_t kvm_ad_enabled
    int32_t enable_mmio_caching
    int32_t ad_shift                # SPTE_TDP_AD_SHIFT
    int32_t saved_bits_shift        # SHADOW_ACC_TRACK_SAVED_BITS_SHIFT
    int32_t mmio_gen_low_start      # MMIO_SPTE_GEN_*: first and last bit of
    int32_t mmio_gen_low_end        # the two parts of a generation
    int32_t mmio_gen_high_start
    int32_t mmio_gen_high_end
    uint32_t acc_read               # ACC_*_MASK of this layout; 0 = it has none
    uint32_t acc_write
    uint32_t acc_user
    uint32_t acc_exec
    uint32_t acc_all
    uint64_t nonpresent             # SHADOW_NONPRESENT_VALUE
    uint64_t frozen_spte            # FROZEN_SPTE
    uint64_t tdp_ad_mask            # SPTE_TDP_AD_*
    uint64_t tdp_ad_disabled
    uint64_t tdp_ad_wrprot_only
    uint64_t saved_bits_mask        # SHADOW_ACC_TRACK_SAVED_BITS_MASK, unshifted
    uint64_t shadow_host_writable_mask
    uint64_t shadow_mmu_writable_mask
    uint64_t shadow_nx_mask
    uint64_t shadow_read_mask       # what ACC_READ adds
    uint64_t shadow_user_mask       # what ACC_USER adds (6.18 EPT: R)
    uint64_t shadow_x_mask          # 6.18 shadow_x_mask, 7.3 shadow_xs_mask
    uint64_t shadow_xu_mask         # 7.3 only
    uint64_t shadow_accessed_mask
    uint64_t shadow_dirty_mask
    uint64_t shadow_present_mask
    uint64_t shadow_memtype_mask    # bits that get_mt_mask() may set
    uint64_t shadow_me_value
    uint64_t shadow_me_mask
    uint64_t shadow_acc_track_mask
    uint64_t shadow_mmio_value
    uint64_t shadow_mmio_mask
    uint64_t shadow_mmio_access_mask
    uint64_t shadow_nonpresent_or_rsvd_mask
    uint64_t shadow_nonpresent_or_rsvd_lower_gfn_mask
    uint64_t mmio_gen_mask          # MMIO_SPTE_GEN_MASK: of the generation
    uint64_t mmio_gen_low_mask      # of the SPTE
    uint64_t mmio_gen_high_mask
    uint64_t mmio_allowed_mask      # SPTE_MMIO_ALLOWED_MASK
    uint64_t max_gfn                # kvm_mmu_max_gfn()
    uint64_t rsvd_bits_mask[2][5]   # [bit 7][level - 1]
    uint64_t bad_mt_xwr
    uint16_t permissions[16]        # [error code >> 1], bit ACC = fault
    uint64_t plain_leaf[2][4]       # make_plain_spte() of frame 0, by [ipat][level]; 0 = none

# What make_spte() asks of the vCPU, the VM, the memslot and the shadow page.
cdef struct MakeSpteIn:
    int32_t level                   # sp->role.level
    uint32_t access                 # ACC_* of this layout
    uint64_t gfn
    uint64_t pfn
    uint64_t old_spte
    int32_t prefetch
    int32_t synchronizing
    int32_t host_writable
    int32_t nx_huge_pages           # is_nx_huge_page_enabled()
    int32_t tracked                 # mmu_try_to_unsync_pages() refuses gfn
    int32_t dirty_log               # kvm_slot_dirty_track_enabled()
    int32_t ad_disabled             # sp->role.ad_disabled
    int32_t guest_mode              # sp->role.guest_mode
    int32_t pml                     # kvm->arch.cpu_dirty_log_size != 0
    int32_t ipat                    # no non-coherent DMA: ignore the guest's PAT

cdef struct MakeSpteOut:
    uint64_t spte
    int32_t wrprot                  # make_spte()'s return value
    int32_t dirty                   # mark_page_dirty_in_slot(gfn) was called
    uint32_t warn                   # SPTE_WARN_*

# Predicates: as the kernel's inlines of the same names.

cdef inline bint is_shadow_present_pte(uint64_t spte) noexcept nogil:
    return (spte & SPTE_MMU_PRESENT_MASK) != 0

cdef inline bint is_large_pte(uint64_t spte) noexcept nogil:
    return (spte & PT_PAGE_SIZE_MASK) != 0

cdef inline bint is_last_spte(uint64_t spte, int level) noexcept nogil:
    return level == PG_LEVEL_4K or is_large_pte(spte)

cdef inline bint is_frozen_spte(const SpteCfg *cfg, uint64_t spte) noexcept nogil:
    return spte == cfg.frozen_spte

cdef inline bint is_mmio_spte(const SpteCfg *cfg, uint64_t kvm_shadow_mmio_value,
                              uint64_t spte) noexcept nogil:
    return ((spte & cfg.shadow_mmio_mask) == kvm_shadow_mmio_value
            and cfg.enable_mmio_caching != 0)

cdef inline bint is_ept_ve_possible(const SpteCfg *cfg, uint64_t spte) noexcept nogil:
    return ((cfg.shadow_present_mask & VMX_EPT_SUPPRESS_VE_BIT) != 0
            and not (spte & VMX_EPT_SUPPRESS_VE_BIT)
            and (spte & VMX_EPT_RWX_MASK) != VMX_EPT_MISCONFIG_WX_VALUE)

cdef inline uint64_t spte_to_child_pa(uint64_t spte) noexcept nogil:
    return spte & SPTE_BASE_ADDR_MASK

cdef inline uint64_t spte_to_pfn(uint64_t spte) noexcept nogil:
    return (spte & SPTE_BASE_ADDR_MASK) >> PAGE_SHIFT

cdef inline bint spte_ad_enabled(const SpteCfg *cfg, uint64_t spte) noexcept nogil:
    return (spte & cfg.tdp_ad_mask) != cfg.tdp_ad_disabled

cdef inline bint spte_ad_need_write_protect(const SpteCfg *cfg,
                                            uint64_t spte) noexcept nogil:
    return (spte & cfg.tdp_ad_mask) != 0

cdef inline bint is_access_track_spte(const SpteCfg *cfg, uint64_t spte) noexcept nogil:
    return (not spte_ad_enabled(cfg, spte)
            and (spte & cfg.shadow_acc_track_mask) == 0)

cdef inline bint is_accessed_spte(const SpteCfg *cfg, uint64_t spte) noexcept nogil:
    return (spte & cfg.shadow_accessed_mask) != 0

cdef inline bint is_dirty_spte(const SpteCfg *cfg, uint64_t spte) noexcept nogil:
    return (spte & cfg.shadow_dirty_mask) != 0

cdef inline bint is_writable_pte(uint64_t spte) noexcept nogil:
    return (spte & PT_WRITABLE_MASK) != 0

cdef inline bint is_mmu_writable_spte(const SpteCfg *cfg, uint64_t spte) noexcept nogil:
    return (spte & cfg.shadow_mmu_writable_mask) != 0

# 6.18 only; 7.3 asks spte_permission_fault() instead.
cdef inline bint is_executable_pte(const SpteCfg *cfg, uint64_t spte) noexcept nogil:
    return (spte & (cfg.shadow_x_mask | cfg.shadow_nx_mask)) == cfg.shadow_x_mask

# The CPU, the fast page fault handler or aging may change it behind mmu_lock.
cdef inline bint spte_needs_atomic_update(const SpteCfg *cfg,
                                          uint64_t spte) noexcept nogil:
    if not is_writable_pte(spte) and is_mmu_writable_spte(cfg, spte):
        return True
    if not spte_ad_enabled(cfg, spte):
        return True
    return is_writable_pte(spte) and not is_dirty_spte(cfg, spte)

cdef inline bint kvm_tdp_mmu_spte_need_atomic_update(const SpteCfg *cfg, uint64_t spte,
                                                     int level) noexcept nogil:
    return (is_shadow_present_pte(spte) and is_last_spte(spte, level)
            and spte_needs_atomic_update(cfg, spte))

cdef inline bint leaf_spte_change_needs_tlb_flush(const SpteCfg *cfg, uint64_t old_spte,
                                                  uint64_t new_spte) noexcept nogil:
    return is_mmu_writable_spte(cfg, old_spte) and not is_mmu_writable_spte(cfg, new_spte)

# level must be 1..5. User-execute counts as execute (7.3).
cdef inline bint is_rsvd_spte(const SpteCfg *cfg, uint64_t spte, int level) noexcept nogil:
    cdef uint64_t mt_xwr = spte & 0x3f
    if spte & cfg.shadow_xu_mask:
        mt_xwr |= VMX_EPT_EXECUTABLE_MASK
    return (((cfg.bad_mt_xwr >> mt_xwr) & 1) != 0
            or (cfg.rsvd_bits_mask[(spte >> 7) & 1][level - 1] & spte) != 0)

# 6.18
cdef inline bint is_access_allowed(const SpteCfg *cfg, uint64_t spte, bint exec_,
                                   bint write) noexcept nogil:
    if exec_:
        return is_executable_pte(cfg, spte)
    if write:
        return is_writable_pte(spte)
    return (spte & PT_PRESENT_MASK) != 0

# The supervisor sees page table entries as these ACC_* (7.3).
cdef inline uint32_t spte_to_access(const SpteCfg *cfg, uint64_t spte) noexcept nogil:
    cdef uint32_t access = 0
    if spte & PT_PRESENT_MASK:
        access |= cfg.acc_read
    if spte & PT_WRITABLE_MASK:
        access |= cfg.acc_write
    if spte & (cfg.shadow_user_mask | cfg.shadow_xu_mask):
        access |= cfg.acc_user
    if is_executable_pte(cfg, spte):
        access |= cfg.acc_exec
    return access

# 7.3: does an access with this error code fault on this SPTE?
cdef inline bint spte_permission_fault(const SpteCfg *cfg, uint64_t spte,
                                       uint64_t error_code) noexcept nogil:
    if not is_shadow_present_pte(spte):
        return True
    return ((cfg.permissions[(error_code & 0x1f) >> 1]
             >> spte_to_access(cfg, spte)) & 1) != 0

# make_spte() of a fault that nothing restricts: every access, host-writable, not
# a prefetch, A/D bits as configured, no NX mitigation, PML, write tracking or
# dirty log. 0: only make_spte() can say. level must be 1..3.
cdef inline uint64_t make_plain_spte(const SpteCfg *cfg, int level, bint ipat,
                                     uint64_t pfn) noexcept nogil:
    cdef uint64_t spte = cfg.plain_leaf[ipat][level]
    if spte == 0 or MMIO_HOLE_START_PFN <= pfn < MMIO_HOLE_END_PFN:
        return 0
    spte |= pfn << PAGE_SHIFT
    return 0 if is_rsvd_spte(cfg, spte, level) else spte

# 0, or a negative errno: an argument is out of range and *cfg is untouched.
cdef int spte_cfg_init(SpteCfg *cfg, int layout, int mmu, int maxphyaddr, bint l1tf,
                       int cache_bits, bint exec_only) noexcept nogil

cdef void make_spte(const SpteCfg *cfg, const MakeSpteIn *inp, MakeSpteOut *out) noexcept nogil
cdef uint64_t make_nonleaf_spte(const SpteCfg *cfg, uint64_t child_pa,
                                bint ad_disabled) noexcept nogil

# These OR the SPTE_WARN_* that fired into *warn.
cdef uint64_t make_small_spte(const SpteCfg *cfg, uint64_t huge_spte, int level,
                              uint32_t access, int index, bint nx_huge_pages,
                              uint32_t *warn) noexcept nogil
cdef uint64_t make_huge_spte(const SpteCfg *cfg, uint64_t small_spte, int level,
                             bint nx_huge_pages, uint32_t *warn) noexcept nogil
cdef uint64_t mark_spte_for_access_track(const SpteCfg *cfg, uint64_t spte,
                                         uint32_t *warn) noexcept nogil

cdef uint64_t restore_acc_track_spte(const SpteCfg *cfg, uint64_t spte) noexcept nogil
cdef uint64_t make_mmio_spte(const SpteCfg *cfg, uint64_t kvm_shadow_mmio_value,
                             uint64_t gfn, uint32_t access,
                             uint64_t generation) noexcept nogil
cdef uint64_t get_mmio_spte_generation(const SpteCfg *cfg, uint64_t spte) noexcept nogil
cdef uint64_t get_mmio_spte_gfn(const SpteCfg *cfg, uint64_t spte) noexcept nogil
cdef uint32_t check_spte_writable_invariants(const SpteCfg *cfg,
                                             uint64_t spte) noexcept nogil
