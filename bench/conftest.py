"""How every benchmark is measured: beside a baseline of the same run, in turns.

Before every round of a benchmark comes a round of its baseline; the best of each count, because whatever else the
machine does can only add. Their ratio is what to compare; nanoseconds depend on the machine. `report.py` prints both.
"""
import time

import pytest

RECORDED = {
    # ns per operation of the real code, compiled in user space, on one quiet vCPU of a like machine. Another run,
    # another machine than yours: context, no baseline.
    "map 4K": 56, "already mapped": 35, "zap, store": 17, "zap, xchg": 24, "split 2M": 2300, "walk, 1 GiB": 31,
    "walk, 64 GiB": 106, "try_cmpxchg64": 8,
    "PAGE.AUG": 576, "RANGE.BLOCK": 442, "MEM.TRACK": 280, "PAGE.REMOVE": 492, "SEPT.ADD": 1163, "PAGE.DEMOTE": 3921,
    "PAGE.PROMOTE": 17964,
}


class Parts:
    """Several figures of one benchmark: parts.add(name, ns per operation) in each round, parts.note() at the end."""

    def __init__(self, benchmark, baseline):
        self.benchmark = benchmark
        self.baseline = baseline
        self.rounds = []

    def begin(self):
        _, measure = self.baseline
        self.rounds.append((measure(), {}))

    def add(self, name, ns):
        self.rounds[-1][1].setdefault(name, []).append(ns)

    def note(self):
        """Writes figures and ratios to extra_info; the first round only warms up. What RECORDED has is added."""
        rounds = self.rounds[1:] or self.rounds
        info = self.benchmark.extra_info
        base = min(base for base, _ in rounds)
        info["baseline"] = self.baseline[0]
        info["baseline_ns"] = round(base, 2)
        info["parts"] = {}
        for name in rounds[0][1]:
            ns = min(min(parts[name]) for _, parts in rounds)
            info["parts"][name] = {"ns": round(ns, 1), "ratio": round(ns / base, 2), "recorded_ns": RECORDED.get(name)}


@pytest.fixture
def parts(benchmark):
    return lambda name, measure: Parts(benchmark, (name, measure))


@pytest.fixture
def beside(benchmark):
    """beside(function, count, name, baseline): measures function, which does count operations, beside baseline(),
    which returns ns per operation of its own. setup() goes before every round; recorded is a key of RECORDED. Figures
    are processor time of the calling thread, or with wall=True time that passed, for what several threads do."""

    def measure(function, count, name, baseline, *, setup=None, rounds=15, recorded=None, wall=False):
        bases, spent = [], []
        clock = time.perf_counter_ns if wall else time.thread_time_ns

        def timed():
            start = clock()
            returned = function()
            spent.append(clock() - start)
            return returned

        def prepare():
            bases.append(baseline())
            if setup is not None:
                setup()

        result = benchmark.pedantic(timed, setup=prepare, rounds=rounds, warmup_rounds=1)
        info = benchmark.extra_info
        info["baseline"] = name
        if recorded is not None:
            info["recorded_ns"] = RECORDED[recorded]
        if benchmark.stats:
            ns = min(spent) / count
            info["baseline_ns"] = round(min(bases), 2)
            info["ns"] = round(ns, 2)
            info["ratio"] = round(ns / min(bases), 3)
        return result

    return measure
