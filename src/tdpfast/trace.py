"""The trace of a VM: a numpy dtype, readable records, and the kernel's own text.

A record is one thing that happened on one CPU, in order. `EVENT_FIELDS` says what the numbers of each kind
are; `trace_lines()` writes the kernel's tracepoints byte for byte as tracefs shows them and everything else as
``tdpfast_*`` lines beside them, so that ``grep -v tdpfast_`` leaves a kernel trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tdpfast.events import ASSERT_KINDS, EVENT_KINDS, PY_HOOK_KINDS, leaf_name, signed
from tdpfast.status import status_name

EVENT_DTYPE = np.dtype([("kind", "i4"), ("cpu", "i4"), ("step", "u8"), ("a", "u8", (8,)), ("function", "S48"),
                        ("id", "S48")])
"""One record: index into events.EVENT_KINDS, CPU, step of the explorer (0 elsewhere), up to eight numbers
named by `EVENT_FIELDS`, and for an assertion the kernel function and tdpfast's name of it; for a step of a Python
hook the hook and the label it yielded."""

_SET = ("gfn", "level", "old_spte", "new_spte", "ret")
EVENT_FIELDS: dict[str, tuple[str, ...]] = {
    "chg": ("as_id", "gfn", "level", "old_spte", "new_spte"),
    "set_ext": _SET,
    "link_ext": ("gfn", "level", "ret", "has_page"),
    "remove_ext": ("gfn", "level", "old_spte"),
    "free_ext": ("gfn", "level", "page", "ret", "has_page"),
    "flush_all": (),
    "flush_range": ("gfn", "npages"),
    "flush_slot": ("gfn", "npages"),
    "yield": ("write",),
    "split": ("gfn", "level", "spte", "errno"),
    "dirty": ("gfn",),
    "race": ("gfn", "level", "before", "after"),
    "assert": ("assert",),
    "LIVELOCK": (),
    "rcu_free": ("level", "gfn", "direct"),
    "uaf": ("access", "level", "gfn"),
    "rcu_again": ("level", "gfn", "state"),
    "rm_ext": ("gfn", "level", "old_spte"),
    "get_page": ("level", "gfn", "mirror"),
    "prepare_zap": ("level", "gfn", "mirror"),
    "fast_pf": ("gfn", "error_code", "old_spte", "new_spte", "ret"),
    "spte_frozen": ("gfn", "level", "old_spte"),
    "py_hook": ("gfn", "level", "ret", "what"),
    "seam": ("leaf", "record", "status", "rcx", "rdx", "r8", "lp", "injected"),
    "seamcall_failed": ("leaf", "status"),
    "req": ("request",),
    "kick": ("vcpu", "rax"),
    "td_exit": ("vcpu", "rax"),
    "wait_for_sept_zap": ("vcpu",),
    "reset_paddr": ("hpa",),
    "free_page": ("hpa",),
    "keyid_free": ("hkid",),
    "op_end": ("part", "ret", "rax", "rcx", "rdx", "r8", "kind", "more"),
}
"""Kind -> names of the numbers of a record, in order. Gfns are guest frame numbers, levels are PG_LEVEL_*.

The last ones are of a TD on a module. seam: a SEAMCALL with its operands; record: its place among the records of a
replay (a Record leaves it out); injected: another processor held a lock, or an interrupt was pending. req:
KVM_REQ_OUTSIDE_GUEST_MODE (0) or KVM_REQ_VM_DEAD (1) to all vCPUs. kick, td_exit: a vCPU left the TD; rax: what
VP.ENTER answered. wait_for_sept_zap: a vCPU was kept out. op_end: a part of an operation that is made of several (0 the
guest's access, 1 the fault, 2 VP.ENTER)."""

_REQUESTS = ("OUTSIDE_GUEST_MODE", "VM_DEAD")
_HEX = frozenset({"gfn", "old_spte", "new_spte", "spte", "before", "after", "error_code", "hpa", "rax", "rcx", "rdx",
"r8",
                  "more"})
_SIGNED = frozenset({"ret", "errno"})


class Record(NamedTuple):
    """One thing that happened."""

    kind: str
    """A key of `EVENT_FIELDS`."""
    cpu: int
    step: int
    fields: dict[str, Any]

    def __str__(self) -> str:
        words = [f"{name} {value:x}" if name in _HEX else f"{name} {value}" for name, value in self.fields.items()]
        return " ".join([self.kind, *words])


def make_record(row: Any) -> Record:
    """One element of an EVENT_DTYPE array as a Record."""
    kind = EVENT_KINDS[row["kind"]]
    numbers = row["a"].tolist()
    if kind == "assert":
        fields: dict[str, Any] = {"assert": ASSERT_KINDS[numbers[0]], "function": row["function"].decode(),
                                  "id": row["id"].decode()}
    elif kind == "py_hook":
        fields = {"hook": row["function"].decode(), "gfn": numbers[0], "level": numbers[1], "ret": signed(numbers[2]),
                  "what": PY_HOOK_KINDS[numbers[3]], "label": row["id"].decode(errors="replace")}
    else:
        names = EVENT_FIELDS.get(kind)
        if names is None:
            names = tuple(f"a{i}" for i in range(8))
        fields = {name: signed(value) if name in _SIGNED else value for name, value in zip(names, numbers)}
        if "leaf" in fields:
            fields.pop("record", None)
            fields |= {"leaf": leaf_name(fields["leaf"]), "status": status_name(fields["status"])}
        if kind == "req":
            fields["request"] = _REQUESTS[fields["request"]]
    return Record(kind, int(row["cpu"]), int(row["step"]), fields)


def records(events: np.ndarray) -> Iterator[Record]:
    """The elements of an EVENT_DTYPE array, readable."""
    for row in events:
        yield make_record(row)


def fast_page_fault_event(vcpu: int, gfn: int, error_code: int, old: int, new: int, ret: int) -> str:
    """Tracepoint fast_page_fault. The gva of a TDP fault is its gpa; the SPTE's address is nobody's business."""
    words = [word for bit, word in enumerate("PWU-F") if error_code >> bit & 1]
    return (f"fast_page_fault: vcpu {vcpu} gva {gfn << 12:x} error_code {'|'.join(words)} sptep 0000000000000000 "
            f"old {old:#x} new {new:x} spurious {int(ret == 6)} fixed {int(ret == 5)}")


def seamcall_event(leaf: str, status: str, rcx: int, rdx: int, r8: int, lp: int) -> str:
    """``event: fields`` of a SEAMCALL."""
    return f"tdpfast_seamcall: {leaf} lp {lp} rcx {rcx:x} rdx {rdx:x} r8 {r8:x} status {status}"


def trace_event(record: Record) -> str:
    """``event: fields`` as the kernel's tracepoint prints it, or as a ``tdpfast_*`` event."""
    f = record.fields
    if record.kind == "chg":
        return (f"kvm_tdp_mmu_spte_changed: as id {f['as_id']} gfn {f['gfn']:x} level {f['level']} "
                f"old_spte {f['old_spte']:x} new_spte {f['new_spte']:x}")
    if record.kind == "split":
        return (f"kvm_mmu_split_huge_page: gfn {f['gfn']:x} spte {f['spte']:x} level {f['level']} "
                f"errno {f['errno']}")
    if record.kind == "fast_pf":
        return fast_page_fault_event(record.cpu, *f.values())
    if record.kind == "seam":
        return seamcall_event(*(f[name] for name in ("leaf", "status", "rcx", "rdx", "r8", "lp")))
    name, _, text = str(record).partition(" ")
    return f"tdpfast_{name.lower()}: {text}".rstrip()


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


def trace_lines(records: Iterable[Record]) -> Iterator[str]:
    """Records as lines of tracefs' ``trace`` file. The time is the number of the record, in microseconds."""
    for i, record in enumerate(records):
        task = f"CPU {record.cpu}/KVM"
        yield (f"{task:>16}-{4242 + record.cpu:<7} [{record.cpu:03}] ..... {i // 1000000:5}.{i % 1000000:06}: "
               f"{trace_event(record)}")
