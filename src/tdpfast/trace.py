"""The trace of a run: a numpy dtype, readable records, and the kernel's own text.

A record is one thing that happened on one CPU, in order; the rows of `events.EVENTS` say what its numbers are and how a
trace shows it. `trace_lines()` writes the kernel's tracepoints byte for byte as tracefs shows them and everything else
as ``tdpfast_*`` lines beside them, so that ``grep -v tdpfast_`` leaves a kernel trace: the same for a `Vm` and for a
schedule that was replayed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tdpfast._names import RetPf
from tdpfast.events import EVENT_KINDS, EVENTS, FORMS, Event, py_hook_text

EVENT_DTYPE = np.dtype([("kind", "i4"), ("cpu", "i4"), ("step", "u8"), ("a", "u8", (8,)), ("function", "S48"),
                        ("id", "S48")])
"""One record: index into events.EVENT_KINDS, CPU, step of the explorer (0 elsewhere), up to eight numbers named by
`EVENT_FIELDS`, and for an assertion the kernel function and tdpfast's name of it; for a step of a Python hook the hook
and the label it yielded."""


class Field(NamedTuple):
    """One field of a record: its name, how it is read (events.FORMS), and its place: a number's, or s0 or s1."""

    name: str
    form: str
    place: int


def fields_of(row: Event) -> tuple[Field, ...]:
    """The fields of a row of events.EVENTS."""
    out, numbers = [], 0
    for word in row.fields.split():
        name, _, form = word.partition(":")
        if form in ("s0", "s1"):
            out.append(Field(name, form, int(form[1])))
        else:
            out.append(Field(name, form, numbers))
            numbers += 1
    return tuple(out)


_FIELDS = {kind: fields_of(row) for kind, row in EVENTS.items()}
_HEX = {kind: frozenset(field.name for field in fields if field.form == "x") for kind, fields in _FIELDS.items()}
EVENT_FIELDS: dict[str, tuple[str, ...]] = {kind: tuple(field.name for field in fields)
                                            for kind, fields in _FIELDS.items()}
"""Kind -> names of its fields, in order."""


class Record(NamedTuple):
    """One thing that happened."""

    kind: str
    """A key of `events.EVENTS`."""
    cpu: int
    step: int
    fields: dict[str, Any]

    def __str__(self) -> str:
        return " ".join([self.kind, *self.words()])

    def words(self) -> list[str]:
        """The fields as "name value"; a flag by its name alone, where it is set."""
        hexadecimal = _HEX[self.kind]
        return [name if value is True else f"{name} {value:x}" if name in hexadecimal else f"{name} {value}"
                for name, value in self.fields.items() if value is not False and value != ""]


def read_record(kind: int, cpu: int, step: int, numbers: Any, s0: str | None, s1: str | None) -> Record:
    """A record of the native core, readable."""
    name = EVENT_KINDS[kind]
    texts = (s0 or "", s1 or "")
    fields = {field.name: texts[field.place] if field.form in ("s0", "s1") else FORMS[field.form](numbers[field.place])
              for field in _FIELDS[name] if field.name != "record"}
    return Record(name, cpu, step, fields)


def make_record(row: Any) -> Record:
    """One element of an EVENT_DTYPE array as a Record."""
    return read_record(int(row["kind"]), int(row["cpu"]), int(row["step"]), row["a"].tolist(),
                       row["function"].decode(errors="replace"), row["id"].decode(errors="replace"))


def records(events: np.ndarray) -> Iterator[Record]:
    """The elements of an EVENT_DTYPE array, readable."""
    for row in events:
        yield make_record(row)


def program_records(program: Any) -> Iterator[Record]:
    """What the schedule that was replayed last left, by thread: `cpu` is the thread's number, RCU's the one after the
    last. program: a tdpfast._program.program.ScenarioProgram."""
    threads = {program.cpu_of(i): i for i in range(program.nthreads)}
    for kind, cpu, step, numbers, s0, s1 in program.events():
        yield read_record(kind, threads.get(cpu, len(threads)), step, numbers, s0, s1)


# ---- text ---------------------------------------------------------------------------------------------------------

class _Values(dict):
    """The fields of a record, and what tracepoints make of them."""

    def __init__(self, record: Record):
        super().__init__(record.fields, cpu=record.cpu)

    def __missing__(self, name: str) -> Any:
        if name == "access_text":       # of all access: 7.3 has ACC_READ as well
            return "rwux" if self["access"] & 8 else "wux"
        if name == "ad":
            return "!ad" if self["ad_disabled"] else "ad"
        if name == "gva":               # of a TDP fault: its gpa
            return self["gfn"] << 12
        if name == "error_text":
            return "|".join(word for bit, word in enumerate("PWU-F") if self["error_code"] >> bit & 1)
        if name == "ended":
            return py_hook_text(self["what"], self["ret"], self["label"])
        if name in ("spurious", "fixed"):
            return int(self["ret"] == RetPf[f"RET_PF_{name.upper()}"])
        raise KeyError(name)


def trace_name(record: Record) -> str:
    """What a trace calls the record's event: the kernel's tracepoint or tdpfast_*; "" for what traces leave out."""
    row = EVENTS[record.kind]
    flag, other = row.other
    return other if flag and record.fields[flag] else row.trace


def trace_event(record: Record) -> str:
    """``event: fields`` as the kernel's tracepoint prints it, or as a ``tdpfast_*`` event."""
    form = EVENTS[record.kind].form
    text = form.format_map(_Values(record)) if form else " ".join(record.words())
    return f"{trace_name(record)}: {text}".rstrip()


TRACE_HEADER = """\
# tracer: nop
#
#                                _-----=> irqs-off/BH-disabled
#                               / _----=> need-resched
#                              | / _---=> hardirq/softirq
#                              || / _--=> preempt-depth
#                              ||| / _-=> migrate-disable
#                              |||| /     delay
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |"""
"""What tracefs' ``trace`` file begins with."""


def trace_lines(records: Iterable[Record], *, threads: int | None = None) -> Iterator[str]:
    """Records as lines of tracefs' ``trace`` file.

    The time is the number of the record in microseconds; of a replay (threads: how many its scenario has) the number of
    the explorer's step, and whoever is not a thread is RCU. So the same run gives the same bytes.
    """
    for i, record in enumerate(records):
        if not trace_name(record):
            continue
        task = "rcu" if threads is not None and record.cpu >= threads else f"CPU {record.cpu}/KVM"
        time = i if threads is None else record.step
        yield (f"{task:>16}-{4242 + record.cpu:<7} [{record.cpu:03}] ..... {time // 1000000:5}.{time % 1000000:06}: "
               f"{trace_event(record)}")


def replay_trace(program: Any) -> str:
    """The trace of the schedule that was replayed last, header included, ending with a newline."""
    return "\n".join([TRACE_HEADER, *trace_lines(program_records(program), threads=program.nthreads)]) + "\n"
