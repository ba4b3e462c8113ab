"""Designs that are wrong on purpose are found, each by a scenario on which the right design holds."""

import pytest

from tdpfast.catalogue import catalogue
from tdpfast.check import Limits, check
from tdpfast.design import PRESETS
from tdpfast.scenario import parse

PATHS = {s.name: s for s in catalogue("paths")}
ONE_TRY = parse({"name": "one-try", "thread": [{"ops": [
    {"op": "map", "gfn": 0x201, "pfn": 0x140201, "inject": [{"leaf": "MEM.PAGE.AUG", "lock": "sept_tree"}]}]}],
    "setup": [{"op": "map", "gfn": 0x200, "pfn": 0x140200}]}, "here")

# (knob, scenario) -> the check that tells, and the presets where the knob has an effect.
CENTRAL = ("patch07", "v7.3", "single-hook")
EVERY = ("v6.18", *CENTRAL)
BROKEN = [
    ("no_freeze", PATHS["two-faults-one-table"], "kernel", CENTRAL),
    ("no_rollback", PATHS["fault-meets-busy"], "progress", CENTRAL),
    ("no_rollback", ONE_TRY, "frozen", CENTRAL),
    ("no_grace_period", PATHS["walk-against-zap-all"], "life", EVERY),
    ("no_track", PATHS["fault-against-unmap"], "epoch", EVERY),
    ("no_block", PATHS["fault-against-unmap"], "epoch", EVERY),
    ("no_hook_on_zap", PATHS["fault-against-unmap"], "page", EVERY),
    ("no_hook_on_zap", PATHS["fault-against-unmap"], "agree", EVERY),
    ("stats_on_failure", ONE_TRY, "stat", CENTRAL),
]


@pytest.mark.parametrize("knob, scenario, telling, presets", BROKEN,
                         ids=[f"{knob}-{scenario.name}-{telling}" for knob, scenario, telling, _ in BROKEN])
def test_found(knob, scenario, telling, presets):
    for name in presets:
        whole = check(scenario, name)
        assert (whole.verdict, whole.complete) == ("holds", True)
        broken = check(scenario, PRESETS[name].replace(**{knob: True}))
        assert telling in broken.checks and broken.token, name


def test_what_the_table_leaves_out():
    knobs = {knob for knob, *_ in BROKEN}
    assert knobs == {"no_freeze", "no_rollback", "no_grace_period", "no_track", "no_block", "no_hook_on_zap",
                     "stats_on_failure"}


@pytest.mark.parametrize("strategy", ["random", "pct"])
@pytest.mark.parametrize("knob, name, telling, executions", [
    ("no_freeze", "two-faults-one-table", "kernel", 400), ("no_track", "fault-against-unmap", "epoch", 50),
    ("no_hook_on_zap", "fault-against-unmap", "page", 5)])
def test_found_by_chance(strategy, knob, name, telling, executions):
    design = PRESETS["v7.3"].replace(**{knob: True})
    for seed in (1, 2, 3):
        limits = Limits(strategy=strategy, seed=seed, max_executions=executions, max_transitions=1 << 40)
        assert telling in check(PATHS[name], design, limits=limits).checks, seed
        assert check(PATHS[name], "v7.3", limits=limits).checks == []


@pytest.mark.parametrize("bound", [0, 1, 2])
def test_preemptions_that_are_needed(bound):
    """One vCPU must be interrupted between its cmpxchg and the update of the external table."""
    design = PRESETS["v7.3"].replace(no_freeze=True)
    found = check(PATHS["two-faults-one-table"], design, limits=Limits(strategy="bound", bound=bound)).checks
    assert bool(found) == (bound > 0)
