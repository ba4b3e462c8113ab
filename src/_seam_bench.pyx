# cython: language_level=3
"""Runs one leaf many times without Python between the calls: for benchmarks and stress."""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from tdpfast._seam cimport seamcall
from tdpfast._seam_api cimport SeamModule
from tdpfast._seam_core cimport SeamRegs
from tdpfast._sync cimport Cpu


cdef inline int64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec * 1000000000 + t.tv_nsec


def run(SeamModule module not None, int leaf, long n, int lp=0, uint64_t rcx=0, uint64_t rcx_step=0, uint64_t rdx=0,
        uint64_t r8=0, uint64_t r8_step=0, uint64_t r9=0):
    """n calls, operands stepped after each. Returns (nanoseconds in all, {status: how many})."""
    cdef SeamRegs r
    cdef Cpu *c = module.lp(lp)
    cdef uint64_t seen[8]
    cdef long count[8]
    cdef int kinds = 0, k
    cdef long i
    cdef int64_t start, stop
    with nogil:
        start = now()
        for i in range(n):
            r.rax = 0
            r.rcx = rcx
            r.rdx = rdx
            r.r8 = r8
            r.r9 = r9
            r.r10 = r.r11 = <uint64_t>-1
            seamcall(c, module.s, leaf, &r)
            for k in range(kinds):
                if seen[k] == r.rax:
                    count[k] += 1
                    break
            else:
                if kinds < 8:
                    seen[kinds] = r.rax
                    count[kinds] = 1
                    kinds += 1
            rcx += rcx_step
            r8 += r8_step
        stop = now()
    return stop - start, {seen[k]: count[k] for k in range(kinds)}
