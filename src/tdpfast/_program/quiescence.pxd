"""What must hold between a VM's mirror and its S-EPT when nothing is in flight. Takes no lock, offers no yield."""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from tdpfast._ops.ops cimport Vm

cdef struct Finding:         # the first place a check failed at
    uint64_t check
    uint64_t gfn
    int32_t level
    uint64_t mirror
    uint64_t external

cdef uint32_t vm_check(Vm *vm, Finding *first) noexcept nogil
