"""Recorded calls of migration on entries that were written directly: write blocking, its end, an abort's clean-up."""
from __future__ import annotations

import struct
from typing import Any

from tdpfast.conform._life_rig import LIST_PA, LifeRig
from tdpfast.conform._seam_rig import TDR, CannotSetUp, number
from tdpfast.conform.result import BAD_FIELD, PASSED, Result, malformed
from tdpfast.conform.seam_life import compared
from tdpfast.design import Design

NAME = "seam_migration"
TABLES = 0x1_1000_1000
SEPT_PS = 0x80
HPA = 0x000F_FFFF_FFFF_F000
COUNTS = 10
"""MIG_COUNT and DIRTY_COUNT before the call."""


def matches(record: dict[str, Any]) -> bool:
    """One call of a machine with entries in states that are named."""
    return record.get("kind") == "migration" and "calls" in record and "counts_after" in record


class Replayer:
    """Replays each call on a machine of its own: status, registers, entries, list, PAMT, counters."""

    def __init__(self, design: str | Design | None = None) -> None:
        self.rig = LifeRig()

    def replay(self, record: dict[str, Any]) -> Result:
        """Compare one record; UsageError for one that lacks what its kind has."""
        try:
            text = self._replay(record)
        except CannotSetUp as error:
            text = f"cannot set the situation up: {error}"
        except BAD_FIELD as error:
            raise malformed("record of migration", error) from error
        return Result("failed", text) if text else PASSED

    def _replay(self, record: dict[str, Any]) -> str:
        self._prepare(record)
        for call in record["calls"]:
            text = compared(call, self.rig.call(call))
            if text:
                return text
        return self._after(record)

    def _prepare(self, record: dict[str, Any]) -> None:
        rig, level = self.rig, record.get("level", 0)
        rig.build(record["cfg"])
        rig.module.set_td(TDR[0], op_state=1)
        for at in range(rig.module.td(TDR[0])["levels"] - 1, level, -1):
            rig.rig.must("mem_sept_add", rcx=at, rdx=TDR[0], r8=TABLES + at * 0x1000)
        pages = record.get("pages", [["0x0", "", record.get("before")]])
        for gpa, _, raw in pages:
            entry = number(raw)
            rig.module.set_entry(TDR[0], number(gpa), level, entry)
            if entry & SEPT_PS:
                rig.module.set_pamt(entry & HPA, level, pt=3, owner=TDR[0], bepoch=record["bepoch"])
        rig.module.set_td(TDR[0], op_state=record["cfg"]["op_state"], td_epoch=record["td_epoch"], mig_count=COUNTS,
                          dirty_count=COUNTS)
        if "list" in record:
            rig.module.write_memory(LIST_PA, struct.pack("<512Q", *words(record["list"])))

    def _after(self, record: dict[str, Any]) -> str:
        module, level = self.rig.module, record.get("level", 0)
        for gpa, _, raw in record.get("pages_after", [["0x0", "", record.get("after")]]):
            got = module.walk(TDR[0], number(gpa), level)
            if got != (number(raw), level):
                return f"entry of {gpa}: recorded {raw}, got {got[0]:#x} at level {got[1]}"
        if "list_after" in record:
            got_list = list(struct.unpack("<512Q", module.read_memory(LIST_PA, 4096)))
            if got_list != words(record["list_after"]):
                return f"list: recorded {record['list_after']}, got {[hex(word) for word in got_list[:8]]}"
        if record.get("pamt_after") is not None:
            for size, want in enumerate(record["pamt_after"]):
                pt, owner, bepoch, lock = module.pamt(number(record["page"]), size)
                if [pt, hex(owner), bepoch, lock] != want:
                    return f"PAMT of size {size}: recorded {want}, got {[pt, hex(owner), bepoch, lock]}"
        td = module.td(TDR[0])
        counts = [td["mig_count"], td["dirty_count"]]
        return "" if counts == record["counts_after"] else f"counts: recorded {record['counts_after']}, got {counts}"


def words(texts: list[str]) -> list[int]:
    """A list of GPAs as its page holds it."""
    return [number(text) for text in texts] + [0] * (512 - len(texts))
