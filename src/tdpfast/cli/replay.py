"""tdpfast replay: run the schedule of a token again."""

from __future__ import annotations

import json

import click

from tdpfast.catalogue import CATALOGUES
from tdpfast.check import replay_token
from tdpfast.checks import names_of
from tdpfast.cli import EXIT_FOUND, EXIT_OK
from tdpfast.cli.check import gather
from tdpfast.design import PRESETS
from tdpfast.token import Token


def python_of(token: str, files: tuple[str, ...]) -> str:
    """The Python that does the same."""
    return "\n".join([
        "from tdpfast.catalogue import catalogue", "from tdpfast.check import replay_token",
        "from tdpfast.design import PRESETS", "from tdpfast.scenario import load",
        "from tdpfast.story import columns_text, tell", "from tdpfast.token import Token", "",
        f"token = Token.parse({token!r})",
        "scenarios = " + " + ".join([f"catalogue({c!r})" for c in CATALOGUES] + [f"[load({f!r})]" for f in files]),
        "scenario, design, program, replay = replay_token(token, scenarios, PRESETS.values())",
        "print(columns_text(tell(program, scenario, replay), [t.name for t in scenario.threads]))"])


@click.command("replay")
@click.argument("token")
@click.option("--file", "files", multiple=True, metavar="FILE", help="Also look in this scenario file.")
@click.option("--trace", is_flag=True, help="Kernel trace format (tracefs), with tdpfast_ events between.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: checks, steps.")
@click.option("--python", "as_python", is_flag=True, help="Print the Python that does the same, and exit.")
def command(token, files, trace, as_json, as_python):
    """Run the schedule of a TOKEN again and show what happens.

    The token says which scenario and design it belongs to: those of the catalogues are known, others are named with
    --file. Exits with 1 if the schedule violates a check.
    """
    from tdpfast.story import columns_text, tell
    from tdpfast.tracefs import tracefs

    parsed = Token.parse(token)
    if as_python:
        click.echo(python_of(token, files))
        return EXIT_OK
    scenario, design, program, replay = replay_token(parsed, gather((*CATALOGUES, *files)), PRESETS.values())
    checks = names_of(replay["checks"])
    if as_json:
        steps = [{"agent": a, "kind": k, "object": program.describe(o), "value": v} for a, k, o, v in replay["steps"]]
        click.echo(json.dumps({"scenario": scenario.name, "design": design.name, "gated": not design.ungated,
                               "checks": checks, "end": replay["end"], "steps": steps}))
    elif trace:
        click.echo(tracefs(program, scenario), nl=False)
    else:
        gating = "ungated" if design.ungated else "gated"
        click.echo(f"{scenario.name} on {design.name}, {gating}: {' '.join(checks) or 'holds'}\n")
        click.echo(columns_text(tell(program, scenario, replay), [t.name for t in scenario.threads]))
    return EXIT_FOUND if checks else EXIT_OK
