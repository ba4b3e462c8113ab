"""Small random scenarios on a TD, explored: by the rules of today's callers no check may be violated."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tdpfast.check import Limits, check
from tdpfast.scenario import parse
from tdpfast.story import columns_text

FIRST = 0x200           # of the gfns: four in one table, one in the next
GFNS = (FIRST, FIRST + 1, FIRST + 2, FIRST + 0x200)
gfns = st.sampled_from(GFNS)


def pfn(gfn):
    return 0x140000 + gfn


maps = gfns.map(lambda gfn: {"op": "map", "gfn": gfn, "pfn": pfn(gfn), "retries": -1})
shared = gfns.map(lambda gfn: {"op": "map", "gfn": gfn, "pfn": 0x180000 + gfn, "private": 0, "retries": -1})
unmaps = st.sampled_from([{"op": "unmap", "start": start, "end": end} for start, end in (
    (FIRST, FIRST + 1), (FIRST, FIRST + 2), (FIRST, FIRST + 0x400))])
zaps = st.sampled_from([{"op": "zap_leafs", "start": FIRST, "end": FIRST + 2}])
# The MMU notifier ages shared memory only; ageing a mirror is a WARN.
ages = st.sampled_from([{"op": name, "start": FIRST, "end": FIRST + 3, "filter": 1} for name in ("age", "test_age")])


def vcpu_ops(vcpu):
    """What the thread of a vCPU does; nobody else runs its guest."""
    return st.one_of(
        maps, shared, gfns.map(lambda gfn: {"op": "mwalk", "gfn": gfn}), st.just({"op": "vp_enter", "vcpu": vcpu}),
        st.just({"op": "td_exit", "vcpu": vcpu}),
        gfns.map(lambda gfn: {"op": "accept", "vcpu": vcpu, "gpa": gfn << 12}),
        gfns.map(lambda gfn: {"op": "guest_access", "vcpu": vcpu, "gpa": gfn << 12}),
        gfns.map(lambda gfn: {"op": "touch", "vcpu": vcpu, "gfn": gfn, "pfn": pfn(gfn), "retries": -1}))


fast_zap = st.sampled_from([{"op": "invalidate_roots", "types": 2}, {"op": "zap_invalidated_roots", "shared": 1}])
host_ops = st.one_of(unmaps, zaps, ages, maps, shared, fast_zap, st.just({"op": "zap_all"}))


@st.composite
def scenarios(draw):
    """Two or three threads: vCPUs, and at times a thread of the host."""
    threads = [draw(st.lists(vcpu_ops(0), min_size=1, max_size=3)), draw(st.lists(host_ops, min_size=1, max_size=2))]
    if draw(st.booleans()):
        threads.insert(1, draw(st.lists(vcpu_ops(1), min_size=1, max_size=2)))
    setup = draw(st.lists(maps, max_size=2, unique_by=lambda op: op["gfn"]))
    # What runs guest code begins in the guest.
    guests = {op["vcpu"] for ops in threads for op in ops if op["op"] in ("td_exit", "accept", "guest_access", "touch")}
    if draw(st.booleans()):
        guests.add(0)
    setup += [{"op": "vp_enter", "vcpu": vcpu} for vcpu in sorted(guests)]
    return parse({"name": "random", "setup": setup, "thread": [{"ops": ops} for ops in threads]}, "random")


def violation(scenario, design, gated, limits):
    found = check(scenario, design, gated=gated, limits=limits)
    if not found.checks:
        return None
    shown = found.counterexample
    return f"{found.checks} {shown.assertions}\n{columns_text(shown.story, found.threads)}"


def hold(design, examples, transitions):
    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck),
              database=None)
    @given(scenarios())
    def run(scenario):
        assert violation(scenario, design, True, Limits(max_transitions=transitions)) is None
        walk = Limits(strategy="random", max_executions=20, max_transitions=transitions, seed=1)
        assert violation(scenario, design, True, walk) is None

    run()


@pytest.mark.parametrize("design", ["v7.3", "v6.19", "single-hook", "hugepage"])
def test_random_scenarios_hold(design):
    hold(design, 40, 30_000)


@pytest.mark.slow
@pytest.mark.parametrize("design", ["v7.3", "v6.19", "patch07", "single-hook", "single-hook-4k", "hugepage"])
def test_many_random_scenarios_hold(design):
    hold(design, 1000, 200_000)


MAPPED = {"op": "map", "gfn": FIRST, "pfn": pfn(FIRST)}
LEAVES = [[{"op": "vp_enter", "vcpu": 0}, {"op": "td_exit", "vcpu": 0}],
          [{"op": "guest_access", "vcpu": 0, "gpa": FIRST << 12}],
          [{"op": "td_exit", "vcpu": 0}], [{"op": "accept", "vcpu": 0, "gpa": FIRST << 12}]]


@pytest.mark.parametrize("guest, inside", [(LEAVES[0], False), *((ops, True) for ops in LEAVES)])
def test_a_kick_and_the_guests_own_exit_do_not_overlap(guest, inside):
    """And no access of either is hidden from the reduction: it sees what the search without it sees."""
    setup = [MAPPED, {"op": "vp_enter", "vcpu": 0}] if inside else [MAPPED]
    scenario = parse({"name": "kick", "setup": setup, "thread": [
        {"ops": [{"op": "unmap", "start": FIRST, "end": FIRST + 1}]}, {"ops": guest}]}, "kick")
    for design in ("v7.3", "v6.19", "single-hook"):
        for strategy in ("dpor", "sleep"):
            found = check(scenario, design, limits=Limits(strategy=strategy))
            assert (found.verdict, found.complete, found.checks) == ("holds", True, []), strategy
