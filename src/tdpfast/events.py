"""Events of a run in the form the conformance files use: lists that begin with the event's name."""

from __future__ import annotations

from collections.abc import Iterable

from tdpfast._names import AssertKind, EventKind, SeamLeaf

EVENT_KINDS = tuple("LIVELOCK" if kind == "EV_LIVELOCK" else kind[3:].lower() for kind in EventKind.__members__)
"""Kinds of records, by number."""
PY_HOOK_KINDS = ("yields", "returns", "native")
"""How a step of a Python hook ends: at a yield, with an answer, or by asking for the design's own hook."""
ASSERT_KINDS = tuple(kind.removeprefix("ASSERT_") for kind in AssertKind.__members__)
LEAF_NAMES = {int(leaf): name.removeprefix("TDH_").replace("_", ".") for name, leaf in SeamLeaf.__members__.items()}
"""Leaf number -> the leaf as Intel writes it, without TDH."""
PRESENT = 1 << 11
LARGE = 1 << 7
ADDRESS = 0x000FFFFFFFFFF000


def leaf_name(leaf: int) -> str:
    """A SEAMCALL leaf as Intel writes it, such as TDH.MEM.PAGE.AUG."""
    return f"TDH.{LEAF_NAMES.get(leaf, leaf)}"


def visible(spte: int, level: int) -> str:
    """An SPTE as the files write it: the address of a table is nobody's business and zeroed."""
    if spte & PRESENT and level > 1 and not spte & LARGE:
        spte &= ~ADDRESS
    return hex(spte)


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def py_hook_text(a: tuple, label: str | None) -> str:
    """How a step of a Python hook ended, from its record: a yield with its label, its answer, or the native hook."""
    what = PY_HOOK_KINDS[a[3]]
    if what == "yields":
        return f"yields {label!r}" if label else what
    return "asks for the native hook" if what == "native" else f"returns {signed(a[2])}"


def mmu_event(record: tuple, layout: int) -> list | None:
    """One record of VmCore.events() as an event of the kvm-7.3 and kvm-6.18 files; None: they do not show it."""
    kind, _cpu, _step, a, s0, s1 = record
    name = EVENT_KINDS[kind]
    if name == "chg":
        return ["chg", a[0], a[1], a[2], visible(a[3], a[2]), visible(a[4], a[2])]
    if name == "set_ext":
        if layout == 618:
            return ["set_ext", a[0], a[1], visible(a[3], a[1]), signed(a[4])]
        return ["set_ext", a[0], a[1], visible(a[2], a[1]), visible(a[3], a[1]), signed(a[4])]
    if name == "link_ext":
        return ["link_ext", a[0], a[1], signed(a[2])] + ([] if a[3] else ["NULL"])
    if name == "remove_ext":
        return ["remove_ext", a[0], a[1], visible(a[2], a[1])]
    if name == "free_ext":
        if layout == 618:
            return ["free_ext", a[0], a[1], signed(a[3])] + ([] if a[4] else ["NULL"])
        return ["free_ext", a[0], a[1]]
    if name == "yield":
        return ["yield", "write" if a[0] else "read"]
    if name == "split":
        return ["split", a[0], a[1], visible(a[2], a[1]), signed(a[3])]
    if name == "race":
        return ["race", a[0], a[1], visible(a[2], a[1]), visible(a[3], a[1])]
    if name == "assert":
        return [ASSERT_KINDS[a[0]], s0, s1]
    if name in ("flush_all", "LIVELOCK"):
        return [name]
    if name in ("flush_range", "flush_slot"):
        return [name, a[0], a[1]]
    if name == "dirty":
        return [name, a[0]]
    return None


def mmu_events(records: Iterable[tuple], layout: int) -> list[list]:
    """All records the kvm-7.3 and kvm-6.18 files show, in order."""
    out = []
    for record in records:
        event = mmu_event(record, layout)
        if event is not None:
            out.append(event)
    return out
