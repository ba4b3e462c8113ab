"""Checking: a scenario, a design, gated or not, explored to a verdict. What is public of it, in one place."""

from __future__ import annotations

from tdpfast.building import (
    MEMORY,
    Hooks,
    Reset,
    SetupError,
    build,
    explore,
    program_print,
    set_up,
    vm_options,
)
from tdpfast.many import (
    Reporter,
    check_many,
    impossible,
    lost,
)
from tdpfast.replaying import (
    continue_token,
    owner_of,
    replay_token,
)
from tdpfast.search import (
    Progress,
    check,
    counterexample,
    ends_at,
    examples,
    explain,
    facts_of_first,
    idle_knobs,
    looking_for_hangs,
    use_of_freed,
)
from tdpfast.shares import (
    check_in_shares,
    cut,
    merge,
)
from tdpfast.verdict import (
    HOLDS,
    REPRODUCE,
    UNKNOWN,
    VIOLATED,
    Counterexample,
    Interrupted,
    Limits,
    Verdict,
    limit_of,
    verdict_of,
)

__all__ = [
    "HOLDS",
    "MEMORY",
    "REPRODUCE",
    "UNKNOWN",
    "VIOLATED",
    "Counterexample",
    "Hooks",
    "Interrupted",
    "Limits",
    "Progress",
    "Reporter",
    "Reset",
    "SetupError",
    "Verdict",
    "build",
    "check",
    "check_in_shares",
    "check_many",
    "continue_token",
    "counterexample",
    "cut",
    "ends_at",
    "examples",
    "explain",
    "explore",
    "facts_of_first",
    "idle_knobs",
    "impossible",
    "limit_of",
    "looking_for_hangs",
    "lost",
    "merge",
    "owner_of",
    "program_print",
    "replay_token",
    "set_up",
    "use_of_freed",
    "verdict_of",
    "vm_options",
]
