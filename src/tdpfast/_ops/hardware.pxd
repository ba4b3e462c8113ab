"""A guest's access as hardware makes it (see hardware.pyx); nothing of it is called from elsewhere but by operations of
a TD."""

from libc.stdint cimport uint64_t

from tdpfast._ops.ops cimport OpResult, Vm
from tdpfast._sync.cpu cimport Cpu

cdef void hardware_access(Cpu *c, Vm *vm, int kind, uint64_t gfn, bint write, OpResult *res) noexcept nogil
