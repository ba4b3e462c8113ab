"""Events of a run: one row for each kind, and the form the conformance files use (lists that begin with its name)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from tdpfast._names import AssertKind, Errno, EventKind, RetPf, SeamLeaf, UafKind
from tdpfast.status import status_name

EVENT_KINDS = tuple("LIVELOCK" if kind == "EV_LIVELOCK" else kind[3:].lower() for kind in EventKind.__members__)
"""Kinds of records, by number."""
PY_HOOK_KINDS = ("yields", "returns", "native")
"""How a step of a Python hook ends: at a yield, with an answer, or by asking for the design's own hook."""
ASSERT_KINDS = tuple(kind.removeprefix("ASSERT_") for kind in AssertKind.__members__)
LEAF_NAMES = {int(leaf): name.removeprefix("TDH_").replace("_", ".") for name, leaf in SeamLeaf.__members__.items()}
"""Leaf number -> the leaf as Intel writes it, without TDH."""
UAF_KINDS = tuple("header" if kind == "UAF_SP" else kind[4:].lower() for kind in UafKind.__members__)
"""How a freed table is used: its entries, or its kvm_mmu_page."""
REQUESTS = ("OUTSIDE_GUEST_MODE", "VM_DEAD")
PARTS = ("access", "fault", "VP.ENTER")
"""The parts of an operation that is made of several."""
WHOLE = 255
"""The kind of an op_end that ends an operation of a scenario's thread."""
RET_PF = {int(ret): name for name, ret in RetPf.__members__.items()}
ERRNO = {int(number): name for name, number in Errno.__members__.items()}


def leaf_name(leaf: int) -> str:
    """A SEAMCALL leaf as Intel writes it, such as TDH.MEM.PAGE.AUG."""
    return f"TDH.{LEAF_NAMES.get(leaf, leaf)}"


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def errno_name(ret: int) -> str:
    """What a kernel function returned: -EBUSY, or the number."""
    return f"-{ERRNO[-ret]}" if -ret in ERRNO else str(ret)


# ---- the table ----------------------------------------------------------------------------------------------------

class Event(NamedTuple):
    """One kind of record.

    trace: its name in a trace, the kernel's tracepoint or tdpfast's own; "" for what traces leave out. fields: names of
    the numbers in order, each with how it is read after a colon (`FORMS`; nothing: decimal). form: the tracepoint's own
    text, "name value" pairs without; it may use `cpu` and `page`. other: the name in a trace where that flag is set.
    """

    trace: str
    fields: str = ""
    form: str = ""
    other: tuple[str, str] = ("", "")


FORMS: dict[str, Callable[[int], Any]] = {
    "": int, "x": int, "d": signed, "flag": bool, "leaf": leaf_name, "status": status_name,
    "request": REQUESTS.__getitem__, "access": UAF_KINDS.__getitem__, "assert": ASSERT_KINDS.__getitem__,
    "how": PY_HOOK_KINDS.__getitem__, "state": {4: "queued", 5: "freed"}.__getitem__,
}
"""How a number of a record is read: x is hexadecimal, d signed, a flag shows where it is set, the others are words; s0
and s1 are the texts of a record, not numbers."""
PAGE = "sp gen 0 gfn {gfn:x} l{level} 8-byte q0 direct {access_text} nxe {ad} root 0 sync"
EVENTS: dict[str, Event] = {
    "chg": Event("kvm_tdp_mmu_spte_changed", "as_id gfn:x level old_spte:x new_spte:x",
                 "as id {as_id} gfn {gfn:x} level {level} old_spte {old_spte:x} new_spte {new_spte:x}"),
    "split": Event("kvm_mmu_split_huge_page", "gfn:x level spte:x errno:d",
                   "gfn {gfn:x} spte {spte:x} level {level} errno {errno}"),
    "get_page": Event("kvm_mmu_get_page", "level gfn:x mirror access ad_disabled page:x", PAGE + " new"),
    "prepare_zap": Event("kvm_mmu_prepare_zap_page", "level gfn:x mirror access ad_disabled page:x", PAGE),
    "fast_pf": Event("fast_page_fault", "gfn:x error_code:x old_spte:x new_spte:x ret:d",
                     "vcpu {cpu} gva {gva:x} error_code {error_text} sptep 0000000000000000 old {old_spte:#x} "
                     "new {new_spte:x} spurious {spurious} fixed {fixed}"),
    "set_ext": Event("tdpfast_set_external_spte", "gfn:x level old_spte:x new_spte:x ret:d scripted:flag split:flag",
                     other=("split", "tdpfast_split_external_spt")),
    "link_ext": Event("tdpfast_link_external_spt", "gfn:x level ret:d has_page"),
    "remove_ext": Event("tdpfast_remove_external_spte", "gfn:x level old_spte:x"),
    "free_ext": Event("tdpfast_free_external_spt", "gfn:x level page:x ret:d has_page"),
    "py_hook": Event("tdpfast_py_hook", "hook:s0 gfn:x level ret:d what:how label:s1",
                     "{hook} gfn {gfn:x} level {level} {ended}"),
    "spte_frozen": Event("tdpfast_spte_frozen", "gfn:x level old_spte:x"),
    "flush_all": Event("tdpfast_flush_all"),
    "flush_range": Event("tdpfast_flush_range", "gfn:x npages"),
    "flush_slot": Event("tdpfast_flush_slot", "gfn:x npages"),
    "yield": Event("tdpfast_yield", "write"),
    "dirty": Event("tdpfast_dirty", "gfn:x"),
    "race": Event("tdpfast_race", "gfn:x level before:x after:x"),
    "assert": Event("tdpfast_assert", "assert:assert function:s0 id:s1"),
    "LIVELOCK": Event("tdpfast_livelock", "why"),
    "rcu_free": Event("tdpfast_rcu_free", "level gfn:x direct"),
    "uaf": Event("tdpfast_use_after_free", "access:access level gfn:x times"),
    "rcu_again": Event("tdpfast_call_rcu_again", "level gfn:x state:state"),
    "seam": Event("tdpfast_seamcall", "leaf:leaf record status:status rcx:x rdx:x r8:x lp injected",
                  "{leaf} lp {lp} rcx {rcx:x} rdx {rdx:x} r8 {r8:x} status {status}"),
    "seamcall_failed": Event("tdpfast_seamcall_failed", "leaf:leaf status:status"),
    "req": Event("tdpfast_request", "request:request"),
    "kick": Event("tdpfast_kick", "vcpu rax:x"),
    "td_exit": Event("tdpfast_td_exit", "vcpu rax:x"),
    "wait_for_sept_zap": Event("tdpfast_wait_for_sept_zap", "vcpu"),
    "reset_paddr": Event("tdpfast_reset_paddr", "hpa:x"),
    "free_page": Event("tdpfast_free_page", "hpa:x"),
    "keyid_free": Event("tdpfast_keyid_free", "hkid"),
    "op": Event("tdpfast_op", "index"),
    "op_end": Event("tdpfast_op_end", "part ret:d rax:x rcx:x rdx:x r8:x kind more:x"),
    "step": Event("", "kind object:x before:x after:x arg:x line pc:x"),
    "code_fault": Event("tdpfast_code_fault", "what line pc:x"),
}
"""Kind -> what its numbers are and how a trace shows it. Gfns are guest frame numbers, levels are PG_LEVEL_*.

page: the HPA of the table (of free_ext: of the external page). seam: a SEAMCALL with its operands; record: its place
among the records of a replay (a Record leaves it out); injected: another processor held a lock, or an interrupt was
pending. req: a request to all vCPUs. kick, td_exit: a vCPU left the TD; rax: what VP.ENTER answered. wait_for_sept_zap:
a vCPU was kept out. op: an operation of a scenario's thread, by its place; op_end: its end (kind WHOLE, part its
place), or that of a part of an operation made of several (PARTS). step: one access that the explorer schedules, an
object by its address in this process; line, pc: of the design file that makes it. code_fault: how a design file's code
ended the execution (CodeFault)."""


PRESENT = 1 << 11
LARGE = 1 << 7
ADDRESS = 0x000FFFFFFFFFF000


def visible(spte: int, level: int) -> str:
    """An SPTE as the files write it: the address of a table is nobody's business and zeroed."""
    if spte & PRESENT and level > 1 and not spte & LARGE:
        spte &= ~ADDRESS
    return hex(spte)


def py_hook_text(what: str, ret: int, label: str) -> str:
    """How a step of a Python hook ended: a yield with its label, its answer, or the native hook."""
    if what == "yields":
        return f"yields {label!r}" if label else what
    return "asks for the native hook" if what == "native" else f"returns {ret}"


def mmu_event(record: tuple, layout: int) -> list | None:
    """One record of VmCore.events() as an event of the kvm-7.3 and kvm-6.18 files; None: they do not show it."""
    kind, _cpu, _step, a, s0, s1 = record
    name = EVENT_KINDS[kind]
    if name == "chg":
        return ["chg", a[0], a[1], a[2], visible(a[3], a[2]), visible(a[4], a[2])]
    if name == "set_ext":
        if layout == 618:
            return ["set_ext", a[0], a[1], visible(a[3], a[1]), signed(a[4])]
        return ["set_ext", a[0], a[1], visible(a[2], a[1]), visible(a[3], a[1]), signed(a[4])]
    if name == "link_ext":
        return ["link_ext", a[0], a[1], signed(a[2])] + ([] if a[3] else ["NULL"])
    if name == "remove_ext":
        return ["remove_ext", a[0], a[1], visible(a[2], a[1])]
    if name == "free_ext":
        if layout == 618:
            return ["free_ext", a[0], a[1], signed(a[3])] + ([] if a[4] else ["NULL"])
        return ["free_ext", a[0], a[1]]
    if name == "yield":
        return ["yield", "write" if a[0] else "read"]
    if name == "split":
        return ["split", a[0], a[1], visible(a[2], a[1]), signed(a[3])]
    if name == "race":
        return ["race", a[0], a[1], visible(a[2], a[1]), visible(a[3], a[1])]
    if name == "assert":
        return [ASSERT_KINDS[a[0]], s0, s1]
    if name in ("flush_all", "LIVELOCK"):
        return [name]
    if name in ("flush_range", "flush_slot"):
        return [name, a[0], a[1]]
    if name == "dirty":
        return [name, a[0]]
    return None


def mmu_events(records: Iterable[tuple], layout: int) -> list[list]:
    """All records the kvm-7.3 and kvm-6.18 files show, in order."""
    out = []
    for record in records:
        event = mmu_event(record, layout)
        if event is not None:
            out.append(event)
    return out
