from collections.abc import Callable, Generator, Mapping

from tdpfast._face.vm import VmCore

HOOK_NAMES: tuple[str, ...]
HOOK_CALLS: int
MAX_STEPS: int
MAX_LABEL: int
POINT: int

def install(
    vm: VmCore,
    hooks: Mapping[str, Callable[[int, int, int, int], int | Generator[str | None, None, int | None] | None]],
    reset: Callable[[], object] | None = None,
) -> None: ...
