"""The recordings that are one JSON document: the module's constants and its order of checks."""
import copy
import json
from pathlib import Path

import pytest

from tdpfast.conform import conform
from tdpfast.conform.seam_constants import Replayer as Constants
from tdpfast.conform.seam_order import Replayer as Order
from tdpfast.errors import UsageError

DATA = Path(__file__).parent / "data" / "tdx-1.5"
CONSTANTS = json.loads((DATA / "constants.json").read_text())
ORDER = json.loads((DATA / "check_order.json").read_text())


def failed(cases):
    return [case for case, result in cases if result.status == "failed"]


def test_every_constant():
    [report] = conform([DATA / "constants.json"])
    assert report.differences == []
    assert (report.kind, report.passed, report.failed, report.skipped) == ("seam", 477, 0, 0)
    assert report.left_out == {
        "a leaf that tdpfast does not emulate": 24,
        "any_finalized: nothing in tdpfast asks for it": 11,
        "a bit of an S-EPT entry that nothing in tdpfast reads or writes": 9,
        "where the recorder got its values": 3, "an exit that tdpfast has no call for": 1}


def test_every_check_in_its_order():
    [report] = conform([DATA / "check_order.json"])
    assert report.differences == []
    assert (report.kind, report.passed, report.failed, report.skipped) == ("seam", 238, 0, 0)


WRONG = {
    "module": {"version": "1.5.02"},
    "status_codes": {"TDX_OPERAND_BUSY": "0x8000020100000000", "TDX_INVALID_MBMD": "0xc0000e0100000000"},
    "status_layout": {"bits 63": "FATAL", "bits 47:41": "CLASS"},
    "operand_ids": {"OPERAND_ID_RCX": 2, "OPERAND_ID_MIG": 174},
    "seamcall_leaf_numbers": {"TDH_MEM_TRACK_LEAF": 37, "TDH_EXPORT_MEM_LEAF": 69},
    "tdcall_leaf_numbers": {"TDG_VM_RD_LEAF": 8},
    "rax_input_layout": {"version": "22:16", "reserved_must_be_0": "63:20"},
    "sept_states": {"MAPPED": {"tlb_tracking_required": False}, "PENDING": {"public_state_in_rdx": 3},
                    "FREE": {"index": 1}, "BLOCKED": {"seamcalls_allowed": ["TDH_MEM_PAGE_REMOVE_LEAF"]},
                    "LIMBO": {"index": 16}},
    "sept_state_encoding_bits": {"encoding bit 0": "entry bit 8 (A)", "mask": "0x1"},
    "sept_entry_bits": {"TDB": "54", "HPA": "50:12", "R": "1", "MT": "6:4"},
    "sept_entry_init_values": {"free_page_fill": "0x0"},
    "l2_sept_states": {"L2_MAPPED": {"enc": 6, "public": 69}, "enc_bits": CONSTANTS["l2_sept_states"]["enc_bits"]},
    "rcx_returned_entry": {"leaf_mask": "0x800ffffffffff0fe", "non_leaf_mask": "0xf87", "FREE": "0x0"},
    "rdx_returned_level_state": {"level": "3:1", "state": "14:8", "vm": "18:17"},
    "gpa_operand_rcx": {"reserved0": "12:3", "level": "1:0", "gpa": "53:12", "alignment": "1<<(12+8*level)"},
    "tdr_operand_rdx": {"sept_add/demote": "12:1 reserved"},
    "pamt_page_types": {"PT_REG": 2}, "pamt_entry": {"size": 32, "owner": "62:24", "pt": "24:17"},
    "page_sizes": {"PT_2MB": 2}, "td_lifecycle": {"TD_BLOCKED": 3},
    "op_states": {"RUNNABLE": {"value": 3}, "LIVE_IMPORT": {"tlb_tracking_required": False}},
    "op_state_allowed": {"TDH_VP_INIT_LEAF": ["INITIALIZED", "STATE_IMPORT"], "TDH_VP_FLUSH_LEAF": ["RUNNABLE"]},
    "sept_state_allowed": {"TDH_MEM_PAGE_AUG_LEAF": ["FREE"]},
    "sept_state_allowed_tdcall": {"TDG_MEM_PAGE_ACCEPT_LEAF": ["PENDING"]},
    "locks": {"sharex": "16 bit: bit1 exclusive, 15:2 readers", "sept entry": "TDEL bit 11 + TDHP bit 53"},
    "guest_accept_eeq_rdx": {"type": "3:0 (2=ACCEPT,5=ATTR_WR)",
                             "info (bits 63:32 of RDX)": {"req_sept_level": "35:33"}},
    "harness_memory_map": {"TDR": ["0x100200000", "0x100300000"], "MAX_PA": 45, "TD hkids": [33],
                           "private_hkid_min": 33, "global hkid": 35, "SEAMRR": "0x10000000 size 32MB",
                           "uncovered": "TDX_SUCCESS",
                           "TDMR0": "0x200000000 size 4GB, reserved area 0x130000000..0x130400000",
                           "TDMR1": "0x140000000 size 1GB"},
}


@pytest.mark.parametrize("section", WRONG)
def test_a_wrong_constant_fails(section):
    cases = Constants().replay({section: WRONG[section]})
    expected = {f"{section}: {name}" for name in WRONG[section] if name != "enc_bits"}
    got = set(failed(cases))
    if section == "guest_accept_eeq_rdx":
        assert got == {f"{section}: type ACCEPT", f"{section}: req_sept_level"}
    else:
        assert got == expected


def test_each_section_has_a_wrong_constant():
    assert WRONG.keys() == CONSTANTS.keys()


def test_other_constants():
    """A part of the sections, in another order, and one that nobody knows."""
    names = ["op_states", "locks", "pamt_entry"]
    cases = Constants().replay({name: CONSTANTS[name] for name in names} | {"weather": {"rain": 1}})
    assert not failed(cases)
    assert [result.text for _, result in cases if result.status == "skipped"] == ["unknown section 'weather'"]


@pytest.mark.parametrize("section, value", [
    ("status_codes", {"TDX_SUCCESS": []}), ("sept_states", {"FREE": 7}), ("sept_entry_bits", {"R": "low"}),
    ("locks", {"sharex": "some"}), ("pamt_entry", {"lock": "9999999999:0"}), ("op_states", {"RUNNABLE": []}),
    ("harness_memory_map", {"TDMR0": "somewhere"}), ("harness_memory_map", {"TDR": [1 << 70]}),
    ("l2_sept_states", {"L2_FREE": {"enc": 0}}), ("page_sizes", {"PT_8MB": 1})])
def test_malformed_constants(section, value):
    with pytest.raises(UsageError, match="bad module constants"):
        Constants().replay({section: value})


def test_a_wrong_order_fails():
    checks = copy.deepcopy(ORDER["page_aug"])
    checks[5], checks[6] = checks[6], checks[5]
    checks[-1]["status"] = "TDX_SUCCESS"
    cases = Order().replay({"page_aug": checks})
    assert failed(cases) == ["page_aug: lifecycle not KEYS_CONFIGURED", "page_aug: HPA not NDA"]


def test_unknown_leaves_and_faults_are_skipped():
    table = {"page_warp": ORDER["page_aug"][:1], "range_block": [{"check": "full moon", "status": "TDX_SUCCESS"}]}
    assert [result.text for _, result in Order().replay(table)] == [
        "unknown leaf 'page_warp'", "unknown fault 'full moon'"]


def test_part_of_the_order():
    table = {leaf: ORDER[leaf][::2] for leaf in ("range_unblock", "sept_remove")}
    cases = Order().replay(table)
    assert len(cases) == 21 and not failed(cases)
