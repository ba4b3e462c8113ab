"""Designs: how a kernel propagates mirror SPTE changes to the external page table, as data.

A Design is a frozen set of knobs; the native core reads the same knobs from a C struct. The presets follow the
kernels and postings named in their docstring text; a design of your own is a preset with knobs replaced:

    >>> mine = PRESETS["v7.3"].replace(name="mine", refresh_old_spte=False)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tdpfast._check import check_bool, shown
from tdpfast.errors import UsageError

GATE_HELPER, GATE_ELIF_PRESENT, GATE_ELIF_MIRROR, GATE_IF_MIRROR = range(4)
RECLAIM_OP_RCU, RECLAIM_OP_NOW, RECLAIM_IN_SET = range(3)
DISPATCH_V618, DISPATCH_PATCH07, DISPATCH_V73, DISPATCH_SINGLE, DISPATCH_HUGEPAGE = range(5)


@dataclass(frozen=True, kw_only=True)
class Design:
    """One design of the hooks between mirror and external page table.

    layout: SPTE layout, 618 or 703. gate: when __handle_changed_spte() propagates a change (GATE_*). reclaim: how
    a table's external page is taken back (RECLAIM_*). dispatch: KVM's TDX side (DISPATCH_*). max_level: largest
    mirror mapping level while gated. dynamic_pamt: PAMT memory for 4K pages comes and goes per 2M range, counted by
    KVM; for designs of 4K pages only. The other knobs are named after the step where kernels differ; those from
    no_freeze on are wrong on purpose and exist to test the checker.
    """

    name: str
    layout: int = 703
    gate: int = GATE_ELIF_MIRROR
    reclaim: int = RECLAIM_OP_NOW
    dispatch: int = DISPATCH_V73
    max_level: int = 1
    refresh_old_spte: bool = True
    remove_op_after: bool = False
    trace_before: bool = False
    trace_np_np: bool = True
    bug_atomic_zap: bool = False
    bug_shared_child: bool = False
    bug_new_present: bool = False
    bug_mirror_split: bool = True
    assert_rcu: bool = False
    split_external: bool = False
    promo_block: bool = False
    prove_mmu: bool = False
    age_mirror: bool = False
    age_cmpxchg: bool = True
    ungated: bool = False
    dynamic_pamt: bool = False
    no_freeze: bool = False
    no_rollback: bool = False
    no_grace_period: bool = False
    no_track: bool = False
    no_block: bool = False
    no_hook_on_zap: bool = False
    stats_on_failure: bool = False
    pamt_no_put: bool = False
    pamt_dec_outside: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise UsageError(f"design name {shown(self.name)}", "not a text", 'name = "mine"')
        for knob in dataclasses.fields(self):
            if knob.type == "bool":
                object.__setattr__(self, knob.name, check_bool(f"knob {knob.name}", getattr(self, knob.name)))
        for field, top in (("gate", 3), ("reclaim", 2), ("dispatch", 4)):
            value = getattr(self, field)
            if not isinstance(value, int) or not 0 <= value <= top:
                raise UsageError(f"design knob {field} is {shown(value)}", "not one of its values",
                                 f"use 0..{top}, by the names in tdpfast.design")
        if not isinstance(self.layout, int) or self.layout not in (618, 703):
            raise UsageError(f"design layout {shown(self.layout)}", "unknown", "use 618 or 703")
        if not isinstance(self.max_level, int) or self.max_level not in (1, 2, 3):
            raise UsageError(f"design max_level {shown(self.max_level)}", "not a mapping level", "use 1, 2 or 3")
        if self.dynamic_pamt and (self.max_level != 1 or self.ungated):
            raise UsageError("design dynamic_pamt", "2M pages with dynamic PAMT are not modelled",
                             "max_level=1 and ungated=False")

    def replace(self, **knobs: object) -> Design:
        """A copy with knobs replaced; UsageError names an unknown knob."""
        names = {f.name for f in dataclasses.fields(self)}
        for knob in knobs:
            if knob not in names:
                raise UsageError(f"unknown design knob {knob!r}", "no such field of Design",
                                 "use one of " + ", ".join(sorted(names)))
        return dataclasses.replace(self, **knobs)  # type: ignore[arg-type]


_V618 = Design(
    name="v6.18", layout=618, gate=GATE_HELPER, reclaim=RECLAIM_OP_RCU, dispatch=DISPATCH_V618,
    refresh_old_spte=False, remove_op_after=True, trace_before=True, trace_np_np=False, bug_atomic_zap=True,
    bug_shared_child=True, bug_new_present=True, age_mirror=True, age_cmpxchg=False,
)
_PATCH07 = Design(
    name="patch07", gate=GATE_ELIF_PRESENT, reclaim=RECLAIM_OP_RCU, dispatch=DISPATCH_PATCH07,
    remove_op_after=True, bug_shared_child=True, bug_new_present=True,
)
_V73 = Design(name="v7.3")
_SINGLE = Design(
    name="single-hook", gate=GATE_IF_MIRROR, reclaim=RECLAIM_IN_SET, dispatch=DISPATCH_SINGLE, max_level=2,
    assert_rcu=True, bug_mirror_split=False, split_external=True,
)

PRESETS: dict[str, Design] = {
    d.name: d
    for d in (
        _V618,
        _PATCH07,
        _V73.replace(name="patch15"),
        _SINGLE,
        _SINGLE.replace(name="single-hook-4k", max_level=1, bug_mirror_split=True, split_external=False),
        _V73,
        _V73.replace(name="hugepage", dispatch=DISPATCH_HUGEPAGE, max_level=2, promo_block=True,
                     bug_mirror_split=False, split_external=True),
    )
}


def get_design(design: str | Design) -> Design:
    """A Design by preset name (or itself); UsageError lists the presets."""
    if isinstance(design, Design):
        return design
    try:
        return PRESETS[design]
    except (KeyError, TypeError):
        raise UsageError(f"unknown design {shown(design)}", "not a preset",
                         "use one of " + ", ".join(PRESETS)) from None


def parse_knobs(texts: Iterable[str]) -> dict[str, int | bool]:
    """Knobs as command lines write them, ``no_freeze`` or ``max_level=2``; UsageError for one that is none."""
    kinds = {f.name: f.type for f in dataclasses.fields(Design) if f.name not in ("name", "ungated")}
    words = {"": 1, "true": 1, "false": 0}
    out: dict[str, int | bool] = {}
    for text in texts:
        knob, _, value = text.partition("=")
        if knob not in kinds:
            raise UsageError(f"unknown design knob {knob!r}", "no such field of Design", "one of " + ", ".join(kinds))
        try:
            number = words[value] if value in words and kinds[knob] == "bool" else int(value)
            if kinds[knob] == "bool" and number not in (0, 1):
                raise ValueError
        except ValueError:
            raise UsageError(f"design knob {text!r}", f"{knob} is {'on or off' if kinds[knob] == 'bool' else 'a number'}",
                             f"{knob}=1" if kinds[knob] == "int" else f"{knob}, or {knob}=0") from None
        out[knob] = bool(number) if kinds[knob] == "bool" else number
    return out


def with_knobs(design: str | Design, knobs: Mapping[str, int | bool]) -> Design:
    """A preset (or a Design) with knobs replaced, named after both: ``v7.3+no_freeze``."""
    design = get_design(design)
    if not knobs:
        return design
    words = [knob if value is True else f"{knob}={int(value)}" for knob, value in knobs.items()]
    return design.replace(name="+".join([design.name, *words]), **knobs)


def presets_with(knobs: Mapping[str, int | bool]) -> list[Design]:
    """The presets with knobs replaced, without those that the knobs do not go with."""
    out = []
    for name in PRESETS:
        try:
            out.append(with_knobs(name, knobs))
        except UsageError:
            continue
    return out
