"""What replaying one record comes to."""
from __future__ import annotations

from typing import NamedTuple

from tdpfast.errors import UsageError


class Result(NamedTuple):
    """Outcome of one case: "passed", "failed" with the difference, "skipped" with the reason, or "left out" with what
    tdpfast does not have."""

    status: str
    text: str = ""


PASSED = Result("passed")
BAD_FIELD = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError)
"""What a record raises that lacks a field or has one of a wrong type or size."""


def malformed(what: str, error: Exception) -> UsageError:
    """The UsageError for a record that lacks a field or has one of a wrong type."""
    return UsageError(f"bad {what}", f"{type(error).__name__}: {error}",
                      "the fields that the format's README lists")


def compare(expected, got) -> Result:
    """Passed if equal; else what was recorded and what came out."""
    if got == expected:
        return PASSED
    return Result("failed", f"recorded {expected!r}, got {got!r}")
