// SPDX-License-Identifier: GPL-2.0-only
/*
 * Linux 6.18, and 6.19, which differs in the TDX side alone: link, set, remove and free hooks. __tdp_mmu_set_spte_atomic()
 * itself freezes a mirror SPTE, updates the external table and writes the result, all before the bookkeeping; only entries
 * that become present may change so.
 */
#include <tdpfast/kvm.h>

#ifndef RELEASE
#define RELEASE "v6.18"
#endif
TDPFAST_DESIGN(RELEASE "-code", .base = RELEASE);

static int set_external_spte_present(struct kvm *kvm, tdp_ptep_t sptep, gfn_t gfn, u64 old_spte, u64 new_spte, int level)
{
	bool was_present = is_shadow_present_pte(old_spte);
	bool is_leaf = is_last_spte(new_spte, level);
	int ret;

	KVM_BUG_ON(TDPFAST_ID("was_present", was_present), kvm);
	lockdep_assert_held(&kvm->mmu_lock);

	/* A cmpxchg that is lost refreshes this function's own copy only. */
	if (!try_cmpxchg64(sptep, &old_spte, FROZEN_SPTE))
		return -EBUSY;

	if (is_leaf) {
		ret = kvm_x86_call(set_external_spte)(kvm, gfn, old_spte, new_spte, level);
	} else {
		struct kvm_mmu_page *child = spte_to_child_sp(new_spte);

		WARN_ON_ONCE(TDPFAST_ID("child_level", child->role.level + 1 != level));
		WARN_ON_ONCE(TDPFAST_ID("child_gfn", child->gfn != gfn));
		KVM_BUG_ON(TDPFAST_ID("no_external_spt", !child->external_spt), kvm);
		ret = kvm_x86_call(link_external_spt)(kvm, gfn, level, child->external_spt);
		__tdpf_note_failure(ret);
	}

	__kvm_tdp_mmu_write_spte(sptep, ret ? old_spte : new_spte);
	return ret;
}

static int __tdp_mmu_set_spte_atomic(struct kvm *kvm, struct tdp_iter *iter, u64 new_spte)
{
	WARN_ON_ONCE(TDPFAST_ID("yielded_or_frozen", iter->yielded || is_frozen_spte(iter->old_spte)));

	if (is_mirror_sptep(iter->sptep) && !is_frozen_spte(new_spte)) {
		/* Nobody zaps a mirror SPTE under the read lock. */
		if (KVM_BUG_ON(TDPFAST_ID("atomic_zap", !is_shadow_present_pte(new_spte)), kvm))
			return -EBUSY;
		return set_external_spte_present(kvm, iter->sptep, iter->gfn, iter->old_spte, new_spte, iter->level);
	}

	if (!try_cmpxchg64(iter->sptep, &iter->old_spte, new_spte))
		return -EBUSY;
	return 0;
}

static void remove_external_spte(struct kvm *kvm, gfn_t gfn, u64 old_spte, int level)
{
	/* A table's external page is taken back by free_external_spt(). */
	if (!is_last_spte(old_spte, level))
		return;
	lockdep_assert_held_write(&kvm->mmu_lock);
	kvm_x86_call(remove_external_spte)(kvm, gfn, level, old_spte);
}

static void handle_removed_pt(struct kvm *kvm, tdp_ptep_t pt, bool shared)
{
	struct kvm_mmu_page *sp = sptep_to_sp(pt);
	int level = sp->role.level;
	gfn_t base_gfn = sp->gfn;
	int i;

	trace_kvm_mmu_prepare_zap_page(sp);
	tdp_mmu_unlink_sp(kvm, sp);

	for (i = 0; i < SPTE_ENT_PER_PAGE; i++) {
		tdp_ptep_t sptep = pt + i;
		gfn_t gfn = base_gfn + i * KVM_PAGES_PER_HPAGE(level);
		u64 old_spte;

		if (shared) {
			/* Somebody else may have it frozen, and will write it back. */
			for (;;) {
				old_spte = kvm_tdp_mmu_write_spte_atomic(sptep, FROZEN_SPTE);
				if (!is_frozen_spte(old_spte))
					break;
				cpu_relax();
			}
		} else {
			/* Nobody else can make an entry present: what is not stays as it is. */
			old_spte = kvm_tdp_mmu_read_spte(sptep);
			if (!is_shadow_present_pte(old_spte))
				continue;
			old_spte = kvm_tdp_mmu_write_spte(sptep, old_spte, FROZEN_SPTE, level);
		}
		handle_changed_spte(kvm, sp, gfn, old_spte, FROZEN_SPTE, level, shared);
		if (is_mirror_sp(sp)) {
			KVM_BUG_ON(TDPFAST_ID("shared", shared), kvm);
			remove_external_spte(kvm, gfn, old_spte, level);
		}
	}

	/* The module may still hold the page: leak it then. */
	if (is_mirror_sp(sp) && WARN_ON_ONCE(TDPFAST_ID("free_external_spt_failed",
						  kvm_x86_call(free_external_spt)(kvm, sp))))
		sp->external_spt = NULL;
	call_rcu(&sp->rcu_head, tdp_mmu_free_sp_rcu_callback);
}

static void handle_changed_spte(struct kvm *kvm, struct kvm_mmu_page *sp, gfn_t gfn, u64 old_spte, u64 new_spte,
				int level, bool shared)
{
	bool was_present = is_shadow_present_pte(old_spte);
	bool is_present = is_shadow_present_pte(new_spte);
	bool was_leaf = was_present && is_last_spte(old_spte, level);
	bool is_leaf = is_present && is_last_spte(new_spte, level);
	bool pfn_changed = spte_to_pfn(old_spte) != spte_to_pfn(new_spte);

	WARN_ON_ONCE(TDPFAST_ID("bad_level", level > PT64_ROOT_MAX_LEVEL || level < PG_LEVEL_4K));
	WARN_ON_ONCE(TDPFAST_ID("misaligned_gfn", gfn & (KVM_PAGES_PER_HPAGE(level) - 1)));
	BUG_ON(TDPFAST_ID("leaf_pfn_changed", was_leaf && is_leaf && pfn_changed));

	if (old_spte == new_spte)
		return;
	trace_kvm_tdp_mmu_spte_changed(kvm_mmu_page_as_id(sp), gfn, level, old_spte, new_spte);
	if (is_leaf)
		check_spte_writable_invariants(new_spte);

	if (!was_present && !is_present) {
		WARN_ON_ONCE(TDPFAST_ID("nonpresent_change", !is_mmio_spte(kvm, old_spte) &&
					!is_mmio_spte(kvm, new_spte) && !is_frozen_spte(new_spte)));
		return;
	}

	if (is_leaf != was_leaf)
		kvm_update_page_stats(kvm, level, is_leaf ? 1 : -1);
	if (was_present && !was_leaf && (is_leaf || !is_present || WARN_ON_ONCE(TDPFAST_ID("table_pfn_changed", pfn_changed))))
		handle_removed_pt(kvm, spte_to_child_pt(old_spte, level), shared);
}

static int tdp_mmu_set_spte_atomic(struct kvm *kvm, struct tdp_iter *iter, u64 new_spte)
{
	struct kvm_mmu_page *sp = sptep_to_sp(iter->sptep);
	int ret;

	lockdep_assert_held_read(&kvm->mmu_lock);
	KVM_MMU_WARN_ON(TDPFAST_ID("frozen", is_frozen_spte(new_spte)));

	ret = __tdp_mmu_set_spte_atomic(kvm, iter, new_spte);
	if (ret)
		return ret;
	handle_changed_spte(kvm, sp, iter->gfn, iter->old_spte, new_spte, iter->level, true);
	return 0;
}

static u64 tdp_mmu_set_spte(struct kvm *kvm, int as_id, tdp_ptep_t sptep, u64 old_spte, u64 new_spte, gfn_t gfn,
			    int level)
{
	struct kvm_mmu_page *sp = sptep_to_sp(sptep);

	lockdep_assert_held_write(&kvm->mmu_lock);
	WARN_ON_ONCE(TDPFAST_ID("frozen", is_frozen_spte(old_spte) || is_frozen_spte(new_spte)));

	old_spte = kvm_tdp_mmu_write_spte(sptep, old_spte, new_spte, level);
	handle_changed_spte(kvm, sp, gfn, old_spte, new_spte, level, false);
	if (is_mirror_sp(sp)) {
		KVM_BUG_ON(TDPFAST_ID("new_present", is_shadow_present_pte(new_spte)), kvm);
		remove_external_spte(kvm, gfn, old_spte, level);
	}
	return old_spte;
}
