import pytest

from tdpfast.cli import run


@pytest.fixture
def tdpfast(capsys):
    """Run a command line in this process: (exit code, stdout, stderr)."""

    def call(*argv):
        code = run([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
