"""A scenario under a design as a program of the explorer: the TD, its set-up, its threads."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

from tdpfast._arguments import shown
from tdpfast._explore.explorer import Explorer
from tdpfast._face.seam_module import SeamModule
from tdpfast._face.td import TdVmCore
from tdpfast._program.program import ScenarioProgram
from tdpfast._program.pyhooks import install
from tdpfast.checks import names_of
from tdpfast.design import Design
from tdpfast.errors import UsageError
from tdpfast.ops import failure
from tdpfast.scenario import Scenario
from tdpfast.spte import MMUS
from tdpfast.token import fingerprint
from tdpfast.verdict import Limits

MEMORY = (0x100000000, 0x200000000)        # the module's TDMR: [start, end) of HPA
Hooks = Mapping[str, Callable[[int, int, int, int], int | Generator[str | None, None, int | None] | None]]
"""External hooks written in Python, by name: see check()."""
Reset = Callable[[], object]


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
    return fingerprint(scenario.canonical(), design.canonical(), *sorted(hooks or ()), *["spans"] * (not every_entry))


def explore(program: ScenarioProgram, limits: Limits, prefix: bytes = b"", **share: Any) -> Explorer:
    """An Explorer of the program within the limits, not yet run. prefix: the schedule every execution begins with;
    share: first or asleep, see Explorer."""
    return Explorer(program, limits.strategy, bound=limits.bound, depth=limits.depth, seed=limits.seed,
                    max_executions=limits.max_executions, max_transitions=limits.max_transitions,
                    max_seconds=limits.seconds, prefix=prefix, states=limits.states, stop_first=limits.first, **share)
