"""Kernel trace format of a run: tracefs text, with tdpfast's own facts as tdpfast_ events between the kernel's.

`grep -v tdpfast_` leaves a kernel trace. A step of the explorer is one microsecond of time, so that the same schedule
gives the same bytes.
"""

from __future__ import annotations

from tdpfast._program.program import ScenarioProgram
from tdpfast.events import ASSERT_KINDS, EVENT_KINDS, leaf_name, py_hook_text, signed
from tdpfast.scenario import Scenario
from tdpfast.status import status_name
from tdpfast.trace import fast_page_fault_event, seamcall_event

HEADER = """# tracer: nop
#
#                                _-----=> irqs-off/BH-disabled
#                               / _----=> need-resched
#                              | / _---=> hardirq/softirq
#                              || / _--=> preempt-depth
#                              ||| / _-=> migrate-disable
#                              |||| /     delay
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
"""


def page_text(level: int, gfn: int) -> str:
    """A kvm_mmu_page as the kvmmmu events print it: a TDP page of a TD."""
    return f"sp gen 0 gfn {gfn:x} l{level} 8-byte q0 direct rwux nxe ad root 0 sync"


def kernel_event(kind: str, a: tuple, cpu: int) -> tuple[str, str] | None:
    """(event, fields) of a kernel tracepoint."""
    if kind == "chg":
        return ("kvm_tdp_mmu_spte_changed",
                f"as id {a[0]} gfn {a[1]:x} level {a[2]} old_spte {a[3]:x} new_spte {a[4]:x}")
    if kind == "split":
        return "kvm_mmu_split_huge_page", f"gfn {a[0]:x} spte {a[2]:x} level {a[1]} errno {signed(a[3])}"
    if kind == "get_page":
        return "kvm_mmu_get_page", f"{page_text(a[0], a[1])} new"
    if kind == "fast_pf":
        name, _, fields = fast_page_fault_event(cpu, *a[:5]).partition(": ")
        return name, fields
    if kind == "prepare_zap":
        return "kvm_mmu_prepare_zap_page", page_text(a[0], a[1])
    return None


def own_event(kind: str, a: tuple, s0: str | None, s1: str | None) -> tuple[str, str] | None:
    """(event, fields) of what the kernel's trace cannot show."""
    if kind == "seam":
        name, _, fields = seamcall_event(leaf_name(a[0]), status_name(a[2]), *a[3:7]).partition(": ")
        return name, fields
    if kind == "set_ext":
        return "tdpfast_set_external_spte", (f"gfn {a[0]:x} level {a[1]} old_spte {a[2]:x} new_spte {a[3]:x} "
                                             f"ret {signed(a[4])}")
    if kind == "spte_frozen":
        return "tdpfast_spte_frozen", f"gfn {a[0]:x} level {a[1]} old_spte {a[2]:x}"
    if kind == "py_hook":
        return "tdpfast_py_hook", f"{s0} gfn {a[0]:x} level {a[1]} {py_hook_text(a, s1)}"
    if kind == "assert":
        return "tdpfast_assert", f"{ASSERT_KINDS[a[0]]} {s0} {s1}"
    if kind == "rcu_free":
        return "tdpfast_rcu_free", f"gfn {a[1]:x} level {a[0]}"
    if kind == "uaf":
        return "tdpfast_use_after_free", f"gfn {a[2]:x} level {a[1]} {('read', 'write', 'cmpxchg', 'header')[a[0]]}"
    if kind == "free_ext":
        return "tdpfast_free_external_spt", f"gfn {a[0]:x} level {a[1]} ret {signed(a[3])}"
    if kind in ("kick", "req"):
        return f"tdpfast_{kind}", f"{a[0]}"
    return None


def tracefs(program: ScenarioProgram, scenario: Scenario) -> str:
    """The trace of the schedule that was replayed last, ending with a newline."""
    columns = {program.cpu_of(i): i for i in range(len(scenario.threads))}
    out = [HEADER]
    for kind, cpu, step, a, s0, s1 in program.events():
        name = EVENT_KINDS[kind]
        event = kernel_event(name, a, columns.get(cpu, 0)) or own_event(name, a, s0, s1)
        if event is None:
            continue
        column = columns.get(cpu)
        task = f"CPU {column}/KVM" if column is not None else "rcu"
        number = column if column is not None else len(columns)
        out.append(f"{task:>16}-{4242 + number:<7d} [{number:03d}] ..... {step // 1_000_000:5d}.{step % 1_000_000:06d}:"
                   f" {event[0]}: {event[1]}\n")
    return "".join(out)
