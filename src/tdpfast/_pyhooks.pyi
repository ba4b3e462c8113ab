from collections.abc import Callable, Mapping

from tdpfast._vm import VmCore

HOOK_NAMES: tuple[str, ...]

def install(vm: VmCore, hooks: Mapping[str, Callable[[int, int, int, int], int | None]]) -> None: ...
