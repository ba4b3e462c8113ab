"""What the threads of a stress run do: roles, the operations of each, and named mixes of them.

A role is a kind of thread: a vCPU that faults, a zapper, an ageing thread, one that logs dirty pages, one that
recovers from NX huge pages and splits. A mix says how often each kind of operation of a role comes. Everything is
drawn from the random.Random that is handed in, and depends on nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tdpfast.design import Design

ROLES = ("vcpu", "zapper", "ager", "logger", "recoverer")
"""Kinds of threads, in the order in which a run numbers them."""
ACCESSED_DIRTY = 0x300       # of EPT
SHARED, PRIVATE = 1, 2       # KVM_FILTER_*
PFN = 0x110000               # host frame of guest frame 0
RESCHED = 0.1                # walks that drop mmu_lock at every entry: they take a hundred times as long

Op = dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """What operations may refer to.

    mode: "direct", "mirror" or "td". pages: guest frames 0..pages-1 are used. vcpu: number of the thread's own vCPU.
    dirty_log: the memslot logs dirty pages.
    """

    mode: str
    design: Design
    pages: int
    vcpu: int = 0
    dirty_log: bool = False

    @property
    def mirrors(self) -> bool:
        """The VM has a mirror root."""
        return self.mode != "direct"

    @property
    def writable(self) -> bool:
        """Operations that guest_memfd slots refuse reach the tables: without a mirror, or ungated."""
        return not self.mirrors or self.design.ungated

    def gfn(self, rng: random.Random) -> int:
        """A guest frame; half of them are among the first few, so that threads meet."""
        return rng.randrange(self.pages if rng.random() < 0.5 else min(self.pages, 16))

    def span(self, rng: random.Random) -> dict[str, int]:
        """A range [start, end) of guest frames."""
        start = self.gfn(rng)
        return {"start": start, "end": min(self.pages, start + rng.choice((1, 1, 8, 512, self.pages)))}

    def private(self, rng: random.Random) -> int:
        """Whether an operation goes to the mirror: most do where there is one."""
        return int(self.mirrors and rng.random() < 0.7)


# ---- vCPUs ------------------------------------------------------------------------------------------------------

def private_level(scene: Scene, gfn: int) -> int:
    """The level guest_memfd allows for a frame: gated, it is the same for every fault, 2M in every other region."""
    return 2 if scene.design.promo_block and scene.design.max_level > 1 and gfn >> 9 & 1 else 1


def fault(scene: Scene, rng: random.Random, private: int | None = None) -> Op:
    """A page fault that is retried until it is served."""
    gfn = scene.gfn(rng)
    private = scene.private(rng) if private is None else private
    level = private_level(scene, gfn) if private and not scene.design.ungated else rng.choice((1, 1, 2))
    return {"op": "map", "gfn": gfn, "pfn": PFN + gfn, "level": level, "write": 1 if private else rng.randrange(2),
            "exec": rng.randrange(2), "private": private, "prefetch": int(rng.random() < 0.05), "retries": -1}


def busy_fault(scene: Scene, rng: random.Random) -> Op:
    """A fault some of whose SEAMCALLs meet a lock that another logical processor holds."""
    leaf = rng.choice(("MEM.PAGE.AUG", "MEM.PAGE.AUG", "MEM.SEPT.ADD"))
    busy = {"leaf": leaf, "lock": "sept_tree", "count": rng.choice((1, 2))}
    return fault(scene, rng, private=1) | {"inject": [busy]}


def one_busy_fault(scene: Scene, rng: random.Random) -> Op:
    """A fault that gives up when the module is busy."""
    return busy_fault(scene, rng) | {"retries": 0}


def fast_fault(scene: Scene, rng: random.Random) -> Op:
    """fast_page_fault() on the direct root."""
    return {"op": "fast_page_fault", "gfn": scene.gfn(rng), "write": rng.randrange(2), "present": rng.randrange(2),
            "private": 0}


def walk(scene: Scene, rng: random.Random) -> Op:
    """A lockless walk."""
    kinds = ("mwalk", "get_walk") if scene.mirrors else ("get_walk", "fast_pf_last")
    return {"op": rng.choice(kinds), "gfn": scene.gfn(rng)}


def hardware(scene: Scene, rng: random.Random) -> Op:
    """A guest access as hardware notes it: the accessed and dirty bits of a direct leaf."""
    return {"op": "poke", "gfn": scene.gfn(rng), "set": ACCESSED_DIRTY, "private": 0}


def reload(scene: Scene, rng: random.Random) -> Op:
    """kvm_mmu_reload()."""
    return {"op": "reload"}


def enter(scene: Scene, rng: random.Random) -> Op:
    """TDH.VP.ENTER, or an asynchronous exit."""
    return {"op": rng.choice(("vp_enter", "vp_enter", "td_exit")), "vcpu": scene.vcpu}


def touch(scene: Scene, rng: random.Random) -> Op:
    """A guest access, and the fault that KVM makes of its EPT violation."""
    gfn = scene.gfn(rng)
    if private_level(scene, gfn) > 1:
        gfn &= ~(1 << 9)             # what KVM makes of it is a 4K fault
    return {"op": "touch", "vcpu": scene.vcpu, "gfn": gfn, "pfn": PFN + gfn, "retries": -1}


def accept(scene: Scene, rng: random.Random) -> Op:
    """TDG.MEM.PAGE.ACCEPT of a 4K page, or a guest access alone."""
    return {"op": rng.choice(("accept", "accept", "guest_access")), "vcpu": scene.vcpu, "gpa": scene.gfn(rng) << 12}


# ---- who changes what is there ----------------------------------------------------------------------------------

def zap_leafs(scene: Scene, rng: random.Random) -> Op:
    """kvm_tdp_mmu_zap_leafs(), mmu_lock for write."""
    return {"op": "zap_leafs", **scene.span(rng)}


def unmap(scene: Scene, rng: random.Random) -> Op:
    """The MMU notifier's zap, or guest_memfd's."""
    return {"op": "unmap", **scene.span(rng), "filter": rng.choice((SHARED, PRIVATE, SHARED | PRIVATE)),
            "resched": int(rng.random() < RESCHED)}


def zap_all(scene: Scene, rng: random.Random) -> Op:
    """Everything in the direct roots goes."""
    return {"op": "zap_all"}


def invalidate_roots(scene: Scene, rng: random.Random) -> Op:
    """The fast zap of a memslot update. Gated it spares mirrors."""
    return {"op": "invalidate_roots", "types": 2}


def zap_invalidated_roots(scene: Scene, rng: random.Random) -> Op:
    """The second half of the fast zap, in either mode of mmu_lock."""
    return {"op": "zap_invalidated_roots", "shared": rng.randrange(2)}


def atomic_zap(scene: Scene, rng: random.Random) -> Op:
    """A mirror SPTE is zapped under the read lock, as nobody does today."""
    return {"op": "zap_spte", "gfn": scene.gfn(rng), "level": rng.choice((1, 1, 1, 2)), "shared": 1, "tries": 3}


def age(scene: Scene, rng: random.Random) -> Op:
    """Ageing of shared pages: lockless."""
    return {"op": rng.choice(("age", "age", "test_age")), **scene.span(rng), "filter": SHARED}


def wrprot_slot(scene: Scene, rng: random.Random) -> Op:
    """Write protection of a range, mmu_lock for read."""
    return {"op": "wrprot_slot", **scene.span(rng), "resched": int(rng.random() < RESCHED)}


def clear_dirty_slot(scene: Scene, rng: random.Random) -> Op:
    """The dirty bits of a range, mmu_lock for read."""
    return {"op": "clear_dirty_slot", **scene.span(rng)}


def clear_dirty_masked(scene: Scene, rng: random.Random) -> Op:
    """The dirty bits of up to 64 pages, mmu_lock for write."""
    return {"op": "clear_dirty_pt_masked", "gfn": scene.gfn(rng) & ~63, "mask": rng.getrandbits(64),
            "wrprot": rng.randrange(2)}


def write_protect(scene: Scene, rng: random.Random) -> Op:
    """kvm_tdp_mmu_write_protect_gfn(), mmu_lock for write."""
    return {"op": "write_protect_gfn", "gfn": scene.gfn(rng)}


def zap_nx(scene: Scene, rng: random.Random) -> Op:
    """A step of NX huge page recovery."""
    return {"op": "zap_nx"}


def split(scene: Scene, rng: random.Random) -> Op:
    """Eager splitting of huge leaves, in either mode of mmu_lock."""
    return {"op": "split", **scene.span(rng), "shared": rng.randrange(2)}


def recover(scene: Scene, rng: random.Random) -> Op:
    """Tables become huge leaves again, once logging is over."""
    return {"op": "recover", "start": 0, "end": scene.pages, "max_level": 2}


# ---- mixes ------------------------------------------------------------------------------------------------------

Maker = Callable[[Scene, random.Random], Op]

_VCPU: dict[Maker, int] = {fault: 60, fast_fault: 6, walk: 8, hardware: 4, reload: 2, busy_fault: 2,
                           one_busy_fault: 1, enter: 6, touch: 8, accept: 8}
_ZAPPER: dict[Maker, int] = {zap_leafs: 10, unmap: 6, zap_all: 1, invalidate_roots: 2, zap_invalidated_roots: 2,
                             atomic_zap: 2, fault: 4}
_AGER: dict[Maker, int] = {age: 10, walk: 2}
_LOGGER: dict[Maker, int] = {wrprot_slot: 6, clear_dirty_slot: 4, clear_dirty_masked: 3, write_protect: 2,
                             fast_fault: 3}
_RECOVERER: dict[Maker, int] = {zap_nx: 4, split: 4, recover: 3}

MIXES: dict[str, dict[str, dict[Maker, int]]] = {
    "mixed": {"vcpu": _VCPU, "zapper": _ZAPPER, "ager": _AGER, "logger": _LOGGER, "recoverer": _RECOVERER},
    "faults": {"vcpu": {fault: 40, busy_fault: 1}, "zapper": {zap_leafs: 6, fault: 3}, "ager": _AGER,
               "logger": _LOGGER, "recoverer": _RECOVERER},
    "walks": {"vcpu": {walk: 20, fault: 8, fast_fault: 8, reload: 1},
              "zapper": {zap_all: 2, invalidate_roots: 3, zap_invalidated_roots: 3, zap_leafs: 1, fault: 10},
              "ager": _AGER, "logger": _LOGGER, "recoverer": _RECOVERER},
    "guests": {"vcpu": {enter: 8, touch: 16, accept: 12, fault: 4, busy_fault: 1}, "zapper": {zap_leafs: 8, unmap: 4},
               "ager": _AGER, "logger": _LOGGER, "recoverer": _RECOVERER},
}
"""Name -> role -> kind of operation -> how often it comes. mixed: everything; faults: vCPUs fault while pages are
zapped; walks: lockless walks while roots and tables go; guests: a TD's vCPUs enter, touch and accept pages."""

NEEDS_TD = frozenset({busy_fault, one_busy_fault, enter, touch, accept})
NEEDS_WRITABLE = frozenset({hardware, wrprot_slot, clear_dirty_slot, clear_dirty_masked, write_protect, split,
                            recover})


def possible(maker: Maker, scene: Scene) -> bool:
    """Whether this kind of operation means something there: what KVM's callers refuse is left out."""
    if maker in NEEDS_TD:
        return scene.mode == "td"
    if maker in NEEDS_WRITABLE and not scene.writable:
        return False
    if maker is recover and scene.dirty_log:
        return False             # KVM collapses once logging is over
    if maker is atomic_zap:
        return scene.mirrors and scene.design.ungated
    # There, a present mirror SPTE that becomes another one under the write lock is a KVM_BUG_ON() of its own.
    return not (maker is write_protect and scene.mirrors and scene.design.bug_new_present)


def makers(mix: str, role: str, scene: Scene) -> dict[Maker, int]:
    """The kinds of operations a thread of a role runs there, with their weights; empty if none makes sense."""
    if role == "logger" and not scene.writable:
        return {}                # guest_memfd slots know no dirty log
    return {maker: weight for maker, weight in MIXES[mix][role].items() if possible(maker, scene)}


def draw(kinds: dict[Maker, int], scene: Scene, rng: random.Random, n: int) -> list[Op]:
    """n operations."""
    return [maker(scene, rng) for maker in rng.choices(list(kinds), list(kinds.values()), k=n)]
