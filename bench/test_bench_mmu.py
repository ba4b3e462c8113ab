"""Speed of the TDP MMU. The loop is native, so that Python is not what is measured; where a baseline is named in
extra_info it was measured in the same run."""
import time

import numpy as np
import pytest

from tdpfast import Vm

N = 1 << 15
PFN = 0x100000
ROOTS = {"direct": {"tdx": False}, "mirror": {"tdx": True}}


@pytest.fixture(params=ROOTS)
def vm(request):
    vm = Vm("v7.3", trace="off", memory_pages=1 << 17, **ROOTS[request.param])
    vm.map_range(0, PFN, N)
    return vm


def fault(vm, **fields):
    return {"op": "map", "gfn": 0, "pfn": PFN, "write": 1, "private": int(vm.tdx)} | fields


def zap(vm):
    vm.unmap(0, N)


def seconds(function, setup=None, rounds=7):
    """The best of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        if setup is not None:
            setup()
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def report(benchmark, count, baseline=None, baseline_seconds=None):
    """ns per item, and how many times faster than the baseline of this run."""
    if not benchmark.stats:
        return
    each = benchmark.stats.stats.min / count
    benchmark.extra_info["ns"] = round(each * 1e9, 2)
    if baseline is not None:
        benchmark.extra_info["baseline"] = baseline
        benchmark.extra_info["times_faster"] = round(baseline_seconds / each, 2)


def rounds(benchmark, function, setup=None, n=15):
    def prepare():
        if setup is not None:
            setup()

    benchmark.pedantic(function, setup=prepare, rounds=n, warmup_rounds=1)


def test_map_4k(benchmark, vm):
    """One fault per page: lock, walk from the root, install; the tables are linked."""
    core = vm.vcpus[0]._core
    rounds(benchmark, lambda: core.repeat(fault(vm), N, 1, 1), lambda: zap(vm))
    assert vm.stats["pages_4k"] == N
    report(benchmark, N)


def test_already_mapped(benchmark, vm):
    """A spurious fault."""
    core = vm.vcpus[0]._core
    rounds(benchmark, lambda: core.repeat(fault(vm), N, 1, 1))
    report(benchmark, N)


def test_map_range(benchmark, vm):
    """The batch form, against the same faults one by one from Python."""
    some = 2000

    def one_by_one():
        for gfn in range(some):
            vm.map(gfn, PFN + gfn)

    single = seconds(one_by_one, lambda: zap(vm), 3) / some
    rounds(benchmark, lambda: vm.map_range(0, PFN, N), lambda: zap(vm))
    assert vm.stats["pages_4k"] == N
    report(benchmark, N, "vm.map() one by one from Python", single)


def test_map_range_or_native_loop(benchmark, vm):
    """The batch form, against a native loop of single faults."""
    core = vm.vcpus[0]._core
    loop = seconds(lambda: core.repeat(fault(vm), N, 1, 1), lambda: zap(vm)) / N
    rounds(benchmark, lambda: vm.map_range(0, PFN, N), lambda: zap(vm))
    report(benchmark, N, "single faults in a native loop", loop)


def test_zap_leaf(benchmark, vm):
    """Leaves of a range, per leaf. On the direct root each goes by xchg, as a clean or writable one must."""
    rounds(benchmark, lambda: zap(vm), lambda: vm.map_range(0, PFN, N))
    assert vm.stats["pages_4k"] == 0
    report(benchmark, N)


def test_split_2m(benchmark):
    """One 2M page into 512, table included."""
    vm = Vm(tdx=False, trace="off")
    pages = 60

    def huge():
        vm.zap_all()
        vm.map_range(0, PFN, pages, 2)

    rounds(benchmark, lambda: vm.split(0, pages * 512), huge)
    assert vm.stats["pages_4k"] == pages * 512
    report(benchmark, pages)


def test_walk(benchmark, vm):
    """kvm_tdp_mmu_get_walk(): 4 levels, the iterator, RCU; 128 MiB of guest."""
    core = vm.vcpus[0]._core
    op = {"op": "mwalk" if vm.tdx else "get_walk"}
    rounds(benchmark, lambda: core.repeat(op, N, 1))
    report(benchmark, N)


@pytest.mark.parametrize("order", ["random", "sorted"])
@pytest.mark.parametrize("guest", ["128M", "64G"])
def test_walk_many(benchmark, guest, order):
    """The batch of lookups, against single walks in a native loop over as many gfns."""
    vm = Vm(tdx=False, trace="off", memory_pages=1 << 17)
    npages = 1 << 15 if guest == "128M" else 1 << 24
    for gfn in range(0, npages, 512):
        vm.map_range(gfn, PFN + gfn, 1)
    gfns = np.random.default_rng(1).integers(0, npages, 1 << 17, dtype=np.uint64)
    if order == "sorted":
        gfns.sort()
    core = vm.vcpus[0]._core
    step = 1 if order == "sorted" else npages // len(gfns) * 7919 % npages or 1
    single = seconds(lambda: core.repeat({"op": "get_walk"}, min(N, npages // step), step), rounds=3)
    rounds(benchmark, lambda: vm.walk_many(gfns))
    report(benchmark, len(gfns), "get_walk in a native loop", single / min(N, npages // step))


def test_decode_table(benchmark):
    """512 SPTEs into records, against describing them one by one."""
    vm = Vm(tdx=False, trace="off")
    vm.map_range(0, PFN, 512)
    page = vm.walk(0).entries[-1].table
    single = seconds(lambda: [vm.spte.unpack(int(spte)) for spte in vm.table(page)[:64]]) / 64
    benchmark(vm.decode_table, page)
    report(benchmark, 512, "unpack() one by one", single)
