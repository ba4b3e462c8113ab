"""The huge-page postings, step by step: who splits a leaf, in which mode, and what each leaves when it fails."""

import pytest

from tdpfast import Vm
from tdpfast._face.seam_module import SeamModule
from tdpfast.design import (
    DISPATCH_PATCH07,
    DISPATCH_V618,
    GATE_HELPER,
    GATE_TWICE,
    PRESETS,
    RECLAIM_IN_SET,
    SPLIT_NONBLOCKING,
    SPLIT_REFUSE,
    Design,
)
from tdpfast.errors import UsageError

GFN, PFN = 0x200, 0x140200
V5 = ("hugepage-v5a", "hugepage-v5b", "hugepage-v5c", "hugepage-v5d", "hugepage-unblock")
DEMOTE = ["MEM.RANGE.BLOCK", "MEM.TRACK", "MEM.PAGE.DEMOTE"]


def held(leaf, lock, **fields):
    return {"leaf": leaf, "lock": lock, **fields}


def small_fault(t, **fields):
    return t.run("map", gfn=GFN + 3, pfn=PFN + 3, level=1, **fields)


@pytest.fixture
def huge(td):
    """A TD of a design with one 2M leaf."""
    def make(design, **cfg):
        t = td(design, **cfg)
        assert t.run("map", gfn=GFN, pfn=PFN, level=2)["level"] == 2
        assert t.sept(GFN, 2) == ("PENDING", 2)
        return t
    return make


# ---- the write lock

@pytest.mark.parametrize("design", [*V5, "hugepage", "rfcv5-split"])
def test_a_conversion_splits_what_reaches_over_its_ends(huge, design):
    t = huge(design)
    t.run("map", gfn=GFN + 0x200, pfn=PFN + 0x200, level=2)
    assert t.run("gmem_convert", start=GFN + 4, end=GFN + 0x208)["ret"] == 1
    assert t.leaves[:6] == DEMOTE * 2 and t.fired == []
    assert [t.sept(gfn)[0] for gfn in (GFN + 3, GFN + 4, GFN + 0x207, GFN + 0x208)] == [
        "PENDING", "FREE", "FREE", "PENDING"]
    stats = t.vm.stats()
    assert (stats["pages_4k"], stats["pages_2m"]) == (4 + 0x1F8, 0)


def test_an_aligned_conversion_splits_nothing(huge):
    t = huge("hugepage-v5d")
    t.run("gmem_convert", start=GFN, end=GFN + 0x200)
    assert t.leaves[:3] == ["MEM.RANGE.BLOCK", "MEM.TRACK", "MEM.PAGE.REMOVE"] and "MEM.PAGE.DEMOTE" not in t.leaves
    assert t.sept(GFN, 2) == ("FREE", 2)


@pytest.mark.parametrize("design, result", [
    ("hugepage-v5a", -5), ("hugepage-v5b", -5), ("hugepage-v5c", -5), ("hugepage-v5d", -5)])
def test_a_failed_split_under_the_write_lock_is_not_undone(huge, design, result):
    """H17: BUSY twice. The mirror has 512 leaves, the S-EPT one of 2M, blocked; the zap then fails on the first."""
    t = huge(design)
    t.run("gmem_convert", start=GFN, end=GFN + 1, inject=[held("MEM.PAGE.DEMOTE", "entry", count=2)])
    assert t.hooks[0] == (GFN, 2, result) and t.fired[0] == "WARN tdx_sept_split_private_spte/demote_failed"
    assert ("KVM_BUG_ON handle_changed_spte/external_update_failed" in t.fired) == (design in V5[2:])
    assert t.mirror(GFN + 1) == (1, True) and t.sept(GFN, 2)[0].startswith("PENDING_BLOCKED")
    assert t.calls[-1] == ("MEM.RANGE.BLOCK", "TDX_EPT_WALK_FAILED:RCX")
    stats = t.vm.stats()
    assert stats["vm_bugged"] and stats["pages_2m"] == (1 if design in V5[2:] else 0)


def test_busy_once_is_kicked_away(huge):
    t = huge("hugepage-v5d")
    t.run("gmem_convert", start=GFN, end=GFN + 1, inject=[held("MEM.PAGE.DEMOTE", "entry")])
    assert t.leaves[:4] == [*DEMOTE, "MEM.PAGE.DEMOTE"] and t.fired == []


# ---- the read lock

def test_v5b_refuses_under_the_read_lock_and_takes_the_leaf_back(huge):
    t = huge("hugepage-v5b")
    assert small_fault(t)["ret"] == 1
    assert t.fired == ["WARN tdx_sept_split_private_spte/mmu_lock_shared"] and t.calls == []
    assert t.hooks == [(GFN, 2, -95)]
    assert t.mirror(GFN + 3) == (2, True) and t.sept(GFN, 2) == ("PENDING", 2) and not t.vm.stats()["vm_bugged"]


def test_v5b_never_gets_further(huge):
    """H19: -EOPNOTSUPP is RET_PF_RETRY."""
    assert small_fault(huge("hugepage-v5b", spin_limit=50), retries=-1)["ret"] == "LIVELOCK"


def test_v5c_asserts_and_goes_on(huge):
    t = huge("hugepage-v5c")
    assert small_fault(t)["ret"] == 6 and t.leaves == DEMOTE
    assert "LOCKDEP tdx_sept_split_private_spte/mmu_lock_write" in t.fired
    assert t.sept(GFN + 3) == ("PENDING", 1)


def test_v5d_demotes_without_block(huge):
    t = huge("hugepage-v5d")
    assert small_fault(t)["ret"] == 6
    assert t.calls == [("MEM.PAGE.DEMOTE", "TDX_SUCCESS")] and t.fired == []
    assert t.sept(GFN + 3) == ("PENDING", 1)
    assert small_fault(t)["ret"] == 6 and t.calls == []


def test_v5d_busy_leaves_nothing_behind(huge):
    t = huge("hugepage-v5d")
    result = small_fault(t, retries=3, inject=[held("MEM.PAGE.DEMOTE", "entry")])
    assert [ret for _, _, ret in t.hooks] == [-16, 0] and result["tries"] == 2 and t.fired == []
    t = huge("hugepage-v5d")
    small_fault(t, inject=[held("MEM.PAGE.DEMOTE", "entry", count=-1)])
    assert t.mirror(GFN) == (2, True) and t.sept(GFN, 2) == ("PENDING", 2) and not t.vm.stats()["vm_bugged"]


@pytest.mark.parametrize("unblock_busy, state", [(0, "PENDING"), (1, "PENDING_BLOCKED")])
def test_without_nonblocking_resize_the_way_back_may_be_busy(huge, unblock_busy, state):
    """H18: the leaf is back in the mirror; its S-EPT entry is blocked if UNBLOCK failed."""
    t = huge("hugepage-unblock")
    inject = [held("MEM.PAGE.DEMOTE", "entry")] + [held("MEM.RANGE.UNBLOCK", "sept_tree")] * unblock_busy
    assert small_fault(t, inject=inject)["ret"] == 1
    assert t.leaves == [*DEMOTE, "MEM.RANGE.UNBLOCK"] and t.fired == []
    assert t.mirror(GFN) == (2, True) and t.sept(GFN, 2)[0] == state
    small_fault(t)
    assert t.vm.stats()["vm_bugged"] == unblock_busy


def test_v5a_ignores_the_split_and_asks_for_2m(huge):
    t = huge("hugepage-v5a")
    assert small_fault(t)["ret"] == 1 and t.hooks == [(GFN, 2, -16)] and t.calls == []
    result = small_fault(t, retries=-1)
    assert (result["ret"], result["level"], result["tries"]) == (6, 2, 2)
    assert t.run("map", gfn=GFN + 0x400, pfn=PFN + 0x400, level=1)["level"] == 1, "only there, only once"


def test_rfcv5_propagates_a_split_twice(huge):
    """H15: the second time the S-EPT has the table already."""
    t = huge("rfcv5-split")
    small_fault(t)
    assert t.hooks == [(GFN, 2, 0), (GFN, 2, -5)]
    assert [c for c in t.calls if c[0] == "MEM.PAGE.DEMOTE"] == [
        ("MEM.PAGE.DEMOTE", "TDX_SUCCESS"), ("MEM.PAGE.DEMOTE", "TDX_EPT_ENTRY_STATE_INCORRECT:RCX")]
    assert t.fired[-1] == "KVM_BUG_ON handle_changed_spte/external_update_failed"


def test_rfcv5_as_posted_refuses_what_is_present(td):
    t = td("rfcv5", ungated=True)
    t.run("map", gfn=GFN, pfn=PFN)
    assert t.fired == []
    t.run("zap_spte", gfn=GFN)
    assert t.fired[0] == "KVM_BUG_ON __tdp_mmu_set_spte_atomic/atomic_zap" and t.calls == []
    t = td("rfcv5", ungated=True)
    t.run("map", gfn=GFN, pfn=PFN)
    t.run("map", gfn=GFN, pfn=PFN, level=2)
    assert t.fired[0] == "KVM_BUG_ON __tdp_mmu_set_spte_atomic/old_present" and t.calls == []


def test_rfcv5_removes_once(td):
    t = td("rfcv5")
    t.run("map", gfn=GFN, pfn=PFN)
    assert t.run("unmap", start=GFN, end=GFN + 1)["ret"] == 1
    assert t.hooks == [(GFN, 1, 0)] and t.fired == [] and t.sept(GFN) == ("FREE", 1)


def test_rfcv5s_counts_what_was_rolled_back(td):
    """H8."""
    t = td("rfcv5-s")
    t.run("map", gfn=GFN, pfn=PFN, retries=-1, inject=[held("MEM.PAGE.AUG", "sept_tree", count=3)])
    assert t.vm.stats()["pages_4k"] == 4
    t = td("v7.3")
    t.run("map", gfn=GFN, pfn=PFN, retries=-1, inject=[held("MEM.PAGE.AUG", "sept_tree", count=3)])
    assert t.vm.stats()["pages_4k"] == 1


# ---- interrupts

STORM = [{"leaf": "MEM.PAGE.DEMOTE", "intr": 1, "count": 3}]


def test_v5a_demotes_again_until_nobody_interrupts(huge):
    t = huge("hugepage-v5a", spin_limit=50)
    t.run("gmem_convert", start=GFN, end=GFN + 1, inject=STORM)
    assert [s for leaf, s in t.calls if leaf == "MEM.PAGE.DEMOTE"] == [
        "TDX_INTERRUPTED_RESTARTABLE"] * 3 + ["TDX_SUCCESS"]
    t = huge("hugepage-v5a", spin_limit=50)
    assert t.run("gmem_convert", start=GFN, end=GFN + 1, inject=[STORM[0] | {"count": -1}])["ret"] == "LIVELOCK"


@pytest.mark.parametrize("design", V5[1:])
def test_later_designs_have_a_module_that_does_not_give_way(huge, design):
    t = huge(design)
    assert t.module.enhanced_demote and t.module.nonblocking_resize == (design == "hugepage-v5d")
    t.run("gmem_convert", start=GFN, end=GFN + 1, inject=STORM)
    assert t.leaves[:3] == DEMOTE and t.leaves.count("MEM.PAGE.DEMOTE") == 1


def test_without_the_module_feature_pages_stay_small(td):
    """The first TD of a module gets what its design wants of it; the second takes the module as it is."""
    module = SeamModule([(0x100000000, 0x200000000)])
    td("v7.3", module=module)
    second = td("hugepage-v5c", module=module, hkid=34, base=0x120000000)
    assert second.run("map", gfn=GFN, pfn=PFN, level=2)["level"] == 1
    with pytest.raises(UsageError, match="NON-BLOCKING-RESIZE"):
        td("hugepage-v5d", module=module, hkid=35, base=0x130000000)


@pytest.mark.parametrize("design", V5)
def test_before_the_td_runs_pages_are_small(td, design):
    t = td(design, runnable=False)
    assert t.run("populate", gfn=GFN, pfn=PFN)["ret"] == 0
    assert t.mirror(GFN) == (1, True)
    t.run("finalize")
    assert t.run("map", gfn=GFN + 0x200, pfn=PFN + 0x200, level=2)["level"] == 2


# ---- a guest that accepts small pages

@pytest.mark.parametrize("design", V5[1:])
def test_the_guests_level_is_honoured(huge, design):
    t = huge(design)
    t.run("vp_enter", vcpu=0)
    result = t.run("guest_accept", vcpu=0, gpa=(GFN + 3) << 12, pfn=PFN + 3)
    assert (result["ret"], result["rax"], result["tries"]) == (0, 0, 2) and t.fired == []
    assert t.vm.guest_inhibits() == [GFN >> 9]
    assert t.sept(GFN + 3)[0] == "MAPPED" and t.sept(GFN + 4)[0] == "PENDING"
    again = t.run("guest_accept", vcpu=0, gpa=(GFN + 4) << 12, pfn=PFN + 4)
    assert again["tries"] == 1 and t.calls == []


def test_an_inhibit_keeps_later_mappings_small(huge):
    t = huge("hugepage-v5d")
    t.run("honor_accept", gfn=GFN + 3)
    t.run("unmap", start=GFN, end=GFN + 0x200)
    assert t.run("map", gfn=GFN + 9, pfn=PFN + 9, level=2)["level"] == 1
    assert t.run("map", gfn=GFN + 0x200, pfn=PFN + 0x200, level=2)["level"] == 2


def test_too_many_inhibits_inhibit_everything(td):
    t = td("hugepage-v5d")
    for i in range(64):
        t.run("honor_accept", gfn=GFN + i * 0x200)
    assert len(t.vm.guest_inhibits()) == 64
    t.run("honor_accept", gfn=GFN + 64 * 0x200)
    assert t.vm.guest_inhibits() is None
    assert t.run("map", gfn=0x100000, pfn=PFN, level=2)["level"] == 1


def test_a_guest_that_accepts_2m_gets_2m(td):
    t = td("hugepage-v5d")
    t.run("vp_enter", vcpu=0)
    result = t.run("guest_accept", vcpu=0, gpa=GFN << 12, pfn=PFN, level=1)
    assert (result["ret"], result["tries"]) == (0, 2) and t.sept(GFN, 2)[0] == "MAPPED" and t.vm.guest_inhibits() == []


def test_v5a_never_accepts_small_pages_below_a_leaf(huge):
    t = huge("hugepage-v5a", spin_limit=30)
    t.run("vp_enter", vcpu=0)
    assert t.run("guest_accept", vcpu=0, gpa=(GFN + 3) << 12, pfn=PFN + 3)["ret"] == "LIVELOCK"
    t = huge("hugepage-v5a")
    t.run("vp_enter", vcpu=0)
    assert t.run("guest_accept", vcpu=0, gpa=(GFN + 3) << 12, pfn=PFN + 3, tries=4)["ret"] == 1


def test_the_wrong_root_is_not_split(huge):
    """H21: the walk of the direct root finds nothing, and the inhibit is set all the same."""
    t = huge(PRESETS["hugepage-v5b"].replace(name="wrong-root", split_direct_root=True), spin_limit=30)
    t.run("vp_enter", vcpu=0)
    assert t.run("guest_accept", vcpu=0, gpa=(GFN + 3) << 12, pfn=PFN + 3)["ret"] == "LIVELOCK"
    assert t.vm.guest_inhibits() == [GFN >> 9]


def test_promotion_stays_blocked(huge):
    for design in V5:
        t = huge(design)
        t.run("gmem_convert", start=GFN, end=GFN + 1)
        result = t.run("map", gfn=GFN, pfn=PFN, level=2)
        assert (result["ret"], result["level"]) == (5, 1) and t.mirror(GFN) == (1, True)


# ---- a VM without a TDX side

def test_vm_converts_and_honours():
    vm = Vm("hugepage-v5b")
    vm.map(GFN, PFN, 2)
    vm.honor_guest_accept_level(GFN + 3)
    assert vm.walk(GFN + 3).pfn == PFN + 3 and vm.stats["pages_4k"] == 512
    assert vm.gmem_convert(GFN, GFN + 2) and vm.stats["pages_4k"] == 510
    assert not vm.gmem_convert(GFN, GFN + 2)
    assert vm.map(GFN, PFN, 2).level == 1
    with pytest.raises(UsageError):
        vm.honor_guest_accept_level(GFN, 4)


def test_a_python_hook_answers_for_the_split():
    seen = []
    vm = Vm("hugepage-v5b", hooks={"split_external_spt": lambda gfn, old, new, level: seen.append((gfn, level)) or -16})
    vm.map(GFN, PFN, 2)
    assert vm.map(GFN + 1, PFN + 1).ret.name == "RET_PF_RETRY" and seen == [(GFN, 2)]
    assert vm.stats["pages_2m"] == 1


# ---- knobs

def test_the_alias():
    assert PRESETS["hugepage-v5c"].replace(name="hugepage") == PRESETS["hugepage"]


@pytest.mark.parametrize("base, knobs, what", [
    ("v7.3", {"split_op": True}, "split_op"),
    ("v7.3", {"premap": True}, "premap"),
    ("v7.3", {"split_shared": SPLIT_REFUSE}, "split_shared"),
    ("hugepage", {"split_shared": 9}, "split_shared"),
    ("hugepage", {"max_level": 1, "split_shared": SPLIT_NONBLOCKING}, "split_shared"),
    ("v7.3", {"bug_old_present": True}, "bug_old_present"),
    ("v7.3", {"gate": GATE_HELPER}, "dispatch and gate"),
    ("v7.3", {"dispatch": DISPATCH_V618}, "dispatch and gate"),
    ("v7.3", {"reclaim": RECLAIM_IN_SET}, "dispatch and reclaim"),
    ("patch07", {"gate": GATE_TWICE}, "gate and dispatch"),
    ("rfcv5", {"dispatch": DISPATCH_PATCH07}, "gate and dispatch"),
    ("v6.16", {"dynamic_pamt": True}, "premap"),
])
def test_knobs_that_mean_nothing_together(base, knobs, what):
    with pytest.raises(UsageError, match=f"design .*{what}"):
        PRESETS[base].replace(**knobs)


def test_tokens_of_older_designs_stay_valid():
    text = PRESETS["v7.3"].canonical()
    assert "split_op" not in text and "no_freeze=False" in text
    assert "split_op=True" in PRESETS["hugepage-v5b"].canonical()
    assert PRESETS["v7.3"].replace(prefault_first=True).canonical() != text
    assert Design(name="v7.3").canonical() == text
