"""The Python-owned VM: one Vm, its emulated CPUs, and their traces."""

from tdpfast._arena cimport Sp
from tdpfast._ops cimport Op, Vm
from tdpfast._sync cimport Cpu, Trace

cdef enum:
    MAX_CPUS = 24

cdef class VmCore:
    cdef Vm *vm
    cdef Cpu *cpus[MAX_CPUS]
    cdef int ncpus
    cdef Trace trace
    cdef bint tracing
    cdef bint over              # BUG() or a livelock ended it
    cdef bint busy[MAX_CPUS]    # an operation runs on this CPU
    cdef bint explored          # an Explorer runs operations on any of them
    cdef list hook_threads      # Python threads that are in a hook of this VM
    cdef readonly object design
    cdef object keep            # whatever must live as long as the VM
    cdef object py_hooks        # {name: callable} in front of the native hooks
    cdef object hook_error      # what a Python hook raised first
    cdef int check_hook(self) except -1
    cdef int enter(self, int cpu) except -1
    cdef int enter_all(self) except -1
    cdef raise_hook_error(self)
    cdef Cpu *add_cpu(self) except NULL
    cdef dump_table(self, Sp *sp, int number, list out)

cdef int fill_op(Op *op, object fields, bint td) except -1
cdef list trace_list(const Trace *trace)
cdef object result_dict(const Op *op, const Cpu *c, const void *res, bint td)
