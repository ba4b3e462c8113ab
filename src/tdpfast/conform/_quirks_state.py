"""Quirks of a TD's state: before it is finalised, fatal, TLB tracking, and words of locks after a failed attempt."""
from __future__ import annotations

from tdpfast.conform._quirk_scene import LP, Scene

_INITIALIZED = 1


def _init_remove(scene: Scene, block: bool) -> dict:
    scene.start(0, "MAPPED", op_state=_INITIALIZED)
    if block:
        scene.block()
    return scene.host("page_remove").show("status", "rcx", "rdx")


def _init_unblock(scene: Scene) -> dict:
    scene.start(0, "MAPPED", op_state=_INITIALIZED)
    scene.block()
    return scene.host("range_unblock").show("status", "rcx", "rdx")


def _init_aug_track(scene: Scene) -> dict:
    scene.start(0, "FREE", op_state=_INITIALIZED, epoch=scene.given("epoch", 2) - 1)
    aug = scene.host("page_aug", r8=scene.at.aux).status
    track = scene.host("track", rcx=scene.at.tdr).status
    return dict(aug=aug, track=track, epoch=scene.td()["td_epoch"])


def _init_enter(scene: Scene) -> dict:
    scene.start(0, "FREE", op_state=_INITIALIZED)
    return dict(status=scene.rig.call("vp_enter", LP, rcx=scene.rig.vcpu(0))[1])


def _fatal(scene: Scene) -> dict:
    scene.start(0, "MAPPED")
    scene.set_td(fatal=1)
    return scene.host("sept_rd").show("status", "rax")


# ---- TLB tracking

def _track_flow(scene: Scene) -> dict:
    """A VCPU is inside since before BLOCK, and leaves at the end."""
    scene.start(0, "MAPPED", epoch=scene.given("epoch", 2) - 1)
    scene.enter()
    scene.block()
    seq = []
    for op in ("page_remove", "track", "page_remove", "track"):
        seq.append(scene.host(op, **dict(rcx=scene.at.tdr) if op == "track" else {}).status)
    scene.exit()
    seq.append(scene.host("page_remove").status)
    return dict(seq=seq, epoch=scene.td()["td_epoch"])


def _track_flow2(scene: Scene) -> dict:
    """A VCPU enters after TRACK. It counts for that epoch, whose parity is the recorder's choice."""
    counts = scene.evidence.get("ref", [1, 0])
    if not isinstance(counts, list) or len(counts) != 2:
        raise TypeError("ref is no pair")
    scene.start(0, "MAPPED", epoch=1 if counts[0] else 2)
    scene.block()
    scene.track()
    scene.enter()
    remove = scene.host("page_remove").status
    return dict(remove=remove, ref=[scene.td()["refcount0"], scene.td()["refcount1"]])


# ---- locks

def _failed_shared(scene: Scene, lock: str, first_reader: int) -> dict:
    """A word held exclusive after as many failed attempts to share it as it has readers."""
    scene.start(0, "MAPPED")
    scene.set_td(**{lock: 1})
    for _ in range(scene.given("word", 1) % 0x10000 >> first_reader):
        scene.host("sept_rd")
    return dict(word=scene.td()[lock])


QUIRKS = {
    "init-remove": lambda scene: _init_remove(scene, False),
    "init-remove-blocked": lambda scene: _init_remove(scene, True),
    "init-unblock": _init_unblock,
    "init-aug-track": _init_aug_track,
    "init-enter": _init_enter,
    "fatal": _fatal,
    "track-flow": _track_flow,
    "track-flow2": _track_flow2,
    "sharex-failed-shared": lambda scene: _failed_shared(scene, "tree_lock", 1),
    "sharexhp-failed-shared": lambda scene: _failed_shared(scene, "op_lock", 2),
}
"""Quirk -> what runs its situation and measures."""
