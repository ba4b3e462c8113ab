"""tdpfast sweep: what breaks without each guard of a design, and which choices go together."""

from __future__ import annotations

import json
import sys

import click

from tdpfast.cli import EXIT_OK
from tdpfast.cli.knobs import knob_option
from tdpfast.design import parse_knobs, with_knobs
from tdpfast.errors import UsageError


@click.command("sweep")
@click.argument("design")
@knob_option
@click.option("--generated", type=click.IntRange(0, 1 << 31), default=100, show_default=True, metavar="N",
              help="Generated scenarios after those of the catalogues.")
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), default=0, show_default=True,
              help="Of the generated scenarios.")
@click.option("--guard", "guards", multiple=True, metavar="K", help="Only this guard, by its knob (repeatable).")
@click.option("--pairs", is_flag=True, help="Also every pair of the postings' choices, on the review's scenarios.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Markdown tables.")
@click.option("--jobs", type=click.IntRange(0, 1024), default=0, metavar="N", help="Processes; 0 = one per CPU.")
@click.option("--progress/--no-progress", default=None, help="Say on stderr what is done; default: on a terminal.")
def command(design, knobs, generated, seed, guards, pairs, as_json, as_markdown, jobs, progress):
    """For each guard of DESIGN (freeze, roll-back, TRACK, grace period, ...) the first scenario that needs it.

    Exits with 0: that something breaks without a guard is what the sweep is to show.
    """
    from tdpfast.sweep import markdown, sweep, text, to_json

    if as_json and as_markdown:
        raise UsageError("--json with --markdown", "one output has one form", "one of them")
    said = sys.stderr.isatty() if progress is None else progress
    result = sweep(with_knobs(design, parse_knobs(knobs)), generated=generated, seed=seed, pairs=pairs,
                   guards=guards, jobs=jobs,
                   progress=(lambda name: click.echo(f"done: {name}", err=True)) if said else None)
    click.echo(json.dumps(to_json(result)) if as_json else markdown(result) if as_markdown else text(result))
    return EXIT_OK
