"""What the replayers of the module's recordings share: a machine, and how a row is compared."""
from __future__ import annotations

from tdpfast.conform._seam_rig import CannotSetUp, Rig
from tdpfast.conform.result import BAD_FIELD, PASSED, Result, malformed


class RigReplayer:
    """Replays records on a rig by `_replay()`; `kind` names them in errors."""

    kind = ""

    def __init__(self, design=None):
        self.rig = Rig()

    def replay(self, record: dict) -> Result | list[tuple[str, Result]]:
        """Compare one record; UsageError for one that lacks what its kind has."""
        try:
            return self._replay(record)
        except CannotSetUp as error:
            return Result("failed", f"cannot set the situation up: {error}")
        except BAD_FIELD as error:
            raise malformed(self.kind, error) from error

    def _replay(self, record: dict) -> Result | list[tuple[str, Result]]:
        raise NotImplementedError


def compared(record: dict, got: dict) -> Result:
    """Whether the record has each of these values."""
    for name, value in got.items():
        if record.get(name) != value:
            return Result("failed", f"{name}: recorded {record.get(name)!r}, got {value!r}")
    return PASSED
