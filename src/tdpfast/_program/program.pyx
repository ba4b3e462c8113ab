# cython: language_level=3
"""A scenario as a program of the explorer: a TD, and one list of operations per thread (see program.pxd)."""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from tdpfast._names cimport (
    CHECK_LIFE, EINVAL, EV_OP, EV_OP_END, GUEST_RET_STATUS, KVM_FILTER_SHARED, MAX_THREADS, OP_ACCESS,
    OP_FREE_PFN, OP_GUEST_ACCESS, OP_GMEM_CONVERT, OP_MAP, OP_UNMAP,
    OP_ZAP_LEAFS, SPLIT_IGNORE, SYNC_OP,
)
from tdpfast._mmu.arena cimport Sp, arena_restore, arena_snapshot, arena_watch, sp_invalid
from tdpfast._mmu.hardware cimport MAX_LOGGED
from tdpfast._mmu.invalidate cimport HOLE_BEGINS, HOLE_ENDS, HOLE_INSIDE, HOLE_SHARED
from tdpfast._mmu.tdp_mmu_sp cimport kvm_page_stat
from tdpfast._mmu.tdp_mmu cimport ROOT_DIRECT, ROOT_GUEST_MODE, ROOT_KINDS, ROOT_MIRROR, ROOT_SMM, SRCU_CPUS
from tdpfast._program.quiescence cimport vm_check
from tdpfast._program.digest cimport world_digest
from tdpfast._ops.ops cimport OpRow, op_refused, op_row, slot_named, vm_run_op
from tdpfast._program.pyhooks cimport pyhook_cut, pyhook_reset, pyhook_serve
from tdpfast._seam.module cimport seam_inject_clear, seam_restore, seam_snapshot
from tdpfast._seam.record cimport seam_trace
from tdpfast._sync.cpu cimport SLOW_RARE, Event, sync_point, trace_free, trace_new, trace_reset
from tdpfast._tdx.state cimport TDX_SEPT_PAGES
from tdpfast._face.vm cimport fill_op, result_dict, trace_list
from tdpfast._program.span cimport lone_entry, span_add, spans_possible
from tdpfast._program.watch cimport watch_free, watch_image, watch_name, watch_new, watch_report, watch_step

from tdpfast._face.vm import OP_NAMES
from tdpfast.errors import UsageError
from tdpfast.ops import OPS
from tdpfast.spans import SPANS
from tdpfast._program.places import place_of, tables

# What reach() counts, by its name here and among the Counters of a CPU.
COUNTS = {"cmpxchg lost": "lost_cmpxchg", "rounds of retries": "retries", "SEAMCALLs that met BUSY": "busy",
          "kicks": "kicks", "yields": "yields"}

cdef enum:
    SHARE = 64           # table pages a CPU may allocate in one execution
    WHOLE = 255          # kind of an EV_OP_END that is no part of an operation (events.WHOLE)


cdef void note_reach(ThreadOps *t, int i) noexcept nogil:
    """Counts how an operation of a thread ended."""
    cdef const OpResult *res = &t.res[i]
    cdef const OpRow *row = op_row(t.ops[i].kind)
    cdef OpReach *r = &t.reach[i]
    r.ran += 1
    if res.ret == -EINVAL and op_refused(&t.vm.kvm, row, &t.ops[i]):
        r.refused += 1
        return
    if res.ret < 0 or (r.want and (res.ret >= 32 or not r.want >> res.ret & 1)):
        return
    if r.guest == 0 or (r.guest >> res.kind & 1 and not res.flags
                        and (res.kind != GUEST_RET_STATUS or res.rax == 0)):
        r.done += 1


cdef void thread_body(Cpu *c, void *arg) noexcept nogil:
    """Runs one thread's operations; yields wherever the core does."""
    cdef ThreadOps *t = <ThreadOps *>arg
    cdef Event *e
    cdef int i
    for i in range(t.nops):
        sync_point(c, SYNC_OP, i)
        if c.trace != NULL:
            e = trace_new(c, EV_OP)
            e.a[0] = i
        vm_run_op(c, t.vm, &t.ops[i], &t.res[i])
        note_reach(t, i)
        t.done = i + 1
        if c.trace != NULL:
            e = trace_new(c, EV_OP_END)
            e.a[0] = i
            e.a[1] = <uint64_t>t.res[i].ret
            e.a[6] = WHOLE


cdef bint killed(const Kvm *kvm) noexcept nogil:
    return kvm.vm_dead or kvm.vm_bugged


cdef void note_end(World *w) noexcept nogil:
    """Counts what the execution that is over left in the VM, before that is taken back."""
    w.hooks_failed += w.vm.kvm.hook_failures - w.kvm_copy.hook_failures
    w.dead += killed(&w.vm.kvm) and not killed(&w.kvm_copy)


cdef void world_reset(void *user) noexcept nogil:
    """Back to the state after the set-up operations."""
    cdef World *w = <World *>user
    cdef int i, k
    note_end(w)
    arena_restore(&w.vm.arena)
    seam_restore(w.t.seam)
    memcpy(&w.vm.kvm, &w.kvm_copy, sizeof(Kvm))
    if w.vm.kvm.ops != NULL:
        w.vm.kvm.ops.restore(w.vm.kvm.ops)
    memcpy(w.t, &w.tdx_copy, sizeof(Tdx))
    memcpy(w.t.sept_state, w.t.sept_state_copy, w.t.sept_share_base)
    seam_inject_clear(w.t.seam)
    trace_reset(w.trace)
    if w.vm.kvm.hooks.python != NULL:
        pyhook_reset(&w.vm.kvm)
    for i in range(w.nthreads):
        # A thread may have been left in the middle of a guest instruction.
        w.cpus[i].lp = w.lp[i]
        for k in range(ROOT_KINDS):
            w.cpus[i].root[k] = w.root[i][k]
        memcpy(w.threads[i].ops, w.threads[i].master, w.threads[i].nops * sizeof(Op))
        w.threads[i].done = 0


cdef void world_cut(void *user) noexcept nogil:
    """Ends the generators of Python hooks that an execution left behind."""
    pyhook_cut(&(<World *>user).vm.kvm)


cdef uint32_t world_check(void *user, bint quiescent) noexcept nogil:
    """Check bits at the end of an execution; while something is in flight only the lifetime of tables counts."""
    cdef World *w = <World *>user
    cdef uint32_t found = vm_check(w.vm, &w.finding)
    if w.uses_only:
        found &= ~<uint32_t>CHECK_LIFE
    return found if quiescent else found & CHECK_LIFE


cdef bint is_rare(object op) except -1:
    """Whether words that are constant without it may change (see sync_rare()): the list of roots, where L2 or system
    management mode may have none yet."""
    if op.get("guest_mode") or op.get("smm"):
        return True
    return OPS[op["op"]].rare or any([inject.get("until_kick") for inject in op.get("inject", ())])


cdef bint roots_invalid(const Kvm *kvm) noexcept nogil:
    """Whether the set-up left a root that vCPUs must let go of: any fault of one then changes the list of roots."""
    cdef const Sp *root = kvm.tdp_mmu_roots
    while root != NULL:
        if sp_invalid(root):
            return True
        root = root.next
    return False


cdef bint reaches_shared(const Kvm *kvm, const Op *op) noexcept nogil:
    """A guest's access to shared memory: by the direct root."""
    return op.kind == OP_ACCESS or (op.kind == OP_GUEST_ACCESS and ((op.value >> 12) & kvm.gfn_direct_bits) != 0)


def lower(fields, bint td=True):
    """UsageError unless a scenario's operation (a mapping with `op`) has known fields with possible values."""
    cdef Op op
    fill_op(&op, fields, td)


cdef class ScenarioProgram(ProgramRef):
    """Keeps the TD after its set-up as the state every execution starts from.

    threads: one list of operation mappings per thread, 1 to 16. The TD must not be used by others meanwhile.
    Two arguments are for tests of what OPS says: rare offers the words of rare operations, or not, whatever operations
    there are; every thread holds references to the roots (bits as in OpSpec.roots), whatever it does. every_entry: each
    access to an entry of a table is a step, also where no other thread comes to it (tdpfast.spans).
    Raises UsageError for a bad operation.
    """

    def __cinit__(self):
        self.world = <World *>calloc(1, sizeof(World))
        if self.world == NULL:
            raise MemoryError("no memory for a scenario")

    def __dealloc__(self):
        cdef int i
        if self.world != NULL:
            for i in range(self.world.nthreads):
                free(self.world.threads[i].ops)
                free(self.world.threads[i].master)
                free(self.world.threads[i].res)
                free(self.world.threads[i].reach)
            free(self.world.threads)
            watch_free(self.world.watch)
            free(self.world)
        trace_free(&self.trace)

    cdef int explored(self, bint on) except -1:
        """As ProgramRef.explored(); the TD runs nothing else meanwhile."""
        if not on:
            self.vm.explored = False
            return ProgramRef.explored(self, False)
        self.made()
        ProgramRef.explored(self, True)
        try:
            self.vm.enter_all()
        except UsageError:
            ProgramRef.explored(self, False)
            raise
        return 0

    cdef int made(self) except -1:
        if self.p == NULL:
            raise UsageError("an empty program", "it was not made", "a ScenarioProgram that __init__() made")
        return 0

    def __init__(self, TdVmCore vm not None, threads, *, rare=None, int roots=-1, bint every_entry=False):
        cdef int i
        cdef World *w = self.world
        cdef Cpu *rcu_cpu
        vm.made()
        vm.check_hook()
        if self.vm is not None:
            raise UsageError("a second __init__()", "a program is made once", "a new one")
        if not isinstance(threads, (list, tuple)) or not all([isinstance(ops, (list, tuple)) for ops in threads]):
            raise UsageError("bad threads", "not lists of operations", "one list of operations per thread")
        threads = tuple([tuple(ops) for ops in threads])
        if not 1 <= len(threads) <= MAX_THREADS:
            raise UsageError(f"{len(threads)} threads", f"a scenario has 1 to {MAX_THREADS}", "add or merge threads")
        self.vm = vm
        self.nthreads = len(threads)
        w.vm = vm.vm
        w.t = vm.t
        w.trace = &self.trace
        w.threads = <ThreadOps *>calloc(self.nthreads, sizeof(ThreadOps))
        if w.threads == NULL:
            raise MemoryError("no memory for a scenario")
        w.nthreads = self.nthreads
        for i in range(self.nthreads):
            self.add_thread(&w.threads[i], threads[i])
            self.cpus[i] = vm.add_cpu()
            self.args[i] = &w.threads[i]
        rcu_cpu = vm.add_cpu()
        if rare is None:
            rare = any([is_rare(op) for ops in threads for op in ops]) or roots_invalid(&vm.vm.kvm)
        self.pair_holes(threads)
        self.watch_hardware(threads)
        self.give_roots(roots)
        self.snapshot()
        self.tables = tables(vm)
        w.cpus = self.cpus
        for i in range(self.nthreads):
            w.lp[i] = self.cpus[i].lp
        for i in range(self.nthreads):
            arena_watch(&vm.vm.arena, self.cpus[i])
            if rare:
                self.cpus[i].slow |= SLOW_RARE
            self.cpus[i].trace = &self.trace
        arena_watch(&vm.vm.arena, rcu_cpu)
        rcu_cpu.trace = &self.trace
        self.program.nthreads = self.nthreads
        self.program.cpus = self.cpus
        self.program.args = self.args
        self.program.body = thread_body
        self.program.rcu = &vm.vm.kvm.rcu
        self.program.rcu_cpu = rcu_cpu
        self.program.reset = world_reset
        self.program.check = world_check
        self.program.digest = world_digest
        self.program.python_hook = pyhook_serve
        self.program.python_word = &vm.hook_steps
        if w.vm.kvm.hooks.python != NULL:
            self.program.cut = world_cut
        self.program.user = w
        # What a retry may depend on without a word that says so: scripts, hooks that keep something, and the level that a
        # fault asks for next.
        self.program.hidden_state = (any("hook" in op or "inject" in op for ops in threads for op in ops)
                                     or vm.hook_reset is not None
                                     or vm.vm.kvm.design.split_shared == SPLIT_IGNORE)
        self.span(threads, every_entry)
        self.p = &self.program

    cdef int span(self, tuple threads, bint every_entry) except -1:
        """Which entries of tables each thread comes to; accesses to others are no steps of the rest."""
        cdef World *w = self.world
        cdef int i, j
        if every_entry or not spans_possible(w, threads):
            return 0
        for i in range(w.nthreads):
            for j in range(w.threads[i].nops):
                span_add(w, &w.spans[i], &w.threads[i].master[j], SPANS[threads[i][j]["op"]])
        self.program.lone = lone_entry
        return 0

    @property
    def spans(self):
        """Per thread the guest frames [start, end) whose entries it comes to, None for every entry; None where each access
        to an entry is a step."""
        self.made()
        cdef const Spans *s
        cdef int i, j
        if self.program.lone == NULL:
            return None
        out = []
        for i in range(self.nthreads):
            s = &self.world.spans[i]
            out.append(None if s.n > MAX_SPANS else [(s.start[j], s.end[j]) for j in range(s.n)])
        return out

    @property
    def outside(self):
        """How many writes to entries so far were beyond the spans of the thread that made them: one is a defect."""
        self.made()
        return self.world.outside

    cdef int add_thread(self, ThreadOps *t, object ops) except -1:
        cdef int i
        cdef int n = len(ops)
        t.vm = self.vm.vm
        t.ops = <Op *>calloc(n + 1, sizeof(Op))
        t.master = <Op *>calloc(n + 1, sizeof(Op))
        t.res = <OpResult *>calloc(n + 1, sizeof(OpResult))
        t.reach = <OpReach *>calloc(n + 1, sizeof(OpReach))
        if t.ops == NULL or t.master == NULL or t.res == NULL or t.reach == NULL:
            raise MemoryError("no memory for a scenario")
        t.nops = n
        for i in range(n):
            fill_op(&t.master[i], ops[i], self.vm.on_td())
            slot_named(&self.vm.vm.kvm, &t.master[i])
            spec = OPS[ops[i]["op"]]
            t.reach[i].want = sum([1 << ret for ret in (spec.effect or spec.done)])
            t.reach[i].guest = sum([1 << kind for kind in spec.guest])
        return 0

    cdef int pair_holes(self, tuple threads) except -1:
        """An operation that zaps and the free_pfn of its thread that follow for its gfns are one hole: its invalidation
        goes on until the last of them. Words of the protocol are offered where some thread faults, too."""
        cdef Kvm *kvm = &self.world.vm.kvm
        cdef ThreadOps *t
        cdef Op *first
        cdef Op *later
        cdef int i, j, k, last
        kinds = {OPS[op["op"]].gmem for ops in threads for op in ops}
        kvm.invalidations = {"fault", "hole"} <= kinds
        kvm.slot_moves = kvm.invalidations and any([op["op"] == "move_slot" for ops in threads for op in ops])
        for i in range(self.nthreads):
            t = &self.world.threads[i]
            if any([OPS[op["op"]].gmem == "fault" for op in threads[i]]):
                kvm.srcu_used |= <uint32_t>1 << (self.cpus[i].id & (SRCU_CPUS - 1))
            for j in range(t.nops if kvm.invalidations else 0):
                first = &t.master[j]
                if first.kind not in (OP_UNMAP, OP_ZAP_LEAFS, OP_GMEM_CONVERT):
                    continue
                last = -1
                for k in range(j + 1, t.nops):
                    later = &t.master[k]
                    if later.kind == OP_FREE_PFN and not later.hole and first.start <= later.gfn < first.end:
                        later.hole = HOLE_INSIDE
                        last = k
                if last >= 0:
                    first.hole = HOLE_BEGINS
                    t.master[last].hole = HOLE_ENDS
        return 0

    cdef int watch_hardware(self, tuple threads) except -1:
        """What guest accesses need: the TLB, and the dirty log of the gfns they write, where KVM's own operations alone
        decide what it promises. Shared memory that a thread zapped and then frees must be reachable no more, unless
        something writes SPTEs past KVM."""
        cdef Kvm *kvm = &self.world.vm.kvm
        cdef ThreadOps *t
        cdef int i, j, k
        cdef bint huge = kvm_page_stat(kvm, 2) or kvm_page_stat(kvm, 3)
        ops = [op for thread in threads for op in thread]
        names = {op["op"] for op in ops}
        for i in range(self.nthreads):
            t = &self.world.threads[i]
            for j in range(t.nops):
                kvm.tlb.on |= reaches_shared(kvm, &t.master[j])
        if names & {"poke", "poke_raw"} or any(["race" in op for op in ops]):
            return 0
        written = set()
        for i in range(self.nthreads):
            t = &self.world.threads[i]
            for j in range(t.nops):
                if t.master[j].kind == OP_ACCESS and t.master[j].write:
                    written.add(t.master[j].gfn)
                elif t.master[j].kind == OP_GUEST_ACCESS and reaches_shared(kvm, &t.master[j]):
                    written.add((t.master[j].value >> 12) & ~kvm.gfn_direct_bits)
                huge |= t.master[j].kind == OP_MAP and t.master[j].level > 1
                if t.master[j].kind != OP_UNMAP or not t.master[j].filter & KVM_FILTER_SHARED:
                    continue
                for k in range(j + 1, t.nops):
                    if t.master[k].kind == OP_FREE_PFN and t.master[j].start <= t.master[k].gfn < t.master[j].end:
                        t.master[k].hole |= HOLE_SHARED
        if "set_dirty_log" not in names and not huge:
            for gfn in sorted(written)[:MAX_LOGGED]:
                kvm.log.page[kvm.log.n].gfn = gfn
                kvm.log.n += 1
        return 0

    cdef int give_roots(self, int which) except -1:
        """Each thread that acts as a vCPU holds references to roots of its own, as the kernel's vCPUs do. Those of
        the set-up's vCPU go to the first of them, so that a root's last reference can be dropped."""
        cdef World *w = self.world
        cdef Kvm *kvm = &w.vm.kvm
        cdef const OpRow *row
        cdef bint taken[ROOT_KINDS]
        cdef int i, j, k, used
        memset(taken, 0, sizeof(taken))
        for i in range(self.nthreads):
            used = 0
            for j in range(w.threads[i].nops):
                row = op_row(w.threads[i].master[j].kind)
                used |= row.roots | w.threads[i].master[j].guest_mode << ROOT_GUEST_MODE
                used |= w.threads[i].master[j].smm << ROOT_SMM
                if reaches_shared(kvm, &w.threads[i].master[j]):
                    used |= 1 << ROOT_DIRECT | 1 << ROOT_MIRROR
                if row.ends_roots:
                    kvm.roots_change = True
            if which >= 0:
                used = which
            self.cpus[i].has_roots = used != 0 or which >= 0
            for k in range(ROOT_KINDS):
                if used >> k & 1 and kvm.vcpu_root[k] != NULL:
                    self.cpus[i].root[k] = w.root[i][k] = kvm.vcpu_root[k]
                    kvm.vcpu_root[k].root_count += taken[k]
                    taken[k] = True
        for k in range(ROOT_KINDS):
            if taken[k]:
                kvm.vcpu_root[k] = NULL
        return 0

    cdef int snapshot(self) except -1:
        cdef World *w = self.world
        if arena_snapshot(&w.vm.arena, SHARE) or seam_snapshot(w.t.seam):
            raise MemoryError("no memory for a snapshot of the TD")
        w.t.sept_share_base = w.t.sept_next
        if w.t.sept_next + 32 * SHARE > TDX_SEPT_PAGES:
            raise UsageError("the set-up used too many S-EPT pages", "no room for the threads", "use fewer tables")
        memset(w.t.sept_share_used, 0, sizeof(w.t.sept_share_used))
        memcpy(w.t.sept_state_copy, w.t.sept_state, TDX_SEPT_PAGES)
        memcpy(&w.kvm_copy, &w.vm.kvm, sizeof(Kvm))
        memcpy(&w.tdx_copy, w.t, sizeof(Tdx))
        return 0

    def life_by_use(self, bint on):
        """Whether `life` needs a use of a freed table; else an entry that leads to one is enough."""
        self.made()
        self.world.uses_only = on

    def watch(self):
        """From now on every step is followed by a look at what it changed without having offered it: touched()."""
        self.explored(True)
        self.program.lone = NULL
        if self.world.watch == NULL:
            self.world.watch = watch_new(self.world)
        self.explored(False)
        if self.world.watch == NULL:
            raise MemoryError("no memory for copies of the TD")
        self.program.watch = watch_step

    def touched(self):
        """What steps changed that they had not offered, by field, since watch(): (name, how often, locks held every
        time as bits, kind of a step that did), sorted. Locks: 1 mmu_lock for write, 2 in either mode, 4
        tdp_mmu_pages_lock, 8 pamt_lock, 16 the entry's own, 32 the TD's epoch, 64 the TDR, 128 a vCPU's processor, 256
        slots_lock."""
        return watch_report(self.world.watch) if self.world.watch != NULL else []

    def image(self):
        """A digest of all that an execution can change, after going back to the state executions begin with."""
        cdef uint64_t image
        self.explored(True)
        world_reset(self.world)
        image = watch_image(self.world)
        self.explored(False)
        return image

    def record(self, bint on):
        """Has the module's calls among the events; the explorer is faster without."""
        self.made()
        seam_trace(self.world.t.seam, on)

    def events(self):
        """What the last replay recorded: as VmCore.events(), all threads in the order of their steps."""
        return trace_list(&self.trace)

    def failed(self):
        """Whether a Python hook raised."""
        self.made()
        return self.vm.hook_error is not None

    def raise_hook_error(self):
        """Raises what a Python hook raised first since the last time, if anything."""
        self.made()
        self.vm.raise_hook_error()

    def results(self):
        """Per thread the results of the operations that ended, as VmCore.run() gives them."""
        cdef int i, j
        return [[result_dict(&self.world.threads[i].ops[j], self.cpus[i], &self.world.threads[i].res[j])
                 for j in range(self.world.threads[i].done)] for i in range(self.nthreads)]

    def reach(self):
        """What happened so far, over all executions: {"operations": per thread a list of dicts of op, ran, done and
        refused; and by name how often else (tdpfast.reach)}."""
        self.made()
        cdef const ThreadOps *t
        cdef const Kvm *now = &self.world.vm.kvm
        cdef const Kvm *begin = &self.world.kvm_copy
        cdef int i, j
        threads = []
        for i in range(self.nthreads):
            t = &self.world.threads[i]
            threads.append([{"op": OP_NAMES[t.master[j].kind], "ran": t.reach[j].ran, "done": t.reach[j].done,
                             "refused": t.reach[j].refused} for j in range(t.nops)])
        counts = {name: sum([dict(self.cpus[i].count)[key] for i in range(self.nthreads)])
                  for name, key in COUNTS.items()}
        # The last execution was not taken back yet.
        return {"operations": threads,
                "hooks that failed": self.world.hooks_failed + now.hook_failures - begin.hook_failures,
                "VMs killed": self.world.dead + (killed(now) and not killed(begin)), **counts}

    def finding(self):
        """Where the last check failed first: dict of check (bit), gfn, level, mirror, external; None if it held."""
        self.made()
        cdef Finding *f = &self.world.finding
        if not vm_check(self.world.vm, f):
            return None
        return {"check": f.check, "gfn": f.gfn, "level": f.level, "mirror": f.mirror, "external": f.external}

    def place_of(self, uint64_t obj):
        """(HPA of the page, index of the entry) of a word in a table; None for other words."""
        self.made()
        return place_of(self.vm, obj)

    def cpu_of(self, int thread):
        """The CPU number events of a thread carry."""
        self.made()
        if not 0 <= thread < self.nthreads:
            raise UsageError(f"thread {thread}", "the scenario has fewer", f"use 0..{self.nthreads - 1}")
        return self.cpus[thread].id

    def field(self, uint64_t obj):
        """The field of a structure that an object of the explorer's steps is: as touched() names it; "" for another."""
        self.made()
        return watch_name(self.world, obj)

    def code(self):
        """The design file's Code, None without one."""
        return getattr(self.vm.design, "code", None)

    def describe(self, uint64_t obj):
        """What an object of the explorer's steps is: a short name."""
        self.made()
        cdef Vm *vm = self.world.vm
        cdef uint64_t base = <uint64_t>vm.arena.base
        if obj in self.vm.hook_texts:
            return "hook " + self.vm.hook_texts[obj]
        if obj == <uint64_t>&vm.kvm.mmu_lock:
            return "mmu_lock"
        if obj == <uint64_t>&vm.kvm.rcu:
            return "rcu"
        if obj == <uint64_t>&vm.kvm.tdp_mmu_pages_lock:
            return "tdp_mmu_pages_lock"
        if obj == <uint64_t>&vm.kvm.vm_dead:
            return "vm_dead"
        if <uint64_t>&vm.kvm.private_words <= obj < <uint64_t>&vm.kvm.private_words + sizeof(vm.kvm.private_words):
            return f"kvm->tdpfast_private[{(obj - <uint64_t>&vm.kvm.private_words) // 8}]"
        if <uint64_t>vm.arena.sps <= obj < <uint64_t>vm.arena.sps + vm.arena.npages * sizeof(Sp):
            sp = &vm.arena.sps[(obj - <uint64_t>vm.arena.sps) // sizeof(Sp)]
            what = "tdpfast_private" if obj == <uint64_t>&sp.private_word else "descriptor"
            return f"{what} of {'mirror' if sp.is_mirror else 'direct'} table l{sp.level} gfn {sp.gfn:x}"
        if self.code() is not None and (name := self.code().name_of(obj)):
            return name
        if base <= obj < base + (vm.arena.npages << 12):
            sp = &vm.arena.sps[(obj - base) >> 12]
            gfn = sp.gfn + ((obj >> 3 & 511) << (9 * (sp.level - 1) if sp.level > 0 else 0))
            return f"{'mirror' if sp.is_mirror else 'direct'} SPTE l{sp.level} gfn {gfn:x}"
        return self.vm.describe_module(obj)
