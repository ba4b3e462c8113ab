"""Scenarios and designs drawn from a seed, over all operations of `OPS`, all modifiers, presets and knobs.

Each operation is drawn as often as every other, and each of its fields from what may matter to that field: a field that
a new operation brings has to be named here, or drawing it is a KeyError.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable
from typing import Any

from tdpfast._face.seam_module import SeamModule
from tdpfast._face.td import TdVmCore
from tdpfast.check import MEMORY
from tdpfast.design import PRESETS, Design
from tdpfast.errors import UsageError
from tdpfast.ops import OPS
from tdpfast.scenario import Scenario, parse

FIRST = 0x200                    # of the gfns: three in one table, one in the next
GFNS = (FIRST, FIRST, FIRST + 1, FIRST + 3, FIRST + 0x200)
RANGES = ((FIRST, FIRST + 1), (FIRST + 1, FIRST + 2), (FIRST, FIRST + 2), (FIRST, FIRST + 0x201))
PRIVATE, SHARED = 0x140000, 0x180000        # pfn of gfn 0
LEAVES = ("MEM.TRACK", "MEM.RANGE.BLOCK", "MEM.RANGE.UNBLOCK", "MEM.PAGE.REMOVE", "MEM.PAGE.AUG", "MR.FINALIZE",
          "MEM.SEPT.RD", "MEM.PAGE.PROMOTE")
BUSY = (("MEM.PAGE.AUG", "sept_tree"), ("MEM.PAGE.AUG", "entry"), ("MEM.PAGE.AUG", "pamt_r8"),
        ("MEM.PAGE.AUG", "op_state"), ("MEM.SEPT.ADD", "sept_tree"), ("MEM.SEPT.ADD", "entry"),
        ("MEM.RANGE.BLOCK", "entry"), ("MEM.TRACK", "epoch"), ("MEM.PAGE.REMOVE", "sept_tree"),
        ("MEM.PAGE.REMOVE", "entry"), ("MEM.PAGE.REMOVE", "pamt_page"), ("MEM.PAGE.DEMOTE", "sept_tree"),
        ("VP.ENTER", "op_state"))
LEVELS = {"map": (1, 1, 1, 2), "accept": (0, 0, 1), "guest_accept": (0, 0, 1), "zap_nx_sp": (2,), "poke_raw": (1, 1, 2)}
CHOICES: dict[str, tuple[int, ...]] = {
    "write": (0, 1, 1), "retries": (-1, -1, 1, 0), "filter": (1, 2, 2, 3), "types": (2, 4, 6), "min_level": (1, 1, 2),
    "target_level": (1, 1, 2), "max_level": (2, 2, 3), "mask": (1, 3), "set": (0x200,), "clear": (2, 0), "gen": (3,),
    "value": (0, 1), "tries": (1, 3, -1), "src": (0x10000000,), "vcpu": (0, 1), "noslot": (0, 0, 0, 1),
    "prefetch": (0, 0, 1), "map_writable": (1, 1, 0), "private": (1, 1, 0), "exec": (0, 1), "user": (0, 1),
    "slot": (-1, -1, 0), "guest_mode": (0, 0, 1), "smm": (0,), "version": (0, 0, 1), "to_zap": (1, 1, 2)}
FLAGS = frozenset({"flush", "may_block", "shared", "wrprot", "present", "on", "rcu", "same_rip", "measure", "pinned"})
SELDOM_KNOBS = 0.3               # of the designs have a knob replaced


@functools.cache
def tdr() -> int:
    """Where a scenario's TD has its TDR."""
    return TdVmCore(PRESETS["v7.3"], SeamModule([MEMORY]), nvcpus=2, memory_pages=64).tdr


class Generator:
    """What one seed gives. Everything is drawn from one source, so a seed names a scenario for good."""

    def __init__(self, seed: int):
        self.rng = random.Random(f"generate/{seed}")

    def some(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def operation(self, name: str, vcpu: int, tdx: bool = True) -> dict[str, Any]:
        """One operation with fields that go together; what is left out has its default."""
        op: dict[str, Any] = {"op": name}
        gfn = self.some(*GFNS)
        fields = OPS[name].fields
        private = self.some(1, 1, 1, 0) if tdx and "private" in fields else int(tdx)
        low, high = self.some(*RANGES)
        place: dict[str, Callable[[], int]] = {
            "gfn": lambda: gfn, "gpa": lambda: gfn << 12, "pfn": lambda: (PRIVATE if private else SHARED) + gfn,
            "start": lambda: low, "end": lambda: high, "private": lambda: private, "vcpu": lambda: vcpu,
            "level": lambda: self.some(*LEVELS.get(name, (1, 1, 2))), "rdx": tdr,
            "r8": lambda: PRIVATE + gfn << 12}
        for field in fields:
            if field in ("leaf", "rcx") or (tdx and field == "guest_mode"):
                continue
            if field in place:
                op[field] = place[field]()
            elif self.rng.random() < 0.7:
                op[field] = self.some(0, 1) if field in FLAGS else self.some(*CHOICES[field])
        if name == "raw":
            op["leaf"] = self.some(*LEAVES)
            op["rcx"] = tdr() if op["leaf"] in ("MEM.TRACK", "MR.FINALIZE") else gfn << 12 | self.some(0, 0, 1)
        return op

    def modified(self, op: dict[str, Any]) -> dict[str, Any]:
        """At times an operation meets a busy module, an interrupt, a failing hook, a CPU wanted elsewhere."""
        dice = self.rng.random()
        if dice < 0.10:
            leaf, lock = self.some(*BUSY)
            op["inject"] = [{"leaf": leaf, "lock": lock, "mode": self.some("ex", "sh"), "skip": self.some(0, 0, 1),
                             "count": self.some(1, 1, 2), "until_kick": self.some(0, 0, 1)}]
        elif dice < 0.18:
            op["hook"] = [{"hook": self.some("set", "set", "free"), "skip": self.some(0, 0, 1), "count": 1,
                           "ret": self.some(-16, -16, -5)}]
        elif dice < 0.21:
            op["enomem"] = [{"what": self.some("table", "sept", "pamt"), "skip": self.some(0, 0, 1)}]
        elif dice < 0.29:
            op["resched"] = self.some(1, 2)
            op["gp_at_yield"] = self.some(0, 0, 1)
        return op

    def setup(self, runnable: bool) -> list[dict[str, Any]]:
        def page(private: int) -> dict[str, Any]:
            gfn = self.some(*GFNS)
            return {"op": "map", "gfn": gfn, "pfn": (PRIVATE if private else SHARED) + gfn, "private": private,
                    "level": self.some(1, 1, 2), "retries": -1}

        if not runnable:
            return [{"op": "populate", "gfn": gfn, "pfn": PRIVATE + gfn, "src": 0x10000000}
                    for gfn in self.rng.sample((FIRST, FIRST + 1), self.some(0, 1, 1))]
        ops = [page(1) for _ in range(self.some(0, 1, 1, 2))] + [page(0) for _ in range(self.some(0, 0, 1))]
        if self.rng.random() < 0.3:
            ops.append({"op": "vp_enter", "vcpu": 0})
        return ops

    def plain(self) -> dict[str, Any]:
        """The same without TDX: L2 at times, small executable pages, dirty logging."""
        names = [name for name, spec in OPS.items() if not spec.td_only]
        maps = [{"op": "map", "gfn": gfn, "pfn": SHARED + gfn, "exec": self.some(0, 1),
                 "guest_mode": self.some(0, 0, 1)}
                for gfn in self.rng.sample((FIRST, FIRST + 1), self.some(1, 2))]
        return {"name": "plain", "vm": {"tdx": 0, "pml": self.some(0, 1), "nx_huge_pages": self.some(0, 1)},
                "setup": maps, "thread": [{"ops": [self.operation(self.some(*names), 0, tdx=False)
                                                   for _ in range(self.some(1, 1, 2))]} for _ in range(2)]}

    def scenario(self) -> Scenario:
        """Two or three threads of one or two operations each."""
        while True:
            if self.rng.random() < 0.1:
                try:
                    return parse(self.plain(), "plain")
                except UsageError:
                    continue
            runnable = self.rng.random() < 0.8
            record = {
                "name": "random", "vm": {"runnable": int(runnable), "levels": self.some(4, 4, 4, 5),
                                         "pending_ve_disable": self.some(0, 0, 0, 0, 1)},
                "setup": self.setup(runnable),
                "thread": [{"ops": [self.modified(self.operation(self.some(*OPS), min(n, 1)))
                                    for _ in range(self.some(1, 1, 2))]} for n in range(self.some(2, 2, 3))]}
            try:
                return parse(record, "random")
            except UsageError:               # fields that do not go together
                continue

    def design(self) -> Design:
        """A preset, gated or not, at times with dynamic PAMT or a knob of any kind replaced."""
        knobs = [field for field in dataclasses.fields(Design) if field.type == "bool" and field.name != "ungated"]
        while True:
            design = PRESETS[self.some(*PRESETS)].replace(ungated=self.some(False, True))
            try:
                if self.rng.random() < 0.15:
                    design = design.replace(ungated=False, dynamic_pamt=True)
                if self.rng.random() < SELDOM_KNOBS:
                    knob = self.some(*knobs).name
                    design = design.replace(**{knob: not getattr(design, knob)})
            except UsageError:               # knobs that mean nothing together
                continue
            return design
