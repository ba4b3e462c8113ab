"""The module's quirks: behaviour that a re-implementation is likely to get wrong, one situation per claim.

A record has an id, a claim and evidence. The situation that the claim describes is built and run on the module, and
every field of the evidence is compared with what was measured. Only what the recorder chose (addresses, epochs,
operands) is taken from the evidence.
"""
from __future__ import annotations

from tdpfast.conform import _quirks_accept, _quirks_large, _quirks_pages, _quirks_sept, _quirks_state
from tdpfast.conform._quirk_scene import Scene, same
from tdpfast.conform._seam_replay import RigReplayer
from tdpfast.conform.result import PASSED, Result
from tdpfast.errors import UsageError

NAME = "seam_quirks"

QUIRKS = (_quirks_accept.QUIRKS | _quirks_pages.QUIRKS | _quirks_large.QUIRKS | _quirks_sept.QUIRKS
          | _quirks_state.QUIRKS)
"""Id -> function that runs the situation on a Scene and returns what it measured, by the names of the evidence."""


def matches(record: dict) -> bool:
    """A claim and its evidence."""
    return all(name in record for name in ("id", "claim", "evidence"))


class Replayer(RigReplayer):
    """Replays each quirk on a machine of its own. An id that is in no table is skipped."""

    kind = "module quirk"

    def _replay(self, record: dict) -> Result:
        run = QUIRKS.get(record["id"])
        if run is None:
            return Result("skipped", f"unknown quirk {record['id']!r}")
        evidence = record["evidence"]
        if not isinstance(evidence, dict) or not evidence:
            raise TypeError("evidence has no fields")
        try:
            return compared(evidence, run(Scene(self.rig, evidence)))
        except UsageError as error:      # an address of the evidence is not in the machine
            return Result("failed", f"cannot set the situation up: {error}")


def compared(evidence: dict, got: dict) -> Result:
    """Whether every field of the evidence came out; a field that the situation does not measure fails."""
    for name, want in evidence.items():
        if name not in got:
            return Result("failed", f"{name}: recorded {want!r}, but the situation has no such field")
        if not same(want, got[name]):
            return Result("failed", f"{name}: recorded {want!r}, got {shown(got[name])}")
    return PASSED


def shown(value: object) -> str:
    """A measured value as the recordings write it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {shown(item)}" for name, item in value.items()) + "}"
    return hex(value) if isinstance(value, int) else repr(value)
