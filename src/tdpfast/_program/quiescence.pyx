# cython: language_level=3
"""agree, life, frozen, stat, pamt, refs, leak and track at quiescence (see quiescence.pxd).

A mirror entry and its S-EPT entry agree when both are empty, both map the same page, or both point to the same
table page. A blocked S-EPT entry under a present mirror entry is a disagreement: something was left half done. 6.16's
mirror leaves without an S-EPT leaf are as many as nr_premapped says until the TD is finalised, and none afterwards.
"""

from libc.stdint cimport int64_t

from tdpfast._names cimport (
    CHECK_AGREE, CHECK_FROZEN, CHECK_KERNEL, CHECK_LEAK, CHECK_LIFE, CHECK_PAMT, CHECK_REFS, CHECK_STAT, CHECK_TRACK,
)
from tdpfast._mmu.arena cimport SP_LINKED, SP_QUEUED, Sp, hpa_to_sp, sp_invalid, sptep_to_sp
from tdpfast._seam.module cimport pamt_peek, seam_td, seam_vp
from tdpfast._seam.state cimport PT_EPT, PT_REG, PamtEntry, Td, VP_ACTIVE, Vp, page_memory, pamt_entry
from tdpfast._seam.defs cimport (
    ENC_FREE, ENC_MAPPED, ENC_NL_BLOCKED, ENC_NL_MAPPED, ENC_PENDING, ENC_REMOVED, SEPT_FREE, SEPT_HPA, SEPT_TDEL,
    sept_enc,
)
from tdpfast._spte cimport (
    PT_WRITABLE_MASK, SPTE_BASE_ADDR_MASK, is_frozen_spte, is_last_spte, is_shadow_present_pte,
)
from tdpfast._mmu.tdp_iter cimport pages_per_hpage
from tdpfast._mmu.tdp_mmu cimport Kvm, ROOT_KINDS
from tdpfast._sync.cpu cimport Cpu, RcuHead
from tdpfast._mmu.tdp_mmu_sp cimport kvm_page_stat
from tdpfast._tdx.state cimport TD_STATE_RUNNABLE, Tdx
from tdpfast._tdx.pamt cimport pamt_balanced
from tdpfast._face.vm cimport VmCore

cdef enum:
    CHECKS = 19
    HOST_PRIORITY = 2        # of the module's lock words: a host that was refused comes first, no lock

cdef struct Tally:
    Vm *vm
    Tdx *t
    Td *td
    bint inside              # a vCPU is in the guest: the module holds locks for it
    uint32_t found
    Finding *first           # the first place of all, or NULL
    Finding *each            # or the first of every check, by bit, or NULL
    int64_t leaves[3]        # present mirror and direct leaves by level
    int64_t tables           # linked tables, roots apart
    int64_t sept_tables
    int64_t sept_pages       # 4K pages that S-EPT leaves map
    int64_t sept_out         # external pages that tables and those on their way to be freed have
    int64_t premapped        # 6.16: mirror leaves whose PAGE.ADD is still to come


cdef void note(Tally *k, uint32_t check, uint64_t gfn, int level, uint64_t mirror, uint64_t external) noexcept nogil:
    if k.first != NULL and not k.found:
        k.first.check = check
        k.first.gfn = gfn
        k.first.level = level
        k.first.mirror = mirror
        k.first.external = external
    if k.each != NULL and not k.found & check:
        note_each(k, check, gfn, level, mirror, external)
    k.found |= check


cdef void note_each(Tally *k, uint32_t check, uint64_t gfn, int level, uint64_t mirror,
                    uint64_t external) noexcept nogil:
    cdef int i
    for i in range(CHECKS):
        if check == 1u << i:
            k.each[i].check = check
            k.each[i].gfn = gfn
            k.each[i].level = level
            k.each[i].mirror = mirror
            k.each[i].external = external


cdef inline bint sept_is_table(uint64_t entry) noexcept nogil:
    return sept_enc(entry) == ENC_NL_MAPPED or sept_enc(entry) == ENC_NL_BLOCKED


cdef inline bint sept_is_empty(uint64_t entry) noexcept nogil:
    return sept_enc(entry) == ENC_FREE or sept_enc(entry) == ENC_REMOVED


cdef inline int next_set(const uint64_t *a, uint64_t a_empty, const uint64_t *b, uint64_t b_empty,
                         int i) noexcept nogil:
    """The first index from i on where a or b is not empty; 512: none. Most of a table is empty: eight at a time."""
    cdef uint64_t other
    cdef int j
    while i < 512:
        if i & 7 == 0:
            other = 0
            for j in range(8):
                other |= (a[i + j] ^ a_empty) | (b[i + j] ^ b_empty)
            if other == 0:
                i += 8
                continue
        if a[i] != a_empty or b[i] != b_empty:
            return i
        i += 1
    return 512


cdef void count_sept(Tally *k, const uint64_t *table, int level) noexcept nogil:
    """Counts what the S-EPT holds below a table (level 1 = 4K), and that the PAMT says the same."""
    cdef const PamtEntry *e
    cdef uint64_t *child
    cdef int i = -1
    while True:
        i = next_set(table, SEPT_FREE, table, SEPT_FREE, i + 1)
        if i == 512:
            break
        if table[i] & SEPT_TDEL and not k.inside:
            note(k, CHECK_LEAK, 0, level, 0, table[i])
        if sept_is_empty(table[i]):
            continue
        if not sept_is_table(table[i]):
            k.sept_pages += <int64_t>pages_per_hpage(level)
            e = pamt_peek(k.t.seam, table[i] & SEPT_HPA, level - 1)
            if e == NULL or e.pt != PT_REG or e.owner != k.t.tdr_pa:
                note(k, CHECK_PAMT, 0, level, 0, table[i])
            continue
        k.sept_tables += 1
        e = pamt_peek(k.t.seam, table[i] & SEPT_HPA, 0)
        if e == NULL or e.pt != PT_EPT or e.owner != k.t.tdr_pa:
            note(k, CHECK_PAMT, 0, level, 0, table[i])
        child = page_memory(k.t.seam, table[i] & SEPT_HPA)
        if child != NULL and level > 1:
            count_sept(k, child, level - 1)


cdef uint64_t *agree_entry(Tally *k, const Sp *sp, const Sp *child, uint64_t gfn, uint64_t spte,
                           uint64_t entry) noexcept nogil:
    """Compares one mirror SPTE with its S-EPT entry; the S-EPT's child table where both have one."""
    cdef bint present = is_shadow_present_pte(spte)
    cdef bint leaf = present and is_last_spte(spte, sp.level)
    if not present:
        if not is_frozen_spte(&k.vm.kvm.spte, spte) and not sept_is_empty(entry):
            note(k, CHECK_AGREE, gfn, sp.level, spte, entry)
        return NULL
    if leaf:
        if k.t.design.premap and k.t.state != TD_STATE_RUNNABLE and sept_is_empty(entry):
            k.premapped += 1
        elif not (sept_enc(entry) == ENC_MAPPED or sept_enc(entry) == ENC_PENDING) or (
                entry & SEPT_HPA) != (spte & SPTE_BASE_ADDR_MASK):
            note(k, CHECK_AGREE, gfn, sp.level, spte, entry)
        return NULL
    if sept_enc(entry) != ENC_NL_MAPPED or child == NULL or (entry & SEPT_HPA) != child.external_spt:
        note(k, CHECK_AGREE, gfn, sp.level, spte, entry)
        if not sept_is_table(entry):
            return NULL
    return page_memory(k.t.seam, entry & SEPT_HPA)


cdef bint track_holds(const Kvm *kvm, const Sp *sp, uint64_t gfn) noexcept nogil:
    """Whether a gfn was write-protected since it is tracked, and the table belongs to a root that guests run on."""
    cdef uint32_t i
    if sp.is_mirror or sp.smm:
        return False
    while not sp.is_root and sp.ptep != NULL:
        sp = sptep_to_sp(kvm.arena, sp.ptep)
    if sp_invalid(sp):
        return False
    for i in range(kvm.ntracked):
        if kvm.tracked[i] == gfn and kvm.track_armed[i]:
            return True
    return False


cdef int64_t holders(const Kvm *kvm, const Sp *root) noexcept nogil:
    """Who has a reference to a root: the TDP MMU itself, until the zap that its invalidation asks for is done; the
    vCPUs that run on it."""
    cdef int64_t n = not sp_invalid(root) or root.scheduled_to_zap
    cdef const Cpu *c
    cdef int i, kind
    for kind in range(ROOT_KINDS):
        n += kvm.vcpu_root[kind] == root
        for i in range(kvm.rcu.ncpu):
            c = kvm.rcu.cpus[i]
            n += c.has_roots and c.root[kind] == <void *>root
    return n


cdef void check_root(Tally *k, const Sp *root) noexcept nogil:
    """A root on the list: not freed, and its count is that of its holders."""
    if root.state != SP_LINKED or <int64_t>root.root_count != holders(&k.vm.kvm, root):
        note(k, CHECK_REFS, root.gfn, root.level, root.root_count, <uint64_t>holders(&k.vm.kvm, root))


cdef bint module_locked(const Tally *k) noexcept nogil:
    """Whether a lock of the TD's is held although no call is under way and no vCPU inside."""
    if k.inside:
        return False
    return ((k.td.op_lock | k.td.tree_lock | k.td.epoch_lock | pamt_entry(k.t.seam, k.t.tdr_pa, 0).lock)
            & ~<uint64_t>HOST_PRIORITY) != 0


cdef bint given_up(const Kvm *kvm) noexcept nogil:
    """Whether the kernel said of something that it failed: what it then keeps, it keeps on purpose."""
    cdef int i
    for i in range(kvm.rcu.ncpu):
        if kvm.rcu.cpus[i].found.checks & CHECK_KERNEL:
            return True
    return kvm.vm_bugged


cdef void check_left(Tally *k, int64_t roots) noexcept nogil:
    """Tables, and pages of the S-EPT, that are neither reachable nor on their way to be freed; references to pages that
    nothing maps; what the TDX side should have taken back. What a VM that was bugged keeps is accepted."""
    cdef Kvm *kvm = &k.vm.kvm
    cdef const RcuHead *head = kvm.rcu.head
    cdef int64_t queued = 0
    while head != NULL:
        queued += 1
        k.sept_out += sptep_to_sp(kvm.arena, <uint64_t *>head.page).external_spt != 0
        head = head.next
    if <int64_t>kvm.arena.live != k.tables + roots + queued:
        note(k, CHECK_LEAK, 0, 0, kvm.arena.live, <uint64_t>(k.tables + roots + queued))
    if k.t == NULL:
        return
    if k.t.wait_for_sept_zap or (k.td != NULL and module_locked(k)):
        note(k, CHECK_LEAK, 0, 0, 0, 0)
    if given_up(kvm) or kvm.hooks.opaque != <void *>k.t:
        return
    if <int64_t>k.t.sept_owned != k.sept_out:
        note(k, CHECK_LEAK, 0, 0, k.t.sept_owned, <uint64_t>k.sept_out)
    if k.td != NULL and k.t.pins != NULL and k.t.pinned != k.sept_pages + k.premapped:
        note(k, CHECK_LEAK, 0, 0, <uint64_t>k.t.pinned, <uint64_t>(k.sept_pages + k.premapped))


cdef bint vcpu_inside(const Tdx *t) noexcept nogil:
    cdef const Vp *vp
    cdef int i
    for i in range(t.nvcpus):
        vp = seam_vp(t.seam, t.tdvpr_pa[i])
        if vp != NULL and vp.state == VP_ACTIVE:
            return True
    return False


cdef void check_table(Tally *k, const Sp *sp, const uint64_t *sept) noexcept nogil:
    """One table and what hangs below it. sept: the S-EPT's table at the same place, NULL for none.

    Goes down only to a linked table of the next level that was made for this very entry, so that it ends whatever the
    entries hold, and visits each table once.
    """
    cdef Kvm *kvm = &k.vm.kvm
    cdef uint64_t *below
    cdef uint64_t spte, gfn
    cdef Sp *child
    cdef int i = -1
    while True:
        if sept == NULL:
            i = next_set(sp.spt, kvm.spte.nonpresent, sp.spt, kvm.spte.nonpresent, i + 1)
        else:
            i = next_set(sp.spt, kvm.spte.nonpresent, sept, SEPT_FREE, i + 1)
        if i == 512:
            break
        spte = sp.spt[i]
        gfn = sp.gfn + <uint64_t>i * pages_per_hpage(sp.level)
        if is_frozen_spte(&kvm.spte, spte):
            note(k, CHECK_FROZEN, gfn, sp.level, spte, 0)
        child = NULL
        if is_shadow_present_pte(spte) and not is_last_spte(spte, sp.level):
            child = hpa_to_sp(kvm.arena, spte & SPTE_BASE_ADDR_MASK)
            if (child == NULL or child.state != SP_LINKED or child.level != sp.level - 1
                    or child.ptep != &sp.spt[i]):
                note(k, CHECK_LIFE, gfn, sp.level, spte, 0)
                continue
            k.tables += 1
            k.sept_out += child.external_spt != 0
        elif is_shadow_present_pte(spte) and sp.level <= 3:
            k.leaves[sp.level - 1] += 1
            if kvm.ntracked and sp.level == 1 and spte & PT_WRITABLE_MASK and track_holds(kvm, sp, gfn):
                note(k, CHECK_TRACK, gfn, 1, spte, 0)
        below = agree_entry(k, sp, child, gfn, spte, sept[i]) if sept != NULL else NULL
        if child != NULL:
            check_table(k, child, below)


cdef uint32_t vm_check(Vm *vm, Finding *first) noexcept nogil:
    """Check bits that are violated now; the first place in *first (may be NULL)."""
    return vm_tally(vm, first, NULL)


def findings(VmCore vm not None):
    """What is violated in a VM that nobody changes at the moment: one dict of check (bit), gfn, level, mirror and
    external per check, its first place; gfn and level are 0 where the check has none."""
    cdef Finding each[CHECKS]
    cdef uint32_t found = vm_tally(vm.vm, NULL, each)
    cdef int i
    return [each[i] for i in range(CHECKS) if found >> i & 1]


cdef uint32_t vm_tally(Vm *vm, Finding *first, Finding *each) noexcept nogil:
    """As vm_check(), also the first place of every check in each[], by bit."""
    cdef Kvm *kvm = &vm.kvm
    cdef Sp *root = kvm.tdp_mmu_roots
    cdef Tally k
    cdef int64_t control, refs, live, roots = 0
    cdef uint64_t hpa
    k.vm = vm
    k.t = <Tdx *>vm.tdx
    # Without its key nothing walks the S-EPT any more, and its pages are taken back one by one.
    k.td = seam_td(k.t.seam, k.t.tdr_pa) if k.t != NULL and k.t.hkid >= 0 else NULL
    k.found = 0
    k.first = first
    k.each = each
    k.leaves[0] = k.leaves[1] = k.leaves[2] = 0
    k.tables = k.sept_tables = k.sept_pages = k.premapped = k.sept_out = 0
    k.inside = k.t != NULL and vcpu_inside(k.t)
    while root != NULL:
        roots += 1
        check_root(&k, root)
        check_table(&k, root, k.td.root[0] if root.is_mirror and k.td != NULL else NULL)
        root = root.next
    if (kvm_page_stat(kvm, 1) != k.leaves[0] or kvm_page_stat(kvm, 2) != k.leaves[1]
            or kvm_page_stat(kvm, 3) != k.leaves[2] or <int64_t>kvm.tdp_mmu_pages != k.tables):
        note(&k, CHECK_STAT, 0, 0, 0, 0)
    if k.td != NULL:
        count_sept(&k, k.td.root[0], k.td.levels)
        if k.t.design.premap and k.t.nr_premapped != k.premapped:
            note(&k, CHECK_STAT, 0, 0, <uint64_t>k.t.nr_premapped, <uint64_t>k.premapped)
        control = <int64_t>k.td.num_tdcx + k.t.nvcpus * 6
        if <int64_t>k.td.chldcnt != control + k.sept_tables + k.sept_pages:
            note(&k, CHECK_PAMT, 0, 0, 0, k.td.chldcnt)
    if k.t != NULL and k.t.seam.dynamic_pamt and not pamt_balanced(k.t.seam, &hpa, &refs, &live):
        note(&k, CHECK_PAMT, hpa >> 12, 2, <uint64_t>refs, <uint64_t>live)
    if not k.found & CHECK_LIFE:
        check_left(&k, roots)
    return k.found
