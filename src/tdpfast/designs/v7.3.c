// SPDX-License-Identifier: GPL-2.0-only
/*
 * Linux 7.3's way to change a mirror SPTE, written here after tdpfast's own functions: freeze the entry, tell the external
 * page table, then publish the result or put the old value back.
 */
#include <tdpfast/kvm.h>

TDPFAST_DESIGN("v7.3-code", .base = "v7.3");

static int __tdp_mmu_set_spte_atomic(struct kvm *kvm, struct tdp_iter *iter, u64 new_spte)
{
	WARN_ON_ONCE(TDPFAST_ID("yielded_or_frozen", iter->yielded || is_frozen_spte(iter->old_spte)));

	/* A cmpxchg that is lost leaves what stands there in iter->old_spte. */
	if (!try_cmpxchg64(iter->sptep, &iter->old_spte, new_spte))
		return -EBUSY;
	return 0;
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
	}

	if (is_mirror_sp(sp))
		kvm_x86_call(free_external_spt)(kvm, sp);
	call_rcu(&sp->rcu_head, tdp_mmu_free_sp_rcu_callback);
}

static int __handle_changed_spte(struct kvm *kvm, struct kvm_mmu_page *sp, gfn_t gfn, u64 old_spte, u64 new_spte,
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
		return 0;
	if (is_leaf)
		check_spte_writable_invariants(new_spte);

	if (!was_present && !is_present) {
		WARN_ON_ONCE(TDPFAST_ID("nonpresent_change", !is_mmio_spte(kvm, old_spte) &&
					!is_mmio_spte(kvm, new_spte) && !is_frozen_spte(new_spte)));
		trace_kvm_tdp_mmu_spte_changed(kvm_mmu_page_as_id(sp), gfn, level, old_spte, new_spte);
		return 0;
	}

	if (was_present && !was_leaf && (is_leaf || !is_present || WARN_ON_ONCE(TDPFAST_ID("table_pfn_changed", pfn_changed)))) {
		handle_removed_pt(kvm, spte_to_child_pt(old_spte, level), shared);
	} else if (is_mirror_sp(sp)) {
		int ret = kvm_x86_call(set_external_spte)(kvm, gfn, old_spte, new_spte, level);

		if (ret)
			return ret;
	}

	trace_kvm_tdp_mmu_spte_changed(kvm_mmu_page_as_id(sp), gfn, level, old_spte, new_spte);
	if (is_leaf != was_leaf)
		kvm_update_page_stats(kvm, level, is_leaf ? 1 : -1);
	return 0;
}

static void handle_changed_spte(struct kvm *kvm, struct kvm_mmu_page *sp, gfn_t gfn, u64 old_spte, u64 new_spte,
				int level, bool shared)
{
	/* The caller cannot undo the change. */
	KVM_BUG_ON(TDPFAST_ID("external_update_failed",
			      __handle_changed_spte(kvm, sp, gfn, old_spte, new_spte, level, shared)), kvm);
}

static int tdp_mmu_set_spte_atomic(struct kvm *kvm, struct tdp_iter *iter, u64 new_spte)
{
	struct kvm_mmu_page *sp = sptep_to_sp(iter->sptep);
	int ret;

	lockdep_assert_held_read(&kvm->mmu_lock);
	KVM_MMU_WARN_ON(TDPFAST_ID("frozen", is_frozen_spte(new_spte)));

	ret = __tdp_mmu_set_spte_atomic(kvm, iter, is_mirror_sp(sp) ? FROZEN_SPTE : new_spte);
	if (ret)
		return ret;

	ret = __handle_changed_spte(kvm, sp, iter->gfn, iter->old_spte, new_spte, iter->level, true);
	if (is_mirror_sp(sp))
		__kvm_tdp_mmu_write_spte(iter->sptep, ret ? iter->old_spte : new_spte);
	else
		KVM_BUG_ON(TDPFAST_ID("direct_update_failed", ret), kvm);
	return ret;
}

static u64 tdp_mmu_set_spte(struct kvm *kvm, int as_id, tdp_ptep_t sptep, u64 old_spte, u64 new_spte, gfn_t gfn,
			    int level)
{
	struct kvm_mmu_page *sp = sptep_to_sp(sptep);

	lockdep_assert_held_write(&kvm->mmu_lock);
	WARN_ON_ONCE(TDPFAST_ID("frozen", is_frozen_spte(old_spte) || is_frozen_spte(new_spte)));

	old_spte = kvm_tdp_mmu_write_spte(sptep, old_spte, new_spte, level);
	handle_changed_spte(kvm, sp, gfn, old_spte, new_spte, level, false);
	return old_spte;
}
