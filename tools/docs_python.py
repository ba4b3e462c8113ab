"""Writes every Python block of the README and the docs into a folder, a file each, for mypy.

    python tools/docs_python.py build/docs-python

Blocks named ``python`` are written as they stand, of ``pycon`` ones what follows the prompts. A file keeps the block's
place: line 40 of docs/x.md is line 40 of docs_x_40.py, so that an error names it.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(python|pycon)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPTS = (">>> ", "... ", ">>>", "...")


def pages() -> list[Path]:
    """What users read: the README, CONTRIBUTING and the docs."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def code(kind: str, text: str) -> str:
    """The Python of a block, line for line."""
    if kind == "python":
        return text
    out = []
    for line in text.split("\n"):
        prompt = next((p for p in PROMPTS if line.startswith(p)), None)
        out.append("" if prompt is None else line[len(prompt):])
    return "\n".join(out)


def blocks(path: Path) -> Iterator[tuple[int, str]]:
    """(line, Python) of every block of a page."""
    text = path.read_text()
    for match in BLOCK.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, code(match[1], match[2])


def write(folder: Path) -> int:
    """Writes the blocks of all pages; how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.py"):
        old.unlink()
    n = 0
    for path in pages():
        name = "_".join(path.relative_to(ROOT).with_suffix("").parts).lower().replace("-", "_")
        for line, text in blocks(path):
            (folder / f"{name}_{line}.py").write_text("\n" * line + text)
            n += 1
    return n


if __name__ == "__main__":
    print(f"{write(Path(sys.argv[1]))} blocks of Python in the README and the docs")
