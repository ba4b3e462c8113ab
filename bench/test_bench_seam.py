"""Cost of the module's leaves: a native loop of calls, beside the same calls made from Python (extra_info)."""
import time

import pytest

from tdpfast._seam_bench import run
from tdpfast.seam import LEAVES, TdxModule

TABLES = 16
N = TABLES * 512


class Machine:
    """A TD with tables for N pages; every benchmark leaves it as it was."""

    def __init__(self):
        self.module = TdxModule()
        self.td = self.module.build_td(vcpus=1)
        for level in (3, 2):
            assert self.module.mem_sept_add(self.td, 0, level, self.module.new_page()).ok
        for i in range(TABLES):
            assert self.module.mem_sept_add(self.td, i << 21, 1, self.module.new_page()).ok
        self.pages = self.module.new_page(2)
        self.cycle()          # every page of the arrays is there from now on

    def loop(self, leaf):
        operands = dict(rcx=0, rcx_step=4096, rdx=self.td.tdr)
        if leaf == "mem_page_aug":
            operands.update(r8=self.pages, r8_step=4096)
        elif leaf == "mem_track":
            operands = dict(rcx=self.td.tdr)
        elif leaf == "phymem_page_wbinvd":
            operands = dict(rcx=self.pages, rcx_step=4096)
        ns, statuses = run(self.module.native, LEAVES[leaf], N, **operands)
        assert statuses == {0: N}, leaf
        return ns / N

    def cycle(self):
        return {leaf: self.loop(leaf) for leaf in ("mem_page_aug", "mem_sept_rd", "mem_range_block", "mem_track",
                                                   "mem_page_remove", "phymem_page_wbinvd")}


@pytest.fixture(scope="module")
def machine():
    return Machine()


@pytest.fixture(scope="module")
def from_python(machine):
    """ns per call of SEPT.RD from Python, the cheapest leaf."""
    native = machine.module.native
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter_ns()
        for _ in range(5000):
            native.seamcall(25, 0, 0, machine.td.tdr)
        best = min(best, (time.perf_counter_ns() - start) / 5000)
    return best


def test_life_of_a_page(benchmark, machine, from_python):
    """AUG, RD, BLOCK, TRACK, REMOVE, WBINVD of N pages; ns per call of each in extra_info."""
    rounds = []
    benchmark.pedantic(lambda: rounds.append(machine.cycle()), rounds=10, warmup_rounds=1)
    for leaf in rounds[0]:
        benchmark.extra_info[f"{leaf}_ns"] = round(min(r[leaf] for r in rounds), 1)
    benchmark.extra_info["sept_rd_from_python_ns"] = round(from_python, 1)
    assert benchmark.extra_info["mem_sept_rd_ns"] < from_python


def test_restore_after_one_aug(benchmark, machine):
    """Snapshot restore for an explorer: one AUG and back, calls from Python."""
    native = machine.module.native
    native.snapshot()

    def once():
        native.seamcall(6, 0, 0, machine.td.tdr, machine.pages)
        native.restore()
    benchmark(once)
    assert machine.module.dump_sept(machine.td)[-1]["state"] == "NL_MAPPED"
