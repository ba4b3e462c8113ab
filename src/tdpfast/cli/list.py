"""tdpfast list: the words that commands and files take."""

from __future__ import annotations

import json

import click

from tdpfast.cli import EXIT_OK
from tdpfast.cli.output import show, width_of, width_option
from tdpfast.columns import wrap
from tdpfast.vocabulary import LISTS


@click.command("list")
@click.argument("kind", type=click.Choice(list(LISTS)))
@click.option("--json", "as_json", is_flag=True, help="One JSON object: word -> what it is.")
@width_option
def command(kind: str, as_json: bool, width: int | None) -> int:
    """List designs, knobs, scenarios, operations, checks, SEAMCALL leaves, or the kernel names of design files,
    each with what it is."""
    rows = LISTS[kind]()
    if as_json:
        click.echo(json.dumps(dict(rows)))
        return EXIT_OK
    columns = width_of(width)
    first = min(max(len(name) for name, _ in rows), columns // 2)
    lines = [line for name, about in rows for line in wrap(f"{name.ljust(first)}  {about}".rstrip(), columns)]
    show("\n".join(lines))
    return EXIT_OK
