from collections.abc import Sequence
from typing import Any

from tdpfast._explore.explorer import ProgramRef

OPS: tuple[str, ...]

class ToyRef(ProgramRef):
    @property
    def words(self) -> list[int]: ...
    @property
    def hooks(self) -> list[tuple[int, int]]: ...
    @property
    def trace(self) -> list[tuple[int, ...]]: ...

def freeze(mappers: int, *, words: int = 2, broken: bool = False) -> ToyRef: ...
def script(
    threads: Sequence[Sequence[tuple[Any, ...]]],
    *,
    initial: Sequence[int] = (),
    counter: int = -1,
    rcu: bool = False,
    grace: bool = True,
    hidden: bool = False,
    every: bool = False,
) -> ToyRef: ...
def random_threads(
    seed: int,
    *,
    threads: int = 0,
    length: int = 4,
    words: int = 2,
    locks: int = 2,
    loops: bool = True,
    rcu: bool = False,
    bugs: bool = True,
) -> list[list[tuple[Any, ...]]]: ...

class LockTorture:
    ncpu: int
    moved: tuple[int, int]
    held: bool
    def __init__(self, ncpu: int) -> None: ...
    def write(self, cpu: int, n: int) -> None: ...
    def read(self, cpu: int, n: int, nested: bool = False) -> int: ...
    def hold(self, cpu: int) -> None: ...
    def release(self, cpu: int) -> None: ...
