"""A model of the external page table behind the mirror: one word per entry, kept by hooks of its own.

The hooks check what every external table relies on: nobody else updates the same entry at the same time, the
old value is what the hook is told, what comes has a table above it, a table goes only when it is empty.
"""

from libc.stdint cimport int32_t, uint64_t

from tdpfast._mmu.tdp_mmu cimport Kvm

cdef enum ModelFault:
    MODEL_CONCURRENT = 0     # two updates of one entry at the same time
    MODEL_STALE              # the old value the hook was told is not what stood there
    MODEL_NOT_EMPTY          # a table went, or came, with entries below it
    MODEL_OUTSIDE            # a gfn outside the model
    MODEL_NO_TABLE           # something came where no table is
    MODEL_FAULTS

cdef struct Model:
    uint64_t base            # first gfn
    uint64_t *entry[6]       # [level]: 0, a leaf SPTE, or MODEL_TABLE
    uint64_t count[6]
    uint64_t calls
    uint64_t fail_one_in     # every n-th hook call that maps something new returns -EBUSY; 0: none
    uint64_t failed
    uint64_t faults[MODEL_FAULTS]
    uint64_t fault_gfn[MODEL_FAULTS]    # of the first of each kind
    int32_t fault_level[MODEL_FAULTS]

