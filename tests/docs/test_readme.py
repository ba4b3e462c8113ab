"""What README shows is what the commands print, and its Python runs."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def tdpfast(*args: str) -> str:
    """The output of a tdpfast command."""
    done = subprocess.run([sys.executable, "-c", "from tdpfast.cli import main; main()", *args], text=True,
                          capture_output=True, timeout=300, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def indented(text: str) -> str:
    return "\n".join(("    " + line).rstrip() for line in text.rstrip().split("\n"))


def test_the_matrix_is_the_printed_one():
    assert indented(tdpfast("check", "review", "--brief")) in README.read_text()


def test_the_counterexample_is_the_printed_one():
    out = tdpfast("check", "review", "--scenario", "issue3-zap-of-table", "--design", "single-hook", "--ungated")
    shown = re.search(r"^== .*?tdpfast replay \S+$", out, re.S | re.M).group()
    assert indented(shown) in README.read_text()


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    text = README.read_text()
    toml = re.search(r"```toml\n(.*?)```", text, re.S).group(1)
    (tmp_path / "fault-against-zap.toml").write_text(toml)
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(compile(block, "README", "exec"), {"__name__": "readme"})
    out = capsys.readouterr().out
    assert "RET_PF_FIXED" in out
    assert indented(out[out.index("GFN 600  (S-EPT)"):]) in text
