"""The machine of the recordings of lives, TDs from CREATE to RECLAIM, CACHE.WB, the guest: and its state as text."""
from __future__ import annotations

from typing import Any

from tdpfast._face.seam_module import SeamModule
from tdpfast.conform._seam_rig import OPS, REGISTERS, TDCALLS, TDR, TDVPR, Rig, host_result, number
from tdpfast.conform.result import page_size, times
from tdpfast.seam import LEAVES, TD_PARAMS_PA, td_params

SOURCE = 0x1000_0000
LIST_PA = 0x1000_0000
KOT = {1: ("ASSIGNED", 0), 2: ("FLUSHED", 1), 3: ("FLUSHED", 0), 4: ("RESERVED", 0)}
PAGES = tuple(bytes((14 + 13 * j + 37 * i) & 255 for j in range(256)) * 16 for i in range(16))
"""What PAGE.ADD copies from, page after page from SOURCE."""
VP_STATES = ("UNINITIALIZED", "READY", "ACTIVE")
PARAMS = ("attributes", "xfam", "max_vcpus", "num_l2_vms", "eptp_controls", "config_flags", "tsc_frequency")
GUEST_OPS = (*TDCALLS, "guest_access", "ept_violation", "td_async_exit")
MAX_LEAF = 1 << 16


class LifeRig:
    """One machine, made anew for each record."""

    def __init__(self):
        self.rig = Rig()
        self.vps: dict[int, int] = {}
        self.tdrs: set[int] = set()

    @property
    def module(self) -> SeamModule:
        return self.rig.module

    def build(self, cfg: dict[str, Any]) -> None:
        """A machine `ready` or `td` (TD0, TD1 and three VCPUs as in the sequences)."""
        self.tdrs, self.vps = set(), {}
        if cfg["machine"] == "td":
            self.rig.build(case=None, attributes=number(cfg["attributes"]), **{
                name: cfg[name] for name in ("levels", "gpaw", "op_state", "num_l2", "debug", "nvcpu")})
            self.tdrs, self.vps = set(TDR), dict.fromkeys(TDVPR[:cfg["nvcpu"]], 0)
        elif cfg["machine"] == "ready":
            self.rig.fresh()
        else:
            raise ValueError(f"machine {cfg['machine']!r}")
        self.module.write_memory(SOURCE, b"".join(PAGES))

    # ---- a call

    def call(self, call: dict[str, Any]) -> tuple[str, int, dict[str, Any]]:
        """(name of the answer, RAX, registers)."""
        given = {k: number(v) for k, v in call["in"].items()}
        op, lp = call["op"], call["lp"]
        if "td_params" in call:
            self.module.write_memory(TD_PARAMS_PA, params(call["td_params"]))
        if "hold" in call:
            return self.held(call, given)
        result = self.run(op, lp, call.get("intr_after", -1), given)
        self.note(op, given, result)
        return result

    def run(self, op: str, lp: int, intr_after: int, given: dict[str, Any]) -> tuple[str, int, dict[str, Any]]:
        if op in GUEST_OPS:
            return self.rig.call(op, lp, intr_after, **given)[1:]
        if op.startswith("leaf_"):
            leaf = int(op[5:])
            if not 0 <= leaf < MAX_LEAF:
                raise ValueError(f"leaf {op[5:][:20]}")
        else:
            leaf = LEAVES[OPS[op]]
        registers = {r: given.get(r, 0) for r in REGISTERS}
        rax, *out = self.module.seamcall(leaf, lp, version=given.get("version", 0), intr_after=intr_after, **registers)
        return host_result(op, rax, dict(zip(REGISTERS, out)))[1:]

    def held(self, call: dict[str, Any], given: dict[str, Any]) -> tuple[str, int, dict[str, Any]]:
        """Somebody holds a lock of the module's while the call runs."""
        hold = call["hold"]
        name = hold["lock"]
        self.module.set_lock_word(name, {"exclusive": 1, "shared": 4}[hold["mode"]])
        result = self.run(call["op"], call["lp"], call.get("intr_after", -1), given)
        word = self.module.lock_word(name)
        self.module.set_lock_word(name, 0)
        self.note(call["op"], given, result)
        if word != number(hold.get("word_after", hex(word))):
            return f"lock word {word:#x}", result[1], result[2]
        return result

    def note(self, op: str, given: dict[str, Any], result: tuple[str, int, dict[str, Any]]) -> None:
        """Which TDs and VCPUs there are, for the state at the end."""
        if op in ("mng_create", "vp_create") and result[1] == 0:
            if op == "mng_create":
                self.tdrs.add(given["rcx"])
            else:
                self.vps[given["rcx"]] = 0
        if op == "reclaim" and result[1] == 0:
            self.tdrs.discard(given["rcx"])
            self.vps.pop(given["rcx"], None)

    # ---- the end

    def end(self, want: dict[str, Any]) -> str:
        """The first difference from the recorded end; "" without one."""
        for name, got in (("kot", self.kot()), ("in_td_lps", sorted(self.module.in_guest())),
                          ("wb_resume", self.module.wb_resume())):
            if want.get(name, 0 if name == "wb_resume" else got) != got:
                return f"end: {name}: recorded {want.get(name)}, got {got}"
        for hpa, size, *page in want["pamt"]:
            got = self.pamt(number(hpa), size)
            if got != [page[0], page[1], *page[2:]]:
                return f"end: PAMT {hpa} {size}: recorded {page}, got {got}"
        return self.tds(want["tds"]) or self.end_vps(want.get("vps", []))

    def kot(self) -> dict[str, Any]:
        return {str(i): list(KOT[state]) for i, state in enumerate(self.module.hkids()) if state in KOT and i > 32}

    def pamt(self, hpa: int, size: int) -> list[Any]:
        pt, owner, bepoch, lock = self.module.pamt(hpa, size)
        return [pt, hex(owner), bepoch, lock]

    def tds(self, want: list[Any]) -> str:
        got = set(self.tdrs)
        if {number(td["tdr"]) for td in want} != got:
            return f"end: TDs {[hex(x) for x in got]}, recorded {[td['tdr'] for td in want]}"
        for td in want:
            text = self.td(td)
            if text:
                return f"end: TD {td['tdr']}: {text}"
        return ""

    def td(self, want: dict[str, Any]) -> str:
        got = self.module.td(number(want["tdr"]))
        got |= {"refcount": [got["refcount0"], got["refcount1"]], "gpaw": got["gpaw"]}
        for name in want:
            if name in ("tdr", "sept", "mrtd"):
                continue
            value = number(want[name]) if isinstance(want[name], str) else want[name]
            if got[name] != value:
                return f"{name}: recorded {want[name]}, got {got[name]}"
        if "mrtd" in want and want["mrtd"] != b"".join(word.to_bytes(8, "little") for word in got["mrtd"]).hex():
            return f"MRTD: recorded {want['mrtd']}"
        return self.sept(want) if "sept" in want else ""

    def sept(self, want: dict[str, Any]) -> str:
        tdr = number(want["tdr"])
        entries: set[tuple[int, int, int, int]] = set()
        for e in want["sept"]:
            size = page_size(e["level"])
            for i in times(e.get("count", 1), len(entries)):
                entries.add((e["vm"], number(e["gpa"]) + i * size, e["level"], number(e["raw"]) + i * size))
        got = {(vm, gpa, level, raw) for vm in range(1 + self.module.td(tdr)["num_l2"])
               for gpa, level, raw in self.module.sept(tdr, vm)}
        if got != entries:
            return f"S-EPT: missing {sorted(entries - got)[:3]}, extra {sorted(got - entries)[:3]}"
        return ""

    def end_vps(self, want: list[Any]) -> str:
        for vp in want:
            got = self.module.vp(number(vp["tdvpr"]))
            got |= {"state": VP_STATES[got["state"]], "lp": got["lp"] - 1, "epoch": got["vcpu_epoch"],
                    "epf_gpas": len(got["epf_gpa"])}
            for name in vp:
                if name != "tdvpr" and got[name] != vp[name]:
                    return f"end: VP {vp['tdvpr']}: {name}: recorded {vp[name]}, got {got[name]}"
        return ""


def params(given: dict[str, Any]) -> bytes:
    """TD_PARAMS of a call."""
    fields = {name: number(given[name]) for name in PARAMS if name in given}
    cpuid = {int(i): [number(v) for v in values] for i, values in given.get("cpuid_config", {}).items()}
    out = bytearray(td_params(**fields, cpuid_config=cpuid))
    for offset, value in given.get("poke", []):
        word = number(value)
        for i in range(8):
            if word >> 8 * i & 0xFF:
                out[offset + i] |= word >> 8 * i & 0xFF
    return bytes(out)
