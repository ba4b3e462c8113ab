"""The four review questions: what every design answers, with the rules of today's callers and without."""

import pytest

from tdpfast.catalogue import catalogue
from tdpfast.check import HOLDS, VIOLATED, check_many
from tdpfast.report import unexpected

DESIGNS = ("v6.19", "patch07", "patch15", "single-hook", "v7.3")
KERNEL_ONLY = ["kernel"]

# Scenario -> design -> the checks that are violated when the rules are lifted, all of them.
ANSWERS = {
    "issue1-collapse-by-fault": {
        "v6.19": "kernel", "patch07": "agree lock", "patch15": "agree lock stat", "v7.3": "agree lock stat",
        "single-hook": "life lock stat"},
    "issue1-collapse-busy-once": {
        "v6.19": "kernel", "patch07": "agree lock", "patch15": "agree lock", "v7.3": "agree lock",
        "single-hook": "life lock progress stat"},
    "issue2-atomic-zap-of-leaf": {
        "v6.19": "progress", "patch07": "agree", "patch15": "lock", "v7.3": "lock", "single-hook": "lock"},
    "issue2-page-reuse": {
        "v6.19": "kernel", "patch07": "agree page", "patch15": "lock", "v7.3": "lock", "single-hook": "lock"},
    "issue3-reclaim-busy": {
        "v6.19": "kernel", "patch07": "lock", "patch15": "kernel", "v7.3": "kernel", "single-hook": "life lock"},
    "issue3-zap-of-table": {
        "v6.19": "kernel", "patch07": "agree lock", "patch15": "agree", "v7.3": "agree", "single-hook": "life lock"},
    "issue4-clear-dirty": {
        "v6.19": "progress", "patch07": "progress", "patch15": "agree lock", "v7.3": "agree lock",
        "single-hook": "progress"},
    "issue4-lost-cmpxchg": {
        "v6.19": "progress", "patch07": "holds", "patch15": "holds", "v7.3": "holds", "single-hook": "holds"},
    "issue4-persistent-error": dict.fromkeys(DESIGNS, "progress"),
}


@pytest.fixture(scope="module")
def scenarios():
    return {s.name: s for s in catalogue("review")}


@pytest.fixture(scope="module")
def verdicts(scenarios):
    tasks = [(s, d, g) for s in scenarios.values() for d in DESIGNS for g in (False, True)]
    return {(v.scenario, v.design, v.gated): v for v in check_many(tasks)}


def test_every_expectation_holds(scenarios, verdicts):
    assert [text for v in verdicts.values() if (text := unexpected(v, scenarios[v.scenario]))] == []
    for s in scenarios.values():
        assert set(s.expect) == set(DESIGNS)


def test_gated_everything_holds(verdicts):
    gated = [v for v in verdicts.values() if v.gated]
    assert len(gated) == len(ANSWERS) * len(DESIGNS)
    for v in gated:
        assert (v.verdict, v.complete, v.checks, v.token) == (HOLDS, True, [], None)


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(verdicts, scenarios, name):
    """A kernel assertion that fires beside other faults is no answer of its own."""
    got = {}
    for design in DESIGNS:
        v = verdicts[name, design, False]
        checks = v.checks if v.checks == KERNEL_ONLY else [c for c in v.checks if c != "kernel"]
        got[design] = " ".join(checks) or HOLDS
        if v.verdict == VIOLATED:
            assert v.counterexample.token and v.counterexample.story and v.counterexample.check in v.checks
            assert v.counterexample.assertions or "kernel" not in v.checks
    assert got == ANSWERS[name]


def test_the_catalogue_is_covered(scenarios):
    assert set(scenarios) == set(ANSWERS)


def test_only_one_hook_for_everything_uses_tables_after_their_grace_period(verdicts):
    dead = {(name, design) for (name, design, _), v in verdicts.items() if "life" in v.checks}
    assert {design for _, design in dead} == {"single-hook"}
    assert {name.split("-")[0] for name, _ in dead} == {"issue1", "issue3"}


def test_page_reuse_is_found_on_patch07_only(verdicts):
    assert {d for (_, d, _), v in verdicts.items() if "page" in v.checks} == {"patch07"}


@pytest.mark.parametrize("name, gated", [("paths", False), ("paths", True)])
def test_other_paths(name, gated):
    found = catalogue(name)
    by_name = {s.name: s for s in found}
    verdicts = list(check_many([(s, d, gated) for s in found for d in (*DESIGNS, "hugepage")]))
    assert [text for v in verdicts if (text := unexpected(v, by_name[v.scenario]))] == []
    assert not gated or all(v.complete for v in verdicts)
