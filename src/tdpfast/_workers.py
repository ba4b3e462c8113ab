"""Worker processes: tasks in their order, where a dead worker costs the task it had and no worker outlives its parent.

What concurrent.futures has loses all that is done when one process is killed, and leaves its workers behind when the
parent is.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from tdpfast.errors import TdpfastError, UsageError

QUIET = {signal.SIGINT}


class WorkerLost(TdpfastError):
    """A worker process died with its task. Attribute: ``why``, in words."""

    def __init__(self, why: str):
        super().__init__(why)
        self.why = why


def _watch_parent() -> None:
    """Ends this process when its parent is gone, by whatever killed it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _serve(jobs: Connection) -> None:
    """A worker's life: a terminal's Ctrl-C is for the parent, which then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, QUIET)
    threading.Thread(target=_watch_parent, daemon=True).start()
    while True:
        try:
            job = jobs.recv()
        except (EOFError, OSError):
            return
        if job is None:
            return
        function, task = job
        try:
            answer = (True, function(task))
        except BaseException as error:
            answer = (False, error)
        try:
            jobs.send(answer)
        except OSError:
            return
        except Exception as error:           # what cannot be pickled
            jobs.send((False, TypeError(f"{type(answer[1]).__name__} cannot be sent: {error}")))


class _Worker:
    def __init__(self) -> None:
        context = multiprocessing.get_context()
        self.jobs, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        # The child begins with it blocked, so that no Ctrl-C finds it before it knows what to do.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, QUIET)
        try:
            self.process.start()
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.index = -1                      # of the task it has

    def why_dead(self) -> str:
        """How it ended, in words."""
        self.process.join()
        code = self.process.exitcode or 0
        if code >= 0:
            return f"its process ended with {code}"
        try:
            return f"its process was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"its process was killed by signal {-code}"

    def end(self) -> None:
        self.jobs.close()
        self.process.kill()
        self.process.join()


class Workers:
    """Up to n worker processes; a context manager, whose end ends them.

    map() has the form of concurrent.futures'. Fewer processes do when the system has no more to give; UsageError if it
    has none.
    """

    def __init__(self, n: int):
        self.n = n
        self.workers: list[_Worker] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.end()
        self.workers = []

    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        """function(task) of each, in order. What one raised is raised in its place."""
        for ok, answer in self.outcomes(function, tasks):
            if not ok:
                raise answer
            yield answer

    def outcomes(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[tuple[bool, Any]]:
        """In order (True, what function(task) gave) or (False, what it raised, or WorkerLost)."""
        todo = list(tasks)
        done: dict[int, tuple[bool, Any]] = {}
        given = shown = 0
        while shown < len(todo):
            while given < len(todo) and (worker := self._idle(len(todo) - given)) is not None:
                worker.index = given
                try:
                    worker.jobs.send((function, todo[given]))
                except OSError:              # it died while it had nothing to do
                    self._drop(worker)
                    continue
                given += 1
            for worker in self._ready():
                try:
                    done[worker.index] = worker.jobs.recv()
                    worker.index = -1
                except (EOFError, OSError):
                    index = worker.index
                    done[index] = (False, WorkerLost(self._drop(worker)))
            while shown in done:
                yield done.pop(shown)
                shown += 1

    def _drop(self, worker: _Worker) -> str:
        self.workers.remove(worker)
        why = worker.why_dead()
        worker.end()
        return why

    def _idle(self, wanted: int) -> _Worker | None:
        for worker in self.workers:
            if worker.index < 0:
                return worker
        if len(self.workers) >= self.n or wanted < 1:
            return None
        try:
            self.workers.append(_Worker())
        except OSError as error:
            if not self.workers:
                raise UsageError("cannot start a process", error.strerror or str(error), "--jobs 1") from None
            self.n = len(self.workers)
            return None
        return self.workers[-1]

    def _ready(self) -> list[_Worker]:
        busy: dict[Any, _Worker] = {worker.jobs: worker for worker in self.workers if worker.index >= 0}
        busy |= {worker.process.sentinel: worker for worker in self.workers if worker.index >= 0}
        # A dead worker's last answer may still be there to be read.
        return list({id(busy[what]): busy[what] for what in wait(list(busy))}.values())
