# cython: language_level=3
"""vmx/tdx.c: the hooks that the TDP MMU calls, as each design dispatches them (see hooks.pxd).

Each hook is wrapped once: scripted failures are answered before KVM's code runs, and the call is recorded after
its SEAMCALLs, with its result.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memset

from tdpfast._names cimport (
    CHANGE_COLLAPSE, CHANGE_LEAF_LEAF, CHANGE_MAP_LEAF, CHANGE_MAP_TABLE, CHANGE_SPLIT, CHANGE_TABLE_TABLE,
    CHANGE_ZAP_LEAF, CHANGE_ZAP_TABLE, DISPATCH_HUGEPAGE, DISPATCH_PATCH07, DISPATCH_SINGLE, DISPATCH_V618, EIO,
    EV_FREE_EXT, EV_LINK_EXT, EV_LIVELOCK, EV_REMOVE_EXT, EV_SET_EXT, GATE_TWICE, HOOK_FREE, HOOK_REMOVE, HOOK_SET,
    RECLAIM_OP_RCU,
)
from tdpfast._mmu.arena cimport Sp
from tdpfast._ops.ops cimport HookRule, Op
from tdpfast._spte cimport is_last_spte, is_shadow_present_pte, spte_to_pfn
from tdpfast._sync.atomic cimport tdp_unlikely
from tdpfast._sync.cpu cimport ABORT_LIVELOCK, Event, lockdep_assert_held, sync_abort, trace1, trace3, trace_new
from tdpfast._mmu.tdp_mmu cimport kvm_bug_on, spte_to_child_sp
from tdpfast._tdx.tdx cimport (
    tdx_alloc_external, tdx_free_external, tdx_free_page, tdx_of, tdx_sept_add, tdx_sept_free_private_spt,
    tdx_sept_map_leaf_spte, tdx_sept_map_nonleaf_spte, tdx_sept_reclaim_private_spt, tdx_sept_remove_leaf_spte,
    tdx_vm_dead,
)
from tdpfast._tdx.design_ops cimport TdxOps, tdx_ops
from tdpfast._tdx.state cimport Tdx
from tdpfast._tdx.premap cimport premap_remove_private_spte, premap_set_private_spte
from tdpfast._tdx.split cimport tdx_gmem_max_mapping_level, tdx_sept_split_private_spte

# ---- dispatch: what each design makes of a change -----------------------------------------------------------------

cdef int tdx_map_spte(Cpu *c, Tdx *t, uint64_t gfn, uint64_t new_spte, int level) noexcept nogil:
    """non-present -> present, leaf or table."""
    if not is_shadow_present_pte(new_spte):
        kvm_bug_on(c, &t.vm.kvm, b"tdx_sept_set_private_spte", b"new_not_present")
        return -EIO
    if not is_last_spte(new_spte, level):
        return tdx_sept_map_nonleaf_spte(c, t, gfn, level, new_spte)
    if t.design.premap:
        return premap_set_private_spte(c, t, gfn, level, spte_to_pfn(new_spte))
    return tdx_sept_map_leaf_spte(c, t, gfn, level, new_spte)


cdef int set_private_spte_single(Cpu *c, Tdx *t, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                                 int level) noexcept nogil:
    """single-hook: every change comes here. Present to present is a split or falls through to mapping."""
    cdef Sp *child
    if is_shadow_present_pte(old_spte):
        if is_shadow_present_pte(new_spte):
            if is_last_spte(old_spte, level) and not is_last_spte(new_spte, level):
                return tdx_sept_split_private_spte(c, t, gfn, level, old_spte, new_spte, not c.held.mmu_write)
        elif is_last_spte(old_spte, level):
            return tdx_sept_remove_leaf_spte(c, t, gfn, level, old_spte)
        else:
            child = spte_to_child_sp(&t.vm.kvm, old_spte)
            return tdx_sept_reclaim_private_spt(c, t, child) if child != NULL else -EIO
    return tdx_map_spte(c, t, gfn, new_spte, level)


cdef int tdx_sept_set_private_spte(Cpu *c, Tdx *t, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                                   int level) noexcept nogil:
    cdef const TdxOps *ops = tdx_ops(t)
    if tdp_unlikely(ops != NULL):
        return ops.tdx_sept_set_private_spte(c, t, gfn, old_spte, new_spte, level)
    return base_tdx_sept_set_private_spte(c, t, gfn, old_spte, new_spte, level)


cdef int base_tdx_sept_set_private_spte(Cpu *c, Tdx *t, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                                        int level) noexcept nogil:
    """set_external_spte() of each design. mmu_lock held, in either mode."""
    cdef int dispatch = t.design.dispatch
    if dispatch == DISPATCH_V618 or dispatch == DISPATCH_PATCH07:
        return tdx_map_spte(c, t, gfn, new_spte, level)
    lockdep_assert_held(c, b"tdx_sept_set_private_spte", b"mmu_lock")
    if dispatch == DISPATCH_SINGLE:
        return set_private_spte_single(c, t, gfn, old_spte, new_spte, level)
    if is_shadow_present_pte(old_spte):
        if dispatch == DISPATCH_HUGEPAGE and is_shadow_present_pte(new_spte):
            # The hook's argument `shared`, where a design has one, is the mode mmu_lock is held in.
            return tdx_sept_split_private_spte(c, t, gfn, level, old_spte, new_spte, not c.held.mmu_write)
        if t.vm.kvm.design.gate == GATE_TWICE and is_shadow_present_pte(new_spte):
            kvm_bug_on(c, &t.vm.kvm, b"tdx_sept_set_private_spte", b"both_present")
            return -EIO
        # v7.3 does not look at the new value: whatever it is, the leaf goes.
        return tdx_sept_remove_leaf_spte(c, t, gfn, level, old_spte)
    return tdx_map_spte(c, t, gfn, new_spte, level)


# ---- the hooks, wrapped -------------------------------------------------------------------------------------------

cdef int change_kind(uint64_t old_spte, uint64_t new_spte, int level) noexcept nogil:
    cdef bint was = is_shadow_present_pte(old_spte)
    cdef bint now = is_shadow_present_pte(new_spte)
    cdef bint was_leaf = was and is_last_spte(old_spte, level)
    cdef bint now_leaf = now and is_last_spte(new_spte, level)
    if not was:
        return CHANGE_MAP_LEAF if now_leaf else CHANGE_MAP_TABLE
    if not now:
        return CHANGE_ZAP_LEAF if was_leaf else CHANGE_ZAP_TABLE
    if was_leaf:
        return CHANGE_LEAF_LEAF if now_leaf else CHANGE_SPLIT
    return CHANGE_COLLAPSE if now_leaf else CHANGE_TABLE_TABLE


cdef bint scripted_hook(Cpu *c, Kvm *kvm, int hook, int kind, int level, uint64_t gfn, int *ret) noexcept nogil:
    """Whether a rule of the CPU's current operation answers this call."""
    cdef Op *op = <Op *>c.user
    cdef HookRule *rule
    cdef int i
    if op == NULL:
        return False
    for i in range(op.nrules):
        rule = &op.rules[i]
        if rule.hook != hook or (rule.kind and rule.kind != kind) or (rule.level and rule.level != level):
            continue
        if rule.has_gfn and rule.gfn != gfn:
            continue
        if rule.count >= 0 and rule.used >= rule.count:
            continue
        rule.seen += 1
        if rule.seen <= rule.skip:
            continue
        rule.used += 1
        if rule.count >= 0:
            # A retry that comes after a used-up rule is not the same round again.
            c.used_up += 1
        ret[0] = rule.ret
        return True
    return False


cdef void note_failure(Cpu *c, Tdx *t, uint64_t gfn, uint64_t old_spte, uint64_t new_spte, int level,
                       int ret) noexcept nogil:
    """Counts identical failures; the recordings call the 8th in one operation a livelock."""
    cdef uint64_t key
    if ret == 0 or t.livelock_after == 0:
        return
    key = ((gfn * 31 + old_spte) * 31 + new_spte) * 31 + <uint64_t>level
    if key != t.last_failure:
        t.last_failure = key
        t.same_failures = 0
    t.same_failures += 1
    if t.same_failures >= t.livelock_after:
        if t.cut_at_next:
            if not t.cut:
                trace1(c, EV_LIVELOCK, 0)
            t.cut = True
        else:
            sync_abort(c, ABORT_LIVELOCK)


cdef void note_set(Cpu *c, Tdx *t, uint64_t gfn, uint64_t old_spte, uint64_t new_spte, int level, int ret,
                   bint injected, bint split_op) noexcept nogil:
    """The record of a change that a hook was called for, with its result."""
    cdef Event *e
    if c.trace != NULL:
        e = trace_new(c, EV_SET_EXT)
        e.a[0] = gfn
        e.a[1] = level
        e.a[2] = old_spte
        e.a[3] = new_spte
        e.a[4] = <uint64_t>ret
        e.a[5] = injected
        e.a[6] = split_op
    note_failure(c, t, gfn, old_spte, new_spte, level, ret)


cdef int hook_set_external_spte(Cpu *c, Kvm *kvm, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                                int level) noexcept nogil:
    cdef Tdx *t = tdx_of(kvm)
    cdef int ret = 0
    cdef bint injected = scripted_hook(c, kvm, HOOK_SET, change_kind(old_spte, new_spte, level), level, gfn, &ret)
    if not injected:
        ret = tdx_sept_set_private_spte(c, t, gfn, old_spte, new_spte, level)
    note_set(c, t, gfn, old_spte, new_spte, level, ret, injected, False)
    return ret


cdef int hook_split_external_spt(Cpu *c, Kvm *kvm, uint64_t gfn, int level, uint64_t old_spte, uint64_t new_spte,
                                 bint shared) noexcept nogil:
    cdef Tdx *t = tdx_of(kvm)
    cdef int ret = 0
    cdef bint injected = scripted_hook(c, kvm, HOOK_SET, CHANGE_SPLIT, level, gfn, &ret)
    if not injected:
        ret = tdx_sept_split_private_spte(c, t, gfn, level, old_spte, new_spte, shared)
    note_set(c, t, gfn, old_spte, new_spte, level, ret, injected, True)
    return ret


cdef int hook_link_external_spt(Cpu *c, Kvm *kvm, uint64_t gfn, int level, uint64_t external_spt) noexcept nogil:
    cdef Tdx *t = tdx_of(kvm)
    cdef Event *e
    cdef int ret = 0
    if not scripted_hook(c, kvm, HOOK_SET, CHANGE_MAP_TABLE, level, gfn, &ret):
        ret = tdx_sept_add(c, t, gfn, level, external_spt, b"tdx_sept_link_private_spt")
    if c.trace != NULL:
        e = trace_new(c, EV_LINK_EXT)
        e.a[0] = gfn
        e.a[1] = level
        e.a[2] = <uint64_t>ret
        e.a[3] = external_spt != 0
    note_failure(c, t, gfn, 0, external_spt, level, ret)
    return ret


cdef void hook_remove_external_spte(Cpu *c, Kvm *kvm, uint64_t gfn, int level, uint64_t spte) noexcept nogil:
    cdef Tdx *t = tdx_of(kvm)
    cdef int ret = 0
    if scripted_hook(c, kvm, HOOK_REMOVE, CHANGE_ZAP_LEAF, level, gfn, &ret):
        pass
    elif t.design.premap:
        ret = premap_remove_private_spte(c, t, gfn, level, spte_to_pfn(spte))
    else:
        tdx_sept_remove_leaf_spte(c, t, gfn, level, spte)
    trace3(c, EV_REMOVE_EXT, gfn, level, spte)
    if ret and t.design.premap:
        # Only the hook of 6.16 to 6.18 returns something, and its caller looks at it.
        kvm_bug_on(c, kvm, b"remove_external_spte", b"removal_failed")


cdef int hook_free_external_spt(Cpu *c, Kvm *kvm, uint64_t gfn, int level, Sp *sp) noexcept nogil:
    cdef Tdx *t = tdx_of(kvm)
    cdef uint64_t page = sp.external_spt
    cdef Event *e
    cdef int ret = 0
    # A hook that returns nothing cannot be made to fail.
    cdef bint injected = (kvm.design.reclaim == RECLAIM_OP_RCU
                          and scripted_hook(c, kvm, HOOK_FREE, 0, level, gfn, &ret))
    if not injected:
        ret = tdx_sept_free_private_spt(c, t, sp)
        if kvm.design.reclaim != RECLAIM_OP_RCU:
            if ret == 0:
                tdx_free_page(c, t, page)
            sp.external_spt = 0
    if c.trace != NULL:
        e = trace_new(c, EV_FREE_EXT)
        e.a[0] = gfn
        e.a[1] = level
        e.a[2] = page
        e.a[3] = <uint64_t>ret
        e.a[4] = 1
        e.a[5] = injected
    return ret


cdef void tdx_hooks(Kvm *kvm, Tdx *t) noexcept nogil:
    """Wires the hooks of the VM's design."""
    cdef int dispatch = t.design.dispatch
    memset(&kvm.hooks, 0, sizeof(kvm.hooks))
    kvm.hooks.opaque = t
    kvm.hooks.set_external_spte = hook_set_external_spte
    kvm.hooks.alloc_external = tdx_alloc_external
    kvm.hooks.free_external = tdx_free_external
    kvm.hooks.vm_dead = tdx_vm_dead
    kvm.hooks.gmem_max_mapping_level = tdx_gmem_max_mapping_level
    if kvm.design.split_op:
        kvm.hooks.split_external_spt = hook_split_external_spt
    if dispatch == DISPATCH_V618:
        kvm.hooks.link_external_spt = hook_link_external_spt
    if dispatch == DISPATCH_V618 or dispatch == DISPATCH_PATCH07:
        kvm.hooks.remove_external_spte = hook_remove_external_spte
    if dispatch != DISPATCH_SINGLE:
        kvm.hooks.free_external_spt = hook_free_external_spt
