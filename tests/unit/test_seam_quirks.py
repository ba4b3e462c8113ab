"""Behaviour of the module that a re-implementation is likely to get wrong, one test per claim."""
import pytest

from tdpfast.conform._seam_rig import AUX, LEAF, NULL_PA, TABLE, TDR, TDVPR, Rig
from tdpfast.conform._seam_states import prepare

LP = 1
_L2 = dict(r9=NULL_PA, r10=NULL_PA, r11=NULL_PA)


@pytest.fixture
def rig():
    return Rig()


def scene(rig, level, state, variant=None, **build):
    rig.build(lambda r: prepare(r, level, state, variant), (level, state, str(variant)), **build)


def entry(rig, level, gpa=0):
    return rig.module.walk(TDR[0], gpa, level)[0]


def partly_accepted(rig, polls):
    scene(rig, 1, "PENDING")
    rig.must("vp_enter", LP, rcx=TDVPR[0])
    return rig.call("accept", LP, polls, rcx=1)


def test_interrupted_accept_shows_its_progress(rig):
    assert partly_accepted(rig, 3)[1:3] == ("INTERRUPTED_REEXECUTE", 6)
    assert entry(rig, 1) == 0x81000001140040F0
    assert rig.call("sept_rd", rcx=1, rdx=TDR[0])[3]["rcx"] == 0x80000001140040F0


def test_accept_makes_progress_before_it_looks_at_interrupts(rig):
    partly_accepted(rig, 0)
    assert entry(rig, 1) == 0x81000001140010F0
    assert rig.module.polls(LP) == 1


def test_block_clears_the_accept_progress(rig):
    partly_accepted(rig, 3)
    rig.must("mem_range_block", rcx=1, rdx=TDR[0])
    assert entry(rig, 1) == 0x81800001140000F0


def test_small_accept_never_polls(rig):
    scene(rig, 0, "PENDING")
    rig.must("vp_enter", LP, rcx=TDVPR[0])
    assert rig.call("accept", LP, 0, rcx=0)[1] == "TDX_SUCCESS"
    assert rig.module.polls(LP) == 0


def test_demote_of_a_partly_accepted_page_starts_clean(rig):
    partly_accepted(rig, 3)
    rig.module.td_async_exit(LP)
    rig.must("mem_range_block", rcx=1, rdx=TDR[0])
    rig.must("mem_track", rcx=TDR[0])
    assert rig.call("page_demote", rcx=1, rdx=TDR[0], r8=AUX, **_L2)[1] == "TDX_SUCCESS"
    assert entry(rig, 0) == 0x81000001140000F0
    assert entry(rig, 0, 511 << 12) == 0x81000001141FF0F0
    assert entry(rig, 1) == 0x8000000116000007


def test_remove_leaves_owner_and_bepoch(rig):
    scene(rig, 0, "BLOCKED", "tracked")
    rig.must("mem_page_remove", rcx=0, rdx=TDR[0])
    assert rig.module.pamt(LEAF[0])[:3] == (0, TDR[0], 1)
    assert rig.call("rdmd", rcx=LEAF[0])[3] == dict(rcx=0, rdx=TDR[0], r8=0, r9=0, r10=0, r11=0)


def test_demote_keeps_bepoch_of_the_new_table_and_sept_add_clears_it(rig):
    scene(rig, 1, "BLOCKED", "tracked")
    rig.module.set_pamt(AUX, bepoch=0x77)
    rig.must("mem_page_demote", rcx=1, rdx=TDR[0], r8=AUX, **_L2)
    assert rig.module.pamt(AUX)[2] == 0x77
    scene(rig, 1, "FREE")
    rig.module.set_pamt(AUX, bepoch=0x77)
    rig.must("mem_sept_add", rcx=1, rdx=TDR[0], r8=AUX, **_L2)
    assert rig.module.pamt(AUX)[2] == 0


def test_promote_leaves_the_large_pages_bepoch(rig):
    scene(rig, 1, "NL_BLOCKED", ["512pending", "tracked"])
    rig.module.set_pamt(LEAF[1], 1, bepoch=0x55)
    assert rig.must("mem_page_promote", rcx=1, rdx=TDR[0])[1] == TABLE[1]
    assert rig.module.pamt(LEAF[1], 1)[:3] == (3, TDR[0], 0x55)
    assert entry(rig, 1) == 0x81000001140000F0


@pytest.mark.parametrize("state, kept", [("BLOCKED", 0xABAB), ("PENDING_BLOCKED", 0)])
def test_relocate_copies_content_of_an_accepted_page_only(rig, state, kept):
    scene(rig, 0, state, "tracked")
    rig.module.set_pamt(LEAF[0], content=0xABAB)
    rig.must("mem_page_relocate", rcx=0, rdx=TDR[0], r8=AUX)
    assert rig.module.content(AUX) == kept


def test_interrupted_demote_changes_nothing_but_the_new_page(rig):
    scene(rig, 1, "BLOCKED", "tracked")
    before = entry(rig, 1)
    _, status, _, out = rig.call("page_demote", intr_after=0, rcx=1, rdx=TDR[0], r8=AUX, **_L2)
    assert (status, out["rcx"], out["rdx"]) == ("TDX_INTERRUPTED_RESTARTABLE", 1, TDR[0])
    assert entry(rig, 1) == before and rig.module.pamt(AUX)[0] == 0
    assert rig.module.polls() == 1


def test_promote_with_a_locked_child(rig):
    scene(rig, 1, "NL_BLOCKED", ["512pending", "tracked"])
    gpa = 300 << 12
    rig.module.set_entry(TDR[0], gpa, 0, entry(rig, 0, gpa) | 1 << 11)
    _, status, _, out = rig.call("page_promote", rcx=1, rdx=TDR[0])
    assert (status, out["rcx"], out["rdx"]) == ("TDX_OPERAND_BUSY:RCX", 0, 0x8101)
    assert [i for i in range(512) if entry(rig, 0, i << 12) & 1 << 11] == [300]
    assert [i for i in range(512) if entry(rig, 0, i << 12) & 1 << 52] == [300]


@pytest.mark.parametrize("change, status", [
    (lambda raw: raw & ~(1 << 56) | 7, "TDX_EPT_INVALID_PROMOTE_CONDITIONS:RCX"),
    (lambda raw: raw | 1 << 8, "TDX_EPT_INVALID_PROMOTE_CONDITIONS:RCX"), (lambda raw: raw | 1 << 52, "TDX_SUCCESS")])
def test_promote_wants_identical_children(rig, change, status):
    scene(rig, 1, "NL_BLOCKED", ["512pending", "tracked"])
    rig.module.set_entry(TDR[0], 7 << 12, 0, change(entry(rig, 0, 7 << 12)))
    assert rig.call("page_promote", rcx=1, rdx=TDR[0])[1] == status


def test_own_tdr_as_page_is_busy_and_leaves_host_priority(rig):
    scene(rig, 0, "FREE")
    assert rig.call("page_aug", rcx=0, rdx=TDR[0], r8=TDR[0])[1] == "TDX_OPERAND_BUSY:R8"
    assert rig.module.pamt(TDR[0])[3] == 2
    rig.call("sept_rd", rcx=0, rdx=TDR[0])
    assert rig.module.pamt(TDR[0])[3] == 0


def test_2m_aug_over_the_tdr_is_busy(rig):
    scene(rig, 1, "FREE")
    assert rig.call("page_aug", rcx=1, rdx=TDR[0], r8=0x1_0000_0000)[1] == "TDX_OPERAND_BUSY:R8"
    assert rig.module.pamt(TDR[0], 1)[3] == 2


@pytest.mark.parametrize("cfg, rcx, ok", [
    (dict(), 1 << 47 | 3, False), (dict(), 4, False), (dict(levels=5, gpaw=1), 1 << 48 | 4, True),
    (dict(levels=5, gpaw=1), 1 << 51 | 4, False), (dict(levels=5), 4, True), (dict(levels=5), 1 << 48 | 4, False)])
def test_guest_address_width(rig, cfg, rcx, ok):
    rig.build(**cfg)
    status = rig.call("sept_add", rcx=rcx, rdx=TDR[0], r8=AUX, **_L2)[1]
    assert status == ("TDX_SUCCESS" if ok else "TDX_OPERAND_INVALID:RCX")
