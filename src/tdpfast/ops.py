"""The operations as data: which there are, which fields each has, and what every one may carry beside them.

`Vm.run()`, VM files and scenarios refuse a field that is not here, by this one table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tdpfast._arguments import check_int, one_of, shown
from tdpfast.errors import UsageError

_RANGE = ("start", "end")
OPS: dict[str, tuple[str, ...]] = {
    "map": ("gfn", "pfn", "level", "write", "exec", "user", "prefetch", "map_writable", "private", "noslot",
            "retries"),
    "zap_leafs": (*_RANGE, "flush"), "unmap": (*_RANGE, "filter", "flush", "may_block"), "zap_all": (),
    "invalidate_roots": ("types",), "zap_invalidated_roots": ("shared",), "reload": (), "put_root": ("private",),
    "alloc_root": ("private",), "put_roots": (), "sync_rcu": (), "uninit": (),
    "wrprot_slot": (*_RANGE, "min_level"), "clear_dirty_slot": _RANGE,
    "clear_dirty_pt_masked": ("gfn", "mask", "wrprot"), "write_protect_gfn": ("gfn", "min_level"),
    "split": (*_RANGE, "target_level", "shared"), "recover": (*_RANGE, "max_level"),
    "age": (*_RANGE, "filter"), "test_age": (*_RANGE, "filter"),
    "get_walk": ("gfn",), "mwalk": ("gfn",), "fast_pf_last": ("gfn",),
    "fast_page_fault": ("gfn", "write", "exec", "user", "present", "private"), "zap_nx": (),
    "poke": ("private", "gfn", "set", "clear"), "poke_raw": ("private", "gfn", "level", "value"),
    "set_dirty_log": ("on",), "track": ("gfn", "on"), "set_gen": ("gen",),
    "gmem_convert": _RANGE, "honor_accept": ("gfn", "level"),
    "zap_spte": ("gfn", "level", "shared", "tries", "rcu"), "zap_nx_sp": ("gfn", "level", "rcu"),
}
"""Operations of `Vm.run()` and their fields; every one also takes the modifiers hook, resched, race and no_gp.

hook: values that the external hooks return, in order (0, -16, -5); resched: need_resched() is true from that
call on; race: [n, "hw", set, clear] or [n, "install", value], what another CPU does before the n-th atomic;
no_gp: RCU callbacks that are due do not run at the end."""

TD_OPS: dict[str, tuple[str, ...]] = {
    "vp_enter": ("vcpu",), "td_exit": ("vcpu",), "accept": ("vcpu", "gpa", "level", "same_rip"),
    "guest_access": ("vcpu", "gpa", "same_rip"), "touch": ("vcpu", "gfn", "pfn", "retries", "same_rip"),
    "raw": ("leaf", "rcx", "rdx", "r8"), "populate": ("gfn", "pfn", "src", "measure"), "finalize": (),
    "release_hkid": (), "vcpu_free": ("vcpu",), "vm_destroy": (), "free_pfn": ("gfn", "pfn"),
    "guest_accept": ("vcpu", "gpa", "pfn", "level", "tries"), "prefault": ("gfn", "pfn", "level"),
    "map_exclusive": ("gfn", "pfn", "level"), "pamt_get": ("pfn",), "pamt_put": ("pfn",),
}
"""What a TD, and so a scenario, has beside `OPS`: vCPUs that run guest code, and the TD's life."""

MODIFIERS = ("hook", "resched", "race", "no_gp", "gp_at_yield", "gp_at_retry")
TD_MODIFIERS = (*MODIFIERS, "inject", "reenter")
"""A TD's `hook` may also hold rules, and `inject` makes the module's locks busy."""
RULE_FIELDS = ("hook", "kind", "level", "gfn", "skip", "count", "ret")
"""A rule of `hook`: this external hook, for this kind of change, returns ret instead of running."""
INJECT_FIELDS = ("leaf", "lock", "mode", "skip", "count", "until_kick", "intr")
"""An entry of `inject`: another logical processor holds this lock of the module around calls of this leaf, or, with
intr = 1 and no lock, an interrupt is pending on the caller's."""


def check_op(op: Mapping[str, Any], *, td: bool) -> None:
    """UsageError unless `op` is an operation whose fields are known and whose modifiers have their form.

    td: an operation of a TD on a module, as scenarios have them. The values of fields are checked where the
    operation is lowered.
    """
    if not isinstance(op, Mapping):
        raise UsageError(f"operation {shown(op)}", "not a mapping", 'such as {"op": "map", "gfn": 0x600}')
    name = op.get("op")
    table = OPS | TD_OPS if td else OPS
    if not isinstance(name, str) or name not in table:
        raise UsageError(f"unknown op {shown(name)}", "not an operation of the TDP MMU", one_of(table))
    known = table[name] + (TD_MODIFIERS if td else MODIFIERS)
    for key in op:
        if key != "op" and key not in known:
            raise UsageError(f"op {name!r} has no field {shown(key)}", "unknown field", one_of(known))
    check_hooks(op.get("hook", []), td)
    check_race(op.get("race"))
    check_tables("inject", op.get("inject", []), INJECT_FIELDS)


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
