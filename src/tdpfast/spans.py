"""Which entries of page tables an operation may look at or change, as far as its fields say it.

The explorer makes a step of every access to a table that another thread can tell; an entry that no other thread of the
scenario comes to is none (`_program/span.pyx`). What is said here is therefore part of what a search proves: more than
an operation touches costs time, less loses executions. An operation that is not here makes every entry a step again in
each scenario that has it, and so does a set-up that linked a table at two places.
"""

from __future__ import annotations

SPANS: dict[str, str] = {
    **dict.fromkeys((
        "invalidate_roots", "reload", "put_root", "alloc_root", "put_roots", "set_dirty_log", "track", "set_gen",
        "sync_rcu", "vp_enter", "td_exit", "raw", "finalize", "release_hkid", "vcpu_free", "pamt_get", "pamt_put",
        "vcpu_create"), "none"),
    **dict.fromkeys((
        "map", "write_protect_gfn", "get_walk", "fast_pf_last", "poke", "poke_raw", "zap_spte", "zap_nx_sp", "mwalk",
        "fast_page_fault", "honor_accept", "touch", "populate", "free_pfn", "prefault", "map_exclusive",
        "access"), "gfn"),
    **dict.fromkeys(("accept", "guest_access", "guest_accept"), "gpa"),
    **dict.fromkeys((
        "zap_leafs", "unmap", "wrprot_slot", "clear_dirty_slot", "split", "recover", "age", "test_age", "gmem_convert",
        "punch_hole", "set_attributes", "move_slot"), "range"),
    "clear_dirty_pt_masked": "mask",
    **dict.fromkeys(("zap_all", "zap_invalidated_roots", "uninit", "zap_nx", "recover_nx", "vm_destroy"), "all"),
}
"""By operation: "none"; "gfn", "gpa", "range" or "mask" (64 gfns from its gfn), rounded to the largest page that the
operation or the design may map there, since mapping or zapping one takes whole tables away; "all": each entry of each
table."""
