"""tdpfast design: files to start a design of one's own from."""

from __future__ import annotations

import re
from pathlib import Path

import click

from tdpfast._program.code_calls import FUNCTIONS
from tdpfast.cli import EXIT_OK
from tdpfast.errors import UsageError

EXAMPLES = Path(__file__).parents[1] / "designs"
PROLOGUE = """// SPDX-License-Identifier: GPL-2.0-only
#include <tdpfast/kvm.h>

TDPFAST_DESIGN("{name}", .base = "{base}"{knobs});
"""


def functions_of(text: str) -> dict[str, str]:
    """The functions of a design file by name, each with its text."""
    found = re.finditer(r"^static [\w *]*?\b(\w+)\((?:[^()]|\([^()]*\))*\)\n\{\n(?:.*\n)*?\}\n", text, re.MULTILINE)
    return {m[1]: m[0] for m in found}


def with_helpers(wanted: tuple[str, ...], there: dict[str, str]) -> set[str]:
    """The wanted functions, and those of the file's own that they need: what the base has is the base's."""
    needed: set[str] = set()
    todo = list(wanted)
    while todo:
        name = todo.pop()
        if name not in needed:
            needed.add(name)
            called = set(re.findall(r"\b(\w+)\(", there[name]))
            todo += [other for other in there if other in called and other not in FUNCTIONS]
    return needed


def whole_text(path: Path) -> str:
    """A file with what it includes of its own in its place."""
    return re.sub(r'^#include "(\w[^"]*\.c)"$', lambda m: whole_text(path.parent / m[1]), path.read_text(),
                  flags=re.MULTILINE)


@click.group("design")
def command() -> None:
    """Design files: a design as C code in the kernel's style."""


@command.command("new")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--from", "base", default="v7.3", show_default=True, metavar="D", help="The example to begin with.")
@click.option("--function", "wanted", multiple=True, metavar="F", help="Copy only this function (repeatable).")
def new(file: Path, base: str, wanted: tuple[str, ...]) -> int:
    """Write FILE, a design file that does what an example does; it must not exist."""
    known = sorted(p.stem for p in EXAMPLES.glob("*.c"))
    if base not in known:
        raise UsageError(f"unknown example {base!r}", "no such design file comes with tdpfast",
                         "one of " + ", ".join(known))
    if file.suffix != ".c":
        raise UsageError(f"design file {str(file)!r}", "its name does not end with .c", f"{file.name}.c")
    text = whole_text(EXAMPLES / f"{base}.c")
    there = functions_of(text)
    for name in wanted:
        if name not in there:
            raise UsageError(f"unknown function {name!r}", f"{base} has no such function", "one of " + ", ".join(there))
    told = re.search(r'(?:\.base =|define RELEASE) "([^"]*)"(, \.knobs = "[^"]*")?', text)
    assert told is not None
    copied = with_helpers(wanted or tuple(there), there)
    body = [there[name] for name in there if name in copied]
    out = PROLOGUE.format(name=file.stem, base=told[1], knobs=told[2] or "") + "\n" + "\n".join(body)
    try:
        with open(file, "x", encoding="utf-8") as f:
            f.write(out)
    except OSError as error:
        raise UsageError(f"design file {str(file)!r}", error.strerror or "not writable", "a new name") from None
    click.echo(f"{file}: {len(body)} functions of {base}; tdpfast check review --design {file}")
    return EXIT_OK
