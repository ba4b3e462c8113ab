"""Checking what callers pass, before native code sees it."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import index
from typing import Any

import numpy as np

from tdpfast._names import Limit
from tdpfast.errors import UsageError

MAX_PFN = 1 << Limit.MAX_PFN_BITS
"""Host frame numbers are below this."""
U64_MAX = (1 << 64) - 1
INTEGERS = (int, np.integer)
WORDS, BYTES = "LQ", "Bbc?"      # struct formats of 64-bit and 8-bit items, as flat_buffer() takes them
LETTERS = {WORDS: "uint64", BYTES: "uint8"}
MAX_DEPTH = 8           # tables and lists within one another, in a file


def shared_gfn(levels: int) -> int:
    """The shared bit of a TD's gfns, by the levels of its page tables: private gfns are below it."""
    return 1 << (Limit.GPA_BITS_5 if levels == 5 else Limit.GPA_BITS_4)


def one_of(names: Iterable[str]) -> str:
    """How an error lists the choices."""
    return "one of " + ", ".join(names)


def check_int(name: str, value: Any, low: int, high: int) -> int:
    """value as an int of [low, high]."""
    try:
        number = index(value)
    except (TypeError, OverflowError):
        raise UsageError(f"bad {name} {shown(value)}", "not an integer", "an int") from None
    if not low <= number <= high:
        size = number if number.bit_length() < 100 else "so large"
        raise UsageError(f"bad {name} {size}", "out of range", f"{low}..{high}")
    return number


def check_bool(name: str, value: Any) -> bool:
    """value as a truth: a bool, or 0 or 1."""
    if value is True or value is False:
        return value
    if isinstance(value, (np.bool_, *INTEGERS)) and value in (0, 1):
        return bool(value)
    raise UsageError(f"bad {name} {shown(value)}", "neither true nor false", "True or False")


def shown(value: Any) -> str:
    """value as an error shows it; its type where repr() fails, as of an int with too many digits."""
    try:
        return repr(value)
    except Exception:
        return f"of type {type(value).__name__}"


def check_shape(where: str, value: Any, depth: int = 0) -> None:
    """UsageError for what no field of a file holds and no message could show: numbers beyond 64 bits, also as texts,
    half characters, deep nesting."""
    if isinstance(value, int):
        if value.bit_length() > 64:
            raise UsageError(f"{where}: a number has more than 64 bits", "no field holds it", "a smaller one")
    elif isinstance(value, str):
        if not value.isascii() and any("\ud800" <= ch <= "\udfff" for ch in value):
            raise UsageError(f"{where}: a text holds half a character", "a surrogate", "UTF-8 without surrogates")
        if len(value) > 100:            # shorter ones are shown by whoever reads the field
            try:
                check_shape(where, int(value, 0))
            except UsageError:
                raise
            except ValueError:
                pass
    elif isinstance(value, (Mapping, list, tuple)):
        if depth >= MAX_DEPTH:
            raise UsageError(f"{where}: tables are nested too deeply", f"more than {MAX_DEPTH} within one another",
                             "flat tables")
        for item in (*value, *value.values()) if isinstance(value, Mapping) else value:
            check_shape(where, item, depth + 1)


def check_u64(name: str, value: Any) -> int:
    """value as an unsigned 64-bit number."""
    return check_int(name, value, 0, U64_MAX)


def check_seconds(value: Any) -> float:
    """value as a time of [0, 1e9) seconds."""
    if not isinstance(value, (int, float, np.integer, np.floating)) or not 0 <= value < 1e9:
        raise UsageError(f"bad seconds {shown(value)}", "not a number in range", "0..1e9")
    return float(value)


def check_level(value: Any) -> int:
    """value as a PG_LEVEL."""
    return check_int("level", value, 1, 5)


def spte_array(name: str, values: Any) -> tuple[np.ndarray, tuple[int, ...]]:
    """values as a flat contiguous uint64 array, and their shape."""
    if isinstance(values, np.ndarray):
        array = np.asarray(values)          # a matrix would stay one, and has no flat form
    else:
        items = any_array(name, values, object)
        array = np.fromiter((check_u64(name, item) for item in items.flat), np.uint64, items.size)
        array = array.reshape(items.shape)
    if array.dtype.kind != "u":
        raise UsageError(f"bad {name}", f"dtype {array.dtype}", "a numpy array of uint64")
    return np.require(array.reshape(-1), np.uint64, ["C", "A"]), array.shape


def any_array(name: str, values: Any, dtype: Any = None) -> np.ndarray:
    """values as numpy makes an array of them; UsageError where it cannot, as of rows of different lengths."""
    try:
        return np.asarray(values, dtype=dtype)
    except (TypeError, ValueError, OverflowError, MemoryError) as error:
        raise UsageError(f"bad {name} {shown(values)}", str(error), "an array, or rows of one length") from None


def flat_buffer(name: str, value: Any, letters: str) -> Any:
    """value, if its buffer is one row of items of one of these struct formats; UsageError otherwise. Native code that
    takes typed memory asks first: Cython's own reader of formats does not survive records."""
    try:
        view = memoryview(value)
    except (TypeError, ValueError, BufferError) as error:
        raise UsageError(f"bad {name}", str(error), f"a numpy array of {LETTERS[letters]}") from None
    if view.format.lstrip("@=<") not in tuple(letters) or view.ndim != 1 or not view.c_contiguous:
        raise UsageError(f"bad {name}", f"{view.ndim} dimensions of format {shown(view.format)}",
                         f"a contiguous, one-dimensional numpy array of {LETTERS[letters]}")
    return value


def level_array(level: Any, shape: tuple[int, ...]) -> np.ndarray:
    """level as one uint8, or as many as values."""
    if isinstance(level, INTEGERS):
        return np.array([check_level(level)], np.uint8)
    levels = any_array("level", level)
    if levels.dtype.kind not in "iu" or (levels.size and not 1 <= levels.min() <= levels.max() <= 5):
        raise UsageError(f"bad level {shown(level)}", "not PG_LEVEL_4K..PG_LEVEL_256T", "integers 1..5")
    try:
        spread = np.broadcast_to(levels, shape)
    except ValueError:
        raise UsageError(f"levels of shape {levels.shape}", f"the values have shape {shape}",
                         "one level, or a shape that broadcasts") from None
    return np.ascontiguousarray(spread, np.uint8).reshape(-1)


def leaf_spelling(leaf: Any) -> Any:
    """A SEAMCALL leaf in whichever spelling (TDH.MEM.PAGE.AUG, MEM.PAGE.AUG, tdh_mem_page_aug, mem_page_aug) as
    MEM.PAGE.AUG; what is no text as it is."""
    return leaf.upper().replace("_", ".").removeprefix("TDH.") if isinstance(leaf, str) else leaf
