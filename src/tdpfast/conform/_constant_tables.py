"""Recorded constants of the module against tdpfast's tables, native and public."""
from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tdpfast import status as st
from tdpfast._face import seam_tables as native
from tdpfast.conform._quirk_scene import as_number
from tdpfast.conform.result import Result, compare
from tdpfast.seam import LEAVES, OTHER_LEAVES, TDCALLS

Cases = Iterator[tuple[str, Result]]
STATE_ENTRIES = {name: (encoding & 1) << 9 | (encoding & 0x1E) << 52 | (encoding & 0x60) << 1
                 for encoding, (name, _) in st.SEPT_STATES.items()}
"""State -> its bits in an S-EPT entry."""
EMULATED_TDCALLS = tuple(name for name, number in TDCALLS.items() if native.tdcall_row(number))


def left_out(why: str) -> Result:
    """A constant of something that tdpfast does not have."""
    return Result("left out", why)


NOT_EMULATED = "a leaf that tdpfast does not emulate"


def found(pattern: str, text: str) -> re.Match[str]:
    """What a recorded text holds; ValueError where it does not."""
    match = re.search(pattern, text)
    if not match:
        raise ValueError(f"{text[:60]!r} is not of the form {pattern!r}")
    return match


def field(text: str) -> tuple[int, int]:
    """(highest, lowest) bit of a field written as "15:8 (...)" or "7 (...)"."""
    match = re.match(r"(\d+)(?::(\d+))?(?!\d)", text)
    if not match or int(match[1]) > 127:
        raise ValueError(f"{text!r} does not begin with bits")
    return int(match[1]), int(match[2] or match[1])


def mask(text: str) -> int:
    """The bits of such a field."""
    high, low = field(text)
    return (2 << high) - (1 << low)


def leaf_name(text: str) -> str:
    """A leaf as tdpfast calls it: TDH_MEM_SEPT_ADD_LEAF is mem_sept_add."""
    return text.removesuffix("_LEAF")[4:].lower()


def _short(text: str) -> str:
    return text.removesuffix("_LEAF")


# ---- numbers

def status_codes(section: dict) -> Cases:
    """The public table of names, and the number the native code answers with."""
    for name, text in section.items():
        value = as_number(text)
        if name in native.STATUSES:
            number = native.STATUSES[name][0] >> 32
            yield name, compare((name, hex(value >> 32)), (st.STATUS.get(value >> 32), hex(number)))
        else:
            yield name, compare(name, st.STATUS.get(value >> 32))


_STATUS_FIELDS = {"ERROR": "error", "NON_RECOVERABLE": "non_recoverable", "FATAL": "fatal",
                  "HOST_RECOVERABILITY_HINT": "host_recoverability_hint", "CLASS": "class", "NAME": "number",
                  "DETAILS_L2": "details"}


def status_layout(section: dict) -> Cases:
    """Which field of describe_status() a range of bits is."""
    for where, what in section.items():
        bits = mask(where.split()[1])
        key = _STATUS_FIELDS.get(what.split()[0])
        if key is None:
            yield where, Result("skipped", f"unknown field {what!r} of a status")
            continue
        value = st.describe_status(bits)[key]
        low = field(where.split()[1])[1]
        got = int(value, 16) if isinstance(value, str) else int(value)
        others = {k for k, v in st.describe_status(bits).items()
                  if k in _STATUS_FIELDS.values() and v not in (0, False, "0x00000000")}
        yield where, compare((bits >> low, {key}), (got, others))


def operand_ids(section: dict) -> Cases:
    for name, number in section.items():
        short = name.removeprefix("OPERAND_ID_")
        got = {st.OPERANDS.get(number),
               short if native.OPERAND_IDS.get(short, number) == number else native.OPERAND_IDS[short]}
        yield name, compare({short}, got)


def seamcall_leaves(section: dict) -> Cases:
    for name, number in section.items():
        got = (LEAVES | OTHER_LEAVES).get(leaf_name(name))
        yield name, compare((number, number), (got, native.LEAF_NUMBERS.get(_short(name), got)))


def tdcall_leaves(section: dict) -> Cases:
    for name, number in section.items():
        yield name, compare(number, TDCALLS.get(leaf_name(name)))


def page_types(section: dict) -> Cases:
    for name, number in section.items():
        short = name.removeprefix("PT_")
        yield name, compare((number, short), (native.PAGE_TYPES.get(short), st.PAGE_TYPES.get(number)))


def lifecycle(section: dict) -> Cases:
    for name, number in section.items():
        yield name, compare(number, native.LIFECYCLE.get(name))


def op_states(section: dict) -> Cases:
    """Number and sets of an OP_STATE; that a TD is initialised shows in which calls it allows (op_state_allowed)."""
    for name, facts in section.items():
        number = native.OP_STATES.get(name)
        sets = {}
        if number is not None:
            sets = {key: bool(bits >> number & 1) for key, bits in native.OP_STATE_SETS.items()}
        got = {"value": number} | sets
        yield name, compare({key: facts.get(key, got[key]) for key in got}, got)
        for key in facts.keys() - got.keys():
            yield f"{name}.{key}", left_out(f"{key}: nothing in tdpfast asks for it")


# ---- S-EPT entries

def sept_states(section: dict) -> Cases:
    order = [name for name, _ in st.SEPT_STATES.values()]
    for name, facts in section.items():
        if name not in STATE_ENTRIES:
            yield name, Result("failed", "recorded as a state of an entry, and tdpfast has none of that name")
            continue
        got = _state(name) | {"index": order.index(name)}
        want = {key: _emulated(value) if key.endswith("calls_allowed") else value for key, value in facts.items()
                if key in got}
        yield name, compare(want, {key: got[key] for key in want})
        for key in facts.keys() - got.keys():
            yield f"{name}.{key}", Result("skipped", f"unknown fact {key!r} of a state")


def facts_of(state: str) -> dict[str, Any]:
    """The row of a state in the native table."""
    facts = native.sept_facts(STATE_ENTRIES[state])
    if facts is None:
        raise ValueError(f"{state} is no state of an entry")
    return facts


def _state(name: str) -> dict:
    """A state's facts under the recording's names, from the native table."""
    entry = STATE_ENTRIES[name]
    table = facts_of(name)
    in_use = (table["guest_accessible_leaf"] or table["any_pending_and_guest_acceptable"]) and not table["any_blockedw"]
    got = {key: value for key, value in table.items() if key not in ("encoding", "public", "leaves")}
    return got | {
        "internal_encoding_7bit": table["encoding"], "entry_state_mask": f"0x{entry:016x}",
        "public_state_in_rdx": table["public"] if st.describe_entry(entry)["vmm_state"] == table["public"] else None,
        "mapped_or_pending": in_use and not table["any_exported"],
        "guest_fully_accessible_leaf": table["guest_accessible_leaf"] and not table["any_blockedw"],
        "seamcalls_allowed": {leaf for leaf in table["leaves"] if leaf.startswith("TDH")},
        "tdcalls_allowed": {leaf for leaf in table["leaves"] if leaf.startswith("TDG")},
    }


def _emulated(leaves: list) -> set[str]:
    """Of a recorded list the leaves that look at the state and that tdpfast has."""
    return {_short(leaf) for leaf in leaves if leaf_name(leaf) in LEAVES or leaf_name(leaf) in EMULATED_TDCALLS}


def sept_state_allowed(section: dict) -> Cases:
    """Which states a leaf takes, out of the native table."""
    for leaf, states in section.items():
        name = leaf_name(leaf)
        if name not in LEAVES and name not in EMULATED_TDCALLS:
            yield leaf, left_out(NOT_EMULATED)
            continue
        got = {state for state in STATE_ENTRIES if _short(leaf) in facts_of(state)["leaves"]}
        yield leaf, compare(sorted(states), sorted(got))


def encoding_bits(section: dict) -> Cases:
    """Bit by bit: an entry with only that bit has only that one in its encoding."""
    for where, text in section.items():
        if where == "mask":
            yield where, compare(as_number(text), native.ENTRY_BITS["STATE"])
            continue
        entry, encoding = (field(found(r"bits? (\d+(?::\d+)?)", part)[1]) for part in (text, where))
        got = [st.sept_encoding(1 << bit) for bit in range(entry[1], entry[0] + 1)]
        yield where, compare([1 << bit for bit in range(encoding[1], encoding[0] + 1)], got)


_ENTRY_NAMES = {"PS/leaf": "PS", "TDEL": "TDEL", "TDAL": "TDAL"}
_RWX = {"R": 1, "W": 2, "X/Xs": 4}


def entry_bits(section: dict) -> Cases:
    for name, text in section.items():
        short = name.split(" (")[0]
        short = _ENTRY_NAMES.get(short, short)
        if short in _RWX:
            yield name, compare(mask(text), native.ENTRY_BITS["RWX"] & _RWX[short])
        elif short == "MT":
            yield name, compare(6 << field(text)[1], native.ENTRY_BITS["MT_WB"])
        elif short in native.ENTRY_BITS:
            yield name, compare(mask(text), native.ENTRY_BITS[short])
        else:
            yield name, left_out("a bit of an S-EPT entry that nothing in tdpfast reads or writes")


def l2_states(section: dict) -> Cases:
    """Encoding and number of an L2 entry's states."""
    at = {int(bit): int(entry) for bit, entry in re.findall(r"bit(\d)=[^(,]*\((\d+)\)", section["enc_bits"])}
    for name, facts in section.items():
        if name == "enc_bits":
            continue
        entry = sum(1 << at[bit] for bit in range(4) if facts["enc"] >> bit & 1)
        yield name, compare(facts["public"], st.l2_sept_number(entry))


TABLES = {
    "status_codes": status_codes, "status_layout": status_layout, "operand_ids": operand_ids,
    "seamcall_leaf_numbers": seamcall_leaves, "tdcall_leaf_numbers": tdcall_leaves, "sept_states": sept_states,
    "sept_state_encoding_bits": encoding_bits, "sept_entry_bits": entry_bits, "l2_sept_states": l2_states,
    "pamt_page_types": page_types, "td_lifecycle": lifecycle, "op_states": op_states,
    "sept_state_allowed": sept_state_allowed, "sept_state_allowed_tdcall": sept_state_allowed,
}
"""Section -> what compares it with a table."""
