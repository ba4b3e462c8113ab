"""Designs that are wrong on purpose are found by native threads too, and what is found becomes a scenario."""

import pytest

from tdpfast.check import check
from tdpfast.checks import names_of
from tdpfast.design import PRESETS, get_design, with_knobs
from tdpfast.errors import UsageError
from tdpfast.stress import StressConfig, StressResult, reproduce, stress
from tdpfast.threads import run_threads
from tdpfast.vm import Vm


def found(knob, seed=1, seconds=120, **options):     # it ends at the first finding
    knobs = dict.fromkeys(knob.split("+"), True)
    return stress(StressConfig(**{"design": with_knobs("v7.3", knobs), "mode": "td", "seconds": seconds, "seed": seed,
                                  **options}))


def tells(telling, knob, **options):
    """Whether one of these checks is violated in one of five runs. Each has to find something: a burst in which nobody
    watches what is freed may show only what became of it."""
    for _ in range(5):
        checks = found(knob, **options).checks
        assert checks
        if telling & set(checks):
            return True
    return False


@pytest.mark.parametrize("knob, mode, telling", [
    ("no_track", "td", {"epoch"}), ("no_block", "td", {"epoch"}), ("no_hook_on_zap", "td", {"agree", "page"}),
    ("no_hook_on_zap", "mirror", {"agree"}), ("stats_on_failure", "td", {"stat"}),
    ("stats_on_failure", "mirror", {"stat"}), ("dynamic_pamt+pamt_no_put", "td", {"pamt"})])
def test_what_no_race_is_needed_for(knob, mode, telling):
    result = found(knob, mode=mode)
    assert telling <= set(result.checks)
    assert result.burst.number == result.rounds - 1 == result.findings[0].round


@pytest.mark.parametrize("knob, options, telling", [
    ("no_rollback", {}, {"progress", "frozen"}), ("no_grace_period", {"mode": "direct", "mix": "walks"}, {"life"}),
    ("no_freeze", {"mix": "faults", "vcpus": 3}, {"kernel"})])
def test_what_a_race_is_needed_for(knob, options, telling):
    assert tells(telling, knob, **options)


# Of the generic MMU: what needs no race, or one that comes by itself.
OF_THE_MMU = [
    ("yielded_ignored", "direct", "mixed", {"life", "stat"}),
    ("no_progress_test", "direct", "mixed", {"progress"}), ("yield_in_rcu", "direct", "mixed", {"lock"}),
    ("table_leaked", "direct", "faults", {"leak"}), ("no_stale_check", "direct", "walks", {"kernel"}),
    ("filter_ignored", "td", "guests", {"kernel", "data"})]


@pytest.mark.parametrize("knob, mode, mix, telling", OF_THE_MMU, ids=[knob for knob, *_ in OF_THE_MMU])
def test_wrong_variants_of_the_mmu(knob, mode, mix, telling):
    assert tells(telling, knob, mode=mode, mix=mix)


def test_a_root_zap_that_skips_what_it_has_not_seen():
    """CVE-2021-47094: a table of the last pass is left when that pass yields."""
    for design, left in (("v7.3", set()), ("v7.3+iter_advance", {"leak", "stat"})):
        vm = Vm(design, tdx=False, trace="off")
        vm.map(0x8000200, 0x140200)          # not below the first entry: a walk yields once it has moved
        with vm.modifiers(resched=1):
            vm.zap_all()
        vm.invalidate_roots()
        vm.put_root()
        with vm.modifiers(resched=1):
            vm.zap_invalidated_roots(shared=True)
        assert {d.check for d in vm.audit()} == left


def test_a_store_over_what_hardware_writes():
    """The log is cleared and pages go while guests write them: the plain store loses a dirty bit."""
    vm = Vm(get_design("v7.3").replace(plain_store=True), tdx=False, trace="off", memory_pages=8192, pml=True)
    maps = [{"op": "map", "gfn": gfn, "pfn": gfn, "write": 1, "retries": -1} for gfn in range(4)]
    writes = [{"op": "access", "gfn": gfn, "write": 1} for gfn in range(4)] * 4
    clean = [*maps, {"op": "clear_dirty_slot", "start": 0, "end": 4},
             {"op": "unmap", "start": 0, "end": 4, "filter": 1}]
    for seed in range(40):
        run_threads(vm, [writes, writes, clean], count=400, seed=seed, noise=seed + 1)
        if any("dirty" in names_of(vcpu._core.checks) for vcpu in vm.vcpus):
            break
    else:
        pytest.fail("no dirty bit was lost")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("knob, options, telling", [
    ("no_rollback", {"mode": "mirror"}, {"progress", "frozen"}), ("no_rollback", {}, {"progress", "frozen"}),
    ("no_grace_period", {}, {"life"}), ("no_grace_period", {"mode": "mirror", "mix": "walks"}, {"life"}),
    ("no_freeze", {}, {"kernel"}), ("no_freeze", {"mode": "mirror"}, {"agree"})])
def test_races_are_found_with_any_seed(knob, options, telling, seed):
    assert tells(telling, knob, seed=seed, seconds=300, **options)


@pytest.mark.parametrize("knob, mode", [("no_hook_on_zap", "td"), ("no_track", "td"), ("stats_on_failure", "mirror")])
def test_a_scenario_of_it(knob, mode):
    result = found(knob, mode=mode)
    made = reproduce(result)
    assert made.verdict is not None and set(made.verdict.checks) & set(result.checks)
    design = result.config.design
    again = check(made.scenario, design, gated=made.gated, limits=made.limits)
    assert again.token == made.verdict.token and again.checks == made.verdict.checks
    assert check(made.scenario, PRESETS["v7.3"], gated=made.gated, limits=made.limits).checks == []
    assert sum(len(t.ops) for t in made.scenario.threads) <= 3


def test_nothing_found_is_nothing_to_reproduce():
    with pytest.raises(UsageError, match="nothing to reproduce"):
        reproduce(StressResult(StressConfig(ops=1)))


def test_a_reviewers_question():
    """Ungated, v7.3 zaps leaves of the mirror under the read lock, which its TDX side does not allow."""
    assert "lock" in stress(StressConfig(mode="td", ungated=True, seconds=120, seed=1)).checks


def test_uses_of_freed_tables_are_seen():
    """A walker in a table that was freed under it: the broken design frees at once."""
    vm = Vm(get_design("v7.3").replace(no_grace_period=True), tdx=False, trace="off", memory_pages=8192)
    walks = [{"op": "age", "start": 0, "end": 512}, {"op": "get_walk", "gfn": 3}]
    churn = [{"op": "map", "gfn": gfn, "pfn": gfn, "retries": -1} for gfn in range(8)] + [{"op": "zap_all"}]
    for seed in range(40):
        result = run_threads(vm, [walks, walks, churn], count=200, seed=seed, watch=True, noise=seed + 1)
        if result.freed_uses:
            break
    assert result.freed_uses and result.first_freed_use[1] in (1, 2, 3, 4)
    assert any(vcpu._core.checks & 2 for vcpu in vm.vcpus)
