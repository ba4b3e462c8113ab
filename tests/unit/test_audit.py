"""Vm.audit() and TdVm.audit(): consistent, or what differs, with both sides."""

import pytest

from tdpfast import TdVm, Vm
from tdpfast.errors import UsageError


@pytest.mark.parametrize("make", [Vm, TdVm, lambda design: Vm(design, tdx=False)])
@pytest.mark.parametrize("design", ["v6.18", "v7.3", "hugepage"])
def test_a_vm_that_works_is_consistent(make, design):
    vm = make(design)
    assert vm.audit() == []
    for gfn in range(0x200, 0x210):
        vm.map(gfn, 0x140000 + gfn)
    assert vm.audit() == []
    vm.zap_leafs(0x204, 0x208)
    assert vm.audit() == []
    vm.destroy()
    assert vm.audit() == []


def test_both_sides_of_what_differs():
    td = TdVm("v7.3", ungated=True)
    td.map(0x200, 0x140200)
    td.run({"op": "poke_raw", "private": 1, "gfn": 0x201, "level": 1, "value": 0x80a0000140201f37})
    found = {difference.check: difference for difference in td.audit()}
    assert set(found) == {"agree", "stat"}
    agree = found["agree"]
    assert (agree.gfn, agree.level, agree.mirror) == (0x201, 1, 0x80a0000140201f37) and agree.external is not None
    assert str(agree) == ("agree: gfn 201 4K: mirror: leaf pfn 140201 rw; S-EPT: FREE "
                          "(the mirror has an entry, the module has none)")
    assert str(found["stat"]) == "stat: pages_4k is 1, the tables have 2"


def test_a_table_that_the_module_does_not_have():
    td = TdVm("v7.3", ungated=True)
    td.map(0x200, 0x140200)
    td.seamcall("TDH.MEM.RANGE.BLOCK", rcx=0x200 << 12, rdx=td.td.tdr)
    text = str(td.audit()[0])
    assert "mirror: leaf pfn 140200 rw" in text and "blocked" in text


def test_a_frozen_entry_is_found_and_hooks_may_not_look():
    vm = Vm("v7.3", ungated=True)
    vm.map(0x200, 0x140200)
    vm.run({"op": "poke_raw", "private": 1, "gfn": 0x201, "level": 1, "value": 0x80000000000001A0})
    assert "frozen" in {difference.check for difference in vm.audit()}
    inner = Vm("v7.3", hooks={"set_external_spte": lambda *_: inner.audit() and None})
    with pytest.raises(UsageError):
        inner.map(0x200, 0x140200)


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("other", [False, True])
def test_agree_compares_pages_of_every_level(level, other):
    """A leaf on both sides, of the same page or, planted, of another."""
    td = TdVm("hugepage", ungated=True)
    size = 512 ** (level - 1)
    td.map(0x400, 0x140400, level=level)
    gfn, pfn = 0x400 + size, 0x140400 + size
    assert td.seamcall("TDH.MEM.PAGE.AUG", rcx=gfn << 12 | level - 1, rdx=td.td.tdr, r8=pfn << 12).ok
    value = td.core.run({"op": "mwalk", "gfn": 0x400})["sptes"][level] + ((size * (1 + other)) << 12)
    assert td.run({"op": "poke_raw", "private": 1, "gfn": gfn, "level": level, "value": value})["ret"] == 0
    assert {d.check for d in td.audit()} == ({"agree", "stat"} if other else {"stat"})


def test_what_is_kept_for_ever():
    """Planted: a lock of the module's, a root's reference, a table that nobody reaches."""
    td = TdVm("v7.3")
    td.map(0x200, 0x140200)
    td.module.native.set_td(td.td.tdr, tree_lock=1)
    assert [d.check for d in td.audit()] == ["leak"]
    td.module.native.set_td(td.td.tdr, tree_lock=0)
    assert td.audit() == []
    broken = Vm("v7.3+split_keeps_root", tdx=False)
    broken.map(0x200, 0x140200, level=2)
    with broken.modifiers(enomem=[{"what": "table"}]):
        broken.split(0x200, 0x400)
    assert [str(d) for d in broken.audit()] == ["refs: a root counts 3 references, 2 are held; or it is freed"]
