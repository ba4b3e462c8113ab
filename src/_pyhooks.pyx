# cython: language_level=3
"""Hooks written in Python (see _pyhooks.pxd).

A Python hook is one atomic step for the explorer: a fiber never runs Python code, it asks the scheduler to. A hook
returns None to have the native hook of the design run, else 0 or a negative errno.
"""

from libc.stdlib cimport calloc, free
from libc.string cimport memset

from tdpfast._sync cimport SLOW_YIELD, SYNC_HOOK

from tdpfast.errors import UsageError

cdef enum Which:
    PY_SET = 0
    PY_LINK
    PY_REMOVE
    PY_FREE
    PY_SPLIT

HOOK_NAMES = ("set_external_spte", "link_external_spt", "remove_external_spte", "free_external_spt", "split_external_spt")


cdef int errno_of(object value) except? -1:
    """0 or a negative errno from what a hook returned."""
    if isinstance(value, int) and -4095 <= value <= 0:
        return value
    raise UsageError(f"a hook returned {value!r}", "not 0 or a negative errno", "return None, 0, -16 or -5")


cdef void call_python(HookRequest *r) noexcept with gil:
    """Calls the hook; an exception counts as -EIO and is kept for the caller of run()."""
    cdef VmCore vm = <VmCore>r.kvm.hooks.python
    try:
        hook = vm.py_hooks[HOOK_NAMES[r.which]]
        value = hook(r.gfn, r.old_spte, r.new_spte, r.level)
        r.native = value is None
        r.ret = 0 if value is None else errno_of(value)
    except BaseException as error:
        r.native = False
        r.ret = -5
        if vm.hook_error is None:
            vm.hook_error = error


cdef void pyhook_serve(Cpu *c) noexcept nogil:
    """Program.python_hook: runs the request a fiber left."""
    call_python(<HookRequest *>c.y_arg)


cdef void ask(Cpu *c, Kvm *kvm, HookRequest *r, int which, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
              int level) noexcept nogil:
    """Has the Python hook called: by the scheduler on a fiber (yields), directly otherwise."""
    memset(r, 0, sizeof(HookRequest))
    r.kvm = kvm
    r.which = which
    r.gfn = gfn
    r.old_spte = old_spte
    r.new_spte = new_spte
    r.level = level
    if c.slow & SLOW_YIELD:
        c.y_kind = SYNC_HOOK
        c.y_obj = <uint64_t>r.kvm
        c.y_arg = <uint64_t>r
        c.yield_to(c)
        c.y_arg = 0
    else:
        call_python(r)


cdef int py_set(Cpu *c, Kvm *kvm, uint64_t gfn, uint64_t old_spte, uint64_t new_spte, int level) noexcept nogil:
    cdef HookRequest r
    cdef Hooks *native = <Hooks *>kvm.hooks.native
    ask(c, kvm, &r, PY_SET, gfn, old_spte, new_spte, level)
    if r.native and native.set_external_spte != NULL:
        return native.set_external_spte(c, kvm, gfn, old_spte, new_spte, level)
    return r.ret


cdef int py_link(Cpu *c, Kvm *kvm, uint64_t gfn, int level, uint64_t external_spt) noexcept nogil:
    cdef HookRequest r
    cdef Hooks *native = <Hooks *>kvm.hooks.native
    ask(c, kvm, &r, PY_LINK, gfn, 0, external_spt, level)
    if r.native and native.link_external_spt != NULL:
        return native.link_external_spt(c, kvm, gfn, level, external_spt)
    return r.ret


cdef void py_remove(Cpu *c, Kvm *kvm, uint64_t gfn, int level, uint64_t spte) noexcept nogil:
    cdef HookRequest r
    cdef Hooks *native = <Hooks *>kvm.hooks.native
    ask(c, kvm, &r, PY_REMOVE, gfn, spte, 0, level)
    if r.native and native.remove_external_spte != NULL:
        native.remove_external_spte(c, kvm, gfn, level, spte)


cdef int py_free(Cpu *c, Kvm *kvm, uint64_t gfn, int level, Sp *sp) noexcept nogil:
    cdef HookRequest r
    cdef Hooks *native = <Hooks *>kvm.hooks.native
    ask(c, kvm, &r, PY_FREE, gfn, sp.external_spt, 0, level)
    if r.native and native.free_external_spt != NULL:
        return native.free_external_spt(c, kvm, gfn, level, sp)
    return r.ret


cdef int py_split(Cpu *c, Kvm *kvm, uint64_t gfn, int level, uint64_t old_spte, uint64_t new_spte,
                  bint shared) noexcept nogil:
    cdef HookRequest r
    cdef Hooks *native = <Hooks *>kvm.hooks.native
    ask(c, kvm, &r, PY_SPLIT, gfn, old_spte, new_spte, level)
    if r.native and native.split_external_spt != NULL:
        return native.split_external_spt(c, kvm, gfn, level, old_spte, new_spte, shared)
    return r.ret


cdef int pyhooks_install(VmCore vm, object hooks) except -1:
    """Puts Python callables in front of the native hooks; UsageError for an unknown name or no callable."""
    cdef Kvm *kvm = &vm.vm.kvm
    cdef Hooks *native
    for name, hook in hooks.items():
        if name not in HOOK_NAMES:
            raise UsageError(f"hook {name!r}", "no such hook", "use one of " + ", ".join(HOOK_NAMES))
        if not callable(hook):
            raise UsageError(f"hook {name} is {hook!r}", "not callable", "pass a function")
    if kvm.hooks.native == NULL:
        native = <Hooks *>calloc(1, sizeof(Hooks))
        if native == NULL:
            raise MemoryError("no memory for hooks")
        native[0] = kvm.hooks
        kvm.hooks.native = native
    kvm.hooks.python = <void *>vm
    vm.py_hooks.update(hooks)
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


def install(VmCore vm not None, hooks):
    """Replaces hooks of a VM by Python callables: {name: function(gfn, old_spte, new_spte, level)}.

    A function returns None (the native hook of the design runs next), 0, or a negative errno. Names:
    set_external_spte, link_external_spt, remove_external_spte, free_external_spt, split_external_spt. Raises
    UsageError.
    """
    pyhooks_install(vm, hooks)
