"""Writes src/tdpfast/_names.pyi from _names.pxd: python tools/names_stub.py (a test compares the two)."""

import re
from pathlib import Path

HEADER = Path(__file__).parents[1] / "src" / "tdpfast" / "_names.pxd"


def stub(text: str) -> str:
    """The stub of the enums in a header's text."""
    out = ["# Written by tools/names_stub.py from _names.pxd.\nfrom enum import IntFlag\n"]
    for name, body in re.findall(r"^cpdef enum (\w+):.*\n((?:    .*\n)+)", text, re.MULTILINE):
        members = re.findall(r"^    ([A-Z]\w*)", body, re.MULTILINE)
        values = "".join(f"    {member} = ...\n" for member in members)
        out.append(f"class {name}(IntFlag):\n{values}")
    return "\n".join(out)


if __name__ == "__main__":
    HEADER.with_suffix(".pyi").write_text(stub(HEADER.read_text()))
