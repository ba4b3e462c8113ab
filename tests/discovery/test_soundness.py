"""The reduction loses nothing: random scenarios on the real MMU and module, against searches that do not reduce.

Whatever a search without reduction, a search with few preemptions, a random walk or PCT comes to (the digest of the
final state, with the checks violated and how it ended) must be among what DPOR came to. A difference is an access to
shared state that offers no yield point, or a flaw in what the search takes to be independent.
"""

import random
from dataclasses import dataclass

import pytest

from tdpfast._explore.explorer import Explorer
from tdpfast.check import build
from tdpfast.checks import names_of
from tdpfast.design import PRESETS, Design
from tdpfast.errors import UsageError
from tdpfast.scenario import Scenario, parse

FIRST = 0x200                        # of the gfns: three in one table, one in the next
GFNS = (FIRST, FIRST, FIRST + 1, FIRST + 3, FIRST + 0x200)
RANGES = ((FIRST, FIRST + 1), (FIRST + 1, FIRST + 2), (FIRST, FIRST + 2), (FIRST, FIRST + 0x201))
KNOBS = ("no_freeze", "no_rollback", "no_grace_period", "no_track", "no_block", "no_hook_on_zap", "stats_on_failure")
PAMT_KNOBS = ("pamt_no_put", "pamt_dec_outside")
BUSY = (("MEM.PAGE.AUG", "sept_tree"), ("MEM.PAGE.AUG", "entry"), ("MEM.PAGE.AUG", "pamt_r8"),
        ("MEM.PAGE.AUG", "op_state"), ("MEM.SEPT.ADD", "sept_tree"), ("MEM.SEPT.ADD", "entry"),
        ("MEM.RANGE.BLOCK", "entry"), ("MEM.TRACK", "epoch"), ("MEM.PAGE.REMOVE", "sept_tree"),
        ("MEM.PAGE.REMOVE", "entry"), ("MEM.PAGE.REMOVE", "pamt_page"), ("MEM.PAGE.DEMOTE", "sept_tree"),
        ("VP.ENTER", "op_state"))


GUEST = ("td_exit", "accept", "guest_access", "touch", "guest_accept")


class Maker:
    """Scenarios of one seed. Everything is drawn from one generator, so a seed names a scenario for good."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)

    def some(self, *choices):
        return self.rng.choice(choices)

    def span(self, op, **fields):
        start, end = self.some(*RANGES)
        return {"op": op, "start": start, "end": end, **fields}

    def map(self, private=None, level=None):
        gfn = self.some(*GFNS)
        private = self.some(1, 1, 1, 0) if private is None else private
        level = self.some(1, 1, 1, 2) if level is None else level
        base = 0x140000 if private else 0x180000
        return {"op": "map", "gfn": gfn, "pfn": base + gfn, "level": level, "private": private,
                "write": self.some(0, 1, 1), "retries": self.some(-1, -1, 1)}

    def host(self):
        """What threads that are no vCPU do, under mmu_lock or without."""
        gfn = self.some(*GFNS)
        return self.some(
            self.map, lambda: self.span("unmap", filter=self.some(1, 2, 2, 3)), lambda: self.span("zap_leafs"),
            lambda: self.span("age", filter=self.some(1, 2)), lambda: self.span("test_age", filter=1),
            lambda: self.span("wrprot_slot"), lambda: self.span("clear_dirty_slot"),
            lambda: {"op": "mwalk", "gfn": gfn}, lambda: {"op": "get_walk", "gfn": gfn},
            lambda: {"op": "free_pfn", "gfn": gfn, "pfn": 0x140000 + gfn},
            lambda: {"op": "write_protect_gfn", "gfn": gfn},
            lambda: {"op": "clear_dirty_pt_masked", "gfn": FIRST, "mask": 3},
            lambda: {"op": "zap_spte", "gfn": gfn, "level": self.some(1, 1, 2), "shared": self.some(0, 1),
                     "tries": self.some(1, 3, -1)},
            lambda: {"op": "zap_nx_sp", "gfn": FIRST}, lambda: {"op": "zap_nx"},
            lambda: self.span("split", shared=self.some(0, 1)), lambda: self.span("recover", max_level=2),
            lambda: {"op": "poke", "private": 0, "gfn": gfn, "set": 0x200, "clear": 2},
            lambda: {"op": "track", "gfn": gfn, "on": self.some(0, 1)})()

    def roots(self):
        """Roots come and go, slots change, the TD's life goes on: rare, but words of their own."""
        gfn = self.some(*GFNS)
        return self.some(
            lambda: {"op": "invalidate_roots", "types": self.some(2, 4, 6)},
            lambda: {"op": "zap_invalidated_roots", "shared": self.some(0, 1)}, lambda: {"op": "reload"},
            lambda: {"op": "put_root", "private": self.some(0, 1)},
            lambda: {"op": "alloc_root", "private": self.some(0, 1)},
            lambda: {"op": "set_dirty_log", "on": self.some(0, 1)}, lambda: {"op": "set_gen", "gen": 3},
            lambda: {"op": "release_hkid"}, lambda: {"op": "pamt_get", "pfn": 0x140000 + gfn},
            lambda: {"op": "pamt_put", "pfn": 0x140000 + gfn}, lambda: {"op": "sync_rcu"})()

    def vcpu(self, n):
        gfn = self.some(*GFNS)
        return self.some(
            lambda: self.map(private=1), self.map, lambda: {"op": "vp_enter", "vcpu": n},
            lambda: {"op": "td_exit", "vcpu": n}, lambda: {"op": "accept", "vcpu": n, "gpa": gfn << 12},
            lambda: {"op": "guest_access", "vcpu": n, "gpa": gfn << 12},
            lambda: {"op": "touch", "vcpu": n, "gfn": gfn, "pfn": 0x140000 + gfn, "retries": self.some(-1, 1)},
            lambda: {"op": "fast_page_fault", "gfn": gfn, "write": 1}, lambda: {"op": "mwalk", "gfn": gfn})()

    def modified(self, op):
        """At times an operation meets a busy module, a failing hook, a CPU wanted elsewhere."""
        dice = self.rng.random()
        if dice < 0.12:
            leaf, lock = self.some(*BUSY)
            op["inject"] = [{"leaf": leaf, "lock": lock, "mode": self.some("ex", "sh"), "skip": self.some(0, 0, 1),
                             "count": self.some(1, 1, 2), "until_kick": self.some(0, 0, 1)}]
        elif dice < 0.22:
            op["hook"] = [{"hook": self.some("set", "set", "free"), "skip": self.some(0, 0, 1), "count": 1,
                           "ret": self.some(-16, -16, -5)}]
        elif dice < 0.30:
            op["resched"] = self.some(1, 2)
            op["gp_at_yield"] = self.some(0, 0, 1)
        return op

    def scenario(self) -> Scenario:
        setup = [self.map(private=1, level=self.some(1, 1, 2)) for _ in range(self.some(0, 1, 1, 2))]
        setup += [self.map(private=0)] * self.some(0, 0, 1)
        if self.rng.random() < 0.3:
            setup.append({"op": "vp_enter", "vcpu": 0})
        elif self.rng.random() < 0.1:
            setup.append({"op": "release_hkid"})
        threads = []
        for n in range(self.some(2, 2, 2, 3)):
            kind = self.some("host", "host", "vcpu", "vcpu", "roots") if n < 2 else "vcpu"
            make = {"host": self.host, "roots": self.roots, "vcpu": lambda n=n: self.vcpu(min(n, 1))}[kind]
            threads.append({"ops": [self.modified(make()) for _ in range(self.some(1, 1, 2))]})
        inside = {op["vcpu"] for op in setup if op["op"] == "vp_enter"}
        # What runs guest code begins in the guest.
        guests = {op["vcpu"] for thread in threads for op in thread["ops"] if op["op"] in GUEST}
        setup += [{"op": "vp_enter", "vcpu": n} for n in sorted(guests - inside)]
        return parse({"name": "random", "setup": setup, "thread": threads}, "random")

    def design(self) -> Design:
        design = PRESETS[self.some(*PRESETS, "v7.3", "single-hook")]
        if design.max_level == 1 and not design.premap and self.rng.random() < 0.15:
            design = design.replace(dynamic_pamt=True)
            if self.rng.random() < 0.3:
                design = design.replace(**{self.some(*PAMT_KNOBS): True})
        else:
            design = design.replace(ungated=self.some(False, True))
        if self.rng.random() < 0.25:
            design = design.replace(**{self.some(*KNOBS): True})
        return design


@dataclass
class Case:
    """One scenario under one design, as a seed gives it."""

    scenario: Scenario
    design: Design
    setup_ends: bool = False

    def __str__(self):
        knobs = [k for k in (*KNOBS, *PAMT_KNOBS, "dynamic_pamt", "ungated") if getattr(self.design, k)]
        return f"{self.design.name} {' '.join(knobs)}\n" + "\n".join(
            f"  {name}: {list(ops)}" for name, ops in (("setup", self.scenario.setup), *(
                (f"thread {i}", t.ops) for i, t in enumerate(self.scenario.threads))))


def case_of(seed: int) -> Case:
    make = Maker(seed)
    return Case(make.scenario(), make.design())


def others(seed: int, budget: int):
    """The searches that do not reduce, or not by dependence: (name, options)."""
    yield "sleep", {"max_transitions": 2 * budget}
    yield "dfs", {"max_transitions": budget}
    yield "bound", {"bound": 1, "max_transitions": budget}
    yield "bound", {"bound": 3, "max_transitions": budget}
    yield "random", {"seed": seed, "max_executions": budget, "max_transitions": budget}
    for depth in (2, 4):
        yield "pct", {"seed": seed, "depth": depth, "max_executions": budget, "max_transitions": budget // 2}


def missed(case: Case, seed: int, budget: int) -> str | None:
    """What DPOR did not come to but others did; None if there is nothing. An empty text: DPOR has nothing complete to
    be compared with."""
    try:
        program = build(case.scenario, case.design)
    except UsageError:           # a broken design need not survive the set-up
        return ""
    search = Explorer(program, "dpor", max_transitions=budget)
    result = search.run()
    if not result["complete"]:
        return ""
    known = set(search.states())
    # A loop that nobody ends may go round once more for nothing, by who stood when: then the checks are compared.
    endless = bool(result["ends"].keys() & {"stuck", "spin"})
    for name, options in others(seed, budget):
        other = Explorer(program, name, **options)
        found = other.run()
        states = set(other.states())
        checks = names_of(found["checks"] & ~result["checks"])
        if checks or (not endless and (not states <= known or (found["complete"] and states != known))):
            return (f"{name} {options}: {len(states - known)} of {len(states)} final states are not among the "
                    f"{len(known)} of dpor; checks beside its own: {' '.join(checks) or 'none'}")
    return missed_in_pieces(search, result, program, endless)


def missed_in_pieces(search: Explorer, whole: dict, program, endless: bool) -> str | None:
    """The same tree cut into pieces: what they come to together must be just what the whole came to."""
    parts = [Explorer(program, "dpor", prefix=prefix, asleep=asleep) for prefix, asleep in search.cut(5)]
    results = [part.run() for part in parts]
    states = {state for part in parts for state in part.states()}
    checks = 0
    for result in results:
        checks |= result["checks"]
    if checks != whole["checks"] or (not endless and states != set(search.states())):
        return f"in {len(parts)} pieces: {len(states)} final states and checks {checks:#x}, not {whole['checks']:#x}"
    return None


def sweep(seeds, budget: int):
    """(how many were compared, texts of what was missed)."""
    compared, wrong = 0, []
    for seed in seeds:
        case = case_of(seed)
        text = missed(case, seed, budget)
        compared += text != ""
        if text:
            wrong.append(f"seed {seed}: {text}\n{case}")
    return compared, wrong


def test_reduction_loses_nothing():
    compared, wrong = sweep(range(60), 20_000)
    assert not wrong, "\n".join(wrong)
    assert compared > 40


def test_what_a_fault_reads_of_its_slot_is_offered():
    """A fault chose 2M before dirty logging began; what it then writes is a huge page in a logged slot."""
    fault = {"op": "map", "gfn": FIRST, "pfn": 0x180000 + FIRST, "level": 2, "private": 0, "write": 0}
    scenario = parse({"name": "slot", "thread": [{"ops": [fault]}, {"ops": [{"op": "set_dirty_log", "on": 1}]}]},
                     "slot")
    program = build(scenario, PRESETS["v7.3"])
    assert names_of(Explorer(program, "dfs").run()["checks"]) == ["kernel"]
    assert names_of(Explorer(program, "dpor").run()["checks"]) == ["kernel"]


def test_what_a_module_call_reads_of_pages_in_its_range_is_offered():
    """A page loses its use without a lock of the 2M range whose page pair, meanwhile, somebody takes back."""
    page = {"op": "map", "gfn": FIRST, "pfn": 0x140000 + FIRST, "private": 1, "write": 1, "retries": -1}
    scenario = parse({"name": "pair", "setup": [page], "thread": [
        {"ops": [{"op": "pamt_put", "pfn": 0x140000 + FIRST + 3}]},
        {"ops": [{"op": "zap_leafs", "start": FIRST, "end": FIRST + 1}]}]}, "pair")
    program = build(scenario, PRESETS["v7.3"].replace(dynamic_pamt=True))
    whole, reduced = Explorer(program, "bound", bound=1), Explorer(program, "dpor")
    assert whole.run()["ends"].keys() == reduced.run()["ends"].keys() == {"done"}
    assert set(whole.states()) <= set(reduced.states())


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 3000, 250))
def test_reduction_loses_nothing_in_many_scenarios(first):
    compared, wrong = sweep(range(first, first + 250), 300_000)
    assert not wrong, "\n".join(wrong)
    assert compared > 180
