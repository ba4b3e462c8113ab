"""How far a result goes, in words: what ended the search, how much of it is left, what to try next."""

from __future__ import annotations

from tdpfast.check import UNKNOWN, Verdict

METHOD = "an estimate by the branches left open on the way to the last execution (Knuth, 1975)"


def share_text(share: float) -> str:
    """A share of a tree, as roughly as it is known."""
    return "less than 0.1%" if share < 0.001 else f"about {share:.1%}" if share < 0.1 else f"about {share:.0%}"


def left_text(v: Verdict) -> str:
    """How much of the tree was explored, and how large it seems."""
    if v.explored is None or not v.executions:
        return ""
    whole = ""
    if v.explored >= 0.001:
        whole = f", of some {float(f'{v.executions / v.explored:.1g}'):,.0f} executions"
    return f"explored: {share_text(v.explored)} of the tree{whole}; {METHOD}"


def extent(v: Verdict, bound: int | None = None) -> list[str]:
    """Lines about a search that is not complete; none if it is."""
    if v.complete or v.verdict != UNKNOWN:
        return []
    lines = [f"ended by: {v.limit}"] * bool(v.limit)
    if v.covered:
        lines.append(f"covers: all schedules with at most {v.limit}: {v.covered:,} of {v.covered:,}")
    elif text := left_text(v):
        lines.append(text)
    return lines + [f"next: {v.advice}"] * bool(v.advice)
