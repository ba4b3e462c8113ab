"""Designs: how a kernel propagates mirror SPTE changes to the external page table, as data.

A Design is a frozen set of knobs; the native core reads the same knobs from a C struct. The presets follow the
kernels and postings named in their docstring text; a design of your own is a preset with knobs replaced:

    >>> mine = PRESETS["v7.3"].replace(name="mine", refresh_old_spte=False)
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tdpfast._arguments import INTEGERS, check_bool, one_of, shown
from tdpfast._face.td import tdx_knobs
from tdpfast._face.vm import mmu_knobs
from tdpfast._names import Dispatch, Gate, Reclaim, SplitShared
from tdpfast.errors import UsageError

if TYPE_CHECKING:
    from tdpfast.designfile import Code

GATE_HELPER, GATE_ELIF_PRESENT, GATE_ELIF_MIRROR, GATE_IF_MIRROR, GATE_TWICE = map(int, Gate.__members__.values())
RECLAIM_OP_RCU, RECLAIM_OP_NOW, RECLAIM_IN_SET = map(int, Reclaim.__members__.values())
DISPATCH_V618, DISPATCH_PATCH07, DISPATCH_V73, DISPATCH_SINGLE, DISPATCH_HUGEPAGE = map(
    int, Dispatch.__members__.values())
SPLIT_ASSERT, SPLIT_REFUSE, SPLIT_IGNORE, SPLIT_UNBLOCK, SPLIT_NONBLOCKING = map(int, SplitShared.__members__.values())

KNOB_NAMES = {"gate": Gate, "reclaim": Reclaim, "dispatch": Dispatch, "split_shared": SplitShared}
"""Knobs whose numbers have names."""
_LATER = frozenset({"split_shared", "split_op", "bug_old_present", "premap", "demote_retry", "enhanced_demote",
                    "inhibit_first", "split_direct_root", "prefault_first", "access_allowed", "inplace", "no_seq",
                    "seq_after_lookup", "no_inval_range", "end_before_free", "attr_narrow", "l2_dirty_bits",
                    "nx_wrong_space", "nx_keep_listed", "nx_outside_rcu",
                    "iter_advance", "yielded_ignored", "no_progress_test", "yield_in_rcu", "plain_store",
                    "no_stale_check", "fixed_on_error", "table_leaked", "nx_no_recheck", "notifier_valid_only",
                    "filter_ignored", "no_split_first", "flush_lost_at_yield", "flush_lost_in_nx",
                    "flush_wrong_range", "split_keeps_root", "wrprot_skips_ro", "track_ignored", "fast_pf_unlogged",
                    "no_rcu_barrier", "keep_sept_wait"})
_RELEASE = frozenset({"nx_write_lock", "slot_blind", "vp_init_unlocked"})
_CALLED = {"v6.19": "v6.18"}
_CHOICES = {"layout": (618, 703), "gate": range(len(Gate.__members__)), "reclaim": range(len(Reclaim.__members__)),
            "dispatch": range(len(Dispatch.__members__)), "max_level": range(1, 4),
            "split_shared": range(len(SplitShared.__members__))}


@dataclass(frozen=True, kw_only=True)
class Design:
    """One design of the hooks between mirror and external page table.

    layout: SPTE layout, 618 or 703. gate: when __handle_changed_spte() propagates a change (GATE_*). reclaim: how
    a table's external page is taken back (RECLAIM_*). dispatch: KVM's TDX side (DISPATCH_*). max_level: largest
    mirror mapping level while gated. dynamic_pamt: PAMT memory for 4K pages comes and goes per 2M range, counted by
    KVM; for designs of 4K pages only. The other knobs are named after the step where kernels differ; those from
    no_freeze on are wrong on purpose and exist to test the checker.

    Of the huge-page designs: split_op: a split has a hook of its own, split_external_spt(), which the exclusive path
    ignores the result of. split_shared: the TDX side's answer to a split under the read lock (SPLIT_*).
    demote_retry: an interrupted TDH.MEM.PAGE.DEMOTE is called again without bound. enhanced_demote: 2M pages only on
    a module with ENHANCED_DEMOTE_INTERRUPTIBILITY. promo_block: faults do not replace mirror tables by leaves.

    premap: the TDX side of 6.16 to 6.18: a leaf mapped before finalisation is only counted and added later, pages are
    pinned while they are mapped, removal reports its result, and a failed MR.EXTEND is an error and no bug.
    nx_write_lock: NX huge page recovery holds mmu_lock for write (6.16). slot_blind: the local retries of a fault do
    not look whether the slot is going away (6.16). vp_init_unlocked: VP.INIT runs without mmu_lock (up to 6.18).
    inplace: guest_memfd itself knows what is private and converts it in place, and a fault looks its page up under the
    file's lock. no_seq to attr_narrow: what goes wrong when a fault does not compare mmu_invalidate_seq, samples it too
    late, an invalidation names no gfns or ends before its pages are freed, or a conversion names too few.
    access_allowed: a fault is spurious when is_access_allowed() says so (up to 7.2), whatever the layout.
    bug_old_present: __tdp_mmu_set_spte_atomic() refuses a mirror SPTE that is present already.

    code: what a design file put in place of functions of this design; see from_file().
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
    split_shared: int = SPLIT_ASSERT
    split_op: bool = False
    bug_old_present: bool = False
    premap: bool = False
    demote_retry: bool = False
    enhanced_demote: bool = False
    no_freeze: bool = False
    no_rollback: bool = False
    no_grace_period: bool = False
    no_track: bool = False
    no_block: bool = False
    no_hook_on_zap: bool = False
    stats_on_failure: bool = False
    pamt_no_put: bool = False
    pamt_dec_outside: bool = False
    nx_write_lock: bool = False
    access_allowed: bool = False
    slot_blind: bool = False
    vp_init_unlocked: bool = False
    inplace: bool = False
    no_seq: bool = False
    seq_after_lookup: bool = False
    no_inval_range: bool = False
    end_before_free: bool = False
    attr_narrow: bool = False
    l2_dirty_bits: bool = False
    nx_wrong_space: bool = False
    nx_keep_listed: bool = False
    nx_outside_rcu: bool = False
    inhibit_first: bool = False
    split_direct_root: bool = False
    prefault_first: bool = False
    iter_advance: bool = False
    yielded_ignored: bool = False
    no_progress_test: bool = False
    yield_in_rcu: bool = False
    plain_store: bool = False
    no_stale_check: bool = False
    fixed_on_error: bool = False
    table_leaked: bool = False
    nx_no_recheck: bool = False
    notifier_valid_only: bool = False
    filter_ignored: bool = False
    no_split_first: bool = False
    flush_lost_at_yield: bool = False
    flush_lost_in_nx: bool = False
    flush_wrong_range: bool = False
    split_keeps_root: bool = False
    wrprot_skips_ro: bool = False
    track_ignored: bool = False
    fast_pf_unlogged: bool = False
    no_rcu_barrier: bool = False
    keep_sept_wait: bool = False
    code: Code | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise UsageError(f"design name {shown(self.name)}", "not a text", 'name = "mine"')
        for knob in dataclasses.fields(self):
            value = getattr(self, knob.name)
            if knob.type == "bool":
                object.__setattr__(self, knob.name, check_bool(f"knob {knob.name}", value))
            elif knob.type == "int":
                choices = _CHOICES[knob.name]
                if isinstance(value, bool) or not isinstance(value, INTEGERS) or value not in choices:
                    raise UsageError(f"design knob {knob.name} {shown(value)}", "not one of its values",
                                     one_of(map(str, choices)) + ", see tdpfast.design")
                object.__setattr__(self, knob.name, int(value))
        if self.dynamic_pamt and (self.max_level != 1 or self.ungated):
            raise UsageError("design dynamic_pamt", "2M pages with dynamic PAMT are not modelled",
                             "max_level=1 and ungated=False")
        for bad, what, why, fix in self._contradictions():
            if bad:
                raise UsageError(f"design {what}", why, fix)

    def _contradictions(self) -> tuple[tuple[bool, str, str, str], ...]:
        """Knobs that mean nothing together: (whether it is so, knobs, why, what to do)."""
        op_hooks = self.gate == GATE_HELPER and self.remove_op_after
        huge = self.max_level > 1 or self.ungated
        return (
            ((self.dispatch == DISPATCH_V618) != (self.gate == GATE_HELPER), "dispatch and gate",
             "the link/set/remove/free hooks and set_external_spte_present() come together",
             "dispatch=DISPATCH_V618 with gate=GATE_HELPER, or neither"),
            ((self.dispatch == DISPATCH_SINGLE) != (self.reclaim == RECLAIM_IN_SET), "dispatch and reclaim",
             "only the single hook takes tables back from within it",
             "dispatch=DISPATCH_SINGLE with reclaim=RECLAIM_IN_SET, or neither"),
            (self.split_op and not op_hooks, "split_op", "split_external_spt() belongs to the designs with one hook per"
             " kind of change", "a base such as v6.19"),
            (self.premap and not op_hooks, "premap",
             "the TDX side of 6.16 to 6.18 is called by hooks that later designs do not have", "a base such as v6.18"),
            (self.gate == GATE_TWICE and self.dispatch == DISPATCH_PATCH07, "gate and dispatch",
             "patch07's TDX side removes nothing in its set hook", "DISPATCH_V73 or DISPATCH_HUGEPAGE"),
            (self.bug_old_present and self.gate not in (GATE_HELPER, GATE_TWICE), "bug_old_present",
             "the step is only there where __tdp_mmu_set_spte_atomic() updates the external table",
             "gate=GATE_HELPER or GATE_TWICE"),
            (self.split_shared != SPLIT_ASSERT and not (self.split_op or self.dispatch in (
                DISPATCH_SINGLE, DISPATCH_HUGEPAGE)), "split_shared", "no split reaches this TDX side",
             "split_op, or dispatch=DISPATCH_HUGEPAGE"),
            (self.split_shared != SPLIT_ASSERT and not huge, "split_shared", "there is nothing to split with 4K pages",
             "max_level=2"),
            (self.premap and self.dynamic_pamt, "premap", "the TDX side of 6.16 to 6.18 has no dynamic PAMT",
             "one of the two"),
        )

    def canonical(self) -> str:
        """What decides how the design behaves, as one line: what tokens are tied to. Knobs that came after the first
        tokens are left out while they do nothing, or are a fact of the release that the name begins with; a preset that
        was called otherwise goes by that name."""
        head, plus, rest = self.name.partition("+")
        release = PRESETS.get(head)
        fields = [("name", _CALLED.get(head, head) + plus + rest)]
        for f in dataclasses.fields(self)[1:]:
            value = getattr(self, f.name)
            usual = getattr(release, f.name) if release is not None and f.name in _RELEASE else f.default
            if f.name != "code" and (f.name not in _LATER | _RELEASE or value != usual):
                fields.append((f.name, value))
        code = f", code={self.code.text}" if self.code else ""
        return "Design(" + ", ".join(f"{name}={value!r}" for name, value in fields) + code + ")"

    @staticmethod
    def from_file(path: str | os.PathLike[str], name: str | None = None) -> Design:
        """The design that a C file describes, compiled with the machine's compiler: see tdpfast.designfile."""
        from tdpfast.designfile import from_file

        return from_file(path, name)

    def replace(self, **knobs: object) -> Design:
        """A copy with knobs replaced; UsageError names an unknown knob."""
        names = {f.name for f in dataclasses.fields(self)}
        for knob in knobs:
            if knob not in names:
                raise UsageError(f"unknown design knob {knob!r}", "no such field of Design",
                                 "use one of " + ", ".join(sorted(names)))
        return dataclasses.replace(self, **knobs)  # type: ignore[arg-type]


def _knobs_agree() -> None:
    """ImportError unless the core's structs and Design have the same knobs: one that either lacks would be a 0 that
    nobody wrote."""
    python = {f.name for f in dataclasses.fields(Design)} - {"name", "code"}
    native = (*mmu_knobs(), *tdx_knobs())
    odd = python.symmetric_difference(native) | {knob for knob in native if native.count(knob) > 1}
    if odd:
        raise ImportError(f"knobs that Design and the core's structs do not share: {', '.join(sorted(odd))}")


_knobs_agree()

# Releases: 6.16 is the first with an S-EPT, 6.18 differs in the MMU alone, 6.19 has another TDX side, 7.2 another MMU.
_V619 = Design(
    name="v6.19", layout=618, gate=GATE_HELPER, reclaim=RECLAIM_OP_RCU, dispatch=DISPATCH_V618,
    refresh_old_spte=False, remove_op_after=True, trace_before=True, trace_np_np=False, bug_atomic_zap=True,
    bug_shared_child=True, bug_new_present=True, age_mirror=True, age_cmpxchg=False,
)
_V618 = _V619.replace(name="v6.18", premap=True, vp_init_unlocked=True)
_V616 = _V618.replace(name="v6.16", nx_write_lock=True, slot_blind=True)
_PATCH07 = Design(
    name="patch07", gate=GATE_ELIF_PRESENT, reclaim=RECLAIM_OP_RCU, dispatch=DISPATCH_PATCH07,
    remove_op_after=True, bug_shared_child=True, bug_new_present=True,
)
_V73 = Design(name="v7.3")
_SINGLE = Design(
    name="single-hook", gate=GATE_IF_MIRROR, reclaim=RECLAIM_IN_SET, dispatch=DISPATCH_SINGLE, max_level=2,
    assert_rcu=True, bug_mirror_split=False, split_external=True,
)

# The huge-page postings: V5a (RFC v1) on 6.16's TDX side, V5b (RFC v2, v3) on 6.19's, both with a hook for splits; V5c
# (RFC v5) and V5d (what was agreed afterwards) on the merged core.
_HUGE = {"max_level": 2, "promo_block": True, "bug_mirror_split": False, "split_external": True}
_V5A = _V616.replace(name="hugepage-v5a", split_op=True, split_shared=SPLIT_IGNORE, demote_retry=True, **_HUGE)
_V5B = _V619.replace(name="hugepage-v5b", split_op=True, split_shared=SPLIT_REFUSE, enhanced_demote=True, **_HUGE)
_V5C = _V73.replace(name="hugepage", dispatch=DISPATCH_HUGEPAGE, enhanced_demote=True, **_HUGE)
_V5D = _V5C.replace(name="hugepage-v5d", split_shared=SPLIT_NONBLOCKING)
_RFCV5 = Design(name="rfcv5", gate=GATE_TWICE, bug_atomic_zap=True, bug_old_present=True, trace_before=True)

PRESETS: dict[str, Design] = {
    d.name: d
    for d in (
        _V616,
        _V618,
        _V619,
        _PATCH07,
        _V73.replace(name="patch15"),
        _SINGLE,
        _SINGLE.replace(name="single-hook-4k", max_level=1, bug_mirror_split=True, split_external=False),
        _V73.replace(name="v7.2", access_allowed=True),
        _V73,
        _V73.replace(name="inplace", inplace=True),
        _V5C,
        _V5A,
        _V5B,
        _V5C.replace(name="hugepage-v5c"),
        _V5D,
        # What V5d would be on today's module: the reason why it asks for another one.
        _V5C.replace(name="hugepage-unblock", split_shared=SPLIT_UNBLOCK),
        # Two steps on the way to the merged design that people remember for what they got wrong.
        _RFCV5,
        _RFCV5.replace(name="rfcv5-split", dispatch=DISPATCH_HUGEPAGE, bug_old_present=False, enhanced_demote=True,
                       **_HUGE),
        _V73.replace(name="rfcv5-s", trace_before=True),
    )
}


_KNOBS = [f.name for f in dataclasses.fields(Design) if f.name != "code"]
WRONG_KNOBS: tuple[str, ...] = tuple(knob for knob in _KNOBS[_KNOBS.index("no_freeze"):]
                                     if knob not in {*_RELEASE, "access_allowed", "inplace"})
"""The knobs that are wrong on purpose when set: what each takes away is a guard of the designs."""


def get_design(design: str | Design) -> Design:
    """A Design by preset name, with knobs behind it if any (``v7.3+no_seq``), or design file (mine.c), or itself;
    UsageError lists the presets."""
    if isinstance(design, Design):
        return design
    if isinstance(design, str) and design.endswith(".c"):
        return Design.from_file(design)
    if isinstance(design, str) and "+" in design:
        base, *knobs = design.split("+")
        return with_knobs(base, parse_knobs(knobs))
    try:
        return PRESETS[design]
    except (KeyError, TypeError):
        raise UsageError(f"unknown design {shown(design)}", "not a preset",
                         "use one of " + ", ".join(PRESETS)) from None


def parse_knobs(texts: Iterable[str]) -> dict[str, int | bool]:
    """Knobs as command lines write them, ``no_freeze`` or ``max_level=2``; UsageError for one that is none."""
    kinds = {f.name: f.type for f in dataclasses.fields(Design) if f.name not in ("name", "ungated", "code")}
    words = {"": 1, "true": 1, "false": 0}
    out: dict[str, int | bool] = {}
    for text in texts:
        knob, _, value = text.partition("=") if isinstance(text, str) else (text, "", "")
        if knob not in kinds:
            raise UsageError(f"unknown design knob {shown(knob)}", "no such field of Design", one_of(kinds))
        named = KNOB_NAMES[knob].__members__ if knob in KNOB_NAMES else {}
        if named and value not in named and not value.isdecimal():
            raise UsageError(f"design knob {text!r}", f"{knob} is none of its values", one_of(named))
        try:
            number = words[value] if value in words and kinds[knob] == "bool" else int(named.get(value, value))
            if kinds[knob] == "bool" and number not in (0, 1):
                raise ValueError
        except ValueError:
            raise UsageError(f"design knob {text!r}",
                             f"{knob} is {'on or off' if kinds[knob] == 'bool' else 'a number'}",
                             f"{knob}=1" if kinds[knob] == "int" else f"{knob}, or {knob}=0") from None
        out[knob] = bool(number) if kinds[knob] == "bool" else number
    return out


_HUGE_ONLY = "it has no 2M pages to split"
_READ: dict[str, tuple[Callable[[Design], bool], str]] = {
    "no_freeze": (lambda d: d.gate not in (GATE_HELPER, GATE_TWICE), "its helper freezes and has no other way"),
    "no_rollback": (lambda d: d.gate not in (GATE_HELPER, GATE_TWICE), "its helper writes the old value back itself"),
    "no_block": (lambda d: not d.premap, "6.16's TDX side removes a leaf in steps of its own"),
    "stats_on_failure": (lambda d: not d.trace_before, "its statistics come before the hook anyway"),
    "pamt_no_put": (lambda d: d.dynamic_pamt, "it has no dynamic PAMT"),
    "pamt_dec_outside": (lambda d: d.dynamic_pamt, "it has no dynamic PAMT"),
    "demote_retry": (lambda d: d.max_level > 1 and not d.enhanced_demote, "it meets no interrupted DEMOTE"),
    "enhanced_demote": (lambda d: d.max_level > 1, _HUGE_ONLY),
    "split_direct_root": (lambda d: d.max_level > 1, _HUGE_ONLY),
    "inhibit_first": (lambda d: d.max_level > 1 and d.split_shared != SPLIT_IGNORE,
                      "it keeps no inhibit for the guest's level"),
    "no_split_first": (lambda d: d.max_level > 1, _HUGE_ONLY),
}
"""Knobs that not every design has a step for: (whether this one does, why not). tests/unit/test_knobs_read.py confirms
it by what flipping one changes."""


def unread(design: Design, knob: str) -> str:
    """Why no step of the design reads a knob; "" if one does."""
    reads, why = _READ.get(knob, (None, ""))
    return "" if reads is None or reads(design) else why


def with_knobs(design: str | Design, knobs: Mapping[str, int | bool]) -> Design:
    """A preset (or a Design) with knobs replaced, named after both: ``v7.3+no_freeze``. UsageError for a knob that no
    step of the design would read: what it does to a result would be nothing, silently."""
    design = get_design(design)
    if not knobs:
        return design
    for knob in knobs:
        if not isinstance(knob, str) or knob == "name":
            raise UsageError(f"unknown design knob {shown(knob)}", "not a knob of Design", "the name of a knob")
    changed = design.replace(**knobs)
    for knob in knobs:
        if getattr(changed, knob) != getattr(design, knob) and (why := unread(changed, knob)):
            raise UsageError(f"knob {knob} on {design.name}: no step of this design reads it", why,
                             "one of " + ", ".join(d.name for d in PRESETS.values() if not unread(d, knob))
                             if any(not unread(d, knob) for d in PRESETS.values()) else "it with dynamic_pamt")
    values = {knob: getattr(changed, knob) for knob in knobs}
    words = [knob if value is True else f"{knob}={int(value)}" for knob, value in values.items()]
    return changed.replace(name="+".join([design.name, *words]))


def sorted_knobs(name: str) -> tuple[str, ...]:
    """A design's name so that the order of its knobs does not count."""
    base, *knobs = name.split("+")
    return (base, *sorted(knobs))


def presets_with(knobs: Mapping[str, int | bool]) -> list[Design]:
    """The presets with knobs replaced, without those that the knobs do not go with."""
    out = []
    for name in PRESETS:
        try:
            out.append(with_knobs(name, knobs))
        except UsageError:
            continue
    return out
