"""Checking: a scenario, a design, gated or not, explored to a verdict."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from tdpfast._arguments import U64_MAX, check_bool, check_int, check_seconds, one_of, shown
from tdpfast._explore.explorer import STRATEGIES, Explorer
from tdpfast._face.seam_module import SeamModule
from tdpfast._face.td import TdVmCore
from tdpfast._program.program import ScenarioProgram
from tdpfast._program.pyhooks import install
from tdpfast._workers import WorkerLost, Workers
from tdpfast.checks import bit_of, heaviest, names_of
from tdpfast.design import PRESETS, Design, get_design
from tdpfast.errors import UsageError
from tdpfast.facts import Facts, facts_of, reason_of
from tdpfast.minimise import cost, minimise
from tdpfast.ops import failure
from tdpfast.reach import merged, missing
from tdpfast.scenario import IMPOSSIBLE, Scenario
from tdpfast.spte import MMUS
from tdpfast.story import Line, Teller, assertions_of, tell
from tdpfast.token import NondeterminismError, Token, TokenMismatchError, digest_of, fingerprint

MEMORY = (0x100000000, 0x200000000)        # the module's TDMR: [start, end) of HPA
Hooks = Mapping[str, Callable[[int, int, int, int], int | Generator[str | None, None, int | None] | None]]
"""External hooks written in Python, by name: see check()."""
Progress = Callable[[Explorer], object]
"""Called some 20 times a second while a search runs."""
Reset = Callable[[], object]
HOLDS, VIOLATED, UNKNOWN = "holds", "violated", "unknown"
"""Verdicts; where many designs are checked there is IMPOSSIBLE as well: the set-up fails there."""
REPRODUCE = 10                             # runs of a counterexample before it is shown


@dataclass(frozen=True)
class Limits:
    """How far a search goes. Transitions, not seconds, so that the same input gives the same answer; `seconds` (0:
    none) is a budget on top of it. strategy: dpor, sleep, dfs, bound, random or pct. states: count the final states,
    which costs a few microseconds each. first: end with the first violation. every_entry: make a step of each access to
    an entry of a page table, also where no other thread comes to that entry (tdpfast.spans)."""

    strategy: str = "dpor"
    max_transitions: int = 3_000_000
    max_executions: int = 0
    seconds: float = 0.0
    bound: int = 2
    depth: int = 3
    seed: int = 0
    states: bool = False
    first: bool = False
    every_entry: bool = False

    def __post_init__(self) -> None:
        check_seconds(self.seconds)
        if not isinstance(self.strategy, str) or self.strategy not in STRATEGIES:
            raise UsageError(f"unknown strategy {shown(self.strategy)}", "not one of them", one_of(STRATEGIES))
        for name, low, high in (("max_transitions", 0, U64_MAX), ("max_executions", 0, U64_MAX), ("seed", 0, U64_MAX),
                                ("bound", 0, (1 << 31) - 1), ("depth", 1, 64)):
            check_int(name, getattr(self, name), low, high)
        check_bool("states", self.states)
        check_bool("first", self.first)
        check_bool("every_entry", self.every_entry)


@dataclass(frozen=True)
class Counterexample:
    """The shortest schedule found that violates a check.

    check: its name, the heaviest of those violated (of those the scenario expects, if there are any). token:
    replays the schedule; None if it did not, when it was tried. story: what happened on it, line by line.
    assertions: those that fired, in order. finding: the first place that was wrong at the end (check, gfn, level,
    mirror, external); None if the end was not reached. minimised: context switches and steps of the schedule found,
    then of the one shown. reproduced: how many of REPRODUCE runs of it violate the check. facts: what the run shows
    about why.
    """

    check: str
    token: str | None
    story: list[Line]
    assertions: list[str]
    finding: dict | None
    minimised: tuple[int, int, int, int]
    reproduced: int
    facts: Facts

    def to_json(self) -> dict:
        """The fields scripts may rely on; a line of the story as Line.to_json()."""
        switches, steps, fewer, less = self.minimised
        return {"check": self.check, "token": self.token, "assertions": self.assertions,
                "found": {"switches": switches, "steps": steps}, "shown": {"switches": fewer, "steps": less},
                "reproduced": self.reproduced, "story": [line.to_json() for line in self.story]}


@dataclass
class Verdict:
    """What one search found.

    checks: names of the violated checks, sorted. complete: the whole tree was explored. ends: executions by how they
    ended (tdpfast.report.CLASSES); states: how many different final states, 0 if they were not counted. counterexample:
    None where nothing is violated. examples: stories of executions that hold, if asked for. limit: what ended a search
    that is not complete, in words; explored: the share of its tree that it saw, an estimate (Knuth, 1975), None where
    there is none; covered: executions of a search by bound with the largest bound, if it made all of them. replay:
    options that `tdpfast replay` needs beside the token, or a call in Python; advice: a command that goes further.
    file: the design file, if the design is one. reach: what happened (tdpfast.reach); missing: what the scenario asks
    for and never happened, in words: "holds" is not about it then (`not_reached`).
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
    strategy: str = "dpor"
    timed_out: bool = False
    issue: str = ""
    reason: str = ""
    threads: list[str] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)
    states: int = 0
    counterexample: Counterexample | None = None
    examples: list[list[Line]] = field(default_factory=list)
    file: str = ""
    reach: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    limit: str = ""
    explored: float | None = None
    covered: int = 0
    replay: str = ""
    advice: str = ""

    @property
    def token(self) -> str | None:
        """The counterexample's token."""
        return None if self.counterexample is None else self.counterexample.token

    @property
    def not_reached(self) -> bool:
        """It holds, but something that the scenario asks about never happened."""
        return self.verdict == HOLDS and bool(self.missing)

    def to_json(self, *, detail: bool = False) -> dict:
        """The fields scripts may rely on. detail: also `threads`, and `counterexample` with its story."""
        out = {
            "scenario": self.scenario, "design": self.design, "gated": self.gated, "verdict": self.verdict,
            "complete": self.complete, "checks": self.checks, "executions": self.executions,
            "transitions": self.transitions, "seconds": round(self.seconds, 6), "token": self.token,
            "missing": self.missing, "reach": self.reach,
            "limit": self.limit, "explored": self.explored,
        }
        if detail:
            found = self.counterexample
            out |= {"threads": self.threads, "counterexample": None if found is None else found.to_json()}
        return out


def _known(scenario) -> None:
    if not isinstance(scenario, Scenario) or not isinstance(scenario.name, str):
        raise UsageError(f"bad scenario {shown(scenario)}", "not a Scenario", "tdpfast.scenario.load(file)")


class SetupError(UsageError):
    """The set-up of a scenario fails on a design, or kills the VM: nothing is left to explore."""


def set_up(vm: TdVmCore, what: str, op: Mapping) -> None:
    """Runs one operation of a set-up; SetupError unless it does what it is for and leaves the VM sound. One whose hooks
    or module locks are scripted may fail."""
    result = vm.run(op)
    fix = "a set-up that this design stands, or another design"
    if result["ret"] in ("BUG", "LIVELOCK"):
        raise SetupError(f"{what} ended in {result['ret']}", "nothing is left to explore", fix)
    state = vm.kvm_state()
    if state["vm_bugged"] or state["vm_dead"]:
        raise SetupError(f"{what} kills the VM", "nothing is left to explore", fix)
    if vm.checks:
        raise SetupError(f"{what} violates {' '.join(names_of(vm.checks))}", "what follows would not show it", fix)
    why = failure(op["op"], result)
    if why and not any(op.get(key) for key in ("hook", "inject", "race")):
        raise SetupError(f"{what} fails", why, fix)


def vm_options(scenario: Scenario) -> dict[str, Any]:
    """What TdVmCore makes of a scenario's VM. One without TDX has a module beside it that it never calls."""
    vm, tdx = scenario.vm, scenario.tdx
    return {"levels": vm.get("levels", vm.get("root_level", 4)), "tdx": tdx,
            "runnable": tdx and bool(vm.get("runnable", 1)), "nvcpus": vm.get("vcpus", 2) if tdx else 0,
            "pending_ve_disable": bool(vm.get("pending_ve_disable", 0)), "mmu": MMUS[str(vm.get("mmu", "ept_ad"))],
            "nx": bool(vm.get("nx_huge_pages", 0)), "pml": bool(vm.get("pml", 0)),
            "maxphyaddr": vm.get("maxphyaddr", 52), "slots": [slot.row(tdx) for slot in scenario.memslots()],
            "attributes_of": [(a["start"], a["end"], a["private"]) for a in scenario.attributes]}


def build(scenario: Scenario, design: Design, hooks: Hooks | None = None,
          reset: Reset | None = None, *, every_entry: bool = False) -> ScenarioProgram:
    """A fresh TD in the state after the scenario's set-up, ready to be explored. every_entry: as in Limits.

    Raises UsageError for a bad hook, SetupError (one too) if the set-up fails or kills the VM, and what a hook raises
    in the set-up.
    """
    _known(scenario)
    vm = TdVmCore(design, SeamModule([MEMORY]), **vm_options(scenario), keep_dead=True, memory_pages=8192)
    install(vm, hooks or {}, reset)
    for i, op in enumerate(scenario.setup):
        set_up(vm, f"{scenario.name}: setup {i} (op {op['op']!r}) on {design.name}", op)
    try:
        return ScenarioProgram(vm, [t.ops for t in scenario.threads], every_entry=every_entry)
    except UsageError as error:
        raise UsageError(f"{scenario.name}: {error.what}", error.why, error.fix) from error


def program_print(scenario: Scenario, design: Design, hooks: Hooks | None = None, *, every_entry: bool = False) -> int:
    """The fingerprint that ties a token to this scenario under this design, gated or not, with hooks of these
    names, and to what its steps are."""
    return fingerprint(scenario.canonical(), design.canonical(), *sorted(hooks or ()), *["every_entry"] * every_entry)


def explore(program: ScenarioProgram, limits: Limits, prefix: bytes = b"", **share: Any) -> Explorer:
    """An Explorer of the program within the limits, not yet run. prefix: the schedule every execution begins with;
    share: first or asleep, see Explorer."""
    return Explorer(program, limits.strategy, bound=limits.bound, depth=limits.depth, seed=limits.seed,
                    max_executions=limits.max_executions, max_transitions=limits.max_transitions,
                    max_seconds=limits.seconds, prefix=prefix, states=limits.states, stop_first=limits.first, **share)


def check(scenario: Scenario, design: str | Design, *, gated: bool = True, limits: Limits = Limits(),
          hooks: Hooks | None = None, reset: Reset | None = None, prefix: bytes = b"", show_all: int = 0,
          progress: Progress | None = None) -> Verdict:
    """Explores one scenario under one design.

    gated keeps the rules by which today's callers never reach the mirror; False lifts them.

    hooks: functions in front of the design's own hooks, {name: function(gfn, old_spte, new_spte, level)}, for
    set_external_spte, split_external_spt, link_external_spt, remove_external_spte, free_external_spt (old_spte is
    then the external page, as new_spte is in link_external_spt). A function returns None to have the design's hook
    run, or 0 or a negative errno in its place; it is called in the set-up too. A plain function is one atomic step of
    the exploration. A generator function is interrupted wherever it yields, nothing or a label that names the place:
    each yield ends a step, others may run, and what the generator returns is the hook's result. One that waits in a
    loop for another to do something makes the search endless; -16 has KVM try again.

    reset: called without arguments before every execution. Hooks that keep something between calls need it: it puts
    what they keep back to what it was after the set-up (the first call finds it so). Without it a hook must give the
    same answer to the same arguments, or clean up behind itself: a generator that an execution leaves between two
    steps is closed.

    prefix: the schedule every execution begins with; "complete" is then about what can follow it. show_all: how many
    executions to tell if none violates a check. progress: called while the search runs.

    Raises UsageError for an unknown design or hook or a bad operation, and the first thing a hook raised. An interrupt
    leaves as Interrupted, a KeyboardInterrupt that has the verdict so far.
    """
    if not isinstance(limits, Limits):
        raise UsageError(f"bad limits {shown(limits)}", "not Limits", "tdpfast.check.Limits()")
    if hooks is not None and not isinstance(hooks, Mapping):
        raise UsageError(f"hooks are {shown(hooks)}", "not a mapping", "{name: function}")
    design = get_design(design).replace(ungated=not check_bool("gated", gated))
    check_int("show_all", show_all, 0, U64_MAX)
    started = time.perf_counter()
    program = build(scenario, design, hooks, reset, every_entry=limits.every_entry)
    explorer = explore(program, limits, prefix, **ends_at(design))
    stop = None
    try:
        with looking_for_hangs(design):
            result = explorer.run(progress)
    except KeyboardInterrupt as interrupt:
        stop, result = interrupt, explorer.result()
    program.raise_hook_error()
    if result["ends"].get("diverged"):
        raise UsageError(f"the first {len(prefix)} steps do not fit {scenario.name} on {design.name}",
                         "one of them cannot be made", "fewer steps, or the scenario and design they come from")
    result["reach"] = program.reach()
    out = verdict_of(scenario, design, gated, limits, result)
    if prefix == b"" and not hooks:
        out.missing += idle_knobs(scenario, design, limits, out)
    out.seconds = time.perf_counter() - started
    if out.checks:
        with looking_for_hangs(design):
            out.counterexample = counterexample(scenario, design, program, explorer, result, limits,
                                                print_=program_print(scenario, design, hooks,
                                                                     every_entry=limits.every_entry), prefix=prefix)
        if hooks:
            out.replay = f"replay_token(Token.parse({out.token!r}), [scenario], [design], hooks, reset)"
    if stop is None:
        explain(out, scenario, program, limits, prefix)
    if show_all and stop is None and not out.checks:
        out.examples = examples(program, scenario, limits, prefix, show_all)
    if stop is not None:
        out.limit = out.limit and "an interrupt"
        raise Interrupted(out) from stop
    return out


def ends_at(design: Design) -> dict[str, int]:
    """Options of the Explorer for a design: a search of a design file's code ends at the first hang."""
    return {"wanted": bit_of("hang")} if design.code else {}


@contextlib.contextmanager
def looking_for_hangs(design: Design) -> Iterator[None]:
    """Within it code of a design file that makes no step any more ends its execution."""
    if design.code is None:
        yield
        return
    from tdpfast._program.code_crash import timer

    timer(True)
    try:
        yield
    finally:
        timer(False)


def idle_knobs(scenario: Scenario, design: Design, limits: Limits, out: Verdict) -> list[str]:
    """Where a preset with knobs holds: whether the search comes to the very same without them, so that nothing shows
    that the steps in which they differ were made."""
    base, *knobs = design.name.split("+")
    if not knobs or out.verdict != HOLDS or base not in PRESETS:
        return []
    try:
        plain = build(scenario, PRESETS[base].replace(ungated=design.ungated), every_entry=limits.every_entry)
    except UsageError:
        return []
    found = explore(plain, limits).run()
    same = (found["executions"], found["transitions"], found["ends"], plain.reach())
    if same != (out.executions, out.transitions, out.ends, out.reach):
        return []
    return [f"{' and '.join(knobs)}: all is as without"]


class Interrupted(KeyboardInterrupt):
    """An interrupt in the middle of a search. Attribute: ``verdict``, what is known by then."""

    def __init__(self, verdict: Verdict):
        super().__init__()
        self.verdict = verdict


def limit_of(limits: Limits, result: dict) -> str:
    """What ended a search before it was complete, in words."""
    if result["complete"]:
        return ""
    if result["timed_out"]:
        return f"{limits.seconds:g} seconds"
    if limits.max_transitions and result["transitions"] >= limits.max_transitions:
        return f"{limits.max_transitions:,} transitions"
    if limits.max_executions and result["executions"] >= limits.max_executions:
        return f"{limits.max_executions:,} executions"
    if result["ends"].get("steps"):
        return "executions that are too long"
    if result["exhausted"] and limits.strategy == "bound":
        return f"{limits.bound} preemptions"
    if result["exhausted"]:
        return "loops that go round without end"
    return "the first violation" if result["checks"] else "an interrupt"


def verdict_of(scenario: Scenario, design: Design, gated: bool, limits: Limits, result: dict) -> Verdict:
    """A result of Explorer.run() as a Verdict, without its counterexample."""
    checks, threads = names_of(result["checks"]), [t.name for t in scenario.threads]
    verdict = VIOLATED if checks else HOLDS if result["complete"] else UNKNOWN
    return Verdict(
        scenario=scenario.name, design=design.name, gated=gated, verdict=verdict, complete=result["complete"],
        checks=checks, executions=result["executions"], transitions=result["transitions"],
        seconds=0.0, strategy=limits.strategy,
        timed_out=result["timed_out"], issue=scenario.issue, threads=threads,
        reach=result["reach"], missing=missing(result["reach"], threads), ends=dict(result["ends"]),
        states=result["states"], limit=limit_of(limits, result), explored=result["explored"],
        covered=result["covered"], file=design.code.shown if design.code else "")


def counterexample(scenario: Scenario, design: Design, program: ScenarioProgram, explorer: Explorer, result: dict,
                   limits: Limits, *, print_: int, prefix: bytes = b"") -> Counterexample:
    """The shortest schedule of the heaviest check among the failures of a result, minimised, replayed and told."""
    checks, expected = names_of(result["checks"]), (scenario.expected(design.name, gated=False) or "").split()
    check = heaviest([c for c in checks if c in expected] or checks)
    bit = bit_of(check)
    schedule = result["failures"][bit]
    if check == "life":
        schedule = use_of_freed(program, limits, bit, prefix) or schedule
    # One that was pruned stops in the middle: what was violated stays so, whoever goes on.
    whole = explorer.try_schedule(schedule)
    schedule = whole["schedule"] if whole["checks"] & bit else schedule
    found = cost(schedule)
    # A hang takes a quarter of a second each time.
    schedule = minimise(explorer, schedule, bit, attempts=3 if check == "hang" else 200)
    again = [explorer.try_schedule(schedule) for _ in range(REPRODUCE)]
    program.life_by_use(False)
    program.record(True)
    replay = explorer.replay(schedule)
    token = Token(schedule, print_, digest_of(replay["steps"]), limits.strategy, limits.seed)
    teller = Teller(program, scenario)
    story, facts = teller.tell(replay), facts_of(teller, gated=not design.ungated)
    out = Counterexample(
        check=check, token=None, story=story, assertions=assertions_of(program.events()),
        finding=program.finding() if replay["end"] == "done" else None, minimised=(*found, *cost(schedule)),
        reproduced=sum(1 for run in again if run["checks"] & bit and run["schedule"] == schedule), facts=facts)
    try:
        token.verify(explorer.replay(schedule))
    except NondeterminismError:          # no token is better than one that fails
        return out
    return replace(out, token=str(token))


def facts_of_first(program: ScenarioProgram, scenario: Scenario, limits: Limits, prefix: bytes) -> Facts | None:
    """The facts of the first execution that a search runs to its end; None if there is none."""
    program.record(True)
    search, again = explore(program, replace(limits, states=False), prefix), explore(program, Limits())
    while (run := search.step()) is not None:
        if run["end"] != "pruned":
            again.replay(run["schedule"])
            return facts_of(Teller(program, scenario), gated=True)
    return None


def explain(out: Verdict, scenario: Scenario, program: ScenarioProgram, limits: Limits, prefix: bytes = b"") -> None:
    """Gives a verdict its reason, from a run."""
    facts = None if out.counterexample is None else out.counterexample.facts
    if out.verdict == HOLDS and out.gated:
        facts = facts_of_first(program, scenario, limits, prefix)
    out.reason = "" if out.verdict == UNKNOWN else reason_of(scenario, out.design, out.gated, out.checks, facts)


def examples(program: ScenarioProgram, scenario: Scenario, limits: Limits, prefix: bytes, n: int) -> list[list[Line]]:
    """The stories of the first n executions that the search runs to their end."""
    program.record(True)
    search, teller = explore(program, limits, prefix), explore(program, Limits())
    out: list[list[Line]] = []
    while len(out) < n and (run := search.step()) is not None:
        if run["end"] != "pruned":
            out.append(tell(program, scenario, teller.replay(run["schedule"])))
    return out


def use_of_freed(program: ScenarioProgram, limits: Limits, bit: int, prefix: bytes) -> bytes | None:
    """A schedule on which a freed table is really used, which tells more than an entry that leads to one."""
    program.life_by_use(True)
    search = Explorer(program, "dpor", max_transitions=limits.max_transitions, wanted=bit, prefix=prefix, states=False)
    found = search.run()["failures"].get(bit)
    if found is None:
        program.life_by_use(False)
    return found


def replay_token(token: Token, scenarios: Iterable[Scenario], designs: Iterable[Design],
                 hooks: Hooks | None = None, reset: Reset | None = None) -> tuple:
    """(scenario, design, program, replay) of the program a token belongs to; the replay is checked step by step.

    hooks, reset: those of the check() that made the token.
    Raises TokenMismatchError when it belongs to none of them, NondeterminismError when the program changed.
    """
    scenario, design, every_entry = owner_of(token, scenarios, designs, hooks)
    program = build(scenario, design, hooks, reset, every_entry=every_entry)
    program.record(True)
    explorer = explore(program, Limits())
    replay = explorer.replay(token.schedule)
    program.raise_hook_error()
    token.verify(replay, [t.name for t in scenario.threads])
    return scenario, design, program, replay


def owner_of(token: Token, scenarios: Iterable[Scenario], designs: Iterable[Design],
             hooks: Hooks | None = None) -> tuple[Scenario, Design, bool]:
    """The scenario and the design, gated or not, that a token belongs to, and whether every entry is a step on it;
    TokenMismatchError: none of them."""
    if not isinstance(token, Token):
        raise UsageError(f"bad token {shown(token)}", "not a Token", "Token.parse(text)")
    presets, tried = [get_design(design) for design in designs], 0
    for scenario in scenarios:
        _known(scenario)
        for design in presets:
            for ungated in (False,) if design.dynamic_pamt else (False, True):
                candidate = design.replace(ungated=ungated)
                tried += 1
                for every_entry in (False, True):
                    if program_print(scenario, candidate, hooks, every_entry=every_entry) == token.fingerprint:
                        return scenario, candidate, every_entry
    raise TokenMismatchError(
        "the token is from another scenario (or from an older form of this one)",
        f"its fingerprint {token.fingerprint:#018x} is none of the {tried} scenarios and designs known here",
        "the version of tdpfast and the scenario file that it was made with (replay --file FILE)")


def continue_token(token: Token, scenarios: Iterable[Scenario], designs: Iterable[Design], *, keep: int | None = None,
                   limits: Limits = Limits()) -> Verdict:
    """Follows the first `keep` steps of a token (default: up to its last context switch) and explores what can
    follow. Raises TokenMismatchError, and UsageError if those steps do not fit the program any more."""
    scenario, design, every_entry = owner_of(token, scenarios, designs)
    if keep is None:
        last = token.schedule[-1:]
        keep = len(token.schedule.rstrip(last)) if last else 0
    if check_int("keep", keep, 0, U64_MAX) > len(token.schedule):
        raise UsageError(f"keep {keep}", "the token has fewer steps", f"0..{len(token.schedule)}")
    return check(scenario, design, gated=not design.ungated, limits=replace(limits, every_entry=every_entry),
                 prefix=token.schedule[:keep])


# ---- one cell in shares ------------------------------------------------------------------------------------------

def _share(task: tuple) -> dict:
    scenario, design, limits, prefix, share = task
    program = build(scenario, design, every_entry=limits.every_entry)
    explorer = explore(program, limits, prefix, **share)
    return {**explorer.run(), "found": explorer.states(), "reach": program.reach()}


def cut(scenario: Scenario, design: Design, limits: Limits, shares: int) -> list[tuple]:
    """The tasks for _share() that one search is cut into; UsageError where its strategy cannot be cut so."""
    n = limits.max_executions
    if limits.strategy in ("random", "pct") and 1 <= shares <= n:
        edges = [n * i // shares for i in range(shares + 1)]
        return [(scenario, design, replace(limits, max_executions=end - start), b"", {"first": start})
                for start, end in pairwise(edges)]
    if limits.strategy in ("dpor", "sleep") and shares:
        pieces = explore(build(scenario, design, every_entry=limits.every_entry), limits).cut(shares)
        return [(scenario, design, limits, prefix, {"asleep": asleep}) for prefix, asleep in pieces]
    raise UsageError(f"{shares} shares of a search by {limits.strategy}",
                     "only trees by dependence and walks of a seed can be cut up",
                     "dpor or sleep; random or pct with max_executions, and no more shares than executions")


def check_in_shares(scenario: Scenario, design: str | Design, *, gated: bool = True, limits: Limits = Limits(),
                    shares: int, executor: Executor | Workers) -> Verdict:
    """check() with one search cut into shares, mapped over an executor: by dpor or sleep the tree of schedules is cut
    at its first branches (into that many pieces or a few more), by random walks or PCT the executions of the seed.

    The result depends on the number of shares, never on how many workers there are or who is done first; of equally
    short failures the one of the earlier share counts. A tree in pieces comes to the verdict and checks of the whole
    one, in somewhat more executions, as every agent is tried where it is cut. Limits are per share, max_executions of
    walks apart. Raises UsageError for other strategies, and for walks without max_executions; WorkerLost when a process
    of Workers dies.
    """
    if not isinstance(limits, Limits):
        raise UsageError(f"bad limits {shown(limits)}", "not Limits", "tdpfast.check.Limits()")
    check_int("shares", shares, 0, U64_MAX)
    _mapping(executor)
    design = get_design(design).replace(ungated=not check_bool("gated", gated))
    started = time.perf_counter()
    result = merge(list(executor.map(_share, cut(scenario, design, limits, shares))))
    out = verdict_of(scenario, design, gated, limits, result)
    program = build(scenario, design, every_entry=limits.every_entry)
    if out.checks:
        out.counterexample = counterexample(scenario, design, program, explore(program, limits), result, limits,
                                            print_=program_print(scenario, design, every_entry=limits.every_entry))
    explain(out, scenario, program, limits)
    out.seconds = time.perf_counter() - started
    return out


def merge(results: list[dict]) -> dict:
    """The results of shares, in their order, as one."""
    out = {**results[0], "failures": {}, "ends": {}, "checks": 0}
    for name in ("executions", "transitions", "pruned"):
        out[name] = sum(r[name] for r in results)
    out["complete"] = all(r["complete"] for r in results)
    out["timed_out"] = any(r["timed_out"] for r in results)
    out["found"] = set().union(*(r["found"] for r in results))
    out["states"] = len(out["found"])
    out["reach"] = merged([r["reach"] for r in results])
    shares = [r["explored"] for r in results if r["explored"] is not None]
    out["explored"] = sum(shares) / len(results) if shares else None
    for r in results:
        out["checks"] |= r["checks"]
        for end, n in r["ends"].items():
            out["ends"][end] = out["ends"].get(end, 0) + n
        for bit, schedule in r["failures"].items():
            if bit not in out["failures"] or cost(schedule) < cost(out["failures"][bit]):
                out["failures"][bit] = schedule
    return out


# ---- many ----------------------------------------------------------------------------------------------------

class Reporter:
    """Says on stderr, once a second, how far a search that takes longer is."""

    def __init__(self, label: str):
        self.label = label
        self.next = time.monotonic() + 2

    def __call__(self, explorer: Explorer) -> None:
        if time.monotonic() < self.next:
            return
        self.next = time.monotonic() + 1
        share, so_far = explorer.progress(), explorer.result()
        text = "" if share is None else f"about {share:.1%}, "
        print(f"{self.label}: {text}{so_far['executions']} executions, {so_far['transitions']} transitions",
              file=sys.stderr, flush=True)


def _mapping(executor) -> None:
    if not callable(getattr(executor, "map", None)):
        raise UsageError(f"bad executor {shown(executor)}", "it has no map()", "an Executor of concurrent.futures")


def _triple(task: tuple) -> tuple:
    if not isinstance(task, tuple) or len(task) != 3 or not isinstance(task[0], Scenario):
        raise UsageError(f"bad task {shown(task)}", "not a scenario, a design, and gated or not",
                         "(scenario, design, gated)")
    return task


def lost(scenario: Scenario, design: str | Design, gated: bool, why: str) -> Verdict:
    """The verdict of a search that something outside ended."""
    return Verdict(scenario=scenario.name, design=get_design(design).name, gated=gated, verdict=UNKNOWN, complete=False,
                   checks=[], executions=0, transitions=0, seconds=0.0, issue=scenario.issue,
                   threads=[t.name for t in scenario.threads], limit=why)


def _task(task: tuple) -> Verdict:
    try:
        return _search(task)
    except MemoryError as error:
        return lost(task[0], task[1], task[2], f"no memory ({error})" if str(error) else "no memory")


def _search(task: tuple) -> Verdict:
    scenario, design, gated, limits, show_all, progress = task
    label = f"{scenario.name} on {get_design(design).name}, {'gated' if gated else 'ungated'}"
    try:
        return check(scenario, design, gated=gated, limits=limits, show_all=show_all,
                     progress=Reporter(label) if progress else None)
    except SetupError as error:
        return impossible(scenario, get_design(design), gated, limits, error)


def impossible(scenario: Scenario, design: Design, gated: bool, limits: Limits, error: SetupError) -> Verdict:
    """The result of a set-up that fails on a design: nothing was explored, and the reason says why."""
    return Verdict(scenario=scenario.name, design=design.name, gated=gated, verdict=IMPOSSIBLE, complete=False,
                   checks=[], executions=0, transitions=0, seconds=0.0, strategy=limits.strategy,
                   issue=scenario.issue, threads=[t.name for t in scenario.threads],
                   reason=f"{error.what.removeprefix(scenario.name + ': ')}: {error.why}")


def _contained(work: list[tuple], jobs: int) -> Iterator[Verdict]:
    """The tasks in processes of their own: one that dies is tried alone, and is a crash if it dies again."""
    with Workers(jobs) as pool:
        for task, (ok, answer) in zip(work, pool.outcomes(_task, work)):
            if isinstance(answer, WorkerLost):
                yield _alone(task)
            elif not ok:
                raise answer
            else:
                yield answer


def _alone(task: tuple) -> Verdict:
    scenario, design, gated, limits = task[:4]
    try:
        with Workers(1) as pool:
            return next(pool.map(_task, [task]))
    except WorkerLost:
        return Verdict(scenario=scenario.name, design=get_design(design).name, gated=gated, verdict=VIOLATED,
                       complete=False, checks=["crash"], executions=0, transitions=0, seconds=0.0,
                       strategy=limits.strategy, threads=[t.name for t in scenario.threads],
                       reason="the process that searched it died: the file's code wrote over the core's memory")


def check_many(tasks: Iterable[tuple[Scenario, str | Design, bool]], *, limits: Limits = Limits(), jobs: int = 0,
               executor: Executor | None = None, show_all: int = 0, progress: bool = False) -> Iterator[Verdict]:
    """check() of many (scenario, design, gated), in their order, on any concurrent.futures.Executor. Where a set-up
    fails, the verdict is IMPOSSIBLE instead of an error.

    jobs: processes when no executor is given; 0 = one per CPU, 1 = here. They end with this process, and one that is
    killed costs the verdict it was at. For Python hooks there is check(), one by one. show_all: as
    for check(). progress: say on stderr how far long searches are.
    """
    if not isinstance(tasks, Iterable):
        raise UsageError(f"tasks are {shown(tasks)}", "not a list", "a list of (scenario, design, gated)")
    if executor is not None:
        _mapping(executor)
    work = [(*_triple(task), limits, show_all, progress) for task in tasks]
    jobs = check_int("jobs", jobs, 0, 1024) or os.cpu_count() or 1
    if executor is not None:
        yield from executor.map(_task, work)
    elif any(get_design(task[1]).code for task in work):
        yield from _contained(work, jobs)
    elif jobs == 1 or len(work) == 1:
        yield from map(_task, work)
    else:
        with Workers(min(jobs, len(work))) as pool:
            for task, (ok, answer) in zip(work, pool.outcomes(_task, work)):
                if isinstance(answer, WorkerLost):
                    yield lost(task[0], task[1], task[2], answer.why)
                elif not ok:
                    raise answer
                else:
                    yield answer
