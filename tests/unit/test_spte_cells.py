"""Atomic cells over a caller's array."""
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdpfast.errors import UsageError
from tdpfast.spte import SpteCells

u64 = st.integers(0, 2**64 - 1)


def make(n=4):
    array = np.zeros(n, np.uint64)
    return array, SpteCells(array)


@given(u64, u64, u64)
def test_try_cmpxchg(there, expected, new):
    array, cells = make()
    array[1] = there
    done, current = cells.try_cmpxchg(1, expected, new)
    assert done == (there == expected) and current == there
    assert array.tolist() == [0, new if done else there, 0, 0]


@given(u64, u64)
def test_the_other_operations(first, second):
    array, cells = make()
    cells.store(2, first)
    assert cells.load(2) == first == int(array[2])
    assert cells.xchg(2, second) == first
    assert cells.fetch_and(2, first) == second
    assert int(array[2]) == first & second


def test_cells_share_the_array_and_keep_it_alive():
    array, cells = make(3)
    array[0] = 5
    assert cells.load(0) == 5 and len(cells) == 3
    array.flags.writeable = False           # the buffer was exported before
    del array
    cells.store(0, 6)
    assert cells.load(0) == 6


def test_fetch_and_range():
    array, cells = make(6)
    array[:] = [3, 1, 2, 3, 0, 3]
    assert cells.fetch_and_range(1, 5, 1) == 2
    assert array.tolist() == [3, 1, 0, 1, 0, 3]
    assert cells.fetch_and_range(4, 2, 0) == 0 and cells.fetch_and_range(6, 6, 0) == 0


def test_no_increment_is_lost_between_threads():
    array, cells = make(1)

    def add(count):
        failures = 0
        old = cells.load(0)
        while count:
            done, old = cells.try_cmpxchg(0, old, old + 1)
            if done:
                count, old = count - 1, old + 1
            else:
                failures += 1
        return failures

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, [2000] * 4))
    assert int(array[0]) == 8000


def test_ranges_clear_each_bit_once_between_threads():
    array, cells = make(20000)
    array[:] = 3
    with ThreadPoolExecutor(2) as pool:
        changed = list(pool.map(lambda mask: cells.fetch_and_range(0, len(cells), mask), [1, 1, 2, 2]))
    assert sum(changed) == 2 * len(cells) and not array.any()


@pytest.mark.parametrize("array", [
    np.zeros(3), np.zeros(3, np.int64), np.zeros((2, 2), np.uint64), np.zeros(6, np.uint64)[::2],
    np.frombuffer(bytes(16), np.uint64), np.zeros(25, np.uint8)[1:].view(np.uint64), [1, 2], None,
    "abc", 7], ids=lambda a: type(a).__name__)
def test_bad_arrays(array):
    with pytest.raises(UsageError):
        SpteCells(array)


@pytest.mark.parametrize("call", [
    lambda c: c.load(4), lambda c: c.load(-1), lambda c: c.load(2**64), lambda c: c.load("0"),
    lambda c: c.load(None), lambda c: c.load(1.0), lambda c: c.store(0, -1),
    lambda c: c.store(0, 2**64), lambda c: c.xchg(9, 0), lambda c: c.try_cmpxchg(0, -1, 0),
    lambda c: c.try_cmpxchg(0, 0, 2**64), lambda c: c.fetch_and(0, None),
    lambda c: c.load(10**5000), lambda c: c.store(0, 10**5000), lambda c: c.xchg(0, 1.5), lambda c: c.xchg(0, "1"),
    lambda c: c.fetch_and_range(0, 5, 0), lambda c: c.fetch_and_range(-1, 2, 0)])
def test_bad_arguments_change_nothing(call):
    array, cells = make()
    with pytest.raises(UsageError):
        call(cells)
    assert not array.any()


def test_cells_are_not_copied():
    _, cells = make()
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(UsageError, match="copy of cells"):
            attempt(cells)
    with pytest.raises(TypeError):
        SpteCells.__new__(SpteCells)


def test_empty_array():
    _, cells = make(0)
    with pytest.raises(UsageError):
        cells.load(0)
    assert len(cells) == 0 and cells.fetch_and_range(0, 0, 0) == 0
