"""The checks: names, what each one means, and the bits the native core uses for them."""

from __future__ import annotations

from tdpfast._names import Check

NAMES = tuple(name[6:].lower() for name in Check.__members__)
"""By bit of the core's check masks."""

MEANING = {
    "agree": "mirror and S-EPT disagree at quiescence",
    "life": "a table is used after its grace period, queued twice, or reachable although it is being freed",
    "page": "a guest page is given back to the host while the module, an SPTE or a TLB still maps it",
    "lock": "a lockdep or RCU assertion fired",
    "progress": "a retry loop in a state that nobody can change, or a deadlock",
    "stat": "the page statistics, or nr_premapped of 6.16 to 6.18, do not match the tables",
    "frozen": "a frozen SPTE is left behind",
    "epoch": "a page was removed or demoted before its TLB tracking was complete",
    "pamt": "the module's page metadata or child count does not match the S-EPT",
    "kernel": "a kernel WARN, BUG or KVM_BUG_ON fired",
    "crash": "the code of a design file crashed, or touched memory that belongs to nobody",
    "hang": "the code of a design file ran on without ever making a step",
    "dirty": "a write or a dirty bit is lost: neither the SPTE, the bookkeeping nor the log has it",
    "tlb": "mmu_lock is dropped with a TLB flush owed, or a translation is used whose flush is late",
    "data": "accepted private memory is lost that the operation was not about",
    "track": "a write-tracked gfn is writable",
    "refs": "a root's count is not that of its holders, or a root on the list is not alive",
    "leak": "something is kept for ever: a table, a page of the S-EPT, a pin, a lock of the module, a callback",
    "fixed": "a fault says RET_PF_FIXED and nothing is mapped",
}

# Which check tells most when several are violated: what shows first in a report.
WEIGHT = ("crash", "hang", "life", "page", "data", "tlb", "progress", "agree", "epoch", "frozen", "fixed", "pamt",
          "dirty", "track", "refs", "lock", "leak", "stat", "kernel")


def names_of(bits: int) -> list[str]:
    """Names of the checks in a mask, sorted."""
    return sorted(name for i, name in enumerate(NAMES) if bits >> i & 1)


def bit_of(name: str) -> int:
    """The mask of one check."""
    return 1 << NAMES.index(name)


def heaviest(names: list[str]) -> str:
    """The check of a list that tells most."""
    return next(name for name in WEIGHT if name in names)
