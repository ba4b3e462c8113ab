"""The VMs that bursts run on, and what must hold on them when everybody is done.

direct: a VM without a mirror. mirror: a TD whose external table is a model that checks each call. td: a TD on the
emulated module.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tdpfast._face.external_model import ExternalModel
from tdpfast.checks import MEANING, names_of
from tdpfast.design import Design
from tdpfast.scenario import Thread
from tdpfast.story import level_name, op_text
from tdpfast.stress.mixes import PFN
from tdpfast.td import TdVm
from tdpfast.threads import ThreadsResult, audit_checks, core_checks
from tdpfast.vm import Vm

FAIL_ONE_IN = 61                           # calls of the model that map something new
MODEL_FAULTS = {
    "concurrent": "met another one at the same entry", "stale": "were told an old value that was not there",
    "not_empty": "linked or removed a table with entries below", "outside": "named a gfn outside memory",
    "no_table": "mapped where the external table has no table",
}
MOST = 8                                   # findings of one check that are told


@dataclass(frozen=True)
class Finding:
    """One violated check.

    gfn, level: where, or None. round: the first round at whose end it was seen; the one before was clean.
    """

    check: str
    text: str
    gfn: int | None = None
    level: int | None = None
    round: int = 0

    def __str__(self) -> str:
        if self.gfn is None:
            return f"{self.check}: {self.text}"
        level = f" {level_name(self.level)}" if self.level else ""
        return f"{self.check}: {self.text} at gfn {self.gfn:x}{level}"

    def to_json(self) -> dict[str, Any]:
        """The fields scripts may rely on."""
        return {"check": self.check, "text": self.text, "gfn": self.gfn, "level": self.level, "round": self.round}


class World:
    """A fresh VM of a mode, and its checks.

    pages: guest frames that operations use. nx: the NX huge page mitigation is on.
    """

    def __init__(self, mode: str, design: Design, *, pages: int, vcpus: int, table_pages: int, nx: bool = False):
        self.mode, self.pages = mode, pages
        self.model = None
        if mode == "td":
            self.vm: Vm = TdVm(design, vcpus=vcpus, trace="off", memory_pages=table_pages)
        else:
            self.vm = Vm(design, tdx=mode == "mirror", trace="off", memory_pages=table_pages, nx_huge_pages=nx)
        if mode == "mirror":
            self.model = ExternalModel(self.vm.core, 0, pages)
            self.model.fail_one_in = FAIL_ONE_IN

    def clear(self) -> list[dict[str, Any]]:
        """Operations that leave no mapping behind; tables of a mirror stay."""
        zap = {"op": "zap_leafs", "start": 0, "end": self.pages}
        return [zap, {"op": "zap_all"}] if self.mode != "direct" else [{"op": "zap_all"}]

    def check(self, result: ThreadsResult, number: int, threads: Sequence[Thread]) -> list[Finding]:
        """What is wrong now that nobody runs; number: of the round that ended; threads: what they ran."""
        found = self._of_cpus(result)
        found += [Finding("progress", f"{thread.name}: {op_text(thread.ops[did.last_op])} goes round for ever")
                  for did, thread in zip(result.threads, threads) if did.ended == "LIVELOCK"]
        if result.ended is None:
            found += self._of_tables() + self._of_model()
            if self.mode == "td":
                found += self._of_pages()
        placed = {f.check for f in found if f.gfn is not None}
        found = [f for f in found if f.text != MEANING[f.check] or f.gfn is not None or f.check not in placed]
        found.sort(key=lambda f: f.gfn is None)          # what says where before what does not
        return limit([Finding(f.check, f.text, f.gfn, f.level, number) for f in found])

    def _of_cpus(self, result: ThreadsResult) -> list[Finding]:
        """Assertions that fired, and checks that the paths themselves raise."""
        out = []
        for vcpu in self.vm.vcpus:
            for kind, (count, function, name) in vcpu.asserts.items():
                if count:
                    out.append(Finding("lock" if kind == "LOCKDEP" else "kernel", f"{kind} {function}/{name}"))
        bits = 0
        for vcpu in self.vm.vcpus:
            bits |= vcpu._core.checks
        told = {f.check for f in out}
        for name in names_of(bits):
            if name == "life" and result.first_freed_use is not None:
                gfn, level = result.first_freed_use
                text = f"{result.freed_uses} uses of freed tables, the first of a level {level} table"
                out.append(Finding("life", text, gfn))
            elif name not in told and not (name == "progress" and result.ended == "LIVELOCK"):
                out.append(Finding(name, MEANING[name]))
        return out

    def _of_tables(self) -> list[Finding]:
        """agree, life, frozen, stat and pamt, as the explorer looks for them, and the audit of the tables."""
        out = [Finding(name, text, *((gfn, level) if level else ())) for name, text, gfn, level in core_checks(self.vm)]
        placed = {f.check for f in out if f.gfn is not None}
        more = [Finding(name, text) for name, text in audit_checks(self.vm) if name not in placed]
        told = {f.check for f in more}
        return [f for f in out if f.check not in told] + more

    def _of_model(self) -> list[Finding]:
        """What the external table's model saw, and where it differs from the mirror."""
        if self.model is None:
            return []
        out = [Finding("agree", f"{count} hook calls {MODEL_FAULTS[name]}", gfn, level)
               for name, (count, gfn, level) in self.model.faults().items()]
        return out + [Finding("agree", f"mirror {shown(mirror)}, external table {shown(external)}", gfn, level)
                      for level, gfn, mirror, external in self.model.differences(MOST)]

    def _of_pages(self) -> list[Finding]:
        """Pages that the mirror does not map any more are given back to the host: the module must not use them."""
        vcpu = self.vm.vcpus[0]
        vcpu.reload()
        sptes, _ = self.vm.walk_many(np.arange(self.pages), private=True)
        free = np.flatnonzero(~self.vm.spte.is_shadow_present_pte(sptes))
        for start, n in runs(free.tolist()):
            used = vcpu._core.repeat({"op": "free_pfn", "gfn": start, "pfn": PFN + start}, n, 1, 1).get(1, 0)
            if used:
                return [Finding("page", MEANING["page"], start + (self._first_used(start, n) if n > 1 else 0), 1)]
        return []

    def _first_used(self, start: int, n: int) -> int:
        """Offset of the first page of a run that the module still uses."""
        core = self.vm.vcpus[0]._core
        ops = ({"op": "free_pfn", "gfn": gfn, "pfn": PFN + gfn} for gfn in range(start, start + n))
        return next(i for i, op in enumerate(ops) if core.repeat(op, 1).get(1, 0))


def shown(entry: int) -> str:
    """An entry as the model writes it."""
    return "nothing" if entry == 0 else "a table" if entry == 1 else f"{entry:#x}"


def runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Ascending numbers as (first, how many in a row)."""
    out = []
    for _, group in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in group]
        out.append((members[0], len(members)))
    return out


def limit(found: list[Finding]) -> list[Finding]:
    """Each finding once, and not more than MOST of one check."""
    out: list[Finding] = []
    for finding in found:
        if finding not in out and sum(f.check == finding.check for f in out) < MOST:
            out.append(finding)
    return out
