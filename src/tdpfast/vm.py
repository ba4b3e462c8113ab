"""VMs: KVM's x86 TDP MMU as an object.

    >>> from tdpfast import Vm
    >>> vm = Vm("v7.3")                       # a TD: a mirror root and a direct root
    >>> vm.map(0x600, 0x100600).ret.name
    'RET_PF_FIXED'
    >>> hex(vm.walk(0x600).pfn)
    '0x100600'
    >>> vm.zap_leafs(0x600, 0x601)
    True

Gfns and pfns are frame numbers (address >> 12), levels are PG_LEVEL_* (1 is 4K, 2 is 2M, 3 is 1G), ranges are
[start, end). Each method says which kernel function it runs and in which mode it holds mmu_lock; what differs
between kernels is the VM's `Design`. Methods of `Vm` run on vCPU 0.

Every method raises UsageError for an argument out of range, or when a hook of the VM calls it in the middle of an
operation, and VmEnded once the VM is over: a kernel BUG() fired, an operation spun for ever, or the VM was destroyed.
Warnings and KVM_BUG_ON()s do not raise: they are in the trace and in `Vcpu.asserts`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from threading import RLock, get_ident
from typing import Any, Self

import numpy as np

from tdpfast import walk as _walk
from tdpfast._arguments import MAX_PFN, check_bool, check_int, check_level, check_u64, one_of, shown
from tdpfast._face.batch import ArenaView, VcpuCore, root_indexes
from tdpfast._face.vm import VmCore
from tdpfast._program.pyhooks import install
from tdpfast.audit import Difference, audit
from tdpfast.design import Design, get_design
from tdpfast.errors import UsageError, VmEnded
from tdpfast.memslot import Memslot, check_slots
from tdpfast.ops import OPS
from tdpfast.spte import LAYOUTS, MMUS, SPTE_DTYPE, SpteConfig
from tdpfast.trace import Record
from tdpfast.vcpu import Asserts, FastPfLast, GetWalk, MapResult, RetPf, Vcpu, ZapNx
from tdpfast.walk import Entry, Table, Walk

__all__ = ["OPS", "Asserts", "FastPfLast", "GetWalk", "MapResult", "Memslot", "RetPf", "Vcpu", "Vm", "ZapNx"]

MAX_GFN = (1 << 52) - 1
Hook = Callable[[int, int, int, int], int | Generator[str | None, None, int | None] | None]
_MODES = ("last", "all", "off")


class Vm:
    """A VM with its memslots, its roots, and vCPU 0.

    Args:
        design: how mirror changes reach the external table: name of a preset or a `Design`.
        tdx: a TD: it has a mirror root, and shared gfns carry a bit.
        ungated: operations that today's callers keep away from the mirror reach it.
        root_level: 4 or 5. mmu: "ept_ad", "ept_noad" or "npt". maxphyaddr: 36..52 bits.
        l1tf, cache_bits, exec_only: see SpteConfig.
        shared_bit: the shared bit of a TD as a GFN bit; default 35 with 4 levels, 39 with 5, less if MAXPHYADDR is:
            KVM zaps no gfn beyond that, and `max_gfn` is the last one below.
        memslot: guest frames that have memory; default all. memslots: several, with flags of their own: a fault outside
            all of them is one for MMIO, and a private one in a slot without guest_memfd is -EFAULT.
        nx_huge_pages: the NX huge page mitigation is on. ipat: memory types of the guest are ignored.
        pml: page modification logging is on. mmio_generation: memslots generation.
        memory_pages: page-table pages the host can give.
        trace: "last": the events of the last operation are kept, "all", or "off".
        want_mirror, want_direct: roots that vCPU 0 holds from the start.
        hooks: functions in front of the external hooks, {name: function(gfn, old_spte, new_spte, level)}, for
            set_external_spte, split_external_spt, link_external_spt, remove_external_spte, free_external_spt (old_spte
            is then the external page, as new_spte is in link_external_spt). Each returns None to have the hook below
            run, or 0 or a negative errno in its place; what one raises, the operation raises at its end. A generator
            function is run to its end: only the explorer (`check()`) interrupts it at its yields. They run with locks
            held: operations of this VM raise UsageError in them.

    The external table is only recorded: each hook call is in the trace and returns what ``hook`` says, else 0.
    """

    on_module = False
    """Whether the external table is the S-EPT of an emulated TDX module."""

    def __init__(self, design: str | Design = "v7.3", *, tdx: bool = True, ungated: bool = False,
                 root_level: int = 4, mmu: str = "ept_ad", maxphyaddr: int = 52, l1tf: bool = False,
                 cache_bits: int = 0, exec_only: bool = True, shared_bit: int | None = None,
                 memslot: Memslot | None = None, memslots: Sequence[Memslot] | None = None,
                 nx_huge_pages: bool = False, ipat: bool | None = None,
                 pml: bool = False, mmio_generation: int = 0, memory_pages: int = 16384, trace: str = "last",
                 want_mirror: bool = True, want_direct: bool = True, hooks: Mapping[str, Hook] | None = None):
        self.design = get_design(design)
        if check_bool("ungated", ungated):
            self.design = self.design.replace(ungated=True)
        if not isinstance(trace, str) or trace not in _MODES:
            raise UsageError(f"bad trace {shown(trace)}", "not a mode", one_of(_MODES))
        if not isinstance(mmu, str) or mmu not in MMUS:
            raise UsageError(f"no mmu {shown(mmu)}", "not a known kind", one_of(MMUS))
        layout = next(name for name, number in LAYOUTS.items() if number == self.design.layout)
        self.tdx = check_bool("tdx", tdx)
        self.root_level = check_int("root_level", root_level, 4, 5)
        self.trace = trace
        self.spte = SpteConfig(layout=layout, mmu=mmu, maxphyaddr=check_int("maxphyaddr", maxphyaddr, 36, 52),
                               l1tf=check_bool("l1tf", l1tf), cache_bits=cache_bits,
                               exec_only=check_bool("exec_only", exec_only))
        bits = min(9 * self.root_level, self.spte.maxphyaddr - 12)       # tdp_mmu_max_gfn_exclusive()
        if shared_bit is None:
            shared_bit = min(35 if self.root_level == 4 else 39, bits - 1)
        self.gfn_direct_bits = 1 << check_int("shared_bit", shared_bit, 12, bits - 1) if self.tdx else 0
        self.max_gfn = (self.gfn_direct_bits or 1 << bits) - 1
        if memslot is not None and memslots is not None:
            raise UsageError("memslot and memslots", "they are two names of one thing", "memslots")
        if memslot is not None and not isinstance(memslot, Memslot):
            raise UsageError(f"bad memslot {shown(memslot)}", "not a Memslot", "Memslot(base_gfn, npages)")
        self.memslots = check_slots([memslot or Memslot(0, self.max_gfn + 1)] if memslots is None else memslots,
                                    self.tdx, self.max_gfn + 1)
        self.mmio_value = 0 if self.tdx else self.spte.masks["shadow_mmio_value"]
        self._ended: VmEnded | None = None
        if hooks is not None and not isinstance(hooks, Mapping):
            raise UsageError(f"hooks are {shown(hooks)}", "not a mapping", "{name: function}")
        self.core = self._make_core(
            root_level=root_level, mmu=MMUS[mmu], maxphyaddr=maxphyaddr, l1tf=check_bool("l1tf", l1tf),
            cache_bits=cache_bits, exec_only=check_bool("exec_only", exec_only), tdx=self.tdx,
            direct_gfn_bits=self.gfn_direct_bits, ipat=not self.tdx if ipat is None else check_bool("ipat", ipat),
            nx=check_bool("nx_huge_pages", nx_huge_pages), slots=[slot.row(self.tdx) for slot in self.memslots],
            mmio_gen=check_u64("mmio_generation", mmio_generation), pml=check_bool("pml", pml),
            memory_pages=check_int("memory_pages", memory_pages, 8, 1 << 22),
            want_mirror=check_bool("want_mirror", want_mirror), want_direct=check_bool("want_direct", want_direct))
        self._in_hooks = self.core.hook_threads     # threads that are in a hook; the core's own list
        self._slots_lock = RLock()      # kvm->slots_lock; also for who makes vCPUs and who ends them
        self._kinds = [private for private, wanted in ((1, want_mirror and self.tdx), (0, want_direct)) if wanted]
        install(self.core, hooks or {})
        self._crew = [self._make_vcpu(VcpuCore(self.core))]
        self.vcpus: Sequence[Vcpu] = self._crew

    def _make_core(self, **options: Any) -> VmCore:
        """The native VM; a TD on a module is made otherwise."""
        return VmCore(self.design, **options)

    def _make_vcpu(self, core: VcpuCore) -> Vcpu:
        """The vCPU of a native one."""
        return Vcpu(self, core)

    def _guests(self) -> int:
        """vCPUs that enter a guest; operations that name a vCPU are a TD's."""
        return 0

    def __repr__(self) -> str:
        kind = "TD" if self.tdx else "VM"
        return f"<{kind} of design {self.design.name}, {self.npages} pages of tables>"

    def __reduce__(self) -> Any:
        raise UsageError("a copy of a VM", "its page tables are native memory", "the same operations on a new VM")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._ended is None:
            self.destroy()

    def create_vcpu(self) -> Vcpu:
        """One more vCPU, with references of its own to the roots; UsageError when there are too many."""
        self._check_hook()
        with self._slots_lock:
            self._check_alive()
            vcpu = self._make_vcpu(VcpuCore(self.core, True))
            self._crew.append(vcpu)
        return vcpu

    def audit(self) -> list[Difference]:
        """Whether the VM is consistent, and if not, what differs: the first place of every check that is violated, with
        both sides; empty if nothing is wrong. Of a TD on a module mirror, S-EPT and PAMT are compared, of others tables
        and statistics. Waits for what other threads do on its vCPUs; takes no lock of the kernel's.
        """
        self._check_hook()
        with ExitStack() as stack:
            stack.enter_context(self._slots_lock)
            for vcpu in self.vcpus:
                stack.enter_context(vcpu._lock)
            return audit(self.core)

    def destroy(self) -> dict[str, int]:
        """The end of the VM: every vCPU puts its roots, kvm_mmu_uninit_tdp_mmu() with mmu_lock for write, then
        all RCU callbacks. Returns the statistics; without a failed hook everything in them that counts pages is 0.
        Waits for what other threads do on its vCPUs; they get VmEnded from then on.
        """
        self._check_hook()
        with ExitStack() as stack:
            stack.enter_context(self._slots_lock)
            for vcpu in self.vcpus:
                stack.enter_context(vcpu._lock)
            for vcpu in self.vcpus:
                vcpu.put_roots()
            self._uninit()
            self._ended = VmEnded("destroyed")
        return self.stats

    def _uninit(self) -> None:
        """kvm_mmu_uninit_tdp_mmu(), when all roots were put."""
        self._run({"op": "uninit"})

    def run(self, op: Mapping[str, Any]) -> dict[str, Any]:
        """One operation given as a mapping, on vCPU 0: see `Vcpu.run()` and `OPS`."""
        return self.vcpus[0].run(op)

    # what vCPU 0 does

    def map(self, gfn: int, pfn: int, level: int = 1, **access: Any) -> MapResult:
        """A fault of vCPU 0: see `Vcpu.map()`."""
        return self.vcpus[0].map(gfn, pfn, level, **access)

    def fast_page_fault(self, gfn: int, **access: Any) -> RetPf:
        """A fault of vCPU 0 without mmu_lock: see `Vcpu.fast_page_fault()`."""
        return self.vcpus[0].fast_page_fault(gfn, **access)

    def map_range(self, gfn: int, pfn: int, n: int, level: int = 1, **access: Any) -> dict[RetPf, int]:
        """n faults of vCPU 0 on consecutive pages: see `Vcpu.map_range()`."""
        return self.vcpus[0].map_range(gfn, pfn, n, level, **access)

    def reload(self) -> int:
        """vCPU 0 takes valid roots: see `Vcpu.reload()`."""
        return self.vcpus[0].reload()

    def alloc_root(self, *, private: bool | None = None) -> None:
        """vCPU 0 takes a root: see `Vcpu.alloc_root()`."""
        self.vcpus[0].alloc_root(private=private)

    def put_root(self, *, private: bool | None = None) -> None:
        """vCPU 0 drops a root: see `Vcpu.put_root()`."""
        self.vcpus[0].put_root(private=private)

    def modifiers(self, **modifiers: Any) -> AbstractContextManager[None]:
        """What happens beside the operations of vCPU 0: see `Vcpu.modifiers()`."""
        return self.vcpus[0].modifiers(**modifiers)

    def get_walk(self, gfn: int, *, private: bool | None = None) -> GetWalk:
        """The SPTEs on the way to gfn: see `Vcpu.get_walk()`."""
        return self.vcpus[0].get_walk(gfn, private=private)

    def fast_page_fault_last_sptep(self, gfn: int) -> FastPfLast:
        """The last SPTE on the way to a shared gfn: see `Vcpu.fast_page_fault_last_sptep()`."""
        return self.vcpus[0].fast_page_fault_last_sptep(gfn)

    def walk_many(self, gfns: Any, *, private: bool | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Where the walks of many gfns end: see `Vcpu.walk_many()`."""
        return self.vcpus[0].walk_many(gfns, private=private)

    # zapping

    def zap_leafs(self, start: int, end: int, *, flush: bool = False, hook: Sequence[int] = ()) -> bool:
        """kvm_tdp_mmu_zap_leafs() (7.3, 6.18): the leaves of [start, end) in every valid root, mirrors included;
        mmu_lock for write. Whether a TLB flush is due; ``flush``: one was due before."""
        return bool(self._range("zap_leafs", start, end, hook, flush=check_bool("flush", flush)))

    zap_range = zap_leafs
    """The batch form of a zap is the kernel's own: one native call for the whole range."""

    def unmap(self, start: int, end: int, *, shared: bool = True, private: bool | None = None, flush: bool = False,
              may_block: bool = True, hook: Sequence[int] = ()) -> bool:
        """kvm_tdp_mmu_unmap_gfn_range() (7.3, 6.18): the MMU notifier's zap, invalid roots too; mmu_lock for write.

        shared, private: the range's attribute filter, looked at for a TD only; private defaults to a TD's.
        Whether a TLB flush is due.
        """
        return bool(self._range("unmap", start, end, hook, filter=self._filter(shared, private),
                                flush=check_bool("flush", flush), may_block=check_bool("may_block", may_block)))

    def zap_all(self) -> None:
        """kvm_tdp_mmu_zap_all() (7.3, 6.18): everything in every direct root; mirrors stay. mmu_lock for write."""
        self._run({"op": "zap_all"})

    def zap_possible_nx_huge_page(self) -> ZapNx | None:
        """kvm_tdp_mmu_zap_possible_nx_huge_page() (7.3, 6.18) of the oldest candidate; None without one. mmu_lock for
        read."""
        out = self._run({"op": "zap_nx"})
        return None if out["ret"] < 0 else ZapNx(bool(out["ret"]), out["gfn"], out["sp_level"])

    def sync_rcu(self) -> None:
        """Runs the RCU callbacks that are due (operations with no_gp leave them)."""
        self._run({"op": "sync_rcu"})

    # roots

    def invalidate_roots(self, *, direct: bool = True, mirror: bool = True) -> None:
        """kvm_tdp_mmu_invalidate_roots() (7.3, 6.18): the first half of the fast zap; mmu_lock for write. A gated
        design spares mirrors, as kvm_mmu_zap_all_fast() does."""
        types = (2 if check_bool("direct", direct) else 0) | (4 if check_bool("mirror", mirror) else 0)
        if not types:
            raise UsageError("no kind of root", "neither direct nor mirror", "one of them")
        self._run({"op": "invalidate_roots", "types": types})

    def zap_invalidated_roots(self, *, shared: bool = True, hook: Sequence[int] = ()) -> None:
        """kvm_tdp_mmu_zap_invalidated_roots() (7.3, 6.18): the second half; mmu_lock for read if ``shared``, else for
        write."""
        self._run({"op": "zap_invalidated_roots", "shared": check_bool("shared", shared)} | self._hook(hook))

    # dirty logging, write protection, ageing

    def wrprot_slot(self, start: int, end: int, *, min_level: int = 1, hook: Sequence[int] = ()) -> bool:
        """kvm_tdp_mmu_wrprot_slot() (7.3, 6.18): takes W from the leaves of [start, end) at min_level or above;
        mmu_lock for read. min_level: 1..3. Whether one changed."""
        return bool(self._range("wrprot_slot", start, end, hook, min_level=check_int("min_level", min_level, 1, 3)))

    def clear_dirty_slot(self, start: int, end: int, *, hook: Sequence[int] = ()) -> None:
        """kvm_tdp_mmu_clear_dirty_slot() (7.3, 6.18): clears D (without A/D bits: W) of the leaves; mmu_lock for
        read."""
        self._range("clear_dirty_slot", start, end, hook)

    def clear_dirty_pt_masked(self, gfn: int, mask: int, *, wrprot: bool = False) -> None:
        """kvm_tdp_mmu_clear_dirty_pt_masked() (7.3, 6.18): D or W of the 4K pages gfn + i for the bits i of mask,
        straight in the SPTEs; mmu_lock for write."""
        self._run({"op": "clear_dirty_pt_masked", "gfn": self._gfn(gfn), "mask": check_u64("mask", mask),
                   "wrprot": check_bool("wrprot", wrprot)})

    def write_protect_gfn(self, gfn: int, *, min_level: int = 1, hook: Sequence[int] = ()) -> bool:
        """kvm_tdp_mmu_write_protect_gfn() (7.3, 6.18): takes W and MMU-writable from the leaf of gfn; mmu_lock for
        write. min_level: 1..3. Whether it had them."""
        return bool(self._run({"op": "write_protect_gfn", "gfn": self._gfn(gfn),
                               "min_level": check_int("min_level", min_level, 1, 3)} | self._hook(hook))["ret"])

    def age(self, start: int, end: int, *, shared: bool = True, private: bool = False) -> bool:
        """kvm_tdp_mmu_age_gfn_range() (7.3, 6.18): was a page of [start, end) accessed? Marks them old. No lock, inside
        RCU."""
        return bool(self._range("age", start, end, filter=self._filter(shared, private)))

    def test_age(self, start: int, end: int, *, shared: bool = True, private: bool = False) -> bool:
        """kvm_tdp_mmu_test_age_gfn() (7.3, 6.18): was a page of [start, end) accessed? Changes nothing. No lock, inside
        RCU."""
        return bool(self._range("test_age", start, end, filter=self._filter(shared, private)))

    @property
    def memslot(self) -> Memslot:
        """The first memslot."""
        return self.memslots[0]

    def set_dirty_log(self, on: bool, slot: int = -1) -> None:
        """Dirty logging of a memslot, by its number, or of all (KVM_MEM_LOG_DIRTY_PAGES, under slots_lock): new
        mappings are 4K, and a writable one marks its gfn dirty at once (events "dirty"); wrprot_slot() or
        clear_dirty_slot() has the next write seen. On a TD, gated: UsageError for a slot with guest_memfd, as
        KVM's -EINVAL."""
        self._run({"op": "set_dirty_log", "on": check_bool("on", on),
                   "slot": check_int("slot", slot, -1, len(self.memslots) - 1)})

    def recover_nx_huge_pages(self, to_zap: int = 1) -> int:
        """kvm_recover_nx_huge_pages() (7.3, 6.18): the whole turn of the NX recovery worker. At most to_zap tables of
        small executable pages leave the list, and are zapped unless their memslot logs; mmu_lock for read (6.16: for
        write), SRCU and RCU. How many were zapped."""
        return self._run({"op": "recover_nx", "to_zap": check_int("to_zap", to_zap, 0, 1 << 20)})["ret"]

    def track(self, gfn: int, on: bool = True) -> None:
        """Write tracking of a gfn (at most 64): new mappings of it are read-only; mmu_lock for write. The kernel
        also runs write_protect_gfn() under that lock; without it a later fault warns that W went away."""
        if self._run({"op": "track", "gfn": self._gfn(gfn), "on": check_bool("on", on)})["ret"]:
            raise UsageError(f"track({gfn:#x})", "64 gfns are tracked", "track(..., on=False) of another")

    def set_memslots_generation(self, generation: int) -> None:
        """kvm_memslots()->generation: new MMIO SPTEs carry it. Under slots_lock in the kernel; no lock here."""
        self._run({"op": "set_gen", "gen": check_u64("generation", generation)})

    # huge pages

    def split(self, start: int, end: int, *, target_level: int = 1, shared: bool = False,
              hook: Sequence[int] = ()) -> None:
        """kvm_tdp_mmu_try_split_huge_pages() (7.3, 6.18): the huge leaves of [start, end) down to target_level;
        mmu_lock for read if ``shared``, else for write."""
        self._range("split", start, end, hook, target_level=check_int("target_level", target_level, 1, 2),
                    shared=check_bool("shared", shared))

    def gmem_convert(self, start: int, end: int, *, hook: Sequence[int] = ()) -> bool:
        """The conversion of [start, end) from private to shared, as the huge-page postings do it: huge mirror leaves
        that reach over its ends are split (designs with max_level > 1), then what is private in it is zapped, all with
        mmu_lock for write. Whether a TLB flush is due.

        What the external table refuses of a split kills the VM (`Vcpu.asserts`) but is not seen here. UsageError when
        the host has no page for a table.
        """
        ret = self._range("gmem_convert", start, end, hook)
        if ret < 0:
            raise UsageError("gmem_convert()", "no memory for a table", "Vm(..., memory_pages=more)")
        return bool(ret)

    def honor_guest_accept_level(self, gfn: int, level: int = 1, *, hook: Sequence[int] = ()) -> None:
        """tdx_honor_guest_accept_level() of the huge-page postings (RFC v3): the guest accepts gfn at ``level``, so
        what is mapped above it is split, with mmu_lock for write, and stays small: lpage_info's guest inhibit is set
        afterwards, for good. Nothing happens at 2M and above, nor in designs of 4K pages. UsageError as gmem_convert().
        """
        if self._run({"op": "honor_accept", "gfn": self._gfn(gfn), "level": check_level(level)}
                     | self._hook(hook))["ret"]:
            raise UsageError("honor_guest_accept_level()", "no memory for a table", "Vm(..., memory_pages=more)")

    def recover(self, start: int, end: int, *, max_level: int = 2, hook: Sequence[int] = ()) -> None:
        """kvm_tdp_mmu_recover_huge_pages() (7.3, 6.18) of a slot [start, end): tables become huge leaves up to
        max_level; mmu_lock for read."""
        self._range("recover", start, end, hook, max_level=check_int("max_level", max_level, 1, 3))

    # hardware

    def poke(self, gfn: int, *, set: int = 0, clear: int = 0, private: bool = False) -> int | None:
        """What hardware does to the present leaf of gfn: sets and clears bits, atomically, without a lock. The new
        SPTE, or None without a leaf, when the bits would end the mapping, or when another CPU was faster. Hardware
        walks no mirror: private=True needs an ungated design."""
        out = self._run({"op": "poke", "private": self._private(private), "gfn": self._gfn(gfn),
                         "set": check_u64("set", set), "clear": check_u64("clear", clear)})
        return out["spte"] if out["ret"] >= 0 else None

    def poke_raw(self, gfn: int, value: int, *, level: int = 1, private: bool = False) -> bool:
        """An SPTE that maps nothing is written as a bug, or a race, would: a leaf or what is not present, without a
        lock and without accounting. private=True needs an ungated design. False: no table of that level, something
        mapped there, or another CPU was faster."""
        return self._run({"op": "poke_raw", "private": self._private(private), "gfn": self._gfn(gfn),
                          "level": check_level(level), "value": check_u64("value", value)})["ret"] >= 0

    # looking

    def walk(self, gfn: int, *, private: bool | None = None, guest_mode: bool = False, smm: bool = False) -> Walk:
        """The way from the youngest valid root of that kind to gfn, level by level, with every field; str() of it is
        for people. Reads the tables as they stand, without a lock. UsageError without such a root."""
        private, gfn = self._private(private), self._gfn(gfn)
        kind = private, check_bool("guest_mode", guest_mode), check_bool("smm", smm)
        for root in reversed(self.roots):
            if (root.is_mirror, root.guest_mode, root.smm) == kind and not root.invalid:
                return _walk.walk(self, root, gfn, private)
        raise UsageError(f"no valid {'mirror' if private else 'direct'} root", "it was invalidated, or never made",
                         "vm.reload(), or the other kind of gfn")

    def entries(self, root: Table) -> Iterator[Entry]:
        """Every entry below a root that is not empty, pre-order."""
        if not isinstance(root, Table):
            raise UsageError(f"bad root {shown(root)}", "not a Table", "one of vm.roots")
        check_int("root", root.index, 0, self.npages - 1)
        return _walk.entries(self, root)

    def dump(self) -> str:
        """Every root and all below it, as text; leaves in a row are one line."""
        return "\n".join(_walk.dump_lines(self))

    @property
    def roots(self) -> list[Table]:
        """The roots that exist, valid or not, in order of creation."""
        found = (_walk.table(self, index) for index in root_indexes(self.core))
        return [root for root in found if root is not None]

    def sp(self, index: int) -> Table | None:
        """The descriptor (struct kvm_mmu_page) of a page of the arena; None for a free page."""
        return _walk.table(self, check_int("index", index, 0, max(self.npages - 1, 0)))

    @property
    def npages(self) -> int:
        """Pages of the arena that were ever used."""
        return len(self.arena)

    @property
    def arena(self) -> np.ndarray:
        """All page-table pages as they are now, (n, 512) uint64, read-only, nothing copied.

        The array keeps the VM's memory alive; pages used for the first time later are not in it.
        """
        return np.frombuffer(memoryview(ArenaView(self.core)), np.uint64).reshape(-1, 512)

    def writable_arena(self) -> np.ndarray:
        """The same, but writable: what hardware, or a bug, might do. Nothing is checked."""
        return np.frombuffer(memoryview(ArenaView(self.core, True)), np.uint64).reshape(-1, 512)

    def table(self, sp: int | Table) -> np.ndarray:
        """The 512 SPTEs of one page-table page (its index or its descriptor): a read-only view, not a copy."""
        index = sp.index if isinstance(sp, Table) else sp
        arena = self.arena
        return arena[check_int("table", index, 0, len(arena) - 1)]

    def decode_table(self, sp: int | Table) -> np.ndarray:
        """All fields of the 512 SPTEs of a table, of SPTE_DTYPE, in one native call."""
        index = sp.index if isinstance(sp, Table) else check_int("table", sp, 0, self.npages - 1)
        page = self.sp(index)
        if page is None:
            return np.zeros(512, SPTE_DTYPE)
        return self.spte.unpack(self.table(index), page.level, mmio_value=self.mmio_value)

    @property
    def stats(self) -> dict[str, int]:
        """Statistics: pages_4k, pages_2m, pages_1g, nx_lpage_splits (the kernel's debugfs names), sp_linked
        (tables without roots), sp_live (with roots), vm_bugged, nx_possible, mmio_created, external_live."""
        return self.core.stats()

    @property
    def events(self) -> np.ndarray:
        """Trace of vCPU 0: see `Vcpu.events`."""
        return self.vcpus[0].events

    def records(self) -> Iterator[Record]:
        """Trace of vCPU 0, readable."""
        return self.vcpus[0].records()

    def clear_events(self) -> None:
        """Drops the events of every vCPU."""
        for vcpu in self.vcpus:
            vcpu.clear_events()

    # checking

    def _raise_hook_error(self) -> None:
        """Raises what a hook raised first since the last time, if anything; until then it counted as -EIO."""
        self.core.raise_hook_error()

    def _check_hook(self) -> None:
        """UsageError in a hook of this VM: what it waited for there would never come."""
        if self._in_hooks and get_ident() in self._in_hooks:
            raise UsageError("a call from a hook", "the operation that called it holds locks",
                             "it after the operation has returned")

    def _check_alive(self) -> None:
        if self._ended is not None:
            raise VmEnded(*self._ended.args)

    def _run(self, fields: dict[str, Any]) -> dict[str, Any]:
        return self.vcpus[0]._run(fields)

    def _range(self, name: str, start: int, end: int, hook: Sequence[int] = (), **fields: Any) -> int:
        start = check_int("start", start, 0, self.max_gfn)
        end = check_int("end", end, start, MAX_GFN + 1)
        return self._run({"op": name, "start": start, "end": end} | fields | self._hook(hook))["ret"]

    def _gfn(self, gfn: int) -> int:
        return check_int("gfn", gfn, 0, self.max_gfn)

    def _private(self, private: bool | None) -> bool:
        if private is None:
            return self.tdx
        if check_bool("private", private) and not self.tdx:
            raise UsageError("private memory", "the VM is not a TD", "private=False, or Vm(tdx=True)")
        return bool(private)

    def _filter(self, shared: bool, private: bool | None) -> int:
        if private is None:
            private = self.tdx
        shared, private = check_bool("shared", shared), check_bool("private", private)
        if not shared and not private:
            raise UsageError("an empty filter", "neither shared nor private", "one of them")
        return (1 if shared else 0) | (2 if private else 0)

    def _hook(self, values: Sequence[int]) -> dict[str, Any]:
        if not isinstance(values, (list, tuple)):
            raise UsageError(f"hook is {shown(values)}", "not a list", "a list of values that the hooks return")
        return {"hook": [check_int("hook return", value, -4095, 0) for value in values]} if values else {}

    def _fault(self, gfn: int, pfn: int, level: int, write: bool, exec_: bool, user: bool, prefetch: bool,
               map_writable: bool, private: bool | None, noslot: bool, guest_mode: bool = False,
               smm: bool = False) -> dict[str, Any]:
        if (guest_mode or smm) and self.tdx:
            raise UsageError("a fault of L2, or in system management mode, of a TD", "KVM runs neither in one",
                             "Vm(tdx=False)")
        return {"op": "map", "guest_mode": check_bool("guest_mode", guest_mode), "smm": check_bool("smm", smm),
                "gfn": self._gfn(gfn), "pfn": check_int("pfn", pfn, 0, MAX_PFN - 1),
                "level": check_int("level", level, 1, 3), "write": check_bool("write", write),
                "exec": check_bool("exec", exec_), "user": check_bool("user", user),
                "prefetch": check_bool("prefetch", prefetch), "map_writable": check_bool("map_writable", map_writable),
                "private": self._private(private), "noslot": check_bool("noslot", noslot)}
