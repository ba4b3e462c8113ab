"""The rounds of a stress run: a burst on every thread, a quiescent point, the checks; until the budget is used."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tdpfast._arguments import check_bool, check_int, check_seconds, one_of, shown
from tdpfast.checks import WEIGHT
from tdpfast.design import Design, get_design
from tdpfast.errors import UsageError, VmEnded
from tdpfast.scenario import Thread
from tdpfast.stress.mixes import MIXES, ROLES, Op, Scene, draw, fault, makers
from tdpfast.stress.worlds import Finding, World
from tdpfast.threads import MAX_THREADS, ThreadResult, ThreadsResult, run_threads

MODES = ("direct", "mirror", "td")
MAX_PAGES = {"direct": 1 << 20, "mirror": 1 << 20, "td": 1 << 16}
MAX_TD_VCPUS = 8
OPS_PER_LIST = 256           # operations a thread draws from in one burst, and in a short one
OPS_PER_SHORT_LIST = 64
POPULATE = (0, 0, 8, 24)     # pages that are there when a burst begins
SHORT = 300                  # operations per thread of a burst on a VM without tables
SHORT_LIVES = 8              # VMs that live for one short burst, between two that live longer
LONG_SECONDS = 0.25          # what a long burst grows to


@dataclass(frozen=True, kw_only=True)
class StressConfig:
    """What is run. UsageError when it cannot be.

    design: a preset's name or a Design. mode: "direct" (a VM without a mirror), "mirror" (a TD's mirror with a model of
    the external table that checks each call, and now and then answers -EBUSY), or "td" (with the emulated module).
    ungated: the rules of today's callers are lifted. vcpus, zappers, agers, loggers, recoverers: threads of each role.
    memory: guest pages. mix: a key of MIXES. seconds, ops: the budget, 0 = none; without either 10 seconds. ops counts
    the operations of all threads. seed: of everything that is drawn; None: a random one. burst: operations per thread
    in a burst; 0: short ones on fresh VMs, and long ones that grow to a quarter of a second.
    """

    design: str | Design = "v7.3"
    mode: str = "mirror"
    ungated: bool = False
    vcpus: int = 2
    zappers: int = 1
    agers: int = 1
    loggers: int = 0
    recoverers: int = 0
    memory: int = 2048
    mix: str = "mixed"
    seconds: float = 0
    ops: int = 0
    seed: int | None = None
    burst: int = 0

    def __post_init__(self) -> None:
        design = get_design(self.design)
        design = design.replace(ungated=True) if check_bool("ungated", self.ungated) else design
        object.__setattr__(self, "design", design)
        object.__setattr__(self, "ungated", design.ungated)
        if not isinstance(self.mode, str) or self.mode not in MODES:
            raise UsageError(f"unknown mode {shown(self.mode)}", "not a kind of VM", one_of(MODES))
        if not isinstance(self.mix, str) or self.mix not in MIXES:
            raise UsageError(f"unknown mix {shown(self.mix)}", "not a mix of operations", one_of(MIXES))
        for role in ROLES:
            check_int(f"{role}s", self.count(role), 0, MAX_THREADS)
        check_int("number of threads", sum(self.count(role) for role in ROLES), 1, MAX_THREADS)
        if self.mode == "td":
            check_int("vcpus of a TD", self.vcpus, 0, MAX_TD_VCPUS)
        check_int("memory", self.memory, 16, MAX_PAGES[self.mode])
        check_int("ops", self.ops, 0, 1 << 62)
        check_int("burst", self.burst, 0, 1 << 40)
        check_seconds(self.seconds)
        seed = int.from_bytes(os.urandom(4), "little") if self.seed is None else check_int("seed", self.seed, 0,
                                                                                           (1 << 60) - 1)
        object.__setattr__(self, "seed", seed)
        if not self.seconds and not self.ops:
            object.__setattr__(self, "seconds", 10.0)
        for role in ROLES:
            if self.count(role) and not makers(self.mix, role, self.scene()):
                raise UsageError(f"{role} threads in mix {self.mix!r}",
                                 f"nothing of what they do reaches the tables of {self.where}",
                                 f"{role}s=0, another mix, ungated or mode direct")

    def count(self, role: str) -> int:
        """Threads of a role."""
        return getattr(self, f"{role}s")

    def scene(self, vcpu: int = 0, dirty_log: bool = False) -> Scene:
        """What the operations of a thread refer to."""
        return Scene(self.mode, get_design(self.design), self.memory, vcpu, dirty_log)

    @property
    def threads(self) -> list[tuple[str, int]]:
        """(role, number within the role) of each thread."""
        return [(role, i) for role in ROLES for i in range(self.count(role))]

    @property
    def where(self) -> str:
        """Design, gating and mode in words."""
        gating = "" if self.mode == "direct" else ", ungated" if self.ungated else ", gated"
        return f"{get_design(self.design).name}{gating}, {self.mode}"

    def random(self, *what: Any) -> random.Random:
        """The source of everything drawn for one purpose."""
        return random.Random("/".join(map(str, (self.seed, *what))))


@dataclass(frozen=True)
class Burst:
    """What one round ran.

    setup: operations that vCPU 0 ran before, on a VM without mappings; fresh: and without tables. ops: how many each
    thread ran, drawn from its list. watch: accesses to freed tables were looked for. noise: seed of the disturbances.
    """

    number: int
    fresh: bool
    watch: bool
    noise: int
    ops: int
    setup: tuple[Op, ...]
    threads: tuple[Thread, ...]


@dataclass
class KindStat:
    """Operations of one kind: how many, how many of them were timed, and their nanoseconds together."""

    count: int = 0
    timed: int = 0
    nanoseconds: int = 0

    @property
    def ns(self) -> float | None:
        """Nanoseconds per operation; None if none was timed."""
        return self.nanoseconds / self.timed if self.timed else None


@dataclass
class StressResult:
    """What a run did and found.

    rounds: bursts that were completed, checks included. seconds: all together; burst_seconds: of bursts. findings:
    what was violated at the end of the last round, in which nothing was before; burst: what that round ran.
    """

    config: StressConfig
    rounds: int = 0
    vms: int = 0
    seconds: float = 0.0
    burst_seconds: float = 0.0
    by_op: dict[str, KindStat] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    burst: Burst | None = None
    interrupted: bool = False

    @property
    def ops(self) -> int:
        """Operations of all threads."""
        return sum(stat.count for stat in self.by_op.values())

    @property
    def checks(self) -> list[str]:
        """Names of the violated checks, sorted."""
        return sorted({f.check for f in self.findings})

    @property
    def heaviest(self) -> Finding | None:
        """The finding that tells most, and of those one that says where."""
        order = {name: i for i, name in enumerate(WEIGHT)}
        return min(self.findings, key=lambda f: (order[f.check], f.gfn is None), default=None)

    def add(self, result: ThreadsResult, slowed: bool) -> None:
        """Counts a burst. One that was watched or disturbed is slower, so its times do not count."""
        for thread in result.threads:
            for name, count in thread.by_op.items():
                self.by_op.setdefault(name, KindStat()).count += count
            for name, n in thread.counters.items():
                self.counters[name] = self.counters.get(name, 0) + n
            if not slowed:
                for name, (timed, nanoseconds) in thread.times.items():
                    self.by_op[name].timed += timed
                    self.by_op[name].nanoseconds += nanoseconds
        self.burst_seconds += max(thread.seconds for thread in result.threads)

    def to_json(self) -> dict[str, Any]:
        """The fields scripts may rely on."""
        c = self.config
        return {
            "design": get_design(c.design).name, "gated": not c.ungated, "mode": c.mode,
            "threads": {role: c.count(role) for role in ROLES}, "memory": c.memory, "mix": c.mix, "seed": c.seed,
            "rounds": self.rounds, "vms": self.vms, "ops": self.ops, "seconds": round(self.seconds, 6),
            "burst_seconds": round(self.burst_seconds, 6), "interrupted": self.interrupted,
            "ops_per_second": round(self.ops / self.burst_seconds, 1) if self.burst_seconds else 0.0,
            "by_op": {name: {"count": stat.count, "ns": None if stat.ns is None else round(stat.ns, 1)}
                      for name, stat in sorted(self.by_op.items())},
            "counters": dict(self.counters), "checks": self.checks,
            "findings": [f.to_json() for f in self.findings],
        }


# ---- rounds -----------------------------------------------------------------------------------------------------

def plan(config: StressConfig, long: Callable[[], int]) -> Iterator[tuple[bool, int]]:
    """(fresh VM, operations per thread) of each round. long(): how many a long burst has at the moment."""
    if config.burst:
        while True:
            yield from ((i == 0, config.burst) for i in range(4))
    while True:
        yield from ((True, SHORT) for _ in range(SHORT_LIVES))
        yield True, SHORT
        yield False, max(SHORT, long() // 8)
        yield False, long()


def make_burst(config: StressConfig, number: int, fresh: bool, ops: int) -> Burst:
    """Draws what a round runs."""
    rng = config.random(number, "setup")
    scene = config.scene()
    setup = [fault(scene, rng) for _ in range(rng.choice(POPULATE))]
    dirty_log = bool(config.loggers and rng.randrange(2))
    if config.loggers:
        setup.append({"op": "set_dirty_log", "on": int(dirty_log)})
    threads, length = [], OPS_PER_SHORT_LIST if ops <= SHORT else OPS_PER_LIST
    for i, (role, k) in enumerate(config.threads):
        scene = config.scene(k if role == "vcpu" else 0, dirty_log)
        kinds = makers(config.mix, role, scene)
        threads.append(Thread(f"{role}{k}", tuple(draw(kinds, scene, config.random(number, i), length))))
    noisy = rng.random() < (0.8 if ops <= SHORT else 0.2)
    return Burst(number, fresh, rng.random() < 0.5, rng.getrandbits(60) if noisy else 0, ops, tuple(setup),
                 tuple(threads))


def make_world(config: StressConfig) -> World:
    """A fresh VM. Its table pages do for what a watched burst keeps of the dead."""
    return World(config.mode, get_design(config.design), pages=config.memory, vcpus=max(config.vcpus, 1),
                 table_pages=32768 + config.memory, nx=bool(config.recoverers) and config.mode == "direct")


def run_burst(config: StressConfig, world: World, burst: Burst, seconds: float) -> ThreadsResult:
    """Clears the VM, sets it up and runs the burst, for `seconds` at the most (0: no limit)."""
    vcpu = world.vm.vcpus[0]
    try:
        if not burst.fresh:
            vcpu._run({"op": "reload"})
            for op in world.clear():
                vcpu._run(dict(op))
        for op in burst.setup:
            vcpu._run(dict(op))
    except VmEnded as ended:
        return ThreadsResult([ThreadResult(0, 0.0, {}, ended.why)])
    seed = config.random(burst.number, "order").getrandbits(60)
    return run_threads(world.vm, [thread.ops for thread in burst.threads], count=burst.ops, seconds=seconds,
                       seed=seed, watch=burst.watch, noise=burst.noise)


def stress(config: StressConfig, progress: Callable[[StressResult], None] | None = None) -> StressResult:
    """Runs rounds until the budget is used or a check is violated.

    progress: called after each round. KeyboardInterrupt ends the run; the result says so. A round counts once its
    checks were made; when the time is over before the first one was, ``rounds`` is 0.
    """
    if not isinstance(config, StressConfig):
        raise UsageError(f"bad config {shown(config)}", "not a StressConfig", "StressConfig(design=...)")
    if progress is not None and not callable(progress):
        raise UsageError(f"progress is {shown(progress)}", "not callable", "a function of a StressResult")
    started = time.perf_counter()
    result = StressResult(config)
    long = SHORT
    world: World | None = None
    try:
        for fresh, ops in plan(config, lambda: long):     # noqa: B023 -- the one of that moment
            left = config.seconds - (time.perf_counter() - started) if config.seconds else 0.0
            if (config.seconds and left <= 0) or (config.ops and result.ops >= config.ops):
                break
            if config.ops:
                ops = min(ops, -(-(config.ops - result.ops) // len(config.threads)))
            burst = make_burst(config, result.rounds, fresh, ops)
            if fresh or world is None:
                world = make_world(config)
                result.vms += 1
            begun = time.perf_counter()
            done = run_burst(config, world, burst, left)
            if ops >= long and time.perf_counter() - begun < LONG_SECONDS / 2:
                long *= 2
            result.findings = world.check(done, burst.number, burst.threads)
            result.add(done, burst.watch or burst.noise != 0)
            result.rounds += 1
            result.seconds = time.perf_counter() - started
            if progress is not None:
                progress(result)
            if result.findings:
                result.burst = burst
                break
    except KeyboardInterrupt:
        result.interrupted = True
    result.seconds = time.perf_counter() - started
    return result
