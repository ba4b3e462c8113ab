"""Operations on several threads at the same time: real threads, real atomics, no GIL.

    >>> vm = Vm(trace="off")
    >>> faults = [{"op": "map", "gfn": gfn, "pfn": gfn, "private": 1, "retries": -1} for gfn in range(64)]
    >>> zaps = [{"op": "zap_leafs", "start": 0, "end": 64}]
    >>> result = run_threads(vm, [faults, faults, zaps], count=10_000)
    >>> result.ended is None, audit(vm)
    (True, [])

Every thread drives a vCPU of its own, with its own roots, trace and RCU read sections. The schedule is the
machine's: what is found here is found by chance; `tdpfast check` searches. `tdpfast.stress` runs bursts of this, with
all checks in between.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tdpfast import walk
from tdpfast._arguments import check_bool, check_int, check_seconds, shown
from tdpfast._face.threads import ThreadEngine
from tdpfast._face.vm import as_u64
from tdpfast._names import Limit
from tdpfast._program.quiescence import findings
from tdpfast.checks import MEANING, names_of
from tdpfast.errors import UsageError
from tdpfast.ops import check_op
from tdpfast.story import spte_text
from tdpfast.vm import Vm

__all__ = ["ThreadResult", "ThreadsResult", "audit", "run_threads"]

ABORTS = (None, "BUG", "LIVELOCK")
MAX_THREADS = int(Limit.MAX_NATIVE_THREADS)


@dataclass(frozen=True)
class ThreadResult:
    """What one thread did."""

    ops: int
    seconds: float
    by_op: dict[str, int]
    """Operation -> how often."""
    ended: str | None
    """"BUG" or "LIVELOCK" if this thread's CPU ended so."""
    times: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Operation -> (how many were timed, their nanoseconds together): every 32nd operation is."""
    counters: dict[str, int] = field(default_factory=dict)
    """What contention cost: faults that answered ret_pf_retry, lost_cmpxchg, rounds of retry loops (retries), SEAMCALLs
    that answered operand_busy, kicks of vCPUs out of the guest, yields of mmu_lock."""
    last_op: int = 0
    """Place in the thread's list of the operation it ran last, or that ended it."""


@dataclass(frozen=True)
class ThreadsResult:
    """What a run did."""

    threads: list[ThreadResult]
    freed_uses: int = 0
    """Uses of freed tables so far, by all of the VM's CPUs; looked for in runs with watch=True only."""
    first_freed_use: tuple[int, int] | None = None
    """(gfn, level) of the table that the first of them used."""

    @property
    def ops(self) -> int:
        """Operations of all threads."""
        return sum(thread.ops for thread in self.threads)

    @property
    def ended(self) -> str | None:
        """How the VM ended, if it did."""
        return next((thread.ended for thread in self.threads if thread.ended), None)


def run_threads(vm: Vm, ops: Sequence[Sequence[Mapping[str, Any]]], *, count: int = 0, seconds: float = 0,
                seed: int | None = None, watch: bool = False, noise: int = 0) -> ThreadsResult:
    """Runs one list of operations per thread, all threads at the same time.

    Args:
        vm: gets vCPUs until there is one per thread.
        ops: per thread its operations, as `Vm.run()` takes them; without hook and race.
        count: operations per thread; 0 = each list once, or any number when ``seconds`` is given.
        seconds: when to stop at the latest; 0 = no limit.
        seed: operations are drawn at random from the list, thread i with seed + i; default: in order, again and
            again.
        watch: freed tables are kept, poisoned, until the run is over, and a use of one violates `life`. Slower, and
            the run ends early when the VM's table pages are nearly used up.
        noise: a seed; the threads give the processor away, or take a nap, before random accesses to what they share,
            so that they meet where they seldom would. 0: they do not.

    Raises:
        UsageError: an argument is out of range or an operation is none.
        VmEnded: the VM was over before.
    """
    if not isinstance(vm, Vm):
        raise UsageError(f"bad VM {shown(vm)}", "not a Vm", "tdpfast.Vm()")
    if not isinstance(ops, Sequence) or not all(isinstance(fields, Sequence) for fields in ops):
        raise UsageError("bad ops", "not lists of operations", "one list of operations per thread")
    check_int("number of threads", len(ops), 1, MAX_THREADS)
    check_int("count", count, 0, 1 << 62)
    check_seconds(seconds)
    check_bool("watch", watch)
    vm._check_hook()
    vm._check_alive()
    while len(vm.vcpus) < len(ops):
        vm.create_vcpu()
    engine = ThreadEngine([vcpu._core for vcpu in vm.vcpus[:len(ops)]])
    for i, fields in enumerate(ops):
        todo = [_checked(op, vm) for op in fields]
        number = 0 if seed is None else (check_int("seed", seed, 0, 1 << 62) + i) * 2 + 1
        engine.set_ops(i, todo, count or (0 if seconds else len(todo)), seconds, number)
    return _run(vm, engine, watch, check_int("noise", noise, 0, 1 << 62))


def _checked(op: Mapping[str, Any], vm: Vm) -> Mapping[str, Any]:
    if isinstance(op, Mapping):
        op = dict(op)
    check_op(op, td=vm.on_module)
    if "vcpu" in op:
        check_int("vcpu", as_u64(op["vcpu"], "vcpu"), 0, vm._guests() - 1)
    return op


def _run(vm: Vm, engine: ThreadEngine, watch: bool, noise: int) -> ThreadsResult:
    crew = _Crew(engine)
    with ExitStack() as stack:
        stack.enter_context(vm._slots_lock)
        for vcpu in vm.vcpus[:engine.n]:
            stack.enter_context(vcpu._lock)
        vm._check_alive()
        engine.start(watch, noise)
        stack.callback(engine.finish)
        stack.callback(crew.end)
        crew.start()
        crew.wait()             # here a signal is seen
        if crew.errors:
            raise crew.errors[0]
        done = engine.finish()
        result = ThreadsResult([ThreadResult(n, elapsed, kinds, ABORTS[abort], *engine.measured(i), engine.last_op(i))
                                for i, (n, elapsed, kinds, abort) in enumerate(done)], *engine.freed_uses())
        if result.ended is not None:
            vm.vcpus[[thread.ended for thread in result.threads].index(result.ended)]._end()
    vm._raise_hook_error()
    return result


class _Crew:
    """The threads of one run. Thread.join() will not do: when a signal interrupts it, it takes the thread for ended."""

    def __init__(self, engine: ThreadEngine):
        self.engine = engine
        self.errors: list[BaseException] = []
        self.started = 0
        self.ended: list[int] = []
        self.one_ended = threading.Semaphore(0)

    def start(self) -> None:
        for i in range(self.engine.n):
            threading.Thread(target=self.work, args=(i,), daemon=True).start()
            self.started += 1

    def work(self, i: int) -> None:
        try:
            self.engine.run_thread(i)
        except BaseException as error:      # not lost with the thread
            self.errors.append(error)
            self.engine.stop()
        finally:
            self.ended.append(i)
            self.one_ended.release()

    def wait(self) -> None:
        while len(self.ended) < self.started:
            self.one_ended.acquire(timeout=0.1)

    def end(self) -> None:
        """Has the threads end with the operation they are in, and waits for them."""
        self.engine.stop()
        self.wait()


def audit(vm: Vm) -> list[str]:
    """What is wrong with a VM that nobody changes at the moment; an empty list if nothing is.

    No SPTE is frozen, every table entry points to a linked table of the right level and gfn whose parent it is,
    no table hangs twice, and the statistics are what counting gives. Of a TD on a module: mirror and S-EPT agree, and
    the module's page metadata and counts match the S-EPT; of each the first place.

    Raises:
        UsageError: vm is no Vm.
    """
    return [text for _, text in audit_checks(vm)] + [f"{text} at gfn {gfn:x}" if level else text
                                                     for name, text, gfn, level in core_checks(vm)
                                                     if name in ("agree", "pamt")]


def core_checks(vm: Vm) -> list[tuple[str, str, int, int]]:
    """What the explorer looks for at quiescence: (check, text, gfn, level), the first place of each; level 0: none."""
    out = []
    for f in findings(vm.core):
        name = names_of(f["check"])[0]
        text = MEANING[name]
        if name == "agree":
            text = f"mirror {spte_text(f['mirror'], f['level'])}, S-EPT {f['external']:#x}"
        if name == "pamt":
            text += f", pfn {f['gfn']:x}" if f["gfn"] else ""
        out.append((name, text, f["gfn"], f["level"] if name != "pamt" else 0))
    return out


def audit_checks(vm: Vm) -> list[tuple[str, str]]:
    """As audit(), each text with the name of the check it violates: frozen, life or stat."""
    if not isinstance(vm, Vm):
        raise UsageError(f"bad VM {shown(vm)}", "not a Vm", "tdpfast.Vm()")
    found: list[tuple[str, str]] = []
    leaves = [0, 0, 0]
    tables: set[int] = set()
    roots = {root.index for root in vm.roots}
    for root in vm.roots:
        _audit_table(vm, root, found, leaves, tables)
    stats = vm.stats
    counted = {"pages_4k": leaves[0], "pages_2m": leaves[1], "pages_1g": leaves[2], "sp_linked": len(tables),
               "sp_live": len(tables) + len(roots)}
    found += [("stat", f"{name} is {stats[name]}, counting gives {n}")
              for name, n in counted.items() if stats[name] != n]
    return found


def _audit_table(vm: Vm, page: walk.Table, found: list[tuple[str, str]], leaves: list[int], tables: set[int]) -> None:
    if page.state != "linked":
        found.append(("life", f"table {page.index} (level {page.level}, gfn {page.gfn:x}) is reachable but "
                              f"{page.state}"))
    values = vm.table(page)
    frozen = np.flatnonzero(vm.spte.is_frozen_spte(values))
    found += [("frozen", f"frozen SPTE at level {page.level}, gfn {page.gfn + (i << 9 * (page.level - 1)):x}")
              for i in frozen.tolist()]
    present = vm.spte.is_shadow_present_pte(values)
    last = vm.spte.is_last_spte(values, page.level)
    if page.level <= 3:
        leaves[page.level - 1] += int(np.count_nonzero(present & last))
    for index in np.flatnonzero(present & ~last).tolist():
        child = walk.child_index(vm, page.level, int(values[index]))
        sp = vm.sp(child) if child is not None else None
        gfn = page.gfn + (index << 9 * (page.level - 1))
        if sp is None or sp.gfn & ~vm.gfn_direct_bits != gfn & ~vm.gfn_direct_bits or sp.is_mirror != page.is_mirror:
            found.append(("life", f"entry {index} of table {page.index} points to no table of gfn {gfn:x}"))
        elif sp.index in tables or sp.parent != (page.index, index):
            found.append(("life", f"table {sp.index} hangs at entry {index} of table {page.index}, its parent is "
                                  f"{sp.parent}"))
        else:
            tables.add(sp.index)
            _audit_table(vm, sp, found, leaves, tables)
