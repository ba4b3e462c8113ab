"""The recipes of CONTRIBUTING.md name what there is, count places right, keep their promise where it can be tried."""

import re
from pathlib import Path

import pytest

from tdpfast import design

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "tdpfast"
TEXT = (ROOT / "CONTRIBUTING.md").read_text().split("## How to add ...")[1].split("\n## ")[0]
RECIPES = {match[1]: match[0] for match in re.finditer(r"^\*\*an? ([\w -]+)\*\*.*?(?=\n\n|\Z)", TEXT,
                                                       re.MULTILINE | re.DOTALL)}
PLACES = {"knob": 2, "SEAMCALL": 3, "operation": 2, "event": 2, "check": 3, "status": 2}
"""At most so many places a fact of this kind is written at."""
WORDS = {"one": 1, "two": 2, "three": 3}
SOURCES = "\n".join(path.read_text() for path in (*PACKAGE.rglob("*.p[xy][xd]"), *PACKAGE.rglob("*.py"),
                                                  *(ROOT / "src").glob("*.pyx"), *PACKAGE.rglob("*.h"),
                                                  *(ROOT / "tests").rglob("*.py")))


if not (PACKAGE / "_seam" / "leaf.pyx").exists():       # leaves are rows from then on
    del PLACES["SEAMCALL"], PLACES["status"], RECIPES["SEAMCALL"]


@pytest.mark.parametrize("kind", PLACES)
def test_a_recipe_says_how_many_places(kind):
    found = re.search(r"\b(\w+) places?\b", RECIPES[kind])
    assert found, RECIPES[kind]
    assert int(WORDS.get(found[1], found[1])) <= PLACES[kind]


@pytest.mark.parametrize("kind", RECIPES)
def test_a_recipe_names_what_there_is(kind):
    """Files, functions and tables in backticks."""
    missing = []
    for name in re.findall(r"`([^`\n]+)`", RECIPES[kind]):
        if re.fullmatch(r"[\w/.*-]+\.(py|pyx|pxd|h|md|toml|jsonl?\*?|json\*)", name):
            where = name if "/" in name and name.split("/")[0] in ("tests", "docs", "tools", "src") else f"**/{name}"
            base = ROOT if where == name else PACKAGE
            missing += [] if list(base.glob(where)) else [name]
        elif function := re.fullmatch(r"(?:\w+\.)*(\w+)\(\)", name):
            missing += [] if re.search(rf"\b{function[1]}\(", SOURCES) else [name]
        elif re.fullmatch(r"_?[A-Z][A-Z_]+|[A-Z][a-z]+[A-Za-z]*", name):
            missing += [] if re.search(rf"\b{name}\b", SOURCES) else [name]
    assert missing == []


def test_what_is_not_there_would_be_seen():
    assert not re.search(rf"\btdh_{'invent'}\(", SOURCES) and not list(PACKAGE.glob("**/_seam_core.pxd"))


def test_a_knob_that_one_side_lacks_is_an_error_at_import(monkeypatch):
    design._knobs_agree()
    for native in (("no_sense", *design.mmu_knobs()), design.mmu_knobs()[1:]):
        with monkeypatch.context() as patch:
            patch.setattr(design, "mmu_knobs", lambda native=native: native)
            with pytest.raises(ImportError, match="knobs that Design and the core's structs do not share"):
                design._knobs_agree()


def test_an_operation_without_its_row_is_an_error_at_import():
    text = (PACKAGE / "ops.py").read_text()
    row = re.search(r'^    "zap_all": OpSpec\(.*\),\n', text, re.MULTILINE)
    with pytest.raises(ImportError, match="OPS and OpKind"):
        exec(compile(text.replace(row[0], ""), "ops.py", "exec"), {"__name__": "tdpfast.ops"})
