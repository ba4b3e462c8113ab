# cython: language_level=3
"""TD_PARAMS, 1 KiB of the VMM's memory, and the order in which module 1.5 checks it. Nothing here yields.

Which CPUID bits may be configured is the platform's: the table has those of the platform whose answers are recorded, as
far as they show.
"""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset

from tdpfast._seam.defs cimport *
from tdpfast._seam.state cimport *

cdef enum:
    XFAM_ALWAYS = 0x3            # x87 and SSE
    XFAM_AVX = 0x4
    XFAM_AVX512 = 0xe0
    XFAM_CET = 0x1800
    XFAM_AMX = 0x60000
    XFAM_ALLOWED = 0x6dbe7
    CONFIG_GPAW = 1
    CONFIG_ALLOWED = 7
    MSR_CONFIG_ARCH = 1          # ARCH_CAPABILITIES is configured
    ARCH_ALLOWED = 0x1180010
    ATTR_DEBUG = 1
    ATTR_MIGRATABLE = 1 << 29
    EPT_WB = 6
    TSC_LOWEST = 4               # in units of 25 MHz
    TSC_HIGHEST = 400
    CPUID_CONFIGS = 12
    FMS_SAPPHIRE_RAPIDS = 0x806f0
    FMS_EMERALD_RAPIDS = 0xc06f0

cdef uint64_t ATTR_ALLOWED = 0x8000000070000001
cdef uint64_t ATTR_PERFMON = <uint64_t>1 << 63
cdef uint64_t NO_SUBLEAF = <uint64_t>0xffffffff << 32

cdef struct CpuidConfig:
    uint64_t leaf            # subleaf << 32 | leaf
    uint64_t ab              # bits that may be set: EBX << 32 | EAX
    uint64_t cd              # EDX << 32 | ECX

cdef CpuidConfig cpuid_configs[CPUID_CONFIGS]
for i, (leaf, ab, cd) in enumerate((
        (NO_SUBLEAF | 1, 0x00ff00000fff3fff, 0),
        (4, 0xfffff000ffffc3ff, 0xfffffffbffffffff),
        (<uint64_t>1 << 32 | 4, 0xfffff000ffffc3ff, 0xfffffffbffffffff),
        (<uint64_t>2 << 32 | 4, 0xfffff000ffffc3ff, 0xfffffffbffffffff),
        (<uint64_t>3 << 32 | 4, 0xfffff000ffffc3ff, 0x7ffffffff),
        (7, 0, <uint64_t>0x10000 << 32 | 0x1000),
        (<uint64_t>1 << 32 | 7, 0, 0),
        (NO_SUBLEAF | 0xa, 0, 0),
        (NO_SUBLEAF | 0x1c, 0, 0),
        (NO_SUBLEAF | 0x80000008, 0, 0),
        (<uint64_t>2 << 32 | 7, 0, 0),
        (0x23, 2, 0))):
    cpuid_configs[<int>i].leaf = leaf
    cpuid_configs[<int>i].ab = ab
    cpuid_configs[<int>i].cd = cd


cdef uint64_t params_read(Seam *s, uint64_t pa, TdParams *p) noexcept nogil:
    """TD_PARAMS at pa: 1 KiB, aligned to it, in shared memory. What the VMM never wrote is zeroes."""
    cdef uint64_t *words
    if pa & (sizeof(TdParams) - 1) or pa >> 52 or (pa & s.hkid_bits) >> s.hkid_shift >= <uint64_t>s.hkid_private:
        return TDX_OPERAND_INVALID | OP_RDX
    words = host_words(s, pa)
    if words == NULL:
        memset(p, 0, sizeof(TdParams))
    else:
        memcpy(p, <char *>words + (pa & 0xfff), sizeof(TdParams))
    return TDX_SUCCESS


cdef bint all_zero(const uint8_t *bytes, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        if bytes[i]:
            return False
    return True


cdef bint some(uint64_t value, uint64_t group) noexcept nogil:
    """Some bits of a group are set, not all."""
    return value & group != 0 and value & group != group


cdef bint bad_attributes(uint64_t a) noexcept nogil:
    return a & ~ATTR_ALLOWED != 0 or (a & ATTR_MIGRATABLE != 0 and a & (ATTR_DEBUG | ATTR_PERFMON) != 0)


cdef bint bad_xfam(uint64_t x) noexcept nogil:
    if x & ~<uint64_t>XFAM_ALLOWED or x & XFAM_ALWAYS != XFAM_ALWAYS:
        return True
    return some(x, XFAM_AVX512) or some(x, XFAM_CET) or some(x, XFAM_AMX) or (x & XFAM_AVX512 and not x & XFAM_AVX)


cdef bint bad_eptp(const TdParams *p) noexcept nogil:
    """Write-back, 4 levels or 5, which 52-bit guest addresses need."""
    cdef uint64_t level = p.eptp_controls >> 3
    return p.eptp_controls & 7 != EPT_WB or level < 3 or level > 4 or (p.config_flags & CONFIG_GPAW and level != 4)


cdef bint bad_fms(uint64_t eax) noexcept nogil:
    """Family, model and stepping: 0 for the platform's own, else of a model that the module knows."""
    return eax != 0 and eax & ~<uint64_t>0xf != FMS_SAPPHIRE_RAPIDS and eax & ~<uint64_t>0xf != FMS_EMERALD_RAPIDS


cdef uint64_t check_cpuid(const TdParams *p, uint64_t *cpuid) noexcept nogil:
    cdef int i
    if bad_fms(<uint32_t>p.cpuid_config[0]):
        cpuid[0] = cpuid_configs[0].leaf
        return TDX_OPERAND_INVALID | OP_CPUID_CONFIG
    for i in range(CPUID_CONFIGS):
        if p.cpuid_config[2 * i] & ~cpuid_configs[i].ab or p.cpuid_config[2 * i + 1] & ~cpuid_configs[i].cd:
            cpuid[0] = cpuid_configs[i].leaf
            return TDX_OPERAND_INVALID | OP_CPUID_CONFIG
    return TDX_SUCCESS


cdef uint64_t params_check(const TdParams *p, uint64_t num_tdcx, uint64_t *cpuid) noexcept nogil:
    """The checks in the module's order; *cpuid becomes the leaf whose configuration is refused."""
    cdef uint64_t status
    if bad_attributes(p.attributes):
        return TDX_OPERAND_INVALID | OP_ATTRIBUTES
    if bad_xfam(p.xfam):
        return TDX_OPERAND_INVALID | OP_XFAM
    if p.max_vcpus == 0:
        return TDX_OPERAND_INVALID | OP_MAX_VCPUS
    if p.num_l2_vms > 3:
        return TDX_OPERAND_INVALID | OP_NUM_L2_VMS
    if num_tdcx < <uint64_t>(SEAM_TDCS_PAGES + p.num_l2_vms):
        return TDX_TDCS_NOT_ALLOCATED
    if not all_zero(p.reserved, sizeof(p.reserved)):
        return TDX_OPERAND_INVALID | OP_RDX
    if p.config_flags & ~<uint64_t>CONFIG_ALLOWED:
        return TDX_OPERAND_INVALID | OP_EXEC_CONTROLS
    if bad_eptp(p):
        return TDX_OPERAND_INVALID | OP_EPTP_CONTROLS
    if p.tsc_frequency < TSC_LOWEST or p.tsc_frequency > TSC_HIGHEST:
        return TDX_OPERAND_INVALID | OP_TSC_FREQUENCY
    if p.msr_config_ctls & ~MSR_CONFIG_ARCH:
        return TDX_OPERAND_INVALID | OP_RDX
    if not (all_zero(p.reserved2, sizeof(p.reserved2)) and all_zero(p.reserved3, sizeof(p.reserved3))
            and all_zero(p.reserved4, sizeof(p.reserved4))):
        return TDX_OPERAND_INVALID | OP_RDX
    status = check_cpuid(p, cpuid)
    if status == TDX_SUCCESS and p.arch_capabilities & ~<uint64_t>(
            ARCH_ALLOWED if p.msr_config_ctls & MSR_CONFIG_ARCH else 0):
        status = TDX_OPERAND_INVALID | OP_IA32_ARCH_CAPABILITIES_CONFIG
    return status
