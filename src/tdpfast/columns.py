"""A story as text: one column per thread where they fit, else one line after another with the CPU in front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

WIDTH = 80
NARROW = 34
"""A column narrower than that is not worth it."""


class Told(Protocol):
    """What columns_text() wants of a line: tdpfast.story.Line."""

    @property
    def column(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def count(self) -> int: ...


RCU, END, FOLDED = -1, -2, -3
"""Columns of lines that belong to no thread: RCU's, how it ended, and what was left out."""
MARKS = {RCU: "   ~ ", END: "  => ", FOLDED: "   - "}


def columns_text(lines: Sequence[Told], threads: Sequence[str], width: int = WIDTH) -> str:
    """The story of threads with these names, no line longer than `width`."""
    column = (width - 3 * (len(threads) - 1)) // max(len(threads), 1)
    return side_by_side(lines, threads, column, width) if column >= NARROW else one_below_another(lines, threads, width)


def counted(line: Told) -> str:
    return line.text + (f"  (x{line.count})" if line.count > 1 else "")


def spanning(line: Told, width: int) -> list[str]:
    mark = MARKS[line.column]
    parts = wrap(counted(line), width - len(mark))
    return [mark + parts[0], *(" " * len(mark) + part for part in parts[1:])]


def side_by_side(lines: Sequence[Told], threads: Sequence[str], column: int, width: int) -> str:
    """Columns `CPU 0 | CPU 1`; RCU and the end of the story span them."""
    head = " | ".join(f"CPU {i} ({name})"[:column].ljust(column) for i, name in enumerate(threads)).rstrip()
    rows = [head, "-+-".join("-" * column for _ in threads)]
    for line in lines:
        if line.column < 0:
            rows += spanning(line, width)
            continue
        cells = [""] * len(threads)
        for part in wrap(counted(line), column):
            cells[line.column] = part
            rows.append(" | ".join(c.ljust(column) for c in cells).rstrip())
    return "\n".join(rows)


def one_below_another(lines: Sequence[Told], threads: Sequence[str], width: int) -> str:
    """Lines that begin with the CPU they happen on, an empty line where another one goes on."""
    rows = [f"CPU {i}: {name}" for i, name in enumerate(threads)]
    last = None
    for line in lines:
        if line.column < 0:
            rows += spanning(line, width)
        else:
            mark = f"CPU {line.column} | "
            parts = wrap(counted(line), width - len(mark))
            if line.column != last:
                rows.append("")
            rows += [mark + part for part in parts]
            last = line.column
    return "\n".join(rows)


def wrap(text: str, width: int) -> list[str]:
    """A line cut at blanks so that it fits, else after a slash or an underscore; continuations are indented."""
    out = []
    while len(text) > width:
        cut = text.rfind(" ", 8, width + 1)
        if cut < 0:
            cut = max(text.rfind(mark, 8, width) for mark in "/_") + 1
        cut = cut or width
        out.append(text[:cut].rstrip())
        text = "    " + text[cut:].lstrip()
    return [*out, text]
