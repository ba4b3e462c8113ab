"""Makes a scenario smaller while it still shows the same: threads, operations, set-up, ranges and retries go, in that
order, then modifiers. What "the same" is, the caller says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tdpfast.scenario import Scenario, Thread

Wanted = Callable[[Scenario], bool]
"""Whether a scenario still shows what it is about. False for one that cannot be run."""
MODIFIERS = ("inject", "hook", "enomem", "resched", "gp_at_yield", "gp_at_retry", "no_gp", "reenter", "race")


def operations(scenario: Scenario) -> int:
    """How many operations its threads have."""
    return sum(len(thread.ops) for thread in scenario.threads)


def with_ops(scenario: Scenario, index: int, ops: tuple[dict, ...]) -> Scenario:
    """The scenario with other operations in one thread; a thread without any goes."""
    threads = list(scenario.threads)
    threads[index:index + 1] = [Thread(threads[index].name, ops)] if ops else []
    return replace(scenario, threads=tuple(threads))


def fewer(scenario: Scenario) -> Iterator[Scenario]:
    """One thread, one operation, or one operation of the set-up less."""
    if len(scenario.threads) > 1:
        for i in range(len(scenario.threads)):
            yield with_ops(scenario, i, ())
    for i, thread in enumerate(scenario.threads):
        for k in range(len(thread.ops) if len(thread.ops) > 1 else 0):
            yield with_ops(scenario, i, thread.ops[:k] + thread.ops[k + 1:])
    for i in range(len(scenario.setup)):
        yield replace(scenario, setup=scenario.setup[:i] + scenario.setup[i + 1:])


def plainer_op(op: dict) -> Iterator[dict]:
    """One operation with a shorter range, without retries, or without a modifier."""
    start, end = op.get("start"), op.get("end")
    if isinstance(start, int) and isinstance(end, int) and end - start > 1:
        for low, high in ((start, start + 1), (end - 1, end), (start, (start + end) // 2), ((start + end) // 2, end)):
            yield {**op, "start": low, "end": high}
    for key in ("retries", "tries"):
        if op.get(key, 0) not in (0, 1):
            yield {**op, key: 1}
    for key in MODIFIERS:
        if key in op:
            yield {k: v for k, v in op.items() if k != key}


def plainer(scenario: Scenario) -> Iterator[Scenario]:
    """One operation made plainer."""
    for i, thread in enumerate(scenario.threads):
        for k, op in enumerate(thread.ops):
            for other in plainer_op(op):
                yield with_ops(scenario, i, (*thread.ops[:k], other, *thread.ops[k + 1:]))
    for i, op in enumerate(scenario.setup):
        for other in plainer_op(op):
            yield replace(scenario, setup=(*scenario.setup[:i], other, *scenario.setup[i + 1:]))


def shrink(scenario: Scenario, wanted: Wanted, *, attempts: int = 200) -> Scenario:
    """A scenario from which nothing more can be left out, or the smallest one met in `attempts` tries.

    wanted(scenario) is taken to be true and is not asked. Greedy, deterministic.
    """
    for steps in (fewer, plainer):
        improved = True
        while improved and attempts > 0:
            improved = False
            for less in steps(scenario):
                attempts -= 1
                if wanted(less):
                    scenario, improved = less, True
                    break
                if attempts <= 0:
                    break
    return scenario
