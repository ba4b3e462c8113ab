"""Results say what happened: what never did makes "holds" a "holds (not reached)"."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from click.testing import CliRunner

from tdpfast.check import Limits, check, check_in_shares
from tdpfast.cli.check import command
from tdpfast.design import with_knobs
from tdpfast.reach import lines, merged, missing
from tdpfast.report import NOT_REACHED, report
from tdpfast.scenario import parse

MAP = {"op": "map", "gfn": 0x200, "pfn": 0x140200}
SPLIT = {"op": "split", "start": 0x200, "end": 0x400}


def scenario(*threads, setup=(MAP,), **rest):
    return parse({"name": "s", "setup": list(setup), "thread": [
        {"name": f"t{i}", "ops": [op]} for i, op in enumerate(threads)], **rest}, "here")


def test_what_happened_is_counted():
    busy = {**MAP, "gfn": 0x201, "pfn": 0x140201, "retries": -1, "inject": [
        {"leaf": "MEM.PAGE.AUG", "lock": "sept_tree"}]}
    found = check(scenario(busy, {"op": "unmap", "start": 0x200, "end": 0x201}), "v7.3")
    assert found.verdict == "holds" and not found.not_reached and found.missing == []
    assert found.reach["hooks that failed"] >= found.executions > 1
    assert found.reach["SEAMCALLs that met BUSY"] >= found.reach["hooks that failed"]
    assert found.reach["rounds of retries"] >= found.executions - 1 and found.reach["VMs killed"] == 0
    for thread in found.reach["operations"]:
        assert thread[0]["done"] == thread[0]["ran"] >= found.executions - found.ends.get("pruned", 0)
    text = report([found], [])
    assert "happened: hooks that failed" in text and NOT_REACHED not in text


@pytest.mark.parametrize("ops, setup, what", [
    ((SPLIT, MAP), (MAP,), "split of t0 is refused by the rules of today's callers"),
    (({"op": "unmap", "start": 0x300, "end": 0x301},), (MAP,), "unmap of t0 never did what it is for"),
    (({"op": "guest_access", "vcpu": 1, "gpa": 0x201000},), ({"op": "vp_enter", "vcpu": 1},),
     "guest_access of t0 never did what it is for"),
    (({**MAP, "hook": [{"count": -1, "ret": -16}]},), (), "map of t0 never did what it is for")])
def test_what_never_happens_is_said(ops, setup, what):
    found = check(scenario(*ops, setup=setup), "v7.3")
    assert found.verdict == "holds" and found.not_reached and found.missing == [what]
    assert json.loads(json.dumps(found.to_json()))["missing"] == [what]
    text = report([found], [])
    assert f"s on v7.3, gated: {NOT_REACHED}: {what[:20]}" in text and text.splitlines()[2].endswith(NOT_REACHED)


def test_a_vm_that_is_killed_counts():
    found = check(scenario({**MAP, "level": 2}, setup=()), "v7.3", gated=False)
    assert found.verdict == "violated" and found.reach["VMs killed"] == found.executions == 1


def test_knobs_that_changed_nothing():
    design = with_knobs("v7.3", {"no_freeze": True})
    assert check(scenario({"op": "mwalk", "gfn": 0x200}), design).missing == ["no_freeze: all is as without"]
    assert check(scenario({**MAP, "gfn": 0x201, "pfn": 0x140201}), design).missing == []


def test_shares_come_to_the_same():
    work = scenario({**MAP, "gfn": 0x201, "pfn": 0x140201}, SPLIT)
    whole = check(work, "v7.3")
    with ThreadPoolExecutor(1) as pool:
        parts = check_in_shares(work, "v7.3", shares=2, executor=pool, limits=Limits())
    assert parts.missing == whole.missing and parts.not_reached
    both = merged([whole.reach, whole.reach])
    assert both["operations"][0][0]["ran"] == 2 * whole.reach["operations"][0][0]["ran"]
    assert lines(both, ["a", "b"])[-1].startswith("split of b: ") and missing(both, ["a", "b"])


def test_require_reach(tmp_path):
    path = tmp_path / "s.json"
    path.write_text(json.dumps(scenario(SPLIT, expect={"v7.3": "holds"}).to_record()))
    run = [str(path), "--design", "v7.3", "--gated", "--jobs", "1"]
    for more in ([], ["--expect"]):
        plain = CliRunner().invoke(command, [*run, *more], standalone_mode=False)
        assert (plain.exception, plain.return_value) == (None, 0) and NOT_REACHED in plain.output
        strict = CliRunner().invoke(command, [*run, *more, "--require-reach"], standalone_mode=False)
        assert strict.return_value == 4 and "not reached: s on v7.3, gated: split of t0 is refused" in strict.output
