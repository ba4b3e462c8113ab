"""Allocations that fail on purpose: every operation that allocates says so, and leaves nothing behind."""

import pytest

from tdpfast import TdVm, Vm
from tdpfast._face.seam_module import SeamModule
from tdpfast._face.td import TdVmCore
from tdpfast.check import MEMORY, check
from tdpfast.design import get_design
from tdpfast.errors import UsageError
from tdpfast.scenario import parse

ENOMEM = -12
MAP = {"op": "map", "gfn": 0x200, "pfn": 0x140200}
HUGE = MAP | {"level": 2}
FIXED = 5


def failing(what="table", skip=0, count=1):
    return {"enomem": [{"what": what, "skip": skip, "count": count}]}


@pytest.mark.parametrize("what, private", [("table", 0), ("table", 1), ("sept", 1)])
def test_a_fault_without_memory_does_nothing(what, private):
    vm = TdVm("v7.3")
    before = vm.stats
    out = vm.core.run(MAP | {"private": private, "retries": -1, **failing(what)})
    assert (out["ret"], out["enomem_used"]) == (ENOMEM, 1) and vm.stats == before and vm.audit() == []
    assert vm.core.run(MAP | {"private": private, "retries": -1, **failing(what, skip=1)})["ret"] == FIXED


@pytest.mark.parametrize("skip, tables", [(0, 0), (1, 1), (2, 2)])
def test_a_split_ends_at_the_table_that_is_missing(skip, tables):
    vm = Vm("v7.3", tdx=False)
    for gfn in (0x200, 0x400, 0x600):
        vm.map(gfn, 0x140000 + gfn, level=2)
    linked = vm.stats["sp_linked"]
    with vm.modifiers(**failing(skip=skip)):
        vm.split(0x200, 0x800)
    assert vm.stats["sp_linked"] == linked + tables and vm.audit() == []


@pytest.mark.parametrize("what", ["table", "sept"])
@pytest.mark.parametrize("op", ["gmem_convert", "punch_hole", "set_attributes"])
def test_what_has_to_split_first_then_takes_nothing(op, what):
    td = TdVm("hugepage")
    td.core.run(HUGE)
    more = {"pfn": 0x140200} if op == "punch_hole" else {}
    out = td.core.run({"op": op, "start": 0x200, "end": 0x201, **more, **failing(what)})
    assert (out["ret"], out["enomem_used"]) == (ENOMEM, 1)
    assert td.stats["pages_2m"] == 1 and td.audit() == []
    assert td.core.run({"op": op, "start": 0x200, "end": 0x201, **more})["ret"] >= 0
    assert td.stats["pages_2m"] == 0 and td.audit() == []


@pytest.mark.parametrize("skip", range(4))
def test_a_pamt_pair_is_missing_inside_the_hook(skip):
    vm = TdVmCore(get_design("v7.3").replace(dynamic_pamt=True), SeamModule([MEMORY]), nvcpus=1, memory_pages=4096)
    out = vm.run(MAP | {"retries": 0, **failing("pamt", skip=skip)})
    assert (out["ret"], out["enomem_used"]) == (1, 1)
    assert vm.run(MAP)["ret"] == FIXED


def test_beside_other_vcpus():
    """The error path of a split and of a conversion, at every step of a fault."""
    for design, op in (("hugepage", {"op": "gmem_convert", "start": 0x200, "end": 0x201}),
                       ("hugepage", {"op": "punch_hole", "start": 0x200, "end": 0x201, "pfn": 0x140200})):
        scenario = parse({"name": "enomem", "setup": [HUGE], "thread": [
            {"ops": [op | failing()]}, {"ops": [HUGE | {"gfn": 0x210, "pfn": 0x140210, "retries": -1}]}]},
            "here")
        verdict = check(scenario, design)
        assert (verdict.verdict, verdict.complete) == ("holds", True)


@pytest.mark.parametrize("bad", [{"what": "page"}, {"skip": -1}, {"count": "x"}, {"which": "table"}])
def test_bad_input(bad):
    with pytest.raises(UsageError):
        parse({"name": "bad", "thread": [{"ops": [MAP | {"enomem": [bad]}]}]}, "here")
