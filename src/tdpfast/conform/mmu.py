"""Recorded cases of the TDP MMU alone: operations on one VM, with hooks that only record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Final

from tdpfast._arguments import check_int
from tdpfast._face.vm import MAX_GFN, VmCore
from tdpfast.conform.result import BAD_FIELD, PASSED, Result, flag, malformed, needs, times
from tdpfast.design import Design, get_design
from tdpfast.errors import UsageError
from tdpfast.events import mmu_events

NAME = "mmu"
MASK = (1 << 64) - 1
END: Final = object()
DESIGN_OF_RELEASE = {"6.16": "v6.16", "6.18": "v6.18", "6.19": "v6.19", "7.2": "v7.2", "7.3": "v7.3"}
MMU_NEEDS = frozenset({"race", "resched", "hook", "noslot", "poke", "poke_raw", "track", "set_dirty_log", "zap_nx",
                       "fast_pf_last", "set_gen", "roots", "nx"})
STATS = ("pages_4k", "pages_2m", "pages_1g", "sp_linked", "sp_live", "vm_bugged", "nx_lpage_splits", "nx_possible",
         "mmio_created")


def matches(record: dict) -> bool:
    """Operations with a configuration that names the MMU's kind."""
    return "ops" in record and isinstance(record.get("cfg"), dict) and "kind" in record["cfg"]


def expand(events: Iterable[list]) -> Iterator[list]:
    """Recorded events with runs written out one after another, one list per event."""
    for event in events:
        if event[0] == "chg_run":
            _, as_id, gfn, level, old, new, n, dgfn, dold, dnew = event
            old, new, dold, dnew = (int(x, 16) for x in (old, new, dold, dnew))
            for i in times(n):
                yield ["chg", as_id, gfn + i * dgfn, level, hex((old + i * dold) & MASK), hex((new + i * dnew) & MASK)]
        elif event[0] == "yield":
            for _ in times(event[2]):
                yield event[:2]
        else:
            yield event


def expand_sptes(sptes: Iterable[list]) -> Iterator[list]:
    """Recorded SPTEs with runs written out: [root, level, gfn, value, is_table]."""
    for entry in sptes:
        if entry[0] == "run":
            _, root, level, gfn, value, n, dgfn, dvalue = entry
            value, dvalue = int(value, 16), int(dvalue, 16)
            for i in times(n):
                yield [root, level, gfn + i * dgfn, hex((value + i * dvalue) & MASK), False]
        else:
            yield [*entry[:4], len(entry) > 4]


def first_difference(what: str, recorded: Iterable, got: Iterable) -> str | None:
    """Where two lists differ first, or None. Neither is written out whole."""
    left, right = iter(recorded), iter(got)
    for i in count():
        a, b = next(left, END), next(right, END)
        if a is END and b is END:
            return None
        if a is END or b is END:
            ended, name, more = ("recorded", "got", b) if a is END else ("got", "recorded", a)
            return f"{what}: {ended} {i}; {name} goes on with {more}"
        if a != b:
            return f"{what}[{i}]: recorded {a}, got {b}"
    return None


def collapse_livelock(events: list) -> list:
    """Of the identical rounds before a livelock the recordings keep the first."""
    if not events or events[-1] != ["LIVELOCK"]:
        return events
    body = events[:-1]
    while len(body) > 1 and body[-1] == body[-2]:
        body.pop()
    return [*body, ["LIVELOCK"]]


def make_vm(cfg: dict, design: Design) -> VmCore:
    """The VM a case's cfg describes; what it does not name is 0, a 4-level root of a processor of 52 bits."""
    def bits(name: str, low: int, high: int, default: int = 0) -> int:
        return check_int(name, cfg.get(name, default), low, high)

    shared = bits("direct_gfn_bit", 0, 51)
    base = bits("slot_base", 0, MAX_GFN)
    return VmCore(
        design, root_level=bits("root_level", 4, 5, 4), mmu=bits("kind", 0, 2), maxphyaddr=bits("maxpa", 36, 52, 52),
        l1tf=flag(cfg, "l1tf"), cache_bits=bits("cache_bits", 0, 52), exec_only=flag(cfg, "exec_only", 1),
        tdx=flag(cfg, "tdx"), direct_gfn_bits=1 << shared if shared else 0, ipat=flag(cfg, "ipat"),
        nx=flag(cfg, "nx"), slots=((base, bits("slot_npages", 0, MAX_GFN + 1 - base), 1, 0, 0),),
        mmio_gen=bits("mmio_gen", 0, MASK), pml=flag(cfg, "pml"), want_mirror=flag(cfg, "want_mirror"),
        want_direct=flag(cfg, "want_direct"))


def proving(design: Design, record: dict) -> Design:
    """The design as CONFIG_KVM_PROVE_MMU builds it, if the case was recorded with that."""
    return design.replace(prove_mmu=True) if flag(record["cfg"], "prove_mmu") else design


class Replayer:
    """Runs each case on a fresh VM of the design that its release names, or of ``design``."""

    def __init__(self, design: str | Design | None = None):
        self.design = None if design is None else get_design(design).replace(ungated=True)

    def replay(self, record: dict) -> Result:
        """Compare one case: results and events per operation, then the final state and the teardown."""
        if skipped := needs(record, MMU_NEEDS):
            return skipped
        try:
            text = self.difference(record)
        except UsageError:
            raise
        except BAD_FIELD as error:
            raise malformed("mmu case", error) from error
        return Result("failed", text) if text else PASSED

    def difference(self, record: dict) -> str | None:
        """The first difference of a case, or None."""
        design = self.design
        if design is None:
            release = record.get("release", "7.3")
            if not isinstance(release, str) or release not in DESIGN_OF_RELEASE:
                raise UsageError(f"no design for release {release!r}", "not a known release",
                                 "one of " + ", ".join(DESIGN_OF_RELEASE) + ", or --design")
            design = get_design(DESIGN_OF_RELEASE[release]).replace(ungated=True)
        design = proving(design, record)
        vm = make_vm(record["cfg"], design)
        vm.set_tracing(True)
        for i, (op, res) in enumerate(zip(record["ops"], record["res"], strict=True)):
            text = compare_op(vm, op, res, design.layout) if not vm.ended else "the case ended before"
            if text:
                return f"op {i} {op}: {text}"
        if record.get("bug"):
            return None
        return compare_end(vm, record, design.layout)


def compare_op(vm: VmCore, op: dict, res: dict, layout: int) -> str | None:
    """Runs one operation and compares its result and its events."""
    got = vm.run(op)
    events = collapse_livelock(mmu_events(vm.events(), layout))
    text = first_difference("ev", expand(res["ev"]), events)
    if text:
        return text
    for key, value in res.items():
        if key == "ev":
            continue
        mine = got.get(key)
        if key == "spte":
            mine = None if mine is None else hex(mine)
        elif key == "sptes":
            mine = {str(level): hex(spte & ~0x000FFFFFFFFFF000
                                    if spte & 0x800 and level > 1 and not spte & 0x80 else spte)
                    for level, spte in sorted(got[key].items(), reverse=True)}
        if mine != value:
            return f"{key}: recorded {value}, got {mine}"
    return None


def dump_sptes(vm: VmCore) -> list:
    """The VM's SPTEs as the files write them."""
    return [[root, level, gfn, hex(value & ~0x000FFFFFFFFFF000 if table else value), table, *dead]
            for root, level, gfn, value, table, *dead in vm.sptes()]


def compare_end(vm: VmCore, record: dict, layout: int) -> str | None:
    """Compares roots, SPTEs and statistics, then tears the VM down and compares what is left."""
    for what, recorded, got in (("roots", record["roots"], vm.roots()),
                                ("sptes", expand_sptes(record["sptes"]), dump_sptes(vm))):
        text = first_difference(what, recorded, got)
        if text:
            return text
    stats = vm.stats()
    for key in STATS:
        if key in record["stats"] and record["stats"][key] != stats[key]:
            return f"stats.{key}: recorded {record['stats'][key]}, got {stats[key]}"
    teardown = record.get("teardown")
    return compare_teardown(vm, teardown, layout) if teardown is not None else None


def compare_teardown(vm: VmCore, teardown: dict, layout: int) -> str | None:
    """Drops the vCPU's roots, ends the MMU and compares what remains and which assertions fired."""
    vm.run({"op": "put_roots"})
    events = mmu_events(vm.events(), layout)
    got = vm.run({"op": "uninit"})
    events += mmu_events(vm.events(), layout)
    if got["ret"] in ("BUG", "LIVELOCK"):
        return None if got["ret"] in teardown else f"teardown: recorded {teardown}, got {got['ret']}"
    stats = vm.stats()
    counts = {name: sum(e[0] == name for e in events) for name in ("free_ext", "remove_ext")}
    measured = {**stats, **counts, "pages_leaked": stats["external_live"],
                "warn": [e for e in events if e[0] in ("WARN", "KVM_BUG_ON", "BUG", "LOCKDEP")]}
    for key, value in teardown.items():
        if key in measured and measured[key] != value:
            return f"teardown.{key}: recorded {value}, got {measured[key]}"
    return None
