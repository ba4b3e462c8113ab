"""Executions and steps per second of the explorer on the freeze protocol.

The named baseline is the engine's own plain depth-first search: the same programs, no reduction. extra_info holds the
rates; compare within one run only. Pinned seeds.
"""

import pytest

from tdpfast import _toys as toys
from tdpfast._explore import Explorer

PROGRAMS = {
    "counter": lambda: toys.script([[("add", 0, 1)], [("add", 0, 1)]]),
    "freeze-1": lambda: toys.freeze(1),
    "freeze-2": lambda: toys.freeze(2),
}


def explore(program, strategy, executions):
    return Explorer(program, strategy, seed=1, max_executions=executions).run()


def note(benchmark, result):
    seconds = benchmark.stats.stats.min
    benchmark.extra_info["executions"] = result["executions"]
    benchmark.extra_info["executions_per_s"] = result["executions"] / seconds
    benchmark.extra_info["steps_per_s"] = result["transitions"] / seconds
    benchmark.extra_info["complete"] = result["complete"]


@pytest.mark.parametrize("program", ["freeze-2"])
@pytest.mark.parametrize("strategy", ["dfs", "sleep", "dpor"], ids=["plain-dfs(baseline)", "sleep", "dpor"])
def test_whole_tree(benchmark, program, strategy):
    """The whole tree: what the reduction saves."""
    result = benchmark.pedantic(explore, args=(PROGRAMS[program](), strategy, 0), rounds=3)
    assert result["complete"] and result["checks"] == 0
    note(benchmark, result)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("strategy", ["random", "pct"])
def test_walks(benchmark, program, strategy):
    """200,000 executions from a seed: the cost of one execution and of one step."""
    result = benchmark.pedantic(explore, args=(PROGRAMS[program](), strategy, 200_000), rounds=3)
    note(benchmark, result)


def test_three_mappers_dpor(benchmark):
    """A prefix of a tree too large for the plain search."""
    result = benchmark.pedantic(explore, args=(toys.freeze(3), "dpor", 200_000), rounds=3)
    note(benchmark, result)
