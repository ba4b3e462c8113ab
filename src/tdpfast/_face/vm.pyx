# cython: language_level=3
"""The Python-owned VM: one Vm, its emulated CPUs, and their traces (see vm.py for the public class)."""

from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from cpython.pythread cimport PyThread_get_thread_ident

from tdpfast._names cimport HOST_LP, MAX_CPUS, MAX_PFN_BITS, NOMEM_KINDS, RACE_HW, RACE_INSTALL, TDX_MAX_VCPUS
from tdpfast._mmu.arena cimport ARENA_HPA, ARENA_MAX_PAGES, SP_FREE, SP_FREED, Sp, arena_destroy, arena_init
from tdpfast._ops.ops cimport (
    OP_MAX_HOOK_RULES, OP_MAX_INJECT, OP_MAX_SCRIPT, HookRule, Inject, Op, OpResult, vm_run_op_guarded,
)
from tdpfast._ops.record cimport hooks_record_v618, hooks_record_v73
from tdpfast._spte cimport (
    SHADOW_NONPRESENT_VALUE, SPTE_BASE_ADDR_MASK, is_last_spte, is_shadow_present_pte, spte_cfg_init,
)
from tdpfast._sync.cpu cimport (
    ABORT_BUG, ABORT_LIVELOCK, Event, sync_new_cpu, trace_free, trace_reset,
)
from tdpfast._mmu.tdp_iter cimport pages_per_hpage
from tdpfast._mmu.tdp_mmu cimport MAX_SLOTS as SLOTS_OF_A_VM, DesignOps, Kvm, Slot, kvm_init, kvm_set_special
from tdpfast._mmu.tdp_mmu_sp cimport kvm_page_stat
from tdpfast._mmu.design cimport Design
from tdpfast._mmu.tdp_mmu_roots cimport kvm_tdp_mmu_alloc_root

from operator import index

import tdpfast._ops.slots       # its operations get their functions
import tdpfast._ops.hardware
from tdpfast._names import ChangeKind, HookId, InjectLock, NoMem, SeamLeaf

from tdpfast._arguments import leaf_spelling, shown
from tdpfast.errors import UsageError
from tdpfast.ops import OPS, check_op

OP_NAMES = tuple(OPS)        # in the order of OpKind
OP_NUMBERS = {name: kind for kind, name in enumerate(OP_NAMES)}
MAX_GFN = (1 << 52) - 1
MAX_SLOTS = SLOTS_OF_A_VM        # memslots of a VM

def as_u64(value, what):
    """An unsigned 64-bit integer from an int or a "0x..." string; UsageError otherwise."""
    try:
        value = int(value, 0) if isinstance(value, str) else index(value)
    except (TypeError, ValueError):
        raise UsageError(f"{what} is {shown(value)}", "not a number", "write an integer or a 0x... string") from None
    if not 0 <= value < 1 << 64:
        raise UsageError(f"{what} is {shown(value)}", "outside 0..2^64-1", "write an unsigned 64-bit number")
    return value


cdef void fill_design(Design *d, object design) except *:
    """Every knob of the struct from the Design's field of that name; ValueError names one that Python lacks."""
    d[0] = vars(design)


def mmu_knobs():
    """The knobs that the MMU's side reads, in its struct's order."""
    cdef Design d
    memset(&d, 0, sizeof(Design))
    return tuple(d)


TABLE_HPA = ARENA_HPA          # where page-table pages lie for the hardware


# ---- operations -----------------------------------------------------------------------------------------------

cdef int small(object value, str what) except? -1:
    """A signed 32-bit integer; UsageError otherwise."""
    try:
        number = index(value)
    except TypeError:
        number = 1 << 31
    if not -(1 << 31) <= number < 1 << 31:
        raise UsageError(f"{what} is {shown(value)}", "not a small integer", "use 0, 1 or a count")
    return number


cdef int flag(dict f, str name, int default) except? -1:
    return small(f[name], f"field {name} of op {f.get('op')!r}") if name in f else default


cdef uint64_t number(dict f, str name, object default) except? 0:
    return as_u64(f.get(name, default), f"field {name} of op {f.get('op')!r}")


cdef object choose(dict table, object key, str what):
    if not isinstance(key, str) or key not in table:
        raise UsageError(f"{what} {shown(key)}", "unknown", "use one of " + ", ".join(sorted(table)))
    return table[key]


cdef int fill_rules(Op *op, object rules) except -1:
    """Hook rules: {hook, kind, level, gfn, skip, count, ret}."""
    cdef HookRule *r
    if len(rules) > OP_MAX_HOOK_RULES:
        raise UsageError(f"{len(rules)} hook rules", f"more than {OP_MAX_HOOK_RULES}", "split the operation")
    for rule in rules:
        if not isinstance(rule, dict):
            raise UsageError(f"hook rule {shown(rule)}", "not a table", "write {hook = ..., ret = ...}")
        r = &op.rules[op.nrules]
        op.nrules += 1
        r.hook = choose(HOOKS, rule.get("hook", "set"), "hook")
        r.kind = choose(CHANGE_KINDS, rule["kind"], "kind of change") if "kind" in rule else 0
        r.level = flag(rule, "level", 0)
        r.has_gfn = "gfn" in rule
        r.gfn = number(rule, "gfn", 0)
        r.skip = flag(rule, "skip", 0)
        r.count = flag(rule, "count", 1)
        r.ret = flag(rule, "ret", -16)
    return 0


cdef int fill_inject(Op *op, object injects) except -1:
    """Injections: {leaf, lock, mode ex|sh, skip, count, until_kick}, or intr in lock's place."""
    cdef Inject *j
    if len(injects) > OP_MAX_INJECT:
        raise UsageError(f"{len(injects)} injections", f"more than {OP_MAX_INJECT}", "split the operation")
    for inject in injects:
        if not isinstance(inject, dict):
            raise UsageError(f"injection {shown(inject)}", "not a table", "write {leaf = ..., lock = ...}")
        j = &op.inject[op.ninject]
        op.ninject += 1
        j.leaf = choose(LEAF_NUMBERS, leaf_spelling(inject.get("leaf")), "SEAMCALL leaf")
        j.intr = flag(inject, "intr", 0)
        j.lock = choose(LOCKS, inject.get("lock"), "module lock") if "lock" in inject or not j.intr else 0
        j.exclusive = choose({"ex": 1, "sh": 0}, inject.get("mode", "ex"), "lock mode")
        j.skip = flag(inject, "skip", 0)
        j.count = flag(inject, "count", 1)
        j.until_kick = flag(inject, "until_kick", 0)
    return 0


cdef int fill_nomem(Op *op, object tables) except -1:
    """Allocations that fail: {what, skip, count}."""
    cdef int what
    for table in tables:
        what = choose(ALLOCATIONS, table.get("what", "table"), "allocation")
        op.nomem_armed = 1
        op.nomem_skip[what] = max(flag(dict(table, op=f"{what}"), "skip", 0), 0)
        op.nomem_count[what] = max(flag(dict(table, op=f"{what}"), "count", 1), 0)
    return 0


cdef int fill_modifiers(Op *op, dict f) except -1:
    cdef int i
    script = f.get("hook", ())
    if script and not isinstance(script[0], dict):
        if len(script) > OP_MAX_SCRIPT:
            raise UsageError(f"op {f.get('op')!r} scripts {len(script)} hook returns", f"more than {OP_MAX_SCRIPT}",
                             "split the operation")
        op.nscript = len(script)
        for i in range(op.nscript):
            op.script[i] = small(script[i], "hook return")
    elif script:
        fill_rules(op, script)
    fill_inject(op, f.get("inject", ()))
    fill_nomem(op, f.get("enomem", ()))
    op.resched = flag(f, "resched", 0)
    op.no_gp = flag(f, "no_gp", 0)
    op.gp_at_yield = flag(f, "gp_at_yield", 0)
    op.gp_at_retry = flag(f, "gp_at_retry", 0)
    op.reenter = flag(f, "reenter", 0)
    race = f.get("race")
    if race:
        if race[1] not in ("hw", "install"):
            raise UsageError(f"race kind {shown(race[1])}", "unknown", "use hw or install")
        op.race_n = small(race[0], "race number")
        op.race_kind = RACE_HW if race[1] == "hw" else RACE_INSTALL
        op.race_set = as_u64(race[2], "race value")
        op.race_clear = as_u64(race[3], "race clear mask") if len(race) > 3 else 0
    return 0


LOCKS = {name[4:].lower(): int(lock) for name, lock in InjectLock.__members__.items() if lock}
ALLOCATIONS = {name[6:].lower(): int(what) for name, what in NoMem.__members__.items() if what < NOMEM_KINDS}
HOOKS = {name[5:].lower(): int(hook) for name, hook in HookId.__members__.items()}
CHANGE_KINDS = {name[7:].lower(): int(change) for name, change in ChangeKind.__members__.items()}
LEAF_NUMBERS = {name[4:].replace("_", "."): int(leaf) for name, leaf in SeamLeaf.__members__.items()}


cdef Op layout_op
cdef size_t origin = <size_t>&layout_op
# Where a field of an operation lies in its struct: unsigned 64-bit numbers, and small integers.
WORDS = {
    "gfn": <size_t>&layout_op.gfn - origin, "pfn": <size_t>&layout_op.pfn - origin,
    "start": <size_t>&layout_op.start - origin, "end": <size_t>&layout_op.end - origin,
    "mask": <size_t>&layout_op.mask - origin, "value": <size_t>&layout_op.value - origin,
    "gen": <size_t>&layout_op.value - origin, "gpa": <size_t>&layout_op.value - origin,
    "src": <size_t>&layout_op.src - origin, "set": <size_t>&layout_op.set_bits - origin,
    "clear": <size_t>&layout_op.clear_bits - origin, "rcx": <size_t>&layout_op.regs[0] - origin,
    "rdx": <size_t>&layout_op.regs[1] - origin, "r8": <size_t>&layout_op.regs[2] - origin,
}
SMALL = {
    "level": <size_t>&layout_op.level - origin, "min_level": <size_t>&layout_op.level - origin,
    "max_level": <size_t>&layout_op.level - origin, "target_level": <size_t>&layout_op.level - origin,
    "write": <size_t>&layout_op.write - origin, "exec": <size_t>&layout_op.exec_ - origin,
    "user": <size_t>&layout_op.user - origin, "present": <size_t>&layout_op.present - origin,
    "prefetch": <size_t>&layout_op.prefetch - origin, "map_writable": <size_t>&layout_op.map_writable - origin,
    "private": <size_t>&layout_op.is_private - origin, "noslot": <size_t>&layout_op.noslot - origin,
    "filter": <size_t>&layout_op.filter - origin, "flush": <size_t>&layout_op.flush - origin,
    "may_block": <size_t>&layout_op.may_block - origin, "types": <size_t>&layout_op.types - origin,
    "shared": <size_t>&layout_op.shared - origin, "on": <size_t>&layout_op.on - origin,
    "wrprot": <size_t>&layout_op.on - origin, "retries": <size_t>&layout_op.retries - origin,
    "tries": <size_t>&layout_op.tries - origin, "rcu": <size_t>&layout_op.rcu - origin,
    "vcpu": <size_t>&layout_op.vcpu - origin, "same_rip": <size_t>&layout_op.same_rip - origin,
    "measure": <size_t>&layout_op.measure - origin, "pinned": <size_t>&layout_op.pinned - origin,
    "slot": <size_t>&layout_op.slot - origin, "guest_mode": <size_t>&layout_op.guest_mode - origin,
    "smm": <size_t>&layout_op.smm - origin, "version": <size_t>&layout_op.version - origin,
    "to_zap": <size_t>&layout_op.to_zap - origin,
}


cdef int fill_op(Op *op, object fields, bint td) except -1:
    """Lowers an operation's dict by its row in OPS: the one way in. UsageError for an unknown op or field, an
    unreadable one, or an impossible value."""
    check_op(fields, td=td)
    name = fields["op"]
    spec = OPS[name]
    cdef dict f = spec.defaults(td)
    f.update(fields)
    memset(op, 0, sizeof(Op))
    op.kind = OP_NUMBERS[name]
    for key in spec.defaults(td):
        if key in WORDS:
            (<uint64_t *>(<char *>op + <size_t>WORDS[key]))[0] = number(f, key, 0)
        elif key == "leaf":
            op.leaf = choose(LEAF_NUMBERS, leaf_spelling(fields.get(key)), "SEAMCALL leaf")
        else:
            (<int32_t *>(<char *>op + <size_t>SMALL[key]))[0] = flag(f, key, 0)
    op.is_private = op.is_private != 0
    check_values(op, f, spec)
    fill_modifiers(op, f)
    return 0


cdef int check_values(Op *op, dict f, object spec) except -1:
    """UsageError for fields whose values the operation cannot have."""
    name = f["op"]
    low, high = spec.levels
    for key in spec.fields:
        if key.endswith("level") and not low <= op.level <= high:
            raise UsageError(f"field {key} of op {name!r} is {op.level}",
                             "no page is smaller than 4K or larger than 1G" if high == 3 else "not a page table level",
                             "use 1 (4K), 2 (2M) or 3 (1G)")
        if key in ("gfn", "start", "end") and as_u64(f[key], key) > MAX_GFN + (key == "end"):
            raise UsageError(f"{key} {shown(f[key])} of op {name!r}", "out of range", "a gfn has at most 52 bits")
    if op.start > op.end:
        raise UsageError(f"op {name!r} has start {op.start} > end {op.end}", "the range [start, end) is reversed",
                         "swap them")
    if "pfn" in spec.fields and op.pfn >> MAX_PFN_BITS:
        raise UsageError(f"pfn {op.pfn:#x} of op {name!r}", f"more than {MAX_PFN_BITS} bits", "use a host frame number")
    op.guest_mode = op.guest_mode != 0
    op.smm = op.smm != 0
    if op.guest_mode and op.smm or op.is_private and (op.guest_mode or op.smm):
        raise UsageError(f"op {name!r} with guest_mode, smm or private together", "a fault is for one root",
                         "one of the three")
    if not -1 <= op.slot < SLOTS_OF_A_VM:
        raise UsageError(f"slot {op.slot} of op {name!r}", f"a VM has at most {MAX_SLOTS}", "its number, from 0")
    if not 0 <= op.version < 256:
        raise UsageError(f"version {op.version} of op {name!r}", "not 8 bits", "0 or 1")
    if not 0 <= op.vcpu < TDX_MAX_VCPUS:
        raise UsageError(f"vcpu {op.vcpu} of op {name!r}", f"a TD has at most {TDX_MAX_VCPUS}",
                         f"use 0..{TDX_MAX_VCPUS - 1}")
    return 0


cdef list trace_list(const Trace *trace):
    """The records as tuples (kind, cpu, step, a[8], s0, s1)."""
    cdef size_t i
    cdef int k
    cdef const Event *e
    out = []
    for i in range(trace.n):
        e = &trace.ev[i]
        out.append((e.kind, e.cpu, e.step, tuple([e.a[k] for k in range(8)]),
                    e.s0.decode() if e.s0 != NULL else None, e.s1.decode() if e.s1 != NULL else None))
    return out


cdef object result_dict(const Op *op, const Cpu *c, const OpResult *res):
    """The result as the conformance files write it, without the events: ``ret`` and what the operation's row says it
    answers, None where it ended the VM or could not be done."""
    cdef int i
    spec = OPS[OP_NAMES[op.kind]]
    cdef dict out = {"ret": "BUG" if c.abort == ABORT_BUG else "LIVELOCK" if c.abort == ABORT_LIVELOCK else res.ret}
    if spec.answers:
        values = <dict>res[0]
        values["out"] = tuple(values["out"][:3])
        values["sptes"] = {i: res.sptes[i] for i in range(1, 6) if res.has_spte[i]}
        for name in spec.answers:
            out[name] = values[name] if not c.abort and (res.ret >= 0 or not spec.none_if_failed) else None
    if op.nrules:
        out["hook_used"] = [op.rules[i].used for i in range(op.nrules)]
    if op.nomem_armed:
        out["enomem_used"] = op.nomem_used
    if op.ninject:
        out["inject_used"] = [op.inject[i].used for i in range(op.ninject)]
    return out


# ---- the VM ---------------------------------------------------------------------------------------------------

cdef class VmCore:
    """One VM with its page-table arena. Not thread-safe by itself: one Python thread drives it at a time; the
    native engines run its CPUs concurrently with the GIL released. A call on a CPU that is in an operation raises
    UsageError, as does every call from a hook of this VM: locks are held there."""

    def __cinit__(self):
        self.hook_threads = []
        self.vm = <Vm *>calloc(1, sizeof(Vm))
        if self.vm == NULL:
            raise MemoryError("no memory for a VM")

    def __dealloc__(self):
        cdef int i
        if self.vm != NULL:
            free(self.vm.kvm.hooks.native)
            arena_destroy(&self.vm.arena)
            free(self.vm)
        for i in range(self.ncpus):
            free(self.cpus[i])
        trace_free(&self.trace)

    def __init__(self, design, *, int root_level=4, int mmu=0, int maxphyaddr=52, bint l1tf=False,
                 int cache_bits=0, bint exec_only=True, bint tdx=True, uint64_t direct_gfn_bits=0,
                 bint ipat=False, bint nx=False, slots=((0, 0, 1, 0, 0),), uint64_t mmio_gen=0, bint pml=False, uint64_t memory_pages=16384, bint want_mirror=True,
                 bint want_direct=True, bint keep_dead=False):
        cdef Kvm *kvm = &self.vm.kvm
        if self.vm.arena.base != NULL:
            raise UsageError("a second __init__()", "a VM is made once", "a new one")
        if root_level not in (4, 5):
            raise UsageError(f"root level {root_level}", "page tables have 4 or 5 levels", "use 4 or 5")
        if not 1 <= memory_pages <= ARENA_MAX_PAGES:
            raise UsageError(f"{memory_pages} pages of memory", "out of range", f"1..{ARENA_MAX_PAGES}")
        self.design = design
        self.py_hooks = {}
        self.hook_running = {}
        self.hook_texts = {}
        if arena_init(&self.vm.arena, memory_pages, SHADOW_NONPRESENT_VALUE):
            raise MemoryError(f"no memory for {memory_pages} page-table pages")
        self.vm.arena.keep_dead = keep_dead
        kvm_init(kvm, &self.vm.arena)
        fill_design(&kvm.design, design)
        code = getattr(design, "code", None)
        if code is not None:
            kvm_set_special(kvm, <const DesignOps *><size_t>code.load(), NULL)
        if spte_cfg_init(&kvm.spte, design.layout, mmu, maxphyaddr, l1tf, cache_bits, exec_only):
            raise UsageError(f"SPTE format with MAXPHYADDR {maxphyaddr}", "not a format KVM knows",
                             "use 36..52 physical address bits")
        kvm.root_level = root_level
        kvm.has_mirror = tdx
        kvm.gfn_direct_bits = direct_gfn_bits
        kvm.shadow_mmio_value = 0 if tdx else kvm.spte.shadow_mmio_value
        self.set_slots(slots)
        kvm.ipat = ipat
        kvm.pml = pml
        kvm.nx_huge_pages = nx
        kvm.mmio_generation = mmio_gen
        kvm.rcu.no_grace = kvm.design.no_grace_period
        if design.layout == 618:
            hooks_record_v618(kvm)
        else:
            hooks_record_v73(kvm)
        self.add_cpu()
        if want_mirror and tdx:
            kvm.vcpu_root[1] = kvm_tdp_mmu_alloc_root(self.cpus[0], kvm, 1)
        if want_direct:
            kvm.vcpu_root[0] = kvm_tdp_mmu_alloc_root(self.cpus[0], kvm, 0)

    cdef int set_slots(self, object slots) except -1:
        """Memslots as (base_gfn, npages, guest_memfd, dirty_log, address space)."""
        cdef Kvm *kvm = &self.vm.kvm
        cdef Slot *slot
        if not 1 <= len(slots) <= SLOTS_OF_A_VM:
            raise UsageError(f"{len(slots)} memslots", f"a VM has 1 to {MAX_SLOTS} here", "fewer, larger ones")
        for base, npages, gmem, dirty_log, as_id in slots:
            slot = &kvm.slots[kvm.nslots]
            slot.base_gfn = base
            slot.npages = npages
            slot.gmem = gmem
            slot.dirty_log = dirty_log
            slot.as_id = as_id
            kvm.nr_dirty_logging += slot.dirty_log
            kvm.nslots += 1
        kvm.plain_slots = kvm.nslots == 1 and (kvm.slots[0].gmem or not kvm.has_mirror)
        return 0

    cdef Cpu *add_cpu(self) except NULL:
        """One more emulated CPU; its RCU read sections count from now on."""
        cdef Cpu *c
        if self.ncpus == MAX_CPUS:
            raise UsageError(f"more than {MAX_CPUS} CPUs", "the VM is full", "use fewer threads")
        c = sync_new_cpu(self.ncpus)
        if c == NULL:
            raise MemoryError("no memory for a CPU")
        c.lp = HOST_LP - 1 + self.ncpus if self.ncpus else 0     # vCPU v of a TD runs on 1 + v
        c.vm = self.vm
        c.rcu = &self.vm.kvm.rcu
        self.cpus[self.ncpus] = c
        self.ncpus += 1
        self.vm.kvm.rcu.cpus = self.cpus
        self.vm.kvm.rcu.ncpu = self.ncpus
        return c

    cdef int check_hook(self) except -1:
        """UsageError for a VM that was not made, and for a call from one of its hooks."""
        if not self.ncpus:
            raise UsageError("a VM without CPUs", "it was not made", "a VM that __init__() made")
        if self.hook_threads and PyThread_get_thread_ident() in self.hook_threads:
            raise UsageError("a call from a hook", "the operation that called it holds locks",
                             "it after the operation has returned")
        return 0

    cdef bint on_td(self) noexcept:
        """Whether operations mean what they mean on a TD on a module."""
        return self.vm.tdx != NULL and self.vm.kvm.has_mirror

    cdef int enter(self, int cpu) except -1:
        """Before an operation on a CPU; whoever called it resets busy[cpu] after. UsageError when nothing may run
        there now."""
        self.check_hook()
        if self.explored or self.busy[cpu]:
            raise UsageError(f"an operation on CPU {cpu}", "it is in another one", "one after the other")
        self.busy[cpu] = True
        return 0

    cdef int enter_all(self) except -1:
        """Before an exploration; whoever called it resets explored after."""
        cdef int i
        self.check_hook()
        for i in range(self.ncpus):
            self.enter(i)
            self.busy[i] = False
        self.explored = True
        return 0

    cpdef raise_hook_error(self):
        """What a Python hook raised since the last time, if anything."""
        error, self.hook_error = self.hook_error, None
        if error is not None:
            raise error

    def set_tracing(self, bint on):
        """Records events from now on (or stops); the records so far are dropped."""
        self.enter(0)
        self.busy[0] = False
        trace_reset(&self.trace)
        self.tracing = on
        self.cpus[0].trace = &self.trace if on else NULL

    def run(self, fields):
        """Runs one operation (a mapping with `op`) on CPU 0 to its end; a dict as in the conformance files,
        without `ev`. UsageError for a bad operation; RuntimeError after BUG() or a livelock."""
        cdef Op op
        cdef OpResult res
        if self.over:
            raise RuntimeError("the VM ended in BUG() or a livelock; make a new one")
        fill_op(&op, fields, self.on_td())
        self.enter(0)
        trace_reset(&self.trace)
        with nogil:
            vm_run_op_guarded(self.cpus[0], self.vm, &op, &res)
        self.busy[0] = False
        self.over = self.cpus[0].abort != 0
        self.raise_hook_error()
        return result_dict(&op, self.cpus[0], &res)

    def revive(self):
        """Goes on after a livelock as if its caller had been cut off there: its locks are dropped, what it wrote
        stays. For recordings that do so; a real host would hang."""
        cdef Cpu *c = self.cpus[0]
        self.enter(0)
        self.busy[0] = False
        if c.abort != ABORT_LIVELOCK:
            raise UsageError("revive()", "the VM did not end in a livelock", "call it after one")
        c.abort = 0
        c.dead = False
        c.held.mmu_read = c.held.mmu_write = c.held.pages_lock = c.held.slots_lock = c.rcu_depth = 0
        c.reading = 0
        self.vm.kvm.mmu_lock.val = 0
        self.vm.kvm.tdp_mmu_pages_lock.val = 0
        self.over = False

    def events(self):
        """The records since the last run(), as trace_list() gives them."""
        return trace_list(&self.trace)

    @property
    def ended(self):
        """BUG() or a livelock ended it."""
        return bool(self.over)

    @property
    def checks(self):
        """Check bits raised so far on CPU 0."""
        return self.cpus[0].found.checks if self.ncpus else 0

    def roots(self):
        """The live roots in order of creation: dicts of kind, invalid, level, refs."""
        cdef Sp *root = self.vm.kvm.tdp_mmu_roots
        out = []
        while root != NULL:
            out.append({"kind": "mirror" if root.is_mirror else "direct", "invalid": bool(root.invalid),
                        "level": root.level, "refs": root.root_count})
            root = root.next
        return out[::-1]

    def sptes(self):
        """Every SPTE that is not SHADOW_NONPRESENT_VALUE, pre-order per root in order of creation:
        (root, level, gfn, value, is_table)."""
        cdef Sp *root = self.vm.kvm.tdp_mmu_roots
        cdef Sp *roots[512]
        cdef int n = 0, i
        while root != NULL and n < 512:
            roots[n] = root
            n += 1
            root = root.next
        out = []
        for i in range(n):
            self.dump_table(roots[n - 1 - i], i, out)
        return out

    cdef dump_table(self, Sp *sp, int number, list out):
        cdef uint64_t value, gfn
        cdef uint64_t index
        cdef bint table
        cdef int i
        for i in range(512):
            value = sp.spt[i]
            if value == SHADOW_NONPRESENT_VALUE:
                continue
            gfn = (sp.gfn + i * pages_per_hpage(sp.level)) & ~self.vm.kvm.gfn_direct_bits
            table = is_shadow_present_pte(value) and not is_last_spte(value, sp.level)
            index = ((value & SPTE_BASE_ADDR_MASK) - ARENA_HPA) >> 12
            dead = table and index < self.vm.arena.next_fresh and self.vm.arena.sps[index].state == SP_FREED
            out.append((number, sp.level, gfn, value, table) + (("freed",) if dead else ()))
            if table and not dead and index < self.vm.arena.next_fresh and (
                    self.vm.arena.sps[index].state != SP_FREE and self.vm.arena.sps[index].level == sp.level - 1):
                self.dump_table(&self.vm.arena.sps[index], number, out)

    def stats(self):
        """The statistics a conformance case ends with."""
        cdef Kvm *kvm = &self.vm.kvm
        return {
            "pages_4k": kvm_page_stat(kvm, 1), "pages_2m": kvm_page_stat(kvm, 2), "pages_1g": kvm_page_stat(kvm, 3),
            "sp_linked": <int64_t>kvm.tdp_mmu_pages, "sp_live": <int64_t>self.vm.arena.live,
            "vm_bugged": int(kvm.vm_bugged), "nx_lpage_splits": <int64_t>kvm.nx_lpage_splits,
            "nx_possible": <int64_t>kvm.nx_possible, "mmio_created": <int64_t>kvm.mmio_created,
            "external_live": <int64_t>kvm.external_live,
        }
