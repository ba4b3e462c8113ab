"""tdpfast conform, and what every subcommand shares: exit codes, errors, pipes."""
import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tdpfast.cli import COMMANDS

DATA = Path(__file__).parent.parent / "conformance" / "data"
FACTS = DATA / "kvm-7.3" / "spte.jsonl.gz"

GOOD = {"fn": "restore_acc_track_spte", "cfg": "ept_ad", "in": "0x80000000800008f4",
        "out": "0x80000000800008f0"}
BAD = GOOD | {"out": "0x0"}


def recording(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_passes(tdpfast, tmp_path):
    path = recording(tmp_path / "x.jsonl", GOOD, GOOD)
    assert tdpfast("conform", path) == (0, f"{path}: 2 passed, 0 failed, 0 skipped\n", "")


def test_array_file_and_gzip_file(tdpfast, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([GOOD, GOOD]))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps(GOOD).encode() + b"\n\n"))
    code, out, err = tdpfast("conform", tmp_path / "a.json", tmp_path / "b.jsonl.gz")
    assert (code, err) == (0, "")
    assert "a.json: 2 passed" in out and "b.jsonl.gz: 1 passed" in out


def test_shows_the_first_differences(tdpfast, tmp_path):
    path = recording(tmp_path / "x.jsonl", GOOD, BAD, BAD, BAD)
    code, out, _ = tdpfast("conform", path, "--max-diffs", 2)
    assert code == 1
    assert out.splitlines() == [
        f"{path}: 1 passed, 3 failed, 0 skipped",
        "  line 2, restore_acc_track_spte: recorded '0x0', got '0x80000000800008f0'",
        "  line 3, restore_acc_track_spte: recorded '0x0', got '0x80000000800008f0'",
        "  ... and 1 more"]


def test_json(tdpfast, tmp_path):
    path = recording(tmp_path / "x.jsonl", BAD)
    code, out, _ = tdpfast("conform", path, "--json")
    report = json.loads(out)
    assert code == 1
    assert (report["path"], report["kind"], report["failed"]) == (str(path), "spte", 1)
    assert report["differences"][0]["line"] == 1


def test_design_replaces_the_recorded_release(tdpfast, tmp_path):
    path = recording(tmp_path / "x.jsonl",
                     {"fn": "const", "cfg": "npt", "name": "FROZEN_SPTE", "value": "0x80000000000005a0"})
    assert tdpfast("conform", path)[0] == 1
    assert tdpfast("conform", path, "--design", "v6.18")[0] == 0


def test_skipped_cases_name_the_reason(tdpfast, tmp_path):
    path = recording(tmp_path / "x.jsonl", {"id": "a", "claim": "b", "evidence": {"c": 1}})
    code, out, _ = tdpfast("conform", path)
    assert code == 0 and "1 skipped" in out and "  skipped 1: unknown quirk 'a'" in out


BAD_FILES = {
    "missing.jsonl": (None, "No such file"),
    "empty.jsonl": (b"", "empty"),
    "cut.jsonl": (b'{"fn": "cfg", ', ":1: malformed JSON"),
    "late.jsonl": (json.dumps(GOOD).encode() + b"\n{]\n", ":2: malformed JSON"),
    "array.json": (b"[" + json.dumps(GOOD).encode() + b",\n{]", ":2: malformed JSON"),
    "comma.json": (b"[" + json.dumps(GOOD).encode() + b",\n\n]", ":3: malformed JSON"),
    "half.json": (b"[" + json.dumps(GOOD).encode(), ":1: malformed JSON"),
    "more.json": (b"[" + json.dumps(GOOD).encode() + b"]\n[]", ":2: malformed JSON"),
    "deep.jsonl": (b"[" * 100000, "malformed JSON"),
    "digits.jsonl": (b'{"fn": ' + b"9" * 5000 + b"}", "malformed JSON"),
    "binary.jsonl": (b"\xff\xfe\x00", "not UTF-8"),
    "number.jsonl": (b"7\n", "unknown kind"),
    "unknown.jsonl": (b'{"a": 1}\n', "unknown kind"),
    "mixed.jsonl": (json.dumps(GOOD).encode() + b"\n[]\n", ":2: not a spte record"),
    "nofn.jsonl": (b'{"fn": "make_tea", "cfg": "npt"}\n', "no fact 'make_tea'"),
    "oddfn.jsonl": (b'{"fn": [], "cfg": "npt"}\n', "no fact"),
    "oddcfg.jsonl": (b'{"fn": "const", "cfg": []}\n', "bad const fact"),
    "nocfg.jsonl": (b'{"fn": "const", "cfg": "pae"}\n', "no configuration"),
    "nofield.jsonl": (b'{"fn": "pred", "cfg": "npt"}\n', ":1: bad pred fact"),
    "release.jsonl": (json.dumps(GOOD | {"release": "2.6"}).encode(), "no layout for release"),
    "level.jsonl": (b'{"fn": "is_rsvd_spte", "cfg": "npt", "in": {"spte": "0x1", "level": 99}, "out": 0}',
                    ":1: bad level 99"),
    "plain.jsonl.gz": (b'{"fn": 1}', "damaged gzip"),
    "line5.jsonl": (json.dumps(GOOD).encode() + b"\n" + (json.dumps(GOOD).encode() + b"\n") * 3 + b'{"fn": ' + b"\n",
                    ":5: malformed JSON"),
    "text.json": (b"\x7fELF\x02\x01\x01" + bytes(range(256)), "not UTF-8"),
    "zeroes.json": (bytes(4096), ":1: malformed JSON"), "null.json": (b"null", "unknown kind"),
    "binary.jsonl.gz": (bytes(range(256)), "damaged gzip"), "empty.jsonl.gz": (b"", "empty"),
    "empty.json": (b"", ":1:"),
    "none.json": (b"[]", "empty"), "nan.jsonl": (b'{"fn": "is_rsvd_spte", "cfg": "npt", "in": NaN, "out": 0}', "bad "),
    "kinds.jsonl": (json.dumps(GOOD).encode() + b'\n{"id": "a", "claim": "b", "evidence": {"c": 1}}\n',
                    ":2: not a spte"),
    "seamkinds.jsonl": (b'{"id": "fatal", "claim": "b", "evidence": {"status": "TDX_TD_FATAL"}}\n'
                        + json.dumps(GOOD).encode(), ":2: not a seam record"),
    "mmu.jsonl": (b'{"cfg": {"kind": 0}, "ops": [{"op": "dance"}], "res": [{"ret": 0, "ev": []}]}',
                  "unknown op 'dance'"),
    "stack.jsonl": (b'{"cfg": {}, "ops": [{"op": "map", "gfn": ' + b"9" * 400 + b'}], "res": [{"ret": 0, "ev": []}]}',
                    "outside 0..2^64-1"),
    "needs.jsonl": (b'{"cfg": {"kind": 0}, "ops": [], "res": [], "needs": [[]]}', "bad needs"),
    "run.jsonl": (b'{"cfg": {"kind": 0}, "ops": [{"op": "zap_all"}], "res": [{"ret": 0, "ev": [["yield", "read", '
                  b'99999999999999999999]]}]}', "a run of"),
    "seq.jsonl": (b'{"cfg": {}, "calls": [{"op": "fly", "lp": 0, "in": {}}], "end": {}}', "bad module sequence"),
    "lp.jsonl": (b'{"cfg": {}, "calls": [{"op": "track", "lp": 64, "in": {}}], "end": {}}', "logical processor 64"),
    "registers.jsonl": (b'{"cfg": {}, "calls": [{"op": "track", "lp": 0, "in": {"rcx": "0x' + b"f" * 17
                        + b'"}}], "end": {}}', "bad module sequence"),
    "quirk.jsonl": (b'{"id": "fatal", "claim": "b", "evidence": []}', "bad module quirk"),
    "order.json": (b'{"sept_add": [{"check": [], "status": 7}]}', "bad check order"),
    "constants.json": (b'{"status_codes": {"TDX_SUCCESS": {}}}', "bad module constants"),
    "cut.jsonl.gz": (gzip.compress(json.dumps(GOOD).encode() * 99)[:-20], "damaged gzip"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_usage_errors(tdpfast, tmp_path, name):
    content, message = BAD_FILES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, out, err = tdpfast("conform", tmp_path / name)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and "; try " in err
    assert name in err and message in err


@pytest.mark.parametrize("argv", [
    [], ["conform"], ["nonsense"], ["conform", "--design", "v1", "x"], ["conform", "--max-diffs", "-1", "x"],
    ["conform", "--max-diffs", "many", "x"], ["--nonsense"], ["conform", "."]])
def test_usage_errors_are_one_line(tdpfast, argv):
    code, out, err = tdpfast(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and "; try " in err


def test_a_name_that_cannot_be_shown(tdpfast, tmp_path):
    path = recording(tmp_path / "x.jsonl", {"cfg": {"kind": 0}, "ops": [], "res": [], "needs": ["\ud800"]})
    code, out, err = tdpfast("conform", path)
    assert (code, err) == (0, "") and "  skipped 1: needs \\ud800\n" in out


def test_internal_errors(tdpfast, tmp_path, monkeypatch):
    monkeypatch.setattr("tdpfast.conform.spte._restore", None)
    monkeypatch.setitem(sys.modules["tdpfast.conform.spte"]._FACTS, "restore_acc_track_spte",
                        lambda config, record: 1 / 0)
    code, out, err = tdpfast("conform", recording(tmp_path / "x.jsonl", GOOD))
    assert (code, out) == (3, "") and "ZeroDivisionError" in err and err.count("\n") == 1


def test_version_and_help(tdpfast):
    assert tdpfast("--version")[:2] == (0, "tdpfast 0.1.0\n")
    code, out, _ = tdpfast("--help")
    assert code == 0 and all(name in out for name in COMMANDS)
    for name in COMMANDS:
        code, out, err = tdpfast(name, "--help")
        assert (code, err) == (0, "") and out.startswith(f"Usage: tdpfast {name}")


def test_reader_that_goes_away():
    script = "from tdpfast.cli import main; main()"
    files = [str(DATA / "tdx-1.5" / "quirks.jsonl")] * 3000
    process = subprocess.Popen([sys.executable, "-c", script, "conform", *files],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), err) == (141, b"")


def test_no_colour_outside_a_terminal():
    script = "from tdpfast.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script, "conform", str(FACTS)], capture_output=True,
                          check=True)
    assert b"\x1b" not in done.stdout and done.stdout.startswith(str(FACTS).encode())


def test_json_of_a_whole_document(tdpfast):
    code, out, err = tdpfast("conform", "--json", DATA / "tdx-1.5" / "constants.json")
    report = json.loads(out)
    assert (code, err) == (0, "") and out.count("\n") == 1
    assert report["failed"] == 0 < report["passed"] and all(isinstance(n, int) for n in report["left_out"].values())


def test_long_arrays_are_read_piece_by_piece(tmp_path):
    """Records of any size, and pieces that end anywhere, in a third of what the whole would take."""
    script = (
        "import resource, sys\n"
        "from tdpfast.conform.reader import read_records\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "n = sum(len(record['a']) for _, record in read_records(sys.argv[1]))\n"
        "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n")
    path = tmp_path / "long.json"
    with path.open("w") as file:
        file.write("[")
        for i in range(3000):
            record = {"a": list(range(i % 7 * 500)), "b": " [ ] , \\" * (i % 3)}
            file.write(("," if i else "") + json.dumps(record) + chr(10))
        file.write("]")
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    n, kilobytes = map(int, done.stdout.split())
    assert n == sum(i % 7 * 500 for i in range(3000)) and path.stat().st_size > 20_000_000
    assert kilobytes < 8_000
