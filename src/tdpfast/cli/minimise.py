"""tdpfast minimise: a scenario made smaller while it violates the same check."""

from __future__ import annotations

import click

from tdpfast.cli import EXIT_FOUND
from tdpfast.cli.knobs import knob_option
from tdpfast.design import parse_knobs, with_knobs


@click.command("minimise")
@click.argument("file", metavar="FILE")
@click.option("--design", default="v7.3", show_default=True, metavar="D", help="The design that violates the check.")
@knob_option
@click.option("--ungated", is_flag=True, help="With the rules of today's callers lifted.")
@click.option("--check", "wanted", metavar="C", help="The check to keep; default: the one that tells most.")
@click.option("--save", metavar="OUT", help="Write the scenario there (.toml or .json) instead of printing it.")
def command(file, design, knobs, ungated, wanted, save):
    """Leave out of the scenario in FILE what its violation does not need: threads, operations, set-up, ranges, retries.

    Prints what went, the smaller scenario as TOML, and its interleaving. Exits with 1, as a violation was found; with 2
    if the scenario violates nothing.
    """
    from tdpfast.minimised import minimise_scenario, summary
    from tdpfast.report import counterexample
    from tdpfast.scenario import load
    from tdpfast.stress.scenarios import scenario_toml, write_scenario

    small = minimise_scenario(load(file), with_knobs(design, parse_knobs(knobs)), gated=not ungated, wanted=wanted)
    click.echo(summary(small))
    if save:
        write_scenario(save, small.scenario)
        click.echo(f"written to {save}")
    else:
        click.echo("\n" + scenario_toml(small.scenario))
    click.echo(counterexample(small.verdict))
    return EXIT_FOUND
