"""Contention: a lock word held by somebody else, the host's priority, the zero-step filter."""
from __future__ import annotations

from contextlib import suppress

from tdpfast.conform._seam_replay import RigReplayer, compared
from tdpfast.conform._seam_rig import AUX, LEAF, LIFECYCLE, NULL_PA, SOURCE, TDR, TDVPR, Rig, number
from tdpfast.conform._seam_states import prepare
from tdpfast.conform.result import Result
from tdpfast.errors import UsageError

NAME = "seam_locks"
_LP = 1
_TDEL = 1 << 11


def matches(record: dict) -> bool:
    """One of the five kinds of rows."""
    return record.get("kind") in ("baseline", "held", "inferred", "host_priority", "zero_step")


class Replayer(RigReplayer):
    """Replays each row; the host-priority and zero-step rows are one story each."""

    kind = "contention row"

    def _replay(self, row: dict) -> Result:
        return compared(row, getattr(self, "_" + row["kind"])(row))

    # ---- contention

    def _baseline(self, row: dict) -> dict:
        return self._run(row["leaf"])[0]

    def _run(self, leaf: str, lock: str | None = None, held: str = "") -> tuple[dict, dict]:
        """The leaf's call with a lock word held; its outcome, and the word before and after."""
        op, given = self._scene(leaf)
        words = {}
        word = Lock(self.rig, lock, given) if lock else None
        if word:
            word.hold(held)
            words["lock_word_held"] = hex(word.shown())
        lp = _LP if op in ("vp_enter", "vp_flush", "accept", "attr_rd", "attr_wr") else 0
        _, status, rax, _ = self.rig.call(op, lp, **given)
        if word:
            words["lock_word_after"] = hex(word.shown())
        return dict(status=status, rax=hex(rax)), words

    def _scene(self, leaf: str) -> tuple[str, dict]:
        op, level, state, variant, given, before, build = CALLS[leaf]

        def made(rig: Rig) -> None:
            prepare(rig, level, state, variant)
            if before:
                before(rig)

        self.rig.build(made, leaf, **build)
        return op, dict(given)

    def _held(self, row: dict) -> dict:
        got, words = self._run(row["leaf"], row["lock"], row["held"])
        return dict(got, **words)

    def _inferred(self, row: dict) -> dict:
        """Two holds tell the mode: exclusive if a reader is in the way, shared if only a writer is."""
        busy = [got["status"] for got in (self._run(row["leaf"], row["lock"], held)[0]
                                          for held in self._modes(row["lock"]))
                if "BUSY" in got["status"] or "HALT" in got["status"]]
        entry = row["lock"].startswith("SEPT entry")
        takes = ("none", "exclusive" if entry else "shared", "exclusive")[len(busy)]
        return dict(takes=takes, busy_status=busy[0] if busy else None)

    def _modes(self, lock: str) -> tuple[str, ...]:
        return ("exclusive",) if lock.startswith("SEPT entry") else ("shared", "exclusive")

    # ---- stories

    def _host_priority(self, row: dict) -> dict:
        return PRIORITY[next(text for text in PRIORITY if row["step"].startswith(text))](self, row)

    def _entry(self) -> str:
        return hex(self.rig.module.walk(TDR[0], 0, 0)[0])

    def _entry_bits(self, clear: int, bits: int) -> dict:
        raw = self.rig.module.walk(TDR[0], 0, 0)[0]
        self.rig.module.set_entry(TDR[0], 0, 0, raw & ~clear | bits)
        return dict(entry=self._entry())

    def _start_priority(self, row: dict) -> dict:
        def made(rig: Rig) -> None:
            prepare(rig, 0, "PENDING")
            rig.must("vp_enter", _LP, rcx=TDVPR[0])

        self.rig.build(made, "priority")
        return self._entry_bits(0, _TDEL)

    def _accept(self, row: dict, expired: int = 0) -> dict:
        self.rig.module.set_vp(TDVPR[0], hp_expired=expired)
        result, status, rax, out = self.rig.call("accept", _LP, rcx=0)
        got = dict(res=result, status=status, rax=hex(rax), entry=self._entry())
        if "hp_lock_busy" in row:
            got["hp_lock_busy"] = hex(self.rig.module.vp(TDVPR[0])["hp_busy"])
        if result == "vmm":
            got.update(rcx=hex(out["rcx"]), rdx=hex(out["rdx"]))
            self.rig.must("vp_enter", _LP, rcx=TDVPR[0])
        return got

    def _host(self, op: str) -> dict:
        result, status, rax, _ = self.rig.call(op, rcx=0, rdx=TDR[0])
        return dict(res=result, status=status, rax=hex(rax), entry=self._entry())

    def _pamt_priority(self, op: str, lock: int) -> dict:
        self.rig.build(lambda rig: prepare(rig, 0, "BLOCKED", "tracked"), "pamt priority")
        self.rig.module.set_pamt(LEAF[0], lock=lock)
        given = dict(rcx=LEAF[0]) if op == "rdmd" else dict(rcx=0, rdx=TDR[0])
        result, status, rax, _ = self.rig.call(op, **given)
        return dict(res=result, status=status, rax=hex(rax), pamt_lock=hex(self.rig.module.pamt(LEAF[0])[3]))

    def _zero_step(self, row: dict) -> dict:
        return ZERO_STEP[next(text for text in ZERO_STEP if row["step"].startswith(text))](self, row)

    def _violation(self, row: dict) -> dict:
        if "#1" in row["step"]:
            self.rig.build(lambda rig: prepare(rig, 0, "FREE"), "zero step")
            self.rig.must("vp_enter", _LP, rcx=TDVPR[0])
            self.rig.module.guest_access(_LP, 0, False)
        else:
            self.rig.module.guest_access(_LP, 0, True)
        vp = self.rig.module.vp(TDVPR[0])
        return dict(status="TDEXIT:reason=48", possibly_epf_stepping=vp["epf_count"],
                    last_epf_gpa_list_idx=len(vp["epf_gpa"]))

    def _enter(self, row: dict, tree: int = 0) -> dict:
        self.rig.module.set_td(TDR[0], tree_lock=tree)
        _, status, rax, out = self.rig.call("vp_enter", _LP, rcx=TDVPR[0])
        out = out or dict(rcx=TDVPR[0], r8=0)
        td = self.rig.module.td(TDR[0])
        got = dict(status=status, rax=hex(rax), rcx=hex(out["rcx"]), r8=hex(out["r8"]),
                   ref=[td["refcount0"], td["refcount1"]], sept_lock_after=td["tree_lock"])
        self.rig.module.set_td(TDR[0], tree_lock=0)
        return {name: got[name] for name in got if name in row}

    def _enter_after_aug(self, row: dict) -> dict:
        self.rig.must("mem_page_aug", rcx=0, rdx=TDR[0], r8=AUX)
        return self._enter(row)

    def _enter_mapped(self, row: dict, tree: int = 0) -> dict:
        self.rig.module.set_entry(TDR[0], 0, 0, AUX | 0x8000_0000_0000_00F7)
        return self._enter(row, tree)


class Lock:
    """A lock word as the recordings name it."""

    def __init__(self, rig: Rig, name: str, given: dict):
        self.module = rig.module
        self.kind, self.where = self._find(name, given)

    def _find(self, name: str, given: dict):
        if name.startswith("TDCS") or name == "TD epoch":
            return "td", {"TDCS OP_STATE": "op_lock", "TDCS SEPT tree": "tree_lock", "TD epoch": "epoch_lock"}[name]
        if name.startswith("SEPT entry"):
            return "entry", self._entry_of(name, given)
        size = 2 if "1G" in name else 1 if "2M" in name else 0
        return "pamt", (self._page_of(name, given), size)

    def _entry_of(self, name: str, given: dict):
        level = given.get("rcx", 0) & 7
        if "child" not in name:
            return 0, level if given.get("rcx", 0) < 1 << 32 else 0
        return number(name.split("@")[1].rstrip(")")), level - 1

    def _page_of(self, name: str, given: dict) -> int:
        if name.startswith("TDR") or "block 0" in name:
            return TDR[0]
        if name.startswith("TDVPR"):
            return TDVPR[0]
        if "operand" in name:
            return given["r8"] if "r8" in given else given["rcx"]
        if "large page" in name or "first small page" in name:
            return LEAF[given["rcx"] & 7]
        if given["rcx"] >= 1 << 32:
            return given["rcx"]
        raw, _ = self.module.walk(TDR[0], 0, given["rcx"] & 7)
        return raw & 0x000F_FFFF_FFFF_F000

    def read(self) -> int:
        if self.kind == "td":
            with suppress(UsageError):      # the call reclaimed the TDR; nobody can have touched its locks since
                self.word = self.module.td(TDR[0])[self.where]
            return self.word
        if self.kind == "pamt":
            return self.module.pamt(*self.where)[3]
        return self.module.walk(TDR[0], *self.where)[0]

    def shown(self) -> int:
        """The word; of an S-EPT entry its lock and host-priority bits."""
        word = self.read()
        return (word >> 11 & 1) | (word >> 52 & 1) << 1 if self.kind == "entry" else word

    def hold(self, mode: str) -> None:
        word = self.read()
        if self.kind == "entry":
            gpa, level = self.where
            self.module.set_entry(TDR[0], gpa, level, word | _TDEL)
        elif self.kind == "pamt":
            self.module.set_pamt(*self.where, lock=1 if mode == "exclusive" else word + 4)
        else:
            step = 4 if self.where == "op_lock" else 2
            self.module.set_td(TDR[0], **{self.where: 1 if mode == "exclusive" else word + step})


PRIORITY = {
    "TDEL held": lambda self, row: self._start_priority(row),
    "guest ACCEPT while": lambda self, row: self._accept(row),
    "host RANGE.BLOCK": lambda self, row: self._host("range_block"),
    "TDEL released": lambda self, row: self._entry_bits(_TDEL, 0),
    "guest ACCEPT with TDHP": lambda self, row: self._accept(row),
    "same with HP_LOCK_TIMEOUT": lambda self, row: self._accept(row, 1),
    "host SEPT.RD": lambda self, row: self._host("sept_rd"),
    "guest ACCEPT now": lambda self, row: self._accept(row),
    "PAMT entry held shared": lambda self, row: self._pamt_priority("page_remove", 4),
    "reader gone": lambda self, row: self._pamt_priority("rdmd", 2),
    "word=2": lambda self, row: self._pamt_priority("page_remove", 2),
}
ZERO_STEP = {
    "EPT violation": lambda self, row: self._violation(row),
    "VP.ENTER after PAGE.AUG": lambda self, row: self._enter_after_aug(row),
    "VP.ENTER after the entry": lambda self, row: self._enter_mapped(row),
    "VP.ENTER after": lambda self, row: self._enter(row),
    "VP.ENTER with": lambda self, row: self._enter(row, 2),
    "entry MAPPED": lambda self, row: self._enter_mapped(row, 1),
}


def _enter(rig: Rig) -> None:
    rig.must("vp_enter", _LP, rcx=TDVPR[0])


def _teardown(rig: Rig) -> None:
    rig.module.set_td(TDR[0], lifecycle=LIFECYCLE["TD_TEARDOWN"])


def _no_children(rig: Rig) -> None:
    _teardown(rig)
    rig.module.set_td(TDR[0], chldcnt=0)


def _zero_stepping(rig: Rig) -> None:
    """Seven faults at one RIP on a page that is there now."""
    raw, _ = rig.module.walk(TDR[0], 0, 0)
    rig.module.set_entry(TDR[0], 0, 0, 0x80E0_0000_0000_0000)
    for i in range(7):
        rig.must("vp_enter", _LP, rcx=TDVPR[0])
        rig.module.guest_access(_LP, 0, i > 0)
    rig.module.set_entry(TDR[0], 0, 0, raw)


def _associate(rig: Rig) -> None:
    _enter(rig)
    rig.module.td_async_exit(_LP)


def _call(op, level, state, variant=None, given=None, before=None, **build):
    given = dict(rcx=level, rdx=TDR[0], **(given or {})) if op[:2] in ("se", "pa", "ra") else given or {}
    return op, level, state, variant, given, before, build


_L2 = dict(r9=NULL_PA, r10=NULL_PA, r11=NULL_PA)
_VP = dict(rcx=TDVPR[0])
CALLS = {
    "TDH.MEM.SEPT.ADD": _call("sept_add", 1, "FREE", None, dict(r8=AUX, **_L2)),
    "TDH.MEM.SEPT.ADD#v1null": _call("sept_add", 1, "NL_MAPPED", ["empty", None],
                                     dict(r8=NULL_PA, version=1, **_L2)),
    "TDH.MEM.SEPT.RD": _call("sept_rd", 0, "PENDING"),
    "TDH.MEM.SEPT.REMOVE": _call("sept_remove", 1, "NL_BLOCKED", ["empty", "tracked"]),
    "TDH.MEM.PAGE.ADD": _call("page_add", 0, "FREE", None, dict(r8=AUX, r9=SOURCE), op_state=1),
    "TDH.MEM.PAGE.AUG#4K": _call("page_aug", 0, "FREE", None, dict(r8=AUX)),
    "TDH.MEM.PAGE.AUG#2M": _call("page_aug", 1, "FREE", None, dict(r8=AUX)),
    "TDH.MEM.PAGE.REMOVE#4K": _call("page_remove", 0, "BLOCKED", "tracked"),
    "TDH.MEM.PAGE.REMOVE#2M": _call("page_remove", 1, "BLOCKED", "tracked"),
    "TDH.MEM.PAGE.DEMOTE#2M": _call("page_demote", 1, "BLOCKED", "tracked", dict(r8=AUX, **_L2)),
    "TDH.MEM.PAGE.DEMOTE#1G": _call("page_demote", 2, "BLOCKED", "tracked", dict(r8=AUX, **_L2)),
    "TDH.MEM.PAGE.PROMOTE#2M": _call("page_promote", 1, "NL_BLOCKED", ["512pending", "tracked"]),
    "TDH.MEM.PAGE.PROMOTE#1G": _call("page_promote", 2, "NL_BLOCKED", ["512pending", "tracked"]),
    "TDH.MEM.PAGE.RELOCATE": _call("page_relocate", 0, "BLOCKED", "tracked", dict(r8=AUX)),
    "TDH.MEM.RANGE.BLOCK#leaf": _call("range_block", 0, "MAPPED"),
    "TDH.MEM.RANGE.BLOCK#nl": _call("range_block", 1, "NL_MAPPED", ["leaf_child", None]),
    "TDH.MEM.RANGE.UNBLOCK#leaf": _call("range_unblock", 0, "BLOCKED", "tracked"),
    "TDH.MEM.RANGE.UNBLOCK#nl": _call("range_unblock", 1, "NL_BLOCKED", ["empty", "tracked"]),
    "TDH.MEM.TRACK": _call("track", 0, "FREE", None, dict(rcx=TDR[0])),
    "TDH.PHYMEM.PAGE.RECLAIM#page": _call("reclaim", 0, "MAPPED", None, dict(rcx=LEAF[0]), _teardown),
    "TDH.PHYMEM.PAGE.RECLAIM#tdr": _call("reclaim", 0, "FREE", None, dict(rcx=TDR[0]), _no_children),
    "TDH.PHYMEM.PAGE.RDMD": _call("rdmd", 0, "MAPPED", None, dict(rcx=LEAF[0])),
    "TDH.PHYMEM.PAGE.WBINVD": _call("wbinvd", 0, "FREE", None, dict(rcx=AUX)),
    "TDH.VP.ENTER": _call("vp_enter", 0, "FREE", None, _VP),
    "TDH.VP.ENTER#zerostep": _call("vp_enter", 0, "MAPPED", None, _VP, _zero_stepping),
    "TDH.VP.FLUSH": _call("vp_flush", 0, "FREE", None, _VP, _associate),
    "TDG.MEM.PAGE.ACCEPT#4K": _call("accept", 0, "PENDING", None, dict(rcx=0), _enter),
    "TDG.MEM.PAGE.ACCEPT#2M": _call("accept", 1, "PENDING", None, dict(rcx=1), _enter),
    "TDG.MEM.PAGE.ATTR.RD": _call("attr_rd", 0, "MAPPED", None, dict(rcx=0), _enter),
    "TDG.MEM.PAGE.ATTR.WR": _call("attr_wr", 0, "MAPPED", None, dict(rcx=0), _enter),
}
"""Leaf and scenario -> call, entry, operands, what happens before, machine."""
