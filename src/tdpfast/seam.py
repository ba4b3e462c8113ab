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

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tdpfast import status as st
from tdpfast._arguments import check_bool, check_int, check_u64, leaf_spelling, one_of, shown
from tdpfast._face.seam_module import SeamModule
from tdpfast._names import InjectLock, Limit, OtherLeaf, SeamLeaf, TdCall
from tdpfast.errors import UsageError

__all__ = ["FIELDS", "LEAVES", "LOCKS", "OTHER_LEAVES", "TDCALLS", "SeamResult", "Td", "TdxModule", "td_params",
           "tdmr_pamt_size"]

def leaf_key(leaf: Any) -> Any:
    """A leaf in any spelling as a key of LEAVES; what is no text as it is."""
    return leaf_spelling(leaf).lower().replace(".", "_") if isinstance(leaf, str) else leaf


LEAVES = {name[4:].lower(): int(leaf) for name, leaf in SeamLeaf.__members__.items()}
"""Leaf name -> leaf number."""

OTHER_LEAVES = {name[4:].lower(): int(leaf) for name, leaf in OtherLeaf.__members__.items()}
"""The same for what module 1.5 has and tdpfast does not: a call of these is answered as one of an unknown leaf."""

TDCALLS = {name[4:].lower(): int(leaf) for name, leaf in TdCall.__members__.items()}
"""TDCALL leaf name -> leaf number. Those that are emulated have a row: seam_tables.tdcall_row()."""

LOCKS = {name[4:].lower(): int(lock) for name, lock in InjectLock.__members__.items() if lock}
"""Lock names of inject()."""

FIELDS = {
    "sys.minor_version": 0x0800000100000003, "sys.major_version": 0x0800000100000004,
    "sys.update_version": 0x0800000100000005, "sys.features0": 0x0A00000300000008,
    "sys.max_tdmrs": 0x9100000100000008, "sys.max_reserved_per_tdmr": 0x9100000100000009,
    "sys.pamt_4k_entry_size": 0x9100000100000010, "sys.pamt_2m_entry_size": 0x9100000100000011,
    "sys.pamt_1g_entry_size": 0x9100000100000012, "sys.tdr_base_size": 0x9800000100000000,
    "sys.tdcs_base_size": 0x9800000100000100, "sys.tdvps_base_size": 0x9800000100000200,
    "sys.attributes_fixed0": 0x1900000300000000, "sys.attributes_fixed1": 0x1900000300000001,
    "sys.xfam_fixed0": 0x1900000300000002, "sys.xfam_fixed1": 0x1900000300000003,
    "sys.num_cpuid_config": 0x9900000100000004,
    "td.fatal": 0x8010000000000001, "td.num_tdcx": 0x8010000200000002, "td.chldcnt": 0x8010000300000004,
    "td.lifecycle_state": 0x8010000200000005, "td.tdcx_pa": 0x8010000300000010, "td.hkid": 0x8110000100000001,
    "td.num_vcpus": 0x9010000200000001, "td.num_assoc_vcpus": 0x9010000200000002, "td.op_state": 0x9010000200000004,
    "td.num_l2_vms": 0x9010000100000005, "td.attributes": 0x1110000300000000, "td.xfam": 0x1110000300000001,
    "td.max_vcpus": 0x1110000200000002, "td.gpaw": 0x1110000000000003, "td.eptp": 0x1110000300000004,
    "td.tsc_offset": 0x111000030000000A, "td.tsc_multiplier": 0x111000030000000B,
    "td.notify_enables": 0x9110000300000010, "td.config_flags": 0x1110000300000016, "td.td_ctls": 0x1110000300000017,
    "td.td_epoch": 0x9210000300000000, "td.refcount": 0x9210000100000001, "td.mrtd": 0x1310000300000000,
    "vp.state_details": 0x9120000300000100, "vp.state": 0xA020000000000000, "vp.index": 0xA020000200000002,
    "vp.assoc_lpid": 0xA020000200000004, "vp.epoch": 0xA020000300000006, "vp.pend_nmi": 0x202000000000000B,
}
"""Field name -> identifier, for sys_rd, mng_rd, mng_wr, vp_rd, vp_wr. Element i of a field is at + i."""

REGISTERS = ("rcx", "rdx", "r8", "r9", "r10", "r11")
LOGICAL_PROCESSORS = 64
GIB = 1 << 30
INFO_PA = 0x1000_0000
GLOBAL_HKID = 32
CONFIG_DYNAMIC_PAMT = 1 << 16
NULL_PA = 2**64 - 1
TD_PARAMS_PA = int(Limit.TD_PARAMS_PA)
TD_PARAMS_SIZE = 1024
MORE_VCPUS = 16
"""So many VCPUs a TD of build_td() may have at least, for callers that add some of their own."""
ATTR_SEPT_VE_DISABLE = 1 << 28
_RESULTS = {st.GUEST_DONE: "", st.GUEST_TDEXIT: "TDEXIT", st.GUEST_VE: "VE_INJECTED",
            st.GUEST_REEXECUTE: "INTERRUPTED_REEXECUTE", st.GUEST_NOT_INSIDE: "NOT_IN_GUEST",
            st.GUEST_DF: "DF_INJECTED"}


@dataclass(frozen=True)
class SeamResult:
    """What a leaf answered."""

    rax: int
    status: str
    """Symbolic name; for guest calls also TDEXIT, VE_INJECTED, DF_INJECTED, INTERRUPTED_REEXECUTE,
    NOT_IN_GUEST, NO_FAULT."""
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

    def __post_init__(self) -> None:
        check_u64("tdr", self.tdr)
        if not isinstance(self.vcpus, tuple):
            raise UsageError(f"vcpus {shown(self.vcpus)}", "not a tuple", "HPAs of TDVPRs")
        for tdvpr in self.vcpus:
            check_u64("tdvpr", tdvpr)


def tdmr_pamt_size(start: int, end: int, *, dynamic_pamt: bool = False) -> tuple[int, int, int]:
    """Bytes of PAMT that a TDMR [start, end) needs, for 4K, 2M and 1G entries, each in whole pages.

    >>> [size >> 20 for size in tdmr_pamt_size(0, 256 << 30)]
    [1024, 2, 0]

    With dynamic PAMT the 4K area is a bitmap, and the entries come in page pairs (phymem_pamt_add).
    """
    start, end = check_u64("start", start), check_u64("end", end)
    if start % GIB or end % GIB or start >= end:
        raise UsageError(f"TDMR [{start:#x}, {end:#x})", "a TDMR is whole gigabytes", "1G aligned bounds")
    needs = [(end - start >> 12 + 9 * level) * 16 for level in range(3)]
    if check_bool("dynamic_pamt", dynamic_pamt):
        needs[0] = (end - start >> 12) // 8
    small, large, huge = (-(-n // 4096) * 4096 for n in needs)
    return small, large, huge


def td_params(*, attributes: int = 0, xfam: int = 3, max_vcpus: int = 16, num_l2_vms: int = 0,
              eptp_controls: int = 0x1E, config_flags: int = 0, tsc_frequency: int = 40,
              cpuid_config: dict[int, list[int]] | None = None) -> bytes:
    """TD_PARAMS as TDH.MNG.INIT reads them.

    eptp_controls: 6 | (levels - 1) << 3; config_flags: bit 0 is GPAW; tsc_frequency: in 25 MHz; cpuid_config: index of
    a configurable leaf -> [EAX, EBX, ECX, EDX].
    """
    for name, value, top in (("attributes", attributes, 2**64 - 1), ("xfam", xfam, 2**64 - 1),
                             ("max_vcpus", max_vcpus, 0xFFFF), ("num_l2_vms", num_l2_vms, 0xFF),
                             ("eptp_controls", eptp_controls, 2**64 - 1), ("config_flags", config_flags, 2**64 - 1),
                             ("tsc_frequency", tsc_frequency, 0xFFFF)):
        check_int(name, value, 0, top)
    out = bytearray(TD_PARAMS_SIZE)
    struct.pack_into("<QQHB", out, 0, attributes, xfam, max_vcpus, num_l2_vms)
    struct.pack_into("<QQH", out, 24, eptp_controls, config_flags, tsc_frequency)
    for index, values in (cpuid_config or {}).items():
        struct.pack_into("<4I", out, 256 + 16 * check_int("index", index, 0, 11), *values)
    return bytes(out)


class TdxModule:
    """A TDX module and the memory it manages.

    Args:
        tdmrs: [start, end) ranges of physical memory, 1G aligned; the default is 4 GiB at 4 GiB.
        reserved: ranges inside them that the module may not use.
        auto: the module comes up ready: SYS.INIT, LP.INIT, CONFIG, KEY.CONFIG and TDMR.INIT have been called. With
            False it was only loaded, and bring_up() or the leaves one by one do the rest.
        dynamic_pamt: 4K entries live in page pairs; new_page() sees to them.
        logical_processors: how many must do SYS.LP.INIT.
    """

    def __init__(self, tdmrs: Iterable[tuple[int, int]] = ((0x1_0000_0000, 0x2_0000_0000),),
                 reserved: Iterable[tuple[int, int]] = (), *, auto: bool = True,
                 dynamic_pamt: bool = False, logical_processors: int = 64):
        self._lps = check_int("logical_processors", logical_processors, 1, LOGICAL_PROCESSORS)
        self._tdmrs, self._reserved = _ranges("tdmrs", tdmrs), _ranges("reserved", reserved)
        if not self._tdmrs:
            raise UsageError("no TDMR", "the module has no memory", "at least one range of whole gigabytes")
        self.dynamic_pamt = check_bool("dynamic_pamt", dynamic_pamt)
        self.native = SeamModule([], bare=True, nlp=self._lps)
        self._next = self._tdmrs[0][0]
        self._top = self._tdmrs[0][1]
        self._free: list[int] = []
        self._paired: set[int] = set()
        self._taken: set[int] = set()       # logical processors of TDs that KVM runs
        if check_bool("auto", auto):
            self.bring_up()

    # ---- coming up

    def tdmr_info(self) -> list[tuple]:
        """The TDMR_INFO entries for write_tdmr_info(): PAMT areas lie one after the other behind the last TDMR."""
        at = max(end for _, end in self._tdmrs)
        infos = []
        for start, end in self._tdmrs:
            pamt = []
            for size in tdmr_pamt_size(start, end, dynamic_pamt=self.dynamic_pamt):
                pamt.append((at, size))
                at += size
            inside = sorted((max(a, start), min(b, end)) for a, b in self._reserved if a < end and b > start)
            infos.append((start, end - start, pamt, [(a - start, b - a) for a, b in inside]))
        return infos

    def sys_config(self, infos: Iterable[tuple] | None = None, hkid: int = GLOBAL_HKID, lp: int = 0) -> SeamResult:
        """TDH.SYS.CONFIG (leaf 45) with a list of TDMR_INFO, tdmr_info() unless told, and the global HKID."""
        try:
            infos = self.tdmr_info() if infos is None else list(infos)
            self.native.write_tdmr_info(infos, INFO_PA)
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError("bad TDMR_INFO", str(error), "what tdmr_info() returns") from None
        options = CONFIG_DYNAMIC_PAMT if self.dynamic_pamt else 0
        return self.call("sys_config", lp, rcx=INFO_PA, rdx=len(infos), r8=check_int("hkid", hkid, 0, 0xFFFF) | options)

    def bring_up(self) -> None:
        """The whole sequence from a module just loaded to one with all its memory; UsageError says where it failed."""
        self._must("sys_init", what="bring_up")
        for lp in range(self._lps):
            self._must("sys_lp_init", lp, what="bring_up")
        result = self.sys_config()
        if self.native.short_of_memory():
            raise MemoryError(f"no address space for the module's memory, "
                              f"{sum(end - start for start, end in self._tdmrs) >> 30} GiB")
        if not result.ok:
            raise UsageError(f"bring_up: sys_config answered {result}", "the module refused",
                             "TDMRs of whole gigabytes below 64T in ascending order, at most 8")
        self._must("sys_key_config", what="bring_up")
        for start, end in self._tdmrs:
            for _ in range((end - start) // GIB):
                self._must("sys_tdmr_init", what="bring_up", rcx=start)

    def sys_field(self, name: str, lp: int = 0) -> int:
        """A field of the module by name (FIELDS), by TDH.SYS.RD."""
        return self._field("sys_rd", name, 0, lp, "sys.")

    def __reduce__(self) -> Any:
        raise UsageError("a copy of a module", "its memory is native", "the same calls on a new one")

    def __getattr__(self, name: str) -> Callable[..., SeamResult]:
        """Leaves without a method of their own take registers: ``module.mem_track(rcx=tdr)``."""
        if name not in LEAVES:
            raise AttributeError(name)
        return lambda lp=0, **registers: self.call(name, lp, **registers)

    def call(self, leaf: str, lp: int = 0, *, version: int = 0, intr_after: int = -1, **registers: int) -> SeamResult:
        """Run a leaf, in any spelling, with the given registers (rcx, rdx, r8 .. r11) on a logical processor."""
        leaf = leaf_key(leaf)
        if not isinstance(leaf, str) or leaf not in LEAVES:
            other = isinstance(leaf, str) and leaf in OTHER_LEAVES
            raise UsageError(f"leaf {shown(leaf)}", "not emulated" if other else "unknown", one_of(LEAVES))
        for name, value in registers.items():
            if name not in REGISTERS:
                raise UsageError(f"operand {name!r} of {leaf}", "unknown", one_of(REGISTERS))
            registers[name] = check_u64(name, value)
        intr_after = check_int("intr_after", intr_after, -1, (1 << 63) - 1)
        rax, *out = self.native.seamcall(LEAVES[leaf], check_int("lp", lp, 0, LOGICAL_PROCESSORS - 1),
                                         version=check_int("version", version, 0, (1 << 48) - 1),
                                         intr_after=intr_after, **registers)
        return seam_result(rax, dict(zip(("rcx", "rdx", "r8", "r9", "r10", "r11"), out)))

    # ---- memory management, with named operands

    def mem_sept_add(self, td: Td, gpa: int, level: int, page: int, *, allow_existing: bool = False) -> SeamResult:
        return self.call("mem_sept_add", rcx=_place(gpa, level),
                         rdx=_tdr(td) | check_bool("allow_existing", allow_existing), r8=page, r9=NULL_PA,
                         r10=NULL_PA, r11=NULL_PA)

    def mem_sept_remove(self, td: Td, gpa: int, level: int) -> SeamResult:
        return self.call("mem_sept_remove", rcx=_place(gpa, level), rdx=_tdr(td))

    def mem_sept_rd(self, td: Td, gpa: int, level: int) -> SeamResult:
        return self.call("mem_sept_rd", rcx=_place(gpa, level), rdx=_tdr(td))

    def mem_page_add(self, td: Td, gpa: int, page: int, source: int = INFO_PA,
                     content: bytes | None = None) -> SeamResult:
        """TDH.MEM.PAGE.ADD (leaf 2); content: the page's bytes, zero padded, for MR.EXTEND to measure."""
        if content is not None and not isinstance(content, (bytes, bytearray, memoryview)):
            raise UsageError(f"content {shown(content)}", "not bytes", "at most 4096 bytes")
        if content is not None and len(bytes(content)) > 4096:
            raise UsageError(f"{len(bytes(content))} bytes of content", "a page has 4096", "at most as many")
        result = self.call("mem_page_add", rcx=gpa, rdx=_tdr(td), r8=page, r9=source)
        if result.ok and content is not None:
            self.native.write_page(page, bytes(content).ljust(4096, b"\0"))
        return result

    def measure_page(self, td: Td, gpa: int) -> SeamResult:
        """TDH.MR.EXTEND (leaf 16) of a whole page, 256 bytes at a time; the first answer that is not success."""
        for offset in range(0, 4096, 256):
            result = self.call("mr_extend", rcx=check_u64("gpa", gpa) + offset, rdx=_tdr(td))
            if not result.ok:
                break
        return result

    def mrtd(self, td: Td) -> bytes:
        """MRTD by TDH.MNG.RD: zeroes before MR.FINALIZE. _seam_mr.pyx says what it is a hash of."""
        return b"".join(self.td_field(td, "td.mrtd", i).to_bytes(8, "little") for i in range(6))

    def td_field(self, td: Td, name: str, element: int = 0) -> int:
        """A field of a TD by name (FIELDS), by TDH.MNG.RD."""
        return self._field("mng_rd", name, element, 0, "td.", rcx=_tdr(td))

    def vp_field(self, td: Td, name: str, vcpu: int = 0, lp: int | None = None) -> int:
        """A field of a VCPU by name (FIELDS), by TDH.VP.RD."""
        return self._field("vp_rd", name, 0, self._lp(vcpu, lp), "vp.", rcx=_tdvpr(td, vcpu))

    def _field(self, leaf: str, name: str, element: int, lp: int, prefix: str, **registers: int) -> int:
        if not isinstance(name, str) or name not in FIELDS or not name.startswith(prefix):
            raise UsageError(f"field {shown(name)}", "unknown", one_of(n for n in FIELDS if n.startswith(prefix)))
        result = self.call(leaf, lp, rdx=FIELDS[name] + check_int("element", element, 0, 0xFFFF), **registers)
        if not result.ok:
            raise UsageError(f"{leaf} of {name} answered {result}", "the module refused", "a field it lets you read")
        return result.registers["r8"]

    def mem_page_aug(self, td: Td, gpa: int, level: int, page: int) -> SeamResult:
        return self.call("mem_page_aug", rcx=_place(gpa, level), rdx=_tdr(td), r8=page)

    def mem_page_remove(self, td: Td, gpa: int, level: int = 0) -> SeamResult:
        return self.call("mem_page_remove", rcx=_place(gpa, level), rdx=_tdr(td))

    def mem_page_relocate(self, td: Td, gpa: int, page: int) -> SeamResult:
        return self.call("mem_page_relocate", rcx=gpa, rdx=_tdr(td), r8=page)

    def mem_page_demote(self, td: Td, gpa: int, level: int, page: int) -> SeamResult:
        return self.call("mem_page_demote", rcx=_place(gpa, level), rdx=_tdr(td), r8=page, r9=NULL_PA,
                         r10=NULL_PA, r11=NULL_PA)

    def mem_page_promote(self, td: Td, gpa: int, level: int) -> SeamResult:
        return self.call("mem_page_promote", rcx=_place(gpa, level), rdx=_tdr(td))

    def mem_range_block(self, td: Td, gpa: int, level: int = 0) -> SeamResult:
        return self.call("mem_range_block", rcx=_place(gpa, level), rdx=_tdr(td))

    def mem_range_unblock(self, td: Td, gpa: int, level: int = 0) -> SeamResult:
        return self.call("mem_range_unblock", rcx=_place(gpa, level), rdx=_tdr(td))

    def mem_track(self, td: Td) -> SeamResult:
        return self.call("mem_track", rcx=_tdr(td))

    # ---- the guest

    def vp_enter(self, td: Td, vcpu: int = 0, lp: int | None = None) -> SeamResult:
        """Enter a VCPU; on logical processor vcpu + 1 unless told."""
        return self.call("vp_enter", self._lp(vcpu, lp), rcx=_tdvpr(td, vcpu))

    def td_exit(self, vcpu: int = 0, lp: int | None = None) -> SeamResult:
        """An external interrupt takes the VCPU out of the TD."""
        rax, rcx, rdx = self.native.td_async_exit(self._lp(vcpu, lp))
        return SeamResult(rax, "TDEXIT" if rax else "NOT_IN_GUEST", "", dict(rcx=rcx, rdx=rdx))

    def accept(self, gpa: int, level: int = 0, vcpu: int = 0, lp: int | None = None) -> SeamResult:
        """TDG.MEM.PAGE.ACCEPT; level 0 4K, 1 2M."""
        return self.tdcall("mem_page_accept", vcpu, lp, rcx=_place(gpa, level))

    def tdcall(self, leaf: str | int, vcpu: int = 0, lp: int | None = None, *, version: int = 0, rcx: int = 0,
               rdx: int = 0, r8: int = 0) -> SeamResult:
        """A TDCALL of the guest that runs on a logical processor (vcpu + 1 unless told), by name (`TDCALLS`) or number.

        The result's registers are the guest's, or the VMM's where its status is TDEXIT. A leaf that tdpfast does not
        have is answered as the module answers an unknown one. UsageError for a name that no TDCALL has."""
        number = TDCALLS.get(leaf_key(leaf).removeprefix("tdg_")) if isinstance(leaf, str) else leaf
        if number is None:
            raise UsageError(f"TDCALL {shown(leaf)}", "unknown", one_of(TDCALLS))
        return self._guest(self.native.tdcall(
            check_int("leaf", number, 0, 0xffff), self._lp(vcpu, lp), check_u64("rcx", rcx), check_u64("rdx", rdx),
            check_u64("r8", r8), version=check_int("version", version, 0, 255)))

    def guest_access(self, gpa: int, vcpu: int = 0, lp: int | None = None, *, same_rip: bool = False) -> SeamResult:
        result = self._guest((*self.native.guest_access(self._lp(vcpu, lp), check_u64("gpa", gpa),
                                                      check_bool("same_rip", same_rip)), 0))
        if result.status == "TDX_SUCCESS":
            return SeamResult(0, "NO_FAULT", "", result.registers)
        return result

    def _lp(self, vcpu: int, lp: int | None) -> int:
        last = LOGICAL_PROCESSORS - 1
        return check_int("vcpu", vcpu, 0, last - 1) + 1 if lp is None else check_int("lp", lp, 0, last)

    def _guest(self, values) -> SeamResult:
        result, rax, *out = values
        registers = dict(zip(("rcx", "rdx", "r8", "r9"), out))
        if result == st.GUEST_DONE:
            return seam_result(rax, registers)
        return SeamResult(rax, _RESULTS[result], "", registers)

    # ---- building and looking

    def new_page(self, size: int = 0) -> int:
        """A physical page that nobody had; size 0 4K, 1 2M, 2 1G."""
        step = 1 << 12 + 9 * check_int("size", size, 0, 2)
        if size == 0 and self._free:
            return self._pair(self._free.pop())
        page = self.new_range(step, step)
        return self._pair(page) if size == 0 else page

    def new_range(self, size: int, align: int = 4096) -> int:
        """The first HPA of a stretch of physical memory that nobody had; size and align: bytes, in whole pages."""
        size, align = check_int("size", size, 4096, 1 << 52), check_int("align", align, 4096, 1 << 52)
        for name, value in (("size", size), ("align", align)):
            if value % 4096:
                raise UsageError(f"{name} {value:#x}", "not whole pages", "a multiple of 0x1000")
        start = -(-self._next // align) * align
        if start + size > self._top:
            raise UsageError(f"{size:#x} bytes of memory", "the first TDMR is used up", "a larger TDMR")
        self._next = start + size
        return start

    def _pair(self, page: int) -> int:
        """With dynamic PAMT: the page's range gets its page pair, from the end of the TDMR."""
        if self.dynamic_pamt and page >> 21 not in self._paired:
            self._top -= 8192
            self._must("phymem_pamt_add", rcx=page >> 21 << 21 | 1, rdx=self._top, r8=self._top + 4096)
            self._paired.add(page >> 21)
        return page

    def take_lps(self, n: int, top: int) -> int:
        """Takes n logical processors in a row, of those from 1 up to top - 1, for the vCPUs of a TD of KVM's: the
        first. UsageError when there are none."""
        n = check_int("n", n, 0, LOGICAL_PROCESSORS)
        for first in range(1, check_int("top", top, 0, LOGICAL_PROCESSORS) - n + 1):
            if self._taken.isdisjoint(range(first, first + n)):
                self._taken.update(range(first, first + n))
                return first
        raise UsageError(f"{n} vCPUs more", "no logical processors are left for them", "the end of another TD first")

    def give_lps(self, first: int, n: int) -> None:
        """Gives back what take_lps() took; UsageError for numbers that no logical processor has."""
        first = check_int("first", first, 0, LOGICAL_PROCESSORS)
        n = check_int("n", n, 0, LOGICAL_PROCESSORS - first)
        self._taken.difference_update(range(first, first + n))

    def free_hkid(self) -> int:
        """The first private HKID that no TD has; UsageError without one."""
        kot = self.native.hkids()
        if 0 not in kot:
            raise UsageError("one more TD", "no HKID is free", "the end of another TD first")
        return kot.index(0)

    def build_td(self, vcpus: int = 1, *, levels: int = 4, gpaw: int = 0, attributes: int = 0, td_ctls: int = 0,
                 xfam: int = 3, finalize: bool = True) -> Td:
        """A TD with all its control pages, initialised and, unless told, finalised.

        vcpus: 0 and up to the logical processors but one; levels, gpaw, attributes, xfam: of TD_PARAMS; td_ctls: bit 0
        (PENDING_VE_DISABLE) is ATTRIBUTES' SEPT_VE_DISABLE.
        UsageError when the module refuses."""
        vcpus = check_int("vcpus", vcpus, 0, LOGICAL_PROCESSORS - 1)
        levels, gpaw = check_int("levels", levels, 1, 8), check_int("gpaw", gpaw, 0, 1)
        finalize = check_bool("finalize", finalize)
        tdr = self.new_page()
        self._must("mng_create", rcx=tdr, rdx=self.free_hkid())
        self._must("mng_key_config", rcx=tdr)
        for _ in range(6):
            self._must("mng_addcx", rcx=self.new_page(), rdx=tdr)
        if td_ctls & 1:
            attributes |= ATTR_SEPT_VE_DISABLE
        self.native.write_memory(TD_PARAMS_PA, td_params(
            attributes=attributes, xfam=xfam, max_vcpus=max(vcpus, MORE_VCPUS), eptp_controls=6 | levels - 1 << 3,
            config_flags=gpaw))
        self._must("mng_init", rcx=tdr, rdx=TD_PARAMS_PA)
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

    def teardown_td(self, td: Td) -> None:
        """From a TD that nobody runs to free memory: VPs flushed, key freed, every page reclaimed, the TDR last."""
        _tdr(td)
        for tdvpr in td.vcpus:
            lp = self.native.vp(tdvpr)["lp"]
            if lp:
                self._must("vp_flush", lp - 1, what="teardown_td", rcx=tdvpr)
        self._must("mng_vpflushdone", what="teardown_td", rcx=_tdr(td))
        self._must("phymem_cache_wb", what="teardown_td")
        self._must("mng_key_freeid", what="teardown_td", rcx=_tdr(td))
        for size in range(3):
            for hpa, pt, owner, _, _ in self.native.pamt_used(size):
                if owner == td.tdr and pt in (3, 5, 6, 8):
                    self._must("phymem_page_reclaim", what="teardown_td", rcx=hpa)
                    if size == 0:
                        self._free.append(hpa)
        self._must("phymem_page_reclaim", what="teardown_td", rcx=_tdr(td))
        self._free.append(td.tdr)

    def _must(self, leaf: str, lp: int = 0, *, what: str = "build_td", **registers: int) -> None:
        result = self.call(leaf, lp, **registers)
        if not result.ok:
            raise UsageError(f"{what}: {leaf} answered {result}", "the module refused", "other parameters")

    def dump_sept(self, td: Td, vm: int = 0) -> list[dict]:
        """Every S-EPT entry that is not free: gpa, level, raw, and its fields."""
        return [dict(gpa=gpa, level=level, raw=raw, **st.decode_entry(raw))
                for gpa, level, raw in self.native.sept(_tdr(td), check_int("vm", vm, 0, 3))]

    def dump_pamt(self, size: int = 0) -> list[dict]:
        """Every PAMT entry of one page size that is not all zero."""
        return [dict(hpa=hpa, type=st.PAGE_TYPES.get(pt, str(pt)), owner=owner, bepoch=bepoch, lock=lock)
                for hpa, pt, owner, bepoch, lock in self.native.pamt_used(check_int("size", size, 0, 2))]

    # ---- faults on purpose

    def inject(self, leaf: str | None = None, *, lock: str | None = None, exclusive: bool = True, skip: int = 0,
               count: int = 1, status: int = 0, intr_after: int = -1) -> int:
        """From the skip-th call of a leaf on, count times (-1: always): another LP holds a lock during the call, or
        a status comes back instead, or an interrupt is pending after so many polls."""
        leaf = leaf_key(leaf)
        for what, name, known in (("lock", lock, LOCKS), ("leaf", leaf, LEAVES)):
            if name is not None and (not isinstance(name, str) or name not in known):
                raise UsageError(f"{what} {shown(name)}", "unknown", one_of(known))
        top = (1 << 31) - 1
        return self.native.inject(
            -1 if leaf is None else LEAVES[leaf], 0 if lock is None else LOCKS[lock],
            check_bool("exclusive", exclusive), check_int("skip", skip, 0, top), check_int("count", count, -1, top),
            check_u64("status", status), check_int("intr_after", intr_after, -1, (1 << 63) - 1))

    def inject_clear(self) -> None:
        """No more injections."""
        self.native.inject_clear()


def _tdr(td: Td) -> int:
    if not isinstance(td, Td):
        raise UsageError(f"bad TD {shown(td)}", "not a Td", "what build_td() returns")
    return td.tdr


def _tdvpr(td: Td, vcpu: int) -> int:
    _tdr(td)
    if not td.vcpus:
        raise UsageError("no VCPU", "the TD has none", "build_td(vcpus=1)")
    return td.vcpus[check_int("vcpu", vcpu, 0, len(td.vcpus) - 1)]


def _place(gpa: int, level: int) -> int:
    """GPA and level as RCX has them; what they may be the module says."""
    return check_u64("gpa", gpa) | check_int("level", level, 0, 7)


def _ranges(name: str, ranges) -> list[tuple[int, int]]:
    try:
        return [(check_u64(name, start), check_u64(name, end)) for start, end in ranges]
    except (TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"bad {name}", str(error), "[(start, end), ...]") from None


def seam_result(rax: int, registers: dict[str, int]) -> SeamResult:
    """The answer of a leaf from RAX and the registers that it wrote."""
    if rax in (st.ENTERED_TD, st.MODULE_HALT):
        return SeamResult(rax, st.status_name(rax), "", registers)
    status = st.decode_status(rax)
    return SeamResult(rax, status.name, status.operand, registers)
