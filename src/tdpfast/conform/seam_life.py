"""Recorded lives: TDs from MNG.CREATE to RECLAIM, TD_PARAMS, CACHE.WB, the guest's side."""
from __future__ import annotations

from typing import Any

from tdpfast.conform._life_rig import LifeRig
from tdpfast.conform._seam_rig import CannotSetUp, number
from tdpfast.conform.result import BAD_FIELD, PASSED, Result, malformed, needs, times
from tdpfast.conform.seam_seq import hexed, shown
from tdpfast.design import Design

NAME = "seam_life"
KNOWN = frozenset({"life", "addcx_order", "tdvpx_count", "extend_free", "attr_ve_disable", "rd_failed", "mng_init",
                   "td_params_cpuid", "cache_wb", "kot_lock", "bepoch_kept", "shared_zero_step", "ve_unread",
                   "veinfo_get", "notify"})
"""Features of records that tdpfast has whole."""
KINDS = {"life": KNOWN, "mng_init": KNOWN | {"fields"}, "cache_wb": KNOWN, "guest": KNOWN}
"""Kind -> features it has. Of the metadata fields those of TD_PARAMS are there."""


def matches(record: dict[str, Any]) -> bool:
    """Calls on a machine of a kind that is named."""
    return isinstance(record.get("kind"), str) and record["kind"] in KINDS and "calls" in record


class Replayer:
    """Replays the calls of each record on a machine of its own: status, registers, and the state at the end."""

    def __init__(self, design: str | Design | None = None) -> None:
        self.rig = LifeRig()

    def replay(self, record: dict[str, Any]) -> Result:
        """Compare one record; UsageError for one that lacks what its kind has."""
        skipped = needs(record, KINDS[record["kind"]])
        if skipped:
            return skipped
        try:
            return self._replay(record)
        except CannotSetUp as error:
            return Result("failed", f"cannot set the situation up: {error}")
        except BAD_FIELD as error:
            raise malformed(f"record of {record.get('kind')}", error) from error

    def _replay(self, record: dict[str, Any]) -> Result:
        self.rig.build(record["cfg"])
        for n, call in enumerate(record["calls"]):
            for _ in times(call.get("repeat", 1)):
                text = compared(call, self.rig.call(call))
                if text:
                    return Result("failed", f"call {n} {call['op']} {call['in']}: {text}")
        text = self.rig.end(record["end"])
        return Result("failed", text) if text else PASSED


def compared(call: dict[str, Any], got: tuple[str, int, dict[str, int]]) -> str:
    """How an answer differs from the recorded one; "" if not."""
    name, rax, out = got
    if rax != number(call["rax"]) or name.split(":")[0] != call["st"].split(":")[0]:
        return f"recorded {call['st']} {call['rax']}, got {name} {rax:#x}"
    want = {k: number(v) for k, v in call["out"].items()}
    given = {k: number(v) for k, v in call["in"].items()}
    seen = shown(out, given, want)
    return "" if seen == want else f"{name}: recorded {hexed(want)}, got {hexed(seen)}"
