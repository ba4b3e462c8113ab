"""Relations between runs of the TDP MMU that hold for any operations: nobody has to know the right answer.

The same operations leave the same tables whether walks yield or not, whether tables are zapped under the read or the
write lock, below 4 levels or 5; a hook that fails for a time delays a fault and changes nothing else.
"""

import random

import pytest

from tdpfast import Memslot, Vm
from tdpfast._face.vm import VmCore
from tdpfast.design import get_design
from tdpfast.events import mmu_events

DESIGNS = ("v7.3", "v6.18", "patch15", "single-hook")
MMUS = ("ept_ad", "ept_noad")
BASE = 0x1000
SPAN = 0x900            # gfns: some 2M regions, so that ranges begin and end inside huge pages
SHARED_BIT = 1 << 35
ADDRESS = 0x000FFFFFFFFFF000


def make_vm(design, *, tdx, mmu="ept_ad", levels=4, nx=False, dirty_log=False):
    """A VM whose hooks only record. Its slot begins and ends inside a 1G page."""
    vm = VmCore(get_design(design).replace(ungated=True), root_level=levels, mmu=MMUS.index(mmu), tdx=tdx,
                direct_gfn_bits=(SHARED_BIT << 4 if levels == 5 else SHARED_BIT) if tdx else 0, nx=nx,
                slots=((0x200, 0x40000, 1, 0, 0),), want_mirror=tdx)
    if dirty_log:
        vm.run({"op": "set_dirty_log", "on": 1})
    return vm


def leaves(vm):
    """Present leaves and MMIO SPTEs: {(root, level, gfn): value}."""
    return {(root, level, gfn): value for root, level, gfn, value, table, *_ in vm.sptes() if not table}


def tables(vm):
    """Where tables hang, and what of their entries is not an address."""
    return {(root, level, gfn): value & ~ADDRESS for root, level, gfn, value, table, *_ in vm.sptes() if table}


def state(vm):
    """All that later operations can see of the VM, addresses of tables apart."""
    return leaves(vm), tables(vm), vm.stats(), vm.roots()


class Ops:
    """Random operations that no assertion answers: maps keep one pfn per gfn, a split or a recovery stays possible."""

    def __init__(self, seed, *, tdx, levels=(1, 2, 3)):
        self.random = random.Random(seed)
        self.tdx = tdx
        self.levels = levels

    def span(self):
        start = BASE + self.random.randrange(SPAN)
        return {"start": start, "end": start + self.random.choice((1, 3, 64, 512, 700, 1024))}

    def map(self):
        gfn = BASE + self.random.randrange(SPAN)
        private = int(self.tdx and self.random.random() < 0.5)
        level = 1 if private else self.random.choice(self.levels)
        write = int(self.random.random() < 0.7)
        return {"op": "map", "gfn": gfn, "pfn": gfn + (0x100000 if private else 0x800000), "level": level,
                "write": write, "exec": int(not write and self.random.random() < 0.5), "private": private,
                "prefetch": int(self.random.random() < 0.1)}

    def __iter__(self):
        while True:
            kind = self.random.random()
            if kind < 0.6:
                yield self.map()
            elif kind < 0.7:
                yield {"op": "unmap", **self.span(), "filter": self.random.choice((1, 2, 3))}
            elif kind < 0.75:
                yield {"op": "zap_leafs", **self.span()}
            elif kind < 0.8:
                yield {"op": "age", **self.span(), "filter": 1}
            elif kind < 0.83:
                yield {"op": "zap_all"}
            elif kind < 0.86:
                yield {"op": "poke", "gfn": BASE + self.random.randrange(SPAN), "set": 0x300}
            elif self.tdx:
                continue        # what follows iterates mirrors too, where designs differ on purpose
            elif kind < 0.89:
                yield {"op": "wrprot_slot", **self.span(), "min_level": self.random.choice((1, 2))}
            elif kind < 0.92:
                yield {"op": "clear_dirty_slot", **self.span()}
            elif kind < 0.94:
                yield {"op": "clear_dirty_pt_masked", "gfn": BASE + 64 * self.random.randrange(SPAN // 64),
                       "mask": hex(self.random.getrandbits(64)), "wrprot": int(self.random.random() < 0.5)}
            elif kind < 0.95:
                yield {"op": "write_protect_gfn", "gfn": BASE + self.random.randrange(SPAN)}
            elif kind < 0.98:
                yield {"op": "split", **self.span(), "target_level": self.random.choice((1, 2)),
                       "shared": int(self.random.random() < 0.5)}
            else:
                yield {"op": "recover", **self.span(), "max_level": self.random.choice((2, 3))}

    def take(self, count):
        ops = iter(self)
        return [next(ops) for _ in range(count)]


def run_all(vm, ops, **more):
    for op in ops:
        vm.run({**op, **more})
    return vm


def seeds(count):
    """A few cases by default; the slow test runs many more."""
    return pytest.mark.parametrize("seed", range(count))


def check_resched(seed, count=60):
    """need_resched() from any call on: each walk starts again from the root as often as it can make progress."""
    rng = random.Random(seed)
    design, mmu = rng.choice(DESIGNS), rng.choice(MMUS)
    tdx, nx = rng.random() < 0.5, rng.random() < 0.3
    ops = Ops(seed, tdx=tdx).take(count)
    plain = run_all(make_vm(design, tdx=tdx, mmu=mmu, nx=nx), ops)
    busy = make_vm(design, tdx=tdx, mmu=mmu, nx=nx)
    for op in ops:
        busy.run({**op, "resched": rng.choice((1, 1, 2, 3, 5, 17, 100))})
    assert state(busy) == state(plain), (design, mmu, tdx, nx)


@seeds(12)
def test_yielding_changes_nothing(seed):
    check_resched(seed)


def check_zap_modes(seed, count=50):
    """zap_invalidated_roots under the read and the write lock, and zap_all of a root that is valid."""
    rng = random.Random(seed)
    mmu = rng.choice(MMUS)
    design = rng.choice(("v7.3", "v6.18", "patch15"))
    ops = Ops(seed, tdx=False).take(count)
    vms = [run_all(make_vm(design, tdx=False, mmu=mmu), ops) for _ in range(3)]
    before = vms[0].stats()["sp_linked"]
    for vm, shared in zip(vms, (0, 1), strict=False):
        vm.run({"op": "invalidate_roots", "types": 2})
        vm.run({"op": "reload"})
        vm.run({"op": "zap_invalidated_roots", "shared": shared, "resched": rng.choice((0, 1, 7))})
    vms[2].run({"op": "zap_all"})
    got = [(vm.stats()["sp_live"], vm.stats()["sp_linked"], leaves(vm), tables(vm), vm.roots()) for vm in vms]
    assert got[0] == got[1] == got[2], (design, mmu, before)
    assert got[0][:2] == (1, 0) and not got[0][2]


@seeds(8)
def test_a_root_is_zapped_alike_in_either_mode(seed):
    check_zap_modes(seed)


def check_levels(seed, count=60):
    """A root of 5 levels holds what one of 4 holds, one table further down."""
    rng = random.Random(seed)
    design, mmu, tdx = rng.choice(DESIGNS), rng.choice(MMUS), rng.random() < 0.5
    ops = Ops(seed, tdx=tdx).take(count)
    four = run_all(make_vm(design, tdx=tdx, mmu=mmu), ops)
    five = run_all(make_vm(design, tdx=tdx, mmu=mmu, levels=5), ops)
    assert leaves(five) == leaves(four), (design, mmu, tdx)
    below = {key: value for key, value in tables(five).items() if key[1] < 5}
    assert below == tables(four)
    differ = {key for key, value in four.stats().items() if five.stats()[key] != value}
    assert differ <= {"sp_linked", "sp_live", "external_live"}


@seeds(8)
def test_five_levels_hold_what_four_hold(seed):
    check_levels(seed)


def check_failing_hooks(seed, count=40):
    """Faults whose hook fails at any point, retried until they succeed, leave what faults without failures leave."""
    rng = random.Random(seed)
    design = rng.choice(DESIGNS)
    levels = rng.choice((4, 5))
    ops = [op for op in Ops(seed, tdx=True).take(count * 3) if op["op"] == "map"][:count]
    plain = run_all(make_vm(design, tdx=True, levels=levels), ops)
    failing = make_vm(design, tdx=True, levels=levels)
    retries = 0
    for op in ops:
        for _ in range(20):
            script = [rng.choice((0, 0, -16, -5)) for _ in range(rng.randrange(6))]
            if failing.run({**op, "hook": script})["ret"] != 1:
                break
            retries += 1
        else:
            assert failing.run(op)["ret"] != 1
    assert retries and state(failing) == state(plain), (design, levels)


@seeds(8)
def test_a_failing_hook_only_delays_faults(seed):
    check_failing_hooks(seed)


def check_dirty_forms(seed, count=40):
    """Clearing a slot's dirty state at once, or word by word, leaves the same 4K leaves; so does protecting it."""
    rng = random.Random(seed)
    design, mmu = rng.choice(("v7.3", "v6.18")), rng.choice(MMUS)
    ops = Ops(seed, tdx=False, levels=(1,)).take(count)
    slot, words = (run_all(make_vm(design, tdx=False, mmu=mmu), ops) for _ in range(2))
    if rng.random() < 0.5:
        slot.run({"op": "clear_dirty_slot", "start": BASE, "end": BASE + 0x1000})
        wrprot = 0
    else:
        slot.run({"op": "wrprot_slot", "start": BASE, "end": BASE + 0x1000})
        assert slot.run({"op": "wrprot_slot", "start": BASE, "end": BASE + 0x1000})["ret"] == 0
        wrprot = 1
    for gfn in range(BASE, BASE + 0x1000, 64):
        words.run({"op": "clear_dirty_pt_masked", "gfn": gfn, "mask": hex(2**64 - 1), "wrprot": wrprot})
    small = [{key: value for key, value in leaves(vm).items() if key[1] == 1} for vm in (slot, words)]
    assert small[0] == small[1], (design, mmu, wrprot)


@seeds(6)
def test_dirty_state_goes_at_once_or_word_by_word(seed):
    check_dirty_forms(seed)


def check_split_and_back(seed, count=50):
    """A split in either mode leaves the same small leaves, and recovery brings the huge ones back as they were."""
    rng = random.Random(seed)
    design, mmu = rng.choice(("v7.3", "v6.18")), rng.choice(MMUS)
    ops = [op for op in Ops(seed, tdx=False, levels=(2,)).take(count * 3) if op["op"] == "map"][:count]
    vms = [run_all(make_vm(design, tdx=False, mmu=mmu), ops) for _ in range(2)]
    before = leaves(vms[0])
    for vm, shared in zip(vms, (0, 1), strict=True):
        vm.run({"op": "split", "start": 0, "end": 0x4000, "target_level": 1, "shared": shared,
                "resched": rng.choice((0, 1, 3))})
    assert state(vms[0]) == state(vms[1]) and not any(level > 1 for _, level, _ in leaves(vms[0])), (design, mmu)
    for vm in vms:
        vm.run({"op": "recover", "start": 0x200, "end": 0x4000, "max_level": 2, "resched": rng.choice((0, 1, 2, 3))})
        assert leaves(vm) == before and vm.stats()["pages_4k"] == 0


@seeds(6)
def test_recovery_undoes_a_split(seed):
    check_split_and_back(seed)


def check_races(seed, count=40):
    """Another CPU changes A and D just before an atomic of a walk: the walk ends as if that had come before it."""
    rng = random.Random(seed)
    design, mmu = rng.choice(("v7.3", "v6.18")), rng.choice(MMUS)
    ops = Ops(seed, tdx=False).take(count)
    raced, twin = (run_all(make_vm(design, tdx=False, mmu=mmu), ops) for _ in range(2))
    raced.set_tracing(True)
    met = 0
    for _ in range(12):
        op = rng.choice((
            {"op": "wrprot_slot", "start": 0, "end": 0x4000}, {"op": "clear_dirty_slot", "start": 0, "end": 0x4000},
            {"op": "split", "start": 0, "end": 0x4000, "target_level": 1, "shared": 1},
            {"op": "unmap", "start": BASE, "end": BASE + 0x300},
            {"op": "clear_dirty_pt_masked", "gfn": BASE + 64 * rng.randrange(8), "mask": hex(rng.getrandbits(64))}))
        on, off = rng.choice(((0x100, 0), (0x200, 0), (0, 0x100), (0, 0x200), (0, 0x300)))
        result = raced.run({**op, "race": [rng.randrange(3), "hw", hex(on), hex(off)]})
        changed = [e for e in mmu_events(raced.events(), raced.design.layout) if e[0] == "race" and e[3] != e[4]]
        for _, gfn, level, before, after in changed:
            assert twin.run({"op": "poke", "gfn": gfn, "set": hex(on), "clear": hex(off)})["ret"] == level, (
                before, after)
            met += 1
        assert twin.run(op)["ret"] == result["ret"]
        assert state(raced) == state(twin), (design, mmu, op, changed)
        refill = Ops(rng.random(), tdx=False).take(10)
        run_all(raced, refill)
        run_all(twin, refill)
    return met


@seeds(8)
def test_a_race_is_as_if_it_had_come_before(seed):
    check_races(seed)


def test_races_are_met():
    assert sum(check_races(seed) for seed in range(100, 106)) > 5


def check_batches(seed, count=40):
    """map_range() leaves what as many faults leave, whatever is mapped already, across the slot's ends."""
    rng = random.Random(seed)
    design, mmu, tdx = rng.choice(DESIGNS), rng.choice(MMUS), rng.random() < 0.5
    slot = Memslot(BASE - rng.choice((0, 0x80, 0x200)), SPAN + rng.choice((0, 0x33, 0x400)))
    batch, single = (Vm(design, tdx=tdx, ungated=True, mmu=mmu, memslot=slot) for _ in range(2))
    for op in Ops(seed, tdx=tdx).take(count):
        batch.run(op)
        single.run(op)
    for _ in range(8):
        private = tdx and rng.random() < 0.5
        level = 1 if private else rng.choice((1, 1, 2))
        step = 1 << 9 * (level - 1)
        gfn = (BASE + rng.randrange(SPAN)) // step * step
        pfn = gfn + (0x100000 if private else 0x800000)
        access = {"write": rng.random() < 0.7, "prefetch": rng.random() < 0.2, "private": private}
        n = rng.choice((1, 5, 300, 600)) if level == 1 else rng.choice((1, 2, 4))
        counts = {}
        for i in range(n):
            ret = single.map(gfn + i * step, pfn + i * step, level, **access).ret
            counts[ret] = counts.get(ret, 0) + 1
        assert batch.map_range(gfn, pfn, n, level, **access) == counts, (design, mmu, tdx)
        assert state(batch.core) == state(single.core), (design, mmu, tdx, slot)


@seeds(8)
def test_batches_leave_what_single_faults_leave(seed):
    check_batches(seed)


@pytest.mark.slow
@pytest.mark.parametrize("relation", [check_resched, check_zap_modes, check_levels, check_failing_hooks,
                                      check_dirty_forms, check_split_and_back, check_races, check_batches])
def test_many_more(relation):
    for seed in range(1000, 1400):
        relation(seed)
