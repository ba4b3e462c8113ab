"""A TD on a module, as a library user drives it."""

import threading

import pytest

from tdpfast import PRESETS, TdVm, UsageError, VmEnded
from tdpfast._face.seam_module import SeamModule
from tdpfast._face.td import TdVmCore
from tdpfast.design import with_knobs
from tdpfast.seam import Td, TdxModule
from tdpfast.td import GuestAccept, VpEnter
from tdpfast.threads import audit, run_threads
from tdpfast.trace import trace_lines

GPA = 0x600 << 12


def test_from_the_first_access_to_the_end():
    td = TdVm("v7.3", vcpus=2)
    vcpu = td.vcpus[1]
    assert vcpu.guest_access(GPA).result == "NOT_IN_GUEST"
    assert vcpu.vp_enter() is VpEnter.ENTERED and td.in_guest == [1]
    assert vcpu.vp_enter() is VpEnter.INSIDE
    touched = vcpu.touch(0x600, 0x140600)
    assert touched.result == "TDEXIT" and touched.r8 == GPA and not touched.unexpected_pending
    assert [str(record) for record in vcpu.records() if record.kind == "seam"] == [
        "seam leaf TDH.MEM.SEPT.ADD status TDX_SUCCESS rcx 3 "
        f"rdx {td.td.tdr:x} r8 {td.core.sept_range[0]:x} lp 33 injected 0",
        "seam leaf TDH.MEM.SEPT.ADD status TDX_SUCCESS rcx 2 "
        f"rdx {td.td.tdr:x} r8 {td.core.sept_range[0] + 0x1000:x} lp 33 injected 0",
        "seam leaf TDH.MEM.SEPT.ADD status TDX_SUCCESS rcx 600001 "
        f"rdx {td.td.tdr:x} r8 {td.core.sept_range[0] + 0x2000:x} lp 33 injected 0",
        "seam leaf TDH.MEM.PAGE.AUG status TDX_SUCCESS rcx 600000 "
        f"rdx {td.td.tdr:x} r8 140600000 lp 33 injected 0",
        "seam leaf TDH.VP.ENTER status ENTERED_TD rcx "
        f"{td.td.vcpus[1]:x} rdx 0 r8 0 lp 2 injected 0"]
    assert any("tdpfast_seamcall: TDH.MEM.PAGE.AUG lp 33 rcx 600000" in line for line in trace_lines(vcpu.records()))
    assert [(entry.level, entry.state) for entry in td.sept_walk(0x600).entries] == [
        (4, "NL_MAPPED"), (3, "NL_MAPPED"), (2, "NL_MAPPED"), (1, "PENDING")]
    assert str(vcpu.accept(GPA)) == "TDX_SUCCESS" and str(vcpu.guest_access(GPA)) == "NO_FAULT"
    assert td.sept_walk(0x600).entries[-1].state == "MAPPED" and td.sept_walk(0x600).entries[-1].hpa == 0x140600000
    assert td.walk(0x600).pfn == 0x140600 and audit(td) == []
    assert td.free_pfn(0x600, 0x140600) == -16
    assert td.unmap(0x600, 0x601) and td.in_guest == []
    assert [record.kind for record in td.records()][:2] == ["seam", "seam"]
    assert td.free_pfn(0x600, 0x140600) == 0
    assert not any(td.destroy().values())
    assert (td.kvm_state["hkid"], td.kvm_state["tdr_owned"], td.kvm_state["sept_pages"]) == (-1, 0, 0)
    assert {entry["type"] for entry in td.module.dump_pamt()} == {"NDA"}
    assert td.sept_walk(0x600).entries == ()
    with pytest.raises(VmEnded, match="destroyed"):
        td.vp_enter()


@pytest.mark.parametrize("design", sorted(set(PRESETS)))
def test_every_design_builds_and_ends(design):
    td = TdVm(design, vcpus=3, root_level=5 if design == "v7.3" else 4)
    for gfn in (0, 0x200, 0x40000):
        td.vcpus[1].vp_enter()
        assert td.vcpus[1].guest_accept(gfn << 12, 0x140000 + gfn) == GuestAccept(0, 2, td.vcpus[1].guest_access(
            gfn << 12)._replace(result="TDX_SUCCESS", rcx=gfn << 12))
    stats = td.destroy()
    assert not any(stats.values()), stats


def test_a_td_that_is_not_finalised():
    td = TdVm("v7.3", runnable=False)
    assert td.prefault(5, 0x140005) == -95
    assert td.populate(5, 0x140005, measure=True) == 0
    assert td.finalize() == 0 and td.finalize() == -22
    assert td.populate(6, 0x140006) == -22
    assert td.prefault(6, 0x140006) == 5
    assert td.module.mrtd(td.td) != bytes(48)
    assert [td.sept_walk(gfn).entries[-1].state for gfn in (5, 6)] == ["MAPPED", "PENDING"]
    assert not any(td.destroy().values())


def test_two_tds_share_a_module():
    module = TdxModule()
    first, second = TdVm(module=module, vcpus=1), TdVm("v6.19", module=module, vcpus=2)
    page = module.new_page() >> 12
    assert first.td.tdr != second.td.tdr and first.kvm_state["hkid"] != second.kvm_state["hkid"]
    assert first.map(7, page).ret == 5
    assert second.map(7, page).ret == 1 and second.vcpus[0].asserts["WARN"].id == "seamcall_failed"
    assert not any(first.destroy().values())
    third = TdVm(module=module)
    assert third.map(7, page).ret == 5 and third.kvm_state["hkid"] == 33


def test_a_module_that_is_full():
    module = TdxModule(((0x1_0000_0000, 0x1_4000_0000),))
    for _ in range(4):
        TdVm(module=module)
    with pytest.raises(UsageError, match="first TDMR is used up"):
        TdVm(module=module)


def test_a_seamcall_past_kvm():
    td = TdVm()
    td.map(0x600, 0x140600)
    assert str(td.seamcall("mem_range_block", rcx=GPA, rdx=td.td.tdr)) == "TDX_SUCCESS"
    assert audit(td) == [f"mirror leaf pfn 140600 rw, S-EPT {td.sept_walk(0x600).entries[-1].entry:#x} at gfn 600"]
    with pytest.raises(UsageError, match="leaf"):
        td.seamcall("mem_page_what")


def test_the_trace_is_off_when_it_is_off():
    td = TdVm(trace="off")
    td.map(0x600, 0x140600)
    assert list(td.records()) == []


def test_vcpus_beyond_the_td_enter_no_guest():
    td = TdVm(vcpus=1)
    worker = td.create_vcpu()
    assert worker.map(3, 0x140003).ret == 5
    with pytest.raises(UsageError, match="the TD has 1 vCPUs"):
        worker.vp_enter()
    with pytest.raises(UsageError, match="the TD has 0 vCPUs"):
        TdVm(vcpus=0, runnable=False).vp_enter()


def test_hooks_in_front_of_the_module():
    seen = []

    def hook(gfn, old, new, level):
        seen.append((gfn, level))
        return -16 if len(seen) < 3 else None

    td = TdVm(hooks={"set_external_spte": hook})
    assert td.map(0x600, 0x140600, retries=-1).ret == 5
    assert seen[:3] == [(0, 4)] * 3 and seen[-1] == (0x600, 1) and audit(td) == []


def test_native_threads_on_it():
    td = TdVm(vcpus=2, trace="off", memory_pages=8192)
    faults = [{"op": "touch", "vcpu": 0, "gfn": gfn, "pfn": 0x140000 + gfn} for gfn in range(64)]
    more = [{**op, "vcpu": 1} for op in faults]
    zaps = [{"op": "unmap", "start": 0, "end": 64}]
    result = run_threads(td, [faults, more, zaps], count=400, seed=1)
    assert result.ended is None and audit(td) == []
    assert not any(td.destroy().values())


def test_traces_of_vcpus_that_run_at_the_same_time():
    td = TdVm(vcpus=2, trace="all")

    def work(vcpu):
        for gfn in range(vcpu.id * 0x200, vcpu.id * 0x200 + 100):
            vcpu.map(gfn, 0x140000 + gfn, retries=-1)

    threads = [threading.Thread(target=work, args=(vcpu,)) for vcpu in td.vcpus]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for vcpu in td.vcpus:
        augs = [record for record in vcpu.records() if record.fields.get("leaf") == "TDH.MEM.PAGE.AUG"]
        assert len([r for r in augs if r.fields["status"] == "TDX_SUCCESS"]) == 100


def test_a_design_that_breaks_what_audit_looks_at():
    td = TdVm(with_knobs("v7.3", {"no_hook_on_zap": True}))
    td.map(0x600, 0x140600)
    td.unmap(0x600, 0x601)
    assert any("S-EPT" in text for text in audit(td))
    assert td.free_pfn(0x600, 0x140600) == 1


@pytest.mark.parametrize("arguments", [
    {"vcpus": 9}, {"vcpus": -1}, {"module": 5}, {"module": TdxModule(dynamic_pamt=True)}, {"runnable": "x"},
    {"attributes": -1}, {"pending_ve_disable": 2}, {"root_level": 3}, {"trace": "some"}, {"hooks": 5},
    {"design": "v9"}])
def test_bad_arguments(arguments):
    with pytest.raises(UsageError):
        TdVm(**arguments)


@pytest.mark.parametrize("call", [
    lambda td: td.guest_access(-1), lambda td: td.accept(GPA, 9), lambda td: td.touch(1 << 40, 5),
    lambda td: td.touch(5, 1 << 41), lambda td: td.populate("x", 5), lambda td: td.prefault(5, 5, 4),
    lambda td: td.free_pfn(None, 5), lambda td: td.sept_walk(1 << 36), lambda td: td.run({"op": "vp_enter", "vcpu": 9}),
    lambda td: td.guest_accept(GPA, 5, tries=-2), lambda td: Td("x"), lambda td: Td(5, ("x",)), lambda td: Td(5, 5)])
def test_bad_calls(call):
    with pytest.raises(UsageError):
        call(TdVm())


def test_tds_of_a_module_run_beside_each_other():
    module = TdxModule()
    tds = [TdVm(module=module, vcpus=2, trace=trace, memory_pages=2048) for trace in ("all", "off", "last")]
    for td in tds:
        assert [vcpu.vp_enter() for vcpu in td.vcpus] == [VpEnter.ENTERED] * 2
    assert [td.in_guest for td in tds] == [[0, 1]] * 3
    errors = []

    def work(td, vcpu):
        pfn = 0x180000 + tds.index(td) * 0x1000
        try:
            for i in range(200):
                gfn = i * 7 % 64
                vcpu.vp_enter()
                vcpu.touch(gfn, pfn + gfn, retries=100)
                if i % 5 == 0:
                    td.unmap(gfn, gfn + 4)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(td, vcpu)) for td in tds for vcpu in td.vcpus]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and [audit(td) for td in tds] == [[], [], []]
    assert not any(any(td.destroy().values()) for td in tds)


def test_no_more_vcpus_than_logical_processors():
    module = TdxModule()
    tds = [TdVm(module=module, vcpus=8, memory_pages=64) for _ in range(4)]
    with pytest.raises(UsageError, match="no logical processors"):
        TdVm(module=module)
    tds[1].destroy()
    TdVm(module=module, vcpus=8, memory_pages=64)


@pytest.mark.parametrize("op", ["vp_enter", "td_exit", "accept", "guest_access", "touch", "vcpu_free", "guest_accept"])
def test_vcpus_that_the_td_does_not_have(op):
    td = TdVm(vcpus=2)
    assert td.core.run({"op": op, "vcpu": 2})["ret"] == -22
    for call in (lambda: td.run({"op": op, "vcpu": 2}), lambda: run_threads(td, [[{"op": op, "vcpu": 2}]])):
        with pytest.raises(UsageError, match="vcpu"):
            call()


def test_kvm_initialises_vcpus_with_their_x2apic_ids():
    td = TdVm("v7.3", vcpus=2, runnable=False)
    assert td.run({"op": "vcpu_create"})["ret"] == 2
    ids = [td.module.native.vp(tdvpr)["x2apic_id"] for tdvpr in (*td.td.vcpus, td.td.vcpus[1] + 0x10000)]
    assert ids == [0, 1, 2], "VP.INIT version 1"
    assert td.module.sys_field("sys.features0") >> 20 & 1, "which the module offers"


def test_a_module_of_version_0_gets_vcpus_all_the_same():
    module = SeamModule([(1 << 32, 2 << 32)], topology=False)
    td = TdVmCore(PRESETS["v7.3"], module, nvcpus=1, runnable=False)
    assert td.run({"op": "vcpu_create"})["ret"] == 1
    assert module.vp(td.tdr + 0x20000)["x2apic_id"] == module.vp(td.tdr + 0x30000)["x2apic_id"] == (1 << 64) - 1
