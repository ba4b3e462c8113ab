"""How text leaves the command line: its width, and colour where a terminal shows it."""

from __future__ import annotations

import os
import re
import shutil
import sys

import click

from tdpfast.columns import WIDTH

MAIL_WIDTH = 72
NARROWEST, WIDEST = 40, 1000
width_option = click.option("--width", type=click.IntRange(NARROWEST, WIDEST), metavar="N",
                            help="Columns of the text; default: the terminal's, 80 elsewhere.")
_PAINTED = ((re.compile(r"^(== .*)$", re.MULTILINE), "1"), (re.compile(r"^(  => .*)$", re.MULTILINE), "31"))
"""What is painted, and how: headings bold, what is violated red."""


def width_of(width: int | None) -> int:
    """The width asked for, or the terminal's, or 80."""
    if width is not None:
        return width
    if not sys.stdout.isatty():
        return WIDTH
    return min(max(shutil.get_terminal_size((WIDTH, 24)).columns, NARROWEST), WIDEST)


def show(text: str) -> None:
    """Prints it, in colour on a terminal that is not asked to be plain (NO_COLOR)."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        for pattern, code in _PAINTED:
            text = pattern.sub(f"\x1b[{code}m\\1\x1b[0m", text)
    click.echo(text)
