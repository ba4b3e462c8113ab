"""Scenarios: a VM, operations that set it up, one list of operations per thread, and what to expect.

A scenario is data. The module has the memory of pfns 0x100000 to 0x1fffff, of which KVM has those below 0x109100 for
the TD itself; pages of the guest lie above. Files are TOML or JSON and mirror the classes one to one:

    name = "two-vcpus-fault-same-gfn"
    [vm]
    vcpus = 2
    [[setup]]
    op = "map"
    gfn = 0x600
    pfn = 0x140600
    [[thread]]
    name = "vcpu0"
    ops = [{op = "map", gfn = 0x601, pfn = 0x140601}]
    [expect]
    "v7.3" = "holds"
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tdpfast._arguments import check_shape, shared_gfn, shown
from tdpfast._names import Limit
from tdpfast._program.program import lower
from tdpfast._read import load_json, read_text
from tdpfast.checks import NAMES
from tdpfast.design import PRESETS
from tdpfast.errors import UsageError

VM_FIELDS = {"levels": (4, 5), "runnable": (0, 1), "vcpus": range(9), "pending_ve_disable": (0, 1)}
TOP_FIELDS = {"name", "issue", "title", "text", "vm", "setup", "thread", "expect", "expect_gated", "reason"}


@dataclass(frozen=True)
class Thread:
    """One thread: a name and its operations, in order, as mappings with `op`.

    A thread that faults, walks or reloads acts as a vCPU: it holds references to roots of its own, and takes valid
    ones before each try of a fault. Other threads hold none.
    """

    name: str
    ops: tuple[dict, ...]


@dataclass(frozen=True)
class Scenario:
    """One scenario.

    vm: levels (4 or 5), vcpus, runnable, pending_ve_disable. expect: design -> "holds" or names of checks separated
    by blanks that must be violated when the rules of today's callers are lifted. expect_gated: the same with the rules
    in place, for the designs that do not hold even then. reason: design -> why it holds or fails, for reports; the
    design "gated" says why nothing happens with the rules in place.
    """

    name: str
    threads: tuple[Thread, ...]
    setup: tuple[dict, ...] = ()
    vm: Mapping[str, int] = field(default_factory=dict)
    issue: str = ""
    title: str = ""
    text: str = ""
    expect: Mapping[str, str] = field(default_factory=dict)
    expect_gated: Mapping[str, str] = field(default_factory=dict)
    reason: Mapping[str, str] = field(default_factory=dict)

    def to_record(self) -> dict:
        """The mapping a file holds: parse() of it gives an equal scenario, json.dumps() of it a scenario file."""
        out = {"name": self.name, "issue": self.issue, "title": self.title, "text": self.text, "vm": dict(self.vm),
               "setup": [dict(op) for op in self.setup],
               "thread": [{"name": t.name, "ops": [dict(op) for op in t.ops]} for t in self.threads],
               "expect": dict(self.expect), "expect_gated": dict(self.expect_gated), "reason": dict(self.reason)}
        return {key: value for key, value in out.items() if value}

    def canonical(self) -> str:
        """The part of a scenario that decides what happens, as one line: what tokens are tied to."""
        return json.dumps([self.name, sorted(self.vm.items()), self.setup, [t.ops for t in self.threads]],
                          sort_keys=True)


def need(condition: bool, where: str, what: str, fix: str) -> None:
    if not condition:
        raise UsageError(f"{where}: {what}", "not a scenario", fix)


def op_list(where: str, what: str, value: Any) -> tuple[dict, ...]:
    """A list of operation tables."""
    need(isinstance(value, (list, tuple)), where, f"{what} is no list of operations", "a list of {op = ...} tables")
    for op in value:
        need(isinstance(op, Mapping) and isinstance(op.get("op"), str), where, f"{what} holds {shown(op)}",
             "tables with an op, such as {op = \"map\", gfn = 0x600, pfn = 0x140600}")
    return tuple(dict(op) for op in value)


def check_op(where: str, op: Mapping, vm: Mapping[str, int]) -> None:
    """UsageError unless this TD can run the operation."""
    check_shape(where, op)
    try:
        lower(op)
    except UsageError as error:
        raise UsageError(f"{where}: {error.what}", error.why, error.fix) from error
    values = {key: int(value, 0) if isinstance(value, str) else value for key, value in op.items()
              if key in ("gfn", "start", "end", "pfn", "gpa", "level", "vcpu")}
    end = shared_gfn(vm.get("levels", 4))
    for key, top in (("gfn", end - 1), ("start", end), ("end", end), ("gpa", (end << 12) - 1)):
        need(values.get(key, 0) <= top, where,
             f"{key} {values.get(key, 0):#x} of op {op['op']!r} is not private memory",
             f"0..{top:#x}: the shared bit of a TD with {vm.get('levels', 4)} levels is above")
    size = 1 << 9 * (values.get("level", 1) - 1) if op["op"] == "map" else 1
    need((values.get("gfn", 0) ^ values.get("pfn", 0)) % size == 0 or op["op"] != "map", where,
         f"gfn {values.get('gfn', 0):#x} and pfn {values.get('pfn', 0):#x} of op 'map' do not lie alike in their huge "
         "page", f"a pfn that differs from the gfn by a multiple of {size:#x}")
    if op["op"] == "accept":
        need(values.get("gpa", 0) % 4096 == 0, where, f"gpa {values.get('gpa', 0):#x} of op 'accept' is no page",
             "a multiple of 0x1000")
    vcpus = vm.get("vcpus", 2)
    need("vcpu" not in values or values["vcpu"] < vcpus, where, f"vcpu {values.get('vcpu')} of op {op['op']!r}",
         f"the TD has {vcpus}: raise vm.vcpus, or a smaller number")


def check_pfns(scenario: Scenario, start: int, end: int) -> None:
    """UsageError if a page for the guest lies in [start, end), the frames KVM has for the TD itself and its S-EPT."""
    for op in (*scenario.setup, *(op for thread in scenario.threads for op in thread.ops)):
        pfn = op.get("pfn", 0)
        pfn = int(pfn, 0) if isinstance(pfn, str) else pfn
        if start <= pfn < end:
            raise UsageError(f"{scenario.name}: pfn {pfn:#x} of op {op['op']!r}",
                             "KVM has that page for the TD itself or its S-EPT",
                             f"another than {start:#x}..{end - 1:#x}, such as 0x140000")


def check_ops(scenario: Scenario, where: str) -> None:
    """UsageError, naming the place, unless the scenario's VM can run its operations."""
    op_list(where, "setup", scenario.setup)
    need(isinstance(scenario.threads, (list, tuple)) and 1 <= len(scenario.threads) <= Limit.MAX_THREADS
         and all(isinstance(thread, Thread) for thread in scenario.threads), where, "no threads, or more than 16",
         "1 to 16 Threads")
    for thread in scenario.threads:
        op_list(where, f"thread {shown(thread.name)}", thread.ops)
    for i, op in enumerate(scenario.setup):
        check_op(f"{where}: setup {i}", op, scenario.vm)
    for t, thread in enumerate(scenario.threads):
        for i, op in enumerate(thread.ops):
            check_op(f"{where}: thread {t}, op {i}", op, scenario.vm)


def parse_vm(where: str, vm: Any) -> dict[str, int]:
    need(isinstance(vm, Mapping), where, "vm is no table", "[vm] with " + ", ".join(VM_FIELDS))
    for key, value in vm.items():
        need(key in VM_FIELDS, where, f"vm has an unknown field {shown(key)}", "use " + ", ".join(VM_FIELDS))
        need(type(value) is int and value in VM_FIELDS[key], where, f"vm.{key} is {shown(value)}",
             f"one of {list(VM_FIELDS[key])}")
    return dict(vm)


def parse_expect(where: str, name: str, expect: Any) -> dict[str, str]:
    need(isinstance(expect, dict), where, f"{name} is no table", f"[{name}] with design = \"holds\" or checks")
    for design, text in expect.items():
        need(design in PRESETS, where, f"{name} names the design {design!r}", "use one of " + ", ".join(PRESETS))
        words = text.split() if isinstance(text, str) else []
        need(bool(words) and (words == ["holds"] or all(w in NAMES for w in words)), where,
             f"{name}.{design} is {text!r}", "\"holds\" or names of checks: " + ", ".join(NAMES))
    return dict(expect)


def parse(record: Any, where: str) -> Scenario:
    """A scenario from the mapping a file holds; UsageError names `where` and what is wrong."""
    need(isinstance(record, dict), where, "the file holds no table", "the fields of tdpfast.scenario")
    check_shape(where, record)
    unknown = sorted(set(record) - TOP_FIELDS)
    need(not unknown, where, f"unknown field {', '.join(unknown)}", "use " + ", ".join(sorted(TOP_FIELDS)))
    name = record.get("name")
    need(isinstance(name, str) and name != "", where, "no name", "name = \"...\"")
    need(name.isprintable(), where, f"the name {name!r} is not one line of text", "letters, digits and dashes")
    threads = record.get("thread")
    need(isinstance(threads, list) and 1 <= len(threads) <= Limit.MAX_THREADS, where, "no threads, or more than 16",
         "one [[thread]] with ops per thread")
    parsed = []
    for i, thread in enumerate(threads):
        need(isinstance(thread, dict) and set(thread) <= {"name", "ops"}, where, f"thread {i} is {thread!r}",
             "[[thread]] with name and ops")
        label = thread.get("name", f"thread{i}")
        need(isinstance(label, str) and label.isprintable(), where, f"thread {i} has the name {label!r}",
             "a name of one line")
        parsed.append(Thread(label, op_list(where, f"thread {i}", thread.get("ops"))))
    texts = {key: record.get(key, "") for key in ("issue", "title", "text")}
    for key, value in texts.items():
        need(isinstance(value, str), where, f"{key} is {value!r}", "a text")
    reason = record.get("reason", {})
    need(isinstance(reason, dict) and all(isinstance(v, str) for v in reason.values()), where,
         "reason is no table of texts", "[reason] with design = \"why\"")
    out = Scenario(name=name, threads=tuple(parsed), setup=op_list(where, "setup", record.get("setup", [])),
                   vm=parse_vm(where, record.get("vm", {})),
                   expect=parse_expect(where, "expect", record.get("expect", {})),
                   expect_gated=parse_expect(where, "expect_gated", record.get("expect_gated", {})),
                   reason=dict(reason), **texts)
    check_ops(out, where)
    return out


def load(path: str | Path) -> Scenario:
    """Reads a .toml or .json scenario; UsageError for a missing, unreadable or malformed file."""
    path = Path(path) if isinstance(path, str) else path
    text = read_text(path, "a scenario file or a catalogue's name")
    try:
        record = load_json(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is malformed", str(error), "TOML, or JSON in a .json file") from error
    return parse(record, str(path))
