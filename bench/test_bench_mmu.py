"""Speed of the TDP MMU on one thread. The loops are native, so that Python is not what is measured."""
import time

import numpy as np
import pytest

from tdpfast import Vm
from tdpfast._testing import baselines as _baselines

N = 1 << 15
WALKS = 1 << 14
PFN = 0x100000
ROOTS = {"direct": {"tdx": False}, "mirror": {"tdx": True}}


@pytest.fixture(params=ROOTS)
def vm(request):
    vm = Vm("v7.3", trace="off", memory_pages=1 << 17, **ROOTS[request.param])
    vm.map_range(0, PFN, N)
    return vm


def fault(vm, **fields):
    return {"op": "map", "gfn": 0, "pfn": PFN, "write": 1, "private": int(vm.tdx)} | fields


def core(vm):
    return vm.vcpus[0]._core


def faults(vm, n=N):
    core(vm).repeat(fault(vm), n, 1, 1)


def zap(vm):
    vm.unmap(0, N)


def try_cmpxchg():
    return _baselines.atomic("try_cmpxchg", WALKS) / WALKS


def raw_walk(vm, step=1, n=WALKS):
    return lambda: _baselines.raw_walk(core(vm).vm, vm.tdx, n, step) / n


def timed(function, count, setup=None):
    """ns per item of one call."""
    if setup is not None:
        setup()
    start = time.perf_counter_ns()
    function()
    return (time.perf_counter_ns() - start) / count


def test_map_4k(beside, vm):
    """One fault per page: lock, walk from the root, install; the tables are linked."""
    beside(lambda: faults(vm), N, "a bare try_cmpxchg64", try_cmpxchg, setup=lambda: zap(vm), recorded="map 4K")
    assert vm.stats["pages_4k"] == N


def test_already_mapped(beside, vm):
    """A spurious fault."""
    beside(lambda: faults(vm), N, "the walk's loads alone", raw_walk(vm), recorded="already mapped")


def test_map_range(beside, vm):
    """The batch form, against the same faults one by one."""
    beside(lambda: vm.map_range(0, PFN, N), N, "single faults in a native loop",
           lambda: timed(lambda: faults(vm), N, lambda: zap(vm)), setup=lambda: zap(vm), recorded="map 4K")
    assert vm.stats["pages_4k"] == N


def test_map_from_python(beside, vm):
    """vm.map() one by one, against the batch."""
    some = 2000

    def one_by_one():
        for gfn in range(some):
            vm.map(gfn, PFN + gfn)

    beside(one_by_one, some, "vm.map_range()", lambda: timed(lambda: vm.map_range(0, PFN, N), N, lambda: zap(vm)),
           setup=lambda: zap(vm), rounds=7)


def test_zap_leaf(beside, vm):
    """Leaves of a range, per leaf. On the direct root each goes by xchg, as a clean or writable one must."""
    beside(lambda: zap(vm), N, "a bare xchg64", lambda: _baselines.atomic("xchg", WALKS) / WALKS,
           setup=lambda: vm.map_range(0, PFN, N), recorded="zap, xchg" if not vm.tdx else "zap, store")
    assert vm.stats["pages_4k"] == 0


def test_set_spte_atomic(beside):
    """tdp_mmu_set_spte_atomic() of every leaf of a range, by write protection of a slot."""
    vm = Vm("v7.3", trace="off", tdx=False, memory_pages=1 << 12)
    beside(lambda: core(vm).repeat({"op": "wrprot_slot", "start": 0, "end": N, "min_level": 1}, 1), N,
           "a bare try_cmpxchg64", try_cmpxchg, setup=lambda: (zap(vm), vm.map_range(0, PFN, N)),
           recorded="try_cmpxchg64")


def test_age(beside):
    """kvm_tdp_mmu_age_gfn_range(): the accessed bit of every leaf of a range, lockless."""
    vm = Vm("v7.3", trace="off", tdx=False, memory_pages=1 << 12)
    beside(lambda: core(vm).repeat({"op": "age", "start": 0, "end": N, "filter": 1}, 1), N,
           "a bare fetch_and", lambda: _baselines.atomic("fetch_and", WALKS) / WALKS,
           setup=lambda: (zap(vm), vm.map_range(0, PFN, N)))


def test_split_2m(beside):
    """One 2M page into 512, table included."""
    vm = Vm(tdx=False, trace="off")
    pages = 60

    def huge():
        vm.zap_all()
        vm.map_range(0, PFN, pages, 2)

    beside(lambda: vm.split(0, pages * 512), pages, "memcpy of a table", lambda: _baselines.copy(4096, 1000) / 1000,
           setup=huge, recorded="split 2M")
    assert vm.stats["pages_4k"] == pages * 512


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("guest", ["1 GiB", "64 GiB"])
def test_walk(beside, guest, root):
    """kvm_tdp_mmu_get_walk(): 4 levels, the iterator, RCU; every walk ends in a table that the last one did not."""
    vm = Vm("v7.3", trace="off", memory_pages=1 << 17, **ROOTS[root])
    npages = (1 << 18) if guest == "1 GiB" else 1 << 24
    step = npages // WALKS
    for gfn in range(0, npages, step if step > 512 else 512):
        vm.map_range(gfn, PFN + gfn, 1 if step > 512 else 512)
    op = {"op": "mwalk" if vm.tdx else "get_walk"}
    beside(lambda: core(vm).repeat(op, WALKS, step), WALKS, "the walk's loads alone", raw_walk(vm, step),
           recorded=f"walk, {guest}")


@pytest.mark.parametrize("order", ["random", "sorted"])
@pytest.mark.parametrize("guest", ["128 MiB", "64 GiB"])
def test_walk_many(beside, guest, order):
    """The batch of lookups, against single walks in a native loop over as many gfns."""
    vm = Vm(tdx=False, trace="off", memory_pages=1 << 17)
    npages = 1 << 15 if guest == "128 MiB" else 1 << 24
    for gfn in range(0, npages, 512):
        vm.map_range(gfn, PFN + gfn, 1)
    gfns = np.random.default_rng(1).integers(0, npages, 1 << 17, dtype=np.uint64)
    if order == "sorted":
        gfns.sort()
    n = 1 << 14                  # steps as wide as the sorted gfns lie apart, or one walk to a table
    step = max(npages // (len(gfns) if order == "sorted" else n), 1)
    n = min(n, npages // step)
    beside(lambda: vm.walk_many(gfns), len(gfns), "get_walk in a native loop",
           lambda: timed(lambda: core(vm).repeat({"op": "get_walk"}, n, step), n))


def test_decode_table(beside):
    """512 SPTEs into records, against describing them one by one."""
    vm = Vm(tdx=False, trace="off")
    vm.map_range(0, PFN, 512)
    page = vm.walk(0).entries[-1].table
    beside(lambda: vm.decode_table(page), 512, "unpack() one by one",
           lambda: timed(lambda: [vm.spte.unpack(int(spte)) for spte in vm.table(page)[:64]], 64))
