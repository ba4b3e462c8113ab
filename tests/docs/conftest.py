"""What the tests of the docs share."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tool():
    """A module of tools/ by name."""
    def load(name):
        space = {"__file__": str(ROOT / "tools" / f"{name}.py"), "__name__": name}
        exec(compile((ROOT / "tools" / f"{name}.py").read_text(), f"tools/{name}.py", "exec"), space)
        return space
    return load


@pytest.fixture
def doctests():
    """Runs the ``pycon`` blocks of a page, in one namespace, as doctests; how many examples there were."""
    import doctest

    def run(path):
        parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        test = parser.get_doctest(path.read_text(), {}, path.name, str(path), 0)
        result = runner.run(test, out=sys.stdout.write)
        assert result.failed == 0
        return result.attempted
    return run
