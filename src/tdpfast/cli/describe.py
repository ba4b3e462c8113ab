"""tdpfast describe: what a word is."""

from __future__ import annotations

import click

from tdpfast.cli import EXIT_OK
from tdpfast.cli.output import show, width_of, width_option
from tdpfast.columns import wrap
from tdpfast.vocabulary import describe


@click.command("describe")
@click.argument("name")
@width_option
def command(name: str, width: int | None) -> int:
    """Describe a design, a knob, a scenario of a catalogue, an operation, a check, a SEAMCALL leaf (in any of its
    spellings), or a kernel name that design files use."""
    columns = width_of(width)
    show("\n".join(part for line in describe(name) for part in wrap(line, columns)))
    return EXIT_OK
