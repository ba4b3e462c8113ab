"""The module's state matrix: one call on one prepared state of one S-EPT entry."""
from __future__ import annotations

from typing import Any

from tdpfast import status as st
from tdpfast.conform._seam_replay import RigReplayer
from tdpfast.conform._seam_rig import (
    AUX,
    LEAF,
    NULL_PA,
    OP_STATES,
    SOURCE,
    TABLE,
    TDCALLS,
    TDR,
    TDVPR,
    Places,
    number,
)
from tdpfast.conform._seam_states import prepare
from tdpfast.conform.result import PASSED, Result

NAME = "seam_state"

_PAGE_OPS = ("reclaim", "rdmd", "wbinvd")
_GUEST_LP = 2


def matches(record: dict) -> bool:
    """A call on an entry in a state."""
    return all(name in record for name in ("op", "state", "call_level", "entry_after"))


class Replayer(RigReplayer):
    """Replays each call on a machine in the state it names: status, registers, entry, PAMT, counters."""

    kind = "state matrix row"

    def _replay(self, row: dict) -> Result:
        level, state, variant = row["level"], row["state"], row["variant"]
        # A 1G page was made by PROMOTE, which needed one epoch in a TD that tracks.
        epoch = 2 if level == 2 and row["op_state"] == "RUNNABLE" and not state.startswith("NL_") else 1
        built = row["op_state"] == "INITIALIZED"
        self.rig.build(lambda rig: prepare(rig, level, state, variant, epoch, built), (level, state, str(variant)),
                       op_state=OP_STATES[row["op_state"]], at=places(row))
        before = self.rig.module.td(TDR[0])
        rip = self.rig.module.vp(TDVPR[0])["rip"]
        got = self._call(row)
        after = self.rig.module.td(TDR[0])
        got.update(self._entries(row), chldcnt_delta=after["chldcnt"] - before["chldcnt"],
                   epoch_delta=after["td_epoch"] - before["td_epoch"])
        if "rip_moved" in row:
            got["rip_moved"] = self.rig.module.vp(TDVPR[0])["rip"] - rip
        for name, value in got.items():
            want = row[name]
            if isinstance(value, int) and isinstance(want, str):
                want = number(want)
            if want != value:
                return Result("failed", f"{row['op']} {level} {state} {variant} at {row['call_level']}: {name}: "
                                        f"recorded {row[name]!r}, got "
                                        f"{value if isinstance(value, str) else shown(value)}")
        return PASSED

    def _call(self, row: dict) -> dict:
        op = row["op"]
        given = operands(row)
        if op in TDCALLS or op == "guest_access":
            entered = self.rig.call("vp_enter", _GUEST_LP, rcx=TDVPR[0])
            if entered[1] != "ENTERED_TD":
                return registers(*entered)
            # Here every access was made to fault: the recording is about the module's answer, not about the walk.
            result = self.rig.call("ept_violation" if op == "guest_access" else op, _GUEST_LP, **given)
            if op != "guest_access":
                return registers(*result)
            injected = 0x8000_0314 if result[1] == "VE_INJECTED" else 0
            status = "TDX_SUCCESS" if result[0] == "td" else result[1]
            return dict(registers(result[0], status, *result[2:]), injected=injected)
        return registers(*self.rig.call(op, **given))

    def _entries(self, row: dict) -> dict:
        out: dict[str, Any] = dict(entry_after=self._entry(row["level"]))
        if "call_level_entry_after" in row:
            out["call_level_entry_after"] = self._entry(row["call_level"])
        if "child0" in row:
            out["child0"] = self._entry(row["call_level"] - 1)
        page = number(row["page_hpa"] or hex(AUX))
        if row["page_hpa"] is not None:
            out["page_pamt_4k_2m_1g_after"] = [self._pamt(page, size) for size in range(3)]
        if row["aux_pamt_after"] is not None:
            size = min(row["call_level"], 2) if row["op"] == "page_aug" else 0
            out["aux_pamt_after"] = self._pamt(number(row["aux_hpa"]), size)
        return out

    def _entry(self, level: int) -> dict:
        raw, reached = self.rig.module.walk(TDR[0], self.rig.at.gpa, level)
        return dict(raw=f"0x{raw:016x}", state=st.sept_state(raw), level=reached)

    def _pamt(self, hpa: int, size: int) -> dict:
        pt, owner, bepoch, _ = self.rig.module.pamt(hpa, size)
        return dict(pt=pt, owner=hex(owner), bepoch=bepoch)


def places(row: dict) -> Places:
    """Where a row's entry and the page it names lie."""
    level, gpa = row["level"], number(row["gpa"])
    if row["page_hpa"] is None:
        return Places(gpa=gpa)
    page = {level: number(row["page_hpa"])}
    if row["state"].startswith("NL_"):
        return Places(gpa=gpa, table=TABLE | page)
    return Places(gpa=gpa, leaf=LEAF | page)


def operands(row: dict) -> dict:
    """Input registers of a row: page operands are where the recording's `aux_hpa` says."""
    op, option = row["op"], row["opt"]
    rcx = number(row["gpa"]) | row["call_level"]
    aux = number(row["aux_hpa"]) if row["aux_hpa"] else 0
    if op == "track":
        return dict(rcx=TDR[0])
    if op in _PAGE_OPS:
        return dict(rcx=number(row["page_hpa"]) if row["page_hpa"] else AUX)
    if op == "guest_access":
        return dict(gpa=number(row["gpa"]))
    if op in TDCALLS:
        return dict(rcx=number(row["gpa"]) if op == "attr_rd" else rcx)
    given = dict(rcx=rcx, rdx=TDR[0], r8=aux)
    if op == "sept_add":
        given.update(rdx=TDR[0] | option.get("allow_existing", 0), version=option["v"], r9=NULL_PA, r10=NULL_PA,
                     r11=NULL_PA)
        if option.get("r8") == "NULL":
            given["r8"] = NULL_PA
    elif op == "page_add":
        given["r9"] = SOURCE
    elif op == "page_demote":
        given.update(r9=NULL_PA, r10=NULL_PA, r11=NULL_PA)
    return given


def registers(result: str, status: str, rax: int, out: dict) -> dict:
    """A call's outcome under the recording's names."""
    got = dict(res=result, status=status, rax=rax)
    got.update({r: out[r] for r in ("rcx", "rdx", "r8", "r9") if r in out})
    return got


def shown(value: object) -> str:
    return hex(value) if isinstance(value, int) else repr(value)
