"""The huge-page postings and 6.16 against the hazards they are known for, and wrong variants that must be found."""

import pytest

from tdpfast.catalogue import CATALOGUES, catalogue
from tdpfast.check import check, check_many
from tdpfast.design import PRESETS
from tdpfast.report import unexpected
from tdpfast.scenario import parse

HAZARDS = {name: {s.name: s for s in catalogue(name)} for name in ("hugepage", "premap")}
BY_NAME = HAZARDS["hugepage"] | HAZARDS["premap"]
CASES = [(s, design, gated) for name, found in HAZARDS.items() for s in found.values() for design in CATALOGUES[name]
         for gated in (False, True)]

# Scenario -> design -> what is violated with the rules in place, all of it ("kernel" apart where more is wrong).
GATED = {
    "h15-h19-split-by-a-fault": {"hugepage-v5b": "progress", "hugepage-v5c": "lock", "rfcv5-split": "agree lock"},
    "h20-interrupts-during-demote": {"hugepage-v5a": "progress"},
    "h19-guest-accepts-small-pages": {"hugepage-v5a": "progress"},
    "h21-h23-two-vcpus-accept": {},
    "convert-against-fault": {},
    "h30-finalize-against-prefault": {},
    "h11-h12-removal-fails": {"v6.16": "agree", "v6.18": "agree", "v6.19": "agree page", "rfcv5-s": "agree page",
                              "v7.3": "agree page stat"},
    "h29-add-fails": {"rfcv5-s": "stat"},
    "finalize-against-zap": {"v6.16": "agree epoch", "v6.18": "agree epoch", "v6.19": "agree epoch",
                             "rfcv5-s": "agree epoch", "v7.3": "agree epoch stat"},
}


@pytest.fixture(scope="module")
def verdicts():
    return {(v.scenario, v.design, v.gated): v for v in check_many(CASES)}


def test_every_expectation_holds(verdicts):
    assert [text for v in verdicts.values() if (text := unexpected(v, BY_NAME[v.scenario]))] == []


def test_searches_are_complete(verdicts):
    """But for one that has found its answer: a guest and KVM that go round for ever, with a walker in between."""
    assert {(v.scenario, v.design, v.verdict) for v in verdicts.values() if not v.complete} == {
        ("h19-guest-accepts-small-pages", "hugepage-v5a", "violated")}


@pytest.mark.parametrize("name", GATED)
def test_answers_of_todays_callers(verdicts, name):
    found = {}
    for (scenario, design, gated), v in verdicts.items():
        if scenario == name and gated and v.checks:
            found[design] = " ".join(c for c in v.checks if c != "kernel" or v.checks == ["kernel"])
            assert v.token
    assert found == GATED[name]


def test_only_up_to_6_18_is_a_page_miscounted(verdicts):
    """H29."""
    wrong = {design for (name, design, _), v in verdicts.items() if name == "h29-populate-against-zap" and v.checks}
    assert wrong == {"v6.16", "v6.18"}


def broken(base, scenario, **knobs):
    """Checks that a wrong variant violates in a scenario that its base survives with a complete search."""
    right = check(scenario, base)
    assert (right.verdict, right.complete) == ("holds", True)
    return check(scenario, PRESETS[base].replace(**knobs)).checks


@pytest.mark.parametrize("design", ["hugepage-v5b", "hugepage-v5d"])
def test_both_vcpus_get_their_page(design):
    """As h21-h23, but the guest makes the call until it has the page, however often."""
    record = BY_NAME["h21-h23-two-vcpus-accept"].to_record()
    del record["thread"][0]["ops"][0]["tries"]
    v = check(parse(record, "here"), design)
    assert (v.verdict, v.complete) == ("holds", True)


@pytest.mark.parametrize("base", ["v6.16", "v7.3"])
def test_prefault_before_runnable(base):
    """H30."""
    assert "kernel" in broken(base, BY_NAME["h30-finalize-against-prefault"], prefault_first=True)


@pytest.mark.parametrize("base, telling", [("hugepage-v5b", "kernel"), ("hugepage-v5c", "lock")])
def test_inhibit_before_the_split(base, telling):
    """H23: the second vCPU sees the inhibit, skips the split and faults below the leaf."""
    assert telling in broken(base, BY_NAME["h21-h23-two-vcpus-accept"], inhibit_first=True)


@pytest.mark.parametrize("base, telling", [("hugepage-v5b", "progress"), ("hugepage-v5c", "lock")])
def test_split_of_the_wrong_root(base, telling):
    """H21."""
    assert telling in broken(base, BY_NAME["h21-h23-two-vcpus-accept"], split_direct_root=True)


def test_a_count_that_is_wrong_at_quiescence():
    """H29: a page that was added behind KVM's back is one more than the mirror leaves that wait."""
    scenario = parse({"name": "added-behind", "vm": {"runnable": 0},
                      "setup": [{"op": "populate", "gfn": 0x200, "pfn": 0x140200}],
                      "thread": [{"ops": [{"op": "populate", "gfn": 0x201, "pfn": 0x140201,
                                           "inject": [{"leaf": "MEM.PAGE.ADD", "lock": "tdr"}]}]}]}, "here")
    assert check(scenario, "v6.16").verdict == "holds"
    with_hook = check(scenario, "v6.16", hooks={
        "set_external_spte": lambda gfn, old, new, level: 0 if gfn == 0x201 else None})
    assert with_hook.checks == ["leak", "stat"]         # and its page was never pinned
