"""Results for those who read them by machine: JUnit's XML, kselftest's KTAP, annotations of GitHub Actions.

A case is one result of a check: a scenario under a design, gated or not. It passes when nothing was found; where what
scenarios expect is compared, when it is as expected. A search that a limit ended before it found anything says nothing:
such a case is skipped, unless something was expected of it. One whose set-up fails is a failure, unless
that is expected. Same results, same text; seconds apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from tdpfast.check import UNKNOWN, VIOLATED, Verdict
from tdpfast.report import by_weight, counterexample, heading, scope, unexpected
from tdpfast.scenario import IMPOSSIBLE, Scenario

PASS, FAIL, SKIP = "pass", "fail", "skip"


class Case(NamedTuple):
    """One result as test frameworks see it."""

    outcome: str
    """PASS, FAIL or SKIP."""
    suite: str
    """The scenario."""
    name: str
    """Design and gating, such as ``v7.3-gated``."""
    message: str
    """Why it failed or was skipped, one line; empty of what passed."""
    text: str
    """The story of what failed, the scope of what did not."""
    seconds: float


def case(verdict: Verdict, scenario: Scenario, expect: bool) -> Case:
    """A result as a case. expect: whether it has to be what its scenario expects."""
    outcome, message = PASS, ""
    surprise = unexpected(verdict, scenario) if expect else None
    if surprise is not None or (verdict.verdict == VIOLATED and not expect):
        outcome, message = FAIL, surprise or f"violated: {' '.join(by_weight(verdict.checks))}"
    elif verdict.verdict == UNKNOWN:
        outcome, message = SKIP, "unknown: the search was not complete"
    elif verdict.verdict == IMPOSSIBLE and scenario.expected(verdict.design, gated=verdict.gated) != IMPOSSIBLE:
        outcome, message = FAIL, f"impossible: {verdict.reason}"
    text = counterexample(verdict) if verdict.verdict == VIOLATED else f"{heading(verdict)}: {verdict.verdict}\n" + (
        f"   {scope(verdict)}")
    gating = "gated" if verdict.gated else "ungated"
    return Case(outcome, verdict.scenario, f"{verdict.design}-{gating}", message.strip(), text, verdict.seconds)


def cases(verdicts: Iterable[Verdict], scenarios: Iterable[Scenario], expect: bool = False) -> list[Case]:
    """The results of check_many() as cases, in their order. scenarios: those that were checked."""
    by_name = {s.name: s for s in scenarios}
    return [case(v, by_name[v.scenario], expect) for v in verdicts]


def _xml(text: str) -> str:
    """Text for XML 1.0, which has no place for control characters."""
    return escape("".join(ch if ch.isprintable() or ch == "\n" else "?" for ch in text))


def _attribute(text: str) -> str:
    return quoteattr("".join(ch if ch.isprintable() else " " for ch in text))


def junit(found: Iterable[Case]) -> str:
    """JUnit's XML: a testsuite for each scenario, a testcase for each result, the story in the failure."""
    suites: dict[str, list[Case]] = {}
    for one in found:
        suites.setdefault(one.suite, []).append(one)
    out = ['<?xml version="1.0" encoding="utf-8"?>', "<testsuites>"]
    for suite, members in suites.items():
        counts = [sum(c.outcome == outcome for c in members) for outcome in (FAIL, SKIP)]
        out.append(f'  <testsuite name={_attribute(suite)} tests="{len(members)}" failures="{counts[0]}" errors="0" '
                   f'skipped="{counts[1]}" time="{sum(c.seconds for c in members):.3f}">')
        for c in members:
            head = f'    <testcase classname={_attribute(suite)} name={_attribute(c.name)} time="{c.seconds:.3f}"'
            if c.outcome == PASS:
                out.append(head + f"><system-out>{_xml(c.text)}</system-out></testcase>")
            elif c.outcome == SKIP:
                out.append(head + f"><skipped message={_attribute(c.message)}/></testcase>")
            else:
                out.append(head + f"><failure message={_attribute(c.message)}>{_xml(c.text)}</failure></testcase>")
        out.append("  </testsuite>")
    return "\n".join([*out, "</testsuites>", ""])


def ktap(found: Iterable[Case]) -> str:
    """KTAP version 1, as kselftest writes it: stories as diagnostics before their result, totals at the end."""
    found = list(found)
    out = ["KTAP version 1", f"1..{len(found)}"]
    for number, c in enumerate(found, 1):
        if c.outcome == FAIL:
            out += [f"# {line}".rstrip() for line in c.text.split("\n")]
        name = f"{c.suite}.{c.name}".replace("#", "_")
        result = "not ok" if c.outcome == FAIL else "ok"
        directive = {PASS: "", FAIL: f" # {c.message}", SKIP: f" # SKIP {c.message}"}[c.outcome]
        out.append(f"{result} {number} {name}{directive}")
    totals = [sum(c.outcome == outcome for c in found) for outcome in (PASS, FAIL, SKIP)]
    out.append(f"# Totals: pass:{totals[0]} fail:{totals[1]} xfail:0 xpass:0 skip:{totals[2]} error:0")
    return "\n".join(out)


def _escaped(text: str, more: str = "") -> str:
    """Text as GitHub's workflow commands want it; more: what else a property may not hold."""
    for ch in "%\r\n" + more:
        text = text.replace(ch, f"%{ord(ch):02X}")
    return text


def github(found: Iterable[Case], files: Mapping[str, str] | None = None) -> str:
    """Workflow commands of GitHub Actions, one for each case that did not pass: an error with the story, or a notice of
    what was skipped. files: scenario -> the file it was read from."""
    out = []
    for c in found:
        if c.outcome == PASS:
            continue
        where = f"file={_escaped(files[c.suite], ':,')}," if files and c.suite in files else ""
        title = _escaped(f"{c.suite} on {c.name}: {c.message}", ":,")
        kind = "error" if c.outcome == FAIL else "notice"
        out.append(f"::{kind} {where}title={title}::{_escaped(c.text)}")
    return "\n".join(out)
