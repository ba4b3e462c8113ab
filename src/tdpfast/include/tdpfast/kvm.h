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
#define READ_ONCE(x) ((__typeof__(x))(uintptr_t)__tdpf_load(TDPF_LINE, &(x), sizeof(x)))
#define WRITE_ONCE(x, v) __tdpf_store(TDPF_LINE, &(x), TDPF_U(v), sizeof(x))
#define smp_load_acquire(p) READ_ONCE(*(p))
#define smp_store_release(p, v) WRITE_ONCE(*(p), v)
#define rcu_dereference(p) (p)
#define rcu_dereference_protected(p, c) (p)
#define rcu_dereference_raw(p) (p)
#define rcu_dereference_check(p, c) (p)
#define rcu_access_pointer(p) (p)
#define rcu_assign_pointer(p, v) WRITE_ONCE(p, v)
#define smp_mb() __sync_synchronize()
#define smp_rmb() __asm__ volatile("" ::: "memory")
#define smp_wmb() __asm__ volatile("" ::: "memory")
#define smp_mb__before_atomic() smp_mb()
#define smp_mb__after_atomic() smp_mb()
#define barrier() __asm__ volatile("" ::: "memory")
#define cpu_relax() __tdpf_relax(TDPF_LINE)
#define xchg(p, v) ((__typeof__(*(p)))(uintptr_t)__tdpf_xchg(TDPF_LINE, p, TDPF_U(v), sizeof(*(p))))
#define try_cmpxchg(p, old, v) ((bool)__tdpf_cmpxchg(TDPF_LINE, p, old, TDPF_U(v), sizeof(*(p))))
#define try_cmpxchg64(p, old, v) try_cmpxchg(p, old, v)
#define cmpxchg(p, o, v) ({ __typeof__(*(p)) old_ = (o); try_cmpxchg(p, &old_, v); old_; })
#define cmpxchg64(p, o, v) cmpxchg(p, o, v)

/* ---- RCU, scheduling ---- */
#define kvm_lockdep_assert_mmu_lock_held(kvm, shared) \
	((shared) ? lockdep_assert_held_read(&(kvm)->mmu_lock) : lockdep_assert_held_write(&(kvm)->mmu_lock))
#define rcu_read_lock() __tdpf_rcu(TDPF_LINE, 1)
#define rcu_read_unlock() __tdpf_rcu(TDPF_LINE, 0)
#define rcu_read_lock_held() ((bool)__tdpf_rcu_held())
/* NULL stands for the usual callback: the core judges and traces that one itself. */
#define call_rcu(head, func) \
	__tdpf_call_rcu(TDPF_LINE, head, (func) == tdp_mmu_free_sp_rcu_callback ? NULL : (func))
#define tdp_mmu_iter_cond_resched(kvm, iter, flush, shared) ((bool)__tdpf_resched(kvm, iter, flush, shared))

/* ---- assertions ---- */
#define TDPF_WARN(c, kvm, kind, what) \
	({ bool warn_ = !!(c); if (unlikely(warn_)) __tdpf_warn(TDPF_LINE, kvm, kind, __func__, what); warn_; })
#define TDPFAST_ID(id, c) ({ bool named_ = !!(c); if (unlikely(named_)) __tdpf_named(id); named_; })
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
#define pr_warn(...) ((void)0)
#define pr_warn_ratelimited(...) ((void)0)
#define pr_info(...) ((void)0)
#define pr_debug(...) ((void)0)
#define WARN_RATELIMIT(c, ...) TDPF_WARN(c, NULL, 0, #c)

#include <tdpfast/kernel.h>

/* ---- SPTEs ---- */
#define TDPF_PRESENT (1ull << 11)
#define SHADOW_NONPRESENT_VALUE (1ull << 63)
#define SPTE_MMU_PRESENT_MASK TDPF_PRESENT
#define SPTE_BASE_ADDR_MASK 0x000ffffffffff000ull
#define PT_PRESENT_MASK 1ull
#define PT_WRITABLE_MASK 2ull
#define PT_PAGE_SIZE_MASK (1ull << 7)
#define VMX_EPT_READABLE_MASK 1ull
#define VMX_EPT_WRITABLE_MASK 2ull
#define VMX_EPT_EXECUTABLE_MASK 4ull
#define VMX_EPT_RWX_MASK 7ull
#define INVALID_PAGE (~(hpa_t)0)
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
static inline bool is_executable_pte(u64 spte) { return spte & VMX_EPT_EXECUTABLE_MASK; }
static inline bool is_access_track_spte(u64 spte)
{
	return !shadow_accessed_mask && is_shadow_present_pte(spte) && !(spte & VMX_EPT_RWX_MASK);
}
/* SPTE_TDP_AD_*: how accessed and dirty are kept. */
static inline bool spte_ad_enabled(u64 spte) { return (spte >> __tdpf_mask(7) & 3) != 1; }
static inline bool spte_ad_need_write_protect(u64 spte) { return (spte >> __tdpf_mask(7) & 3) != 0; }
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
static inline u64 make_huge_page_split_spte(struct kvm *kvm, u64 huge_spte, union kvm_mmu_page_role role, int index)
{
	return make_small_spte(kvm, huge_spte, role, index);
}
static inline u64 make_huge_spte(struct kvm *kvm, u64 small_spte, int level)
{
	(void)kvm;
	return __tdpf_make_huge(small_spte, level);
}
static inline u64 mark_spte_for_access_track(u64 spte) { return __tdpf_make_access_track(spte); }

/* ---- tables and walks ---- */
#define KVM_PAGES_PER_HPAGE(level) (1ull << (9 * ((level) - 1)))
#define KVM_HPAGE_GFN_SHIFT(level) (9 * ((level) - 1))
static inline gfn_t gfn_round_for_level(gfn_t gfn, int level) { return gfn & ~(KVM_PAGES_PER_HPAGE(level) - 1); }
static inline struct kvm_mmu_page *sptep_to_sp(u64 *sptep) { return __tdpf_sptep_to_sp(sptep); }
static inline struct kvm_mmu_page *spte_to_child_sp(u64 spte) { return __tdpf_child_sp(spte); }
static inline tdp_ptep_t spte_to_child_pt(u64 spte, int level) { return __tdpf_child_pt(spte, level); }
static inline bool is_mirror_sp(const struct kvm_mmu_page *sp) { return sp->role.is_mirror; }
static inline bool is_tdp_mmu_page(const struct kvm_mmu_page *sp) { (void)sp; return true; }
static inline bool sp_has_gptes(const struct kvm_mmu_page *sp) { (void)sp; return false; }
static inline bool kvm_mmu_page_ad_need_write_protect(struct kvm *kvm, struct kvm_mmu_page *sp)
{
	(void)kvm;
	return __tdpf_mask(6) && sp->role.guest_mode;
}
static inline struct kvm_mmu_page *to_shadow_page(hpa_t hpa) { return __tdpf_child_sp(hpa); }
static inline struct kvm_mmu_page *root_to_sp(hpa_t root) { return __tdpf_child_sp(root); }
static inline gfn_t kvm_gfn_direct_bits(const struct kvm *kvm) { return kvm->arch.gfn_direct_bits; }
static inline bool kvm_is_addr_direct(struct kvm *kvm, gpa_t gpa)
{
	return !kvm_gfn_direct_bits(kvm) || (gpa >> PAGE_SHIFT & kvm_gfn_direct_bits(kvm));
}
static inline bool is_mirror_sptep(tdp_ptep_t sptep) { return is_mirror_sp(sptep_to_sp(sptep)); }
static inline int kvm_mmu_page_as_id(struct kvm_mmu_page *sp) { return sp->role.smm; }
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
#define tdp_mmu_for_each_pte(iter, kvm, root, start, end) for_each_tdp_pte(iter, kvm, root, start, end)

/* ---- roots: mmu_lock as the kernel's macro of the name asks ---- */
enum kvm_tdp_mmu_root_types { KVM_INVALID_ROOTS = 1, KVM_DIRECT_ROOTS = 2, KVM_MIRROR_ROOTS = 4, KVM_VALID_ROOTS = 6,
			      KVM_ALL_ROOTS = 7 };
#define TDPF_EACH_ROOT(root, types, how) \
	for ((root) = __tdpf_next_root(TDPF_LINE, NULL, types, how); (root); \
	     (root) = __tdpf_next_root(TDPF_LINE, root, types, how))
#define __for_each_tdp_mmu_root_yield_safe(kvm, root, as_id, types) TDPF_EACH_ROOT(root, types, 0)
#define for_each_valid_tdp_mmu_root_yield_safe(kvm, root, as_id) TDPF_EACH_ROOT(root, KVM_VALID_ROOTS, 0)
#define for_each_tdp_mmu_root_yield_safe(kvm, root) TDPF_EACH_ROOT(root, KVM_ALL_ROOTS, 0)
#define for_each_tdp_mmu_root(kvm, root, as_id) TDPF_EACH_ROOT(root, KVM_ALL_ROOTS, 1)
#define for_each_valid_tdp_mmu_root(kvm, root, as_id) TDPF_EACH_ROOT(root, KVM_VALID_ROOTS, 1)
#define for_each_tdp_mmu_root_rcu(kvm, root, as_id, types) TDPF_EACH_ROOT(root, types, 2)
#define kvm_tdp_mmu_get_root(root) ((bool)__tdpf_get_root(TDPF_LINE, root))
#define kvm_tdp_mmu_put_root(kvm, root) __tdpf_put_root(TDPF_LINE, root)
static inline struct kvm_mmu_page *tdp_mmu_get_root_for_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	(void)vcpu;
	return __tdpf_fault_root(fault);
}
static inline bool is_obsolete_sp(struct kvm *kvm, struct kvm_mmu_page *sp)
{
	(void)kvm;
	return sp->role.invalid;
}
#define mmu_invalidate_retry_gfn(kvm, seq, gfn) ((int)__tdpf_invalidate_retry(TDPF_LINE, seq, gfn))

/* ---- one SPTE ---- */
#define kvm_tdp_mmu_read_spte(sptep) READ_ONCE(*(sptep))
#define kvm_tdp_mmu_write_spte_atomic(sptep, v) xchg(sptep, v)
#define __kvm_tdp_mmu_write_spte(sptep, v) WRITE_ONCE(*(sptep), v)
#define kvm_tdp_mmu_write_spte(sptep, old, v, level) \
	({ u64 was_ = (old); \
	   if (__tdpf_need_atomic(was_, level)) was_ = xchg(sptep, v); else WRITE_ONCE(*(sptep), v); was_; })
#define tdp_mmu_clear_spte_bits_atomic(sptep, m) __tdpf_fetch(TDPF_LINE, sptep, 1, ~(u64)(m), 8)
#define tdp_mmu_clear_spte_bits(sptep, old, m, level) \
	({ u64 bits_ = (m), o_ = (old); \
	   if (__tdpf_need_atomic(o_, level)) o_ = tdp_mmu_clear_spte_bits_atomic(sptep, bits_); \
	   else WRITE_ONCE(*(sptep), o_ & ~bits_); \
	   o_; })
#define tdp_mmu_iter_set_spte(kvm, iter, v) \
	((void)((iter)->old_spte = tdp_mmu_set_spte(kvm, (iter)->as_id, (iter)->sptep, (iter)->old_spte, v, \
						    (iter)->gfn, (iter)->level)))
#define kvm_update_page_stats(kvm, level, count) __tdpf_page_stats(level, count)
#define tdp_account_mmu_page(kvm, sp) ((void)(sp), atomic64_inc(&(kvm)->arch.tdp_mmu_pages))
#define tdp_unaccount_mmu_page(kvm, sp) atomic64_dec(&(kvm)->arch.tdp_mmu_pages)
#define track_possible_nx_huge_page(kvm, sp, ...) __tdpf_track_nx(sp)
#define tdp_mmu_alloc_sp(vcpu) ((void)(vcpu), __tdpf_alloc_sp(0))
#define tdp_mmu_init_child_sp(sp, iter) __tdpf_init_child_sp(sp, iter)
#define tdp_mmu_alloc_sp_with_external(vcpu) ((void)(vcpu), __tdpf_alloc_sp(1))
#define tdp_mmu_free_unused_sp(sp) __tdpf_free_unused_sp(sp)
#define mark_page_dirty_in_slot(kvm, slot, gfn) ((void)(slot), __tdpf_dirty(gfn))
#define untrack_possible_nx_huge_page(kvm, sp, ...) __tdpf_untrack_nx(sp)
#define tdp_mmu_free_sp(sp) __tdpf_free_sp(sp)
#define trace_kvm_tdp_mmu_spte_changed(as_id, gfn, level, o, n) ((void)(as_id), __tdpf_trace_changed(gfn, level, o, n))
#define trace_kvm_mmu_prepare_zap_page(sp) __tdpf_trace_prepare_zap(sp)
#define trace_kvm_mmu_split_huge_page(...) ((void)0)
#define trace_kvm_mmu_get_page(...) ((void)0)
#define trace_kvm_mmu_set_spte(...) ((void)0)
#define kvm_flush_remote_tlbs(kvm) __tdpf_flush(0, 0)
#define kvm_flush_remote_tlbs_range(kvm, gfn, pages) __tdpf_flush(gfn, pages)
#define kvm_flush_remote_tlbs_gfn(kvm, gfn, level) __tdpf_flush(gfn, KVM_PAGES_PER_HPAGE(level))
#define tdpfast_running_kvm() __tdpf_kvm()

enum { RET_PF_CONTINUE, RET_PF_RETRY, RET_PF_EMULATE, RET_PF_WRITE_PROTECTED, RET_PF_INVALID, RET_PF_FIXED,
       RET_PF_SPURIOUS };

/* ---- hooks: kvm_x86_call(name)(...) is the base's, wrapped as the base wraps it; a hook of the file's own is declared by
 * TDPFAST_HOOK(name, function) ---- */
#define kvm_x86_call(name) tdpf_x86_##name
#define TDPFAST_HOOK(name, function) static __typeof__(function) *const tdpf_x86_##name __maybe_unused = function
#define tdpf_x86_set_external_spte(kvm, gfn, o, n, level) __tdpf_hook_set(TDPF_LINE, gfn, o, n, level)
#define tdpf_x86_link_external_spt(kvm, gfn, level, spt) __tdpf_hook_link(TDPF_LINE, gfn, level, spt)
#define tdpf_x86_remove_external_spte(kvm, gfn, level, spte) __tdpf_hook_remove(TDPF_LINE, gfn, level, spte)
#define tdpf_x86_free_external_spt(kvm, sp) __tdpf_hook_free(TDPF_LINE, (sp)->gfn, (sp)->role.level, sp)
#define tdpf_x86_split_external_spt(kvm, gfn, level, o, n, shared) \
	__tdpf_hook_split(TDPF_LINE, gfn, level, o, n, shared)

/* kvm_x86_ops.name: whether the base has the hook. */
struct tdpf_x86_ops { bool set_external_spte, link_external_spt, remove_external_spte, free_external_spt,
			   split_external_spt; };
static inline struct tdpf_x86_ops tdpf_x86_ops(void)
{
	return (struct tdpf_x86_ops){ __tdpf_has_hook(0), __tdpf_has_hook(1), __tdpf_has_hook(2), __tdpf_has_hook(3),
				      __tdpf_has_hook(4) };
}
#define kvm_x86_ops (tdpf_x86_ops())

/* ---- KVM's TDX side ---- */
static inline struct kvm_tdx *to_kvm_tdx(struct kvm *kvm) { return __tdpf_tdx(kvm); }
#define pfn_to_page(pfn) ((struct page *)(uintptr_t)((u64)(pfn) << PAGE_SHIFT))
#define page_to_pfn(page) (TDPF_U(page) >> PAGE_SHIFT)
#define page_to_phys(page) TDPF_U(page)
#define virt_to_page(p) ((struct page *)(p))
#define page_address(page) ((void *)(page))
#define virt_to_phys(p) TDPF_U(p)
#define __pa(p) TDPF_U(p)
#define __va(pa) ((void *)(uintptr_t)(pa))
#define gpa_to_gfn(gpa) ((gfn_t)((gpa) >> PAGE_SHIFT))
#define pfn_to_hpa(pfn) ((hpa_t)(pfn) << PAGE_SHIFT)
#define gfn_to_gpa(gfn) ((gpa_t)(gfn) << PAGE_SHIFT)
#define pg_level_to_tdx_sept_level(level) ((level) - 1)
#define is_td_finalized(t) ((void)(t), __tdpf_tdx_state() == TD_STATE_RUNNABLE)
#define tdpf_td_state(t) ((void)(t), (enum kvm_tdx_state)__tdpf_tdx_state())
static inline bool is_hkid_assigned(struct kvm_tdx *t) { (void)t; return __tdpf_tdx_hkid() >= 0; }
#define TDX_OPERAND_BUSY 0x8000020000000000ull
#define TDX_EPT_ENTRY_STATE_INCORRECT 0xc0000b0d00000000ull
#define TDX_OPERAND_ID_RCX 1
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
	tdpf_call(TDPF_LINE, TDPF_TDH_MEM_PAGE_ADD, gpa, tdpf_tdr(td), TDPF_U(page), TDPF_U(source), e1, e2)
#define tdh_mem_sept_add(td, gpa, level, page, e1, e2) \
	tdpf_call(TDPF_LINE, TDPF_TDH_MEM_SEPT_ADD, TDPF_RCX(gpa, level), tdpf_tdr(td), TDPF_U(page), 0, e1, e2)
#define tdh_mem_page_aug(td, gpa, level, page, e1, e2) \
	tdpf_call(TDPF_LINE, TDPF_TDH_MEM_PAGE_AUG, TDPF_RCX(gpa, level), tdpf_tdr(td), TDPF_U(page), 0, e1, e2)
#define tdh_mem_page_demote(td, gpa, level, page, e1, e2) \
	tdpf_call(TDPF_LINE, TDPF_TDH_MEM_PAGE_DEMOTE, TDPF_RCX(gpa, level), tdpf_tdr(td), TDPF_U(page), 0, e1, e2)
#define tdh_mem_page_promote(td, gpa, level, e1, e2) \
	tdpf_call(TDPF_LINE, TDPF_TDH_MEM_PAGE_PROMOTE, TDPF_RCX(gpa, level), tdpf_tdr(td), 0, 0, e1, e2)
#define tdh_mem_range_block(td, gpa, level, e1, e2) \
	tdpf_call(TDPF_LINE, TDPF_TDH_MEM_RANGE_BLOCK, TDPF_RCX(gpa, level), tdpf_tdr(td), 0, 0, e1, e2)
#define tdh_mem_range_unblock(td, gpa, level, e1, e2) \
	tdpf_call(TDPF_LINE, TDPF_TDH_MEM_RANGE_UNBLOCK, TDPF_RCX(gpa, level), tdpf_tdr(td), 0, 0, e1, e2)
#define tdh_mem_page_remove(td, gpa, level, e1, e2) \
	tdpf_call(TDPF_LINE, TDPF_TDH_MEM_PAGE_REMOVE, TDPF_RCX(gpa, level), tdpf_tdr(td), 0, 0, e1, e2)
#define tdh_mem_sept_remove(td, gpa, level, e1, e2) \
	tdpf_call(TDPF_LINE, TDPF_TDH_MEM_SEPT_REMOVE, TDPF_RCX(gpa, level), tdpf_tdr(td), 0, 0, e1, e2)
#define tdh_mem_sept_rd(td, gpa, level, e1, e2) \
	tdpf_call(TDPF_LINE, TDPF_TDH_MEM_SEPT_RD, TDPF_RCX(gpa, level), tdpf_tdr(td), 0, 0, e1, e2)
#define tdh_phymem_page_reclaim(page, pt, owner, size) \
	({ u64 out_[2], err_ = __tdpf_seamcall(TDPF_LINE, TDPF_TDH_PHYMEM_PAGE_RECLAIM, TDPF_U(page), 0, 0, 0, out_); \
	   *(pt) = out_[0]; *(owner) = out_[1]; *(size) = 0; err_; })
#define tdh_mem_track(td) tdpf_call(TDPF_LINE, TDPF_TDH_MEM_TRACK, tdpf_tdr(td), 0, 0, 0, NULL, NULL)
#define tdh_phymem_page_wbinvd_hkid(hkid, page) \
	__tdpf_seamcall(TDPF_LINE, -TDPF_TDH_PHYMEM_PAGE_WBINVD, TDPF_U(page), (u64)(hkid), 0, 0, NULL)
/* On BUSY once more, with every vCPU out of the guest and kept out. mmu_lock for write. */
#define tdh_do_no_vcpus(tdh_func, kvm, ...) ({ \
	u64 err_; \
	lockdep_assert_held_write(&(kvm)->mmu_lock); \
	err_ = tdh_func(__VA_ARGS__); \
	if (unlikely(tdx_operand_busy(err_))) { \
		__tdpf_keep_out(TDPF_LINE, 1); \
		err_ = tdh_func(__VA_ARGS__); \
		__tdpf_keep_out(TDPF_LINE, 0); \
	} \
	err_; })
#define TDX_BUG_ON(err, fn, kvm) ({ u64 e_ = (err); \
	if (unlikely(e_)) __tdpf_tdx_bug(TDPF_LINE, __func__, #fn, TDPF_##fn, e_); !!e_; })
#define TDX_BUG_ON_2(err, fn, a, b, kvm) TDX_BUG_ON(err, fn, kvm)
#define TDX_BUG_ON_3(err, fn, a, b, c, kvm) TDX_BUG_ON(err, fn, kvm)
#define TDX_BUG_ON_1(err, fn, a, kvm) TDX_BUG_ON(err, fn, kvm)
/* wait_for_sept_zap and a kick, and its end: what tdh_do_no_vcpus() does around its second try. mmu_lock for write. */
#define tdx_no_vcpus_enter_start(kvm) (lockdep_assert_held_write(&(kvm)->mmu_lock), __tdpf_keep_out(TDPF_LINE, 1))
#define tdx_no_vcpus_enter_stop(kvm) (lockdep_assert_held_write(&(kvm)->mmu_lock), __tdpf_keep_out(TDPF_LINE, 0))
#define tdx_mem_page_aug(kvm, gfn, level, pfn) __tdpf_page_aug(TDPF_LINE, gfn, level, pfn)
#define tdx_reclaim_page(page) __tdpf_reclaim_page(TDPF_LINE, TDPF_U(page))
#define __tdx_reclaim_page(page) __tdpf_reclaim_page(TDPF_LINE, TDPF_U(page))
#define tdx_quirk_reset_page(page) __tdpf_reset_page(TDPF_U(page))
#define tdx_reclaim_control_page(page) __tdpf_reclaim_page(TDPF_LINE, TDPF_U(page))
#define tdx_clear_page(page) __tdpf_reset_page(TDPF_U(page))
#define __free_page(page) __tdpf_free_page(TDPF_LINE, TDPF_U(page))
#define alloc_page(gfp) ((void)(gfp), (struct page *)(uintptr_t)__tdpf_alloc_page())
#define free_page(addr) __tdpf_free_page(TDPF_LINE, (u64)(addr))
#define get_zeroed_page(gfp) ((unsigned long)__tdpf_alloc_page())
enum { KVM_REQ_OUTSIDE_GUEST_MODE, KVM_REQ_VM_DEAD, KVM_REQ_TLB_FLUSH };
#define GFP_KERNEL 0
#define GFP_KERNEL_ACCOUNT 0
#define GFP_ATOMIC 0
#define kvm_vm_dead(kvm) __tdpf_request(TDPF_LINE, KVM_REQ_VM_DEAD)
#define kvm_make_all_cpus_request(kvm, req) \
	((void)(kvm), (req) == KVM_REQ_TLB_FLUSH ? __tdpf_flush(0, 0) : __tdpf_request(TDPF_LINE, req), true)

#endif
