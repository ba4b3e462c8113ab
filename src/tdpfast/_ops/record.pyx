# cython: language_level=3
"""Hooks that only record: the external table is somebody else's (see record.pxd)."""

from libc.stdint cimport uint64_t

from tdpfast._names cimport EV_FREE_EXT, EV_LINK_EXT, EV_REMOVE_EXT, EV_SET_EXT
from tdpfast._mmu.arena cimport Sp
from tdpfast._sync.atomic cimport tdp_fetch_add
from tdpfast._sync.cpu cimport Cpu, trace3, trace5


cdef int scripted(Cpu *c) noexcept nogil:
    """The next scripted return value; 0 when the script is used up."""
    cdef int ret = 0
    if c.script.pos < c.script.len:
        ret = c.script.ret[c.script.pos]
        c.script.pos += 1
    return ret


cdef int record_set_external_spte(Cpu *c, Kvm *kvm, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                                  int level) noexcept nogil:
    cdef int ret = scripted(c)
    trace5(c, EV_SET_EXT, gfn, level, old_spte, new_spte, <uint64_t>ret)
    return ret


cdef void record_free_now(Cpu *c, Kvm *kvm, Sp *sp) noexcept nogil:
    if sp.external_spt:
        tdp_fetch_add(&kvm.external_live, <uint64_t>-1)
        sp.external_spt = 0


cdef int record_free_external_spt(Cpu *c, Kvm *kvm, uint64_t gfn, int level, Sp *sp) noexcept nogil:
    trace3(c, EV_FREE_EXT, gfn, level, sp.external_spt)
    record_free_now(c, kvm, sp)
    return 0


cdef int record_link_external_spt(Cpu *c, Kvm *kvm, uint64_t gfn, int level, uint64_t external_spt) noexcept nogil:
    cdef int ret = scripted(c)
    trace5(c, EV_LINK_EXT, gfn, level, <uint64_t>ret, external_spt != 0, 0)
    return ret


cdef int record_split_external_spt(Cpu *c, Kvm *kvm, uint64_t gfn, int level, uint64_t old_spte, uint64_t new_spte,
                                   bint shared) noexcept nogil:
    return record_set_external_spte(c, kvm, gfn, old_spte, new_spte, level)


cdef void record_remove_external_spte(Cpu *c, Kvm *kvm, uint64_t gfn, int level, uint64_t spte) noexcept nogil:
    trace3(c, EV_REMOVE_EXT, gfn, level, spte)


cdef int record_free_external_spt_v618(Cpu *c, Kvm *kvm, uint64_t gfn, int level, Sp *sp) noexcept nogil:
    cdef int ret = scripted(c)
    trace5(c, EV_FREE_EXT, gfn, level, sp.external_spt, <uint64_t>ret, sp.external_spt != 0)
    return ret


cdef uint64_t record_alloc_external(Cpu *c, Kvm *kvm) noexcept nogil:
    tdp_fetch_add(&kvm.external_live, 1)
    return tdp_fetch_add(&kvm.external_next, 1)


cdef void record_free_external(Cpu *c, Kvm *kvm, uint64_t page) noexcept nogil:
    tdp_fetch_add(&kvm.external_live, <uint64_t>-1)


cdef void hooks_record_v73(Kvm *kvm) noexcept nogil:
    kvm.hooks.set_external_spte = record_set_external_spte
    kvm.hooks.free_external_spt = record_free_external_spt
    kvm.hooks.alloc_external = record_alloc_external
    kvm.hooks.free_external = record_free_external


cdef void hooks_record_v618(Kvm *kvm) noexcept nogil:
    kvm.hooks.set_external_spte = record_set_external_spte
    kvm.hooks.link_external_spt = record_link_external_spt
    kvm.hooks.split_external_spt = record_split_external_spt
    kvm.hooks.remove_external_spte = record_remove_external_spte
    kvm.hooks.free_external_spt = record_free_external_spt_v618
    kvm.hooks.alloc_external = record_alloc_external
    kvm.hooks.free_external = record_free_external
