"""Dynamic PAMT: the module's two leaves, KVM's counts, their races and error paths."""
import pytest

from tdpfast._face.seam_module import SeamModule
from tdpfast._face.td import TdVmCore
from tdpfast.check import Limits, check
from tdpfast.design import PRESETS, Design
from tdpfast.errors import UsageError
from tdpfast.scenario import parse
from tdpfast.seam import TdxModule

MEMORY = (0x1_0000_0000, 0x2_0000_0000)
RANGE = 0x1_4000_0000
PAIR = (0x1_5000_0000, 0x1_5000_1000)
PFN = 0x140000
RET_PF_FIXED = 5
DYNAMIC = PRESETS["v7.3"].replace(name="v7.3-dpamt", dynamic_pamt=True)
DESIGNS = [PRESETS[n].replace(name=f"{n}-dpamt", dynamic_pamt=True) for n in ("v6.19", "patch07", "single-hook-4k",
                                                                              "v7.3")]


def pamt_add(module, rcx=RANGE | 1, rdx=PAIR[0], r8=PAIR[1]):
    return str(module.call("phymem_pamt_add", rcx=rcx, rdx=rdx, r8=r8))


# ---- the module


def test_without_the_option_the_leaves_are_refused():
    module = TdxModule()
    assert pamt_add(module) == "TDX_OPERAND_INVALID"
    assert str(module.call("phymem_pamt_remove", rcx=RANGE | 1)) == "TDX_OPERAND_INVALID"


def test_a_pair_comes_and_goes():
    module = TdxModule(dynamic_pamt=True)
    assert str(module.call("mng_create", rcx=RANGE, rdx=33)) == "TDX_MISSING_PAMT_PAGE_PAIR:RCX"
    assert str(module.call("phymem_pamt_remove", rcx=RANGE | 1)) == "TDX_NO_PAMT_PAGE_PAIR:RCX"
    assert pamt_add(module) == "TDX_SUCCESS"
    assert pamt_add(module) == "TDX_HPA_RANGE_NOT_FREE:RCX"
    assert module.call("mng_create", rcx=RANGE, rdx=33).ok
    assert module.call("phymem_pamt_remove", rcx=RANGE | 1).status == "TDX_PAMT_PAGE_NOT_EMPTY"
    other = TdxModule(dynamic_pamt=True)
    assert pamt_add(other) == "TDX_SUCCESS"
    removed = other.call("phymem_pamt_remove", rcx=RANGE | 1)
    assert removed.ok and (removed.registers["rdx"], removed.registers["r8"]) == PAIR
    assert not other.native.locks_held()


@pytest.mark.parametrize("change, answer", [
    (dict(rcx=RANGE), "TDX_OPERAND_INVALID:RCX"), (dict(rcx=RANGE | 0x1001), "TDX_OPERAND_INVALID:RCX"),
    (dict(rdx=PAIR[0] + 1), "TDX_OPERAND_INVALID:RDX"), (dict(r8=1 << 50), "TDX_OPERAND_INVALID:R8"),
    (dict(rdx=0x1000), "TDX_OPERAND_ADDR_RANGE_ERROR:RDX"), (dict(r8=PAIR[0]), "TDX_PAGE_NOT_FREE:R8"),
    (dict(rcx=0x1000_0001 & ~0xFFF | 1), "TDX_OPERAND_ADDR_RANGE_ERROR:RCX"),
])
def test_bad_operands_of_pamt_add(change, answer):
    module = TdxModule(dynamic_pamt=True)
    assert pamt_add(module, **change) == answer
    assert pamt_add(module) == "TDX_SUCCESS", "nothing stays marked"


def test_a_page_of_a_pair_has_no_other_use():
    module = TdxModule(dynamic_pamt=True)
    assert pamt_add(module, rdx=RANGE, r8=RANGE + 0x1000) == "TDX_SUCCESS"
    assert str(module.call("mng_create", rcx=RANGE, rdx=33)) == "TDX_PAGE_METADATA_INCORRECT:RCX"
    assert pamt_add(module, rcx=RANGE + 0x200001, rdx=RANGE) == "TDX_PAGE_NOT_FREE:RDX"
    assert module.call("mng_create", rcx=RANGE + 0x2000, rdx=33).ok


def test_a_td_lives_and_dies():
    module = TdxModule(dynamic_pamt=True)
    td = module.build_td(1)
    for level in (3, 2, 1):
        assert module.mem_sept_add(td, 0, level, module.new_page()).ok
    assert module.mem_page_aug(td, 0, 0, module.new_page()).ok
    assert module.mem_page_aug(td, 0x200000, 1, RANGE).status == "TDX_SUCCESS", "a 2M page needs no pair"
    assert pamt_add(module) == "TDX_HPA_RANGE_NOT_FREE:RCX"
    assert module.mem_page_demote(td, 0x200000, 1, module.new_page()).status == "TDX_OPERAND_INVALID"
    module.teardown_td(td)
    for start in sorted(module._paired):
        assert module.call("phymem_pamt_remove", rcx=start << 21 | 1).ok


# ---- KVM's side


def td_vm(design=DYNAMIC, **kwargs):
    return TdVmCore(design, SeamModule([MEMORY]), nvcpus=1, **kwargs)


def destroy(vm):
    for op in ("release_hkid", "uninit", "sync_rcu"):
        vm.run({"op": op})
    for v in range(vm.nvcpus):
        vm.run({"op": "vcpu_free", "vcpu": v})
    vm.run({"op": "vm_destroy"})


@pytest.mark.parametrize("design", DESIGNS, ids=lambda d: d.name)
def test_a_whole_life_is_balanced(design: Design):
    vm = td_vm(design)
    assert vm.pamt_check() is None
    for i in range(4):
        assert vm.run({"op": "map", "gfn": 0x600 + i, "pfn": PFN + 300 * i})["ret"] == RET_PF_FIXED
        assert vm.pamt_check() is None
    counts, out = vm.pamt_counts()
    assert counts[PFN << 12] == 2 and counts[(PFN + 512) << 12] == 2 and out == 2 * len(counts)
    vm.run({"op": "zap_leafs", "start": 0x600, "end": 0x604})
    assert vm.pamt_check() is None
    assert PFN << 12 not in vm.pamt_counts()[0]
    destroy(vm)
    assert vm.pamt_check() is None
    assert vm.pamt_counts() == ({}, 0)


@pytest.mark.parametrize("leaf, lock", [("MEM.PAGE.AUG", "tdr"), ("MEM.PAGE.AUG", "pamt_r8"), ("MEM.SEPT.ADD", "tdr"),
                                        ("MEM.SEPT.ADD", "sept_tree")])
@pytest.mark.parametrize("design", DESIGNS, ids=lambda d: d.name)
def test_error_paths_give_back_what_they_took(design, leaf, lock):
    vm = td_vm(design)
    before = vm.pamt_counts()
    result = vm.run({"op": "map", "gfn": 0x600, "pfn": PFN, "inject": [{"leaf": leaf, "lock": lock}]})
    assert result["inject_used"] == [1]
    assert vm.pamt_check() is None
    if leaf == "MEM.SEPT.ADD":
        assert vm.pamt_counts() == before
    vm.run({"op": "map", "gfn": 0x600, "pfn": PFN, "retries": -1})
    assert vm.pamt_check() is None
    leaky = design.replace(name="leaky", pamt_no_put=True)
    vm = td_vm(leaky)
    vm.run({"op": "map", "gfn": 0x600, "pfn": PFN, "inject": [{"leaf": leaf, "lock": lock}]})
    assert vm.pamt_check() is not None


def test_a_failed_removal_counts_again():
    vm = td_vm()
    assert vm.run({"op": "pamt_get", "pfn": PFN})["ret"] == 0
    vm.run({"op": "pamt_put", "pfn": PFN, "inject": [{"leaf": "PHYMEM.PAMT.REMOVE", "lock": "pamt_rcx"}]})
    assert vm.pamt_counts()[0][PFN << 12] == 1
    vm.run({"op": "pamt_put", "pfn": PFN})
    assert vm.pamt_check() is None


def test_a_failed_get_is_an_error_and_takes_nothing():
    vm = td_vm()
    inject = [{"leaf": "PHYMEM.PAMT.ADD", "lock": "pamt_rcx"}]
    assert vm.run({"op": "pamt_get", "pfn": PFN, "inject": inject})["ret"] == -5
    assert vm.run({"op": "pamt_get", "pfn": 1})["ret"] == -5
    assert vm.pamt_check() is None


def test_two_tds_of_a_module_share_the_counts():
    module = SeamModule([MEMORY])
    a = TdVmCore(DYNAMIC, module, nvcpus=1)
    b = TdVmCore(DYNAMIC, module, nvcpus=1, hkid=34, base=0x1_1010_0000)
    a.run({"op": "map", "gfn": 0x600, "pfn": PFN})
    b.run({"op": "map", "gfn": 0x600, "pfn": PFN + 1})
    assert a.pamt_counts()[0][PFN << 12] == 2
    destroy(a)
    assert b.pamt_counts()[0][PFN << 12] in (1, 2) and b.pamt_check() is None
    with pytest.raises(UsageError):
        TdVmCore(PRESETS["v7.3"], module, hkid=35, base=0x1_2010_0000)


def test_large_pages_are_not_modelled():
    for knobs in (dict(max_level=2), dict(ungated=True)):
        with pytest.raises(UsageError):
            DYNAMIC.replace(**knobs)


# ---- races


def scenario(*threads, setup=()):
    return parse({"name": "dpamt", "vm": {"vcpus": 2}, "setup": list(setup), "thread": [
        {"name": f"vcpu{i}", "ops": list(ops)} for i, ops in enumerate(threads)]}, "test")


GET_PUT = [{"op": "pamt_get", "pfn": PFN}, {"op": "pamt_put", "pfn": PFN}]
GET_PUT_B = [{"op": "pamt_get", "pfn": PFN + 1}, {"op": "pamt_put", "pfn": PFN + 1}]
BUSY = [{"leaf": "MEM.PAGE.AUG", "lock": "tdr"}]
WARM = [{"op": "map", "gfn": 0x601, "pfn": PFN + 0x1000}, {"op": "map", "gfn": 0x801, "pfn": PFN + 0x1001}]


def test_get_and_put_race():
    result = check(scenario(GET_PUT, GET_PUT_B), DYNAMIC)
    assert result.verdict == "holds" and result.complete


def test_a_count_that_drops_outside_the_lock_is_found():
    """Two puts see 0 and both remove: the looking again that an earlier posting did is not enough."""
    result = check(scenario(GET_PUT, GET_PUT_B), DYNAMIC.replace(name="dec-outside", pamt_dec_outside=True))
    assert result.verdict == "violated" and result.checks == ["kernel", "pamt"]
    assert any("TDX_HPA_RANGE_NOT_FREE" in line.text for line in result.counterexample.story)
    assert any("TDX_NO_PAMT_PAGE_PAIR" in line.text for line in result.counterexample.story)


def test_two_vcpus_get_and_put_one_range():
    threads = [[{"op": "map", "gfn": 0x600, "pfn": PFN, "inject": BUSY, "retries": 3}],
               [{"op": "map", "gfn": 0x800, "pfn": PFN + 1, "retries": 3}]]
    limits = Limits(strategy="random", max_executions=400, seed=7)
    result = check(scenario(*threads, setup=WARM), DYNAMIC, limits=limits)
    assert result.verdict != "violated", result.checks
    leaky = DYNAMIC.replace(name="leaky", pamt_no_put=True)
    result = check(scenario(*threads, setup=WARM), leaky, limits=limits)
    assert "pamt" in result.checks


def test_the_same_race_through_two_failing_faults():
    threads = [[{"op": "map", "gfn": 0x600 + 0x200 * i, "pfn": PFN + i, "inject": BUSY}] for i in range(2)]
    result = check(scenario(*threads, setup=WARM), DYNAMIC)
    assert result.verdict == "holds" and result.complete
    result = check(scenario(*threads, setup=WARM), DYNAMIC.replace(name="dec-outside", pamt_dec_outside=True))
    assert result.checks == ["kernel", "pamt"]
