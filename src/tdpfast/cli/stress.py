"""tdpfast stress: random operations on native threads, with all checks between bursts."""

from __future__ import annotations

import json
import shlex
import sys
import time
from dataclasses import fields

import click

from tdpfast.check import Limits
from tdpfast.cli import EXIT_FOUND, EXIT_OK, EXIT_TIME
from tdpfast.cli.knobs import knob_option
from tdpfast.design import get_design, parse_knobs, with_knobs
from tdpfast.errors import UsageError
from tdpfast.stress import (
    MIXES,
    ROLES,
    Reproduction,
    StressConfig,
    StressResult,
    check_writable,
    reproduce,
    save_scenario,
    scenario_toml,
    stress,
)

EXIT_INTERRUPTED = 130
EVERY = 2            # seconds between two lines of progress


def table(result: StressResult) -> str:
    """What was run and what it cost."""
    c = result.config
    threads = ", ".join(f"{n} {role}{'s' if n > 1 else ''}" for role in ROLES if (n := c.count(role)))
    lines = [f"{c.where}: {threads}; {c.memory} pages, mix {c.mix}, seed {c.seed}",
             f"{result.rounds} rounds on {result.vms} VMs in {result.seconds:.1f} s, {result.burst_seconds:.1f} s of "
             f"them bursts: {result.ops} operations, {rate(result)}", "",
             f"{'operation':<22} {'count':>12} {'share':>6} {'ns/op':>10}"]
    total = max(result.ops, 1)
    for name, stat in sorted(result.by_op.items(), key=lambda item: (-item[1].count, item[0])):
        ns = "-" if stat.ns is None else f"{stat.ns:.0f}"
        lines.append(f"{name:<22} {stat.count:>12} {stat.count / total:>6.1%} {ns:>10}")
    lines += ["", *(f"{name:<22} {n:>12}" for name, n in result.counters.items())]
    return "\n".join(lines)


def rate(result: StressResult) -> str:
    """Operations per second of all threads together."""
    if not result.burst_seconds:
        return "nothing per second"
    return f"{result.ops / result.burst_seconds / 1e6:.2f} M/s"


def findings_text(result: StressResult) -> str:
    """What was violated, and since when."""
    burst = result.burst
    if burst is None:
        return "nothing found"
    since = "the first round" if burst.number == 0 else f"round {burst.number} (round {burst.number - 1} was clean)"
    return "\n".join([f"found: {' '.join(result.checks)}, since {since}", *(f"  {f}" for f in result.findings)])


def check_line(path: str, result: StressResult, found: Reproduction, knobs: tuple[str, ...], name: str) -> str:
    """The command that explores a saved scenario."""
    plain, limits = Limits(), found.limits
    words = ["tdpfast check", shlex.quote(path), f"--design {name}", *(f"--knob {knob}" for knob in knobs),
             "--gated" if found.gated else "--ungated"]
    words += [f"--{f.name.replace('_', '-')} {value}" for f in fields(Limits)
              if (value := getattr(limits, f.name)) != getattr(plain, f.name)]
    return " ".join(words)


def saved_text(path: str, result: StressResult, knobs: tuple[str, ...], name: str) -> str:
    """Saves a scenario of the burst; what to do with it."""
    found = reproduce(result)
    asked, (path, why) = path, save_scenario(path, found.scenario)
    if not path:
        return f"cannot write {asked} ({why}), nor any other file; it is\n\n{scenario_toml(found.scenario)}"
    saved = f"cannot write {asked} ({why}); saved {path}" if why else f"saved {path}"
    line = check_line(path, result, found, knobs, name)
    if found.verdict is None:
        return f"{saved}, a cut-out of the burst: not found again by a short search, look on with\n  {line}"
    replay = " ".join([f"tdpfast replay {found.verdict.token} --file {shlex.quote(path)}",
                       *(f"--knob {knob}" for knob in knobs)])
    return f"{saved}, which violates {' '.join(found.verdict.checks)} under the explorer:\n  {line}\n  {replay}"


def python_of(config: StressConfig, knobs: dict, name: str, as_json: bool) -> str:
    """The Python that does the same."""
    plain = StressConfig(seed=0)
    options = [f"design={f'with_knobs({name!r}, {knobs!r})' if knobs else repr(name)}"]
    options += [f"{f.name}={getattr(config, f.name)!r}" for f in fields(StressConfig)
                if f.name not in ("design", "seed") and getattr(config, f.name) != getattr(plain, f.name)]
    show = ("print(json.dumps(result.to_json()))" if as_json else
            "print(result.ops, result.checks, *result.findings, sep='\\n')")
    return "\n".join([*["import json", ""] * as_json, *["from tdpfast.design import with_knobs"] * bool(knobs),
                      "from tdpfast.stress import StressConfig, stress", "",
                      f"result = stress(StressConfig({', '.join([*options, f'seed={config.seed}'])}))", show])


class Progress:
    """A line on stderr every other second, overwritten on a terminal."""

    def __init__(self):
        self.shown = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def __call__(self, result: StressResult) -> None:
        if time.monotonic() - self.shown < EVERY:
            return
        self.shown = time.monotonic()
        text = f"{result.seconds:.0f} s: {result.rounds} rounds, {result.ops} operations, {rate(result)}"
        click.echo(f"\r{text}\x1b[K" if self.terminal else text, err=True, nl=not self.terminal)

    def done(self) -> None:
        """Clears the line."""
        if self.terminal:
            click.echo("\r\x1b[K", err=True, nl=False)


@click.command("stress")
@click.option("--design", default="v7.3", show_default=True, metavar="D", help="A preset.")
@knob_option
@click.option("--ungated", is_flag=True, help="With the rules of today's callers lifted.")
@click.option("--direct", is_flag=True, help="A VM without a mirror.")
@click.option("--mirror", is_flag=True,
              help="A mirror whose external table is a model that checks every call (default).")
@click.option("--td", is_flag=True, help="A TD on the emulated module.")
@click.option("--vcpus", type=int, default=2, show_default=True, metavar="N", help="Threads that fault and walk.")
@click.option("--zappers", type=int, default=1, show_default=True, metavar="N", help="Threads that zap.")
@click.option("--agers", type=int, default=1, show_default=True, metavar="N", help="Threads that age pages.")
@click.option("--loggers", type=int, default=0, show_default=True, metavar="N",
              help="Threads of dirty logging (--direct or --ungated).")
@click.option("--recoverers", type=int, default=0, show_default=True, metavar="N",
              help="Threads that recover NX huge pages, split and collapse.")
@click.option("--memory", type=int, default=2048, show_default=True, metavar="PAGES", help="Guest pages.")
@click.option("--mix", type=click.Choice(list(MIXES)), default="mixed", show_default=True, help="Operations.")
@click.option("--seconds", type=float, default=0.0, metavar="T", help="Time budget [default: 10 without --ops].")
@click.option("--ops", type=int, default=0, metavar="N", help="Operations of all threads.")
@click.option("--burst", type=int, default=0, metavar="N",
              help="Operations per thread between two checks [default: short and long ones].")
@click.option("--seed", type=int, default=None, metavar="S",
              help="Of everything that is drawn [default: a random one].")
@click.option("--save", metavar="FILE", help="When something is found, write a scenario for check (.toml or .json).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--python", "as_python", is_flag=True, help="Print the Python that does the same, and exit.")
def command(design, knobs, ungated, direct, mirror, td, save, as_json, as_python, **options):
    """Run random operations on native threads: bursts, and all checks between them.

    Everything drawn comes from the seed, which is printed on stderr; who is faster does not. Exits with 1 if a check
    was violated, with 124 if the time was over before the checks of the first burst were made.
    """
    values = parse_knobs(knobs)
    modes = [mode for mode, on in (("direct", direct), ("mirror", mirror), ("td", td)) if on] or ["mirror"]
    if len(modes) > 1:
        raise UsageError(" and ".join(f"--{mode}" for mode in modes), "a VM is of one kind", "one of them")
    config = StressConfig(design=with_knobs(get_design(design), values), ungated=ungated, mode=modes[0], **options)
    if save is not None:
        check_writable(save)
    if as_python:
        click.echo(python_of(config, values, design, as_json))
        return EXIT_OK
    click.echo(f"seed {config.seed}", err=True)
    progress = Progress()
    result = stress(config, progress)
    progress.done()
    if as_json:
        click.echo(json.dumps(result.to_json()))
    else:
        click.echo(f"{table(result)}\n\n{findings_text(result)}")
    if result.findings:
        if save is not None:
            click.echo(saved_text(save, result, knobs, design), err=as_json)
        else:
            click.echo("with --save FILE this becomes a scenario that tdpfast check explores", err=True)
        return EXIT_FOUND
    if result.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_OK if result.rounds else EXIT_TIME
