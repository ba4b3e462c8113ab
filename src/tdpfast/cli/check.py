"""tdpfast check: explore scenarios under designs and report verdicts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields

import click

from tdpfast._explore.explorer import STRATEGIES
from tdpfast.catalogue import CATALOGUES, REVIEW_DESIGNS, catalogue
from tdpfast.check import UNKNOWN, VIOLATED, Limits, Verdict, check_in_shares, check_many
from tdpfast.cli import EXIT_FOUND, EXIT_OK, EXIT_TIME, EXIT_UNDECIDED
from tdpfast.cli.knobs import knob_option, knobs_code
from tdpfast.cli.output import MAIL_WIDTH, show, width_of, width_option
from tdpfast.cli.results import check_formats, format_options, give_results
from tdpfast.columns import WIDTH
from tdpfast.design import PRESETS, Design, parse_knobs, with_knobs
from tdpfast.errors import UsageError
from tdpfast.scenario import IMPOSSIBLE, Scenario, load

COUNT = (1 << 63) - 1       # the largest number of anything


def gather(names: tuple[str, ...], sources: dict[str, str] | None = None) -> list[Scenario]:
    """Scenarios of catalogues and files, in the order given; a name may occur once. sources: gets the file of each
    scenario that was read from one."""
    found: list[Scenario] = []
    for name in names:
        found += catalogue(name) if name in CATALOGUES else [load(name)]
        if sources is not None and name not in CATALOGUES:
            sources[found[-1].name] = name
    seen: set[str] = set()
    for s in found:
        if s.name in seen:
            raise UsageError(f"scenario {s.name!r} is named twice", "two files use the same name", "rename one")
        seen.add(s.name)
    return found


def select(found: list[Scenario], wanted: tuple[str, ...]) -> list[Scenario]:
    """The scenarios whose name begins with one of `wanted`; all without any."""
    for name in wanted:
        if not any(s.name.startswith(name) for s in found):
            raise UsageError(f"unknown scenario {name!r}", "no scenario's name begins so",
                             "one of " + ", ".join(s.name for s in found))
    return [s for s in found if not wanted or any(s.name.startswith(n) for n in wanted)]


def design_list(names: tuple[str, ...], what: tuple[str, ...] = ()) -> list[str]:
    """The designs asked for; without any, those that the catalogues are about, for files the review's."""
    for name in names:
        if name not in PRESETS and not name.endswith(".c"):
            raise UsageError(f"unknown design {name!r}", "neither a preset nor a design file (.c)",
                             "one of " + ", ".join(PRESETS))
    wanted = names or [design for name in what for design in CATALOGUES.get(name, REVIEW_DESIGNS)]
    return list(dict.fromkeys(wanted))


def python_of(names: tuple[str, ...], wanted: tuple[str, ...], designs: list[str], gatings: list[bool],
              limits: Limits, jobs: int, as_json: bool, brief: bool, verbose: bool, show_all: int,
              knobs: dict, width: int, mail: bool) -> str:
    """The Python that does the same."""
    plain = Limits()
    changed = [f"{f.name}={value!r}" for f in fields(Limits)
               if (value := getattr(limits, f.name)) != getattr(plain, f.name)]
    options = [f"limits=Limits({', '.join(changed)})"] * bool(changed) + [f"jobs={jobs}"] * bool(jobs)
    options += [f"show_all={show_all}"] * bool(show_all)
    style = ", brief=True" * (brief and not mail) + ", verbose=True" * (verbose and not mail)
    style += f", width={width}" * (width != (MAIL_WIDTH if mail else WIDTH))
    text = "mail" if mail else "report"
    found = " + ".join(f"catalogue({n!r})" if n in CATALOGUES else f"[load({n!r})]" for n in names)
    show = ["    for verdict in verdicts:",
            f"        print(json.dumps(verdict.to_json({'detail=True' * verbose})))"] if as_json else [
        f"    print({text}(list(verdicts), scenarios{style}))"]
    return "\n".join([
        *["import json", ""] * as_json,
        *["from tdpfast.catalogue import catalogue"] * ("catalogue(" in found),
        f"from tdpfast.check import {'Limits, ' if changed else ''}check_many",
        *["from tdpfast.design import with_knobs"] * bool(knobs),
        *[f"from tdpfast.report import {text}"] * (not as_json),
        *["from tdpfast.scenario import load"] * ("load(" in found), "",
        "if __name__ == '__main__':      # check_many() starts processes",
        f"    scenarios = {found}",
        *[f"    scenarios = [s for s in scenarios if s.name.startswith({wanted!r})]"] * bool(wanted),
        f"    tasks = [(s, d, g) for s in scenarios for d in {knobs_code(designs, knobs)} for g in {gatings!r}]",
        f"    verdicts = check_many({', '.join(['tasks', *options])})", *show])


@click.command("check")
@click.argument("what", nargs=-1, required=True, metavar="CATALOGUE|FILE...")
@click.option("--design", "designs", multiple=True, metavar="D", help="Only this design (repeatable).")
@knob_option
@click.option("--scenario", "wanted", multiple=True, metavar="S",
              help="Only scenarios whose name begins with S (repeatable).")
@click.option("--ungated", is_flag=True, help="Only with the rules of today's callers lifted.")
@click.option("--gated", is_flag=True, help="Only with the rules of today's callers in place.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per result.")
@click.option("--brief", is_flag=True, help="The matrix alone.")
@click.option("--mail", "as_mail", is_flag=True, help="Each violation as text to paste into a mail, 72 columns wide.")
@width_option
@format_options
@click.option("--expect", is_flag=True, help="Exit with 0 if every result is what its scenario expects, else 1.")
@click.option("--require-reach", is_flag=True,
              help="Exit with 4 if a result holds without what its scenario asks about having happened.")
@click.option("--exit-zero", is_flag=True, help="Exit with 0 even if a violation was found.")
@click.option("--strategy", type=click.Choice(STRATEGIES), default="dpor", show_default=True)
@click.option("--bound", type=click.IntRange(0, 1000), default=2, show_default=True, help="Preemptions, for bound.")
@click.option("--depth", type=click.IntRange(1, 64), default=3, show_default=True, help="Priority changes, for pct.")
@click.option("--seed", type=click.IntRange(0, COUNT), default=0, show_default=True,
              help="For random and pct.")
@click.option("--max-transitions", type=click.IntRange(1, COUNT), default=3_000_000, show_default=True, metavar="N",
              help="Stop a search after N steps.")
@click.option("--max-executions", type=click.IntRange(0, COUNT), default=0, metavar="N",
              help="Stop after N executions.")
@click.option("--seconds", type=click.FloatRange(0), default=0.0, metavar="T", help="Time budget of each search.")
@click.option("--jobs", type=click.IntRange(0, 1024), default=0, metavar="N", help="Processes; 0 = one per CPU.")
@click.option("--verbose", "-v", is_flag=True,
              help="Each result with its executions by class, a class per line; with --json its story.")
@click.option("--show-all", type=click.IntRange(0, COUNT), default=0, metavar="N",
              help="Show N executions of each result where nothing was found.")
@click.option("--shares", type=click.IntRange(0, COUNT), default=0, metavar="N",
              help="Cut each search into N shares, spread over the processes; not for dfs and bound.")
@click.option("--progress/--no-progress", default=None,
              help="Say on stderr how far long searches are; default: on a terminal.")
@click.option("--python", "as_python", is_flag=True, help="Print the Python that does the same, and exit.")
def command(what, designs, knobs, wanted, ungated, gated, as_json, brief, as_mail, width, expect, require_reach,
            exit_zero, strategy, bound, depth, seed, max_transitions, max_executions, seconds, jobs, verbose, show_all,
            shares, progress, as_python, **formats):
    """Explore scenarios under designs: a matrix, and the shortest interleaving of each failure.

    WHAT is a catalogue (`review`, `paths`, `hugepage`, `premap`) or scenario files (.toml, .json). Exits with 1 if a
    violation was found, with 2 if a set-up fails where the scenario does not expect it, with 124 if a time budget ran
    out and nothing was found.
    """
    from tdpfast.report import heading, mail, report, unexpected

    sources: dict[str, str] = {}
    scenarios = select(gather(what, sources), wanted)
    check_formats(formats, {"--json": as_json, "--mail": as_mail}, as_python)
    names, knobs = design_list(designs, what), parse_knobs(knobs)
    gatings = [g for g, only in ((False, ungated), (True, gated)) if only] or [False, True]
    if strategy in ("random", "pct"):
        max_executions = max_executions or 10_000
    limits = Limits(strategy=strategy, max_transitions=max_transitions, max_executions=max_executions,
                    seconds=seconds, bound=bound, depth=depth, seed=seed, states=verbose)
    if shares and (show_all or as_python):
        raise UsageError(f"--shares {shares} with" + " --show-all" * bool(show_all) + " --python" * as_python,
                         "nothing of the shares is kept", "one of them")
    if as_mail and (as_json or brief):
        raise UsageError("--mail with" + " --json" * as_json + " --brief" * brief, "it is a text of its own",
                         "one of them")
    width = MAIL_WIDTH if as_mail and width is None else width_of(width)
    if as_python:
        click.echo(python_of(what, wanted, names, gatings, limits, jobs, as_json, brief, verbose, show_all, knobs,
                             width, as_mail))
        return EXIT_OK
    if strategy in ("random", "pct"):
        click.echo(f"seed {seed}", err=True)
    chosen = chosen_designs(names, knobs)
    tasks = [(s, d, g) for s in scenarios for d in chosen for g in gatings]
    verdicts = []
    if progress is None:
        progress = sys.stderr.isatty()
    found = in_shares(tasks, limits, shares, jobs) if shares else check_many(
        tasks, limits=limits, jobs=jobs, show_all=show_all, progress=progress)
    for verdict in found:
        verdicts.append(verdict)
        if as_json:
            click.echo(json.dumps(verdict.to_json(detail=verbose)))
    if as_mail:
        click.echo(mail(verdicts, scenarios, width=width))
    elif not as_json and not formats["ktap"]:
        show(report(verdicts, scenarios, brief=brief, verbose=verbose, width=width))
    give_results(verdicts, scenarios, sources, expect, formats)
    if expect:
        by_name = {s.name: s for s in scenarios}
        wrong = [text for v in verdicts if (text := unexpected(v, by_name[v.scenario]))]
        for text in wrong:
            click.echo(f"unexpected: {text}", err=True)
        if wrong:
            return EXIT_FOUND
        return unreached(verdicts) if require_reach else EXIT_OK
    by_name = {s.name: s for s in scenarios}
    lost = [v for v in verdicts if v.verdict == IMPOSSIBLE
            and by_name[v.scenario].expected(v.design, gated=v.gated) != IMPOSSIBLE]
    if lost:
        raise UsageError(f"{heading(lost[0])}: {lost[0].reason}" + (f" (and {len(lost) - 1} more)" if lost[1:] else ""),
                         "nothing was explored there", f'another set-up, or expect = "{IMPOSSIBLE}" for that design')
    code = exit_code(verdicts, exit_zero)
    return unreached(verdicts) if require_reach and code == EXIT_OK else code


def unreached(verdicts: list[Verdict]) -> int:
    """The exit code of --require-reach; says on stderr what was not reached."""
    idle = [v for v in verdicts if v.not_reached]
    for v in idle:
        click.echo(f"not reached: {v.scenario} on {v.design}, {'gated' if v.gated else 'ungated'}: "
                   + "; ".join(v.missing), err=True)
    return EXIT_UNDECIDED if idle else EXIT_OK


def chosen_designs(names: list[str], knobs: dict) -> list[Design]:
    """The designs of these names; what the compiler has to say about design files goes to stderr."""
    out = [with_knobs(name, knobs) for name in names]
    for i, design in enumerate(out):
        if design.code and design.code.warnings:
            click.echo(design.code.warnings, err=True)
        if design.name in [d.name for d in out[:i]]:
            raise UsageError(f"two designs are called {design.name!r}", "results are told apart by name",
                             "TDPFAST_DESIGN() with another name")
    return out


def in_shares(tasks, limits: Limits, shares: int, jobs: int) -> Iterator[Verdict]:
    """check_in_shares() of each task, one after another."""
    with ProcessPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        for scenario, design, gated in tasks:
            yield check_in_shares(scenario, design, gated=gated, limits=limits, shares=shares, executor=pool)


def exit_code(verdicts, exit_zero: bool) -> int:
    if any(v.verdict == VIOLATED for v in verdicts):
        return EXIT_OK if exit_zero else EXIT_FOUND
    if any(v.verdict == UNKNOWN and v.timed_out for v in verdicts):
        return EXIT_TIME
    return EXIT_OK
