"""Executions and steps of the explorer: ns per step beside a bare fiber switch there and back, executions per second.

Pinned seeds. The programs are the freeze protocol (the one that SPIN and loom were measured on) and a counter.
"""
import pytest

from tdpfast._explore.explorer import Explorer
from tdpfast._testing import baselines as _baselines
from tdpfast._testing import toys as toys
from tdpfast.catalogue import catalogue
from tdpfast.check import build
from tdpfast.design import get_design

PROGRAMS = {
    "counter": lambda: toys.script([[("add", 0, 1)], [("add", 0, 1)]]),
    "freeze-1": lambda: toys.freeze(1),
    "freeze-2": lambda: toys.freeze(2),
}


def switches():
    return _baselines.fiber_switches(1 << 14) / (1 << 14)


def explore(benchmark, beside, program, strategy, executions=0, rounds=3):
    """One search per round; ns per step."""
    steps = Explorer(program, strategy, seed=1, max_executions=executions).run()["transitions"]
    result = beside(lambda: Explorer(program, strategy, seed=1, max_executions=executions).run(), steps,
                    "a fiber switch, there and back", switches, rounds=rounds)
    benchmark.extra_info["executions"] = result["executions"]
    benchmark.extra_info["complete"] = result["complete"]
    if benchmark.stats:
        seconds = benchmark.extra_info["ns"] * steps * 1e-9
        benchmark.extra_info["executions_per_s"] = result["executions"] / seconds
        benchmark.extra_info["steps_per_s"] = result["transitions"] / seconds
    return result


@pytest.mark.parametrize("strategy", ["dfs", "sleep", "dpor"], ids=["plain-dfs", "sleep", "dpor"])
def test_whole_tree(benchmark, beside, strategy):
    """The whole tree of freeze-2: what the reduction saves, and what it costs per step."""
    result = explore(benchmark, beside, PROGRAMS["freeze-2"](), strategy)
    assert result["complete"] and result["checks"] == 0


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("strategy", ["random", "pct"])
def test_walks(benchmark, beside, program, strategy):
    """50,000 executions from a seed: the cost of one execution and of one step."""
    explore(benchmark, beside, PROGRAMS[program](), strategy, 50_000, 7)


def test_three_mappers_dpor(benchmark, beside):
    """A prefix of a tree too large for the plain search."""
    explore(benchmark, beside, toys.freeze(3), "dpor", 200_000)


REVIEW = [("issue4-lost-cmpxchg", "v7.3"), ("issue2-page-reuse", "patch07"), ("issue3-zap-of-table", "single-hook")]


@pytest.mark.parametrize("name, design", REVIEW)
@pytest.mark.parametrize("strategy", ["random", "dpor"])
def test_review_scenario(benchmark, beside, name, design, strategy):
    """KVM, its TDX side and the module together, on a scenario of the review."""
    [scenario] = [s for s in catalogue("review") if s.name == name]
    explore(benchmark, beside, build(scenario, get_design(design).replace(ungated=True)), strategy, 5_000)
