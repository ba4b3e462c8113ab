# cython: language_level=3
"""Lists of operations on several native threads at the same time, without the GIL (see threads.py).

Each thread drives one emulated CPU. What the kernel serialises with slots_lock (invalidating roots and zapping
them) is serialised here by a lock of the engine's own.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

from tdpfast._arena cimport Sp
from tdpfast._atomic cimport (
    tdp_cpu_yield, tdp_fetch_add, tdp_load_seq, tdp_store_seq,
)
from tdpfast._batch cimport VcpuCore, run_to_landing
from tdpfast._ops cimport (
    OP_INVALIDATE_ROOTS, OP_SET_DIRTY_LOG, OP_ZAP_INVALIDATED_ROOTS, Op, OpResult, Vm, vm_run_op,
)
from tdpfast._sync cimport Cpu, SpinLock, spin_lock, spin_unlock
from tdpfast._vm cimport VmCore, fill_op

from tdpfast._vm import OP_NAMES
from tdpfast.errors import UsageError

cdef extern from "time.h" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *ts)
    enum: CLOCK_MONOTONIC

cdef enum:
    KINDS = 64
    RETRY_LIMIT = 1 << 22    # rounds of one loop, with the processor given away in between
    CLOCK_EVERY = 256        # operations between two looks at the clock
    WAIT_ROUNDS = 1 << 12    # rounds of waiting between two looks at signals


cdef uint64_t now_ns() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    return <uint64_t>ts.tv_sec * 1000000000 + <uint64_t>ts.tv_nsec


cdef struct Shared:
    uint64_t ready           # threads that wait for the start
    uint64_t stop            # somebody ended in BUG() or a livelock
    SpinLock slots_lock

cdef struct Worker:
    Cpu *c
    Vm *vm
    Shared *shared
    Op *ops
    uint64_t nops
    uint64_t count           # operations to run; 0: until the deadline
    uint64_t duration_ns     # 0: none
    uint64_t seed            # 0: in order
    bint in_slots            # holds slots_lock
    bint borrowed            # runs on the VM's roots, as its own for the time of a run
    bint running
    uint64_t done
    uint64_t by_kind[KINDS]
    uint64_t elapsed_ns


cdef inline uint64_t xorshift(uint64_t *x) noexcept nogil:
    x[0] ^= x[0] << 13
    x[0] ^= x[0] >> 7
    x[0] ^= x[0] << 17
    return x[0] * 0x2545f4914f6cdd1du


cdef void worker_loop(void *arg) noexcept nogil:
    """The body of a thread. Left through its landing on BUG() or a livelock."""
    cdef Worker *w = <Worker *>arg
    cdef OpResult res
    cdef Op *op
    cdef uint64_t random = w.seed
    cdef uint64_t start = now_ns()
    cdef uint64_t i
    while (not w.count or w.done < w.count) and not tdp_load_seq(&w.shared.stop):
        if w.duration_ns and w.done % CLOCK_EVERY == 0 and now_ns() - start >= w.duration_ns:
            break
        i = (xorshift(&random) >> 32) if w.seed else w.done
        op = &w.ops[i % w.nops]
        w.in_slots = op.kind in (OP_INVALIDATE_ROOTS, OP_ZAP_INVALIDATED_ROOTS, OP_SET_DIRTY_LOG)
        if w.in_slots:
            spin_lock(w.c, &w.shared.slots_lock)
        vm_run_op(w.c, w.vm, op, &res)
        if w.in_slots:
            spin_unlock(w.c, &w.shared.slots_lock)
        w.done += 1
        w.by_kind[op.kind & (KINDS - 1)] += 1
    w.elapsed_ns = now_ns() - start


cdef bint all_there(Worker *w, uint64_t threads) noexcept nogil:
    """Waits for the other threads, for some milliseconds."""
    cdef int i
    for i in range(WAIT_ROUNDS):
        if tdp_load_seq(&w.shared.ready) >= threads or tdp_load_seq(&w.shared.stop):
            return True
        tdp_cpu_yield()
    return False


cdef void worker_run(Worker *w) noexcept nogil:
    if run_to_landing(w.c, w.vm, worker_loop, w):
        tdp_store_seq(&w.shared.stop, 1)
        if w.in_slots:
            spin_unlock(w.c, &w.shared.slots_lock)


cdef class ThreadEngine:
    """Runs one list of operations per CPU. The caller starts as many Python threads and calls run_thread() in each.

    Thread-safety: run_thread(i) touches worker i, its CPU, and atomics; everything else is for one thread.
    """
    cdef Shared shared
    cdef Worker *workers
    cdef readonly Py_ssize_t n
    cdef list vcpus          # the VcpuCores, which keep the VM

    def __cinit__(self, vcpus):
        cdef VcpuCore vcpu
        cdef Py_ssize_t i
        vcpus = list(vcpus)
        if not all([isinstance(one, VcpuCore) for one in vcpus]):
            raise UsageError("bad vCPUs", "not all are VcpuCores", "vCPUs of one VM")
        self.n = len(vcpus)
        self.vcpus = vcpus
        self.workers = <Worker *>malloc(max(self.n, 1) * sizeof(Worker))
        if self.workers == NULL:
            raise MemoryError("no memory for the threads")
        memset(self.workers, 0, self.n * sizeof(Worker))
        for i in range(self.n):
            vcpu = vcpus[i]
            if vcpu.vm is not (<VcpuCore>vcpus[0]).vm:
                raise UsageError("vCPUs of different VMs", "one VM per run", "vCPUs of one VM")
            if any([self.workers[k].c == vcpu.c for k in range(i)]):
                raise UsageError(f"vCPU {vcpu.c.id} twice", "one thread per vCPU", "as many vCPUs as threads")
            self.workers[i].c = vcpu.c
            self.workers[i].vm = vcpu.vm.vm
            self.workers[i].shared = &self.shared

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self.workers != NULL:
            for i in range(self.n):
                free(self.workers[i].ops)
            free(self.workers)

    def set_ops(self, Py_ssize_t i, list ops, uint64_t count, double seconds, uint64_t seed):
        """What worker i runs: its operations in order (seed 0) or at random, `count` of them (0: any number) for
        at most `seconds` (0: any time)."""
        cdef Worker *w
        cdef Op *lowered
        cdef Py_ssize_t k
        cdef tuple todo = tuple(ops)
        if not 0 <= i < self.n:
            raise UsageError(f"no thread {i}", "out of range", f"0..{self.n - 1}")
        if not todo:
            raise UsageError("an empty list of operations", "a thread must have something to do", "at least one")
        if not 0 <= seconds < 1e9:
            raise UsageError(f"bad seconds {seconds!r}", "out of range", "0..1e9")
        w = &self.workers[i]
        lowered = <Op *>malloc(len(todo) * sizeof(Op))
        if lowered == NULL:
            raise MemoryError("no memory for the operations")
        try:
            for k, op in enumerate(todo):
                fill_op(&lowered[k], op, w.vm.tdx != NULL)
                if lowered[k].nscript or lowered[k].race_kind:
                    raise UsageError(f"op {op['op']!r} scripts its hooks or a race", "threads race by themselves",
                                     "an operation without hook and race")
            if w.running:
                raise UsageError(f"operations for thread {i}", "it runs", "it after the run")
        except BaseException:
            free(lowered)
            raise
        free(w.ops)
        w.ops = lowered
        w.nops = len(todo)
        w.count = count
        w.duration_ns = <uint64_t>(seconds * 1e9)
        w.seed = seed
        w.done = 0
        w.elapsed_ns = 0
        memset(w.by_kind, 0, sizeof(w.by_kind))

    cdef int check_idle(self) except -1:
        cdef Py_ssize_t i
        for i in range(self.n):
            if self.workers[i].running:
                raise UsageError("start() or finish()", f"thread {i} runs", "it when all threads have returned")
        return 0

    def start(self):
        """Before the threads of a run start."""
        cdef Py_ssize_t i, k
        self.check_idle()
        self.shared.ready = 0
        self.shared.stop = 0
        for i in range(self.n):
            self.workers[i].c.retry_limit = RETRY_LIMIT
            # The VM's first CPU runs on the VM's roots; for the run it is a vCPU like the others.
            self.workers[i].borrowed = not self.workers[i].c.has_roots
            if self.workers[i].borrowed:
                for k in range(2):
                    self.workers[i].c.root[k] = self.workers[i].vm.kvm.vcpu_root[k]
                    self.workers[i].vm.kvm.vcpu_root[k] = NULL
                self.workers[i].c.has_roots = True

    def stop(self):
        """Ends a run early: every thread finishes its operation."""
        tdp_store_seq(&self.shared.stop, 1)

    def run_thread(self, Py_ssize_t i):
        """The body of thread i; waits for the others to begin."""
        cdef Worker *w
        cdef VmCore vm
        cdef bint there = False
        if not 0 <= i < self.n or self.workers[i].ops == NULL:
            raise UsageError(f"no thread {i}", "out of range or without operations", "set_ops() first")
        w = &self.workers[i]
        vm = (<VcpuCore>self.vcpus[i]).vm
        vm.enter(w.c.id)
        w.running = True
        try:
            tdp_fetch_add(&self.shared.ready, 1)
            while not there:
                with nogil:
                    there = all_there(w, self.n)
                PyErr_CheckSignals()
            with nogil:
                worker_run(w)
        finally:
            w.running = False
            vm.busy[w.c.id] = False

    def finish(self):
        """After the threads of a run ended; per thread (operations, seconds, operation -> count, abort code)."""
        cdef Py_ssize_t i, k
        self.check_idle()
        out = []
        for i in range(self.n):
            self.workers[i].c.retry_limit = 1000
            if self.workers[i].borrowed:
                for k in range(2):
                    self.workers[i].vm.kvm.vcpu_root[k] = <Sp *>self.workers[i].c.root[k]
                    self.workers[i].c.root[k] = NULL
                self.workers[i].c.has_roots = False
                self.workers[i].borrowed = False
            if self.workers[i].c.abort:
                (<VcpuCore>self.vcpus[i]).vm.over = True
            kinds = {name: self.workers[i].by_kind[k] for k, name in enumerate(OP_NAMES[:KINDS])
                     if self.workers[i].by_kind[k]}
            out.append((self.workers[i].done, self.workers[i].elapsed_ns * 1e-9, kinds, self.workers[i].c.abort))
        return out
