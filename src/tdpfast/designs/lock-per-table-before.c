// SPDX-License-Identifier: GPL-2.0-only
/*
 * A lock in each mirror table instead of FROZEN_SPTE: who changes an entry holds it from the cmpxchg to the end of the
 * external update. Here the entry is published before the external update.
 */
#include <tdpfast/kvm.h>

TDPFAST_DESIGN("lock-per-table-before", .base = "v7.3");

static spinlock_t *table_lock(struct kvm_mmu_page *sp)
{
	return (spinlock_t *)&sp->tdpfast_private;
}

static int tdp_mmu_set_spte_atomic(struct kvm *kvm, struct tdp_iter *iter, u64 new_spte)
{
	struct kvm_mmu_page *sp = sptep_to_sp(iter->sptep);
	int ret;

	lockdep_assert_held_read(&kvm->mmu_lock);
	if (!is_mirror_sp(sp)) {
		ret = __tdp_mmu_set_spte_atomic(kvm, iter, new_spte);
		if (!ret)
			handle_changed_spte(kvm, sp, iter->gfn, iter->old_spte, new_spte, iter->level, true);
		return ret;
	}

	spin_lock(table_lock(sp));
	ret = __tdp_mmu_set_spte_atomic(kvm, iter, new_spte);
	if (!ret) {
		ret = __handle_changed_spte(kvm, sp, iter->gfn, iter->old_spte, new_spte, iter->level, true);
		if (ret)
			__kvm_tdp_mmu_write_spte(iter->sptep, iter->old_spte);
	}
	spin_unlock(table_lock(sp));
	return ret;
}
