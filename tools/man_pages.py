"""Writes a man page for tdpfast and for each of its subcommands, from the rows that --help shows.

    python tools/man_pages.py build/man
    man -l build/man/tdpfast-check.1
"""

import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click

from tdpfast.cli import EXIT_CODES, group


def escaped(text: str) -> str:
    """Text that roff takes as it stands."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in text.split("\n"))


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command, click.Context]]:
    """(name, command, context) of a command and of all below it."""
    ctx = click.Context(command, info_name=path)
    yield path, command, ctx
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            below = command.get_command(ctx, name)
            if below is not None and not below.hidden:
                yield from commands(below, f"{path} {name}")


def summary(command: click.Command) -> str:
    """The first sentence of a command's help."""
    return command.get_short_help_str(limit=200).rstrip(".")


def synopsis(command: click.Command, ctx: click.Context, path: str) -> str:
    """How a command is called."""
    return f".B {escaped(path)}\n" + escaped(" ".join(command.collect_usage_pieces(ctx)))


def options(command: click.Command, ctx: click.Context) -> Iterator[str]:
    """A paragraph for each option."""
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
        if record is not None:
            yield f".TP\n.B {escaped(record[0])}\n{escaped(record[1]) or '(no more to say)'}"


def description(command: click.Command) -> Iterator[str]:
    """The paragraphs of a command's help."""
    for paragraph in (command.help or "").replace("\b\n", "").split("\n\n"):
        text = " ".join(line.strip() for line in paragraph.split("\n")).strip()
        if text:
            yield f".PP\n{escaped(text)}"


def page(path: str, command: click.Command, ctx: click.Context) -> str:
    """One man page."""
    name = path.replace(" ", "-")
    out = [f'.TH "{name.upper()}" "1" "" "tdpfast {version("tdpfast")}" "tdpfast"', ".SH NAME",
           f"{escaped(name)} \\- {escaped(summary(command))}", ".SH SYNOPSIS", synopsis(command, ctx, path),
           ".SH DESCRIPTION", *description(command)]
    if isinstance(command, click.Group):
        out.append(".SH COMMANDS")
        for below in command.list_commands(ctx):
            found = command.get_command(ctx, below)
            if found is not None:
                out.append(f".TP\n.BR {escaped(f'{name}-{below}')} (1)\n{escaped(summary(found))}")
    out += [".SH OPTIONS", *options(command, ctx), ".SH EXIT STATUS"]
    out += [f".TP\n.B {code}\n{escaped(text)}" for code, text in EXIT_CODES.items()]
    return "\n".join(out) + "\n"


def pages() -> dict[str, str]:
    """File name -> man page, of every command."""
    return {path.replace(" ", "-") + ".1": page(path, command, ctx)
            for path, command, ctx in commands(group, "tdpfast")}


def write(folder: Path) -> int:
    """Writes them all; how many."""
    folder.mkdir(parents=True, exist_ok=True)
    found = pages()
    for name, text in found.items():
        (folder / name).write_text(text)
    return len(found)


if __name__ == "__main__":
    print(f"{write(Path(sys.argv[1]))} man pages")
