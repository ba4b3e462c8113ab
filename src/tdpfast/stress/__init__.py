"""Stress: operations of one VM on native threads, in bursts, with all checks between them.

    >>> result = stress(StressConfig(mode="td", ops=20_000, seed=1))
    >>> result.checks, result.rounds > 0
    ([], True)

A burst runs random operations of a mix on every thread at once: real threads, real atomics, no GIL. Then the threads
stop, and what must hold when nothing is in flight is looked at: agree, life, page, lock, progress, stat, frozen,
epoch, pamt, kernel. What is drawn comes from the seed; who is faster does not: a run that found something may find
nothing the next time. `reproduce()` makes a scenario of it, which `tdpfast check` explores deterministically.
"""

from tdpfast.stress.mixes import MIXES, ROLES
from tdpfast.stress.runner import Burst, KindStat, StressConfig, StressResult, stress
from tdpfast.stress.scenarios import (
    Reproduction,
    check_writable,
    reproduce,
    save_scenario,
    scenario_toml,
    write_scenario,
)
from tdpfast.stress.worlds import Finding

__all__ = ["MIXES", "ROLES", "Burst", "Finding", "KindStat", "Reproduction", "StressConfig", "StressResult",
           "check_writable", "reproduce", "save_scenario", "scenario_toml", "stress", "write_scenario"]
