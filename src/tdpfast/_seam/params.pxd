"""TD_PARAMS: what TDH.MNG.INIT reads from memory, and its checks."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from tdpfast._seam.state cimport Seam

cdef enum:
    ATTR_SEPT_VE_DISABLE = 1 << 28

cdef struct TdParams:
    uint64_t attributes
    uint64_t xfam
    uint16_t max_vcpus
    uint8_t num_l2_vms
    uint8_t msr_config_ctls
    uint8_t reserved[4]
    uint64_t eptp_controls
    uint64_t config_flags
    uint16_t tsc_frequency
    uint8_t reserved2[38]
    uint64_t mr_config[18]           # MRCONFIGID, MROWNER, MROWNERCONFIG
    uint64_t arch_capabilities
    uint8_t reserved3[24]
    uint64_t cpuid_config[24]        # 12 times EBX and EAX, EDX and ECX
    uint8_t reserved4[576]

cdef uint64_t params_read(Seam *s, uint64_t pa, TdParams *p) noexcept nogil
cdef uint64_t params_check(const TdParams *p, uint64_t num_tdcx, uint64_t *cpuid) noexcept nogil
