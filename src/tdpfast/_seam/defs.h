/* SPDX-License-Identifier: GPL-2.0-only */
/* Constants of the TDX module 1.5: S-EPT entry bits and the table of entry states. */
#ifndef TDPFAST_SEAM_DEFS_H
#define TDPFAST_SEAM_DEFS_H

#include <stdint.h>
#include <sys/mman.h>

#include "status.h"

/* S-EPT entry */
#define SEPT_RWX         0x0000000000000007ULL
#define SEPT_MT_WB       0x0000000000000030ULL
#define SEPT_IPAT        0x0000000000000040ULL
#define SEPT_PS          0x0000000000000080ULL
#define SEPT_D           0x0000000000000200ULL
#define SEPT_TDEL        0x0000000000000800ULL
#define SEPT_HPA         0x000ffffffffff000ULL
#define SEPT_TDHP        0x0010000000000000ULL
#define SEPT_TDEX        0x0020000000000000ULL
#define SEPT_TDBW        0x0040000000000000ULL
#define SEPT_TDB         0x0080000000000000ULL
#define SEPT_TDP         0x0100000000000000ULL
#define SEPT_TDAL        0x1c00000000000000ULL
#define SEPT_TDAL_SHIFT  58
#define SEPT_SVE         0x8000000000000000ULL
#define SEPT_STATE       0x01e00000000002c0ULL
#define SEPT_COUNTER     0x00000000001ff000ULL
#define SEPT_LEAF_SHOWN  0x800ffffffffff0ffULL   /* what the VMM sees of a leaf */

#define SEPT_FREE        0x80e0000000000000ULL
#define SEPT_REMOVED     0x80c0100000000000ULL   /* migration epoch 0, valid */
#define SEPT_LEAF_BITS   (SEPT_SVE | SEPT_PS | SEPT_IPAT | SEPT_MT_WB)
#define SEPT_NL_BITS     (SEPT_SVE | SEPT_RWX)

/* S-EPT entry of an L2 VM. A blocked leaf keeps its permissions in SAVED. */
#define L2E_XU           0x0000000000000400ULL
#define L2E_RWXX         0x0000000000000407ULL   /* R, W, Xs, Xu */
#define L2E_SAVED_R      0x0000000000000008ULL
#define L2E_SAVED_XS     0x0000000000000010ULL
#define L2E_SAVED_XU     0x0000000000000020ULL
#define L2E_SAVED_W      0x0800000000000000ULL
#define L2E_MT           0x0000000000000038ULL
#define L2E_VGP          0x0200000000000000ULL
#define L2E_PWA          0x0400000000000000ULL
#define L2E_SSS          0x1000000000000000ULL
#define L2E_ATTR         (L2E_RWXX | L2E_VGP | L2E_PWA | L2E_SSS | SEPT_SVE)
#define L2_STATE         0x00800000000000c1ULL   /* TDB, PS, IPAT, R */
#define L2_LEAF_SHOWN    0x800ffffffffff0f8ULL   /* what the VMM sees of a leaf, and of a table */
#define L2_TABLE_SHOWN   0x0000000000000487ULL

/* What a state is (low half) and which leaves take it (high half). */
enum {
	ST_PENDING = 1 << 0, ST_BLOCKED = 1 << 1, ST_BLOCKEDW = 1 << 2, ST_TRACK = 1 << 3, ST_GUEST_LEAF = 1 << 4,
	ST_EXPORTED = 1 << 5, ST_VALID = 1 << 6, ST_FREE = 1 << 7, ST_ACCEPTABLE = 1 << 8,
	ST_SEPT_ADD = 1 << 16, ST_SEPT_REMOVE = 1 << 17, ST_PAGE_AUG = 1 << 18, ST_PAGE_REMOVE = 1 << 19,
	ST_DEMOTE = 1 << 20, ST_PROMOTE = 1 << 21, ST_RELOCATE = 1 << 22, ST_BLOCK = 1 << 23, ST_UNBLOCK = 1 << 24,
	ST_PAGE_ADD = 1 << 25, ST_ATTR_RD = 1 << 26, ST_ATTR_WR = 1 << 27, ST_MR_EXTEND = 1 << 28, ST_ANY = 1 << 29,
	ST_BLOCKW = 1 << 30
};

/* Seven state bits of an entry: D, TDEX, TDBW, TDB, TDP, IPAT, PS. */
static inline uint32_t sept_enc(uint64_t e)
{
	return (uint32_t)(((e >> 9) & 1) | ((e >> 52) & 0x1e) | ((e >> 1) & 0x60));
}

enum {
	ENC_FREE = 14, ENC_REMOVED = 12, ENC_NL_MAPPED = 0, ENC_NL_BLOCKED = 8, ENC_MAPPED = 96, ENC_BLOCKED = 104,
	ENC_BLOCKEDW = 100, ENC_EXPORTED_BLOCKEDW = 102, ENC_EXPORTED_DIRTY = 99, ENC_EXPORTED_DIRTY_BLOCKEDW = 103,
	ENC_PENDING = 112, ENC_PENDING_BLOCKED = 120, ENC_PENDING_BLOCKEDW = 116, ENC_PENDING_EXPORTED_BLOCKEDW = 118,
	ENC_PENDING_EXPORTED_DIRTY = 115, ENC_PENDING_EXPORTED_DIRTY_BLOCKEDW = 119
};

struct sept_state {
	uint32_t flags;
	uint8_t pub;            /* the number the VMM sees in RDX bits 15:8 */
};

#define ST_LEAF_ALL (ST_VALID | ST_ANY | ST_RELOCATE)
static const struct sept_state sept_states[128] = {
	[ENC_FREE] = { ST_VALID | ST_ANY | ST_FREE | ST_SEPT_ADD | ST_PAGE_ADD | ST_PAGE_AUG, 0 },
	[ENC_REMOVED] = { ST_VALID | ST_ANY | ST_PAGE_AUG, 5 },
	[ENC_NL_MAPPED] = { ST_VALID | ST_ANY | ST_TRACK | ST_SEPT_ADD | ST_SEPT_REMOVE | ST_PROMOTE | ST_BLOCK, 132 },
	[ENC_NL_BLOCKED] = { ST_VALID | ST_ANY | ST_TRACK | ST_BLOCKED | ST_SEPT_REMOVE | ST_PROMOTE | ST_UNBLOCK, 129 },
	[ENC_MAPPED] = { ST_LEAF_ALL | ST_TRACK | ST_GUEST_LEAF | ST_PAGE_REMOVE | ST_DEMOTE | ST_BLOCK | ST_ATTR_RD |
			 ST_ATTR_WR | ST_MR_EXTEND | ST_BLOCKW, 4 },
	[ENC_BLOCKED] = { ST_LEAF_ALL | ST_TRACK | ST_BLOCKED | ST_PAGE_REMOVE | ST_DEMOTE | ST_UNBLOCK, 1 },
	[ENC_BLOCKEDW] = { ST_LEAF_ALL | ST_TRACK | ST_BLOCKEDW | ST_GUEST_LEAF | ST_PAGE_REMOVE | ST_BLOCK |
			   ST_ATTR_RD, 8 },
	[ENC_EXPORTED_BLOCKEDW] = { ST_LEAF_ALL | ST_BLOCKEDW | ST_GUEST_LEAF | ST_EXPORTED | ST_ATTR_RD, 9 },
	[ENC_EXPORTED_DIRTY] = { ST_LEAF_ALL | ST_TRACK | ST_GUEST_LEAF | ST_EXPORTED | ST_ATTR_RD | ST_ATTR_WR |
				 ST_BLOCKW, 11 },
	[ENC_EXPORTED_DIRTY_BLOCKEDW] = { ST_LEAF_ALL | ST_TRACK | ST_BLOCKEDW | ST_GUEST_LEAF | ST_EXPORTED |
					  ST_ATTR_RD, 12 },
	[ENC_PENDING] = { ST_LEAF_ALL | ST_TRACK | ST_PENDING | ST_ACCEPTABLE | ST_PAGE_REMOVE | ST_DEMOTE | ST_BLOCK |
			  ST_ATTR_RD | ST_ATTR_WR | ST_BLOCKW, 2 },
	[ENC_PENDING_BLOCKED] = { ST_LEAF_ALL | ST_TRACK | ST_PENDING | ST_BLOCKED | ST_PAGE_REMOVE | ST_DEMOTE |
				  ST_UNBLOCK, 3 },
	[ENC_PENDING_BLOCKEDW] = { ST_LEAF_ALL | ST_TRACK | ST_PENDING | ST_BLOCKEDW | ST_PAGE_REMOVE | ST_BLOCK |
				   ST_ATTR_RD, 16 },
	[ENC_PENDING_EXPORTED_BLOCKEDW] = { ST_LEAF_ALL | ST_PENDING | ST_BLOCKEDW | ST_EXPORTED | ST_ATTR_RD, 17 },
	[ENC_PENDING_EXPORTED_DIRTY] = { ST_LEAF_ALL | ST_TRACK | ST_PENDING | ST_ACCEPTABLE | ST_EXPORTED | ST_ATTR_RD |
					 ST_ATTR_WR | ST_BLOCKW, 19 },
	[ENC_PENDING_EXPORTED_DIRTY_BLOCKEDW] = { ST_LEAF_ALL | ST_TRACK | ST_PENDING | ST_BLOCKEDW | ST_EXPORTED |
						  ST_ATTR_RD, 20 },
};

static inline uint32_t sept_flags(uint64_t e) { return sept_states[sept_enc(e)].flags; }
static inline uint64_t sept_public(uint64_t e) { return sept_states[sept_enc(e)].pub; }

/* Lazily committed zero pages; NULL when the address space is full. */
static inline void *seam_map(uint64_t bytes)
{
	void *p = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return p == MAP_FAILED ? 0 : p;
}
static inline void seam_unmap(void *p, uint64_t bytes) { if (p) munmap(p, bytes); }
static inline void seam_zero(void *p, uint64_t bytes) { if (p) madvise(p, bytes, MADV_DONTNEED); }

#endif
