"""Tokens of scenarios: the same bytes every time, everywhere, and a plain answer when they do not fit."""

import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tdpfast.catalogue import catalogue
from tdpfast.check import Limits, check, check_in_shares, check_many, replay_token
from tdpfast.cli import run
from tdpfast.conform import conform_file
from tdpfast.design import PRESETS, Design, parse_knobs, with_knobs
from tdpfast.errors import UsageError
from tdpfast.report import report
from tdpfast.story import columns_text, tell
from tdpfast.stress import StressConfig, check_writable
from tdpfast.token import NondeterminismError, Token, TokenError, TokenMismatchError, TokenVersionError
from tdpfast.trace import replay_trace

REVIEW = catalogue("review")
TASKS = [(s, d, False) for s in REVIEW[2:5] for d in ("patch07", "single-hook")]
FRESH = """\
import sys
from tdpfast.cli import run
codes = [run(["replay", sys.argv[1], *option]) for option in ([], ["--trace"], ["--json"])]
assert codes == [1, 1, 1]
"""


@pytest.fixture(scope="module", params=["issue1-collapse-busy-once", "issue2-page-reuse", "issue4-persistent-error"])
def found(request):
    scenario = next(s for s in REVIEW if s.name == request.param)
    return scenario, check(scenario, "single-hook" if "issue1" in request.param else "patch07", gated=False)


def shown(text):
    """Story and trace of a token, and what the check found."""
    token = Token.parse(text)
    scenario, _, program, replay = replay_token(token, REVIEW, PRESETS.values())
    story = tell(program, scenario, replay)
    return columns_text(story, [t.name for t in scenario.threads]), replay_trace(program), replay["checks"], story


def test_twice_in_one_process(found):
    _, verdict = found
    first, second = shown(verdict.token), shown(verdict.token)
    assert first == second and first[2] and first[3] == verdict.counterexample.story


def test_in_fresh_processes(found, capsys):
    _, verdict = found
    outputs = {subprocess.run([sys.executable, "-c", FRESH, verdict.token], capture_output=True, check=True,
                              env={**os.environ, "PYTHONHASHSEED": seed}).stdout for seed in ("0", "1")}
    assert len(outputs) == 1
    for option in ([], ["--trace"], ["--json"]):
        run(["replay", verdict.token, *option])
    assert outputs == {capsys.readouterr().out.encode()}


def test_checking_again_gives_the_same(found):
    scenario, verdict = found
    again = check(scenario, verdict.design, gated=False)
    assert replace(again, seconds=0) == replace(verdict, seconds=0)


def test_another_scenario(found):
    scenario, verdict = found
    token = Token.parse(verdict.token)
    for others in ([s for s in REVIEW if s is not scenario], [replace(scenario, vm={"vcpus": 3})], []):
        with pytest.raises(TokenMismatchError):
            replay_token(token, others, PRESETS.values())
    with pytest.raises(TokenMismatchError):
        replay_token(token, [scenario], [PRESETS[verdict.design].replace(max_level=3)])
    # Words about a scenario do not count.
    assert replay_token(token, [replace(scenario, text="other", title="x")], PRESETS.values())[3]["checks"]


def test_a_schedule_that_does_not_fit(found):
    _, verdict = found
    token = Token.parse(verdict.token)
    for schedule in (token.schedule[:-1], b"\1" + token.schedule, token.schedule + b"\0" * 9, b"", b"\x11" * 5):
        with pytest.raises(NondeterminismError):
            replay_token(replace(token, schedule=schedule), REVIEW, PRESETS.values())
    with pytest.raises(NondeterminismError):
        replay_token(replace(token, digest=token.digest ^ 1), REVIEW, PRESETS.values())


def test_damaged_tokens_on_the_command_line(found, capsys):
    _, verdict = found
    text = verdict.token
    other = str(replace(Token.parse(text), fingerprint=5))
    for bad in ("", "x", text[:-1], text[:20], text[:-1] + "!", "tdp9" + text[4:], text[4:], text.replace("a", "b", 1),
                other):
        if bad == text:
            continue
        assert run(["replay", "--", bad]) == 2, bad
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    for bad, kind in ((text[:-1], TokenError), ("tdp9" + text[4:], TokenVersionError)):
        with pytest.raises(kind) as info:
            Token.parse(bad)
        assert isinstance(info.value, UsageError)


def test_nondeterminism_on_the_command_line(found, capsys):
    _, verdict = found
    changed = str(replace(Token.parse(verdict.token), digest=1))
    assert run(["replay", changed]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "made other accesses" in err and err.count("\n") == 1


def results(**how):
    verdicts = list(check_many(TASKS, **how))
    assert [(v.scenario, v.design, v.gated) for v in verdicts] == [(s.name, d, g) for s, d, g in TASKS]
    return [replace(v, seconds=0) for v in verdicts]


def test_any_number_of_jobs_and_any_executor_gives_the_same():
    one = results(jobs=1)
    assert results(jobs=1) == one and results(jobs=2) == one
    with ThreadPoolExecutor(3) as threads:
        assert results(executor=threads) == one
    with ProcessPoolExecutor(2) as processes:
        assert results(executor=processes) == one
    assert report(one, REVIEW) == report(results(jobs=2), REVIEW)
    assert [json.dumps(v.to_json()) for v in one] == [json.dumps(v.to_json()) for v in results(jobs=2)]


@pytest.mark.parametrize("strategy", ["random", "pct"])
def test_a_seed_decides(strategy):
    limits = Limits(strategy=strategy, max_executions=50, seed=3)
    scenario = REVIEW[0]
    first, second = (replace(check(scenario, "v7.3", gated=False, limits=limits), seconds=0) for _ in range(2))
    assert first == second
    other = check(scenario, "v7.3", gated=False, limits=replace(limits, seed=4))
    assert (other.transitions, other.token) != (first.transitions, first.token)


HUGE = 10**5000
SPTES = Path(__file__).parents[1] / "conformance/data/kvm-7.3/spte.jsonl.gz"


@pytest.mark.parametrize("call", [
    lambda: check(REVIEW[0], "v7.3", reset=HUGE), lambda: check(REVIEW[0], "v7.3", hooks={HUGE: 1}),
    lambda: check(REVIEW[0], "v7.3", hooks={"set_external_spte": HUGE}), lambda: check(REVIEW[0], HUGE),
    lambda: check(replace(REVIEW[0], setup=({"op": "map", "gfn": HUGE},)), "v7.3"),
    lambda: check(replace(REVIEW[0], setup=({"op": "map", "gfn": hex(HUGE)},)), "v7.3"),
    lambda: check(replace(REVIEW[0], vm={"vcpus": HUGE}), "v7.3"), lambda: check(replace(REVIEW[0], name=HUGE), "v7.3"),
    lambda: check(REVIEW[0], "v7.3", gated=HUGE), lambda: check(REVIEW[0], "v7.3", show_all=HUGE),
    lambda: Limits(seconds=HUGE), lambda: Limits(strategy=HUGE), lambda: Limits(seed=HUGE),
    lambda: list(check_many([(HUGE, "v7.3", True)])), lambda: list(check_many([(REVIEW[0], HUGE, True)])),
    lambda: list(check_many([(REVIEW[0], "v7.3", HUGE)])), lambda: with_knobs("v7.3", {"max_level": HUGE}),
    lambda: with_knobs("v7.3", {HUGE: 1}), lambda: Design(name="x", gate=HUGE), lambda: Token(b"", HUGE),
    lambda: list(check_many([(REVIEW[0], "v7.3", True)], jobs=HUGE)), lambda: Token.parse(HUGE),
    lambda: catalogue(HUGE), lambda: conform_file(HUGE), lambda: conform_file(SPTES, HUGE),
    lambda: check_writable(HUGE),
    lambda: parse_knobs([HUGE]),
    lambda: replay_token(Token(b""), [HUGE], ["v7.3"]), lambda: replay_token(Token(b""), REVIEW, [HUGE]),
    lambda: check(replace(REVIEW[0], setup=({"op": "map", HUGE: 1},)), "v7.3"),
    lambda: StressConfig(mode=HUGE), lambda: StressConfig(mix=HUGE), lambda: StressConfig(seed=HUGE)])
def test_a_number_of_thousands_of_digits(call):
    with pytest.raises(UsageError) as info:
        call()
    assert len(str(info.value)) < 1500


def test_no_tasks_and_bad_tasks():
    assert list(check_many([])) == []
    with pytest.raises(UsageError, match="unknown design"):
        list(check_many([(REVIEW[0], "v9", True)]))
    with pytest.raises(UsageError, match="unknown design"):
        list(check_many([(REVIEW[0], "v9", True)] * 2, jobs=2))
    for tasks in (5, None, [5], [(5, "v7.3", True)], [()]):
        with pytest.raises(UsageError, match="task"):
            list(check_many(tasks))
    with pytest.raises(UsageError, match="executor"):
        list(check_many([(REVIEW[0], "v7.3", True)], executor="x"))
    with pytest.raises(UsageError, match="executor"):
        check_in_shares(REVIEW[0], "v7.3", shares=2, executor=None)


def test_values_of_knobs_have_one_form():
    """What a token is tied to does not depend on how a number was written."""
    for value in (2, np.int64(2)):
        assert PRESETS["v7.3"].replace(max_level=value).canonical() == PRESETS["v7.3"].replace(max_level=2).canonical()
    assert PRESETS["v7.3"].replace(no_freeze=1).canonical() == PRESETS["v7.3"].replace(no_freeze=True).canonical()
    assert with_knobs("v7.3", {"no_freeze": 1}).name == "v7.3+no_freeze"
    for knobs in ({"max_level": True}, {"gate": False}, {"layout": 703.0}, {"no_freeze": 2}, {"max_level": np.True_}):
        with pytest.raises(UsageError, match="knob"):
            PRESETS["v7.3"].replace(**knobs)
