"""TdxModule: calls by name, wrong use, injection, snapshots, teardown."""
import pytest

from tdpfast.errors import UsageError
from tdpfast.seam import LEAVES, TdxModule
from tdpfast.status import decode_entry, decode_status, status_name

GPA = 0x200000


@pytest.fixture
def module():
    return TdxModule()


@pytest.fixture
def td(module):
    td = module.build_td(vcpus=2)
    for level in (3, 2, 1):
        assert module.mem_sept_add(td, GPA & -(1 << 12 + 9 * level), level, module.new_page()).ok
    return td


def test_a_page_from_aug_to_free(module, td):
    page = module.new_page()
    assert module.mem_page_aug(td, GPA, 0, page).ok
    assert module.vp_enter(td).status == "ENTERED_TD"
    assert module.guest_access(GPA).status == "VE_INJECTED"
    assert module.accept(GPA).ok
    assert module.guest_access(GPA).status == "NO_FAULT"
    assert str(module.mem_page_remove(td, GPA)) == "TDX_GPA_RANGE_NOT_BLOCKED:RCX"
    assert module.mem_range_block(td, GPA).ok
    assert str(module.mem_page_remove(td, GPA)) == "TDX_TLB_TRACKING_NOT_DONE:RCX"
    assert module.mem_track(td).ok
    assert str(module.mem_page_remove(td, GPA)) == "TDX_TLB_TRACKING_NOT_DONE:RCX"
    assert module.mem_track(td).status == "TDX_PREVIOUS_TLB_EPOCH_BUSY"
    assert module.td_exit().status == "TDEXIT"
    removed = module.mem_page_remove(td, GPA)
    assert removed.ok and removed.registers["rcx"] == page
    assert module.call("phymem_page_wbinvd", rcx=page).ok


def test_vcpu_that_enters_after_track_does_not_delay(module, td):
    module.mem_page_aug(td, GPA, 0, module.new_page())
    module.mem_range_block(td, GPA)
    module.mem_track(td)
    assert module.vp_enter(td, 1).status == "ENTERED_TD"
    assert module.mem_page_remove(td, GPA).ok


def test_accept_zeroes_add_copies_relocate_moves(module):
    td = module.build_td(vcpus=1, finalize=False)
    for level in (3, 2, 1):
        module.mem_sept_add(td, GPA & -(1 << 12 + 9 * level), level, module.new_page())
    page, other = module.new_page(), module.new_page()
    assert module.mem_page_add(td, GPA, page, 0x10000000).ok
    assert module.native.content(page) != 0
    assert module.mem_page_relocate(td, GPA, other).ok
    assert module.native.content(other) == module.native.content(page)


def test_teardown(module, td):
    page = module.new_page()
    module.mem_page_aug(td, GPA, 0, page)
    assert module.call("phymem_page_reclaim", rcx=page).status == "TDX_LIFECYCLE_STATE_INCORRECT"
    assert module.call("mng_vpflushdone", rcx=td.tdr).status == "TDX_FLUSHVP_NOT_DONE"
    for lp, tdvpr in enumerate(td.vcpus, 1):
        assert module.call("vp_flush", lp, rcx=tdvpr).ok
    assert module.call("mng_vpflushdone", rcx=td.tdr).ok
    assert module.call("mng_key_freeid", rcx=td.tdr).status == "TDX_WBCACHE_NOT_COMPLETE"
    assert module.call("phymem_cache_wb").ok
    assert module.call("mng_key_freeid", rcx=td.tdr).ok
    assert module.call("phymem_page_reclaim", rcx=td.tdr).status == "TDX_TD_ASSOCIATED_PAGES_EXIST"
    for entry in module.dump_pamt():
        if entry["owner"] == td.tdr:
            assert module.call("phymem_page_reclaim", rcx=entry["hpa"]).ok
    assert module.call("phymem_page_reclaim", rcx=td.tdr).ok
    assert {e["type"] for e in module.dump_pamt()} <= {"NDA"}


def test_injected_lock_status_and_interrupt(module, td):
    module.inject("mem_page_aug", lock="sept_tree", skip=1)
    assert module.mem_page_aug(td, GPA, 0, module.new_page()).ok
    assert str(module.mem_page_aug(td, GPA + 4096, 0, module.new_page())) == "TDX_OPERAND_BUSY:SEPT_TREE"
    assert module.mem_page_aug(td, GPA + 4096, 0, module.new_page()).ok
    assert module.native.inject_used() == [1]
    module.inject_clear()
    module.inject("mem_track", status=0x8000020100000000)
    assert module.mem_track(td).status == "TDX_PREVIOUS_TLB_EPOCH_BUSY"
    assert module.mem_track(td).ok


@pytest.mark.parametrize("lock, answer", [
    ("entry", "TDX_OPERAND_BUSY:RCX"), ("tdr", "TDX_OPERAND_BUSY:RDX"), ("op_state", "TDX_OPERAND_BUSY:OP_STATE"),
    ("pamt_r8", "TDX_OPERAND_BUSY:R8"), ("epoch", "TDX_SUCCESS")])
def test_every_lock_can_be_injected(module, td, lock, answer):
    module.inject("mem_page_aug", lock=lock)
    page = module.new_page()
    assert str(module.mem_page_aug(td, GPA, 0, page)) == answer
    if answer != "TDX_SUCCESS":
        assert module.mem_page_aug(td, GPA, 0, page).ok


def test_restore_is_exact(module, td):
    module.mem_page_aug(td, GPA, 0, module.new_page())

    def state():
        return (module.dump_sept(td), [module.dump_pamt(size) for size in range(3)], module.native.td(td.tdr),
                [module.native.vp(v) for v in td.vcpus], module.native.in_guest())
    before = state()
    module.native.snapshot()
    for _ in range(3):
        module.vp_enter(td)
        module.accept(GPA)
        module.mem_page_aug(td, GPA + 4096, 0, module.new_page())
        module.mem_sept_add(td, 0, 1, module.new_page())
        module.mem_range_block(td, GPA, 1)
        module.mem_track(td)
        assert state() != before
        module.native.restore()
        assert state() == before


@pytest.mark.parametrize("wrong", [
    lambda m, td: m.call("mem_nothing"), lambda m, td: m.call("mem_track", rcx=-1),
    lambda m, td: m.call("mem_track", rcx=1 << 64), lambda m, td: m.call("mem_track", 64, rcx=0),
    lambda m, td: m.call("mem_track", rbx=1), lambda m, td: m.inject(lock="door"), lambda m, td: m.inject("door"),
    lambda m, td: m.native.pamt(0), lambda m, td: m.native.pamt(1 << 32, 3), lambda m, td: m.native.td(0x140000000),
    lambda m, td: m.native.restore(), lambda m, td: m.native.tdcall("nothing"),
    lambda m, td: m.native.set_td(td.tdr, nothing=1), lambda m, td: TdxModule(tdmrs=[(1, 2)]),
    lambda m, td: m.native.set_entry(td.tdr, 0x8000000000, 0, 0), lambda m, td: m.accept(GPA, vcpu=99),
])
def test_bad_input_is_a_usage_error(module, td, wrong):
    with pytest.raises(UsageError):
        wrong(module, td)


def test_wrong_order_is_a_status(module):
    page = module.new_page()
    assert module.call("mng_key_config", rcx=page).status == "TDX_PAGE_METADATA_INCORRECT"
    assert module.call("mng_create", rcx=page, rdx=33).ok
    assert module.call("mng_create", rcx=page, rdx=34).status == "TDX_PAGE_METADATA_INCORRECT"
    assert module.call("mng_create", rcx=module.new_page(), rdx=33).status == "TDX_HKID_NOT_FREE"
    assert module.call("mng_init", rcx=page).status == "TDX_TD_KEYS_NOT_CONFIGURED"
    assert module.call("mng_key_config", rcx=page).ok
    assert module.call("mng_init", rcx=page).status == "TDX_TDCS_NOT_ALLOCATED"
    assert module.accept(0).status == "NOT_IN_GUEST"


def test_every_leaf_answers_nonsense(module):
    for leaf in LEAVES:
        for value in (0, 2**64 - 1, 0x1_0000_0000):
            result = module.call(leaf, rcx=value, rdx=value, r8=value, r9=value)
            assert result.status.startswith("TDX_"), leaf


def test_status_names():
    assert status_name(0xC0000B0F00010004) == "TDX_L2_SEPT_WALK_FAILED:vm=1,level=4"
    assert decode_status(0xE000060400000000) == ("TDX_TD_FATAL", "", True, True, True)
    assert decode_entry(0x81000001120000F0)["state"] == "PENDING"
