"""vCPUs: what one CPU of a VM does, and what its operations answer (see vm.py)."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tdpfast._arguments import MAX_PFN, check_bool, check_int, one_of, shown
from tdpfast._face.batch import VcpuCore
from tdpfast._face.vm import as_u64
from tdpfast._names import Errno
from tdpfast.errors import UsageError, VmEnded
from tdpfast.events import ASSERT_KINDS
from tdpfast.ops import MODIFIERS, OPS, TD_MODIFIERS, check_op, spec_of
from tdpfast.trace import EVENT_DTYPE, Record, records

if TYPE_CHECKING:
    from tdpfast.vm import Vm

EINVAL = -22


class RetPf(IntEnum):
    """RET_PF_*: how a fault ended."""

    RET_PF_CONTINUE = 0
    RET_PF_RETRY = 1
    RET_PF_EMULATE = 2
    RET_PF_WRITE_PROTECTED = 3
    RET_PF_INVALID = 4
    RET_PF_FIXED = 5
    RET_PF_SPURIOUS = 6


_RET_PF = tuple(RetPf)
_REFUSALS = {Errno.EFAULT: "the gfn is not what the fault takes it for, or its memslot has no guest_memfd",
             Errno.EAGAIN: "its memslot is going away"}


def _answer(ret: int) -> RetPf:
    """What a fault answered; UsageError for an errno, with which KVM goes back to user space."""
    if ret >= 0:
        return _RET_PF[ret]
    code = Errno(-ret)
    raise UsageError(f"a fault that ends in -{code.name}", _REFUSALS.get(code, "KVM gave up"),
                     "another gfn, or kind of memory")


class MapResult(NamedTuple):
    """What a fault did."""

    ret: RetPf
    level: int
    """fault->goal_level at the end."""
    pfn: int
    """fault->pfn at the end: of the first page of the mapping."""
    tries: int
    """Rounds, more than 1 only with retries."""


class GetWalk(NamedTuple):
    """kvm_tdp_mmu_get_walk()."""

    leaf: int
    """Lowest level read; -1 without a root or for an impossible gfn."""
    root_level: int
    sptes: dict[int, int]
    """Level -> SPTE."""


class FastPfLast(NamedTuple):
    """kvm_tdp_mmu_fast_pf_get_last_sptep()."""

    index: int      # type: ignore[assignment]  # hides tuple.index
    """Entry within its table; -1 = no root."""
    level: int
    spte: int


class ZapNx(NamedTuple):
    """One step of NX huge page recovery."""

    zapped: bool
    """False: the table was not there any more."""
    gfn: int
    level: int
    """The table's level."""


class Asserts(NamedTuple):
    """Assertions of one kind on one CPU."""

    count: int      # type: ignore[assignment]  # hides tuple.count
    function: str | None
    """Kernel function of the first."""
    id: str | None


class Vcpu:
    """One vCPU of a VM: its roots, its trace, and what a vCPU does. Made by Vm, never directly.

    Thread-safety: different vCPUs of a VM may be used from different threads at the same time, and native code
    then runs concurrently, without the GIL. Calls on one vCPU wait for each other.
    """

    def __init__(self, vm: Vm, core: VcpuCore):
        self.vm = vm
        self._core = core
        self._lock = threading.RLock()      # a signal handler may call in the middle of a call
        self._modifiers: dict[str, Any] = {}
        self._core.set_tracing(vm.trace != "off")

    def __repr__(self) -> str:
        return f"<Vcpu {self.id} of {self.vm!r}>"

    @property
    def id(self) -> int:
        """Number of the CPU, from 0."""
        return self._core.id

    @property
    def asserts(self) -> dict[str, Asserts]:
        """Kernel assertions that fired on this vCPU: WARN, KVM_BUG_ON, BUG, LOCKDEP."""
        return {kind: Asserts(*values) for kind, values in zip(ASSERT_KINDS, self._core.asserts())}

    def run(self, op: Mapping[str, Any]) -> dict[str, Any]:
        """One operation as the conformance files and the scenarios write it: ``{"op": "map", "gfn": 1536, ...}``.

        Fields are those of `OPS`; what is left out has the recordings' default, which is not always the method's: a
        map, say, is shared unless it says private = 1. Returns ``ret`` and what else the operation answers.
        """
        fields = dict(op) if isinstance(op, Mapping) else {}
        spec_of(fields.get("op"), self.vm.on_module)
        for key in ("gfn", "start"):
            if key in fields and as_u64(fields[key], key) > self.vm.max_gfn:
                raise UsageError(f"{key} {shown(fields[key])} of op {fields['op']!r}", "no gfn of this VM",
                                 f"0..{self.vm.max_gfn:#x}, without the shared bit")
        if "vcpu" in fields:
            check_int("vcpu", as_u64(fields["vcpu"], "vcpu"), 0, self.vm._guests() - 1)
        return self._run(fields)

    @contextmanager
    def modifiers(self, **modifiers: Any) -> Iterator[None]:
        """What happens beside this vCPU's operations within a ``with``; each is as `MODIFIERS` in tdpfast.ops has it.

            with vm.modifiers(resched=1):                        # yields at every chance
                vm.zap_all()
            with vm.modifiers(race=[0, "hw", 1 << 9, 0]):        # another CPU's write before the first atomic
                vm.age(0, 512)

        map_range() and walk_many() are not to be had within. UsageError for an unknown modifier.
        """
        known = TD_MODIFIERS if self.vm.on_module else MODIFIERS
        for name in modifiers:
            if name not in known:
                raise UsageError(f"modifier {name!r}", "unknown", one_of(known))
        check_op({"op": "sync_rcu"} | modifiers, td=self.vm.on_module)
        before = self._modifiers
        self._modifiers = before | modifiers
        try:
            yield
        finally:
            self._modifiers = before

    def __reduce__(self) -> Any:
        raise UsageError("a copy of a vCPU", "it belongs to its VM", "vm.create_vcpu()")

    def _run(self, fields: dict[str, Any]) -> dict[str, Any]:
        vm = self.vm
        vm._check_hook()
        if self._modifiers:
            fields = self._modifiers | fields
        spec = OPS[fields["op"]]
        with vm._slots_lock if spec.slots_lock else nullcontext(), self._lock:
            vm._check_alive()
            if vm.trace == "last":
                self._core.clear()
            out = self._core.run(fields)
            ended = self._end() if out["ret"] in ("BUG", "LIVELOCK") else None
        vm._raise_hook_error()
        if ended is not None:
            raise ended
        if out["ret"] == EINVAL and spec.refused and vm.tdx and not vm.design.ungated:
            why = ("hardware walks no mirror" if spec.refused == "private" else
                   "guest_memfd memslots know no dirty log, so that KVM never gets here")
            raise UsageError(f"{fields['op']} on a TD", why, "a memslot without guest_memfd for what is shared, or "
                             "Vm(..., ungated=True)" if spec.refused == "slot" else "Vm(..., ungated=True)")
        return out

    def _check_unmodified(self, what: str) -> None:
        if self._modifiers:
            raise UsageError(f"{what}() within modifiers()", "they are about single operations", "map() or get_walk()")

    def _end(self) -> VmEnded:
        """The exception that tells how an operation of this vCPU ended the VM; all later ones raise it too."""
        bug = self.asserts["BUG"]
        self.vm._ended = VmEnded("BUG" if bug.count else "LIVELOCK", bug.function, bug.id)
        return VmEnded(*self.vm._ended.args)

    # faults

    def map(self, gfn: int, pfn: int, level: int = 1, *, write: bool = True, exec: bool = False, user: bool = False,
            prefetch: bool = False, map_writable: bool = True, private: bool | None = None, noslot: bool = False,
            retries: int = 0, hook: Sequence[int] = (), guest_mode: bool = False, smm: bool = False) -> MapResult:
        """A page fault: kvm_tdp_mmu_map() (7.3, 6.18), mmu_lock for read.

        vCPU 0 faults in the roots it has: after invalidate_roots() that is a WARN, until reload(). A vCPU of
        create_vcpu() takes valid roots before each try, as the kernel does on the way into the guest.

        Args:
            gfn: guest frame number, without the shared bit.
            pfn: host frame number, of the gfn itself.
            level: fault->max_level; slot, dirty logging and the design may lower it.
            write exec user: the access. prefetch: nobody asked; map_writable: the host page is writable.
            private: to the mirror; default: a TD's faults are. noslot: no memslot, so an MMIO SPTE.
            retries: how often RET_PF_RETRY goes round again, as tdx_handle_ept_violation() does; -1 = until
                something else comes.
            hook: what the external hooks return, in order, then 0.
            guest_mode, smm: L2, or system management mode, runs: the fault is in the root of that role, which the vCPU
                takes if it has none. Not for private memory.
        """
        vm = self.vm
        if guest_mode or smm:
            private = bool(private)
        if guest_mode or smm or not (type(gfn) is int and type(pfn) is int and type(level) is int
                and type(retries) is int and type(hook) is tuple and not hook and retries == 0 and not self._modifiers
                and 0 <= gfn <= vm.max_gfn and 0 <= pfn < MAX_PFN and 1 <= level <= 3):
            fields = vm._fault(gfn, pfn, level, write, exec, user, prefetch, map_writable, private, noslot,
                               guest_mode, smm)
            gfn, pfn, level = fields["gfn"], fields["pfn"], fields["level"]
            retries = check_int("retries", retries, -1, 1 << 30)
            script = vm._hook(hook)
            if script or self._modifiers or guest_mode or smm:
                out = self._run(fields | {"retries": retries} | script)
                return MapResult(_answer(out["ret"]), out["level"], out["pfn"], out["tries"])
        private = vm.tdx if private is None else vm._private(private)
        if vm._in_hooks:
            vm._check_hook()
        with self._lock:
            vm._check_alive()
            if vm.trace == "last":
                self._core.clear()
            got = self._core.fault(gfn, pfn, level, write, exec, user, prefetch, map_writable, private, noslot,
                                   retries)
            ended = self._end() if got is None else None
        if vm.core.hook_error is not None:
            vm._raise_hook_error()
        if got is None:
            assert ended is not None
            raise ended
        return MapResult(_answer(got[0]), *got[1:])

    def fast_page_fault(self, gfn: int, *, write: bool = True, exec: bool = False, user: bool = False,
                        present: bool = True, private: bool = False, guest_mode: bool = False,
                        smm: bool = False) -> RetPf:
        """fast_page_fault() (7.3, 6.18): gives the direct root's leaf of gfn its permissions back with one cmpxchg,
        tried up to five times. No lock, inside RCU.

        Write permission for what only dirty logging protects, and what access tracking took. Answers
        RET_PF_FIXED, RET_PF_SPURIOUS, or RET_PF_INVALID: the caller takes the slow path, `map()`.

        Args:
            gfn: guest frame number, without the shared bit.
            write exec user: the access. present: the error code says that something was mapped; without it
                there is nothing to do unless KVM tracks accesses in the SPTEs (``mmu`` "ept_noad").
            private: a fault on private memory: never fast. guest_mode, smm: as in `map()`.
        """
        return _RET_PF[self._run({"op": "fast_page_fault", "gfn": self.vm._gfn(gfn),
                                  "write": check_bool("write", write), "exec": check_bool("exec", exec),
                                  "user": check_bool("user", user), "present": check_bool("present", present),
                                  "private": self.vm._private(private),
                                  "guest_mode": check_bool("guest_mode", guest_mode),
                                  "smm": check_bool("smm", smm)})["ret"]]

    def map_range(self, gfn: int, pfn: int, n: int, level: int = 1, *, write: bool = True, exec: bool = False,
                  user: bool = False, prefetch: bool = False, map_writable: bool = True,
                  private: bool | None = None, noslot: bool = False) -> dict[RetPf, int]:
        """n faults on consecutive pages of ``level``, in one native call without the GIL; how often each RET_PF_*.

        Leaves the SPTEs, events and statistics of n calls of map(). mmu_lock is held for read for up to 512
        faults at a time, and the walk goes on where the last fault ended; what one walk cannot serve (a frozen
        SPTE, a lost cmpxchg, a slot boundary) goes through a fault of its own.
        """
        self._check_unmodified("map_range")
        fields = self.vm._fault(gfn, pfn, level, write, exec, user, prefetch, map_writable, private, noslot)
        gfn, pfn = fields["gfn"], fields["pfn"]
        pages = 1 << 9 * (fields["level"] - 1)
        n = check_int("n", n, 0, (self.vm.max_gfn + 1 - gfn) // pages)
        if gfn % pages or pfn % pages:
            raise UsageError(f"gfn {gfn:#x}, pfn {pfn:#x}", f"not aligned to level {level}", f"multiples of {pages}")
        check_int("pfn of the last page", pfn + n * pages, 0, MAX_PFN)
        self.vm._check_hook()
        with self._lock:
            self.vm._check_alive()
            if self.vm.trace == "last":
                self._core.clear()
            counts = self._core.map_range(fields, n)
            ended = self._end() if self._core.vm.ended else None
        self.vm._raise_hook_error()
        if ended is not None:
            raise ended
        return {RetPf(ret): count for ret, count in counts.items()}

    # roots

    def reload(self) -> int:
        """kvm_mmu_reload() (7.3, 6.18): puts roots that were invalidated and takes valid ones, mirror first, and those
        it has none of; mmu_lock for read. 2 if the mirror root was replaced plus 1 if the direct root was.

        UsageError when the host has no page for a root.
        """
        with self._lock:
            ret = self._run({"op": "reload"})["ret"]
            for private in self.vm._kinds:
                self._core.run({"op": "alloc_root", "private": private})
                if not self._core.has_roots[private]:
                    raise UsageError("reload()", "no memory for a root", "Vm(..., memory_pages=more)")
        return ret

    def alloc_root(self, *, private: bool | None = None) -> None:
        """kvm_tdp_mmu_alloc_root() (7.3, 6.18), if this vCPU has no root of that kind: a reference to the valid one, or
        a new one; mmu_lock for read, tdp_mmu_pages_lock. private: the mirror root; default: a TD's. Without memory
        nothing happens."""
        self._run({"op": "alloc_root", "private": self.vm._private(private)})

    def put_root(self, *, private: bool | None = None) -> None:
        """kvm_tdp_mmu_put_root() (7.3, 6.18) of this vCPU's root of that kind, if it has one; mmu_lock for read."""
        self._run({"op": "put_root", "private": self.vm._private(private)})

    def put_roots(self) -> None:
        """Drops this vCPU's references to its roots: kvm_tdp_mmu_put_root(), mmu_lock for read."""
        self._run({"op": "put_roots"})

    # lookups

    def get_walk(self, gfn: int, *, private: bool | None = None) -> GetWalk:
        """kvm_tdp_mmu_get_walk() (7.3, 6.18): the SPTEs on the way to gfn. Lockless, inside RCU.

        KVM itself only walks the direct root; private=True does the same on the mirror.
        """
        private = self.vm._private(private)
        out = self._run({"op": "mwalk" if private else "get_walk", "gfn": self.vm._gfn(gfn)})
        return GetWalk(out["ret"], out["root_level"], out["sptes"])

    def fast_page_fault_last_sptep(self, gfn: int) -> FastPfLast:
        """kvm_tdp_mmu_fast_pf_get_last_sptep() (7.3, 6.18): the last SPTE of a walk to gfn in the direct root. Inside
        RCU."""
        out = self._run({"op": "fast_pf_last", "gfn": self.vm._gfn(gfn)})
        return FastPfLast(out["ret"], out["level"], out["spte"])

    def walk_many(self, gfns: Any, *, private: bool | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Where the walks of many gfns end: (SPTEs as uint64, levels as uint8), of the shape of ``gfns``.

        One native call without the GIL, lockless, inside RCU for up to 4096 gfns at a time; level 0 = no root.
        Neighbouring gfns share the way down; scattered gfns over many tables are looked up side by side.
        """
        self._check_unmodified("walk_many")
        private = self.vm._private(private)
        try:
            array = np.asarray(gfns)
        except Exception as error:
            raise UsageError("bad gfns", str(error), "an array of integers") from None
        if not array.size:
            array = array.astype(np.uint64)
        if array.dtype.kind not in "iu" or (array.size and not 0 <= int(array.min()) <= int(array.max())
                                            <= self.vm.max_gfn):
            raise UsageError("bad gfns", f"dtype {array.dtype}, or out of range", f"integers 0..{self.vm.max_gfn:#x}")
        flat = np.require(array.reshape(-1), np.uint64, ["C", "A"])
        sptes, levels = np.empty(flat.shape, np.uint64), np.empty(flat.shape, np.uint8)
        self.vm._check_hook()
        with self._lock:
            self.vm._check_alive()
            self._core.walk_many(private, flat, sptes, levels)
        return sptes.reshape(array.shape), levels.reshape(array.shape)

    # trace

    @property
    def events(self) -> np.ndarray:
        """What happened on this vCPU, of EVENT_DTYPE (a copy): in the last operation, or since clear_events()
        when the VM's ``trace`` is "all"."""
        self.vm._check_hook()
        with self._lock:
            out = np.empty(self._core.nevents, EVENT_DTYPE)
            self._core.copy_events(out.view(np.uint8))
        return out

    def records(self) -> Iterator[Record]:
        """The events, readable."""
        return records(self.events)

    def clear_events(self) -> None:
        """Drops the events."""
        self.vm._check_hook()
        with self._lock:
            self._core.clear()
