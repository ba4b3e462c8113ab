"""Writes the tables in docs/ that are derived from the code: knobs, operations, checks, presets, exit codes.

    python tools/docs_tables.py

A table stands between ``<!-- table: name -->`` and ``<!-- end -->``. What an operation does, and what a preset is, are
prose, and kept: the last column of the row. tests/docs/test_pages.py fails when a page is not what this writes, or when
such a text is missing.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path

from tdpfast import _names
from tdpfast.catalogue import catalogue
from tdpfast.checks import MEANING
from tdpfast.cli import EXIT_CODES
from tdpfast.design import PRESETS, Design
from tdpfast.kernelwords import TEXTS, words
from tdpfast.ops import OPS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "tdpfast"
TABLE = re.compile(r"(<!-- table: (.*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
FUNCTION = re.compile(r"\s*c?p?def (?:inline )?(?:[\w*\[\]]+ )*\**(\w+)\(")
CHOICES = {"gate": "Gate", "reclaim": "Reclaim", "dispatch": "Dispatch", "split_shared": "SplitShared"}
MISSING = "?"


def rows(head: Iterable[str], lines: Iterable[Iterable[object]]) -> str:
    """A table in Markdown."""
    head = list(head)
    table = [head, ["---"] * len(head), *([str(cell) for cell in line] for line in lines)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in table)


def code(text: object) -> str:
    return f"`{text}`"


def shown(value: object) -> str:
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)


# ---- designs

def comments(*headers: str) -> dict[str, str]:
    """Knob -> the comment of its line in the core's struct."""
    lines = "\n".join((PACKAGE / header).read_text() for header in headers)
    return {name: text or "" for name, text in
            re.findall(r"^    (?:bint|int32_t) (\w+)(?:\s+# (.*))?$", lines, re.MULTILINE)}


def readers() -> dict[str, list[str]]:
    """Knob -> functions of the core that read it, each once, in the order of the rooms' files."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.pyx")):
        function = ""
        for line in path.read_text().split("\n"):
            if match := FUNCTION.match(line):
                function = match[1].removeprefix("base_")
            for knob in re.findall(r"\bdesign\.(\w+)", line):
                where = found.setdefault(knob, [])
                if function not in ("", "__init__", *where):
                    where.append(function)
    return found


def own_value(name: str) -> dict[str, object]:
    """Preset -> its value of a knob, where that is not the default."""
    default = next(f.default for f in fields(Design) if f.name == name)
    return {preset: getattr(design, name) for preset, design in PRESETS.items() if getattr(design, name) != default}


def knobs(_page: str) -> str:
    """A row for every knob."""
    text, where = comments("_mmu/design.pxd", "_tdx/design.pxd"), readers()
    said = dict(re.findall(r"\b(\w+): ([^.:]*)\.", " ".join((Design.__doc__ or "").split())))
    lines = []
    for knob in fields(Design):
        if knob.name in ("name", "code"):
            continue
        presets = own_value(knob.name)
        values = ", ".join(code(p) if value is True else f"{code(p)} {shown(value)}" for p, value in presets.items())
        functions = ", ".join(code(f + "()") for f in where.get(knob.name, ())) or "when a VM is made"
        what = text[knob.name] or said.get(knob.name, MISSING)
        lines.append((code(knob.name), shown(knob.default), what, functions, values or "-"))
    return rows(("knob", "default", "what it changes", "where", "presets"), lines)


def values(_page: str) -> str:
    """The names of numbers that a knob may be; the comment beside each in _names.pxd."""
    header = (PACKAGE / "_names.pxd").read_text()
    notes = dict(re.findall(r"^    (\w+)(?: = \d+)? +# (.*)$", header, re.MULTILINE))
    lines = []
    for knob, enum in CHOICES.items():
        for name, value in getattr(_names, enum).__members__.items():
            lines.append((code(knob), int(value), code(name), notes.get(name, MISSING)))
    return rows(("knob", "value", "name", "what"), lines)


def presets(page: str) -> str:
    """A row for every preset; what it is, is kept."""
    kept = last_column(page)
    lines = []
    for name, design in PRESETS.items():
        twin = next((other for other, d in PRESETS.items() if d.replace(name="") == design.replace(name="")), name)
        lines.append((code(name), code(twin) if twin != name else "-", kept.get(name, MISSING)))
    return rows(("preset", "same as", "what it is"), lines)


# ---- operations, checks, exit codes

def last_column(page: str) -> dict[str, str]:
    """First column -> last column of every table row of a page."""
    found = {}
    for line in page.split("\n"):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) > 1 and cells[0].startswith("`"):
            found[cells[0].strip("`")] = cells[-1].replace("\\|", "|")
    return found


def operations(page: str, td_only: bool) -> str:
    """A row for every operation; what it does, is kept."""
    kept = last_column(page)
    lines = []
    for name, spec in OPS.items():
        if spec.td_only != td_only:
            continue
        given = [code(f"{f} = {value}" + (f" / {spec.td_fields[f]}" if f in spec.td_fields else ""))
                 for f, value in spec.fields.items()]
        answers = f"; {', '.join(map(code, spec.answers))}" if spec.answers else ""
        lines.append((code(name), " ".join(given) or "-", spec.lock or "-", spec.refused or "-", spec.ret + answers,
                      kept.get(name, MISSING)))
    return rows(("operation", "fields", "lock", "refused", "answers", "what it does"), lines)


def checks(_page: str) -> str:
    """A row for every check."""
    return rows(("check", "what is violated"), ((code(name), text) for name, text in MEANING.items()))


def exit_codes(_page: str) -> str:
    """A row for every exit code."""
    return rows(("code", "means"), ((number, text) for number, text in EXIT_CODES.items()))


def history(page: str) -> str:
    """A row for every scenario of the catalogue `history`; the report or fix it is about, is kept."""
    kept = last_column(page)
    lines = []
    for scenario in catalogue("history"):
        told = {**scenario.expect, **scenario.expect_gated}
        broken = {design.split("+", 1)[1]: text for design, text in told.items() if "+" in design and text != "holds"}
        found = dict.fromkeys(check for text in broken.values() for check in text.split())
        ops = dict.fromkeys(op["op"] for thread in scenario.threads for op in thread.ops)
        lines.append([code(scenario.name), *(", ".join(map(code, some)) or "-" for some in (broken, ops, found)),
                      kept.get(scenario.name, MISSING)])
    return rows(("scenario", "broken variant", "operations", "found by", "report or fix"), lines)


def kernel_words(section: str) -> str:
    """A row for every name of a section of <tdpfast/kvm.h>."""
    return rows(("name", "what it is here"), ((code(word.signature), word.text) for word in words().values()
                                              if word.section == section))


TABLES: dict[str, Callable[[str], str]] = {
    "knobs": knobs, "values": values, "presets": presets, "checks": checks, "exit codes": exit_codes,
    "history": history,
    "ops": lambda page: operations(page, False), "TD ops": lambda page: operations(page, True),
    **{"kernel: " + section: lambda _page, section=section: kernel_words(section) for section in TEXTS},  # type: ignore[misc]
}


def written(page: str) -> str:
    """A page with its tables as the code has them."""
    return TABLE.sub(lambda match: match[1] + "\n" + TABLES[match[2]](page) + "\n" + match[4], page)


if __name__ == "__main__":
    for path in sorted((ROOT / "docs").rglob("*.md")):
        before = path.read_text()
        after = written(before)
        if after != before:
            path.write_text(after)
            print(path.relative_to(ROOT))
