"""Hooks written in Python: called on the scheduler's stack when exploring, directly otherwise."""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from tdpfast._mmu.arena cimport Sp
from tdpfast._sync.cpu cimport Cpu
from tdpfast._mmu.tdp_mmu cimport Hooks, Kvm
from tdpfast._face.vm cimport VmCore

cdef struct HookRequest:
    Kvm *kvm
    int32_t which        # PY_SET ..
    uint64_t gfn
    uint64_t old_spte
    uint64_t new_spte
    int32_t level
    int32_t ret
    bint native          # the Python hook asks for the native one
    bint more            # a generator that has not ended: ask again
    uint32_t steps       # of the generator so far
    uint64_t point       # number of the text that names the next step

cdef void pyhook_serve(Cpu *c) noexcept nogil
cdef void pyhook_cut(Kvm *kvm) noexcept with gil
cdef void pyhook_reset(Kvm *kvm) noexcept with gil
