"""tdpfast list and tdpfast describe: the words, and that they are taken."""

import json

import pytest

from tdpfast._names import SeamLeaf
from tdpfast.checks import NAMES
from tdpfast.design import KNOB_NAMES, PRESETS, parse_knobs
from tdpfast.ops import OPS
from tdpfast.vocabulary import LISTS, knob_texts, knobs_of


@pytest.mark.parametrize("kind", list(LISTS))
def test_a_list_is_the_rows(tdpfast, kind):
    code, out, err = tdpfast("list", kind, "--json")
    assert (code, err) == (0, "")
    words = json.loads(out)
    assert words == dict(LISTS[kind]()) and words and all(words.values())
    plain = tdpfast("list", kind)[1]
    assert all(len(line) <= 80 for line in plain.splitlines())
    assert [line.split()[0] for line in plain.splitlines() if not line.startswith(" ")] == list(words)


def test_every_word_is_listed_and_described(tdpfast):
    assert set(dict(LISTS["designs"]())) == set(PRESETS) and set(dict(LISTS["ops"]())) == set(OPS)
    assert tuple(dict(LISTS["checks"]())) == NAMES and len(LISTS["leaves"]()) == len(SeamLeaf.__members__)
    assert set(knob_texts()) >= set(knobs_of(PRESETS["v7.3"])) and all(knob_texts().values())
    for kind in LISTS:
        for word in list(dict(LISTS[kind]()))[::3]:
            code, out, err = tdpfast("describe", word)
            assert (code, err) == (0, "") and word in out


@pytest.mark.parametrize("spelling", ["TDH.MEM.PAGE.AUG", "MEM.PAGE.AUG", "tdh_mem_page_aug", "mem_page_aug"])
def test_leaves_are_taken_as_they_are_written(tdpfast, tmp_path, spelling):
    assert tdpfast("describe", spelling)[1] == tdpfast("describe", "TDH.MEM.PAGE.AUG")[1]
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n[[thread]]\nops = [{op = "map", gfn = 0x201, pfn = 0x140201, retries = 1, inject = '
                    f'[{{leaf = "{spelling}", lock = "sept_tree", mode = "ex", count = 1}}]}}]\n')
    code, out, err = tdpfast("check", path, "--design", "v7.3", "--gated", "--json")
    assert (code, err) == (0, "") and json.loads(out)["verdict"] == "holds"


def test_names_of_numbers_are_taken(tdpfast):
    for knob, names in KNOB_NAMES.items():
        for name, number in names.__members__.items():
            assert parse_knobs([f"{knob}={name}"]) == parse_knobs([f"{knob}={int(number)}"]) == {knob: int(number)}
    code, out, err = tdpfast("check", "review", "--scenario", "issue2-page", "--design", "v7.3", "--knob",
                             "gate=GATE_FLY")
    assert (code, out) == (2, "") and "GATE_IF_MIRROR" in err


def test_what_is_no_word(tdpfast):
    for argv in (("describe", "nothing"), ("list", "nothing"), ("list",), ("describe",)):
        code, out, err = tdpfast(*argv)
        assert (code, out) == (2, "") and err.startswith("error: ") and "; try " in err
