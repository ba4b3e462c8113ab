"""tdpfast check DESIGN --against BASE: what differs between two designs, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tdpfast.against import against, text, to_json
from tdpfast.cli import EXIT_FOUND, EXIT_OK
from tdpfast.design import Design
from tdpfast.errors import UsageError


def run(mine: Design, base: Design, *, scenarios: int, seed: int, first: int, jobs: int, as_json: bool,
        save: str | None) -> int:
    """Prints what differs; 1 if `mine` violates what `base` does not."""
    from tdpfast.stress.scenarios import write_scenario

    if save is not None and not Path(save).is_dir():
        raise UsageError(f"cannot write into {save}", "no such directory", "a directory that exists")
    result = against(mine, base, scenarios=scenarios, seed=seed, first=first, jobs=jobs)
    click.echo(json.dumps(to_json(result)) if as_json else text(result))
    if save is not None:
        for i, found in enumerate(result.differences):
            path = Path(save) / f"{i:02}-{found.scenario.name}.toml"
            write_scenario(path, found.scenario)
            click.echo(f"written: {path}", err=True)
    return EXIT_FOUND if result.violated else EXIT_OK
