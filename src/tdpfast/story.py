"""What happened on one schedule, in words a reader of tdp_mmu.c knows: one line per event, by thread.

Every write to an entry of the mirror, the direct table or the S-EPT is a line with the old and the new value; so are
locks, RCU sections, and the reads that decide: of entries that another thread changes in this run. What is left out is
counted, and said at the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tdpfast._explore.explorer import KIND_NAMES
from tdpfast._names import CodeFault
from tdpfast._program.program import ScenarioProgram
from tdpfast.columns import END, FOLDED, RCU, columns_text
from tdpfast.ending import endings
from tdpfast.events import ASSERT_KINDS, EVENT_KINDS, PARTS, WHOLE
from tdpfast.scenario import Scenario
from tdpfast.trace import Record, program_records
from tdpfast.words import FROZEN, SEPT_LOCK, STORY, at, level_name, op_text, ret_text, sept_text, spte_text

if TYPE_CHECKING:
    from tdpfast.designfile import Code

__all__ = ["Line", "assertions_of", "columns_text", "level_name", "spte_text", "tell"]

FAULTS = ("CRASH", "HANG, no step any more,", "ACCESS to memory that belongs to nobody")
"""CodeFault, in words."""
FAULT_WILD = int(CodeFault.FAULT_WILD)
LOCKS = {"read_lock": "read_lock", "read_unlock": "read_unlock", "write_lock": "write_lock",
         "write_unlock": "write_unlock", "spin_lock": "spin_lock", "spin_unlock": "spin_unlock"}
"""Steps on a lock, as the kernel calls them."""
MODULE_STEPS = ("try_shared", "put_shared", "try_excl", "put_excl")
READS = "reads of entries that no other CPU changes"
SAME = "reads that found what the CPU knew"
TRACED = "kvm_tdp_mmu_spte_changed of a write that is shown"
MODULE = "steps on locks of the module, as its calls take them"
OTHER = "steps on other words"


@dataclass(frozen=True)
class Line:
    """One line of a story: whose column (tdpfast.columns.RCU, END, FOLDED: nobody's), what, and how often in a row.

    step: the explorer's step it happened on or after. what: "op", "result", "event", "write", "read", "lock", "rcu",
    "retry", "end" or "folded". object: the entry or lock, if it is about one; old and new: an entry's values in words.
    """

    column: int
    text: str
    count: int = 1
    step: int = 0
    what: str = "event"
    object: str = ""
    old: str = ""
    new: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields scripts may rely on; cpu: a thread's number, "rcu", or null."""
        cpu = self.column if self.column >= 0 else "rcu" if self.column == RCU else None
        return {"cpu": cpu, "step": self.step, "what": self.what, "text": self.text, "count": self.count,
                "object": self.object or None, "old": self.old or None, "new": self.new or None}


@dataclass(frozen=True)
class Entry:
    """An entry of a table: side is "mirror", "direct" or "sept"."""

    side: str
    gfn: int
    level: int

    def __str__(self) -> str:
        return {"mirror": "", "direct": "direct ", "sept": "S-EPT "}[self.side] + at(self.gfn, self.level)

    def text(self, value: int) -> str:
        return sept_text(value) if self.side == "sept" else spte_text(value, self.level)

    def state(self, value: int) -> int:
        """The value without what is no state of the entry."""
        return value & ~SEPT_LOCK if self.side == "sept" else value


class Teller:
    """Turns the records of a schedule that was just replayed into lines."""

    def __init__(self, program: ScenarioProgram, scenario: Scenario, everything: bool = False):
        self.program = program
        self.everything = everything
        self.scenario = scenario
        self.records = list(program_records(program))
        self.nthreads = program.nthreads
        self.tables: dict[int, tuple[str, int, int]] = {}
        self.names: dict[int, str] = {}                     # objects that are no entry
        self.entries: dict[int, Entry | None] = {}
        self.lines: list[Line] = []
        self.code: Code | None = program.code()
        self.where = ""                                      # the design file's line that makes the step
        self.folded: dict[str, int] = {}
        self.pending: dict[int, Line] = {}                  # an operation whose first step is still to come
        self.op: dict[int, dict] = {}                       # the operation a thread is in
        self.known: dict[tuple[int, Entry], int] = {}       # what a thread saw last
        self.written: dict[int, tuple[Entry, int, int]] = {}
        self.frozen: dict[Entry, tuple[int, int]] = {}      # by whom, over what
        self.changers: dict[Entry, set[int]] = {}
        self.find_changers()

    # ---- what words are

    def learn(self, record: Record) -> None:
        """Tables that come into being on the way."""
        f = record.fields
        if record.kind == "get_page":
            self.table(f["page"], "mirror" if f["mirror"] else "direct", f["level"], f["gfn"])
        elif record.kind == "seam" and f["leaf"] in ("TDH.MEM.SEPT.ADD", "TDH.MEM.PAGE.DEMOTE"):
            self.table(f["r8"] & 0x000FFFFFFFFFF000, "sept", f["rcx"] & 7, (f["rcx"] & 0x000FFFFFFFFFF000) >> 12)

    def table(self, hpa: int, side: str, level: int, gfn: int) -> None:
        self.tables[hpa] = (side, level, gfn)
        self.entries.clear()

    def entry(self, obj: int) -> Entry | None:
        """The entry at an address, None for other words."""
        if obj not in self.entries:
            place = self.program.place_of(obj)
            self.entries[obj] = None
            if place is not None and place[0] in self.tables:
                side, level, gfn = self.tables[place[0]]
                self.entries[obj] = Entry(side, gfn + (place[1] << 9 * (level - 1)), level)
        return self.entries[obj]

    def name(self, obj: int) -> str:
        if obj not in self.names:
            self.names[obj] = self.program.describe(obj)
        return self.names[obj]

    def walk(self) -> Iterator[Record]:
        """The records in order, with what is known of tables at each."""
        self.tables = {hpa: (side, level, gfn) for hpa, side, level, gfn in self.program.tables}
        self.entries.clear()
        for record in self.records:
            self.learn(record)
            yield record

    def find_changers(self) -> None:
        """Which threads change an entry in this run."""
        for record in self.walk():
            if record.kind == "step":
                entry = self.entry(record.fields["object"])
                before, after = record.fields["before"], record.fields["after"]
                if entry is not None and entry.state(before) != entry.state(after):
                    self.changers.setdefault(entry, set()).add(record.cpu)

    # ---- lines

    def say(self, record: Record, text: str, **more: Any) -> None:
        column = record.cpu if record.cpu < self.nthreads else RCU
        text = self.where + text
        if column in self.pending:
            self.lines.append(replace(self.pending.pop(column), step=record.step))
        self.lines.append(Line(column, text, step=record.step, **more))

    def fold(self, record: Record, why: str, text: str, **more: Any) -> None:
        """A line that is left out, unless all are wanted."""
        if self.everything:
            self.say(record, text, **more)
        else:
            self.folded[why] = self.folded.get(why, 0) + 1

    def tell(self, replay: dict) -> list[Line]:
        for record in self.walk():
            if record.kind == "step":
                self.where = self.line_of(record)
                self.step(record)
                self.where = ""
            elif record.kind == "code_fault":
                self.fault(record)
            else:
                self.event(record)
        lines = squeeze(self.lines)
        last = self.records[-1].step if self.records else 0
        if replay["end"] in ("stuck", "spin"):
            column = next((line.column for line in reversed(lines) if line.column >= 0), 0)
            lines.append(Line(column, "... and round again: nobody can change what the loop sees", step=last,
                              what="end"))
        if self.folded:
            what = "; ".join(f"{n} {why}" for why, n in sorted(self.folded.items()))
            lines.append(Line(FOLDED, f"not shown: {what}", what="folded"))
        return lines + [Line(END, text, step=last, what="end") for text in endings(self, replay)]

    def event(self, record: Record) -> None:
        f, cpu = record.fields, record.cpu
        if record.kind == "op":
            self.op[cpu] = self.scenario.threads[cpu].ops[f["index"]]
            self.pending[cpu] = Line(cpu, op_text(self.op[cpu]), step=record.step, what="op")
            self.known = {key: value for key, value in self.known.items() if key[0] != cpu}
        elif record.kind == "op_end":
            part = "" if f["kind"] == WHOLE else PARTS[f["part"]]
            name = {"fault": "map", "VP.ENTER": "vp_enter", "access": "guest_access"}.get(part, self.op[cpu]["op"])
            self.say(record, f"{part} returns {ret_text(name, f['ret'])}".lstrip(), what="result")
        elif record.kind == "chg" and self.written.get(cpu) == (
                Entry("mirror", f["gfn"], f["level"]), f["old_spte"], f["new_spte"]):
            self.fold(record, TRACED, STORY["chg"](f))
        elif record.kind in STORY:
            self.say(record, STORY[record.kind](f))

    def line_of(self, record: Record) -> str:
        """Which line of a design file makes a step, "" for steps of the core."""
        line, pc = record.fields["line"], record.fields["pc"]
        if self.code is None or not (line or pc):
            return ""
        return f"{self.code.where(pc - 1) if pc else self.code.at(line)}: "

    def fault(self, record: Record) -> None:
        """How a design file's code ended the execution."""
        assert self.code is not None
        what, line, pc = (record.fields[name] for name in ("what", "line", "pc"))
        where = self.code.where(pc - (what == FAULT_WILD)) if pc else self.code.at(line)
        self.say(record, f"{FAULTS[what]} at {where}", what="fault")

    def step(self, record: Record) -> None:
        """One access that the explorer scheduled."""
        f = record.fields
        kind = KIND_NAMES[f["kind"]]
        entry = self.entry(f["object"])
        if entry is not None and kind in ("load", "store", "rmw", *MODULE_STEPS):
            self.access(record, kind, entry, f["before"], f["after"])
        elif kind in LOCKS:
            name = self.name(f["object"])
            self.say(record, f"{LOCKS[kind]}({name})", what="lock", object=name)
        elif kind in ("rcu_lock", "rcu_unlock"):
            self.say(record, f"rcu_read_{kind[4:]}()", what="rcu")
        elif kind == "call_rcu":
            page = self.program.place_of(f["arg"])
            table = self.tables.get(page[0]) if page else None
            self.say(record, f"call_rcu(table {at(table[2], table[1])})" if table else "call_rcu()", what="rcu")
        elif kind == "retry":
            self.say(record, "goto retry", what="retry")
        elif kind == "wait":
            self.say(record, f"waits for {self.name(f['object'])}", what="lock", object=self.name(f["object"]))
        elif kind in MODULE_STEPS or kind in ("load", "store", "rmw"):
            name = self.name(f["object"])
            if self.where:
                verb = {"load": "reads", "store": "writes"}.get(kind, kind)
                self.say(record, f"{verb} {name}", object=name)
                return
            self.fold(record, MODULE if kind in MODULE_STEPS else OTHER, f"{kind} {name}", object=name)

    def access(self, record: Record, kind: str, entry: Entry, before: int, after: int) -> None:
        """An access to an entry of a table."""
        cpu, old, new = record.cpu, entry.state(before), entry.state(after)
        if kind == "load":
            self.read(record, entry, before)
        elif old != new:
            self.say(record, f"{self.verb(record, kind, entry, old, new)} {entry}: {entry.text(old)} -> "
                     f"{entry.text(new)}", what="write", object=str(entry), old=entry.text(old), new=entry.text(new))
            if entry.side != "sept":
                self.written[cpu] = (replace(entry, side="mirror"), old, new)
            if new in FROZEN and old not in FROZEN:
                self.frozen[entry] = (cpu, old)
            elif old in FROZEN:
                self.frozen.pop(entry, None)
        elif kind == "rmw":
            what = "xchg" if record.fields["arg"] == 1 else "cmpxchg"
            self.say(record, f"{what} {entry}: finds {entry.text(old)}, changes nothing", what="read",
                     object=str(entry), old=entry.text(old), new=entry.text(new))
        elif kind == "store":
            self.say(record, f"writes {entry}: {entry.text(new)}, as it was", what="write", object=str(entry),
                     old=entry.text(old), new=entry.text(new))
        elif kind == "try_excl" and before & SEPT_LOCK & ~(1 << 52):
            self.say(record, f"{entry} is locked: busy", what="lock", object=str(entry))
        else:
            self.fold(record, MODULE, f"{kind} {entry}", object=str(entry))
        self.known[cpu, entry] = new

    def verb(self, record: Record, kind: str, entry: Entry, old: int, new: int) -> str:
        """What a write is called: by how it is done, or what it means for a frozen entry."""
        if entry.side == "sept":
            return "module writes"
        if kind == "rmw":
            return "xchg" if record.fields["arg"] == 1 else "cmpxchg"
        if old in FROZEN:
            _, was = self.frozen.get(entry, (0, None))
            return "rolls back" if was == new else "un-freezes"
        return "writes"

    def read(self, record: Record, entry: Entry, value: int) -> None:
        """A read is worth a line if it decides: another thread changes the entry, or it is frozen."""
        cpu, word = record.cpu, entry.text(value)
        text = f"reads {entry}: {word}"
        if self.known.get((cpu, entry)) == value:
            self.fold(record, SAME, text, what="read", object=str(entry), old=word, new=word)
        elif value in FROZEN or self.changers.get(entry, set()) - {cpu}:
            self.say(record, text, what="read", object=str(entry), old=word, new=word)
        else:
            self.fold(record, READS, text, what="read", object=str(entry), old=word, new=word)
        self.known[cpu, entry] = value


def tell(program: ScenarioProgram, scenario: Scenario, replay: dict, *, everything: bool = False) -> list[Line]:
    """The story of the schedule that was just replayed; equal lines in a row are counted.

    program: its own, recording; replay: what Explorer.replay() returned.
    everything: leave no step out.
    """
    return Teller(program, scenario, everything).tell(replay)


# ---- blocks that repeat ------------------------------------------------------------------------------------------

def shape(text: str) -> str:
    """A line without its numbers: what makes two lines alike."""
    return "".join("#" if ch in "0123456789abcdef" else ch for ch in text)


def ranged(first: Line, last: Line, count: int) -> Line:
    """A line that stands for many: from the gfn of the first to that of the last."""
    start, end = (re.search(r"\bgfn ([0-9a-f]+)", line.text) for line in (first, last))
    text = first.text
    if start and end and start[1] != end[1]:
        text = text.replace(f"gfn {start[1]}", f"gfn {start[1]}..{end[1]}", 1)
    return replace(first, text=text, count=count)


def squeeze(lines: list[Line]) -> list[Line]:
    """Blocks of up to eight lines that repeat with other numbers are written once, with a count."""
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
        out += [ranged(line, lines[i + j + (n - 1) * size], n) for j, line in enumerate(lines[i:i + size])]
        i += size * n
    return out


def assertions_of(events: list) -> list[str]:
    """The assertions that fired, each once, in the order they first did."""
    seen: dict[str, None] = {}
    for kind, _cpu, _step, a, s0, s1 in events:
        if EVENT_KINDS[kind] == "assert":
            seen.setdefault(f"{ASSERT_KINDS[a[0]]} {s0}/{s1}")
    return list(seen)


