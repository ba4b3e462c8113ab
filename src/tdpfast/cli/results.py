"""Results in the formats of those who read them by machine: options of check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from tdpfast._write import check_place, write_whole
from tdpfast.check import Verdict
from tdpfast.errors import UsageError
from tdpfast.scenario import Scenario

OPTIONS = (
    click.option("--junit", metavar="FILE", help="Write the results as JUnit's XML into FILE as well."),
    click.option("--ktap", is_flag=True, help="Print the results as KTAP, kselftest's format."),
    click.option("--github", is_flag=True, help="Print annotations of GitHub Actions, to stderr."),
)


def format_options(command: Callable) -> Callable:
    """--junit, --ktap and --github; the command gets them as keywords."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def check_formats(formats: dict[str, Any], others: dict[str, bool], as_python: bool) -> None:
    """UsageError for formats that do not go together, or a place where no file can be written. others: what else is
    printed in place of the report."""
    asked = [name for name, wanted in formats.items() if wanted]
    if as_python and asked:
        raise UsageError(f"--{asked[0]} with --python", "nothing is run", "one of them")
    for name, wanted in others.items():
        if wanted and formats["ktap"]:
            raise UsageError(f"--ktap with {name}", "both are printed in place of the report", "one of them")
    if formats["junit"] is not None:
        check_place(formats["junit"])


def give_results(verdicts: list[Verdict], scenarios: list[Scenario], sources: dict[str, str], expect: bool,
                 formats: dict[str, Any]) -> None:
    """Writes and prints the results in the formats asked for. sources: scenario -> its file."""
    if not any(formats.values()):
        return
    from tdpfast.ci import cases, github, junit, ktap
    found = cases(verdicts, scenarios, expect)
    if formats["junit"] is not None:
        write_whole(formats["junit"], junit(found))
    if formats["ktap"]:
        click.echo(ktap(found))
    if formats["github"] and (text := github(found, sources)):
        click.echo(text, err=True)
