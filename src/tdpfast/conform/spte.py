"""Recorded facts about SPTEs: what spte.c computed for one input, one fact per record."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tdpfast._face.spte_format import PREDICATES
from tdpfast.conform.result import BAD_FIELD, Result, compare, flag, malformed
from tdpfast.constants import constants
from tdpfast.design import Design, get_design
from tdpfast.errors import UsageError
from tdpfast.spte import LAYOUTS, SpteConfig

NAME = "spte"

_MMU = {"EPT A/D": "ept_ad", "EPT no A/D": "ept_noad", "NPT": "npt"}
_LAYOUT = {"6.16": "6.18", "6.18": "6.18", "6.19": "6.18", "7.2": "7.3", "7.3": "7.3"}

# The recordings' configurations; a `cfg` record says the same and goes before.
_CONFIGS: dict[str, dict[str, Any]] = {
    "ept_ad": dict(mmu="ept_ad"),
    "ept_noad": dict(mmu="ept_noad"),
    "ept_ad_noxo": dict(mmu="ept_ad", exec_only=False),
    "ept_ad_pa46": dict(mmu="ept_ad", maxphyaddr=46),
    "ept_ad_l1tf": dict(mmu="ept_ad", maxphyaddr=46, l1tf=True, cache_bits=44),
    "npt": dict(mmu="npt", maxphyaddr=48),
}

# Predicates that a `pred` fact does not list.
_UNRECORDED = {"is_dirty_spte", "is_rsvd_spte"}


def matches(record: dict) -> bool:
    """A fact names its function and its configuration."""
    return "fn" in record and "cfg" in record


class Replayer:
    """Recomputes each fact. ``design`` chooses the layout instead of the record's release."""

    def __init__(self, design: str | Design | None = None):
        self.layout = None if design is None else layout_of(design)
        self.configs: dict[tuple[str, str], SpteConfig] = {}

    def replay(self, record: dict) -> Result:
        """Compare one fact."""
        function = _FACTS.get(record["fn"]) if isinstance(record["fn"], str) else None
        if function is None:
            raise UsageError(f"no fact {record['fn']!r}", "spte.c has no function of this name here",
                             "one of " + ", ".join(_FACTS))
        try:
            if record["fn"] == "cfg":
                return self._cfg(record)
            return function(self._config(record), record)
        except UsageError as error:
            if self.layout is None:
                raise
            return Result("failed", str(error))     # another layout has no such input
        except BAD_FIELD as error:
            raise malformed(f"{record['fn']} fact", error) from error

    def _layout(self, record: dict) -> str:
        release = self.layout or record.get("release", "7.3")
        if not isinstance(release, str) or release not in _LAYOUT:
            raise UsageError(f"no layout for release {release!r}", "not a known release",
                             "one of " + ", ".join(_LAYOUT))
        return _LAYOUT[release]

    def _config(self, record: dict) -> SpteConfig:
        key = self._layout(record), record["cfg"]
        if key not in self.configs:
            if key[1] not in _CONFIGS:
                raise UsageError(f"no configuration {key[1]!r}", "no cfg record describes it",
                                 "a cfg record before the facts")
            self.configs[key] = SpteConfig(layout=key[0], **_CONFIGS[key[1]])
        return self.configs[key]

    def _cfg(self, record: dict) -> Result:
        cache_bits, phys_bits = record["x86_cache_bits"], record["x86_phys_bits"]
        config = SpteConfig(layout=self._layout(record), mmu=_MMU[record["mmu"]],
                            maxphyaddr=record["maxphyaddr"], l1tf=flag(record, "l1tf"),
                            cache_bits=cache_bits if cache_bits != phys_bits else 0,
                            exec_only=flag(record, "exec_only", 1))
        self.configs[config.layout, record["cfg"]] = config
        return compare([phys_bits, cache_bits],
                       [config.masks["phys_bits"], config.masks["cache_bits"]])


def layout_of(design: str | Design) -> str:
    """The name of the SPTE layout of a design (its ``layout``, a number), or of a preset's name."""
    number = get_design(design).layout
    return next(name for name, value in LAYOUTS.items() if value == number)


def _u64(text: str) -> int:
    return int(text, 16)


def _warns(record: dict) -> list[tuple]:
    return [tuple(warn) for warn in record.get("warn", [])]


def _const(config: SpteConfig, record: dict) -> Result:
    value = constants(config).get(record["name"])
    return compare(record["value"], None if value is None else hex(value))


def _page_format(config: SpteConfig, record: dict) -> Result:
    masks = config.masks
    got = {"rsvd_bits_mask": [[hex(bits) for bits in row] for row in masks["rsvd_bits_mask"]],
           "bad_mt_xwr": hex(masks["bad_mt_xwr"])}
    if "permissions" in record:
        got["permissions"] = [hex(fault) for fault in masks["permissions"]]
    return compare({name: record[name] for name in got}, got)


def _make_spte(config: SpteConfig, record: dict) -> Result:
    given = record["in"]
    made = config.make_spte(
        level=given["level"], access=given["access"], gfn=given["gfn"], pfn=given["pfn"],
        old_spte=_u64(given["old"]), prefetch=given["prefetch"], synchronizing=given["sync"],
        host_writable=given["host_writable"], nx_huge_pages=given["nx"], tracked=given["tracked"],
        dirty_log=given["dirty_log"], ad_disabled=given["ad_disabled"],
        guest_mode=given["guest_mode"], pml=given["pml"], ipat=given["ipat"])
    dirty = [given["gfn"]] if made.dirty else []
    return compare((record["out"], record["wrprot"], record.get("dirty", []), _warns(record)),
                   (hex(made.spte), int(made.wrprot), dirty, made.warns))


def _make_nonleaf_spte(config: SpteConfig, record: dict) -> Result:
    given = record["in"]
    return compare(record["out"], hex(config.make_nonleaf_spte(_u64(given["child_pa"]),
                                                               given["ad_disabled"])))


def _make_small_spte(config: SpteConfig, record: dict) -> Result:
    given = record["in"]
    spte, warns = config.make_small_spte(_u64(given["huge_spte"]), given["level"], given["access"],
                                         given["index"], given["nx"])
    return compare((record["out"], _warns(record)), (hex(spte), warns))


def _make_huge_spte(config: SpteConfig, record: dict) -> Result:
    given = record["in"]
    spte, warns = config.make_huge_spte(_u64(given["small_spte"]), given["level"], given["nx"])
    return compare((record["out"], _warns(record)), (hex(spte), warns))


def _mark(config: SpteConfig, record: dict) -> Result:
    spte = _u64(record["in"])
    return compare((record["out"], _warns(record)),
                   (hex(config.mark_spte_for_access_track(spte)), config.access_track_warns(spte)))


def _restore(config: SpteConfig, record: dict) -> Result:
    return compare(record["out"], hex(config.restore_acc_track_spte(_u64(record["in"]))))


def _make_mmio_spte(config: SpteConfig, record: dict) -> Result:
    given = record["in"]
    spte = config.make_mmio_spte(given["gfn"], given["access"], given["generation"],
                                 _u64(given["kvm_shadow_mmio_value"]))
    return compare((record["out"], record["generation_back"]),
                   (hex(spte), config.get_mmio_spte_generation(spte)))


def _pred(config: SpteConfig, record: dict) -> Result:
    given = record["in"]
    spte, level = _u64(given["spte"]), given["level"]
    mmio_value = _u64(given["kvm_shadow_mmio_value"])
    names = set(PREDICATES) - _UNRECORDED
    if config.layout != "6.18":
        names.discard("is_executable_pte")
    holds = {name for name in names - {"is_mmio_spte"} if getattr(config, name)(spte, level)}
    if config.is_mmio_spte(spte, level, mmio_value=mmio_value):
        holds.add("is_mmio_spte")
    warns = len(config.check_spte_writable_invariants(spte))
    return compare((sorted(record["true"]), record["pfn"], record["invariant_warn"]),
                   (sorted(holds), config.spte_to_pfn(spte), warns))


def _flush(config: SpteConfig, record: dict) -> Result:
    given = record["in"]
    return compare(record["out"], int(config.leaf_spte_change_needs_tlb_flush(
        _u64(given["old"]), _u64(given["new"]))))


def _is_rsvd_spte(config: SpteConfig, record: dict) -> Result:
    given = record["in"]                    # recorded under a 4-level root
    return compare(record["out"], int(config.is_rsvd_spte(_u64(given["spte"]), given["level"],
                                                          root_level=4)))


def _spte_permission_fault(config: SpteConfig, record: dict) -> Result:
    given = record["in"]
    return compare(record["out"], int(config.spte_permission_fault(_u64(given["spte"]),
                                                                   _u64(given["error_code"]))))


def _is_access_allowed(config: SpteConfig, record: dict) -> Result:
    given = record["in"]
    return compare(record["out"], int(config.is_access_allowed(
        _u64(given["spte"]), exec=given["exec"], write=given["write"])))


_FACTS: dict[str, Callable[..., Result]] = {
    "cfg": Replayer._cfg,
    "const": _const,
    "page_format": _page_format,
    "make_spte": _make_spte,
    "make_nonleaf_spte": _make_nonleaf_spte,
    "make_small_spte": _make_small_spte,
    "make_huge_spte": _make_huge_spte,
    "mark_spte_for_access_track": _mark,
    "restore_acc_track_spte": _restore,
    "make_mmio_spte": _make_mmio_spte,
    "pred": _pred,
    "leaf_spte_change_needs_tlb_flush": _flush,
    "is_rsvd_spte": _is_rsvd_spte,
    "spte_permission_fault": _spte_permission_fault,
    "is_access_allowed": _is_access_allowed,
}
