"""tdpfast check and tdpfast replay."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
FIELDS = {"scenario": str, "design": str, "gated": bool, "verdict": str, "complete": bool, "checks": list,
          "executions": int, "transitions": int, "seconds": float, "token": (str, type(None)), "missing": list,
          "reach": dict, "limit": str, "explored": (float, type(None))}
PAGE_REUSE = ("check", "review", "--design", "patch07", "--scenario", "issue2-page", "--ungated")
KERNEL_LINE = re.compile(r"^ *CPU \d+/KVM-\d+ +\[\d{3}\] \.{5} +\d+\.\d{6}: kvm\w+: .+$")
OWN_LINE = re.compile(r"^ *(CPU \d+/KVM|rcu)-\d+ +\[\d{3}\] \.{5} +\d+\.\d{6}: tdpfast_\w+: .+$")
HOLDS = """\
name = "mine"
[[thread]]
ops = [{op = "map", gfn = 0x600, pfn = 0x140600}]
[[thread]]
ops = [{op = "mwalk", gfn = 0x600}]
"""


def python(script):
    return subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout.decode()


@pytest.fixture(scope="module")
def token():
    from tdpfast.catalogue import catalogue
    from tdpfast.check import check

    scenario = next(s for s in catalogue("review") if s.name == "issue1-collapse-by-fault")
    return check(scenario, "v7.3", gated=False).token


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(HOLDS)
    return path


def test_the_review(tdpfast):
    assert tdpfast("check", "review", "--brief", "--expect") == (0, (GOLDEN / "review.txt").read_text(), "")


def test_a_violation_and_its_story(tdpfast):
    code, out, err = tdpfast(*PAGE_REUSE)
    assert (code, err) == (1, "") and out == (GOLDEN / "page-reuse.txt").read_text()


def test_exit_codes(tdpfast, mine):
    assert tdpfast(*PAGE_REUSE, "--brief")[0] == 1
    assert tdpfast(*PAGE_REUSE, "--brief", "--exit-zero")[0] == 0
    assert tdpfast(*PAGE_REUSE, "--brief", "--expect")[0] == 0
    assert tdpfast("check", mine)[0] == 0
    assert tdpfast("check", mine, "--strategy", "dfs", "--max-executions", 3)[0] == 4    # unknown, but no time ran out
    code, out, _ = tdpfast("check", "review", "--scenario", "issue1-collapse-by", "--design", "v7.3", "--gated",
                           "--strategy", "dfs", "--seconds", 0.01, "--brief")
    assert code == 124 and "unknown" in out


def test_unexpected_answers(tdpfast, tmp_path):
    (tmp_path / "mine.toml").write_text(HOLDS + '[expect]\n"v7.3" = "agree"\n')
    code, _, err = tdpfast("check", tmp_path / "mine.toml", "--design", "v7.3", "--expect", "--ungated", "--brief")
    assert (code, err) == (1, "unexpected: mine on v7.3, ungated: expected agree, got holds \n")


def test_json(tdpfast):
    code, out, err = tdpfast("check", "review", "--json", "--scenario", "issue2", "--design", "patch07",
                             "--design", "v7.3")
    lines = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (1, "") and len(lines) == 8
    for line in lines:
        assert list(line) == list(FIELDS)
        assert all(isinstance(line[name], kind) for name, kind in FIELDS.items())
        assert line["verdict"] == ("violated" if line["checks"] else "holds") and (
            line["checks"] == sorted(line["checks"]))
        assert (line["token"] is None) == (line["verdict"] == "holds")
    assert [(line["scenario"], line["design"], line["gated"]) for line in lines[:4]] == [
        ("issue2-atomic-zap-of-leaf", d, g) for d in ("patch07", "v7.3") for g in (False, True)]


def test_filters(tdpfast, mine):
    _, out, _ = tdpfast("check", "review", mine, "--json", "--gated", "--design", "v7.3", "--scenario", "issue3",
                        "--scenario", "mine")
    assert [json.loads(line)["scenario"] for line in out.splitlines()] == [
        "issue3-reclaim-busy", "issue3-zap-of-table", "mine"]
    _, out, _ = tdpfast("check", mine, "--brief")
    assert out.splitlines()[0].split() == ["issue", "callers", "v6.19", "patch07", "patch15", "single-hook", "v7.3"]


@pytest.mark.parametrize("argv, message", [
    ([], "missing argument"), (["nothing"], "cannot read nothing"), (["review", "review"], "named twice"),
    (["review", "--design", "v9"], "unknown design 'v9'"), (["review", "--scenario", "issue9"], "unknown scenario"),
    (["review", "--strategy", "magic"], "magic"), (["review", "--bound", "-1"], "bound"),
    (["review", "--seconds", "-1"], "seconds"), (["review", "--seconds", "x"], "seconds"),
    (["review", "--jobs", "-1"], "jobs"), (["review", "--max-transitions", "0"], "max-transitions"),
    (["review", "--seed", "-1"], "seed"), (["review", "--depth", "0"], "depth"), (["review", "--fly"], "--fly"),
    (["review", "--seconds", "nan"], "seconds"), (["review", "--seconds", "inf"], "seconds")])
def test_bad_values(tdpfast, argv, message):
    code, out, err = tdpfast("check", *argv)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1 and "; try " in err
    assert message in err.lower() or message in err


def test_a_bad_file(tdpfast, tmp_path):
    (tmp_path / "a.toml").write_text(HOLDS.replace("gfn", "gfm"))
    code, out, err = tdpfast("check", tmp_path / "a.toml")
    assert (code, out) == (2, "") and str(tmp_path / "a.toml") in err and "no field 'gfm'" in err


def test_random_walks_say_their_seed(tdpfast, mine):
    argv = ("check", mine, "--design", "v7.3", "--strategy", "random", "--seed", 7, "--max-executions", 5, "--brief")
    code, out, err = tdpfast(*argv)
    assert (code, err) == (4, "seed 7\n") and tdpfast(*argv) == (code, out, err)


def test_python_is_the_same(tdpfast, mine):
    for argv in (PAGE_REUSE, (*PAGE_REUSE, "--brief"), ("check", mine, "--gated", "--design", "v7.3", "--jobs", 1),
                 ("check", mine, "--design", "v6.19", "--strategy", "pct", "--seed", 5, "--max-executions", 9)):
        code, script, err = tdpfast(*argv, "--python")
        assert (code, err) == (0, "") and python(script) == "".join(
            line for line in tdpfast(*argv)[1].splitlines(True) if not line.startswith("   next: "))
    _, script, _ = tdpfast(*PAGE_REUSE, "--json", "--python")
    ran, called = json.loads(python(script)), json.loads(tdpfast(*PAGE_REUSE, "--json")[1])
    assert {**ran, "seconds": 0} == {**called, "seconds": 0}


# ---- replay -----------------------------------------------------------------------------------------------------

def test_replay(tdpfast, token):
    code, out, err = tdpfast("replay", token)
    assert (code, err) == (1, "") and out == tdpfast("replay", token)[1]
    lines = out.splitlines()
    assert lines[0].startswith("issue1-collapse-by-fault on v7.3, ungated: agree ")
    assert lines[2].startswith("CPU 0 (vcpu0)") and " | CPU 1 (vcpu1)" in lines[2]
    ended = [line.split()[1] for line in lines if line.startswith("  => ")]
    assert ended[0] == "agree:" and set(ended) == {f"{check}:" for check in lines[0].split(": ")[1].split()}
    assert all(len(line) <= 80 for line in lines)


def test_check_shows_what_replay_shows(tdpfast):
    _, checked, _ = tdpfast(*PAGE_REUSE)
    text = re.search(r"tdpfast replay (\S+)", checked)[1]
    story = tdpfast("replay", text)[1].split("\n", 2)[2]
    assert story.rstrip("\n") in checked


def test_replay_trace(tdpfast, token):
    code, out, err = tdpfast("replay", token, "--trace")
    assert (code, err) == (1, "")
    header, events = [], []
    for line in out.splitlines():
        (header if line.startswith("#") else events).append(line)
    assert header[0] == "# tracer: nop" and out.startswith("\n".join(header)) and len(header) == 10
    kernel = [line for line in events if "tdpfast_" not in line]
    assert kernel and all(KERNEL_LINE.match(line) for line in kernel)
    assert {re.search(r": (\w+): ", line)[1] for line in kernel} <= {
        "kvm_tdp_mmu_spte_changed", "kvm_mmu_get_page", "kvm_mmu_prepare_zap_page", "kvm_mmu_split_huge_page"}
    own = [line for line in events if "tdpfast_" in line]
    assert own and all(OWN_LINE.match(line) for line in own)
    times = [float(re.search(r"(\d+\.\d{6}):", line)[1]) for line in events]
    assert times == sorted(times)


def test_replay_perfetto(tdpfast, token, tmp_path):
    out = tmp_path / "run.json"
    plain = tdpfast("replay", token)
    assert tdpfast("replay", token, "--perfetto", str(out)) == plain
    assert {"operations", "mmu_lock", "RCU"} <= {e.get("cat") for e in json.loads(out.read_text())["traceEvents"]}
    code, text, err = tdpfast("replay", token, "--perfetto", str(out), "--then", "dpor")
    assert (code, text) == (2, "") and err.startswith("error: --perfetto with --then")


def test_replay_json(tdpfast, token):
    code, out, err = tdpfast("replay", token, "--json")
    shown = json.loads(out)
    assert (code, err) == (1, "") and set(shown) == {"scenario", "design", "gated", "checks", "end", "steps"}
    assert (shown["scenario"], shown["design"], shown["gated"]) == ("issue1-collapse-by-fault", "v7.3", False)
    assert all(set(step) == {"agent", "kind", "object", "value"} for step in shown["steps"]) and shown["steps"]


def test_replay_python_is_the_same(tdpfast, token):
    code, script, _ = tdpfast("replay", token, "--python")
    assert code == 0 and python(script) == tdpfast("replay", token)[1].split("\n", 2)[2]


def test_replay_of_a_file(tdpfast, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text('name = "bad"\n[[setup]]\nop = "map"\ngfn = 0x200\npfn = 0x140200\n[[thread]]\n'
                    'ops = [{op = "zap_spte", gfn = 0x200}]\n')
    _, out, _ = tdpfast("check", path, "--design", "patch07", "--ungated", "--json")
    text = json.loads(out)["token"]
    code, out, err = tdpfast("replay", text)
    assert (code, out) == (2, "") and "another scenario" in err
    assert tdpfast("replay", text, "--file", path)[0] == 1
    _, script, _ = tdpfast("replay", text, "--file", path, "--python")
    assert python(script) == tdpfast("replay", text, "--file", path)[1].split("\n", 2)[2]


# ---- what a search did ------------------------------------------------------------------------------------------

CLASS_LINES = ["complete", "stuck", "spin", "aborted", "truncated", "pruned", "states"]


def class_lines(text):
    return [line.split()[0] for line in text.splitlines() if re.fullmatch(r"   [a-z]+ \d+", line)]


def test_counts_by_class(tdpfast, mine):
    code, out, err = tdpfast(*PAGE_REUSE, "-v")
    assert (code, err) == (1, "") and class_lines(out) == CLASS_LINES
    assert re.search(r"^   minimised: \d+ -> \d+ steps, \d+ -> \d+ context switches, reproduced 10/10$", out,
                     re.MULTILINE)
    plain = [line for line in out.splitlines()
             if "minimised: " not in line and not re.fullmatch(r"   [a-z]+ \d+", line)]
    assert "\n".join(plain) + "\n" == tdpfast(*PAGE_REUSE)[1]
    _, out, _ = tdpfast("check", mine, "--design", "v7.3", "--gated", "--verbose")
    assert class_lines(out) == CLASS_LINES and "minimised" not in out and "reproduced" not in out


def test_executions_that_hold_are_shown_on_request(tdpfast, mine):
    argv = ("check", mine, "--design", "v7.3", "--gated")
    _, out, _ = tdpfast(*argv, "--show-all", 2)
    assert out.count("CPU 0 (thread0)") == 2 and "   execution 2\n" in out and "   execution 3\n" not in out
    assert "CPU 0" not in tdpfast(*argv)[1]
    code, script, _ = tdpfast(*argv, "--show-all", 2, "-v", "--python")
    assert code == 0 and python(script) == tdpfast(*argv, "--show-all", 2, "-v")[1]


def test_shares_are_the_same_for_any_number_of_workers(tdpfast):
    argv = ("check", "paths", "--scenario", "collapse", "--design", "v7.3", "--ungated", "--strategy", "random",
            "--seed", 5, "--max-executions", 40)
    one = tdpfast(*argv, "--shares", 4, "--jobs", 1, "-v")
    assert one == tdpfast(*argv, "--shares", 4, "--jobs", 3, "-v") and one[0] == 1
    whole, cut = json.loads(tdpfast(*argv, "--json")[1]), json.loads(tdpfast(*argv, "--shares", 7, "--json")[1])
    for field in ("verdict", "checks", "executions", "transitions", "complete"):
        assert whole[field] == cut[field]
    code, _, err = tdpfast("check", "paths", "--shares", 2, "--strategy", "dfs")
    assert code == 2 and "only trees by dependence" in err and err.count("\n") == 1
    code, _, err = tdpfast("check", "paths", "--shares", 2, "--show-all", 1)
    assert code == 2 and "nothing of the shares is kept" in err and err.count("\n") == 1


def test_a_tree_in_shares_has_the_verdicts_of_the_whole(tdpfast):
    argv = ("check", "review", "--scenario", "issue3", "--design", "single-hook", "--design", "v7.3")
    one = tdpfast(*argv, "--shares", 6, "--jobs", 1, "-v")
    assert one == tdpfast(*argv, "--shares", 6, "--jobs", 3, "-v") and one[0] == 1
    whole, cut = (list(map(json.loads, tdpfast(*argv, *option, "--json")[1].splitlines()))
                  for option in ((), ("--shares", 6)))
    assert len(whole) == len(cut) > 2
    for a, b in zip(whole, cut):
        assert all(a[field] == b[field] for field in ("scenario", "design", "gated", "verdict", "checks", "complete"))
        assert a["complete"] and a["executions"] <= b["executions"]


def test_progress_goes_to_stderr(capsys):
    from tdpfast._explore.explorer import Explorer
    from tdpfast._testing.toys import freeze
    from tdpfast.check import Reporter

    say = Reporter("mine on v7.3, gated")
    explorer = Explorer(freeze(3), max_executions=5)
    explorer.run(say)
    assert capsys.readouterr() == ("", "")          # nothing about what ends soon
    say.next = 0
    say(explorer)
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"mine on v7.3, gated: about 100\.0%, 5 executions, \d+ transitions\n", err)


def test_replay_and_then_explore(tdpfast, token):
    code, out, err = tdpfast("replay", token, "--then", "dpor")
    assert (code, err) == (1, "") and out.startswith("== issue1-collapse-by-fault on v7.3, ungated: ")
    assert class_lines(out) == CLASS_LINES
    whole = json.loads(tdpfast("replay", token, "--then", "dpor", "--keep", 0, "--json")[1])
    some = json.loads(tdpfast("replay", token, "--then", "dpor", "--json")[1])
    assert whole["complete"] and some["complete"] and 0 < some["executions"] < whole["executions"]
    assert tdpfast("replay", some["token"])[0] == 1
    walk = tdpfast("replay", token, "--then", "random", "--json")[1]
    assert set(json.loads(walk)["checks"]) <= set(some["checks"])


@pytest.mark.parametrize("argv, message", [
    (("--keep", "3"), "--keep without --then"), (("--then", "dpor", "--keep", "99999"), "fewer steps"),
    (("--then", "dpor", "--trace"), "about one schedule"), (("--then", "magic"), "magic")])
def test_replay_and_then_refuses(tdpfast, token, argv, message):
    code, out, err = tdpfast("replay", token, *argv)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1


def test_knobs_of_check_and_replay(tdpfast):
    zap = ("check", "paths", "--scenario", "fault-against-unmap", "--design", "v7.3", "--gated")
    code, out, _ = tdpfast(*zap, "--knob", "no_hook_on_zap")
    token = re.search(r"tdpfast replay (\S+)", out)[1]
    assert code == 1 and "on v7.3+no_hook_on_zap" in out and tdpfast(*zap)[0] == 0
    assert tdpfast("replay", token)[0] == 2
    code, shown, _ = tdpfast("replay", token, "--knob", "no_hook_on_zap")
    assert code == 1 and "v7.3+no_hook_on_zap" in shown
    for argv in ((*zap, "--json", "--jobs", 1), ("replay", token)):
        script = tdpfast(*argv, "--knob", "no_hook_on_zap", "--python")[1]
        assert python(script) != ""
    for knob in ("nope", "no_freeze=2", "max_level=x", "name=x", "ungated"):
        code, out, err = tdpfast(*zap, "--knob", knob)
        assert (code, out) == (2, "") and err.startswith("error: ") and knob.partition("=")[0] in err


# ---- undecided ---------------------------------------------------------------------------------------------------

THREE = """\
name = "three"
[[thread]]
ops = [{op = "map", gfn = 0x201, pfn = 0x140201, retries = -1}]
[[thread]]
ops = [{op = "map", gfn = 0x201, pfn = 0x140201, retries = -1}]
[[thread]]
ops = [{op = "unmap", start = 0x200, end = 0x202}]
"""


@pytest.fixture
def three(tmp_path):
    path = tmp_path / "three.toml"
    path.write_text(THREE)
    return path


def test_an_undecided_result_says_what_ended_it_and_what_to_try(tdpfast, three):
    code, out, _ = tdpfast("check", three, "--design", "v7.3", "--gated", "--max-transitions", 5000)
    lines = [line.strip() for line in out.splitlines()]
    assert code == 4 and "ended by: 5,000 transitions" in lines
    assert re.search(r"explored: (less than |about )[\d.]+% of the tree.*\(Knuth, 1975\)", " ".join(lines))
    advice = next(x for x in lines if x.startswith("next: tdpfast check ")).split()[2:]
    assert advice[:2] == ["check", str(three)] and "v7.3" in advice
    assert tdpfast(*advice, "--max-executions", 3)[0] == 4          # it is a command that can be given
    assert tdpfast("check", three, "--design", "v7.3", "--gated", "--max-transitions", 5000)[1] == out


def test_a_bound_says_what_it_covers(tdpfast, mine):
    code, out, _ = tdpfast("check", mine, "--design", "v7.3", "--gated", "--strategy", "bound", "--bound", 1)
    found = re.search(r"covers: all schedules with at most 1 preemptions: ([\d,]+) of ([\d,]+)", " ".join(out.split()))
    assert code == 4 and found[1] == found[2] != "0" and "--strategy bound --bound 2" in out
    mine.write_text('name = "few"\n' + '[[thread]]\nops = [{op = "set_gen", gen = 3}]\n' * 2)
    code, out, _ = tdpfast("check", mine, "--design", "v7.3", "--gated", "--strategy", "bound", "--bound", 100)
    assert code == 0 and "covers" not in out


def test_first_ends_with_the_first_violation(tdpfast):
    argv = ("check", "review", "--design", "patch07", "--scenario", "issue1-collapse-busy-once", "--ungated", "--json")
    whole, first = (json.loads(tdpfast(*argv, *more)[1]) for more in ((), ("--first",)))
    assert first["verdict"] == "violated" and first["executions"] < whole["executions"]


def test_patience_is_the_default_limit(tdpfast, mine):
    script = tdpfast("check", mine, "--python")[1]
    assert "Limits(max_transitions=0, seconds=10.0)" in script
    assert "Limits(" not in tdpfast("check", mine, "--python", "--expect")[1]
    assert "Limits(seed=7" not in tdpfast("check", mine, "--python", "--max-executions", 5)[1]


@pytest.mark.parametrize("argv, message", [
    (["--bound", 3], "--bound does nothing here"), (["--depth", 3], "--depth does nothing"),
    (["--seed", 3], "--seed does nothing"), (["--seconds", 0], "seconds"),
    (["--json", "--brief"], "--brief does nothing"),
    (["--json", "--show-all", 2], "--show-all does nothing"), (["--expect", "--exit-zero"], "--exit-zero does nothing"),
    (["--strategy", "pct", "--bound", 3], "pct has no bound")])
def test_options_that_do_nothing_are_refused(tdpfast, mine, argv, message):
    code, out, err = tdpfast("check", mine, *argv)
    assert (code, out) == (2, "") and message in err and "; try " in err


def test_several_catalogues_are_as_each_alone(tdpfast):
    """Every scenario runs under the designs of its own catalogue."""
    script = tdpfast("check", "review", "premap", "--python")[1]
    designs = re.compile(r"for d in (\[[^]]*\])")
    alone = [designs.search(tdpfast("check", name, "--python")[1])[1] for name in ("review", "premap")]
    assert designs.findall(script) == alone and alone[0] != alone[1]


# ---- commands that are printed ---------------------------------------------------------------------------------------

PRUNED = {"name": "g11111", "setup": [{"op": "map", "gfn": 512, "pfn": 1311232}], "thread": [
    {"name": "vcpu0", "ops": [{"op": "map", "gfn": 513, "pfn": 1311233, "retries": -1}]},
    {"name": "zapper", "ops": [{"op": "unmap", "start": 512, "end": 514}]},
    {"name": "ager", "ops": [{"op": "age", "start": 512, "end": 528, "filter": 2}]}]}


def test_a_violation_of_a_pruned_execution_replays(tdpfast, tmp_path):
    path = tmp_path / "pruned odd name.json"
    path.write_text(json.dumps(PRUNED))
    _, out, _ = tdpfast("check", "--gated", "--design", "v7.3", "-v", path)
    line = next(line.strip() for line in out.splitlines() if line.strip().startswith("tdpfast replay "))
    assert "reproduced 10/10" in out and tdpfast(*shlex.split(line)[1:])[0] == 1


def test_the_printed_command_has_the_knobs(tdpfast, mine):
    mine.write_text(mine.read_text().replace('op = "mwalk", gfn = 0x600', 'op = "unmap", start = 0x600, end = 0x601'))
    _, out, _ = tdpfast("check", mine, "--gated", "--design", "v7.3", "--knob", "no_track", "--knob", "no_freeze")
    line = next(line.strip() for line in out.splitlines() if line.strip().startswith("tdpfast replay "))
    assert line.endswith(f"--file {mine} --knob no_track --knob no_freeze")
    assert tdpfast(*shlex.split(line)[1:])[0] == 1
