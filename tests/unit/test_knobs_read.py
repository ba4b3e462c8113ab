"""Which design reads which knob: what design.py says is what flipping the knob changes, or does not."""

import pytest

from tdpfast._explore.explorer import Explorer
from tdpfast._names import EventKind
from tdpfast.catalogue import catalogue
from tdpfast.check import SetupError, build
from tdpfast.design import _READ, PRESETS, unread, with_knobs
from tdpfast.errors import UsageError
from tdpfast.scenario import parse

MAP = {"op": "map", "gfn": 0x200, "pfn": 0x140200}
HUGE = {**MAP, "level": 2}
UNMAP = {"op": "unmap", "start": 0x200, "end": 0x201}
ACCEPT = {"op": "guest_accept", "vcpu": 0, "gpa": 0x201000, "pfn": 0x140201}


def scenario(name, setup, *ops, **vm):
    return parse({"name": name, "vm": vm, "setup": setup, "thread": [{"ops": [op]} for op in ops]}, "here")


BUSY = {"inject": [{"leaf": "MEM.PAGE.AUG", "lock": "sept_tree"}]}
SCENARIOS = [
    scenario("fault-busy", [MAP], {**MAP, "gfn": 0x201, "pfn": 0x140201, "retries": 1, **BUSY}, UNMAP),
    scenario("demote-interrupted", [HUGE], {"op": "gmem_convert", "start": 0x200, "end": 0x201,
                                            "inject": [{"leaf": "MEM.PAGE.DEMOTE", "intr": 1}]}),
    scenario("demote-fails-for-an-accept", [HUGE, {"op": "vp_enter", "vcpu": 0}], {**ACCEPT, "tries": 3, "inject": [
        {"leaf": "MEM.PAGE.DEMOTE", "lock": "entry", "count": 2}]}),
    *(s for s in catalogue("hugepage") if s.name.startswith(("h17", "h20"))),
]


def behaviour(scenario, design):
    """What a few executions offered, answered and recorded, without addresses; or that there is nothing to run."""
    try:
        program = build(scenario, design)
    except SetupError as error:
        return error.why
    explorer = Explorer(program, "pct", seed=1, max_executions=4, max_transitions=4000, states=False)
    out = []
    while (run := explorer.step()) is not None:
        replay = explorer.replay(run["schedule"])
        out.append((run["end"], run["checks"], [(agent, kind) for agent, kind, _, _ in replay["steps"]],
                    repr(program.results()),
                    [(e[0], *e[3][:6]) for e in program.events() if e[0] != EventKind.EV_STEP]))
    return out


def flipped(design, knob):
    return design.replace(**{knob: not getattr(design, knob)})


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("knob", _READ)
def test_a_knob_is_refused_where_flipping_it_changes_nothing(name, knob):
    design = PRESETS[name]
    try:
        other = flipped(design, knob)
    except UsageError:
        return                       # refused already: knobs that mean nothing together
    pairs = [(design, other)] + [(design.replace(ungated=True), other.replace(ungated=True))] * (not other.dynamic_pamt)
    differs = any(behaviour(s, a) != behaviour(s, b) for s in SCENARIOS for a, b in pairs)
    assert differs == (not unread(other, knob))
    if unread(other, knob):
        with pytest.raises(UsageError, match="no step of this design reads it"):
            with_knobs(name, {knob: getattr(other, knob)})
    else:
        with_knobs(name, {knob: getattr(other, knob)})


def test_with_dynamic_pamt_its_knobs_are_read():
    design = PRESETS["v7.3"].replace(dynamic_pamt=True)
    for knob in ("pamt_no_put", "pamt_dec_outside"):
        assert any(behaviour(s, design) != behaviour(s, flipped(design, knob)) for s in SCENARIOS)
        with_knobs("v7.3", {"dynamic_pamt": True, knob: True})
        with pytest.raises(UsageError, match=r"it has no dynamic PAMT.; try it with dynamic_pamt"):
            with_knobs("v7.3", {knob: True})
