"""Recordings of the TDX module alone: every kind, by the module of this package that replays it."""
from __future__ import annotations

from typing import Any

from tdpfast.conform import (
    seam_constants,
    seam_facts,
    seam_life,
    seam_locks,
    seam_migration,
    seam_order,
    seam_quirks,
    seam_seq,
    seam_state,
)
from tdpfast.conform.result import Result
from tdpfast.design import Design

NAME = "seam"
KINDS = {"life": seam_life, "migration": seam_migration, "sequence": seam_seq, "state matrix": seam_state,
         "matrix": seam_facts, "locks": seam_locks, "order": seam_order, "quirks": seam_quirks,
         "constants": seam_constants}


def _module(record: dict):
    return next((module for module in KINDS.values() if module.matches(record)), None)


def matches(record: dict) -> bool:
    """One of KINDS."""
    return _module(record) is not None


class Replayer:
    """Hands each record to the replayer of its kind."""

    def __init__(self, design: str | Design | None = None):
        self.design = design
        self.replayers: dict[str, Any] = {}

    def replay(self, record: dict) -> Result | list[tuple[str, Result]]:
        """Compare one record that matches(). A document comes to (case, Result) pairs."""
        module = _module(record)
        if module.NAME not in self.replayers:
            self.replayers[module.NAME] = module.Replayer(self.design)
        return self.replayers[module.NAME].replay(record)
