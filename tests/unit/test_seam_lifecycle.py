"""Bringing the module up, building and tearing down TDs, measurement, metadata fields, wrong order."""
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdpfast.errors import UsageError
from tdpfast.seam import FIELDS, INFO_PA, LEAVES, TdxModule, tdmr_pamt_size

GIB = 1 << 30
GPA = 0x200000


def map_tables(module, td, gpa=GPA):
    for level in (3, 2, 1):
        assert module.mem_sept_add(td, gpa & -(1 << 12 + 9 * level), level, module.new_page()).ok


# ---- the module


def test_a_module_comes_up_step_by_step():
    m = TdxModule(auto=False, logical_processors=2)
    assert m.call("mng_create", rcx=1 << 32, rdx=33).status == "TDX_SYS_NOT_READY"
    assert m.call("sys_rd", rdx=FIELDS["sys.max_tdmrs"]).status == "TDX_SYS_LP_INIT_NOT_DONE"
    assert m.call("sys_lp_init").status == "TDX_SYS_LP_INIT_NOT_PENDING"
    assert str(m.call("sys_init", rcx=1)) == "TDX_OPERAND_INVALID:RCX"
    assert m.call("sys_init").ok
    assert m.call("sys_init").status == "TDX_SYS_INIT_NOT_PENDING"
    assert m.sys_config().status == "TDX_SYS_CONFIG_NOT_PENDING"
    assert m.call("sys_lp_init", 0).ok
    assert m.call("sys_lp_init", 0).status == "TDX_SYS_LP_INIT_DONE"
    assert m.sys_config().status == "TDX_SYS_CONFIG_NOT_PENDING"
    assert m.call("sys_lp_init", 1).ok
    assert m.call("sys_key_config").status == "TDX_SYS_KEY_CONFIG_NOT_PENDING"
    assert m.sys_config().ok
    assert m.sys_config().status == "TDX_SYS_CONFIG_NOT_PENDING"
    assert m.call("sys_tdmr_init", rcx=1 << 32).status == "TDX_SYS_NOT_READY"
    assert not m.native.ready
    assert m.call("sys_key_config").ok
    assert m.native.ready
    assert m.call("sys_key_config").status == "TDX_SYS_KEY_CONFIG_NOT_PENDING"


def test_tdmrs_are_initialised_gigabyte_by_gigabyte():
    m = TdxModule(auto=False, logical_processors=1)
    m.call("sys_init")
    m.call("sys_lp_init")
    m.sys_config()
    m.call("sys_key_config")
    assert str(m.call("mng_create", rcx=1 << 32, rdx=33)) == "TDX_OPERAND_ADDR_RANGE_ERROR:RCX"
    assert str(m.call("sys_tdmr_init", rcx=GIB)) == "TDX_OPERAND_INVALID:RCX"
    for done in range(1, 5):
        answer = m.call("sys_tdmr_init", rcx=1 << 32)
        assert answer.ok and answer.registers["rdx"] == (1 << 32) + done * GIB
        assert m.call("phymem_page_rdmd", rcx=answer.registers["rdx"] - 4096).ok
    assert m.call("sys_tdmr_init", rcx=1 << 32).status == "TDX_TDMR_ALREADY_INITIALIZED"
    assert m.build_td(1)


@pytest.mark.parametrize("change, status", [
    (lambda i: i.update(start=i["start"] + 4096), "TDX_INVALID_TDMR"),
    (lambda i: i.update(size=0), "TDX_INVALID_TDMR"),
    (lambda i: i.update(start=1 << 46), "TDX_INVALID_TDMR"),
    (lambda i: i.update(pamt=[(i["pamt"][0][0], 4096), *i["pamt"][1:]]), "TDX_INVALID_PAMT"),
    (lambda i: i.update(pamt=[(i["pamt"][0][0] + 1, i["pamt"][0][1]), *i["pamt"][1:]]), "TDX_INVALID_PAMT"),
    (lambda i: i.update(pamt=[(i["start"], i["pamt"][0][1]), *i["pamt"][1:]]), "TDX_PAMT_OVERLAP"),
    (lambda i: i.update(pamt=[i["pamt"][0], i["pamt"][0], i["pamt"][2]]), "TDX_PAMT_OVERLAP"),
    (lambda i: i.update(reserved=[(4096, 100)]), "TDX_INVALID_RESERVED_IN_TDMR"),
    (lambda i: i.update(reserved=[(4 * GIB, 4096)]), "TDX_INVALID_RESERVED_IN_TDMR"),
    (lambda i: i.update(reserved=[(8192, 4096), (0, 4096)]), "TDX_NON_ORDERED_RESERVED_IN_TDMR"),
    (lambda i: i.update(reserved=[(0, 8192), (4096, 4096)]), "TDX_NON_ORDERED_RESERVED_IN_TDMR"),
])
def test_sys_config_refuses_a_bad_tdmr(change, status):
    m = TdxModule(auto=False, logical_processors=1)
    m.call("sys_init")
    m.call("sys_lp_init")
    start, size, pamt, reserved = m.tdmr_info()[0]
    info = dict(start=start, size=size, pamt=pamt, reserved=reserved)
    change(info)
    assert m.sys_config([tuple(info.values())]).status == status
    assert m.sys_config().ok, "nothing of the refused list stays"


def test_sys_config_checks_its_operands_and_the_order_of_tdmrs():
    tdmrs = ((1 << 32, 2 << 32), (3 << 32, 4 << 32))
    m = TdxModule(tdmrs, auto=False, logical_processors=1)
    m.call("sys_init")
    m.call("sys_lp_init")
    assert m.sys_config(m.tdmr_info()[::-1]).status == "TDX_NON_ORDERED_TDMR"
    assert str(m.sys_config(hkid=3)) == "TDX_OPERAND_INVALID:R8"
    assert str(m.call("sys_config", rcx=0, rdx=1, r8=32)) == "TDX_OPERAND_INVALID:RCX"
    assert str(m.call("sys_config", rcx=INFO_PA, rdx=9, r8=32)) == "TDX_OPERAND_INVALID:RDX"
    assert m.sys_config(hkid=40).ok
    assert m.native.hkids()[32:41] == [0] * 8 + [4]


def test_a_pamt_area_may_lie_in_a_reserved_one():
    m = TdxModule(auto=False, logical_processors=1, reserved=[(1 << 32, (1 << 32) + (64 << 20))])
    m.call("sys_init")
    m.call("sys_lp_init")
    (start, size, pamt, reserved), = m.tdmr_info()
    at, placed = start, []
    for _, length in pamt:
        placed.append((at, length))
        at += length
    assert m.sys_config([(start, size, placed, reserved)]).ok


def test_reserved_memory_and_pamt_size():
    m = TdxModule(reserved=[(0x1_3000_0000, 0x1_3000_2000)])
    assert str(m.call("mng_create", rcx=0x1_3000_1000, rdx=33)) == "TDX_PAGE_METADATA_INCORRECT:RCX"
    assert m.call("mng_create", rcx=0x1_3000_2000, rdx=33).ok
    assert tdmr_pamt_size(0, GIB) == (4 << 20, 8192, 4096)
    assert tdmr_pamt_size(0, GIB, dynamic_pamt=True)[0] == 32768
    with pytest.raises(UsageError):
        tdmr_pamt_size(0, 5)


def test_sys_rd_reads_what_kvm_reads():
    m = TdxModule()
    assert m.sys_field("sys.pamt_4k_entry_size") == 16
    assert m.sys_field("sys.features0") >> 18 & 1, "KVM wants NO_RBP_MOD"
    first = m.call("sys_rd", rdx=2**64 - 1)
    assert first.status == "TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT"
    seen, at = [], first.registers["rdx"]
    while at != 2**64 - 1:
        seen.append(at)
        at = m.call("sys_rd", rdx=at).registers["rdx"]
    assert sorted(seen) == sorted(v for k, v in FIELDS.items() if k.startswith("sys."))
    assert m.call("sys_rd", rdx=0x3f00000000000000).status == "TDX_METADATA_FIELD_ID_INCORRECT"
    with pytest.raises(UsageError):
        m.sys_field("td.xfam")


# ---- measurement


def block(name, gpa):
    return (name.ljust(16, b"\0") + gpa.to_bytes(8, "little")).ljust(128, b"\0")


def test_mrtd_is_the_sha384_of_the_build():
    m = TdxModule()
    td = m.build_td(1, finalize=False)
    map_tables(m, td)
    want = hashlib.sha384()
    pages = {GPA: bytes(range(256)) * 16, GPA + 0x1000: None, GPA + 0x2000: b"tail"}
    for gpa, content in pages.items():
        assert m.mem_page_add(td, gpa, m.new_page(), content=content).ok
        want.update(block(b"MEM.PAGE.ADD", gpa))
    for gpa, content in pages.items():
        assert m.measure_page(td, gpa).ok
        data = (content or b"").ljust(4096, b"\0")
        for at in range(0, 4096, 256):
            want.update(block(b"MR.EXTEND", gpa + at) + data[at:at + 256])
    assert m.mrtd(td) == bytes(48)
    assert m.call("mr_finalize", rcx=td.tdr).ok
    assert m.mrtd(td) == want.digest()
    assert m.call("mr_extend", rcx=GPA, rdx=td.tdr).status == "TDX_OP_STATE_INCORRECT"


def test_an_empty_build_and_failed_calls_measure_nothing():
    m = TdxModule()
    td = m.build_td(1, finalize=False)
    map_tables(m, td)
    assert not m.mem_page_add(td, GPA, td.tdr).ok
    assert str(m.call("mr_extend", rcx=GPA + 1, rdx=td.tdr)) == "TDX_OPERAND_INVALID:RCX"
    assert str(m.call("mr_extend", rcx=GPA, rdx=td.tdr)) == "TDX_EPT_ENTRY_NOT_PRESENT:RCX"
    assert str(m.call("mr_extend", rcx=GIB, rdx=td.tdr)) == "TDX_EPT_ENTRY_NOT_PRESENT:RCX"
    assert m.call("mr_finalize", rcx=td.tdr).ok
    assert m.mrtd(td) == hashlib.sha384().digest()


def test_relocate_takes_the_content_along_and_a_snapshot_brings_it_back():
    m = TdxModule()
    td = m.build_td(1, finalize=False)
    map_tables(m, td)
    m.mem_page_add(td, GPA, m.new_page(), content=b"x" * 4096)
    m.native.snapshot()
    assert m.mem_page_relocate(td, GPA, m.new_page()).ok
    digests = []
    for _ in range(2):
        m.measure_page(td, GPA)
        m.call("mr_finalize", rcx=td.tdr)
        digests.append(m.mrtd(td))
        m.native.restore()
        assert m.mrtd(td) == bytes(48)
    assert digests[0] == digests[1]


def test_finalize_wants_a_vcpu():
    m = TdxModule()
    td = m.build_td(0, finalize=False)
    assert m.call("mr_finalize", rcx=td.tdr).status == "TDX_NO_VCPUS"


# ---- fields


def test_td_fields():
    m = TdxModule()
    td = m.build_td(2, xfam=0xE7)
    assert m.td_field(td, "td.xfam") == 0xE7
    assert m.td_field(td, "td.num_vcpus") == 2
    assert m.td_field(td, "td.tdcx_pa", 3) | 3 << 3 | 6 == m.td_field(td, "td.eptp")
    assert m.call("mem_track", rcx=td.tdr).ok
    assert m.td_field(td, "td.td_epoch") == 2
    read = m.call("mng_rd", rcx=td.tdr, rdx=FIELDS["td.td_ctls"])
    assert read.status == "TDX_METADATA_FIELD_NOT_READABLE"
    write = dict(rcx=td.tdr, r8=1, r9=1)
    assert m.call("mng_wr", rdx=FIELDS["td.xfam"], **write).status == "TDX_METADATA_FIELD_NOT_WRITABLE"
    assert m.call("mng_wr", rdx=FIELDS["td.notify_enables"], **write).status == "TDX_METADATA_FIELD_NOT_WRITABLE"
    assert m.call("mng_rd", rcx=td.tdr, rdx=1 << 24).status == "TDX_METADATA_FIELD_ID_INCORRECT"
    debug = m.build_td(1, attributes=1)
    assert m.td_field(debug, "td.td_ctls") == 0
    assert m.call("mng_wr", **{**write, "rcx": debug.tdr}, rdx=FIELDS["td.notify_enables"]).ok
    assert m.td_field(debug, "td.notify_enables") == 1
    bad = m.call("mng_wr", rcx=debug.tdr, rdx=FIELDS["td.notify_enables"], r8=3, r9=3)
    assert bad.status == "TDX_METADATA_FIELD_VALUE_NOT_VALID"


def test_version_1_walks_all_fields_of_a_td():
    m = TdxModule()
    td = m.build_td(1, attributes=1)
    at, seen = 2**64 - 1, 0
    at = m.call("mng_rd", rcx=td.tdr, rdx=at, version=1).registers["rdx"]
    while at != 2**64 - 1:
        seen += 1
        answer = m.call("mng_rd", rcx=td.tdr, rdx=at, version=1)
        assert answer.ok
        at = answer.registers["rdx"]
    assert seen == 58


def test_vp_fields():
    m = TdxModule()
    td = m.build_td(2)
    assert m.vp_field(td, "vp.index", 1) == 1
    assert m.vp_field(td, "vp.assoc_lpid", 1) == 2
    assert m.call("vp_rd", 5, rcx=td.vcpus[0], rdx=FIELDS["vp.index"]).status == "TDX_VCPU_ASSOCIATED"
    assert m.call("vp_wr", 1, rcx=td.vcpus[0], rdx=FIELDS["vp.pend_nmi"], r8=1, r9=1).ok
    assert m.vp_field(td, "vp.pend_nmi") == 1
    assert m.call("vp_rd", 1, rcx=td.vcpus[0], rdx=FIELDS["vp.state"]).status == "TDX_METADATA_FIELD_NOT_READABLE"
    assert m.vp_enter(td).status == "ENTERED_TD"
    assert m.call("vp_rd", 1, rcx=td.vcpus[0], rdx=FIELDS["vp.index"]).status == "TDX_VCPU_STATE_INCORRECT"


# ---- keys


def test_many_tds_come_and_go():
    m = TdxModule()
    before = None
    for _ in range(40):
        tds = [m.build_td(1) for _ in range(3)]
        for td in tds:
            map_tables(m, td)
            assert m.mem_page_aug(td, GPA, 0, m.new_page()).ok
        assert m.native.hkids()[33:36] == [1, 1, 1]
        for td in tds:
            m.teardown_td(td)
        assert m.native.hkids()[33:] == [0] * 31
        assert not m.native.locks_held()
        before = before or m._next
        assert m._next == before, "no page is lost"
    assert all(pt == 0 for size in range(3) for _, pt, *_ in m.native.pamt_used(size))


def test_wrong_order_of_a_teardown():
    m = TdxModule()
    td = m.build_td(1)
    tdr = dict(rcx=td.tdr)
    assert m.call("mng_key_reclaimid", **tdr).ok and m.call("mng_key_reclaimid", rcx=5).ok
    assert m.call("mng_key_freeid", **tdr).status == "TDX_LIFECYCLE_STATE_INCORRECT"
    assert m.call("mng_vpflushdone", **tdr).status == "TDX_FLUSHVP_NOT_DONE"
    assert m.call("phymem_page_reclaim", **tdr).status == "TDX_LIFECYCLE_STATE_INCORRECT"
    assert m.call("phymem_cache_wb").status == "TDX_NO_HKID_READY_TO_WBCACHE"
    assert m.call("vp_flush", 1, rcx=td.vcpus[0]).ok
    assert m.call("mng_vpflushdone", **tdr).ok
    assert m.call("mng_key_freeid", **tdr).status == "TDX_WBCACHE_NOT_COMPLETE"
    assert m.call("mng_create", rcx=m.new_page(), rdx=33).status == "TDX_HKID_NOT_FREE"
    assert m.call("phymem_cache_wb").ok and m.call("mng_key_freeid", **tdr).ok
    assert m.call("mng_key_config", **tdr).status == "TDX_LIFECYCLE_STATE_INCORRECT"
    assert m.call("phymem_page_reclaim", **tdr).status == "TDX_TD_ASSOCIATED_PAGES_EXIST"
    assert m.call("mng_create", rcx=m.new_page(), rdx=33).ok


PAGES = st.sampled_from([(1 << 32) + (i << 12) for i in range(24)])
OPERAND = st.one_of(PAGES, st.sampled_from([0, 1, 33, 34, 63, 0x4_0004_0001, GPA, GPA | 1, 2**64 - 1]),
                    st.sampled_from(sorted(FIELDS.values())), st.integers(0, 2**64 - 1))
ORDER = ["mng_create", "mng_key_config", "mng_addcx", "mng_init", "vp_create", "vp_addcx", "vp_init", "mr_finalize",
         "vp_enter", "vp_flush", "mng_vpflushdone", "phymem_cache_wb", "mng_key_freeid", "phymem_page_reclaim"]
LEAF = st.one_of(st.sampled_from(ORDER), st.sampled_from(sorted(LEAVES)))
CALL = st.tuples(LEAF, st.integers(0, 2), OPERAND, OPERAND, OPERAND, OPERAND)


@settings(max_examples=150, deadline=None)
@given(st.lists(CALL, max_size=60), st.booleans(), st.booleans())
def test_any_leaf_in_any_order_leaves_no_lock_and_a_sound_kot(calls, ready, built):
    m = TdxModule([(1 << 32, 5 << 30)], auto=ready, logical_processors=2)
    td = m.build_td(1) if ready and built else None
    for leaf, lp, rcx, rdx, r8, r9 in calls:
        m.call(leaf, lp, rcx=rcx, rdx=rdx, r8=r8, r9=r9)
    for lp in list(m.native.in_guest()):
        m.native.td_async_exit(lp)
    assert not m.native.locks_held()
    kot = m.native.hkids()
    assert kot[:32] == [4] * 32
    owners = [m.native.td(hpa) for hpa, pt, *_ in m.native.pamt_used(0) if pt == 4]
    busy = {d["hkid"]: d["lifecycle"] for d in owners if d["lifecycle"] < 3}
    for hkid in range(33, 64):
        want = {1: (0, 1), 2: (2,), 3: (2,), 0: (None,), 4: (None,)}[kot[hkid]]
        assert busy.get(hkid) in want, (hkid, kot[hkid])
    assert td is None or m.native.td(td.tdr)


def test_a_torn_down_td_is_gone():
    m = TdxModule()
    td = m.build_td(1)
    m.teardown_td(td)
    with pytest.raises(UsageError):
        m.teardown_td(td)
    assert str(m.call("mng_rd", rcx=td.tdr, rdx=FIELDS["td.xfam"])) == "TDX_PAGE_METADATA_INCORRECT:RCX"
