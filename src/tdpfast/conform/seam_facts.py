"""The module's smaller matrices: TLB tracking, operation states, physical-page operands."""
from __future__ import annotations

from tdpfast import status as st
from tdpfast.conform._seam_replay import RigReplayer, compared
from tdpfast.conform._seam_rig import AUX, LIFECYCLE, NULL_PA, OP_STATES, SOURCE, TDR, TDVPR, number
from tdpfast.conform._seam_states import prepare
from tdpfast.conform.result import Result

NAME = "seam_facts"
_LP = 1


def _tracking(record: dict) -> bool:
    return "op" in record and "td_epoch" in record


def _op_state(record: dict) -> bool:
    return "leaf" in record and "op_state" in record


def _page(record: dict) -> bool:
    return "leaf" in record and "case" in record and "hpa" in record


def matches(record: dict) -> bool:
    """One of the three."""
    return _tracking(record) or _op_state(record) or _page(record)


class Replayer(RigReplayer):
    """Replays each row; a TD exit row goes on from the VP.ENTER row before it."""

    kind = "module fact"

    def _replay(self, row: dict) -> Result:
        if _tracking(row):
            return compared(row, self._tracking(row))
        return compared(row, self._op_state(row) if _op_state(row) else self._page(row))

    # ---- TLB tracking

    def _tracking(self, row: dict) -> dict:
        module = self.rig.module
        if row["op"].startswith("td_exit"):
            module.set_td(TDR[0], td_epoch=row["td_epoch"])
            status = self.rig.call("td_async_exit", _LP)[1]
            return dict(status=status, refcount_after=self._refcount())
        self.rig.build(lambda rig: prepare(rig, 0, "BLOCKED", "untracked"), "blocked")
        module.set_td(TDR[0], td_epoch=row["td_epoch"], refcount0=row["refcount"][0], refcount1=row["refcount"][1])
        if row["op"] == "page_remove":
            module.set_pamt(0x1_1200_0000, bepoch=row["bepoch"])
            return dict(status=self.rig.call("page_remove", rcx=0, rdx=TDR[0])[1])
        if row["op"] == "track":
            status = self.rig.call("track", rcx=TDR[0])[1]
            return dict(status=status, td_epoch_after=module.td(TDR[0])["td_epoch"], refcount_after=self._refcount())
        status = self.rig.call("vp_enter", _LP, rcx=TDVPR[0])[1]
        return dict(status=status, refcount_after=self._refcount(), vcpu_epoch=module.vp(TDVPR[0])["vcpu_epoch"])

    def _refcount(self) -> list[int]:
        td = self.rig.module.td(TDR[0])
        return [td["refcount0"], td["refcount1"]]

    # ---- operation states

    def _op_state(self, row: dict) -> dict:
        op, level, state, variant, given = SCENES[row["leaf"]]
        self.rig.build(lambda rig: prepare(rig, level, state, variant), (level, state, str(variant)))
        self.rig.module.set_td(TDR[0], op_state=OP_STATES[row["op_state"]], lifecycle=LIFECYCLE[row["lifecycle"]],
                               fatal=row["fatal"], num_tdcx=row.get("num_tdcx", 6))
        _, status, rax, _ = self.rig.call(op, _LP if op == "vp_enter" else 0, **given)
        got = dict(status=status, rax=hexed(row["rax"], rax))
        if "entry_after" in row:
            raw, _ = self.rig.module.walk(TDR[0], 0, level)
            got.update(entry_after=hexed(row["entry_after"], raw), state_after=st.sept_state(raw))
        return got

    # ---- physical pages

    def _page(self, row: dict) -> dict:
        op, level, state, variant, given = SCENES[_PAGE_SCENES.get(row["leaf"], row["leaf"])]
        register, build = _PAGE_OPERAND[row["leaf"]]
        self.rig.build(lambda rig: prepare(rig, level, state, variant), (level, state, str(variant)), **build)
        hpa = number(row["hpa"])
        if "pamt_before" in row:
            self._set_pages(row, hpa)
        if row["leaf"].startswith("reclaim"):
            self.rig.module.set_td(TDR[0], lifecycle=LIFECYCLE["TD_TEARDOWN"])
        given = dict(given, **{register: hpa})
        _, status, rax, out = self.rig.call(op, _LP if op == "vp_enter" else 0, **given)
        got = dict(status=status, rax=hexed(row["rax"], rax))
        out = out or given
        got.update({r: hexed(row[r], out.get(r, 0)) for r in ("rcx", "rdx", "r8", "r9") if r in row})
        if "pamt_after" in row:
            got["pamt_after"] = [None if want is None else self._pamt(hpa, size)
                                 for size, want in enumerate(row["pamt_after"])]
        return got

    def _set_pages(self, row: dict, hpa: int) -> None:
        for size, want in enumerate(row["pamt_before"]):
            if want is not None and self._pamt(hpa, size) != want:
                self.rig.module.set_pamt(hpa & PA, size, pt=want["pt"], owner=number(want["owner"]),
                                         bepoch=want["bepoch"])
        if row["case"].startswith("4K child"):
            self.rig.module.set_pamt(hpa + 5 * 4096, pt=3, owner=TDR[0])
        elif row["case"].startswith("last 4K child"):
            self.rig.module.set_pamt(hpa + 511 * 4096, pt=8, owner=TDR[0])

    def _pamt(self, hpa: int, size: int) -> dict:
        pt, owner, bepoch, _ = self.rig.module.pamt(hpa & PA, size)
        return dict(pt=pt, owner=hex(owner), bepoch=bepoch)


PA = (1 << 52) - 1


def hexed(like: str, value: int) -> str:
    """The value in the recording's form of hexadecimal, padded or not."""
    return f"0x{value:0{len(like) - 2}x}" if isinstance(like, str) else hex(value)


def _scene(op, level, state, variant=None, **given):
    if op not in ("track", "vp_enter", "rdmd", "wbinvd", "reclaim"):
        given = dict(dict(rcx=level, rdx=TDR[0]), **given)
    return op, level, state, variant, given


_L2 = dict(r9=NULL_PA, r10=NULL_PA, r11=NULL_PA)
SCENES = {
    "sept_add": _scene("sept_add", 1, "FREE", r8=AUX, **_L2),
    "sept_rd": _scene("sept_rd", 0, "MAPPED"),
    "sept_remove": _scene("sept_remove", 1, "NL_BLOCKED", ["empty", "tracked"]),
    "sept_remove(not blocked)": _scene("sept_remove", 1, "NL_MAPPED", ["empty", None]),
    "page_add": _scene("page_add", 0, "FREE", r8=AUX, r9=SOURCE),
    "page_aug": _scene("page_aug", 0, "FREE", r8=AUX),
    "page_aug_2m": _scene("page_aug", 1, "FREE", r8=AUX),
    "page_remove": _scene("page_remove", 0, "BLOCKED", "tracked"),
    "page_remove(not blocked)": _scene("page_remove", 0, "MAPPED"),
    "page_remove(blocked, untracked)": _scene("page_remove", 0, "BLOCKED", "untracked"),
    "page_remove(pending)": _scene("page_remove", 0, "PENDING"),
    "page_demote": _scene("page_demote", 1, "BLOCKED", "tracked", r8=AUX, **_L2),
    "page_demote(not blocked)": _scene("page_demote", 1, "PENDING", r8=AUX, **_L2),
    "page_promote": _scene("page_promote", 1, "NL_BLOCKED", ["512pending", "tracked"]),
    "page_promote(not blocked)": _scene("page_promote", 1, "NL_MAPPED", ["512pending", None]),
    "page_relocate": _scene("page_relocate", 0, "BLOCKED", "tracked", r8=AUX),
    "page_relocate(not blocked)": _scene("page_relocate", 0, "MAPPED", r8=AUX),
    "range_block": _scene("range_block", 0, "MAPPED"),
    "range_unblock": _scene("range_unblock", 0, "BLOCKED", "tracked"),
    "range_unblock(untracked)": _scene("range_unblock", 0, "BLOCKED", "untracked"),
    "track": _scene("track", 0, "FREE", rcx=TDR[0]),
    "vp_enter": _scene("vp_enter", 0, "FREE", rcx=TDVPR[0]),
    "rdmd": _scene("rdmd", 0, "MAPPED", rcx=0x1_1200_0000),
    "wbinvd": _scene("wbinvd", 0, "FREE", rcx=AUX),
    "reclaim": _scene("reclaim", 0, "MAPPED", rcx=0x1_1200_0000),
}
"""What a row's leaf stands for: call, the entry's level and state, operands."""

_PAGE_SCENES = {
    "page_aug_4k": "page_aug", "reclaim(teardown)": "reclaim", "sept_add(tdr operand)": "sept_add",
    "range_block(tdr operand)": "range_block", "track(tdr operand)": "track", "vp_enter(tdvpr operand)": "vp_enter",
    "page_add(source operand)": "page_add",
}
_PAGE_OPERAND = {
    "sept_add": ("r8", {}), "page_add": ("r8", dict(op_state=1)), "page_aug_4k": ("r8", {}), "page_aug_2m": ("r8", {}),
    "page_demote": ("r8", {}), "page_relocate": ("r8", {}), "wbinvd": ("rcx", {}), "rdmd": ("rcx", {}),
    "reclaim(teardown)": ("rcx", {}), "sept_add(tdr operand)": ("rdx", {}), "range_block(tdr operand)": ("rdx", {}),
    "track(tdr operand)": ("rcx", {}), "vp_enter(tdvpr operand)": ("rcx", {}),
    "page_add(source operand)": ("r9", dict(op_state=1)),
}
