from collections.abc import Callable
from typing import Any

STRATEGIES: tuple[str, ...]
END_NAMES: tuple[str, ...]
KIND_NAMES: tuple[str, ...]

class ProgramRef:
    @property
    def nthreads(self) -> int: ...
    def failed(self) -> bool: ...

class Explorer:
    def __init__(
        self,
        program: ProgramRef,
        strategy: str = "dpor",
        *,
        bound: int = 2,
        depth: int = 3,
        seed: int = 0,
        first: int = 0,
        max_executions: int = 0,
        max_transitions: int = 0,
        max_seconds: float = 0.0,
        max_steps: int = 100000,
        retry_bound: int = 64,
        stop_first: bool = False,
        wanted: int = 0,
        prefix: bytes = b"",
        asleep: int = 0,
        states: bool = True,
    ) -> None: ...
    def run(self, progress: Callable[[Explorer], object] | None = None) -> dict[str, Any]: ...
    def step(self) -> dict[str, Any] | None: ...
    def cut(self, pieces: int) -> list[tuple[bytes, int]]: ...
    def progress(self) -> float | None: ...
    def result(self) -> dict[str, Any]: ...
    def states(self) -> list[int]: ...
    def try_schedule(self, schedule: bytes) -> dict[str, Any]: ...
    def replay(self, schedule: bytes, *, follow: bool = False) -> dict[str, Any]: ...
