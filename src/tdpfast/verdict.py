"""What a search is asked for, and what it found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tdpfast._arguments import U64_MAX, check_bool, check_int, check_seconds, one_of, shown
from tdpfast._explore.explorer import STRATEGIES
from tdpfast.checks import names_of
from tdpfast.design import Design
from tdpfast.errors import UsageError
from tdpfast.facts import Facts
from tdpfast.reach import missing
from tdpfast.scenario import Scenario
from tdpfast.story import Line

HOLDS, VIOLATED, UNKNOWN = "holds", "violated", "unknown"
"""Verdicts; where many designs are checked there is IMPOSSIBLE as well: the set-up fails there."""
REPRODUCE = 10                             # runs of a counterexample before it is shown


@dataclass(frozen=True)
class Limits:
    """How far a search goes. Transitions, not seconds, so that the same input gives the same answer; `seconds` (0:
    none) is a budget on top of it. strategy: dpor, sleep, dfs, bound, random or pct. states: count the final states,
    which costs a few microseconds each. first: end with the first violation. every_entry: make a step of each access to
    an entry of a page table, also where no other thread comes to that entry (tdpfast.spans)."""

    strategy: str = "dpor"
    max_transitions: int = 3_000_000
    max_executions: int = 0
    seconds: float = 0.0
    bound: int = 2
    depth: int = 3
    seed: int = 0
    states: bool = False
    first: bool = False
    every_entry: bool = False

    def __post_init__(self) -> None:
        check_seconds(self.seconds)
        if not isinstance(self.strategy, str) or self.strategy not in STRATEGIES:
            raise UsageError(f"unknown strategy {shown(self.strategy)}", "not one of them", one_of(STRATEGIES))
        for name, low, high in (("max_transitions", 0, U64_MAX), ("max_executions", 0, U64_MAX), ("seed", 0, U64_MAX),
                                ("bound", 0, (1 << 31) - 1), ("depth", 1, 64)):
            check_int(name, getattr(self, name), low, high)
        check_bool("states", self.states)
        check_bool("first", self.first)
        check_bool("every_entry", self.every_entry)


@dataclass(frozen=True)
class Counterexample:
    """The shortest schedule found that violates a check.

    check: its name, the heaviest of those violated (of those the scenario expects, if there are any). token:
    replays the schedule; None if it did not, when it was tried. story: what happened on it, line by line.
    assertions: those that fired, in order. finding: the first place that was wrong at the end (check, gfn, level,
    mirror, external); None if the end was not reached. minimised: context switches and steps of the schedule found,
    then of the one shown. reproduced: how many of REPRODUCE runs of it violate the check. facts: what the run shows
    about why.
    """

    check: str
    token: str | None
    story: list[Line]
    assertions: list[str]
    finding: dict | None
    minimised: tuple[int, int, int, int]
    reproduced: int
    facts: Facts

    def to_json(self) -> dict:
        """The fields scripts may rely on; a line of the story as Line.to_json()."""
        switches, steps, fewer, less = self.minimised
        return {"check": self.check, "token": self.token, "assertions": self.assertions,
                "found": {"switches": switches, "steps": steps}, "shown": {"switches": fewer, "steps": less},
                "reproduced": self.reproduced, "story": [line.to_json() for line in self.story]}


@dataclass
class Verdict:
    """What one search found.

    checks: names of the violated checks, sorted. complete: the whole tree was explored. ends: executions by how they
    ended (tdpfast.report.CLASSES); states: how many different final states, 0 if they were not counted. counterexample:
    None where nothing is violated. examples: stories of executions that hold, if asked for. limit: what ended a search
    that is not complete, in words; explored: the share of its tree that it saw, an estimate (Knuth, 1975), None where
    there is none; covered: executions of a search by bound with the largest bound, if it made all of them. replay:
    options that `tdpfast replay` needs beside the token, or a call in Python; advice: a command that goes further.
    file: the design file, if the design is one. reach: what happened (tdpfast.reach); missing: what the scenario asks
    for and never happened, in words: "holds" is not about it then (`not_reached`).
    """

    scenario: str
    design: str
    gated: bool
    verdict: str
    complete: bool
    checks: list[str]
    executions: int
    transitions: int
    seconds: float
    strategy: str = "dpor"
    timed_out: bool = False
    issue: str = ""
    reason: str = ""
    threads: list[str] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)
    states: int = 0
    counterexample: Counterexample | None = None
    examples: list[list[Line]] = field(default_factory=list)
    file: str = ""
    reach: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    limit: str = ""
    explored: float | None = None
    covered: int = 0
    replay: str = ""
    advice: str = ""

    @property
    def token(self) -> str | None:
        """The counterexample's token."""
        return None if self.counterexample is None else self.counterexample.token

    @property
    def not_reached(self) -> bool:
        """It holds, but something that the scenario asks about never happened."""
        return self.verdict == HOLDS and bool(self.missing)

    def _repr_html_(self) -> str:
        """For notebooks: the report's text on it."""
        from html import escape

        from tdpfast.report import counterexample, holding

        return f"<pre>{escape(counterexample(self) if self.checks else holding(self))}</pre>"

    def to_json(self, *, detail: bool = False) -> dict:
        """The fields scripts may rely on. detail: also `threads`, and `counterexample` with its story."""
        out = {
            "scenario": self.scenario, "design": self.design, "gated": self.gated, "verdict": self.verdict,
            "complete": self.complete, "checks": self.checks, "executions": self.executions,
            "transitions": self.transitions, "seconds": round(self.seconds, 6), "token": self.token,
            "missing": self.missing, "reach": self.reach,
            "limit": self.limit, "explored": self.explored,
        }
        if detail:
            found = self.counterexample
            out |= {"threads": self.threads, "counterexample": None if found is None else found.to_json()}
        return out


class Interrupted(KeyboardInterrupt):
    """An interrupt in the middle of a search. Attribute: ``verdict``, what is known by then."""

    def __init__(self, verdict: Verdict):
        super().__init__()
        self.verdict = verdict


def limit_of(limits: Limits, result: dict) -> str:
    """What ended a search before it was complete, in words."""
    if result["complete"]:
        return ""
    if result["timed_out"]:
        return f"{limits.seconds:g} seconds"
    if limits.max_transitions and result["transitions"] >= limits.max_transitions:
        return f"{limits.max_transitions:,} transitions"
    if limits.max_executions and result["executions"] >= limits.max_executions:
        return f"{limits.max_executions:,} executions"
    if result["ends"].get("steps"):
        return "executions that are too long"
    if result["exhausted"] and limits.strategy == "bound":
        return f"{limits.bound} preemptions"
    if result["exhausted"]:
        return "loops that go round without end"
    return "the first violation" if result["checks"] else "an interrupt"


def verdict_of(scenario: Scenario, design: Design, gated: bool, limits: Limits, result: dict) -> Verdict:
    """A result of Explorer.run() as a Verdict, without its counterexample."""
    checks, threads = names_of(result["checks"]), [t.name for t in scenario.threads]
    verdict = VIOLATED if checks else HOLDS if result["complete"] else UNKNOWN
    return Verdict(
        scenario=scenario.name, design=design.name, gated=gated, verdict=verdict, complete=result["complete"],
        checks=checks, executions=result["executions"], transitions=result["transitions"],
        seconds=0.0, strategy=limits.strategy,
        timed_out=result["timed_out"], issue=scenario.issue, threads=threads,
        reach=result["reach"], missing=missing(result["reach"], threads), ends=dict(result["ends"]),
        states=result["states"], limit=limit_of(limits, result), explored=result["explored"],
        covered=result["covered"], file=design.code.shown if design.code else "")
