# cython: language_level=3
"""Crashes and hangs of a design file's code, turned into the end of an execution (see code_crash.h)."""

from libc.stdint cimport uint64_t

from tdpfast._names cimport FAULT_CRASH, FAULT_HANG
from tdpfast._program.code_api cimport CodeFile, code_fault, running_kvm
from tdpfast._sync.cpu cimport SLOW_YIELD, Cpu, running_cpu

cdef extern from "tdpfast/_program/code_crash.h" nogil:
    void tdp_code_arm(int (*where)(uint64_t pc, uint64_t *stack_end) noexcept, void (*crashed)() noexcept,
                      void (*hung)() noexcept, int (*ticked)() noexcept)
    void tdp_code_timer(int on)

cdef enum:
    HANG_TICKS = 5           # of 50 ms each, without a step

cdef uint64_t last_steps
cdef Cpu *last_cpu
cdef int same


cdef int where(uint64_t pc, uint64_t *stack_end) noexcept nogil:
    """Called from a signal handler: whether a design file's code is on the CPU of this OS thread."""
    cdef Cpu *c = running_cpu()
    cdef const CodeFile *f
    if c == NULL or c.code.depth == 0 or c.dead:
        return 0
    f = <const CodeFile *>running_kvm(c).ops.file
    if f.text <= pc < f.text_end:
        c.code.pc = pc - f.text
    if c.slow & SLOW_YIELD:
        stack_end[0] = c.code.stack_end
        return 1
    return 2 if c.landing != NULL else 0


cdef void crashed() noexcept nogil:
    code_fault(running_cpu(), FAULT_CRASH)


cdef void hung() noexcept nogil:
    code_fault(running_cpu(), FAULT_HANG)


cdef int ticked() noexcept nogil:
    """Whether the file's code made no step for so many ticks."""
    global last_steps, last_cpu, same
    cdef Cpu *c = running_cpu()
    if c == NULL or c.code.depth == 0 or not c.slow & SLOW_YIELD:
        same = 0
        return False
    if c != last_cpu or c.code.steps + (c.step << 32) != last_steps:
        last_cpu = c
        last_steps = c.code.steps + (c.step << 32)
        same = 0
        return False
    same += 1
    if same < HANG_TICKS:
        return False
    same = 0
    return True


def arm():
    """Installs the handlers, on this thread's behalf; to be called again on every thread that runs such code."""
    tdp_code_arm(where, crashed, hung, ticked)


def timer(bint on):
    """Starts or stops looking for hangs."""
    tdp_code_timer(on)
