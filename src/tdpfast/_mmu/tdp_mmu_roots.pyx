# cython: language_level=3
"""tdp_mmu.c: roots. Allocation, iteration with references, invalidation. mmu.c: the roots that a vCPU runs on."""

from libc.stdint cimport uint64_t

from tdpfast._names cimport (
    KVM_DIRECT_ROOTS, KVM_FILTER_PRIVATE, KVM_FILTER_SHARED, KVM_INVALID_ROOTS, KVM_MIRROR_ROOTS, KVM_VALID_ROOTS,
    SYNC_LOAD, SYNC_RMW, SYNC_STORE, UAF_SP,
)
from tdpfast._mmu.arena cimport SP_FREED, SP_LINKED, SP_QUEUED, arena_alloc, sp_invalid, sp_note_uaf
from tdpfast._sync.atomic cimport (
    tdp_fetch_add, tdp_load_acquire, tdp_read_once32, tdp_store_release, tdp_try_cmpxchg, tdp_unlikely,
    tdp_write_once8, tdp_write_once32,
)
from tdpfast._sync.cpu cimport (
    SLOW_RARE, call_rcu, lockdep_assert_held, lockdep_assert_held_write, rcu_read_lock, rcu_read_unlock, read_lock,
    read_unlock, spin_lock, spin_unlock, sync_point, sync_rare,
)
from tdpfast._mmu.hardware cimport tlb_forget
from tdpfast._mmu.tdp_mmu cimport (
    ROOT_DIRECT, ROOT_GUEST_MODE, ROOT_MIRROR, ROOT_SMM, kvm_bug_on, kvm_warn, sp_point, vcpu_roots,
)
from tdpfast._mmu.tdp_mmu_sp cimport tdp_mmu_init_sp


cdef inline void root_point(Cpu *c, Kvm *kvm, const Sp *root) noexcept nogil:
    """A root's descriptor is about to be read by a walk over the list, which may hold no reference to it. Offered where
    its end may come: with mmu_lock for write nobody drops a reference, and what is on the list has one. May yield."""
    if tdp_unlikely(c.slow & SLOW_RARE != 0) and c.held.mmu_write == 0:
        sp_point(c, root)
    if tdp_unlikely(tdp_read_once32(&root.state) == SP_FREED):
        sp_note_uaf(kvm.arena, c, <Sp *>root, UAF_SP)


cdef inline Sp *after(Cpu *c, Kvm *kvm, Sp *prev) noexcept nogil:
    """The root after prev, or the first: rcu_dereference() of the list's pointers."""
    cdef Sp **link = &prev.next if prev != NULL else &kvm.tdp_mmu_roots
    if prev != NULL:
        root_point(c, kvm, prev)
    sync_rare(c, SYNC_LOAD, <uint64_t>link)
    return <Sp *>tdp_load_acquire(<uint64_t *>link)


cdef void root_flags_point(Cpu *c, Sp *root, int kind) noexcept nogil:
    """Offers the word that holds role.invalid and tdp_mmu_scheduled_root_to_zap."""
    sync_rare(c, kind, <uint64_t>&root.invalid)


cdef bint kvm_tdp_mmu_get_root(Cpu *c, Sp *root) noexcept nogil:
    """refcount_inc_not_zero(). Yields."""
    cdef uint64_t count
    sync_point(c, SYNC_RMW, <uint64_t>&root.root_count)
    count = tdp_load_acquire(&root.root_count)
    while count:
        if tdp_try_cmpxchg(&root.root_count, &count, count + 1):
            return True
    return False


cdef void kvm_tdp_mmu_put_root(Cpu *c, Kvm *kvm, Sp *root) noexcept nogil:
    """Drops a reference; the last one unlinks the root and queues it for freeing. Yields."""
    cdef Sp **link
    sync_point(c, SYNC_RMW, <uint64_t>&root.root_count)
    if tdp_fetch_add(&root.root_count, <uint64_t>-1) != 1:
        return
    if not root.is_root or not sp_invalid(root):
        kvm_bug_on(c, kvm, b"kvm_tdp_mmu_put_root", b"valid_root")
    spin_lock(c, &kvm.tdp_mmu_pages_lock)
    link = &kvm.tdp_mmu_roots
    while link[0] != NULL and link[0] != root:
        link = &link[0].next
    if link[0] == root:
        sync_rare(c, SYNC_STORE, <uint64_t>link)
        tdp_store_release(<uint64_t *>link, <uint64_t>root.next)
    spin_unlock(c, &kvm.tdp_mmu_pages_lock)
    # Before it is queued: another CPU may run the callback at once.
    tdp_write_once32(&root.state, SP_QUEUED)
    call_rcu(c, &root.rcu_head, <uint64_t>root.spt)


cdef bint tdp_mmu_root_match(Cpu *c, Kvm *kvm, Sp *root, int types) noexcept nogil:
    """Whether a root on the list is of these types: looks at its role only. May yield."""
    if not types & KVM_VALID_ROOTS:
        kvm_warn(c, b"tdp_mmu_root_match", b"no_root_type")
        return False
    root_point(c, kvm, root)
    root_flags_point(c, root, SYNC_LOAD)
    if sp_invalid(root) and not types & KVM_INVALID_ROOTS:
        return False
    if types >> SPACE_SHIFT and (types >> SPACE_SHIFT) - 1 != root.smm:
        return False
    if root.is_mirror:
        return (types & KVM_MIRROR_ROOTS) != 0
    return (types & KVM_DIRECT_ROOTS) != 0


cdef Sp *tdp_mmu_next_root(Cpu *c, Kvm *kvm, Sp *prev, int types) noexcept nogil:
    """The next root of these types with a reference taken; prev's is dropped. mmu_lock in either mode. Yields."""
    cdef Sp *root
    lockdep_assert_held(c, b"tdp_mmu_next_root", b"mmu_lock")
    rcu_read_lock(c)
    root = after(c, kvm, prev)
    while root != NULL:
        if tdp_mmu_root_match(c, kvm, root, types) and kvm_tdp_mmu_get_root(c, root):
            break
        root = after(c, kvm, root)
    rcu_read_unlock(c)
    if prev != NULL:
        kvm_tdp_mmu_put_root(c, kvm, prev)
    return root


cdef Sp *next_root_write(Cpu *c, Kvm *kvm, Sp *prev, int types, const char *fn) noexcept nogil:
    """for_each_tdp_mmu_root(): no references, so mmu_lock must be held for write."""
    cdef Sp *root = after(c, kvm, prev)
    lockdep_assert_held_write(c, fn, b"mmu_lock_write")
    while root != NULL and not tdp_mmu_root_match(c, kvm, root, types):
        root = after(c, kvm, root)
    return root


cdef Sp *next_root_rcu(Cpu *c, Kvm *kvm, Sp *prev, int types) noexcept nogil:
    """for_each_tdp_mmu_root_rcu(): inside an RCU read section, without mmu_lock."""
    cdef Sp *root = after(c, kvm, prev)
    while root != NULL and not tdp_mmu_root_match(c, kvm, root, types):
        root = after(c, kvm, root)
    return root


cdef int root_kind(const Sp *root) noexcept nogil:
    if root.is_mirror:
        return ROOT_MIRROR
    return ROOT_SMM if root.smm else ROOT_GUEST_MODE if root.guest_mode else ROOT_DIRECT


cdef Sp *find_root(Cpu *c, Kvm *kvm, int kind) noexcept nogil:
    """The usable root of this role, with a reference taken, or NULL. Caller holds a lock that keeps the list."""
    cdef Sp *root = after(c, kvm, NULL)
    while root != NULL:
        if not sp_invalid(root) and root_kind(root) == kind:
            if kvm_tdp_mmu_get_root(c, root):
                return root
            kvm_warn(c, b"kvm_tdp_mmu_alloc_root", b"get_root_failed")
        root = after(c, kvm, root)
    return NULL


cdef Sp *kvm_tdp_mmu_alloc_root(Cpu *c, Kvm *kvm, int kind) noexcept nogil:
    """The VM's root of this kind with a reference for the vCPU; makes one if there is none. NULL without memory.

    Takes mmu_lock for read and tdp_mmu_pages_lock itself. A new root starts with two references: the vCPU's and
    the TDP MMU's own, which invalidation hands to the zapper.
    """
    cdef int types = KVM_MIRROR_ROOTS if kind == ROOT_MIRROR else KVM_DIRECT_ROOTS
    cdef Sp *root
    read_lock(c, &kvm.mmu_lock)
    root = tdp_mmu_next_root(c, kvm, NULL, types)
    while root != NULL and root_kind(root) != kind:
        root = tdp_mmu_next_root(c, kvm, root, types)
    if root == NULL:
        spin_lock(c, &kvm.tdp_mmu_pages_lock)
        root = find_root(c, kvm, kind)
        if root == NULL:
            root = arena_alloc(kvm.arena, c)
            if root != NULL:
                root.access = <unsigned char>kvm.spte.acc_all
                root.ad_disabled = not kvm.spte.kvm_ad_enabled
                root.guest_mode = kind == ROOT_GUEST_MODE
                root.smm = kind == ROOT_SMM
                tdp_mmu_init_sp(c, kvm, root, NULL, 0, kvm.root_level, kind == ROOT_MIRROR, root.access)
                root.is_root = 1
                root.state = SP_LINKED
                root.root_count = 2
                root.root_number = kvm.nroots
                kvm.nroots += 1
                root.next = kvm.tdp_mmu_roots
                sync_rare(c, SYNC_STORE, <uint64_t>&kvm.tdp_mmu_roots)
                tdp_store_release(<uint64_t *>&kvm.tdp_mmu_roots, <uint64_t>root)
        spin_unlock(c, &kvm.tdp_mmu_pages_lock)
    read_unlock(c, &kvm.mmu_lock)
    return root


cdef void kvm_tdp_mmu_invalidate_roots(Cpu *c, Kvm *kvm, int types) noexcept nogil:
    """Marks roots invalid and schedules them for zapping. mmu_lock for write while the VM has users."""
    cdef Sp *root = after(c, kvm, NULL)
    if types & KVM_INVALID_ROOTS:
        kvm_warn(c, b"kvm_tdp_mmu_invalidate_roots", b"invalid_type")
        types &= ~KVM_INVALID_ROOTS
    if kvm.users:
        lockdep_assert_held_write(c, b"kvm_tdp_mmu_invalidate_roots", b"mmu_lock_write")
    while root != NULL:
        if tdp_mmu_root_match(c, kvm, root, types) and not sp_invalid(root):
            root_flags_point(c, root, SYNC_STORE)
            root.scheduled_to_zap = 1
            tdp_write_once8(&root.invalid, 1)
            if kvm.tlb.on:
                tlb_forget(&kvm.tlb, root, -1)      # vCPUs are made to leave it before this ends
        root = after(c, kvm, root)


cdef int kvm_gfn_range_filter_to_root_types(Cpu *c, Kvm *kvm, int attr_filter) noexcept nogil:
    cdef int types = 0
    if not kvm.has_mirror:
        return KVM_DIRECT_ROOTS
    if attr_filter & KVM_FILTER_PRIVATE or (kvm.design.filter_ignored and attr_filter):
        types |= KVM_MIRROR_ROOTS
    if attr_filter & KVM_FILTER_SHARED:
        types |= KVM_DIRECT_ROOTS
    if not types:
        kvm_warn(c, b"kvm_gfn_range_filter_to_root_types", b"empty_result")
    return types


# ---- mmu.c: the roots that a vCPU runs on ------------------------------------------------------------------------

cdef bint is_obsolete_root(Cpu *c, const Kvm *kvm, const Sp *root) noexcept nogil:
    """Whether a vCPU must let go of its root. Without a lock: it may go invalid at any time. May yield."""
    if kvm.roots_change:
        sync_point(c, SYNC_LOAD, <uint64_t>&root.invalid)
    return sp_invalid(root)


cdef int vcpu_load_root(Cpu *c, Kvm *kvm, int kind) noexcept nogil:
    """Puts an invalid root and takes a new one; 1 if it did. Takes mmu_lock for read. Yields."""
    cdef Sp **roots = vcpu_roots(c, kvm)
    if roots[kind] == NULL or not is_obsolete_root(c, kvm, roots[kind]):
        return 0
    vcpu_put_root(c, kvm, kind)
    roots[kind] = kvm_tdp_mmu_alloc_root(c, kvm, kind)
    return 1


cdef void vcpu_put_root(Cpu *c, Kvm *kvm, int kind) noexcept nogil:
    """mmu_free_root_page(): drops the vCPU's reference, if it has a root. Takes mmu_lock for read. Yields."""
    cdef Sp **roots = vcpu_roots(c, kvm)
    if roots[kind] == NULL:
        return
    read_lock(c, &kvm.mmu_lock)
    if kvm.tlb.on:
        tlb_forget(&kvm.tlb, roots[kind], c.id)     # the vCPU's next root comes with a flush
    kvm_tdp_mmu_put_root(c, kvm, roots[kind])
    read_unlock(c, &kvm.mmu_lock)
    roots[kind] = NULL


cdef void vcpu_reload(Cpu *c, Kvm *kvm, int kind) noexcept nogil:
    """kvm_mmu_reload() of a vCPU with roots of its own: valid ones, mirror first, and one of the kind that it runs on.
    Takes mmu_lock for read. Yields."""
    cdef Sp **roots = vcpu_roots(c, kvm)
    if kvm.has_mirror:
        vcpu_load_root(c, kvm, ROOT_MIRROR)
        if roots[1] == NULL:
            roots[1] = kvm_tdp_mmu_alloc_root(c, kvm, ROOT_MIRROR)
    vcpu_load_root(c, kvm, ROOT_DIRECT)
    if roots[0] == NULL:
        roots[0] = kvm_tdp_mmu_alloc_root(c, kvm, ROOT_DIRECT)
    if kind > ROOT_MIRROR:
        vcpu_load_root(c, kvm, kind)
        if roots[kind] == NULL:
            roots[kind] = kvm_tdp_mmu_alloc_root(c, kvm, kind)


cdef bint obsolete_root_of(const Cpu *c, int kind) noexcept nogil:
    """The kernel looks at the root that the vCPU runs on, the direct one of a TD: mirrors are not invalidated while a
    vCPU runs. Ungated designs may do so, and their faults look at both."""
    cdef const Sp *direct = <const Sp *>c.root[0 if kind == ROOT_MIRROR else kind]
    cdef const Sp *root = <const Sp *>c.root[kind]
    if not c.has_roots:
        return False
    return (direct != NULL and sp_invalid(direct)) or (root != NULL and sp_invalid(root))
