"""A scenario as a program of the explorer: a TD, and one list of operations per thread."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tdpfast._checks cimport Finding
from tdpfast._explore cimport Program, ProgramRef
from tdpfast._ops cimport Op, OpResult, Vm
from tdpfast._sync cimport Cpu, Trace
from tdpfast._tdp_mmu cimport Kvm
from tdpfast._tdx cimport Tdx
from tdpfast._tdx_vm cimport TdVmCore

cdef struct ThreadOps:
    Vm *vm
    Op *ops              # this execution's, with their counters
    Op *master           # as written
    OpResult *res
    int nops
    int done

cdef struct World:       # what reset() and check() work on
    Vm *vm
    Tdx *t
    Kvm kvm_copy
    Tdx tdx_copy
    ThreadOps *threads
    Cpu **cpus
    int lp[16]
    void *root[16][2]    # Sp *, [is_mirror]: the roots each thread begins with
    int nthreads
    bint uses_only       # `life` counts uses of freed tables, not entries that merely lead to one
    Trace *trace
    Finding finding

cdef class ScenarioProgram(ProgramRef):
    cdef readonly TdVmCore vm
    cdef Program program
    cdef World *world
    cdef Cpu *cpus[16]
    cdef void *args[16]
    cdef Trace trace
    cdef int nthreads
    cdef int made(self) except -1
    cdef int add_thread(self, ThreadOps *t, object ops) except -1
    cdef int give_roots(self) except -1
    cdef int snapshot(self) except -1
