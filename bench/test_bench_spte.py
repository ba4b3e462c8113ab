"""Speed of the SPTE layer, against numpy and the copy of as many bytes."""
import threading
import timeit

import numpy as np
import pytest

from tdpfast._testing import baselines as _baselines
from tdpfast.spte import SPTE_DTYPE, SpteCells, SpteConfig

N = 1 << 16
CONFIG = SpteConfig()


@pytest.fixture(scope="module")
def sptes():
    random = np.random.default_rng(20240607)
    pfn = random.integers(0, 1 << 34, N, dtype=np.uint64)
    leaf = np.uint64(CONFIG.make_spte(level=1, access=15, gfn=0, pfn=0).spte)
    values = leaf | pfn << np.uint64(12)
    values[::7] = CONFIG.SHADOW_NONPRESENT_VALUE
    values[::1024] = CONFIG.FROZEN_SPTE
    return values


def numpy_unpack(values):
    """The same record for EPT 7.3, as one would write it with numpy."""
    masks = {name: np.uint64(mask) for name, mask in CONFIG.masks.items() if isinstance(mask, int)}
    out = np.zeros(values.shape, SPTE_DTYPE)
    out["frozen"] = values == masks["frozen_spte"]
    present = (values & np.uint64(0x800)) != 0
    out["present"] = present
    out["leaf"] = present
    v = np.where(present, values, np.uint64(0))
    out["pfn"] = (v & np.uint64(0x000ffffffffff000)) >> np.uint64(12)
    for name, bit in (("read", 0), ("write", 1), ("exec", 2), ("ipat", 6), ("large", 7), ("accessed", 8),
                      ("dirty", 9), ("user_exec", 10), ("host_writable", 53), ("mmu_writable", 55),
                      ("suppress_ve", 63)):
        out[name] = (v >> np.uint64(bit)) & np.uint64(1)
    out["memtype"] = (v >> np.uint64(3)) & np.uint64(7)
    out["ad_type"] = (v >> np.uint64(60)) & np.uint64(3)
    out["saved"] = (v >> np.uint64(52)) & masks["saved_bits_mask"]
    return out


def numpy_pack(records):
    """And back; empty and frozen SPTEs included, MMIO not."""
    values = np.full(records.shape, 0x800, np.uint64) | records["pfn"] << np.uint64(12)
    for name, bit in (("read", 0), ("write", 1), ("exec", 2), ("ipat", 6), ("large", 7), ("accessed", 8),
                      ("dirty", 9), ("user_exec", 10), ("host_writable", 53), ("mmu_writable", 55),
                      ("suppress_ve", 63), ("memtype", 3), ("ad_type", 60), ("saved", 52)):
        values |= records[name].astype(np.uint64) << np.uint64(bit)
    values = np.where(records["present"], values, np.uint64(CONFIG.SHADOW_NONPRESENT_VALUE))
    return np.where(records["frozen"], np.uint64(CONFIG.FROZEN_SPTE), values)


def best(function, *arguments, count=N):
    """ns per item of the best of three calls, as a baseline."""
    return lambda: min(timeit.repeat(lambda: function(*arguments), number=1, repeat=3)) / count * 1e9


NUMPY = "numpy, one expression per field"


def copied(nbytes):
    """ns per entry of copying what an entry moves: the limit of any conversion."""
    return lambda: _baselines.copy(nbytes, 3) / 3 / N


def test_unpack(beside, sptes):
    records = beside(lambda: CONFIG.unpack(sptes), N, NUMPY, best(numpy_unpack, sptes))
    fields = [name for name in SPTE_DTYPE.names if name != "other"]
    assert (records[fields] == numpy_unpack(sptes)[fields]).all()


def test_pack(beside, sptes):
    records = CONFIG.unpack(sptes)
    assert np.array_equal(beside(lambda: CONFIG.pack(records), N, NUMPY, best(numpy_pack, records)), sptes)
    assert np.array_equal(numpy_pack(records), sptes)


def test_unpack_or_memcpy(beside, sptes):
    """Against the limit: a copy of as many bytes as the records have."""
    beside(lambda: CONFIG.unpack(sptes), N, "memcpy of the records", copied(N * SPTE_DTYPE.itemsize))


def test_pack_or_memcpy(beside, sptes):
    records = CONFIG.unpack(sptes)
    beside(lambda: CONFIG.pack(records), N, "memcpy of the records", copied(N * SPTE_DTYPE.itemsize))


def numpy_needs_atomic_update(values):
    """kvm_tdp_mmu_spte_need_atomic_update() at 4K as a numpy expression."""
    bit = lambda n: (values & np.uint64(1 << n)) != 0  # noqa: E731
    volatile = (~bit(1) & bit(55)) | ((values >> np.uint64(60)) & np.uint64(3) == 1) | (bit(1) & ~bit(9))
    return bit(11) & volatile


def test_predicate(beside, sptes):
    holds = beside(lambda: CONFIG.kvm_tdp_mmu_spte_need_atomic_update(sptes), N, "numpy expression",
                   best(numpy_needs_atomic_update, sptes))
    assert np.array_equal(holds, numpy_needs_atomic_update(sptes))


def test_fetch_and_range(beside, sptes):
    cells, plain = SpteCells(sptes.copy()), sptes.copy()
    beside(lambda: cells.fetch_and_range(0, N, 2**64 - 1 - 0x100), N, "numpy &= (not atomic)",
           best(np.bitwise_and, plain, ~np.uint64(0x100), plain))


def test_try_cmpxchg_from_python(beside):
    array, lock = np.zeros(1, np.uint64), threading.Lock()
    cells = SpteCells(array)

    def locked():
        for _ in range(1000):
            with lock:
                if array[0] == 0:
                    array[0] = 0

    def native():
        for _ in range(1000):
            last = cells.try_cmpxchg(0, 0, 0)
        return last

    assert beside(native, 1000, "a lock around a numpy cell", best(locked, count=1000)) == (True, 0)
