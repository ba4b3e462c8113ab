"""Numbers of the kernel's x86 MMU by the kernel's names: what <asm/vmx.h>, spte.h, mmu.h and kvm_host.h say."""
from __future__ import annotations

from tdpfast.spte import SpteConfig

__all__ = ["COMMON", "constants"]

COMMON = {
    "SPTE_MMU_PRESENT_MASK": 1 << 11,
    "SPTE_TDP_AD_ENABLED": 0,
    "SPTE_BASE_ADDR_MASK": (1 << 52) - (1 << 12),
    "SPTE_LEVEL_BITS": 9,
    "SPTE_ENT_PER_PAGE": 512,
    "DEFAULT_SPTE_HOST_WRITABLE": 1 << 9,
    "DEFAULT_SPTE_MMU_WRITABLE": 1 << 10,
    "SHADOW_NONPRESENT_VALUE": 1 << 63,
    "SHADOW_NONPRESENT_OR_RSVD_MASK_LEN": 5,
    "PT_PRESENT_MASK": 1, "PT_WRITABLE_MASK": 2, "PT_USER_MASK": 4, "PT_ACCESSED_MASK": 0x20,
    "PT_DIRTY_MASK": 0x40, "PT_PAGE_SIZE_MASK": 0x80, "PT64_NX_MASK": 1 << 63,
    "ACC_WRITE_MASK": 2, "ACC_USER_MASK": 4,
    "VMX_EPT_READABLE_MASK": 1, "VMX_EPT_WRITABLE_MASK": 2, "VMX_EPT_EXECUTABLE_MASK": 4,
    "VMX_EPT_IPAT_BIT": 0x40, "VMX_EPT_ACCESS_BIT": 0x100, "VMX_EPT_DIRTY_BIT": 0x200,
    "VMX_EPT_SUPPRESS_VE_BIT": 1 << 63, "VMX_EPT_RWX_MASK": 7, "VMX_EPT_MT_EPTE_SHIFT": 3,
    "VMX_EPT_MT_MASK": 0x38, "VMX_EPT_MISCONFIG_WX_VALUE": 6,
    "PFERR_PRESENT_MASK": 1, "PFERR_WRITE_MASK": 2, "PFERR_USER_MASK": 4, "PFERR_RSVD_MASK": 8,
    "PFERR_FETCH_MASK": 0x10, "PFERR_GUEST_FINAL_MASK": 1 << 32, "PFERR_GUEST_PAGE_MASK": 1 << 33,
    "PFERR_PRIVATE_ACCESS": 1 << 49,
    "RET_PF_CONTINUE": 0, "RET_PF_RETRY": 1, "RET_PF_EMULATE": 2, "RET_PF_WRITE_PROTECTED": 3,
    "RET_PF_INVALID": 4, "RET_PF_FIXED": 5, "RET_PF_SPURIOUS": 6,
    "KVM_INVALID_ROOTS": 1, "KVM_DIRECT_ROOTS": 2, "KVM_MIRROR_ROOTS": 4, "KVM_VALID_ROOTS": 6,
    "KVM_ALL_ROOTS": 7, "KVM_FILTER_SHARED": 1, "KVM_FILTER_PRIVATE": 2,
    "PG_LEVEL_4K": 1, "PG_LEVEL_2M": 2, "PG_LEVEL_1G": 3, "PG_LEVEL_512G": 4, "PG_LEVEL_256T": 5,
    "PT64_ROOT_MAX_LEVEL": 5, "KVM_MAX_HUGEPAGE_LEVEL": 3, "KVM_PFN_NOSLOT": 1 << 63,
    "sizeof(struct kvm_mmu_page)": 184,
}
"""What does not depend on the layout or the machine."""

_MASKS = ("kvm_ad_enabled", "enable_mmio_caching", "shadow_host_writable_mask",
          "shadow_mmu_writable_mask", "shadow_nx_mask", "shadow_accessed_mask", "shadow_dirty_mask",
          "shadow_mmio_value", "shadow_mmio_mask", "shadow_mmio_access_mask", "shadow_present_mask",
          "shadow_me_value", "shadow_me_mask", "shadow_acc_track_mask", "shadow_user_mask",
          "shadow_nonpresent_or_rsvd_mask", "shadow_nonpresent_or_rsvd_lower_gfn_mask")


def constants(config: SpteConfig) -> dict[str, int]:
    """Every constant and mask that KVM has under this format, by its kernel name."""
    masks = config.masks
    values = dict(COMMON)
    values.update((name, masks[name]) for name in _MASKS)
    values.update(_software_bits(masks))
    values["ACC_EXEC_MASK"] = masks["acc_exec"]
    values["ACC_ALL"] = masks["acc_all"]
    if config.layout == "6.18":
        values |= {"EPT_SPTE_HOST_WRITABLE": 1 << 57, "EPT_SPTE_MMU_WRITABLE": 1 << 58,
                   "shadow_x_mask": masks["shadow_x_mask"]}
    else:
        values |= {"EPT_SPTE_HOST_WRITABLE": 1 << 53, "EPT_SPTE_MMU_WRITABLE": 1 << 55,
                   "shadow_xs_mask": masks["shadow_x_mask"], "shadow_xu_mask": masks["shadow_xu_mask"],
                   "ACC_READ_MASK": masks["acc_read"], "ACC_USER_EXEC_MASK": masks["acc_user"],
                   "VMX_EPT_USER_EXECUTABLE_MASK": 1 << 10}
    return values


def _software_bits(masks) -> dict[str, int]:
    low_start, low_end = masks["mmio_gen_low_start"], masks["mmio_gen_low_end"]
    high_start, high_end = masks["mmio_gen_high_start"], masks["mmio_gen_high_end"]
    low_bits = low_end - low_start + 1
    return {
        "FROZEN_SPTE": masks["frozen_spte"],
        "SPTE_TDP_AD_SHIFT": masks["ad_shift"], "SPTE_TDP_AD_MASK": masks["tdp_ad_mask"],
        "SPTE_TDP_AD_DISABLED": masks["tdp_ad_disabled"],
        "SPTE_TDP_AD_WRPROT_ONLY": masks["tdp_ad_wrprot_only"],
        "SHADOW_ACC_TRACK_SAVED_BITS_MASK": masks["saved_bits_mask"],
        "SHADOW_ACC_TRACK_SAVED_BITS_SHIFT": masks["saved_bits_shift"],
        "MMIO_SPTE_GEN_LOW_START": low_start, "MMIO_SPTE_GEN_LOW_END": low_end,
        "MMIO_SPTE_GEN_HIGH_START": high_start, "MMIO_SPTE_GEN_HIGH_END": high_end,
        "MMIO_SPTE_GEN_LOW_MASK": masks["mmio_gen_low_mask"],
        "MMIO_SPTE_GEN_HIGH_MASK": masks["mmio_gen_high_mask"],
        "MMIO_SPTE_GEN_LOW_BITS": low_bits, "MMIO_SPTE_GEN_HIGH_BITS": high_end - high_start + 1,
        "MMIO_SPTE_GEN_LOW_SHIFT": low_start, "MMIO_SPTE_GEN_HIGH_SHIFT": high_start - low_bits,
        "MMIO_SPTE_GEN_MASK": masks["mmio_gen_mask"],
        "SPTE_MMIO_ALLOWED_MASK": masks["mmio_allowed_mask"],
        "kvm_mmu_max_gfn()": masks["max_gfn"],
    }
