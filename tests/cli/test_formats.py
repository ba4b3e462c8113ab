"""check's results for machines: JUnit's XML, KTAP, annotations; and what a shell asks the command for."""

import os
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from shutil import which

import pytest

from tdpfast.check import Limits, check, check_many
from tdpfast.ci import FAIL, PASS, SKIP, Case, cases, github, junit, ktap
from tdpfast.cli import COMMANDS, EXIT_CODES
from tdpfast.design import with_knobs
from tdpfast.scenario import parse

ROOT = Path(__file__).parents[2]
SCENARIO = """name = "walk-and-zap"
[[setup]]
op = "map"
gfn = 0x600
pfn = 0x140600
[[thread]]
name = "vcpu0"
ops = [{op = "mwalk", gfn = 0x600}]
[[thread]]
name = "zapper"
ops = [{op = "unmap", start = 0x600, end = 0x601}]
[expect]
"v7.3" = "holds"
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "fault.toml").write_text(SCENARIO)
    return tmp_path / "fault.toml"


def test_what_passes_fails_and_is_skipped():
    scenario = parse(tomllib.loads(SCENARIO), "here")
    broken = with_knobs("v7.3", {"no_hook_on_zap": True})
    found = [check(scenario, "v7.3"), check(scenario, broken, gated=False),
             check(scenario, "v7.3", limits=Limits(max_executions=1, strategy="dfs"))]
    assert [v.verdict for v in found] == ["holds", "violated", "unknown"]
    got = cases(found, [scenario])
    assert [c.outcome for c in got] == [PASS, FAIL, SKIP]
    assert [c.name for c in got] == ["v7.3-gated", f"{broken.name}-ungated", "v7.3-gated"]
    assert got[1].message == "violated: agree" and f"walk-and-zap on {broken.name}, ungated: agree" in got[1].text
    for said, outcome in (("agree", PASS), ("life", FAIL), ("holds", FAIL)):
        asked = replace(scenario, expect={broken.name: said}, expect_gated={"v7.3": "holds"})
        assert [c.outcome for c in cases(found, [asked], expect=True)] == [PASS, outcome, FAIL]


def test_a_setup_that_fails_is_a_failure():
    huge = {"name": "s", "setup": [{"op": "map", "gfn": 0x200, "pfn": 0x140200, "level": 2}],
            "thread": [{"ops": [{"op": "mwalk", "gfn": 0x200}]}]}
    for expect, outcome in (({}, FAIL), ({"v7.3": "impossible"}, PASS)):
        scenario = parse({**huge, "expect": expect}, "here")
        found = next(check_many([(scenario, "v7.3", False)], jobs=1))
        (one,) = cases([found], [scenario])
        assert one.outcome == outcome and ("kills the VM" in one.message) == (outcome == FAIL)


def test_junit_is_xml_of_the_cases():
    text = junit([Case(PASS, "a<b", "x", "", "holds", 0.25),
                  Case(FAIL, "a<b", "y", 'said "no"', "1 < 2 & \x1b[31m", 0.5),
                  Case(SKIP, "c", "z", "unknown", "", 0.0)])
    root = ET.fromstring(text.encode())
    assert [(s.get("name"), s.get("tests"), s.get("failures"), s.get("skipped"), s.get("time")) for s in root] == [
        ("a<b", "2", "1", "0", "0.750"), ("c", "1", "0", "1", "0.000")]
    failure = root[0][1][0]
    assert (failure.tag, failure.get("message"), failure.text) == ("failure", 'said "no"', "1 < 2 & ?[31m")
    assert root[1][0][0].tag == "skipped" and root[0][0].get("classname") == "a<b"


def test_ktap_counts_and_numbers():
    lines = ktap([Case(PASS, "a", "x", "", "holds", 0), Case(FAIL, "a#1", "y", "violated: life", "one\n\ntwo", 0),
                  Case(SKIP, "c", "z", "unknown", "", 0)]).split("\n")
    assert lines == ["KTAP version 1", "1..3", "ok 1 a.x", "# one", "#", "# two", "not ok 2 a_1.y # violated: life",
                     "ok 3 c.z # SKIP unknown", "# Totals: pass:1 fail:1 xfail:0 xpass:0 skip:1 error:0"]


def test_annotations_are_one_line_each():
    text = github([Case(PASS, "a", "x", "", "", 0), Case(FAIL, "a", "y", "violated: life", "50%\nlost", 0)],
                  {"a": "dir/a,b.toml"})
    assert text == "::error file=dir/a%2Cb.toml,title=a on y%3A violated%3A life::50%25%0Alost"


def test_the_formats_of_check(tdpfast, file, tmp_path):
    code, out, err = tdpfast("check", file, "--design", "v7.3", "--junit", tmp_path / "out.xml", "--ktap", "--github")
    assert (code, err) == (0, "")
    assert out.split("\n")[:3] == ["KTAP version 1", "1..2", "ok 1 walk-and-zap.v7.3-ungated"]
    assert ET.parse(tmp_path / "out.xml").getroot()[0].get("failures") == "0"
    code, out, err = tdpfast("check", file, "--design", "v7.3", "--knob", "no_hook_on_zap", "--github", "--brief",
                             "--junit", tmp_path / "out.xml")
    assert code == 1 and out.startswith("issue")
    assert err.startswith(f"::error file={file},title=walk-and-zap on v7.3+no_hook_on_zap-ungated%3A")
    assert ET.parse(tmp_path / "out.xml").getroot()[0].get("failures") == "2"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(("more", "error"), [
    (["--junit", "/nowhere/out.xml"], "cannot write /nowhere/out.xml"), (["--junit", "."], "cannot write ."),
    (["--ktap", "--json"], "--ktap with --json"), (["--github", "--python"], "--github with --python")])
def test_formats_that_cannot_be(tdpfast, file, more, error):
    code, out, err = tdpfast("check", file, *more)
    assert (code, out) == (2, "") and err.startswith(f"error: {error}") and err.count("\n") == 1


def test_exit_codes_are_in_the_help(tdpfast):
    code, out, _ = tdpfast("--help")
    assert code == 0 and all(f"\n  {number} " in out for number in EXIT_CODES)


def test_a_shell_is_given_completions():
    def ask(words, at):
        asked = {"_TDPFAST_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        done = subprocess.run([sys.executable, "-c", "from tdpfast.cli import main; main()"], capture_output=True,
                              text=True, env=os.environ | asked, check=True)
        return [line.split(",")[1] for line in done.stdout.split()]
    assert ask("tdpfast ", 1) == sorted(COMMANDS)
    assert "--junit" in ask("tdpfast check --", 2)


def test_man_pages_are_of_every_command():
    space = {"__file__": str(ROOT / "tools" / "man_pages.py"), "__name__": "man_pages"}
    exec((ROOT / "tools" / "man_pages.py").read_text(), space)
    pages = space["pages"]()
    assert {f"tdpfast-{name}.1" for name in COMMANDS} | {"tdpfast.1"} <= set(pages)
    assert "\\-\\-junit FILE" in pages["tdpfast-check.1"] and ".SH EXIT STATUS" in pages["tdpfast-walk.1"]
    if which("groff"):
        for name, text in pages.items():
            done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z"], input=text, text=True, capture_output=True,
                                  check=False)
            assert (done.returncode, done.stderr) == (0, ""), name


