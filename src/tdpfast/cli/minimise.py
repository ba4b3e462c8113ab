"""tdpfast minimise: a scenario made smaller while it violates the same check."""

from __future__ import annotations

import shlex

import click

from tdpfast.cli import EXIT_FOUND
from tdpfast.cli.check import given
from tdpfast.cli.knobs import knob_option
from tdpfast.cli.output import show, width_of, width_option
from tdpfast.design import Design, get_design, parse_knobs, with_knobs
from tdpfast.errors import UsageError
from tdpfast.scenario import Scenario


def of_token(text: str, files: tuple[str, ...], design: str | None, knobs: dict) -> tuple[Scenario, Design, str]:
    """The scenario and design of a token, and the check that tells most of those it violates."""
    from tdpfast.check import replay_token
    from tdpfast.checks import heaviest, names_of
    from tdpfast.cli.replay import designs_with, scenarios_with
    from tdpfast.token import Token

    own = [] if design is None else [with_knobs(get_design(design), knobs)]
    scenario, found, _, replay = replay_token(Token.parse(text), scenarios_with(files),
                                              [*designs_with(knobs), *own])
    checks = names_of(replay["checks"])
    if not checks:
        raise UsageError(f"token {text}", "its schedule violates nothing", "a token that a violation was printed with")
    return scenario, found, heaviest(checks)


@click.command("minimise")
@click.argument("what", metavar="FILE|TOKEN")
@click.option("--file", "files", multiple=True, metavar="FILE", help="Also look in this scenario file for a token's.")
@click.option("--design", metavar="D", help="The design that violates the check.  [default: v7.3, or the token's]")
@knob_option
@click.option("--ungated", is_flag=True, help="With the rules of today's callers lifted.")
@click.option("--check", "wanted", metavar="C", help="The check to keep; default: the one that tells most.")
@click.option("--save", metavar="OUT", help="Write the scenario there (.toml or .json) instead of printing it.")
@width_option
def command(what, files, design, knobs, ungated, wanted, save, width):
    """Leave out of the scenario in FILE, or of the one that a TOKEN belongs to, what its violation does not need:
    threads, operations, set-up, ranges, retries.

    Prints what went, the smaller scenario as TOML, and its interleaving. Exits with 1, as a violation was found; with 2
    if the scenario violates nothing.
    """
    from tdpfast.minimised import minimise_scenario, summary
    from tdpfast.report import counterexample
    from tdpfast.scenario import load
    from tdpfast.stress.scenarios import scenario_toml, write_scenario

    parsed, columns = parse_knobs(knobs), width_of(width)
    if what.startswith("tdp1-"):
        if given("ungated"):
            raise UsageError("--ungated with a token", "the token says whether today's callers' rules hold",
                             "the token alone")
        scenario, chosen, check = of_token(what, files, design, parsed)
        gated, wanted = not chosen.ungated, wanted or check
    else:
        if files:
            raise UsageError("--file with a scenario file", "only a token has to be looked for", "FILE alone")
        scenario, chosen, gated = load(what), with_knobs(design or "v7.3", parsed), not ungated
    small = minimise_scenario(scenario, chosen, gated=gated, wanted=wanted)
    click.echo(summary(small))
    small.verdict.replay = "".join([f" --file {shlex.quote(save or small.scenario.name + '.toml')}",
                                    f" --design {shlex.quote(small.verdict.file)}" * bool(small.verdict.file),
                                    *(f" --knob {shlex.quote(knob)}" for knob in chosen.name.split("+")[1:])])
    if save:
        write_scenario(save, small.scenario)
        click.echo(f"written to {save}")
    else:
        click.echo(f"\n# {small.scenario.name}.toml\n{scenario_toml(small.scenario)}")
    show(counterexample(small.verdict, width=columns))
    return EXIT_FOUND
