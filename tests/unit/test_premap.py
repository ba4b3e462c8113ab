"""The TDX side of 6.16 to 6.18: what is mapped before finalisation is counted and added later; pages are pinned
while they are mapped."""

import pytest

from tdpfast import Vm
from tdpfast.catalogue import CATALOGUES, catalogue
from tdpfast.check import replay_token
from tdpfast.design import PRESETS
from tdpfast.token import NondeterminismError, Token

GFN, PFN = 0x200, 0x140200
BUSY_ADD = [{"leaf": "MEM.PAGE.ADD", "lock": "tdr"}]


@pytest.fixture
def early(td):
    """A TD of 6.16 before finalisation."""
    return td("v6.16", runnable=False)


def state(t, gfn=GFN, pfn=PFN):
    return t.vm.nr_premapped, t.vm.pin_count(pfn), t.mirror(gfn)[1], t.sept(gfn)[0]


def test_populate_counts_then_adds(early):
    assert early.run("populate", gfn=GFN, pfn=PFN)["ret"] == 0
    assert early.leaves == ["MEM.SEPT.ADD"] * 3 + ["MEM.PAGE.ADD"] and early.fired == []
    assert state(early) == (0, 1, True, "MAPPED")


def test_a_failed_add_leaves_a_premapped_page(early):
    assert early.run("populate", gfn=GFN, pfn=PFN, inject=BUSY_ADD)["ret"] == -16
    assert state(early) == (1, 1, True, "FREE") and early.fired == []
    assert early.run("finalize")["ret"] == -22
    assert early.run("populate", gfn=GFN, pfn=PFN)["ret"] == 0, "the mirror's leaf is spurious, the page is added"
    assert early.leaves == ["MEM.PAGE.ADD"] and state(early) == (0, 1, True, "MAPPED")
    assert early.run("finalize")["ret"] == 0


def test_later_kernels_take_the_leaf_back_instead(td):
    t = td("v6.19", runnable=False)
    assert t.run("populate", gfn=GFN, pfn=PFN, inject=BUSY_ADD)["ret"] == 0      # the loop around the fault
    assert t.leaves.count("MEM.PAGE.ADD") == 2 and t.vm.nr_premapped == 0 and t.vm.pin_count(PFN) is None


def test_the_zap_of_a_premapped_page_matches_the_count(early):
    early.run("populate", gfn=GFN, pfn=PFN, inject=BUSY_ADD)
    assert early.run("unmap", start=GFN, end=GFN + 1)["ret"] == 1
    assert early.calls == [("MEM.RANGE.BLOCK", "TDX_EPT_ENTRY_STATE_INCORRECT:RCX")] and early.fired == []
    assert state(early) == (0, 0, False, "FREE")
    assert early.run("finalize")["ret"] == 0


def test_the_zap_of_an_added_page_leaves_the_count_alone(early):
    early.run("populate", gfn=GFN, pfn=PFN)
    early.run("populate", gfn=GFN + 1, pfn=PFN + 1, inject=BUSY_ADD)
    early.run("unmap", start=GFN, end=GFN + 1)
    assert early.leaves == ["MEM.RANGE.BLOCK", "MEM.PAGE.REMOVE", "PHYMEM.PAGE.WBINVD"]
    assert state(early) == (1, 0, False, "FREE") and early.vm.pin_count(PFN + 1) == 1


def test_an_empty_count_is_a_bug(early):
    """H29: nothing in the S-EPT, and the count says that everything is."""
    early.run("populate", gfn=GFN, pfn=PFN)
    early.run("unmap", start=GFN, end=GFN + 1)
    early.run("raw", leaf="MEM.PAGE.ADD", rcx=GFN << 12, rdx=early.vm.tdr, r8=PFN << 12)
    early.run("map", gfn=GFN + 1, pfn=PFN + 1)
    assert early.vm.nr_premapped == 1
    early.run("populate", gfn=GFN + 1, pfn=PFN + 1)
    early.run("raw", leaf="MEM.RANGE.BLOCK", rcx=(GFN + 1) << 12, rdx=early.vm.tdr)
    early.run("raw", leaf="MEM.PAGE.REMOVE", rcx=(GFN + 1) << 12, rdx=early.vm.tdr)
    early.run("unmap", start=GFN + 1, end=GFN + 2)
    assert early.fired == ["KVM_BUG_ON tdx_sept_zap_private_spte/nothing_premapped",
                           "KVM_BUG_ON remove_external_spte/removal_failed"]
    assert early.vm.nr_premapped == 0 and early.vm.pin_count(PFN + 1) == 1


def test_at_run_time_pages_are_augmented_and_pinned(td):
    t = td("v6.16")
    t.run("map", gfn=GFN, pfn=PFN)
    assert t.leaves[-1] == "MEM.PAGE.AUG" and state(t) == (0, 1, True, "PENDING")
    assert t.run("map", gfn=GFN + 1, pfn=PFN + 1, inject=[{"leaf": "MEM.PAGE.AUG", "lock": "sept_tree"}])["ret"] == 1
    assert t.vm.pin_count(PFN + 1) == 0, "unpinned when AUG failed"
    t.run("unmap", start=GFN, end=GFN + 1)
    assert state(t) == (0, 0, False, "FREE")


def test_a_page_that_could_not_be_removed_stays_pinned(td):
    """H11, answered by a reference: the page is lost, but nobody gets it."""
    t = td("v6.16")
    t.run("map", gfn=GFN, pfn=PFN)
    t.run("unmap", start=GFN, end=GFN + 1, inject=[{"leaf": "MEM.RANGE.BLOCK", "lock": "sept_tree", "count": 2}])
    assert t.fired == ["WARN tdx_sept_zap_private_spte/block_failed", "KVM_BUG_ON remove_external_spte/removal_failed"]
    assert state(t) == (0, 1, False, "PENDING") and t.run("free_pfn", gfn=GFN, pfn=PFN)["ret"] == 2
    later = td("v7.3")
    later.run("map", gfn=GFN, pfn=PFN)
    later.run("unmap", start=GFN, end=GFN + 1, inject=[{"leaf": "MEM.RANGE.BLOCK", "lock": "sept_tree", "count": 2}])
    assert later.run("free_pfn", gfn=GFN, pfn=PFN)["ret"] == 1


@pytest.mark.parametrize("design, ret", [("v6.16", -22), ("v6.19", -5)])
def test_what_a_bug_answers(td, design, ret):
    t = td(design, ungated=True)
    t.run("map", gfn=GFN, pfn=PFN, level=2)
    assert t.hooks[-1] == (GFN, 2, ret) and t.fired[0].startswith("KVM_BUG_ON") and t.fired[0].endswith("level_not_4k")


def test_a_2m_leaf_pins_all_its_pages(td):
    t = td("hugepage-v5a")
    t.run("map", gfn=GFN, pfn=PFN, level=2)
    assert [t.vm.pin_count(PFN + i) for i in (0, 1, 511)] == [1, 1, 1]
    t.run("gmem_convert", start=GFN, end=GFN + 2)
    assert [t.vm.pin_count(PFN + i) for i in (0, 1, 2, 511)] == [0, 0, 1, 1]
    t.run("unmap", start=GFN, end=GFN + 512)
    assert not any(t.vm.pin_count(PFN + i) for i in range(512))


def test_prefault_waits_for_finalisation(early):
    assert early.run("prefault", gfn=GFN, pfn=PFN)["ret"] == -95 and early.calls == []
    early.run("finalize")
    assert early.run("prefault", gfn=GFN, pfn=PFN)["ret"] == 5 and early.leaves[-1] == "MEM.PAGE.AUG"


def test_map_exclusive_is_no_callers(td):
    """H13: under the write lock a busy S-EPT is a bug, and the mirror keeps what the S-EPT does not have."""
    assert td("v7.3").run("map_exclusive", gfn=GFN, pfn=PFN)["ret"] == -22
    t = td("v7.3", ungated=True)
    t.run("map", gfn=GFN + 1, pfn=PFN + 1)
    assert t.run("map_exclusive", gfn=GFN, pfn=PFN)["ret"] == 5 and t.fired == []
    assert t.sept(GFN) == ("PENDING", 1)
    t.run("map_exclusive", gfn=GFN + 2, pfn=PFN + 2, inject=[{"leaf": "MEM.PAGE.AUG", "lock": "sept_tree"}])
    assert t.fired == ["KVM_BUG_ON handle_changed_spte/external_update_failed"]
    assert t.mirror(GFN + 2) == (1, True) and t.sept(GFN + 2) == ("FREE", 1)


def test_what_differs_between_the_releases():
    """6.18 maps as 6.16 does; its MMU zaps under the read lock what NX recovery takes. 6.19 has another TDX side."""
    assert PRESETS["v6.16"].replace(name="v6.18", nx_write_lock=False, slot_blind=False) == PRESETS["v6.18"]
    assert PRESETS["v6.18"].replace(name="v6.19", premap=False, vp_init_unlocked=False) == PRESETS["v6.19"]
    assert PRESETS["v7.2"].replace(name="v7.3", access_allowed=False) == PRESETS["v7.3"]


@pytest.mark.parametrize("design", ["v6.16", "v6.18"])
def test_6_18_still_counts_and_pins(td, design):
    t = td(design, runnable=False)
    t.run("populate", gfn=GFN, pfn=PFN, inject=BUSY_ADD)
    assert state(t) == (1, 1, True, "FREE")


@pytest.mark.parametrize("design, bugged", [("v6.16", 0), ("v6.18", 0), ("v6.19", 1), ("v7.2", 1), ("v7.3", 1)])
def test_a_failed_measurement_kills_the_vm_from_6_19_on(td, design, bugged):
    t = td(design, runnable=False)
    held = [{"leaf": "MR.EXTEND", "lock": "tdr", "mode": "ex"}]
    assert t.run("populate", gfn=GFN, pfn=PFN, measure=1, inject=held)["ret"] == -5
    assert t.mirror(GFN)[1] and t.sept(GFN)[0] == "MAPPED"
    assert (t.vm.kvm_state()["vm_bugged"], bool(t.fired)) == (bugged, bool(bugged))


@pytest.mark.parametrize("design, changed", [("v6.16", 2 + 1), ("v6.18", 512 + 1), ("v7.3", 512 + 1)])
def test_nx_recovery_zaps_under_the_write_lock_in_6_16(design, changed):
    """Under the read lock every entry of the table is frozen, under the write lock only what is present."""
    vm = Vm(design, tdx=False, nx_huge_pages=True)
    for i in range(2):
        vm.map(GFN + i, PFN + i, exec=True, level=2)
    assert vm.zap_possible_nx_huge_page() == (True, GFN, 1)
    assert sum(str(record).startswith("chg") for record in vm.records()) == changed


@pytest.mark.parametrize("token, scenario, design", [
    ("tdp1-acwc7onbg7vdwa5zmdemyagaa3aqpaabziswmia", "issue4-lost-cmpxchg", "v6.19")])
def test_tokens_from_before_the_names_replay(token, scenario, design):
    """Printed when v6.19 was called v6.18."""
    found = [s for name in CATALOGUES for s in catalogue(name)]
    which, on, _, replay = replay_token(Token.parse(token), found, PRESETS.values())
    assert (which.name, on.name, bool(replay["checks"])) == (scenario, design, True)


def test_a_token_from_before_a_step_was_offered_says_so():
    """Populating now offers the word that two of them meet at: the schedule is one of another program."""
    found = [s for name in CATALOGUES for s in catalogue(name)]
    with pytest.raises(NondeterminismError, match="does not do what it did when the token was made"):
        replay_token(Token.parse("tdp1-acy666dnzqyqixlxhnkeyaeaa2qq3qafnaveilq"), found, PRESETS.values())
