# cython: language_level=3
"""Hooks written in Python (see pyhooks.pxd).

A fiber never runs Python code: it asks the scheduler to, and goes on when that is done. A hook that is a plain
function is one atomic step for the explorer. One that is a generator function is a step from each of its yields to
the next: between them the fiber offers a point named by what was yielded, and the generator waits, suspended, while
others run. A hook returns None to have the native hook of the design run, else 0 or a negative errno.
"""

from collections.abc import Mapping

from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdlib cimport calloc
from libc.string cimport memset

from tdpfast._names cimport (
    EIO, EV_PY_HOOK, PY_ANSWERED, PY_FREE_EXTERNAL_SPT, PY_LINK_EXTERNAL_SPT, PY_NATIVE, PY_REMOVE_EXTERNAL_SPTE,
    PY_SET_EXTERNAL_SPTE, PY_SPLIT_EXTERNAL_SPT, PY_YIELDED, SYNC_HOOK,
)
from tdpfast._sync.cpu cimport SLOW_YIELD, Event, trace_new

from operator import index
from types import GeneratorType
from zlib import crc32

from tdpfast._names import PyHook

from tdpfast._arguments import shown
from tdpfast.errors import UsageError

cdef extern from *:
    """
    #define POINT_C (1ull << 62)
    """
    const uint64_t POINT_C

cdef const char *NAMES_C[5]
NAMES_C[0] = b"set_external_spte"
NAMES_C[1] = b"link_external_spt"
NAMES_C[2] = b"remove_external_spte"
NAMES_C[3] = b"free_external_spt"
NAMES_C[4] = b"split_external_spt"

HOOK_NAMES = tuple(name[3:].lower() for name in PyHook.__members__)
MAX_STEPS = 1 << 17          # of one call of a generator hook where no scheduler counts its steps
HOOK_CALLS = 64              # calls of hooks that keep something after which a retry is another round
MAX_LABEL = 40               # what is shown of a label
POINT = 1 << 62              # names of steps are numbers that no address is: this and a checksum of the text, or
                             # for a first step the number of the hook


cdef int errno_of(str name, object value) except? -1:
    """0 or a negative errno from what a hook returned."""
    try:
        if -4095 <= index(value) <= 0:
            return index(value)
    except TypeError:
        pass
    raise UsageError(f"a hook returned {shown(value)}", f"the return of hook {name} is not 0 or a negative errno",
                     "return None, 0, -16 or -5")


cdef uint64_t point_of(VmCore vm, str text) except 0:
    """The number of a point's text, the same in every process."""
    number = POINT | crc32(text.encode("utf-8", "backslashreplace"))
    vm.hook_texts[number] = text
    return number


cdef str label_of(object value):
    """What a generator hook yielded, as one short line."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UsageError(f"a hook yielded {shown(value)}", "not a label", 'yield, or yield "label"')
    return " ".join(value.split())[:MAX_LABEL]


cdef void note_step(Cpu *c, VmCore vm, const HookRequest *r, str label) except *:
    """Puts a step into the trace. What a plain hook passes on is told by the hook below it."""
    cdef Event *e
    if c.trace == NULL or (r.native and not r.steps):
        return
    raw = vm.hook_texts.setdefault(label, label.encode("utf-8", "backslashreplace"))
    e = trace_new(c, EV_PY_HOOK)
    e.a[0] = r.gfn
    e.a[1] = <uint64_t>r.level
    e.a[2] = <uint64_t>r.ret
    e.a[3] = PY_YIELDED if r.more else PY_NATIVE if r.native else PY_ANSWERED
    e.s0 = NAMES_C[r.which]
    e.s1 = <const char *>raw


cdef void hook_step(Cpu *c, VmCore vm, HookRequest *r) except *:
    """Begins the hook, or resumes its generator, up to its next yield or its end; raises what it raises."""
    name = HOOK_NAMES[r.which]
    running = vm.hook_running.pop(c.id, None)
    value = None
    if running is None:
        value = vm.py_hooks[name](r.gfn, r.old_spte, r.new_spte, r.level)
        if type(value) is GeneratorType:
            running = value
    label = ""
    if running is not None:
        r.steps += 1
        vm.hook_steps += 1
        try:
            label = label_of(next(running))
            if r.steps >= MAX_STEPS and not c.slow & SLOW_YIELD:
                raise UsageError(f"hook {name} yielded {MAX_STEPS} times", "it seems to wait for something for ever",
                                 "a hook that ends by itself")
        except StopIteration as end:
            value = end.value
        except BaseException:
            running.close()
            raise
        else:
            vm.hook_running[c.id] = running
            r.more = True
            r.point = point_of(vm, f"{name} after {label!r}" if label else f"{name} after a yield")
    elif vm.hook_reset is not None:
        vm.hook_steps += 1
    if vm.hook_reset is not None and c.used_up < HOOK_CALLS:
        # It may keep something, so the same arguments need not have the same answer again.
        c.used_up += 1
    if not r.more:
        r.native = value is None
        r.ret = 0 if value is None else errno_of(name, value)
    note_step(c, vm, r, label)


cdef void call_python(Cpu *c, HookRequest *r) noexcept with gil:
    """One step of the hook; an exception ends it, counts as -EIO and is kept for the caller of run()."""
    cdef VmCore vm = <VmCore>r.kvm.hooks.python
    cdef list inside = vm.hook_threads
    inside.append(PyThread_get_thread_ident())
    r.more = False
    try:
        hook_step(c, vm, r)
    except BaseException as error:
        r.native = r.more = False
        r.ret = -EIO
        c.hook_raised = True
        if vm.hook_error is None:
            vm.hook_error = error
    inside.remove(PyThread_get_thread_ident())


cdef void pyhook_serve(Cpu *c) noexcept nogil:
    """Program.python_hook: runs the step a fiber asks for."""
    call_python(c, <HookRequest *>c.offer.arg)


cdef void pyhook_cut(Kvm *kvm) noexcept with gil:
    """Closes the generators of hooks whose CPUs will not go on, in the order of the CPUs."""
    cdef VmCore vm = <VmCore>kvm.hooks.python
    cdef list inside = vm.hook_threads
    inside.append(PyThread_get_thread_ident())
    for cpu in sorted(vm.hook_running):
        try:
            vm.hook_running.pop(cpu).close()
        except BaseException as error:
            if vm.hook_error is None:
                vm.hook_error = error
    inside.remove(PyThread_get_thread_ident())


cdef void pyhook_reset(Kvm *kvm) noexcept with gil:
    """What the hooks keep goes back to what it was after the set-up, if they know how."""
    cdef VmCore vm = <VmCore>kvm.hooks.python
    vm.hook_steps = 0
    if vm.hook_reset is None:
        return
    vm.hook_threads.append(PyThread_get_thread_ident())
    try:
        vm.hook_reset()
    except BaseException as error:
        if vm.hook_error is None:
            vm.hook_error = error
    vm.hook_threads.remove(PyThread_get_thread_ident())


cdef void ask(Cpu *c, Kvm *kvm, HookRequest *r, int which, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
              int level) noexcept nogil:
    """Has the Python hook called: by the scheduler on a fiber (yields, once per step), directly to its end
    otherwise."""
    memset(r, 0, sizeof(HookRequest))
    r.kvm = kvm
    r.which = which
    r.gfn = gfn
    r.old_spte = old_spte
    r.new_spte = new_spte
    r.level = level
    r.point = POINT_C | <uint64_t>which
    while True:
        if c.slow & SLOW_YIELD:
            c.offer.kind = SYNC_HOOK
            c.offer.obj = r.point
            c.offer.arg = <uint64_t>r
            c.yield_to(c)
            c.offer.arg = 0
        else:
            call_python(c, r)
        if not r.more:
            return


cdef int py_set(Cpu *c, Kvm *kvm, uint64_t gfn, uint64_t old_spte, uint64_t new_spte, int level) noexcept nogil:
    cdef HookRequest r
    cdef Hooks *native = <Hooks *>kvm.hooks.native
    ask(c, kvm, &r, PY_SET_EXTERNAL_SPTE, gfn, old_spte, new_spte, level)
    if r.native and native.set_external_spte != NULL:
        return native.set_external_spte(c, kvm, gfn, old_spte, new_spte, level)
    return r.ret


cdef int py_link(Cpu *c, Kvm *kvm, uint64_t gfn, int level, uint64_t external_spt) noexcept nogil:
    cdef HookRequest r
    cdef Hooks *native = <Hooks *>kvm.hooks.native
    ask(c, kvm, &r, PY_LINK_EXTERNAL_SPT, gfn, 0, external_spt, level)
    if r.native and native.link_external_spt != NULL:
        return native.link_external_spt(c, kvm, gfn, level, external_spt)
    return r.ret


cdef void py_remove(Cpu *c, Kvm *kvm, uint64_t gfn, int level, uint64_t spte) noexcept nogil:
    cdef HookRequest r
    cdef Hooks *native = <Hooks *>kvm.hooks.native
    ask(c, kvm, &r, PY_REMOVE_EXTERNAL_SPTE, gfn, spte, 0, level)
    if r.native and native.remove_external_spte != NULL:
        native.remove_external_spte(c, kvm, gfn, level, spte)


cdef int py_free(Cpu *c, Kvm *kvm, uint64_t gfn, int level, Sp *sp) noexcept nogil:
    cdef HookRequest r
    cdef Hooks *native = <Hooks *>kvm.hooks.native
    ask(c, kvm, &r, PY_FREE_EXTERNAL_SPT, gfn, sp.external_spt, 0, level)
    if r.native and native.free_external_spt != NULL:
        return native.free_external_spt(c, kvm, gfn, level, sp)
    return r.ret


cdef int py_split(Cpu *c, Kvm *kvm, uint64_t gfn, int level, uint64_t old_spte, uint64_t new_spte,
                  bint shared) noexcept nogil:
    cdef HookRequest r
    cdef Hooks *native = <Hooks *>kvm.hooks.native
    ask(c, kvm, &r, PY_SPLIT_EXTERNAL_SPT, gfn, old_spte, new_spte, level)
    if r.native and native.split_external_spt != NULL:
        return native.split_external_spt(c, kvm, gfn, level, old_spte, new_spte, shared)
    return r.ret


cdef int pyhooks_install(VmCore vm, object hooks) except -1:
    """Puts Python callables in front of the native hooks; UsageError for an unknown name or no callable."""
    cdef Kvm *kvm = &vm.vm.kvm
    cdef Hooks *native
    vm.check_hook()
    if not isinstance(hooks, Mapping):
        raise UsageError(f"hooks are {shown(hooks)}", "not a mapping", "{name: function}")
    hooks = dict(hooks)
    for name, hook in hooks.items():
        if not isinstance(name, str) or name not in HOOK_NAMES:
            raise UsageError(f"hook {shown(name)}", "no such hook", "use one of " + ", ".join(HOOK_NAMES))
        if not callable(hook):
            raise UsageError(f"hook {name} is {shown(hook)}", "not callable", "pass a function")
    if not hooks:
        return 0
    if kvm.hooks.native == NULL:
        native = <Hooks *>calloc(1, sizeof(Hooks))
        if native == NULL:
            raise MemoryError("no memory for hooks")
        native[0] = kvm.hooks
        kvm.hooks.native = native
    kvm.hooks.python = <void *>vm
    vm.py_hooks.update(hooks)
    for which, name in enumerate(HOOK_NAMES):
        vm.hook_texts[POINT | which] = name
    if "set_external_spte" in hooks:
        kvm.hooks.set_external_spte = py_set
    if "link_external_spt" in hooks:
        kvm.hooks.link_external_spt = py_link
    if "remove_external_spte" in hooks:
        kvm.hooks.remove_external_spte = py_remove
    if "free_external_spt" in hooks:
        kvm.hooks.free_external_spt = py_free
    if "split_external_spt" in hooks:
        kvm.hooks.split_external_spt = py_split
    return 0


def install(VmCore vm not None, hooks, reset=None):
    """Replaces hooks of a VM by Python callables: {name: function(gfn, old_spte, new_spte, level)}.

    A function returns None (the native hook of the design runs next), 0, or a negative errno; a generator function
    may yield, a label or nothing, between its steps. Names: set_external_spte, link_external_spt,
    remove_external_spte, free_external_spt, split_external_spt. reset: called before every execution of the explorer.
    Raises UsageError.
    """
    if reset is not None and not callable(reset):
        raise UsageError(f"reset is {shown(reset)}", "not callable", "a function without arguments")
    pyhooks_install(vm, hooks)
    if reset is not None:
        vm.hook_reset = reset
