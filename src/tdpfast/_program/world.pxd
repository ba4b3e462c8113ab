"""What the reset, the checks and the digest of a scenario's program work on."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from tdpfast._mmu.arena cimport Sp
from tdpfast._seam.state cimport Td, Vp
from tdpfast._program.quiescence cimport Finding
from tdpfast._ops.ops cimport Op, OpResult, Vm
from tdpfast._sync.cpu cimport Cpu, Trace
from tdpfast._mmu.tdp_mmu cimport Kvm
from tdpfast._tdx.state cimport Tdx

cdef struct Touch:           # one field, over all steps
    uint64_t key             # 1 + (region << 32 | offset in its structure)
    uint64_t count
    uint32_t held            # in all of them
    int32_t kind             # SyncKind of the last one's step

cdef struct Watch:
    uint8_t *pages           # copies from before the step
    Sp *sps
    uint64_t npages
    uint32_t *index          # pages in use: those of the snapshot, and those the shares gave out
    uint64_t nindex
    Kvm kvm
    Tdx tdx
    Td *td
    Vp *vp
    uint64_t nundo
    Touch touch[4096]

cdef struct OpReach:         # what an operation came to, over all executions in which it ended
    uint64_t ran
    uint64_t done            # it did what it is for
    uint64_t refused         # by the rules of today's callers
    uint32_t want            # results by which it did, bits; 0: all that are not negative
    uint32_t guest           # ends of a guest instruction likewise; 0: it is none

cdef struct ThreadOps:
    Vm *vm
    Op *ops              # this execution's, with their counters
    Op *master           # as written
    OpResult *res
    OpReach *reach
    int nops
    int done

cdef enum:
    MAX_SPANS = 32

cdef struct Spans:           # of guest frames: entries of tables that a thread's operations may look at or change
    int n                    # beyond MAX_SPANS: every entry
    uint64_t start[MAX_SPANS]
    uint64_t end[MAX_SPANS]

cdef struct World:       # what reset() and check() work on
    Vm *vm
    Tdx *t
    Kvm kvm_copy
    Tdx tdx_copy
    ThreadOps *threads
    Cpu **cpus
    int lp[16]
    void *root[16][4]    # Sp *, by RootKind: the roots each thread begins with
    int nthreads
    uint64_t hooks_failed
    uint64_t dead        # executions that killed the VM
    bint uses_only       # `life` counts uses of freed tables, not entries that merely lead to one
    Trace *trace
    Finding finding
    Spans spans[16]      # by thread
    uint64_t outside     # writes to tables beyond what a thread's spans say, since the program was made
    Watch *watch         # NULL unless watch() was called
