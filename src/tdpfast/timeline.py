"""The trace of a run in the JSON that Chrome (about:tracing) and Perfetto (ui.perfetto.dev) open.

Of a replay every thread has four tracks: its operations, mmu_lock, RCU sections, and what goes to the external table
(external updates, SEAMCALLs); of a `Vm` only the last, with what was traced. Changes of SPTEs are instants.
Counters: mapped pages by level (of a replay how many more or less than after the set-up), and frozen SPTEs. The time
is a step of the explorer, or without one the number of the record, in microseconds: the same run gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from tdpfast._explore.explorer import KIND_NAMES
from tdpfast.events import LARGE, PARTS, PRESENT, WHOLE
from tdpfast.scenario import Scenario
from tdpfast.trace import Record, program_records, trace_event, trace_name
from tdpfast.words import FROZEN, LEVELS, at, op_text

TRACKS = ("operations", "mmu_lock", "RCU", "external")
OPERATIONS, MMU_LOCK, RCU, EXTERNAL = range(len(TRACKS))
EXTERNAL_KINDS = ("set_ext", "link_ext", "remove_ext", "free_ext", "py_hook", "seam")
"""Records that are slices on the track of the external table."""
WRITES = ("store", "rmw")
SINCE = "mapped pages, more or less than after the set-up"
PID = 1


class Frozen(NamedTuple):
    """A frozen SPTE without an object of its own: what events say of it."""

    gfn: int
    level: int


def is_leaf(spte: int, level: int) -> bool:
    """A present SPTE that maps memory."""
    return bool(spte & PRESENT) and (level == 1 or bool(spte & LARGE))


class Timeline:
    """Collects the events of one run. program and scenario: where it is a replay."""

    def __init__(self, program: Any = None, scenario: Scenario | None = None):
        self.program, self.scenario = program, scenario
        self.out: list[dict[str, Any]] = []
        self.open: dict[tuple[int, int], tuple[int, str, dict[str, Any]]] = {}
        self.depth: dict[int, int] = {}             # of RCU sections, by CPU
        self.mapped = dict.fromkeys(LEVELS[1:4], 0)
        self.frozen: set[Any] = set()
        self.cpus: dict[int, None] = {}
        self.used: dict[tuple[int, int], None] = {}

    def slice(self, cpu: int, track: int, start: int, end: int, name: str, args: dict[str, Any]) -> None:
        """A slice on a track; one that takes no step is 1 long."""
        self.used[cpu, track] = None
        self.out.append({"ph": "X", "pid": PID, "tid": tid(cpu, track), "ts": start, "dur": max(end - start, 1),
                         "name": name, "cat": TRACKS[track], "args": args})

    def begin(self, cpu: int, track: int, now: int, name: str, **args: Any) -> None:
        self.open[cpu, track] = (now, name, args)

    def end(self, cpu: int, track: int, now: int, **args: Any) -> None:
        if (cpu, track) in self.open:
            start, name, first = self.open.pop((cpu, track))
            self.slice(cpu, track, start, now, name, first | args)

    def count(self, now: int, name: str, values: dict[str, int]) -> None:
        self.out.append({"ph": "C", "pid": PID, "ts": now, "name": name, "args": dict(values)})

    def add(self, record: Record, now: int) -> None:
        """One record."""
        f, cpu = record.fields, record.cpu
        self.cpus[cpu] = None
        if record.kind == "step":
            self.step(record, now)
        elif record.kind == "op" and self.scenario is not None:
            self.begin(cpu, OPERATIONS, now, op_text(self.scenario.threads[cpu].ops[f["index"]]))
        elif record.kind == "op_end" and f["kind"] == WHOLE:
            self.end(cpu, OPERATIONS, now + 1, ret=f["ret"])
        elif record.kind in EXTERNAL_KINDS:
            name = f["leaf"] if record.kind == "seam" else trace_name(record)
            self.slice(cpu, EXTERNAL, now, now + 1, name, {"text": trace_event(record)})
        elif trace_name(record) or record.kind == "op_end":
            self.instant(record, now)
        if record.kind == "chg":
            self.changed(f, now)
        elif record.kind == "spte_frozen" and self.program is None:
            self.freeze(Frozen(f["gfn"], f["level"]), True, now)

    def instant(self, record: Record, now: int) -> None:
        track = EXTERNAL if self.program is None else OPERATIONS
        self.used[record.cpu, track] = None
        name = f"{PARTS[record.fields['part']]} returns" if record.kind == "op_end" else trace_name(record)
        if record.kind == "chg":
            name += f" {at(record.fields['gfn'], record.fields['level'])}"
        self.out.append({"ph": "i", "s": "t", "pid": PID, "tid": tid(record.cpu, track), "ts": now, "name": name,
                         "args": {"text": trace_event(record)}})

    def changed(self, f: dict[str, Any], now: int) -> None:
        """The counters after a change of an SPTE."""
        more = is_leaf(f["new_spte"], f["level"]) - is_leaf(f["old_spte"], f["level"])
        if more:
            self.mapped[LEVELS[f["level"]]] += more
            self.count(now, "mapped pages" if self.program is None else SINCE, self.mapped)
        if self.program is None:
            self.freeze(Frozen(f["gfn"], f["level"]), f["new_spte"] in FROZEN, now)

    def freeze(self, entry: Any, on: bool, now: int) -> None:
        if (entry in self.frozen) != on:
            self.frozen ^= {entry}
            self.count(now, "frozen SPTEs", {"frozen": len(self.frozen)})

    def step(self, record: Record, now: int) -> None:
        """One access that the explorer scheduled."""
        f, cpu = record.fields, record.cpu
        kind = KIND_NAMES[f["kind"]]
        if kind in ("read_lock", "write_lock"):
            self.begin(cpu, MMU_LOCK, now, f"{kind}({self.program.describe(f['object'])})")
        elif kind in ("read_unlock", "write_unlock"):
            self.end(cpu, MMU_LOCK, now + 1)
        elif kind == "rcu_lock":
            self.depth[cpu] = self.depth.get(cpu, 0) + 1
            if self.depth[cpu] == 1:
                self.begin(cpu, RCU, now, "rcu_read_lock()")
        elif kind == "rcu_unlock":
            self.depth[cpu] = self.depth.get(cpu, 0) - 1
            if self.depth[cpu] == 0:
                self.end(cpu, RCU, now + 1)
        elif kind in WRITES and " SPTE " in self.program.describe(f["object"]):
            self.freeze(f["object"], f["after"] in FROZEN, now)

    def done(self, now: int, names: Sequence[str]) -> list[dict[str, Any]]:
        """All events: names of processes and tracks first. What never ended reaches to the end of the run."""
        for cpu, track in list(self.open):
            self.end(cpu, track, now + 1, ended="not in this run")
        head = [{"ph": "M", "pid": PID, "name": "process_name", "args": {"name": "tdpfast"}}]
        for cpu, track in sorted(self.used):
            who = names[cpu] if cpu < len(names) else "rcu" if names else f"vCPU {cpu}"
            head += [{"ph": "M", "pid": PID, "tid": tid(cpu, track), "name": "thread_name",
                      "args": {"name": f"CPU {cpu} ({who}): {TRACKS[track]}"}},
                     {"ph": "M", "pid": PID, "tid": tid(cpu, track), "name": "thread_sort_index",
                      "args": {"sort_index": tid(cpu, track)}}]
        return head + sorted(self.out, key=lambda event: event["ts"])


def tid(cpu: int, track: int) -> int:
    """The number of a track."""
    return cpu * len(TRACKS) + track + 1


def timeline(records: Iterable[Record]) -> str:
    """Records of a Vm or Vcpu as Chrome's JSON, ending with a newline; nothing is known of locks and operations
    there."""
    found, i = Timeline(), 0
    for i, record in enumerate(records):
        found.add(record, i)
    return _text(found.done(i, ()))


def replay_timeline(program: Any, scenario: Scenario) -> str:
    """The schedule that was replayed last as Chrome's JSON, ending with a newline. program: its
    tdpfast._program.program.ScenarioProgram, recording."""
    found, last = Timeline(program, scenario), 0
    for record in _of_threads(program):
        last = record.step
        found.add(record, last)
    return _text(found.done(last, [thread.name for thread in scenario.threads]))


def _of_threads(program: Any) -> Iterator[Record]:
    """The records; RCU's own steps are no access of a thread."""
    for record in program_records(program):
        if record.cpu < program.nthreads or record.kind != "step":
            yield record


def _text(events: list[dict[str, Any]]) -> str:
    return json.dumps({"displayTimeUnit": "ns", "traceEvents": events}, separators=(",", ":")) + "\n"
