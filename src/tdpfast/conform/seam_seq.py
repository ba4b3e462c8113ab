"""Recorded call sequences: every status and register, and the state of the machine at the end."""
from __future__ import annotations

from tdpfast import status as st
from tdpfast.conform._seam_replay import RigReplayer
from tdpfast.conform._seam_rig import REGISTERS, TDR, number
from tdpfast.conform.result import MAX_BUILT, PASSED, Result, page_size, times
from tdpfast.status import l2_sept_number as l2_state

NAME = "seam_seq"


def matches(record: dict) -> bool:
    """A sequence has calls, a configuration and an end state."""
    return "calls" in record and "cfg" in record and "end" in record


class Replayer(RigReplayer):
    """Replays each sequence on a fresh machine."""

    kind = "module sequence"

    def _replay(self, record: dict) -> Result:
        self.rig.build(**record["cfg"])
        for n, call in enumerate(record["calls"]):
            text = self._call(call)
            if text:
                return Result("failed", f"call {n} {call['op']} {call['in']}: {text}")
        return self._end(record["end"], record["calls"])

    def _call(self, call: dict) -> str:
        given = {k: number(v) for k, v in call["in"].items()}
        if call["op"] == "set":
            self.rig.module.set_td(TDR[0], **given)
            return ""
        if call["op"] == "bulk_page_aug":
            done, (_, name, rax, out) = self._bulk(given)
            if done != given["succeeded"]:
                return f"recorded {given['succeeded']} calls that succeeded, got {done}, then {name}"
        else:
            _, name, rax, out = self.rig.call(call["op"], call["lp"], call.get("intr_after", -1), **given)
        if name != call["st"] or rax != number(call["rax"]):
            return f"recorded {call['st']}, got {name} rax {rax:#x}"
        if name == "VE_INJECTED":        # here the guest reads VE_INFO at once
            self.rig.module.set_vp(self.rig.module.in_guest()[call["lp"]], ve_valid=0)
        want = {k: number(v) for k, v in call["out"].items()}
        got = shown(out, given, want)
        if got != want:
            return f"{name}: recorded {hexed(want)}, got {hexed(got)}"
        return ""

    def _bulk(self, given: dict):
        """How many calls succeeded, and the last one's result."""
        done, result = 0, None
        for i in times(given["count"]):
            result = self.rig.call("page_aug", rcx=given["gpa"] + i * given["step"] | given["level"], rdx=TDR[0],
                                   r8=given["hpa"] + i * given["step"])
            if result[2] != 0:
                break
            done += 1
        if result is None:
            raise ValueError("a bulk of no calls")
        return done, result

    def _end(self, end: dict, calls: list) -> Result:
        td = self.rig.module.td(TDR[0])
        got = dict(td_epoch=td["td_epoch"], refcount=[td["refcount0"], td["refcount1"]], chldcnt=td["chldcnt"],
                   assoc_vcpus=td["assoc_vcpus"], op_state=td["op_state"], lifecycle=td["lifecycle"],
                   in_td_lps=sorted(self.rig.module.in_guest()))
        for name, value in got.items():
            if end[name] != value:
                return Result("failed", f"end: {name}: recorded {end[name]!r}, got {value!r}")
        return self._tables(end) or self._pages(end) or PASSED

    def _tables(self, end: dict) -> Result | None:
        want: set[tuple] = set()
        for e in end["sept"]:
            size = page_size(e["level"])
            for i in times(e.get("count", 1), len(want), most=MAX_BUILT):
                want.add((e["vm"], number(e["gpa"]) + i * size, e["level"], number(e["raw"]) + i * size, e["state"]))
        got = set()
        for vm in range(1 + self.rig.module.td(TDR[0])["num_l2"]):
            for gpa, level, raw in self.rig.module.sept(TDR[0], vm):
                got.add((vm, gpa, level, raw, l2_state(raw) if vm else st.sept_state(raw)))
        return difference("S-EPT", want, got)

    def _pages(self, end: dict) -> Result | None:
        owners = {"-": 0, "TD0": TDR[0], "TD1": TDR[1]}
        for hpa, level, pt, owner, bepoch, lock in end["pamt"]:
            got = self.rig.module.pamt(number(hpa), level)
            if got != (pt, owners[owner], bepoch, lock):
                return Result("failed", f"end: PAMT {hpa} {level}: recorded {(pt, owner, bepoch, lock)}, got {got}")
        return None


def shown(out: dict, given: dict, want: dict) -> dict:
    """Registers as a recording lists them: RCX and RDX always, the others when they changed."""
    if not want:
        return {}
    return {r: out[r] for r in REGISTERS if r in out and (r in ("rcx", "rdx") or r in want
                                                          or out[r] != given.get(r, 0))}


def hexed(registers: dict) -> dict:
    return {k: hex(v) for k, v in registers.items()}


def difference(what: str, want: set, got: set) -> Result | None:
    """The first few members of two sets that differ."""
    if want == got:
        return None

    def show(items):
        return [tuple(hex(x) if isinstance(x, int) and x > 9 else x for x in item) for item in sorted(items)[:3]]
    return Result("failed", f"end: {what}: missing {show(want - got)}, extra {show(got - want)}")
