"""What walks over the list of roots read of roots that they hold no reference to."""

import pytest

from tdpfast.check import check
from tdpfast.design import PRESETS
from tdpfast.scenario import parse

FIRST = {"op": "map", "gfn": 0x200, "pfn": 0x140200, "private": 0}
# The set-up leaves an invalid root whose last reference is the vCPU's.
SETUP = [FIRST, {"op": "invalidate_roots", "types": 2}, {"op": "zap_invalidated_roots", "shared": 0}]
AGE = {"op": "age", "start": 0x200, "end": 0x201, "filter": 1}


def last_put(vcpu, other):
    return parse({"name": "last-put", "setup": SETUP, "thread": [{"ops": [vcpu]}, {"ops": [other]}]}, "here")


@pytest.mark.parametrize("design", ["v6.18", "v7.3"])
@pytest.mark.parametrize("vcpu", [{"op": "reload"}, {"op": "put_root", "private": 0},
                                  {**FIRST, "gfn": 0x201, "pfn": 0x140201}], ids=lambda op: op["op"])
def test_lockless_ageing_against_the_last_reference(design, vcpu):
    """Ageing is protected by RCU alone: without a grace period it reads the role of a root that is gone."""
    right = check(last_put(vcpu, AGE), design)
    assert (right.verdict, right.complete) == ("holds", True)
    broken = check(last_put(vcpu, AGE), PRESETS[design].replace(no_grace_period=True))
    assert broken.checks == ["life"]
    assert any("USE AFTER FREE" in line.text for line in broken.counterexample.story)


def test_walks_under_mmu_lock():
    """Under mmu_lock for read the list is walked inside RCU as well; a root is gone once its last reference is."""
    write_protect = {"op": "wrprot_slot", "start": 0x200, "end": 0x201}
    scenario = last_put({"op": "reload"}, write_protect)
    assert check(scenario, "v7.3", gated=False).verdict == "holds"
    assert "life" in check(scenario, PRESETS["v7.3"].replace(no_grace_period=True), gated=False).checks
