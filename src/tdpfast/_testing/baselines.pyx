# cython: language_level=3
"""Native loops that benchmarks compare against: the bare machine operation inside an emulated one.

Each function runs n rounds without the GIL and returns the nanoseconds of all of them together.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from tdpfast._mmu.arena cimport ARENA_HPA, SPTE_ENTRIES, Arena
from tdpfast._sync.atomic cimport tdp_fetch_add, tdp_fetch_and, tdp_read_once, tdp_try_cmpxchg, tdp_xchg
from tdpfast._sync.fiber cimport tdp_fiber, tdp_fiber_arm, tdp_fiber_map, tdp_fiber_switch, tdp_fiber_unmap
from tdpfast._spte cimport SPTE_BASE_ADDR_MASK
from tdpfast._mmu.tdp_iter cimport spte_to_child_pt
from tdpfast._face.vm cimport VmCore

from tdpfast.errors import UsageError

ATOMICS = ("try_cmpxchg", "xchg", "fetch_and", "fetch_add")

cdef struct Alone:
    uint64_t before[8]
    uint64_t word        # on a cache line of its own
    uint64_t after[8]

cdef struct Pair:
    tdp_fiber main
    tdp_fiber fiber


cdef inline int64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec * 1000000000 + t.tv_nsec


def atomic(str what, long n):
    """One word of ATOMICS' operation, its result used, that nobody else touches."""
    cdef Alone a
    cdef uint64_t v = 0
    cdef int64_t start
    cdef int kind
    cdef long i
    if what not in ATOMICS:
        raise UsageError(f"atomic {what!r}", "unknown", "one of " + ", ".join(ATOMICS))
    kind = ATOMICS.index(what)
    memset(&a, 0, sizeof(a))
    with nogil:
        start = now()
        if kind == 0:
            for i in range(n):
                tdp_try_cmpxchg(&a.word, &v, v + 1)
                v += 1
        elif kind == 1:
            for i in range(n):
                v = tdp_xchg(&a.word, v)
        elif kind == 2:
            for i in range(n):
                v = tdp_fetch_and(&a.word, ~v)
        else:
            for i in range(n):
                v = tdp_fetch_add(&a.word, 4)
        start = now() - start
    return start


def raw_walk(VmCore vm not None, bint mirror, long n, uint64_t step, uint64_t gfn_bits=0):
    """Dependent loads from the root to the SPTE of gfn 0, step, 2 * step, ...: the walk without iterator, RCU and
    checks. Every table must be there."""
    cdef Arena *a = &vm.vm.arena
    cdef const uint64_t *root
    cdef const uint64_t *table
    cdef uint64_t gfn = 0, sum = 0, spte
    cdef int64_t start
    cdef int level, top
    cdef long i
    if vm.vm.kvm.vcpu_root[mirror] == NULL:
        raise UsageError("raw_walk", "the VM has no such root", "a VM with one")
    root = vm.vm.kvm.vcpu_root[mirror].spt
    top = vm.vm.kvm.vcpu_root[mirror].level
    for i in range(n):
        table = root
        for level in range(top, 1, -1):
            spte = tdp_read_once(table + (((gfn | gfn_bits) >> (9 * (level - 1))) & 511))
            table = spte_to_child_pt(a, spte, level)
            if table == NULL:
                raise UsageError(f"raw_walk of gfn {gfn:#x}", "a table on the way is not there", "map the range first")
        gfn += step
    gfn = 0
    with nogil:
        start = now()
        for i in range(n):
            table = root
            level = top
            while True:
                spte = tdp_read_once(table + (((gfn | gfn_bits) >> (9 * (level - 1))) & 511))
                if level == 1:
                    break
                table = a.base + (((spte & SPTE_BASE_ADDR_MASK) - ARENA_HPA) >> 12) * SPTE_ENTRIES
                level -= 1
            sum += spte
            gfn += step
        start = now() - start
    if sum == 0:
        raise UsageError("raw_walk", "nothing is mapped", "map the range first")
    return start


def copy(size_t size, long n):
    """memcpy() of size bytes, cached."""
    cdef char *m
    cdef int64_t start
    cdef long i
    if not 1 <= size <= 1 << 32:
        raise UsageError(f"{size} bytes", "out of range", "1..1 << 32")
    m = <char *>malloc(2 * size)
    if m == NULL:
        raise MemoryError(f"no memory for 2 * {size} bytes")
    memset(m, 1, 2 * size)
    with nogil:
        start = now()
        for i in range(n):
            memcpy(m + size, m, size)
            m[0] += m[size]          # so that no copy is left out
        start = now() - start
    free(m)
    return start


cdef void bounce(void *arg) noexcept nogil:
    cdef Pair *p = <Pair *>arg
    while True:
        tdp_fiber_switch(&p.fiber, &p.main)


def fiber_switches(long n):
    """To a fiber and back: what one step of the explorer costs at least."""
    cdef Pair p
    cdef int64_t start
    cdef long i
    memset(&p, 0, sizeof(p))
    if tdp_fiber_map(&p.fiber):
        raise MemoryError("no memory for a stack")
    with nogil:
        tdp_fiber_arm(&p.fiber, bounce, &p)
        start = now()
        for i in range(n):
            tdp_fiber_switch(&p.main, &p.fiber)
        start = now() - start
    tdp_fiber_unmap(&p.fiber)
    return start
