"""What the formats allow and the recordings here use seldom or never."""
import copy
import gzip
import json
from itertools import islice
from pathlib import Path

import pytest

from tdpfast.conform._stack_text import expand_reps, expand_sept
from tdpfast.conform.mmu import Replayer as Mmu
from tdpfast.conform.mmu import expand, expand_sptes, first_difference
from tdpfast.conform.seam_seq import Replayer as Sequences
from tdpfast.conform.seam_state import Replayer as States
from tdpfast.conform.stack import Replayer as Stack
from tdpfast.errors import UsageError

DATA = Path(__file__).parent / "data"


def cases(name):
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt") as stream:
        return [json.loads(line) for line in stream]


# ---- runs

def test_runs_go_backwards_and_wrap():
    run = ["chg_run", 0, 513, 1, "0x1", "0xfffffffffffff000", 3, -1, "0xffffffffffffffff", "0x1000"]
    assert list(expand([run])) == [
        ["chg", 0, 513, 1, "0x1", "0xfffffffffffff000"], ["chg", 0, 512, 1, "0x0", "0x0"],
        ["chg", 0, 511, 1, "0xffffffffffffffff", "0x1000"]]
    assert list(expand([["chg_run", 0, 1, 1, "0x2000", "0x0", 2, 0, "-0x1000", "0x0"]]))[1] == [
        "chg", 0, 1, 1, "0x1000", "0x0"]
    assert list(expand([["yield", "read", 3], ["flush_all"]])) == [["yield", "read"]] * 3 + [["flush_all"]]
    assert list(expand_sptes([["run", 0, 1, 5, "0x1000", 2, -1, "0xfffffffffffff000"], [0, 2, 0, "0x7", True]])) == [
        [0, 1, 5, "0x1000", False], [0, 1, 4, "0x0", False], [0, 2, 0, "0x7", True]]
    assert list(expand_sept([["0x0", 0, "0xf0", "MAPPED", 2]])) == [["0x0", 0, "0xf0", "MAPPED"],
                                                                   ["0x1000", 0, "0x10f0", "MAPPED"]]


def test_repetitions_nest_and_step_in_text():
    inner = ["rep", 2, [0, 1], [["chg", 1, 2]]]
    assert list(expand_reps([["rep", 1, [0] * 5, [inner]], ["x"]])) == [["chg", 1, 2], ["chg", 1, 3], ["x"]]
    group = [["seam", "MEM.TRACK", ["0x1000", "TDR"], {"rcx": "0xffffffffffffffff"}, True, 7]]
    assert list(expand_reps([["rep", 2, ["0x1000", "0x1", -2], group]]))[1] == [
        "seam", "MEM.TRACK", ["0x2000", "TDR"], {"rcx": "0x0"}, True, 5]


@pytest.mark.parametrize("events", [
    [["chg_run", 0, 0, 1, "0x0", "0x0", 1 << 64, 1, "0x0", "0x0"]], [["yield", "read", 1 << 41]],
    [["yield", "read", -1]], [["yield", "read", True]], [["yield", "read", 1.5]]])
def test_runs_that_no_recording_has(events):
    with pytest.raises(ValueError, match="a run of"):
        list(expand(events))


@pytest.mark.parametrize("events", [
    [["rep", 1 << 40, [], [["x"]]]], [["rep", 1 << 30, [0] * 3, [["rep", 1 << 30, [0], [["x", 1]]]]]],
    [["yield", "read", 1 << 40]], [["chg_run", 0, 0, 1, "0x0", "0x0", 1 << 40, 1, "0x0", "0x0"]]])
def test_long_runs_cost_nothing_before_they_are_compared(events):
    """However long a recorded run is, it is followed only as far as what came out goes with it."""
    recorded = expand(expand_reps(events))
    assert "goes on with" in first_difference("ev", recorded, list(islice(expand(expand_reps(events)), 5)))


def test_repetitions_of_nothing_end():
    assert list(expand_reps([["rep", 1 << 40, [], []], ["rep", 1 << 40, [0], [["rep", 0, [], [["x"]]]]], ["y"]])) == [
        ["y"]]


# ---- fields that may be absent

DEFAULT_OPS = {
    "map": {"level": 1, "write": 1, "map_writable": 1, "private": 1}, "unmap": {"filter": 2, "may_block": 1},
    "age": {"filter": 2}, "test_age": {"filter": 2}, "recover": {"max_level": 2}, "invalidate_roots": {"types": 6},
    "wrprot_slot": {"min_level": 1}, "split": {"target_level": 1}, "write_protect_gfn": {"min_level": 1},
    "populate": {"src": 0x10000000, "measure": 0}, "zap_spte": {"level": 1, "shared": 1, "tries": 1, "rcu": 1},
    "zap_nx_sp": {"level": 2, "rcu": 1},
}
MMU_OPS = {
    "map": {"level": 1, "map_writable": 1}, "unmap": {"filter": 1, "may_block": 1}, "recover": {"max_level": 1},
    "age": {"filter": 1}, "test_age": {"filter": 1}, "track": {"on": 1},
    **{name: DEFAULT_OPS[name] for name in ("invalidate_roots", "wrprot_slot", "split", "write_protect_gfn")},
}


def without_defaults(record, defaults):
    """A case whose operations and configuration say nothing that goes without saying."""
    record = copy.deepcopy(record)
    for key in ("needs", "id"):
        record.pop(key, None)
    for op in record["ops"]:
        for key in [key for key, value in op.items() if value == defaults.get(op["op"], {}).get(key, 0)]:
            del op[key]
    return record


def with_defaults(record, defaults):
    """A case whose operations say everything."""
    record = copy.deepcopy(record)
    for op in record["ops"]:
        for key, value in defaults.get(op["op"], {}).items():
            op.setdefault(key, value)
    return record


@pytest.mark.parametrize("change", [without_defaults, with_defaults])
@pytest.mark.parametrize("name", ["stack-7.3-1.5/named", "designs-7.3/single-hook-named", "designs-7.3/patch07-named"])
def test_defaults_of_the_joined_code(name, change):
    replayer = Stack()
    assert [r.get("name") for r in cases(name)[::3] if replayer.replay(change(r, DEFAULT_OPS)).status != "passed"] == []


@pytest.mark.parametrize("change", [without_defaults, with_defaults])
@pytest.mark.parametrize("name", ["kvm-7.3/mmu-direct", "kvm-7.3/mmu-mirror", "kvm-6.18/mmu-mirror"])
def test_defaults_of_the_mmu(name, change):
    replayer = Mmu()
    for record in cases(name)[:60]:
        record = change(record, MMU_OPS)
        record["cfg"] = {key: value for key, value in record["cfg"].items() if value or key in ("kind", "exec_only")}
        assert replayer.replay(record).text == "", record.get("name")


# ---- operations and cases that the files here hardly have

def first_case(name="stack-7.3-1.5/named"):
    return cases(name)[0]


def test_set_hkid():
    record = first_case()
    nothing = {"ret": 0, "ev": []}
    record["ops"] += [{"op": "set_hkid", "hkid": -1}, {"op": "set_hkid"}]
    record["res"] += [nothing, nothing]
    assert Stack().replay(record).text == ""
    record["ops"].append({"op": "set_hkid", "hkid": 40})
    record["res"].append(nothing)
    assert Stack().replay(record).text == "kvm.hkid: recorded 33, got 40"


@pytest.mark.parametrize("replayer, name", [(Stack, "stack-7.3-1.5/named"), (Mmu, "kvm-7.3/mmu-direct"),
                                            (Mmu, "kvm-6.18/mmu-mirror")])
def test_nothing_runs_after_the_end(replayer, name):
    """An operation behind BUG() or a livelock is a difference, not an error."""
    found = 0
    for record in cases(name):
        if record["res"] and record["res"][-1]["ret"] in ("BUG", "LIVELOCK") and not record.get("cont"):
            record["ops"].append(record["ops"][-1])
            record["res"].append(record["res"][-1])
            assert "the case ended before" in replayer().replay(record).text
            found += 1
            if found == 3:
                break
    assert found >= 1


def test_prove_mmu():
    """With CONFIG_KVM_PROVE_MMU zaps of a root skip the small passes, so the recording of one without it differs."""
    differ = 0
    for record in cases("kvm-7.3/mmu-direct")[:64]:
        record["cfg"]["prove_mmu"] = 1
        result = Mmu().replay(record)
        assert result.status in ("passed", "failed")
        differ += result.status == "failed"
    assert 0 < differ < 64


def test_bulk_calls_that_fail_differently():
    for record in cases("tdx-1.5/seq"):
        for call in record["calls"]:
            if call["op"] == "bulk_page_aug":
                call["in"]["succeeded"] = hex(int(call["in"]["succeeded"], 0) - 1)
                assert "calls that succeeded" in Sequences().replay(record).text
                return
    raise AssertionError("no sequence has bulk calls")


def test_state_matrix_on_other_pages():
    """The page that the entry names and the free page lie elsewhere."""
    rows = [row for row in cases("tdx-1.5/state_matrix") if row["page_hpa"] == "0x112000000"]
    replayer = States()
    for row in rows[::7]:
        text = json.dumps(row).replace("11200", "11250").replace("11600", "11700")
        assert replayer.replay(json.loads(text)).text == ""
    assert len(rows) > 500


@pytest.mark.parametrize("change", [{"level": 1 << 40}, {"call_level": []}, {"page_hpa": "0xg"}, {"state": "LIMBO"},
                                    {"variant": ["half", 3]}, {"gpa": None}, {"op_state": "AWAKE"}])
def test_malformed_matrix_rows(change):
    row = next(row for row in cases("tdx-1.5/state_matrix") if row["state"] == "BLOCKED" and row["op"] == "page_remove")
    try:
        assert States().replay(row | change).status == "failed"
    except UsageError as error:
        assert "bad state matrix row" in str(error)


@pytest.mark.parametrize("change", [
    {"needs": [1]}, {"needs": "race"}, {"cfg": {"kind": 0, "root_level": 255}}, {"cfg": {"kind": 0, "maxpa": 1 << 70}},
    {"cfg": {"kind": 0, "direct_gfn_bit": 64}}, {"cfg": {"kind": 0, "slot_npages": -1}}, {"release": []},
    {"cfg": {"kind": 0, "mmio_gen": 1 << 64}}, {"ops": [{"op": "map", "gfn": 1 << 60}]}, {"ops": [{"op": "dance"}]},
    {"ops": [{"op": "map", "gfn": 1.5}]}, {"ops": [7]}, {"res": 7},
    {"res": [{"ret": 5, "ev": [["yield", "read", 1 << 64]], "level": 2, "pfn": 1}]}])
def test_malformed_cases(change):
    record = cases("kvm-7.3/mmu-direct")[6]
    with pytest.raises(UsageError):
        Mmu().replay({**record, "ops": record["ops"][:1], "res": record["res"][:1], **change})


@pytest.mark.parametrize("value", [99999999999999999999, -1, 2, "0", 1.5, []])
def test_flags_are_0_or_1(value):
    record, joined = cases("kvm-7.3/mmu-direct")[6], cases("stack-7.3-1.5/stack")[0]
    for name in ("tdx", "l1tf", "exec_only", "want_direct", "prove_mmu"):
        with pytest.raises(UsageError, match=f"bad {name}"):
            Mmu().replay({**record, "cfg": {**record["cfg"], name: value}})
    for name in ("runnable", "pending_ve_disable", "want_direct"):
        with pytest.raises(UsageError, match=f"bad {name}"):
            Stack().replay({**joined, "cfg": {**joined["cfg"], name: value}})
