"""Looking at a VM's page tables: the walk of one gfn, every entry of a root, a dump as text.

All of it reads the arena as it stands. An entry is followed only to a page of the arena that is in use, one
level down, and once per root, so that no state of the tables leads it astray.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tdpfast._face.batch import SP_FIELDS, describe_sp
from tdpfast._face.vm import TABLE_HPA
from tdpfast.columns import WIDTH
from tdpfast.show import LEVELS, fields_of, flag_words, kind_of

if TYPE_CHECKING:
    from tdpfast.vm import Vm

ARENA_HPA: int = TABLE_HPA
"""Host physical address that page 0 of the arena stands for."""
ADDRESS = 0x000FFFFFFFFFF000
STATES = ("free", "unused", "linked", "removed", "queued", "freed")


class Table(NamedTuple):
    """A page table's descriptor, struct kvm_mmu_page."""

    index: int      # type: ignore[assignment]  # hides tuple.index
    """Page of the arena."""
    state: str
    """"unused", "linked", "removed" (unreachable for new walks) or "queued" (waits for its grace period)."""
    level: int
    gfn: int
    """First gfn it covers."""
    is_mirror: bool
    invalid: bool
    is_root: bool
    root_count: int
    """tdp_mmu_root_count, of a root."""
    root_number: int
    """Order of creation, of a root; else -1."""
    external_spt: int
    """The page of the external table that goes with it; 0 = none."""
    nx_huge_page_disallowed: bool
    access: int
    """ACC_* of the role."""
    parent: tuple[int, int] | None
    """(page, entry) of the SPTE it was made for."""
    guest_mode: bool = False
    """L2 runs on it."""
    smm: bool = False
    """It is of the address space of system management mode."""


assert Table._fields == SP_FIELDS


class Entry(NamedTuple):
    """One SPTE where it stands."""

    table: int
    """Page of the arena that holds it."""
    index: int      # type: ignore[assignment]  # hides tuple.index
    level: int
    gfn: int
    """First gfn of the entry, without the shared bit."""
    spte: int
    kind: str
    """"leaf", "table", "frozen", "mmio", "none" or "non-present"."""
    physical: int | None
    """Host physical address of the memory or of the next table, if present."""
    flags: tuple[str, ...]
    child: int | None
    """Page of the arena that a table entry points to; None if it points elsewhere."""


@dataclass(frozen=True)
class Walk:
    """The way from a root down to one gfn."""

    gfn: int
    private: bool
    root: Table
    entries: tuple[Entry, ...]
    """From the root down to where the walk ends."""

    @property
    def leaf(self) -> Entry | None:
        """The entry that maps the gfn, or None."""
        return self.entries[-1] if self.entries[-1].kind == "leaf" else None

    @property
    def pfn(self) -> int | None:
        """The host frame behind the gfn, or None."""
        leaf = self.leaf
        if leaf is None or leaf.physical is None:
            return None
        return (leaf.physical >> 12) + (self.gfn & ((1 << 9 * (leaf.level - 1)) - 1))

    def __str__(self) -> str:
        """Level by level, in the manner of crash's vtop."""
        lines = [f"GFN {self.gfn:x}  ({root_name(self.root)})", "",
                 f"{'LEVEL':>5} {'INDEX':>5}  {'GFN':>10}  {'SPTE':^16}  {'PHYSICAL':>13}  FLAGS"]
        for e in self.entries:
            lines += beside(f"{LEVELS[e.level]:>5} {e.index:>5}  {e.gfn:>10x}  {e.spte:>16x}  {physical(e):>13}",
                            e.flags)
        pfn = self.pfn
        lines += ["", f"  pfn {pfn:x}" if pfn is not None else f"  not mapped ({self.entries[-1].kind})"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """For notebooks: a table, a row for each level."""
        head = ("level", "index", "gfn", "SPTE", "physical", "flags")
        cells = [(LEVELS[e.level], str(e.index), f"{e.gfn:x}", f"{e.spte:016x}", physical(e), " | ".join(e.flags))
                 for e in self.entries]
        pfn = self.pfn
        found = f"pfn {pfn:x}" if pfn is not None else f"not mapped ({self.entries[-1].kind})"
        return (f"<table><caption>{escape(f'GFN {self.gfn:x} ({root_name(self.root)}): {found}')}</caption>"
                f"<tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>"
                + "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in cells)
                + "</table>")


def beside(text: str, flags: tuple[str, ...]) -> list[str]:
    """A line and its flags: beside it if they fit 80 columns, else on lines of their own below it."""
    words = f"({'|'.join(flags)})"
    if len(text) + 2 + len(words) <= WIDTH:
        return [f"{text}  {words}"]
    below = [""]
    for word in words.replace("|", "|\n").split("\n"):
        if below[-1] and len(below[-1]) + len(word) > WIDTH - 8:
            below.append("")
        below[-1] += word
    return [text, *(" " * 8 + line for line in below)]


def physical(entry: Entry) -> str:
    """How the physical address of an entry is shown."""
    return "-" if entry.physical is None else f"{entry.physical:x}"


def root_name(root: Table) -> str:
    """How a root is called: "mirror root 0, level 4, refs 2"."""
    kind = "mirror" if root.is_mirror else "L2" if root.guest_mode else "SMM" if root.smm else "direct"
    return f"{kind} root {root.root_number}, level {root.level}, refs {root.root_count}" + (
        ", invalid" if root.invalid else "")


def table(vm: Vm, index: int) -> Table | None:
    """The descriptor of a page of the arena, or None if the page is free."""
    values = describe_sp(vm.core, index)
    return None if values is None else Table(*values)._replace(state=STATES[values[1]])


def child_index(vm: Vm, entry_level: int, spte: int) -> int | None:
    """The page that a present table entry points to, if that is a table in use one level below."""
    index = ((spte & ADDRESS) - ARENA_HPA) >> 12
    if not 0 <= index < vm.npages:
        return None
    child = table(vm, index)
    return index if child is not None and child.level == entry_level - 1 else None


def entry(vm: Vm, page: Table, index: int, spte: int) -> Entry:
    """One SPTE of a table with all that can be said of it."""
    fields = fields_of(vm.spte, spte, page.level, vm.mmio_value)
    kind = kind_of(vm.spte, spte, fields)
    gfn = (page.gfn + (index << 9 * (page.level - 1))) & ~vm.gfn_direct_bits
    return Entry(page.index, index, page.level, gfn, spte, kind, fields["pfn"] << 12 if fields["present"] else None,
                 tuple(flag_words(vm.spte, kind, fields)),
                 child_index(vm, page.level, spte) if kind == "table" else None)


def walk(vm: Vm, root: Table, gfn: int, private: bool) -> Walk:
    """The entries on the way from root to gfn."""
    arena = vm.arena
    found = []
    page: Table | None = root
    while page is not None:
        index = ((gfn if private else gfn | vm.gfn_direct_bits) >> 9 * (page.level - 1)) & 511
        here = entry(vm, page, index, int(arena[page.index, index]))
        found.append(here)
        page = table(vm, here.child) if here.child is not None else None
    return Walk(gfn, private, root, tuple(found))


def entries(vm: Vm, root: Table) -> Iterator[Entry]:
    """Every entry below root that is not empty, pre-order."""
    yield from _entries(vm, root, vm.arena, {root.index})


def _entries(vm: Vm, page: Table, arena: np.ndarray, seen: set[int]) -> Iterator[Entry]:
    values = arena[page.index].copy()
    for index in np.flatnonzero(values != vm.spte.SHADOW_NONPRESENT_VALUE).tolist():
        here = entry(vm, page, index, int(values[index]))
        yield here
        if here.child is not None and here.child not in seen:
            seen.add(here.child)
            child = table(vm, here.child)
            if child is not None:
                yield from _entries(vm, child, arena, seen)


def dump_lines(vm: Vm) -> Iterator[str]:
    """Every root and below it every entry that is not empty; leaves in a row are one line."""
    for root in vm.roots:
        yield root_name(root)
        run: list[Entry] = []
        for here in entries(vm, root):
            if run and not _continues(run, here):
                yield _line(root, run)
                run = []
            run.append(here)
        if run:
            yield _line(root, run)


def _continues(run: list[Entry], here: Entry) -> bool:
    last = run[-1]
    if here.kind == "table" or (here.table, here.index) != (last.table, last.index + 1) or here.flags != last.flags:
        return False
    return here.kind != "leaf" or here.spte - last.spte == 1 << 12 + 9 * (last.level - 1)


def _line(root: Table, run: list[Entry]) -> str:
    first, last = run[0], run[-1]
    indent = "  " * (root.level - first.level + 1)
    index = f"[{first.index}]" if len(run) == 1 else f"[{first.index}-{last.index}]"
    more = f" x {len(run)}" if len(run) > 1 else ""
    return (f"{indent}{LEVELS[first.level]} {index} gfn {first.gfn:x} {first.spte:x} -> {physical(first)}{more} "
            f"({'|'.join(first.flags)})")
