"""Names for what the TDX module answers: status codes, operands, S-EPT entry and page states."""
from __future__ import annotations

from typing import NamedTuple

from tdpfast._arguments import check_u64

__all__ = ["OPERANDS", "PAGE_TYPES", "SEPT_STATES", "STATUS", "Status", "decode_entry", "decode_status",
           "describe_entry", "describe_status", "sept_state", "status_name"]

MODULE_HALT = 0xFFFF_FFFF_FFFF_FF01
"""Not a status: the module found a state it holds impossible and stopped the platform."""
ENTERED_TD = 0xFFFF_FFFF_FFFF_FF02
"""Not a status: VP.ENTER has not come back, the guest runs."""
GUEST_DONE, GUEST_TDEXIT, GUEST_VE, GUEST_REEXECUTE, GUEST_NOT_INSIDE = range(5)

STATUS = {
    0x00000000: "TDX_SUCCESS", 0x40000001: "TDX_NON_RECOVERABLE_VCPU", 0x60000002: "TDX_NON_RECOVERABLE_TD",
    0x80000003: "TDX_INTERRUPTED_RESUMABLE", 0x80000004: "TDX_INTERRUPTED_RESTARTABLE",
    0x60000005: "TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE", 0xC0000006: "TDX_INVALID_RESUMPTION",
    0xE0000007: "TDX_NON_RECOVERABLE_TD_WRONG_APIC_MODE", 0x80000008: "TDX_CROSS_TD_FAULT",
    0x90000009: "TDX_CROSS_TD_TRAP", 0x6000000A: "TDX_NON_RECOVERABLE_TD_CORRUPTED_MD",
    0xC0000100: "TDX_OPERAND_INVALID", 0xC0000101: "TDX_OPERAND_ADDR_RANGE_ERROR", 0x80000200: "TDX_OPERAND_BUSY",
    0x80000201: "TDX_PREVIOUS_TLB_EPOCH_BUSY", 0x80000202: "TDX_SYS_BUSY", 0x80000203: "TDX_RND_NO_ENTROPY",
    0x80000204: "TDX_OPERAND_BUSY_HOST_PRIORITY", 0x90000205: "TDX_HOST_PRIORITY_BUSY_TIMEOUT",
    0xC0000300: "TDX_PAGE_METADATA_INCORRECT", 0x00000301: "TDX_PAGE_ALREADY_FREE",
    0xC0000302: "TDX_PAGE_NOT_OWNED_BY_TD", 0xC0000303: "TDX_PAGE_NOT_FREE",
    0xC0000400: "TDX_TD_ASSOCIATED_PAGES_EXIST", 0xC0000500: "TDX_SYS_INIT_NOT_PENDING",
    0xC0000502: "TDX_SYS_LP_INIT_NOT_DONE", 0xC0000503: "TDX_SYS_LP_INIT_DONE", 0xC0000505: "TDX_SYS_NOT_READY",
    0xC0000506: "TDX_SYS_SHUTDOWN", 0xC0000507: "TDX_SYS_KEY_CONFIG_NOT_PENDING",
    0xC0000508: "TDX_SYS_STATE_INCORRECT", 0xC0000509: "TDX_SYS_INVALID_HANDOFF",
    0xC000050A: "TDX_SYS_INCOMPATIBLE_SIGSTRUCT", 0xC000050B: "TDX_SYS_LP_INIT_NOT_PENDING",
    0xC000050C: "TDX_SYS_CONFIG_NOT_PENDING", 0xC000050D: "TDX_INCOMPATIBLE_SEAM_CAPABILITIES",
    0xE0000604: "TDX_TD_FATAL", 0xC0000605: "TDX_TD_NON_DEBUG", 0xC0000606: "TDX_TDCS_NOT_ALLOCATED",
    0xC0000607: "TDX_LIFECYCLE_STATE_INCORRECT", 0xC0000608: "TDX_OP_STATE_INCORRECT", 0xC0000609: "TDX_NO_VCPUS",
    0xC0000610: "TDX_TDCX_NUM_INCORRECT", 0xC0000700: "TDX_VCPU_STATE_INCORRECT", 0x80000701: "TDX_VCPU_ASSOCIATED",
    0x80000702: "TDX_VCPU_NOT_ASSOCIATED", 0xC0000704: "TDX_NO_VALID_VE_INFO", 0xC0000705: "TDX_MAX_VCPUS_EXCEEDED",
    0xC0000706: "TDX_TSC_ROLLBACK", 0xC0000730: "TDX_TD_VMCS_FIELD_NOT_INITIALIZED",
    0xC0000731: "TD_VMCS_FIELD_ERROR", 0x80000800: "TDX_KEY_GENERATION_FAILED",
    0x80000810: "TDX_TD_KEYS_NOT_CONFIGURED", 0xC0000811: "TDX_KEY_STATE_INCORRECT",
    0x00000815: "TDX_KEY_CONFIGURED", 0x80000817: "TDX_WBCACHE_NOT_COMPLETE", 0xC0000820: "TDX_HKID_NOT_FREE",
    0x00000821: "TDX_NO_HKID_READY_TO_WBCACHE", 0xC0000823: "TDX_WBCACHE_RESUME_ERROR",
    0x80000824: "TDX_FLUSHVP_NOT_DONE", 0xC0000825: "TDX_NUM_ACTIVATED_HKIDS_NOT_SUPPORTED",
    0xC0000900: "TDX_INCORRECT_CPUID_VALUE", 0xC0000901: "TDX_LIMIT_CPUID_MAXVAL_SET",
    0xC0000902: "TDX_INCONSISTENT_CPUID_FIELD", 0xC0000903: "TDX_CPUID_MAX_SUBLEAVES_UNRECOGNIZED",
    0xC0000904: "TDX_CPUID_LEAF_1F_FORMAT_UNRECOGNIZED", 0xC0000905: "TDX_INVALID_WBINVD_SCOPE",
    0xC0000906: "TDX_INVALID_PKG_ID", 0xC0000907: "TDX_ENABLE_MONITOR_FSM_NOT_SET",
    0xC0000908: "TDX_CPUID_LEAF_NOT_SUPPORTED", 0xC0000910: "TDX_SMRR_NOT_LOCKED",
    0xC0000911: "TDX_INVALID_SMRR_CONFIGURATION", 0xC0000912: "TDX_SMRR_OVERLAPS_CMR",
    0xC0000913: "TDX_SMRR_LOCK_NOT_SUPPORTED", 0xC0000914: "TDX_SMRR_NOT_SUPPORTED",
    0xC0000920: "TDX_INCONSISTENT_MSR", 0xC0000921: "TDX_INCORRECT_MSR_VALUE",
    0xC0000930: "TDX_SEAMREPORT_NOT_AVAILABLE", 0xC0000931: "TDX_SEAMDB_GETREF_NOT_AVAILABLE",
    0xC0000932: "TDX_SEAMDB_REPORT_NOT_AVAILABLE", 0xC0000933: "TDX_SEAMVERIFYREPORT_NOT_AVAILABLE",
    0xC0000A00: "TDX_INVALID_TDMR", 0xC0000A01: "TDX_NON_ORDERED_TDMR", 0xC0000A02: "TDX_TDMR_OUTSIDE_CMRS",
    0x00000A03: "TDX_TDMR_ALREADY_INITIALIZED", 0xC0000A10: "TDX_INVALID_PAMT", 0xC0000A11: "TDX_PAMT_OUTSIDE_CMRS",
    0xC0000A12: "TDX_PAMT_OVERLAP", 0xC0000A20: "TDX_INVALID_RESERVED_IN_TDMR",
    0xC0000A21: "TDX_NON_ORDERED_RESERVED_IN_TDMR", 0xC0000A22: "TDX_CMR_LIST_INVALID",
    0xC0000B00: "TDX_EPT_WALK_FAILED", 0xC0000B01: "TDX_EPT_ENTRY_FREE", 0xC0000B02: "TDX_EPT_ENTRY_NOT_FREE",
    0xC0000B03: "TDX_EPT_ENTRY_NOT_PRESENT", 0xC0000B04: "TDX_EPT_ENTRY_NOT_LEAF", 0xC0000B05: "TDX_EPT_ENTRY_LEAF",
    0xC0000B06: "TDX_GPA_RANGE_NOT_BLOCKED", 0x00000B07: "TDX_GPA_RANGE_ALREADY_BLOCKED",
    0xC0000B08: "TDX_TLB_TRACKING_NOT_DONE", 0xC0000B09: "TDX_EPT_INVALID_PROMOTE_CONDITIONS",
    0x00000B0A: "TDX_PAGE_ALREADY_ACCEPTED", 0xC0000B0B: "TDX_PAGE_SIZE_MISMATCH",
    0xC0000B0C: "TDX_GPA_RANGE_BLOCKED", 0xC0000B0D: "TDX_EPT_ENTRY_STATE_INCORRECT",
    0xC0000B0E: "TDX_EPT_PAGE_NOT_FREE", 0xC0000B0F: "TDX_L2_SEPT_WALK_FAILED",
    0xC0000B10: "TDX_L2_SEPT_ENTRY_NOT_FREE", 0xC0000B11: "TDX_PAGE_ATTR_INVALID",
    0xC0000B12: "TDX_L2_SEPT_PAGE_NOT_PROVIDED", 0xC0000C00: "TDX_METADATA_FIELD_ID_INCORRECT",
    0xC0000C01: "TDX_METADATA_FIELD_NOT_WRITABLE", 0xC0000C02: "TDX_METADATA_FIELD_NOT_READABLE",
    0xC0000C03: "TDX_METADATA_FIELD_VALUE_NOT_VALID", 0xC0000C04: "TDX_METADATA_LIST_OVERFLOW",
    0xC0000C05: "TDX_INVALID_METADATA_LIST_HEADER", 0xC0000C06: "TDX_REQUIRED_METADATA_FIELD_MISSING",
    0xC0000C07: "TDX_METADATA_ELEMENT_SIZE_INCORRECT", 0xC0000C08: "TDX_METADATA_LAST_ELEMENT_INCORRECT",
    0xC0000C09: "TDX_METADATA_FIELD_CURRENTLY_NOT_WRITABLE", 0xC0000C0A: "TDX_METADATA_WR_MASK_NOT_VALID",
    0x00000C0B: "TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT", 0x00000C0C: "TDX_METADATA_FIELD_SKIP",
    0xC0000D00: "TDX_SERVTD_ALREADY_BOUND_FOR_TYPE", 0xC0000D01: "TDX_SERVTD_TYPE_MISMATCH",
    0xC0000D02: "TDX_SERVTD_ATTR_MISMATCH", 0xC0000D03: "TDX_SERVTD_INFO_HASH_MISMATCH",
    0xC0000D04: "TDX_SERVTD_UUID_MISMATCH", 0xC0000D05: "TDX_SERVTD_NOT_BOUND", 0xC0000D06: "TDX_SERVTD_BOUND",
    0xC0000D07: "TDX_TARGET_UUID_MISMATCH", 0xC0000D08: "TDX_TARGET_UUID_UPDATED", 0xC0000E00: "TDX_INVALID_MBMD",
    0xC0000E01: "TDX_INCORRECT_MBMD_MAC", 0xC0000E02: "TDX_NOT_WRITE_BLOCKED",
    0x00000E03: "TDX_ALREADY_WRITE_BLOCKED", 0xC0000E04: "TDX_NOT_EXPORTED",
    0xC0000E05: "TDX_MIGRATION_STREAM_STATE_INCORRECT", 0xC0000E06: "TDX_MAX_MIGS_NUM_EXCEEDED",
    0xC0000E07: "TDX_EXPORTED_DIRTY_PAGES_REMAIN", 0xC0000E08: "TDX_MIGRATION_DECRYPTION_KEY_NOT_SET",
    0xC0000E09: "TDX_TD_NOT_MIGRATABLE", 0xC0000E0A: "TDX_PREVIOUS_EXPORT_CLEANUP_INCOMPLETE",
    0xC0000E0B: "TDX_NUM_MIGS_HIGHER_THAN_CREATED", 0xC0000E0C: "TDX_IMPORT_MISMATCH",
    0xC0000E0D: "TDX_MIGRATION_EPOCH_OVERFLOW", 0xC0000E0E: "TDX_MAX_EXPORTS_EXCEEDED",
    0xC0000E0F: "TDX_INVALID_PAGE_MAC", 0xC0000E10: "TDX_MIGRATED_IN_CURRENT_EPOCH",
    0xC0000E11: "TDX_DISALLOWED_IMPORT_OVER_REMOVED", 0xC0000E12: "TDX_SOME_VCPUS_NOT_MIGRATED",
    0xC0000E13: "TDX_ALL_VCPUS_IMPORTED", 0xC0000E14: "TDX_MIN_MIGS_NOT_CREATED",
    0xC0000E15: "TDX_VCPU_ALREADY_EXPORTED", 0xC0000E16: "TDX_INVALID_MIGRATION_DECRYPTION_KEY",
    0xC0001000: "TDX_INVALID_CPUSVN", 0xC0001001: "TDX_INVALID_REPORTMACSTRUCT",
    0x00001100: "TDX_L2_EXIT_HOST_ROUTED_ASYNC", 0x00001101: "TDX_L2_EXIT_HOST_ROUTED_TDVMCALL",
    0x00001102: "TDX_L2_EXIT_PENDING_INTERRUPT", 0x00001120: "TDX_PENDING_INTERRUPT",
    0x00001140: "TDX_TD_EXIT_BEFORE_L2_ENTRY", 0x00001141: "TDX_TD_EXIT_ON_L2_VM_EXIT",
    0x00001142: "TDX_TD_EXIT_ON_L2_TO_L1", 0xC0001160: "TDX_GLA_NOT_CANONICAL",
    0xFFFFFFFF: "UNINITIALIZE_ERROR",
    # Later than 1.5.01; the numbers of the last three are this module's own.
    0xC0000304: "TDX_HPA_RANGE_NOT_FREE",
    0xC0000305: "TDX_MISSING_PAMT_PAGE_PAIR", 0xC0000306: "TDX_NO_PAMT_PAGE_PAIR",
    0xC0000307: "TDX_PAMT_PAGE_NOT_EMPTY",
}
"""Bits 63:32 of a status -> its name: all of module 1.5's, whether a leaf that tdpfast has answers with it or not."""

OPERANDS = {
    0: "RAX", 1: "RCX", 2: "RDX", 3: "RBX", 5: "RBP", 6: "RSI", 7: "RDI", 8: "R8", 9: "R9", 10: "R10", 11: "R11",
    12: "R12", 13: "R13", 14: "R14", 15: "R15", 64: "ATTRIBUTES", 65: "XFAM", 66: "EXEC_CONTROLS",
    67: "EPTP_CONTROLS", 68: "MAX_VCPUS", 69: "CPUID_CONFIG", 70: "TSC_FREQUENCY", 71: "NUM_L2_VMS",
    72: "IA32_ARCH_CAPABILITIES_CONFIG", 95: "PAGE", 96: "TDMR_INFO_PA", 97: "GPA_LIST_ENTRY",
    98: "MIG_BUFF_LIST_ENTRY", 99: "NEW_PAGE_LIST_ENTRY", 128: "TDR", 129: "TDCX", 130: "TDVPR", 132: "REG_PAGE",
    144: "TDCS", 145: "TDVPS", 146: "SEPT_TREE", 147: "SEPT_ENTRY", 168: "RTMR", 169: "TD_EPOCH",
    170: "L2_VAPIC_GPA", 171: "MIGSC", 172: "OP_STATE", 173: "MIG", 174: "SERVTD_BINDINGS", 176: "METADATA_FIELD",
    184: "SYS", 185: "TDMR", 186: "KOT", 187: "KET", 188: "WBCACHE",
}
"""Operand id in bits 31:0 -> register or lock."""

PAGE_TYPES = {0: "NDA", 1: "RSVD", 3: "REG", 4: "TDR", 5: "TDCX", 6: "TDVPR", 8: "EPT", 15: "PAMT"}

_LEVEL = {"TDX_PAGE_ALREADY_ACCEPTED", "TDX_PAGE_SIZE_MISMATCH"}
_OPERAND = {
    "TDX_OPERAND_INVALID", "TDX_OPERAND_ADDR_RANGE_ERROR", "TDX_OPERAND_BUSY", "TDX_OPERAND_BUSY_HOST_PRIORITY",
    "TDX_PAGE_METADATA_INCORRECT", "TDX_EPT_WALK_FAILED", "TDX_GPA_RANGE_NOT_BLOCKED", "TDX_GPA_RANGE_ALREADY_BLOCKED",
    "TDX_TLB_TRACKING_NOT_DONE", "TDX_EPT_INVALID_PROMOTE_CONDITIONS", "TDX_EPT_ENTRY_STATE_INCORRECT",
    "TDX_EPT_PAGE_NOT_FREE", "TDX_L2_SEPT_PAGE_NOT_PROVIDED", "TDX_EPT_ENTRY_NOT_PRESENT", "TDX_PAGE_NOT_FREE",
    "TDX_HPA_RANGE_NOT_FREE", "TDX_MISSING_PAMT_PAGE_PAIR", "TDX_NO_PAMT_PAGE_PAIR",
}

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
    if name in _LEVEL:
        return f"level={low}"
    if name in ("TDX_L2_SEPT_WALK_FAILED", "TDX_L2_SEPT_ENTRY_NOT_FREE"):
        return f"vm={low >> 16},level={low & 0xFFFF}"
    if low == 0:
        return ""
    return OPERANDS.get(low, f"{low:#x}") if name in _OPERAND else f"{low:#x}"


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
