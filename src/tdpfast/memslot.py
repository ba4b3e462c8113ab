"""Memslots: which guest frames have memory, and of what kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tdpfast._arguments import check_bool, check_int, shown
from tdpfast._face.vm import MAX_GFN, MAX_SLOTS
from tdpfast.errors import UsageError


@dataclass(frozen=True)
class Memslot:
    """A memslot: guest frames [base_gfn, base_gfn + npages).

    guest_memfd: its frames may be private (KVM_MEM_GUEST_MEMFD); None: on a TD, unless it logs. dirty_log:
    KVM_MEM_LOG_DIRTY_PAGES, which KVM refuses of one with a guest_memfd. smm: of the second address space, that of
    system management mode, which no TD has.
    """

    base_gfn: int = 0
    npages: int = 1 << 36
    guest_memfd: bool | None = None
    dirty_log: bool = False
    smm: bool = False

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "base_gfn", check_int("base_gfn", self.base_gfn, 0, MAX_GFN))
        set_(self, "npages", check_int("npages", self.npages, 0, MAX_GFN + 1 - self.base_gfn))
        if self.guest_memfd is not None:
            set_(self, "guest_memfd", check_bool("guest_memfd", self.guest_memfd))
        set_(self, "dirty_log", check_bool("dirty_log", self.dirty_log))
        set_(self, "smm", check_bool("smm", self.smm))
        if self.dirty_log and self.guest_memfd:
            raise UsageError("a memslot with guest_memfd and dirty_log", "KVM logs no private memory (-EINVAL)",
                             "a slot without guest_memfd for what is shared")

    def row(self, tdx: bool) -> tuple[int, int, int, int, int]:
        """What the core is given."""
        gmem = (tdx and not self.dirty_log) if self.guest_memfd is None else self.guest_memfd
        return self.base_gfn, self.npages, int(gmem), int(self.dirty_log), int(self.smm)

    @property
    def end(self) -> int:
        """First gfn after the slot."""
        return self.base_gfn + self.npages


def check_slots(slots: Sequence[Memslot], tdx: bool, end: int) -> tuple[Memslot, ...]:
    """The memslots of a VM whose gfns end before `end`; UsageError for what KVM would refuse of them."""
    if not isinstance(slots, (list, tuple)) or not all(isinstance(slot, Memslot) for slot in slots):
        raise UsageError(f"bad memslots {shown(slots)}", "not a list of Memslot", "[Memslot(base_gfn, npages), ...]")
    if not 1 <= len(slots) <= MAX_SLOTS:
        raise UsageError(f"{len(slots)} memslots", f"a VM has 1 to {MAX_SLOTS} here", "fewer, larger ones")
    for i, slot in enumerate(slots):
        where = f"memslot {i} [{slot.base_gfn:#x}, {slot.end:#x})"
        if slot.npages == 0 and len(slots) > 1:
            raise UsageError(f"{where} is empty", "KVM takes that for its deletion", "an npages above 0")
        if slot.end > end and len(slots) > 1:
            raise UsageError(f"{where} goes beyond the guest's frames", f"the last is {end - 1:#x}", "a smaller npages")
        if slot.guest_memfd and not tdx:
            raise UsageError(f"{where} has a guest_memfd", "this VM has no private memory", "tdx = 1, or without")
        if slot.smm and tdx:
            raise UsageError(f"{where} is for system management mode", "a TD has no such mode",
                             "without smm, or tdx = 0")
        for j, other in enumerate(slots[:i]):
            if other.smm == slot.smm and slot.base_gfn < other.end and other.base_gfn < slot.end:
                raise UsageError(f"{where} overlaps memslot {j} [{other.base_gfn:#x}, {other.end:#x})",
                                 "KVM answers -EEXIST", "frames of its own for each")
    return tuple(slots)
