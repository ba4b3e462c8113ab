"""Recorded cases of KVM's MMU, its TDX side and the module run as one, in every design."""

from __future__ import annotations

from collections.abc import Iterator

from tdpfast._arguments import check_u64
from tdpfast._face.seam_module import SeamModule
from tdpfast._face.td import TdVmCore
from tdpfast.conform._stack_end import TDMR, End
from tdpfast.conform._stack_events import Translator
from tdpfast.conform._stack_text import expand_reps, guest_result
from tdpfast.conform.mmu import expand, first_difference, proving
from tdpfast.conform.names import PageNames
from tdpfast.conform.result import BAD_FIELD, PASSED, Result, flag, malformed, needs
from tdpfast.design import DISPATCH_PATCH07, DISPATCH_SINGLE, PRESETS, Design, get_design
from tdpfast.errors import UsageError
from tdpfast.events import signed, visible
from tdpfast.status import status_name

NAME = "stack"
NEEDS = frozenset({"inject", "reenter", "raw", "zero_step", "misuse", "hook", "no_hkid"})
RECORDED_DEFAULTS = {"age": {"filter": 2}, "test_age": {"filter": 2}}
"""What the recordings mean by fields that they leave out, where scenarios mean something else."""
GUEST_OPS = frozenset({"accept", "guest_access", "touch"})
# The TD's HKID, and the instrument's rules: that many identical failing hook calls, or spins on a frozen child, are a
# livelock.
HKID = 33
LIVELOCK_AFTER = 8
LIVELOCK_SPINS = 100_000


def matches(record: dict) -> bool:
    """Operations on a TD: the configuration does not name the MMU's kind."""
    return "ops" in record and isinstance(record.get("cfg"), dict) and "kind" not in record["cfg"]


class Replayer:
    """Runs each case on a fresh TD of the design its `variant` names, or of ``design``."""

    def __init__(self, design: str | Design | None = None):
        self.override = None if design is None else get_design(design)

    def replay(self, record: dict) -> Result:
        """Compare one case: operations with SEAMCALLs and events, final state, teardown."""
        if skipped := needs(record, NEEDS):
            return skipped
        try:
            text = Case(record, self.design_of(record)).difference()
        except UsageError:
            raise
        except BAD_FIELD as error:
            raise malformed("stack case", error) from error
        return Result("failed", text) if text else PASSED

    def design_of(self, record: dict) -> Design:
        design = self.override
        if design is None:
            variant = record.get("variant", f"v{record.get('release', '7.3')}")
            if not isinstance(variant, str) or variant not in PRESETS:
                raise UsageError(f"no design for variant {variant!r}", "not a preset",
                                 "one of " + ", ".join(PRESETS) + ", or --design")
            design = PRESETS[variant]
        cfg = record["cfg"]
        if flag(cfg, "promo_block") and design.dispatch == DISPATCH_SINGLE:
            design = design.replace(promo_block=True)
        return proving(design, record).replace(ungated=True)


class Case:
    """One recorded case and the TD it runs on."""

    def __init__(self, record: dict, design: Design):
        cfg = record["cfg"]
        self.record = record
        self.design = design
        self.variant = "variant" in record
        module = SeamModule([(TDMR.start, TDMR.stop)], reserved=[(0x130000000, 0x130400000)],
                            uninitialised=[(0x300000000, 0x340000000)])
        self.vm = TdVmCore(
            design, module, levels=cfg.get("levels", 4), runnable=flag(cfg, "runnable", 1),
            pending_ve_disable=flag(cfg, "pending_ve_disable"),
            attributes=check_u64("attributes", cfg.get("attributes", 0)),
            want_direct=flag(cfg, "want_direct", 1), keep_dead=self.variant, livelock_after=LIVELOCK_AFTER,
            cut_at_next=self.variant, spin_limit=LIVELOCK_SPINS)
        self.module = module
        self.vm.set_tracing(True)
        if self.variant:
            self.vm.watch_freed(True)
        self.names = PageNames(self.vm.pages(), self.vm.sept_range)
        self.translator = Translator(self.vm, self.names, self.variant, design.dispatch == DISPATCH_PATCH07)
        self.end = End(record, self.vm, module, self.names, self.translator.pages)

    def difference(self) -> str | None:
        record = self.record
        for i, (op, res) in enumerate(zip(record["ops"], record["res"], strict=True)):
            text = self.compare_op(op, res) if not self.vm.ended else "the case ended before"
            if text:
                return f"op {i} {op}: {text}"
            if res["ret"] == "LIVELOCK" and flag(record, "cont"):
                self.vm.revive()
        return self.end.difference() or self.compare_teardown()

    # ---- operations

    def run(self, op: dict) -> tuple[dict, list]:
        """Runs one operation; its result and its events in the files' form."""
        if op["op"] == "set_hkid":
            self.vm.set_hkid(op.get("hkid", HKID))
            return {"ret": 0}, []
        fields = RECORDED_DEFAULTS.get(op["op"], {}) | op
        for key in ("rcx", "rdx", "r8"):
            if isinstance(fields.get(key), str):
                fields[key] = self.names.address(fields[key])
        got = self.vm.run(fields)
        return got, self.vm.events()

    def compare_op(self, op: dict, res: dict) -> str | None:
        got, records = self.run(op)
        events, parts = self.translator.translate(records, op)
        if op["op"] == "touch":
            return self.compare_touch(res, parts) or self.compare_used(res, got)
        if op["op"] not in GUEST_OPS:
            events += self.after_op()
        text = first_difference("ev", self.recorded(res["ev"]), events)
        if text:
            return text
        mine = self.result(op["op"], got)
        for key, value in res.items():
            if key != "ev" and mine.get(key) != value:
                return f"{key}: recorded {value}, got {mine.get(key)}"
        return None

    def recorded(self, events: list) -> Iterator[list]:
        return self.names.own(expand(expand_reps(events)))

    def compare_used(self, res: dict, got: dict) -> str | None:
        """How often the injections and hook rules of a composed operation acted."""
        for key in ("inject_used", "hook_used"):
            if key in res and res[key] != got.get(key):
                return f"{key}: recorded {res[key]}, got {got.get(key)}"
        return None

    def compare_touch(self, res: dict, parts: list) -> str | None:
        """A touch is up to three operations, each with its own events."""
        subs = res["sub"]
        if len(subs) != len(parts):
            return f"sub: recorded {len(subs)} parts, got {len(parts)}"
        for i, (sub, (what, values, events)) in enumerate(zip(subs, parts)):
            text = first_difference(f"sub[{i}].ev", self.recorded(sub["ev"]), events)
            if text:
                return text
            mine = self.part_result(what, values)
            for key, value in sub.items():
                if key not in ("ev", "inject_used") and mine.get(key) != value:
                    return f"sub[{i}].{key}: recorded {value}, got {mine.get(key)}"
        return None

    def part_result(self, what: int, values: tuple) -> dict:
        flags, level, tries = values[7] >> 32, values[7] >> 16 & 0xFFFF, values[7] & 0xFFFF
        if what == 0:
            return guest_result(values[6], values[2], values[3:6], flags, False)
        if what == 1:
            return {"ret": signed(values[1]), "level": level, "tries": tries}
        return {"ret": signed(values[1])}

    def result(self, name: str, got: dict) -> dict:
        """A result of the core as the files write it."""
        if name in ("accept", "guest_access") and got["ret"] not in ("BUG", "LIVELOCK"):
            return guest_result(got["kind"], got["rax"], got["out"], got["flags"], name == "accept")
        if name == "raw":
            return {"ret": status_name(got["rax"])}
        out = dict(got)
        if name == "finalize":
            out["hw_error"] = hex(got["rax"])
        if "sptes" in got:
            out["sptes"] = {str(level): visible(spte, level) for level, spte in sorted(got["sptes"].items(),
                                                                                       reverse=True)}
            if got["ret"] > 0:
                out["sptes"] = {k: v for k, v in out["sptes"].items() if int(k) >= got["ret"]}
        return out

    def after_op(self) -> list:
        """What the designs' instrument looks for after every operation but a guest's: dangling entries."""
        if not self.variant:
            return []
        return [["dangling", level, gfn, state] for level, gfn, state in self.vm.dangling()]

    def compare_teardown(self) -> str | None:
        teardown = self.record.get("teardown")
        if not teardown:
            return None
        recorded = list(teardown["steps"])
        for op in self.end.teardown_ops(teardown["mode"]):
            if self.vm.ended:
                break
            self.end.note_epoch()
            got, records = self.run(op)
            events, _ = self.translator.translate(records, op)
            events += self.after_op()
            step = recorded.pop(0) if recorded and recorded[0]["op"] == op else {"ret": None, "ev": []}
            text = first_difference("ev", self.recorded(step["ev"]), events)
            if text:
                return f"teardown {op}: {text}"
            if step["ret"] not in (None, got["ret"]):
                return f"teardown {op}: ret: recorded {step['ret']}, got {got['ret']}"
        if recorded:
            return f"teardown: recorded {recorded[0]['op']}, which did not run"
        return self.end.compare_left(teardown)
