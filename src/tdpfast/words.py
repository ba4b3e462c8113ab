"""Words for what happens: entries of both tables, operations, results, and one line for each kind of event."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tdpfast.events import RET_PF, errno_name, py_hook_text
from tdpfast.ops import OPS
from tdpfast.status import sept_state

PRESENT, LARGE, FROZEN = 1 << 11, 1 << 7, {0x80000000000001A0, 0x80000000000005A0}
POISON = 0x8000DEAD0DEAD000
ADDRESS = 0x000FFFFFFFFFF000
LEVELS = ("?", "4K", "2M", "1G", "512G", "256T")
SEPT_LOCK = 1 << 11 | 1 << 52
"""Bits of an S-EPT entry that are no state: its lock, and that a host wants it first."""
SHORT = {"op", "hook", "inject"}
HEXADECIMAL = ("gfn", "pfn", "start", "end", "gpa", "mask", "set", "clear", "value")


def level_name(level: int) -> str:
    return LEVELS[level] if 0 <= level < len(LEVELS) else str(level)


def at(gfn: int, level: int) -> str:
    """An entry by its gfn and level."""
    return f"gfn {gfn:x} {level_name(level)}"


def spte_text(spte: int, level: int) -> str:
    """What an SPTE is, in a word: NP, FROZEN, table, leaf."""
    if spte in FROZEN:
        return "FROZEN"
    if spte == POISON:
        return "poison of a freed table"
    if not spte & PRESENT:
        return "NP" if spte == 1 << 63 else f"{spte:#x}"
    if level > 1 and not spte & LARGE:
        return "table"
    return f"leaf pfn {(spte & ADDRESS) >> 12:x} {'r' if spte & 1 else '-'}{'w' if spte & 2 else '-'}"


def sept_text(entry: int) -> str:
    """What an S-EPT entry is: its state, and the page of a leaf or of a table."""
    state = sept_state(entry & ~SEPT_LOCK)
    if state in ("FREE", "REMOVED"):
        return state
    page = f"{entry & ADDRESS:#x}"
    if state.startswith("NL_"):
        return f"table at {page}" + ("" if state == "NL_MAPPED" else ", blocked")
    return f"{state} pfn {(entry & ADDRESS) >> 12:x}"


def op_text(op: Mapping[str, Any]) -> str:
    """An operation as a call."""
    fields = ", ".join(f"{k} {v:#x}" if k in HEXADECIMAL and isinstance(v, int) else f"{k} {v}"
                       for k, v in op.items() if k not in SHORT)
    return f"{op['op']}({fields})"


def ret_text(name: str, ret: int) -> str:
    """What an operation returned, in words where the number has a name; name: "" for what is no operation."""
    means = OPS[name].ret if name in OPS else ""
    for number, text in re.findall(r"(?:^|, )(?:or )?(-?\d+):? ([a-zA-Z][^,]*)", means):
        if number == str(ret):
            return f"{ret}: {text}"
    if ret < 0:
        return errno_name(ret)
    return RET_PF.get(ret, str(ret)) if "RET_PF" in means else str(ret)


def seam_text(f: Mapping[str, Any]) -> str:
    """A SEAMCALL with what it is about: the entry of a leaf that has a GPA in RCX, else RCX itself."""
    about = f"{f['rcx']:#x}"
    if f["leaf"].startswith("TDH.MEM.") and f["leaf"] != "TDH.MEM.TRACK":
        about = at((f["rcx"] & ADDRESS) >> 12, (f["rcx"] & 7) + 1)
    elif f["leaf"] in ("TDH.MEM.TRACK", "TDH.VP.ENTER"):
        about = ""
    return f"{f['leaf']}({about}) {f['status']}" + (" [lock held by another LP]" if f["injected"] else "")


def change(f: Mapping[str, Any], old: str = "old_spte", new: str = "new_spte") -> str:
    """An entry and what it was and becomes."""
    return (f"{at(f['gfn'], f['level'])}: {spte_text(f[old], f['level'])} -> {spte_text(f[new], f['level'])}")


STORY: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "chg": lambda f: f"spte_changed {change(f)}",
    "set_ext": lambda f: (f"{'split_external_spt' if f['split'] else 'set_external_spte'} {change(f)} = "
                          f"{ret_text('', f['ret'])}" + (" (scripted)" if f["scripted"] else "")),
    "seam": seam_text,
    "link_ext": lambda f: f"link_external_spt {at(f['gfn'], f['level'])} = {ret_text('', f['ret'])}",
    "remove_ext": lambda f: f"remove_external_spte {at(f['gfn'], f['level'])}",
    "free_ext": lambda f: f"free_external_spt {at(f['gfn'], f['level'])} = {ret_text('', f['ret'])}",
    "prepare_zap": lambda f: f"handle_removed_pt {at(f['gfn'], f['level'])} table",
    "assert": lambda f: f"{f['assert']} {f['function']}/{f['id']}",
    "rcu_free": lambda f: f"grace period over: table {at(f['gfn'], f['level'])} freed",
    "uaf": lambda f: f"USE AFTER FREE ({f['access']}) of table {at(f['gfn'], f['level'])}",
    "rcu_again": lambda f: f"call_rcu() of a table that is {f['state']} already: gfn {f['gfn']:x}",
    "fast_pf": lambda f: (f"fast_page_fault gfn {f['gfn']:x}: {spte_text(f['old_spte'], 1)} -> "
                          f"{spte_text(f['new_spte'], 1)} = {RET_PF.get(f['ret'], f['ret'])}"),
    "py_hook": lambda f: (f"hook {f['hook']} {at(f['gfn'], f['level'])} "
                          f"{py_hook_text(f['what'], f['ret'], f['label'])}"),
    "split": lambda f: f"split {at(f['gfn'], f['level'])} = {ret_text('', f['errno'])}",
    "race": lambda f: f"another CPU writes {change(f, 'before', 'after')}",
    "req": lambda f: f"kvm_make_all_cpus_request({f['request']})",
    "kick": lambda f: f"vCPU {f['vcpu']} leaves the guest",
    "td_exit": lambda f: f"vCPU {f['vcpu']} left the guest by itself",
    "wait_for_sept_zap": lambda f: f"vCPU {f['vcpu']} kept out of the guest",
    "seamcall_failed": lambda f: f"SEAMCALL {f['leaf']} failed: {f['status']}",
    "free_page": lambda f: f"free_page({f['hpa']:#x})",
    "flush_all": lambda f: "kvm_flush_remote_tlbs()",
    "flush_slot": lambda f: "kvm_flush_remote_tlbs_memslot()",
    "flush_range": lambda f: f"kvm_flush_remote_tlbs_range(gfn {f['gfn']:x}, {f['npages']})",
    "yield": lambda f: "cond_resched_rwlock",
    "LIVELOCK": lambda f: "goes round for ever",
}
"""Kind of event -> its line in a story, from its fields; a kind that is not here has none."""
