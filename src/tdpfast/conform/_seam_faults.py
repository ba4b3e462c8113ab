"""Faults that the check-order recording puts into a call, one or two at a time."""
from __future__ import annotations

from tdpfast.conform._seam_rig import AUX, LEAF, TDR

_TDEL = 1 << 11


def _page(rig, given, level):
    """HPA of the page the target entry names, and its size."""
    raw, _ = rig.module.walk(TDR[0], 0, level)
    return raw & 0x000F_FFFF_FFFF_F000, level if raw & 0x80 else 0


def _locked_page(rig, leaf, given, level):
    hpa, size = _page(rig, given, level)
    rig.module.set_pamt(hpa, size, lock=1)


def _entry(change):
    def fault(rig, leaf, given, level):
        raw, _ = rig.module.walk(TDR[0], 0, level)
        rig.module.set_entry(TDR[0], 0, level, change(raw))
    return fault


def _wrong_state(rig, leaf, given, level):
    """An entry that is in use where a free one is wanted, a free one elsewhere."""
    raw, _ = rig.module.walk(TDR[0], 0, level)
    locked = raw & _TDEL
    new = 0x80E0_0000_0000_0000
    if leaf in ("sept_add", "page_add", "page_aug"):
        new = LEAF[level] | 0x8100_0000_0000_00F0
    rig.module.set_entry(TDR[0], 0, level, new | locked)


def _unblocked(rig, leaf, given, level):
    raw, _ = rig.module.walk(TDR[0], 0, level)
    rig.module.set_entry(TDR[0], 0, level, raw & ~(1 << 55) | 7)


def _untracked(rig, leaf, given, level):
    rig.module.set_td(TDR[0], td_epoch=1)


def _parent_blocked(rig, leaf, given, level):
    raw, _ = rig.module.walk(TDR[0], 0, level + 1)
    rig.module.set_entry(TDR[0], 0, level + 1, raw & ~7 | 1 << 55)


def _given(name, value):
    return lambda rig, leaf, given, level: given.update({name: value(given) if callable(value) else value})


def _td(**fields):
    return lambda rig, leaf, given, level: rig.module.set_td(TDR[0], **fields)


def _child(change):
    def fault(rig, leaf, given, level):
        gpa = 100 << 12 + 9 * (level - 1)
        raw, _ = rig.module.walk(TDR[0], gpa, level - 1)
        rig.module.set_entry(TDR[0], gpa, level - 1, change(raw))
    return fault


def _not_empty(rig, leaf, given, level):
    rig.module.set_entry(TDR[0], 0, level - 1, LEAF[0] | 0x8100_0000_0000_00F0)


def _set_page(**fields):
    return lambda rig, leaf, given, level: rig.module.set_pamt(AUX, **fields)


FAULTS = {
    # faults of the machine come first: those of operands change what the others look at
    "child entry locked": _child(lambda raw: raw | _TDEL),
    "children not promotable": _child(lambda raw: raw & ~(1 << 56) | 7),
    "page not empty": _not_empty,
    "page PAMT locked": _locked_page,
    "SEPT page PAMT locked": _locked_page,
    "large page PAMT locked": lambda rig, leaf, given, level: rig.module.set_pamt(LEAF[level], level, lock=1),
    "target == source": lambda rig, leaf, given, level: given.update(r8=_page(rig, given, level)[0]),
    "not tracked": _untracked,
    "not blocked": _unblocked,
    "entry not FREE": _wrong_state,
    "entry state FREE": _wrong_state,
    "entry FREE": _wrong_state,
    "SEPT entry locked": _entry(lambda raw: raw | _TDEL),
    "walk fails (parent blocked)": _parent_blocked,
    "HPA PAMT locked": _set_page(lock=1),
    "HPA not NDA": _set_page(pt=3, owner=TDR[1]),
    "interrupt pending": _given("intr_after", 0),
    "SEPT tree locked": _td(tree_lock=1),
    "OP_STATE locked": _td(op_lock=1),
    "OP_STATE not allowed": _td(op_state=0),
    "TDCS pages missing": _td(num_tdcx=5),
    "lifecycle not KEYS_CONFIGURED": _td(lifecycle=2),
    "TD fatal": _td(fatal=1),
    "TDR page type wrong": lambda rig, leaf, given, level: rig.module.set_pamt(TDR[0], pt=5),
    "TDR PAMT locked": lambda rig, leaf, given, level: rig.module.set_pamt(TDR[0], lock=1),
    "level out of range": _given("rcx", lambda given: given["rcx"] & ~7 | 5),
    "GPA not aligned to level": _given("rcx", lambda given: given["rcx"] | 0x1000 | (given["rcx"] & 7 == 0)),
    "GPA shared bit": _given("rcx", lambda given: given["rcx"] | 1 << 47),
    "GPA reserved bits": _given("rcx", lambda given: given["rcx"] | 0x100),
    "HPA outside TDMR": _given("r8", 0x2000_0000),
    "HPA misaligned": _given("r8", lambda given: given["r8"] | 0x800),
    "source misaligned": _given("r9", lambda given: given["r9"] | 0x800),
    "TDR HPA outside TDMR": _given("rdx", 0x2000_0000),
    "TDR HPA misaligned": _given("rdx", lambda given: given["rdx"] | 0x800),
    "version=2 (RAX)": _given("version", 2),
}
"""A fault by its recorded name: what it changes on the machine or in the operands."""

SETS = {"target == source": "r8", "HPA outside TDMR": "r8", "TDR HPA outside TDMR": "rdx"}
"""Faults that give an operand another value, so that of two on the same operand only one can be there."""
