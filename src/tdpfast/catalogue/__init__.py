"""Catalogues: sets of scenarios that come with tdpfast. `review` holds the four review questions, `paths` other ways
into the same code, with and without trouble, `hugepage` what the huge-page postings were asked, `premap` what the
accounting before a TD's finalisation was, and `history` bugs that were fixed: the fixed variant beside a broken one."""

from __future__ import annotations

from importlib.resources import files

from tdpfast._arguments import shown
from tdpfast.errors import UsageError
from tdpfast.scenario import Scenario, load

REVIEW_DESIGNS = ("v6.19", "patch07", "patch15", "single-hook", "v7.3")
CATALOGUES: dict[str, tuple[str, ...]] = {
    "review": REVIEW_DESIGNS,
    "paths": REVIEW_DESIGNS,
    "hugepage": ("hugepage-v5a", "hugepage-v5b", "hugepage-v5c", "hugepage-v5d", "hugepage-unblock", "rfcv5-split",
                 "single-hook"),
    "premap": ("v6.16", "v6.18", "v6.19", "rfcv5-s", "v7.3"),
    "history": ("v7.3", "inplace", "v7.3+no_seq", "v7.3+seq_after_lookup", "v7.3+no_inval_range",
                "v7.3+end_before_free", "v7.3+attr_narrow", "v7.3+slot_blind", "v7.3+vp_init_unlocked",
                "v7.3+no_progress_test", "v7.3+flush_lost_at_yield", "v7.3+flush_lost_in_nx",
                "v7.3+flush_wrong_range", "v7.3+wrprot_skips_ro", "v7.3+notifier_valid_only", "v7.3+plain_store",
                "v7.3+no_stale_check"),
}
"""Each with the designs it is about."""


def catalogue(name: str) -> list[Scenario]:
    """The scenarios of a catalogue, by file name; UsageError for an unknown one."""
    if name not in CATALOGUES:
        raise UsageError(f"unknown catalogue {shown(name)}", "not one of tdpfast's", "use " + ", ".join(CATALOGUES))
    folder = files("tdpfast.catalogue").joinpath(name)
    paths = sorted((p for p in folder.iterdir() if p.name.endswith(".toml")), key=lambda p: p.name)
    return [load(str(path)) for path in paths]
