"""A story tells the whole bug: every write with both values, locks and sections, who freed and who read."""

import json
import re

import pytest

from tdpfast.catalogue import catalogue
from tdpfast.check import Limits, build, check, explore, replay_token
from tdpfast.columns import END, FOLDED, RCU, columns_text
from tdpfast.design import PRESETS, get_design, with_knobs
from tdpfast.scenario import parse
from tdpfast.story import Line, Teller, tell
from tdpfast.token import Token

REVIEW = {s.name: s for s in catalogue("review")}
FIRST_FAULTS = parse({"name": "two-fresh-faults", "thread": [
    {"name": f"vcpu{i}", "ops": [{"op": "map", "gfn": 0x201 + i, "pfn": 0x140201 + i, "retries": -1}]}
    for i in range(2)]}, "test")


def story_of(scenario, design, gated):
    found = check(scenario, design, gated=gated).counterexample
    return found, [line.text for line in found.story]


def place(texts, beginning):
    """Where the first line that begins so is."""
    return next(i for i, text in enumerate(texts) if text.startswith(beginning))


def test_the_roll_back_into_a_freed_table_shows():
    found, texts = story_of(REVIEW["issue3-zap-of-table"], "single-hook", False)
    order = [place(texts, text) for text in (
        "zap_spte(", "read_lock(mmu_lock)", "rcu_read_lock()", "cmpxchg gfn 200 2M: table -> FROZEN",
        "handle_removed_pt gfn 200 4K", "xchg gfn 200..3ff 4K: NP -> FROZEN", "call_rcu(table gfn 200 4K)",
        "set_external_spte gfn 200 2M: table -> NP = -EIO", "rolls back gfn 200 2M: FROZEN -> table",
        "returns -EIO", "grace period over: table gfn 200 4K", "reads gfn 200 2M: table", "USE AFTER FREE (read)")]
    assert order == sorted(order)
    life = next(text for text in texts if text.startswith("life: table gfn 200 4K"))
    for words in ("CPU 0 (nx-recovery) gave it to call_rcu()", "its grace period ended at step", "CPU 1 (vcpu0) reads",
                  "after that end"):
        assert words in life
    assert any("external page none, freed" in text for text in texts)
    assert found.check == "life"


def test_a_table_that_is_published_too_early_shows():
    found, texts = story_of(FIRST_FAULTS, with_knobs("v7.3", {"no_freeze": 1}), True)
    assert not any("FROZEN" in text for text in texts)
    published = place(texts, "cmpxchg gfn 0 ")
    assert "NP -> table" in texts[published]
    failed = place(texts, "TDH.MEM.SEPT.ADD(gfn 200 2M) TDX_EPT_WALK_FAILED")
    stepped = next(i for i, line in enumerate(found.story) if i > published and line.what == "read"
                   and line.column != found.story[published].column and line.new == "table")
    assert published < stepped < failed
    assert "without a grace period" in next(text for text in texts if text.startswith("life: "))


def test_both_sides_of_a_disagreement():
    _, texts = story_of(REVIEW["issue1-collapse-by-fault"], "v7.3", False)
    assert any(text.startswith("agree: gfn 200 2M: mirror: leaf pfn 140200 rw; S-EPT: table at 0x") and
               "children (a leaf on one side, a table on the other)" in text for text in texts)
    assert any(text.startswith("lock: LOCKDEP ") and "with mmu_lock held for read" in text for text in texts)
    _, texts = story_of(REVIEW["issue1-collapse-busy-once"], "single-hook", False)
    assert any(re.fullmatch(r"stat: sp_linked is \d+, the tables have \d+", text) for text in texts)


@pytest.mark.parametrize("name, design, gated", [
    ("issue1-collapse-busy-once", "single-hook", False), ("issue2-atomic-zap-of-leaf", "v7.3", False),
    ("issue4-lost-cmpxchg", "v6.18", False), ("issue2-page-reuse", "patch07", False)])
def test_every_write_is_told_and_what_is_not_is_counted(name, design, gated):
    scenario = REVIEW[name]
    token = Token.parse(check(scenario, design, gated=gated).token)
    _, _, program, replay = replay_token(token, [scenario], PRESETS.values())
    teller = Teller(program, scenario)
    lines = teller.tell(replay)
    told = sum(line.count for line in lines if line.what == "write" and "as it was" not in line.text)
    done = 0
    for record in teller.records:
        teller.learn(record)
        if record.kind == "step" and (entry := teller.entry(record.fields["object"])) is not None:
            done += entry.state(record.fields["before"]) != entry.state(record.fields["after"])
    assert told == done > 0
    everything = tell(program, scenario, replay, everything=True)
    left_out = sum(n for n in teller.folded.values())
    assert sum(line.count for line in everything) == sum(line.count for line in lines) - 1 + left_out
    assert [line for line in lines if line.column == FOLDED]
    assert not [line for line in everything if line.column == FOLDED]


def test_sections_begin_and_end_and_operations_stand_where_they_begin():
    _, texts = story_of(REVIEW["issue3-zap-of-table"], "single-hook", False)
    for start, end in (("rcu_read_lock()", "rcu_read_unlock()"), ("read_lock(mmu_lock)", "read_unlock(mmu_lock)")):
        assert texts.count(start) == texts.count(end) > 0
    found = check(REVIEW["issue3-zap-of-table"], "single-hook", gated=False).counterexample
    for i, line in enumerate(found.story):
        if line.what == "op":
            assert found.story[i + 1].column == line.column and found.story[i + 1].step == line.step


def test_results_have_names():
    program = build(FIRST_FAULTS, get_design("v7.3"))
    program.record(True)
    explorer = explore(program, Limits())
    lines = tell(program, FIRST_FAULTS, explorer.replay(explorer.step()["schedule"]))
    assert [line.text for line in lines if line.what == "result"] == ["returns RET_PF_FIXED"] * 2
    assert any("S-EPT gfn 0 512G: FREE -> table at 0x" in line.text for line in lines)
    assert any("S-EPT gfn 201 4K: FREE -> PENDING pfn 140201" in line.text for line in lines)


def test_json_has_names_and_values():
    found = check(REVIEW["issue3-zap-of-table"], "single-hook", gated=False)
    record = json.loads(json.dumps(found.to_json(detail=True)))
    assert record["threads"] == found.threads
    story = record["counterexample"]["story"]
    back = next(line for line in story if line["text"].startswith("rolls back"))
    assert (back["object"], back["old"], back["new"], back["what"], back["cpu"]) == (
        "gfn 200 2M", "FROZEN", "table", "write", 0)
    assert {"rcu", None, 0, 1} == {line["cpu"] for line in story}
    assert "counterexample" not in found.to_json()


@pytest.mark.parametrize("threads", range(1, 6))
@pytest.mark.parametrize("width", [40, 72, 80, 132])
def test_lines_fit(threads, width):
    names = [f"a-thread-with-a-name-{i}" for i in range(threads)]
    lines = [Line(i % threads, "word " * i + "x" * i) for i in range(40)]
    lines += [Line(RCU, "grace " * 30), Line(END, "check: " + "word/" * 40), Line(FOLDED, "y" * 200)]
    text = columns_text(lines, names, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "".join(text.split()).count("word") >= 10 * threads
