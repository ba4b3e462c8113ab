"""Names of pages and SEAMCALL leaves in the recordings of the joined code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

PAGE = 0x00003FFFFFFFF000          # the HPA bits of a page; above are HKID and flags
PA_OF_NULL = 0x778000000000        # what page_to_phys(virt_to_page(NULL)) gives: no physical address
RECORDED_POOL = range(0x110000000, 0x120000000)   # where the recordings' S-EPT pages lay


class PageNames:
    """Control pages by name, S-EPT pages as S0, S1, ... in order of their first use."""

    def __init__(self, control: dict[int, str], sept_range: tuple[int, int]):
        self.names = dict(control)
        self.sept_range = sept_range
        self.count = 0

    def first_use(self, value: int) -> str:
        """The name of a page handed to the module as an S-EPT page; new pages get the next number."""
        page = value & PAGE
        if self.sept_range[0] <= page < self.sept_range[1] and page not in self.names:
            self.names[page] = f"S{self.count}"
            self.count += 1
        return self.name(value)

    def name(self, value: int) -> str:
        """A page by name, "NAME|0x.." with other bits set, other numbers in hexadecimal."""
        page = value & PAGE
        if value == PA_OF_NULL:
            return "PA(NULL)"
        if page in self.names:
            rest = value & ~PAGE
            return f"{self.names[page]}|{rest:#x}" if rest else self.names[page]
        if page and self.sept_range[0] <= page < self.sept_range[1] and not value & ~PAGE:
            return "S-unused"
        return hex(value)

    def own(self, events: Iterable[list]) -> Iterator[list]:
        """Recorded events with S-EPT pages that never got a name (seen in a SEAMCALL, but not as a new S-EPT page)
        called "S-unused": where they lay is the recorder's affair."""
        for event in events:
            if event[0] in ("seam", "free_ext"):
                yield [[self._unnamed(v) for v in part] if isinstance(part, list) else
                       self._unnamed(part) if event[0] == "free_ext" else part for part in event]
            else:
                yield event

    @staticmethod
    def _unnamed(text):
        if isinstance(text, str) and text.startswith("0x11") and int(text, 16) in RECORDED_POOL:
            return "S-unused"
        return text

    def address(self, text: Any) -> int:
        """The number a name stands for."""
        if isinstance(text, int):
            return text
        name, _, rest = text.partition("|")
        bits = int(rest, 16) if rest else 0
        if name.startswith("0x"):
            return int(name, 16) | bits
        for page, known in self.names.items():
            if known == name:
                return page | bits
        return bits
