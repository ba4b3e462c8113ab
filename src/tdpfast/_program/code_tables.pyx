# cython: language_level=3
"""The core as a design file sees it, continued: the VM, its tables, hooks, and KVM's TDX side (see code_api.pyx)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from tdpfast._names cimport EV_DIRTY, EV_FLUSH_ALL, EV_RCU_FREE, EV_RESET_PADDR, SYNC_STORE
from tdpfast._mmu.arena cimport SP_LINKED, Arena, Sp, hpa_to_sp, sp_hpa, sptep_to_sp
from tdpfast._mmu.tdp_iter cimport TdpIter, spte_to_child_pt, tdp_iter_next, tdp_iter_start
from tdpfast._mmu.tdp_mmu cimport (
    Fault, Hooks, Kvm, kvm_gfn_root_bits, kvm_spte_warn, kvm_update_page_stats, propagate_external, tdp_mmu_free_sp,
    untrack_possible_nx_huge_page, vcpu_roots,
)
from tdpfast._mmu.tdp_mmu_loop cimport kvm_flush_remote_tlbs_range
from tdpfast._mmu.tdp_mmu_map cimport fault_allowed, make_fault_spte
from tdpfast._mmu.invalidate cimport mmu_invalidate_retry_gfn
from tdpfast._mmu.tdp_mmu_roots cimport (
    kvm_tdp_mmu_get_root, kvm_tdp_mmu_put_root, next_root_rcu, next_root_write, tdp_mmu_next_root,
)
from tdpfast._mmu.tdp_mmu_sp cimport (
    tdp_mmu_alloc_sp, tdp_mmu_free_unused_sp, tdp_mmu_init_child_sp, track_possible_nx_huge_page,
)
from tdpfast._seam.module cimport SeamRegs
from tdpfast._spte cimport (
    check_spte_writable_invariants, is_accessed_spte, is_mmio_spte, kvm_tdp_mmu_spte_need_atomic_update,
    make_huge_spte, make_nonleaf_spte, make_small_spte, mark_spte_for_access_track,
)
from tdpfast._sync.atomic cimport tdp_fetch_add, tdp_store32, tdp_write_once32
from tdpfast._sync.cpu cimport Cpu, running_cpu, RcuHead, sync_point, trace1, trace3
from tdpfast._tdx.state cimport Tdx
from tdpfast._tdx.tdx cimport (
    seamcall3, tdh_do_no_vcpus, tdx_alloc_external, tdx_bug, tdx_free_page, tdx_hkid, tdx_mem_page_aug, tdx_of, tdx_page_add_src, tdx_reclaim_page,
    tdx_request_outside_guest_mode, tdx_seamcall, tdx_state, tdx_vm_dead,
)
from tdpfast._program.code_api cimport calls, running_kvm


# ---- the VM and its tables ----------------------------------------------------------------------------------------

cdef Kvm *api_kvm() noexcept nogil:
    return running_kvm(running_cpu())


cdef Cpu *api_vcpu() noexcept nogil:
    return running_cpu()


cdef uint64_t api_mask(int which) noexcept nogil:
    cdef const Kvm *kvm = running_kvm(running_cpu())
    if which == 0:
        return kvm.spte.frozen_spte
    if which == 1:
        return kvm.spte.shadow_accessed_mask
    if which == 2:
        return kvm.spte.shadow_dirty_mask
    if which == 3:
        return kvm.spte.shadow_mmu_writable_mask
    if which == 4:
        return kvm.spte.shadow_host_writable_mask
    if which == 5:
        return kvm.spte.kvm_ad_enabled
    return <uint64_t>kvm.pml if which == 6 else <uint64_t>kvm.spte.ad_shift


cdef bint api_is_mmio(uint64_t spte) noexcept nogil:
    cdef const Kvm *kvm = running_kvm(running_cpu())
    return is_mmio_spte(&kvm.spte, kvm.shadow_mmio_value, spte)


cdef bint api_need_atomic(uint64_t spte, int level) noexcept nogil:
    return kvm_tdp_mmu_spte_need_atomic_update(&running_kvm(running_cpu()).spte, spte, level)


cdef bint api_is_accessed(uint64_t spte) noexcept nogil:
    return is_accessed_spte(&running_kvm(running_cpu()).spte, spte)


cdef uint64_t api_make_nonleaf(uint64_t hpa, bint ad_disabled) noexcept nogil:
    return make_nonleaf_spte(&running_kvm(running_cpu()).spte, hpa, ad_disabled)


cdef uint64_t api_make_small(uint64_t huge_spte, int level, uint32_t access, int index) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef const Kvm *kvm = running_kvm(c)
    cdef uint32_t warn = 0
    cdef uint64_t spte = make_small_spte(&kvm.spte, huge_spte, level, access, index, kvm.nx_huge_pages, &warn)
    if warn:
        kvm_spte_warn(c, warn)
    return spte


cdef uint64_t api_make_access_track(uint64_t spte) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef uint32_t warn = 0
    spte = mark_spte_for_access_track(&running_kvm(c).spte, spte, &warn)
    if warn:
        kvm_spte_warn(c, warn)
    return spte


cdef int api_writable_invariants(uint64_t spte) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef uint32_t warn = check_spte_writable_invariants(&running_kvm(c).spte, spte)
    if warn:
        kvm_spte_warn(c, warn)
    return <int>warn


cdef bint api_make_fault_spte(Fault *fault, Sp *sp, TdpIter *iter, uint64_t *spte) noexcept nogil:
    cdef Cpu *c = running_cpu()
    return make_fault_spte(c, running_kvm(c), fault, sp, iter, spte)


cdef bint api_fault_allowed(Fault *fault, uint64_t spte) noexcept nogil:
    return fault_allowed(running_kvm(running_cpu()), fault, spte)


cdef Sp *api_sptep_to_sp(const void *sptep) noexcept nogil:
    """NULL for what is no table: the access that follows is the crash."""
    cdef const Arena *a = running_kvm(running_cpu()).arena
    if not <uint64_t>a.base <= <uint64_t>sptep < <uint64_t>a.base + (a.npages << 12):
        return NULL
    return sptep_to_sp(a, <const uint64_t *>sptep)


cdef Sp *api_child_sp(uint64_t spte) noexcept nogil:
    return hpa_to_sp(running_kvm(running_cpu()).arena, spte & 0x000ffffffffff000u)


cdef uint64_t *api_child_pt(uint64_t spte, int level) noexcept nogil:
    return spte_to_child_pt(running_kvm(running_cpu()).arena, spte, level)


cdef uint64_t api_sp_hpa(const Sp *sp) noexcept nogil:
    return sp_hpa(sp)


cdef void api_iter_start(TdpIter *iter, Sp *root, int min_level, uint64_t gfn) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *kvm = running_kvm(c)
    c.code.iter = NULL
    tdp_iter_start(c, iter, kvm.arena, root, min_level, gfn, kvm_gfn_root_bits(kvm, root) if root != NULL else 0)


cdef void api_iter_next(TdpIter *iter) noexcept nogil:
    cdef Cpu *c = running_cpu()
    c.code.iter = NULL
    tdp_iter_next(c, iter)


cdef uint64_t api_max_gfn() noexcept nogil:
    return running_kvm(running_cpu()).spte.max_gfn + 1


cdef void api_page_stats(int level, int64_t count) noexcept nogil:
    cdef Cpu *c = running_cpu()
    kvm_update_page_stats(c, running_kvm(c), level, count)


cdef void api_set_linked(Sp *sp) noexcept nogil:
    tdp_write_once32(&sp.state, SP_LINKED)


cdef void api_untrack_nx(Sp *sp) noexcept nogil:
    untrack_possible_nx_huge_page(running_kvm(running_cpu()), sp)


cdef void api_track_nx(Sp *sp) noexcept nogil:
    track_possible_nx_huge_page(running_kvm(running_cpu()), sp)


cdef Sp *api_alloc_sp(bint external) noexcept nogil:
    """A table that nothing links, with a page for the external table if asked; NULL without memory."""
    cdef Cpu *c = running_cpu()
    return tdp_mmu_alloc_sp(c, running_kvm(c), external)


cdef void api_init_child_sp(Sp *sp, const TdpIter *iter) noexcept nogil:
    cdef Cpu *c = running_cpu()
    tdp_mmu_init_child_sp(c, running_kvm(c), sp, iter)


cdef void api_free_unused_sp(Sp *sp) noexcept nogil:
    """tdp_mmu_free_sp() of a table that was never linked, its external page with it."""
    cdef Cpu *c = running_cpu()
    tdp_mmu_free_unused_sp(c, running_kvm(c), sp)


cdef uint64_t api_make_huge(uint64_t small_spte, int level) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef const Kvm *kvm = running_kvm(c)
    cdef uint32_t warn = 0
    cdef uint64_t spte = make_huge_spte(&kvm.spte, small_spte, level, kvm.nx_huge_pages, &warn)
    if warn:
        kvm_spte_warn(c, warn)
    return spte


cdef void api_dirty(uint64_t gfn) noexcept nogil:
    trace1(running_cpu(), EV_DIRTY, gfn)


cdef bint api_invalidate_retry(uint32_t line, uint64_t seq, uint64_t gfn) noexcept nogil:
    """mmu_invalidate_retry_gfn(). mmu_lock held."""
    cdef Cpu *c = running_cpu()
    return mmu_invalidate_retry_gfn(c, calls(c, line), seq, gfn)


cdef Sp *api_next_root(uint32_t line, Sp *prev, int types, int how) noexcept nogil:
    """The next root of a walk. how: 0 with references, mmu_lock in either mode; 1 mmu_lock for write; 2 in RCU."""
    cdef Cpu *c = running_cpu()
    cdef Kvm *kvm = calls(c, line)
    if how == 0:
        return tdp_mmu_next_root(c, kvm, prev, types)
    return next_root_write(c, kvm, prev, types, b"for_each_tdp_mmu_root") if how == 1 else next_root_rcu(
        c, kvm, prev, types)


cdef bint api_get_root(uint32_t line, Sp *root) noexcept nogil:
    cdef Cpu *c = running_cpu()
    calls(c, line)
    return kvm_tdp_mmu_get_root(c, root)


cdef void api_put_root(uint32_t line, Sp *root) noexcept nogil:
    cdef Cpu *c = running_cpu()
    kvm_tdp_mmu_put_root(c, calls(c, line), root)


cdef Sp *api_fault_root(const Fault *fault) noexcept nogil:
    """The root that a fault walks."""
    cdef Cpu *c = running_cpu()
    return vcpu_roots(c, running_kvm(c))[fault.root]


cdef void api_free_sp(Sp *sp) noexcept nogil:
    cdef Cpu *c = running_cpu()
    tdp_mmu_free_sp(c, running_kvm(c), sp)


cdef void api_rcu_begun(RcuHead *head) noexcept nogil:
    """A callback of the file's own begins: the table's head is free again."""
    cdef Cpu *c = running_cpu()
    cdef Sp *sp = sptep_to_sp(running_kvm(c).arena, <uint64_t *>head.page)
    head.epoch = 0
    trace3(c, EV_RCU_FREE, sp.level, sp.gfn, not sp.is_mirror)


cdef void api_flush(uint64_t gfn, uint64_t pages) noexcept nogil:
    cdef Cpu *c = running_cpu()
    if pages:
        kvm_flush_remote_tlbs_range(c, running_kvm(c), gfn, pages)
    else:
        trace1(c, EV_FLUSH_ALL, 0)


# ---- hooks of the base --------------------------------------------------------------------------------------------

cdef bint api_has_hook(int which) noexcept nogil:
    cdef const Hooks *h = &running_kvm(running_cpu()).hooks
    return (h.set_external_spte != NULL if which == 0 else h.link_external_spt != NULL if which == 1
            else h.remove_external_spte != NULL if which == 2 else h.free_external_spt != NULL if which == 3
            else h.split_external_spt != NULL)


cdef int api_hook_set(uint32_t line, uint64_t gfn, uint64_t old_spte, uint64_t new_spte, int level) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *kvm = calls(c, line)
    return propagate_external(c, kvm, gfn, old_spte, new_spte, level)


cdef int api_hook_link(uint32_t line, uint64_t gfn, int level, uint64_t external_spt) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *kvm = calls(c, line)
    if kvm.hooks.link_external_spt == NULL:
        return 0
    return kvm.hooks.link_external_spt(c, kvm, gfn, level, external_spt)


cdef void api_hook_remove(uint32_t line, uint64_t gfn, int level, uint64_t mirror_spte) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *kvm = calls(c, line)
    if kvm.hooks.remove_external_spte != NULL and not kvm.design.no_hook_on_zap:
        kvm.hooks.remove_external_spte(c, kvm, gfn, level, mirror_spte)


cdef int api_hook_free(uint32_t line, uint64_t gfn, int level, Sp *sp) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *kvm = calls(c, line)
    return 0 if kvm.hooks.free_external_spt == NULL else kvm.hooks.free_external_spt(c, kvm, gfn, level, sp)


cdef int api_hook_split(uint32_t line, uint64_t gfn, int level, uint64_t old_spte, uint64_t new_spte,
                        bint shared) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *kvm = calls(c, line)
    if kvm.hooks.split_external_spt == NULL:
        return 0
    return kvm.hooks.split_external_spt(c, kvm, gfn, level, old_spte, new_spte, shared)


cdef int api_note_failure(int ret) noexcept nogil:
    """An external update of the file's own failed: retry loops look at the count."""
    if ret:
        tdp_fetch_add(&running_kvm(running_cpu()).hook_failures, 1)
    return ret


# ---- KVM's TDX side -----------------------------------------------------------------------------------------------

cdef inline Tdx *running_td(Cpu *c) noexcept nogil:
    return tdx_of(running_kvm(c))


cdef Tdx *api_tdx(void *kvm) noexcept nogil:
    return running_td(running_cpu())


cdef int api_tdx_state() noexcept nogil:
    cdef Cpu *c = running_cpu()
    return tdx_state(c, running_td(c))


cdef int api_tdx_hkid() noexcept nogil:
    cdef Cpu *c = running_cpu()
    return tdx_hkid(c, running_td(c))


cdef uint64_t api_page_add_src() noexcept nogil:
    cdef Cpu *c = running_cpu()
    return tdx_page_add_src(c, running_td(c))


cdef bint api_slots_locked() noexcept nogil:
    return running_cpu().held.slots_lock != 0


cdef uint64_t api_seamcall(uint32_t line, int leaf, uint64_t rcx, uint64_t rdx, uint64_t r8, uint64_t r9,
                           uint64_t *out) noexcept nogil:
    """One SEAMCALL. A negative leaf: rdx is an HKID, which belongs into the address. Yields."""
    cdef Cpu *c = running_cpu()
    cdef Tdx *t = running_td(c)
    cdef SeamRegs r
    cdef uint64_t err
    calls(c, line)
    if leaf < 0:
        err = seamcall3(c, t, -leaf, rcx | rdx << t.seam.hkid_shift, 0, 0, &r)
    elif r9:
        memset(&r, 0, sizeof(r))
        r.rcx = rcx
        r.rdx = rdx
        r.r8 = r8
        r.r9 = r9
        err = tdx_seamcall(c, t, leaf, &r)
    else:
        err = seamcall3(c, t, leaf, rcx, rdx, r8, &r)
    if out != NULL:
        out[0] = r.rcx
        out[1] = r.rdx
    return err


cdef uint64_t api_no_vcpus(uint32_t line, int leaf, uint64_t rcx, uint64_t rdx, uint64_t r8) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef SeamRegs r
    calls(c, line)
    return tdh_do_no_vcpus(c, running_td(c), leaf, rcx, rdx, r8, &r)


cdef void api_keep_out(uint32_t line, bint on) noexcept nogil:
    """wait_for_sept_zap, and when it is set a kick of every vCPU. Yields."""
    cdef Cpu *c = running_cpu()
    cdef Tdx *t = running_td(c)
    calls(c, line)
    sync_point(c, SYNC_STORE, <uint64_t>&t.wait_for_sept_zap)
    tdp_store32(&t.wait_for_sept_zap, on)
    if on:
        tdx_request_outside_guest_mode(c, t)


cdef void api_request(uint32_t line, int which) noexcept nogil:
    cdef Cpu *c = running_cpu()
    cdef Kvm *kvm = calls(c, line)
    if which:
        tdx_vm_dead(c, kvm)
    else:
        tdx_request_outside_guest_mode(c, tdx_of(kvm))


cdef int api_page_aug(uint32_t line, uint64_t gfn, int level, uint64_t pfn) noexcept nogil:
    cdef Cpu *c = running_cpu()
    return tdx_mem_page_aug(c, tdx_of(calls(c, line)), gfn, level, pfn)


cdef void api_tdx_bug(uint32_t line, const char *func, const char *what, int leaf, uint64_t err) noexcept nogil:
    cdef Cpu *c = running_cpu()
    tdx_bug(c, tdx_of(calls(c, line)), func, what, leaf, err)


cdef int api_reclaim_page(uint32_t line, uint64_t page) noexcept nogil:
    cdef Cpu *c = running_cpu()
    return tdx_reclaim_page(c, tdx_of(calls(c, line)), page)


cdef void api_free_page(uint32_t line, uint64_t page) noexcept nogil:
    cdef Cpu *c = running_cpu()
    tdx_free_page(c, tdx_of(calls(c, line)), page)


cdef uint64_t api_alloc_page() noexcept nogil:
    cdef Cpu *c = running_cpu()
    return tdx_alloc_external(c, running_kvm(c))


cdef void api_reset_page(uint64_t page) noexcept nogil:
    trace1(running_cpu(), EV_RESET_PADDR, page)


def api():
    """The address of each function here, by its name in api.h."""
    return {
        "kvm": <size_t>api_kvm, "vcpu": <size_t>api_vcpu, "mask": <size_t>api_mask, "is_mmio": <size_t>api_is_mmio,
        "need_atomic": <size_t>api_need_atomic, "is_accessed": <size_t>api_is_accessed,
        "make_nonleaf": <size_t>api_make_nonleaf, "make_small": <size_t>api_make_small,
        "make_access_track": <size_t>api_make_access_track, "writable_invariants": <size_t>api_writable_invariants,
        "make_fault_spte": <size_t>api_make_fault_spte, "fault_allowed": <size_t>api_fault_allowed,
        "sptep_to_sp": <size_t>api_sptep_to_sp, "child_sp": <size_t>api_child_sp, "child_pt": <size_t>api_child_pt,
        "sp_hpa": <size_t>api_sp_hpa, "iter_start": <size_t>api_iter_start, "iter_next": <size_t>api_iter_next,
        "max_gfn": <size_t>api_max_gfn, "page_stats": <size_t>api_page_stats, "set_linked": <size_t>api_set_linked,
        "untrack_nx": <size_t>api_untrack_nx, "track_nx": <size_t>api_track_nx, "alloc_sp": <size_t>api_alloc_sp,
        "init_child_sp": <size_t>api_init_child_sp, "free_unused_sp": <size_t>api_free_unused_sp,
        "make_huge": <size_t>api_make_huge, "dirty": <size_t>api_dirty, "page_aug": <size_t>api_page_aug,
        "invalidate_retry": <size_t>api_invalidate_retry, "next_root": <size_t>api_next_root,
        "get_root": <size_t>api_get_root, "put_root": <size_t>api_put_root, "fault_root": <size_t>api_fault_root,
        "free_sp": <size_t>api_free_sp, "rcu_begun": <size_t>api_rcu_begun,
        "flush": <size_t>api_flush, "has_hook": <size_t>api_has_hook, "hook_set": <size_t>api_hook_set,
        "hook_link": <size_t>api_hook_link, "hook_remove": <size_t>api_hook_remove,
        "hook_free": <size_t>api_hook_free, "hook_split": <size_t>api_hook_split,
        "note_failure": <size_t>api_note_failure, "tdx": <size_t>api_tdx, "tdx_state": <size_t>api_tdx_state,
        "tdx_hkid": <size_t>api_tdx_hkid, "page_add_src": <size_t>api_page_add_src,
        "slots_locked": <size_t>api_slots_locked, "seamcall": <size_t>api_seamcall, "no_vcpus": <size_t>api_no_vcpus,
        "keep_out": <size_t>api_keep_out, "request": <size_t>api_request, "tdx_bug": <size_t>api_tdx_bug,
        "reclaim_page": <size_t>api_reclaim_page, "free_page": <size_t>api_free_page,
        "alloc_page": <size_t>api_alloc_page, "reset_page": <size_t>api_reset_page,
    }
