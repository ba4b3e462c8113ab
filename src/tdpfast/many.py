"""Many scenarios and designs, in processes that may die."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor

from tdpfast._arguments import check_int, shown
from tdpfast._explore.explorer import Explorer
from tdpfast._workers import WorkerLost, Workers
from tdpfast.building import SetupError
from tdpfast.design import Design, get_design
from tdpfast.errors import UsageError
from tdpfast.scenario import IMPOSSIBLE, Scenario
from tdpfast.search import check
from tdpfast.shares import _mapping
from tdpfast.verdict import UNKNOWN, VIOLATED, Limits, Verdict


class Reporter:
    """Says on stderr, once a second, how far a search that takes longer is."""

    def __init__(self, label: str):
        self.label = label
        self.next = time.monotonic() + 2

    def __call__(self, explorer: Explorer) -> None:
        if time.monotonic() < self.next:
            return
        self.next = time.monotonic() + 1
        share, so_far = explorer.progress(), explorer.result()
        text = "" if share is None else f"about {share:.1%}, "
        print(f"{self.label}: {text}{so_far['executions']} executions, {so_far['transitions']} transitions",
              file=sys.stderr, flush=True)


def _triple(task: tuple) -> tuple:
    if not isinstance(task, tuple) or len(task) != 3 or not isinstance(task[0], Scenario):
        raise UsageError(f"bad task {shown(task)}", "not a scenario, a design, and gated or not",
                         "(scenario, design, gated)")
    return task


def lost(scenario: Scenario, design: str | Design, gated: bool, why: str) -> Verdict:
    """The verdict of a search that something outside ended."""
    return Verdict(scenario=scenario.name, design=get_design(design).name, gated=gated, verdict=UNKNOWN, complete=False,
                   checks=[], executions=0, transitions=0, seconds=0.0, issue=scenario.issue,
                   threads=[t.name for t in scenario.threads], limit=why)


def _task(task: tuple) -> Verdict:
    try:
        return _search(task)
    except MemoryError as error:
        return lost(task[0], task[1], task[2], f"no memory ({error})" if str(error) else "no memory")


def _search(task: tuple) -> Verdict:
    scenario, design, gated, limits, show_all, progress = task
    label = f"{scenario.name} on {get_design(design).name}, {'gated' if gated else 'ungated'}"
    try:
        return check(scenario, design, gated=gated, limits=limits, show_all=show_all,
                     progress=Reporter(label) if progress else None)
    except SetupError as error:
        return impossible(scenario, get_design(design), gated, limits, error)


def impossible(scenario: Scenario, design: Design, gated: bool, limits: Limits, error: SetupError) -> Verdict:
    """The result of a set-up that fails on a design: nothing was explored, and the reason says why."""
    return Verdict(scenario=scenario.name, design=design.name, gated=gated, verdict=IMPOSSIBLE, complete=False,
                   checks=[], executions=0, transitions=0, seconds=0.0, strategy=limits.strategy,
                   issue=scenario.issue, threads=[t.name for t in scenario.threads],
                   reason=f"{error.what.removeprefix(scenario.name + ': ')}: {error.why}")


def _contained(work: list[tuple], jobs: int) -> Iterator[Verdict]:
    """The tasks in processes of their own: one that dies is tried alone, and is a crash if it dies again."""
    with Workers(jobs) as pool:
        for task, (ok, answer) in zip(work, pool.outcomes(_task, work)):
            if isinstance(answer, WorkerLost):
                yield _alone(task)
            elif not ok:
                raise answer
            else:
                yield answer


def _alone(task: tuple) -> Verdict:
    scenario, design, gated, limits = task[:4]
    try:
        with Workers(1) as pool:
            return next(pool.map(_task, [task]))
    except WorkerLost:
        return Verdict(scenario=scenario.name, design=get_design(design).name, gated=gated, verdict=VIOLATED,
                       complete=False, checks=["crash"], executions=0, transitions=0, seconds=0.0,
                       strategy=limits.strategy, threads=[t.name for t in scenario.threads],
                       reason="the process that searched it died: the file's code wrote over the core's memory")


def check_many(tasks: Iterable[tuple[Scenario, str | Design, bool]], *, limits: Limits = Limits(), jobs: int = 0,
               executor: Executor | None = None, show_all: int = 0, progress: bool = False) -> Iterator[Verdict]:
    """check() of many (scenario, design, gated), in their order, on any concurrent.futures.Executor. Where a set-up
    fails, the verdict is IMPOSSIBLE instead of an error.

    jobs: processes when no executor is given; 0 = one per CPU, 1 = here. They end with this process, and one that is
    killed costs the verdict it was at. For Python hooks there is check(), one by one. show_all: as
    for check(). progress: say on stderr how far long searches are.
    """
    if not isinstance(tasks, Iterable):
        raise UsageError(f"tasks are {shown(tasks)}", "not a list", "a list of (scenario, design, gated)")
    if executor is not None:
        _mapping(executor)
    work = [(*_triple(task), limits, show_all, progress) for task in tasks]
    jobs = check_int("jobs", jobs, 0, 1024) or os.cpu_count() or 1
    if executor is not None:
        yield from executor.map(_task, work)
    elif any(get_design(task[1]).code for task in work):
        yield from _contained(work, jobs)
    elif jobs == 1 or len(work) == 1:
        yield from map(_task, work)
    else:
        with Workers(min(jobs, len(work))) as pool:
            for task, (ok, answer) in zip(work, pool.outcomes(_task, work)):
                if isinstance(answer, WorkerLost):
                    yield lost(task[0], task[1], task[2], answer.why)
                elif not ok:
                    raise answer
                else:
                    yield answer
