# cython: language_level=3
"""agree, life, frozen, stat and pamt at quiescence (see quiescence.pxd).

A mirror entry and its S-EPT entry agree when both are empty, both map the same page, or both point to the same
table page. A blocked S-EPT entry under a present mirror entry is a disagreement: something was left half done. 6.16's
mirror leaves without an S-EPT leaf are as many as nr_premapped says until the TD is finalised, and none afterwards.
"""

from libc.stdint cimport int64_t

from tdpfast._names cimport CHECK_AGREE, CHECK_FROZEN, CHECK_LIFE, CHECK_PAMT, CHECK_STAT
from tdpfast._mmu.arena cimport SP_LINKED, Sp, hpa_to_sp
from tdpfast._seam.module cimport pamt_peek, seam_td
from tdpfast._seam.state cimport PT_EPT, PT_REG, PamtEntry, Td, page_memory
from tdpfast._seam.defs cimport (
    ENC_FREE, ENC_MAPPED, ENC_NL_BLOCKED, ENC_NL_MAPPED, ENC_PENDING, ENC_REMOVED, SEPT_FREE, SEPT_HPA, sept_enc,
)
from tdpfast._spte cimport (
    SPTE_BASE_ADDR_MASK, is_frozen_spte, is_last_spte, is_shadow_present_pte,
)
from tdpfast._mmu.tdp_iter cimport pages_per_hpage
from tdpfast._mmu.tdp_mmu cimport Kvm
from tdpfast._mmu.tdp_mmu_sp cimport kvm_page_stat
from tdpfast._tdx.state cimport TD_STATE_RUNNABLE, Tdx
from tdpfast._tdx.pamt cimport pamt_balanced
from tdpfast._face.vm cimport VmCore

cdef enum:
    CHECKS = 10

cdef struct Tally:
    Vm *vm
    Tdx *t
    Td *td
    uint32_t found
    Finding *first           # the first place of all, or NULL
    Finding *each            # or the first of every check, by bit, or NULL
    int64_t leaves[3]        # present mirror and direct leaves by level
    int64_t tables           # linked tables, roots apart
    int64_t sept_tables
    int64_t sept_pages       # 4K pages that S-EPT leaves map
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
        elif is_shadow_present_pte(spte) and sp.level <= 3:
            k.leaves[sp.level - 1] += 1
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
    cdef int64_t control, refs, live
    cdef uint64_t hpa
    k.vm = vm
    k.t = <Tdx *>vm.tdx
    # Without its key nothing walks the S-EPT any more, and its pages are taken back one by one.
    k.td = seam_td(k.t.seam, k.t.tdr_pa) if k.t != NULL and k.t.hkid >= 0 else NULL
    k.found = 0
    k.first = first
    k.each = each
    k.leaves[0] = k.leaves[1] = k.leaves[2] = 0
    k.tables = k.sept_tables = k.sept_pages = k.premapped = 0
    while root != NULL:
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
    return k.found
