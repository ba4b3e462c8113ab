# SPDX-License-Identifier: GPL-2.0-only
# cython: language_level=3, boundscheck=False
"""Atomic access to a caller's array of SPTEs."""
from libc.stdint cimport uint64_t

from tdpfast._sync.atomic cimport (tdp_fetch_and, tdp_read_once, tdp_try_cmpxchg, tdp_write_once,
                              tdp_xchg)
from tdpfast._arguments import WORDS, flat_buffer
from tdpfast.errors import UsageError


cdef class SpteCells:
    """Atomic operations on the cells of a writable, contiguous uint64 array.

    Nothing is copied: the array is kept alive, and what one thread does through
    SpteCells every other sees. The names and contracts are those of the kernel's
    READ_ONCE(), WRITE_ONCE(), xchg(), try_cmpxchg64() and atomic64_fetch_and();
    read-modify-writes are fully ordered.

    Thread-safety: every method may run in any thread at any time; that is what
    they are for. Plain numpy access to the same array is not atomic.

    Indices are 0 <= i < len(cells), values 0 <= value < 2**64; anything else
    raises UsageError.
    """
    cdef uint64_t[::1] cells

    def __cinit__(self, array):
        try:
            self.cells = flat_buffer("cells", array, WORDS)
        except (TypeError, ValueError, BufferError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError("cannot use this array as cells", str(error),
                             "a writable, contiguous, one-dimensional numpy uint64 array"
                             ) from None
        if self.cells.shape[0] and <size_t>&self.cells[0] % 8:
            raise UsageError("cannot use this array as cells", "it is not aligned to 8 bytes",
                             "a copy of it")

    def __reduce__(self):
        raise UsageError("a copy of cells", "they share the memory of an array", "SpteCells of a copy of the array")

    def __len__(self):
        return self.cells.shape[0]

    cdef uint64_t *at(self, object index) except NULL:
        cdef Py_ssize_t i = position(index, self.cells.shape[0], "index")
        return &self.cells[i]

    def load(self, i):
        """READ_ONCE(): the value of cell i."""
        return tdp_read_once(self.at(i))

    def store(self, i, value):
        """WRITE_ONCE() of cell i."""
        cdef uint64_t v = u64(value, "value")
        tdp_write_once(self.at(i), v)

    def xchg(self, i, value):
        """xchg(): put value into cell i, return what was there."""
        cdef uint64_t v = u64(value, "value")
        return tdp_xchg(self.at(i), v)

    def try_cmpxchg(self, i, expected, new):
        """try_cmpxchg64(): (True, expected) if new is now in cell i; else
        (False, what is there instead of expected) and nothing has changed."""
        cdef uint64_t old = u64(expected, "expected")
        cdef uint64_t v = u64(new, "new")
        cdef bint done = tdp_try_cmpxchg(self.at(i), &old, v)
        return bool(done), old

    def fetch_and(self, i, mask):
        """atomic64_fetch_and(): AND mask into cell i, return what was there."""
        cdef uint64_t m = u64(mask, "mask")
        return tdp_fetch_and(self.at(i), m)

    def fetch_and_range(self, start, stop, mask):
        """fetch_and() of each cell of [start, stop), one after the other and
        without the GIL. Returns how many cells changed."""
        cdef Py_ssize_t first = position(start, self.cells.shape[0] + 1, "start")
        cdef Py_ssize_t last = position(stop, self.cells.shape[0] + 1, "stop")
        cdef uint64_t m = u64(mask, "mask")
        cdef Py_ssize_t i, changed = 0
        with nogil:
            for i in range(first, last):
                if tdp_fetch_and(&self.cells[i], m) & ~m:
                    changed += 1
        return changed


cdef extern from "Python.h":
    object PyNumber_Index(object)


cdef uint64_t u64(object value, str name) except? 0xdead:
    """value as a cell's value."""
    try:
        return PyNumber_Index(value)        # Cython alone would cut a float
    except (TypeError, OverflowError) as error:
        raise UsageError(f"bad {name}", str(error), "an int in [0, 2**64)") from None


cdef Py_ssize_t position(object value, Py_ssize_t limit, str name) except -1:
    """value as an index in [0, limit)."""
    cdef Py_ssize_t i
    try:
        i = value
    except (TypeError, OverflowError) as error:
        raise UsageError(f"bad {name}", str(error), f"an int in [0, {limit})") from None
    if i < 0 or i >= limit:
        raise UsageError(f"bad {name} {i}", "out of range", f"an int in [0, {limit})")
    return i
