"""A violated scenario made smaller: the same check, at the same place, with fewer operations and fewer steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tdpfast._arguments import one_of, shown
from tdpfast.check import REPRODUCE, Limits, Verdict, check
from tdpfast.checks import NAMES, heaviest
from tdpfast.design import Design, get_design
from tdpfast.errors import UsageError
from tdpfast.scenario import Scenario
from tdpfast.shrink import operations, shrink

LIMITS = Limits(max_transitions=500_000)


@dataclass(frozen=True)
class Minimised:
    """A smaller scenario that violates `kept`, and what exploring it found; before: the verdict of the one given, and
    how many operations and set-up operations that had."""

    scenario: Scenario
    verdict: Verdict
    kept: str
    before: Verdict
    operations: int
    setup: int


def same_place(found: Verdict, before: Verdict, wanted: str) -> bool:
    """Whether a check fails in the same way: no assertion fires that did not before, the one that raises it (kernel,
    lock) does, the entry that was wrong first is of the same level, and the schedule is no longer."""
    was, now = before.counterexample, found.counterexample
    if was is None or now is None or not set(now.assertions) <= set(was.assertions):
        return False
    if wanted in ("kernel", "lock"):
        lockdep = wanted == "lock"
        raised = next((a for a in was.assertions if a.startswith("LOCKDEP") == lockdep), None)
        if raised is not None and raised not in now.assertions:
            return False
    if was.finding and now.finding and was.finding["check"] == now.finding["check"]:
        return was.finding["level"] == now.finding["level"] and steps_of(found) <= steps_of(before)
    return steps_of(found) <= steps_of(before)


def minimise_scenario(scenario: Scenario, design: str | Design, *, gated: bool = True, wanted: str | None = None,
                      limits: Limits = LIMITS, attempts: int = 150) -> Minimised:
    """Leaves out what a violation does not need: threads, operations, set-up, ranges, retries, modifiers.

    wanted: the check to keep (default: the one that tells most), at the same place: see same_place(). attempts: how
    many smaller scenarios are explored at most. The smaller one is named after the scenario. Deterministic. UsageError
    if the scenario violates nothing, or not that check, within the limits.
    """
    design = get_design(design)
    if wanted is not None and wanted not in NAMES:
        raise UsageError(f"unknown check {shown(wanted)}", "not one of the checks", one_of(NAMES))

    before = check(scenario, design, gated=gated, limits=limits, telling=wanted)
    if not before.checks or (wanted is not None and wanted not in before.checks):
        raise UsageError(f"{scenario.name} on {design.name}, {'gated' if gated else 'ungated'}: {before.verdict}",
                         f"{'nothing' if wanted is None else wanted} is violated within {limits.max_transitions}"
                         " transitions" if wanted is None else
                         f"{wanted} is not violated within {limits.max_transitions} transitions",
                         "a scenario, a design and rules that violate it")
    kept = wanted or heaviest(before.checks)

    def shows(less: Scenario) -> bool:
        try:
            found = check(less, design, gated=gated, limits=limits, telling=kept)
        except UsageError:
            return False
        return kept in found.checks and same_place(found, before, kept)

    small = shrink(scenario, shows, attempts=attempts)
    if small != scenario and not small.name.endswith("-small"):
        small = replace(small, name=f"{small.name}-small")
    verdict = check(small, design, gated=gated, limits=limits, telling=kept)
    return Minimised(replace(small, expect={}, expect_gated={}, reason={}), verdict, kept, before,
                     operations(scenario), len(scenario.setup))


def summary(small: Minimised) -> str:
    """One line: what went, and whether what is left repeats."""
    was, now = steps_of(small.before), steps_of(small.verdict)
    setup = "" if not small.setup else f", {small.setup} -> {len(small.scenario.setup)} of the set-up"
    return (f"{small.kept}: {small.operations} -> {operations(small.scenario)} operations{setup}, "
            f"{was} -> {now} steps, {reproduced_of(small.verdict)}")


def steps_of(verdict: Verdict) -> int:
    """Steps of the schedule that is shown."""
    return verdict.counterexample.minimised[3] if verdict.counterexample else 0


def reproduced_of(verdict: Verdict) -> str:
    """How many runs of the schedule that is shown violate the check."""
    found = verdict.counterexample
    return f"reproduced {found.reproduced if found else 0}/{REPRODUCE}"
