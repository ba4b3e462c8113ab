"""A TD from Python: a Vm whose external table is the S-EPT of an emulated TDX module.

    >>> td = TdVm("v7.3", vcpus=2)
    >>> vcpu = td.vcpus[1]
    >>> vcpu.vp_enter()
    <VpEnter.ENTERED: 1>
    >>> print(vcpu.touch(0x600, 0x140600))            # an EPT violation, KVM's fault, and back into the guest
    TDEXIT
    >>> print(vcpu.accept(0x600 << 12))
    TDX_SUCCESS
    >>> print(vcpu.guest_access(0x600 << 12))
    NO_FAULT

Between the two tables works what KVM has in arch/x86/kvm/vmx/tdx.c (7.3; 6.19 to 6.16 for designs that are older).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from tdpfast import status as st
from tdpfast._arguments import MAX_PFN, check_bool, check_int, check_u64, one_of, shown
from tdpfast._face.batch import VcpuCore
from tdpfast._face.td import TD_STRIDE, TdVmCore
from tdpfast._face.vm import VmCore
from tdpfast._names import Limit
from tdpfast.design import Design
from tdpfast.errors import UsageError
from tdpfast.memslot import Memslot
from tdpfast.seam import INFO_PA, LEAVES, SeamResult, Td, TdxModule, leaf_key, seam_result
from tdpfast.show import LEVELS
from tdpfast.vcpu import RetPf, Vcpu
from tdpfast.vm import Hook, Vm

MAX_VCPUS = 8
TD_ALIGN = 1 << 20


class VpEnter(IntEnum):
    """How an attempt to enter the guest ended: tdx_vcpu_run()."""

    ENTERED = 1
    """The vCPU runs guest code, until td_exit() or a kick."""
    CAME_BACK = 0
    """VP.ENTER answered at once: the module was busy, or the TD does not run."""
    WAIT_FOR_SEPT_ZAP = -1
    """Kept out by tdh_do_no_vcpus(), which waits for a SEAMCALL without vCPUs."""
    VM_DEAD = -2
    INSIDE = -3
    """It is in the guest already."""


class GuestResult(NamedTuple):
    """What one instruction of the guest ended with."""

    result: str
    """NO_FAULT, the status of a TDCALL, VE_INJECTED, TDEXIT (an EPT violation), INTERRUPTED_REEXECUTE, NOT_IN_GUEST."""
    rax: int
    rcx: int
    """At a TDEXIT rcx, rdx and r8 are what VP.ENTER gave KVM: exit qualification, extended one, and the GPA."""
    rdx: int
    r8: int
    unexpected_pending: bool
    """KVM cannot help a TD that touches a pending page and disabled #VE: the VM is dead."""

    def __str__(self) -> str:
        return self.result


class GuestAccept(NamedTuple):
    """How guest_accept() ended."""

    ret: int
    """0: the last TDCALL is the answer, 1: out of tries, or an errno."""
    tries: int
    """TDCALLs."""
    last: GuestResult


class SeptEntry(NamedTuple):
    """One S-EPT entry, as the module keeps it."""

    level: int
    """PG_LEVEL_*, as in walk(); Intel's level is one less."""
    index: int      # type: ignore[assignment]  # hides tuple.index
    gfn: int
    """First gfn of the entry."""
    entry: int
    hpa: int
    """Of the memory or of the next table; 0 without one."""
    state: str
    """As Intel calls it: FREE, PENDING, MAPPED, BLOCKED, NL_MAPPED, ..."""


class SeptWalk(NamedTuple):
    """The way from the S-EPT's root down to one gfn; str() of it is for people."""

    gfn: int
    entries: tuple[SeptEntry, ...]
    """From the root down to where the walk ends."""

    def __str__(self) -> str:
        lines = [f"GFN {self.gfn:x}  (S-EPT)", "",
                 f"{'LEVEL':>5} {'INDEX':>5}  {'GFN':>10}  {'ENTRY':^16}  {'HPA':>13}  STATE"]
        lines += [f"{LEVELS[e.level]:>5} {e.index:>5}  {e.gfn:>10x}  {e.entry:>16x}  {e.hpa:>13x}  {e.state}"
                  for e in self.entries]
        return "\n".join(lines)


class TdVcpu(Vcpu):
    """One vCPU of a TD, or, beyond the number the TD was built with, another thread of KVM.

    What a guest does it does one instruction at a time, when told to; KVM's kicks wait for the end of one.
    """

    vm: TdVm

    def _guest(self, op: str, **fields: Any) -> dict[str, Any]:
        if self.id >= self.vm.core.nvcpus:
            raise UsageError(f"{op} on CPU {self.id}", f"the TD has {self.vm.core.nvcpus} vCPUs",
                             "TdVm(..., vcpus=more)")
        return self._run({"op": op, "vcpu": self.id} | fields)

    def vp_enter(self) -> VpEnter:
        """TDH.VP.ENTER (leaf 0), as tdx_vcpu_run() makes it. No lock."""
        return VpEnter(self._guest("vp_enter")["ret"])

    def td_exit(self) -> bool:
        """An interrupt takes the vCPU out of the guest; whether it was inside."""
        return self._guest("td_exit")["ret"] == 1

    def guest_access(self, gpa: int, *, same_rip: bool = False) -> GuestResult:
        """The guest writes to a private gpa; after a TDEXIT it is outside. same_rip: the instruction of before
        again."""
        return _guest_result(self._guest("guest_access", gpa=check_u64("gpa", gpa),
                                         same_rip=check_bool("same_rip", same_rip)))

    def accept(self, gpa: int, level: int = 0, *, same_rip: bool = False) -> GuestResult:
        """TDG.MEM.PAGE.ACCEPT (TDCALL leaf 6) of a page at Intel's level: 0 is 4K, 1 is 2M."""
        return _guest_result(self._guest("accept", gpa=check_u64("gpa", gpa), level=check_int("level", level, 0, 5),
                                         same_rip=check_bool("same_rip", same_rip)))

    def touch(self, gfn: int, pfn: int, *, retries: int = -1) -> GuestResult:
        """The guest writes to gfn, and KVM handles its EPT violation: tdx_handle_ept_violation(), a fault with mmu_lock
        for read, then VP.ENTER. What the access ended with; the rest is in the trace (records of kind op_end).

        pfn: the page that guest_memfd has for gfn. retries: RET_PF_RETRYs that go round again, -1: all.
        """
        return _guest_result(self._guest("touch", gfn=self.vm._gfn(gfn), pfn=_pfn(pfn),
                                         retries=check_int("retries", retries, -1, 1 << 30)))

    def guest_accept(self, gpa: int, pfn: int, level: int = 0, *, tries: int = -1) -> GuestAccept:
        """A guest that wants to accept a page: TDCALL, and what KVM makes of each exit, until it comes back.

        pfn: the page that guest_memfd has for gpa. level: Intel's, as in accept(). tries: TDCALLs, -1: no end.
        """
        out = self._guest("guest_accept", gpa=check_u64("gpa", gpa), pfn=_pfn(pfn),
                          level=check_int("level", level, 0, 5), tries=check_int("tries", tries, -1, 1 << 30))
        return GuestAccept(out["ret"], out["tries"], _guest_result(out))


class TdVm(Vm):
    """A TD on a TDX module, with its vCPUs.

    Args:
        design: how mirror changes reach the S-EPT: name of a preset or a `Design`.
        module: a TdxModule, which may have other TDs; default: one of its own, with 4 GiB of memory at 4 GiB.
        vcpus: vCPUs of the TD, 0..8: ``vcpus[0]`` up to ``vcpus[vcpus - 1]``. Further ones (create_vcpu()) and vCPU 0
            of a TD without vCPUs are threads of KVM that zap, walk and fault, but enter no guest.
        runnable: MR.FINALIZE was done; without, populate() adds pages, and finalize() ends that.
        ungated, root_level, memory_pages, trace, want_direct, hooks, memslots: as for Vm; with a trace each SEAMCALL
            is in it (records of kind seam).
        attributes, pending_ve_disable: of TD_PARAMS (the latter a bit of TD_CTLS).

    vCPUs of the TDs of a module act on logical processors of their own, 32 in all; KVM's other threads may share one.
    The pages that KVM takes for the TD itself (control pages and S-EPT, 256 MiB) lie in the module's first TDMR, behind
    those that the module gave out before; module.new_page() gives pages for the guest.

    Raises:
        UsageError: a bad argument, or a module without room, without a free HKID, or with options the design excludes.
    """

    on_module = True

    def __init__(self, design: str | Design = "v7.3", *, module: TdxModule | None = None, vcpus: int = 1,
                 runnable: bool = True, ungated: bool = False, root_level: int = 4, attributes: int = 0,
                 pending_ve_disable: bool = False, memory_pages: int = 16384, trace: str = "last",
                 want_direct: bool = True, hooks: Mapping[str, Hook] | None = None,
                 memslots: Sequence[Memslot] | None = None):
        if module is None:
            module = TdxModule()
        elif not isinstance(module, TdxModule):
            raise UsageError(f"module {shown(module)}", "not a TdxModule", "tdpfast.seam.TdxModule()")
        elif module.dynamic_pamt:
            raise UsageError("a module that was set up with dynamic_pamt", "its page pairs are the module's caller's",
                             "a plain TdxModule(): a design with dynamic_pamt sees to it")
        self.module = module
        self._options: dict[str, Any] = {
            "nvcpus": check_int("vcpus", vcpus, 0, MAX_VCPUS), "runnable": check_bool("runnable", runnable),
            "attributes": check_u64("attributes", attributes),
            "pending_ve_disable": check_bool("pending_ve_disable", pending_ve_disable)}
        self.core: TdVmCore
        self.vcpus: Sequence[TdVcpu]
        super().__init__(design, ungated=ungated, root_level=root_level, memory_pages=memory_pages, trace=trace,
                         want_direct=want_direct, hooks=hooks, memslots=memslots)
        if trace != "off":
            self.core.trace_calls(True)
        pages = {name: hpa for hpa, name in self.core.pages().items()}
        self.td = Td(self.core.tdr, tuple(pages[f"TDVPR{i}"] for i in range(vcpus)))
        while len(self._crew) < vcpus:
            self.create_vcpu()

    def _make_core(self, **options: Any) -> VmCore:
        base, hkid, n = self.module.new_range(TD_STRIDE, TD_ALIGN), self.module.free_hkid(), self._options["nvcpus"]
        self._lp = self.module.take_lps(n, int(Limit.HOST_LP))
        try:
            return TdVmCore(self.design, self.module.native, levels=options["root_level"], base=base, hkid=hkid,
                            lp_base=self._lp - 1, want_direct=options["want_direct"],
                            memory_pages=options["memory_pages"], slots=options["slots"], **self._options)
        except BaseException:
            self.module.give_lps(self._lp, n)
            raise

    def _make_vcpu(self, core: VcpuCore) -> TdVcpu:
        return TdVcpu(self, core)

    def _guests(self) -> int:
        return self.core.nvcpus

    # what vCPU 0 does

    def vp_enter(self) -> VpEnter:
        """vCPU 0 enters the guest: see `TdVcpu.vp_enter()`."""
        return self.vcpus[0].vp_enter()

    def td_exit(self) -> bool:
        """vCPU 0 leaves the guest: see `TdVcpu.td_exit()`."""
        return self.vcpus[0].td_exit()

    def guest_access(self, gpa: int, *, same_rip: bool = False) -> GuestResult:
        """The guest writes on vCPU 0: see `TdVcpu.guest_access()`."""
        return self.vcpus[0].guest_access(gpa, same_rip=same_rip)

    def accept(self, gpa: int, level: int = 0, *, same_rip: bool = False) -> GuestResult:
        """The guest accepts on vCPU 0: see `TdVcpu.accept()`."""
        return self.vcpus[0].accept(gpa, level, same_rip=same_rip)

    def touch(self, gfn: int, pfn: int, *, retries: int = -1) -> GuestResult:
        """The guest writes on vCPU 0, and KVM maps: see `TdVcpu.touch()`."""
        return self.vcpus[0].touch(gfn, pfn, retries=retries)

    def guest_accept(self, gpa: int, pfn: int, level: int = 0, *, tries: int = -1) -> GuestAccept:
        """The guest accepts on vCPU 0, and KVM maps: see `TdVcpu.guest_accept()`."""
        return self.vcpus[0].guest_accept(gpa, pfn, level, tries=tries)

    # ioctls and the life of the TD

    def populate(self, gfn: int, pfn: int, *, source: int = INFO_PA, measure: bool = False) -> int:
        """KVM_TDX_INIT_MEM_REGION of one page: tdx_gmem_post_populate(), under slots_lock, mmu_lock for read within.

        source: HPA of the initial content; measure: MR.EXTEND. 0 or an errno: -EINVAL once the TD is finalised, -EBUSY,
        -EIO.
        """
        return self._run({"op": "populate", "gfn": self._gfn(gfn), "pfn": _pfn(pfn), "src": check_u64("source", source),
                          "measure": check_bool("measure", measure)})["ret"]

    def finalize(self) -> int:
        """KVM_TDX_FINALIZE_VM: tdx_td_finalize(), MR.FINALIZE under slots_lock. 0, -EINVAL, -EBUSY or -EIO."""
        return self._run({"op": "finalize"})["ret"]

    def prefault(self, gfn: int, pfn: int, level: int = 1) -> RetPf | int:
        """KVM_PRE_FAULT_MEMORY of one private page: a fault nobody waits for, mmu_lock for read. A RetPf, or
        -EOPNOTSUPP before finalize()."""
        ret = self._run({"op": "prefault", "gfn": self._gfn(gfn), "pfn": _pfn(pfn),
                         "level": check_int("level", level, 1, 3)})["ret"]
        return RetPf(ret) if ret >= 0 else ret

    def free_pfn(self, gfn: int, pfn: int) -> int:
        """guest_memfd gives the page of a gfn back to the host. 0: freed; 1: freed although the module uses it
        (violates `page`); 2: kept by a reference of KVM's (up to 6.18); -EBUSY: the mirror maps it. No lock."""
        return self._run({"op": "free_pfn", "gfn": self._gfn(gfn), "pfn": _pfn(pfn)})["ret"]

    def punch_hole(self, start: int, end: int, pfn: int) -> bool:
        """fallocate(PUNCH_HOLE) of guest_memfd (7.3): the pages of [start, end), of which pfn is the first, are
        invalidated, unmapped and freed; mmu_lock for write, by turns. Whether the module still uses one of them, which
        violates `page`."""
        return self._range("punch_hole", start, end, pfn=_pfn(pfn)) == 1

    def set_attributes(self, start: int, end: int, *, private: bool, pinned: bool = False) -> int:
        """kvm_vm_set_mem_attributes() (7.3): [start, end) becomes private or shared, what is mapped as the other kind
        is zapped, and faults of the other kind are -EFAULT from then on. slots_lock, and mmu_lock for write by turns. 0
        or -ENOSPC, after 16 of them; a design that converts in place also -EAGAIN, for pages somebody has
        ``pinned``."""
        return self._range("set_attributes", start, end, private=int(check_bool("private", private)),
                           pinned=int(check_bool("pinned", pinned)))

    def seamcall(self, leaf: str, rcx: int = 0, rdx: int = 0, r8: int = 0) -> SeamResult:
        """A SEAMCALL of KVM's CPU 0 past KVM's code, such as ``td.seamcall("mem_range_block", rcx=gpa,
        rdx=td.td.tdr)``. Only the status comes back: module.call() has the registers."""
        if leaf_key(leaf) not in LEAVES:
            raise UsageError(f"leaf {shown(leaf)}", "unknown", one_of(LEAVES))
        out = self._run({"op": "raw", "leaf": leaf, "rcx": check_u64("rcx", rcx),
                         "rdx": check_u64("rdx", rdx), "r8": check_u64("r8", r8)})
        return seam_result(out["rax"], {})

    def release_hkid(self) -> None:
        """tdx_mmu_release_hkid(): flushes the vCPUs and gives the key back; with it ends all use of the S-EPT."""
        self._run({"op": "release_hkid"})

    def destroy(self) -> dict[str, int]:
        """The end of the TD in KVM's order: vCPUs out of the guest, guest_memfd's memory unmapped, the key given back,
        the roots zapped and put, the vCPUs freed, every page reclaimed, the TDR last. Returns the statistics."""
        self._check_hook()
        nvcpus = self.core.nvcpus
        for i in self.core.in_guest():
            self._run({"op": "td_exit", "vcpu": i})
        self.unmap(0, self.max_gfn + 1, shared=True, private=True)
        self.release_hkid()
        self.zap_all()
        for i in range(nvcpus):
            self._run({"op": "vcpu_free", "vcpu": i})
        return super().destroy()

    def _uninit(self) -> None:
        super()._uninit()
        self._run({"op": "vm_destroy"})
        self.module.give_lps(self._lp, self.core.nvcpus)

    # looking

    def sept_walk(self, gfn: int) -> SeptWalk:
        """The S-EPT's entries on the way to gfn, as they lie in the module's memory. No SEAMCALL, no lock. Empty once
        the TD has no S-EPT any more."""
        gfn = self._gfn(gfn)
        entries: list[SeptEntry] = []
        for level in reversed(range(self.root_level if self.kvm_state["hkid"] >= 0 else 0)):
            raw, reached = self.module.native.walk(self.td.tdr, gfn << 12, level)
            if reached != level:
                break
            entry, shift = st.decode_entry(raw), 9 * level
            entries.append(SeptEntry(level + 1, gfn >> shift & 511, gfn >> shift << shift, raw, entry["hpa"],
                                     entry["state"]))
        return SeptWalk(gfn, tuple(entries))

    def dump_sept(self) -> list[dict[str, Any]]:
        """Every S-EPT entry that is not free, with its fields: see `TdxModule.dump_sept()`."""
        return self.module.dump_sept(self.td)

    @property
    def kvm_state(self) -> dict[str, int]:
        """KVM's view of the TD: hkid (-1: given back), state, wait_for_sept_zap, vm_bugged, vm_dead, sept_pages (S-EPT
        pages that KVM has out), pre_fault_allowed, tdr_owned, tdcs_owned."""
        return self.core.kvm_state()

    @property
    def in_guest(self) -> list[int]:
        """Numbers of the vCPUs that are inside the TD."""
        return self.core.in_guest()


def _pfn(pfn: int) -> int:
    return check_int("pfn", pfn, 0, MAX_PFN - 1)


def _guest_result(out: Mapping[str, Any]) -> GuestResult:
    """A guest instruction's result from what the core answers (GUEST_RET_*)."""
    names = (None, "NO_FAULT", "VE_INJECTED", "TDEXIT", "INTERRUPTED_REEXECUTE", "NOT_IN_GUEST")
    name = names[out["kind"]] if out["kind"] < len(names) else "NOT_RUN"
    if name is None:
        name = str(seam_result(out["rax"], {}))
    rcx, rdx, r8 = out["out"]
    return GuestResult(name, out["rax"], rcx, rdx, r8, bool(out["flags"]))
