# cython: language_level=3
"""Whole ranges in one native call without the GIL, on the functions that single operations run on, and what a
VM shows of itself without copying: its page tables, its trace.

A VcpuCore is one emulated CPU of a VmCore. Vcpus of one VM may run in different Python threads at the same
time; one vCPU belongs to one thread at a time (Vcpu in vm.py takes a lock for that).
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo, PyBUF_WRITABLE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strncpy

from tdpfast._names cimport OP_MAP, RET_PF_RETRY
from tdpfast._mmu.arena cimport SP_FREE, SP_FREED, Arena, Sp, sp_invalid
from tdpfast._sync.atomic cimport tdp_guarded_call, tdp_landing, tdp_read_once, tdp_read_once32, tdp_store_seq
from tdpfast._ops.ops cimport Op, OpResult, Vm, op_fault, vm_run_op, vm_run_op_guarded
from tdpfast._spte cimport (
    SHADOW_NONPRESENT_VALUE, is_frozen_spte, is_large_pte, is_shadow_present_pte,
)
from tdpfast._sync.cpu cimport (
    SLOW_RMW, Cpu, Event, rcu_read_lock, rcu_read_unlock, rcu_run, read_lock, read_unlock, trace_free, trace_reset,
    write_unlock,
)
from tdpfast._mmu.tdp_iter cimport TdpIter, pages_per_hpage, spte_to_child_pt, tdp_iter_next, tdp_iter_start
from tdpfast._mmu.tdp_mmu cimport Fault, Kvm, kvm_gfn_root_bits, vcpu_roots
from tdpfast._mmu.tdp_mmu_map cimport kvm_mmu_hugepage_adjust, link_or_split, tdp_mmu_map_handle_target_level
from tdpfast._mmu.invalidate cimport is_page_fault_stale
from tdpfast._mmu.tdp_mmu_roots cimport vcpu_reload
from tdpfast._face.vm cimport VmCore, fill_op, result_dict

from tdpfast._arguments import BYTES, WORDS, check_bool, flat_buffer
from tdpfast.errors import UsageError

cdef extern from *:
    """
    #define tdp_prefetch(p) __builtin_prefetch(p)
    """
    void tdp_prefetch(const void *p) noexcept nogil

cdef enum:
    CHUNK = 512          # faults under one lock and one walk
    WALK_CHUNK = 4096    # lookups in one RCU read section
    LANES = 32           # lookups in flight when the tables do not fit the cache
    CACHED_TABLES = 512  # 2 MiB of tables: below this, prefetching loses
    OVER = -1
    SLICE = 1 << 16      # operations between two looks at signals


# ---- many faults ------------------------------------------------------------------------------------------------

cdef inline bint scripted(const Op *op) noexcept nogil:
    """Whether more than the fault itself is asked for."""
    return (op.retries or op.nscript or op.nrules or op.ninject or op.race_kind or op.resched or op.no_gp
            or op.gp_at_yield)


cdef uint64_t fault_run(Cpu *c, Vm *vm, const Op *op, uint64_t n, uint64_t *counts) noexcept nogil:
    """Faults on up to n consecutive pages in one walk under mmu_lock for read; how many it served.

    It ends early before a page that needs the whole fault path: its root is stale, an SPTE is frozen, or a slot
    boundary lowers the page's level. And it ends after a page whose fault has to be retried, or left RCU something to
    do. What is done is done exactly as by as many single faults.
    """
    cdef Kvm *kvm = &vm.kvm
    cdef bint mirror = op.is_private != 0 and kvm.has_mirror
    cdef uint64_t step = pages_per_hpage(op.level)
    cdef uint64_t done = 0
    cdef Fault first, fault
    cdef TdpIter iter
    cdef Sp *root
    cdef int ret
    if c.has_roots:
        vcpu_reload(c, kvm, mirror)
    root = vcpu_roots(c, kvm)[mirror]
    if root == NULL or kvm.nx_huge_pages or kvm.design.promo_block or scripted(op):
        return 0
    op_fault(kvm, op, &first)
    read_lock(c, &kvm.mmu_lock)
    if sp_invalid(root) or is_page_fault_stale(c, kvm, &first):
        read_unlock(c, &kvm.mmu_lock)
        return 0
    rcu_read_lock(c)
    tdp_iter_start(c, &iter, kvm.arena, root, 1, op.gfn, kvm_gfn_root_bits(kvm, root))
    fault = first
    kvm_mmu_hugepage_adjust(c, kvm, &fault)
    while iter.valid and done < n:
        if fault.goal_level != op.level or is_frozen_spte(&kvm.spte, iter.old_spte):
            break
        if iter.level == fault.goal_level:
            ret = tdp_mmu_map_handle_target_level(c, kvm, &fault, &iter)
            counts[ret] += 1
            done += 1
            if ret == RET_PF_RETRY or tdp_read_once(<uint64_t *>&kvm.rcu.head):
                break
            fault = first
            fault.gfn += done * step
            if not op.noslot:
                fault.pfn += done * step
            kvm_mmu_hugepage_adjust(c, kvm, &fault)
        elif not is_shadow_present_pte(iter.old_spte) or is_large_pte(iter.old_spte):
            if link_or_split(c, kvm, &fault, &iter):
                counts[<int>RET_PF_RETRY] += 1
                done += 1
                break
        tdp_iter_next(c, &iter)
    rcu_read_unlock(c)
    read_unlock(c, &kvm.mmu_lock)
    return done


cdef int map_pages(Cpu *c, Vm *vm, Op *op, uint64_t n, uint64_t *counts, OpResult *res) noexcept nogil:
    """n faults, CHUNK at a time in one walk; a page that such a walk cannot serve goes through its own fault."""
    cdef uint64_t step = pages_per_hpage(op.level)
    cdef uint64_t most, done
    cdef bint alone
    while n and not c.hook_raised:
        most = min(n, <uint64_t>CHUNK)
        done = fault_run(c, vm, op, most, counts)
        alone = done < most and not c.hook_raised
        if tdp_read_once(<uint64_t *>&vm.kvm.rcu.head):
            rcu_run(c, &vm.kvm.rcu, 0)
        op.gfn += done * step
        op.pfn += done * step
        n -= done
        if alone:
            vm_run_op_guarded(c, vm, op, res)
            if c.abort:
                return OVER
            counts[res.ret & 7] += 1
            op.gfn += step
            op.pfn += step
            n -= 1
    return 0


# ---- many lookups -----------------------------------------------------------------------------------------------

cdef inline uint64_t lookup(const Arena *a, const uint64_t *table, int level, uint64_t gfn,
                            uint8_t *leaf_level, const uint64_t **last) noexcept nogil:
    """The SPTE where a walk from table ends; *last is the 4K table it came through, if it did."""
    cdef const uint64_t *child
    cdef uint64_t spte
    while True:
        spte = tdp_read_once(table + ((gfn >> (9 * (level - 1))) & 511))
        if level == 1:
            last[0] = table
            break
        child = spte_to_child_pt(a, spte, level)
        if child == NULL:
            break
        table = child
        level -= 1
    leaf_level[0] = <uint8_t>level
    return spte


cdef void lookup_near(const Arena *a, const Sp *root, uint64_t gfn_bits, const uint64_t *gfns, uint64_t n,
                      uint64_t *sptes, uint8_t *levels) noexcept nogil:
    """One after the other; neighbours reuse the 4K table of the one before."""
    cdef const uint64_t *table = NULL
    cdef uint64_t region = 0
    cdef uint64_t i, gfn
    for i in range(n):
        gfn = gfns[i] | gfn_bits
        if table != NULL and gfn >> 9 == region:
            sptes[i] = tdp_read_once(table + (gfn & 511))
            levels[i] = 1
            continue
        table = NULL
        sptes[i] = lookup(a, root.spt, root.level, gfn, &levels[i], &table)
        region = gfn >> 9


cdef void lookup_far(const Arena *a, const Sp *root, uint64_t gfn_bits, const uint64_t *gfns, uint64_t n,
                     uint64_t *sptes, uint8_t *levels) noexcept nogil:
    """LANES lookups level by level, so that their cache misses overlap. n is at most LANES."""
    cdef const uint64_t *at[LANES]
    cdef const uint64_t *child
    cdef uint64_t i, spte
    cdef int level = root.level
    for i in range(n):
        at[i] = root.spt + (((gfns[i] | gfn_bits) >> (9 * (level - 1))) & 511)
        tdp_prefetch(at[i])
    while level:
        for i in range(n):
            if at[i] == NULL:
                continue
            spte = tdp_read_once(at[i])
            sptes[i] = spte
            levels[i] = <uint8_t>level
            at[i] = NULL
            if level > 1:
                child = spte_to_child_pt(a, spte, level)
                if child != NULL:
                    at[i] = child + (((gfns[i] | gfn_bits) >> (9 * (level - 2))) & 511)
                    tdp_prefetch(at[i])
        level -= 1


cdef bint scattered(const uint64_t *gfns, uint64_t n) noexcept nogil:
    """Whether most neighbours lie in different 2M regions."""
    cdef uint64_t i, changes = 0
    for i in range(1, n):
        changes += (gfns[i] ^ gfns[i - 1]) >> 9 != 0
    return changes * 2 > n


cdef void walk_pages(Cpu *c, Vm *vm, bint mirror, const uint64_t *gfns, uint64_t n, uint64_t *sptes,
                     uint8_t *levels) noexcept nogil:
    """Where the walk of every gfn ends. Lockless, inside RCU; a vCPU without a root finds nothing at level 0."""
    cdef Sp *root = vcpu_roots(c, &vm.kvm)[mirror]
    cdef uint64_t bits, most, i, top
    cdef uint64_t start = 0
    if root == NULL:
        for i in range(n):
            sptes[i] = SHADOW_NONPRESENT_VALUE
            levels[i] = 0
        return
    bits = kvm_gfn_root_bits(&vm.kvm, root)
    top = pages_per_hpage(root.level + 1) - 1
    while start < n:
        most = min(n - start, <uint64_t>WALK_CHUNK)
        rcu_read_lock(c)
        if tdp_read_once(&vm.arena.next_fresh) > CACHED_TABLES and scattered(gfns + start, most):
            i = 0
            while i < most:
                lookup_far(&vm.arena, root, bits, gfns + start + i, min(most - i, <uint64_t>LANES),
                           sptes + start + i, levels + start + i)
                i += LANES
        else:
            lookup_near(&vm.arena, root, bits, gfns + start, most, sptes + start, levels + start)
        rcu_read_unlock(c)
        start += most


cdef inline int truth(str name, object value) except -1:
    """check_bool(), at once for what a caller writes."""
    if value is True:
        return 1
    if value is False:
        return 0
    return 1 if check_bool(name, value) else 0


# ---- one emulated CPU -----------------------------------------------------------------------------------------

cdef void release_locks(Cpu *c, Kvm *kvm) noexcept nogil:
    """After BUG() or a livelock: nobody else shall wait for a CPU that is gone."""
    while c.held.mmu_read > 0:
        read_unlock(c, &kvm.mmu_lock)
    while c.held.mmu_write > 0:
        write_unlock(c, &kvm.mmu_lock)


cdef struct Loop:
    Cpu *c
    Vm *vm
    Op op
    OpResult res
    uint64_t n
    uint64_t gfn_step
    uint64_t pfn_step
    uint64_t counts[16]


cdef void repeat_op(void *arg) noexcept nogil:
    cdef Loop *loop = <Loop *>arg
    cdef uint64_t i
    for i in range(loop.n):
        vm_run_op(loop.c, loop.vm, &loop.op, &loop.res)
        loop.counts[<uint64_t>loop.res.ret & 15] += 1
        if loop.c.hook_raised:
            return
        loop.op.gfn += loop.gfn_step
        loop.op.pfn += loop.pfn_step
        loop.op.start += loop.gfn_step
        loop.op.end += loop.gfn_step


cdef bint run_to_landing(Cpu *c, Vm *vm, void (*body)(void *) noexcept nogil, void *arg) noexcept nogil:
    """Runs body(arg) on this CPU; True if BUG() or a livelock ended it, with nothing of the CPU left behind."""
    cdef tdp_landing landing
    cdef bint left
    c.landing = &landing
    left = tdp_guarded_call(&landing, body, arg)
    c.landing = NULL
    if left:
        c.slow &= ~<uint32_t>SLOW_RMW
        c.rcu_depth = 0
        tdp_store_seq(&c.rcu_seq, 0)
        release_locks(c, &vm.kvm)
    return left


@cython.no_gc_clear
cdef class VcpuCore:
    """One emulated CPU of a VM with its own trace. `own_roots`: a new CPU that takes its own references to the
    roots, as every vCPU of the kernel does; otherwise CPU 0 of the VM.

    Thread-safety: methods release the GIL and touch only this CPU and the VM's atomics and locks, so one thread
    per VcpuCore may run at a time; the caller sees to it.
    """
    def __cinit__(self, VmCore vm not None, bint own_roots=False):
        vm.check_hook()
        self.vm = vm
        if own_roots:
            self.c = vm.add_cpu()
            self.c.has_roots = True
            with nogil:
                vcpu_reload(self.c, &vm.vm.kvm, 0)
        else:
            self.c = vm.cpus[0]

    def __dealloc__(self):
        if self.c != NULL:
            self.c.trace = NULL
        trace_free(&self.trace)

    @property
    def id(self):
        return self.c.id

    @property
    def checks(self):
        """Check bits raised on this CPU so far."""
        return self.c.found.checks

    def set_tracing(self, bint on):
        """Records from now on, or stops; the records so far stay until clear()."""
        self.vm.enter(self.c.id)
        self.vm.busy[self.c.id] = False
        self.c.trace = &self.trace if on else NULL

    def clear(self):
        """Drops the records."""
        self.vm.enter(self.c.id)
        trace_reset(&self.trace)
        self.vm.busy[self.c.id] = False

    @property
    def nevents(self):
        return self.trace.n

    @property
    def has_roots(self):
        """Whether this CPU has a direct root and a mirror root, valid or not."""
        return self.vm.vm != NULL and vcpu_roots(self.c, &self.vm.vm.kvm)[0] != NULL, (
            self.vm.vm != NULL and vcpu_roots(self.c, &self.vm.vm.kvm)[1] != NULL)

    @property
    def lost(self):
        """Memory ran out: the end of the trace is missing."""
        return bool(self.trace.lost)

    def asserts(self):
        """How often each kind of assertion fired on this CPU, and the first one: (count, function, id)."""
        cdef int i
        return [(self.c.found.asserts[i], self.c.found.first_fn[i].decode() if self.c.found.first_fn[i] != NULL else None,
                 self.c.found.first_id[i].decode() if self.c.found.first_id[i] != NULL else None) for i in range(4)]

    cdef int check(self) except -1:
        """Before an operation; finish() comes after it."""
        if self.vm.over:
            raise RuntimeError("the VM ended in BUG() or a livelock; make a new one")
        return self.vm.enter(self.c.id)

    cdef int finish(self) except -1:
        self.vm.busy[self.c.id] = False
        if self.c.abort:
            self.vm.over = True
            release_locks(self.c, &self.vm.vm.kvm)
        return 0

    def run(self, fields):
        """One operation on this CPU; a dict as VmCore.run() returns it."""
        cdef Op op
        cdef OpResult res
        memset(&res, 0, sizeof(res))
        fill_op(&op, fields, self.vm.on_td())
        self.check()
        with nogil:
            vm_run_op_guarded(self.c, self.vm.vm, &op, &res)
        out = result_dict(&op, self.c, &res)
        self.finish()
        return out

    def repeat(self, fields, uint64_t n, uint64_t gfn_step=0, uint64_t pfn_step=0):
        """The same operation n times in a native loop, gfn and pfn (start and end likewise) moving by a step;
        the returned values counted: dict of ret -> how often. Signals are looked at every SLICE operations."""
        cdef Loop loop
        cdef uint64_t i
        memset(&loop, 0, sizeof(loop))
        fill_op(&loop.op, fields, self.vm.on_td())
        loop.c = self.c
        loop.vm = self.vm.vm
        loop.gfn_step = gfn_step
        loop.pfn_step = pfn_step
        self.check()
        self.c.hook_raised = False
        try:
            while n and not self.c.abort and not self.c.hook_raised:
                loop.n = min(n, <uint64_t>SLICE)
                n -= loop.n
                with nogil:
                    run_to_landing(self.c, self.vm.vm, repeat_op, &loop)
                PyErr_CheckSignals()
        finally:
            self.finish()
        return {i if i < 8 else <int64_t>i - 16: loop.counts[i] for i in range(16) if loop.counts[i]}

    def fault(self, uint64_t gfn, uint64_t pfn, int level, write, exec_, user, prefetch, map_writable, private, noslot,
              int retries):
        """One fault whose arguments are known to be good; (ret, level, pfn, tries)."""
        cdef Op op
        cdef OpResult res
        if not 1 <= level <= 3:
            raise UsageError(f"level {level}", "no page is larger than 1G", "use 1 (4K), 2 (2M) or 3 (1G)")
        memset(&op, 0, sizeof(op))
        memset(&res, 0, sizeof(res))
        op.kind = OP_MAP
        op.gfn = gfn
        op.pfn = pfn
        op.level = level
        op.write = truth("write", write)
        op.exec_ = truth("exec", exec_)
        op.user = truth("user", user)
        op.prefetch = truth("prefetch", prefetch)
        op.map_writable = truth("map_writable", map_writable)
        op.is_private = truth("private", private)
        op.noslot = truth("noslot", noslot)
        self.check()
        op.retries = retries
        with nogil:
            vm_run_op_guarded(self.c, self.vm.vm, &op, &res)
        self.finish()
        if self.c.abort:
            return None
        return res.ret, res.level, res.pfn, res.tries

    def map_range(self, fields, uint64_t n):
        """n faults on consecutive pages of the operation's level; dict of RET_PF_* -> how often. Signals are looked
        at every SLICE faults."""
        cdef Op op
        cdef OpResult res
        cdef uint64_t counts[8]
        cdef uint64_t i, some
        fill_op(&op, fields, self.vm.on_td())
        if op.kind != OP_MAP:
            raise UsageError(f"op {fields['op']!r}", "a range is mapped", 'op = "map"')
        memset(counts, 0, sizeof(counts))
        self.check()
        self.c.hook_raised = False
        try:
            while n and not self.c.abort and not self.c.hook_raised:
                some = min(n, <uint64_t>SLICE)
                n -= some
                with nogil:
                    map_pages(self.c, self.vm.vm, &op, some, counts, &res)
                PyErr_CheckSignals()
        finally:
            self.finish()
        return {i: counts[i] for i in range(8) if counts[i]}

    def walk_many(self, bint mirror, places, found, found_at):
        """Fills found (SPTEs) and found_at (levels) with where the walk of each gfn of places ends."""
        cdef const uint64_t[::1] gfns = flat_buffer("gfns", places, WORDS)
        cdef uint64_t[::1] sptes = flat_buffer("sptes", found, WORDS)
        cdef uint8_t[::1] levels = flat_buffer("levels", found_at, BYTES)
        cdef uint64_t n = gfns.shape[0]
        if <uint64_t>sptes.shape[0] != n or <uint64_t>levels.shape[0] != n:
            raise UsageError("arrays of different lengths", "one answer per gfn", "arrays of one length")
        if n == 0:
            return
        self.vm.enter(self.c.id)
        with nogil:
            walk_pages(self.c, self.vm.vm, mirror, &gfns[0], n, &sptes[0], &levels[0])
        self.vm.busy[self.c.id] = False

    def copy_events(self, records):
        """Copies the records into an array of events.EVENT_DTYPE, seen as bytes."""
        cdef uint8_t[::1] out = flat_buffer("records", records, BYTES)
        cdef PackedEvent packed          # the bytes may lie anywhere
        cdef Event *e
        cdef size_t i
        cdef int k
        if <size_t>out.shape[0] != self.trace.n * sizeof(PackedEvent):
            raise UsageError("wrong array size", "one item per event", "an array of nevents items")
        with nogil:
            for i in range(self.trace.n):
                e = &self.trace.ev[i]
                memset(&packed, 0, sizeof(PackedEvent))
                packed.kind = e.kind
                packed.cpu = e.cpu
                packed.step = e.step
                for k in range(8):
                    packed.a[k] = e.a[k]
                if e.s0 != NULL:
                    strncpy(packed.s0, e.s0, TEXT)
                if e.s1 != NULL:
                    strncpy(packed.s1, e.s1, TEXT)
                memcpy(&out[i * sizeof(PackedEvent)], &packed, sizeof(PackedEvent))


cdef enum:
    TEXT = 48

cdef struct PackedEvent:
    int32_t kind
    int32_t cpu
    uint64_t step
    uint64_t a[8]
    char s0[TEXT]
    char s1[TEXT]

SIZEOF_EVENT = sizeof(PackedEvent)


# ---- what a VM shows of its tables ------------------------------------------------------------------------------

cdef class ArenaView:
    """The buffer of the arena's pages as they are now: numpy.asarray() of it copies nothing and keeps the VM."""
    cdef VmCore vm
    cdef Py_ssize_t npages
    cdef bint writable

    def __cinit__(self, VmCore vm not None, bint writable=False):
        self.vm = vm
        self.npages = <Py_ssize_t>vm.vm.arena.next_fresh
        self.writable = writable

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if flags & PyBUF_WRITABLE and not self.writable:
            raise BufferError("page tables are read-only; ask for a writable view")
        PyBuffer_FillInfo(buffer, self, self.vm.vm.arena.base, self.npages << 12, not self.writable, flags)


SP_FIELDS = ("index", "state", "level", "gfn", "is_mirror", "invalid", "is_root", "root_count", "root_number",
             "external_spt", "nx_huge_page_disallowed", "access", "parent", "guest_mode", "smm")


def describe_sp(VmCore vm not None, uint64_t index):
    """The kvm_mmu_page of a page of the arena as a tuple in the order of SP_FIELDS; None for a free page.
    `parent` is (index, entry) of the SPTE that pointed to it when it was made, or None."""
    cdef const Sp *sp
    cdef uint64_t at
    cdef int32_t state
    if index >= vm.vm.arena.next_fresh:
        raise UsageError(f"no page {index}", f"the arena has used {vm.vm.arena.next_fresh}", "an index below that")
    sp = &vm.vm.arena.sps[index]
    state = tdp_read_once32(&sp.state)
    if state == SP_FREE or state == SP_FREED:
        return None
    parent = None
    if sp.ptep != NULL:
        at = <uint64_t>(sp.ptep - vm.vm.arena.base)
        parent = (at >> 9, at & 511)
    return (sp.index, state, sp.level, sp.gfn, bool(sp.is_mirror), bool(sp.invalid), bool(sp.is_root),
            <int64_t>sp.root_count if sp.is_root else 0, sp.root_number, sp.external_spt,
            bool(sp.nx_huge_page_disallowed), sp.access, parent, bool(sp.guest_mode), bool(sp.smm))


def root_indexes(VmCore vm not None):
    """Arena indexes of the live roots, in order of creation."""
    cdef Sp *root = vm.vm.kvm.tdp_mmu_roots
    out = []
    while root != NULL and len(out) <= <Py_ssize_t>vm.vm.arena.next_fresh:
        out.append(root.index)
        root = root.next
    return out[::-1]
