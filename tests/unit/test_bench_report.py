"""The table that `make bench` prints."""
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"


def load():
    spec = importlib.util.spec_from_file_location("report", BENCH / "report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUN = {"benchmarks": [
    {"name": "test_map_4k[mirror]", "fullname": "bench/test_bench_mmu.py::test_map_4k[mirror]",
     "extra_info": {"baseline": "a bare try_cmpxchg64", "recorded_ns": 56, "baseline_ns": 4.04, "ns": 61.26,
                    "ratio": 15.1}},
    {"name": "test_page", "fullname": "bench/test_bench_seam.py::test_page",
     "extra_info": {"baseline": "a bare atomic add", "baseline_ns": 4.0,
                    "parts": {"PAGE.AUG": {"ns": 70.1, "ratio": 17.5, "recorded_ns": 576}}}},
    {"name": "test_walks[random]", "fullname": "bench/test_bench_explore.py::test_walks[random]",
     "extra_info": {"executions_per_s": 912345.6}}]}


def test_every_figure_is_shown_beside_its_baseline():
    lines = load().report(RUN).splitlines()
    assert [line for line in lines if line.startswith("==")] == ["== mmu", "== seam", "== explore"]
    [fault] = [line.split() for line in lines if "map_4k" in line]
    assert fault == ["map_4k[mirror]", "61.3", "a", "bare", "try_cmpxchg64", "4.04", "15.1", "56"]
    [aug] = [line.split() for line in lines if "PAGE.AUG" in line]
    assert aug == ["PAGE.AUG", "70.1", "17.5", "576"]
    assert any("executions/s 912,346" in line for line in lines)


def test_reads_a_file_or_says_why_not(tmp_path):
    missing = subprocess.run([sys.executable, BENCH / "report.py", tmp_path / "no.json"], capture_output=True,
                             text=True, check=False)
    assert missing.returncode == 2 and missing.stderr.startswith("error: ") and missing.stderr.count("\n") == 1
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    shown = subprocess.run([sys.executable, BENCH / "report.py", tmp_path / "run.json"], capture_output=True,
                           text=True, check=False)
    assert shown.returncode == 0 and "PAGE.AUG" in shown.stdout
