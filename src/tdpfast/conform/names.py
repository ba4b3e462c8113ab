"""Names of pages and SEAMCALL leaves in the recordings of the joined code."""

from __future__ import annotations

from tdpfast._vm import LEAF_NUMBERS

LEAF_NAMES = {number: name for name, number in LEAF_NUMBERS.items()}
PAGE = 0x00003FFFFFFFF000          # the HPA bits of a page; above are HKID and flags


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
        if page in self.names:
            rest = value & ~PAGE
            return f"{self.names[page]}|{rest:#x}" if rest else self.names[page]
        if page and self.sept_range[0] <= page < self.sept_range[1] and not value & ~PAGE:
            return "S-unused"
        return hex(value)

    def entry(self, raw: int) -> str:
        """An S-EPT entry of a table: NAME|bits."""
        return self.name(raw)

    def address(self, text) -> int:
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
