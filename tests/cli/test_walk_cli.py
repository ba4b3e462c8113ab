"""tdpfast walk."""
import io
import json
import subprocess
import sys

import pytest

TOML = """\
[vm]
design = "v7.3"

[[ops]]
op = "map"
gfn = 0x600
pfn = "0x100600"
write = 1
private = 1
"""
HUGE = json.dumps({"vm": {"design": "v6.18", "tdx": False, "memslot": {"base_gfn": 0, "npages": 4096}}, "setup": [
    {"op": "map", "gfn": 0, "pfn": 0x1000, "level": 2, "write": 1}, {"op": "split", "start": 0, "end": 512},
    {"op": "map", "gfn": 0x400, "pfn": 0x1400, "level": 2},
    {"op": "wrprot_slot", "start": 7, "end": 8}, {"op": "zap_leafs", "start": 9, "end": 10}]})
BUG = json.dumps({"vm": {"tdx": False}, "ops": [
    {"op": "map", "gfn": 1, "pfn": 1, "map_writable": 0}, {"op": "map", "gfn": 1, "pfn": 2, "write": 1},
    {"op": "map", "gfn": 9, "pfn": 9}]})

WALK = """\
GFN 600  (mirror root 0, level 4, refs 2)

LEVEL INDEX         GFN        SPTE             PHYSICAL  FLAGS
 512G     0           0  8000010000002d07    10000002000
        (TABLE|READ|WRITE|EXEC|USER_EXEC|ACCESSED|SUPPRESS_VE)
   1G     0           0  8000010000003d07    10000003000
        (TABLE|READ|WRITE|EXEC|USER_EXEC|ACCESSED|SUPPRESS_VE)
   2M     3         600  8000010000004d07    10000004000
        (TABLE|READ|WRITE|EXEC|USER_EXEC|ACCESSED|SUPPRESS_VE)
   4K     0         600  80a0000100600f37      100600000
        (LEAF|READ|WRITE|EXEC|USER_EXEC|ACCESSED|DIRTY|HOST_WRITABLE|
        MMU_WRITABLE|SUPPRESS_VE|WB)

  pfn 100600
"""
NOT_MAPPED = """\
GFN 8000000  (mirror root 0, level 4, refs 2)

LEVEL INDEX         GFN        SPTE             PHYSICAL  FLAGS
 512G     1     8000000  8000000000000000              -  (NONE)

  not mapped (none)
"""
SCRIPT = """\
from tdpfast import Vm

vm = Vm(design='v7.3')
vm.run({'op': 'map', 'gfn': 1536, 'pfn': '0x100600', 'write': 1, 'private': 1})
print(vm.walk(0x600, private=True))
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "vm.toml"
    path.write_text(TOML)
    return path


def test_walk(tdpfast, file):
    assert tdpfast("walk", file, "0x600") == (0, WALK, "")


def test_not_mapped_and_several(tdpfast, file):
    assert tdpfast("walk", file, "0x8000000", "0x600") == (0, NOT_MAPPED + "\n" + WALK, "")


def test_shared(tdpfast, file):
    code, out, _ = tdpfast("walk", file, "0x600", "--shared")
    assert code == 0 and "direct root 1" in out and "not mapped" in out


def test_standard_input(tdpfast, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(TOML))
    assert tdpfast("walk", "-", "1536") == (0, WALK, "")


def test_dump_of_json(tdpfast, tmp_path):
    (tmp_path / "vm.json").write_text(HUGE)
    code, out, err = tdpfast("walk", tmp_path / "vm.json", "--dump", "--stats")
    assert (code, err) == (0, "") and out.startswith("direct root 0, level 4, refs 2\n")
    leaves = [line.split("(")[0].strip() for line in out.splitlines() if "4K" in line or "2M [2]" in line]
    assert leaves == ["4K [0-6] gfn 0 8600000001000b77 -> 1000000 x 7", "4K [7] gfn 7 8600000001007b75 -> 1007000",
                      "4K [8] gfn 8 8600000001008b77 -> 1008000", "4K [10-511] gfn a 860000000100ab77 -> 100a000 x 502",
                      "2M [2] gfn 400 8600000001400bf7 -> 1400000"]
    assert "\npages_4k 511\npages_2m 1\n" in out


def test_events_are_the_kernels(tdpfast, file):
    code, out, _ = tdpfast("walk", file, "--events")
    lines = out.splitlines()
    assert code == 0 and lines[0] == "# tracer: nop" and "TASK-PID     CPU#" in lines[8]
    kernel = [line for line in lines if "tdpfast_" not in line and not line.startswith("#")]
    assert kernel[-1] == ("       CPU 0/KVM-4242    [000] .....     0.000014: kvm_tdp_mmu_spte_changed: as id 0 "
                          "gfn 600 level 1 old_spte 8000000000000000 new_spte 80a0000100600f37")
    assert len(kernel) == 7          # three new tables and four changes


def test_json(tdpfast, file):
    code, out, _ = tdpfast("walk", file, "0x600", "--json", "--dump", "--stats", "--events")
    shown = json.loads(out)
    assert code == 0 and shown["ended"] is None and shown["stats"]["pages_4k"] == 1
    [walk] = shown["walks"]
    assert (walk["pfn"], walk["private"], [e["level"] for e in walk["entries"]]) == (0x100600, True, [4, 3, 2, 1])
    assert walk["entries"][-1]["spte"] == "0x80a0000100600f37" and len(shown["dump"]) == 6


def test_python_is_the_same(tdpfast, file):
    assert tdpfast("walk", file, "0x600", "--python") == (0, SCRIPT, "")
    assert subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True).stdout.decode() == WALK
    _, everything, _ = tdpfast("walk", file, "0x600", "--python", "--events", "--dump", "--stats")
    assert subprocess.run([sys.executable, "-c", everything], capture_output=True, check=True).stdout


def test_memslot_in_the_python(tdpfast, tmp_path):
    (tmp_path / "vm.json").write_text(HUGE)
    _, script, _ = tdpfast("walk", tmp_path / "vm.json", "0", "--python")
    assert "Memslot(**{'base_gfn': 0, 'npages': 4096})" in script
    subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)


def test_a_bug_shows_what_it_left(tdpfast, tmp_path):
    (tmp_path / "vm.json").write_text(BUG)
    code, out, err = tdpfast("walk", tmp_path / "vm.json", "1", "--stats")
    assert code == 1 and "pages_4k 1" in out
    assert err == "warning: the VM ended with BUG in __handle_changed_spte (leaf_pfn_changed); make a new one\n"


BAD = {
    "missing": (None, "No such file"), "broken": ("{", "malformed"), "toml": ("a = ", "malformed"),
    "deep": ("{" + '"a":{' * 100000, "malformed"), "key": ('{"a": 1}', "unknown key"),
    "vm": ('{"vm": 5}', "malformed"), "ops": ('{"ops": {}}', "malformed"), "op": ('{"ops": [5]}', "malformed"),
    "argument": ('{"vm": {"a": 1}}', "unknown argument"), "design": ('{"vm": {"design": "v1"}}', "unknown design"),
    "list": ('{"vm": {"tdx": []}}', "not a value"), "slot": ('{"vm": {"memslot": 5}}', "not a memslot"),
    "level": ('{"vm": {"root_level": "4"}}', "not an integer"), "noop": ('{"ops": [{}]}', "op 0: unknown op"),
    "field": ('{"ops": [{"op": "zap_all"}, {"op": "map", "x": 1}]}', "op 1: op 'map' has no field"),
    "number": ('{"ops": [{"op": "map", "gfn": "x"}]}', "not a number"),
    "gate": ('{"ops": [{"op": "split", "start": 0, "end": 1}]}', "guest_memfd"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tdpfast, tmp_path, name):
    text, message = BAD[name]
    if text is not None:
        (tmp_path / name).write_text(text)
    code, out, err = tdpfast("walk", tmp_path / name, "0")
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and "; try " in err and message in err


@pytest.mark.parametrize("argv", [["x"], ["-1"], ["0x800000000"], ["9" * 30], []])
def test_bad_arguments(tdpfast, file, argv):
    code, out, err = tdpfast("walk", file, *argv)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1


def test_not_utf8(tdpfast, tmp_path):
    (tmp_path / "x").write_bytes(b"\xff")
    assert "not UTF-8" in tdpfast("walk", tmp_path / "x", "0")[2]


TD = """\
[vm]
module = 1
vcpus = 2
[[ops]]
op = "vp_enter"
[[ops]]
op = "touch"
gfn = 0x600
pfn = 0x140600
[[ops]]
op = "accept"
gpa = 0x600000
"""

SEPT = """\
GFN 600  (S-EPT)

LEVEL INDEX         GFN       ENTRY                  HPA  STATE
 512G     0           0  8000000101000007      101000000  NL_MAPPED
   1G     0           0  8000000101001007      101001000  NL_MAPPED
   2M     3         600  8000000101002007      101002000  NL_MAPPED
   4K     0         600  80000001406000f7      140600000  MAPPED
"""


def test_a_td_on_a_module(tdpfast, tmp_path):
    (tmp_path / "td.toml").write_text(TD)
    code, out, _ = tdpfast("walk", tmp_path / "td.toml", "0x600")
    assert code == 0 and out.startswith("GFN 600  (mirror root 0") and out.endswith("\n\n" + SEPT)
    assert "S-EPT" not in tdpfast("walk", tmp_path / "td.toml", "0x600", "--shared")[1]
    shown = json.loads(tdpfast("walk", tmp_path / "td.toml", "0x600", "--json")[1])
    assert shown["sept"][0]["entries"][-1] == {"level": 1, "index": 0, "gfn": 0x600, "entry": "0x80000001406000f7",
                                               "hpa": "0x140600000", "state": "MAPPED"}
    _, script, _ = tdpfast("walk", tmp_path / "td.toml", "0x600", "--python")
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout.decode()
    assert printed == out.replace("\n\nGFN 600  (S-EPT)", "\nGFN 600  (S-EPT)")
    assert "tdpfast_seamcall: TDH.MEM.PAGE.AUG" in tdpfast("walk", tmp_path / "td.toml", "--events")[1]


@pytest.mark.parametrize("vm, told", [
    ("module = 2", "vm.module"), ("module = 1\nnx_huge_pages = 1", "TdVm has no such argument"),
    ("vcpus = 2", "Vm has no such argument"), ("module = 1\nvcpus = 0", "runnable TD without vCPUs")])
def test_bad_tds(tdpfast, tmp_path, vm, told):
    (tmp_path / "td.toml").write_text(f"[vm]\n{vm}\n[[ops]]\nop = \"zap_all\"\n")
    code, out, err = tdpfast("walk", tmp_path / "td.toml", "5")
    assert code == 2 and out == "" and told in err and err.count("\n") == 1


def test_perfetto(tdpfast, file, tmp_path):
    out = tmp_path / "run.json"
    assert tdpfast("walk", file, "--perfetto", str(out)) == (0, "", "")
    counted = [e["args"] for e in json.loads(out.read_text())["traceEvents"] if e["name"] == "mapped pages"]
    assert counted == [{"4K": 1, "2M": 0, "1G": 0}]
    nowhere = str(tmp_path / "no" / "run.json")
    for more, word in (([str(out), "--python"], "--perfetto with --python"), ([nowhere], "cannot write")):
        code, text, err = tdpfast("walk", file, "--perfetto", *more)
        assert (code, text) == (2, "") and word in err and err.count("\n") == 1
