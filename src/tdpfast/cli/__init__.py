"""The tdpfast command.

Each subcommand is a module of this package with a click command named ``command``, imported when it is
used. What a command ends with is in EXIT_CODES.
"""
from __future__ import annotations

import errno
import io
import os
import signal
import sys
from importlib import import_module
from importlib.metadata import version

import click

from tdpfast.errors import UsageError

EXIT_CODES = {
    0: "nothing found",
    1: "a violation, a failed case or an unexpected result found",
    2: "usage, bad input, output that cannot be written, or no memory",
    3: "internal error",
    4: "undecided: a limit ended a search and nothing was found, or,"
       " by --require-reach, something asked about never happened",
    124: "time budget reached and nothing found (of stress: before anything was checked)",
    129: "ended by SIGHUP",
    130: "interrupted",
    141: "the reader of the output went away",
    143: "ended by SIGTERM",
}
"""Exit code -> what it means, of every command."""
(EXIT_OK, EXIT_FOUND, EXIT_USAGE, EXIT_INTERNAL, EXIT_UNDECIDED, EXIT_TIME, EXIT_HUNG_UP, EXIT_INTERRUPTED, EXIT_PIPE,
 EXIT_ENDED) = EXIT_CODES
COMPLETE = "_TDPFAST_COMPLETE"
"""The environment variable by which a shell asks for completions."""
LOST = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EAGAIN)
"""What a write fails with when nobody can have the output."""

COMMANDS = {
    "check": "Explore scenarios under designs to verdicts.",
    "stress": "Run random operations on native threads, with checks between bursts.",
    "replay": "Run the schedule of a token again.",
    "conform": "Replay recorded answers of the real code and compare.",
    "design": "Write a design file to start from.",
    "decode": "Show the fields of a page table entry.",
    "list": "List designs, knobs, scenarios, operations, checks or SEAMCALL leaves.",
    "describe": "Describe one of these.",
    "walk": "Run operations on a VM and show the way to a gfn.",
    "minimise": "Make a scenario smaller while it violates the same check.",
    "sweep": "Show what breaks without each guard of a design.",
}
"""Subcommand -> its line in ``tdpfast --help``; the module has the same name."""


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is called."""

    def list_commands(self, ctx):
        return sorted(COMMANDS)

    def get_command(self, ctx, cmd_name):
        if cmd_name not in COMMANDS:
            return None
        return import_module(f"tdpfast.cli.{cmd_name.replace('-', '_')}").command

    def format_commands(self, ctx, formatter):
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), text) for code, text in EXIT_CODES.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("tdpfast"), prog_name="tdpfast", message="%(prog)s %(version)s")
def group():
    """Emulate KVM's x86 TDP MMU for TDX guests."""


class Ended(KeyboardInterrupt):
    """A signal that ends the command as Ctrl-C does. Attribute: ``code``, of the exit."""

    def __init__(self, code: int):
        super().__init__()
        self.code = code


def end_by(number: int, _frame: object) -> None:
    """Handler of SIGINT, SIGTERM and SIGHUP."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Ended(128 + number)


def code_of(interrupt: BaseException | None) -> int:
    """The exit code of what ended the command."""
    while interrupt is not None and not isinstance(interrupt, Ended):
        interrupt = interrupt.__cause__ or interrupt.__context__
    return EXIT_INTERRUPTED if interrupt is None else interrupt.code


def whole_writes() -> None:
    """Without buffers (PYTHONUNBUFFERED=1) the system may take the first part of a text: nobody asks for the rest."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        raw = getattr(stream, "buffer", None)
        if isinstance(raw, io.RawIOBase):
            setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(raw), encoding=stream.encoding, errors=stream.errors,
                                                newline=None, write_through=True))
            stream.detach()


def main(argv: list[str] | None = None) -> None:
    """Entry point: run the command line (default: sys.argv) and exit."""
    sys.exit(run(argv))


def run(argv: list[str] | None = None) -> int:
    """The exit code of a command line."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")      # noqa: SIM115 -- open until the end
    if sys.stdout is None:
        return _usage("cannot write the output (standard output is closed); try > FILE, or > /dev/null")
    whole_writes()
    try:
        if instruction := os.environ.get(COMPLETE):
            from click.shell_completion import shell_complete
            return shell_complete(group, {}, "tdpfast", COMPLETE, instruction)
        code = _invoke(sys.argv[1:] if argv is None else [*argv])
        sys.stdout.flush()
        return code
    except click.ClickException as error:
        return _usage(_click_error(error))
    except UsageError as error:
        return _usage(str(error))
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in LOST:
            return _lost_output(error)
        if os.environ.get("TDPFAST_TRACEBACK"):
            raise
        _complain(f"internal error ({type(error).__name__}: {error}); try again with "
                  "TDPFAST_TRACEBACK=1 and report what it prints")
        return EXIT_INTERNAL


def _invoke(argv: list[str]) -> int:
    # Not group.main(): it would end the process by itself when a pipe breaks.
    try:
        with group.make_context("tdpfast", argv) as ctx:
            code = group.invoke(ctx)
            return code if isinstance(code, int) else EXIT_OK
    except click.exceptions.Exit as end:
        return end.exit_code


def _usage(text: str) -> int:
    _complain(text)
    return EXIT_USAGE


def _complain(text: str) -> None:
    try:
        print(f"error: {_one_line(text)}", file=sys.stderr, flush=True)
    except OSError:
        _drop(sys.stderr)


def _lost_output(error: OSError) -> int:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _drop(stream)
    if error.errno == errno.EPIPE:
        return EXIT_PIPE
    return _usage(f"cannot write the output ({error.strerror}); try > FILE where there is room")


def _drop(stream) -> None:
    """Lets what a stream still holds go nowhere: Python would try again at its end, and exit with 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _click_error(error: click.ClickException) -> str:
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx is not None else "tdpfast"
    message = error.format_message().rstrip(".")
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        message = "a subcommand is missing"
    return f"{message[:1].lower()}{message[1:]} (usage); try {path} --help"


def _one_line(text) -> str:
    """One line, and nothing in it that a terminal would act on."""
    return "".join(ch if ch.isprintable() else ascii(ch)[1:-1] for ch in " ".join(str(text).split()))
