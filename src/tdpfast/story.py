"""What happened on one schedule, in words a reader of tdp_mmu.c knows: one line per event, by thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

from tdpfast._program.program import ScenarioProgram
from tdpfast.checks import names_of
from tdpfast.events import ASSERT_KINDS, EVENT_KINDS, leaf_name, py_hook_text, signed
from tdpfast.scenario import Scenario
from tdpfast.status import status_name

PRESENT, LARGE, FROZEN = 1 << 11, 1 << 7, {0x80000000000001A0, 0x80000000000005A0}
LEVELS = ("?", "4K", "2M", "1G", "512G", "256T")
STEP_NAMES = {"read_lock": "read_lock(mmu_lock)", "read_unlock": "read_unlock(mmu_lock)",
              "write_lock": "write_lock(mmu_lock)", "write_unlock": "write_unlock(mmu_lock)",
              "rcu_lock": "rcu_read_lock()", "rcu_unlock": "rcu_read_unlock()", "call_rcu": "call_rcu()"}
RET_PF = {4: "RET_PF_INVALID", 5: "RET_PF_FIXED", 6: "RET_PF_SPURIOUS"}


@dataclass(frozen=True)
class Line:
    """One event: whose column (-1 is RCU), what, and how often in a row."""

    column: int
    text: str
    count: int = 1


def level_name(level: int) -> str:
    return LEVELS[level] if 0 <= level < len(LEVELS) else str(level)


def spte_text(spte: int, level: int) -> str:
    """What an SPTE is, in a word: NP, FROZEN, table, leaf."""
    if spte in FROZEN:
        return "FROZEN"
    if not spte & PRESENT:
        return "NP" if spte == 1 << 63 else f"{spte:#x}"
    if level > 1 and not spte & LARGE:
        return "table"
    return f"leaf pfn {(spte & 0x000FFFFFFFFFF000) >> 12:x} {'r' if spte & 1 else '-'}{'w' if spte & 2 else '-'}"


def op_text(op: dict) -> str:
    """An operation as a call."""
    skip = {"op", "hook", "inject"}
    fields = ", ".join(f"{k} {v:#x}" if k in ("gfn", "pfn", "start", "end", "gpa") and isinstance(v, int)
                       else f"{k} {v}" for k, v in op.items() if k not in skip)
    return f"{op['op']}({fields})"


def event_text(kind: str, a: tuple, s0: str | None, s1: str | None) -> str | None:
    """One record of the trace as a line; None for what a story leaves out."""
    if kind == "chg":
        return f"spte_changed gfn {a[1]:x} {level_name(a[2])}: {spte_text(a[3], a[2])} -> {spte_text(a[4], a[2])}"
    if kind == "set_ext":
        ret = signed(a[4])
        return (f"{'split_external_spt' if a[6] else 'set_external_spte'} gfn {a[0]:x} {level_name(a[1])}: "
                f"{spte_text(a[2], a[1])} -> {spte_text(a[3], a[1])} = {ret}" + (" (scripted)" if a[5] else ""))
    if kind == "seam":
        return f"{leaf_name(a[0])}({a[3]:#x}) {status_name(a[2])}" + (" [lock held by another LP]" if a[7] else "")
    if kind == "spte_frozen":
        return f"cmpxchg gfn {a[0]:x} {level_name(a[1])}: {spte_text(a[2], a[1])} -> FROZEN"
    if kind == "link_ext":
        return f"link_external_spt gfn {a[0]:x} {level_name(a[1])} = {signed(a[2])}"
    if kind == "remove_ext":
        return f"remove_external_spte gfn {a[0]:x} {level_name(a[1])}"
    if kind == "free_ext":
        return f"free_external_spt gfn {a[0]:x} {level_name(a[1])} = {signed(a[3])}"
    if kind == "prepare_zap":
        return f"handle_removed_pt gfn {a[1]:x} {level_name(a[0])} table"
    if kind == "assert":
        return f"{ASSERT_KINDS[a[0]]} {s0}/{s1}"
    if kind == "rcu_free":
        return f"grace period over: table gfn {a[1]:x} {level_name(a[0])} freed"
    if kind == "uaf":
        return (f"USE AFTER FREE ({('read', 'write', 'cmpxchg', 'header')[a[0]]}) of table gfn {a[2]:x} "
                f"{level_name(a[1])}")
    if kind == "rcu_again":
        return f"call_rcu of a table that is {'freed' if a[2] == 5 else 'queued'} already: gfn {a[1]:x}"
    if kind == "fast_pf":
        return f"fast_page_fault gfn {a[0]:x}: {spte_text(a[2], 1)} -> {spte_text(a[3], 1)} = {RET_PF[a[4]]}"
    if kind == "py_hook":
        return f"hook {s0} gfn {a[0]:x} {level_name(a[1])} {py_hook_text(a, s1)}"
    if kind == "split":
        return f"split gfn {a[0]:x} {level_name(a[1])} = {signed(a[3])}"
    return other_text(kind, a)


def other_text(kind: str, a: tuple) -> str | None:
    """Events of KVM's TDX side and of loops."""
    if kind == "req":
        return f"kvm_make_all_cpus_request({'VM_DEAD' if a[0] else 'OUTSIDE_GUEST_MODE'})"
    if kind == "kick":
        return f"vCPU {a[0]} leaves the guest"
    if kind == "wait_for_sept_zap":
        return f"vCPU {a[0]} kept out of the guest"
    if kind == "free_page":
        return f"free_page({a[0]:#x})"
    if kind in ("flush_all", "flush_slot"):
        return "kvm_flush_remote_tlbs()"
    if kind == "flush_range":
        return f"kvm_flush_remote_tlbs_range(gfn {a[0]:x}, {a[1]})"
    if kind == "yield":
        return "cond_resched_rwlock"
    return None


def step_text(a: tuple, names: tuple, describe: Callable[[int], str]) -> str | None:
    """One access of the explorer, where it is worth a line: mmu_lock, the ends of read sections, retries."""
    kind = names[a[0]]
    if kind in ("read_lock", "write_lock") or (kind == "call_rcu"):
        return STEP_NAMES[kind]
    if kind == "rcu_unlock":
        return STEP_NAMES[kind]
    if kind == "retry":
        return "goto retry"
    if kind in ("rmw", "store", "load") and describe(a[1]).startswith("mirror") and kind == "load" and a[2] in FROZEN:
        return f"reads {describe(a[1])}: FROZEN"
    return None


def tell(program: ScenarioProgram, scenario: Scenario, replay: dict) -> list[Line]:
    """The story of the schedule that was just replayed; equal lines in a row are counted."""
    from tdpfast._explore.explorer import KIND_NAMES

    columns = {program.cpu_of(i): i for i in range(len(scenario.threads))}
    lines: list[Line] = []
    for kind, cpu, _step, a, s0, s1 in program.events():
        name = EVENT_KINDS[kind]
        column = columns.get(cpu, -1)
        text: str | None
        if name == "op":
            text = op_text(scenario.threads[column].ops[a[0]])
        elif name == "op_end":
            text = f"returns {signed(a[1])}"
        elif name == "step":
            text = step_text(a, KIND_NAMES, program.describe)
        else:
            text = event_text(name, a, s0, s1)
        if text is not None:
            lines.append(Line(column, text))
    return ending(squeeze(lines), replay, program)


def shape(text: str) -> str:
    """A line without its numbers: what makes two lines alike."""
    return "".join("#" if ch in "0123456789abcdef" else ch for ch in text)


def squeeze(lines: list[Line]) -> list[Line]:
    """Blocks of up to six lines that repeat with other numbers are written once, with a count."""
    out: list[Line] = []
    i = 0
    keys = [(line.column, shape(line.text)) for line in lines]
    while i < len(lines):
        best = (1, 1)
        for size in range(1, 9):
            n = 1
            while keys[i + n * size:i + (n + 1) * size] == keys[i:i + size] and len(keys[i:i + size]) == size:
                n += 1
            if n > 2 and n * size > best[0] * best[1]:
                best = (size, n)
        size, n = best
        out += [Line(line.column, line.text, n) for line in lines[i:i + size]]
        i += size * n
    return out


def ending(lines: list[Line], replay: dict, program: ScenarioProgram) -> list[Line]:
    """Adds how the schedule ended, and where the checks found the first fault."""
    if replay["end"] in ("stuck", "spin"):
        last = lines[-1].column if lines else 0
        lines.append(Line(last, "... and round again: nobody can change what the loop sees"))
    finding = program.finding() if replay["end"] == "done" else None
    if finding is not None:
        name = names_of(finding["check"])[0]
        text = f"{name}: gfn {finding['gfn']:x} {level_name(finding['level'])}"
        if name == "agree":
            text += f": mirror {spte_text(finding['mirror'], finding['level'])}, S-EPT {finding['external']:#x}"
        lines.append(Line(-2, text))
    return lines


def assertions_of(events: list) -> list[str]:
    """The assertions that fired, each once, in the order they first did."""
    seen: dict[str, None] = {}
    for kind, _cpu, _step, a, s0, s1 in events:
        if EVENT_KINDS[kind] == "assert":
            seen.setdefault(f"{ASSERT_KINDS[a[0]]} {s0}/{s1}")
    return list(seen)


def columns_text(lines: list[Line], threads: list[str], width: int = 58) -> str:
    """The story as columns, one per thread, `CPU 0 | CPU 1`; RCU and the end of the story span them."""
    head = " | ".join(f"CPU {i} ({name})".ljust(width) for i, name in enumerate(threads)).rstrip()
    rule = "-+-".join("-" * width for _ in threads)
    rows = [head, rule]
    for line in lines:
        text = line.text + (f"  (x{line.count})" if line.count > 1 else "")
        if line.column < 0:
            rows.append(("   ~ " if line.column == -1 else "  => ") + text)
            continue
        cells = [""] * len(threads)
        for part in wrap(text, width):
            cells[line.column] = part
            rows.append(" | ".join(c.ljust(width) for c in cells).rstrip())
    return "\n".join(rows)


def wrap(text: str, width: int) -> list[str]:
    """A line cut at blanks so that it fits a column; continuations are indented."""
    out = []
    while len(text) > width:
        cut = text.rfind(" ", 8, width + 1)
        cut = cut if cut > 0 else width
        out.append(text[:cut])
        text = "    " + text[cut:].lstrip()
    return [*out, text]


def switches(schedule: bytes) -> int:
    """Context switches of a schedule."""
    return sum(1 for _ in groupby(schedule)) - 1
