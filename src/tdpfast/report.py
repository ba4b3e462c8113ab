"""How results of a check are shown: the matrix, counterexamples, reasons. Plain text; same input, same bytes."""

from __future__ import annotations

from collections.abc import Iterable

from tdpfast.check import HOLDS, REPRODUCE, UNKNOWN, VIOLATED, Verdict
from tdpfast.checks import WEIGHT
from tdpfast.scenario import Scenario
from tdpfast.story import columns_text


def by_weight(checks: Iterable[str]) -> list[str]:
    """Checks, the one that tells most first."""
    names = set(checks)
    return [name for name in WEIGHT if name in names]


def refusals(verdicts: list[Verdict]) -> list[str]:
    """The kernel assertions by which a design refused, without repeats."""
    out: list[str] = []
    for v in verdicts:
        for assertion in v.assertions:
            if not assertion.startswith("LOCKDEP") and assertion not in out:
                out.append(assertion)
    return out


def cell(verdicts: list[Verdict], notes: list[str]) -> str:
    """One cell of the matrix: what the scenarios of one issue come to under one design. A refusal refers to a note
    that names the assertions; equal ones share a note."""
    checks = by_weight(c for v in verdicts for c in v.checks)
    if not checks:
        return HOLDS if all(v.verdict == HOLDS for v in verdicts) else UNKNOWN
    if set(checks) <= {"kernel"}:
        note = "refused by " + ", ".join(refusals(verdicts)[:3])
        if note not in notes:
            notes.append(note)
        return f"refused [{notes.index(note) + 1}]"
    return " ".join(c for c in checks if c != "kernel") + (" *" if "kernel" in checks else "")


def matrix(verdicts: list[Verdict], scenarios: list[Scenario]) -> str:
    """Rows: issue and gating; columns: designs."""
    designs = list(dict.fromkeys(v.design for v in verdicts))
    titles = {s.issue or s.name: s.title or s.name for s in scenarios}
    groups: dict[tuple[str, bool], dict[str, list[Verdict]]] = {}
    for v in verdicts:
        groups.setdefault((v.issue or v.scenario, v.gated), {}).setdefault(v.design, []).append(v)
    issues = list(dict.fromkeys(key for key, _ in groups))
    rows = [["issue", "callers", *designs]]
    notes: list[str] = []
    for issue in issues:
        for gated in (False, True):
            if (issue, gated) in groups:
                label = f"issue {issue}" if issue.isdigit() else issue
                rows.append([label, "gated" if gated else "ungated",
                             *(cell(groups[issue, gated][d], notes) if d in groups[issue, gated] else "-"
                               for d in designs)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(w) for text, w in zip(row, widths)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * w for w in widths))
    legend = [f"issue {issue}: {titles[issue]}" for issue in issues if issue.isdigit()]
    legend += [f"[{i + 1}] {note}; nothing else is wrong" for i, note in enumerate(notes)]
    legend += ["*: kernel assertions fired as well",
               "gated: by the rules of today's callers; ungated: those rules lifted"]
    return "\n".join([*lines, "", *legend])


def scope(v: Verdict) -> str:
    """What a result is worth: how it was searched and how far."""
    extent = "complete" if v.complete else "not complete"
    if v.timed_out:
        extent += ", time budget reached"
    return (f"{v.strategy}, {extent}, sequentially consistent: {v.executions} executions, "
            f"{v.transitions} transitions")


CLASSES = (("complete", "done"), ("stuck", "stuck"), ("spin", "spin"), ("aborted", "abort"), ("truncated", "steps"),
           ("pruned", "pruned"))
"""What executions are called by how they ended: every thread returned; nobody could go on; loops kept each other
awake; BUG() or a livelock the code saw; too many steps; cut short, since what follows was explored before."""


def counts(v: Verdict) -> list[str]:
    """Executions by class, a class per line, always the same lines in the same order; then the final states if they
    were counted."""
    return [f"   {name} {v.ends.get(end, 0)}" for name, end in CLASSES] + [f"   states {v.states}"] * bool(v.states)


def minimised(v: Verdict) -> list[str]:
    """How a counterexample got shorter, and whether it repeats."""
    if v.minimised is None:
        return []
    switches, steps, fewer, less = v.minimised
    return [f"   minimised: {steps} -> {less} steps, {switches} -> {fewer} context switches, "
            f"reproduced {v.reproduced}/{REPRODUCE}"]


def heading(v: Verdict) -> str:
    return f"{v.scenario} on {v.design}, {'gated' if v.gated else 'ungated'}"


def counterexample(v: Verdict, *, verbose: bool = False) -> str:
    """One failing cell: what fails, the interleaving, how to replay it. verbose: counts, and what minimising did."""
    lines = [f"== {heading(v)}: {' '.join(by_weight(v.checks))}", f"   {scope(v)}"]
    if verbose:
        lines += counts(v) + minimised(v)
    if v.reason:
        lines.append(f"   why: {v.reason}")
    if v.assertions:
        shown = v.assertions[:6]
        more = len(v.assertions) - len(shown)
        lines.append("   fired: " + "; ".join(shown) + (f"; and {more} more" if more else ""))
    lines += [f"   shown: the shortest schedule found that violates `{v.shown}`", "",
              columns_text(v.story, v.threads), "", f"   tdpfast replay {v.token}"]
    return "\n".join(lines)


def holding(v: Verdict, *, verbose: bool = False) -> str:
    """One cell where nothing was found, with the reason the scenario gives, and executions if they were asked for."""
    lines = [f"== {heading(v)}: {v.verdict}", f"   {scope(v)}"]
    if verbose:
        lines += counts(v)
    if v.reason and v.verdict == HOLDS:
        lines.append(f"   why: {v.reason}")
    for i, story in enumerate(v.examples):
        lines += ["", f"   execution {i + 1}", "", columns_text(story, v.threads)]
    return "\n".join(lines)


def unexpected(v: Verdict, scenario: Scenario) -> str | None:
    """How a verdict differs from what the scenario expects; None if it does not. Gated, everything must hold but what
    expect_gated names (with such a table, nothing is said of designs that the scenario does not name at all); a check
    that a scenario names must be violated, others may be."""
    expected = scenario.expect.get(v.design)
    if v.gated:
        named = v.design in scenario.expect or not scenario.expect_gated
        expected = scenario.expect_gated.get(v.design, HOLDS if named else None)
    if expected is None:
        return None
    if expected == HOLDS:
        return None if v.verdict == HOLDS else f"{heading(v)}: expected holds, got {v.verdict} {' '.join(v.checks)}"
    missing = [c for c in expected.split() if c not in v.checks]
    if v.verdict != VIOLATED or missing:
        return f"{heading(v)}: expected {expected}, got {v.verdict} {' '.join(v.checks)}"
    return None


def report(verdicts: list[Verdict], scenarios: list[Scenario], *, brief: bool = False, verbose: bool = False) -> str:
    """The whole report: matrix, failing cells with their interleavings, reasons of the others, matrix again. verbose:
    each cell with executions by class."""
    table = matrix(verdicts, scenarios)
    parts = [table]
    if not brief:
        parts += [counterexample(v, verbose=verbose) for v in verdicts if v.verdict == VIOLATED]
        parts += [holding(v, verbose=verbose) for v in verdicts if v.verdict != VIOLATED]
        if len(parts) > 1:
            parts.append(table)
    return "\n\n".join(parts)
