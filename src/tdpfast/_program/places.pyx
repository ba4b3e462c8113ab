# cython: language_level=3
"""What a word of the tables is, and what hangs below an entry, for who reads a run: names, never checks.

For VMs that nobody changes at the moment.
"""

from libc.stdint cimport uint64_t

from tdpfast._face.vm cimport VmCore
from tdpfast._mmu.arena cimport ARENA_HPA, SP_LINKED, Sp, hpa_to_sp, sp_hpa
from tdpfast._mmu.tdp_iter cimport pages_per_hpage
from tdpfast._seam.state cimport Td, Tdmr, page_memory
from tdpfast._seam.defs cimport ENC_FREE, ENC_NL_BLOCKED, ENC_NL_MAPPED, ENC_REMOVED, SEPT_HPA, sept_enc
from tdpfast._seam.module cimport seam_td
from tdpfast._spte cimport SPTE_BASE_ADDR_MASK, is_last_spte, is_shadow_present_pte
from tdpfast._tdx.state cimport Tdx

STATES = ("free", "unused", "linked", "removed", "queued", "freed")


cdef Td *td_of(VmCore vm) except? NULL:
    cdef Tdx *t = <Tdx *>vm.vm.tdx
    return seam_td(t.seam, t.tdr_pa) if t != NULL and t.hkid >= 0 else NULL


cdef bint is_table(uint64_t entry) noexcept nogil:
    return sept_enc(entry) == ENC_NL_MAPPED or sept_enc(entry) == ENC_NL_BLOCKED


cdef int sept_tables(Tdx *t, const uint64_t *table, int level, uint64_t gfn, list out) except -1:
    """Adds the tables below a table of the S-EPT; level: of its entries."""
    cdef uint64_t *child
    cdef uint64_t base
    cdef int i
    if level == 1:
        return 0
    for i in range(512):
        if not is_table(table[i]):
            continue
        child = page_memory(t.seam, table[i] & SEPT_HPA)
        if child == NULL:
            continue
        base = gfn + i * pages_per_hpage(level)
        out.append((table[i] & SEPT_HPA, "sept", level - 1, base))
        sept_tables(t, child, level - 1, base, out)
    return 0


cdef object hpa_of(Tdx *t, const uint64_t *word):
    """The HPA of a page of the module's memory that holds the word; None: it is elsewhere."""
    cdef Tdmr *m
    cdef int i
    for i in range(t.seam.ntdmr):
        m = &t.seam.tdmr[i]
        if <uint64_t>m.memory <= <uint64_t>word < <uint64_t>m.memory + (m.end - m.start):
            return m.start + ((<uint64_t>word - <uint64_t>m.memory) & ~<uint64_t>0xfff)
    return None


def tables(VmCore vm not None):
    """Every table in use: (HPA, "mirror", "direct" or "sept", level of its entries, gfn of the first)."""
    cdef Td *td = td_of(vm)
    cdef Sp *sp
    cdef uint64_t i
    out = []
    for i in range(vm.vm.arena.next_fresh):
        sp = &vm.vm.arena.sps[i]
        if sp.state == SP_LINKED:
            out.append((sp_hpa(sp), "mirror" if sp.is_mirror else "direct", sp.level, sp.gfn))
    if td != NULL and td.root[0] != NULL:
        out.append((hpa_of(<Tdx *>vm.vm.tdx, td.root[0]), "sept", td.levels, 0))
        sept_tables(<Tdx *>vm.vm.tdx, td.root[0], td.levels, 0, out)
    return out


def place_of(VmCore vm not None, uint64_t obj):
    """(HPA of the page, index of the entry) of a word in a table of KVM or of the module; None for other words."""
    cdef uint64_t base = <uint64_t>vm.vm.arena.base
    if base <= obj < base + (vm.vm.arena.npages << 12):
        return ARENA_HPA + ((obj - base) & ~<uint64_t>0xfff), obj >> 3 & 511
    if vm.vm.tdx == NULL:
        return None
    hpa = hpa_of(<Tdx *>vm.vm.tdx, <uint64_t *>obj)
    return None if hpa is None else (hpa, obj >> 3 & 511)


cdef object mirror_side(VmCore vm, uint64_t gfn, int level):
    """The entry of the newest valid mirror root's tree for gfn at a level, or the one above it where that ends."""
    cdef Sp *sp = vm.vm.kvm.tdp_mmu_roots
    cdef Sp *child = NULL
    cdef uint64_t spte
    while sp != NULL and (not sp.is_mirror or sp.invalid):
        sp = sp.next
    if sp == NULL:
        return None
    while True:
        spte = sp.spt[gfn // pages_per_hpage(sp.level) & 511]
        child = NULL
        if is_shadow_present_pte(spte) and not is_last_spte(spte, sp.level):
            child = hpa_to_sp(&vm.vm.arena, spte & SPTE_BASE_ADDR_MASK)
        if child == NULL or sp.level <= level:
            break
        sp = child
    out = {"level": sp.level, "value": spte, "table": None}
    if child != NULL:
        out["table"] = {"state": STATES[child.state], "external_page": child.external_spt, "gfn": child.gfn}
    return out


cdef object sept_side(VmCore vm, uint64_t gfn, int level):
    """The S-EPT's entry for gfn at a level, or the one above it where the S-EPT ends."""
    cdef Tdx *t = <Tdx *>vm.vm.tdx
    cdef Td *td = td_of(vm)
    cdef uint64_t *table
    cdef uint64_t *child = NULL
    cdef uint64_t entry
    cdef int at, i, n = 0
    if td == NULL or td.root[0] == NULL:
        return None
    table, at = td.root[0], td.levels
    while True:
        entry = table[gfn // pages_per_hpage(at) & 511]
        child = page_memory(t.seam, entry & SEPT_HPA) if at > 1 and is_table(entry) else NULL
        if child == NULL or at <= level:
            break
        table, at = child, at - 1
    out = {"level": at, "value": entry, "children": None}
    if child != NULL:
        for i in range(512):
            n += sept_enc(child[i]) != ENC_FREE and sept_enc(child[i]) != ENC_REMOVED
        out["children"] = n
    return out


def sides(VmCore vm not None, uint64_t gfn, int level):
    """What mirror and S-EPT have for gfn at a level: two dicts of level (a higher one where a side ends above), value,
    and table (state, external_page, gfn) or children (entries in use); None for a side that there is not."""
    return mirror_side(vm, gfn, level), sept_side(vm, gfn, level)
