/* SPDX-License-Identifier: GPL-2.0-only */
/* The kernel's types as the core lays them out. layout.h, which tdpfast writes beside what it compiles, says where each
 * member is; a member named here is the core's own, at its place, under the kernel's name. */
#ifndef TDPFAST_TYPES_H
#define TDPFAST_TYPES_H

#include <tdpfast/layout.h>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char s8;
typedef short s16;
typedef int s32;
typedef long long s64;
typedef u8 __u8;
typedef u16 __u16;
typedef u32 __u32;
typedef u64 __u64;
typedef u64 gfn_t;
typedef u64 gpa_t;
typedef u64 hpa_t;
typedef u64 hfn_t;
typedef hfn_t kvm_pfn_t;
typedef u64 phys_addr_t;
typedef u64 *tdp_ptep_t;
typedef unsigned long size_t;
typedef unsigned long uintptr_t;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)
#define __rcu
#define __user
#define __init
#define __must_check __attribute__((warn_unused_result))
#define __always_inline inline __attribute__((always_inline))
#define noinline __attribute__((noinline))
#define __maybe_unused __attribute__((unused))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define EPERM 1
#define ENOENT 2
#define EIO 5
#define ENXIO 6
#define EAGAIN 11
#define ENOMEM 12
#define EFAULT 14
#define EBUSY 16
#define EINVAL 22
#define ENOSYS 38
#define EOPNOTSUPP 95

enum pg_level { PG_LEVEL_NONE, PG_LEVEL_4K, PG_LEVEL_2M, PG_LEVEL_1G, PG_LEVEL_512G, PG_LEVEL_256T, PG_LEVEL_NUM };
#define PT64_ROOT_MAX_LEVEL 5
#define KVM_MAX_HUGEPAGE_LEVEL PG_LEVEL_1G
#define SPTE_ENT_PER_PAGE 512
#define PAGE_SHIFT 12
#define PAGE_SIZE 4096UL

typedef struct { u64 val; } rwlock_t;
typedef struct { u64 val; } spinlock_t;
typedef spinlock_t raw_spinlock_t;
struct mutex { spinlock_t lock; };
struct list_head { struct list_head *next, *prev; };
typedef struct { s64 counter; } atomic64_t;
typedef atomic64_t atomic_long_t;
typedef struct { int counter; } atomic_t;
typedef struct { atomic_t refs; } refcount_t;
typedef unsigned int gfp_t;
struct page;
struct rcu_head { u64 words[TDPF_RCU_HEAD_SIZE / 8]; };

/* The line that asks: its number, and above TDPF_LINE_BITS how deep in files that the design file includes. */
#define TDPF_LINE_BITS 20
#define TDPF_LINE (__LINE__ | __INCLUDE_LEVEL__ << TDPF_LINE_BITS)
#define TDPF_GLUE_(a, b) a##b
#define TDPF_GLUE(a, b) TDPF_GLUE_(a, b)
#define TDPF_AT(offset, ...) struct { char TDPF_GLUE(pad_, __COUNTER__)[offset]; __VA_ARGS__; }

union kvm_mmu_page_role {
	TDPF_AT(TDPF_SP_LEVEL, int level);
	TDPF_AT(TDPF_SP_IS_MIRROR, u8 is_mirror);
	TDPF_AT(TDPF_SP_INVALID, u8 invalid);
	TDPF_AT(TDPF_SP_AD_DISABLED, u8 ad_disabled);
	TDPF_AT(TDPF_SP_ACCESS, u8 access);
	TDPF_AT(TDPF_SP_GUEST_MODE, u8 guest_mode);
	TDPF_AT(TDPF_SP_SMM, u8 smm);
};

struct kvm_mmu_page {
	union {
		TDPF_AT(TDPF_SP_SPT, u64 *spt);
		TDPF_AT(TDPF_SP_GFN, gfn_t gfn);
		TDPF_AT(TDPF_SP_PTEP, tdp_ptep_t ptep);
		TDPF_AT(TDPF_SP_EXTERNAL_SPT, void *external_spt);
		TDPF_AT(TDPF_SP_ROOT_COUNT, u64 tdp_mmu_root_count);
		TDPF_AT(TDPF_SP_RCU_HEAD, struct rcu_head rcu_head);
		TDPF_AT(TDPF_SP_NX, u8 nx_huge_page_disallowed);
		TDPF_AT(TDPF_SP_SCHEDULED, u8 tdp_mmu_scheduled_root_to_zap);
		TDPF_AT(TDPF_SP_PRIVATE, u64 tdpfast_private);
		union kvm_mmu_page_role role;
		char size_[TDPF_SP_SIZE];
	};
};

struct kvm_arch {
	union {
		TDPF_AT(TDPF_KVM_TDP_MMU_PAGES, atomic64_t tdp_mmu_pages);
		TDPF_AT(TDPF_KVM_PAGES_LOCK, spinlock_t tdp_mmu_pages_lock);
		TDPF_AT(TDPF_KVM_MMIO_VALUE, u64 shadow_mmio_value);
		TDPF_AT(TDPF_KVM_DIRECT_BITS, gfn_t gfn_direct_bits);
	};
};

struct kvm {
	union {
		TDPF_AT(TDPF_KVM_MMU_LOCK, rwlock_t mmu_lock);
		TDPF_AT(TDPF_KVM_BUGGED, int vm_bugged);
		TDPF_AT(TDPF_KVM_DEAD, int vm_dead);
		TDPF_AT(TDPF_KVM_INVALIDATE_SEQ, u64 mmu_invalidate_seq);
		TDPF_AT(TDPF_KVM_INVALIDATE_IN_PROGRESS, u64 mmu_invalidate_in_progress);
		TDPF_AT(TDPF_KVM_PRIVATE, u64 tdpfast_private[TDPF_PRIVATE_WORDS]);
		struct kvm_arch arch;
		char size_[TDPF_KVM_SIZE];
	};
};

struct tdp_iter {
	union {
		TDPF_AT(TDPF_ITER_NEXT, gfn_t next_last_level_gfn);
		TDPF_AT(TDPF_ITER_YIELDED_GFN, gfn_t yielded_gfn);
		TDPF_AT(TDPF_ITER_GFN, gfn_t gfn);
		TDPF_AT(TDPF_ITER_GFN_BITS, gfn_t gfn_bits);
		TDPF_AT(TDPF_ITER_OLD, u64 old_spte);
		TDPF_AT(TDPF_ITER_SPTEP, tdp_ptep_t sptep);
		TDPF_AT(TDPF_ITER_PATH, tdp_ptep_t pt_path[PT64_ROOT_MAX_LEVEL]);
		TDPF_AT(TDPF_ITER_ROOT_LEVEL, int root_level);
		TDPF_AT(TDPF_ITER_MIN_LEVEL, int min_level);
		TDPF_AT(TDPF_ITER_LEVEL, int level);
		TDPF_AT(TDPF_ITER_AS_ID, int as_id);
		TDPF_AT(TDPF_ITER_VALID, int valid);
		TDPF_AT(TDPF_ITER_YIELDED, int yielded);
		char size_[TDPF_ITER_SIZE];
	};
};

struct kvm_memory_slot;
struct kvm_page_fault {
	union {
		TDPF_AT(TDPF_FAULT_GFN, gfn_t gfn);
		TDPF_AT(TDPF_FAULT_PFN, kvm_pfn_t pfn);
		TDPF_AT(TDPF_FAULT_ERROR, u64 error_code);
		TDPF_AT(TDPF_FAULT_MAX_LEVEL, int max_level);
		TDPF_AT(TDPF_FAULT_REQ_LEVEL, int req_level);
		TDPF_AT(TDPF_FAULT_GOAL_LEVEL, int goal_level);
		TDPF_AT(TDPF_FAULT_WRITE, int write);
		TDPF_AT(TDPF_FAULT_EXEC, int exec);
		TDPF_AT(TDPF_FAULT_USER, int user);
		TDPF_AT(TDPF_FAULT_PRESENT, int present);
		TDPF_AT(TDPF_FAULT_PREFETCH, int prefetch);
		TDPF_AT(TDPF_FAULT_MAP_WRITABLE, int map_writable);
		TDPF_AT(TDPF_FAULT_PRIVATE, int is_private);
		TDPF_AT(TDPF_FAULT_NX, int huge_page_disallowed);
		TDPF_AT(TDPF_FAULT_SLOT, const struct kvm_memory_slot *slot);
		TDPF_AT(TDPF_FAULT_SEQ, unsigned long mmu_seq);
		TDPF_AT(TDPF_FAULT_NX_WORKAROUND, int nx_huge_page_workaround_enabled);
		char size_[TDPF_FAULT_SIZE];
	};
};

struct kvm_vcpu {
	union {
		TDPF_AT(TDPF_CPU_VM, struct kvm *kvm);
		TDPF_AT(TDPF_CPU_ID, int vcpu_id);
	};
};

struct tdx_td { u64 tdr; };
enum kvm_tdx_state { TD_STATE_UNINITIALIZED, TD_STATE_INITIALIZED, TD_STATE_RUNNABLE };
struct kvm_tdx {
	union {
		TDPF_AT(TDPF_TDX_TDR, struct tdx_td td);
		TDPF_AT(TDPF_TDX_HKID, int hkid);
		TDPF_AT(TDPF_TDX_STATE, u32 state);
		TDPF_AT(TDPF_TDX_WAIT, u32 wait_for_sept_zap);
		TDPF_AT(TDPF_TDX_PRE_FAULT, u32 pre_fault_allowed);
		TDPF_AT(TDPF_TDX_PREMAPPED, atomic64_t nr_premapped);
		TDPF_AT(TDPF_TDX_ADD_SRC, struct page *page_add_src);
	};
};

#endif
