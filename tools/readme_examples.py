"""Writes what the commands of the README print into it, and into tests/cli/golden: python tools/readme_examples.py."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
REVIEW = ("check", "review", "--brief")
ZAP = ("check", "review", "--scenario", "issue3-zap-of-table", "--design", "single-hook", "--ungated")
PAGE_REUSE = ("check", "review", "--design", "patch07", "--scenario", "issue2-page", "--ungated")


def tdpfast(*args: str) -> str:
    """The output of a tdpfast command."""
    return subprocess.run([sys.executable, "-c", "from tdpfast.cli import main; main()", *args], text=True,
                          capture_output=True, check=False).stdout


def indented(text: str) -> str:
    return "\n".join(("    " + line).rstrip() for line in text.rstrip().split("\n"))


def main() -> None:
    readme = (ROOT / "README.md").read_text()
    found = re.search(r"^== .*?tdpfast replay \S+$", tdpfast(*ZAP), re.DOTALL | re.MULTILINE)
    assert found
    for start, end, text in ((r"    issue    callers .*?", r"those rules lifted", tdpfast(*REVIEW)),
                             (r"    == issue3-zap-of-table.*?", r"tdpfast replay \S+", found.group())):
        block = indented(text)
        readme = re.sub(rf"^{start}{end}$", lambda _, block=block: block, readme, count=1,
                        flags=re.DOTALL | re.MULTILINE)
    (ROOT / "README.md").write_text(readme)
    golden = ROOT / "tests" / "cli" / "golden"
    (golden / "review.txt").write_text(tdpfast(*REVIEW))
    (golden / "page-reuse.txt").write_text(tdpfast(*PAGE_REUSE))


if __name__ == "__main__":
    main()
