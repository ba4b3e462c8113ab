"""tdpfast check: explore scenarios under designs and report verdicts."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

import click
from click.core import ParameterSource

from tdpfast._explore.explorer import STRATEGIES
from tdpfast._workers import WorkerLost, Workers
from tdpfast.catalogue import CATALOGUES, REVIEW_DESIGNS, catalogue
from tdpfast.check import UNKNOWN, VIOLATED, Interrupted, Limits, Verdict, check_in_shares, check_many, lost
from tdpfast.cli import EXIT_FOUND, EXIT_OK, EXIT_TIME, EXIT_UNDECIDED, code_of
from tdpfast.cli.knobs import knob_option, knobs_code
from tdpfast.cli.output import MAIL_WIDTH, show, width_of, width_option
from tdpfast.cli.results import check_formats, format_options, give_results
from tdpfast.columns import WIDTH
from tdpfast.design import PRESETS, Design, get_design, parse_knobs, with_knobs
from tdpfast.errors import UsageError
from tdpfast.scenario import IMPOSSIBLE, Scenario, load

COUNT = (1 << 63) - 1       # the largest number of anything
PATIENCE = 10.0             # seconds of a search when no limit is given
WALKS = 10_000              # executions of random and pct


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
        if name not in PRESETS and "+" not in name and not name.endswith(".c"):
            raise UsageError(f"unknown design {name!r}", "neither a preset nor a design file (.c)",
                             "one of " + ", ".join(PRESETS))
        if "+" in name:
            get_design(name)
    wanted = names or [design for name in what for design in CATALOGUES.get(name, REVIEW_DESIGNS)]
    return list(dict.fromkeys(wanted))


def python_of(names: tuple[str, ...], wanted: tuple[str, ...], designs: dict[str, list[str]], gatings: list[bool],
              limits: Limits, jobs: int, as_json: bool, brief: bool, verbose: bool, show_all: int,
              knobs: dict, width: int, mail: bool) -> str:
    """The Python that does the same. designs: of each name."""
    plain = Limits()
    changed = [f"{f.name}={value!r}" for f in fields(Limits)
               if (value := getattr(limits, f.name)) != getattr(plain, f.name)]
    options = [f"limits=Limits({', '.join(changed)})"] * bool(changed) + [f"jobs={jobs}"] * bool(jobs)
    options += [f"show_all={show_all}"] * bool(show_all)
    style = ", brief=True" * (brief and not mail) + ", verbose=True" * (verbose and not mail)
    style += f", width={width}" * (width != (MAIL_WIDTH if mail else WIDTH))
    text = "mail" if mail else "report"
    found = {n: f"catalogue({n!r})" if n in CATALOGUES else f"[load({n!r})]" for n in names}
    chosen = f"s.name.startswith({wanted!r})" if wanted else ""
    tasks = " + ".join(f"[(s, d, g) for s in {found[n]}{f' if {chosen}' * bool(chosen)} for d in "
                       f"{knobs_code(designs[n], knobs)} for g in {gatings!r}]" for n in names)
    show = ["    for verdict in verdicts:",
            f"        print(json.dumps(verdict.to_json({'detail=True' * verbose})))"] if as_json else [
        f"    print({text}(list(verdicts), [task[0] for task in tasks]{style}))"]
    return "\n".join([
        *["import json", ""] * as_json,
        *["from tdpfast.catalogue import catalogue"] * ("catalogue(" in tasks),
        f"from tdpfast.check import {'Limits, ' if changed else ''}check_many",
        *["from tdpfast.design import with_knobs"] * bool(knobs),
        *[f"from tdpfast.report import {text}"] * (not as_json),
        *["from tdpfast.scenario import load"] * ("load(" in tasks), "",
        "if __name__ == '__main__':      # check_many() starts processes",
        f"    tasks = {tasks}",
        f"    verdicts = check_many({', '.join(['tasks', *options])})", *show])


def given(name: str) -> bool:
    """Whether an option of this command line was given."""
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


def refuse_idle_options(strategy: str, as_json: bool, expect: bool) -> None:
    """UsageError for an option that would do nothing beside the others."""
    walks, trees = ("random", "pct"), ("dpor", "sleep", "dfs", "bound")
    for name, option, idle, why in (
            ("bound", "--bound", strategy != "bound", f"{strategy} has no bound of preemptions"),
            ("depth", "--depth", strategy != "pct", f"{strategy} draws no priorities"),
            ("seed", "--seed", strategy in trees, f"{strategy} draws nothing"),
            ("brief", "--brief", as_json, "--json has no matrix"),
            ("show_all", "--show-all", as_json, "--json tells no executions"),
            ("exit_zero", "--exit-zero", expect, "--expect decides alone")):
        if given(name) and idle:
            fix = {"bound": "--strategy bound", "depth": "--strategy pct",
                   "seed": "--strategy " + " or ".join(walks)}.get(name, "one of the two")
            raise UsageError(f"{option} does nothing here", why, fix)


def limits_of(strategy: str, expect: bool, **options) -> Limits:
    """The limits asked for. Without any a search has PATIENCE; walks have WALKS; what is compared with expectations has
    the library's limit, which does not depend on the machine."""
    if strategy in ("random", "pct"):
        options["max_executions"] = options["max_executions"] or WALKS
    options["seconds"] = options["seconds"] or 0.0
    asked = any(given(name) for name in ("max_transitions", "max_executions", "seconds", "seed"))
    if not asked and not expect and strategy not in ("random", "pct"):
        options["seconds"], options["max_transitions"] = PATIENCE, 0
    elif options["max_transitions"] is None:
        options["max_transitions"] = 0 if given("seconds") else Limits().max_transitions
    return Limits(strategy=strategy, **options)


def further(v: Verdict, name: str, knobs: tuple[str, ...], limits: Limits) -> str:
    """The command that takes an undecided search further."""
    words = ["tdpfast check", shlex.quote(name), "--scenario", shlex.quote(v.scenario), "--design",
             shlex.quote(v.file or v.design.split("+")[0]), *(f"--knob {knob}" for knob in knobs),
             "--gated" if v.gated else "--ungated"]
    if limits.strategy == "bound" and v.covered:
        return " ".join([*words, f"--strategy bound --bound {limits.bound + 1}", "--seconds 600"])
    if limits.strategy in ("random", "pct"):
        return " ".join([*words, f"--strategy {limits.strategy} --seed {limits.seed + 1} --max-executions",
                         str(10 * limits.max_executions)])
    if v.explored is not None and v.explored < 0.01:       # ten times as long would not do either
        return " ".join([*words, "--strategy bound --bound 2"])
    seconds = max(10 * (limits.seconds or PATIENCE), 60)
    return " ".join([*words, *([f"--strategy {limits.strategy}"] if limits.strategy != "dpor" else []),
                     f"--seconds {seconds:g}"])


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
@click.option("--first", is_flag=True, help="End each search with its first violation.")
@click.option("--every-entry", is_flag=True,
              help="Make a step of each access to a page table, also where no other thread comes to that entry.")
@click.option("--exit-zero", is_flag=True, help="Exit with 0 even if a violation was found.")
@click.option("--strategy", type=click.Choice(STRATEGIES), default="dpor", show_default=True)
@click.option("--bound", type=click.IntRange(0, 1000), default=2, show_default=True, help="Preemptions, for bound.")
@click.option("--depth", type=click.IntRange(1, 64), default=3, show_default=True, help="Priority changes, for pct.")
@click.option("--seed", type=click.IntRange(0, COUNT), default=0, show_default=True,
              help="For random and pct.")
@click.option("--max-transitions", type=click.IntRange(1, COUNT), default=None, metavar="N",
              help="Stop a search after N steps [default: with --expect and for walks 3,000,000].")
@click.option("--max-executions", type=click.IntRange(0, COUNT), default=0, metavar="N",
              help="Stop after N executions.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=None, metavar="T",
              help="Time budget of each search [default: 10, if no other limit and no seed is given].")
@click.option("--jobs", type=click.IntRange(0, 1024), default=0, metavar="N", help="Processes; 0 = one per CPU.")
@click.option("--verbose", "-v", is_flag=True,
              help="Each result with its executions by class, a class per line; with --json its story.")
@click.option("--show-all", type=click.IntRange(0, COUNT), default=0, metavar="N",
              help="Show N executions of each result where nothing was found.")
@click.option("--shares", type=click.IntRange(0, COUNT), default=0, metavar="N",
              help="Cut each search into N shares, spread over the processes; not for dfs and bound.")
@click.option("--progress/--no-progress", default=None,
              help="Say on stderr how far long searches are; default: on a terminal.")
@click.option("--against", "base", metavar="D", help="WHAT is a design: show what differs between it and design D.")
@click.option("--scenarios", "generated", type=click.IntRange(1, 1 << 31), default=300, show_default=True, metavar="N",
              help="Generated scenarios, for --against.")
@click.option("--from", "number", type=click.IntRange(0, COUNT), default=0, metavar="N",
              help="The number of the first generated scenario, for --against.")
@click.option("--save", metavar="DIR", help="Write the scenario of each difference there, for --against.")
@click.option("--python", "as_python", is_flag=True, help="Print the Python that does the same, and exit.")
def command(what, designs, knobs, wanted, ungated, gated, as_json, brief, as_mail, width, expect, require_reach, first,
            every_entry, exit_zero, strategy, bound, depth, seed, max_transitions, max_executions, seconds, jobs,
            verbose, show_all, shares, progress, base, generated, number, save, as_python, **formats):
    """Explore scenarios under designs: a matrix, and the shortest interleaving of each failure.

    WHAT is a catalogue (`review`, `paths`, `hugepage`, `premap`, `history`) or scenario files (.toml, .json). Exits
    with 1 if a violation was found, with 2 if a set-up fails where the scenario does not expect it; if not, with 124
    when a time budget ended a search, with 4 when another limit did. Ctrl-C shows what is known by then.
    """
    if base is not None:
        from tdpfast.cli import against

        if len(what) != 1:
            raise UsageError(f"{len(what)} designs with --against", "one design is compared with another",
                             "tdpfast check DESIGN --against D")
        return against.run(with_knobs(what[0], parse_knobs(knobs)), get_design(base), scenarios=generated, seed=seed,
                           first=number, jobs=jobs, as_json=as_json, save=save)
    files: dict[str, str] = {}
    scenarios = select(gather(what, files), wanted)
    check_formats(formats, {"--json": as_json, "--mail": as_mail}, as_python)
    refuse_idle_options(strategy, as_json, expect)
    texts, knobs = knobs, parse_knobs(knobs)
    gatings = [g for g, only in ((False, ungated), (True, gated)) if only] or [False, True]
    limits = limits_of(strategy, expect, max_transitions=max_transitions, max_executions=max_executions,
                       seconds=seconds, bound=bound, depth=depth, seed=seed, states=verbose, first=first,
                       every_entry=every_entry)
    if shares and (show_all or as_python):
        raise UsageError(f"--shares {shares} with" + " --show-all" * bool(show_all) + " --python" * as_python,
                         "nothing of the shares is kept", "one of them")
    if as_mail and (as_json or brief):
        raise UsageError("--mail with" + " --json" * as_json + " --brief" * brief, "it is a text of its own",
                         "one of them")
    width = MAIL_WIDTH if as_mail and width is None else width_of(width)
    by_name = {name: design_list(designs, (name,)) for name in what}
    if as_python:
        click.echo(python_of(what, wanted, by_name, gatings, limits, jobs, as_json, brief, verbose, show_all, knobs,
                             width, as_mail))
        return EXIT_OK
    if strategy in ("random", "pct"):
        click.echo(f"seed {seed}", err=True)
    sources = {s.name: name for name in what for s in gather((name,))}
    every = list(dict.fromkeys(design for names in by_name.values() for design in names))
    chosen = dict(zip(every, chosen_designs(every, knobs)))
    tasks = [(s, chosen[d], g) for s in scenarios for d in by_name[sources[s.name]] for g in gatings]
    if progress is None:
        progress = sys.stderr.isatty()
    found = in_shares(tasks, limits, shares, jobs) if shares else check_many(
        tasks, limits=limits, jobs=jobs, show_all=show_all, progress=progress)
    verdicts, interrupt = gathered(named(found, sources, texts, limits), as_json, verbose)
    if interrupt is not None:
        click.echo(f"interrupted: {len(verdicts)} of {len(tasks)} results", err=True)
    return ending(verdicts, scenarios, interrupt, files, formats, as_json=as_json, as_mail=as_mail, width=width,
                  brief=brief, verbose=verbose, expect=expect, require_reach=require_reach, exit_zero=exit_zero)


def named(found: Iterable[Verdict], sources: dict[str, str], knobs: tuple[str, ...],
          limits: Limits) -> Iterator[Verdict]:
    """The verdicts with the commands that belong to them: what replays their tokens, what goes further."""
    def complete(v: Verdict) -> Verdict:
        source = sources[v.scenario]
        v.replay = "".join([f" --file {shlex.quote(source)}" * (source not in CATALOGUES),
                            f" --design {shlex.quote(v.file)}" * bool(v.file),
                            *(f" --knob {shlex.quote(knob)}" for knob in knobs)])
        if v.verdict == UNKNOWN and v.executions:
            v.advice = further(v, source, knobs, limits)
        return v

    try:
        for verdict in found:
            yield complete(verdict)
    except Interrupted as stop:
        complete(stop.verdict)
        raise


def gathered(found: Iterator[Verdict], as_json: bool, detail: bool) -> tuple[list[Verdict],
                                                                              KeyboardInterrupt | None]:
    """The verdicts, written at once as JSON, and what interrupted them: then the last may be of half a search."""
    verdicts: list[Verdict] = []

    def take(verdict: Verdict) -> None:
        verdicts.append(verdict)
        if as_json:
            click.echo(json.dumps(verdict.to_json(detail=detail)))

    try:
        for verdict in found:
            take(verdict)
    except KeyboardInterrupt as stop:
        if isinstance(stop, Interrupted):
            take(stop.verdict)
        return verdicts, stop
    return verdicts, None


def ending(verdicts: list[Verdict], scenarios: list[Scenario], interrupt: KeyboardInterrupt | None,
           files: dict[str, str], formats: dict[str, Any], *, as_json: bool, as_mail: bool, width: int, brief: bool,
           verbose: bool, expect: bool, require_reach: bool, exit_zero: bool) -> int:
    """Prints what is known; the exit code. files: of the scenarios that have one."""
    from tdpfast.report import heading, mail, report, unexpected

    if as_mail and verdicts:
        click.echo(mail(verdicts, scenarios, width=width))
    elif not as_json and not formats["ktap"] and verdicts:
        show(report(verdicts, scenarios, brief=brief, verbose=verbose, width=width))
    give_results(verdicts, scenarios, files, expect, formats)
    if interrupt is not None:
        return code_of(interrupt)
    by_name = {s.name: s for s in scenarios}
    if expect:
        wrong = [text for v in verdicts if (text := unexpected(v, by_name[v.scenario]))]
        for text in wrong:
            click.echo(f"unexpected: {text}", err=True)
        if wrong:
            return EXIT_FOUND
        return unreached(verdicts) if require_reach else EXIT_OK
    undone = [v for v in verdicts if v.verdict == IMPOSSIBLE
              and by_name[v.scenario].expected(v.design, gated=v.gated) != IMPOSSIBLE]
    if undone:
        more = f" (and {len(undone) - 1} more)" if undone[1:] else ""
        raise UsageError(f"{heading(undone[0])}: {undone[0].reason}{more}", "nothing was explored there",
                         f'another set-up, or expect = "{IMPOSSIBLE}" for that design')
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
    with Workers(jobs or os.cpu_count() or 1) as pool:
        for scenario, design, gated in tasks:
            try:
                yield check_in_shares(scenario, design, gated=gated, limits=limits, shares=shares, executor=pool)
            except WorkerLost as error:
                yield lost(scenario, design, gated, error.why)


def exit_code(verdicts: list[Verdict], exit_zero: bool) -> int:
    """What the verdicts come to."""
    undecided = [v for v in verdicts if v.verdict == UNKNOWN]
    if any(v.verdict == VIOLATED for v in verdicts):
        return EXIT_OK if exit_zero else EXIT_FOUND
    if any(v.timed_out for v in undecided):
        return EXIT_TIME
    return EXIT_UNDECIDED if undecided else EXIT_OK
