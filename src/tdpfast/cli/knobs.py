"""The option that several subcommands have: knobs of a design, replaced."""

from __future__ import annotations

import click

knob_option = click.option("--knob", "knobs", multiple=True, metavar="K[=N]",
                           help="Replace a knob of the design: no_freeze, max_level=2, ... (repeatable).")


def knobs_code(names: list[str], knobs: dict) -> str:
    """Python for a list of designs."""
    return f"[with_knobs(d, {knobs!r}) for d in {names!r}]" if knobs else repr(names)
