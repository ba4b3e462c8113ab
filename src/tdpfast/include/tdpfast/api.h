/* SPDX-License-Identifier: GPL-2.0-only */
/* What the core does for a design file, one function a line: X(result, name, parameters, arguments). The first argument
 * is the line of the file that asks, where the request is a step of its own. Written once: kvm.h declares __tdpf_name(),
 * runtime.c defines it as a call through a pointer that tdpfast fills in when it loads the file. */
#ifndef TDPFAST_API_H
#define TDPFAST_API_H

#define TDPF_API(X) \
	/* memory */ \
	X(u64, load, (unsigned int line, const volatile void *p, unsigned int size), (line, p, size)) \
	X(void, store, (unsigned int line, volatile void *p, u64 v, unsigned int size), (line, p, v, size)) \
	X(u64, xchg, (unsigned int line, volatile void *p, u64 v, unsigned int size), (line, p, v, size)) \
	X(int, cmpxchg, (unsigned int line, volatile void *p, void *old, u64 v, unsigned int size), \
	  (line, p, old, v, size)) \
	X(u64, fetch, (unsigned int line, volatile void *p, unsigned int op, u64 v, unsigned int size), \
	  (line, p, op, v, size)) \
	X(void, plain, (const volatile void *p, unsigned long size, unsigned int write, const void *pc), \
	  (p, size, write, pc)) \
	X(void, relax, (unsigned int line), (line)) \
	/* locks, RCU, scheduling */ \
	X(void, spin, (unsigned int line, void *lock, int on), (line, lock, on)) \
	X(int, spin_trylock, (unsigned int line, void *lock), (line, lock)) \
	X(void, rwlock, (unsigned int line, void *lock, int write, int on), (line, lock, write, on)) \
	X(void, rcu, (unsigned int line, int on), (line, on)) \
	X(int, rcu_held, (void), ()) \
	X(void, might_sleep, (unsigned int line, const char *func), (line, func)) \
	X(int, resched_lock, (unsigned int line, void *lock, int write), (line, lock, write)) \
	X(int, need_resched, (void), ()) \
	X(int, is_held, (const void *lock, int mode), (lock, mode)) \
	X(void, call_rcu, (unsigned int line, struct rcu_head *head, void (*func)(struct rcu_head *)), (line, head, func)) \
	X(int, resched, (struct kvm *kvm, struct tdp_iter *iter, int flush, int shared), (kvm, iter, flush, shared)) \
	X(void, retry, (unsigned int line, struct tdp_iter *iter, int error), (line, iter, error)) \
	/* assertions and traces */ \
	X(void, warn, (unsigned int line, struct kvm *kvm, int kind, const char *func, const char *what), \
	  (line, kvm, kind, func, what)) \
	X(void, named, (const char *id), (id)) \
	X(void, lockdep, (unsigned int line, const void *lock, int mode, const char *func), (line, lock, mode, func)) \
	X(void, trace_changed, (gfn_t gfn, int level, u64 old_spte, u64 new_spte), (gfn, level, old_spte, new_spte)) \
	X(void, trace_prepare_zap, (struct kvm_mmu_page *sp), (sp)) \
	/* the VM and its tables */ \
	X(struct kvm *, kvm, (void), ()) \
	X(struct kvm_vcpu *, vcpu, (void), ()) \
	X(u64, mask, (int which), (which)) \
	X(int, is_mmio, (u64 spte), (spte)) \
	X(int, need_atomic, (u64 spte, int level), (spte, level)) \
	X(int, is_accessed, (u64 spte), (spte)) \
	X(u64, make_nonleaf, (u64 hpa, int ad_disabled), (hpa, ad_disabled)) \
	X(u64, make_small, (u64 huge_spte, int level, unsigned int access, int index), (huge_spte, level, access, index)) \
	X(u64, make_access_track, (u64 spte), (spte)) \
	X(int, writable_invariants, (u64 spte), (spte)) \
	X(int, make_fault_spte, (struct kvm_page_fault *fault, struct kvm_mmu_page *sp, struct tdp_iter *iter, u64 *spte), \
	  (fault, sp, iter, spte)) \
	X(int, fault_allowed, (struct kvm_page_fault *fault, u64 spte), (fault, spte)) \
	X(struct kvm_mmu_page *, sptep_to_sp, (const volatile void *sptep), (sptep)) \
	X(struct kvm_mmu_page *, child_sp, (u64 spte), (spte)) \
	X(u64 *, child_pt, (u64 spte, int level), (spte, level)) \
	X(u64, sp_hpa, (struct kvm_mmu_page *sp), (sp)) \
	X(void, iter_start, (struct tdp_iter *iter, struct kvm_mmu_page *root, int min_level, gfn_t gfn), \
	  (iter, root, min_level, gfn)) \
	X(void, iter_next, (struct tdp_iter *iter), (iter)) \
	X(u64, max_gfn, (void), ()) \
	X(void, page_stats, (int level, long count), (level, count)) \
	X(void, set_linked, (struct kvm_mmu_page *sp), (sp)) \
	X(void, untrack_nx, (struct kvm_mmu_page *sp), (sp)) \
	X(void, track_nx, (struct kvm_mmu_page *sp), (sp)) \
	X(struct kvm_mmu_page *, alloc_sp, (int external), (external)) \
	X(void, init_child_sp, (struct kvm_mmu_page *sp, const struct tdp_iter *iter), (sp, iter)) \
	X(void, free_unused_sp, (struct kvm_mmu_page *sp), (sp)) \
	X(u64, make_huge, (u64 small_spte, int level), (small_spte, level)) \
	X(void, dirty, (gfn_t gfn), (gfn)) \
	X(int, invalidate_retry, (unsigned int line, u64 seq, gfn_t gfn), (line, seq, gfn)) \
	X(struct kvm_mmu_page *, next_root, (unsigned int line, struct kvm_mmu_page *prev, int types, int how), \
	  (line, prev, types, how)) \
	X(int, get_root, (unsigned int line, struct kvm_mmu_page *root), (line, root)) \
	X(void, put_root, (unsigned int line, struct kvm_mmu_page *root), (line, root)) \
	X(struct kvm_mmu_page *, fault_root, (struct kvm_page_fault *fault), (fault)) \
	X(void, free_sp, (struct kvm_mmu_page *sp), (sp)) \
	X(void, rcu_begun, (struct rcu_head *head), (head)) \
	X(void, flush, (gfn_t gfn, u64 pages), (gfn, pages)) \
	X(void, traced_split, (struct tdp_iter *iter, int level, u64 huge_spte, int ret), (iter, level, huge_spte, ret)) \
	/* the hooks of the base */ \
	X(int, has_hook, (int which), (which)) \
	X(int, hook_set, (unsigned int line, gfn_t gfn, u64 old_spte, u64 new_spte, int level), \
	  (line, gfn, old_spte, new_spte, level)) \
	X(int, hook_link, (unsigned int line, gfn_t gfn, int level, void *external_spt), (line, gfn, level, external_spt)) \
	X(void, hook_remove, (unsigned int line, gfn_t gfn, int level, u64 mirror_spte), (line, gfn, level, mirror_spte)) \
	X(int, hook_free, (unsigned int line, gfn_t gfn, int level, struct kvm_mmu_page *sp), (line, gfn, level, sp)) \
	X(int, hook_split, (unsigned int line, gfn_t gfn, int level, u64 old_spte, u64 new_spte, int shared), \
	  (line, gfn, level, old_spte, new_spte, shared)) \
	X(int, note_failure, (int ret), (ret)) \
	/* KVM's TDX side */ \
	X(struct kvm_tdx *, tdx, (struct kvm *kvm), (kvm)) \
	X(int, tdx_state, (void), ()) \
	X(int, tdx_hkid, (void), ()) \
	X(u64, page_add_src, (void), ()) \
	X(int, slots_locked, (void), ()) \
	X(u64, seamcall, (unsigned int line, int leaf, u64 rcx, u64 rdx, u64 r8, u64 r9, u64 *out), \
	  (line, leaf, rcx, rdx, r8, r9, out)) \
	X(u64, no_vcpus, (unsigned int line, int leaf, u64 rcx, u64 rdx, u64 r8), (line, leaf, rcx, rdx, r8)) \
	X(void, keep_out, (unsigned int line, int on), (line, on)) \
	X(void, request, (unsigned int line, int which), (line, which)) \
	X(int, page_aug, (unsigned int line, gfn_t gfn, int level, kvm_pfn_t pfn), (line, gfn, level, pfn)) \
	X(void, tdx_bug, (unsigned int line, const char *func, const char *what, int leaf, u64 err), \
	  (line, func, what, leaf, err)) \
	X(int, reclaim_page, (unsigned int line, u64 page), (line, page)) \
	X(void, free_page, (unsigned int line, u64 page), (line, page)) \
	X(u64, alloc_page, (void), ()) \
	X(void, reset_page, (u64 page), (page))

/* The functions a file may define, under the kernel's names: X(result, name, parameters, arguments). base_name() is the
 * built-in one, whatever the file defines. */
#define TDPF_FUNCTIONS(X) \
	X(int, __tdp_mmu_set_spte_atomic, (struct kvm *kvm, struct tdp_iter *iter, u64 new_spte), (kvm, iter, new_spte)) \
	X(int, tdp_mmu_set_spte_atomic, (struct kvm *kvm, struct tdp_iter *iter, u64 new_spte), (kvm, iter, new_spte)) \
	X(int, __handle_changed_spte, (struct kvm *kvm, struct kvm_mmu_page *sp, gfn_t gfn, u64 old_spte, u64 new_spte, \
				       int level, bool shared), (kvm, sp, gfn, old_spte, new_spte, level, shared)) \
	X(void, handle_changed_spte, (struct kvm *kvm, struct kvm_mmu_page *sp, gfn_t gfn, u64 old_spte, u64 new_spte, \
				      int level, bool shared), (kvm, sp, gfn, old_spte, new_spte, level, shared)) \
	X(void, handle_removed_pt, (struct kvm *kvm, tdp_ptep_t pt, bool shared), (kvm, pt, shared)) \
	X(u64, tdp_mmu_set_spte, (struct kvm *kvm, int as_id, tdp_ptep_t sptep, u64 old_spte, u64 new_spte, gfn_t gfn, \
				  int level), (kvm, as_id, sptep, old_spte, new_spte, gfn, level)) \
	X(int, tdp_mmu_link_sp, (struct kvm *kvm, struct tdp_iter *iter, struct kvm_mmu_page *sp, bool shared), \
	  (kvm, iter, sp, shared)) \
	X(void, tdp_mmu_unlink_sp, (struct kvm *kvm, struct kvm_mmu_page *sp), (kvm, sp)) \
	X(int, tdp_mmu_split_huge_page, (struct kvm *kvm, struct tdp_iter *iter, struct kvm_mmu_page *sp, bool shared), \
	  (kvm, iter, sp, shared)) \
	X(int, tdp_mmu_map_handle_target_level, (struct kvm_vcpu *vcpu, struct kvm_page_fault *fault, \
						 struct tdp_iter *iter), (vcpu, fault, iter)) \
	X(bool, is_page_fault_stale, (struct kvm_vcpu *vcpu, struct kvm_page_fault *fault), (vcpu, fault)) \
	X(void, clear_dirty_gfn_range, (struct kvm *kvm, struct kvm_mmu_page *root, gfn_t start, gfn_t end), \
	  (kvm, root, start, end)) \
	X(bool, wrprot_gfn_range, (struct kvm *kvm, struct kvm_mmu_page *root, gfn_t start, gfn_t end, int min_level), \
	  (kvm, root, start, end, min_level)) \
	X(bool, age_gfn_range, (struct kvm *kvm, struct kvm_mmu_page *root, gfn_t start, gfn_t end, bool test_only), \
	  (kvm, root, start, end, test_only)) \
	X(void, __tdp_mmu_zap_root, (struct kvm *kvm, struct kvm_mmu_page *root, bool shared, int zap_level), \
	  (kvm, root, shared, zap_level)) \
	X(bool, tdp_mmu_zap_leafs, (struct kvm *kvm, struct kvm_mmu_page *root, gfn_t start, gfn_t end, bool can_yield, \
				    bool flush), (kvm, root, start, end, can_yield, flush)) \
	X(void, tdp_mmu_free_sp_rcu_callback, (struct rcu_head *head), (head)) \
	X(int, tdx_sept_set_private_spte, (struct kvm *kvm, gfn_t gfn, u64 old_spte, u64 new_spte, enum pg_level level), \
	  (kvm, gfn, old_spte, new_spte, level)) \
	X(int, tdx_sept_map_leaf_spte, (struct kvm *kvm, gfn_t gfn, enum pg_level level, u64 new_spte), \
	  (kvm, gfn, level, new_spte)) \
	X(int, tdx_sept_map_nonleaf_spte, (struct kvm *kvm, gfn_t gfn, enum pg_level level, u64 new_spte), \
	  (kvm, gfn, level, new_spte)) \
	X(int, tdx_sept_remove_leaf_spte, (struct kvm *kvm, gfn_t gfn, enum pg_level level, u64 old_spte), \
	  (kvm, gfn, level, old_spte)) \
	X(int, tdx_sept_free_private_spt, (struct kvm *kvm, gfn_t gfn, enum pg_level level, struct kvm_mmu_page *sp), \
	  (kvm, gfn, level, sp)) \
	X(int, tdx_sept_reclaim_private_spt, (struct kvm *kvm, gfn_t gfn, enum pg_level level, struct kvm_mmu_page *sp), \
	  (kvm, gfn, level, sp)) \
	X(int, tdx_sept_split_private_spte, (struct kvm *kvm, gfn_t gfn, enum pg_level level, u64 old_spte, u64 new_spte, \
					     bool shared), (kvm, gfn, level, old_spte, new_spte, shared)) \
	X(u64, tdx_do_no_vcpus, (struct kvm *kvm, int leaf, u64 rcx, u64 rdx, u64 r8), (kvm, leaf, rcx, rdx, r8)) \
	X(void, tdx_track, (struct kvm *kvm), (kvm)) \
	X(int, tdx_pamt_get, (struct page *page), (page)) \
	X(void, tdx_pamt_put, (struct page *page), (page))

#endif
