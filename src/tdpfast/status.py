"""Names for what the TDX module answers: status codes, operands, S-EPT entry and page states."""
from __future__ import annotations

from typing import NamedTuple

from tdpfast._arguments import check_u64
from tdpfast._face.seam_tables import OPERAND_IDS, STATUSES

__all__ = ["OPERANDS", "PAGE_TYPES", "SEPT_STATES", "STATUS", "Status", "decode_entry", "decode_status",
           "describe_entry", "describe_status", "sept_state", "status_name"]

MODULE_HALT = 0xFFFF_FFFF_FFFF_FF01
"""Not a status: the module found a state it holds impossible and stopped the platform."""
ENTERED_TD = 0xFFFF_FFFF_FFFF_FF02
"""Not a status: VP.ENTER has not come back, the guest runs."""
GUEST_DONE, GUEST_TDEXIT, GUEST_VE, GUEST_REEXECUTE, GUEST_NOT_INSIDE, GUEST_DF = range(6)

STATUS = {value >> 32: name for name, (value, _) in STATUSES.items()}
"""Bits 63:32 of a status -> its name: all of module 1.5's, whether a leaf that tdpfast has answers with it or not."""

OPERANDS = {number: name for name, number in OPERAND_IDS.items()}
"""Operand id in bits 31:0 -> register or lock."""

PAGE_TYPES = {0: "NDA", 1: "RSVD", 3: "REG", 4: "TDR", 5: "TDCX", 6: "TDVPR", 8: "EPT", 15: "PAMT"}

# Seven state bits (D, TDEX, TDBW, TDB, TDP, IPAT, PS) -> state, number shown to the VMM
SEPT_STATES = {
    14: ("FREE", 0), 12: ("REMOVED", 5), 0: ("NL_MAPPED", 132), 8: ("NL_BLOCKED", 129), 96: ("MAPPED", 4),
    104: ("BLOCKED", 1), 100: ("BLOCKEDW", 8), 102: ("EXPORTED_BLOCKEDW", 9), 99: ("EXPORTED_DIRTY", 11),
    103: ("EXPORTED_DIRTY_BLOCKEDW", 12), 112: ("PENDING", 2), 120: ("PENDING_BLOCKED", 3),
    116: ("PENDING_BLOCKEDW", 16), 118: ("PENDING_EXPORTED_BLOCKEDW", 17), 115: ("PENDING_EXPORTED_DIRTY", 19),
    119: ("PENDING_EXPORTED_DIRTY_BLOCKEDW", 20),
}


class Status(NamedTuple):
    """A decoded status: name, what it is about ("" if nothing), and the flags of bits 63:60."""

    name: str
    operand: str
    error: bool
    non_recoverable: bool
    fatal: bool


def decode_status(value: int) -> Status:
    """Split a 64-bit status.

    >>> decode_status(0x8000020000000092)[:2]
    ('TDX_OPERAND_BUSY', 'SEPT_TREE')
    """
    value = check_u64("status", value)
    name = STATUS.get(value >> 32, f"{value >> 32:#010x}")
    return Status(name, _details(name, value & 0xFFFF_FFFF), bool(value >> 63 & 1), bool(value >> 62 & 1),
                  bool(value >> 61 & 1))


def _details(name: str, low: int) -> str:
    kind = STATUSES[name][1] if name in STATUSES else "plain"
    if kind == "level":
        return f"level={low}"
    if kind == "vm_level":
        return f"vm={low >> 16},level={low & 0xFFFF}"
    if low == 0:
        return ""
    return OPERANDS.get(low, f"{low:#x}") if kind == "operand" else f"{low:#x}"


def status_name(value: int) -> str:
    """A status as the recordings write it: ``NAME`` or ``NAME:DETAIL``."""
    value = check_u64("status", value)
    if value == ENTERED_TD:
        return "ENTERED_TD"
    if value == MODULE_HALT:
        return "MODULE_HALT"
    status = decode_status(value)
    return f"{status.name}:{status.operand}" if status.operand else status.name


def sept_encoding(entry: int) -> int:
    """The seven state bits of an S-EPT entry."""
    entry = check_u64("entry", entry)
    return entry >> 9 & 1 | entry >> 52 & 0x1E | entry >> 1 & 0x60


def sept_state(entry: int) -> str:
    """Name of an S-EPT entry's state."""
    return SEPT_STATES.get(sept_encoding(entry), ("INVALID", 0))[0]


def decode_entry(entry: int) -> dict:
    """An S-EPT entry in its fields."""
    entry = check_u64("entry", entry)
    return {
        "state": sept_state(entry), "hpa": entry & 0x000F_FFFF_FFFF_F000, "rwx": entry & 7, "leaf": bool(entry & 0x80),
        "locked": bool(entry & 0x800), "host_priority": bool(entry >> 52 & 1), "aliases": entry >> 58 & 7,
    }


STATUS_CLASSES = ("general", "operand", "resource busy", "page metadata", "dependent resource", "TDX module",
                  "TD state", "VCPU state", "key management", "platform", "TDMR", "guest memory")
"""Bits 47:40 of a status -> what its class is about."""


def describe_status(value: int) -> dict:
    """Every field of a 64-bit status: what SEAMCALL and TDCALL leave in RAX.

    Numbers are hexadecimal text. "operand" is there only where the name gives bits 31:0 a meaning.
    """
    value = check_u64("status", value)
    if value in (ENTERED_TD, MODULE_HALT):
        return {"status": hex(value), "name": status_name(value), "status_of": "the emulator, not the module"}
    status = decode_status(value)
    details = value & 0xFFFF_FFFF
    fields = {"status": hex(value), "name": status.name, "code": f"{value >> 32:#010x}", "details": f"{details:#010x}"}
    if status.operand:
        fields["operand"] = status.operand
    return fields | {
        "class": value >> 40 & 0xFF, "class_name": _class_name(value >> 40 & 0xFF), "number": value >> 32 & 0xFF,
        "error": status.error, "non_recoverable": status.non_recoverable, "fatal": status.fatal,
        "host_recoverability_hint": bool(value >> 60 & 1), "reserved": hex(value >> 48 & 0xFFF),
        "known": value >> 32 in STATUS,
    }


def _class_name(number: int) -> str:
    return STATUS_CLASSES[number] if number < len(STATUS_CLASSES) else "-"


_ENTRY_BITS = {"read": 0, "write": 1, "exec": 2, "ipat": 6, "leaf": 7, "dirty": 9, "tdel": 11, "tdhp": 52, "tdex": 53,
               "tdbw": 54, "tdb": 55, "tdp": 56, "suppress_ve": 63}
_ENTRY_FIELDS = 7 << 3 | 0x000F_FFFF_FFFF_F000 | 7 << 58


def describe_entry(entry: int) -> dict:
    """Every field of an S-EPT entry as the module keeps it in memory. Numbers that are addresses or masks are
    hexadecimal text; "other" holds the bits that belong to no field.

    The module's names of bits: tdel locks the entry, tdhp keeps it for the host; tdex (exported), tdbw (blocked for
    writing), tdb (blocked) and tdp (pending) mean so in a leaf and only number the state elsewhere.
    """
    entry = check_u64("entry", entry)
    fields: dict = {"entry": hex(entry), "state": sept_state(entry), "state_bits": f"{sept_encoding(entry):#04x}",
                    "vmm_state": SEPT_STATES.get(sept_encoding(entry), ("", 0))[1]}
    hpa = entry & 0x000F_FFFF_FFFF_F000
    if hpa:
        fields["hpa"] = hex(hpa)
    fields |= {name: bool(entry >> bit & 1) for name, bit in _ENTRY_BITS.items()}
    fields["memtype"] = entry >> 3 & 7
    fields["l2_aliases"] = entry >> 58 & 7
    known = _ENTRY_FIELDS | sum(1 << bit for bit in _ENTRY_BITS.values())
    fields["other"] = hex(entry & ~known)
    return fields


def l2_sept_number(entry: int) -> int:
    """The state number of an L2 S-EPT entry, as the module decodes it from TDB, IPAT, PS and R; 0 for no state."""
    encoding = entry >> 55 & 1 | entry >> 5 & 6 | (entry & 1) << 3
    return {0: 64, 8: 196, 1: 193, 6: 68, 7: 65}.get(encoding, 0)
