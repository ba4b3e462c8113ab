"""Stress runs: right designs hold in every mode, and what a run says of itself is so."""
import dataclasses

import pytest

from tdpfast.design import get_design, with_knobs
from tdpfast.errors import UsageError
from tdpfast.stress import MIXES, ROLES, StressConfig, runner, stress
from tdpfast.stress.mixes import Scene, makers
from tdpfast.stress.runner import make_burst, plan
from tdpfast.stress.worlds import Finding, World, limit, runs
from tdpfast.threads import run_threads
from tdpfast.vm import Vm

EVERYBODY = {"loggers": 1, "recoverers": 1}


def quick(**options):
    return stress(StressConfig(**{"ops": 4000, "seed": 1, **options}))


@pytest.mark.parametrize("options", [
    {"mode": "direct", **EVERYBODY}, {"mode": "direct", "design": "v6.18", **EVERYBODY},
    {"mode": "direct", "mix": "walks"}, {"mode": "mirror"}, {"mode": "mirror", "design": "v6.18", "recoverers": 1},
    {"mode": "td"}, {"mode": "td", "design": "hugepage"}, {"mode": "td", "mix": "guests", "vcpus": 3},
    {"mode": "td", "design": with_knobs("v7.3", {"dynamic_pamt": True})}],
    ids=lambda o: "-".join(str(getattr(v, "name", v)) for v in o.values()))
def test_right_designs_hold(options):
    result = quick(**options)
    assert (result.findings, result.burst) == ([], None)
    assert result.ops >= 4000 and result.rounds > 1 and result.vms >= 1
    config = result.config
    kinds = {op["op"] for i in range(result.rounds) for t in make_burst(config, i, True, 300).threads for op in t.ops}
    assert set(result.by_op) <= kinds


def test_what_contention_costs_is_counted():
    result = quick(mode="td", ops=12000)
    c = result.counters
    assert set(c) == {"ret_pf_retry", "lost_cmpxchg", "retries", "operand_busy", "kicks", "yields"}
    # Injected locks make the module busy, and each such answer sends a fault round again.
    assert c["operand_busy"] > 0 and c["ret_pf_retry"] > 0 and c["yields"] > 0 and c["retries"] > 0


def test_times_are_those_of_undisturbed_bursts():
    result = quick(mode="direct", ops=30000, burst=1000)
    assert all(stat.timed <= stat.count for stat in result.by_op.values())
    assert result.by_op["map"].ns > 1 and result.burst_seconds <= result.seconds


def test_everything_drawn_comes_from_the_seed():
    def bursts(seed):
        config = StressConfig(mode="td", seed=seed, ops=1)
        return [make_burst(config, i, True, 300) for i in range(3)]

    assert bursts(5) == bursts(5) and bursts(5) != bursts(6)
    assert len({repr(b.threads) for b in bursts(5)}) == 3
    assert StressConfig(ops=1).seed != StressConfig(ops=1).seed


def test_bursts_are_short_and_long():
    config = StressConfig(ops=1)
    rounds = plan(config, lambda: 6400)
    first = [next(rounds) for _ in range(runner.SHORT_LIVES + 3)]
    assert [ops for _, ops in first] == [runner.SHORT] * (runner.SHORT_LIVES + 1) + [800, 6400]
    assert [fresh for fresh, _ in first] == [True] * (runner.SHORT_LIVES + 1) + [False, False]
    assert {ops for _, (_, ops) in zip(range(9), plan(StressConfig(ops=1, burst=77), lambda: 1))} == {77}


def test_ops_are_a_budget():
    result = quick(ops=500, burst=100)
    assert 500 <= result.ops < 500 + len(result.config.threads) and result.rounds == 2


def test_no_time_for_anything():
    result = quick(ops=0, seconds=1e-9)
    assert (result.rounds, result.ops, result.findings) == (0, 0, [])


def test_progress_is_told_after_each_round():
    told = []
    result = stress(StressConfig(mode="direct", ops=3000, burst=200, seed=2), lambda r: told.append((r.rounds, r.ops)))
    assert [rounds for rounds, _ in told] == list(range(1, result.rounds + 1)) and told[-1][1] == result.ops


def test_an_interrupt_keeps_what_was_done(monkeypatch):
    def interrupted(*args, **options):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return run_threads(*args, **options)

    calls = []
    monkeypatch.setattr(runner, "run_threads", interrupted)
    result = quick()
    assert result.interrupted and result.rounds == 1 and result.ops > 0


@pytest.mark.parametrize("options, message", [
    ({"design": "nope"}, "unknown design"), ({"mode": "nope"}, "unknown mode"), ({"mix": "nope"}, "unknown mix"),
    ({"mix": 5}, "unknown mix"), ({"vcpus": -1}, "vcpus"), ({"vcpus": 21}, "vcpus"), ({"vcpus": "2"}, "vcpus"),
    ({"vcpus": 0, "zappers": 0, "agers": 0}, "number of threads"), ({"vcpus": 15, "zappers": 9}, "number of threads"),
    ({"mode": "td", "vcpus": 9}, "vcpus of a TD"), ({"memory": 15}, "memory"),
    ({"mode": "td", "memory": 1 << 17}, "memory"), ({"ops": -1}, "ops"), ({"burst": -1}, "burst"),
    ({"seconds": -1}, "seconds"), ({"seconds": float("nan")}, "seconds"),
    ({"seconds": "1"}, "seconds"), ({"seed": -1}, "seed"), ({"seed": 1 << 60}, "seed"),
    ({"loggers": 1}, "logger threads"), ({"mode": "td", "loggers": 1}, "logger threads")])
def test_bad_configs(options, message):
    with pytest.raises(UsageError, match=message):
        StressConfig(**{"ops": 1, **options})


def test_no_budget_is_ten_seconds():
    assert StressConfig().seconds == 10 and StressConfig(ops=5).seconds == 0


@pytest.mark.parametrize("mode", ["direct", "mirror", "td"])
@pytest.mark.parametrize("ungated", [False, True])
@pytest.mark.parametrize("mix", MIXES)
def test_mixes_have_something_for_most(mode, ungated, mix):
    scene = Scene(mode, get_design("v7.3").replace(ungated=ungated), 2048)
    for role in ROLES:
        if mix == "guests" and mode != "td" and role == "vcpu":
            continue
        assert makers(mix, role, scene) or (role == "logger" and not scene.writable)


def test_findings():
    a, b = Finding("agree", "x", 0x201, 1, 3), Finding("stat", "y")
    assert str(a) == "agree: x at gfn 201 4K" and str(b) == "stat: y"
    assert a.to_json() == {"check": "agree", "text": "x", "gfn": 0x201, "level": 1, "round": 3}
    assert limit([a, a, b] + [dataclasses.replace(b, text=str(i)) for i in range(20)]).count(a) == 1
    assert len(limit([dataclasses.replace(b, text=str(i)) for i in range(20)])) == 8
    assert runs([1, 2, 3, 7, 9, 10]) == [(1, 3), (7, 1), (9, 2)] and runs([]) == []


@pytest.mark.parametrize("mode", ["direct", "mirror", "td"])
def test_each_check_looks_where_it_says(mode):
    """What is written straight into the tables is told with its place."""
    world = World(mode, get_design("v7.3"), pages=64, vcpus=1, table_pages=256)
    private = mode != "direct"
    idle = [[{"op": "get_walk", "gfn": 0}]]
    vm = world.vm
    vm.map(0x20, 0x110020, private=private)
    assert world.check(run_threads(vm, idle), 4, []) == []
    leaf = vm.walk(0x20, private=private).entries[-1]
    arena = vm.writable_arena()
    arena[leaf.table, leaf.index] = vm.spte.FROZEN_SPTE
    found = world.check(run_threads(vm, idle), 5, [])
    assert {f.check for f in found} >= {"frozen", "stat"} and all(f.round == 5 for f in found)
    assert next(f for f in found if f.check == "frozen").gfn == 0x20
    arena[leaf.table, leaf.index] = vm.spte.SHADOW_NONPRESENT_VALUE
    found = {f.check: f for f in world.check(run_threads(vm, idle), 6, [])}
    if private:
        assert found["agree"].gfn == 0x20
    assert ("page" in found) == (mode == "td") and (mode != "td" or found["page"].gfn == 0x20)


def test_watching_gives_the_dead_back():
    vm = Vm(tdx=False, trace="off", memory_pages=512)
    churn = [{"op": "map", "gfn": 5, "pfn": 5, "retries": -1}, {"op": "zap_all"}]
    for _ in range(4):
        result = run_threads(vm, [churn, churn], count=300, watch=True)
        # Every fault makes three tables, none of which is used again: the arena ends the run, not an error.
        assert result.ended is None and 100 < result.ops < 600
    assert result.freed_uses == 0
    whole = run_threads(vm, [churn, churn], count=300)
    assert whole.ops == 600
