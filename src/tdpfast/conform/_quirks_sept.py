"""Quirks of S-EPT tables: SEPT.ADD and SEPT.RD, walks that end early, guest addresses, levels, BLOCK."""
from __future__ import annotations

from tdpfast.conform._quirk_scene import HPA, NO_L2, Scene
from tdpfast.conform._seam_rig import NULL_PA

_BIT63 = 1 << 63


def _add_bepoch(scene: Scene) -> dict:
    """The page had a BEPOCH from its life before."""
    scene.start(1, tdr=scene.given("pamt.owner", 0))
    scene.set_pamt(scene.at.aux, bepoch=0x77)
    scene.rig.must("mem_sept_add", rcx=scene.rcx(), rdx=scene.at.tdr, r8=scene.at.aux, **NO_L2)
    return dict(pamt=scene.pamt(scene.at.aux))


def _add_bit63(scene: Scene) -> dict:
    scene.start(1, aux=scene.given("entry", 0))
    answer = scene.host("sept_add", r8=scene.at.aux | _BIT63, **NO_L2)
    return dict(status=answer.status, entry=scene.entry(), r8=answer.registers["r8"])


def _add_existing(scene: Scene) -> dict:
    """ALLOW_EXISTING where there is a table, in both versions."""
    scene.start(1, "NL_MAPPED", ["empty", None], aux=scene.given("v0_r8", 0) & ~_BIT63)
    old, new = (scene.host("sept_add", rdx=scene.at.tdr | 1, r8=scene.at.aux, version=version, **NO_L2)
                for version in (0, 1))
    return dict(v0=old.status, v0_r8=old.registers["r8"], v0_r9=old.registers["r9"], v1=new.status,
                v1_r8=new.registers["r8"], v1_r9=new.registers["r9"], pamt=scene.pamt(scene.at.aux))


def _add_null(scene: Scene) -> dict:
    scene.start(1)
    return {f"v{version}": scene.host("sept_add", r8=NULL_PA, version=version, **NO_L2).status for version in (0, 1)}


def _add_l2_none(scene: Scene) -> dict:
    """A page for the table of an L2 VM that the TD does not have."""
    scene.start(1, aux=scene.given("r8", 0))
    answer = scene.host("sept_add", version=1, r8=scene.at.aux,
                        **NO_L2 | dict(r9=scene.given("r9", scene.at.aux + 4096)))
    return answer.show("status", "r8", "r9", "r10", "r11") | dict(entry=scene.entry())


def _flag_in_rdx(scene: Scene, op: str, **build) -> dict:
    """RDX bit 0, which asks SEPT.RD for L2 attributes."""
    scene.start(0, "MAPPED", **build)
    return scene.host(op, rdx=scene.at.tdr | 1).show("status", "rcx", "rdx", "r8")


# ---- walks

def _walk_blocked_parent(scene: Scene) -> dict:
    """The blocked table is at the level that the answer names."""
    level = scene.given("rdx", 1) & 7
    scene.start(level, "NL_MAPPED", ["nl_child" if level > 1 else "leaf_child", None])
    scene.block()
    return scene.host("sept_rd", 0).show("status", "rcx", "rdx")


def _walk_ends(scene: Scene, state: str, page: int = 0) -> dict:
    level = scene.given("rdx", 1) & 7
    scene.start(level, state, page=page)
    return scene.host("sept_rd", 0).show("status", "rcx", "rdx")


def _block_twice(scene: Scene) -> dict:
    """In different epochs; of the two kinds of pages the recorder took one."""
    kind = "PENDING" if scene.given("rdx", 0) >> 8 == 3 else "MAPPED"
    scene.start(scene.given("rdx", 0) & 7, kind, page=scene.given("rcx", 0) & HPA,
                tdr=scene.given("pamt.owner", 0), epoch=scene.given("pamt.bepoch", 1))
    scene.block()
    scene.track()
    answer = scene.host("range_block")
    return answer.show("status", "rax", "rcx", "rdx") | dict(pamt=scene.pamt(scene.guest_page(), scene.level))


# ---- guest addresses and levels

def _add_at(scene: Scene, rcx: int) -> str:
    return scene.host("sept_add", rcx=rcx, r8=scene.at.aux, **NO_L2).status


def _addresses(scene: Scene, operands: dict[str, int], **build) -> dict:
    """SEPT.ADD with operands of guest address and level, each on a TD without tables."""
    got = {}
    for name, rcx in operands.items():
        scene.start(build.get("levels", 4) - 1, **build)
        got[name] = _add_at(scene, rcx)
    return got


def _level_max(scene: Scene) -> dict:
    scene.start(3)
    return dict(add4=_add_at(scene, 4), rd3=scene.host("sept_rd", 3).status,
                aug2=scene.host("page_aug", 2, r8=scene.at.aux).status, block3=scene.host("range_block", 3).status,
                remove3=scene.host("page_remove", 3).status)


QUIRKS = {
    "sept-add-bepoch": _add_bepoch,
    "sept-add-bit63": _add_bit63,
    "sept-add-allow-existing": _add_existing,
    "sept-add-null": _add_null,
    "sept-add-l2-none": _add_l2_none,
    "sept-rd-bit0": lambda scene: _flag_in_rdx(scene, "sept_rd"),
    "sept-rd-bit0-debug": lambda scene: _flag_in_rdx(scene, "sept_rd", debug=1),
    "rdx-bit0-other": lambda scene: _flag_in_rdx(scene, "range_block"),
    "blocked-parent": _walk_blocked_parent,
    "walk-ends-at-leaf": lambda scene: _walk_ends(scene, "MAPPED", scene.given("rcx", 0) & HPA),
    "walk-ends-at-free": lambda scene: _walk_ends(scene, "FREE"),
    "block-twice": _block_twice,
    "gpaw0": lambda scene: _addresses(scene, dict(bit47=1 << 47 | 3, bit48=1 << 48 | 3)),
    "gpaw1": lambda scene: _addresses(scene, dict(l4=1 << 48 | 4, bit51=1 << 51 | 4), levels=5, gpaw=1),
    "5level-gpaw0": lambda scene: _addresses(scene, dict(l4=4, bit48=1 << 48 | 4), levels=5),
    "level-max": _level_max,
}
"""Quirk -> what runs its situation and measures."""
