"""KVM's TDX side on the emulated module: kicks, second BUSY, tracking, teardown, and the huge-page design."""
import pytest

from tdpfast._face.seam_module import SeamModule
from tdpfast._face.td import TdVmCore
from tdpfast._face.vm import LEAF_NUMBERS
from tdpfast.check import check
from tdpfast.conform._stack_events import Translator
from tdpfast.conform.names import PageNames
from tdpfast.design import PRESETS
from tdpfast.errors import UsageError
from tdpfast.scenario import parse
from tdpfast.status import sept_state

PFN = 0x140200
BASE = 512


class Rig:
    """A TD on a module of its own; run() answers with the result and the events as lists."""

    def __init__(self, design="v7.3", **cfg):
        self.module = SeamModule([(0x100000000, 0x200000000)])
        self.vm = TdVmCore(PRESETS[design].replace(ungated=True), self.module, **cfg)
        self.vm.set_tracing(True)
        names = PageNames(self.vm.pages(), self.vm.sept_range)
        self.translator = Translator(self.vm, names, False, False)

    def run(self, op, **fields):
        fields = {"op": op, **fields}
        result = self.vm.run(fields)
        return result, self.translator.translate(self.vm.events(), fields)[0]

    def map(self, gfn=BASE, level=1, **fields):
        return self.run("map", gfn=gfn, pfn=PFN + gfn - BASE, level=level, **fields)

    def state(self, gfn=BASE, level=0):
        raw, reached = self.module.walk(self.vm.tdr, gfn << 12, level)
        return sept_state(raw), reached


def leaves(events):
    return [e[1] for e in events if e[0] == "seam"]


def statuses(events, leaf):
    return [e[3] for e in events if e[:2] == ["seam", leaf]]


def asserts(events):
    return [tuple(e) for e in events if e[0] in ("WARN", "KVM_BUG_ON", "LOCKDEP")]


def held(leaf, lock, **fields):
    return [{"leaf": leaf, "lock": lock, **fields}]


# ---- kicks

def test_a_zap_kicks_and_goes_on():
    rig = Rig()
    rig.map()
    rig.run("vp_enter", vcpu=0)
    _, events = rig.run("unmap", start=BASE, end=BASE + 1)
    assert leaves(events) == ["MEM.RANGE.BLOCK", "MEM.TRACK", "MEM.PAGE.REMOVE", "PHYMEM.PAGE.WBINVD"]
    kick = events.index(["kick", 0, "TDEXIT:reason=1"])
    assert events[kick - 1] == ["req", "OUTSIDE_GUEST_MODE"]
    assert events[kick + 1][1] == "MEM.PAGE.REMOVE"
    assert rig.vm.in_guest() == []


def test_busy_is_tried_again_with_vcpus_kept_out():
    rig = Rig()
    rig.map()
    rig.run("vp_enter", vcpu=1)
    result, events = rig.run("unmap", start=BASE, end=BASE + 1, reenter=1,
                             inject=held("MEM.RANGE.BLOCK", "sept_tree", count=1))
    assert result["inject_used"] == [1]
    assert statuses(events, "MEM.RANGE.BLOCK") == ["TDX_OPERAND_BUSY:SEPT_TREE", "TDX_SUCCESS"]
    assert ["wait_for_sept_zap", 1] in events
    assert asserts(events) == [] and rig.vm.kvm_state()["wait_for_sept_zap"] == 0
    assert rig.state() == ("FREE", 0)


@pytest.mark.parametrize("leaf, lock, name, left", [
    ("MEM.RANGE.BLOCK", "sept_tree", "block_failed", "PENDING"),
    ("MEM.PAGE.REMOVE", "entry", "remove_failed", "PENDING_BLOCKED"),
])
def test_a_second_busy_kills_the_vm(leaf, lock, name, left):
    rig = Rig()
    rig.map()
    _, events = rig.run("unmap", start=BASE, end=BASE + 1, inject=held(leaf, lock, count=2))
    assert asserts(events) == [("WARN", "tdx_sept_remove_leaf_spte", name),
                               ("KVM_BUG_ON", "handle_changed_spte", "external_update_failed")]
    assert events[-1] != ["reset_paddr", hex(PFN << 12)]
    state = rig.vm.kvm_state()
    assert (state["vm_bugged"], state["vm_dead"]) == (1, 1)
    assert rig.state()[0].startswith(left)
    assert rig.run("vp_enter", vcpu=0)[0]["ret"] == -2


def test_a_lock_that_others_hold_cannot_be_taken():
    rig = Rig()
    rig.map()
    rig.run("vp_enter", vcpu=0)          # holds the TDR shared
    result, events = rig.map(BASE + 1, inject=held("MEM.PAGE.AUG", "tdr", count=1))
    assert result["ret"] == 5 and result["inject_used"] == [0]
    assert all({"held": "tdr:ex"} not in e for e in events)


# ---- TRACK

def test_a_failed_track_does_not_stop_the_removal():
    rig = Rig()
    rig.map()
    _, events = rig.run("unmap", start=BASE, end=BASE + 1, inject=held("MEM.TRACK", "epoch", count=2))
    assert statuses(events, "MEM.TRACK") == ["TDX_OPERAND_BUSY:TD_EPOCH"] * 2
    assert statuses(events, "MEM.PAGE.REMOVE") == ["TDX_TLB_TRACKING_NOT_DONE:RCX"]
    assert asserts(events)[0] == ("WARN", "tdx_track", "seamcall_failed")


def test_an_epoch_that_is_busy_is_no_busy_operand():
    rig = Rig()
    rig.map()
    rig.run("vp_enter", vcpu=0)
    rig.run("raw", leaf="MEM.TRACK", rcx=rig.vm.tdr)
    _, events = rig.run("unmap", start=BASE, end=BASE + 1)
    assert statuses(events, "MEM.TRACK") == ["TDX_PREVIOUS_TLB_EPOCH_BUSY"]
    assert ("WARN", "tdx_track", "seamcall_failed") in asserts(events)


def test_no_track_before_the_td_runs():
    rig = Rig(runnable=False)
    assert rig.run("populate", gfn=BASE, pfn=PFN)[0]["ret"] == 0
    _, events = rig.run("unmap", start=BASE, end=BASE + 1)
    assert leaves(events) == ["MEM.RANGE.BLOCK", "MEM.PAGE.REMOVE", "PHYMEM.PAGE.WBINVD"]
    assert ["req", "OUTSIDE_GUEST_MODE"] not in events


def test_set_hkid_is_what_kvm_believes():
    rig = Rig()
    rig.map()
    rig.vm.set_hkid(-1)
    _, events = rig.run("unmap", start=BASE, end=BASE + 1)
    assert leaves(events) == [] and ("KVM_BUG_ON", "tdx_sept_remove_leaf_spte", "hkid_not_assigned") in asserts(events)
    with pytest.raises(UsageError, match="HKID 64"):
        rig.vm.set_hkid(64)


def test_a_dead_vm_is_not_populated():
    rig = Rig(runnable=False)
    rig.map()                             # no source page: bugs the VM
    assert rig.vm.kvm_state()["vm_dead"] == 1
    result, events = rig.run("populate", gfn=BASE, pfn=PFN)
    assert (result["ret"], events) == (-5, [])


# ---- zero-step

def test_a_touch_faults_at_the_instruction_that_faulted():
    rig = Rig()
    for _ in range(6):
        rig.run("vp_enter", vcpu=0)
        rig.run("guest_access", vcpu=0, gpa=BASE << 12, same_rip=1)
    rig.run("vp_enter", vcpu=0)
    rig.run("touch", vcpu=0, gfn=BASE, pfn=PFN)        # the seventh: VP.ENTER comes back until the page is accepted
    assert rig.vm.in_guest() == []
    calls = [call for call in rig.vm.seamcalls() if call[0] == LEAF_NUMBERS["VP.ENTER"]]
    assert [call[3] for call in calls] == [0x30]


# ---- v6.19

def test_a_split_without_an_external_page_links_the_page_of_null():
    """Under the read lock the 6.19 split allocates none: three assertions, then SEPT.ADD with virt_to_page(NULL)."""
    rig = Rig("v6.19")
    assert rig.map(level=2, hook=[{"hook": "set", "kind": "map_leaf", "count": 1, "ret": 0}])[0]["ret"] == 5
    _, events = rig.run("split", start=BASE, end=BASE + 512, target_level=1, shared=1, resched=0,
                        inject=held("MEM.SEPT.ADD", "tdr", count=0))
    assert asserts(events)[:2] == [("KVM_BUG_ON", "set_external_spte_present", "was_present"),
                                   ("KVM_BUG_ON", "set_external_spte_present", "no_external_spt")]
    assert {e[2][2] for e in events if e[:2] == ["seam", "MEM.SEPT.ADD"]} == {"PA(NULL)"}


def test_assertions_carry_the_names_of_their_kernel():
    for design, map_leaf, remove_leaf in (("v7.3", "tdx_sept_map_leaf_spte", "tdx_sept_remove_leaf_spte"),
                                          ("v6.19", "tdx_sept_set_private_spte", "tdx_sept_remove_private_spte")):
        rig = Rig(design)
        assert ("KVM_BUG_ON", map_leaf, "level_not_4k") in asserts(rig.map(level=2)[1])
        rig = Rig(design)
        rig.map()
        _, events = rig.run("unmap", start=BASE, end=BASE + 1, inject=held("PHYMEM.PAGE.WBINVD", "pamt_rcx", count=1))
        assert asserts(events)[0] == ("WARN", remove_leaf, "wbinvd_failed")


# ---- teardown

def teardown(rig, *before):
    events = []
    for op in [*before, {"op": "vcpu_free", "vcpu": 0}, {"op": "put_roots"}, {"op": "vcpu_free", "vcpu": 1},
               {"op": "vcpu_free", "vcpu": 2}, {"op": "uninit"}, {"op": "vm_destroy"}]:
        events += rig.run(**op)[1]
    return events


def test_pages_come_back_children_first_and_the_tdr_last():
    rig = Rig()
    rig.map()
    rig.run("unmap", start=BASE, end=BASE + 1)
    events = teardown(rig, {"op": "release_hkid"})
    names = [e[1] for e in events if e[0] == "reclaimed"]
    assert names.index("TDVPR2") < names.index("S2") < names.index("S1") < names.index("S0") < names.index("TDCS0")
    assert events[-1] == ["free_page", "TDR"] and asserts(events) == []
    state = rig.vm.kvm_state()
    assert (state["sept_pages"], state["tdr_owned"], state["hkid"]) == (0, 0, -1)
    assert all(rig.module.pamt(page)[0] == 0 for page in rig.vm.pages())


def test_with_the_key_assigned_everything_leaks():
    rig = Rig()
    rig.map()
    rig.run("unmap", start=BASE, end=BASE + 1)
    events = teardown(rig)
    assert asserts(events) == [("KVM_BUG_ON", "tdx_sept_free_private_spt", "hkid_assigned")] * 3
    assert rig.vm.kvm_state()["tdr_owned"] == 1 and "PHYMEM.PAGE.RECLAIM" not in leaves(events)


def test_a_vcpu_loaded_after_the_release_leaks_its_pages():
    rig = Rig()
    rig.run("release_hkid")
    _, events = rig.run("vp_enter", vcpu=0)
    assert statuses(events, "VP.ENTER") == ["TDX_TD_KEYS_NOT_CONFIGURED"]
    events = teardown(rig)
    assert asserts(events)[0] == ("KVM_BUG_ON", "tdx_vcpu_free", "still_initialized")
    assert rig.vm.kvm_state()["tdr_owned"] == 1


# ---- the huge-page design

def huge():
    rig = Rig("hugepage")
    result, _ = rig.map(level=2)
    assert result["ret"] == 5 and result["level"] == 2
    assert rig.state(level=1) == ("PENDING", 1)
    return rig


def test_hugepage_split_demotes():
    rig = huge()
    _, events = rig.run("split", start=BASE, end=BASE + 512, target_level=1)
    assert leaves(events) == ["MEM.RANGE.BLOCK", "MEM.TRACK", "MEM.PAGE.DEMOTE"]
    assert statuses(events, "MEM.PAGE.DEMOTE") == ["TDX_SUCCESS"] and asserts(events) == []
    stats = rig.vm.stats()
    assert (stats["pages_4k"], stats["pages_2m"]) == (512, 0)
    assert rig.state(BASE + 7) == ("PENDING", 0)


def test_hugepage_zap_of_2m_writes_back_every_4k():
    rig = huge()
    _, events = rig.run("unmap", start=BASE, end=BASE + 512)
    assert leaves(events) == ["MEM.RANGE.BLOCK", "MEM.TRACK", "MEM.PAGE.REMOVE"] + ["PHYMEM.PAGE.WBINVD"] * 512
    assert [e for e in events if e[0] == "reset_paddr"] == [["reset_paddr", hex(PFN << 12)]]
    assert asserts(events) == [] and rig.state(level=1) == ("FREE", 1)


def test_hugepage_does_not_promote():
    rig = Rig("hugepage")
    rig.map()
    result, events = rig.map(level=2)
    assert (result["ret"], result["level"], events) == (6, 1, [])
    assert rig.state() == ("PENDING", 0)


def test_hugepage_tables_go_after_the_key():
    rig = huge()
    rig.run("split", start=BASE, end=BASE + 512, target_level=1)
    rig.run("unmap", start=BASE, end=BASE + 512)
    events = teardown(rig, {"op": "release_hkid"})
    assert [e[1] for e in events if e[0] == "reclaimed" and e[1].startswith("S")] == ["S2", "S1", "S0"]
    assert asserts(events) == [] and rig.vm.kvm_state()["tdr_owned"] == 0


# ---- build and end where a SEAMCALL fails or comes twice

def bugged(rig):
    state = rig.vm.kvm_state()
    return state["vm_bugged"], state["vm_dead"]


def test_a_page_is_measured_in_sixteen_pieces():
    rig = Rig(runnable=False)
    result, events = rig.run("populate", gfn=BASE, pfn=PFN, measure=1)
    assert result["ret"] == 0 and leaves(events)[-17:] == ["MEM.PAGE.ADD"] + ["MR.EXTEND"] * 16
    assert [e[2][0] for e in events if e[:2] == ["seam", "MR.EXTEND"]] == [
        hex((BASE << 12) + i * 256) for i in range(16)]


def test_a_measurement_that_fails_kills_the_vm():
    rig = Rig(runnable=False)
    result, events = rig.run("populate", gfn=BASE, pfn=PFN, measure=1, inject=held("MR.EXTEND", "tdr", skip=3))
    assert result["ret"] == -5 and leaves(events).count("MR.EXTEND") == 4
    assert asserts(events) == [("WARN", "tdx_gmem_post_populate", "seamcall_failed")] and bugged(rig) == (1, 1)


def test_a_write_tracked_page_is_not_populated():
    rig = Rig(runnable=False)
    rig.run("track", gfn=BASE)
    result, events = rig.run("populate", gfn=BASE, pfn=PFN)
    assert (result["ret"], leaves(events)) == (-1, [])
    assert rig.run("populate", gfn=BASE + 1, pfn=PFN + 1)[0]["ret"] == 0


@pytest.mark.parametrize("design", ["v7.3", "v6.19"])
def test_two_populators_wait_for_each_other(design):
    """slots_lock: the source page of one is not taken for the other's."""
    threads = [{"ops": [{"op": "populate", "gfn": BASE + i, "pfn": PFN + i}]} for i in range(2)]
    setup = [{"op": "populate", "gfn": BASE + 7, "pfn": PFN + 7}]
    found = check(parse({"name": "two", "vm": {"runnable": 0}, "setup": setup, "thread": threads}, "two"), design)
    assert (found.verdict, found.complete, found.counterexample) == ("holds", True, None)


def test_finalize_needs_a_key_and_is_not_to_fail():
    rig = Rig(runnable=False)
    assert rig.run("finalize", inject=held("MR.FINALIZE", "tdr", count=1))[0]["ret"] == -16 and bugged(rig) == (0, 0)
    rig.run("release_hkid")
    result, events = rig.run("finalize")
    assert (result["ret"], leaves(events), bugged(rig)) == (-22, [], (0, 0))
    rig = Rig(runnable=False)
    rig.run("raw", leaf="MR.FINALIZE", rcx=rig.vm.tdr)          # behind KVM's back
    result, events = rig.run("finalize")
    assert result["ret"] == -5 and bugged(rig) == (1, 1)
    assert asserts(events) == [("WARN", "tdx_td_finalize", "seamcall_failed")]

def test_a_vcpu_that_cannot_be_flushed_kills_the_vm_and_keeps_the_key():
    """VP.FLUSH fails: KVM takes the vCPU for flushed, VPFLUSHDONE then says it is not, and nobody warns of that."""
    rig = Rig()
    rig.run("vp_enter", vcpu=0)
    rig.run("td_exit", vcpu=0)
    _, events = rig.run("release_hkid", inject=held("VP.FLUSH", "tdr", count=1))
    assert asserts(events) == [("WARN", "tdx_flush_vp_on_cpu", "seamcall_failed")] and bugged(rig) == (1, 1)
    assert statuses(events, "MNG.VPFLUSHDONE") == ["TDX_FLUSHVP_NOT_DONE"]
    assert rig.vm.kvm_state()["hkid"] > 0 and "PHYMEM.CACHE.WB" not in leaves(events)


def test_a_vcpu_that_was_never_associated_is_fine():
    rig = Rig(runnable=False)
    rig.run("vp_enter", vcpu=0)             # loaded, but the module does not let it in
    _, events = rig.run("release_hkid")
    assert statuses(events, "VP.FLUSH") == ["TDX_VCPU_NOT_ASSOCIATED"]
    assert asserts(events) == [] and rig.vm.kvm_state()["hkid"] == -1


@pytest.mark.parametrize("leaf, name", [
    ("MNG.VPFLUSHDONE", "vpflushdone_failed"), ("MNG.KEY.FREEID", "key_freeid_failed")])
def test_a_key_that_cannot_be_released_kills_the_vm(leaf, name):
    rig = Rig()
    _, events = rig.run("release_hkid", inject=held(leaf, "tdr", count=1))
    assert asserts(events) == [("WARN", "tdx_mmu_release_hkid", name)]
    assert bugged(rig) == (1, 1) and rig.vm.kvm_state()["hkid"] > 0


def rig_before_vm_destroy():
    rig = Rig()
    for op in ("release_hkid", "put_roots", "uninit"):
        rig.run(op)
    for vcpu in range(3):
        rig.run("vcpu_free", vcpu=vcpu)
    return rig


def test_control_pages_are_reclaimed_once():
    rig = rig_before_vm_destroy()
    _, events = rig.run("vm_destroy")
    assert events[-1] == ["free_page", "TDR"] and asserts(events) == []
    assert rig.run("vm_destroy")[1] == [] and rig.vm.kvm_state()["state"] == 0


def test_a_tdr_whose_cache_is_not_written_back_is_kept():
    rig = rig_before_vm_destroy()
    _, events = rig.run("vm_destroy", inject=held("PHYMEM.PAGE.WBINVD", "pamt_rcx", count=1))
    assert asserts(events) == [("WARN", "tdx_reclaim_td_control_pages", "wbinvd_failed")]
    assert bugged(rig) == (1, 1) and rig.vm.kvm_state()["tdr_owned"] == 1
