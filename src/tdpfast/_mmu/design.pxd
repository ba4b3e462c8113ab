"""A design as the MMU's side reads it: where kernels differ in how a mirror SPTE changes (see design.py).

KVM's TDX side has knobs of its own, in _tdx/design.pxd. A knob is a line here or there and a field of Design in Python;
one that either lacks is an error at import.
"""

from libc.stdint cimport int32_t

cdef struct Design:
    int32_t layout
    int32_t gate
    int32_t reclaim
    int32_t max_level        # largest mirror mapping level
    int32_t split_shared
    bint refresh_old_spte    # a lost cmpxchg on a mirror SPTE refreshes iter->old_spte
    bint remove_op_after     # leaves are removed by remove_external_spte(), after the bookkeeping
    bint trace_before        # trace and statistics precede the work
    bint trace_np_np         # a non-present to non-present change is traced
    bint bug_atomic_zap      # KVM_BUG_ON(new not present) in __tdp_mmu_set_spte_atomic()
    bint bug_shared_child    # KVM_BUG_ON(shared) in handle_removed_pt()
    bint bug_new_present     # KVM_BUG_ON(new present) in tdp_mmu_set_spte() of a mirror
    bint bug_mirror_split    # KVM_BUG_ON() before the fault path splits a mirror leaf
    bint assert_rcu          # RCU_LOCKDEP_WARN() before the hook
    bint split_external      # eager split allocates an external page for a mirror
    bint promo_block         # the fault path lowers its goal at a present mirror table
    bint prove_mmu           # CONFIG_KVM_PROVE_MMU: root zaps skip the 4K and 2M passes
    bint age_mirror          # mirrors are aged (6.18) instead of refused (7.3)
    bint age_cmpxchg         # ageing with A/D bits is one cmpxchg (7.3) instead of an atomic and (6.18)
    bint ungated             # operations that today's callers keep away from the mirror reach it
    bint split_op            # splits travel through split_external_spt()
    bint nx_write_lock       # NX huge page recovery holds mmu_lock for write (6.16)
    bint access_allowed      # a fault is spurious by is_access_allowed() (up to 7.2), whatever the layout
    bint bug_old_present     # KVM_BUG_ON(old present) in __tdp_mmu_set_spte_atomic() of a mirror
    bint slot_blind          # local retries do not look whether the slot is going away (6.16)
    bint inplace             # conversions in place in guest_memfd; faults look up under its lock
    # wrong on purpose
    bint no_seq              # a fault does not compare mmu_invalidate_seq
    bint seq_after_lookup    # ... or samples it after it looked its page up
    bint no_inval_range      # an invalidation does not say which gfns it is about
    bint end_before_free     # a hole's invalidation ends before its pages are freed
    bint attr_narrow         # a conversion's range is not widened to the huge pages it cuts into
    bint no_freeze           # publish the new value first, then update the external table
    bint no_rollback         # a failed external update leaves the SPTE frozen
    bint no_grace_period     # tables are freed without waiting for readers
    bint no_hook_on_zap      # the zap of a leaf never reaches the external table
    bint stats_on_failure    # statistics count a change that was rolled back
    bint l2_dirty_bits       # clearing dirty state spares W of L2's SPTEs, which PML does not log
    bint nx_wrong_space      # NX recovery looks for a table's slot in the first address space
    bint nx_keep_listed      # NX recovery leaves a table on the list that it takes it from
    bint nx_outside_rcu      # NX recovery is in no RCU read section
    bint inhibit_first       # the guest's inhibit of huge pages is set before the split it is about
    bint split_direct_root   # the split for a guest's ACCEPT walks the direct root
    bint iter_advance        # a walk that yielded goes on behind the entry that it starts again at
    bint yielded_ignored     # a walk that yielded goes on in the table where it was
    bint no_progress_test    # a walk yields again although it has not moved since it yielded last
    bint yield_in_rcu        # a walk yields inside its RCU read section
    bint plain_store         # a volatile SPTE is replaced by a plain store, not by an xchg
    bint no_stale_check      # a fault does not look whether its root went invalid
    bint fixed_on_error      # a fault that could not set its SPTE answers RET_PF_FIXED
    bint table_leaked        # a table that could not be linked is not freed
    bint nx_no_recheck       # NX recovery does not look whether its table is still there
    bint notifier_valid_only # the MMU notifier's zap leaves invalid roots out
    bint filter_ignored      # a zap of shared memory takes private memory as well
    bint no_split_first      # huge pages that reach out of a range are not split before it is zapped
    bint flush_lost_at_yield # a walk that yields forgets the TLB flush it owes
    bint flush_lost_in_nx    # NX recovery that yields forgets the TLB flush it owes
    bint flush_wrong_range   # the flush for a table that became a leaf is about its first page only
    bint split_keeps_root    # a split without memory keeps its reference to the root
    bint wrprot_skips_ro     # write protection passes over what is read-only but MMU-writable
    bint track_ignored       # a fault maps a write-tracked gfn writable
    bint fast_pf_unlogged    # a fast fault gives W back and does not mark the page dirty
    bint no_rcu_barrier      # the end of the VM does not wait for RCU callbacks
