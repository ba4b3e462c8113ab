"""The TDX module from Python: every leaf by name, with named operands and a decoded answer.

    >>> module = TdxModule()
    >>> td = module.build_td(vcpus=1)
    >>> for level in (3, 2, 1):
    ...     print(module.mem_sept_add(td, gpa=0, level=level, page=module.new_page()))
    TDX_SUCCESS
    TDX_SUCCESS
    TDX_SUCCESS
    >>> print(module.mem_page_remove(td, gpa=0, level=0))
    TDX_EPT_ENTRY_STATE_INCORRECT:RCX

A call in the wrong order gets the module's own status; only an operand that cannot be a register raises UsageError.
"""
from __future__ import annotations

from dataclasses import dataclass, field

from tdpfast import status as st
from tdpfast._seam_api import SeamModule
from tdpfast.errors import UsageError

__all__ = ["LEAVES", "LOCKS", "SeamResult", "Td", "TdxModule"]

LEAVES = {
    "vp_enter": 0, "mng_addcx": 1, "mem_page_add": 2, "mem_sept_add": 3, "vp_addcx": 4, "mem_page_relocate": 5,
    "mem_page_aug": 6, "mem_range_block": 7, "mng_key_config": 8, "mng_create": 9, "vp_create": 10,
    "mem_page_demote": 15, "mr_extend": 16, "mr_finalize": 17, "vp_flush": 18, "mng_vpflushdone": 19,
    "mng_key_freeid": 20, "mng_init": 21, "vp_init": 22, "mem_page_promote": 23, "phymem_page_rdmd": 24,
    "mem_sept_rd": 25, "mng_key_reclaimid": 27, "phymem_page_reclaim": 28, "mem_page_remove": 29,
    "mem_sept_remove": 30, "mem_track": 38, "mem_range_unblock": 39, "phymem_cache_wb": 40,
    "phymem_page_wbinvd": 41,
}
"""Leaf name -> leaf number."""

LOCKS = {"tdr": 1, "op_state": 2, "sept_tree": 3, "epoch": 4, "entry": 5, "pamt_r8": 6, "pamt_page": 7, "pamt_rcx": 8}
"""Lock names of inject()."""

NULL_PA = 2**64 - 1
_RESULTS = {st.GUEST_DONE: "", st.GUEST_TDEXIT: "TDEXIT", st.GUEST_VE: "VE_INJECTED",
            st.GUEST_REEXECUTE: "INTERRUPTED_REEXECUTE", st.GUEST_NOT_INSIDE: "NOT_IN_GUEST"}


@dataclass(frozen=True)
class SeamResult:
    """What a leaf answered."""

    rax: int
    status: str
    """Symbolic name; for guest calls also TDEXIT, VE_INJECTED, INTERRUPTED_REEXECUTE, NOT_IN_GUEST, NO_FAULT."""
    operand: str
    """Which operand or lock the status is about, or ""."""
    registers: dict[str, int] = field(repr=False)

    @property
    def ok(self) -> bool:
        """Success, or the guest runs."""
        return self.status in ("TDX_SUCCESS", "ENTERED_TD", "NO_FAULT")

    def __str__(self) -> str:
        return f"{self.status}:{self.operand}" if self.operand else self.status


@dataclass(frozen=True)
class Td:
    """A TD by the HPAs of its TDR and of its VCPUs' TDVPRs."""

    tdr: int
    vcpus: tuple[int, ...] = ()


class TdxModule:
    """A TDX module and the memory it manages.

    Args:
        tdmrs: [start, end) ranges of physical memory, 1G aligned; the default is 4 GiB at 4 GiB.
        reserved: ranges inside them that the module may not use.
    """

    def __init__(self, tdmrs=((0x1_0000_0000, 0x2_0000_0000),), reserved=()):
        self.native = SeamModule(list(tdmrs), list(reserved))
        self._tdmrs = [tuple(r) for r in tdmrs]
        self._next = self._tdmrs[0][0]
        self._hkid = 32

    def __getattr__(self, name: str):
        """Leaves without a method of their own take registers: ``module.mem_track(rcx=tdr)``."""
        if name not in LEAVES:
            raise AttributeError(name)
        return lambda lp=0, **registers: self.call(name, lp, **registers)

    def call(self, leaf: str, lp: int = 0, *, version: int = 0, intr_after: int = -1, **registers: int) -> SeamResult:
        """Run a leaf with the given registers (rcx, rdx, r8 .. r11) on a logical processor."""
        if leaf not in LEAVES:
            raise UsageError(f"leaf {leaf!r}", "unknown", "one of " + ", ".join(LEAVES))
        try:
            rax, *out = self.native.seamcall(LEAVES[leaf], lp, version=version, intr_after=intr_after, **registers)
        except (TypeError, OverflowError) as error:
            raise UsageError(f"operands of {leaf}", str(error), "rcx, rdx, r8 .. r11 as 64-bit numbers") from None
        return _result(rax, dict(zip(("rcx", "rdx", "r8", "r9", "r10", "r11"), out)))

    # ---- memory management, with named operands

    def mem_sept_add(self, td: Td, gpa: int, level: int, page: int, *, allow_existing: bool = False) -> SeamResult:
        return self.call("mem_sept_add", rcx=gpa | level, rdx=td.tdr | allow_existing, r8=page, r9=NULL_PA,
                         r10=NULL_PA, r11=NULL_PA)

    def mem_sept_remove(self, td: Td, gpa: int, level: int) -> SeamResult:
        return self.call("mem_sept_remove", rcx=gpa | level, rdx=td.tdr)

    def mem_sept_rd(self, td: Td, gpa: int, level: int) -> SeamResult:
        return self.call("mem_sept_rd", rcx=gpa | level, rdx=td.tdr)

    def mem_page_add(self, td: Td, gpa: int, page: int, source: int) -> SeamResult:
        return self.call("mem_page_add", rcx=gpa, rdx=td.tdr, r8=page, r9=source)

    def mem_page_aug(self, td: Td, gpa: int, level: int, page: int) -> SeamResult:
        return self.call("mem_page_aug", rcx=gpa | level, rdx=td.tdr, r8=page)

    def mem_page_remove(self, td: Td, gpa: int, level: int = 0) -> SeamResult:
        return self.call("mem_page_remove", rcx=gpa | level, rdx=td.tdr)

    def mem_page_relocate(self, td: Td, gpa: int, page: int) -> SeamResult:
        return self.call("mem_page_relocate", rcx=gpa, rdx=td.tdr, r8=page)

    def mem_page_demote(self, td: Td, gpa: int, level: int, page: int) -> SeamResult:
        return self.call("mem_page_demote", rcx=gpa | level, rdx=td.tdr, r8=page, r9=NULL_PA, r10=NULL_PA, r11=NULL_PA)

    def mem_page_promote(self, td: Td, gpa: int, level: int) -> SeamResult:
        return self.call("mem_page_promote", rcx=gpa | level, rdx=td.tdr)

    def mem_range_block(self, td: Td, gpa: int, level: int = 0) -> SeamResult:
        return self.call("mem_range_block", rcx=gpa | level, rdx=td.tdr)

    def mem_range_unblock(self, td: Td, gpa: int, level: int = 0) -> SeamResult:
        return self.call("mem_range_unblock", rcx=gpa | level, rdx=td.tdr)

    def mem_track(self, td: Td) -> SeamResult:
        return self.call("mem_track", rcx=td.tdr)

    # ---- the guest

    def vp_enter(self, td: Td, vcpu: int = 0, lp: int | None = None) -> SeamResult:
        """Enter a VCPU; on logical processor vcpu + 1 unless told."""
        return self.call("vp_enter", self._lp(vcpu, lp), rcx=td.vcpus[vcpu])

    def td_exit(self, vcpu: int = 0, lp: int | None = None) -> SeamResult:
        """An external interrupt takes the VCPU out of the TD."""
        rax, rcx, rdx = self.native.td_async_exit(self._lp(vcpu, lp))
        return SeamResult(rax, "TDEXIT" if rax else "NOT_IN_GUEST", "", dict(rcx=rcx, rdx=rdx))

    def accept(self, gpa: int, level: int = 0, vcpu: int = 0, lp: int | None = None) -> SeamResult:
        return self._guest(self.native.tdcall("accept", self._lp(vcpu, lp), gpa | level))

    def guest_access(self, gpa: int, vcpu: int = 0, lp: int | None = None, *, same_rip: bool = False) -> SeamResult:
        result = self._guest((*self.native.guest_access(self._lp(vcpu, lp), gpa, same_rip), 0))
        if result.status == "TDX_SUCCESS":
            return SeamResult(0, "NO_FAULT", "", result.registers)
        return result

    def _lp(self, vcpu: int, lp: int | None) -> int:
        return vcpu + 1 if lp is None else lp

    def _guest(self, values) -> SeamResult:
        result, rax, *out = values
        registers = dict(zip(("rcx", "rdx", "r8", "r9"), out))
        if result == st.GUEST_DONE:
            return _result(rax, registers)
        return SeamResult(rax, _RESULTS[result], "", registers)

    # ---- building and looking

    def new_page(self, size: int = 0) -> int:
        """A physical page that nobody had; size 0 4K, 1 2M, 2 1G."""
        step = 1 << 12 + 9 * size
        page = -(-self._next // step) * step
        if page + step > self._tdmrs[0][1]:
            raise UsageError("new_page", "the first TDMR is used up", "a larger TDMR")
        self._next = page + step
        return page

    def build_td(self, vcpus: int = 1, *, levels: int = 4, gpaw: int = 0, attributes: int = 0, td_ctls: int = 0,
                 finalize: bool = True) -> Td:
        """A TD with all its control pages, initialised and, unless told, finalised."""
        self._hkid += 1
        tdr = self.new_page()
        self._must("mng_create", rcx=tdr, rdx=self._hkid)
        self._must("mng_key_config", rcx=tdr)
        for _ in range(6):
            self._must("mng_addcx", rcx=self.new_page(), rdx=tdr)
        self._must("mng_init", rcx=tdr, r8=attributes, r9=max(vcpus, 1) | levels << 16 | gpaw << 24, r10=td_ctls)
        tdvprs = tuple(self._build_vp(tdr, v) for v in range(vcpus))
        if finalize:
            self._must("mr_finalize", rcx=tdr)
        return Td(tdr, tdvprs)

    def _build_vp(self, tdr: int, vcpu: int) -> int:
        tdvpr = self.new_page()
        self._must("vp_create", rcx=tdvpr, rdx=tdr)
        for _ in range(5):
            self._must("vp_addcx", rcx=self.new_page(), rdx=tdvpr)
        self._must("vp_init", self._lp(vcpu, None), rcx=tdvpr)
        return tdvpr

    def _must(self, leaf: str, lp: int = 0, **registers: int) -> None:
        result = self.call(leaf, lp, **registers)
        if not result.ok:
            raise UsageError(f"build_td: {leaf} answered {result}", "the module refused", "other parameters")

    def dump_sept(self, td: Td, vm: int = 0) -> list[dict]:
        """Every S-EPT entry that is not free: gpa, level, raw, and its fields."""
        return [dict(gpa=gpa, level=level, raw=raw, **st.decode_entry(raw))
                for gpa, level, raw in self.native.sept(td.tdr, vm)]

    def dump_pamt(self, size: int = 0) -> list[dict]:
        """Every PAMT entry of one page size that is not all zero."""
        return [dict(hpa=hpa, type=st.PAGE_TYPES.get(pt, str(pt)), owner=owner, bepoch=bepoch, lock=lock)
                for hpa, pt, owner, bepoch, lock in self.native.pamt_used(size)]

    # ---- faults on purpose

    def inject(self, leaf: str | None = None, *, lock: str | None = None, exclusive: bool = True, skip: int = 0,
               count: int = 1, status: int = 0, intr_after: int = -1) -> int:
        """From the skip-th call of a leaf on, count times (-1: always): another LP holds a lock during the call, or
        a status comes back instead, or an interrupt is pending after so many polls."""
        if lock is not None and lock not in LOCKS:
            raise UsageError(f"lock {lock!r}", "unknown", "one of " + ", ".join(LOCKS))
        if leaf is not None and leaf not in LEAVES:
            raise UsageError(f"leaf {leaf!r}", "unknown", "one of " + ", ".join(LEAVES))
        return self.native.inject(LEAVES.get(leaf, -1), LOCKS.get(lock, 0), exclusive, skip, count, status, intr_after)

    def inject_clear(self) -> None:
        """No more injections."""
        self.native.inject_clear()


def _result(rax: int, registers: dict[str, int]) -> SeamResult:
    if rax in (st.ENTERED_TD, st.MODULE_HALT):
        return SeamResult(rax, st.status_name(rax), "", registers)
    status = st.decode_status(rax)
    return SeamResult(rax, status.name, status.operand, registers)
