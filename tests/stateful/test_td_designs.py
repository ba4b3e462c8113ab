"""On what today's callers do, every design makes the same SEAMCALLs and leaves the same TD.

The designs differ in who calls whom and when; the module must not notice. One lock held by somebody else once, at any
SEAMCALL, changes that as little.
"""

import random

import pytest

from tdpfast._face.seam_module import SeamModule
from tdpfast._face.td import TdVmCore
from tdpfast.design import PRESETS

# v6.16, v6.18 and what builds on it add a page after mapping it; rfcv5-s counts what it rolls back.
DESIGNS = ("v7.3", "v6.19", "patch07", "patch15", "single-hook", "single-hook-4k", "rfcv5", "hugepage-v5b",
           "hugepage-v5c", "hugepage-v5d")
FIRST = 0x200
GFNS = [FIRST + i for i in (0, 1, 2, 5, 511, 512, 513, 700, 1024)] + [1 << 20, (1 << 20) + 1]
BUSY = {"MEM.PAGE.AUG": ("sept_tree", "entry", "pamt_r8", "tdr", "op_state"),
        "MEM.SEPT.ADD": ("sept_tree", "entry", "tdr"),
        "MEM.RANGE.BLOCK": ("sept_tree", "entry", "tdr", "op_state"), "MEM.TRACK": ("epoch", "op_state"),
        "MEM.PAGE.REMOVE": ("sept_tree", "entry", "pamt_page", "tdr"), "MEM.PAGE.ADD": ("tdr", "pamt_r8"),
        "MR.FINALIZE": ("tdr",)}
TEARDOWN = [{"op": "td_exit", "vcpu": v} for v in range(3)] + [
    {"op": "unmap", "start": 0, "end": 1 << 35}, {"op": "release_hkid"}, {"op": "zap_all"},
    *({"op": "vcpu_free", "vcpu": v} for v in range(3)), {"op": "put_roots"}, {"op": "uninit"}, {"op": "vm_destroy"}]


def pfn(gfn):
    return 0x140000 + (gfn & 0xFFFF)


def vcpu_op(rng):
    vcpu, gfn = rng.randrange(2), rng.choice(GFNS)
    return rng.choice((
        {"op": "vp_enter", "vcpu": vcpu}, {"op": "vp_enter", "vcpu": vcpu}, {"op": "td_exit", "vcpu": vcpu},
        {"op": "accept", "vcpu": vcpu, "gpa": gfn << 12}, {"op": "guest_access", "vcpu": vcpu, "gpa": gfn << 12},
        {"op": "touch", "vcpu": vcpu, "gfn": gfn, "pfn": pfn(gfn), "retries": 3}))


def random_op(rng):
    gfn = rng.choice(GFNS)
    kind = rng.random()
    if kind < 0.4:
        op = {"op": "map", "gfn": gfn, "pfn": pfn(gfn), "retries": rng.choice((0, 3))}
    elif kind < 0.45:
        op = {"op": "map", "gfn": gfn, "pfn": pfn(gfn) + 0x40000, "private": 0, "level": rng.choice((1, 2))}
        op["pfn"] &= ~0x1FF if op["level"] == 2 else ~0
        op["gfn"] &= ~0x1FF if op["level"] == 2 else ~0
    elif kind < 0.55:
        op = {"op": "unmap", "start": gfn, "end": gfn + rng.choice((1, 3, 512)), "filter": rng.choice((1, 2, 3))}
    elif kind < 0.6:
        op = {"op": "zap_leafs", "start": gfn, "end": gfn + rng.choice((1, 600))}
    elif kind < 0.68:
        op = {"op": "populate", "gfn": gfn, "pfn": pfn(gfn), "measure": rng.randrange(2)}
    elif kind < 0.71:
        op = {"op": "finalize"}
    else:
        op = vcpu_op(rng)
    if rng.random() < 0.25:
        leaf = rng.choice(sorted(BUSY))
        op["inject"] = [{"leaf": leaf, "lock": rng.choice(BUSY[leaf]), "count": 1, "skip": rng.choice((0, 0, 1))}]
    if rng.random() < 0.2:
        op["reenter"] = 1
    return op


class Td:
    """A TD of one design, and what an operation shows of it from outside."""

    def __init__(self, design, levels, runnable):
        self.module = SeamModule([(0x100000000, 0x200000000)])
        self.vm = TdVmCore(PRESETS[design], self.module, levels=levels, runnable=runnable)
        self.vm.set_tracing(True)

    def run(self, op):
        result = self.vm.run(op)
        result.pop("tries", None)
        return {"result": result, "calls": self.vm.seamcalls()}

    def state(self):
        """The tables without the layout's bits, statistics, KVM's view and the module's."""
        frame = 0x000FFFFFFFFFF000
        sptes = [(root, level, gfn, table or (value & frame)) for root, level, gfn, value, table, *_ in self.vm.sptes()]
        stats = {key: value for key, value in self.vm.stats().items() if key != "external_live"}
        return sptes, stats, self.vm.kvm_state(), self.module.td(self.vm.tdr)


def check_designs(seed, count=40):
    rng = random.Random(seed)
    levels, runnable = rng.choice((4, 5)), rng.random() < 0.6
    ops = [random_op(rng) for _ in range(count)]
    tds = {design: Td(design, levels, runnable) for design in DESIGNS}
    for i, op in enumerate([*ops, *TEARDOWN]):
        shown = {design: td.run(op) for design, td in tds.items()}
        for design in DESIGNS[1:]:
            assert shown[design] == shown["v7.3"], (seed, design, i, op)
        bugged = tds["v7.3"].vm.kvm_state()["vm_bugged"]
        for design in DESIGNS[1:]:
            if not bugged and op["op"] != "vm_destroy":
                assert tds[design].state() == tds["v7.3"].state(), (seed, design, i, op)
        if bugged:
            break       # what a dead VM still does may differ


@pytest.mark.parametrize("seed", range(10))
def test_designs_agree(seed):
    check_designs(seed)


@pytest.mark.slow
def test_designs_agree_for_many():
    for seed in range(1000, 1300):
        check_designs(seed)
