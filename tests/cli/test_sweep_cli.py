"""tdpfast sweep, tdpfast minimise and tdpfast check --against."""

import json

import pytest

from tdpfast.cli import run
from tdpfast.scenario import load

ZAP = """name = "zap"
[[setup]]
op = "map"
gfn = 0x200
pfn = 0x140200
private = 1
[[thread]]
name = "walker"
ops = [{op = "mwalk", gfn = 0x203}]
[[thread]]
name = "zapper"
ops = [{op = "zap_leafs", start = 0x200, end = 0x204}]
"""


@pytest.fixture
def zap(tmp_path):
    path = tmp_path / "zap.toml"
    path.write_text(ZAP)
    return str(path)


def test_minimise(zap, tmp_path, capsys):
    out = tmp_path / "small.toml"
    assert run(["minimise", zap, "--knob", "no_hook_on_zap", "--save", str(out)]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("agree: 2 -> 1 operations") and f"written to {out}" in printed
    small = load(out)
    assert len(small.threads) == 1 and small.threads[0].ops[0]["op"] == "zap_leafs"
    assert run(["minimise", str(out), "--knob", "no_hook_on_zap", "--check", "agree"]) == 1
    assert run(["minimise", zap]) == 2
    assert "nothing is violated" in capsys.readouterr().err


def printed_command(text):
    return next(line.split() for line in reversed(text.splitlines()) if line.strip().startswith("tdpfast "))[1:]


def test_minimise_a_token(zap, tmp_path, capsys, monkeypatch):
    """The scenario it belongs to, at the same place; what is printed replays once the scenario is saved."""
    assert run(["check", "review", "--scenario", "issue3-reclaim", "--design", "single-hook", "--ungated"]) == 1
    token = printed_command(capsys.readouterr().out)[1]
    assert run(["minimise", token]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("life: ") and "seamcall_failed" in printed and "hkid_assigned" not in printed
    before, after = (int(n) for n in printed.split(" steps")[0].split(", ")[-1].split(" -> "))
    assert after <= before
    assert run(["minimise", token, "--save", str(tmp_path / "small.toml")]) == 1
    assert run(printed_command(capsys.readouterr().out)) == 1
    assert run(["check", zap, "--knob", "no_hook_on_zap", "--design", "v7.3", "--gated"]) == 1
    words = printed_command(capsys.readouterr().out)
    monkeypatch.chdir(tmp_path)
    assert run(["minimise", words[1], "--file", zap, "--knob", "no_hook_on_zap"]) == 1
    printed = capsys.readouterr().out
    text = printed.split(".toml\n", 1)[1].split("\n== ")[0]
    (tmp_path / printed.split("# ")[1].split("\n")[0]).write_text(text)
    assert run(printed_command(printed)) == 1
    capsys.readouterr()
    for bad, why in ((["minimise", words[1]], "another scenario"), (["minimise", "tdp1-nothing"], "token"),
                     (["minimise", token, "--ungated"], "the token says"), (["minimise", zap, "--file", zap], "FILE")):
        assert run(bad) == 2
        assert why in capsys.readouterr().err


def test_against(capsys, tmp_path):
    assert run(["check", "v7.3", "--knob", "no_freeze", "--against", "v7.3", "--scenarios", "1", "--jobs", "1",
                "--save", str(tmp_path)]) == 1
    assert "== new violation, gated: " in capsys.readouterr().out
    written = sorted(tmp_path.glob("*.toml"))
    assert written and load(written[0]).name == "fault+fault-same-fresh"
    assert run(["check", "v7.3", "--against", "v7.3"]) == 2
    assert "against itself" in capsys.readouterr().err
    assert run(["check", "review", "hugepage", "--against", "v7.3"]) == 2
    assert "one design is compared" in capsys.readouterr().err
    assert run(["check", "v7.3", "--knob", "no_rollback", "--against", "v7.3", "--scenarios", "1", "--jobs", "1",
                "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["tried"] == 1


def test_sweep(capsys):
    assert run(["sweep", "v7.3", "--generated", "0", "--guard", "no_freeze", "--jobs", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["design"] == "v7.3" and [g["knob"] for g in result["guards"]] == ["no_freeze"]
    assert result["guards"][0]["scenario"] and result["guards"][0]["token"].startswith("tdp1-")
    assert run(["sweep", "v7.3", "--json", "--markdown"]) == 2
    assert run(["sweep", "v7.3", "--guard", "nonsense"]) == 2
    assert run(["sweep", "nonsense"]) == 2
    assert "unknown design" in capsys.readouterr().err
