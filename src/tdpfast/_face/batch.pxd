"""One emulated CPU of a VM, and what belongs to it alone."""

from tdpfast._ops.ops cimport Vm
from tdpfast._sync.cpu cimport Cpu, Trace
from tdpfast._mmu.tdp_mmu cimport Kvm
from tdpfast._face.vm cimport VmCore

cdef bint run_to_landing(Cpu *c, Vm *vm, void (*body)(void *) noexcept nogil, void *arg) noexcept nogil

cdef class VcpuCore:
    cdef readonly VmCore vm
    cdef Cpu *c
    cdef Trace trace
    cdef int check(self) except -1
    cdef int finish(self) except -1
