"""The sweep of a design: what breaks without each of its guards, and which of the postings' choices go together.

A guard is a knob that is wrong on purpose when set: no freeze, no roll-back, no TRACK, no grace period, ... For each
the scenarios of the catalogues, then generated ones, are asked until one holds with the guard and is violated without
it. A choice is a knob in which the presets differ: for each pair of other choices the review's scenarios are asked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields, replace
from itertools import combinations

from tdpfast._arguments import check_int, one_of, shown
from tdpfast._names import Dispatch, Gate, Reclaim, SplitShared
from tdpfast.catalogue import CATALOGUES, catalogue
from tdpfast.check import HOLDS, UNKNOWN, VIOLATED, Limits, Verdict, build, check, explore
from tdpfast.checks import bit_of
from tdpfast.columns import WIDTH, wrap
from tdpfast.design import PRESETS, WRONG_KNOBS, Design, get_design, with_knobs
from tdpfast.errors import UsageError
from tdpfast.generate import Generator
from tdpfast.scenario import Scenario

LIMITS = Limits(max_transitions=200_000)
"""How far each search goes."""
SHORT = 20_000
"""How far each goes at first, in transitions: most guards are needed by something small."""


@dataclass(frozen=True)
class Guard:
    """A guard of a design and the first scenario that needs it.

    scenario: None if none of the `decided` ones does; gated: with the rules of today's callers in place; executions:
    of the search until its first violation; undecided: scenarios in which a limit ended a search that found nothing.
    """

    knob: str
    scenario: Scenario | None
    gated: bool
    checks: tuple[str, ...]
    executions: int
    decided: int
    undecided: int
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Pair:
    """Two choices together, on top of a design: what the review's scenarios come to; refused: why they mean nothing
    together, or an empty text."""

    knobs: tuple[tuple[str, object], tuple[str, object]]
    gated: tuple[str, ...]
    ungated: tuple[str, ...]
    undecided: int
    refused: str = ""


@dataclass
class Sweep:
    """What a sweep came to."""

    design: str
    seed: int
    generated: int
    guards: list[Guard] = field(default_factory=list)
    not_read: list[str] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)


def guards_of(design: Design) -> tuple[list[str], list[str]]:
    """(knobs whose guard this design has, those that no step of it reads or that do not go with it)."""
    has: list[str] = []
    has_not: list[str] = []
    for knob in WRONG_KNOBS:
        try:
            with_knobs(design, {knob: True})
        except UsageError:
            has_not.append(knob)
        else:
            (has_not if getattr(design, knob) else has).append(knob)
    return has, has_not


def asked(seed: int, generated: int) -> Iterator[Scenario]:
    """The scenarios of the catalogues, then generated ones."""
    for name in CATALOGUES:
        yield from catalogue(name)
    for _, scenario in Generator(seed).scenarios(0, generated):
        yield scenario


def found_by(scenario: Scenario, design: Design, gated: bool, limits: Limits) -> tuple[str, int]:
    """(verdict, executions) of a search that ends at its first violation; HOLDS after none for a scenario the design
    refuses or whose set-up it does not survive: it cannot need the guard."""
    try:
        program = build(scenario, design.replace(ungated=not gated), every_entry=limits.every_entry)
    except UsageError:
        return HOLDS, 0
    result = explore(program, replace(limits, first=True)).run()
    verdict = VIOLATED if result["checks"] else HOLDS if result["complete"] else UNKNOWN
    return verdict, result["executions"]


def guard(task: tuple) -> Guard:
    """The first scenario that needs one guard. Short searches over all scenarios first, then those of `limits` where a
    short one was not enough."""
    design, knob, seed, generated, limits = task
    without = with_knobs(design, {knob: True})
    left = [(gated, scenario) for gated in (True, False) for scenario in asked(seed, generated)]
    decided = 0
    for most in (min(SHORT, limits.max_transitions), limits.max_transitions):
        these, left = left, []
        for gated, scenario in these:
            found = needs(scenario, design, without, gated, replace(limits, max_transitions=most))
            if isinstance(found, Guard):
                return replace(found, knob=knob, decided=decided + 1, undecided=len(left))
            decided += found == HOLDS
            left += [(gated, scenario)] if found == UNKNOWN else []
    return Guard(knob, None, True, (), 0, decided, len(left))


def needs(scenario: Scenario, design: Design, without: Design, gated: bool, limits: Limits) -> Guard | str:
    """The Guard if the scenario needs it; HOLDS if it does not, UNKNOWN if a limit ended one of the searches first."""
    broken, executions = found_by(scenario, without, gated, limits)
    if broken != VIOLATED:
        return broken
    whole, verdict = (check(scenario, d, gated=gated, limits=limits) for d in (design, without))
    new = tuple(sorted(set(verdict.checks) - set(whole.checks), key=bit_of))
    if new and whole.verdict != UNKNOWN:
        return Guard("", scenario, gated, new, executions, 0, 0, verdict)
    return UNKNOWN if whole.verdict == UNKNOWN else HOLDS


def choices(design: Design) -> list[tuple[str, object]]:
    """What the presets do that this design does not: (knob, value), each once."""
    out: dict[tuple[str, object], None] = {}
    for preset in PRESETS.values():
        for f in fields(Design):
            value = getattr(preset, f.name)
            if f.name not in ("name", "ungated", "layout", *WRONG_KNOBS) and value != getattr(design, f.name):
                out.setdefault((f.name, value))
    return list(out)


def pair(task: tuple) -> Pair:
    """The review's scenarios under a design with two choices changed."""
    design, knobs, limits = task
    try:
        changed = design.replace(**dict(knobs))
    except UsageError as error:
        return Pair(knobs, (), (), 0, f"{error.what}: {error.why}")
    found: dict[bool, set[str]] = {True: set(), False: set()}
    undecided = 0
    for scenario in catalogue("review"):
        for gated in (True, False):
            try:
                verdict = check(scenario, changed, gated=gated, limits=limits)
            except UsageError as error:
                return Pair(knobs, (), (), 0, f"{error.what}: {error.why}")
            found[gated] |= set(verdict.checks)
            undecided += verdict.verdict == UNKNOWN
    return Pair(knobs, tuple(sorted(found[True])), tuple(sorted(found[False])), undecided)


def sweep(design: str | Design, *, generated: int = 100, seed: int = 0, pairs: bool = False,
          guards: Iterable[str] = (), limits: Limits = LIMITS, jobs: int = 0,
          progress: Callable[[str], object] | None = None) -> Sweep:
    """Sweeps a design's guards, and with pairs=True the pairs of the postings' choices.

    generated: how many generated scenarios of the seed are asked after the catalogues'. guards: only these knobs. jobs:
    processes; 0 = one per CPU, 1 = here; the result does not depend on it. progress: called with the name of what is
    done. UsageError for an unknown design or guard.
    """
    design = get_design(design)
    check_int("generated", generated, 0, 1 << 32)
    has, has_not = guards_of(design)
    wanted = tuple(guards)
    for knob in wanted:
        if knob not in has:
            raise UsageError(f"guard {shown(knob)}", f"no guard that {design.name} has", one_of(has))
    has = [knob for knob in has if not wanted or knob in wanted]
    out = Sweep(design.name, check_int("seed", seed, 0, (1 << 64) - 1), generated, not_read=has_not)
    work = [(design, knob, seed, generated, replace(limits, states=False)) for knob in has]
    more = [(design, two, replace(limits, states=False)) for two in combinations(choices(design), 2)
            if two[0][0] != two[1][0]] if pairs else []
    jobs = check_int("jobs", jobs, 0, 1024) or os.cpu_count() or 1
    if jobs == 1:
        collect(out, map(guard, work), map(pair, more), progress)
    else:
        with ProcessPoolExecutor(jobs) as pool:
            collect(out, pool.map(guard, work), pool.map(pair, more), progress)
    return out


def collect(out: Sweep, guards: Iterable[Guard], pairs: Iterable[Pair],
            progress: Callable[[str], object] | None) -> None:
    """Adds results in their order."""
    for found in guards:
        out.guards.append(found)
        if progress is not None:
            progress(found.knob)
    for two in pairs:
        out.pairs.append(two)
        if progress is not None:
            progress(" ".join(f"{knob}={value}" for knob, value in two.knobs))


# ---- as text ---------------------------------------------------------------------------------------------------

def rows_of(result: Sweep) -> list[tuple[str, str, str, str]]:
    """guard, first scenario that needs it, callers, checks: a row per guard."""
    out = []
    for g in result.guards:
        if g.scenario is None:
            left = f" ({g.undecided} undecided)" * bool(g.undecided)
            out.append((g.knob, f"nothing in {g.decided} searches needs it{left}", "", ""))
        else:
            out.append((g.knob, g.scenario.name, "gated" if g.gated else "ungated", " ".join(g.checks)))
    return out


ENUMS = {"gate": Gate, "reclaim": Reclaim, "dispatch": Dispatch, "split_shared": SplitShared}


def choice(knob: str, value: object) -> str:
    """A choice as people write it: knob=NAME where its values have names."""
    names = {int(number): name for name, number in ENUMS[knob].__members__.items()} if knob in ENUMS else {}
    return f"{knob}={names.get(int(value), int(value))}"    # type: ignore[call-overload]


def pair_rows(result: Sweep) -> list[tuple[str, str, str]]:
    """two choices, gated, ungated: a row per pair that means something together."""
    out = []
    for p in result.pairs:
        if not p.refused:
            left = f" ({p.undecided} undecided)" * bool(p.undecided)
            out.append((", ".join(choice(*k) for k in p.knobs), " ".join(p.gated) or HOLDS,
                        (" ".join(p.ungated) or HOLDS) + left))
    return out


def refused_pairs(result: Sweep) -> list[str]:
    """A line about the pairs that mean nothing together, if there are any."""
    n = sum(1 for p in result.pairs if p.refused)
    return [f"{n} more pairs mean nothing together; --json says why of each"] if n else []


def scope(result: Sweep) -> str:
    """What was asked, in one line."""
    return (f"{result.design}: the scenarios of {', '.join(CATALOGUES)}, and {result.generated} generated ones of seed "
            f"{result.seed}; each gated, then ungated")


def text(result: Sweep) -> str:
    """The sweep as plain text."""
    head = ("without", "first scenario that needs the guard", "callers", "violates")
    out = [*table([head, *rows_of(result)])]
    if result.not_read:
        out += ["", *wrap("not asked, as no step of this design reads them or they do not go with it: "
                          + ", ".join(result.not_read), WIDTH)]
    if result.pairs:
        out += ["", *table([("two choices changed", "gated", "ungated"), *pair_rows(result)]), *refused_pairs(result)]
    return "\n".join([*out, "", *wrap(scope(result), WIDTH)])


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as columns, the first underlined."""
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(n) for cell, n in zip(row, wide)).rstrip() for row in rows]
    return [lines[0], "  ".join("-" * n for n in wide), *lines[1:]]


def markdown(result: Sweep) -> str:
    """The sweep as Markdown tables."""
    def lines(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
        return ["| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows)]

    out = lines(("without", "first scenario that needs the guard", "callers", "violates"),
                [(f"`{row[0]}`", *row[1:]) for row in rows_of(result)])
    if result.pairs:
        out += ["", *lines(("two choices changed", "gated", "ungated"), pair_rows(result)), "", *refused_pairs(result)]
    return "\n".join([*out, "", scope(result)])


def to_json(result: Sweep) -> dict:
    """One JSON object: design, seed, generated, guards (knob, scenario or null, gated, checks, executions, decided,
    undecided, token), not_read, pairs (knobs, gated, ungated, undecided, refused)."""
    return {
        "design": result.design, "seed": result.seed, "generated": result.generated, "not_read": result.not_read,
        "guards": [{
            "knob": g.knob, "scenario": g.scenario.name if g.scenario else None, "gated": g.gated,
            "checks": list(g.checks), "executions": g.executions, "decided": g.decided, "undecided": g.undecided,
            "token": g.verdict.token if g.verdict else None} for g in result.guards],
        "pairs": [{"knobs": dict(p.knobs), "gated": list(p.gated), "ungated": list(p.ungated),
                   "undecided": p.undecided, "refused": p.refused} for p in result.pairs]}
