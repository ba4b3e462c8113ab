"""What a step changes beside the access it offered is private, under a lock that is offered, or commutes.

The explorer takes for private what no step offers. Here every step of many executions is followed by a look at all
shared words; whatever changed without an offer must be in this table, with the lock that was held every time.
"""

import pytest

from tdpfast._explore.explorer import Explorer
from tdpfast._testing.generate import Generator
from tdpfast.catalogue import catalogue
from tdpfast.check import SetupError, build
from tdpfast.design import PRESETS
from tdpfast.errors import UsageError
from tdpfast.ops import OPS
from tdpfast.scenario import IMPOSSIBLE, parse

MMU_WRITE, MMU_LOCK, PAGES_LOCK, PAMT_LOCK, ENTRY, EPOCH, TDR, VCPU, SLOTS_LOCK = (1 << i for i in range(9))
ANY = 0
ALLOWED = {
    # Counters that are only added to, and looked at when nothing is in flight.
    "Kvm.pages": MMU_LOCK, "Kvm.tdp_mmu_pages": MMU_LOCK, "Kvm.hook_failures": MMU_LOCK, "Kvm.mmio_created": MMU_LOCK,
    "Td.chldcnt": ANY, "Tdx.sept_owned": ANY, "Tdx.pinned": ANY, "PAMT counts.pages_out": ANY,
    # Each CPU has a share of its own.
    "Tdx.sept_share_used": ANY,
    # Written for the call that looks at it next, and offered with the list of injections.
    "Tdx.until_kick": ANY,
    # An entry of the TLB changes in the step that changes or reads its SPTE, or that flushes. A page gets into the
    # dirty log in the step that makes it writable, and out of it under the lock.
    "Kvm.tlb": ANY, "Kvm.log": ANY,
    "Kvm.tracked": MMU_WRITE, "Kvm.ntracked": MMU_WRITE, "Kvm.nroots": PAGES_LOCK, "Td.lifecycle": TDR,
    # A table's descriptor belongs to whoever made it or unlinked it; only a second removal looks at its state, and
    # it comes to the same whichever of the two is first.
    "Sp.state": ANY, "Sp.external_spt": ANY,
    # call_rcu() and the end of a grace period are steps about the whole table.
    "Sp.rcu_head": ANY,
    # role.invalid is written under mmu_lock; it and the mark for the zapper are offered where scenarios change roots.
    "Sp.flags": ANY,
    # Where nobody faults beside it, nobody looks; else each is offered, the lists by their counts.
    "Kvm.invalidate": MMU_WRITE, "Kvm.gmem": ANY,
    # A table that could not be linked goes back at once: nobody else ever reached it.
    "table": MMU_LOCK,
    # PAMT entries change under their own lock or that of the 2M entry above them, which are offered; so do S-EPT pages
    # before they are linked.
    "PAMT.owner": ANY, "PAMT.bepoch": ANY, "PAMT.page": ANY, "S-EPT page": ANY,
    # The guest's inhibits: offered as a store to their number, which whoever reads them without the lock reads first.
    "Kvm.lpage": MMU_WRITE,
    "Kvm.nx_list": PAGES_LOCK, "Kvm.nx_lpage_splits": PAGES_LOCK, "Kvm.nx_possible": PAGES_LOCK,
    # How many slots are invalid is written beside that of each, which is offered; faults in a search look at that one.
    "Kvm.slot_counts": ANY,
    # The end of the VM is offered as a store to the list of roots, where who looks at its users begins.
    "Kvm.users": ANY,
    # OP_STATE and MRTD change with the TDR held exclusively, and every call that looks at them holds it.
    "Td.op_state": TDR, "Td.measurement": TDR,
    # A vCPU's TDVPR is taken back under the lock of its own PAMT entry, which whoever enters it holds as well.
    "Vp.used": ANY,
    # Each CPU has a word of its own.
    "Tdx.request_2m": ANY,
    # What a vCPU's processor does, it does alone.
    "Vp.state": VCPU, "Vp.rip": VCPU, "Vp.vcpu_epoch": VCPU, "Vp.lp": VCPU, "Vp.zero_step": VCPU,
    "Vp.trap_exit": VCPU, "Vp.host_priority": VCPU, "Vp.ve": VCPU,
    "Td.assoc_vcpus": VCPU, "Tdx.loaded": VCPU,
}
DESIGNS = ("v6.19", "patch07", "single-hook", "v7.3", "hugepage")
FIRST = {"op": "map", "gfn": 0x200, "pfn": 0x140200}
LIFE = parse({"name": "life", "setup": [FIRST, {"op": "vp_enter", "vcpu": 0}], "thread": [
    {"ops": [{"op": "release_hkid"}]}, {"ops": [{"op": "unmap", "start": 0x200, "end": 0x201}]}]}, "here")
BUSY = parse({"name": "busy", "setup": [FIRST], "thread": [
    {"ops": [{"op": "map", "gfn": 0x201, "pfn": 0x140201, "retries": -1,
              "inject": [{"leaf": "MEM.PAGE.AUG", "lock": lock}
                         for lock in ("sept_tree", "entry", "pamt_r8", "op_state")]}]},
    {"ops": [{"op": "unmap", "start": 0x200, "end": 0x201}]}]}, "here")
SCENARIOS = [*catalogue("review"), *catalogue("paths"), LIFE, BUSY]


def unexplained(program, transitions):
    program.watch()
    Explorer(program, "dpor", max_transitions=transitions).run()
    Explorer(program, "pct", seed=1, max_executions=5, max_transitions=transitions).run()
    return {name: (count, held) for name, count, held, _ in program.touched()
            if name not in ALLOWED or ALLOWED[name] & ~held}


def stood(scenario, design):
    """The program of a scenario; None where the design does not stand its set-up, as the scenario says."""
    try:
        return build(scenario, design)
    except SetupError:
        assert scenario.expected(design.name, gated=not design.ungated) == IMPOSSIBLE
        return None


@pytest.mark.parametrize("design", DESIGNS)
def test_nothing_shared_changes_without_an_offer(design):
    for scenario in SCENARIOS:
        for ungated in (False, True):
            program = stood(scenario, PRESETS[design].replace(ungated=ungated))
            if program is not None:
                assert unexplained(program, 600) == {}, (scenario.name, ungated)


NEWBORN = {"Seam", "Td.assoc_vcpus", "Td.num_vcpus", "Tdx.loaded", "Tdx.pages", "Vp.lp", "Vp.num_tdvpx", "Vp.rip",
           "Vp.state", "Vp.td", "Vp.used", "Vp.tdvpr_pa", "Vp.index", "Vp.vcpu_epoch"}
"""What vcpu_create() writes of a vCPU that no other operation can name, under slots_lock."""


def private_to(names):
    """Words that nobody else looks at in scenarios of these operations: a slot where nothing faults, a new vCPU."""
    slot = set() if any(OPS[name].gmem == "fault" for name in names) else {"Kvm.slot"}
    return slot | (NEWBORN if "vcpu_create" in names else set())


def generated(seeds):
    """(operations that ran, texts of what changed without an offer) in scenarios drawn from seeds."""
    ran, wrong = set(), []
    for seed in seeds:
        make = Generator(seed)
        scenario, design = make.scenario(), make.design()
        try:
            program = build(scenario, design)
        except UsageError:               # a broken design need not survive the set-up
            continue
        program.watch()
        Explorer(program, "dpor", max_transitions=500).run()
        Explorer(program, "pct", seed=seed, max_executions=4, max_transitions=300).run()
        found = {name: held for name, _, held, _ in program.touched()
                 if name not in ALLOWED or ALLOWED[name] & ~held}
        names = {op["op"] for thread in scenario.threads for op in thread.ops}
        ran |= names
        found = {name: held for name, held in found.items() if name not in private_to(names)}
        if found:
            wrong.append(f"seed {seed}, {design.name}: {found} in {[t.ops for t in scenario.threads]}")
    return ran, wrong


def test_nothing_shared_changes_without_an_offer_in_generated_scenarios():
    """Every operation, modifier, preset and knob: two or three threads of one or two operations."""
    ran, wrong = generated((*range(340), 686))      # the last has a touch
    assert not wrong, "\n".join(wrong)
    assert ran == set(OPS)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 9000, 1000))
def test_nothing_shared_changes_without_an_offer_in_thousands_of_scenarios(first):
    _, wrong = generated(range(first, first + 1000))
    assert not wrong, "\n".join(wrong)


def test_with_dynamic_pamt():
    for scenario in (*catalogue("paths"), BUSY):
        assert unexplained(build(scenario, PRESETS["v7.3"].replace(dynamic_pamt=True)), 600) == {}, scenario.name


@pytest.mark.parametrize("design", ["single-hook", "v7.3"])
def test_executions_leave_nothing_behind(design):
    """All an execution can change is as it was when the next one begins."""
    for scenario in SCENARIOS:
        program = stood(scenario, PRESETS[design].replace(ungated=True))
        if program is None:
            continue
        before = program.image()
        Explorer(program, "pct", seed=3, max_executions=5).run()
        assert program.image() == before, scenario.name


def test_the_aid_sees_what_is_not_offered():
    """The table of allowed fields is needed: without it there is something to report."""
    program = build(SCENARIOS[0], PRESETS["v7.3"].replace(ungated=True))
    assert program.touched() == []
    program.watch()
    Explorer(program, "dpor", max_transitions=1000).run()
    assert any(name == "Kvm.pages" and count > 0 for name, count, _, _ in program.touched())
