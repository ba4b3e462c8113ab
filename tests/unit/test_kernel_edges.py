"""What the kernel does at the edges that no recording reaches: each behaviour as its source has it."""

import pytest

from tdpfast._explore.explorer import Explorer
from tdpfast._face.vm import VmCore
from tdpfast.catalogue import catalogue
from tdpfast.check import Limits, build, check
from tdpfast.design import get_design
from tdpfast.events import mmu_events
from tdpfast.scenario import parse

BASE = 0x200
ASSERTIONS = ("WARN", "KVM_BUG_ON", "BUG", "LOCKDEP")


class Mmu:
    """One VM whose hooks only record; run() answers with the result and the events."""

    def __init__(self, design="v7.3", *, tdx=False, prove_mmu=False, **cfg):
        design = get_design(design).replace(ungated=True, prove_mmu=prove_mmu)
        self.layout = design.layout
        self.vm = VmCore(design, tdx=tdx, want_mirror=tdx, direct_gfn_bits=1 << 35 if tdx else 0,
                         slots=((0, 1 << 34, 1, 0, 0),), **cfg)
        self.vm.set_tracing(True)

    def run(self, op, **fields):
        result = self.vm.run({"op": op, **fields})
        return result, mmu_events(self.vm.events(), self.layout)

    def map(self, gfn, level=1, **fields):
        return self.run("map", gfn=gfn, pfn=gfn + 0x100000, level=level, **{"write": 1, **fields})


def asserts(events):
    return [tuple(e) for e in events if e[0] in ASSERTIONS]


def names(events):
    return [e[0] for e in events]


# ---- recovery of huge pages

@pytest.mark.parametrize("design", ["v7.3", "v6.18"])
def test_recovery_flushes_before_it_yields_and_yields_once(design):
    """need_resched() that comes true inside tdp_mmu_make_huge_spte() is the caller's to act on: it knows what to
    flush."""
    mmu = Mmu(design, prove_mmu=True)
    for gfn in (0x200, 0x201, 0x400):
        mmu.map(gfn)
    seen = set()
    for call in range(1, 20):
        mmu.run("split", start=0, end=0x1000, target_level=1)
        _, events = mmu.run("recover", start=0, end=0x1000, max_level=2, resched=call)
        assert asserts(events) == []        # tdp_mmu_iter_cond_resched() warns of a second yield in a row
        chunks = "".join({"flush_all": "f", "yield": "y", "chg": ".", "flush_slot": "F"}[name]
                         for name in names(events))
        seen.add(chunks)
        collapsed = [i for i, e in enumerate(events) if e[0] == "chg" and e[3] == 2]
        for i in (i for i, e in enumerate(events) if e[0] == "yield"):
            before = [k for k in collapsed if k < i]
            if before:      # what was collapsed before a yield was flushed before it
                assert "flush_all" in names(events)[before[-1]:i]
        assert mmu.vm.stats()["pages_2m"] == 2 and mmu.vm.stats()["pages_4k"] == 0
    assert len(seen) > 3


# ---- one table

def test_recovery_of_nx_pages_takes_no_leaf_for_the_table():
    """A huge leaf may stand where the table hung, even one of the very frame the table lies in."""
    mmu = Mmu(nx=True)
    mmu.map(0x200, 2, exec=1, write=0)
    table = next(entry for entry in mmu.vm.sptes() if entry[1] == 2)[3] & 0x000FFFFFFFFFF000
    assert mmu.vm.stats()["nx_possible"] == 1
    mmu.run("poke_raw", gfn=0, level=3, value="0x0")     # nothing there: refused
    result, events = mmu.run("zap_nx")
    assert (result["ret"], result["gfn"], asserts(events)) == (1, 0x200, [])
    mmu.run("map", gfn=0x200, pfn=table >> 12, level=2)
    assert mmu.run("zap_nx")[0]["ret"] == -1


# ---- levels above 1G

@pytest.mark.parametrize("op", [("wrprot_slot", {"start": 0, "end": 8}), ("write_protect_gfn", {"gfn": 0})])
def test_min_level_above_1g(op):
    """6.18 BUG()s, 7.3 kills the VM and finds no leaf up there."""
    name, fields = op
    fn = "wrprot_gfn_range" if name == "wrprot_slot" else name
    new = Mmu("v7.3")
    new.map(0)
    result, events = new.run(name, min_level=4, **fields)
    assert (result["ret"], asserts(events)) == (0, [("KVM_BUG_ON", fn, "min_level")])
    old = Mmu("v6.18")
    old.map(0)
    result, events = old.run(name, min_level=4, **fields)
    assert (result["ret"], asserts(events)) == ("BUG", [("BUG", fn, "min_level")])


# ---- invalid roots

@pytest.mark.parametrize("design", ["v7.3", "v6.18"])
def test_a_fault_in_an_invalid_root_is_warned_of_and_goes_on(design):
    """kvm_tdp_mmu_map() leaves the test for an obsolete root to its callers."""
    mmu = Mmu(design)
    mmu.run("invalidate_roots", types=2)
    result, events = mmu.map(5)
    assert (result["ret"], asserts(events)) == (5, [("WARN", "kvm_tdp_mmu_map", "no_valid_root")])
    assert mmu.run("zap_leafs", start=0, end=8)[0]["ret"] == 0      # valid roots only
    assert mmu.run("unmap", start=0, end=8)[0]["ret"] == 0          # zapped, but nobody runs on it: no flush
    assert mmu.vm.stats()["pages_4k"] == 0


def test_a_fault_without_a_root():
    mmu = Mmu()
    mmu.run("invalidate_roots", types=2)
    mmu.run("put_root")
    result, events = mmu.map(5)
    assert result["ret"] == 1
    assert asserts(events) == [("WARN", "kvm_tdp_mmu_map", "no_valid_root"), ("WARN", "tdp_iter_start", "bad_start")]


@pytest.mark.parametrize("order", [("put_root", "zap_invalidated_roots"), ("zap_invalidated_roots", "put_root")])
def test_the_last_reference_frees_an_invalid_root(order):
    """The vCPU's and the TDP MMU's own, in either order; a valid root never loses its last one."""
    mmu = Mmu()
    mmu.map(5)
    mmu.run("invalidate_roots", types=2)
    assert [root["refs"] for root in mmu.vm.roots()] == [2]
    _, events = mmu.run(order[0])
    assert asserts(events) == [] and [root["refs"] for root in mmu.vm.roots()] == [1]
    _, events = mmu.run(order[1])
    assert asserts(events) == [] and mmu.vm.roots() == []
    assert mmu.vm.stats()["sp_live"] == 0 and mmu.vm.stats()["pages_4k"] == 0


# ---- CONFIG_KVM_PROVE_MMU

def test_prove_mmu_warns_of_a_value_that_gives_the_guest_a_ve():
    """Without A/D bits an entry that lost its suppress-#VE bit on purpose, written by the zapper's xchg and by a
    store."""
    for prove in (False, True):
        mmu = Mmu(prove_mmu=prove, tdx=True)
        mmu.map(5)
        mmu.run("poke", gfn=5, clear="0x8000000000000000")      # hardware does not do that
        _, events = mmu.run("write_protect_gfn", gfn=5)
        expected = [("WARN", "__kvm_tdp_mmu_write_spte", "ve_possible")]
        assert asserts(events) == (expected if prove else [])
        mmu.run("poke", gfn=5, set="0x2", clear="0x200")        # writable and clean: hardware may set D at any time
        _, events = mmu.run("write_protect_gfn", gfn=5)
        expected = [("WARN", "kvm_tdp_mmu_write_spte_atomic", "ve_possible")]
        assert [e for e in asserts(events) if e[2] == "ve_possible"] == (expected if prove else [])


@pytest.mark.parametrize("op", [("clear_dirty_slot", {"start": 0, "end": 8}, "clear_dirty_gfn_range"),
                                ("clear_dirty_pt_masked", {"gfn": 0, "mask": "0x20"}, "clear_dirty_pt_masked")])
def test_prove_mmu_warns_of_write_protection_where_d_is_cleared(op):
    name, fields, fn = op
    for prove in (False, True):
        mmu = Mmu(prove_mmu=prove)
        mmu.map(5)
        mmu.run("poke", gfn=5, set="0x2000000000000000")        # SPTE_TDP_AD_WRPROT_ONLY, for nested guests with PML
        _, events = mmu.run(name, **fields)
        assert asserts(events) == ([("WARN", fn, "ad_need_write_protect")] if prove else [])
        assert "chg" in names(events)


# ---- vCPUs of a scenario

RELOAD = {
    "name": "reload", "setup": [],
    "thread": [
        {"name": "slots", "ops": [{"op": "invalidate_roots", "types": 2},
                                  {"op": "zap_invalidated_roots", "shared": 1}]},
        {"name": "vcpu0", "ops": [{"op": "map", "gfn": BASE + 1, "pfn": 0x180201, "private": 0, "retries": -1}]}]}


def outcomes(scenario, design="v7.3"):
    """Every result that the last thread's last operation has over the interleavings: the ends of all executions."""
    program = build(scenario, get_design(design).replace(ungated=True))
    out = set()
    for seed in range(200):
        explorer = Explorer(program, "random", max_executions=1, seed=seed)
        assert not explorer.run()["checks"]
        last = program.results()[-1][-1]
        out.add((last["ret"], last.get("tries")))
    return out


@pytest.mark.parametrize("design", ["v7.3", "v6.18", "single-hook"])
def test_a_fault_takes_a_new_root_when_its_own_went_invalid(design):
    scenario = parse(RELOAD, "reload")
    found = check(scenario, design)
    assert (found.verdict, found.complete, found.checks, found.counterexample) == ("holds", True, [], None)


def test_every_way_a_fault_meets_invalidation():
    """Before it: first try. Between reload and mmu_lock: one RETRY more. Without local retries that is the answer."""
    assert outcomes(parse(RELOAD, "reload")) == {(5, 1), (5, 2)}
    once = {**RELOAD, "thread": [RELOAD["thread"][0],
                                 {"ops": [{**RELOAD["thread"][1]["ops"][0], "retries": 0}]}]}
    assert outcomes(parse(once, "once")) == {(5, 1), (1, 1)}


def test_the_look_at_a_root_is_an_access_that_reduction_sees():
    """One execution each for invalidation before the look, between it and mmu_lock, and after the fault."""
    slots, vcpu = RELOAD["thread"]
    scenario = parse({**RELOAD, "thread": [{"ops": slots["ops"][:1]}, vcpu]}, "look")
    for strategy in ("dpor", "sleep"):
        found = check(scenario, "v7.3", limits=Limits(strategy=strategy))
        assert (found.complete, found.verdict, found.executions) == (True, "holds", 3), strategy


def test_the_catalogue_shows_it():
    [scenario] = [one for one in catalogue("paths") if one.name == "fault-against-fast-zap"]
    assert [thread.ops for thread in scenario.threads] == [thread.ops for thread in parse(RELOAD, "reload").threads]


# ---- kinds of roots that invalidation does not take

@pytest.mark.parametrize("types, expected, invalid", [
    (0, [("WARN", "tdp_mmu_root_match", "no_root_type")] * 2, 0),
    (1, [("WARN", "kvm_tdp_mmu_invalidate_roots", "invalid_type")]
     + [("WARN", "tdp_mmu_root_match", "no_root_type")] * 2, 0),
    (3, [("WARN", "kvm_tdp_mmu_invalidate_roots", "invalid_type")], 1),
    (7, [("WARN", "kvm_tdp_mmu_invalidate_roots", "invalid_type")], 3), (6, [], 3)])
@pytest.mark.parametrize("design", ["v7.3", "v6.18"])
def test_invalidation_of_other_kinds_of_roots(design, types, expected, invalid):
    """KVM_INVALID_ROOTS (bit 0) is warned of and dropped; a root is asked for its kind with what is left."""
    mmu = Mmu(design, tdx=True)
    _, events = mmu.run("invalidate_roots", types=types)
    assert asserts(events) == expected
    reloaded = [mmu.run("reload")[0]["ret"] for _ in range(2)]
    assert reloaded == [invalid, 0]
