/* SPDX-License-Identifier: GPL-2.0-only */
/* What a design file includes: the part of the kernel's language that tdp_mmu.c and vmx/tdx.c are written in, over
 * tdpfast's core. Written from what the names mean; no kernel source. */
#ifndef TDPFAST_KVM_H
#define TDPFAST_KVM_H

#include <tdpfast/types.h>
#include <tdpfast/api.h>

#define TDPF_DECLARE(result, name, params, args) extern result __tdpf_##name params;
TDPF_API(TDPF_DECLARE)
#undef TDPF_DECLARE

/* A file's own definition may be static, static inline or plain: it is internal either way. What is not defined is the
 * base's. */
#define TDPF_DECLARE(result, name, params, args) \
	static __attribute__((used)) result name params; \
	extern result base_##name params;
TDPF_FUNCTIONS(TDPF_DECLARE)
#undef TDPF_DECLARE

/* TDPFAST_DESIGN("mine", .base = "v7.3", .knobs = "max_level=2 promo_block=0") */
struct tdpfast_design { const char *name, *base, *knobs; };
#define TDPFAST_DESIGN(n, ...) \
	const struct tdpfast_design tdpfast_design __attribute__((used, visibility("default"))) = \
		{ .name = n, ##__VA_ARGS__ }

/* ---- memory: each access is a step ---- */
#define TDPF_U(x) ((u64)(uintptr_t)(x))
#define READ_ONCE(x) ((__typeof__(x))(uintptr_t)__tdpf_load(__LINE__, &(x), sizeof(x)))
#define WRITE_ONCE(x, v) __tdpf_store(__LINE__, &(x), TDPF_U(v), sizeof(x))
#define smp_load_acquire(p) READ_ONCE(*(p))
#define smp_store_release(p, v) WRITE_ONCE(*(p), v)
#define rcu_dereference(p) (p)
#define rcu_dereference_protected(p, c) (p)
#define rcu_dereference_raw(p) (p)
#define rcu_assign_pointer(p, v) WRITE_ONCE(p, v)
#define smp_mb() __sync_synchronize()
#define smp_rmb() __asm__ volatile("" ::: "memory")
#define smp_wmb() __asm__ volatile("" ::: "memory")
#define smp_mb__before_atomic() smp_mb()
#define smp_mb__after_atomic() smp_mb()
#define barrier() __asm__ volatile("" ::: "memory")
#define cpu_relax() __tdpf_relax(__LINE__)
#define xchg(p, v) ((__typeof__(*(p)))(uintptr_t)__tdpf_xchg(__LINE__, p, TDPF_U(v), sizeof(*(p))))
#define try_cmpxchg(p, old, v) ((bool)__tdpf_cmpxchg(__LINE__, p, old, TDPF_U(v), sizeof(*(p))))
#define try_cmpxchg64(p, old, v) try_cmpxchg(p, old, v)
#define cmpxchg(p, o, v) ({ __typeof__(*(p)) old_ = (o); try_cmpxchg(p, &old_, v); old_; })
#define cmpxchg64(p, o, v) cmpxchg(p, o, v)
#define TDPF_FETCH(p, op, v) __tdpf_fetch(__LINE__, p, op, (u64)(v), sizeof(*(p)))
#define atomic64_read(a) ((s64)READ_ONCE((a)->counter))
#define atomic64_set(a, v) WRITE_ONCE((a)->counter, v)
#define atomic64_add(v, a) ((void)TDPF_FETCH(&(a)->counter, 0, (s64)(v)))
#define atomic64_inc(a) atomic64_add(1, a)
#define atomic64_dec(a) atomic64_add(-1, a)
#define atomic64_inc_return(a) ((s64)TDPF_FETCH(&(a)->counter, 0, 1) + 1)
#define atomic64_dec_return(a) ((s64)TDPF_FETCH(&(a)->counter, 0, -1ll) - 1)
#define atomic64_fetch_add(v, a) ((s64)TDPF_FETCH(&(a)->counter, 0, (s64)(v)))
#define atomic64_fetch_and(v, a) ((s64)TDPF_FETCH(&(a)->counter, 1, v))
#define atomic64_fetch_or(v, a) ((s64)TDPF_FETCH(&(a)->counter, 2, v))
#define atomic64_dec_and_test(a) (!atomic64_dec_return(a))
#define atomic_read(a) ((int)READ_ONCE((a)->counter))
#define atomic_set(a, v) WRITE_ONCE((a)->counter, v)
#define atomic_inc(a) ((void)TDPF_FETCH(&(a)->counter, 0, 1))
#define atomic_dec(a) ((void)TDPF_FETCH(&(a)->counter, 0, -1ll))

/* ---- locks, RCU, scheduling ---- */
#define spin_lock(l) __tdpf_spin(__LINE__, l, 1)
#define spin_unlock(l) __tdpf_spin(__LINE__, l, 0)
#define spin_trylock(l) ((bool)__tdpf_spin_trylock(__LINE__, l))
#define spin_lock_init(l) WRITE_ONCE((l)->val, 0)
#define read_lock(l) __tdpf_rwlock(__LINE__, l, 0, 1)
#define read_unlock(l) __tdpf_rwlock(__LINE__, l, 0, 0)
#define write_lock(l) __tdpf_rwlock(__LINE__, l, 1, 1)
#define write_unlock(l) __tdpf_rwlock(__LINE__, l, 1, 0)
#define lockdep_assert_held(l) __tdpf_lockdep(__LINE__, l, 0, __func__)
#define lockdep_assert_held_read(l) __tdpf_lockdep(__LINE__, l, 1, __func__)
#define lockdep_assert_held_write(l) __tdpf_lockdep(__LINE__, l, 2, __func__)
#define kvm_lockdep_assert_mmu_lock_held(kvm, shared) \
	((shared) ? lockdep_assert_held_read(&(kvm)->mmu_lock) : lockdep_assert_held_write(&(kvm)->mmu_lock))
#define rcu_read_lock() __tdpf_rcu(__LINE__, 1)
#define rcu_read_unlock() __tdpf_rcu(__LINE__, 0)
#define rcu_read_lock_held() ((bool)__tdpf_rcu_held())
/* NULL stands for the usual callback: the core judges and traces that one itself. */
#define call_rcu(head, func) \
	__tdpf_call_rcu(__LINE__, head, (func) == tdp_mmu_free_sp_rcu_callback ? NULL : (func))
#define tdp_mmu_iter_cond_resched(kvm, iter, flush, shared) ((bool)__tdpf_resched(kvm, iter, flush, shared))

/* ---- assertions ---- */
#define TDPF_WARN(c, kvm, kind, what) \
	({ bool warn_ = !!(c); if (unlikely(warn_)) __tdpf_warn(__LINE__, kvm, kind, __func__, what); warn_; })
#define WARN_ON(c) TDPF_WARN(c, NULL, 0, #c)
#define WARN_ON_ONCE(c) TDPF_WARN(c, NULL, 0, #c)
#define WARN_ONCE(c, ...) TDPF_WARN(c, NULL, 0, #c)
#define WARN(c, ...) TDPF_WARN(c, NULL, 0, #c)
#define KVM_MMU_WARN_ON(c) TDPF_WARN(c, NULL, 0, #c)
#define KVM_BUG_ON(c, kvm) TDPF_WARN(c, kvm, 1, #c)
#define KVM_BUG(c, kvm, ...) TDPF_WARN(c, kvm, 1, #c)
#define BUG_ON(c) ((void)TDPF_WARN(c, NULL, 2, #c))
#define BUG() BUG_ON(1)
#define RCU_LOCKDEP_WARN(c, s) ((void)TDPF_WARN(c, NULL, 3, s))
#define pr_err(...) ((void)0)
#define pr_err_ratelimited(...) ((void)0)
#define pr_err_once(...) ((void)0)
#define BUILD_BUG_ON(c) _Static_assert(!(c), #c)
#define static_assert _Static_assert

/* ---- SPTEs ---- */
#define TDPF_PRESENT (1ull << 11)
#define SHADOW_NONPRESENT_VALUE (1ull << 63)
#define SPTE_MMU_PRESENT_MASK TDPF_PRESENT
#define SPTE_BASE_ADDR_MASK 0x000ffffffffff000ull
#define PT_PRESENT_MASK 1ull
#define PT_WRITABLE_MASK 2ull
#define PT_PAGE_SIZE_MASK (1ull << 7)
#define FROZEN_SPTE __tdpf_mask(0)
#define shadow_accessed_mask __tdpf_mask(1)
#define shadow_dirty_mask __tdpf_mask(2)
#define shadow_mmu_writable_mask __tdpf_mask(3)
#define shadow_host_writable_mask __tdpf_mask(4)
#define kvm_ad_enabled ((bool)__tdpf_mask(5))
static inline bool is_shadow_present_pte(u64 spte) { return spte & TDPF_PRESENT; }
static inline bool is_large_pte(u64 spte) { return spte & PT_PAGE_SIZE_MASK; }
static inline bool is_last_spte(u64 spte, int level) { return level == PG_LEVEL_4K || is_large_pte(spte); }
static inline bool is_frozen_spte(u64 spte) { return spte == FROZEN_SPTE; }
static inline bool is_writable_pte(u64 spte) { return spte & PT_WRITABLE_MASK; }
static inline kvm_pfn_t spte_to_pfn(u64 spte) { return (spte & SPTE_BASE_ADDR_MASK) >> PAGE_SHIFT; }
static inline bool is_accessed_spte(u64 spte) { return __tdpf_is_accessed(spte); }
static inline bool is_dirty_spte(u64 spte) { return spte & shadow_dirty_mask; }
static inline bool is_mmio_spte(struct kvm *kvm, u64 spte) { (void)kvm; return __tdpf_is_mmio(spte); }
static inline bool kvm_tdp_mmu_spte_need_atomic_update(u64 spte, int level) { return __tdpf_need_atomic(spte, level); }
static inline bool kvm_tdp_mmu_spte_need_atomic_write(u64 spte, int level) { return __tdpf_need_atomic(spte, level); }
static inline bool is_mmu_writable_spte(u64 spte) { return spte & shadow_mmu_writable_mask; }
static inline bool leaf_spte_change_needs_tlb_flush(u64 old_spte, u64 new_spte)
{
	return is_mmu_writable_spte(old_spte) && !is_mmu_writable_spte(new_spte);
}
#define check_spte_writable_invariants(spte) ((void)__tdpf_writable_invariants(spte))
static inline u64 make_nonleaf_spte(u64 *child_pt, bool ad_disabled)
{
	return __tdpf_make_nonleaf(__tdpf_sp_hpa(__tdpf_sptep_to_sp(child_pt)), ad_disabled);
}
static inline u64 make_small_spte(struct kvm *kvm, u64 huge_spte, union kvm_mmu_page_role role, int index)
{
	(void)kvm;
	return __tdpf_make_small(huge_spte, role.level, role.access, index);
}
static inline u64 mark_spte_for_access_track(u64 spte) { return __tdpf_make_access_track(spte); }

/* ---- tables and walks ---- */
#define KVM_PAGES_PER_HPAGE(level) (1ull << (9 * ((level) - 1)))
static inline gfn_t gfn_round_for_level(gfn_t gfn, int level) { return gfn & ~(KVM_PAGES_PER_HPAGE(level) - 1); }
static inline struct kvm_mmu_page *sptep_to_sp(u64 *sptep) { return __tdpf_sptep_to_sp(sptep); }
static inline struct kvm_mmu_page *spte_to_child_sp(u64 spte) { return __tdpf_child_sp(spte); }
static inline tdp_ptep_t spte_to_child_pt(u64 spte, int level) { return __tdpf_child_pt(spte, level); }
static inline bool is_mirror_sp(const struct kvm_mmu_page *sp) { return sp->role.is_mirror; }
static inline bool is_mirror_sptep(tdp_ptep_t sptep) { return is_mirror_sp(sptep_to_sp(sptep)); }
static inline int kvm_mmu_page_as_id(struct kvm_mmu_page *sp) { (void)sp; return 0; }
static inline gfn_t tdp_mmu_max_gfn_exclusive(void) { return __tdpf_max_gfn(); }
static inline void tdp_iter_start(struct tdp_iter *iter, struct kvm_mmu_page *root, int min_level, gfn_t gfn)
{
	__tdpf_iter_start(iter, root, min_level, gfn);
}
static inline void tdp_iter_next(struct tdp_iter *iter) { __tdpf_iter_next(iter); }
#define for_each_tdp_pte_min_level(iter, kvm, root, min_level, start, end) \
	for (tdp_iter_start(&iter, root, min_level, start); iter.valid && iter.gfn < (end); tdp_iter_next(&iter))
#define for_each_tdp_pte_min_level_all(iter, root, min_level) \
	for (tdp_iter_start(&iter, root, min_level, 0); iter.valid && iter.gfn < tdp_mmu_max_gfn_exclusive(); \
	     tdp_iter_next(&iter))
#define for_each_tdp_pte(iter, kvm, root, start, end) \
	for_each_tdp_pte_min_level(iter, kvm, root, PG_LEVEL_4K, start, end)
#define tdp_root_for_each_pte(iter, kvm, root, start, end) for_each_tdp_pte(iter, kvm, root, start, end)
#define tdp_root_for_each_leaf_pte(iter, kvm, root, start, end) \
	for_each_tdp_pte(iter, kvm, root, start, end) \
		if (!is_shadow_present_pte((iter).old_spte) || !is_last_spte((iter).old_spte, (iter).level)) \
			continue; \
		else
#define kvm_tdp_mmu_read_spte(sptep) READ_ONCE(*(sptep))
#define kvm_tdp_mmu_write_spte_atomic(sptep, v) xchg(sptep, v)
#define __kvm_tdp_mmu_write_spte(sptep, v) WRITE_ONCE(*(sptep), v)
#define kvm_tdp_mmu_write_spte(sptep, old, v, level) \
	({ u64 was_ = (old); \
	   if (__tdpf_need_atomic(was_, level)) was_ = xchg(sptep, v); else WRITE_ONCE(*(sptep), v); was_; })
#define tdp_mmu_clear_spte_bits_atomic(sptep, m) __tdpf_fetch(__LINE__, sptep, 1, ~(u64)(m), 8)
#define tdp_mmu_iter_set_spte(kvm, iter, v) \
	((void)((iter)->old_spte = tdp_mmu_set_spte(kvm, (iter)->as_id, (iter)->sptep, (iter)->old_spte, v, \
						    (iter)->gfn, (iter)->level)))
#define kvm_update_page_stats(kvm, level, count) __tdpf_page_stats(level, count)
#define tdp_account_mmu_page(kvm, sp) ((void)(sp), atomic64_inc(&(kvm)->arch.tdp_mmu_pages))
#define tdp_unaccount_mmu_page(kvm, sp) atomic64_dec(&(kvm)->arch.tdp_mmu_pages)
#define untrack_possible_nx_huge_page(kvm, sp, ...) __tdpf_untrack_nx(sp)
#define tdp_mmu_free_sp(sp) __tdpf_free_sp(sp)
#define trace_kvm_tdp_mmu_spte_changed(as_id, gfn, level, o, n) ((void)(as_id), __tdpf_trace_changed(gfn, level, o, n))
#define trace_kvm_mmu_prepare_zap_page(sp) __tdpf_trace_prepare_zap(sp)
#define trace_kvm_mmu_split_huge_page(...) ((void)0)
#define kvm_flush_remote_tlbs(kvm) __tdpf_flush(0, 0)
#define kvm_flush_remote_tlbs_range(kvm, gfn, pages) __tdpf_flush(gfn, pages)
#define kvm_flush_remote_tlbs_gfn(kvm, gfn, level) __tdpf_flush(gfn, KVM_PAGES_PER_HPAGE(level))
#define container_of(p, type, member) ((type *)((char *)(p) - __builtin_offsetof(type, member)))
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define tdpf_running_kvm() __tdpf_kvm()

enum { RET_PF_CONTINUE, RET_PF_RETRY, RET_PF_EMULATE, RET_PF_WRITE_PROTECTED, RET_PF_INVALID, RET_PF_FIXED,
       RET_PF_SPURIOUS };

/* ---- hooks: kvm_x86_call(name)(...) is the base's, wrapped as the base wraps it; a hook of the file's own is declared by
 * TDPFAST_HOOK(name, function) ---- */
#define kvm_x86_call(name) tdpf_x86_##name
#define TDPFAST_HOOK(name, function) static __typeof__(function) *const tdpf_x86_##name __maybe_unused = function
#define tdpf_x86_set_external_spte(kvm, gfn, o, n, level) __tdpf_hook_set(__LINE__, gfn, o, n, level)
#define tdpf_x86_link_external_spt(kvm, gfn, level, spt) __tdpf_hook_link(__LINE__, gfn, level, spt)
#define tdpf_x86_remove_external_spte(kvm, gfn, level, spte) __tdpf_hook_remove(__LINE__, gfn, level, spte)
#define tdpf_x86_free_external_spt(kvm, sp) __tdpf_hook_free(__LINE__, (sp)->gfn, (sp)->role.level, sp)
#define tdpf_x86_split_external_spt(kvm, gfn, level, o, n, shared) \
	__tdpf_hook_split(__LINE__, gfn, level, o, n, shared)

/* ---- KVM's TDX side ---- */
static inline struct kvm_tdx *to_kvm_tdx(struct kvm *kvm) { return __tdpf_tdx(kvm); }
#define pfn_to_page(pfn) ((struct page *)(uintptr_t)((u64)(pfn) << PAGE_SHIFT))
#define page_to_pfn(page) (TDPF_U(page) >> PAGE_SHIFT)
#define page_to_phys(page) TDPF_U(page)
#define virt_to_page(p) ((struct page *)(p))
#define gfn_to_gpa(gfn) ((gpa_t)(gfn) << PAGE_SHIFT)
#define pg_level_to_tdx_sept_level(level) ((level) - 1)
#define is_td_finalized(t) ((void)(t), __tdpf_tdx_state() == TD_STATE_RUNNABLE)
#define tdpf_td_state(t) ((void)(t), (enum kvm_tdx_state)__tdpf_tdx_state())
static inline bool is_hkid_assigned(struct kvm_tdx *t) { (void)t; return __tdpf_tdx_hkid() >= 0; }
#define TDX_OPERAND_BUSY 0x8000020000000000ull
#define TDX_STATUS(err) ((err) & 0xffffffff00000000ull)
static inline bool tdx_operand_busy(u64 err) { return TDX_STATUS(err) == TDX_OPERAND_BUSY; }
static inline u64 tdpf_tdr(struct tdx_td *td) { return td->tdr; }
static inline u64 tdpf_call(unsigned int line, int leaf, u64 rcx, u64 rdx, u64 r8, u64 r9, u64 *e1, u64 *e2)
{
	u64 out[2];
	u64 err = __tdpf_seamcall(line, leaf, rcx, rdx, r8, r9, out);

	if (e1)
		*e1 = out[0];
	if (e2)
		*e2 = out[1];
	return err;
}
#define TDPF_RCX(gpa, level) ((u64)(gpa) | (u64)((level) - 1))
#define tdh_mem_page_add(td, gpa, page, source, e1, e2) \
	tdpf_call(__LINE__, TDPF_TDH_MEM_PAGE_ADD, gpa, tdpf_tdr(td), TDPF_U(page), TDPF_U(source), e1, e2)
#define tdh_mem_sept_add(td, gpa, level, page, e1, e2) \
	tdpf_call(__LINE__, TDPF_TDH_MEM_SEPT_ADD, TDPF_RCX(gpa, level), tdpf_tdr(td), TDPF_U(page), 0, e1, e2)
#define tdh_mem_page_aug(td, gpa, level, page, e1, e2) \
	tdpf_call(__LINE__, TDPF_TDH_MEM_PAGE_AUG, TDPF_RCX(gpa, level), tdpf_tdr(td), TDPF_U(page), 0, e1, e2)
#define tdh_mem_page_demote(td, gpa, level, page, e1, e2) \
	tdpf_call(__LINE__, TDPF_TDH_MEM_PAGE_DEMOTE, TDPF_RCX(gpa, level), tdpf_tdr(td), TDPF_U(page), 0, e1, e2)
#define tdh_mem_page_promote(td, gpa, level, e1, e2) \
	tdpf_call(__LINE__, TDPF_TDH_MEM_PAGE_PROMOTE, TDPF_RCX(gpa, level), tdpf_tdr(td), 0, 0, e1, e2)
#define tdh_mem_range_block(td, gpa, level, e1, e2) \
	tdpf_call(__LINE__, TDPF_TDH_MEM_RANGE_BLOCK, TDPF_RCX(gpa, level), tdpf_tdr(td), 0, 0, e1, e2)
#define tdh_mem_range_unblock(td, gpa, level, e1, e2) \
	tdpf_call(__LINE__, TDPF_TDH_MEM_RANGE_UNBLOCK, TDPF_RCX(gpa, level), tdpf_tdr(td), 0, 0, e1, e2)
#define tdh_mem_page_remove(td, gpa, level, e1, e2) \
	tdpf_call(__LINE__, TDPF_TDH_MEM_PAGE_REMOVE, TDPF_RCX(gpa, level), tdpf_tdr(td), 0, 0, e1, e2)
#define tdh_mem_sept_remove(td, gpa, level, e1, e2) \
	tdpf_call(__LINE__, TDPF_TDH_MEM_SEPT_REMOVE, TDPF_RCX(gpa, level), tdpf_tdr(td), 0, 0, e1, e2)
#define tdh_mem_track(td) tdpf_call(__LINE__, TDPF_TDH_MEM_TRACK, tdpf_tdr(td), 0, 0, 0, NULL, NULL)
#define tdh_phymem_page_wbinvd_hkid(hkid, page) __tdpf_seamcall(__LINE__, -TDPF_TDH_PHYMEM_PAGE_WBINVD, TDPF_U(page), \
								(u64)(hkid), 0, 0, NULL)
/* On BUSY once more, with every vCPU out of the guest and kept out. mmu_lock for write. */
#define tdh_do_no_vcpus(tdh_func, kvm, ...) ({ \
	u64 err_; \
	lockdep_assert_held_write(&(kvm)->mmu_lock); \
	err_ = tdh_func(__VA_ARGS__); \
	if (unlikely(tdx_operand_busy(err_))) { \
		__tdpf_keep_out(__LINE__, 1); \
		err_ = tdh_func(__VA_ARGS__); \
		__tdpf_keep_out(__LINE__, 0); \
	} \
	err_; })
#define TDX_BUG_ON(err, fn, kvm) ({ u64 e_ = (err); \
	if (unlikely(e_)) __tdpf_tdx_bug(__LINE__, __func__, #fn, TDPF_##fn, e_); !!e_; })
#define TDX_BUG_ON_2(err, fn, a, b, kvm) TDX_BUG_ON(err, fn, kvm)
#define TDX_BUG_ON_3(err, fn, a, b, c, kvm) TDX_BUG_ON(err, fn, kvm)
#define tdx_reclaim_page(page) __tdpf_reclaim_page(__LINE__, TDPF_U(page))
#define __tdx_reclaim_page(page) __tdpf_reclaim_page(__LINE__, TDPF_U(page))
#define tdx_quirk_reset_page(page) __tdpf_reset_page(TDPF_U(page))
#define free_page(addr) __tdpf_free_page(__LINE__, (u64)(addr))
#define get_zeroed_page(gfp) ((unsigned long)__tdpf_alloc_page())
enum { KVM_REQ_OUTSIDE_GUEST_MODE, KVM_REQ_VM_DEAD };
#define kvm_make_all_cpus_request(kvm, req) ((void)(kvm), __tdpf_request(__LINE__, req), true)

/* ---- what pasted code may look at and cannot change here ---- */
#define IS_ENABLED(option) 0
#define cond_resched() ((void)0)
#define GFP_KERNEL_ACCOUNT 0

void *memset(void *p, int c, size_t n);
void *memcpy(void *to, const void *from, size_t n);

#endif
