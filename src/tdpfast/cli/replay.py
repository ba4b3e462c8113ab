"""tdpfast replay: run the schedule of a token again."""

from __future__ import annotations

import json

import click

from tdpfast._write import check_place, write_whole
from tdpfast.catalogue import CATALOGUES, catalogue
from tdpfast.check import Limits, continue_token, replay_token
from tdpfast.checks import names_of
from tdpfast.cli import EXIT_FOUND, EXIT_OK
from tdpfast.cli.check import STRATEGIES, gather
from tdpfast.cli.knobs import knob_option
from tdpfast.cli.output import show, width_of, width_option
from tdpfast.design import Design, get_design, parse_knobs, presets_with
from tdpfast.errors import UsageError
from tdpfast.scenario import Scenario
from tdpfast.token import Token


def designs_with(knobs: dict) -> list:
    """The presets with knobs replaced, and the wrong designs that the catalogues are about."""
    wrong = [] if knobs else [get_design(d) for designs in CATALOGUES.values() for d in designs if "+" in d]
    return presets_with(knobs) + wrong


def scenarios_with(files: tuple[str, ...]) -> list[Scenario]:
    """The scenarios of these files and of all catalogues; a file may use a name that a catalogue has."""
    return [*gather(files), *(s for name in CATALOGUES for s in catalogue(name))]


def python_of(token: str, files: tuple[str, ...], knobs: dict) -> str:
    """The Python that does the same."""
    designs = f"presets_with({knobs!r})" if knobs else "PRESETS.values()"
    return "\n".join([
        "from tdpfast.catalogue import catalogue", "from tdpfast.check import replay_token",
        f"from tdpfast.design import {'presets_with' if knobs else 'PRESETS'}", "from tdpfast.scenario import load",
        "from tdpfast.story import columns_text, tell", "from tdpfast.token import Token", "",
        f"token = Token.parse({token!r})",
        "scenarios = " + " + ".join([f"catalogue({c!r})" for c in CATALOGUES] + [f"[load({f!r})]" for f in files]),
        f"scenario, design, program, replay = replay_token(token, scenarios, {designs})",
        "print(columns_text(tell(program, scenario, replay), [t.name for t in scenario.threads]))"])


def explore_on(token: Token, files: tuple[str, ...], knobs: dict, strategy: str, keep: int | None,
               as_json: bool, width: int) -> int:
    """replay --then: the verdict about what can follow the kept steps."""
    from tdpfast.report import counterexample, holding

    walks = 10_000 if strategy in ("random", "pct") else 0
    verdict = continue_token(token, scenarios_with(files), designs_with(knobs), keep=keep,
                             limits=Limits(strategy=strategy, states=True, max_executions=walks))
    if as_json:
        click.echo(json.dumps(verdict.to_json()))
    elif verdict.checks:
        show(counterexample(verdict, verbose=True, width=width))
    else:
        show(holding(verdict, verbose=True, width=width))
    return EXIT_FOUND if verdict.checks else EXIT_OK


@click.command("replay")
@click.argument("token")
@click.option("--file", "files", multiple=True, metavar="FILE", help="Also look in this scenario file.")
@click.option("--design", "designs", multiple=True, metavar="FILE.c", help="The token's design file.")
@knob_option
@click.option("--trace", is_flag=True, help="Kernel trace format (tracefs), with tdpfast_ events between.")
@click.option("--perfetto", metavar="FILE", help="Write the run as JSON for Perfetto and Chrome into FILE as well.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: checks, steps.")
@click.option("--verbose", "-v", is_flag=True,
              help="Leave no step out; with --json: the story as well, with names, old and new values.")
@width_option
@click.option("--then", "strategy", type=click.Choice(STRATEGIES),
              help="Follow the beginning of the schedule only, and explore what can come after it.")
@click.option("--keep", type=click.IntRange(0), metavar="N",
              help="With --then: steps to follow; default: up to the last context switch.")
@click.option("--python", "as_python", is_flag=True, help="Print the Python that does the same, and exit.")
def command(token, files, designs, knobs, trace, perfetto, as_json, verbose, width, strategy, keep, as_python):
    """Run the schedule of a TOKEN again and show what happens.

    The token says which scenario and design it belongs to: those of the catalogues and presets are known, others are
    named with --file and --knob. Exits with 1 if the schedule violates a check.
    """
    from tdpfast.story import columns_text, tell
    from tdpfast.timeline import replay_timeline
    from tdpfast.trace import replay_trace

    parsed, knobs = Token.parse(token), parse_knobs(knobs)
    width = width_of(width)
    if strategy is not None and (trace or as_python):
        raise UsageError("--then with --trace or --python", "those are about one schedule",
                         "--then alone or with --json")
    if perfetto is not None:
        if strategy is not None or as_python:
            raise UsageError("--perfetto with " + ("--python" if as_python else "--then"),
                             "it is about one schedule that is run", "--perfetto without it")
        check_place(perfetto)
    if trace and (as_json or verbose):
        raise UsageError("--trace with" + " --json" * as_json + " --verbose" * verbose, "a trace has one form",
                         "one of them")
    if as_python:
        click.echo(python_of(token, files, knobs))
        return EXIT_OK
    if strategy is not None:
        return explore_on(parsed, files, knobs, strategy, keep, as_json, width)
    if keep is not None:
        raise UsageError("--keep without --then", "a whole schedule is replayed", "--then dpor, or no --keep")
    scenario, design, program, replay = replay_token(parsed, scenarios_with(files),
                                                     [*designs_with(knobs), *map(Design.from_file, designs)])
    checks = names_of(replay["checks"])
    if perfetto is not None:
        write_whole(perfetto, replay_timeline(program, scenario))
    if as_json:
        steps = [{"agent": a, "kind": k, "object": program.describe(o), "value": v} for a, k, o, v in replay["steps"]]
        out = {"scenario": scenario.name, "design": design.name, "gated": not design.ungated,
               "checks": checks, "end": replay["end"], "steps": steps}
        if verbose:
            out |= {"threads": [t.name for t in scenario.threads],
                    "story": [line.to_json() for line in tell(program, scenario, replay, everything=True)]}
        click.echo(json.dumps(out))
    elif trace:
        click.echo(replay_trace(program), nl=False)
    else:
        gating = "ungated" if design.ungated else "gated"
        click.echo(f"{scenario.name} on {design.name}, {gating}: {' '.join(checks) or 'holds'}\n")
        story = tell(program, scenario, replay, everything=verbose)
        show(columns_text(story, [t.name for t in scenario.threads], width))
    return EXIT_FOUND if checks else EXIT_OK
