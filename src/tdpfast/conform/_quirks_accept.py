"""Quirks of the guest's TDG.MEM.PAGE.ACCEPT: its progress, and what it answers where there is nothing to accept."""
from __future__ import annotations

from tdpfast.conform._quirk_scene import LP, NO_L2, TDB, TDP, Scene, counter

_SOME = 4
"""Pages accepted before the interrupt, where the evidence does not say."""


def partly_accepted(scene: Scene, entry: int | None = None, **start) -> dict:
    """A pending 2M page whose ACCEPT an interrupt stopped, after as many pages as the entry says."""
    done = counter(entry) if entry is not None else _SOME
    scene.start(1, "PENDING", page=entry, **start)
    scene.enter()
    rip = scene.rig.module.vp(scene.rig.vcpu(0))["rip"]
    answer = scene.accept(polls=done - 1)
    moved = scene.rig.module.vp(scene.rig.vcpu(0))["rip"] - rip
    return dict(accept_rax=answer.rax, rip_moved=moved, polls=scene.rig.module.polls(LP), entry=scene.entry())


def _counter_visible(scene: Scene) -> dict:
    got = partly_accepted(scene, scene.given("entry", _SOME << 12))
    read = scene.host("sept_rd")
    return got | dict(sept_rd_rcx=read.registers["rcx"], sept_rd_rdx=read.registers["rdx"])


def _counter_cleared_by_block(scene: Scene) -> dict:
    partly_accepted(scene, scene.given("after_block", 0) & ~0x1FF000 | _SOME << 12)
    scene.exit()
    scene.block()
    after_block = scene.entry()
    scene.track()
    scene.rig.must("mem_range_unblock", rcx=scene.rcx(), rdx=scene.at.tdr)
    return dict(after_block=after_block, after_unblock=scene.entry())


def _progress_min(scene: Scene) -> dict:
    """An interrupt is pending from the start."""
    scene.start(1, "PENDING", page=scene.given("entry", 0))
    scene.enter()
    scene.accept(polls=0)
    return dict(polls=scene.rig.module.polls(LP), entry=scene.entry())


def _4k_no_interrupt(scene: Scene) -> dict:
    scene.start(0, "PENDING")
    scene.enter()
    answer = scene.accept(polls=0)
    return dict(polls=scene.rig.module.polls(LP), rax=answer.rax)


def _demote_after_partial(scene: Scene) -> dict:
    partly_accepted(scene, scene.given("child0", 0) & ~0x1FF000 | _SOME << 12, aux=scene.given("parent", 0))
    scene.exit()
    scene.block()
    scene.track()
    answer = scene.host("page_demote", r8=scene.at.aux, **NO_L2)
    return dict(status=answer.status, child0=scene.entry(0), child511=scene.entry(0, 511), parent=scene.entry())


def _exits(scene: Scene, level: int, state: str, asked: int, **start) -> dict:
    """ACCEPT at a level where the entry at another (or this) one is in a state; an exit shows why."""
    scene.start(level, state, gpa=scene.given("r8", 0), **start)
    scene.enter()
    answer = scene.accept(asked)
    shown = dict(rcx=0, rdx=0, r8=0) | answer.registers
    return dict(status=answer.status, res=answer.result, rax=answer.rax, entry=scene.entry(),
                rcx=shown["rcx"], rdx=shown["rdx"], r8=shown["r8"])


def _asked(scene: Scene) -> int:
    """The level that was asked for, as the extended exit qualification has it: the recorder's choice."""
    return scene.given("rdx", 0) >> 32 & 7


def _again(scene: Scene) -> dict:
    level = scene.given("rax", 1) & 7
    return _exits(scene, level, "MAPPED", level)


def _blocked(scene: Scene) -> dict:
    level = _asked(scene)
    scene.start(level, "PENDING", page=scene.given("entry", 0) & ~TDB | TDP, gpa=scene.given("r8", 0))
    scene.block()
    scene.enter()
    answer = scene.accept()
    return answer.show("res", "status", "rax", "rcx", "rdx", "r8") | dict(entry=scene.entry())


QUIRKS = {
    "accept-counter-visible": _counter_visible,
    "accept-counter-cleared-by-block": _counter_cleared_by_block,
    "accept-progress-min": _progress_min,
    "accept-4k-no-interrupt": _4k_no_interrupt,
    "demote-after-partial-accept": _demote_after_partial,
    "accept-2m-inside-1g-pending": lambda scene: _exits(scene, 2, "PENDING", 1),
    "accept-4k-in-2m-mapped": lambda scene: _exits(scene, 1, "MAPPED", 0),
    "accept-again": _again,
    "accept-4k-in-2m-pending": lambda scene: _exits(scene, 1, "PENDING", 0),
    "accept-2m-on-nl": lambda scene: _exits(scene, 1, "NL_MAPPED", 1, variant=["leaf_child", None]),
    "accept-free": lambda scene: _exits(scene, _asked(scene), "FREE", _asked(scene)),
    "accept-blocked": _blocked,
}
"""Quirk -> what runs its situation and measures."""
