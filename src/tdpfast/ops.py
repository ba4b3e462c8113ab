"""The operations as data: one row each, from which the rest is derived.

A row says what a file may write, what the core is given, which lock the kernel's callers hold, and what the search has
to know about the operation. `Vm.run()`, VM files, scenarios, the lowering of the native core and the explorer read it;
the operation itself is one native function under its number in the core's table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tdpfast._arguments import check_int, one_of, shown
from tdpfast._names import Errno, GuestRet, OpKind, RetPf
from tdpfast.errors import UsageError

NO_ROOT, DIRECT, MIRROR, BOTH = range(4)
"""`OpSpec.roots`: bits, 1 the direct root, 2 the mirror."""
LOCKS = ("", "read", "write", "shared", "own")
"""`OpSpec.lock`: not at all; for read; for write; for read if the operation's field shared says so, else for write; it
takes its locks itself, by turns."""


@dataclass(frozen=True)
class OpSpec:
    """One operation.

    Args:
        fields: what it takes, in order, and what a field means that is left out.
        td_fields: what they mean then on a TD, where that is something else.
        fixed: what the core is given beside them.
        td_only: only a TD on a module has it.
        lock: how mmu_lock is held around it, one of LOCKS.
        roots: which of its vCPU's own roots it walks, faults in or replaces; a thread that uses one holds a reference.
        rare: it changes words that are constant in every scenario without such an operation. They are offered by
            sync_rare(), so that no other scenario pays for them.
        ends_roots: valid roots may become invalid, or go, by it.
        refused: when today's callers never get it to a TD: "slot" (what has a guest_memfd knows no dirty log), "gated"
            (nobody zaps a single SPTE of a mirror), or "private" (for private memory; hardware walks no mirror). It
            answers -EINVAL then, unless the design is ungated.
        slots_lock: its callers hold slots_lock.
        levels: the least and the greatest level that its level may be. Above 1G it is the kernel's own assertion that
            answers, for the operations that have one.
        ret: what its result means.
        done: results by which it did what it is for; without, all that are not negative.
        effect: results by which a search says that it happened, where an operation that found nothing is done as well.
        guest: how a guest instruction ends that did what it is for (OpResult.kind); a status must be 0 as well.
        span: table entries it may look at or change: "none"; "gfn", "gpa", "range" or "mask" (64 gfns from its
            gfn), rounded to the largest page that it or the design may map there; "all". More than it touches costs
            time, less loses executions; without it, each entry is a step again (tdpfast.spans).
        gmem: "fault": it looks up a page of the guest; "hole": it takes pages or their kind away, in an invalidation.
            The words of the protocol between the two are offered in scenarios that have both.
        answers: what its result has beside ``ret``; None when the operation ended the VM.
        none_if_failed: None as well when ret is negative: it found nothing.
    """

    fields: Mapping[str, int] = field(default_factory=dict)
    td_fields: Mapping[str, int] = field(default_factory=dict)
    fixed: Mapping[str, int] = field(default_factory=dict)
    td_only: bool = False
    lock: str = ""
    roots: int = NO_ROOT
    rare: bool = False
    ends_roots: bool = False
    refused: str = ""
    slots_lock: bool = False
    span: str = ""
    gmem: str = ""
    levels: tuple[int, int] = (1, 5)
    ret: str = "0"
    done: tuple[int, ...] = ()
    effect: tuple[int, ...] = ()
    guest: tuple[int, ...] = ()
    answers: tuple[str, ...] = ()
    none_if_failed: bool = False

    @cached_property
    def plain(self) -> frozenset[str]:
        """What an operation without modifiers may say."""
        return frozenset({"op", *self.fields})

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """Fields that a scenario has to give: the operation is about nothing without them."""
        return tuple(name for name in self.fields if name in _ABOUT)

    def defaults(self, td: bool) -> dict[str, int]:
        """What the core is given where an operation says nothing, on a TD or not."""
        return {**self.fields, **(self.td_fields if td else {}), **self.fixed}


_ABOUT = ("gfn", "pfn", "start", "end", "mask", "leaf", "gpa")


def _zeros(*names: str) -> dict[str, int]:
    return dict.fromkeys(names, 0)


_RANGE = _zeros("start", "end")
_PAGE = _zeros("gfn", "pfn") | {"level": 1}
_MODES = _zeros("guest_mode", "smm")        # which of the direct roots
_FAULT = (_PAGE | _zeros("write", "exec", "user", "prefetch", "private", "noslot", "retries") | {"map_writable": 1}
          | _MODES)
_SLOT = {"slot": -1}
_VCPU = _zeros("vcpu")
_TD_FAULT = {"write": 1, "private": 1}
_SHARED, _PRIVATE = {"filter": 1}, {"filter": 2}        # enum kvm_gfn_range_filter
_GUEST = ("kind", "rax", "out", "flags")
_RET_PF = "RET_PF_*"
_MAPPED = (RetPf.RET_PF_FIXED, RetPf.RET_PF_SPURIOUS)
_FAULTED = (*_MAPPED, RetPf.RET_PF_EMULATE, RetPf.RET_PF_WRITE_PROTECTED)
_STATUS, _ACCESSED = (GuestRet.GUEST_RET_STATUS,), (GuestRet.GUEST_RET_NO_FAULT,)
_ERRNO = "0 or an errno"
_FLUSH = "1: a flush of the TLB is due"


def _td(fields: Mapping[str, int], **row: Any) -> OpSpec:
    """A row of what only a TD has; its result is also that of a guest instruction or of a SEAMCALL."""
    return OpSpec(fields, td_only=True, **{"answers": _GUEST, **row})


OPS: dict[str, OpSpec] = {
    "map": OpSpec(_FAULT, _TD_FAULT, gmem="fault", lock="own", roots=BOTH, levels=(1, 3), ret=_RET_PF, done=_FAULTED,
                  answers=("level", "pfn", "tries"), span="gfn"),
    "zap_leafs": OpSpec(_RANGE | _zeros("flush"), lock="write", effect=(1,), ret=_FLUSH, span="range"),
    "unmap": OpSpec(_RANGE | _SHARED | {"flush": 0, "may_block": 1}, _PRIVATE, lock="write", effect=(1,), ret=_FLUSH,
               span="range"),
    "zap_all": OpSpec(lock="write", span="all"),
    "invalidate_roots": OpSpec({"types": 6}, lock="write", rare=True, ends_roots=True, slots_lock=True, span="none"),
    "zap_invalidated_roots": OpSpec(_zeros("shared"), lock="own", rare=True, slots_lock=True, span="all"),
    "reload": OpSpec(lock="own", roots=BOTH, rare=True, ret="2: the mirror root was replaced, plus 1: the direct one",
               span="none"),
    "put_root": OpSpec(_zeros("private"), lock="own", roots=BOTH, rare=True, span="none"),
    "alloc_root": OpSpec(_zeros("private"), lock="own", roots=BOTH, rare=True, span="none"),
    "wrprot_slot": OpSpec(_RANGE | _SLOT | {"min_level": 1}, lock="read", refused="slot", effect=(1,), ret=_FLUSH,
               span="range"),
    "clear_dirty_slot": OpSpec(_RANGE | _SLOT, lock="read", refused="slot", span="range"),
    "clear_dirty_pt_masked": OpSpec(_zeros("gfn", "mask", "wrprot") | _SLOT, lock="write", refused="slot", span="mask"),
    "write_protect_gfn": OpSpec({"gfn": 0, "min_level": 1} | _SLOT, lock="write", refused="slot",
                                effect=(1,), ret="1: something was protected", span="gfn"),
    "split": OpSpec(_RANGE | _SLOT | {"target_level": 1, "shared": 0}, lock="shared", refused="slot", span="range"),
    "recover": OpSpec(_RANGE | _SLOT | {"max_level": 1}, {"max_level": 2}, lock="read", refused="slot", span="range"),
    "age": OpSpec(_RANGE | _SHARED, effect=(1,), ret="1: something was young", span="range"),
    "test_age": OpSpec(_RANGE | _SHARED, effect=(1,), ret="1: something is young", span="range"),
    "get_walk": OpSpec(_zeros("gfn"), roots=DIRECT, ret="lowest level that was read, -1: none",
                       answers=("root_level", "sptes"), span="gfn"),
    "fast_pf_last": OpSpec(_zeros("gfn"), roots=DIRECT, ret="index of the entry, -1: no root",
                           answers=("level", "spte"), span="gfn"),
    "zap_nx": OpSpec(lock="own", ret="1: zapped, 0: the table is gone, -1: the list is empty",
                     done=(1,), answers=("gfn", "sp_level"), none_if_failed=True, span="all"),
    "poke": OpSpec(_zeros("private", "gfn", "set", "clear") | _MODES, {"private": 1}, roots=BOTH, refused="private",
                   ret="level of the leaf, -1: none, or lost to another CPU", answers=("spte",),
                   none_if_failed=True, span="gfn"),
    "poke_raw": OpSpec({"private": 0, "gfn": 0, "level": 1, "value": 0}, {"private": 1}, roots=BOTH,
                       refused="private", ret="0, -1: not written", span="gfn"),
    "set_dirty_log": OpSpec(_zeros("on") | _SLOT, rare=True, slots_lock=True, refused="slot", span="none"),
    "track": OpSpec({"gfn": 0, "on": 1}, lock="write", ret="0, -ENOSPC: too many gfns", span="none"),
    "set_gen": OpSpec(_zeros("gen"), rare=True, span="none"),
    "zap_spte": OpSpec({"gfn": 0, "level": 1, "shared": 1, "tries": 1, "rcu": 1}, lock="shared", roots=MIRROR,
                       refused="gated", ret="0, an errno, or 1: nothing there", done=(0,), answers=("tries",),
                       span="gfn"),
    "zap_nx_sp": OpSpec({"gfn": 0, "level": 2, "rcu": 1}, lock="read", roots=MIRROR, refused="gated",
                        done=(1,), ret="1: zapped, 0: not, -1: no table there", span="gfn"),
    "mwalk": OpSpec(_zeros("gfn"), roots=MIRROR, ret="lowest level that was read, -1: none",
                    answers=("root_level", "sptes"), span="gfn"),
    "sync_rcu": OpSpec(span="none"),
    "uninit": OpSpec(lock="own", rare=True, ends_roots=True, span="all"),
    "put_roots": OpSpec(lock="own", roots=BOTH, rare=True, span="none"),
    "fast_page_fault": OpSpec(_zeros("gfn", "write", "exec", "user") | {"present": 1, "private": 0} | _MODES,
                              roots=BOTH,
                              ret=_RET_PF, done=_MAPPED, span="gfn"),
    "gmem_convert": OpSpec(_RANGE, lock="own", ret=_ERRNO, span="range"),
    "honor_accept": OpSpec({"gfn": 0, "level": 1}, lock="own", levels=(1, 3), ret=_ERRNO, span="gfn"),
    "vp_enter": _td(_VCPU, done=(1,), ret="1 inside, 0 came back, -1 kept out by a zap, -2 VM dead, -3 inside already",
               span="none"),
    "td_exit": _td(_VCPU, done=(1,), ret="1: it was inside, -3: it was not", span="none"),
    "accept": _td(_VCPU | _zeros("gpa", "level", "same_rip"), guest=_STATUS, levels=(0, 5), span="gpa"),
    "guest_access": _td(_VCPU | _zeros("gpa", "same_rip"), guest=_ACCESSED, span="gpa"),
    "touch": _td(_VCPU | _zeros("gfn", "pfn", "retries", "same_rip"), gmem="fault", lock="own", roots=BOTH,
                 guest=(*_ACCESSED, GuestRet.GUEST_RET_TDEXIT), span="gfn"),
    "raw": _td(_zeros("leaf", "rcx", "rdx", "r8", "version"), rare=True, span="none"),
    "populate": _td(_zeros("gfn", "pfn") | {"src": 0x10000000, "measure": 0}, gmem="fault", lock="own",
                    roots=BOTH, rare=True, ret=_ERRNO, span="gfn"),
    "finalize": _td({}, rare=True, ret=_ERRNO, span="none"),
    "release_hkid": _td({}, rare=True, span="none"),
    "vcpu_free": _td(_VCPU, rare=True, span="none"),
    "vm_destroy": _td({}, rare=True, span="all"),
    "free_pfn": _td(_zeros("gfn", "pfn"), gmem="hole", roots=MIRROR, done=(0,),
                    ret="0 freed, 1 freed although the module uses it, 2 kept by a reference of KVM's, -EBUSY: mapped",
                    span="gfn"),
    "pamt_get": _td(_zeros("pfn"), ret=_ERRNO, span="none"),
    "pamt_put": _td(_zeros("pfn"), span="none"),
    "guest_accept": _td(_VCPU | _zeros("gpa", "pfn", "level") | {"tries": -1}, gmem="fault", lock="own", roots=BOTH,
                        levels=(0, 5), done=(0,), ret="0, 1: out of tries, or an errno", answers=("tries", *_GUEST),
                        span="gpa"),
    "prefault": _td(_PAGE, gmem="fault", lock="own", roots=BOTH, levels=(1, 3), done=_MAPPED,
                    ret="RET_PF_*, or an errno", span="gfn"),
    "map_exclusive": _td(_PAGE, fixed=_TD_FAULT | {"map_writable": 1}, gmem="fault", lock="own", roots=BOTH,
                         levels=(1, 3), ret=_RET_PF, done=_MAPPED, span="gfn"),
    "punch_hole": _td(_RANGE | _zeros("pfn"), gmem="hole", lock="own", done=(0,),
                      ret="0, 1: the module uses a page that was freed", span="range"),
    "set_attributes": _td(_RANGE | _zeros("private", "pinned"), gmem="hole", lock="own", ret=_ERRNO, span="range"),
    "move_slot": _td(_RANGE | _SLOT, gmem="hole", lock="own", span="range"),
    "vcpu_create": _td({}, lock="own", rare=True, ret="the new vCPU's number, or an errno", span="none"),
    "recover_nx": OpSpec({"to_zap": 1}, lock="own", effect=(1, 2, 3, 4), ret="how many tables were zapped", span="all"),
    "access": OpSpec(_zeros("gfn", "write") | _MODES, roots=BOTH, effect=(1, 2, 3), answers=("pfn",),
                     ret="level of the translation, 0: an EPT violation", span="gfn"),
}
"""Every operation by name, in the order of OpKind; every one also takes the modifiers hook, resched, race and no_gp.

hook: values that the external hooks return, in order (0, -16, -5); resched: need_resched() is true from that
call on; race: [n, "hw", set, clear] or [n, "install", value], what another CPU does before the n-th atomic;
no_gp: RCU callbacks that are due do not run at the end; enomem: allocations that fail, ENOMEM_FIELDS."""
if tuple(OPS) != tuple(name[3:].lower() for name in OpKind.__members__):
    raise ImportError("OPS and OpKind do not have the same operations in the same order")


MODIFIERS = ("hook", "resched", "race", "no_gp", "gp_at_yield", "gp_at_retry", "enomem")
TD_MODIFIERS = (*MODIFIERS, "inject", "reenter")
"""A TD's `hook` may also hold rules, and `inject` makes the module's locks busy."""
RULE_FIELDS = ("hook", "kind", "level", "gfn", "skip", "count", "ret")
"""A rule of `hook`: this external hook, for this kind of change, returns ret instead of running."""
INJECT_FIELDS = ("leaf", "lock", "mode", "skip", "count", "until_kick", "intr")
"""An entry of `inject`: another logical processor holds this lock of the module around calls of this leaf, or, with
intr = 1 and no lock, an interrupt is pending on the caller's."""

ENOMEM_FIELDS = ("what", "skip", "count")
"""An entry of `enomem`: after `skip` that succeed, `count` allocations fail: of a "table" (of a fault: topping up the
vCPU's caches, which each try begins with), of a page for the S-EPT ("sept"), of a "pamt" pair."""


def spec_of(name: Any, td: bool) -> OpSpec:
    """The row of an operation; UsageError for an unknown name, or one that only a TD has where there is none."""
    spec = OPS.get(name) if isinstance(name, str) else None
    if spec is None or (spec.td_only and not td):
        raise UsageError(f"unknown op {shown(name)}" if spec is None else f"op {name!r}",
                         "not an operation of the TDP MMU" if spec is None else "this VM is no TD",
                         one_of(op for op, row in OPS.items() if td or not row.td_only))
    return spec


def failure(name: str, result: Mapping[str, Any]) -> str:
    """Why an operation did not do what it is for, from its result; "" if it did."""
    spec, ret = OPS[name], result["ret"]
    if isinstance(ret, str):
        return f"it ended in {ret}"
    if ret < 0:
        return "it answered " + next((f"-{code}" for code, number in Errno.__members__.items() if number == -ret),
                                       f"{ret} ({spec.ret})")
    if spec.done and ret not in spec.done:
        names = RetPf.__members__ if spec.ret.startswith(_RET_PF) else {}
        return "it answered " + next((text for text, number in names.items() if number == ret), f"{ret} ({spec.ret})")
    if not spec.guest:
        return ""
    if result["kind"] not in spec.guest:
        ends: dict[int, str] = {GuestRet.GUEST_RET_NOT_INSIDE: "its vCPU is outside the guest",
                                GuestRet.GUEST_RET_TDEXIT: "an EPT violation"}
        return ends.get(result["kind"], "the guest came no further")
    if result["kind"] == GuestRet.GUEST_RET_STATUS and result["rax"]:
        return f"its status is {result['rax']:#x}"
    return "KVM could not help the guest" if result["flags"] else ""


def check_op(op: Mapping[str, Any], *, td: bool) -> None:
    """UsageError unless `op` is an operation whose fields are known and whose modifiers have their form.

    td: an operation of a TD on a module, as scenarios have them. The values of fields are checked where the
    operation is lowered.
    """
    if not isinstance(op, Mapping):
        raise UsageError(f"operation {shown(op)}", "not a mapping", 'such as {"op": "map", "gfn": 0x600}')
    spec = spec_of(op.get("op"), td)
    if op.keys() <= spec.plain:
        return
    known = (*spec.fields, *(TD_MODIFIERS if td else MODIFIERS))
    for key in op:
        if key != "op" and key not in known:
            raise UsageError(f"op {op['op']!r} has no field {shown(key)}", "unknown field", one_of(known))
    check_hooks(op.get("hook", []), td)
    check_race(op.get("race"))
    check_tables("inject", op.get("inject", []), INJECT_FIELDS)
    check_tables("enomem", op.get("enomem", []), ENOMEM_FIELDS)
    for table in op.get("enomem", []):
        for key in ("skip", "count"):
            check_int(f"{key} of enomem", table.get(key, 0), 0, (1 << 31) - 1)


def check_hooks(hook: Any, td: bool) -> None:
    """UsageError for a hook script, or a TD's rules, that cannot be lowered."""
    if td and isinstance(hook, (list, tuple)) and hook and isinstance(hook[0], Mapping):
        check_tables("hook", hook, RULE_FIELDS)
        return
    if not isinstance(hook, (list, tuple)):
        raise UsageError(f"hook is {shown(hook)}", "not a list", "a list of values that the hooks return")
    for value in hook:
        check_int("hook return", value, -4095, 0)


def check_race(race: Any) -> None:
    """UsageError for a race that cannot be lowered."""
    if race is not None:
        if not isinstance(race, (list, tuple)) or len(race) not in (3, 4) or race[1] not in ("hw", "install"):
            raise UsageError(f"race is {shown(race)}", "not a race", '[n, "hw", set, clear] or [n, "install", value]')
        check_int("race number", race[0], 0, (1 << 31) - 2)


def check_tables(what: str, tables: Any, fields: tuple[str, ...]) -> None:
    """UsageError unless `tables` is a list of tables with such fields only, whose values are texts or integers."""
    if not isinstance(tables, (list, tuple)) or not all(isinstance(table, Mapping) for table in tables):
        raise UsageError(f"{what} is {shown(tables)}", "not a list of tables", "tables with " + ", ".join(fields))
    for table in tables:
        for key, value in table.items():
            if key not in fields:
                raise UsageError(f"{what} has no field {shown(key)}", "unknown field", one_of(fields))
            if not isinstance(value, (str, int)):
                raise UsageError(f"field {key} of {what} is {shown(value)}", "no name and no number", "see tdpfast.ops")
        check_int(f"ret of {what}", table.get("ret", 0), -4095, 0)
