"""One scenario under one design, explored to a verdict with its counterexample."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from tdpfast._arguments import U64_MAX, check_bool, check_int, shown
from tdpfast._explore.explorer import Explorer
from tdpfast._program.program import ScenarioProgram
from tdpfast.building import Hooks, Reset, build, explore, program_print
from tdpfast.checks import bit_of, heaviest, names_of
from tdpfast.design import PRESETS, Design, get_design
from tdpfast.errors import UsageError
from tdpfast.facts import Facts, facts_of, reason_of
from tdpfast.minimise import cost, minimise
from tdpfast.scenario import Scenario
from tdpfast.story import Line, Teller, assertions_of, tell
from tdpfast.token import NondeterminismError, Token, digest_of
from tdpfast.verdict import HOLDS, REPRODUCE, UNKNOWN, Counterexample, Interrupted, Limits, Verdict, verdict_of

Progress = Callable[[Explorer], object]
"""Called some 20 times a second while a search runs."""


def check(scenario: Scenario, design: str | Design, *, gated: bool = True, limits: Limits = Limits(),
          hooks: Hooks | None = None, reset: Reset | None = None, prefix: bytes = b"", show_all: int = 0,
          telling: str | None = None, progress: Progress | None = None) -> Verdict:
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
    executions to tell if none violates a check. telling: the check whose interleaving is told if it is violated,
    instead of the one that tells most. progress: called while the search runs.

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
                                                                     every_entry=limits.every_entry), prefix=prefix,
                                                telling=telling)
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
    # What no other thread can tell is no step of the search, and may differ all the same.
    steps = {explore(build(scenario, d.replace(ungated=design.ungated), every_entry=True), one).run()["transitions"]
             for one in [Limits(max_executions=1)] for d in (PRESETS[base], design)}
    if len(steps) > 1:
        return []
    return [f"{' and '.join(knobs)}: all is as without"]


def counterexample(scenario: Scenario, design: Design, program: ScenarioProgram, explorer: Explorer, result: dict,
                   limits: Limits, *, print_: int, prefix: bytes = b"", telling: str | None = None) -> Counterexample:
    """The shortest schedule of the heaviest check, or of `telling`, among the failures of a result, minimised, replayed
    and told."""
    checks, expected = names_of(result["checks"]), (scenario.expected(design.name, gated=False) or "").split()
    check = telling if telling in checks else heaviest([c for c in checks if c in expected] or checks)
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
