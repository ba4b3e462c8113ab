/* SPDX-License-Identifier: GPL-2.0-only */
/* What the TDX module answers: name, bits 63:32, and what bits 31:0 mean. Every status of module 1.5 is here, whether a
 * leaf that tdpfast has answers with it or not; Python's names are read from this list. */
#ifndef TDPFAST_SEAM_STATUS_H
#define TDPFAST_SEAM_STATUS_H

#include <stdint.h>

/* Details: nothing, or a number of its own (PLAIN); which operand or lock; a level; an L2 VM (31:16) and a level. */
enum { STATUS_PLAIN, STATUS_OPERAND, STATUS_LEVEL, STATUS_VM_LEVEL };

#define TDX_STATUSES(X) \
	X(TDX_SUCCESS,                               0x00000000, PLAIN) \
	X(TDX_NON_RECOVERABLE_VCPU,                  0x40000001, PLAIN) \
	X(TDX_NON_RECOVERABLE_TD,                    0x60000002, PLAIN) \
	X(TDX_INTERRUPTED_RESUMABLE,                 0x80000003, PLAIN) \
	X(TDX_INTERRUPTED_RESTARTABLE,               0x80000004, PLAIN) \
	X(TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE,     0x60000005, PLAIN) \
	X(TDX_INVALID_RESUMPTION,                    0xc0000006, PLAIN) \
	X(TDX_NON_RECOVERABLE_TD_WRONG_APIC_MODE,    0xe0000007, PLAIN) \
	X(TDX_CROSS_TD_FAULT,                        0x80000008, PLAIN) \
	X(TDX_CROSS_TD_TRAP,                         0x90000009, PLAIN) \
	X(TDX_NON_RECOVERABLE_TD_CORRUPTED_MD,       0x6000000a, PLAIN) \
	X(TDX_OPERAND_INVALID,                       0xc0000100, OPERAND) \
	X(TDX_OPERAND_ADDR_RANGE_ERROR,              0xc0000101, OPERAND) \
	X(TDX_OPERAND_BUSY,                          0x80000200, OPERAND) \
	X(TDX_PREVIOUS_TLB_EPOCH_BUSY,               0x80000201, PLAIN) \
	X(TDX_SYS_BUSY,                              0x80000202, PLAIN) \
	X(TDX_RND_NO_ENTROPY,                        0x80000203, PLAIN) \
	X(TDX_OPERAND_BUSY_HOST_PRIORITY,            0x80000204, OPERAND) \
	X(TDX_HOST_PRIORITY_BUSY_TIMEOUT,            0x90000205, PLAIN) \
	X(TDX_PAGE_METADATA_INCORRECT,               0xc0000300, OPERAND) \
	X(TDX_PAGE_ALREADY_FREE,                     0x00000301, PLAIN) \
	X(TDX_PAGE_NOT_OWNED_BY_TD,                  0xc0000302, PLAIN) \
	X(TDX_PAGE_NOT_FREE,                         0xc0000303, OPERAND) \
	X(TDX_TD_ASSOCIATED_PAGES_EXIST,             0xc0000400, PLAIN) \
	X(TDX_SYS_INIT_NOT_PENDING,                  0xc0000500, PLAIN) \
	X(TDX_SYS_LP_INIT_NOT_DONE,                  0xc0000502, PLAIN) \
	X(TDX_SYS_LP_INIT_DONE,                      0xc0000503, PLAIN) \
	X(TDX_SYS_NOT_READY,                         0xc0000505, PLAIN) \
	X(TDX_SYS_SHUTDOWN,                          0xc0000506, PLAIN) \
	X(TDX_SYS_KEY_CONFIG_NOT_PENDING,            0xc0000507, PLAIN) \
	X(TDX_SYS_STATE_INCORRECT,                   0xc0000508, PLAIN) \
	X(TDX_SYS_INVALID_HANDOFF,                   0xc0000509, PLAIN) \
	X(TDX_SYS_INCOMPATIBLE_SIGSTRUCT,            0xc000050a, PLAIN) \
	X(TDX_SYS_LP_INIT_NOT_PENDING,               0xc000050b, PLAIN) \
	X(TDX_SYS_CONFIG_NOT_PENDING,                0xc000050c, PLAIN) \
	X(TDX_INCOMPATIBLE_SEAM_CAPABILITIES,        0xc000050d, PLAIN) \
	X(TDX_TD_FATAL,                              0xe0000604, PLAIN) \
	X(TDX_TD_NON_DEBUG,                          0xc0000605, PLAIN) \
	X(TDX_TDCS_NOT_ALLOCATED,                    0xc0000606, PLAIN) \
	X(TDX_LIFECYCLE_STATE_INCORRECT,             0xc0000607, PLAIN) \
	X(TDX_OP_STATE_INCORRECT,                    0xc0000608, PLAIN) \
	X(TDX_NO_VCPUS,                              0xc0000609, PLAIN) \
	X(TDX_TDCX_NUM_INCORRECT,                    0xc0000610, PLAIN) \
	X(TDX_VCPU_STATE_INCORRECT,                  0xc0000700, PLAIN) \
	X(TDX_VCPU_ASSOCIATED,                       0x80000701, PLAIN) \
	X(TDX_VCPU_NOT_ASSOCIATED,                   0x80000702, PLAIN) \
	X(TDX_NO_VALID_VE_INFO,                      0xc0000704, PLAIN) \
	X(TDX_MAX_VCPUS_EXCEEDED,                    0xc0000705, PLAIN) \
	X(TDX_TSC_ROLLBACK,                          0xc0000706, PLAIN) \
	X(TDX_TD_VMCS_FIELD_NOT_INITIALIZED,         0xc0000730, PLAIN) \
	X(TD_VMCS_FIELD_ERROR,                       0xc0000731, PLAIN) \
	X(TDX_KEY_GENERATION_FAILED,                 0x80000800, PLAIN) \
	X(TDX_TD_KEYS_NOT_CONFIGURED,                0x80000810, PLAIN) \
	X(TDX_KEY_STATE_INCORRECT,                   0xc0000811, PLAIN) \
	X(TDX_KEY_CONFIGURED,                        0x00000815, PLAIN) \
	X(TDX_WBCACHE_NOT_COMPLETE,                  0x80000817, PLAIN) \
	X(TDX_HKID_NOT_FREE,                         0xc0000820, PLAIN) \
	X(TDX_NO_HKID_READY_TO_WBCACHE,              0x00000821, PLAIN) \
	X(TDX_WBCACHE_RESUME_ERROR,                  0xc0000823, PLAIN) \
	X(TDX_FLUSHVP_NOT_DONE,                      0x80000824, PLAIN) \
	X(TDX_NUM_ACTIVATED_HKIDS_NOT_SUPPORTED,     0xc0000825, PLAIN) \
	X(TDX_INCORRECT_CPUID_VALUE,                 0xc0000900, PLAIN) \
	X(TDX_LIMIT_CPUID_MAXVAL_SET,                0xc0000901, PLAIN) \
	X(TDX_INCONSISTENT_CPUID_FIELD,              0xc0000902, PLAIN) \
	X(TDX_CPUID_MAX_SUBLEAVES_UNRECOGNIZED,      0xc0000903, PLAIN) \
	X(TDX_CPUID_LEAF_1F_FORMAT_UNRECOGNIZED,     0xc0000904, PLAIN) \
	X(TDX_INVALID_WBINVD_SCOPE,                  0xc0000905, PLAIN) \
	X(TDX_INVALID_PKG_ID,                        0xc0000906, PLAIN) \
	X(TDX_ENABLE_MONITOR_FSM_NOT_SET,            0xc0000907, PLAIN) \
	X(TDX_CPUID_LEAF_NOT_SUPPORTED,              0xc0000908, PLAIN) \
	X(TDX_SMRR_NOT_LOCKED,                       0xc0000910, PLAIN) \
	X(TDX_INVALID_SMRR_CONFIGURATION,            0xc0000911, PLAIN) \
	X(TDX_SMRR_OVERLAPS_CMR,                     0xc0000912, PLAIN) \
	X(TDX_SMRR_LOCK_NOT_SUPPORTED,               0xc0000913, PLAIN) \
	X(TDX_SMRR_NOT_SUPPORTED,                    0xc0000914, PLAIN) \
	X(TDX_INCONSISTENT_MSR,                      0xc0000920, PLAIN) \
	X(TDX_INCORRECT_MSR_VALUE,                   0xc0000921, PLAIN) \
	X(TDX_SEAMREPORT_NOT_AVAILABLE,              0xc0000930, PLAIN) \
	X(TDX_SEAMDB_GETREF_NOT_AVAILABLE,           0xc0000931, PLAIN) \
	X(TDX_SEAMDB_REPORT_NOT_AVAILABLE,           0xc0000932, PLAIN) \
	X(TDX_SEAMVERIFYREPORT_NOT_AVAILABLE,        0xc0000933, PLAIN) \
	X(TDX_INVALID_TDMR,                          0xc0000a00, PLAIN) \
	X(TDX_NON_ORDERED_TDMR,                      0xc0000a01, PLAIN) \
	X(TDX_TDMR_OUTSIDE_CMRS,                     0xc0000a02, PLAIN) \
	X(TDX_TDMR_ALREADY_INITIALIZED,              0x00000a03, PLAIN) \
	X(TDX_INVALID_PAMT,                          0xc0000a10, PLAIN) \
	X(TDX_PAMT_OUTSIDE_CMRS,                     0xc0000a11, PLAIN) \
	X(TDX_PAMT_OVERLAP,                          0xc0000a12, PLAIN) \
	X(TDX_INVALID_RESERVED_IN_TDMR,              0xc0000a20, PLAIN) \
	X(TDX_NON_ORDERED_RESERVED_IN_TDMR,          0xc0000a21, PLAIN) \
	X(TDX_CMR_LIST_INVALID,                      0xc0000a22, PLAIN) \
	X(TDX_EPT_WALK_FAILED,                       0xc0000b00, OPERAND) \
	X(TDX_EPT_ENTRY_FREE,                        0xc0000b01, PLAIN) \
	X(TDX_EPT_ENTRY_NOT_FREE,                    0xc0000b02, PLAIN) \
	X(TDX_EPT_ENTRY_NOT_PRESENT,                 0xc0000b03, OPERAND) \
	X(TDX_EPT_ENTRY_NOT_LEAF,                    0xc0000b04, PLAIN) \
	X(TDX_EPT_ENTRY_LEAF,                        0xc0000b05, PLAIN) \
	X(TDX_GPA_RANGE_NOT_BLOCKED,                 0xc0000b06, OPERAND) \
	X(TDX_GPA_RANGE_ALREADY_BLOCKED,             0x00000b07, OPERAND) \
	X(TDX_TLB_TRACKING_NOT_DONE,                 0xc0000b08, OPERAND) \
	X(TDX_EPT_INVALID_PROMOTE_CONDITIONS,        0xc0000b09, OPERAND) \
	X(TDX_PAGE_ALREADY_ACCEPTED,                 0x00000b0a, LEVEL) \
	X(TDX_PAGE_SIZE_MISMATCH,                    0xc0000b0b, LEVEL) \
	X(TDX_GPA_RANGE_BLOCKED,                     0xc0000b0c, PLAIN) \
	X(TDX_EPT_ENTRY_STATE_INCORRECT,             0xc0000b0d, OPERAND) \
	X(TDX_EPT_PAGE_NOT_FREE,                     0xc0000b0e, OPERAND) \
	X(TDX_L2_SEPT_WALK_FAILED,                   0xc0000b0f, VM_LEVEL) \
	X(TDX_L2_SEPT_ENTRY_NOT_FREE,                0xc0000b10, VM_LEVEL) \
	X(TDX_PAGE_ATTR_INVALID,                     0xc0000b11, PLAIN) \
	X(TDX_L2_SEPT_PAGE_NOT_PROVIDED,             0xc0000b12, OPERAND) \
	X(TDX_METADATA_FIELD_ID_INCORRECT,           0xc0000c00, PLAIN) \
	X(TDX_METADATA_FIELD_NOT_WRITABLE,           0xc0000c01, PLAIN) \
	X(TDX_METADATA_FIELD_NOT_READABLE,           0xc0000c02, PLAIN) \
	X(TDX_METADATA_FIELD_VALUE_NOT_VALID,        0xc0000c03, PLAIN) \
	X(TDX_METADATA_LIST_OVERFLOW,                0xc0000c04, PLAIN) \
	X(TDX_INVALID_METADATA_LIST_HEADER,          0xc0000c05, PLAIN) \
	X(TDX_REQUIRED_METADATA_FIELD_MISSING,       0xc0000c06, PLAIN) \
	X(TDX_METADATA_ELEMENT_SIZE_INCORRECT,       0xc0000c07, PLAIN) \
	X(TDX_METADATA_LAST_ELEMENT_INCORRECT,       0xc0000c08, PLAIN) \
	X(TDX_METADATA_FIELD_CURRENTLY_NOT_WRITABLE, 0xc0000c09, PLAIN) \
	X(TDX_METADATA_WR_MASK_NOT_VALID,            0xc0000c0a, PLAIN) \
	X(TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT,    0x00000c0b, PLAIN) \
	X(TDX_METADATA_FIELD_SKIP,                   0x00000c0c, PLAIN) \
	X(TDX_SERVTD_ALREADY_BOUND_FOR_TYPE,         0xc0000d00, PLAIN) \
	X(TDX_SERVTD_TYPE_MISMATCH,                  0xc0000d01, PLAIN) \
	X(TDX_SERVTD_ATTR_MISMATCH,                  0xc0000d02, PLAIN) \
	X(TDX_SERVTD_INFO_HASH_MISMATCH,             0xc0000d03, PLAIN) \
	X(TDX_SERVTD_UUID_MISMATCH,                  0xc0000d04, PLAIN) \
	X(TDX_SERVTD_NOT_BOUND,                      0xc0000d05, PLAIN) \
	X(TDX_SERVTD_BOUND,                          0xc0000d06, PLAIN) \
	X(TDX_TARGET_UUID_MISMATCH,                  0xc0000d07, PLAIN) \
	X(TDX_TARGET_UUID_UPDATED,                   0xc0000d08, PLAIN) \
	X(TDX_INVALID_MBMD,                          0xc0000e00, PLAIN) \
	X(TDX_INCORRECT_MBMD_MAC,                    0xc0000e01, PLAIN) \
	X(TDX_NOT_WRITE_BLOCKED,                     0xc0000e02, PLAIN) \
	X(TDX_ALREADY_WRITE_BLOCKED,                 0x00000e03, PLAIN) \
	X(TDX_NOT_EXPORTED,                          0xc0000e04, PLAIN) \
	X(TDX_MIGRATION_STREAM_STATE_INCORRECT,      0xc0000e05, PLAIN) \
	X(TDX_MAX_MIGS_NUM_EXCEEDED,                 0xc0000e06, PLAIN) \
	X(TDX_EXPORTED_DIRTY_PAGES_REMAIN,           0xc0000e07, PLAIN) \
	X(TDX_MIGRATION_DECRYPTION_KEY_NOT_SET,      0xc0000e08, PLAIN) \
	X(TDX_TD_NOT_MIGRATABLE,                     0xc0000e09, PLAIN) \
	X(TDX_PREVIOUS_EXPORT_CLEANUP_INCOMPLETE,    0xc0000e0a, PLAIN) \
	X(TDX_NUM_MIGS_HIGHER_THAN_CREATED,          0xc0000e0b, PLAIN) \
	X(TDX_IMPORT_MISMATCH,                       0xc0000e0c, PLAIN) \
	X(TDX_MIGRATION_EPOCH_OVERFLOW,              0xc0000e0d, PLAIN) \
	X(TDX_MAX_EXPORTS_EXCEEDED,                  0xc0000e0e, PLAIN) \
	X(TDX_INVALID_PAGE_MAC,                      0xc0000e0f, PLAIN) \
	X(TDX_MIGRATED_IN_CURRENT_EPOCH,             0xc0000e10, PLAIN) \
	X(TDX_DISALLOWED_IMPORT_OVER_REMOVED,        0xc0000e11, PLAIN) \
	X(TDX_SOME_VCPUS_NOT_MIGRATED,               0xc0000e12, PLAIN) \
	X(TDX_ALL_VCPUS_IMPORTED,                    0xc0000e13, PLAIN) \
	X(TDX_MIN_MIGS_NOT_CREATED,                  0xc0000e14, PLAIN) \
	X(TDX_VCPU_ALREADY_EXPORTED,                 0xc0000e15, PLAIN) \
	X(TDX_INVALID_MIGRATION_DECRYPTION_KEY,      0xc0000e16, PLAIN) \
	X(TDX_INVALID_CPUSVN,                        0xc0001000, PLAIN) \
	X(TDX_INVALID_REPORTMACSTRUCT,               0xc0001001, PLAIN) \
	X(TDX_L2_EXIT_HOST_ROUTED_ASYNC,             0x00001100, PLAIN) \
	X(TDX_L2_EXIT_HOST_ROUTED_TDVMCALL,          0x00001101, PLAIN) \
	X(TDX_L2_EXIT_PENDING_INTERRUPT,             0x00001102, PLAIN) \
	X(TDX_PENDING_INTERRUPT,                     0x00001120, PLAIN) \
	X(TDX_TD_EXIT_BEFORE_L2_ENTRY,               0x00001140, PLAIN) \
	X(TDX_TD_EXIT_ON_L2_VM_EXIT,                 0x00001141, PLAIN) \
	X(TDX_TD_EXIT_ON_L2_TO_L1,                   0x00001142, PLAIN) \
	X(TDX_GLA_NOT_CANONICAL,                     0xc0001160, PLAIN) \
	X(UNINITIALIZE_ERROR,                        0xffffffff, PLAIN) \
	TDX_LATER_STATUSES(X)

/* Of module 2.0. */
#define TDX_LATER_STATUSES(X) \
	X(TDX_HPA_RANGE_NOT_FREE,                    0xc0000304, OPERAND) \
	X(TDX_NO_PAMT_PAGE_PAIR,                     0xc0000305, OPERAND) \
	X(TDX_PAMT_PAGE_NOT_EMPTY,                   0xc0000306, PLAIN) \
	X(TDX_INTERRUPTED_PAMT,                      0x80000307, PLAIN) \
	X(TDX_MISSING_PAMT_PAGE_PAIR,                0x80000308, OPERAND) \
	X(TDX_X2APIC_ID_NOT_UNIQUE,                  0xc0000621, PLAIN) \
	X(TDX_IOMMU_IOTLB_TRACKING_NOT_DONE,         0xc0000f03, PLAIN)

#define TDX_STATUS_CONSTANT(name, code, details) static const uint64_t name = (uint64_t)code << 32;
TDX_STATUSES(TDX_STATUS_CONSTANT)

struct tdx_status {
	const char *name;
	uint32_t code;
	int details;
};

#define TDX_STATUS_ROW(name, code, details) { #name, code, STATUS_##details },
static const struct tdx_status tdx_statuses[] = { TDX_STATUSES(TDX_STATUS_ROW) };
enum { TDX_STATUS_COUNT = sizeof(tdx_statuses) / sizeof(tdx_statuses[0]) };

/* Not statuses of the module. The module stops the platform: it found a state it holds impossible. */
#define SEAM_MODULE_HALT                   0xffffffffffffff01ULL
/* The guest runs; VP.ENTER has not come back. */
#define SEAM_ENTERED_TD                    0xffffffffffffff02ULL

/* Which operand or lock, in bits 31:0. */
#define TDX_OPERANDS(X) \
	X(RAX, 0) X(RCX, 1) X(RDX, 2) X(RBX, 3) X(RBP, 5) X(RSI, 6) X(RDI, 7) X(R8, 8) X(R9, 9) \
	X(R10, 10) X(R11, 11) X(R12, 12) X(R13, 13) X(R14, 14) X(R15, 15) X(ATTRIBUTES, 64) X(XFAM, 65) \
	X(EXEC_CONTROLS, 66) X(EPTP_CONTROLS, 67) X(MAX_VCPUS, 68) X(CPUID_CONFIG, 69) \
	X(TSC_FREQUENCY, 70) X(NUM_L2_VMS, 71) X(IA32_ARCH_CAPABILITIES_CONFIG, 72) X(PAGE, 95) \
	X(TDMR_INFO_PA, 96) X(GPA_LIST_ENTRY, 97) X(MIG_BUFF_LIST_ENTRY, 98) X(NEW_PAGE_LIST_ENTRY, 99) \
	X(TDR, 128) X(TDCX, 129) X(TDVPR, 130) X(REG_PAGE, 132) X(TDCS, 144) X(TDVPS, 145) \
	X(SEPT_TREE, 146) X(SEPT_ENTRY, 147) X(RTMR, 168) X(TD_EPOCH, 169) X(L2_VAPIC_GPA, 170) \
	X(MIGSC, 171) X(OP_STATE, 172) X(MIG, 173) X(SERVTD_BINDINGS, 174) X(METADATA_FIELD, 176) \
	X(SYS, 184) X(TDMR, 185) X(KOT, 186) X(KET, 187) X(WBCACHE, 188)

struct tdx_operand {
	const char *name;
	uint32_t id;
};

#define TDX_OPERAND_ROW(name, id) { #name, id },
static const struct tdx_operand tdx_operands[] = { TDX_OPERANDS(TDX_OPERAND_ROW) };
enum { TDX_OPERAND_COUNT = sizeof(tdx_operands) / sizeof(tdx_operands[0]) };

#define TDX_OPERAND_ID(name, id) OP_##name = id,
enum { TDX_OPERANDS(TDX_OPERAND_ID) OP_STATE = OP_OP_STATE };

#endif
