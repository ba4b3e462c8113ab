"""The words that commands and files take, each with what it is, from the rows that the code itself reads."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from tdpfast._arguments import leaf_spelling, one_of, shown
from tdpfast._names import SeamLeaf
from tdpfast.catalogue import CATALOGUES, catalogue
from tdpfast.checks import MEANING
from tdpfast.design import KNOB_NAMES, PRESETS, Design
from tdpfast.errors import UsageError
from tdpfast.kernelwords import words
from tdpfast.ops import OPS, OpSpec
from tdpfast.scenario import Scenario
from tdpfast.words import op_text

HEADERS = ("_mmu/design.pxd", "_tdx/design.pxd")
NUMBERS = {
    "layout": "SPTE layout, 618 or 703", "gate": "when __handle_changed_spte() propagates a change",
    "reclaim": "how a table's external page is taken back", "dispatch": "KVM's TDX side",
    "split_shared": "the TDX side's answer to a split under the read lock",
}
"""What knobs with numbers choose, as Design says."""
ROOTS = ("none", "the direct one", "the mirror", "both")


def knob_texts() -> dict[str, str]:
    """Knob -> what it changes: the comment of its line in the core's structs."""
    text = "\n".join((Path(__file__).parent / header).read_text() for header in HEADERS)
    return {name: about or NUMBERS.get(name, "") for name, about in
            re.findall(r"^    (?:bint|int32_t) (\w+)(?:\s+# (.*))?$", text, re.MULTILINE)}


def knob_value(knob: str, value: int | bool) -> str:
    """A knob's value as the command line takes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    names = {int(number): name for name, number in KNOB_NAMES[knob].__members__.items()} if knob in KNOB_NAMES else {}
    return names.get(value, str(value))


def knobs_of(design: Design) -> dict[str, int | bool]:
    return {f.name: getattr(design, f.name) for f in dataclasses.fields(design) if f.name not in ("name", "code")}


def scenarios() -> dict[str, tuple[str, Scenario]]:
    """Name -> (catalogue, scenario)."""
    return {s.name: (name, s) for name in CATALOGUES for s in catalogue(name)}


# ---- lists ----------------------------------------------------------------------------------------------------------

def designs_list() -> list[tuple[str, str]]:
    plain = knobs_of(Design(name="plain"))
    out = []
    for name, design in PRESETS.items():
        differs = [knob if value is True else f"{knob}={knob_value(knob, value)}"
                   for knob, value in knobs_of(design).items() if value != plain[knob]]
        out.append((name, " ".join(differs) or "every knob as it is without a word"))
    return out


def ops_list() -> list[tuple[str, str]]:
    return [(name, " ".join(spec.fields) or "no fields") for name, spec in OPS.items()]


def leaves_list() -> list[tuple[str, str]]:
    return [(name.replace("_", "."), f"{int(number)}, {name.lower()}") for name, number in
            SeamLeaf.__members__.items()]


LISTS: dict[str, Callable[[], list[tuple[str, str]]]] = {
    "designs": designs_list,
    "knobs": lambda: [(knob, knob_texts().get(knob, "")) for knob in knobs_of(Design(name="plain"))],
    "scenarios": lambda: [(name, f"{which}: {s.title or s.text}".rstrip(": ")) for name, (which, s) in
                          scenarios().items()],
    "ops": ops_list,
    "checks": lambda: list(MEANING.items()),
    "leaves": leaves_list,
    "kernel": lambda: [(name, word.text) for name, word in words().items()],
}
"""Kind -> its words, each with a few words about it."""


# ---- one word -------------------------------------------------------------------------------------------------------

def describe_design(name: str) -> list[str]:
    return [f"design {name}", *(f"  {knob} = {knob_value(knob, value)}" for knob, value in
                                knobs_of(PRESETS[name]).items())]


def describe_knob(name: str) -> list[str]:
    lines = [f"knob {name}: {knob_texts().get(name, '')}".rstrip(": ")]
    if name in KNOB_NAMES:
        lines.append("  values: " + ", ".join(f"{word} ({int(n)})" for word, n in KNOB_NAMES[name].__members__.items()))
    by_value: dict[str, list[str]] = {}
    for preset, design in PRESETS.items():
        by_value.setdefault(knob_value(name, getattr(design, name)), []).append(preset)
    return lines + [f"  {value}: {', '.join(presets)}" for value, presets in by_value.items()]


def describe_op(name: str) -> list[str]:
    spec: OpSpec = OPS[name]
    fields = [f"  {field}: default {value}" + (f", on a TD {spec.td_fields[field]}" if field in spec.td_fields else "")
              for field, value in spec.fields.items()]
    lock = {"": "not taken", "own": "taken by itself, by turns", "shared": "for read if shared, else for write"}
    lines = [f"operation {name}" + " (of a TD)" * spec.td_only, *fields,
             f"  mmu_lock: {lock.get(spec.lock, 'for ' + spec.lock)}", f"  roots of its vCPU: {ROOTS[spec.roots]}",
             f"  returns {spec.ret}"]
    if spec.refused:
        where = {"private": ", for private memory", "slot": ", where a memslot of its gfns has a guest_memfd"}
        lines.append("  gated, a TD's is refused with -EINVAL" + where.get(spec.refused, ""))
    return lines


def describe_scenario(name: str) -> list[str]:
    which, s = scenarios()[name]
    lines = [f"scenario {name} of {which}", *(f"  {text}" for text in (s.title, s.text) if text)]
    lines += [f"  set-up: {op_text(op)}" for op in s.setup]
    lines += [f"  {thread.name}: {op_text(op)}" for thread in s.threads for op in thread.ops]
    lines += [f"  expected of {design}, {how}: {text}" for how, table in
              (("ungated", s.expect), ("gated", s.expect_gated)) for design, text in table.items()]
    return [*lines, f"  tdpfast check {which} --scenario {name}"]


def describe_leaf(name: str) -> list[str]:
    return [f"SEAMCALL {name}: leaf {int(SeamLeaf.__members__[name.replace('.', '_')])}",
            f"  also written {name.removeprefix('TDH.')}, {name.lower().replace('.', '_')}, "
            f"{name.removeprefix('TDH.').lower().replace('.', '_')}",
            *(f"  in design files: {word.signature}" for word in [words().get(name.lower().replace(".", "_"))] if word)]


def describe_kernel(name: str) -> list[str]:
    word = words()[name]
    return [f"name of <tdpfast/kvm.h>: {word.signature}", f"  {word.section}", f"  {word.text}"]


def describe(name: str) -> list[str]:
    """What a word is, in lines: of each kind that has it; UsageError for one that is none."""
    knobs = knobs_of(Design(name="plain"))
    leaf = "TDH." + leaf_spelling(name)
    found: list[list[str]] = []
    for known, what, word in ((PRESETS, describe_design, name), (knobs, describe_knob, name),
                              (scenarios(), describe_scenario, name), (OPS, describe_op, name),
                              (MEANING, lambda n: [f"check {n}: {MEANING[n]}"], name),
                              (dict(leaves_list()), describe_leaf, leaf), (words(), describe_kernel, name)):
        if word in known:
            found.append(what(word))
    if len(found) > 1 and leaf in dict(leaves_list()) and name in words():
        found.pop()     # the leaf's own lines say it
    if not found:
        raise UsageError(f"unknown word {shown(name)}",
                         "no design, knob, scenario, operation, check, leaf or name of <tdpfast/kvm.h>",
                         "tdpfast list " + one_of(LISTS))
    return [line for lines in found for line in lines]
