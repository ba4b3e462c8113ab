"""Speed of a TD: KVM's mirror and the module behind it, against the module's own share of the same work.

The loops are native. The baseline is what the calls of the module that the operation ends in take when they are made
alone, on one thread.
"""
import threading

import pytest

from tdpfast._face.batch import VcpuCore
from tdpfast._face.seam_module import SeamModule
from tdpfast._face.td import TdVmCore
from tdpfast._face.vm import VmCore
from tdpfast._testing.baselines import atomic
from tdpfast._testing.seam_bench import run
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


def aug_alone(td):
    """ns of the module's share of a map, one thread; leaves nothing mapped."""
    td.zap()
    share = td.module_aug() / N * 1e9
    td.module_remove()
    return share


def remove_alone(td):
    """ns of the module's share of a zap, one thread; nothing is mapped before and after."""
    td.module_aug()
    return td.module_remove() / N * 1e9


def rate(benchmark, threads):
    if benchmark.stats:
        benchmark.extra_info["operations_per_s"] = N * threads / benchmark.stats.stats.min


def test_fault_map_and_aug(benchmark, beside, td):
    """A fault on the mirror: lock, walk, freeze, TDH.MEM.PAGE.AUG, install. Each thread has gfns of its own; ns as one
    thread sees them."""
    beside(td.map, N, "TDH.MEM.PAGE.AUG alone, one thread", lambda: aug_alone(td), rounds=10, wall=True)
    assert td.core.stats()["pages_4k"] == N * len(td.vcpus)
    rate(benchmark, len(td.vcpus))


def test_zap_leaf(benchmark, beside, td):
    """A zap of one leaf: BLOCK, TRACK, kick, REMOVE, WBINVD, with mmu_lock for write."""
    td.zap()
    beside(td.zap, N, "BLOCK, TRACK, REMOVE, WBINVD alone, one thread", lambda: remove_alone(td), setup=td.map,
           rounds=10, wall=True)
    assert td.core.stats()["pages_4k"] == 0 and td.core.kvm_state()["vm_bugged"] == 0
    rate(benchmark, len(td.vcpus))


class Plain(Td):
    """A VM without a TD: the direct root, and no module behind it."""

    def __init__(self, cpus):
        self.core = VmCore(get_design("v7.3"), tdx=False, slots=((0, 1 << 20, 1, 0, 0),))
        self.vcpus = [VcpuCore(self.core, i > 0) for i in range(cpus)]

    def map(self):
        def work(vcpu, first):
            op = {"op": "map", "gfn": first, "pfn": PFN + first, "write": 1}
            vcpu.repeat(op, N, 1, 1)
        self.each(work)


@pytest.mark.parametrize("what", ["map", "already mapped"])
@pytest.mark.parametrize("threads", [1, 2])
def test_fault_on_direct_root(benchmark, beside, what, threads):
    """Faults without a module: what mmu_lock for read, RCU and the walk cost when threads meet in nothing else."""
    vm = Plain(threads)
    vm.map()
    beside(vm.map, N, "a bare try_cmpxchg64", lambda: atomic("try_cmpxchg", N) / N,
           setup=vm.zap if what == "map" else None, wall=True)
    assert vm.core.stats()["pages_4k"] == N * threads
    rate(benchmark, threads)
