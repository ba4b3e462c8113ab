"""What a design file asks the core for: the functions behind include/tdpfast/api.h."""

from libc.stdint cimport uint32_t, uint64_t

from tdpfast._mmu.tdp_iter cimport TdpIter
from tdpfast._mmu.tdp_mmu cimport Kvm
from tdpfast._ops.ops cimport Vm
from tdpfast._sync.cpu cimport Cpu

cdef struct CodeFile:        # a design file that is loaded
    void *fn[64]             # its functions, by their place in code_calls.FUNCTIONS; NULL: not defined
    uint64_t text            # its machine code and constants: [text, text_end)
    uint64_t text_end
    uint64_t data            # its static data: [data, data_end), and a copy from when it was loaded
    uint64_t data_end
    uint64_t copy

cdef inline Kvm *running_kvm(Cpu *c) noexcept nogil:
    return &(<Vm *>c.vm).kvm

cdef void api_retry(uint32_t line, TdpIter *iter, int error) noexcept nogil
cdef void code_fault(Cpu *c, int what) noexcept nogil

cdef inline Kvm *calls(Cpu *c, uint32_t line) noexcept nogil:
    """The file calls core code that makes steps of its own: they are told without its lines."""
    c.code.called = line
    c.code.line = 0
    c.code.steps += 1
    return running_kvm(c)
