"""One search cut into shares, for an executor to run."""

from __future__ import annotations

import time
from concurrent.futures import Executor
from dataclasses import replace
from itertools import pairwise

from tdpfast._arguments import U64_MAX, check_bool, check_int, shown
from tdpfast._workers import Workers
from tdpfast.building import build, explore, program_print
from tdpfast.design import Design, get_design
from tdpfast.errors import UsageError
from tdpfast.minimise import cost
from tdpfast.reach import merged
from tdpfast.scenario import Scenario
from tdpfast.search import counterexample, explain
from tdpfast.verdict import Limits, Verdict, verdict_of


def _mapping(executor) -> None:
    if not callable(getattr(executor, "map", None)):
        raise UsageError(f"bad executor {shown(executor)}", "it has no map()", "an Executor of concurrent.futures")


def _share(task: tuple) -> dict:
    scenario, design, limits, prefix, share = task
    program = build(scenario, design, every_entry=limits.every_entry)
    explorer = explore(program, limits, prefix, **share)
    return {**explorer.run(), "found": explorer.states(), "reach": program.reach()}


def cut(scenario: Scenario, design: Design, limits: Limits, shares: int) -> list[tuple]:
    """The tasks for _share() that one search is cut into; UsageError where its strategy cannot be cut so."""
    n = limits.max_executions
    if limits.strategy in ("random", "pct") and 1 <= shares <= n:
        edges = [n * i // shares for i in range(shares + 1)]
        return [(scenario, design, replace(limits, max_executions=end - start), b"", {"first": start})
                for start, end in pairwise(edges)]
    if limits.strategy in ("dpor", "sleep") and shares:
        pieces = explore(build(scenario, design, every_entry=limits.every_entry), limits).cut(shares)
        return [(scenario, design, limits, prefix, {"asleep": asleep}) for prefix, asleep in pieces]
    raise UsageError(f"{shares} shares of a search by {limits.strategy}",
                     "only trees by dependence and walks of a seed can be cut up",
                     "dpor or sleep; random or pct with max_executions, and no more shares than executions")


def check_in_shares(scenario: Scenario, design: str | Design, *, gated: bool = True, limits: Limits = Limits(),
                    shares: int, executor: Executor | Workers) -> Verdict:
    """check() with one search cut into shares, mapped over an executor: by dpor or sleep the tree of schedules is cut
    at its first branches (into that many pieces or a few more), by random walks or PCT the executions of the seed.

    The result depends on the number of shares, never on how many workers there are or who is done first; of equally
    short failures the one of the earlier share counts. A tree in pieces comes to the verdict and checks of the whole
    one, in somewhat more executions, as every agent is tried where it is cut. Limits are per share, max_executions of
    walks apart. Raises UsageError for other strategies, and for walks without max_executions; WorkerLost when a process
    of Workers dies.
    """
    if not isinstance(limits, Limits):
        raise UsageError(f"bad limits {shown(limits)}", "not Limits", "tdpfast.check.Limits()")
    check_int("shares", shares, 0, U64_MAX)
    _mapping(executor)
    design = get_design(design).replace(ungated=not check_bool("gated", gated))
    started = time.perf_counter()
    result = merge(list(executor.map(_share, cut(scenario, design, limits, shares))))
    out = verdict_of(scenario, design, gated, limits, result)
    program = build(scenario, design, every_entry=limits.every_entry)
    if out.checks:
        out.counterexample = counterexample(scenario, design, program, explore(program, limits), result, limits,
                                            print_=program_print(scenario, design, every_entry=limits.every_entry))
    explain(out, scenario, program, limits)
    out.seconds = time.perf_counter() - started
    return out


def merge(results: list[dict]) -> dict:
    """The results of shares, in their order, as one."""
    out = {**results[0], "failures": {}, "ends": {}, "checks": 0}
    for name in ("executions", "transitions", "pruned"):
        out[name] = sum(r[name] for r in results)
    out["complete"] = all(r["complete"] for r in results)
    out["timed_out"] = any(r["timed_out"] for r in results)
    out["found"] = set().union(*(r["found"] for r in results))
    out["states"] = len(out["found"])
    out["reach"] = merged([r["reach"] for r in results])
    shares = [r["explored"] for r in results if r["explored"] is not None]
    out["explored"] = sum(shares) / len(results) if shares else None
    for r in results:
        out["checks"] |= r["checks"]
        for end, n in r["ends"].items():
            out["ends"][end] = out["ends"].get(end, 0) + n
        for bit, schedule in r["failures"].items():
            if bit not in out["failures"] or cost(schedule) < cost(out["failures"][bit]):
                out["failures"][bit] = schedule
    return out
