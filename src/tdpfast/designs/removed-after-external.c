// SPDX-License-Identifier: GPL-2.0-only
/*
 * The external page table first, the removed table second: whatever the hook answers, nothing was torn down yet, so that a
 * failure can be undone. The hook now sees every change of a mirror SPTE, and decides by itself what a table's end means.
 */
#include <tdpfast/kvm.h>

TDPFAST_DESIGN("removed-after-external", .base = "v7.3");

static int __handle_changed_spte(struct kvm *kvm, struct kvm_mmu_page *sp, gfn_t gfn, u64 old_spte, u64 new_spte,
				 int level, bool shared)
{
	bool was_present = is_shadow_present_pte(old_spte);
	bool is_present = is_shadow_present_pte(new_spte);
	bool was_leaf = was_present && is_last_spte(old_spte, level);
	bool is_leaf = is_present && is_last_spte(new_spte, level);
	bool pfn_changed = spte_to_pfn(old_spte) != spte_to_pfn(new_spte);
	bool removed = was_present && !was_leaf && (is_leaf || !is_present || pfn_changed);

	BUG_ON(was_leaf && is_leaf && pfn_changed);
	if (old_spte == new_spte)
		return 0;
	if (!was_present && !is_present) {
		trace_kvm_tdp_mmu_spte_changed(kvm_mmu_page_as_id(sp), gfn, level, old_spte, new_spte);
		return 0;
	}

	if (is_mirror_sp(sp)) {
		int ret = kvm_x86_call(set_external_spte)(kvm, gfn, old_spte, new_spte, level);

		if (ret)
			return ret;
	}
	if (removed)
		handle_removed_pt(kvm, spte_to_child_pt(old_spte, level), shared);

	trace_kvm_tdp_mmu_spte_changed(kvm_mmu_page_as_id(sp), gfn, level, old_spte, new_spte);
	if (is_leaf != was_leaf)
		kvm_update_page_stats(kvm, level, is_leaf ? 1 : -1);
	return 0;
}
