"""Scenarios: a VM, operations that set it up, one list of operations per thread, and what to expect.

A scenario is data. The module has the memory of pfns 0x100000 to 0x1fffff, of which KVM has those below 0x109100 for
the TD itself; pages of the guest lie above. Files are TOML or JSON and mirror the classes one to one:

    name = "two-vcpus-fault-same-gfn"
    [vm]
    vcpus = 2
    [[slot]]
    base_gfn = 0
    npages = 0x1000
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
from collections.abc import Collection, Mapping
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

from tdpfast._arguments import check_shape, shared_gfn, shown
from tdpfast._face.td import MAX_ATTRIBUTES
from tdpfast._names import Limit
from tdpfast._program.program import lower
from tdpfast._read import load_json, read_text
from tdpfast.checks import NAMES
from tdpfast.design import get_design, sorted_knobs
from tdpfast.errors import UsageError
from tdpfast.memslot import Memslot, check_slots
from tdpfast.ops import MIRROR, OPS
from tdpfast.spte import MMUS

VM_FIELDS: dict[str, Collection[int | str]] = {
    "levels": (4, 5), "runnable": (0, 1), "vcpus": range(9), "pending_ve_disable": (0, 1), "tdx": (0, 1),
    "mmu": tuple(MMUS), "nx_huge_pages": (0, 1), "pml": (0, 1), "maxphyaddr": range(36, 53), "root_level": (4, 5)}
"""Fields of a scenario's VM, and their values."""
TD_FIELDS = {"runnable": "MR.FINALIZE is a TD's", "vcpus": "vCPUs that enter a guest are a TD's",
             "pending_ve_disable": "TD_CTLS are a TD's"}
PLAIN_FIELDS = {"mmu": "a TD has an EPT with A/D bits", "pml": "KVM logs no pages of a TD by PML",
                "maxphyaddr": "the module's processors have 52 bits"}
"""Fields that mean something on a TD alone, and on other VMs alone: why."""
SLOT_FIELDS = ("base_gfn", "npages", "guest_memfd", "dirty_log", "smm")
MEMORY = (0x100000, 0x200000)
"""Frames of the module's memory, [start, end) of pfns."""
TD_PAGES = (0x100100, 0x109100)
"""Those that KVM has for the TD itself and its S-EPT."""
IMPOSSIBLE = "impossible"
TOP_FIELDS = {"name", "issue", "title", "text", "vm", "slot", "attributes", "setup", "thread", "expect", "expect_gated",
              "reason"}


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
    """One scenario, checked when it is made: whatever is wrong with it is a UsageError then.

    An operation that cannot do anything is wrong: without a gfn, with an empty range, with a pfn outside the module's
    memory, on a vCPU that never enters the guest. where: what errors call it; default: its name.

    vm: see `VM_FIELDS`. slots: its memslots, as tables with `SLOT_FIELDS` of `tdpfast.vm.Memslot`; without, one for all
    gfns, which has a guest_memfd if an operation is about private memory. attributes: ranges that are private or shared
    from the beginning, as tables of start, end, private. expect: design, with its knobs (``v7.3+no_freeze``) ->
    "holds", "impossible" (the set-up fails there), or names of checks separated by blanks that must be violated when
    the rules of today's callers are lifted. expect_gated: the same with the rules
    in place, for the designs that do not hold even then. reason: design -> why it holds or fails, for reports; the
    design "gated" says why nothing happens with the rules in place.
    """

    name: str
    threads: tuple[Thread, ...]
    setup: tuple[dict, ...] = ()
    vm: Mapping[str, int | str] = field(default_factory=dict)
    slots: tuple[dict[str, int], ...] = ()
    attributes: tuple[dict[str, int], ...] = ()
    issue: str = ""
    title: str = ""
    text: str = ""
    expect: Mapping[str, str] = field(default_factory=dict)
    expect_gated: Mapping[str, str] = field(default_factory=dict)
    reason: Mapping[str, str] = field(default_factory=dict)
    where: InitVar[str] = ""

    def __post_init__(self, where: str) -> None:
        need(isinstance(self.name, str) and bool(self.name), where or "scenario", "no name", "name = \"what-happens\"")
        where = where or self.name
        need(self.name.isprintable(), where, f"the name {self.name!r} is not one line of text",
             "letters, digits and dashes")
        for key in ("issue", "title", "text"):
            need(isinstance(getattr(self, key), str), where, f"{key} is {shown(getattr(self, key))}", "a text")
        need(isinstance(self.threads, (list, tuple)) and 1 <= len(self.threads) <= Limit.MAX_THREADS
             and all(isinstance(thread, Thread) for thread in self.threads), where, "no threads, or more than 16",
             "1 to 16 Threads")
        need(isinstance(self.reason, Mapping) and all(isinstance(text, str) for text in self.reason.values()), where,
             "reason is no table of texts", "[reason] with design = \"why\"")
        parsed = {
            "threads": tuple(Thread(t.name, op_list(where, f"thread {shown(t.name)}", t.ops)) for t in self.threads),
            "setup": op_list(where, "setup", self.setup), "vm": parse_vm(where, self.vm),
            "slots": tables(where, "slot", self.slots, SLOT_FIELDS),
            "attributes": tables(where, "attributes", self.attributes, ("start", "end", "private")),
            "expect": parse_expect(where, "expect", self.expect),
            "expect_gated": parse_expect(where, "expect_gated", self.expect_gated), "reason": dict(self.reason)}
        for key, value in parsed.items():
            object.__setattr__(self, key, value)
        check_ops(self, where)

    @property
    def tdx(self) -> bool:
        """Whether its VM is a TD."""
        return bool(self.vm.get("tdx", 1))

    @property
    def end(self) -> int:
        """The first gfn that its guest does not have."""
        levels = int(self.vm.get("levels", self.vm.get("root_level", 4)))
        if self.tdx:
            return shared_gfn(levels)
        return int(1 << min(9 * levels, int(self.vm.get("maxphyaddr", 52)) - 12))

    def memslots(self) -> tuple[Memslot, ...]:
        """Its VM's memslots."""
        if self.slots:
            return tuple(Memslot(**slot) for slot in self.slots)      # type: ignore[arg-type]  # 0 and 1 are truths
        ops = [*self.setup, *(op for thread in self.threads for op in thread.ops)]
        return (Memslot(0, self.end, guest_memfd=self.tdx and any(about_private(op) for op in ops)),)

    def expected(self, design: str, *, gated: bool) -> str | None:
        """What the scenario says of a design by name, knobs in any order; None if it says nothing."""
        wanted = sorted_knobs(design)
        table = self.expect_gated if gated else self.expect
        return next((text for name, text in table.items() if sorted_knobs(name) == wanted), None)

    def to_record(self) -> dict:
        """The mapping a file holds: parse() of it gives an equal scenario, json.dumps() of it a scenario file."""
        out = {"name": self.name, "issue": self.issue, "title": self.title, "text": self.text, "vm": dict(self.vm),
               "slot": [dict(slot) for slot in self.slots], "attributes": [dict(a) for a in self.attributes],
               "setup": [dict(op) for op in self.setup],
               "thread": [{"name": t.name, "ops": [dict(op) for op in t.ops]} for t in self.threads],
               "expect": dict(self.expect), "expect_gated": dict(self.expect_gated), "reason": dict(self.reason)}
        return {key: value for key, value in out.items() if value}

    def canonical(self) -> str:
        """The part of a scenario that decides what happens, as one line: what tokens are tied to."""
        memory = [self.slots, self.attributes] if self.slots or self.attributes else []
        return json.dumps([self.name, sorted(self.vm.items()), self.setup, [t.ops for t in self.threads], *memory],
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


def number_of(op: Mapping, key: str, default: int = 0) -> int:
    """A field that lower() has looked at."""
    value = op.get(key, default)
    return int(value, 0) if isinstance(value, str) else value


def tables(where: str, name: str, value: Any, fields: tuple[str, ...]) -> tuple[dict[str, int], ...]:
    """A list of tables of small numbers, of which `fields` are the names."""
    need(isinstance(value, (list, tuple)) and all(isinstance(table, Mapping) for table in value), where,
         f"{name} is no list of tables", f"[[{name}]] with " + ", ".join(fields))
    for i, table in enumerate(value):
        for key, number in table.items():
            need(key in fields, where, f"{name} {i} has an unknown field {shown(key)}", "use " + ", ".join(fields))
            need(type(number) is int and number >= 0, where, f"{key} of {name} {i} is {shown(number)}",
                 "a number from 0")
    return tuple(dict(table) for table in value)


def about_private(op: Mapping) -> bool:
    """Whether an operation is about a TD's private memory."""
    spec = OPS[op["op"]]
    fields = spec.defaults(True)
    if "private" in fields:
        return bool(op.get("private", fields["private"]))
    if "filter" in fields:
        return bool(number_of(op, "filter", fields["filter"]) & 2)
    return bool(spec.gmem) or spec.roots == MIRROR or op["op"] in ("gmem_convert", "honor_accept", "accept",
                                                                   "guest_access")


def check_memory(scenario: Scenario, where: str) -> None:
    """UsageError unless slots and attributes are ones that its VM can have."""
    for i, slot in enumerate(scenario.slots):
        need("npages" in slot, where, f"slot {i} has no npages",
             "npages = ..., and base_gfn where it does not begin at 0")
    try:
        slots = check_slots(scenario.memslots(), scenario.tdx, scenario.end)
    except UsageError as error:
        raise UsageError(f"{where}: {error.what}", error.why, error.fix) from error
    need(scenario.tdx or not scenario.attributes, where, "attributes of a VM without TDX", "tdx = 1, or none")
    need(len(scenario.attributes) <= MAX_ATTRIBUTES, where, f"{len(scenario.attributes)} ranges of attributes",
         f"at most {MAX_ATTRIBUTES}")
    for i, a in enumerate(scenario.attributes):
        need(a.keys() == {"start", "end", "private"} and a["private"] in (0, 1), where,
             f"attributes {i} lacks a field, or private is neither 0 nor 1", "start, end, private")
        need(a["start"] < a["end"] <= scenario.end, where,
             f"attributes {i} has an empty range, or one beyond the guest",
             f"start < end <= {scenario.end:#x}")
        need(not a["private"] or any(slot.base_gfn < a["end"] and a["start"] < slot.end and slot.row(True)[2]
                                     for slot in slots), where,
             f"attributes {i} makes gfns private that no slot with guest_memfd holds",
             "guest_memfd = 1 in their [[slot]]")


def check_fields(where: str, op: Mapping, scenario: Scenario) -> None:
    """UsageError unless an operation is one that the VM knows, with fields that it has."""
    check_shape(where, op)
    try:
        lower(op, scenario.tdx)
    except UsageError as error:
        raise UsageError(f"{where}: {error.what}", error.why, error.fix) from error


def check_op(where: str, op: Mapping, scenario: Scenario) -> None:
    """UsageError unless this VM can run the operation, and it is about something."""
    name, vcpus, end = op["op"], int(scenario.vm.get("vcpus", 2)), scenario.end
    named = number_of(op, "slot", -1) >= 0
    for key in OPS[name].needed:
        need(key in op or (key == "pfn" and bool(op.get("noslot"))) or (named and key in ("start", "end")), where,
             f"op {name!r} has no {key}", f"{key} = ...: without, it is about nothing")
    for key, top in (("gfn", end - 1), ("start", end), ("end", end), ("gpa", (end << 12) - 1)):
        shared = end << 12 if key == "gpa" and name == "guest_access" and scenario.tdx else 0
        need(number_of(op, key) & ~shared <= top, where, f"{key} {number_of(op, key):#x} of op {name!r} is "
             f"{'not private memory' if scenario.tdx else 'no memory of the guest'}",
             f"0..{top:#x}" + ": the shared bit of the TD is above" * scenario.tdx)
    check_slot(where, op, scenario)
    need("start" not in op or number_of(op, "start") < number_of(op, "end"), where,
         f"op {name!r} has an empty range", "an end above its start")
    need(name != "poke" or bool(number_of(op, "set") | number_of(op, "clear")), where,
         "op 'poke' has neither set nor clear", "bits to set or to clear")
    for key in ("mask", "filter"):
        need(key not in op or number_of(op, key) != 0, where, f"{key} 0 of op {name!r} leaves nothing to do", "another")
    if "pfn" in op and scenario.tdx:
        check_pfn(where, op)
    if name == "accept":
        need(number_of(op, "gpa") % 4096 == 0, where, f"gpa {number_of(op, 'gpa'):#x} of op 'accept' is no page",
             "a multiple of 0x1000")
    vcpu = number_of(op, "vcpu")
    need("vcpu" not in OPS[name].fields or vcpu < vcpus, where, f"vcpu {vcpu} of op {name!r}",
         f"the TD has {vcpus}: raise vm.vcpus, or a smaller number")


def check_slot(where: str, op: Mapping, scenario: Scenario) -> None:
    """UsageError for an operation in a hole, in a slot that is not there, or not in the slot that it names."""
    name, slots = op["op"], scenario.memslots()
    number = number_of(op, "slot", -1)
    need(number < len(slots), where, f"slot {number} of op {name!r}", f"0..{len(slots) - 1}, as [[slot]] has them")
    space = [slot for slot in slots if slot.smm == bool(op.get("smm"))]
    need(not scenario.tdx or not (op.get("guest_mode") or op.get("smm")), where,
         f"op {name!r} of L2, or in system management mode: KVM runs neither in a TD", "[vm] with tdx = 0")
    need(bool(space), where, f"op {name!r} with smm = 1",
         "a [[slot]] with smm = 1: without, that address space is empty")
    if not scenario.slots:
        return
    if number >= 0 and "start" in op:
        need(slots[number].base_gfn <= number_of(op, "start") and number_of(op, "end") <= slots[number].end, where,
             f"the range of op {name!r} is not within slot {number}",
             f"{slots[number].base_gfn:#x}..{slots[number].end:#x}, or no range: all of it")
    places = [number_of(op, key) - (key == "end") for key in ("gfn", "start") if key in op]
    for gfn in places if not op.get("noslot") else ():
        found = [slot for slot in (space if number < 0 else [slots[number]]) if slot.base_gfn <= gfn < slot.end]
        need(bool(found), where, f"gfn {gfn:#x} of op {name!r} lies in no slot",
             "a [[slot]] that holds it, or noslot = 1 for MMIO")
        need(OPS[name].gmem != "fault" or not scenario.tdx or not about_private(op) or bool(found[0].row(True)[2]),
             where, f"gfn {gfn:#x} of op {name!r} is private in a slot without guest_memfd (KVM answers -EFAULT)",
             "private = 0, or guest_memfd = 1 in the [[slot]]")


def check_pfn(where: str, op: Mapping) -> None:
    """UsageError unless the operation's page is one that the guest can have there."""
    name, gfn, pfn = op["op"], number_of(op, "gfn"), number_of(op, "pfn")
    size = 1 << 9 * (number_of(op, "level", 1) - 1) if name == "map" else 1
    need((gfn ^ pfn) % size == 0 or name != "map", where,
         f"gfn {gfn:#x} and pfn {pfn:#x} of op 'map' do not lie alike in their huge page",
         f"a pfn that differs from the gfn by a multiple of {size:#x}")
    need(not TD_PAGES[0] <= pfn < TD_PAGES[1], where,
         f"pfn {pfn:#x} of op {name!r}: KVM has that page for the TD itself or its S-EPT",
         f"another than {TD_PAGES[0]:#x}..{TD_PAGES[1] - 1:#x}, such as 0x140000")
    private = about_private(op) or name in ("pamt_get", "pamt_put")
    need(not private or bool(op.get("noslot")) or MEMORY[0] <= pfn < MEMORY[1], where,
         f"pfn {pfn:#x} of op {name!r} is outside the module's memory", f"{TD_PAGES[1]:#x}..{MEMORY[1] - 1:#x}")


ENTERING = ("vp_enter", "guest_accept")
INSIDE = ("touch", "accept", "guest_access", "td_exit")
"""What a vCPU does that is in the guest."""


def check_entered(scenario: Scenario, where: str) -> None:
    """UsageError for a guest's operation on a vCPU that nothing in the scenario takes into the guest."""
    ops = [(f"setup {i}", op) for i, op in enumerate(scenario.setup)]
    ops += [(f"thread {t}, op {i}", op) for t, thread in enumerate(scenario.threads)
            for i, op in enumerate(thread.ops)]
    entered = {number_of(op, "vcpu") for _, op in ops if op["op"] in ENTERING}
    for place, op in ops:
        vcpu = number_of(op, "vcpu")
        need(op["op"] not in INSIDE or vcpu in entered, f"{where}: {place}",
             f"op {op['op']!r} runs on vCPU {vcpu}, which is outside the guest",
             f"{{op = \"vp_enter\", vcpu = {vcpu}}} in the set-up or before it")


def check_ops(scenario: Scenario, where: str) -> None:
    """UsageError, naming the place, unless the scenario's VM can run its operations."""
    places = [(f"{where}: setup {i}", op) for i, op in enumerate(scenario.setup)]
    for t, thread in enumerate(scenario.threads):
        need(bool(thread.ops), where, f"thread {t} has no operations", "at least one, or a thread less")
        places += [(f"{where}: thread {t}, op {i}", op) for i, op in enumerate(thread.ops)]
    for place, op in places:
        check_fields(place, op, scenario)
    check_memory(scenario, where)
    for place, op in places:
        check_op(place, op, scenario)
    check_entered(scenario, where)


def parse_vm(where: str, vm: Any) -> dict[str, int | str]:
    need(isinstance(vm, Mapping), where, "vm is no table", "[vm] with " + ", ".join(VM_FIELDS))
    for key, value in vm.items():
        need(key in VM_FIELDS, where, f"vm has an unknown field {shown(key)}", "use " + ", ".join(VM_FIELDS))
        need(type(value) in (int, str) and value in VM_FIELDS[key], where, f"vm.{key} is {shown(value)}",
             f"one of {list(VM_FIELDS[key])}")
    need("levels" not in vm or "root_level" not in vm, where, "vm has levels and root_level",
         "one of them: two names of one thing")
    for key, why in (PLAIN_FIELDS if vm.get("tdx", 1) else TD_FIELDS).items():
        need(key not in vm, where, f"vm.{key} does nothing here: {why}",
             "tdx = 0 for a VM without TDX" if vm.get("tdx", 1) else "without it, or tdx = 1")
    return dict(vm)


def parse_expect(where: str, name: str, expect: Any) -> dict[str, str]:
    need(isinstance(expect, Mapping), where, f"{name} is no table", f"[{name}] with design = \"holds\" or checks")
    for design, text in expect.items():
        try:
            get_design(design)
        except UsageError as error:
            raise UsageError(f"{where}: {name}: {error.what}", error.why, error.fix) from error
        words = text.split() if isinstance(text, str) else []
        need(bool(words) and (words in (["holds"], [IMPOSSIBLE]) or all(w in NAMES for w in words)), where,
             f"{name}.{design} is {text!r}", f"\"holds\", \"{IMPOSSIBLE}\" or names of checks: " + ", ".join(NAMES))
    return dict(expect)


def parse(record: Any, where: str) -> Scenario:
    """A scenario from the mapping a file holds; UsageError names `where` and what is wrong."""
    need(isinstance(record, dict), where, "the file holds no table", "the fields of tdpfast.scenario")
    check_shape(where, record)
    unknown = sorted(set(record) - TOP_FIELDS)
    need(not unknown, where, f"unknown field {', '.join(unknown)}", "use " + ", ".join(sorted(TOP_FIELDS)))
    need(isinstance(record.get("name"), str) and bool(record["name"]), where, "no name", 'name = "what-happens"')
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
    rest = {"slots" if key == "slot" else key: record[key] for key in record if key not in ("name", "thread")}
    return Scenario(name=record.get("name", ""), threads=tuple(parsed), where=where, **rest)


def load(path: str | Path) -> Scenario:
    """Reads a .toml or .json scenario; UsageError for a missing, unreadable or malformed file."""
    path = Path(path) if isinstance(path, str) else path
    text = read_text(path, "a scenario file or a catalogue's name")
    try:
        record = load_json(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is malformed", str(error), "TOML, or JSON in a .json file") from error
    return parse(record, str(path))
