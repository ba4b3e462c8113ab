"""The recordings' shorthand of the joined code: repetitions, runs of leaves, folded events, guest results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tdpfast.conform.mmu import expand_sptes
from tdpfast.conform.result import page_size, times
from tdpfast.status import status_name


def expand_reps(events: Iterable[list]) -> Iterator[list]:
    """["rep", n, steps, group] written out one after another; numbers advance in textual order by their step."""
    for event in events:
        if event[0] != "rep":
            yield event
            continue
        _, count, steps, group = event
        for i in times(count):
            empty = True
            for inner in expand_reps(advance(group, [step_int(s) * i for s in steps])):
                empty = False
                yield inner
            if empty:                # so are all its rounds
                break


def advance(group: list, steps: list) -> list:
    """A copy of the group with every number in it moved by its step."""
    rest = iter(steps)

    def move(value):
        if isinstance(value, list):
            return [move(v) for v in value]
        if isinstance(value, dict):
            return {k: move(v) for k, v in value.items()}
        if isinstance(value, bool):
            return value
        if isinstance(value, int):
            return value + next(rest)
        if isinstance(value, str):
            return move_text(value, rest)
        return value

    try:
        return move(group)
    except StopIteration:
        raise ValueError("a repetition has fewer steps than numbers") from None


def step_int(step) -> int:
    return int(step, 16) if isinstance(step, str) else step


def move_text(text: str, rest) -> str:
    """Hexadecimal strings count as numbers; other strings do not."""
    if text.startswith("0x"):
        return hex((int(text, 16) + next(rest)) & ((1 << 64) - 1))
    return text


def guest_result(kind: int, rax: int, out, flags: int, accept: bool) -> dict:
    """What a guest instruction ended with, as the files write it."""
    if kind == 5:
        return {"ret": "NOT_IN_GUEST"}
    if kind == 1:
        return {"ret": "NO_FAULT"}
    if kind == 2:
        return {"ret": "VE_INJECTED", "rax": hex(rax)}
    if kind == 3:
        reason = rax & 0xFFFFFFFF
        text = f"TDEXIT:reason={reason}" if rax >> 32 == 0 else status_name(rax)
        registers = {name: hex(value) for name, value in zip(("rcx", "rdx", "r8"), out) if value}
        return {"ret": text, "rax": hex(rax), "out": registers, "unexpected_pending": flags}
    return {"ret": status_name(rax), "rax": hex(rax)}


def fold_reclaimed(events: list) -> list:
    """A successful RECLAIM with its reset and free of the same page is one event in the files."""
    out: list = []
    i = 0
    while i < len(events):
        e = events[i]
        if (e[0] == "seam" and e[1] == "PHYMEM.PAGE.RECLAIM" and e[3] == "TDX_SUCCESS" and i + 2 < len(events)
                and events[i + 1] == ["reset_paddr", e[2][0]] and events[i + 2] == ["free_page", e[2][0]]):
            out.append(["reclaimed", e[2][0], e[5].get("rcx", "0x0")])
            i += 3
        else:
            out.append(e)
            i += 1
    return out


def expand_sptes_dead(sptes: Iterable[list]) -> Iterator[list]:
    """As expand_sptes(), keeping what the designs' files say of freed tables."""
    for entry in sptes:
        if entry[0] == "run" or len(entry) < 6:
            yield from expand_sptes([entry])
        else:
            yield list(entry)


def expand_sept(entries: Iterable[list]) -> Iterator[list]:
    """Recorded S-EPT entries with runs of leaves written out."""
    for entry in entries:
        gpa, level, raw, state = entry[:4]
        count = entry[4] if len(entry) > 4 else 1
        if count == 1:
            yield [gpa, level, raw, state]
            continue
        size = page_size(level)
        for i in times(count):
            yield [hex(int(gpa, 16) + i * size), level, hex(int(raw, 16) + i * size), state]
