"""The module's constants, one document: each is compared with tdpfast's tables or with what calls answer."""
from __future__ import annotations

from tdpfast.conform._constant_answers import ANSWERS
from tdpfast.conform._constant_tables import TABLES
from tdpfast.conform._quirk_scene import Scene
from tdpfast.conform._seam_replay import RigReplayer
from tdpfast.conform.result import Result

NAME = "seam_constants"
_SECTIONS = TABLES.keys() | ANSWERS.keys()


def matches(record: dict) -> bool:
    """Sections, of which at least one is known."""
    return bool(record.keys() & _SECTIONS) and all(isinstance(section, dict) for section in record.values())


class Replayer(RigReplayer):
    """One case per constant."""

    kind = "module constants"

    def _replay(self, record: dict) -> list[tuple[str, Result]]:
        return [(f"{name}: {case}", result) for name, section in record.items()
                for case, result in self._section(name, section)]

    def _section(self, name: str, section: dict):
        if name in TABLES:
            return TABLES[name](section)
        if name in ANSWERS:
            return ANSWERS[name](section, Scene(self.rig, {}))
        return [("all", Result("skipped", f"unknown section {name!r}"))]
