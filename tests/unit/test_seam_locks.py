"""No leaf leaves a lock behind, whatever it answers; failed attempts leave exactly the module's residue."""
import gzip
import json
from pathlib import Path

import pytest

from tdpfast.conform import seam_state
from tdpfast.conform._seam_rig import AUX, LEAF, TABLE, TDR, TDVPR, Rig

DATA = Path(__file__).parents[1] / "conformance" / "data" / "tdx-1.5"
ENTRY_LOCK = 1 << 11


def held(rig):
    """Every lock word that is held while no VCPU is inside; bit 1 is the host-priority residue of a failed attempt."""
    td = rig.module.td(TDR[0])
    words = {name: td[name] for name in ("op_lock", "tree_lock", "epoch_lock") if td[name] & ~2}
    for hpa in (*TDR, *TDVPR, AUX, *TABLE.values(), *LEAF.values()):
        for size in range(3):
            lock = rig.module.pamt(hpa, size)[3]
            if lock & ~2:
                words[hpa, size] = lock
    words.update({(gpa, level): hex(raw) for gpa, level, raw in rig.module.sept(TDR[0]) if raw & ENTRY_LOCK})
    return words


def test_no_status_leaves_a_lock():
    replayer = seam_state.Replayer()
    statuses = set()
    with gzip.open(DATA / "state_matrix.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    for row in rows:
        assert replayer.replay(row).status == "passed"
        for lp in list(replayer.rig.module.in_guest()):
            replayer.rig.module.td_async_exit(lp)
        assert held(replayer.rig) == {}, row
        statuses.add((row["op"], row["status"]))
    assert len(statuses) > 80


@pytest.fixture
def rig():
    rig = Rig()
    rig.build()
    return rig


@pytest.mark.parametrize("op, given", [
    ("sept_rd", dict(rcx=3, rdx=TDR[0])), ("sept_add", dict(rcx=3, rdx=TDR[0], r8=AUX)),
    ("range_block", dict(rcx=3, rdx=TDR[0])), ("track", dict(rcx=TDR[0])), ("vp_enter", dict(rcx=TDVPR[0])),
])
@pytest.mark.parametrize("word, excl, shared_fail", [("op_lock", 1, 7), ("tree_lock", 1, 3), ("epoch_lock", 1, 3)])
def test_busy_leaves_only_its_residue(rig, op, given, word, excl, shared_fail):
    rig.module.set_td(TDR[0], **{word: excl})
    _, status, _, _ = rig.call(op, 1, **given)
    left = rig.module.td(TDR[0])[word]
    rig.module.set_td(TDR[0], **{word: 0})
    rig.module.td_async_exit(1)
    assert held(rig) == {}
    if "BUSY" in status:
        assert left in (excl, shared_fail)
    else:
        assert left == excl


def test_same_page_twice_leaves_host_priority(rig):
    rig.build(num_l2=1)
    status = rig.call("sept_add", rcx=3, rdx=TDR[0], r8=AUX, r9=AUX, r10=2**64 - 1, r11=2**64 - 1, version=1)[1]
    assert status == "TDX_OPERAND_BUSY:R9"
    assert rig.module.pamt(AUX)[3] == 2
    assert rig.call("rdmd", rcx=AUX)[1] == "TDX_SUCCESS"
    assert rig.module.pamt(AUX)[3] == 0
