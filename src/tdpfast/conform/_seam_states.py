"""Prepared states of an S-EPT entry, as the recordings describe them."""
from __future__ import annotations

from tdpfast.conform._seam_rig import CHILD_TABLE, Rig

MASK = {
    "REMOVED": 0x80C0_0000_0000_0000, "NL_MAPPED": 0x8000_0000_0000_0007, "NL_BLOCKED": 0x8080_0000_0000_0000,
    "PENDING": 0x8100_0000_0000_00F0, "MAPPED": 0x8000_0000_0000_00F7, "BLOCKED": 0x8080_0000_0000_00F0,
    "PENDING_BLOCKED": 0x8180_0000_0000_00F0, "BLOCKEDW": 0x8040_0000_0000_00F5,
    "EXPORTED_BLOCKEDW": 0x8060_0000_0000_00F5, "EXPORTED_DIRTY": 0x8020_0000_0000_02F7,
    "EXPORTED_DIRTY_BLOCKEDW": 0x8060_0000_0000_02F5, "PENDING_BLOCKEDW": 0x8140_0000_0000_00F0,
    "PENDING_EXPORTED_BLOCKEDW": 0x8160_0000_0000_00F0, "PENDING_EXPORTED_DIRTY": 0x8120_0000_0000_02F0,
    "PENDING_EXPORTED_DIRTY_BLOCKEDW": 0x8160_0000_0000_02F0,
}
"""State -> entry without its page."""


def prepare(rig: Rig, level: int, state: str, variant=None, base_epoch: int = 1,
            added: bool = False) -> None:
    """Make the entry of the guest address at level what a recording says.

    variant: the tracking of a blocked state (untracked, tracked_busy, tracked), or [children, tracking] of a table.
    added: a mapped large page was made of pages added one by one, which shows in the PAMT entries below it.
    """
    children, tracking = variant if isinstance(variant, list) else (None, variant)
    at, module = rig.at, rig.module
    if state == "NO_PARENT":
        rig.tables(level + 1)
        return
    rig.tables(level)
    module.set_td(at.tdr, td_epoch=base_epoch)
    if state in ("FREE", "REMOVED"):
        if state == "REMOVED":
            module.set_entry(at.tdr, at.entry_gpa(level), level, MASK[state])
        return
    page = at.table[level] if state.startswith("NL_") else at.leaf[level]
    if state.startswith("NL_"):
        rig.must("mem_sept_add", rcx=at.entry_gpa(level) | level, rdx=at.tdr, r8=page)
        _children(rig, level, children)
    else:
        rig.page(at.entry_gpa(level), level, page)
        if added and level == 1 and state in ("MAPPED", "BLOCKED"):
            for i in range(512):
                module.set_pamt(page + i * 4096, owner=at.tdr)
    _block(rig, level, page, state, tracking, base_epoch)


def _children(rig: Rig, level: int, children: str | None) -> None:
    size = 1 << 12 + 9 * (level - 1)
    at, first = rig.at, rig.at.entry_gpa(level)
    if children == "leaf_child":
        rig.page(first, level - 1, at.leaf[level - 1])
    elif children == "nl_child":
        rig.must("mem_sept_add", rcx=first | level - 1, rdx=at.tdr, r8=CHILD_TABLE)
    elif children in ("512pending", "512mapped"):
        for i in range(512):
            rig.page(first + i * size, level - 1, at.leaf[level] + i * size)
            if children == "512mapped":
                rig.module.set_entry(at.tdr, first + i * size, level - 1, at.leaf[level] + i * size | MASK["MAPPED"])


def _block(rig: Rig, level: int, page: int, state: str, tracking: str | None, epoch: int) -> None:
    """Write the state; for a blocked one also BEPOCH, the epoch since then, and a VCPU inside from before."""
    tdr = rig.at.tdr
    if tracking == "tracked_busy":
        rig.must("vp_enter", 1, rcx=rig.vcpu(1))
    rig.module.set_entry(tdr, rig.at.entry_gpa(level), level, page | MASK[state])
    if tracking is not None:
        rig.module.set_pamt(page, 0 if state.startswith("NL_") else level, bepoch=epoch)
        rig.module.set_td(tdr, td_epoch=epoch + (tracking != "untracked"))
