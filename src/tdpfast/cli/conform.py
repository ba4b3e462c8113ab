"""tdpfast conform: replay recordings."""
from __future__ import annotations

import json

import click

from tdpfast.cli import EXIT_FOUND, EXIT_OK
from tdpfast.conform import FileReport, conform_file

DESIGNS = ("v6.16", "v6.18", "v6.19", "v7.2", "v7.3", "patch07", "patch15", "single-hook", "single-hook-4k",
           "hugepage")


def known_design(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """One of DESIGNS, or a design file."""
    if value is not None and value not in DESIGNS and not value.endswith(".c"):
        raise click.BadParameter(f"{value!r} is neither a design file (.c) nor one of {', '.join(DESIGNS)}")
    return value


@click.command("conform")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--design", metavar="D", callback=known_design, help="Replay with this design, not the recorded one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per file.")
@click.option("--max-diffs", type=click.IntRange(min=0), default=10, show_default=True, metavar="N",
              help="Show at most N differences per file.")
def command(files, design, as_json, max_diffs):
    """Replay recorded answers of the real code and compare.

    A FILE is a .jsonl, .jsonl.gz or .json recording; what it records is recognised from its content.
    Exits with 1 if any case failed.
    """
    failed = False
    for path in files:
        report = conform_file(path, design, max_diffs=max_diffs)
        failed |= not report.ok
        click.echo(json.dumps(report.to_json()) if as_json else _text(report))
    return EXIT_FOUND if failed else EXIT_OK


def _text(report: FileReport) -> str:
    lines = [f"{report.path}: {report.passed} passed, {report.failed} failed, {report.skipped} skipped"]
    for difference in report.differences:
        lines.append(f"  line {difference.line}, {difference.case}: {difference.text}")
    hidden = report.failed - len(report.differences)
    if hidden:
        lines.append(f"  ... and {hidden} more")
    for reason, count in report.skip_reasons.most_common():
        lines.append(f"  skipped {count}: {reason}")
    for reason, count in report.left_out.most_common():
        lines.append(f"  left out {count}: {reason}")
    # A recording may name a case by half a surrogate pair, which no terminal can show.
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode()
