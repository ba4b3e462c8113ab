"""What replaying one record comes to."""
from __future__ import annotations

from typing import Any, NamedTuple

from tdpfast._arguments import check_bool
from tdpfast.errors import UsageError


class Result(NamedTuple):
    """Outcome of one case: "passed", "failed" with the difference, "skipped" with the reason, or "left out" with what
    tdpfast does not have."""

    status: str
    text: str = ""


PASSED = Result("passed")
BAD_FIELD = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, StopIteration)
"""What a record raises that lacks a field or has one of a wrong type or size."""


def malformed(what: str, error: Exception) -> UsageError:
    """The UsageError for a record that lacks a field or has one of a wrong type."""
    return UsageError(f"bad {what}", f"{type(error).__name__}: {error}",
                      "the fields that the format's README lists")


def compare(expected: object, got: object) -> Result:
    """Passed if equal; else what was recorded and what came out."""
    if got == expected:
        return PASSED
    return Result("failed", f"recorded {expected!r}, got {got!r}")


MAX_EXPANDED = 1 << 19
"""So many items a list of a record may have when its runs are written out; a real one has a few thousand."""


def times(count: Any, done: int = 0) -> range:
    """The numbers of a run's repetitions, in a list that has so many items already.

    Raises:
        ValueError: a count that no recording has, before memory is spent on it.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MAX_EXPANDED - done:
        raise ValueError(f"a run of {str(count)[:40]}")
    return range(count)


def needs(record: dict, known: frozenset[str]) -> Result | None:
    """Skipped, naming them, if a case needs what a replayer does not have."""
    listed = record.get("needs", [])
    if not isinstance(listed, list) or not all(isinstance(need, str) for need in listed):
        raise malformed("needs of a case", TypeError(f"{str(listed)[:60]} is no list of names"))
    unknown = sorted(set(listed) - known)
    return Result("skipped", "needs " + ", ".join(unknown)) if unknown else None


def flag(record: dict, name: str, default: int = 0) -> bool:
    """A field that is 0 or 1, false or true; null, where a recording could not tell, is false."""
    value = record.get(name, default)
    return False if value is None else check_bool(name, value)


def page_size(level: Any) -> int:
    """Bytes that an S-EPT entry of a recorded level maps, 0 for 4K; ValueError for a level that no entry has."""
    if level not in range(5):
        raise ValueError(f"level {str(level)[:40]}")
    return 1 << 12 + 9 * level
