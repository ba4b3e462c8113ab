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


MAX_RUN = 1 << 40
"""No run has more repetitions: they are compared one after another, up to the first that differs."""
MAX_BUILT = 1 << 22
"""So many S-EPT entries a set of them may have: what 8 GiB of 4K pages have."""


def times(count: Any, done: int = 0, *, most: int = MAX_RUN) -> range:
    """The numbers of a run's repetitions; of one that is written out, in a list of ``most`` items with so many there.

    Raises:
        ValueError: a count that no recording has, before memory is spent on it.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= most - done:
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
