"""The module's quirks: every field is measured, and what the recorder chose may be something else."""
import copy
import json
from pathlib import Path

import pytest

from tdpfast.conform import conform
from tdpfast.conform.seam_quirks import QUIRKS, Replayer
from tdpfast.errors import UsageError

FILE = Path(__file__).parent / "data" / "tdx-1.5" / "quirks.jsonl"
RECORDS = {record["id"]: record for record in map(json.loads, FILE.read_text().splitlines())}

CHOSEN = {
    "remove-stale-pamt": {"pamt.bepoch"}, "demote-new-sept-bepoch": {"pamt.bepoch", "large.bepoch"},
    "promote-pamt": {"large.bepoch", "child0.bepoch", "sept_page_pamt.bepoch"}, "unblock-keeps-bepoch": {"pamt.bepoch"},
    "relocate-pending": {"new_word", "old.bepoch"}, "relocate-mapped": {"new_word"}, "sept-add-l2-none": {"r9"},
    "reclaim-live": {"r8"}, "rdmd-bepoch": {"r9"}, "track-outputs": {"rdx", "r8"}, "wbinvd-outputs": {"rdx"},
    "aug-outputs": {"r9"}, "init-aug-track": {"epoch"}, "track-flow": {"epoch"}, "block-twice": {"rdx", "pamt.bepoch"},
    "promote-interrupt": {"rcx"}, "promote-child-busy": {"rdx"}, "blocked-parent": {"rdx"},
    "walk-ends-at-free": {"rdx"},
}
"""Epochs, contents, levels and operands that the recorder chose: with another one the situation is another one."""


def fields(value, path=()):
    """Paths of the single values of some evidence."""
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from fields(value[key], (*path, key))
    else:
        yield path


def altered(evidence, path, change):
    evidence = copy.deepcopy(evidence)
    at = evidence
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = change(at[path[-1]])
    return evidence


def one_more(value):
    if isinstance(value, int):
        return value + 1
    try:
        return hex(int(value, 0) + 1 & 2**64 - 1)
    except ValueError:
        return value + "?"


def replay(id, evidence):
    return Replayer().replay(RECORDS[id] | {"evidence": evidence})


def test_every_quirk():
    [report] = conform([FILE])
    assert report.differences == []
    assert (report.kind, report.passed, report.failed, report.skipped) == ("seam", 65, 0, 0)
    assert QUIRKS.keys() == RECORDS.keys()


@pytest.mark.parametrize("id", RECORDS)
def test_every_field_is_measured(id):
    evidence = RECORDS[id]["evidence"]
    replayer = Replayer()
    for path in fields(evidence):
        changed = altered(evidence, path, one_more)
        status = replayer.replay(RECORDS[id] | {"evidence": changed}).status
        name = ".".join(map(str, path))
        assert status == ("passed" if name in CHOSEN.get(id, ()) else "failed"), name


ADDRESSES = {
    "accept-counter-visible": ("entry", "sept_rd_rcx"),
    "accept-counter-cleared-by-block": ("after_block", "after_unblock"),
    "demote-after-partial-accept": ("child0", "child511"), "promote-pamt": ("entry",),
    "unblock-keeps-bepoch": ("entry",),
    "promote-1g-leftover-counter": None, "relocate-pending": ("rcx", "entry"), "relocate-mapped": ("entry",),
    "sept-add-bit63": ("entry", "r8"), "sept-add-allow-existing": ("v0_r8", "v1_r8"), "sept-add-l2-none": ("r8", "r9"),
    "demote-interrupt": ("entry", "new_page_word0"), "walk-ends-at-leaf": ("rcx",), "block-twice": ("rcx",),
    "accept-blocked": ("entry",), "promote-hp-bit": ("entry",), "aug-outputs": ("r8",), "wbinvd-outputs": ("rcx",),
}


@pytest.mark.parametrize("id", ADDRESSES)
def test_pages_elsewhere(id):
    """The same quirk on a page 80M further on (1G for a page of 1G)."""
    evidence = RECORDS[id]["evidence"]
    names = ADDRESSES[id] or ("child0", "entry_1g", "sept_rd_rcx")
    for name in names:
        step = 0x4000_0000 if ADDRESSES[id] is None else 0x500_0000
        evidence = altered(evidence, (name,), lambda value, step=step: hex(int(value, 16) + step))
    assert replay(id, evidence).text == ""


def shifted_owner(value):
    return value + 0x40_0000 if isinstance(value, int) else hex(int(value, 16) + 0x40_0000)


@pytest.mark.parametrize("id, paths", [
    ("remove-stale-pamt", ["pamt.owner", "rdmd_rdx"]),
    ("promote-pamt", ["large.owner", "child0.owner", "sept_page_pamt.owner"]),
    ("demote-new-sept-bepoch", ["pamt.owner", "large.owner", "child.owner", "child_last.owner"]),
    ("reclaim-2m", ["rdx", "pamt.owner"]), ("track-outputs", ["rcx"]), ("demote-interrupt", ["rdx"]),
    ("rdmd-inside-2m", ["rdx"]), ("block-twice", ["pamt.owner"]), ("relocate-pending", ["old.owner", "new.owner"])])
def test_td_elsewhere(id, paths):
    evidence = RECORDS[id]["evidence"]
    for path in paths:
        evidence = altered(evidence, path.split("."), shifted_owner)
    assert replay(id, evidence).text == ""


def test_guest_address_and_other_progress():
    evidence = RECORDS["accept-4k-in-2m-pending"]["evidence"] | {"r8": "0x40205000"}
    assert replay("accept-4k-in-2m-pending", evidence).text == ""
    evidence = RECORDS["accept-counter-visible"]["evidence"] | {"entry": "0x81000001141ff0f0",
                                                                "sept_rd_rcx": "0x80000001141ff0f0"}
    assert replay("accept-counter-visible", evidence).text == ""


@pytest.mark.parametrize("evidence, text", [
    ({"status": "TDX_SUCCESS", "colour": 1}, "no such field"),
    ({"entry": "0x81000081140000f0"}, "cannot set the situation up")])
def test_what_cannot_be_measured_fails(evidence, text):
    result = replay("promote-hp-bit", evidence)
    assert result.status == "failed" and text in result.text


@pytest.mark.parametrize("record", [
    {"evidence": {}}, {"evidence": []}, {"evidence": {"polls": None, "entry": []}}, {"evidence": {"entry": "0x1g"}},
    {"evidence": {"entry": 1 << 70}}, {"id": []}])
def test_malformed(record):
    with pytest.raises(UsageError, match="bad module quirk"):
        Replayer().replay(RECORDS["accept-progress-min"] | record)


def test_unknown_quirk_is_skipped():
    result = Replayer().replay({"id": "sept-dance", "claim": "it dances", "evidence": {"status": "TDX_SUCCESS"}})
    assert result == ("skipped", "unknown quirk 'sept-dance'")
