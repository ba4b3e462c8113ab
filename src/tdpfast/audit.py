"""Whether a VM is consistent, and if not, what differs: each difference with both sides, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tdpfast._program.places import sides
from tdpfast._program.quiescence import findings
from tdpfast.checks import MEANING, names_of
from tdpfast.words import PRESENT, at, sept_text, spte_text


@dataclass(frozen=True)
class Difference:
    """One thing that is wrong in a VM that nobody changes at the moment.

    check: the name of the check (tdpfast.checks). gfn, level: the entry, None where the check is about none. mirror,
    external: the raw values of both sides, None likewise. text: what differs, in words.
    """

    check: str
    gfn: int | None
    level: int | None
    mirror: int | None
    external: int | None
    text: str

    def __str__(self) -> str:
        return f"{self.check}: {self.text}"


def mirror_text(side: Mapping[str, Any] | None, level: int) -> str:
    """The mirror's entry, and of a table its external page and whether it is still one."""
    if side is None:
        return "no mirror root"
    text = spte_text(side["value"], side["level"])
    if side["level"] > level:
        text += f" at {at_level(side)}, nothing below"
    table = side["table"]
    if table is not None:
        page = table["external_page"]
        text += f", external page {page:#x}" if page else ", external page none"
        if table["state"] != "linked":
            text += f", {table['state']}"
    return text


def at_level(side: Mapping[str, Any]) -> str:
    return at(0, side["level"]).split()[-1]


def sept_side_text(side: Mapping[str, Any] | None, level: int) -> str:
    """The S-EPT's entry, and of a table how many of its entries are in use."""
    if side is None:
        return "no S-EPT any more"
    text = sept_text(side["value"])
    if side["level"] > level:
        text += f" at {at_level(side)}, nothing below"
    if side["children"] is not None:
        text += f", {side['children']} child{'ren' * (side['children'] != 1)}"
    return text


def agree_text(vm: Any, finding: Mapping[str, int]) -> str:
    """Both sides of an entry about which they disagree."""
    gfn, level = finding["gfn"], finding["level"]
    mirror, sept = sides(vm, gfn, level)
    return (f"{at(gfn, level)}: mirror: {mirror_text(mirror, level)}; S-EPT: {sept_side_text(sept, level)}"
            f" ({disagreement(mirror, sept, level)})")


def disagreement(mirror: Mapping[str, Any] | None, sept: Mapping[str, Any] | None, level: int) -> str:
    """What is wrong with two sides, in a few words."""
    if mirror is None or sept is None:
        return "one side is gone"
    present = bool(mirror["value"] & PRESENT) and mirror["level"] == level
    state = sept_text(sept["value"]).split()[0] if sept["level"] == level else "FREE"
    if not present:
        return "the mirror has nothing, the module still does"
    if state in ("FREE", "REMOVED"):
        return "the mirror has an entry, the module has none"
    if "blocked" in sept_text(sept["value"]) or "BLOCKED" in state:
        return "the module's entry is still blocked"
    if (mirror["table"] is None) != (state == "table"):
        return "not the same page"
    return "a leaf on one side, a table on the other"


def stat_text(vm: Any, finding: Mapping[str, int]) -> str:
    """The statistics that are wrong, beside what the tables hold."""
    if finding["mirror"] or finding["external"]:
        return f"nr_premapped is {finding['mirror']}, {finding['external']} leaves wait for their page"
    leaves = [0, 0, 0]
    tables = 0
    for _root, level, _gfn, value, is_table, *_ in vm.sptes():
        if is_table:
            tables += 1
        elif value & PRESENT and level <= 3:
            leaves[level - 1] += 1
    held = dict(zip(("pages_4k", "pages_2m", "pages_1g"), leaves)) | {"sp_linked": tables}
    stats = vm.stats()
    wrong = [f"{name} is {stats[name]}, the tables have {n}" for name, n in held.items() if stats.get(name, n) != n]
    return "; ".join(wrong) or MEANING["stat"]


def pamt_text(finding: Mapping[str, int]) -> str:
    if finding["gfn"] or finding["mirror"]:
        return (f"2M range of HPA {finding['gfn'] << 12:#x}: {finding['mirror']} references counted, "
                f"{finding['external']} pages in use")
    if finding["level"]:
        return f"the page of the S-EPT entry {sept_text(finding['external'])} is not the TD's in the PAMT"
    return f"the TD's child count is {finding['external']}, which the S-EPT does not come to"


def difference(vm: Any, finding: Mapping[str, int]) -> Difference:
    """A finding of tdpfast._program.quiescence.findings() in words."""
    check = names_of(finding["check"])[0]
    gfn, level = finding["gfn"], finding["level"]
    placed = check in ("agree", "life", "frozen", "track")
    if check == "agree":
        text = agree_text(vm, finding)
    elif check == "life":
        text = f"{at(gfn, level)}: mirror: {mirror_text(sides(vm, gfn, level)[0], level)}"
    elif check == "frozen":
        text = f"{at(gfn, level)} is left FROZEN"
    elif check == "stat":
        text = stat_text(vm, finding)
    elif check == "pamt":
        text = pamt_text(finding)
    elif check == "refs":
        text = f"a root counts {finding['mirror']} references, {finding['external']} are held; or it is freed"
    elif check == "leak" and (finding["mirror"] or finding["external"]):
        text = f"{finding['mirror']} pages or references are out, {finding['external']} accounted for"
    elif check == "track":
        text = f"{at(gfn, level)} is write-tracked: {spte_text(finding['mirror'], level)}"
    else:
        text = MEANING[check]
    return Difference(check, gfn if placed else None, level if placed else None,
                      finding["mirror"] if placed else None,
                      finding["external"] if check == "agree" else None, text)


def audit(vm: Any) -> list[Difference]:
    """What is wrong in a VM that nobody changes at the moment (a VmCore): the first place of every check that is
    violated, in the order of the checks; empty if it is consistent."""
    return [difference(vm, finding) for finding in findings(vm)]
