"""SPTEs: the page table entries of KVM's x86 TDP MMU, as Linux 6.18 and 7.3 lay them out.

The functions carry the names of ``arch/x86/kvm/mmu/spte.{h,c}`` and do what they do there. They are
methods of a `SpteConfig`, since a mask is a property of the machine that KVM was loaded on. Wherever a
method takes an SPTE it takes one ``int`` and answers with a Python value, or a numpy array of any shape
and answers with an array of that shape, computed by a native loop that does not hold the GIL.

    >>> config = SpteConfig(layout="7.3", mmu="ept_ad")
    >>> config.is_writable_pte(0x80a0000100600f77)
    True
    >>> hex(config.make_nonleaf_spte(0x40327aa000))
    '0x80000040327aad07'
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tdpfast._arguments import (
    INTEGERS,
    MAX_PFN,
    U64_MAX,
    any_array,
    check_bool,
    check_int,
    check_level,
    check_u64,
    level_array,
    one_of,
    shown,
    spte_array,
)
from tdpfast._face.spte_cells import SpteCells
from tdpfast._face.spte_format import SpteFormat
from tdpfast.errors import UsageError

__all__ = ["LAYOUTS", "MMUS", "SPTE_DTYPE", "MakeSpte", "SpteCells", "SpteConfig"]

LAYOUTS = {"6.18": 618, "7.3": 703}
"""Names of the layouts, by the first release that has them; 7.2 is laid out as 7.3."""

Truths = Any
"""A bool of an int, an array of bools of an array."""
Numbers = Any
"""An int of an int, an array of uint64 of an array."""

MMUS = {"ept_ad": 0, "ept_noad": 1, "npt": 2}
"""EPT with and without accessed and dirty bits, and AMD's nested page tables."""

SPTE_DTYPE = np.dtype([
    ("pfn", "u8"), ("gfn", "u8"), ("other", "u8"), ("generation", "u4"), ("saved", "u2"),
    ("present", "?"), ("frozen", "?"), ("mmio", "?"), ("leaf", "?"),
    ("read", "?"), ("write", "?"), ("exec", "?"), ("user_exec", "?"), ("user", "?"),
    ("accessed", "?"), ("dirty", "?"), ("memtype", "u1"), ("ipat", "?"), ("large", "?"),
    ("host_writable", "?"), ("mmu_writable", "?"), ("ad_type", "u1"), ("suppress_ve", "?"),
    ("mmio_access", "u1"),
], align=True)
"""One unpacked SPTE.

=====================================  =============================================================
``present``                            the MMU-present bit (11); the fields below it are 0 without it
``frozen``                             exactly the FROZEN value: somebody is changing this SPTE
``mmio``                               an MMIO SPTE: ``gfn``, ``generation``, ``mmio_access`` (ACC_*)
``leaf``                               present and maps memory at the level asked about; not packed
``pfn``                                page frame number: of the memory, or of the next table
``read write exec user_exec user``     permissions; on NPT ``exec`` is the absence of NX
``accessed dirty``                     A and D, also where only software looks at them
``memtype ipat``                       EPT memory type (0 UC, 6 WB) and ignore-PAT
``large``                              bit 7
``host_writable mmu_writable``         KVM's two software writable bits
``ad_type``                            0 A/D enabled, 1 disabled, 2 write-protect only
``saved``                              the R, X, XU bits that access tracking put away, as 1, 4, 0x400
``suppress_ve``                        EPT bit 63
``other``                              what differs between the SPTE and what the fields stand for
=====================================  =============================================================
"""


class MakeSpte(NamedTuple):
    """What make_spte() answers."""

    spte: int
    wrprot: bool
    """The return value: the gfn is write-tracked, so the SPTE is read-only."""
    dirty: bool
    """mark_page_dirty_in_slot() was called."""
    warns: list[tuple[str, str, str]]
    """Assertions that fired: (kind, kernel function, id)."""


@dataclass(frozen=True)
class SpteConfig:
    """The SPTE format of a VM: what KVM computes when it is loaded (kvm_mmu_reset_all_pte_masks(),
    kvm_mmu_set_ept_masks()).

    Args:
        layout: "7.3" (also 7.2) or "6.18".
        mmu: "ept_ad", "ept_noad" or "npt".
        maxphyaddr: bits of a host physical address, 32..52.
        l1tf: the CPU has L1TF, so non-present SPTEs get flipped address bits.
        cache_bits: address bits of the L1D, for L1TF; 0 = as many as x86_phys_bits.
        exec_only: EPT supports execute-only entries; only 6.18 looks at it.

    Raises:
        UsageError: an argument is none of these.
    """

    layout: str = "7.3"
    mmu: str = "ept_ad"
    maxphyaddr: int = 52
    l1tf: bool = False
    cache_bits: int = 0
    exec_only: bool = True
    masks: Mapping[str, Any] = field(init=False, repr=False, compare=False)
    """Every number of the format by its name in struct SpteCfg, for example ``frozen_spte``."""
    _format: SpteFormat = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.layout, str) or self.layout not in LAYOUTS:
            raise UsageError(f"no layout {shown(self.layout)}", "not a known release", one_of(LAYOUTS))
        if not isinstance(self.mmu, str) or self.mmu not in MMUS:
            raise UsageError(f"no mmu {shown(self.mmu)}", "not a known kind", one_of(MMUS))
        cache_bits = check_int("cache_bits", self.cache_bits, 0, 52)
        values = {"maxphyaddr": check_int("maxphyaddr", self.maxphyaddr, 32, 52),
                  "l1tf": check_bool("l1tf", self.l1tf),
                  "cache_bits": cache_bits and check_int("cache_bits", cache_bits, 32, 52),
                  "exec_only": check_bool("exec_only", self.exec_only)}
        for name, value in values.items():
            object.__setattr__(self, name, value)
        native = SpteFormat(LAYOUTS[self.layout], MMUS[self.mmu], self.maxphyaddr, self.l1tf, self.cache_bits,
                            self.exec_only)
        object.__setattr__(self, "_format", native)
        object.__setattr__(self, "masks", MappingProxyType(native.masks()))

    def __reduce__(self) -> Any:
        return SpteConfig, (self.layout, self.mmu, self.maxphyaddr, self.l1tf, self.cache_bits,
                            self.exec_only)

    @property
    def FROZEN_SPTE(self) -> int:
        """The value of an SPTE while somebody is changing it."""
        return self.masks["frozen_spte"]

    @property
    def SHADOW_NONPRESENT_VALUE(self) -> int:
        """The value of an empty SPTE."""
        return self.masks["nonpresent"]

    @property
    def ACC_ALL(self) -> int:
        """Every ACC_* bit of this layout (6.18: X 1, W 2, U 4; 7.3: R 1, W 2, UX 4, X 8)."""
        return self.masks["acc_all"]

    def unpack(self, values: ArrayLike, level: ArrayLike = 1, *, mmio_value: int | None = None) -> np.ndarray:
        """All fields of SPTEs.

        Args:
            values: an int or uint64 array of any shape.
            level: PG_LEVEL 1..5, one or an array that broadcasts to ``values``; decides ``leaf``.
            mmio_value: kvm->arch.shadow_mmio_value; default: of a VM that is not a TD (a TD has 0).

        Returns:
            Array of SPTE_DTYPE of the shape of ``values``.
        """
        flat, shape = spte_array("values", values)
        out = np.empty(flat.shape, SPTE_DTYPE)
        self._format.unpack_array(flat, level_array(level, shape), self._mmio(mmio_value),
                                  out.view(np.uint8))
        return out.reshape(shape)

    def pack(self, records: np.ndarray, *, mmio_value: int | None = None) -> np.ndarray:
        """SPTEs from their fields: ``pack(unpack(x)) == x`` for every x.

        ``frozen`` goes before ``present`` before ``mmio``; with none the SPTE is empty. Then the bits
        of ``other`` are flipped.

        Raises:
            UsageError: not SPTE_DTYPE, or a field is too wide for its place.
        """
        records = any_array("records", records)
        if records.dtype != SPTE_DTYPE:
            raise UsageError("cannot pack these records", f"their dtype is {records.dtype}",
                             "an array of tdpfast.spte.SPTE_DTYPE")
        flat = np.require(records.reshape(-1), requirements=["C", "A"])
        out = np.empty(flat.shape, np.uint64)
        bad = self._format.pack_array(flat.view(np.uint8), self._mmio(mmio_value), out)
        if bad >= 0:
            raise UsageError(f"cannot pack record {bad}", "a field is too wide for its place",
                             "pfn and gfn < 2**40, memtype < 8, ad_type < 4, saved, generation and "
                             "mmio_access within their masks")
        return out.reshape(records.shape)

    # make and modify

    def make_spte(self, *, level: int, access: int, gfn: int, pfn: int, old_spte: int | None = None,
                  prefetch: bool = False, synchronizing: bool = False, host_writable: bool = True,
                  nx_huge_pages: bool = False, tracked: bool = False, dirty_log: bool = False,
                  ad_disabled: bool | None = None, guest_mode: bool = False, pml: bool = False,
                  ipat: bool = False) -> MakeSpte:
        """make_spte(): a leaf. ``tracked``: mmu_try_to_unsync_pages() refuses gfn; ``pml``:
        kvm->arch.cpu_dirty_log_size != 0; ``ad_disabled`` defaults to that of a root of this MMU."""
        if ad_disabled is None:
            ad_disabled = not self.masks["kvm_ad_enabled"]
        old = self.SHADOW_NONPRESENT_VALUE if old_spte is None else old_spte
        return MakeSpte(*self._format.make_spte(
            check_level(level), check_int("access", access, 0, self.ACC_ALL), check_int("gfn", gfn, 0, U64_MAX),
            check_int("pfn", pfn, 0, MAX_PFN - 1), check_u64("old_spte", old), check_bool("prefetch", prefetch),
            check_bool("synchronizing", synchronizing), check_bool("host_writable", host_writable),
            check_bool("nx_huge_pages", nx_huge_pages), check_bool("tracked", tracked),
            check_bool("dirty_log", dirty_log), check_bool("ad_disabled", ad_disabled),
            check_bool("guest_mode", guest_mode), check_bool("pml", pml), check_bool("ipat", ipat)))

    def make_nonleaf_spte(self, child_pa: int, ad_disabled: bool | None = None) -> int:
        """make_nonleaf_spte() for the table at physical address ``child_pa``."""
        if ad_disabled is None:
            ad_disabled = not self.masks["kvm_ad_enabled"]
        return self._format.make_nonleaf_spte(check_u64("child_pa", child_pa), check_bool("ad_disabled", ad_disabled))

    def make_small_spte(self, huge_spte: int, level: int, access: int, index: int,
                        nx_huge_pages: bool = False) -> tuple[int, list]:
        """make_small_spte(): child ``index`` of a huge leaf; ``level`` and ``access`` are the
        child's. Returns (spte, assertions that fired)."""
        return self._format.make_small_spte(
            check_u64("huge_spte", huge_spte), check_level(level), check_int("access", access, 0, self.ACC_ALL),
            check_int("index", index, 0, 511), check_bool("nx_huge_pages", nx_huge_pages))

    def make_huge_spte(self, small_spte: int, level: int,
                       nx_huge_pages: bool = False) -> tuple[int, list]:
        """make_huge_spte(): the leaf of ``level`` around a small one. Returns (spte, assertions)."""
        return self._format.make_huge_spte(check_u64("small_spte", small_spte), check_level(level),
                                           check_bool("nx_huge_pages", nx_huge_pages))

    def make_mmio_spte(self, gfn: int, access: int, generation: int,
                       mmio_value: int | None = None) -> int:
        """make_mmio_spte(); ``generation`` of the memslots, cut to what fits."""
        return self._format.make_mmio_spte(
            self._mmio(mmio_value), check_int("gfn", gfn, 0, (1 << 52) - 1),
            check_int("access", access, 0, self.ACC_ALL), check_u64("generation", generation))

    def mark_spte_for_access_track(self, values: ArrayLike) -> Numbers:
        """mark_spte_for_access_track(); see access_track_warns() for what it complains of."""
        return self._map(5, values)

    def access_track_warns(self, values: ArrayLike) -> list[tuple[str, str, str]]:
        """The assertions of mark_spte_for_access_track() on any of the values."""
        flat, _ = spte_array("values", values)
        return self._format.map_array(5, flat, np.empty_like(flat))

    def restore_acc_track_spte(self, values: ArrayLike) -> Numbers:
        """restore_acc_track_spte()"""
        return self._map(4, values)

    def check_spte_writable_invariants(self, spte: int) -> list[tuple[str, str, str]]:
        """check_spte_writable_invariants(): the assertions that fire on one SPTE."""
        return self._format.check_spte_writable_invariants(check_u64("spte", spte))

    # extract

    def spte_to_pfn(self, values: ArrayLike) -> Numbers:
        """spte_to_pfn(): bits 51:12 as a frame number."""
        return self._map(0, values)

    def spte_to_child_pa(self, values: ArrayLike) -> Numbers:
        """spte_to_child_pt()'s physical address: bits 51:12 in place."""
        return self._map(1, values)

    def get_mmio_spte_generation(self, values: ArrayLike) -> Numbers:
        """get_mmio_spte_generation() of MMIO SPTEs."""
        return self._map(2, values)

    def get_mmio_spte_gfn(self, values: ArrayLike) -> Numbers:
        """get_mmio_spte_gfn() of MMIO SPTEs."""
        return self._map(3, values)

    # predicates: bool for an int, bool array for an array

    def is_shadow_present_pte(self, values: ArrayLike, level: ArrayLike = 1) -> Truths:
        """is_shadow_present_pte(): the MMU-present bit."""
        return self._pred(0, values, level)

    def is_mmio_spte(self, values: ArrayLike, level: ArrayLike = 1, *, mmio_value: int | None = None) -> Truths:
        """is_mmio_spte() for a VM whose shadow_mmio_value is ``mmio_value``."""
        return self._pred(1, values, level, self._mmio(mmio_value))

    def is_frozen_spte(self, values: ArrayLike, level: ArrayLike = 1) -> Truths:
        """is_frozen_spte()"""
        return self._pred(2, values, level)

    def is_ept_ve_possible(self, values: ArrayLike, level: ArrayLike = 1) -> Truths:
        """is_ept_ve_possible(): an access may raise #VE in the guest."""
        return self._pred(3, values, level)

    def is_large_pte(self, values: ArrayLike, level: ArrayLike = 1) -> Truths:
        """is_large_pte(): bit 7."""
        return self._pred(4, values, level)

    def is_last_spte(self, values: ArrayLike, level: ArrayLike = 1) -> Truths:
        """is_last_spte(): a leaf, if present."""
        return self._pred(5, values, level)

    def spte_ad_enabled(self, values: ArrayLike, level: ArrayLike = 1) -> Truths:
        """spte_ad_enabled()"""
        return self._pred(6, values, level)

    def spte_ad_need_write_protect(self, values: ArrayLike, level: ArrayLike = 1) -> Truths:
        """spte_ad_need_write_protect(): dirty logging needs write protection, not D."""
        return self._pred(7, values, level)

    def is_access_track_spte(self, values: ArrayLike, level: ArrayLike = 1) -> Truths:
        """is_access_track_spte(): its R, X bits are put away."""
        return self._pred(8, values, level)

    def is_accessed_spte(self, values: ArrayLike, level: ArrayLike = 1) -> Truths:
        """is_accessed_spte(): the A bit."""
        return self._pred(9, values, level)

    def is_dirty_spte(self, values: ArrayLike, level: ArrayLike = 1) -> Truths:
        """The D bit."""
        return self._pred(10, values, level)

    def is_writable_pte(self, values: ArrayLike, level: ArrayLike = 1) -> Truths:
        """is_writable_pte(): the W bit."""
        return self._pred(11, values, level)

    def is_mmu_writable_spte(self, values: ArrayLike, level: ArrayLike = 1) -> Truths:
        """is_mmu_writable_spte(): the fast page fault handler may set W."""
        return self._pred(12, values, level)

    def is_executable_pte(self, values: ArrayLike, level: ArrayLike = 1) -> Truths:
        """is_executable_pte(): X set, or NX clear."""
        return self._pred(13, values, level)

    def spte_needs_atomic_update(self, values: ArrayLike, level: ArrayLike = 1) -> Truths:
        """spte_needs_atomic_update() (6.18: spte_has_volatile_bits())."""
        return self._pred(14, values, level)

    def kvm_tdp_mmu_spte_need_atomic_update(self, values: ArrayLike, level: ArrayLike = 1) -> Truths:
        """kvm_tdp_mmu_spte_need_atomic_update(): a present leaf that others may change."""
        return self._pred(15, values, level)

    def is_rsvd_spte(self, values: ArrayLike, level: ArrayLike = 1, *, root_level: int = 5) -> Truths:
        """is_rsvd_spte() against shadow_zero_check of a root of ``root_level`` 4 or 5."""
        rsvd = self._pred(16, values, level)
        if check_int("root_level", root_level, 4, 5) == 5 or self.mmu != "npt":
            return rsvd
        below = np.asarray(level) < 5       # long mode sets no rule for a level that is not there
        return bool(rsvd and below) if isinstance(rsvd, bool) else rsvd & below

    def is_access_allowed(self, spte: int, *, exec: bool = False, write: bool = False) -> bool:
        """is_access_allowed() of 6.18: one SPTE lets this fault through."""
        return self._format.is_access_allowed(check_u64("spte", spte), check_bool("exec", exec),
                                              check_bool("write", write))

    def spte_permission_fault(self, spte: int, error_code: int) -> bool:
        """spte_permission_fault() of 7.3: an access with this error code (PFERR_*) faults."""
        return self._format.spte_permission_fault(check_u64("spte", spte), check_u64("error_code", error_code))

    def leaf_spte_change_needs_tlb_flush(self, old: ArrayLike, new: ArrayLike) -> Truths:
        """leaf_spte_change_needs_tlb_flush(): MMU-writable goes away. ``old`` and ``new`` are ints
        or arrays of one shape."""
        single = isinstance(old, INTEGERS) and isinstance(new, INTEGERS)
        flat_old, shape = spte_array("old", old)
        flat_new, new_shape = spte_array("new", new)
        if shape != new_shape:
            raise UsageError(f"old has shape {shape}, new {new_shape}", "they must go in pairs",
                             "arrays of one shape")
        out = np.empty(flat_old.shape, np.bool_)
        self._format.flush_array(flat_old, flat_new, out.view(np.uint8))
        return bool(out[0]) if single else out.reshape(shape)

    def _mmio(self, mmio_value: int | None) -> int:
        if mmio_value is None:
            return self.masks["shadow_mmio_value"]
        return check_u64("mmio_value", mmio_value)

    def _pred(self, which: int, values: ArrayLike, level: ArrayLike, mmio: int = 0) -> Truths:
        if isinstance(values, INTEGERS):
            return self._format.pred(which, check_u64("values", values), check_level(level), mmio)
        flat, shape = spte_array("values", values)
        out = np.empty(flat.shape, np.bool_)
        self._format.pred_array(which, flat, level_array(level, shape), mmio, out.view(np.uint8))
        return out.reshape(shape)

    def _map(self, which: int, values: ArrayLike) -> Numbers:
        if isinstance(values, INTEGERS):
            return self._format.map_one(which, check_u64("values", values))[0]
        flat, shape = spte_array("values", values)
        out = np.empty(flat.shape, np.uint64)
        self._format.map_array(which, flat, out)
        return out.reshape(shape)
