"""The machine on which the module's recordings were made: memory map, one TD with three VCPUs, names of statuses."""
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tdpfast import status as st
from tdpfast._face.seam_module import SeamModule
from tdpfast._face.seam_tables import tdcall_row
from tdpfast.conform.result import page_size
from tdpfast.seam import LEAVES, TD_PARAMS_PA, td_params
from tdpfast.seam import TDCALLS as TDCALL_NUMBERS

TDMR0 = (0x1_0000_0000, 0x2_0000_0000)
TDMR1 = (0x3_0000_0000, 0x3_4000_0000)
RESERVED = (0x1_3000_0000, 0x1_3040_0000)
TDR = (0x1_0010_0000, 0x1_0020_0000)
TDCX = 0x1_0011_0000
TDVPR = (0x1_0012_0000, 0x1_0013_0000, 0x1_0014_0000)
SOURCE = 0x1000_0000
NULL_PA = 2**64 - 1
FREE = 0x80E0_0000_0000_0000
TABLE = {4: 0x1_1000_3000, 3: 0x1_1000_0000, 2: 0x1_1000_1000, 1: 0x1_1000_2000}
"""The S-EPT page that the entry of GPA 0 at a level names."""
CHILD_TABLE = 0x1_1001_0000
LEAF = {0: 0x1_1200_0000, 1: 0x1_1400_0000, 2: 0x1_4000_0000}
"""The guest page that the entry of GPA 0 at a level names."""
AUX = 0x1_1600_0000
LIFECYCLE = {"TD_HKID_ASSIGNED": 0, "TD_KEYS_CONFIGURED": 1, "TD_BLOCKED": 2, "TD_TEARDOWN": 3}
OP_STATES = {name: i for i, name in enumerate(
    ["UNINITIALIZED", "INITIALIZED", "RUNNABLE", "LIVE_EXPORT", "PAUSED_EXPORT", "POST_EXPORT", "MEMORY_IMPORT",
     "STATE_IMPORT", "POST_IMPORT", "LIVE_IMPORT", "FAILED_IMPORT"])}

# The recordings' names of calls -> leaves: page_aug, reclaim, vp_enter
OPS = {re.sub("^(phymem_page_|phymem_|mem_)", "", leaf): leaf for leaf in LEAVES}
TDCALLS = {name.removeprefix("mem_page_").removeprefix("vp_"): number for name, number in TDCALL_NUMBERS.items()
           if tdcall_row(number)}
"""Recorded TDCALL -> its number."""
REGISTERS = ("rcx", "rdx", "r8", "r9", "r10", "r11")


class CannotSetUp(Exception):
    """A call that prepares a situation failed: the machine cannot be what the recording says."""


@dataclass(frozen=True)
class Places:
    """Where things lie, by physical address, and which guest address is looked at: the recorder's usual ones."""

    tdr: int = TDR[0]
    """TD1, the TDCX and TDVPR pages lie as far from it as usual."""
    gpa: int = 0
    table: Mapping[int, int] = field(default_factory=lambda: TABLE)
    """Level -> the S-EPT page that the entry of gpa names."""
    leaf: Mapping[int, int] = field(default_factory=lambda: LEAF)
    """Level -> the guest page that the entry of gpa names."""
    aux: int = AUX
    """A free page for a call to use."""

    def beside(self, usual: int) -> int:
        """A control page, from where it usually lies."""
        return usual - TDR[0] + self.tdr

    def entry_gpa(self, level: int) -> int:
        """What the entry of gpa at a level maps from."""
        return self.gpa & -page_size(level)


USUAL = Places()


class Rig:
    """The machine, rebuilt for each case. TD1 has no VCPU; TD0's tables are what the case makes of them."""

    def __init__(self):
        self.module = SeamModule([TDMR0], [RESERVED], [TDMR1], topology=False)
        self.key = None
        self.at = USUAL

    def build(self, prepare=None, case=None, *, levels=4, gpaw=0, op_state=2, num_l2=0, debug=0, nvcpu=3, at=USUAL,
              attributes=0):
        """A fresh machine: TD0 (and TD1 beside it) built and, from RUNNABLE on, finalised.

        prepare(rig) makes a state of it; consecutive cases of the same state share that work.

        Raises:
            CannotSetUp: a call of the module that has to succeed did not.
        """
        key = (levels, gpaw, op_state, num_l2, debug, nvcpu, at, case, attributes)
        if key == self.key:
            self.module.restore()
            return
        self.module.reset([RESERVED])
        self.key = None
        self.at = at
        self._td(0, levels, gpaw, num_l2, int(debug) | attributes)
        self._td(1, levels, gpaw, num_l2, 0)
        for v in range(nvcpu):
            self._vp(v, num_l2)
        # Not by MR.FINALIZE: TD1 has no VCPU, and most states cannot be reached here at all.
        self.module.set_td(at.beside(TDR[1]), op_state=2 if op_state >= 2 else 1)
        self.module.set_td(at.tdr, op_state=op_state)
        if prepare is not None:
            prepare(self)
        self.module.snapshot()
        self.key = key

    def fresh(self):
        """The module ready, and no TD."""
        self.module.reset([RESERVED])
        self.key = None

    def _td(self, n, levels, gpaw, num_l2, attributes):
        tdr, tdcx = self.at.beside(TDR[n]), self.at.beside(TDCX) + n * 0x100000
        self.must("mng_create", rcx=tdr, rdx=33 + n)
        self.must("mng_key_config", rcx=tdr)
        for i in range(6 + num_l2):
            self.must("mng_addcx", rcx=tdcx + i * 4096, rdx=tdr)
        self.module.write_memory(TD_PARAMS_PA, td_params(
            attributes=attributes, num_l2_vms=num_l2, eptp_controls=6 | levels - 1 << 3, config_flags=gpaw))
        self.must("mng_init", rcx=tdr, rdx=TD_PARAMS_PA)

    def _vp(self, v, num_l2):
        tdvpr = self.vcpu(v)
        self.must("vp_create", rcx=tdvpr, rdx=self.at.tdr)
        for i in range(5 + 3 * num_l2):
            self.must("vp_addcx", rcx=tdvpr + (i + 1) * 4096, rdx=tdvpr)
        self.must("vp_init", rcx=tdvpr)
        self.must("vp_flush", rcx=tdvpr)

    def vcpu(self, v):
        """The TDVPR of a VCPU of TD0."""
        return self.at.beside(TDVPR[v])

    def tables(self, bottom):
        """S-EPT pages down to the one that holds the entry of the guest address at level bottom."""
        for level in range(self.module.td(self.at.tdr)["levels"] - 1, bottom, -1):
            self.must("mem_sept_add", rcx=self.at.entry_gpa(level) | level, rdx=self.at.tdr, r8=self.at.table[level])

    def page(self, gpa, level, hpa):
        """A pending guest page."""
        tdr = self.at.tdr
        if level < 2:
            self.must("mem_page_aug", rcx=gpa | level, rdx=tdr, r8=hpa)
            return
        self.module.set_entry(tdr, gpa, level, hpa | 0x8100_0000_0000_00F0)
        self.module.set_pamt(hpa, 2, pt=3, owner=tdr)
        self.module.set_pamt(hpa, 1, owner=tdr)
        self.module.set_td(tdr, chldcnt=self.module.td(tdr)["chldcnt"] + 512 * 512)

    def must(self, leaf, lp=0, **registers):
        """A call that has to succeed."""
        out = self.module.seamcall(LEAVES[leaf], lp, **registers)
        if out[0] not in (0, st.ENTERED_TD):
            shown = ", ".join(f"{name} {value:#x}" for name, value in registers.items())
            raise CannotSetUp(f"{leaf} with {shown}: {st.status_name(out[0])}")
        return out

    def call(self, op, lp=0, intr_after=-1, **registers):
        """(result, status name, rax, {registers}) of any recorded operation; result vmm, td or halt."""
        if op in OPS:
            regs = dict(zip(REGISTERS, (registers.get(r, 0) for r in REGISTERS)))
            rax, *out = self.module.seamcall(LEAVES[OPS[op]], lp, version=registers.get("version", 0),
                                             intr_after=intr_after, **regs)
            return host_result(op, rax, dict(zip(REGISTERS, out)))
        if op in TDCALLS:
            return guest_result(self.module.tdcall(TDCALLS[op], lp, registers.get("rcx", 0), registers.get("rdx", 0),
                                                   registers.get("r8", 0), intr_after))
        if op == "guest_access":
            return guest_result((*self.module.guest_access(lp, registers["gpa"]), 0), access=True)
        if op == "ept_violation":
            return guest_result((*self.module.ept_violation(lp, registers["gpa"]), 0), access=True)
        if op == "td_async_exit":
            rax, rcx, rdx = self.module.td_async_exit(lp)
            return "vmm", f"TDEXIT:reason={rax}", rax, dict(rcx=rcx, rdx=rdx)
        raise KeyError(op)


def host_result(op, rax, out):
    if rax == st.ENTERED_TD:
        return "td", "ENTERED_TD", 0, {}
    if rax == st.MODULE_HALT:
        return "halt", "MODULE_HALT", 2, out
    if rax == 0x30:
        return "vmm", "TDX_SUCCESS:0x30", rax, out
    return "vmm", st.status_name(rax), rax, out


def guest_result(values, access=False):
    result, rax, rcx, rdx, r8, r9 = values
    out = dict(rcx=rcx, rdx=rdx, r8=r8, r9=r9)
    if result == st.GUEST_TDEXIT:
        return "vmm", "TDEXIT:reason=48" if rax == 0x30 else st.status_name(rax), rax, out
    if result == st.GUEST_VE:
        return "td", "VE_INJECTED", 0, dict(rcx=0, rdx=0, r8=0, r9=0)
    if result == st.GUEST_DF:
        return "td", "DF_INJECTED", 0, dict(rcx=0, rdx=0, r8=0, r9=0)
    if result == st.GUEST_REEXECUTE:
        return "td", "INTERRUPTED_REEXECUTE", rax, out
    if result == st.GUEST_NOT_INSIDE:
        return "vmm", "NOT_IN_GUEST", 0, out
    return "td", "NO_FAULT" if access else st.status_name(rax), rax, out


def number(text):
    """A recorded number: hexadecimal text or a JSON number."""
    return int(text, 16) if isinstance(text, str) else int(text)
