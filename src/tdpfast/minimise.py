"""Makes a failing schedule easier to read: fewer context switches, then fewer steps, the same check failing."""

from collections.abc import Iterator
from itertools import groupby

from tdpfast._explore.explorer import Explorer


def cost(schedule: bytes) -> tuple[int, int]:
    """What makes a schedule hard to read: context switches, then steps."""
    return sum(1 for _ in groupby(schedule)) - 1, len(schedule)


def minimise(explorer: Explorer, schedule: bytes, check: int, *, attempts: int = 2000) -> bytes:
    """A schedule at most as costly on which `check` (its bit) still fails. Greedy; at most `attempts` runs.

    A candidate is followed where it can be; what then really ran is what counts. If the check does not fail on the
    given schedule, that is returned as it is.
    """
    best = schedule
    improved = True
    while improved and attempts > 0:
        improved = False
        for candidate in _candidates(best):
            attempts -= 1
            ran = explorer.try_schedule(candidate)
            if ran["checks"] & check and cost(ran["schedule"]) < cost(best):
                best, improved = ran["schedule"], True
                break
            if attempts <= 0:
                break
    return best


def _candidates(schedule: bytes) -> Iterator[bytes]:
    """Schedules one change away: a block left out, or moved to the next or the last block of its agent."""
    blocks = [bytes(run) for _, run in groupby(schedule)]
    for i in range(len(blocks)):
        yield b"".join(blocks[:i])
        rest = blocks[:i] + blocks[i + 1 :]
        later = next((j for j in range(i, len(rest)) if rest[j][0] == blocks[i][0]), None)
        if later is not None:
            yield b"".join(rest[:later] + [blocks[i]] + rest[later:])
        earlier = next((j for j in range(i - 1, -1, -1) if rest[j][0] == blocks[i][0]), None)
        if earlier is not None:
            yield b"".join(rest[: earlier + 1] + [blocks[i]] + rest[earlier + 1 :])
        yield b"".join(rest)
