"""What a run shows about why it came to what it came to: rules of today's callers, assertions, what they stopped.

A reason that is printed is one of these, or the scenario's own where they bear it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tdpfast._names import Errno
from tdpfast.events import WHOLE
from tdpfast.ops import OPS
from tdpfast.scenario import Scenario
from tdpfast.words import FROZEN, op_text

if TYPE_CHECKING:
    from tdpfast.story import Entry, Teller

RULES = {
    "slot": "guest_memfd memslots know no dirty log",
    "gated": "nobody zaps a single entry of a mirror",
    "private": "the hardware walks no mirror",
    "huge": "private faults of this design map 4K",
    "roots": "today's callers invalidate direct roots only",
}
"""The rules of today's callers, as reasons."""
DONE = {"slot": "is refused", "gated": "is refused", "private": "is refused", "huge": "maps 4K",
        "roots": "leaves mirrors alone"}
"""What an operation that meets one comes to."""


@dataclass(frozen=True)
class Facts:
    """What a run shows.

    rules: operations that a rule of today's callers kept from the mirror, or made smaller, each with the rule and the
    step. stopped: assertions after which their operation changed nothing, with the step. changed: an operation in which
    an assertion fired had changed an entry before, other than by FROZEN, or left one other than it was. died: the step
    at which the VM was bugged, None if it was not.
    """

    rules: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    changed: bool = False
    died: int | None = None


@dataclass
class Running:
    """An operation on its way."""

    op: Mapping[str, Any]
    step: int
    cpu: int
    before: dict[Entry, int] = field(default_factory=dict)
    after: dict[Entry, int] = field(default_factory=dict)
    asserts: list[tuple[str, int]] = field(default_factory=list)
    dirty: bool = False          # an entry had another value when the first assertion fired
    huge: bool = False           # it wrote a leaf of more than 4K

    def changed(self) -> bool:
        return self.dirty or any(self.after[entry] != value for entry, value in self.before.items())


def facts_of(teller: Teller, *, gated: bool) -> Facts:
    """The facts of the run that was told last."""
    running: dict[int, Running] = {}
    rules: list[str] = []
    stopped: dict[str, None] = {}
    changed, died = False, None
    for record in teller.walk():
        f, cpu = record.fields, record.cpu
        now = running.get(cpu)
        if record.kind == "op":
            running[cpu] = Running(teller.scenario.threads[cpu].ops[f["index"]], record.step, cpu)
        elif record.kind == "req" and f["request"] == "VM_DEAD" and died is None:
            died = record.step
        elif now is None:
            continue
        elif record.kind == "step":
            note(teller, now, f)
        elif record.kind == "assert" and f["assert"] != "LOCKDEP":
            now.dirty = now.dirty or (not now.asserts and any(
                now.after[entry] != value and now.after[entry] not in FROZEN for entry, value in now.before.items()))
            now.asserts.append((f"{f['assert']} {f['function']}/{f['id']}", record.step))
        elif record.kind == "op_end" and f["kind"] == WHOLE:
            rules += rule_of(now, f["ret"], gated)
            changed |= bool(now.asserts) and now.changed()
            if now.asserts and not now.changed():
                stopped[f"{now.asserts[0][0]} stopped {op_text(now.op)} at step {now.asserts[0][1]}, before anything "
                        "changed"] = None
            del running[cpu]
    for now in running.values():
        changed |= bool(now.asserts) and now.changed()
    return Facts(rules, list(stopped), changed, died)


def note(teller: Teller, now: Running, f: Mapping[str, Any]) -> None:
    """A step of an operation: what it does to an entry."""
    entry = teller.entry(f["object"])
    if entry is None:
        return
    old, new = entry.state(f["before"]), entry.state(f["after"])
    if old != new:
        now.before.setdefault(entry, old)
        now.after[entry] = new
        now.huge = now.huge or (entry.side == "mirror" and entry.level > 1 and entry.text(new).startswith("leaf"))


def rule_of(now: Running, ret: int, gated: bool) -> list[str]:
    """The rule of today's callers that an operation met, as a reason; none without one."""
    name = now.op["op"]
    if not gated or name not in OPS:
        return []
    spec = OPS[name]
    rule = ""
    if spec.refused and ret == -Errno.EINVAL and not now.before and not now.asserts and (
            spec.refused != "private" or now.op.get("private", spec.defaults(True).get("private", 1))):
        rule = spec.refused
    elif number(now.op.get("level", 1)) > 1 and "pfn" in now.op and not now.huge:
        rule = "huge"
    elif name in ("invalidate_roots", "zap_invalidated_roots"):
        rule = "roots"
    return [f"{RULES[rule]}: {op_text(now.op)} {DONE[rule]} (step {now.step})"] if rule else []


def number(value: Any) -> int:
    return int(value, 0) if isinstance(value, str) else int(value)


def reason_of(scenario: Scenario, design: str, gated: bool, checks: list[str], facts: Facts | None) -> str:
    """Why a result is what it is: from the run, or the scenario's own words where the result is what they are about;
    "" where neither says anything. facts: of the counterexample, or of an execution that holds."""
    if checks == ["kernel"] and facts is not None:
        if facts.stopped and not facts.changed:
            return facts.stopped[0]
        if facts.died is not None:
            return f"the VM was bugged at step {facts.died}, when something had changed already"
    if checks:
        expected = (scenario.expected(design, gated=gated) or "holds").split()
        return scenario.reason.get(design, "") if set(expected) <= set(checks) else ""
    if gated:
        rules = facts.rules if facts is not None else []
        own = scenario.reason.get("gated")
        return "" if not rules else rules[0] if not own else f"{own}: {rules[0].split(': ', 1)[1]}"
    return scenario.reason.get(design, "") if scenario.expected(design, gated=False) == "holds" else ""
