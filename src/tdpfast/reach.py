"""What happened in a search, not only what did not: operations that did what they are for, hooks, lost races, retries.

"holds" of a search in which an operation was refused, or did nothing, every time says nothing about that operation.
What is counted is over all executions; what several begin with counts for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Reach = Mapping[str, Any]
"""ScenarioProgram.reach(): operations, per thread a list of dicts of op, ran, done and refused; then counts by name."""


def merged(parts: Sequence[Reach]) -> dict[str, Any]:
    """Several searches as one."""
    threads = zip(*(part["operations"] for part in parts), strict=True)
    return {"operations": [[{"op": same[0]["op"], **{name: sum(op[name] for op in same)
                                                     for name in ("ran", "done", "refused")}}
                            for same in zip(*thread, strict=True)] for thread in threads],
            **{name: sum(part[name] for part in parts) for name in parts[0] if name != "operations"}}


def missing(reach: Reach, threads: Sequence[str]) -> list[str]:
    """What the scenario asks for and never happened, in words; empty if everything did at least once."""
    out: list[str] = []
    for name, ops in zip(threads, reach["operations"], strict=True):
        for op in ops:
            what = f"{op['op']} of {name}"
            if not op["ran"]:
                out.append(f"{what} never ended")
            elif op["refused"] == op["ran"]:
                out.append(f"{what} is refused by the rules of today's callers")
            elif not op["done"]:
                out.append(f"{what} never did what it is for")
    return out


def lines(reach: Reach, threads: Sequence[str]) -> list[str]:
    """For reports: the counts that are not 0, then the operations that did not always do what they are for."""
    counts = [f"{name} {n}" for name, n in reach.items() if name != "operations" and n]
    out = ["happened: " + ", ".join(counts)] if counts else []
    for name, ops in zip(threads, reach["operations"], strict=True):
        for op in ops:
            rest = op["ran"] - op["done"] - op["refused"]
            parts = [f"{n} {what}" for what, n in (("refused", op["refused"]), ("without effect", rest)) if n]
            if parts:
                out.append(f"{op['op']} of {name}: {op['ran']} times, {', '.join(parts)}")
    return out
