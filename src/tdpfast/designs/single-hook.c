// SPDX-License-Identifier: GPL-2.0-only
/*
 * One hook, set_external_spte(), for every change of a mirror SPTE: no reclaim hook, tables are reclaimed where their entry
 * goes. On the huge-page base, with collapse allowed.
 */
#include <tdpfast/kvm.h>

TDPFAST_DESIGN("single-hook-code", .base = "hugepage", .knobs = "promo_block=0");

static int tdx_sept_reclaim_private_spt(struct kvm *kvm, gfn_t gfn, enum pg_level level, struct kvm_mmu_page *sp)
{
	void *external_spt;
	int ret = -EIO;

	lockdep_assert_held_write(&kvm->mmu_lock);
	external_spt = sp->external_spt;
	if (!KVM_BUG_ON(TDPFAST_ID("hkid_assigned", is_hkid_assigned(to_kvm_tdx(kvm))), kvm) &&
	    !tdx_reclaim_page(virt_to_page(external_spt))) {
		free_page((unsigned long)external_spt);
		ret = 0;
	}
	/* On failure the page is leaked: the module may still use it. */
	sp->external_spt = NULL;
	return ret;
}

static int tdx_sept_set_private_spte(struct kvm *kvm, gfn_t gfn, u64 old_spte, u64 new_spte, enum pg_level level)
{
	lockdep_assert_held(&kvm->mmu_lock);

	if (is_shadow_present_pte(old_spte)) {
		if (is_shadow_present_pte(new_spte)) {
			if (is_last_spte(old_spte, level) && !is_last_spte(new_spte, level))
				return tdx_sept_split_private_spte(kvm, gfn, level, old_spte, new_spte, false);
		} else if (is_last_spte(old_spte, level)) {
			return tdx_sept_remove_leaf_spte(kvm, gfn, level, old_spte);
		} else {
			return tdx_sept_reclaim_private_spt(kvm, gfn, level, spte_to_child_sp(old_spte));
		}
	}

	if (KVM_BUG_ON(TDPFAST_ID("new_not_present", !is_shadow_present_pte(new_spte)), kvm))
		return -EIO;
	if (!is_last_spte(new_spte, level))
		return tdx_sept_map_nonleaf_spte(kvm, gfn, level, new_spte);
	return tdx_sept_map_leaf_spte(kvm, gfn, level, new_spte);
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
			for (;;) {
				old_spte = kvm_tdp_mmu_write_spte_atomic(sptep, FROZEN_SPTE);
				if (!is_frozen_spte(old_spte))
					break;
				cpu_relax();
			}
		} else {
			old_spte = kvm_tdp_mmu_read_spte(sptep);
			if (!is_shadow_present_pte(old_spte))
				continue;
			old_spte = kvm_tdp_mmu_write_spte(sptep, old_spte, FROZEN_SPTE, level);
		}
		handle_changed_spte(kvm, sp, gfn, old_spte, FROZEN_SPTE, level, shared);
	}
	/* The external page is the set hook's business, which comes for the entry itself. */
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
	int ret;

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

	if (was_present && !was_leaf && (is_leaf || !is_present || WARN_ON_ONCE(TDPFAST_ID("table_pfn_changed", pfn_changed))))
		handle_removed_pt(kvm, spte_to_child_pt(old_spte, level), shared);

	if (is_mirror_sp(sp)) {
		RCU_LOCKDEP_WARN(!rcu_read_lock_held(), "rcu_read_lock");
		ret = kvm_x86_call(set_external_spte)(kvm, gfn, old_spte, new_spte, level);
		if (ret)
			return ret;
	}

	trace_kvm_tdp_mmu_spte_changed(kvm_mmu_page_as_id(sp), gfn, level, old_spte, new_spte);
	if (is_leaf != was_leaf)
		kvm_update_page_stats(kvm, level, is_leaf ? 1 : -1);
	return 0;
}
