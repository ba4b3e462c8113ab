# cython: language_level=3
"""The built-in functions as a design file calls them: base_f(), and f() where the file defines none."""

from libc.stdint cimport uint64_t

from tdpfast._mmu.arena cimport Sp
from tdpfast._mmu.tdp_iter cimport TdpIter
from tdpfast._mmu.tdp_mmu cimport (
    Fault, Kvm, base___handle_changed_spte, base___tdp_mmu_set_spte_atomic, base_handle_changed_spte,
    base_handle_removed_pt, base_tdp_mmu_free_sp_rcu_callback, base_tdp_mmu_set_spte, base_tdp_mmu_set_spte_atomic,
    base_tdp_mmu_unlink_sp,
)
from tdpfast._mmu.tdp_mmu_map cimport base_tdp_mmu_map_handle_target_level, base_tdp_mmu_split_huge_page
from tdpfast._mmu.invalidate cimport base_is_page_fault_stale
from tdpfast._mmu.tdp_mmu_slot cimport base_age_gfn_range, base_clear_dirty_gfn_range, base_wrprot_gfn_range
from tdpfast._mmu.tdp_mmu_sp cimport base_tdp_mmu_link_sp
from tdpfast._mmu.tdp_mmu_zap cimport base___tdp_mmu_zap_root, base_tdp_mmu_zap_leafs
from tdpfast._program.code_api cimport api_retry, calls, running_kvm
from tdpfast._seam.module cimport SeamRegs
from tdpfast._sync.cpu cimport Cpu, RcuHead, running_cpu
from tdpfast._tdx.hooks cimport base_tdx_sept_set_private_spte
from tdpfast._tdx.pamt cimport base_tdx_pamt_get, base_tdx_pamt_put
from tdpfast._tdx.split cimport base_tdx_sept_split_private_spte
from tdpfast._tdx.tdx cimport (
    base_tdh_do_no_vcpus, base_tdx_sept_free_private_spt, base_tdx_sept_map_leaf_spte, base_tdx_sept_map_nonleaf_spte,
    base_tdx_sept_reclaim_private_spt, base_tdx_sept_remove_leaf_spte, base_tdx_track, tdx_of,
)


# ---- the file calls the core --------------------------------------------------------------------------------------

cdef int own_base___tdp_mmu_set_spte_atomic(Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *own = calls(c, 0)
    return base___tdp_mmu_set_spte_atomic(c, own, iter, new_spte)


cdef int own_base_tdp_mmu_set_spte_atomic(Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *own = calls(c, 0)
    cdef int ret = base_tdp_mmu_set_spte_atomic(c, own, iter, new_spte)
    if ret:
        api_retry(0, iter, ret)
    return ret


cdef int own_base___handle_changed_spte(Kvm *kvm, Sp *sp, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                                        int level, bint shared) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *own = calls(c, 0)
    return base___handle_changed_spte(c, own, sp, gfn, old_spte, new_spte, level, shared)


cdef void own_base_handle_changed_spte(Kvm *kvm, Sp *sp, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                                       int level, bint shared) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *own = calls(c, 0)
    base_handle_changed_spte(c, own, sp, gfn, old_spte, new_spte, level, shared)


cdef void own_base_handle_removed_pt(Kvm *kvm, uint64_t *pt, bint shared) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *own = calls(c, 0)
    base_handle_removed_pt(c, own, pt, shared)


cdef uint64_t own_base_tdp_mmu_set_spte(Kvm *kvm, int as_id, uint64_t *sptep, uint64_t old_spte, uint64_t new_spte,
                                        uint64_t gfn, int level) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *own = calls(c, 0)
    return base_tdp_mmu_set_spte(c, own, sptep, old_spte, new_spte, gfn, level)


cdef int own_base_tdp_mmu_link_sp(Kvm *kvm, TdpIter *iter, Sp *sp, bint shared) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *own = calls(c, 0)
    return base_tdp_mmu_link_sp(c, own, iter, sp, shared)


cdef void own_base_tdp_mmu_unlink_sp(Kvm *kvm, Sp *sp) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *own = calls(c, 0)
    base_tdp_mmu_unlink_sp(c, own, sp)


cdef int own_base_tdp_mmu_split_huge_page(Kvm *kvm, TdpIter *iter, Sp *sp, bint shared) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *own = calls(c, 0)
    return base_tdp_mmu_split_huge_page(c, own, iter, sp, shared)


cdef int own_base_tdp_mmu_map_handle_target_level(Cpu *vcpu, Fault *fault, TdpIter *iter) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *own = calls(c, 0)
    return base_tdp_mmu_map_handle_target_level(c, own, fault, iter)


cdef bint own_base_is_page_fault_stale(Cpu *vcpu, Fault *fault) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *own = calls(c, 0)
    return base_is_page_fault_stale(c, own, fault)


cdef void own_base_clear_dirty_gfn_range(Kvm *kvm, Sp *root, uint64_t start, uint64_t end) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *own = calls(c, 0)
    base_clear_dirty_gfn_range(c, own, root, start, end)


cdef bint own_base_wrprot_gfn_range(Kvm *kvm, Sp *root, uint64_t start, uint64_t end, int min_level) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *own = calls(c, 0)
    return base_wrprot_gfn_range(c, own, root, start, end, min_level)


cdef bint own_base_age_gfn_range(Kvm *kvm, Sp *root, uint64_t start, uint64_t end, bint test_only) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *own = calls(c, 0)
    return base_age_gfn_range(c, own, root, start, end, test_only)


cdef void own_base___tdp_mmu_zap_root(Kvm *kvm, Sp *root, bint shared, int zap_level) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *own = calls(c, 0)
    base___tdp_mmu_zap_root(c, own, root, shared, zap_level)


cdef bint own_base_tdp_mmu_zap_leafs(Kvm *kvm, Sp *root, uint64_t start, uint64_t end, bint can_yield,
                                     bint flush) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *own = calls(c, 0)
    return base_tdp_mmu_zap_leafs(c, own, root, start, end, can_yield, flush)


cdef void own_base_tdp_mmu_free_sp_rcu_callback(RcuHead *head) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *own = calls(c, 0)
    base_tdp_mmu_free_sp_rcu_callback(c, own, head)


cdef int own_base_tdx_sept_set_private_spte(Kvm *kvm, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                                            int level) noexcept nogil:
    cdef Cpu *c = running_cpu()
    calls(c, 0)
    return base_tdx_sept_set_private_spte(c, tdx_of(running_kvm(c)), gfn, old_spte, new_spte, level)


cdef int own_base_tdx_sept_map_leaf_spte(Kvm *kvm, uint64_t gfn, int level, uint64_t new_spte) noexcept nogil:
    cdef Cpu *c = running_cpu()
    calls(c, 0)
    return base_tdx_sept_map_leaf_spte(c, tdx_of(running_kvm(c)), gfn, level, new_spte)


cdef int own_base_tdx_sept_map_nonleaf_spte(Kvm *kvm, uint64_t gfn, int level, uint64_t new_spte) noexcept nogil:
    cdef Cpu *c = running_cpu()
    calls(c, 0)
    return base_tdx_sept_map_nonleaf_spte(c, tdx_of(running_kvm(c)), gfn, level, new_spte)


cdef int own_base_tdx_sept_remove_leaf_spte(Kvm *kvm, uint64_t gfn, int level, uint64_t old_spte) noexcept nogil:
    cdef Cpu *c = running_cpu()
    calls(c, 0)
    return base_tdx_sept_remove_leaf_spte(c, tdx_of(running_kvm(c)), gfn, level, old_spte)


cdef int own_base_tdx_sept_free_private_spt(Kvm *kvm, uint64_t gfn, int level, Sp *sp) noexcept nogil:
    cdef Cpu *c = running_cpu()
    calls(c, 0)
    return base_tdx_sept_free_private_spt(c, tdx_of(running_kvm(c)), sp)


cdef int own_base_tdx_sept_reclaim_private_spt(Kvm *kvm, uint64_t gfn, int level, Sp *sp) noexcept nogil:
    cdef Cpu *c = running_cpu()
    calls(c, 0)
    return base_tdx_sept_reclaim_private_spt(c, tdx_of(running_kvm(c)), sp)


cdef int own_base_tdx_sept_split_private_spte(Kvm *kvm, uint64_t gfn, int level, uint64_t old_spte,
                                              uint64_t new_spte, bint shared) noexcept nogil:
    cdef Cpu *c = running_cpu()
    calls(c, 0)
    return base_tdx_sept_split_private_spte(c, tdx_of(running_kvm(c)), gfn, level, old_spte, new_spte, shared)


cdef uint64_t own_base_tdx_do_no_vcpus(Kvm *kvm, int leaf, uint64_t rcx, uint64_t rdx, uint64_t r8) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef SeamRegs r
    calls(c, 0)
    return base_tdh_do_no_vcpus(c, tdx_of(running_kvm(c)), leaf, rcx, rdx, r8, &r)


cdef void own_base_tdx_track(Kvm *kvm) noexcept nogil:
    cdef Cpu *c = running_cpu()
    calls(c, 0)
    base_tdx_track(c, tdx_of(running_kvm(c)))


cdef int own_base_tdx_pamt_get(uint64_t page) noexcept nogil:
    cdef Cpu *c = running_cpu()
    calls(c, 0)
    return base_tdx_pamt_get(c, tdx_of(running_kvm(c)), page)


cdef void own_base_tdx_pamt_put(uint64_t page) noexcept nogil:
    cdef Cpu *c = running_cpu()
    calls(c, 0)
    base_tdx_pamt_put(c, tdx_of(running_kvm(c)), page)


def bases():
    """The address of own_base_f() by the name of f."""
    return {
        "__tdp_mmu_set_spte_atomic": <size_t>own_base___tdp_mmu_set_spte_atomic,
        "tdp_mmu_set_spte_atomic": <size_t>own_base_tdp_mmu_set_spte_atomic,
        "__handle_changed_spte": <size_t>own_base___handle_changed_spte,
        "handle_changed_spte": <size_t>own_base_handle_changed_spte,
        "handle_removed_pt": <size_t>own_base_handle_removed_pt,
        "tdp_mmu_set_spte": <size_t>own_base_tdp_mmu_set_spte,
        "tdp_mmu_link_sp": <size_t>own_base_tdp_mmu_link_sp,
        "tdp_mmu_unlink_sp": <size_t>own_base_tdp_mmu_unlink_sp,
        "tdp_mmu_split_huge_page": <size_t>own_base_tdp_mmu_split_huge_page,
        "tdp_mmu_map_handle_target_level": <size_t>own_base_tdp_mmu_map_handle_target_level,
        "is_page_fault_stale": <size_t>own_base_is_page_fault_stale,
        "clear_dirty_gfn_range": <size_t>own_base_clear_dirty_gfn_range,
        "wrprot_gfn_range": <size_t>own_base_wrprot_gfn_range,
        "age_gfn_range": <size_t>own_base_age_gfn_range,
        "__tdp_mmu_zap_root": <size_t>own_base___tdp_mmu_zap_root,
        "tdp_mmu_zap_leafs": <size_t>own_base_tdp_mmu_zap_leafs,
        "tdp_mmu_free_sp_rcu_callback": <size_t>own_base_tdp_mmu_free_sp_rcu_callback,
        "tdx_sept_set_private_spte": <size_t>own_base_tdx_sept_set_private_spte,
        "tdx_sept_map_leaf_spte": <size_t>own_base_tdx_sept_map_leaf_spte,
        "tdx_sept_map_nonleaf_spte": <size_t>own_base_tdx_sept_map_nonleaf_spte,
        "tdx_sept_remove_leaf_spte": <size_t>own_base_tdx_sept_remove_leaf_spte,
        "tdx_sept_free_private_spt": <size_t>own_base_tdx_sept_free_private_spt,
        "tdx_sept_reclaim_private_spt": <size_t>own_base_tdx_sept_reclaim_private_spt,
        "tdx_sept_split_private_spte": <size_t>own_base_tdx_sept_split_private_spte,
        "tdx_do_no_vcpus": <size_t>own_base_tdx_do_no_vcpus,
        "tdx_track": <size_t>own_base_tdx_track,
        "tdx_pamt_get": <size_t>own_base_tdx_pamt_get,
        "tdx_pamt_put": <size_t>own_base_tdx_pamt_put,
    }
