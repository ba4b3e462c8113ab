"""A scenario as a program of the explorer: a TD, and one list of operations per thread."""

from libc.stdint cimport uint32_t, uint64_t

from tdpfast._program.quiescence cimport Finding
from tdpfast._explore.explorer cimport Program, ProgramRef
from tdpfast._ops.ops cimport Op, OpResult, Vm
from tdpfast._sync.cpu cimport Cpu, Trace
from tdpfast._mmu.tdp_mmu cimport Kvm
from tdpfast._tdx.state cimport Tdx
from tdpfast._face.td cimport TdVmCore
from tdpfast._program.world cimport MAX_SPANS, OpReach, Spans, ThreadOps, World

cdef class ScenarioProgram(ProgramRef):
    cdef readonly TdVmCore vm
    cdef readonly list tables        # those in use when executions begin, see tdpfast._program.places.tables()
    cdef Program program
    cdef World *world
    cdef Cpu *cpus[16]
    cdef void *args[16]
    cdef Trace trace
    cdef int nthreads
    cdef int made(self) except -1
    cdef int add_thread(self, ThreadOps *t, object ops) except -1
    cdef int pair_holes(self, tuple threads) except -1
    cdef int watch_hardware(self, tuple threads) except -1
    cdef int give_roots(self, int which) except -1
    cdef int span(self, tuple threads, bint every_entry) except -1
    cdef int snapshot(self) except -1
