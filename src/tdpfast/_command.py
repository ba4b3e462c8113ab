"""Where the tdpfast command begins: an interrupt is exit code 130 without a word, also before anything is imported."""

import os
import signal
import sys


def _end(number: int, _frame: object) -> None:
    os._exit(128 + number)


def main() -> None:
    """Runs the command line of this process and exits. SIGTERM and SIGHUP end it as Ctrl-C does, with 143 and 129."""
    quiet = [number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
             if signal.getsignal(number) != signal.SIG_IGN]
    for number in quiet:
        signal.signal(number, _end)
    # While Python itself starts nobody can be asked: who cannot have that blocks the signals until here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, quiet)
    from tdpfast.cli import end_by, run

    for number in quiet:
        signal.signal(number, end_by)
    try:
        code = run()
    except KeyboardInterrupt as end:
        code = getattr(end, "code", 130)
    for number in quiet:
        signal.signal(number, signal.SIG_IGN)      # what is left is to go
    sys.exit(code)
