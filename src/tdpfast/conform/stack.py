"""Recorded cases of KVM's MMU, its TDX side and the module run as one, in every design."""

from __future__ import annotations

from tdpfast._seam_api import SeamModule
from tdpfast._tdx_vm import TdVmCore
from tdpfast.conform.mmu import dump_sptes, expand, expand_sptes, first_difference
from tdpfast.conform.names import LEAF_NAMES, PageNames
from tdpfast.conform.result import PASSED, Result, malformed
from tdpfast.design import PRESETS, get_design
from tdpfast.errors import UsageError
from tdpfast.events import EVENT_KINDS, mmu_event, signed, visible
from tdpfast.status import sept_state, status_name

NAME = "stack"
NEEDS = frozenset({"inject", "reenter", "raw", "zero_step", "misuse"})
STATS = ("pages_4k", "pages_2m", "pages_1g", "sp_linked", "sp_live", "vm_bugged", "nx_lpage_splits", "nx_possible",
         "mmio_created")
OPERANDS = {
    "MEM.SEPT.ADD": 3, "MEM.PAGE.AUG": 3, "MEM.PAGE.ADD": 4, "MEM.PAGE.DEMOTE": 3, "MEM.RANGE.BLOCK": 2,
    "MEM.RANGE.UNBLOCK": 2, "MEM.PAGE.REMOVE": 2, "MEM.SEPT.RD": 2, "MEM.SEPT.REMOVE": 2, "MEM.PAGE.PROMOTE": 2,
    "MEM.PAGE.RELOCATE": 3,
}
EPT_VIOLATION = 48
INJECT_LOCKS = ("", "tdr", "op_state", "sept_tree", "epoch", "entry", "pamt_r8", "pamt_page", "pamt_rcx")


def matches(record: dict) -> bool:
    """Operations on a TD: the configuration does not name the MMU's kind."""
    return "ops" in record and isinstance(record.get("cfg"), dict) and "kind" not in record["cfg"]


class Replayer:
    """Runs each case on a fresh TD of the design its `variant` names, or of ``design``."""

    def __init__(self, design=None):
        self.override = None if design is None else get_design(design)

    def replay(self, record: dict) -> Result:
        """Compare one case: operations with SEAMCALLs and events, final state, teardown."""
        unknown = set(record.get("needs", ())) - NEEDS
        if unknown:
            return Result("skipped", "needs " + ", ".join(sorted(unknown)))
        try:
            text = Case(record, self.design_of(record)).difference()
        except UsageError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise malformed("stack case", error) from error
        return Result("failed", text) if text else PASSED

    def design_of(self, record: dict):
        design = self.override
        if design is None:
            variant = record.get("variant", "v7.3" if record.get("release", "7.3") != "6.18" else "v6.18")
            if variant not in PRESETS:
                raise UsageError(f"no design for variant {variant!r}", "not a preset",
                                 "one of " + ", ".join(PRESETS) + ", or --design")
            design = PRESETS[variant]
        cfg = record["cfg"]
        if cfg.get("promo_block") and design.max_level > 1:
            design = design.replace(promo_block=True)
        return design.replace(ungated=True)


def expand_reps(events: list) -> list:
    """["rep", n, steps, group] written out; numbers advance in textual order by their step."""
    out = []
    for event in events:
        if event[0] != "rep":
            out.append(event)
            continue
        _, count, steps, group = event
        for i in range(count):
            out += expand_reps(advance(group, [s * i for s in steps]))
    return out


def advance(group: list, steps: list) -> list:
    """A copy of the group with every number in it moved by its step."""
    rest = iter(steps)

    def move(value):
        if isinstance(value, list):
            return [move(v) for v in value]
        if isinstance(value, dict):
            return {k: move(v) for k, v in value.items()}
        if isinstance(value, bool):
            return value
        if isinstance(value, int):
            return value + step_int(next(rest))
        if isinstance(value, str):
            return move_text(value, rest)
        return value

    return move(group)


def step_int(step) -> int:
    return int(step, 16) if isinstance(step, str) else step


def move_text(text: str, rest) -> str:
    """Hexadecimal strings count as numbers; other strings do not."""
    if text.startswith("0x"):
        step = next(rest)
        return hex((int(text, 16) + step_int(step)) & ((1 << 64) - 1))
    return text


class Case:
    """One recorded case and the TD it runs on."""

    def __init__(self, record: dict, design):
        cfg = record["cfg"]
        self.record = record
        self.design = design
        self.variant = "variant" in record
        module = SeamModule([(0x100000000, 0x200000000)], reserved=[(0x130000000, 0x130400000)],
                            uninitialised=[(0x300000000, 0x340000000)])
        self.vm = TdVmCore(
            design, module, levels=cfg.get("levels", 4), runnable=bool(cfg.get("runnable", 1)),
            pending_ve_disable=bool(cfg.get("pending_ve_disable", 0)), attributes=int(cfg.get("attributes", 0)),
            want_direct=bool(cfg.get("want_direct", 1)), keep_dead=self.variant, livelock_after=8,
            cut_at_next=self.variant)
        self.module = module
        self.vm.set_tracing(True)
        if self.variant:
            self.vm.watch_freed(True)
        self.names = PageNames(self.vm.pages(), self.vm.sept_range)

    def difference(self) -> str | None:
        record = self.record
        for i, (op, res) in enumerate(zip(record["ops"], record["res"], strict=True)):
            text = self.compare_op(op, res)
            if text:
                return f"op {i} {op}: {text}"
            if res["ret"] == "LIVELOCK" and record.get("cont"):
                self.vm.revive()
        if "roots" not in record:
            return None
        return self.compare_state() or self.compare_teardown()

    # ---- operations

    def run(self, op: dict) -> tuple[dict, list]:
        """Runs one operation; its result and its events in the files' form."""
        fields = dict(op)
        for key in ("rcx", "rdx", "r8"):
            if isinstance(fields.get(key), str):
                fields[key] = self.names.address(fields[key])
        got = self.vm.run(fields)
        return got, self.vm.events()

    def compare_op(self, op: dict, res: dict) -> str | None:
        got, records = self.run(op)
        events, parts = self.translate(records, op)
        if self.variant:
            events += self.after_op()
        if op["op"] == "touch":
            return self.compare_touch(op, res, parts, events)
        text = first_difference("ev", self.recorded(res["ev"]), events)
        if text:
            return text
        mine = self.result(op["op"], got)
        for key, value in res.items():
            if key != "ev" and mine.get(key) != value:
                return f"{key}: recorded {value}, got {mine.get(key)}"
        return None

    def recorded(self, events: list) -> list:
        return expand(expand_reps(events))

    def compare_touch(self, op: dict, res: dict, parts: list, tail: list) -> str | None:
        """A touch is up to three operations, each with its own events."""
        subs = res["sub"]
        if len(subs) != len(parts):
            return f"sub: recorded {len(subs)} parts, got {len(parts)}"
        for i, (sub, (what, values, events)) in enumerate(zip(subs, parts)):
            if i == len(parts) - 1:
                events = events + tail
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

    # ---- events

    def translate(self, records: list, op: dict) -> tuple[list, list]:
        """Events in the files' form, and the parts a composed operation was made of."""
        calls = self.vm.seamcalls()
        events: list = []
        parts = []
        for record in records:
            kind = EVENT_KINDS[record[0]]
            if kind == "op_end":
                parts.append((record[3][0], record[3], events))
                events = []
                continue
            event = self.event(kind, record, calls, op)
            if event is not None:
                events.append(event)
        return fold_reclaimed(events), [(w, v, fold_reclaimed(e)) for w, v, e in parts]

    def event(self, kind: str, record: tuple, calls: list, op: dict) -> list | None:
        a = record[3]
        if kind == "seam":
            return self.seam(calls[a[1]], op)
        if kind == "set_ext":
            out = ["set_ext", a[0], a[1], visible(a[2], a[1]), visible(a[3], a[1]), signed(a[4])]
            return [*out, "injected"] if a[5] else out
        if kind == "free_ext":
            out = ["free_ext", a[0], a[1], self.names.name(a[2])]
            return [*out, signed(a[3])] if self.design.name == "patch07" else out
        if kind == "remove_ext":
            return ["rm_ext", a[0], a[1], visible(a[2], a[1])]
        if kind == "req":
            return ["req", "VM_DEAD" if a[0] else "OUTSIDE_GUEST_MODE"]
        if kind in ("kick", "td_exit"):
            return [kind, a[0], f"TDEXIT:reason={a[1] & 0xFFFFFFFF}"]
        if kind in ("wait_for_sept_zap", "keyid_free"):
            return [kind, a[0]]
        if kind == "seamcall_failed":
            return [kind, LEAF_NAMES[a[0]], hex(a[1])]
        if kind in ("reset_paddr", "free_page"):
            return [kind, self.names.name(a[0])]
        if kind == "LIVELOCK":
            return ["LIVELOCK", "frozen child"] if a[0] and self.variant else ["LIVELOCK"]
        if kind == "rcu_free":
            if not self.variant:
                return None
            return ["rcu_free", a[0], a[1], "direct"] if a[2] else ["rcu_free", a[0], a[1]]
        if kind == "uaf":
            return ["uaf", ("read", "write", "cmpxchg", "sp")[a[0]], a[1], a[2], a[3]]
        if kind == "rcu_again":
            return ["rcu_again", a[0], a[1], "freed" if a[2] == 5 else "queued"]
        return mmu_event(record, 703)

    def seam(self, call: tuple, op: dict) -> list:
        """One SEAMCALL: leaf, operands, status, changed registers, and who held what."""
        leaf, lp, inject, status, before, after = call
        name = LEAF_NAMES[leaf]
        count = OPERANDS.get(name, 1)
        operands = [self.operand(name, i, before[i]) for i in range(count)]
        changed = {reg: self.names.name(y) for reg, x, y in zip(("rcx", "rdx", "r8", "r9"), before, after) if x != y}
        if name.startswith("MEM.") and name != "MEM.TRACK":
            changed = {"rcx": self.names.name(after[0]), "rdx": hex(after[1]), **{
                k: v for k, v in changed.items() if k not in ("rcx", "rdx")}}
            changed = {k: v for k, v in changed.items()
                       if before[("rcx", "rdx", "r8", "r9").index(k)] != after[("rcx", "rdx", "r8", "r9").index(k)]}
        text = status_name(status)
        rax = status
        if name == "VP.ENTER" and text == "ENTERED_TD":
            rax = 0
        elif name == "VP.ENTER" and status & 0xFFFFFFFF00000000 == 0 and status:
            text = f"TDEXIT:reason={status & 0xFFFF}"
        out = ["seam", name, operands, text, hex(rax), changed]
        if lp:
            out.append({"lp": lp})
        if inject:
            j = op["inject"][inject - 1]
            out.append({"held": f"{j['lock']}:{j.get('mode', 'ex')}"})
        return out

    def operand(self, name: str, index: int, value: int) -> str:
        if index == 2 and name in ("MEM.SEPT.ADD", "MEM.PAGE.DEMOTE"):
            return self.names.first_use(value)
        return self.names.name(value)

    def after_op(self) -> list:
        """What the instrument looks for after every operation: dangling entries."""
        return [["dangling", level, gfn, state] for level, gfn, state in self.vm.dangling()]

    # ---- state

    def compare_state(self) -> str | None:
        record = self.record
        for what, recorded, got in (("roots", record["roots"], self.vm.roots()),
                                    ("sptes", expand_sptes_dead(record["sptes"]), self.sptes()),
                                    ("sept", expand_sept(record["sept"]), self.sept())):
            text = first_difference(what, recorded, got)
            if text:
                return text
        stats = self.vm.stats()
        for key in STATS:
            if key in record["stats"] and record["stats"][key] != stats[key]:
                return f"stats.{key}: recorded {record['stats'][key]}, got {stats[key]}"
        kvm = self.vm.kvm_state()
        for key, value in record["kvm"].items():
            if kvm.get(key) != value:
                return f"kvm.{key}: recorded {value}, got {kvm.get(key)}"
        return self.compare_pamt(record["pamt"]) or self.compare_tdx(record["tdx"])

    def sptes(self) -> list:
        return dump_sptes(self.vm)

    def sept(self) -> list:
        out = []
        for gpa, level, raw in self.module.sept(self.vm.tdr):
            text = self.names.entry(raw) if sept_state(raw).startswith("NL_") else hex(raw)
            out.append([hex(gpa), level, text, sept_state(raw)])
        return out

    def compare_pamt(self, recorded: list) -> str | None:
        for page, size, pt, owner, bepoch, lock in recorded:
            mine = self.module.pamt(self.names.address(page), size)
            got = [page, size, mine[0], self.names.name(mine[1]) if mine[1] else "-", mine[2], mine[3]]
            want = [page, size, pt, owner if owner not in (0, "0x0") else "-", bepoch, lock]
            if got != want:
                return f"pamt: recorded {want}, got {got}"
        return None

    def compare_tdx(self, recorded: dict) -> str | None:
        td = self.module.td(self.vm.tdr)
        got = {
            "td_epoch": td["td_epoch"], "refcount": [td["refcount0"], td["refcount1"]], "chldcnt": td["chldcnt"],
            "assoc_vcpus": td["assoc_vcpus"], "op_state": td["op_state"], "lifecycle": td["lifecycle"],
            "sept_lock": td["tree_lock"], "op_lock": td["op_lock"], "epoch_lock": td["epoch_lock"],
            "in_guest": self.vm.in_guest(),
        }
        for key, value in got.items():
            if key in recorded and recorded[key] != value:
                return f"tdx.{key}: recorded {recorded[key]}, got {value}"
        return None

    # ---- teardown

    def compare_teardown(self) -> str | None:
        teardown = self.record.get("teardown")
        if not teardown:
            return None
        recorded = list(teardown["steps"])
        for op in self.teardown_ops(teardown["mode"]):
            got, records = self.run(op)
            events, _ = self.translate(records, op)
            if self.variant:
                events += self.after_op()
            if not events:
                continue
            if not recorded:
                return f"teardown {op}: nothing recorded, got {events[0]}"
            step = recorded.pop(0)
            while not step["ev"] and step["op"]["op"] != op["op"] and recorded:
                step = recorded.pop(0)
            if step["op"]["op"] != op["op"]:
                return f"teardown: recorded {step['op']}, got {op} with {events[0]}"
            text = first_difference("ev", self.recorded(step["ev"]), events)
            if text:
                return f"teardown {op}: {text}"
        recorded = [s for s in recorded if s["ev"]]
        if recorded:
            return f"teardown: recorded {recorded[0]['op']} with events, got none"
        return self.compare_leak(teardown)

    def teardown_ops(self, mode: str) -> list[dict]:
        release = [{"op": "release_hkid"}] if mode in ("normal", "no_zap") else []
        zap = [{"op": "unmap", "start": 0, "end": 1 << (39 if self.record["cfg"].get("levels") == 5 else 35)}]
        if "no_zap" in mode:
            zap = []
        return [*({"op": "td_exit", "vcpu": v} for v in self.vm.in_guest()), *zap, *release, {"op": "zap_all"},
                {"op": "vcpu_free", "vcpu": 0}, {"op": "put_roots"}, {"op": "vcpu_free", "vcpu": 1},
                {"op": "vcpu_free", "vcpu": 2}, {"op": "uninit"}, {"op": "vm_destroy"}]

    def compare_leak(self, teardown: dict) -> str | None:
        kvm, stats = self.vm.kvm_state(), self.vm.stats()
        got = {**stats, **kvm}
        for key, value in teardown.get("leak", {}).items():
            if key in got and got[key] != value:
                return f"leak.{key}: recorded {value}, got {got[key]}"
        return None


def guest_result(kind: int, rax: int, out, flags: int, accept: bool) -> dict:
    """What a guest instruction ended with, as the files write it."""
    if kind == 5:
        return {"ret": "NOT_IN_GUEST"}
    if kind == 1:
        return {"ret": "NO_FAULT"}
    if kind == 2:
        return {"ret": "VE_INJECTED", "rax": hex(rax)}
    if kind == 3:
        reason = rax & 0xFFFFFFFF
        text = f"TDEXIT:reason={reason}" if rax >> 32 == 0 else status_name(rax)
        registers = {name: hex(value) for name, value in zip(("rcx", "rdx", "r8"), out) if value}
        return {"ret": text, "rax": hex(rax), "out": registers, "unexpected_pending": flags}
    return {"ret": status_name(rax), "rax": hex(rax)}


def fold_reclaimed(events: list) -> list:
    """A successful RECLAIM with its reset and free of the same page is one event in the files."""
    out: list = []
    i = 0
    while i < len(events):
        e = events[i]
        if (e[0] == "seam" and e[1] == "PHYMEM.PAGE.RECLAIM" and e[3] == "TDX_SUCCESS" and i + 2 < len(events)
                and events[i + 1] == ["reset_paddr", e[2][0]] and events[i + 2] == ["free_page", e[2][0]]):
            out.append(["reclaimed", e[2][0], e[5].get("rcx", "0x0")])
            i += 3
        else:
            out.append(e)
            i += 1
    return out


def expand_sptes_dead(sptes: list) -> list:
    """As expand_sptes(), keeping what the designs' files say of freed tables."""
    out = []
    for entry in sptes:
        if entry[0] == "run" or len(entry) < 6:
            out += expand_sptes([entry])
        else:
            out.append(list(entry))
    return out


def expand_sept(entries: list) -> list:
    """Recorded S-EPT entries with runs of leaves written out."""
    out = []
    for entry in entries:
        gpa, level, raw, state = entry[:4]
        count = entry[4] if len(entry) > 4 else 1
        if count == 1:
            out.append([gpa, level, raw, state])
            continue
        size = 1 << (12 + 9 * level)
        out += [[hex(int(gpa, 16) + i * size), level, hex(int(raw, 16) + i * size), state] for i in range(count)]
    return out
