"""Answers of the module in states that no recording visits."""
import pytest

from tdpfast.conform._seam_rig import AUX, TDR, TDVPR, Rig
from tdpfast.conform._seam_states import prepare

LP = 1


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


def test_attr_rd_locks_whatever_entry_it_finds(rig):
    scene(rig, 0, "FREE")
    rig.must("vp_enter", LP, rcx=TDVPR[0])
    rig.module.set_entry(TDR[0], 0, 0, entry(rig, 0) | 1 << 11)
    assert rig.call("attr_rd", LP, rcx=0)[1] == "TDX_OPERAND_BUSY:RCX"


def test_flush_works_on_a_fatal_td(rig):
    rig.build()
    rig.must("vp_enter", LP, rcx=TDVPR[0])
    rig.module.td_async_exit(LP)
    rig.module.set_td(TDR[0], fatal=1)
    assert rig.call("vp_enter", LP, rcx=TDVPR[0])[1] == "TDX_TD_FATAL"
    assert rig.call("vp_flush", LP, rcx=TDVPR[0])[1] == "TDX_SUCCESS"


@pytest.mark.parametrize("op", ["vp_enter", "vp_flush"])
def test_a_vcpu_needs_its_pages_for_l2_vms(rig, op):
    rig.build(num_l2=1)
    rig.module.set_vp(TDVPR[0], num_tdvpx=5)
    assert rig.call(op, LP, rcx=TDVPR[0])[1] == "TDX_TDCX_NUM_INCORRECT"
    rig.module.set_td(TDR[0], op_state=1)
    assert rig.call("vp_enter", LP, rcx=TDVPR[0])[1] == "TDX_OP_STATE_INCORRECT"


# ---- host priority ------------------------------------------------------------------------------------------

HINT = 1 << 52


def waiting_host(rig, held=0):
    """A pending page whose entry a host wants; held: and somebody holds."""
    scene(rig, 0, "PENDING")
    rig.must("vp_enter", LP, rcx=TDVPR[0])
    wait(rig, held)


def wait(rig, held=0):
    rig.module.set_entry(TDR[0], 0, 0, 0x81000001120000F0 | 1 << 52 | held << 11)


def accept(rig, expired):
    rig.module.set_vp(TDVPR[0], hp_expired=expired)
    return rig.call("accept", LP, rcx=0)[1]


def test_the_first_yield_to_the_host_never_exits(rig):
    waiting_host(rig)
    assert accept(rig, 1) == "TDX_OPERAND_BUSY:RCX"
    assert accept(rig, 1) == "TDX_HOST_PRIORITY_BUSY_TIMEOUT"


def test_an_entry_that_is_held_ends_the_wait_for_the_host(rig):
    waiting_host(rig)
    assert accept(rig, 0) == "TDX_OPERAND_BUSY:RCX"
    wait(rig, held=1)
    assert accept(rig, 1) == "TDX_OPERAND_BUSY:RCX"
    assert rig.module.vp(TDVPR[0])["hp_busy"] == 0


def test_the_host_may_hint_only_after_the_exit_for_its_priority(rig):
    waiting_host(rig)
    rip = rig.module.vp(TDVPR[0])["rip"]
    assert [accept(rig, 1), accept(rig, 1)][1] == "TDX_HOST_PRIORITY_BUSY_TIMEOUT"
    assert rig.module.vp(TDVPR[0])["rip"] == rip + 8
    assert rig.call("vp_enter", LP, rcx=TDVPR[0] | HINT)[1] == "ENTERED_TD"
    rig.module.td_async_exit(LP)
    assert rig.call("vp_enter", LP, rcx=TDVPR[0] | HINT)[1] == "TDX_OPERAND_INVALID:RCX"


# ---- zero-step filter ---------------------------------------------------------------------------------------

def suspected(rig):
    """A VCPU that faulted at GPA 0 so often that VP.ENTER looks at the entry."""
    scene(rig, 0, "FREE")
    rig.must("vp_enter", LP, rcx=TDVPR[0])
    for _ in range(7):
        assert rig.module.guest_access(LP, 0x10, True)[1] == 0x30
        if not rig.module.vp(TDVPR[0])["epf_gpa"]:
            rig.must("vp_enter", LP, rcx=TDVPR[0])
    assert rig.module.vp(TDVPR[0])["epf_gpa"] == [0x10]


def mapped(rig):
    rig.module.set_entry(TDR[0], 0, 0, AUX | 0x80000000000000F7)


def test_an_entry_does_not_forget_what_was_suspected(rig):
    suspected(rig)
    mapped(rig)
    rig.must("vp_enter", LP, rcx=TDVPR[0])
    vp = rig.module.vp(TDVPR[0])
    assert (vp["epf_count"], vp["epf_gpa"]) == (6, [0x10])
    assert rig.module.guest_access(LP, 0x5000, True)[1] == 0x30
    assert rig.module.vp(TDVPR[0])["epf_gpa"] == [0x10, 0x5000]


def test_progress_ends_the_suspicion(rig):
    suspected(rig)
    mapped(rig)
    rig.must("vp_enter", LP, rcx=TDVPR[0])
    assert rig.module.guest_access(LP, 0, False)[1] == 0
    assert rig.module.td_async_exit(LP)[0] == 1
    vp = rig.module.vp(TDVPR[0])
    assert (vp["epf_count"], vp["epf_gpa"]) == (0, [])
    rig.module.set_td(TDR[0], tree_lock=1)
    assert rig.call("vp_enter", LP, rcx=TDVPR[0])[1] == "ENTERED_TD"


@pytest.mark.parametrize("raw, enters", [(0x80200000000002F7, True), (0x80400000000000F5, False)])
def test_suspicion_asks_for_a_writable_page(rig, raw, enters):
    suspected(rig)
    rig.module.set_entry(TDR[0], 0, 0, AUX | raw)
    assert (rig.call("vp_enter", LP, rcx=TDVPR[0])[1] == "ENTERED_TD") == enters


def test_remove_shows_an_entry_without_accept_progress(rig):
    partly_accepted(rig, 3)
    _, status, _, out = rig.call("page_remove", rcx=1, rdx=TDR[0])
    assert (status, out["rcx"]) == ("TDX_GPA_RANGE_NOT_BLOCKED:RCX", 0x80000001140000F0)
    assert rig.call("range_block", rcx=1, rdx=TDR[0])[1] == "TDX_SUCCESS"


@pytest.mark.parametrize("version, rcx", [(2, 0), (0x100, 3)])
def test_reserved_bits_of_rax_are_refused_before_the_leaf_starts(rig, version, rcx):
    rig.build()
    _, status, _, out = rig.call("sept_add", rcx=3, rdx=TDR[0], r8=AUX, version=version)
    assert (status, out["rcx"]) == ("TDX_OPERAND_INVALID", rcx)


def test_finalize_does_not_ask_for_the_op_state_lock(rig):
    rig.build(op_state=1)
    rig.module.set_td(TDR[0], op_lock=4)
    assert rig.call("mr_finalize", rcx=TDR[0])[1] == "TDX_SUCCESS"
    assert rig.module.td(TDR[0])["op_lock"] == 4
