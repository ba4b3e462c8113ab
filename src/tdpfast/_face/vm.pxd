"""The Python-owned VM: one Vm, its emulated CPUs, and their traces."""

from libc.stdint cimport uint64_t

from tdpfast._names cimport MAX_CPUS
from tdpfast._mmu.arena cimport Sp
from tdpfast._ops.ops cimport Op, OpResult, Vm
from tdpfast._sync.cpu cimport Cpu, Trace

cdef class VmCore:
    cdef Vm *vm
    cdef Cpu *cpus[MAX_CPUS]
    cdef int ncpus
    cdef Trace trace
    cdef bint tracing
    cdef bint over              # BUG() or a livelock ended it
    cdef bint busy[MAX_CPUS]    # an operation runs on this CPU
    cdef bint explored          # an Explorer runs operations on any of them
    cdef readonly list hook_threads    # Python threads that are in a hook of this VM
    cdef readonly object design
    cdef object keep            # whatever must live as long as the VM
    cdef object py_hooks        # {name: callable} in front of the native hooks
    cdef readonly object hook_error    # what a Python hook raised first
    cdef object hook_running    # CPU -> generator hook between two of its steps
    cdef object hook_reset      # callable that takes what hooks keep back, or None
    cdef object hook_texts      # names of steps: number -> text, and text -> bytes for the trace
    cdef uint64_t hook_steps    # steps of hooks that may have changed what hooks keep
    cdef int check_hook(self) except -1
    cdef int enter(self, int cpu) except -1
    cdef int enter_all(self) except -1
    cpdef raise_hook_error(self)
    cdef int set_slots(self, object slots) except -1
    cdef bint on_td(self) noexcept
    cdef Cpu *add_cpu(self) except NULL
    cdef dump_table(self, Sp *sp, int number, list out)

cdef int fill_op(Op *op, object fields, bint td) except -1
cdef list trace_list(const Trace *trace)
cdef object result_dict(const Op *op, const Cpu *c, const OpResult *res)
