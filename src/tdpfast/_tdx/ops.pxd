"""Operations that only a TD has: VP.ENTER and exits, guest instructions, build and teardown steps, raw SEAMCALLs."""

from tdpfast._ops.ops cimport Op, Vm
from tdpfast._seam.module cimport Seam
from tdpfast._sync.cpu cimport Cpu
from tdpfast._tdx.state cimport Tdx

cdef void tdx_op_begin(Cpu *c, Vm *vm, Op *op) noexcept nogil
cdef void tdx_op_end(Cpu *c, Vm *vm, Op *op) noexcept nogil
cdef void tdx_reenter(Cpu *c, Tdx *t, int vcpu) noexcept nogil
