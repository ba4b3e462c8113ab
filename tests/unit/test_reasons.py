"""No reason that is printed is one that the run contradicts."""

import pytest

from tdpfast.catalogue import CATALOGUES, catalogue
from tdpfast.check import Limits, build, check, explore
from tdpfast.design import PRESETS, get_design, with_knobs
from tdpfast.errors import UsageError
from tdpfast.ops import OPS
from tdpfast.report import Notes, cell
from tdpfast.vocabulary import knobs_of

REVIEW = {s.name: s for s in catalogue("review")}
PATHS = {s.name: s for s in catalogue("paths")}
FEW = Limits(max_executions=30)


def number(value):
    return int(value, 0) if isinstance(value, str) else value


def first_results(scenario, design):
    """Per thread what the operations of the first whole execution returned, and the mirror it left."""
    program = build(scenario, design)
    explorer = explore(program, Limits())
    while (run := explorer.step())["end"] == "pruned":
        pass
    explorer.replay(run["schedule"])
    return program.results()


def kept_away(scenario, design):
    """Whether a rule of today's callers shows in what operations returned."""
    for thread, results in zip(scenario.threads, first_results(scenario, design)):
        for op, result in zip(thread.ops, results):
            if OPS[op["op"]].refused and result["ret"] == -22:
                return True
            if number(op.get("level", 1)) > 1 and op["op"] in ("map", "prefault", "map_exclusive"):
                return True
            if op["op"] in ("invalidate_roots", "zap_invalidated_roots"):
                return True
    return False


def contradicted(scenario, design, gated, limits=FEW):
    """What is wrong with the label and the reason of a cell; None if nothing is."""
    try:
        v = check(scenario, design, gated=gated, limits=limits)
    except UsageError:
        return None                 # a set-up that this design does not stand
    label = cell([v], Notes())
    where = f"{scenario.name} on {v.design}, {'gated' if gated else 'ungated'}: {label}: {v.reason}"
    found = v.counterexample
    if label.startswith("refused"):
        first = next(i for i, line in enumerate(found.story) if line.text.startswith(("WARN", "KVM_BUG_ON", "BUG")))
        column = found.story[first].column
        start = max(i for i, line in enumerate(found.story[:first]) if line.column == column and line.what == "op")
        before = [line for line in found.story[start:first] if line.column == column and line.what == "write"]
        if any(line.new != "FROZEN" for line in before) or "stopped" not in v.reason:
            return where
    if "stopped" in v.reason and "before anything changed" in v.reason and not label.startswith("refused"):
        return where
    own = {text for key, text in scenario.reason.items() if key != "gated"}
    if v.reason in own and (v.reason != scenario.reason.get(v.design) or v.verdict == "unknown"):
        return where
    if "gated" in scenario.reason and scenario.reason["gated"] in v.reason and not (
            gated and v.verdict == "holds" and kept_away(scenario, get_design(design).replace(ungated=False))):
        return where
    return None


def test_a_vm_that_died_was_not_refused():
    v = check(PATHS["two-faults-one-table"], with_knobs("v7.3", {"no_freeze": 1}), gated=True)
    assert v.checks == ["kernel"] and v.counterexample.facts.changed and v.counterexample.facts.died is not None
    notes = Notes()
    assert cell([v], notes) == "VM dies [1]" and "after something changed" in notes.refusals[0]
    assert "stopped" not in v.reason and "bugged at step" in v.reason


def test_refused_names_what_stopped_it_and_where():
    v = check(REVIEW["issue3-zap-of-table"], "v6.19", gated=False)
    assert v.reason.startswith("KVM_BUG_ON __tdp_mmu_set_spte_atomic/atomic_zap stopped zap_spte(gfn 0x200, level 2")
    assert "before anything changed" in v.reason and cell([v], Notes()) == "refused [1]"


def test_a_rule_of_the_callers_is_the_reason_only_where_it_was_met():
    v = check(REVIEW["issue2-page-reuse"], "v7.3", gated=True)
    assert v.reason.startswith(REVIEW["issue2-page-reuse"].reason["gated"]) and "is refused (step 0)" in v.reason
    hugepage = {s.name: s for s in catalogue("hugepage")}
    for name, scenario in hugepage.items():
        v = check(scenario, "hugepage-v5d", gated=True, limits=FEW)
        assert scenario.reason.get("gated", "?") not in v.reason, name


@pytest.mark.parametrize("name", list(REVIEW))
@pytest.mark.parametrize("gated", [False, True])
def test_cells_of_the_review(name, gated):
    for design in ("v6.19", "patch07", "single-hook", "v7.3", "hugepage-v5d"):
        assert contradicted(REVIEW[name], design, gated) is None


@pytest.mark.slow
@pytest.mark.parametrize("which", list(CATALOGUES))
@pytest.mark.parametrize("gated", [False, True])
def test_every_cell_of_every_catalogue(which, gated):
    wrong = [text for scenario in catalogue(which) for design in PRESETS
             if not (PRESETS[design].dynamic_pamt and not gated)
             and (text := contradicted(scenario, design, gated))]
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("which", list(CATALOGUES))
def test_every_single_knob(which):
    """Each knob turned over on v7.3 and v6.19, both gatings, a scenario after the other."""
    wrong = []
    for base in ("v6.19", "v7.3"):
        for knob, value in knobs_of(PRESETS[base]).items():
            if not isinstance(value, bool) or knob == "ungated":
                continue
            try:
                design = with_knobs(base, {knob: not value})
            except UsageError:
                continue
            for scenario in catalogue(which):
                for gated in (False, True):
                    if design.dynamic_pamt and not gated:
                        continue
                    text = contradicted(scenario, design, gated, Limits(max_executions=5))
                    wrong += [text] if text else []
    assert not wrong
