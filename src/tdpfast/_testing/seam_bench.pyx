# cython: language_level=3
"""Runs one leaf many times without Python between the calls: for benchmarks and stress."""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from tdpfast._names cimport TDG_MEM_PAGE_ACCEPT, TDG_MEM_PAGE_ATTR_RD, TDG_MEM_PAGE_ATTR_WR, TDH_VP_ENTER
from tdpfast._seam.module cimport seamcall
from tdpfast._face.seam_module cimport SeamModule
from tdpfast._seam.state cimport SeamRegs
from tdpfast._seam.guest cimport (
    td_guest_access, tdcall,
)
from tdpfast._seam.vp cimport td_async_exit
from tdpfast._sync.cpu cimport Cpu

from tdpfast.errors import UsageError

GUEST = ("accept", "attr_rd", "attr_wr", "access", "enter_exit")

cdef struct Statuses:        # how often each was answered; more than 8 kinds: the rest is not told apart
    uint64_t seen[8]
    long count[8]
    int kinds


cdef inline void statuses_add(Statuses *t, uint64_t status) noexcept nogil:
    cdef int k
    for k in range(t.kinds):
        if t.seen[k] == status:
            t.count[k] += 1
            return
    if t.kinds < 8:
        t.seen[t.kinds] = status
        t.count[t.kinds] = 1
        t.kinds += 1


cdef inline int64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec * 1000000000 + t.tv_nsec


def run(SeamModule module not None, int leaf, long n, int lp=0, uint64_t rcx=0, uint64_t rcx_step=0, uint64_t rdx=0,
        uint64_t r8=0, uint64_t r8_step=0, uint64_t r9=0):
    """n calls, operands stepped after each. Returns (nanoseconds in all, {status: how many})."""
    cdef SeamRegs r
    cdef Statuses t
    cdef Cpu *c = module.lp(lp)
    cdef int64_t start
    cdef long i
    t.kinds = 0
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
            statuses_add(&t, r.rax)
            rcx += rcx_step
            r8 += r8_step
        start = now() - start
    return start, {t.seen[k]: t.count[k] for k in range(t.kinds)}


def run_guest(SeamModule module not None, str what, long n, int lp, uint64_t rcx=0, uint64_t rcx_step=0):
    """n guest operations of the VCPU on that LP (a TDCALL, a write, or with rcx its TDVPR an entry and an exit),
    RCX stepped after each. Returns (nanoseconds in all, {result: how many}): results of TDCALLs are RAX of those
    that came back to the guest, of a write GuestResult, of an entry its status."""
    cdef SeamRegs r
    cdef Statuses t
    cdef Cpu *c = module.lp(lp)
    cdef uint64_t result = 0
    cdef int64_t start
    cdef int kind, ret
    cdef long i
    if what not in GUEST:
        raise UsageError(f"guest operation {what!r}", "unknown", "one of " + ", ".join(GUEST))
    kind = GUEST.index(what)
    t.kinds = 0
    with nogil:
        start = now()
        for i in range(n):
            memset(&r, 0, sizeof(r))
            r.rcx = rcx
            ret = 0
            if kind == 0:
                ret = tdcall(c, module.s, TDG_MEM_PAGE_ACCEPT, &r)
            elif kind == 1:
                ret = tdcall(c, module.s, TDG_MEM_PAGE_ATTR_RD, &r)
            elif kind == 2:
                ret = tdcall(c, module.s, TDG_MEM_PAGE_ATTR_WR, &r)
            elif kind == 3:
                r.rax = <uint64_t>td_guest_access(c, module.s, rcx, False, &r)
            else:
                result = seamcall(c, module.s, TDH_VP_ENTER, &r)
                td_async_exit(c, module.s, &r)
                r.rax = result
            statuses_add(&t, r.rax if ret == 0 else <uint64_t>-ret)
            rcx += rcx_step
        start = now() - start
    return start, {t.seen[k]: t.count[k] for k in range(t.kinds)}
