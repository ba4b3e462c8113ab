"""Which entries of page tables an operation may look at or change, as its row in tdpfast.ops says.

The explorer makes a step of every access to a table that another thread can tell; an entry that no other thread of the
scenario comes to is none (`_program/span.pyx`). What is said there is therefore part of what a search proves. An
operation whose row says nothing makes every entry a step again in each scenario that has it, and so does a set-up that
linked a table at two places.
"""

from __future__ import annotations

from tdpfast.ops import OPS

SPANS = {name: spec.span for name, spec in OPS.items() if spec.span}
"""Operation -> `OpSpec.span`, where it has one."""
