"""How results of a check are shown: the matrix, counterexamples, reasons. Plain text; same input, same bytes."""

from __future__ import annotations

from collections.abc import Iterable

from tdpfast import reach
from tdpfast.check import HOLDS, REPRODUCE, UNKNOWN, VIOLATED, Counterexample, Verdict
from tdpfast.checks import MEANING, WEIGHT
from tdpfast.columns import WIDTH, columns_text, wrap
from tdpfast.extent import extent
from tdpfast.scenario import IMPOSSIBLE, Scenario

NOT_REACHED = f"{HOLDS} (not reached)"
"""A search that found nothing, and in which something that the scenario asks about never happened."""


def by_weight(checks: Iterable[str]) -> list[str]:
    """Checks, the one that tells most first."""
    names = set(checks)
    return [name for name in WEIGHT if name in names]


def refusals(verdicts: list[Verdict]) -> list[str]:
    """The kernel assertions by which a design refused, without repeats."""
    out: list[str] = []
    for v in verdicts:
        for assertion in v.counterexample.assertions if v.counterexample else ():
            if not assertion.startswith("LOCKDEP") and assertion not in out:
                out.append(assertion)
    return out


class Notes:
    """What cells of a matrix refer to: texts by a mark, equal ones once. Refusals are numbered, words too wide for
    their column have letters."""

    def __init__(self) -> None:
        self.refusals: list[str] = []
        self.words: list[str] = []

    def refusal(self, label: str, text: str) -> str:
        if text not in self.refusals:
            self.refusals.append(text)
        return f"{label} [{self.refusals.index(text) + 1}]"

    def short(self, text: str, width: int) -> str:
        if len(text) <= width:
            return text
        if text not in self.words:
            self.words.append(text)
        return f"[{letters(self.words.index(text))}]" + " *" * text.endswith(" *")

    def legend(self) -> list[tuple[str, str]]:
        """(mark, what it stands for) of each."""
        return [(f"[{letters(i)}]", text.removesuffix(" *")) for i, text in enumerate(self.words)] + [
            (f"[{i + 1}]", text) for i, text in enumerate(self.refusals)]


def letters(i: int) -> str:
    """a, b, ... z, aa, ab, ..."""
    return (letters(i // 26 - 1) if i >= 26 else "") + chr(ord("a") + i % 26)


def cell(verdicts: list[Verdict], notes: Notes) -> str:
    """One cell of the matrix: what the scenarios of one issue come to under one design. A refusal refers to a note
    that names the assertions; equal ones share a note."""
    checks = by_weight(c for v in verdicts for c in v.checks)
    if not checks:
        if all(v.not_reached for v in verdicts):
            return NOT_REACHED
        kinds = {v.verdict for v in verdicts}
        return next(kind for kind in (UNKNOWN, IMPOSSIBLE, HOLDS) if kind in kinds)
    if set(checks) <= {"kernel"}:
        fired = ", ".join(refusals(verdicts)[:3])
        facts = [v.counterexample.facts for v in verdicts if v.counterexample is not None]
        if all(found.stopped and not found.changed for found in facts):
            return notes.refusal("refused", f"refused by {fired}; nothing else is wrong")
        if any(found.died is not None for found in facts):
            return notes.refusal("VM dies", f"{fired}: the VM is bugged after something changed")
        return notes.refusal("warns", f"{fired}; nothing else is wrong")
    return " ".join(c for c in checks if c != "kernel") + (" *" if "kernel" in checks else "")


def label_of(issue: str) -> str:
    return f"issue {issue}" if issue.isdigit() else issue


NARROW = 10
"""What a column of the matrix holds at least: "progress *"."""


def block(designs: list[str], rows: list[tuple[str, str, list[str]]], room: int, notes: Notes) -> list[str]:
    """Some columns of the matrix; room: how wide all of them may be, with two blanks before each."""
    names = [len(design) for design in designs]
    wanted = [max(name, *(len(cells[i]) for *_, cells in rows)) for i, name in enumerate(names)]
    given = [max(name, min(want, NARROW)) for name, want in zip(names, wanted)]
    spare = room - sum(given) - 2 * len(designs)
    for i in sorted(range(len(designs)), key=lambda i: wanted[i] - given[i]):
        if wanted[i] - given[i] <= spare:
            spare -= wanted[i] - given[i]
            given[i] = wanted[i]
    table = [["issue", "callers", *designs]]
    table += [[label, callers, *(notes.short(text, width) for text, width in zip(cells, given))]
              for label, callers, cells in rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["  ".join(text.ljust(w) for text, w in zip(row, widths)).rstrip() for row in table]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return lines


def columns_that_fit(designs: list[str], room: int) -> list[list[str]]:
    """The designs in blocks, as many beside one another as there is room for."""
    blocks: list[list[str]] = []
    left = -1
    for design in designs:
        need = max(len(design), NARROW) + 2
        if need > left:
            blocks.append([])
            left = room
        blocks[-1].append(design)
        left -= need
    return blocks


def matrix(verdicts: list[Verdict], scenarios: list[Scenario], *, width: int = WIDTH) -> str:
    """Rows: issue and gating; columns: designs, in blocks below one another where they do not fit the width."""
    designs = list(dict.fromkeys(v.design for v in verdicts))
    titles = {s.issue or s.name: s.title or s.name for s in scenarios}
    groups: dict[tuple[str, bool], dict[str, list[Verdict]]] = {}
    for v in verdicts:
        groups.setdefault((v.issue or v.scenario, v.gated), {}).setdefault(v.design, []).append(v)
    issues = list(dict.fromkeys(key for key, _ in groups))
    room = width - max([len(label_of(issue)) for issue in issues] + [5]) - 2 - len("ungated")
    notes = Notes()
    lines: list[str] = []
    for some in columns_that_fit(designs, room):
        rows = []
        for issue in issues:
            for gated in (False, True):
                group = groups.get((issue, gated))
                if group is not None:
                    rows.append((label_of(issue), "gated" if gated else "ungated",
                                 [cell(group[d], notes) if d in group else "-" for d in some]))
        lines += [*block(some, rows, room, notes), ""]
    legend = [(f"issue {issue}:", titles[issue]) for issue in issues if issue.isdigit()] + notes.legend()
    legend += [("*:", "kernel assertions fired as well"),
               ("gated:", "by the rules of today's callers; ungated: those rules lifted")]
    return "\n".join([*lines, *(part for mark, text in legend for part in wrap(f"{mark} {text}", width))])


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


def minimised(found: Counterexample) -> str:
    """How a counterexample got shorter, and whether it repeats."""
    switches, steps, fewer, less = found.minimised
    return (f"minimised: {steps} -> {less} steps, {switches} -> {fewer} context switches, "
            f"reproduced {found.reproduced}/{REPRODUCE}")


def reached(v: Verdict, width: int) -> list[str]:
    """What happened in the search."""
    return [line for text in reach.lines(v.reach, v.threads) for line in indented(text, width)] if v.reach else []


def heading(v: Verdict) -> str:
    return f"{v.scenario} on {v.design}, {'gated' if v.gated else 'ungated'}"


def replay_line(v: Verdict) -> str:
    """What shows the counterexample again, to be pasted."""
    if v.token is None:
        return "no token: its steps differed when they were made again"
    if v.replay.startswith("replay_token("):
        return v.replay
    return f"tdpfast replay {v.token}{v.replay or (f' --design {v.file}' if v.file else '')}"


def indented(text: str, width: int) -> list[str]:
    """Lines below a heading."""
    return ["   " + part for part in wrap(text, width - 3)]


def counterexample(v: Verdict, *, verbose: bool = False, width: int = WIDTH) -> str:
    """One failing cell: what fails, the interleaving, how to replay it. verbose: counts, and what minimising did."""
    found = v.counterexample
    lines = [*wrap(f"== {heading(v)}: {' '.join(by_weight(v.checks))}", width), *indented(scope(v), width),
             *reached(v, width)]
    if found is None:
        return "\n".join([*lines, *indented(f"why: {v.reason}", width)])
    if verbose:
        lines += [*counts(v), *indented(minimised(found), width)]
    if v.reason:
        lines += indented(f"why: {v.reason}", width)
    if found.assertions:
        shown = found.assertions[:6]
        more = len(found.assertions) - len(shown)
        lines += indented("fired: " + "; ".join(shown) + (f"; and {more} more" if more else ""), width)
    lines += [f"   shown: the shortest schedule found that violates `{found.check}`", "",
              columns_text(found.story, v.threads, width), "", f"   {replay_line(v)}"]
    return "\n".join(lines)


def holding(v: Verdict, *, verbose: bool = False, width: int = WIDTH) -> str:
    """One cell where nothing was found, with the reason the scenario gives, and executions if they were asked for."""
    verdict = f"{NOT_REACHED}: {'; '.join(v.missing)}" if v.not_reached else v.verdict
    lines = [*wrap(f"== {heading(v)}: {verdict}", width), *indented(scope(v), width), *reached(v, width)]
    for line in extent(v):
        lines += indented(line, width) if not line.startswith("next: ") else [f"   {line}"]
    if verbose:
        lines += counts(v)
    if v.reason and v.verdict in (HOLDS, IMPOSSIBLE):
        lines += indented(f"why: {v.reason}", width)
    for i, story in enumerate(v.examples):
        lines += ["", f"   execution {i + 1}", "", columns_text(story, v.threads, width)]
    return "\n".join(lines)


def unexpected(v: Verdict, scenario: Scenario) -> str | None:
    """How a verdict differs from what the scenario expects; None if it does not. Gated, everything must hold but what
    expect_gated names (with such a table, nothing is said of designs that the scenario does not name at all); a check
    that a scenario names must be violated, others may be."""
    expected = scenario.expected(v.design, gated=False)
    if v.gated:
        named = expected is not None or not scenario.expect_gated
        expected = scenario.expected(v.design, gated=True) or (HOLDS if named else None)
    if expected is None:
        return None
    if expected in (HOLDS, IMPOSSIBLE):
        got = " ".join([v.verdict, *v.checks])
        return None if v.verdict == expected else f"{heading(v)}: expected {expected}, got {got}"
    missing = [c for c in expected.split() if c not in v.checks]
    if v.verdict != VIOLATED or missing:
        return f"{heading(v)}: expected {expected}, got {v.verdict} {' '.join(v.checks)}"
    return None


def report(verdicts: list[Verdict], scenarios: list[Scenario], *, brief: bool = False, verbose: bool = False,
           width: int = WIDTH) -> str:
    """The whole report: matrix, failing cells with their interleavings, reasons of the others, matrix again. verbose:
    each cell with executions by class. width: of the longest line, a token's apart."""
    table = matrix(verdicts, scenarios, width=width)
    parts = [table]
    if not brief:
        parts += [counterexample(v, verbose=verbose, width=width) for v in verdicts if v.verdict == VIOLATED]
        parts += [holding(v, verbose=verbose, width=width) for v in verdicts if v.verdict != VIOLATED]
        if len(parts) > 1:
            parts.append(table)
    return "\n\n".join(parts)


def mail(verdicts: list[Verdict], scenarios: list[Scenario], *, width: int = 72) -> str:
    """Each violation as plain text for a mail: what was asked, what is violated, the interleaving, how to replay it;
    then in a line what holds."""
    about = {s.name: s for s in scenarios}
    parts = [mail_part(v, about[v.scenario], width) for v in verdicts if v.counterexample is not None]
    rest = [f"{heading(v)}: {v.verdict}" for v in verdicts if v.counterexample is None]
    if rest:
        parts.append("\n".join(part for text in rest for part in wrap(text, width)))
    return "\n\n".join(parts)


def mail_part(v: Verdict, scenario: Scenario, width: int) -> str:
    found = v.counterexample
    assert found is not None
    callers = "with the rules of today's callers" if v.gated else "with the rules of today's callers lifted"
    lines = wrap(f"{scenario.title or scenario.name}, on {v.design}, {callers}:", width)
    lines += [part for check in by_weight(v.checks) for part in wrap(f"- {check}: {MEANING[check]}", width)]
    lines += ["", columns_text(found.story, v.threads, width), "",
              *wrap(f"Found by tdpfast ({scope(v)}). To see it again:", width), f"  {replay_line(v)}"]
    return "\n".join(lines)
