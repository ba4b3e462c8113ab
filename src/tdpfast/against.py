"""One design against another: what differs between them over generated scenarios, and nothing else.

Both are explored on the same scenarios, with the rules of today's callers in place and lifted. What is compared: the
checks violated; the final states (where both searches were complete, nothing was violated and both have one SPTE
layout); and on one undisturbed execution, in which each thread runs until it has to wait, the SEAMCALLs, the rounds of
retry loops and the steps made under mmu_lock. Each difference is made smaller before it is told, and told once however
often it is met.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from tdpfast._arguments import check_int, shown
from tdpfast._explore.explorer import KIND_NAMES
from tdpfast.check import HOLDS, UNKNOWN, VIOLATED, Limits, Verdict, build, check, explore
from tdpfast.checks import names_of
from tdpfast.design import Design, get_design
from tdpfast.errors import UsageError
from tdpfast.events import EVENT_KINDS, leaf_name
from tdpfast.generate import Generator
from tdpfast.scenario import Scenario
from tdpfast.shrink import operations, shrink
from tdpfast.story import op_text

LIMITS = Limits(max_transitions=200_000, states=True)
"""How far each of the many searches goes."""
SEAM, STEP = EVENT_KINDS.index("seam"), EVENT_KINDS.index("step")
VIOLATION, GONE, STATES, CALLS, RETRIES, LOCK = "new violation", "violation gone", "final states", "SEAMCALLs", \
    "retries", "lock hold"
KINDS = (VIOLATION, GONE, STATES, CALLS, RETRIES, LOCK)
"""Kinds of differences, the one that matters most first."""


@dataclass(frozen=True)
class Facts:
    """What one design came to in one scenario.

    checks: names of the violated ones; states: digests of the final states; calls: SEAMCALLs by leaf of the undisturbed
    execution, retries: rounds of its retry loops, held: its steps under mmu_lock, by mode.
    """

    verdict: str
    checks: frozenset[str]
    states: frozenset[int]
    calls: tuple[tuple[str, int], ...]
    retries: int
    held: tuple[int, int]


def facts(scenario: Scenario, design: Design, gated: bool, limits: Limits = LIMITS) -> Facts | None:
    """None for a scenario that this design refuses, or whose set-up it does not survive."""
    try:
        program = build(scenario, design.replace(ungated=not gated), every_entry=limits.every_entry)
    except UsageError:
        return None
    search = explore(program, limits)
    result = search.run()
    verdict = VIOLATED if result["checks"] else HOLDS if result["complete"] else UNKNOWN
    first = explore(program, limits).step()
    calls: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    held = [0, 0]
    if first is not None:
        program.record(True)
        explore(program, limits).replay(first["schedule"])
        mode: dict[int, int] = {}
        for kind, cpu, _step, a, _s0, _s1 in program.events():
            if kind == SEAM:
                calls[leaf_name(a[0])] += 1
            elif kind == STEP:
                name = KIND_NAMES[a[0]]
                steps[name] += 1
                if name in ("read_lock", "write_lock"):
                    mode[cpu] = int(name == "write_lock")
                elif name in ("read_unlock", "write_unlock"):
                    mode.pop(cpu, None)
                elif cpu in mode:
                    held[mode[cpu]] += 1
    return Facts(verdict, frozenset(names_of(result["checks"])),
                 frozenset(search.states()) if result["complete"] and not result["checks"] else frozenset(),
                 tuple(sorted(calls.items())), steps["retry"], (held[0], held[1]))


def words(checks: Iterable[str]) -> str:
    return " ".join(sorted(checks)) or "nothing"


def compare(mine: Facts, base: Facts, states: bool) -> Iterator[tuple[str, str]]:
    """(kind, text) of each difference. states: final states can be compared. What a limit ended is compared as far as
    something was found in it."""
    if new := mine.checks - base.checks:
        yield VIOLATION, words(new) + (" (a limit ended the search of the base)" if base.verdict == UNKNOWN else "")
    if (gone := base.checks - mine.checks) and mine.verdict != UNKNOWN:
        yield GONE, words(gone)
    if mine.verdict == base.verdict == HOLDS:
        if states and mine.states != base.states:
            yield STATES, f"{len(mine.states - base.states)} new, {len(base.states - mine.states)} gone"
        if mine.calls != base.calls:
            a, b = Counter(dict(mine.calls)), Counter(dict(base.calls))
            yield CALLS, ", ".join(f"{leaf} {b[leaf]} -> {a[leaf]}" for leaf in sorted(a | b) if a[leaf] != b[leaf])
        if mine.retries != base.retries:
            yield RETRIES, f"{base.retries} -> {mine.retries}"
        for held, was, mode in zip(mine.held, base.held, ("read", "write")):
            if held > was:
                yield LOCK, f"{was} -> {held} steps with mmu_lock for {mode}"


@dataclass(frozen=True)
class Difference:
    """One difference, in the smallest scenario that shows it. like: how many scenarios showed the same kind of it;
    number: the generated scenario it was first met in; verdict: of the design in question, with token and story where
    a check is violated."""

    kind: str
    text: str
    scenario: Scenario
    gated: bool
    number: int
    like: int = 1
    verdict: Verdict | None = None


@dataclass
class Against:
    """What a comparison came to. tried: scenarios, each gated and ungated; compared: pairs of searches that could be
    compared; undecided: pairs of which a limit ended one that had found nothing; refused: pairs that one of the designs
    has no answer to (a set-up it does not survive). next: the number of the scenario to go on with."""

    mine: str
    base: str
    seed: int
    tried: int = 0
    compared: int = 0
    undecided: int = 0
    refused: int = 0
    next: int = 0
    differences: list[Difference] = field(default_factory=list)

    @property
    def violated(self) -> bool:
        """Whether the design violates what its base does not."""
        return any(d.kind == VIOLATION for d in self.differences)


def key_of(kind: str, text: str, gated: bool) -> tuple[str, str, bool]:
    """What makes two differences alike: numbers apart, the same words."""
    return kind, "".join(ch for ch in text if not ch.isdigit()), gated


def smallest(scenario: Scenario, mine: Design, base: Design, gated: bool, key: tuple[str, str, bool]) -> Scenario:
    """The scenario with everything left out that this difference does not need."""
    states = mine.layout == base.layout

    def shows(less: Scenario) -> bool:
        a, b = facts(less, mine, gated), facts(less, base, gated)
        return a is not None and b is not None and any(
            key_of(kind, text, gated) == key for kind, text in compare(a, b, states))

    return shrink(scenario, shows, attempts=60)


def _part(task: tuple) -> dict[str, Any]:
    """Numbers [first, first + count) of a seed: what was met, by key."""
    mine, base, seed, focus, first, count = task
    out: dict[str, Any] = {"tried": 0, "compared": 0, "undecided": 0, "refused": 0, "met": []}
    states = mine.layout == base.layout
    for number, scenario in Generator(seed, focus).scenarios(first, count):
        out["tried"] += 1
        for gated in (True, False):
            a, b = facts(scenario, mine, gated), facts(scenario, base, gated)
            if a is None or b is None:
                out["refused"] += 1
                continue
            out["undecided" if UNKNOWN in (a.verdict, b.verdict) else "compared"] += 1
            out["met"] += [(kind, text, number, scenario, gated) for kind, text in compare(a, b, states)]
    return out


def against(mine: str | Design, base: str | Design, *, scenarios: int = 300, seed: int = 0, first: int = 0,
            focus: tuple[str, ...] = (), jobs: int = 0, executor: Executor | None = None,
            progress: Callable[[int], object] | None = None) -> Against:
    """Compares two designs over the generated scenarios [first, first + scenarios) of a seed.

    focus: see tdpfast.generate.Generator. jobs: processes when no executor is given; 0 = one per CPU, 1 = here. The
    result depends on neither. progress: called with how many scenarios are done. UsageError for an unknown design.
    """
    mine, base = get_design(mine), get_design(base)
    if mine.canonical() == base.canonical() and mine.name == base.name:
        raise UsageError(f"{mine.name} against itself", "nothing can differ", "another design")
    check_int("scenarios", scenarios, 1, 1 << 32)
    check_int("first", first, 0, 1 << 62)
    Generator(seed, focus)
    if executor is not None and not callable(getattr(executor, "map", None)):
        raise UsageError(f"bad executor {shown(executor)}", "it has no map()", "an Executor of concurrent.futures")
    tasks = [(mine, base, seed, focus, n, min(10, first + scenarios - n))
             for n in range(first, first + scenarios, 10)]
    out = Against(mine.name, base.name, seed, next=first + scenarios)
    met: dict[tuple, Difference] = {}
    jobs = check_int("jobs", jobs, 0, 1024) or os.cpu_count() or 1
    if executor is not None:
        parts = executor.map(_part, tasks)
        gather(out, parts, met, progress)
    elif jobs == 1 or len(tasks) == 1:
        gather(out, map(_part, tasks), met, progress)
    else:
        with ProcessPoolExecutor(jobs) as pool:
            gather(out, pool.map(_part, tasks), met, progress)
    for key, found in met.items():
        scenario = smallest(found.scenario, mine, base, found.gated, key)
        verdict = check(scenario, mine, gated=found.gated, limits=replace(LIMITS, states=False)) \
            if found.kind == VIOLATION else None
        a, b = facts(scenario, mine, found.gated), facts(scenario, base, found.gated)
        text = found.text if a is None or b is None else next(
            (t for k, t in compare(a, b, mine.layout == base.layout) if key_of(k, t, found.gated) == key), found.text)
        out.differences.append(replace(found, scenario=scenario, verdict=verdict, text=text))
    out.differences.sort(key=lambda d: (KINDS.index(d.kind), not d.gated, operations(d.scenario), d.number))
    return out


def gather(out: Against, parts: Iterable[dict], met: dict[tuple, Difference],
           progress: Callable[[int], object] | None) -> None:
    """Adds the parts, in their order."""
    for part in parts:
        for name in ("tried", "compared", "undecided", "refused"):
            setattr(out, name, getattr(out, name) + part[name])
        for kind, text, number, scenario, gated in part["met"]:
            key = key_of(kind, text, gated)
            seen = met.get(key)
            met[key] = Difference(kind, text, scenario, gated, number) if seen is None else replace(
                seen, like=seen.like + 1)
        if progress is not None:
            progress(out.tried)


def to_json(result: Against) -> dict:
    """One JSON object: the numbers of `Against`, and per difference kind, text, gated, number, like, the scenario as a
    file holds it, and checks and token where something is violated."""
    return {"design": result.mine, "against": result.base, "seed": result.seed, "tried": result.tried,
            "compared": result.compared, "undecided": result.undecided, "refused": result.refused, "next": result.next,
            "verdict": VIOLATED if result.violated else HOLDS,
            "differences": [{
                "kind": d.kind, "text": d.text, "gated": d.gated, "number": d.number, "like": d.like,
                "scenario": d.scenario.to_record(), "checks": d.verdict.checks if d.verdict else [],
                "token": d.verdict.token if d.verdict else None} for d in result.differences]}


def text(result: Against) -> str:
    """The comparison as plain text: only what differs."""
    out = [f"{result.mine} against {result.base}: {result.tried} generated scenarios of seed {result.seed}, each gated "
           f"and ungated", f"compared {result.compared}, undecided {result.undecided}, refused {result.refused}; next: "
           f"--from {result.next}"]
    if not result.differences:
        out.append("no difference found")
    for d in result.differences:
        where = "gated" if d.gated else "ungated"
        out += ["", f"== {d.kind}, {where}: {d.text}" + f"  (and {d.like - 1} more like it)" * (d.like > 1),
                f"   number {d.number}, made smaller: {d.scenario.name}"]
        out += [f"   before: {op_text(op)}" for op in d.scenario.setup]
        out += [f"   {thread.name}: {'; '.join(op_text(op) for op in thread.ops)}" for thread in d.scenario.threads]
        if d.verdict is not None and d.verdict.checks:
            out.append(f"   violates {' '.join(d.verdict.checks)}")
    return "\n".join(out)
