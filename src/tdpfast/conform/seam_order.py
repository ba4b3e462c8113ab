"""The order of checks: two faults at once, one record each, or a table of every leaf's checks in their order."""
from __future__ import annotations

from tdpfast.conform._seam_faults import FAULTS, SETS
from tdpfast.conform._seam_replay import RigReplayer
from tdpfast.conform._seam_states import prepare
from tdpfast.conform.result import PASSED, Result
from tdpfast.conform.seam_facts import SCENES
from tdpfast.design import Design

NAME = "seam_order"


def _pair(record: dict) -> bool:
    return "leaf" in record and "faults" in record


def _table(record: dict) -> bool:
    """{leaf: [{check, status}, ...]} with nothing else in it."""
    return bool(record) and all(
        isinstance(checks, list) and all(isinstance(c, dict) and c.keys() == {"check", "status"} for c in checks)
        for checks in record.values())


def matches(record: dict) -> bool:
    """A pair of faults or the table."""
    return _pair(record) or _table(record)


class Replayer(RigReplayer):
    """Puts the faults into a call that would succeed and compares which of them is reported."""

    kind = "check order"

    def __init__(self, design: str | Design | None = None):
        super().__init__(design)
        self.answers: dict[tuple, str] = {}

    def _replay(self, record: dict) -> Result | list[tuple[str, Result]]:
        if _pair(record):
            return self._both(record)
        return [case for leaf, checks in record.items() for case in self._leaf(leaf, checks)]

    def _both(self, row: dict) -> Result:
        first, second = row["faults"]
        for faults, want in (((first,), row["single"][0]), ((second,), row["single"][1]),
                             ((first, second), row["both"])):
            got = self._faulty(row["leaf"], faults)
            if got != want:
                return Result("failed", f"{row['leaf']} {list(faults)}: recorded {want}, got {got}")
        return PASSED

    # ---- the table

    def _leaf(self, leaf: str, checks: list) -> list[tuple[str, Result]]:
        """One case per check of a leaf."""
        return [(f"{leaf}: {check['check']}", self._check(leaf, check, checks[i + 1:]))
                for i, check in enumerate(checks)]

    def _check(self, leaf: str, check: dict, later: list) -> Result:
        """The fault alone has its status, and keeps it whichever later fault is there as well.

        One with which the call succeeds is looked at by nobody, so others show through.
        """
        fault, want = check["check"], check["status"]
        if leaf not in SCENES or fault not in FAULTS:
            return Result("skipped", f"unknown leaf {leaf!r}" if leaf not in SCENES else f"unknown fault {fault!r}")
        if (got := self._faulty(leaf, (fault,))) != want:
            return Result("failed", f"recorded {want}, got {got}")
        for other in later:
            if other["check"] not in FAULTS or (fault in SETS and SETS[fault] == SETS.get(other["check"])):
                continue
            expected = other["status"] if want == "TDX_SUCCESS" else want
            if (got := self._faulty(leaf, (fault, other["check"]))) != expected:
                return Result("failed", f"before {other['check']}: recorded {expected}, got {got}")
        return PASSED

    def _faulty(self, leaf: str, faults: tuple[str, ...]) -> str:
        """The status of a leaf's call with these faults; asked twice, it is run once."""
        if (leaf, faults) not in self.answers:
            self.answers[leaf, faults] = self._run(leaf, faults)
        return self.answers[leaf, faults]

    def _run(self, leaf: str, faults: tuple[str, ...]) -> str:
        op, level, state, variant, given = SCENES[leaf]
        self.rig.build(lambda rig: prepare(rig, level, state, variant), (level, state, str(variant)),
                       op_state=1 if leaf == "page_add" else 2)
        given = dict(given)
        for fault in sorted(faults, key=list(FAULTS).index):
            FAULTS[fault](self.rig, leaf, given, level)
        intr = given.pop("intr_after", -1)
        return self.rig.call(op, intr_after=intr, **given)[1]
