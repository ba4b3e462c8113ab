"""The kernel's names that a design file may use, from include/tdpfast/*.h: how each is called, and what it does here.

Signatures are read from the headers; what a name means stands in `TEXTS`, a line for each group of names that differ as
their names say. tests/unit/test_kernelwords.py compares both ways.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import NamedTuple

INCLUDE = Path(__file__).parent / "include" / "tdpfast"
HEADERS = ("types.h", "kernel.h", "kvm.h")

TEXTS = {
    "Memory: each access is a step of the explorer": {
        "READ_ONCE": "One load. A step where others can see the word.",
        "WRITE_ONCE": "One store. A step where others can see the word.",
        "xchg": "Stores and returns what was there, as one step.",
        "try_cmpxchg try_cmpxchg64":
            "Stores if *p is *old: true. Otherwise *old becomes what is there: false. One step.",
        "cmpxchg cmpxchg64": "As try_cmpxchg(), but returns what was there.",
        "smp_load_acquire smp_store_release":
            "A load, a store. Steps are sequentially consistent, so no more than that.",
        "smp_mb smp_rmb smp_wmb smp_mb__before_atomic smp_mb__after_atomic barrier":
            "Barriers. Steps are sequentially consistent under the explorer, so that none can be missed there; on"
            " native"
            " threads they are the processor's.",
        "rcu_dereference rcu_dereference_check rcu_dereference_protected rcu_dereference_raw rcu_access_pointer":
            "The pointer itself. That a table is used after its grace period is judged at each access (check life).",
        "rcu_assign_pointer": "A store of the pointer.",
        "cpu_relax":
            "A loop goes round. If all that it read since the last time is as it was, no other CPU can help, and"
                     " it would spin for ever: check progress. Yields.",
        "udelay": "cpu_relax().",
        "memset memcpy": "As in C; plain accesses of the whole range.",
    },
    "Counters and bits": {
        "atomic64_t atomic_t atomic_long_t refcount_t": "Counters, as members or static data of the file.",
        "atomic64_read atomic64_set atomic_read atomic_set atomic_long_read": "One load or store, a step.",
        "atomic64_add atomic64_sub atomic64_inc atomic64_dec atomic_add atomic_sub atomic_inc atomic_dec"
        " atomic_long_inc"
        " atomic_long_dec": "One step. kvm->arch.tdp_mmu_pages only commutes: counting it is no step.",
        "atomic64_inc_return atomic64_dec_return atomic64_fetch_add atomic64_fetch_and atomic64_fetch_or"
        " atomic64_dec_and_test atomic_inc_return atomic_dec_return atomic_dec_and_test":
            "One step; the value before (fetch) or after, or whether it became 0.",
        "atomic64_xchg atomic64_try_cmpxchg atomic_xchg atomic_cmpxchg atomic_try_cmpxchg": "As xchg(), cmpxchg().",
        "atomic_inc_not_zero refcount_inc_not_zero":
            "One up unless it is 0: whether it was not. A load, then steps until"
                                                     " the cmpxchg holds.",
        "refcount_read refcount_set": "One load or store, a step.",
        "refcount_inc": "One up; a WARN if it was 0 or less (check kernel).",
        "refcount_dec_and_test": "One down: whether it became 0. A WARN if it went below (check kernel).",
        "test_bit set_bit clear_bit test_and_set_bit test_and_clear_bit":
            "A bit of an array of 64-bit words, one step.",
        "BIT BIT_ULL GENMASK GENMASK_ULL": "Masks.",
    },
    "Locks": {
        "spinlock_t raw_spinlock_t rwlock_t": "Locks: members, static data of the file, or kvm->tdpfast_private and"
                                              " sp->tdpfast_private used as one.",
        "DEFINE_SPINLOCK DEFINE_RAW_SPINLOCK DEFINE_MUTEX": "A lock in the file's static data.",
        "spin_lock raw_spin_lock spin_lock_irqsave raw_spin_lock_irqsave":
            "Waits for the lock. Interrupts are not modelled. kvm->arch.tdp_mmu_pages_lock is the core's own.",
        "spin_unlock raw_spin_unlock spin_unlock_irqrestore raw_spin_unlock_irqrestore":
            "By another than the owner: check lock.",
        "spin_trylock raw_spin_trylock mutex_trylock": "Takes the lock if it is free: whether it did. One step.",
        "spin_lock_init raw_spin_lock_init mutex_init": "Free.",
        "mutex mutex_lock mutex_unlock": "A mutex: mutex_lock() is might_sleep() and then waits.",
        "read_lock read_unlock write_lock write_unlock": "Of an rwlock_t: kvm->mmu_lock, or one of the file's own.",
        "guard":
            "guard(spinlock)(&l): held to the end of the block. Also raw_spinlock, mutex, read_lock, write_lock, rcu.",
        "scoped_guard": "scoped_guard(spinlock, &l) { ... }: held in the braces.",
        "might_sleep cond_resched": "Under mmu_lock, tdp_mmu_pages_lock or in an RCU read section: check lock.",
        "cond_resched_rwlock_read cond_resched_rwlock_write":
            "If a scenario has the CPU yield here (field resched), drops the lock and takes it again: 1. RCU is the"
            " caller's business.",
        "need_resched": "Whether a scenario has the CPU yield here; asking counts as one of its chances.",
        "rwlock_needbreak spin_needbreak": "0.",
        "lockdep_is_held lockdep_is_held_type": "Whether this CPU holds the lock.",
        "lockdep_assert_held lockdep_assert_held_read lockdep_assert_held_write lockdep_assert_held_once"
        " lockdep_assert_not_held lockdep_assert lockdep_assert_once kvm_lockdep_assert_mmu_lock_held":
            "Otherwise: check lock, with the function and the lock.",
        "preempt_disable preempt_enable get_cpu put_cpu": "Nothing: a CPU here is never preempted but at a step.",
        "smp_processor_id": "The emulated CPU's number.",
    },
    "RCU": {
        "rcu_read_lock rcu_read_unlock": "A read section; both are steps. What is freed waits for it to end.",
        "rcu_read_lock_held": "Whether this CPU is in one.",
        "RCU_LOCKDEP_WARN": "If the condition holds: check lock.",
        "rcu_head": "A table's; two words to the file.",
        "call_rcu":
            "Queues a table for freeing: the file's function, or tdp_mmu_free_sp_rcu_callback(), runs after a grace"
                    " period. A table queued twice, or still reachable, is check life.",
    },
    "Lists": {
        "list_head LIST_HEAD LIST_HEAD_INIT INIT_LIST_HEAD":
            "A list's head or link. An entry lies in static data: there"
                                                             " is no heap.",
        "list_add list_add_tail list_del list_del_init list_empty":
            "Plain loads and stores, each a step where others can"
                                                                    " see the word.",
        "list_entry list_first_entry list_for_each_entry list_for_each_entry_safe": "As in the kernel.",
    },
    "Assertions and messages": {
        "WARN WARN_ON WARN_ON_ONCE WARN_ONCE WARN_RATELIMIT KVM_MMU_WARN_ON":
            "If the condition holds: check kernel, with the function and the condition. Each time, not once."
            " Returns the"
            " condition.",
        "KVM_BUG KVM_BUG_ON": "As WARN_ON_ONCE(), and kvm->vm_bugged and vm_dead are set.",
        "TDPFAST_ID": 'WARN_ON_ONCE(TDPFAST_ID("gone", condition)): the assertion is called gone.',
        "BUG BUG_ON": "Check kernel, and the execution ends there.",
        "TDX_BUG_ON TDX_BUG_ON_1 TDX_BUG_ON_2 TDX_BUG_ON_3": "KVM_BUG_ON() of a SEAMCALL's status, with its leaf.",
        "BUILD_BUG_ON static_assert": "When it is compiled.",
        "pr_err pr_err_once pr_err_ratelimited pr_warn pr_warn_ratelimited pr_info pr_debug": "Nothing.",
    },
    "SPTEs, as this design's kernel lays them out": {
        "FROZEN_SPTE SHADOW_NONPRESENT_VALUE SPTE_MMU_PRESENT_MASK SPTE_BASE_ADDR_MASK PT_PRESENT_MASK PT_WRITABLE_MASK"
        " PT_PAGE_SIZE_MASK VMX_EPT_READABLE_MASK VMX_EPT_WRITABLE_MASK VMX_EPT_EXECUTABLE_MASK VMX_EPT_RWX_MASK"
        " shadow_accessed_mask shadow_dirty_mask shadow_mmu_writable_mask shadow_host_writable_mask kvm_ad_enabled":
            "Values and masks of the VM that runs.",
        "is_shadow_present_pte is_large_pte is_last_spte is_frozen_spte is_writable_pte is_executable_pte is_mmio_spte"
        " is_accessed_spte is_dirty_spte is_access_track_spte is_mmu_writable_spte spte_ad_enabled"
        " spte_ad_need_write_protect spte_to_pfn": "What an SPTE is; no step.",
        "kvm_tdp_mmu_spte_need_atomic_update kvm_tdp_mmu_spte_need_atomic_write":
            "Whether another CPU or the processor may change the SPTE without mmu_lock.",
        "leaf_spte_change_needs_tlb_flush": "Whether MMU-writable is taken away.",
        "check_spte_writable_invariants": "A WARN for an SPTE that is writable and must not be.",
        "make_nonleaf_spte": "The SPTE of a table page.",
        "make_small_spte make_huge_page_split_spte": "One of the 512 parts of a huge SPTE.",
        "make_huge_spte": "The huge SPTE of a range that one of its parts maps.",
        "mark_spte_for_access_track": "Without its permissions, which are kept for restoring.",
    },
    "Tables": {
        "kvm_mmu_page kvm_mmu_page_role": "spt, gfn, ptep, external_spt, rcu_head, tdp_mmu_root_count,"
            " tdp_mmu_scheduled_root_to_zap, nx_huge_page_disallowed, role.level, .is_mirror, .invalid, .ad_disabled,"
            " .access, .guest_mode, .smm; tdpfast_private is the design's own word, 0 in a fresh table.",
        "sptep_to_sp spte_to_child_sp to_shadow_page root_to_sp": "The descriptor; NULL for what is no table.",
        "spte_to_child_pt": "The table's page.",
        "is_mirror_sp is_mirror_sptep": "Whether it belongs to a mirror root.",
        "is_tdp_mmu_page sp_has_gptes": "true; false.",
        "kvm_mmu_page_ad_need_write_protect": "An L2 table with PML.",
        "kvm_mmu_page_as_id": "1 for system management mode.",
        "is_obsolete_sp": "role.invalid, a plain load.",
        "tdp_mmu_alloc_sp tdp_mmu_alloc_sp_with_external":
            "A table that nothing links, the second with a page for the external table; NULL without memory.",
        "tdp_mmu_init_child_sp": "For the place where a walk stands.",
        "tdp_mmu_free_unused_sp": "Frees a table that was never linked, and its external page.",
        "tdp_mmu_free_sp": "Frees a table now.",
        "tdp_account_mmu_page tdp_unaccount_mmu_page": "Counts kvm->arch.tdp_mmu_pages.",
        "track_possible_nx_huge_page untrack_possible_nx_huge_page":
            "Puts a table on the list of NX huge page recovery, or takes it off. tdp_mmu_pages_lock held.",
        "kvm_update_page_stats": "Counts leaves by level: check stat compares them at the end.",
        "mark_page_dirty_in_slot": "A record in the trace.",
        "KVM_PAGES_PER_HPAGE KVM_HPAGE_GFN_SHIFT gfn_round_for_level": "Pages of a level.",
    },
    "Changing SPTEs": {
        "kvm_tdp_mmu_read_spte": "READ_ONCE().",
        "__kvm_tdp_mmu_write_spte": "WRITE_ONCE().",
        "kvm_tdp_mmu_write_spte_atomic": "xchg().",
        "kvm_tdp_mmu_write_spte": "xchg() where another may change the SPTE, else a store; what was there.",
        "tdp_mmu_clear_spte_bits_atomic": "Takes bits away in one step; what was there.",
        "tdp_mmu_clear_spte_bits": "The same, or a store where nobody else changes the SPTE.",
        "tdp_mmu_iter_set_spte": "tdp_mmu_set_spte() where the walk stands; mmu_lock for write.",
    },
    "Walks": {
        "tdp_iter":
            "gfn, old_spte, sptep, level, root_level, min_level, pt_path, next_last_level_gfn, yielded_gfn, valid,"
                    " yielded, as_id, gfn_bits.",
        "tdp_iter_start tdp_iter_next": "Inside RCU. Each SPTE that is read is a step.",
        "for_each_tdp_pte for_each_tdp_pte_min_level for_each_tdp_pte_min_level_all tdp_root_for_each_pte"
        " tdp_root_for_each_leaf_pte tdp_mmu_for_each_pte": "Every entry, or every leaf, of [start, end).",
        "tdp_mmu_iter_cond_resched":
            "Where a scenario has it yield: drops RCU and mmu_lock and takes them again; true, and"
                                     " iter->yielded. shared: mmu_lock is held for read.",
        "tdp_mmu_max_gfn_exclusive": "The end of the VM's gfns.",
    },
    "Roots": {
        "kvm_tdp_mmu_root_types KVM_INVALID_ROOTS KVM_DIRECT_ROOTS KVM_MIRROR_ROOTS KVM_VALID_ROOTS KVM_ALL_ROOTS":
            "Which roots a walk takes.",
        "for_each_valid_tdp_mmu_root_yield_safe for_each_tdp_mmu_root_yield_safe __for_each_tdp_mmu_root_yield_safe":
            "Holds a reference to the root it stands at; mmu_lock in either mode. Leaving it early keeps the"
            " reference.",
        "for_each_tdp_mmu_root for_each_valid_tdp_mmu_root": "Without references: mmu_lock for write.",
        "for_each_tdp_mmu_root_rcu": "Without references: inside RCU.",
        "kvm_tdp_mmu_get_root": "One reference more unless it has none: whether it has.",
        "kvm_tdp_mmu_put_root": "One less; the last one queues the root for freeing. mmu_lock for read.",
        "tdp_mmu_get_root_for_fault": "The root that the fault walks: of its vCPU, mirror or direct.",
        "kvm_gfn_direct_bits kvm_is_addr_direct": "The shared bit of a TD's gfns; 0: there is none.",
    },
    "Faults": {
        "kvm_page_fault":
            "gfn, pfn, error_code, max_level, req_level, goal_level, write, exec, user, present, prefetch,"
                          " map_writable, is_private, huge_page_disallowed, nx_huge_page_workaround_enabled, slot,"
                          " mmu_seq.",
        "kvm_vcpu": "kvm, vcpu_id.",
        "kvm_memory_slot": "fault->slot is NULL without one, and says nothing more.",
        "mmu_invalidate_retry_gfn":
            "Whether an invalidation of gfn is under way, or one ended since seq. mmu_lock held.",
        "RET_PF_CONTINUE RET_PF_RETRY RET_PF_EMULATE RET_PF_WRITE_PROTECTED RET_PF_INVALID RET_PF_FIXED"
        " RET_PF_SPURIOUS":
            "How a fault ends.",
    },
    "The VM": {
        "kvm":
            "mmu_lock, vm_bugged, vm_dead, mmu_invalidate_seq, mmu_invalidate_in_progress, arch; tdpfast_private[8] are"
               " the design's own words, 0 in a fresh VM.",
        "kvm_arch": "tdp_mmu_pages, tdp_mmu_pages_lock, shadow_mmio_value, gfn_direct_bits.",
        "tdpfast_running_kvm": "The VM whose code runs, where no parameter says so.",
        "kvm_flush_remote_tlbs kvm_flush_remote_tlbs_range kvm_flush_remote_tlbs_gfn":
            "A flush of the direct roots' TLBs.",
        "kvm_make_all_cpus_request": "KVM_REQ_OUTSIDE_GUEST_MODE kicks every vCPU out of the guest; KVM_REQ_VM_DEAD,"
                                     " KVM_REQ_TLB_FLUSH.",
        "KVM_REQ_OUTSIDE_GUEST_MODE KVM_REQ_VM_DEAD KVM_REQ_TLB_FLUSH": "Requests.",
        "kvm_vm_dead": "The VM is dead: its vCPUs do not enter the guest any more.",
        "trace_kvm_tdp_mmu_spte_changed trace_kvm_mmu_prepare_zap_page": "A record of this tracepoint.",
        "trace_kvm_mmu_split_huge_page trace_kvm_mmu_get_page trace_kvm_mmu_set_spte":
            "Nothing: the core records these.",
    },
    "Hooks": {
        "kvm_x86_call": "kvm_x86_call(set_external_spte)(kvm, gfn, old_spte, new_spte, level), and link_external_spt,"
            " remove_external_spte, free_external_spt, split_external_spt: the base's hook, with a scenario's scripted"
            " failures and a record in the trace.",
        "kvm_x86_ops": "kvm_x86_ops.set_external_spte: whether the base has the hook.",
        "TDPFAST_HOOK": "TDPFAST_HOOK(name, function): what kvm_x86_call(name) calls, a hook of the file's own.",
        "TDPFAST_DESIGN": 'TDPFAST_DESIGN("mine", .base = "v7.3", .knobs = "max_level=2"): what it is.',
        "tdpfast_design": "What TDPFAST_DESIGN() defines.",
    },
    "KVM's TDX side": {
        "kvm_tdx tdx_td": "td, hkid, state, pre_fault_allowed, wait_for_sept_zap, nr_premapped, page_add_src.",
        "kvm_tdx_state TD_STATE_UNINITIALIZED TD_STATE_INITIALIZED TD_STATE_RUNNABLE": "How far a TD is.",
        "to_kvm_tdx": "The TD's; NULL without one.",
        "is_hkid_assigned is_td_finalized": "Steps where a scenario has somebody release the key, or finalise.",
        "tdx_reclaim_page __tdx_reclaim_page tdx_reclaim_control_page":
            "PHYMEM.PAGE.RECLAIM and a write-back: 0, or -EIO with an assertion.",
        "tdx_clear_page tdx_quirk_reset_page": "A record in the trace.",
        "alloc_page get_zeroed_page": "A page for the external table; NULL or 0 without memory.",
        "free_page __free_page": "Gives such a page back: check page if the module still has it.",
        "virt_to_page page_address pfn_to_page page_to_pfn page_to_phys virt_to_phys __pa __va gfn_to_gpa gpa_to_gfn"
        " pfn_to_hpa pg_level_to_tdx_sept_level": "Conversions. A page is its address.",
        "tdx_operand_busy TDX_OPERAND_BUSY TDX_OPERAND_ID_RCX TDX_EPT_ENTRY_STATE_INCORRECT TDX_STATUS":
            "Statuses of SEAMCALLs.",
        "tdh_mem_page_add tdh_mem_sept_add tdh_mem_page_aug tdh_mem_page_demote tdh_mem_page_promote"
        " tdh_mem_range_block tdh_mem_range_unblock tdh_mem_page_remove tdh_mem_sept_remove tdh_mem_sept_rd"
        " tdh_mem_track tdh_phymem_page_reclaim tdh_phymem_page_wbinvd_hkid":
            "The SEAMCALL, in the module's own steps; its status, and the extended errors.",
        "tdh_do_no_vcpus": "The call, and on BUSY once more with every vCPU kicked and kept out. mmu_lock for write.",
        "tdx_no_vcpus_enter_start tdx_no_vcpus_enter_stop": "Kicks every vCPU and keeps it out; lets them in again.",
        "tdx_mem_page_aug": "PAGE.AUG as the base does it: 0, -EBUSY, or -EIO with the VM bugged.",
    },
    "Words of the language": {
        "u8 u16 u32 u64 s8 s16 s32 s64 __u8 __u16 __u32 __u64 gfn_t gpa_t hpa_t hfn_t kvm_pfn_t phys_addr_t tdp_ptep_t"
        " size_t uintptr_t bool gfp_t page pg_level PG_LEVEL_NONE PG_LEVEL_4K PG_LEVEL_2M PG_LEVEL_1G PG_LEVEL_512G"
        " PG_LEVEL_256T PG_LEVEL_NUM": "Types.",
        "true false NULL EPERM ENOENT EIO ENXIO EAGAIN ENOMEM EFAULT EBUSY EINVAL ENOSYS EOPNOTSUPP PAGE_SHIFT"
        " PAGE_SIZE"
        " PT64_ROOT_MAX_LEVEL KVM_MAX_HUGEPAGE_LEVEL SPTE_ENT_PER_PAGE INVALID_PAGE GFP_KERNEL GFP_KERNEL_ACCOUNT"
        " GFP_ATOMIC": "Numbers.",
        "__rcu __user __init __must_check __always_inline noinline __maybe_unused likely unlikely fallthrough":
            "Annotations.",
        "ALIGN ALIGN_DOWN IS_ALIGNED round_up round_down min max min_t max_t swap ARRAY_SIZE offsetof container_of"
        " ERR_PTR"
        " PTR_ERR IS_ERR IS_ERR_OR_NULL": "As in the kernel.",
        "IS_ENABLED": "0.",
    },
    "Not here": {
        "kmalloc kzalloc kvzalloc kfree":
            "A design has no heap: kvm->tdpfast_private, sp->tdpfast_private or static data.",
        "synchronize_rcu msleep": "They sleep, and what a design replaces runs under mmu_lock: call_rcu().",
    },
}


class Word(NamedTuple):
    """One name. signature: as the header has it, parameters included; section and text: what it is."""

    signature: str
    section: str
    text: str


def signatures() -> dict[str, str]:
    """Name -> how it is written, of everything that the headers offer a file; internal names begin with tdpf."""
    text = "\n".join((INCLUDE / header).read_text() for header in HEADERS)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL).replace("\\\n", " ")
    found: dict[str, str] = {}
    for name, params in re.findall(r"^#define (\w+)(\([^)]*\))?", text, re.MULTILINE):
        found.setdefault(name, name + params)
    for result, name, params in re.findall(r"^static inline ([\w \*]+?)(\w+)(\([^)]*\))", text, re.MULTILINE):
        found.setdefault(name, f"{result}{name}{params}")
    plain = r"^(?:extern )?(void \*?)(mem\w+|\w*free|\w+sleep|synchronize_rcu)(\([^)]*\))"
    for result, name, params in re.findall(plain, text, re.MULTILINE):
        found.setdefault(name, f"{result}{name}{params}")
    for name in re.findall(r"^TDPF_NOT\((\w+),", text, re.MULTILINE):
        found[name] = f"{name}(...)"
    for kind, name in re.findall(r"^(struct|union|enum) (\w+)\b", text, re.MULTILINE):
        found.setdefault(name, f"{kind} {name}")
    for name in re.findall(r"^typedef (?:[^;{]|\{[^}]*\})*?\b(\w+);", text, re.MULTILINE):
        found.setdefault(name, f"typedef {name}")
    for body in re.findall(r"enum(?: \w+)? \{([^}]*)\}", text):
        found.update({name: name for name in re.findall(r"\b([A-Z]\w+)", body)})
    return {name: " ".join(how.split()) for name, how in found.items()
            if not re.match(r"_*tdpf_|TDPF_|TDPFAST_\w+_H$", name)}


@functools.cache
def words() -> dict[str, Word]:
    """Name -> what it is, in the order of the sections."""
    how = signatures()
    return {name: Word(how.get(name, name), section, text) for section, rows in TEXTS.items()
            for names, text in rows.items() for name in names.split()}
