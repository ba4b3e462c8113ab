"""How entries of page tables are shown: names of levels, memory types and flags."""

from __future__ import annotations

from typing import Any

from tdpfast.spte import SpteConfig

LEVELS = {1: "4K", 2: "2M", 3: "1G", 4: "512G", 5: "256T"}
"""PG_LEVEL_* -> what an entry of that level maps or covers."""
MEMTYPES = {0: "UC", 1: "WC", 4: "WT", 5: "WP", 6: "WB"}
"""EPT memory types."""
FLAGS = ("read", "write", "exec", "user_exec", "user", "accessed", "dirty", "ipat", "large",
         "host_writable", "mmu_writable", "suppress_ve")
"""Fields of SPTE_DTYPE that are shown as one word when they are set."""


def fields_of(config: SpteConfig, spte: int, level: int, mmio_value: int | None = None) -> dict[str, Any]:
    """Every field of one SPTE as Python values, by its name in SPTE_DTYPE."""
    record = config.unpack(spte, level, mmio_value=mmio_value)
    return {name: record[name].item() for name in record.dtype.names or ()}


def kind_of(config: SpteConfig, spte: int, fields: dict[str, Any]) -> str:
    """"frozen", "leaf", "table", "mmio", "none" (empty) or "non-present"."""
    if fields["frozen"]:
        return "frozen"
    if fields["present"]:
        return "leaf" if fields["leaf"] else "table"
    if fields["mmio"]:
        return "mmio"
    return "none" if spte == config.SHADOW_NONPRESENT_VALUE else "non-present"


def flag_words(config: SpteConfig, kind: str, fields: dict[str, Any]) -> list[str]:
    """The kind and the flags that are set, in capitals, and the memory type of a leaf."""
    words = [kind.upper()] + [name.upper() for name in FLAGS if fields[name]]
    if fields["leaf"] and config.mmu != "npt":
        words.append(MEMTYPES.get(fields["memtype"], f"reserved {fields['memtype']}"))
    return words
