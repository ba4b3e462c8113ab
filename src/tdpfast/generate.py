"""Generated scenarios: pairs and triples of operations around one gfn, numbered, the same ones for the same seed.

A scenario is a point of a product: which operations run beside one another, how their gfns lie (the same one, another
in the same table, one under the neighbour table), what the tables look like before (fresh, linked, a leaf, huge),
what goes wrong once (nothing, a busy lock of the module, an interrupt, a hook that fails, a walk that yields), and
whether a vCPU is in the guest. Number n of a seed is drawn by that pair alone, so that runs can be cut up, resumed and
repeated; small ones come first.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tdpfast._arguments import check_int, one_of, shown
from tdpfast.errors import UsageError
from tdpfast.scenario import Scenario, Thread

FIRST = 0x200                # the gfn around which things happen
PFN = 0x140000               # host frames of private memory, at the gfn's own place
SHARED_PFN = 0x180000
NEAR = {"same": 0, "table": 1, "neighbour": 0x200}
"""How the gfns of two threads lie: relation -> distance."""
Op = dict[str, object]


def fault(gfn: int, level: int = 1) -> Op:
    """A private fault that is retried until it is done."""
    return {"op": "map", "gfn": gfn, "pfn": PFN + gfn, "level": level, "private": 1, "write": 1, "retries": -1}


def span(op: str, gfn: int, pages: int = 1, **fields: object) -> Op:
    return {"op": op, "start": gfn, "end": gfn + pages, **fields}


VCPU: Mapping[str, Callable[[int, int], Op]] = {
    "fault": lambda gfn, n: fault(gfn),
    "fault-2m": lambda gfn, n: fault(gfn & ~0x1ff, 2),
    "touch": lambda gfn, n: {"op": "touch", "vcpu": n, "gfn": gfn, "pfn": PFN + gfn, "retries": -1},
    "accept": lambda gfn, n: {"op": "guest_accept", "vcpu": n, "gpa": gfn << 12, "pfn": PFN + gfn, "level": 1},
    "walk": lambda gfn, n: {"op": "mwalk", "gfn": gfn},
    "enter": lambda gfn, n: {"op": "vp_enter", "vcpu": n},
}
"""What a vCPU does, by name: function(gfn, vCPU) -> operation."""
GUEST = ("touch", "accept")
"""Those of them that run guest code: their vCPU is in the guest before."""
HOST: Mapping[str, Callable[[int, int], Op]] = {
    "unmap": lambda gfn, n: span("unmap", gfn, filter=2),
    "unmap-2m": lambda gfn, n: span("unmap", gfn & ~0x1ff, 0x200, filter=2),
    "zap-leafs": lambda gfn, n: span("zap_leafs", gfn),
    "zap-all": lambda gfn, n: {"op": "zap_all"},
    "convert": lambda gfn, n: span("gmem_convert", gfn),
    "age": lambda gfn, n: span("age", gfn, filter=1),
    "zap-leaf-shared": lambda gfn, n: {"op": "zap_spte", "gfn": gfn, "level": 1, "shared": 1, "tries": 1},
    "zap-table-shared": lambda gfn, n: {"op": "zap_spte", "gfn": gfn & ~0x1ff, "level": 2, "shared": 1, "tries": 1},
    "zap-table": lambda gfn, n: {"op": "zap_spte", "gfn": gfn & ~0x1ff, "level": 2, "shared": 0},
    "recover": lambda gfn, n: span("recover", gfn & ~0x1ff, 0x200, max_level=2),
    "recover-nx": lambda gfn, n: {"op": "zap_nx_sp", "gfn": gfn & ~0x1ff, "level": 2},
    "split-shared": lambda gfn, n: span("split", gfn & ~0x1ff, 0x200, shared=1),
    "split": lambda gfn, n: span("split", gfn & ~0x1ff, 0x200, shared=0),
    "clear-dirty": lambda gfn, n: span("clear_dirty_slot", gfn),
    "write-protect": lambda gfn, n: span("wrprot_slot", gfn),
}
"""What other threads do, under mmu_lock in the mode of KVM's callers."""
BEFORE: Mapping[str, Callable[[int], list[Op]]] = {
    "fresh": lambda gfn: [],
    "linked": lambda gfn: [fault(gfn + 3)],
    "leaf": lambda gfn: [fault(gfn)],
    "leaves": lambda gfn: [fault(gfn), fault(gfn + 1)],
    "huge": lambda gfn: [fault(gfn & ~0x1ff, 2)],
    "emptied": lambda gfn: [fault(gfn), span("unmap", gfn, filter=2)],
}
"""What the tables look like before."""
TROUBLE: Mapping[str, Op] = {
    "none": {},
    "busy-aug": {"inject": [{"leaf": "MEM.PAGE.AUG", "lock": "sept_tree"}]},
    "busy-add": {"inject": [{"leaf": "MEM.SEPT.ADD", "lock": "sept_tree"}]},
    "busy-block": {"inject": [{"leaf": "MEM.RANGE.BLOCK", "lock": "entry"}]},
    "busy-remove": {"inject": [{"leaf": "MEM.PAGE.REMOVE", "lock": "entry"}]},
    "busy-demote": {"inject": [{"leaf": "MEM.PAGE.DEMOTE", "lock": "sept_tree"}]},
    "interrupt-demote": {"inject": [{"leaf": "MEM.PAGE.DEMOTE", "intr": 1}]},
    "hook-busy": {"hook": [{"hook": "set", "ret": -16}]},
    "hook-fails": {"hook": [{"hook": "set", "ret": -5}]},
    "yields": {"resched": 1},
}
"""What goes wrong once, on one of the threads."""


@dataclass(frozen=True)
class Shape:
    """A point of the product: names of `VCPU` and `HOST`, one per thread, and how they stand to one another."""

    threads: tuple[str, ...]
    near: str
    before: str
    trouble: str
    inside: bool

    @property
    def name(self) -> str:
        """The scenario's name: what a reader of a list sees."""
        words = ["+".join(self.threads), self.near, self.before, *[self.trouble] * (self.trouble != "none"),
                 *["inside"] * self.inside]
        return "-".join(words)

    def scenario(self) -> Scenario:
        """The scenario it stands for."""
        inside, threads, vcpus = {0} if self.inside else set(), [], 0
        for i, what in enumerate(self.threads):
            gfn = FIRST + (NEAR[self.near] * i if i < 2 else 0)
            make = VCPU.get(what) or HOST[what]
            op = make(gfn, vcpus)
            threads.append(Thread(f"vcpu{vcpus}" if what in VCPU else f"host{i}",
                                  ({**op, **TROUBLE[self.trouble]} if i == 0 else op,)))
            inside |= {vcpus} if what in GUEST else set()
            vcpus += what in VCPU
        enter: list[Op] = [{"op": "vp_enter", "vcpu": n} for n in sorted(inside)]
        return Scenario(self.name, tuple(threads), (*BEFORE[self.before](FIRST), *enter), {"vcpus": max(vcpus, 2)})


CORE = tuple(Shape(threads, near, before, "none", False) for threads, near, before in (
    (("fault", "fault"), "same", "fresh"), (("fault", "fault"), "table", "fresh"),
    (("fault", "fault"), "same", "linked"), (("fault", "fault"), "neighbour", "linked"),
    (("fault", "unmap"), "same", "leaf"), (("touch", "unmap"), "same", "leaf"), (("fault", "zap-all"), "same", "leaf"),
    (("walk", "zap-table-shared"), "same", "leaf"), (("fault", "zap-table-shared"), "table", "leaf"),
    (("fault", "zap-leaf-shared"), "same", "leaf"), (("fault-2m", "fault"), "table", "leaf"),
    (("walk", "fault-2m"), "same", "leaf"), (("fault", "recover"), "table", "leaves"),
    (("fault", "split-shared"), "same", "huge"), (("accept", "fault"), "same", "huge"),
    (("fault", "convert"), "same", "huge"), (("fault", "clear-dirty"), "same", "leaf"),
    (("fault", "write-protect"), "same", "leaf"), (("touch", "recover-nx"), "same", "leaf")))
"""What comes first with every seed: each way in which tables and leaves come and go, beside a fault or a walk."""


class Generator:
    """Scenarios number 0, 1, ... of a seed; the first are those of `CORE`.

    focus: names of `VCPU`, `HOST`, `BEFORE` or `TROUBLE` that are drawn four times as often as others, such as those
    that reach the functions a design replaces. UsageError for a name that is none of them.
    """

    def __init__(self, seed: int = 0, focus: tuple[str, ...] = ()):
        self.seed = check_int("seed", seed, 0, (1 << 64) - 1)
        known = {*VCPU, *HOST, *BEFORE, *TROUBLE}
        for name in focus:
            if name not in known:
                raise UsageError(f"focus {shown(name)}", "nothing that scenarios are made of", one_of(sorted(known)))
        self.focus = frozenset(focus)

    def some(self, rng: random.Random, names: Mapping[str, object]) -> str:
        words = list(names)
        return rng.choices(words, [4 if word in self.focus else 1 for word in words])[0]

    def shape(self, n: int) -> Shape:
        """Number n. The first hundred are pairs with nothing going wrong."""
        if n < len(CORE):
            return CORE[n]
        rng = random.Random(f"{self.seed}/{n}")
        threads = [self.some(rng, VCPU), self.some(rng, HOST if rng.random() < 0.65 else VCPU)]
        if n >= 100 and rng.random() < 0.35:
            threads.append(self.some(rng, HOST if rng.random() < 0.5 else VCPU))
        rng.shuffle(threads)
        trouble = "none" if n < 100 or rng.random() < 0.4 else self.some(rng, TROUBLE)
        return Shape(tuple(threads), rng.choice(list(NEAR)), self.some(rng, BEFORE), trouble,
                     rng.random() < (0.1 if n < 100 else 0.3))

    def scenarios(self, first: int, count: int) -> Iterator[tuple[int, Scenario]]:
        """(n, scenario) for n of [first, first + count); of equal ones only the first within the call."""
        seen = set()
        for n in range(first, first + count):
            shape = self.shape(n)
            if shape not in seen:
                seen.add(shape)
                yield n, shape.scenario()
