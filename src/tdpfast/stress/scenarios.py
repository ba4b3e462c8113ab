"""From a burst that found something to a scenario that `tdpfast check` explores.

A burst is too long to be explored whole, and most of it has nothing to do with what went wrong. So small scenarios
are drawn from it, a few operations of a few threads around one place, and explored by random priorities until one of
them violates a check the burst violated; then it is made smaller still.
"""

from __future__ import annotations

import json
import random
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tdpfast._write import check_place, write_whole
from tdpfast.check import Limits, Verdict, check
from tdpfast.design import get_design
from tdpfast.errors import UsageError
from tdpfast.scenario import Scenario, Thread
from tdpfast.shrink import fewer
from tdpfast.stress.mixes import PFN, Op
from tdpfast.stress.runner import StressConfig, StressResult

REGION = 512                     # gfns under one 4K table
HEX = ("gfn", "pfn", "start", "end", "gpa", "mask", "set")
TRY = Limits(strategy="pct", max_executions=40, max_transitions=400_000)
WHOLE = Limits(max_transitions=500_000)


@dataclass(frozen=True)
class Reproduction:
    """A scenario made from a burst.

    verdict: what exploring it found; None if no small scenario violated what the burst did, and `scenario` is then a
    cut-out of the burst. limits: how it was explored, or should be.
    """

    scenario: Scenario
    gated: bool
    limits: Limits
    verdict: Verdict | None


def gated_of(config: StressConfig) -> bool:
    """Whether its scenarios are explored with the rules of today's callers: they are those of a TD's slots."""
    return not config.ungated and config.mode != "direct"


def gfns_of(op: Op) -> tuple[int, int] | None:
    """The range of guest frames an operation names, or None."""
    if "start" in op:
        return op["start"], op["end"]
    gfn = op["gpa"] >> 12 if "gpa" in op else op.get("gfn")
    return None if gfn is None else (gfn, gfn + 1)


def touches(op: Op, low: int, high: int) -> bool:
    """Whether an operation has to do with guest frames of [low, high); one that names none has with all."""
    span = gfns_of(op)
    return span is None or (span[0] < high and span[1] > low)


def clip(threads: list[Thread]) -> tuple[Thread, ...]:
    """Ranges end where the single frames of the others end: who walks whole regions takes the explorer too long."""
    single = [span for t in threads for op in t.ops if "start" not in op and (span := gfns_of(op)) is not None]
    if not single:
        return tuple(threads)
    low, high = min(span[0] for span in single), max(span[1] for span in single)

    def clipped(op: Op) -> Op:
        if "start" not in op:
            return op
        start, end = max(op["start"], low), min(op["end"], high)
        return op | ({"start": start, "end": end} if start < end else {"start": low, "end": low + 1})

    return tuple(Thread(t.name, tuple(clipped(op) for op in t.ops)) for t in threads)


def candidate(result: StressResult, rng: random.Random, name: str) -> Scenario | None:
    """A small scenario drawn from a burst; None if the draw came to nothing."""
    burst, config = result.burst, result.config
    assert burst is not None
    found = result.heaviest
    low = rng.choice([span[0] for t in burst.threads for op in t.ops if (span := gfns_of(op))] or [0])
    if found is not None and found.gfn is not None and rng.random() < 0.7:
        low = found.gfn
    width = rng.choice((1, 1, REGION))
    low, high = low & ~(width - 1), (low & ~(width - 1)) + width
    threads = []
    for thread in rng.sample(burst.threads, min(len(burst.threads), rng.choice((1, 2, 2, 2, 3)))):
        ops = [op for op in thread.ops if touches(op, low, high)]
        ops = rng.sample(ops, min(len(ops), rng.choice((1, 1, 2, 3))))
        if ops:
            threads.append(Thread(thread.name, tuple(with_failure(op, config, rng) for op in ops)))
    setup = [op for op in burst.setup if touches(op, low, high)][:2] if rng.random() < 0.5 else []
    if rng.random() < 0.5:
        gfn = rng.choice((low, low + width - 1))
        setup.append({"op": "map", "gfn": gfn, "pfn": PFN + gfn, "write": 1, "private": int(config.mode != "direct")})
    if not threads:
        return None
    return Scenario(name, clip(threads), tuple(setup), {"vcpus": max(config.vcpus, 2)}, text=origin(result))


def origin(result: StressResult) -> str:
    """Where a scenario comes from, in words."""
    config, burst = result.config, result.burst
    assert burst is not None
    return f"From a burst of tdpfast stress on {config.where}, seed {config.seed}, round {burst.number}."


def with_failure(op: Op, config: StressConfig, rng: random.Random) -> Op:
    """The model of the external table fails now and then by itself; a scenario has to say so."""
    if config.mode != "mirror" or op["op"] != "map" or not op["private"] or rng.random() < 0.7:
        return op
    return op | {"inject": [{"leaf": rng.choice(("MEM.PAGE.AUG", "MEM.SEPT.ADD")), "lock": "sept_tree"}],
                 "retries": rng.choice((0, -1))}


def explored(scenario: Scenario, config: StressConfig, limits: Limits) -> Verdict | None:
    """What check() finds; None if the design does not survive the set-up, or nothing can be explored."""
    try:
        return check(scenario, get_design(config.design), gated=gated_of(config), limits=limits)
    except UsageError:
        return None


def shrink(scenario: Scenario, verdict: Verdict, wanted: set[str], config: StressConfig,
           limits: Limits) -> tuple[Scenario, Verdict]:
    """Leaves out what is not needed for one of the wanted checks to be violated."""
    improved = True
    while improved:
        improved = False
        for less in fewer(scenario):
            found = explored(less, config, limits)
            if found is not None and wanted & set(found.checks):
                scenario, verdict, improved = less, found, True
                break
    return scenario, verdict


def cut_out(result: StressResult, name: str, rng: random.Random) -> Scenario:
    """What is saved when nothing small enough was found: up to eight operations per thread around the finding."""
    burst, found = result.burst, result.heaviest
    assert burst is not None
    at = found.gfn if found is not None and found.gfn is not None else 0
    low = at & ~(REGION - 1)
    threads = [Thread(t.name, tuple(op for op in t.ops if touches(op, low, low + REGION))[:8] or t.ops[:1])
               for t in burst.threads[:16]]
    return Scenario(name, clip(threads), burst.setup, {"vcpus": max(result.config.vcpus, 2)}, text=origin(result))


def reproduce(result: StressResult, name: str = "from-stress", *, attempts: int = 120) -> Reproduction:
    """A scenario that violates, under the explorer, one of the checks that a burst violated.

    attempts: how many small scenarios are tried. Deterministic in the result's seed, round and findings. UsageError
    if the run found nothing.
    """
    if result.burst is None:
        raise UsageError("nothing to reproduce", "the run found nothing", "a run with findings")
    config = result.config
    rng = config.random(result.burst.number, "reproduce")
    wanted = set(result.checks)
    for attempt in range(attempts):
        scenario = candidate(result, rng, name)
        if scenario is None:
            continue
        limits = replace(TRY, seed=attempt)
        verdict = explored(scenario, config, limits)
        if verdict is None or not wanted & set(verdict.checks):
            continue
        scenario, verdict = shrink(scenario, verdict, wanted, config, limits)
        whole = explored(scenario, config, WHOLE)
        if whole is not None and wanted & set(whole.checks):
            return Reproduction(scenario, gated_of(config), Limits(), whole)
        return Reproduction(scenario, gated_of(config), limits, verdict)
    return Reproduction(cut_out(result, name, rng), gated_of(config), replace(TRY, max_executions=100_000), None)


# ---- files ------------------------------------------------------------------------------------------------------

def toml_value(value: Any, key: str = "") -> str:
    """A value as TOML writes it inline; numbers of frames and masks in hexadecimal."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml_value(v, k)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    if isinstance(value, int):
        return hex(value) if key in HEX else str(int(value))
    return json.dumps(value)


def scenario_toml(scenario: Scenario) -> str:
    """A scenario as the text of a .toml file that `tdpfast.scenario.load()` reads."""
    record = scenario.to_record()
    lines = [f"{key} = {toml_value(record[key])}" for key in ("name", "issue", "title", "text") if key in record]
    if "vm" in record:
        lines += ["", "[vm]", *(f"{k} = {toml_value(v)}" for k, v in record["vm"].items())]
    for op in record.get("setup", ()):
        lines += ["", "[[setup]]", *(f"{k} = {toml_value(v, k)}" for k, v in op.items())]
    for thread in record["thread"]:
        lines += ["", "[[thread]]", f"name = {toml_value(thread['name'])}", "ops = ["]
        lines += [f"    {toml_value(op)}," for op in thread["ops"]] + ["]"]
    for table in ("expect", "reason"):
        if table in record:
            lines += ["", f"[{table}]", *(f"{json.dumps(k)} = {toml_value(v)}" for k, v in record[table].items())]
    return "\n".join(lines) + "\n"


def check_writable(path: str | Path) -> None:
    """UsageError unless a file can be written there."""
    place = check_place(path, "a name that ends in .toml or .json")
    if place.suffix not in (".toml", ".json"):
        raise UsageError(f"cannot write {path}", "a scenario is TOML or JSON", "a name that ends in .toml or .json")


def write_scenario(path: str | Path, scenario: Scenario) -> None:
    """Writes a scenario as .toml or .json, whole or not at all: what stood there stays until it is complete. A symbolic
    link stays one. UsageError for a path that cannot be written, OSError when there is no room."""
    check_writable(path)
    path = Path(path)
    text = json.dumps(scenario.to_record(), indent=1) + "\n" if path.suffix == ".json" else scenario_toml(scenario)
    write_whole(path, text)


def save_scenario(path: str | Path, scenario: Scenario) -> tuple[str, str]:
    """write_scenario(), or elsewhere when there is no room: (the file that holds it, why not the one asked for). No
    file at all: ("", why), and whoever calls shows scenario_toml()."""
    try:
        write_scenario(path, scenario)
    except (OSError, UsageError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        try:
            number, name = tempfile.mkstemp(prefix="tdpfast-", suffix=".toml")
            with open(number, "w", encoding="utf-8") as file:
                file.write(scenario_toml(scenario))
        except OSError:
            return "", why
        return name, why
    return str(path), ""
