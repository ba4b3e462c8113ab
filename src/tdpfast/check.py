"""Checking: a scenario, a design, gated or not, explored to a verdict."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field

from tdpfast._explore import Explorer
from tdpfast._program import ScenarioProgram
from tdpfast._pyhooks import install
from tdpfast._seam_api import SeamModule
from tdpfast._tdx_vm import TdVmCore
from tdpfast.checks import bit_of, heaviest, names_of
from tdpfast.design import Design, get_design
from tdpfast.errors import UsageError
from tdpfast.minimise import minimise
from tdpfast.scenario import Scenario, check_ops
from tdpfast.story import Line, assertions_of, tell
from tdpfast.token import Token, digest_of, fingerprint

MEMORY = (0x100000000, 0x200000000)        # the module's TDMR: [start, end) of HPA
Hooks = Mapping[str, Callable[[int, int, int, int], int | None]]
"""External hooks written in Python, by name: see check()."""
HOLDS, VIOLATED, UNKNOWN = "holds", "violated", "unknown"


@dataclass(frozen=True)
class Limits:
    """How far a search goes. Transitions, not seconds, so that the same input gives the same answer; `seconds` (0:
    none) is a budget on top of it. strategy: dpor, sleep, dfs, bound, random or pct."""

    strategy: str = "dpor"
    max_transitions: int = 3_000_000
    max_executions: int = 0
    seconds: float = 0.0
    bound: int = 2
    depth: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seconds < 1e9:
            raise UsageError(f"bad seconds {self.seconds}", "out of range", "0..1e9")


@dataclass
class Verdict:
    """What one search found.

    checks: names of the violated checks, sorted. complete: the whole tree was explored. token: replays the shortest
    schedule that violates the heaviest check. story: what happened on it, line by line; assertions: those that
    fired, in order.
    """

    scenario: str
    design: str
    gated: bool
    verdict: str
    complete: bool
    checks: list[str]
    executions: int
    transitions: int
    seconds: float
    token: str | None
    strategy: str = "dpor"
    timed_out: bool = False
    issue: str = ""
    reason: str = ""
    threads: list[str] = field(default_factory=list)
    shown: str = ""
    assertions: list[str] = field(default_factory=list)
    story: list[Line] = field(default_factory=list)
    finding: dict | None = None

    def to_json(self) -> dict:
        """The fields scripts may rely on."""
        return {
            "scenario": self.scenario, "design": self.design, "gated": self.gated, "verdict": self.verdict,
            "complete": self.complete, "checks": self.checks, "executions": self.executions,
            "transitions": self.transitions, "seconds": round(self.seconds, 6), "token": self.token,
        }


def build(scenario: Scenario, design: Design, hooks: Hooks | None = None) -> ScenarioProgram:
    """A fresh TD in the state after the scenario's set-up, ready to be explored.

    Raises UsageError if an operation or a hook is bad or the set-up itself ends in BUG() or a livelock, and what a
    hook raises in the set-up.
    """
    check_ops(scenario, scenario.name)
    vm_cfg = dict(scenario.vm)
    vm = TdVmCore(design, SeamModule([MEMORY]), levels=vm_cfg.get("levels", 4),
                  runnable=bool(vm_cfg.get("runnable", 1)), nvcpus=vm_cfg.get("vcpus", 2),
                  pending_ve_disable=bool(vm_cfg.get("pending_ve_disable", 0)), keep_dead=True, memory_pages=8192)
    install(vm, hooks or {})
    for i, op in enumerate(scenario.setup):
        result = vm.run(op)
        if result["ret"] in ("BUG", "LIVELOCK"):
            raise UsageError(f"{scenario.name}: setup {i} ended in {result['ret']}", "nothing is left to explore",
                             "a set-up the design survives")
    try:
        return ScenarioProgram(vm, [t.ops for t in scenario.threads])
    except UsageError as error:
        raise UsageError(f"{scenario.name}: {error.what}", error.why, error.fix) from error


def program_print(scenario: Scenario, design: Design, hooks: Hooks | None = None) -> int:
    """The fingerprint that ties a token to this scenario under this design, gated or not, with hooks of these
    names."""
    return fingerprint(scenario.canonical(), design.canonical(), *sorted(hooks or ()))


def explore(program: ScenarioProgram, limits: Limits) -> Explorer:
    """An Explorer of the program within the limits, not yet run."""
    return Explorer(program, limits.strategy, bound=limits.bound, depth=limits.depth, seed=limits.seed,
                    max_executions=limits.max_executions, max_transitions=limits.max_transitions,
                    max_seconds=limits.seconds)


def check(scenario: Scenario, design: str | Design, *, gated: bool = True, limits: Limits = Limits(),
          hooks: Hooks | None = None) -> Verdict:
    """Explores one scenario under one design.

    gated keeps the rules by which today's callers never reach the mirror; False lifts them.

    hooks: functions in front of the design's own hooks, {name: function(gfn, old_spte, new_spte, level)}, for
    set_external_spte, split_external_spt, link_external_spt, remove_external_spte, free_external_spt (old_spte is
    then the external page, as new_spte is in link_external_spt). A function returns None to have the design's hook run, or 0 or a
    negative errno in its place. It is one atomic step of the exploration, called in the set-up too, and must give
    the same answer to the same arguments: what it keeps between calls is not taken back between executions.

    Raises UsageError for an unknown design or hook or a bad operation, and the first thing a hook raised.
    """
    design = get_design(design).replace(ungated=not gated)
    started = time.perf_counter()
    program = build(scenario, design, hooks)
    explorer = explore(program, limits)
    result = explorer.run()
    program.raise_hook_error()
    checks = names_of(result["checks"])
    verdict = VIOLATED if checks else HOLDS if result["complete"] else UNKNOWN
    out = Verdict(
        scenario=scenario.name, design=design.name, gated=gated, verdict=verdict, complete=result["complete"],
        checks=checks, executions=result["executions"], transitions=result["transitions"],
        seconds=time.perf_counter() - started, token=None, strategy=limits.strategy,
        timed_out=result["timed_out"], issue=scenario.issue, threads=[t.name for t in scenario.threads],
        reason=scenario.reason.get("gated" if gated else design.name, ""))
    if checks:
        show(out, scenario, program_print(scenario, design, hooks), program, explorer, result, limits)
    return out


def show(out: Verdict, scenario: Scenario, print_: int, program: ScenarioProgram, explorer: Explorer,
         result: dict, limits: Limits) -> None:
    """Adds the token of the heaviest check's shortest schedule, and its story."""
    expected = scenario.expect.get(out.design, "").split()
    out.shown = heaviest([c for c in out.checks if c in expected] or out.checks)
    bit = bit_of(out.shown)
    schedule = result["failures"][bit]
    if out.shown == "life":
        schedule = use_of_freed(program, limits, bit) or schedule
    schedule = minimise(explorer, schedule, bit, attempts=200)
    program.life_by_use(False)
    program.record(True)
    replay = explorer.replay(schedule)
    out.token = str(Token(schedule, print_, digest_of(replay["steps"]), limits.strategy,
                          limits.seed))
    out.story = tell(program, scenario, replay)
    out.assertions = assertions_of(program.events())
    out.finding = program.finding() if replay["end"] == "done" else None


def use_of_freed(program: ScenarioProgram, limits: Limits, bit: int) -> bytes | None:
    """A schedule on which a freed table is really used, which tells more than an entry that leads to one."""
    program.life_by_use(True)
    search = Explorer(program, "dpor", max_transitions=limits.max_transitions, wanted=bit)
    found = search.run()["failures"].get(bit)
    if found is None:
        program.life_by_use(False)
    return found


def replay_token(token: Token, scenarios: Iterable[Scenario], designs: Iterable[Design],
                 hooks: Hooks | None = None) -> tuple:
    """(scenario, design, program, replay) of the program a token belongs to; the replay is checked step by step.

    hooks: those of the check() that made the token.
    Raises TokenMismatchError when it belongs to none of them, NondeterminismError when the program changed.
    """
    presets = list(designs)
    for scenario in scenarios:
        for design in presets:
            for ungated in (False,) if design.dynamic_pamt else (False, True):
                candidate = design.replace(ungated=ungated)
                if program_print(scenario, candidate, hooks) != token.fingerprint:
                    continue
                program = build(scenario, candidate, hooks)
                program.record(True)
                explorer = explore(program, Limits())
                replay = explorer.replay(token.schedule)
                program.raise_hook_error()
                token.verify(replay)
                return scenario, candidate, program, replay
    token.require(~token.fingerprint & (1 << 64) - 1)
    raise AssertionError("unreachable")


def _task(task: tuple) -> Verdict:
    scenario, design, gated, limits = task
    return check(scenario, design, gated=gated, limits=limits)


def check_many(tasks: Iterable[tuple[Scenario, str | Design, bool]], *, limits: Limits = Limits(), jobs: int = 0,
               executor: Executor | None = None) -> Iterator[Verdict]:
    """check() of many (scenario, design, gated), in their order, on any concurrent.futures.Executor.

    jobs: processes when no executor is given; 0 = one per CPU, 1 = here. For Python hooks
    there is check(), one by one.
    """
    work = [(s, d, g, limits) for s, d, g in tasks]
    jobs = jobs or os.cpu_count() or 1
    if executor is not None:
        yield from executor.map(_task, work)
    elif jobs == 1 or len(work) == 1:
        yield from map(_task, work)
    else:
        with ProcessPoolExecutor(jobs) as pool:
            yield from pool.map(_task, work)
