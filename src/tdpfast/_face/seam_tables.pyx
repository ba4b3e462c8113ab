# cython: language_level=3
"""The module's numbers and tables as the native code has them, for Python to look at: nothing here is a copy."""

from libc.stdint cimport uint32_t, uint64_t

from tdpfast._seam.state cimport (
    OPS_FAILED_IMPORT, OPS_FOR_READ, OPS_IMPORTING, OPS_INITIALIZED, OPS_LIVE_EXPORT, OPS_LIVE_IMPORT,
    OPS_MEMORY_IMPORT,
    OPS_PAUSED_EXPORT, OPS_POST_EXPORT, OPS_POST_IMPORT, OPS_RUNNABLE, OPS_STATE_IMPORT, OPS_TRACKED,
    OPS_UNINITIALIZED, PT_EPT, PT_NDA, PT_REG, PT_RSVD, PT_TDCX, PT_TDR, PT_TDVPR, TD_BLOCKED, TD_HKID_ASSIGNED,
    TD_KEYS_CONFIGURED, TD_TEARDOWN,
)
from tdpfast._names cimport SEAM_LEAVES
from tdpfast._seam.defs cimport *
from tdpfast._seam.guest cimport GUEST_UNRECORDED, GuestLeaf, guest_row
from tdpfast._seam.leaf cimport (
    ABOUT_NOBODY, HOLD_EXCL, LEAF_EARLY, LEAF_LATER, LEAF_R8_PAGE, LEAF_UNRECORDED, NO_GPA, Leaf,
)
from tdpfast._seam.leaf cimport leaf_row as native_row

import tdpfast._seam.module          # and with it every family's rows
from tdpfast._names import SeamLeaf

cdef tuple details = ("plain", "operand", "level", "vm_level")

STATUSES = {tdx_statuses[i].name.decode(): (<uint64_t>tdx_statuses[i].code << 32, details[tdx_statuses[i].details])
            for i in range(TDX_STATUS_COUNT)}
"""Status -> its 64 bits, details zero, and what its details are: plain, operand, level, vm_level."""

OPERAND_IDS = {tdx_operands[i].name.decode(): tdx_operands[i].id for i in range(TDX_OPERAND_COUNT)}
"""Operand or lock -> its id in bits 31:0 of a status."""

LEAF_NUMBERS = {name: int(leaf) for name, leaf in SeamLeaf.__members__.items()}
"""SEAMCALL -> leaf number."""

cdef tuple about = ("", "TDR in RCX", "TDR in RDX", "TDVPR in RCX", "TDVPR in RDX")
cdef tuple wants = ("", "keys", "TDCS")
cdef tuple trees = ("", "shared", "exclusive")


def leaf_row(int number):
    """What a leaf's row says, as a dict; None for a number that no leaf has."""
    cdef const Leaf *row = native_row(number) if 0 <= number < SEAM_LEAVES else NULL
    if row == NULL or row.fn == NULL:
        return None
    return {
        "number": number, "version": row.version, "about": about[row.about],
        "hold": ("exclusive" if row.hold == HOLD_EXCL else "shared") if row.about != ABOUT_NOBODY else "",
        "wants": wants[row.wants], "op_states": row.ops, "lowest": row.lowest,
        "highest": row.highest if row.lowest != NO_GPA else NO_GPA, "tree": trees[row.tree],
        "entry_states": row.state, "operands": row.operands, "early": bool(row.flags & LEAF_EARLY),
        "takes_page": bool(row.flags & LEAF_R8_PAGE), "recorded": not row.flags & LEAF_UNRECORDED,
        "source": "2.0" if row.flags & LEAF_LATER else "1.5.01",
    }


def tdcall_row(int number):
    """What a TDCALL's row says, as a dict; None for a number that tdpfast has no TDCALL of."""
    cdef const GuestLeaf *row = guest_row(number)
    if row == NULL:
        return None
    return {
        "number": number, "version": row.version, "lowest": row.lowest, "highest": row.highest,
        "entry_states": row.state, "checks_operands": row.check != NULL,
        "recorded": not row.flags & GUEST_UNRECORDED, "source": "1.5.01",
    }


PAGE_TYPES = {
    "NDA": PT_NDA, "RSVD": PT_RSVD, "REG": PT_REG, "TDR": PT_TDR, "TDCX": PT_TDCX, "TDVPR": PT_TDVPR, "EPT": PT_EPT,
}
LIFECYCLE = {
    "TD_HKID_ASSIGNED": TD_HKID_ASSIGNED, "TD_KEYS_CONFIGURED": TD_KEYS_CONFIGURED, "TD_BLOCKED": TD_BLOCKED,
    "TD_TEARDOWN": TD_TEARDOWN,
}
OP_STATES = {
    "UNINITIALIZED": OPS_UNINITIALIZED, "INITIALIZED": OPS_INITIALIZED, "RUNNABLE": OPS_RUNNABLE,
    "LIVE_EXPORT": OPS_LIVE_EXPORT, "PAUSED_EXPORT": OPS_PAUSED_EXPORT, "POST_EXPORT": OPS_POST_EXPORT,
    "MEMORY_IMPORT": OPS_MEMORY_IMPORT, "STATE_IMPORT": OPS_STATE_IMPORT, "POST_IMPORT": OPS_POST_IMPORT,
    "LIVE_IMPORT": OPS_LIVE_IMPORT, "FAILED_IMPORT": OPS_FAILED_IMPORT,
}
"""OP_STATE -> its number."""

OP_STATE_SETS = {
    "tlb_tracking_required": OPS_TRACKED, "import_in_progress": OPS_IMPORTING, "any_initialized": OPS_FOR_READ,
}
"""What holds in an OP_STATE -> set of them, bit n for the one of number n."""

ENTRY_BITS = {
    "RWX": SEPT_RWX, "MT_WB": SEPT_MT_WB, "IPAT": SEPT_IPAT, "PS": SEPT_PS, "D": SEPT_D, "TDEL": SEPT_TDEL,
    "HPA": SEPT_HPA, "ACCEPT_COUNTER": SEPT_COUNTER, "TDHP": SEPT_TDHP, "TDEX": SEPT_TDEX, "TDBW": SEPT_TDBW,
    "TDB": SEPT_TDB, "TDP": SEPT_TDP, "TDAL": SEPT_TDAL, "SVE": SEPT_SVE, "STATE": SEPT_STATE,
}
"""Field of an S-EPT entry -> mask."""

FREE_ENTRY = SEPT_FREE
"""What an L1 S-EPT page is filled with."""

cdef dict state_flags = {
    "any_pending": ST_PENDING, "any_blocked": ST_BLOCKED, "any_blockedw": ST_BLOCKEDW,
    "tlb_tracking_required": ST_TRACK, "guest_accessible_leaf": ST_GUEST_LEAF, "any_exported": ST_EXPORTED,
    "any_pending_and_guest_acceptable": ST_ACCEPTABLE,
}
cdef dict state_leaves = {
    "TDH_MEM_SEPT_ADD": ST_SEPT_ADD, "TDH_MEM_SEPT_REMOVE": ST_SEPT_REMOVE, "TDH_MEM_PAGE_AUG": ST_PAGE_AUG,
    "TDH_MEM_PAGE_REMOVE": ST_PAGE_REMOVE, "TDH_MEM_PAGE_DEMOTE": ST_DEMOTE, "TDH_MEM_PAGE_PROMOTE": ST_PROMOTE,
    "TDH_MEM_PAGE_RELOCATE": ST_RELOCATE, "TDH_MEM_RANGE_BLOCK": ST_BLOCK, "TDH_MEM_RANGE_UNBLOCK": ST_UNBLOCK,
    "TDH_MEM_PAGE_ADD": ST_PAGE_ADD, "TDH_MR_EXTEND": ST_MR_EXTEND, "TDH_MEM_SEPT_RD": ST_ANY,
    "TDH_EXPORT_BLOCKW": ST_BLOCKW, "TDH_EXPORT_UNBLOCKW": ST_BLOCKEDW, "TDH_EXPORT_RESTORE": ST_EXPORTED,
    "TDG_MEM_PAGE_ATTR_RD": ST_ATTR_RD, "TDG_MEM_PAGE_ATTR_WR": ST_ATTR_WR, "TDG_MEM_PAGE_ACCEPT": ST_ACCEPTABLE,
}


def sept_facts(uint64_t entry):
    """What the module's table of states says of an S-EPT entry: a dict of its encoding, the number shown to the VMM,
    flags, and "leaves", the calls that take an entry in that state. None for an encoding that is no state."""
    cdef uint32_t flags = sept_flags(entry)
    if not flags & ST_VALID:
        return None
    out = {"encoding": sept_enc(entry), "public": sept_public(entry)}
    out.update((name, bool(flags & <uint32_t>bit)) for name, bit in state_flags.items())
    out["leaves"] = frozenset(name for name, bit in state_leaves.items() if flags & <uint32_t>bit)
    return out
