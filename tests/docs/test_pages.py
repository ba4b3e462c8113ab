"""The docs are built without a warning, what they show runs, and their links and tables are true."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tdpfast.checks import NAMES
from tdpfast.cli import COMMANDS, EXIT_CODES
from tdpfast.design import PRESETS, Design
from tdpfast.ops import INJECT_FIELDS, MODIFIERS, OPS, RULE_FIELDS, TD_MODIFIERS
from tdpfast.scenario import TOP_FIELDS, VM_FIELDS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "tdpfast"
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def page(name):
    return (DOCS / f"{name}.md").read_text()


@pytest.mark.skipif(not find_spec("sphinx") or not find_spec("myst_parser"), reason="the extra docs is not installed")
def test_the_docs_are_built_without_a_warning(tmp_path):
    done = subprocess.run([sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", tmp_path / "trees", DOCS,
                           tmp_path / "html"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.stem for path in PAGES} <= {path.stem for path in (tmp_path / "html").glob("*.html")}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_what_a_page_shows_is_so(path, doctests, tmp_path, monkeypatch, capsys):
    """Prompts are doctests; whole blocks run, beside the scenario files of their page."""
    monkeypatch.chdir(tmp_path)
    text = path.read_text()
    for toml in re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        (tmp_path / (re.search(r'^name = "(.*)"$', toml, re.MULTILINE)[1] + ".toml")).write_text(toml)
    examples = doctests(path)
    assert bool(examples) == (">>>" in text)
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(compile(block, path.name, "exec"), {"__name__": path.stem})
    for shown in re.findall(r"^print\(.*\)\s+# (.*)$", text, re.MULTILINE):
        assert shown in capsys.readouterr().out


def test_a_wrong_example_would_be_seen(doctests, tmp_path):
    (tmp_path / "wrong.md").write_text("```pycon\n>>> 1 + 1\n3\n\n```\n")
    with pytest.raises(AssertionError):
        doctests(tmp_path / "wrong.md")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_tables_are_those_of_the_code(path, tool):
    tables = tool("docs_tables")
    text = path.read_text()
    assert tables["written"](text) == text, "run: python tools/docs_tables.py"
    assert not [line for line in text.split("\n") if re.search(r"\| \?(?= \|)", line)], "a row whose text is missing"


def test_every_row_is_documented():
    knobs = {name for name in Design.__dataclass_fields__ if name not in ("name", "code")}
    listed = {name: set(re.findall(r"^\| `(\w[\w.-]*)", page(name), re.MULTILINE))
              for name in ("designs", "operations", "results", "releases")}
    assert knobs <= listed["designs"]
    assert set(OPS) == listed["operations"]
    assert set(NAMES) <= listed["results"]
    assert set(PRESETS) <= listed["releases"]
    codes = re.findall(r"^\| (\d+) \|", page("results"), re.MULTILINE)
    assert codes == [str(code) for code in EXIT_CODES]


def test_fields_of_files_are_documented():
    text = page("scenarios")
    words = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`]*)`", text))))
    assert (TOP_FIELDS | set(VM_FIELDS) | set(MODIFIERS) | set(TD_MODIFIERS) | set(RULE_FIELDS) | set(INJECT_FIELDS)
            <= words)


def test_commands_that_pages_show_are_there():
    for path in [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        for command in re.findall(r"(?:^    |`)tdpfast ([a-z]\S*)", path.read_text(), re.MULTILINE):
            assert command.rstrip("`,.;)") in COMMANDS, f"{path.name}: tdpfast {command}"


def test_every_limit_says_which_way_it_errs():
    limits = re.findall(r"^- .*?(?=\n- |\n\n|\Z)", page("limits"), re.MULTILINE | re.DOTALL)
    assert len(limits) > 15
    for limit in limits:
        assert re.search(r"\bmay\s+(miss\s+a\s+bug|raise\s+a\s+false\s+alarm)", limit, re.IGNORECASE), limit


def test_the_followed_fault_is_the_code_s():
    """Each function of the walk through the architecture stands in its file."""
    steps = re.findall(r"\| `(\w+)` \| `([\w/.]+\.pyx?)` \|$", page("architecture"), re.MULTILINE)
    assert len(steps) >= 20
    for function, file in steps:
        start = rf"\bc?p?def (?:inline )?(?:[\w*\[\]]+ )*\**{function}\("
        assert re.search(start, (PACKAGE / file).read_text()), f"{function}() is not in {file}"


def test_the_rooms_are_the_code_s():
    rooms = re.findall(r"^\| `(_\w+)`", page("architecture"), re.MULTILINE)
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name.startswith("_")} - {"__pycache__"}
    assert folders | {"_names", "_spte"} == set(rooms)


def test_names_of_files_in_prose_are_there():
    """Paths in the prose of docs, README and CONTRIBUTING."""
    for path in [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        for name in re.findall(r"`((?:src|tests|tools|bench|docs|_\w+)/[\w/.*-]+)`", path.read_text()):
            base = PACKAGE if name.startswith("_") else ROOT
            assert list(base.glob(name.rstrip("/"))), f"{path.name}: {name}"
