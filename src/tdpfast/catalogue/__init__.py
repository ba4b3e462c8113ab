"""Catalogues: sets of scenarios that come with tdpfast. `review` holds the four
review questions, `paths` other ways into the same code, with and without trouble."""

from __future__ import annotations

from importlib.resources import files

from tdpfast.errors import UsageError
from tdpfast.scenario import Scenario, load

CATALOGUES = ("review", "paths")


def catalogue(name: str) -> list[Scenario]:
    """The scenarios of a catalogue, by file name; UsageError for an unknown one."""
    if name not in CATALOGUES:
        raise UsageError(f"unknown catalogue {name!r}", "not one of tdpfast's", "use " + ", ".join(CATALOGUES))
    folder = files("tdpfast.catalogue").joinpath(name)
    paths = sorted((p for p in folder.iterdir() if p.name.endswith(".toml")), key=lambda p: p.name)
    return [load(str(path)) for path in paths]
