// SPDX-License-Identifier: GPL-2.0-only
/*
 * A table that was just allocated is private until it is linked, so why freeze the entry that gets it? One cmpxchg publishes
 * the table, then the external page table is told. Wrong: between the two another vCPU walks into the table and maps a page
 * under an S-EPT table that is not there, and a failed link leaves that vCPU in a table that goes back to the cache.
 */
#include <tdpfast/kvm.h>

TDPFAST_DESIGN("link-without-freeze", .base = "v7.3");

static int tdp_mmu_set_spte_atomic(struct kvm *kvm, struct tdp_iter *iter, u64 new_spte)
{
	struct kvm_mmu_page *sp = sptep_to_sp(iter->sptep);
	bool link = !is_shadow_present_pte(iter->old_spte) && is_shadow_present_pte(new_spte) &&
		    !is_last_spte(new_spte, iter->level);
	int ret;

	lockdep_assert_held_read(&kvm->mmu_lock);
	KVM_MMU_WARN_ON(is_frozen_spte(new_spte));

	ret = __tdp_mmu_set_spte_atomic(kvm, iter, is_mirror_sp(sp) && !link ? FROZEN_SPTE : new_spte);
	if (ret)
		return ret;

	ret = __handle_changed_spte(kvm, sp, iter->gfn, iter->old_spte, new_spte, iter->level, true);
	if (!is_mirror_sp(sp))
		KVM_BUG_ON(ret, kvm);
	else if (!link || ret)
		__kvm_tdp_mmu_write_spte(iter->sptep, ret ? iter->old_spte : new_spte);
	return ret;
}
