"""Designs that are wrong on purpose are found, each by a scenario on which the right design holds."""


import pytest

from tdpfast.catalogue import catalogue
from tdpfast.check import Limits, build, check, explore
from tdpfast.checks import bit_of
from tdpfast.design import PRESETS, WRONG_KNOBS, Design
from tdpfast.scenario import parse

PATHS = {s.name: s for s in catalogue("paths")}
ONE_TRY = parse({"name": "one-try", "thread": [{"ops": [
    {"op": "map", "gfn": 0x201, "pfn": 0x140201, "inject": [{"leaf": "MEM.PAGE.AUG", "lock": "sept_tree"}]}]}],
    "setup": [{"op": "map", "gfn": 0x200, "pfn": 0x140200}]}, "here")
COUNTED = parse({"name": "two-users-of-one-range", "thread": [
    {"ops": [{"op": "pamt_get", "pfn": 0x140000 + i}, {"op": "pamt_put", "pfn": 0x140000 + i}]}
    for i in range(2)]}, "here")

# (knob, scenario) -> the check that tells, and the presets where the knob has an effect.
CENTRAL = ("patch07", "v7.3", "single-hook")
EVERY = ("v6.19", *CENTRAL)
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
    ("pamt_no_put", ONE_TRY, "pamt", ("v6.19", "patch07", "v7.3")),
    ("pamt_dec_outside", COUNTED, "pamt", ("v6.19", "patch07", "v7.3")),
    ("pamt_dec_outside", COUNTED, "kernel", ("v7.3",)),
]


# Of huge pages and finalisation, which only their own scenarios reach: test_hugepage.py finds these.
OF_HUGE_PAGES = {"inhibit_first", "split_direct_root", "prefault_first"}
# Of the protocol between faults and invalidations: test_history.py finds these.
OF_INVALIDATIONS = {"no_seq", "seq_after_lookup", "no_inval_range", "end_before_free", "attr_narrow"}
# Of memslots and NX recovery: found in test_memslots.py.
OF_MEMSLOTS = {"l2_dirty_bits", "nx_wrong_space", "nx_keep_listed", "nx_outside_rcu"}
# Of what the generic MMU itself must get right: found in test_wrong_mmu.py.
OF_THE_MMU = {
    "iter_advance", "yielded_ignored", "no_progress_test", "yield_in_rcu", "plain_store", "no_stale_check",
    "fixed_on_error", "table_leaked", "nx_no_recheck", "notifier_valid_only", "filter_ignored", "no_split_first",
    "flush_lost_at_yield", "flush_lost_in_nx", "flush_wrong_range", "split_keeps_root", "wrprot_skips_ro",
    "track_ignored", "fast_pf_unlogged", "no_rcu_barrier", "keep_sept_wait"}


def design_with(name: str, knob: str, on: bool) -> Design:
    """The preset, with dynamic PAMT if the knob is about that."""
    return PRESETS[name].replace(**{knob: on}, dynamic_pamt=knob.startswith("pamt_"))


@pytest.mark.parametrize("knob, scenario, telling, presets", BROKEN,
                         ids=[f"{knob}-{scenario.name}-{telling}" for knob, scenario, telling, _ in BROKEN])
def test_found(knob, scenario, telling, presets):
    for name in presets:
        whole = check(scenario, design_with(name, knob, False))
        assert (whole.verdict, whole.complete) == ("holds", True)
        broken = check(scenario, design_with(name, knob, True))
        assert telling in broken.checks and broken.token, name


def test_every_knob_that_is_wrong_on_purpose_is_found():
    assert {knob for knob, *_ in BROKEN} == set(WRONG_KNOBS).difference(
        OF_HUGE_PAGES, OF_INVALIDATIONS, OF_MEMSLOTS, OF_THE_MMU)


# How many schedules of PCT find it 19 times out of 20, with room to spare; 1 where the design cannot work at all. Left
# out: without a grace period the walker must be stopped in ten of ten thousand steps, which is for the reduction.
SEVERAL = {"no_freeze": 20, "pamt_dec_outside": 180}
SCHEDULES = [(*case, SEVERAL.get(case[0], 1)) for case in BROKEN if case[0] != "no_grace_period"]


@pytest.mark.slow
@pytest.mark.parametrize("knob, scenario, telling, presets, schedules", SCHEDULES,
                         ids=[f"{knob}-{scenario.name}-{telling}" for knob, scenario, telling, *_ in SCHEDULES])
def test_pct_finds_it_in_so_many_schedules(knob, scenario, telling, presets, schedules):
    program = build(scenario, design_with(presets[-1], knob, True))
    seeds = 200
    found = 0
    for seed in range(seeds):
        limits = Limits(strategy="pct", depth=3, seed=seed, max_executions=schedules, max_transitions=1 << 40)
        found += bool(explore(program, limits).run()["checks"] & bit_of(telling))
    assert found >= 0.95 * seeds


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
