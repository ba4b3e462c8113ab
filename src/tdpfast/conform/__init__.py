"""Replay recorded answers of the real code and compare.

    >>> for report in conform(["tests/conformance/data/kvm-7.3/spte.jsonl.gz"]):
    ...     print(report.passed, report.failed, report.skipped)
    8225 0 0

A recording is a file of JSON records, all of one kind. The kind is recognised from the first record. Each
kind is a module of this package, listed in `KINDS`, with

``NAME``
    what the kind is called;
``matches(record) -> bool``
    is this first record of the kind? Decides on its fields alone;
``Replayer(design=None)``
    made once per file; ``replay(record) -> Result``, called in the order of the file, or a list of
    (case, Result) for a record that is a whole document. A record that is
    not what its kind should be raises UsageError (result.malformed() makes one of a KeyError and the
    like); file and line are added here.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from tdpfast.conform.reader import read_records
from tdpfast.conform.result import Result
from tdpfast.design import Design
from tdpfast.errors import UsageError

__all__ = ["KINDS", "Difference", "FileReport", "Result", "conform", "conform_file"]

KINDS = ["spte", "mmu", "seam", "stack"]
"""Modules of tdpfast.conform, in the order in which they are asked."""


@dataclass(frozen=True)
class Difference:
    """One failed case."""

    line: int
    """Line of the file; in a JSON array the number of the record, from 1."""
    case: str
    """What the recording calls it."""
    text: str


@dataclass
class FileReport:
    """What became of the cases of one recording."""

    path: str
    kind: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    differences: list[Difference] = field(default_factory=list)
    """Of the failed cases the first ``max_diffs``."""
    skip_reasons: Counter[str] = field(default_factory=Counter)
    """Reason -> how many cases."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Why -> how many recorded facts are about something that tdpfast does not have: no cases of it."""

    @property
    def ok(self) -> bool:
        """Nothing failed."""
        return self.failed == 0

    def to_json(self) -> dict:
        """The fields, as one JSON object holds them."""
        return vars(self) | {"differences": [vars(difference) for difference in self.differences]}


def conform(paths: Iterable[str | Path], design: str | Design | None = None, *,
            max_diffs: int = 10) -> list[FileReport]:
    """Replay recordings.

    Args:
        paths: files: .jsonl, .jsonl.gz, or .json with an array of records.
        design: replaces the design that the records name, if they name one.
        max_diffs: how many differences to keep per file.

    Raises:
        UsageError: a file is missing, not a recording or of no known kind; names file and line.
    """
    return [conform_file(path, design, max_diffs=max_diffs) for path in paths]


def conform_file(path: str | Path, design: str | Design | None = None, *, max_diffs: int = 10) -> FileReport:
    """conform() of one file."""
    records = read_records(path)
    first = next(records, None)
    if first is None:
        raise UsageError(f"{path} holds no record", "the file is empty", "a recording")
    module = _kind(path, *first)
    replayer = _located(path, first[0], module.Replayer, design)
    report = FileReport(str(path), module.NAME)
    for line, record in _chain(first, records):
        if not isinstance(record, dict) or not module.matches(record):
            what = "it lacks fields of one" if isinstance(record, dict) else f"it is a JSON {type(record).__name__}"
            raise UsageError(f"{path}:{line}: not a {module.NAME} record", what,
                             "one JSON object per record, all of one kind")
        outcome = _located(path, line, replayer.replay, record)
        for case, result in outcome if isinstance(outcome, list) else [(_case(record), outcome)]:
            _count(report, line, case, result, max_diffs)
    return report


def _kind(path, line: int, record):
    if isinstance(record, dict):
        for name in KINDS:
            module = import_module(f"tdpfast.conform.{name}")
            if module.matches(record):
                return module
    raise UsageError(f"{path}:{line}: unknown kind of recording", "no kind claims the first record",
                     "a file of the formats in tests/conformance/data")


def _located(path, line: int, function, argument):
    try:
        return function(argument)
    except UsageError as error:
        raise UsageError(f"{path}:{line}: {error.what}", error.why, error.fix) from error


def _chain(first, rest: Iterator) -> Iterator:
    yield first
    yield from rest


def _case(record: dict) -> str:
    """What a recording calls a case."""
    return str(next((record[name] for name in ("name", "id", "fn", "op") if name in record), "?"))


def _count(report: FileReport, line: int, case: str, result: Result, max_diffs: int) -> None:
    if result.status == "passed":
        report.passed += 1
    elif result.status == "skipped":
        report.skipped += 1
        report.skip_reasons[result.text] += 1
    elif result.status == "left out":
        report.left_out[result.text] += 1
    else:
        report.failed += 1
        if len(report.differences) < max_diffs:
            report.differences.append(Difference(line, case, result.text))
