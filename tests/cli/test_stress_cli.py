"""tdpfast stress: output, exit codes, scenarios it saves."""

import json
import os
import re
import subprocess
import sys

import pytest

from tdpfast.catalogue import catalogue
from tdpfast.errors import UsageError
from tdpfast.scenario import Scenario, Thread, load
from tdpfast.stress.scenarios import clip, scenario_toml, touches, write_scenario

QUICK = ("stress", "--ops", 2000, "--seed", 1)
BROKEN = ("stress", "--td", "--knob", "no_hook_on_zap", "--ops", 2000, "--seed", 1)
FIELDS = {"design": str, "gated": bool, "mode": str, "threads": dict, "memory": int, "mix": str, "seed": int,
          "rounds": int, "vms": int, "ops": int, "seconds": float, "burst_seconds": float, "interrupted": bool,
          "ops_per_second": float, "by_op": dict, "counters": dict, "checks": list, "findings": list}


def test_a_table(tdpfast):
    code, out, err = tdpfast(*QUICK, "--td")
    assert code == 0 and err.splitlines()[0] == "seed 1"      # how far it is follows, if it takes seconds
    lines = out.splitlines()
    assert lines[0] == "v7.3, gated, td: 2 vcpus, 1 zapper, 1 ager; 2048 pages, mix mixed, seed 1"
    assert re.fullmatch(r"\d+ rounds on \d+ VMs in \d+\.\d s, \d+\.\d s of them bursts: \d+ operations, \d+\.\d\d M/s",
                        lines[1])
    assert re.fullmatch(r"operation +count +share +ns/op", lines[3])
    assert all(re.fullmatch(r"\w+ +\d+ +\d+\.\d% +(\d+|-)", line) for line in lines[4:lines.index("", 4)])
    assert re.search(r"^operand_busy +\d+$", out, re.MULTILINE) and lines[-1] == "nothing found"


def test_json_is_one_line(tdpfast):
    code, out, err = tdpfast(*QUICK, "--json", "--design", "hugepage", "--zappers", 2)
    record = json.loads(out)
    assert code == 0 and out.count("\n") == 1 and (
        err.splitlines()[0] == "seed 1")        # how far it is follows, if it takes seconds
    assert {name: type(value) for name, value in record.items()} == FIELDS
    assert (record["design"], record["gated"], record["mode"], record["threads"]["zapper"]) == (
        "hugepage", True, "mirror", 2)
    assert record["ops"] == sum(op["count"] for op in record["by_op"].values()) >= 2000
    assert record["checks"] == record["findings"] == []


def test_what_is_found_and_saved(tdpfast, tmp_path):
    path = tmp_path / "found.toml"
    code, out, err = tdpfast(*BROKEN, "--save", path)
    assert code == 1 and err.splitlines()[0] == "seed 1"      # how far it is follows, if it takes seconds
    assert "found: agree" in out and "since the first round" in out
    assert re.search(r"^  agree: mirror NP, S-EPT 0x[0-9a-f]+ at gfn [0-9a-f]+ 4K$", out, re.MULTILINE)
    check_line, replay_line = [line.split() for line in out.splitlines() if line.startswith("  tdpfast ")]
    code, shown, err = tdpfast(*check_line[1:])
    assert code == 1 and "agree" in shown and err == ""
    assert tdpfast(*replay_line[1:])[0] == 1 and replay_line[2] in shown
    # It is the knob that is wrong.
    assert tdpfast("check", path, "--design", "v7.3", "--gated", "--brief")[0] == 0
    assert load(path).name == "from-stress" and not list(tmp_path.glob(".*"))


def test_what_is_found_as_json(tdpfast, tmp_path):
    path = tmp_path / "found.json"
    code, out, err = tdpfast(*BROKEN, "--json", "--save", path)
    record = json.loads(out)
    assert code == 1 and out.count("\n") == 1 and "agree" in record["checks"]
    assert record["design"] == "v7.3+no_hook_on_zap"
    assert {"check", "text", "gfn", "level", "round"} == set(record["findings"][0])
    assert f"saved {path}" in err and load(path).threads


def test_without_save_it_says_how(tdpfast):
    assert "--save FILE" in tdpfast(*BROKEN)[2]


def test_no_time(tdpfast):
    code, out, _ = tdpfast("stress", "--seconds", "1e-9", "--seed", 1)
    assert code == 124 and "0 rounds" in out and "nothing found" in out


def test_an_interrupt(tdpfast, monkeypatch):
    from tdpfast.stress import runner

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_threads", interrupted)
    code, out, _ = tdpfast(*QUICK)
    assert code == 130 and "0 operations" in out


def test_progress_goes_to_stderr(tdpfast, monkeypatch):
    from tdpfast.cli import stress

    monkeypatch.setattr(stress, "EVERY", 0)
    _, out, err = tdpfast(*QUICK, "--json")
    assert out.count("\n") == 1 and re.search(r"^\d+ s: \d+ rounds, \d+ operations, ", err, re.MULTILINE)


@pytest.mark.parametrize("more", [(), ("--json",), ("--td", "--knob", "dynamic_pamt", "--vcpus", 1)])
def test_the_python_that_does_the_same(tdpfast, more):
    code, script, err = tdpfast(*QUICK, *more, "--python")
    assert (code, err) == (0, "") and "seed=1" in script
    out = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, check=True,
                         text=True).stdout
    assert (json.loads(out)["checks"] if "--json" in more else out.split("\n")[1:2]) == (
        [] if "--json" in more else ["[]"])


@pytest.mark.parametrize("argv, message", [
    (("--design", "nope"), "unknown design 'nope'"), (("--knob", "nope"), "unknown design knob 'nope'"),
    (("--knob", "no_freeze=2"), "'no_freeze=2'"), (("--knob", "max_level=x"), "'max_level=x'"),
    (("--knob", "name=x"), "unknown design knob"), (("--knob", "max_level=9"), "max_level 9"),
    (("--mix", "nope"), "nope"), (("--vcpus", "x"), "x"), (("--vcpus", "-1"), "bad vcpus -1"),
    (("--memory", "1"), "bad memory 1"), (("--seconds", "nan"), "bad seconds nan"), (("--ops", "-1"), "bad ops -1"),
    (("--seed", "-1"), "bad seed -1"), (("--loggers", "1"), "logger threads"),
    (("--td", "--vcpus", "9"), "vcpus of a TD"),
    (("--save", "/nonexistent/x.toml"), "cannot write /nonexistent/x.toml"),
    (("--save", "x.txt"), "cannot write x.txt"),
    (("--save", "."), "cannot write ."), (("extra",), "extra")])
def test_bad_input(tdpfast, argv, message):
    code, out, err = tdpfast("stress", *argv)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1 and message in err


# ---- files ---------------------------------------------------------------------------------------------------------

def test_scenarios_survive_their_files(tmp_path):
    for scenario in [*catalogue("review"), *catalogue("paths")]:
        for suffix in ("toml", "json"):
            path = tmp_path / f"{scenario.name}.{suffix}"
            write_scenario(path, scenario)
            assert load(path).canonical() == scenario.canonical() and load(path).to_record() == scenario.to_record()


def test_odd_texts():
    import tomllib

    odd = Scenario("a \"b\" \\c", (Thread("é\t'", ({"op": "reload"},)),), text="\u2028 \n\x01")
    assert tomllib.loads(scenario_toml(odd)) == odd.to_record()


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "x.toml"
    path.write_text("old")

    def fail(*args):
        raise OSError("no room")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        write_scenario(path, catalogue("paths")[0])
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    path.chmod(0o600)
    write_scenario(path, catalogue("paths")[0])
    assert load(path).name == catalogue("paths")[0].name
    with pytest.raises(UsageError):
        write_scenario(tmp_path / "no" / "x.toml", catalogue("paths")[0])


def test_cutting_a_burst_down():
    op = {"op": "map", "gfn": 0x201}
    assert touches(op, 0x200, 0x400) and not touches(op, 0x400, 0x600) and touches({"op": "reload"}, 0, 1)
    assert touches({"op": "accept", "gpa": 0x201000}, 0x201, 0x202) and (
        not touches({"op": "age", "start": 0, "end": 5}, 5, 6))
    threads = clip([Thread("a", (op, {"op": "age", "start": 0, "end": 0x2000})),
                    Thread("b", ({"op": "age", "start": 0, "end": 4},))])
    assert [t.ops[-1]["start"] for t in threads] == [0x201, 0x201]
    assert [t.ops[-1]["end"] for t in threads] == [0x202, 0x202]


def test_modes_exclude_one_another(tdpfast):
    code, out, err = tdpfast("stress", "--direct", "--td")
    assert (code, out) == (2, "") and "--direct and --td" in err


def test_saving_keeps_links_and_refuses_what_cannot_be_written(tdpfast, tmp_path):
    target, link = tmp_path / "target.toml", tmp_path / "link.toml"
    link.symlink_to(target)
    code, out, _ = tdpfast(*BROKEN, "--save", link)
    assert code == 1 and f"saved {link}" in out and link.is_symlink() and load(target).threads
    (tmp_path / "folder.toml").mkdir()
    for path in ("/proc/x.toml", tmp_path / "folder.toml", tmp_path / "none" / "x.toml", "/dev/null",
                 tmp_path / "x.txt", "x" * 300 + ".toml"):
        code, out, err = tdpfast(*BROKEN, "--save", path)
        assert (code, out) == (2, "") and err.startswith("error: cannot write") and err.count("\n") == 1


def test_a_full_disk_loses_no_finding(tdpfast, tmp_path, monkeypatch):
    from tdpfast.stress import scenarios

    def full(path, scenario):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scenarios, "write_scenario", full)
    monkeypatch.setattr(scenarios.tempfile, "tempdir", str(tmp_path))
    code, out, _ = tdpfast(*BROKEN, "--save", tmp_path / "x.toml")
    other = re.search(r"cannot write .*x.toml \(No space left on device\); saved (\S+),", out)[1]
    assert code == 1 and load(other).threads and other.startswith(str(tmp_path))
    monkeypatch.setattr(scenarios.tempfile, "mkstemp", lambda **_: full(None, None))
    code, out, _ = tdpfast(*BROKEN, "--save", tmp_path / "x.toml")
    assert code == 1 and 'name = "from-stress"' in out and "nor any other file" in out
