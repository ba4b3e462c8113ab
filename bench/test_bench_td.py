"""Speed of a TD: KVM's mirror and the module behind it, against the module's own share of the same work.

The loops are native. Where a baseline is named in extra_info it was measured in the same run: the calls of the module
that the operation ends in, made alone. Pinned seeds.
"""
import threading

import pytest

from tdpfast._batch import VcpuCore
from tdpfast._explore import Explorer
from tdpfast._seam_api import SeamModule
from tdpfast._seam_bench import run
from tdpfast._tdx_vm import TdVmCore
from tdpfast.catalogue import catalogue
from tdpfast.check import build
from tdpfast.design import get_design
from tdpfast.seam import LEAVES

MEMORY = (0x100000000, 0x200000000)
PFN = 0x110000
N = 1 << 13
FIXED = 5


class Td:
    """A TD with the tables of its first gfns linked; ``cpus`` emulated CPUs have N gfns each."""

    def __init__(self, cpus, design="v7.3"):
        self.core = TdVmCore(get_design(design), SeamModule([MEMORY]), nvcpus=1)
        self.vcpus = [VcpuCore(self.core, i > 0) for i in range(cpus)]
        self.map()
        self.zap()

    def each(self, work):
        """work(vcpu, first gfn) on every CPU at the same time."""
        threads = [threading.Thread(target=work, args=(vcpu, i * N)) for i, vcpu in enumerate(self.vcpus[1:], 1)]
        for thread in threads:
            thread.start()
        work(self.vcpus[0], 0)
        for thread in threads:
            thread.join()

    def map(self):
        """One fault per gfn, with local retries."""
        def work(vcpu, first):
            op = {"op": "map", "gfn": first, "pfn": PFN + first, "write": 1, "private": 1, "retries": -1}
            assert vcpu.repeat(op, N, 1, 1) == {FIXED: N}
        self.each(work)

    def zap(self):
        """One zap per gfn."""
        def work(vcpu, first):
            vcpu.repeat({"op": "zap_leafs", "start": first, "end": first + 1}, N, 1)
        self.each(work)

    def module(self, leaf, operands=None):
        """Seconds of N calls of one leaf on the first N gfns, by nobody else."""
        operands = operands or {"rcx_step": 4096, "rdx": self.core.tdr}
        ns, statuses = run(self.core.module, LEAVES[leaf], N, **operands)
        assert statuses == {0: N}, leaf
        return ns * 1e-9

    def module_aug(self):
        return self.module("mem_page_aug", {"rcx_step": 4096, "rdx": self.core.tdr, "r8": PFN << 12, "r8_step": 4096})

    def module_remove(self):
        """BLOCK, TRACK, REMOVE, WBINVD."""
        return (self.module("mem_range_block") + self.module("mem_track", {"rcx": self.core.tdr})
                + self.module("mem_page_remove")
                + self.module("phymem_page_wbinvd", {"rcx": PFN << 12, "rcx_step": 4096}))


@pytest.fixture(params=[1, 2], ids=["1-thread", "2-threads"])
def td(request):
    return Td(request.param)


def alone(td, rounds=5):
    """Seconds of the module's share of N maps and of N zaps; leaves everything as it was."""
    augs, removes = [], []
    for _ in range(rounds):
        augs.append(td.module_aug())
        removes.append(td.module_remove())
    return min(augs), min(removes)


def note(benchmark, td, baseline, baseline_seconds):
    """ns per item of one thread, and what KVM's side adds to the module's."""
    if not benchmark.stats:
        return
    seconds = benchmark.stats.stats.min
    benchmark.extra_info["ns"] = round(seconds / N * 1e9, 1)
    benchmark.extra_info["ns_all_threads"] = round(seconds / N / len(td.vcpus) * 1e9, 1)
    benchmark.extra_info["baseline"] = baseline
    benchmark.extra_info["baseline_ns"] = round(baseline_seconds / N * 1e9, 1)
    benchmark.extra_info["times_baseline"] = round(seconds / baseline_seconds, 2)


def test_fault_map_and_aug(benchmark, td):
    """A fault on the mirror: lock, walk, freeze, TDH.MEM.PAGE.AUG, install. Each thread has gfns of its own."""
    share, _ = alone(td)
    benchmark.pedantic(td.map, setup=td.zap, rounds=10, warmup_rounds=1)
    assert td.core.stats()["pages_4k"] == N * len(td.vcpus)
    note(benchmark, td, "TDH.MEM.PAGE.AUG alone, one thread", share)


def test_zap_leaf(benchmark, td):
    """A zap of one leaf: BLOCK, TRACK, kick, REMOVE, WBINVD, with mmu_lock for write."""
    _, share = alone(td)
    benchmark.pedantic(td.zap, setup=td.map, rounds=10, warmup_rounds=1)
    assert td.core.stats()["pages_4k"] == 0 and td.core.kvm_state()["vm_bugged"] == 0
    note(benchmark, td, "BLOCK, TRACK, REMOVE, WBINVD alone, one thread", share)


@pytest.mark.parametrize("name, design", [("issue4-lost-cmpxchg", "v7.3"), ("issue3-zap-of-table", "single-hook")])
@pytest.mark.parametrize("strategy", ["random", "dpor"])
def test_explore_review_scenario(benchmark, name, design, strategy):
    """Executions per second of the explorer over KVM, its TDX side and the module."""
    [scenario] = [s for s in catalogue("review") if s.name == name]
    program = build(scenario, get_design(design).replace(ungated=True))

    def explore():
        return Explorer(program, strategy, seed=1, max_executions=20_000).run()

    result = benchmark.pedantic(explore, rounds=3)
    seconds = benchmark.stats.stats.min if benchmark.stats else 1
    benchmark.extra_info["executions"] = result["executions"]
    benchmark.extra_info["executions_per_s"] = round(result["executions"] / seconds)
    benchmark.extra_info["steps_per_s"] = round(result["transitions"] / seconds)
