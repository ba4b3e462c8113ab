from collections.abc import Mapping
from typing import Any

from tdpfast.design import Design

OP_NAMES: tuple[str, ...]
OP_KIND: dict[str, int]
DESIGN_FIELDS: tuple[str, ...]
MODIFIERS: frozenset[str]
MAX_GFN: int
LEVEL_FIELDS: tuple[str, ...]
MAPPING_OPS: tuple[str, ...]
DEFAULTS: dict[str, dict[str, int]]
TD_DEFAULTS: dict[str, dict[str, int]]
LOCKS: dict[str, int]
HOOKS: dict[str, int]
CHANGE_KINDS: dict[str, int]
LEAF_NUMBERS: dict[str, int]

def as_u64(value: Any, what: str) -> int: ...

class VmCore:
    design: Design
    hook_error: BaseException | None
    hook_threads: list[int]
    def raise_hook_error(self) -> None: ...
    def __init__(self, design: Design, *, root_level: int = 4, mmu: int = 0, maxphyaddr: int = 52, l1tf: bool = False,
                 cache_bits: int = 0, exec_only: bool = True, tdx: bool = True, direct_gfn_bits: int = 0,
                 ipat: bool = False, nx: bool = False, slot_base: int = 0, slot_npages: int = 0, mmio_gen: int = 0,
                 pml: bool = False, memory_pages: int = 16384, want_mirror: bool = True, want_direct: bool = True,
                 keep_dead: bool = False) -> None: ...
    @property
    def ended(self) -> bool: ...
    @property
    def checks(self) -> int: ...
    def set_tracing(self, on: bool) -> None: ...
    def run(self, fields: Mapping[str, Any]) -> dict[str, Any]: ...
    def events(self) -> list[tuple[int, int, int, tuple[int, ...], str | None, str | None]]: ...
    def roots(self) -> list[dict[str, Any]]: ...
    def sptes(self) -> list[tuple[int, int, int, int, bool]]: ...
    def revive(self) -> None: ...
    def stats(self) -> dict[str, int]: ...
