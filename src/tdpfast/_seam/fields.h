/* SPDX-License-Identifier: GPL-2.0-only */
/* The metadata fields this module knows, with the identifiers of module 1.5: those KVM uses, and what a test wants
 * to see. `debug`: only of a debug TD. `wr`: bits the VMM may write, `dbg_wr` of a debug TD. */
#ifndef TDPFAST_SEAM_FIELDS_H
#define TDPFAST_SEAM_FIELDS_H

#include <stdint.h>

struct md_field {
	uint64_t id;
	uint32_t count;
	uint32_t debug;
	uint64_t wr, dbg_wr;
};

enum { TD_FATAL, TD_NUM_TDCX, TD_CHLDCNT, TD_LIFECYCLE, TD_TDCX_PA, TD_HKID, TD_NUM_VCPUS, TD_NUM_ASSOC_VCPUS,
       TD_OP_STATE, TD_NUM_L2_VMS, TD_ATTRIBUTES, TD_XFAM, TD_MAX_VCPUS, TD_GPAW, TD_EPTP, TD_TSC_OFFSET,
       TD_TSC_MULTIPLIER, TD_NOTIFY_ENABLES, TD_CONFIG_FLAGS, TD_TD_CTLS, TD_TD_EPOCH, TD_REFCOUNT, TD_MRTD,
       TD_FIELDS };

static const struct md_field td_fields[TD_FIELDS] = {
	[TD_FATAL] = { 0x8010000000000001ULL, 1, 0, 0, 0 },
	[TD_NUM_TDCX] = { 0x8010000200000002ULL, 1, 0, 0, 0 },
	[TD_CHLDCNT] = { 0x8010000300000004ULL, 1, 0, 0, 0 },
	[TD_LIFECYCLE] = { 0x8010000200000005ULL, 1, 0, 0, 0 },
	[TD_TDCX_PA] = { 0x8010000300000010ULL, 9, 0, 0, 0 },
	[TD_HKID] = { 0x8110000100000001ULL, 1, 0, 0, 0 },
	[TD_NUM_VCPUS] = { 0x9010000200000001ULL, 1, 0, 0, 0 },
	[TD_NUM_ASSOC_VCPUS] = { 0x9010000200000002ULL, 1, 0, 0, 0 },
	[TD_OP_STATE] = { 0x9010000200000004ULL, 1, 0, 0, 0 },
	[TD_NUM_L2_VMS] = { 0x9010000100000005ULL, 1, 0, 0, 0 },
	[TD_ATTRIBUTES] = { 0x1110000300000000ULL, 1, 0, 0, 0 },
	[TD_XFAM] = { 0x1110000300000001ULL, 1, 0, 0, 0 },
	[TD_MAX_VCPUS] = { 0x1110000200000002ULL, 1, 0, 0, 0 },
	[TD_GPAW] = { 0x1110000000000003ULL, 1, 0, 0, 0 },
	[TD_EPTP] = { 0x1110000300000004ULL, 1, 0, 0, 0 },
	[TD_TSC_OFFSET] = { 0x111000030000000aULL, 1, 0, 0, 0 },
	[TD_TSC_MULTIPLIER] = { 0x111000030000000bULL, 1, 0, 0, 0 },
	[TD_NOTIFY_ENABLES] = { 0x9110000300000010ULL, 1, 1, 0, 1 },
	[TD_CONFIG_FLAGS] = { 0x1110000300000016ULL, 1, 0, 0, 0 },
	[TD_TD_CTLS] = { 0x1110000300000017ULL, 1, 1, 0, 0 },
	[TD_TD_EPOCH] = { 0x9210000300000000ULL, 1, 0, 0, 0 },
	[TD_REFCOUNT] = { 0x9210000100000001ULL, 2, 0, 0, 0 },
	[TD_MRTD] = { 0x1310000300000000ULL, 6, 0, 0, 0 },
};

enum { VP_STATE_DETAILS, VP_STATE, VP_INDEX, VP_ASSOC_LPID, VP_EPOCH, VP_PEND_NMI, VP_FIELDS };

static const struct md_field vp_fields[VP_FIELDS] = {
	[VP_STATE_DETAILS] = { 0x9120000300000100ULL, 1, 0, 0, 0 },
	[VP_STATE] = { 0xa020000000000000ULL, 1, 1, 0, 0 },
	[VP_INDEX] = { 0xa020000200000002ULL, 1, 0, 0, 0 },
	[VP_ASSOC_LPID] = { 0xa020000200000004ULL, 1, 0, 0, 0 },
	[VP_EPOCH] = { 0xa020000300000006ULL, 1, 0, 0, 0 },
	[VP_PEND_NMI] = { 0x202000000000000bULL, 1, 0, 0xff, 0xff },
};

struct md_value {
	uint64_t id, value;
};

#define SYS_FIELDS 17
static const struct md_value sys_fields[SYS_FIELDS] = {
	{ 0x0800000100000003ULL, 5 },                   /* MINOR_VERSION */
	{ 0x0800000100000004ULL, 1 },                   /* MAJOR_VERSION */
	{ 0x0800000100000005ULL, 1 },                   /* UPDATE_VERSION */
	{ 0x0a00000300000008ULL, 0x10000f0fbfULL },     /* TDX_FEATURES0: 1.5.01's, and dynamic PAMT */
	{ 0x9100000100000008ULL, 8 },                   /* MAX_TDMRS: what this module takes */
	{ 0x9100000100000009ULL, 16 },                  /* MAX_RESERVED_PER_TDMR */
	{ 0x9100000100000010ULL, 16 },                  /* PAMT_4K_ENTRY_SIZE */
	{ 0x9100000100000011ULL, 16 },                  /* PAMT_2M_ENTRY_SIZE */
	{ 0x9100000100000012ULL, 16 },                  /* PAMT_1G_ENTRY_SIZE */
	{ 0x9800000100000000ULL, 0x1000 },              /* TDR_BASE_SIZE */
	{ 0x9800000100000100ULL, 0x6000 },              /* TDCS_BASE_SIZE */
	{ 0x9800000100000200ULL, 0x6000 },              /* TDVPS_BASE_SIZE */
	{ 0x1900000300000000ULL, 0x8000000070000001ULL },       /* ATTRIBUTES_FIXED0 */
	{ 0x1900000300000001ULL, 0 },                   /* ATTRIBUTES_FIXED1 */
	{ 0x1900000300000002ULL, 0x6dbe7 },             /* XFAM_FIXED0 */
	{ 0x1900000300000003ULL, 3 },                   /* XFAM_FIXED1 */
	{ 0x9900000100000004ULL, 0 },                   /* NUM_CPUID_CONFIG: no CPUID is configured here */
};

#endif
