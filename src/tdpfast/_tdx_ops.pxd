"""Operations that only a TD has: VP.ENTER and exits, guest instructions, build and teardown steps, raw SEAMCALLs."""

from tdpfast._ops cimport Op, OpResult, Vm
from tdpfast._seam cimport Seam
from tdpfast._sync cimport Cpu
from tdpfast._tdx cimport Tdx

cdef enum TdxOpKind:     # from OP_TDX_FIRST on, the order of TDX_OP_NAMES
    OP_VP_ENTER = 0
    OP_TD_EXIT
    OP_ACCEPT
    OP_GUEST_ACCESS
    OP_TOUCH
    OP_RAW
    OP_POPULATE
    OP_FINALIZE
    OP_RELEASE_HKID
    OP_VCPU_FREE
    OP_VM_DESTROY
    OP_FREE_PFN
    OP_PAMT_GET
    OP_PAMT_PUT
    OP_GUEST_ACCEPT
    OP_PREFAULT
    OP_MAP_EXCLUSIVE

cdef enum GuestRet:      # OpResult.kind of guest operations
    GUEST_RET_STATUS = 0     # rax is a TDCALL status
    GUEST_RET_NO_FAULT
    GUEST_RET_VE
    GUEST_RET_TDEXIT
    GUEST_RET_REEXECUTE
    GUEST_RET_NOT_INSIDE
    GUEST_RET_NONE           # no guest operation was run

cdef int tdx_run_op(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil
cdef void tdx_op_begin(Cpu *c, Vm *vm, Op *op) noexcept nogil
cdef void tdx_op_end(Cpu *c, Vm *vm, Op *op) noexcept nogil
cdef void tdx_reenter(Cpu *c, Tdx *t, int vcpu) noexcept nogil
