"""vmx/tdx.c: memory that gets its content from the host, and memory mapped before anybody touches it."""

from libc.stdint cimport uint64_t

from tdpfast._ops.ops cimport Op, OpResult, Vm
from tdpfast._sync.cpu cimport Cpu

cdef int tdx_gmem_populate(Cpu *c, Vm *vm, const Op *op) noexcept nogil
cdef void tdx_private_fault(Cpu *c, Vm *vm, Op *part, OpResult *res) noexcept nogil
cdef void tdx_pre_fault_memory(Cpu *c, Vm *vm, const Op *op, OpResult *res) noexcept nogil
cdef void tdx_map_exclusive(Cpu *c, Vm *vm, const Op *op, OpResult *res) noexcept nogil
cdef uint64_t tdx_fault_state(Cpu *c, Vm *vm) noexcept nogil
cdef bint tdx_fault_cancelled(Cpu *c, Vm *vm) noexcept nogil
