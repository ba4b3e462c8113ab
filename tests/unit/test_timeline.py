"""Traces as Chrome's JSON: what its readers ask of events, and that they say what the run did."""

import json
from itertools import pairwise

import pytest

from tdpfast import Vm
from tdpfast.catalogue import catalogue
from tdpfast.check import check, replay_token
from tdpfast.design import PRESETS
from tdpfast.timeline import SINCE, TRACKS, replay_timeline, timeline
from tdpfast.token import Token
from tdpfast.trace import program_records

NEEDED = {"X": {"ts", "dur", "tid", "name"}, "i": {"ts", "tid", "name", "s"}, "C": {"ts", "name", "args"},
          "M": {"name", "args"}}


def events_of(text):
    """The events, each with what its phase needs."""
    events = json.loads(text)["traceEvents"]
    for event in events:
        assert NEEDED[event["ph"]] | {"pid"} <= event.keys(), event
    return events


def phases(events, ph):
    return [event for event in events if event["ph"] == ph]


@pytest.fixture(scope="module")
def replayed():
    scenario = next(s for s in catalogue("review") if s.name == "issue2-page-reuse")
    token = check(scenario, "patch07", gated=False).token
    _, _, program, _ = replay_token(Token.parse(token), [scenario], PRESETS.values())
    return program, scenario


def test_slices_of_a_track_do_not_overlap(replayed):
    tracks = {}
    for event in phases(events_of(replay_timeline(*replayed)), "X"):
        tracks.setdefault(event["tid"], []).append(event)
    for slices in tracks.values():
        if slices[0]["cat"] != "external":
            assert all(a["ts"] + a["dur"] <= b["ts"] + 1 for a, b in pairwise(slices))


def test_each_track_has_what_the_run_did(replayed):
    program, scenario = replayed
    records = list(program_records(program))
    events = events_of(replay_timeline(program, scenario))
    slices = phases(events, "X")
    by_track = {track: [e for e in slices if e["cat"] == track] for track in TRACKS}
    assert len(by_track["operations"]) == sum(len(thread.ops) for thread in scenario.threads)
    assert [e["name"] for e in by_track["mmu_lock"]] == ["read_lock(mmu_lock)"]
    assert len(by_track["RCU"]) == 2
    assert [e["name"] for e in by_track["external"]] == [r.fields["leaf"] for r in records if r.kind == "seam"]
    names = {e["args"]["name"] for e in phases(events, "M") if e["name"] == "thread_name"}
    assert f"CPU 0 ({scenario.threads[0].name}): mmu_lock" in names
    frozen = [e["args"]["frozen"] for e in phases(events, "C") if e["name"] == "frozen SPTEs"]
    assert frozen == [1, 0]
    assert [e["args"]["4K"] for e in phases(events, "C") if e["name"] == SINCE] == [-1]
    assert all(a["ts"] <= b["ts"] for a, b in pairwise(e for e in events if e["ph"] != "M"))


def test_counters_of_a_vm_follow_its_pages():
    vm = Vm("v7.3", trace="all")
    for gfn in (0x600, 0x601):
        vm.run({"op": "map", "gfn": gfn, "pfn": 0x100000 + gfn, "private": 1})
    vm.run({"op": "zap_leafs", "start": 0x600, "end": 0x601})
    events = events_of(timeline(vm.records()))
    assert [e["args"]["4K"] for e in phases(events, "C") if e["name"] == "mapped pages"] == [1, 2, 1]
    assert phases(events, "C")[-1]["args"]["4K"] == vm.stats["pages_4k"]
    assert sum(e["name"].startswith("kvm_tdp_mmu_spte_changed") for e in phases(events, "i")) == 6
    assert timeline(vm.records()) == timeline(vm.records())


def test_nothing_happened():
    assert [e["ph"] for e in events_of(timeline([]))] == ["M"]
