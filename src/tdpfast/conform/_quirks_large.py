"""Quirks of DEMOTE and PROMOTE."""
from __future__ import annotations

from tdpfast.conform._quirk_scene import HPA, NO_L2, RWX, TDEL, TDHP, TDP, Scene, counter
from tdpfast.conform._quirks_pages import blocked

_LOCKED = 300
"""The child that somebody holds."""


# ---- DEMOTE

def _demote_bepoch(scene: Scene) -> dict:
    """The new table had a BEPOCH from its life before."""
    blocked(scene, 1, "MAPPED", epoch=scene.given("large.bepoch", 1), tdr=scene.given("large.owner", 0))
    scene.set_pamt(scene.at.aux, bepoch=scene.given("pamt.bepoch", 0x77))
    scene.rig.must("mem_page_demote", rcx=scene.rcx(), rdx=scene.at.tdr, r8=scene.at.aux, **NO_L2)
    page = scene.guest_page()
    return dict(pamt=scene.pamt(scene.at.aux), large=scene.pamt(page, 1), child=scene.pamt(page),
                child_last=scene.pamt(page + 511 * 4096))


def _where(scene: Scene) -> dict:
    """Guest address and TD, where an answer gives the operands back."""
    return dict(gpa=scene.given("rcx", 0) & HPA, tdr=scene.given("rdx", 0) & HPA)


def _demote_interrupt(scene: Scene) -> dict:
    level = scene.given("rcx", 1) & 7
    blocked(scene, level, "MAPPED", page=scene.given("entry", 0), **_where(scene))
    answer = scene.host("page_demote", intr_after=0, r8=scene.at.aux, **NO_L2)
    polls = scene.rig.module.polls()
    word = int.from_bytes(scene.rig.module.read_page(scene.at.aux)[:8], "little")
    return answer.show("status", "rcx", "rdx") | dict(polls=polls, entry=scene.entry(), new_page_word0=word,
                                                      new_page_pamt=scene.pamt(scene.at.aux))


def _demote_polls(scene: Scene) -> dict:
    blocked(scene, 1, "MAPPED")
    answer = scene.host("page_demote", r8=scene.at.aux, **NO_L2)
    return dict(status=answer.status, polls=scene.rig.module.polls())


# ---- PROMOTE

def _promotable(scene: Scene, level: int = 1, **start) -> None:
    """A blocked and tracked table of 512 pending pages."""
    blocked(scene, level, "NL_MAPPED", variant=["512pending", None], **start)


def _promote_pamt(scene: Scene) -> dict:
    """Large page and small pages have a BEPOCH from their life before."""
    page = scene.given("entry", 0) & HPA
    _promotable(scene, page=page, table=scene.given("sept_page", 0), tdr=scene.given("large.owner", 0),
                epoch=scene.given("sept_page_pamt.bepoch", 1))
    page, table = scene.guest_page(), scene.at.table[1]
    scene.set_pamt(page, 1, bepoch=scene.given("large.bepoch", 0x55))
    scene.set_pamt(page, bepoch=scene.given("child0.bepoch", 0x66))
    answer = scene.host("page_promote")
    return answer.show("status", "rcx", "rdx") | dict(
        sept_page=table, large=scene.pamt(page, 1), child0=scene.pamt(page), sept_page_pamt=scene.pamt(table),
        entry=scene.entry())


def _promote_leftover(scene: Scene) -> dict:
    """An interrupt stopped the ACCEPT of the first of 512 2M pages; then they become one 1G page."""
    child = scene.given("child0", 4 << 12)
    scene.start(2, "NL_MAPPED", ["512pending", None], page=child)
    scene.enter()
    scene.accept(1, counter(child) - 1)
    scene.exit()
    child0 = scene.entry(1)
    scene.block()
    scene.track()
    status = scene.host("page_promote").status
    return dict(status=status, child0=child0, entry_1g=scene.entry(),
                sept_rd_rcx=scene.host("sept_rd").registers["rcx"])


def _samples(scene: Scene, name: str, around: int) -> list[int]:
    """The children of which the evidence shows a bit: as many, around one of them."""
    bits = scene.evidence.get(name, [])
    if not isinstance(bits, list) or len(bits) > 512:
        raise TypeError(f"{name} is no list of bits")
    return [(around - len(bits) // 2 + i) % 512 for i in range(len(bits))]


def _bits(scene: Scene, children: list[int], mask: int) -> list[int]:
    return [int(scene.entry(scene.level - 1, child) & mask != 0) for child in children]


def _promote_interrupt(scene: Scene) -> dict:
    _promotable(scene, scene.given("rcx", 1) & 7, **_where(scene))
    answer = scene.host("page_promote", intr_after=0)
    return answer.show("status", "rcx", "rdx") | dict(
        polls=scene.rig.module.polls(), child_tdel=_bits(scene, _samples(scene, "child_tdel", 0), TDEL))


def _promote_child_busy(scene: Scene) -> dict:
    _promotable(scene, scene.given("rdx", 1) & 7)
    scene.change(0, TDEL, scene.level - 1, _LOCKED)
    answer = scene.host("page_promote")
    return answer.show("status", "rcx", "rdx") | dict(
        tdel=_bits(scene, _samples(scene, "tdel", _LOCKED), TDEL),
        hp=_bits(scene, _samples(scene, "hp", _LOCKED), TDHP))


def _promote_odd_child(scene: Scene, clear: int, bits: int) -> dict:
    """One child that differs from the others."""
    _promotable(scene, page=scene.given("entry", 0))
    scene.change(clear, bits, scene.level - 1, 7)
    return scene.host("page_promote").show("status", "rcx", "rdx") | dict(entry=scene.entry())


QUIRKS = {
    "demote-new-sept-bepoch": _demote_bepoch,
    "demote-interrupt": _demote_interrupt,
    "demote-polls": _demote_polls,
    "promote-pamt": _promote_pamt,
    "promote-1g-leftover-counter": _promote_leftover,
    "promote-interrupt": _promote_interrupt,
    "promote-child-busy": _promote_child_busy,
    "promote-mixed": lambda scene: _promote_odd_child(scene, TDP, RWX),
    "promote-a-bit": lambda scene: _promote_odd_child(scene, 0, 1 << 8),
    "promote-hp-bit": lambda scene: _promote_odd_child(scene, 0, TDHP),
}
"""Quirk -> what runs its situation and measures."""
