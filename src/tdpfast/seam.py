"""The TDX module from Python."""
from __future__ import annotations

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
