"""The command as a process: signals, dying workers, limits of the system, output that is whole or an error."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tdpfast import UsageError
from tdpfast._workers import WorkerLost, Workers
from tdpfast.catalogue import catalogue
from tdpfast.check import Limits, check_many

COMMAND = [sys.executable, "-c", "from tdpfast._command import main; main()"]
LONG = """\
name = "long"
[[thread]]
ops = [{op = "map", gfn = 0x201, pfn = 0x140201, retries = -1}, {op = "unmap", start = 0x200, end = 0x202}]
[[thread]]
ops = [{op = "map", gfn = 0x201, pfn = 0x140201, retries = -1}, {op = "unmap", start = 0x200, end = 0x202}]
[[thread]]
ops = [{op = "map", gfn = 0x201, pfn = 0x140201, retries = -1}, {op = "unmap", start = 0x200, end = 0x202}]
"""


@pytest.fixture(autouse=True)
def signals_count():
    """Whoever runs the tests in the background, or under nohup, has them ignore signals, and all that they start."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def long_files(tmp_path):
    """Two scenarios that no search ends within a minute."""
    for name in ("long", "other"):
        (tmp_path / f"{name}.toml").write_text(LONG.replace('"long"', f'"{name}"'))
    return [str(tmp_path / "long.toml"), str(tmp_path / "other.toml")]


def start(*argv, **options):
    return subprocess.Popen([*COMMAND, *map(str, argv)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            start_new_session=True, **options)


def children(pid):
    """Processes whose parent is pid."""
    out = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            out.append(int(stat.parent.name))
    return out


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited for nothing"
        time.sleep(0.05)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_workers_end_with_their_parent(long_files, number):
    process = start("check", *long_files, "--jobs", 2, "--seconds", 600)
    until(lambda: len(children(process.pid)) >= 2)
    workers = children(process.pid)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in err
    until(lambda: not any(alive(pid) for pid in workers), 10)


@pytest.mark.parametrize("options", [("--jobs", 2), ("--jobs", 2, "--shares", 4), ("--jobs", 1)])
def test_ctrl_c_is_130_and_prints_what_is_known(long_files, tmp_path, options):
    """As a terminal sends it: to the whole group."""
    short = tmp_path / "short.toml"
    short.write_text('name = "short"\n[[thread]]\nops = [{op = "mwalk", gfn = 1}]\n')
    process = start("check", short, *long_files, "--design", "v7.3", "--gated", "--seconds", 600, "--json", *options)
    first = json.loads(process.stdout.readline())
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and first["verdict"] == "holds"
    assert err.startswith("interrupted: ") and err.count("\n") == 1


def test_an_interrupted_search_says_what_it_knows(long_files):
    process = start("check", long_files[0], "--design", "v7.3", "--gated", "--seconds", 600)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == "" or ("ended by: an interrupt" in out and "explored: " in out)


def block_interrupts():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


@pytest.mark.parametrize("milliseconds", [0, 30, 100, 200, 400, 700, 1500])
def test_ctrl_c_at_any_time(milliseconds):
    """Python's own start apart, in which it would be Python that answers: the signal waits for its end here."""
    process = start("check", "review", "--jobs", 2, preexec_fn=block_interrupts)
    time.sleep(milliseconds / 1000)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode in (130, 1) and "Traceback" not in err      # 1: it was done


def test_a_killed_worker_costs_one_verdict(long_files, tmp_path):
    short = tmp_path / "short.toml"
    short.write_text('name = "short"\n[[thread]]\nops = [{op = "mwalk", gfn = 1}]\n')
    process = start("check", long_files[0], short, "--design", "v7.3", "--gated", "--seconds", 600, "--jobs", 2,
                    "--json")
    until(lambda: len(children(process.pid)) >= 2)
    time.sleep(2)
    for pid in children(process.pid):
        os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    results = [json.loads(line) for line in out.splitlines()]
    assert [(r["scenario"], r["verdict"]) for r in results] == [("long", "unknown"), ("short", "holds")]
    assert results[0]["limit"] == "its process was killed by SIGKILL" and (process.returncode, err) == (4, "")


def die(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 5:
        raise UsageError("five", "so", "six")
    return number * number


def test_workers_answer_in_order_and_survive():
    with Workers(2) as pool:
        assert list(pool.map(die, [1, 2, 4, 6])) == [1, 4, 16, 36]
        outcomes = list(pool.outcomes(die, range(8)))
    assert [answer for ok, answer in outcomes if ok] == [0, 1, 4, 16, 36, 49]
    assert isinstance(outcomes[3][1], WorkerLost) and outcomes[3][1].why == "its process was killed by SIGKILL"
    assert isinstance(outcomes[5][1], UsageError) and outcomes[5][1].fix == "six"


def test_many_checks_in_workers_give_the_same():
    tasks = [(s, "v7.3", False) for s in catalogue("review")[:4]]
    alone = [v.to_json() | {"seconds": 0} for v in check_many(tasks, jobs=1, limits=Limits(max_transitions=20_000))]
    assert [v.to_json() | {"seconds": 0} for v in check_many(tasks, jobs=3, limits=Limits(max_transitions=20_000))
            ] == alone


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_is_whole_or_an_error(tmp_path, unbuffered):
    """A write that ends short: 1024 bytes of a longer text."""
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    with open(tmp_path / "out", "w") as out:
        process = subprocess.run([*COMMAND, "check", "review", "--brief", "--jobs", "1"], stdout=out, preexec_fn=limit,
                                 stderr=subprocess.PIPE, text=True, check=False,
                                 env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    assert process.returncode == 2 and process.stderr.startswith("error: cannot write the output (File too large)")


def test_no_memory_is_said_to_be_so():
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    process = subprocess.run([*COMMAND, "check", "review", "--design", "v7.3", "--jobs", "1", "--json", "--scenario",
                              "issue2-page"], preexec_fn=limit, capture_output=True, text=True, check=False,
                             env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})
    limits = {json.loads(line)["limit"] for line in process.stdout.splitlines()}
    assert process.returncode == 4 and len(limits) == 1 and limits.pop().startswith("no memory (")
    assert "TDMR" not in process.stdout + process.stderr
