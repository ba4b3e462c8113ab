"""What the reset, the checks and the digest of a scenario's program work on."""

from tdpfast._checks cimport Finding
from tdpfast._ops cimport Op, OpResult, Vm
from tdpfast._sync cimport Cpu, Trace
from tdpfast._tdp_mmu cimport Kvm
from tdpfast._tdx cimport Tdx
from tdpfast._watch cimport Watch

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
    Watch *watch         # NULL unless watch() was called
