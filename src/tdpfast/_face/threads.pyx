# cython: language_level=3
"""Lists of operations on several native threads at the same time, without the GIL (see threads.py).

Each thread drives one emulated CPU. What the kernel serialises with slots_lock (invalidating roots and zapping
them) is serialised here by a lock of the engine's own.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from tdpfast._names cimport OP_INVALIDATE_ROOTS, OP_MAP, OP_SET_DIRTY_LOG, OP_ZAP_INVALIDATED_ROOTS, RET_PF_RETRY
from tdpfast._mmu.arena cimport Sp, arena_bury, arena_watch
from tdpfast._sync.atomic cimport (
    tdp_cpu_yield, tdp_fetch_add, tdp_load_seq, tdp_read_once, tdp_store_seq,
)
from tdpfast._face.batch cimport VcpuCore, run_to_landing
from tdpfast._ops.ops cimport Op, OpResult, Vm, vm_run_op
from tdpfast._sync.cpu cimport (
    SLOW_CHECK, SLOW_NOISE, Counters, Cpu, SpinLock, now_ns, rcu_run, spin_lock, spin_unlock, xorshift,
)
from tdpfast._face.vm cimport VmCore, fill_op
from tdpfast._mmu.tdp_mmu cimport ROOT_KINDS

from tdpfast._face.vm import OP_NAMES
from tdpfast.errors import UsageError

cdef enum:
    KINDS = 64
    RETRY_LIMIT = 1 << 16    # rounds of one loop, with the processor given away in between, before they are timed
    RETRY_NS = 2000000000    # whoever holds what the loop waits for may be off the processor
    CLOCK_EVERY = 32         # operations between two looks at the clock; those that follow one are timed
    WAIT_ROUNDS = 1 << 12    # rounds of waiting between two looks at signals


cdef struct Shared:
    uint64_t ready           # threads that wait for the start
    uint64_t stop            # somebody ended in BUG() or a livelock
    uint64_t most_pages      # a run ends when the arena has used so many; 0: none. The watched dead are not reused.
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
    uint64_t at              # its place in ops of the operation that runs, or ran last
    uint64_t by_kind[KINDS]
    uint64_t samples[KINDS]  # operations that were timed, and how long they took together
    uint64_t sample_ns[KINDS]
    uint64_t elapsed_ns
    uint64_t pf_retry        # faults that came back with RET_PF_RETRY, each round of their loops
    Counters before


cdef bint nearly_used_up(const Worker *w) noexcept nogil:
    """Whether the arena has nothing left that was freed before this run, and little that was never used."""
    return (tdp_read_once(&w.vm.arena.free_head) & 0xffffffffu == 0
            and tdp_read_once(&w.vm.arena.next_fresh) >= w.shared.most_pages)


cdef void worker_loop(void *arg) noexcept nogil:
    """The body of a thread. Left through its landing on BUG() or a livelock."""
    cdef Worker *w = <Worker *>arg
    cdef OpResult res
    cdef Op *op
    cdef uint64_t random = w.seed
    cdef uint64_t start = now_ns()
    cdef uint64_t i, begun
    while (not w.count or w.done < w.count) and not tdp_load_seq(&w.shared.stop):
        begun = now_ns() if w.done % CLOCK_EVERY == 0 else 0
        if begun and w.duration_ns and begun - start >= w.duration_ns:
            break
        if w.shared.most_pages and nearly_used_up(w):
            break
        i = (xorshift(&random) >> 32) if w.seed else w.done
        w.at = i % w.nops
        op = &w.ops[w.at]
        w.in_slots = op.kind in (OP_INVALIDATE_ROOTS, OP_ZAP_INVALIDATED_ROOTS, OP_SET_DIRTY_LOG)
        if w.in_slots:
            spin_lock(w.c, &w.shared.slots_lock)
        vm_run_op(w.c, w.vm, op, &res)
        if w.c.hook_raised:
            tdp_store_seq(&w.shared.stop, 1)
        if w.in_slots:
            spin_unlock(w.c, &w.shared.slots_lock)
        if begun:
            w.samples[op.kind & (KINDS - 1)] += 1
            w.sample_ns[op.kind & (KINDS - 1)] += now_ns() - begun
        if op.kind == OP_MAP:
            w.pf_retry += <uint64_t>res.tries - (0 if res.ret == RET_PF_RETRY else 1)
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
    cdef bint begun          # start() without a finish()
    cdef bint watched        # this run looks for accesses to freed tables
    cdef list vcpus          # the VcpuCores, which keep the VM

    def __cinit__(self, vcpus):
        cdef VcpuCore vcpu
        cdef Py_ssize_t i
        vcpus = list(vcpus)
        if not all([isinstance(one, VcpuCore) for one in vcpus]):
            raise UsageError("bad vCPUs", "not all are VcpuCores", "vCPUs of one VM")
        if not vcpus:
            raise UsageError("no vCPUs", "a run has at least one thread", "vCPUs of one VM")
        self.n = len(vcpus)
        self.vcpus = vcpus
        self.workers = <Worker *>malloc(self.n * sizeof(Worker))
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

    def set_ops(self, Py_ssize_t i, ops, uint64_t count, double seconds, uint64_t seed):
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
                fill_op(&lowered[k], op, w.vm.tdx != NULL and w.vm.kvm.has_mirror)
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
        w.pf_retry = 0
        memset(w.by_kind, 0, sizeof(w.by_kind))
        memset(w.samples, 0, sizeof(w.samples))
        memset(w.sample_ns, 0, sizeof(w.sample_ns))

    cdef int check_idle(self) except -1:
        """UsageError unless nothing runs on the CPUs of the threads."""
        cdef VmCore vm = (<VcpuCore>self.vcpus[0]).vm
        cdef Py_ssize_t i
        for i in range(self.n):
            if self.workers[i].running:
                raise UsageError("start() or finish()", f"thread {i} runs", "it when all threads have returned")
            vm.enter(self.workers[i].c.id)
            vm.busy[self.workers[i].c.id] = False
        return 0

    def start(self, bint watch=False, uint64_t noise=0):
        """Before the threads of a run start. watch: freed tables are poisoned and kept until the end of the run, and
        a use of one violates `life`; the run ends early when the arena is nearly used up. noise: a seed; the threads
        give the processor away before random accesses (0: they do not)."""
        cdef Py_ssize_t i, k
        self.check_idle()
        if self.begun:
            raise UsageError("start()", "the run before has not ended", "finish() first")
        self.begun = True
        self.shared.ready = 0
        self.shared.stop = 0
        self.shared.most_pages = 0
        self.watched = watch
        if watch:
            self.workers[0].vm.arena.keep_dead = True
            self.shared.most_pages = self.workers[0].vm.arena.npages - self.workers[0].vm.arena.npages // 8
        for i in range(self.n):
            self.workers[i].before = self.workers[i].c.count
            if noise:
                self.workers[i].c.noise = noise + <uint64_t>i if noise + <uint64_t>i else 1
                self.workers[i].c.slow |= SLOW_NOISE
            if watch:
                arena_watch(&self.workers[i].vm.arena, self.workers[i].c)
            self.workers[i].c.retry.limit = RETRY_LIMIT
            self.workers[i].c.retry.ns = RETRY_NS
            # The VM's first CPU runs on the VM's roots; for the run it is a vCPU like the others.
            self.workers[i].borrowed = not self.workers[i].c.has_roots
            if self.workers[i].borrowed:
                for k in range(ROOT_KINDS):
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

    cdef settle(self):
        """Nobody runs any more: what waits for its grace period is freed, and what was watched is given back."""
        cdef Py_ssize_t i
        cdef Cpu *c = self.workers[0].c
        if not any([self.workers[i].c.abort for i in range(self.n)]):
            rcu_run(c, c.rcu, 0)
            if self.watched:
                arena_bury(&self.workers[0].vm.arena)
        if self.watched:
            self.workers[0].vm.arena.keep_dead = False
        for i in range(self.n):
            self.workers[i].c.slow &= ~<uint32_t>(SLOW_CHECK | SLOW_NOISE)

    def measured(self, Py_ssize_t i):
        """What thread i's last run cost: operation -> (how many were timed, their nanoseconds together), and the
        counters of contention by name."""
        cdef Worker *w
        cdef Py_ssize_t k
        if not 0 <= i < self.n:
            raise UsageError(f"no thread {i}", "out of range", f"0..{self.n - 1}")
        w = &self.workers[i]
        times = {name: (w.samples[k], w.sample_ns[k]) for k, name in enumerate(OP_NAMES[:KINDS]) if w.samples[k]}
        return times, {
            "ret_pf_retry": w.pf_retry, "lost_cmpxchg": w.c.count.lost_cmpxchg - w.before.lost_cmpxchg,
            "retries": w.c.count.retries - w.before.retries, "operand_busy": w.c.count.busy - w.before.busy,
            "kicks": w.c.count.kicks - w.before.kicks, "yields": w.c.count.yields - w.before.yields,
        }

    def last_op(self, Py_ssize_t i):
        """Where in its list the operation stands that thread i ran last, or that ended it."""
        if not 0 <= i < self.n:
            raise UsageError(f"no thread {i}", "out of range", f"0..{self.n - 1}")
        return self.workers[i].at

    def freed_uses(self):
        """Uses of freed tables by all CPUs so far: how many, and (gfn, level) of the first or None."""
        cdef Py_ssize_t i
        cdef uint64_t n = 0
        where = None
        for i in range(self.n):
            if self.workers[i].c.tables.uaf_count and where is None:
                where = self.workers[i].c.tables.uaf_gfn, self.workers[i].c.tables.uaf_level
            n += self.workers[i].c.tables.uaf_count
        return n, where

    def finish(self):
        """After the threads of a run ended; per thread (operations, seconds, operation -> count, abort code)."""
        cdef Py_ssize_t i, k
        self.check_idle()
        out = []
        if self.begun:
            self.settle()
        self.begun = False
        for i in range(self.n):
            self.workers[i].c.retry.limit = 1000
            self.workers[i].c.retry.ns = 0
            if self.workers[i].borrowed:
                for k in range(ROOT_KINDS):
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
