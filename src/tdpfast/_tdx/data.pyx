# cython: language_level=3
"""`data`: accepted private memory goes only where the operation under way is about it. What is gone comes back empty and
unaccepted, and the guest dies of it."""

from libc.stdint cimport uint64_t

from tdpfast._names cimport (
    CHECK_DATA, KVM_FILTER_PRIVATE, OP_GMEM_CONVERT, OP_MOVE_SLOT, OP_PUNCH_HOLE, OP_RELEASE_HKID, OP_SET_ATTRIBUTES,
    OP_UNINIT, OP_UNMAP, OP_VM_DESTROY, OP_ZAP_ALL, OP_ZAP_INVALIDATED_ROOTS, OP_ZAP_LEAFS, OP_ZAP_SPTE,
)
from tdpfast._mmu.tdp_iter cimport gfn_round_for_level, pages_per_hpage, spte_index
from tdpfast._ops.ops cimport Op
from tdpfast._seam.defs cimport ENC_BLOCKED, ENC_MAPPED, ENC_NL_BLOCKED, ENC_NL_MAPPED, SEPT_HPA, sept_enc
from tdpfast._seam.module cimport seam_td
from tdpfast._seam.state cimport Td, page_memory


cdef bint private_accepted(const Tdx *t, uint64_t gfn, int level) noexcept nogil:
    """Whether the S-EPT has a leaf of that level for gfn that the guest accepted. Of an entry that is blocked, which
    only who holds mmu_lock for write changes."""
    cdef const Td *td = seam_td(t.seam, t.tdr_pa)
    cdef uint64_t *table = NULL if td == NULL else td.root[0]
    cdef uint64_t entry
    cdef int at = 0 if td == NULL else td.levels
    while table != NULL and at > 0:
        entry = table[spte_index(gfn, at)]
        if at == level:
            return sept_enc(entry) == ENC_BLOCKED or sept_enc(entry) == ENC_MAPPED
        if sept_enc(entry) != ENC_NL_MAPPED and sept_enc(entry) != ENC_NL_BLOCKED:
            return False
        table = page_memory(t.seam, entry & SEPT_HPA)
        at -= 1
    return False


cdef bint asked(const Op *op, uint64_t gfn, int level) noexcept nogil:
    """Whether the operation is about private memory, and about all of the leaf."""
    cdef uint64_t start = op.start
    cdef uint64_t end = op.end
    if op.kind in (OP_ZAP_ALL, OP_ZAP_INVALIDATED_ROOTS, OP_UNINIT, OP_RELEASE_HKID, OP_VM_DESTROY):
        return True
    if op.kind == OP_ZAP_SPTE:
        start = gfn_round_for_level(op.gfn, op.level)
        end = start + pages_per_hpage(op.level)
    elif op.kind == OP_UNMAP:
        if not op.filter & KVM_FILTER_PRIVATE:
            return False
    elif op.kind == OP_SET_ATTRIBUTES:
        if op.is_private:
            return False
    elif op.kind not in (OP_ZAP_LEAFS, OP_GMEM_CONVERT, OP_PUNCH_HOLE, OP_MOVE_SLOT):
        return False
    return start <= gfn and gfn + pages_per_hpage(level) <= end


cdef void private_removed(Cpu *c, Tdx *t, uint64_t gfn, int level) noexcept nogil:
    """A leaf that the guest had accepted left the S-EPT."""
    if c.user != NULL and not asked(<const Op *>c.user, gfn, level):
        c.found.checks |= CHECK_DATA
