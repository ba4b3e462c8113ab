"""A SEAMCALL is one row: numbers, names, what scenarios inject into and what recordings call it all come from it."""

import re
from pathlib import Path

import pytest

from tdpfast import status as st
from tdpfast._face.seam_module import SeamModule
from tdpfast._face.seam_tables import LEAF_NUMBERS, STATUSES, leaf_row, tdcall_row
from tdpfast._names import Limit, OtherLeaf, SeamLeaf
from tdpfast.conform._seam_rig import OPS
from tdpfast.errors import UsageError
from tdpfast.events import LEAF_NAMES
from tdpfast.seam import LEAVES, OTHER_LEAVES, TDCALLS

SEAM = Path(__file__).parents[2] / "src" / "tdpfast" / "_seam"


def test_every_number_has_a_row_and_every_row_a_name():
    rows = {number for number in range(int(Limit.SEAM_LEAVES)) if leaf_row(number)}
    assert rows == {int(leaf) for leaf in SeamLeaf.__members__.values()} == set(LEAVES.values()) == set(LEAF_NAMES)
    assert set(OPS.values()) == set(LEAVES) and LEAF_NUMBERS["TDH_MEM_PAGE_AUG"] == 6
    assert rows.isdisjoint(OTHER_LEAVES.values())
    assert rows.isdisjoint(int(leaf) for leaf in OtherLeaf.__members__.values())


def test_a_row_stands_beside_its_function():
    """The recipe's two places: a number, and a function with its row."""
    text = "".join(path.read_text() for path in sorted(SEAM.glob("*.pyx")))
    for name in SeamLeaf.__members__:
        function = name.lower()
        assert len(re.findall(rf"^cdef uint64_t {function}\(", text, re.MULTILINE)) == 1, function
        assert len(re.findall(rf"\w+_leaf\({name}, {function},", text)) == 1, name
    assert not re.search("TDH_|tdh_", (SEAM / "module.pyx").read_text()), "the dispatcher names no leaf"


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_row(name):
    row = leaf_row(LEAVES[name])
    assert row["number"] == LEAVES[name] and row["source"] in ("1.5.01", "2.0")
    assert bool(row["about"]) == bool(row["hold"])
    assert not row["tree"] or row["about"].startswith("TDR")
    assert row["op_states"] == 0 or row["wants"] == "TDCS", "a TD without TDCS has no OP_STATE"
    assert row["entry_states"] == 0 or (row["tree"] and row["lowest"] >= 0)


@pytest.mark.parametrize("name", sorted(name for name, leaf in LEAVES.items() if leaf_row(leaf)["version"] < 0xff))
def test_a_version_above_the_rows_is_refused(name):
    module = SeamModule([(1 << 32, 2 << 32)])
    assert module.seamcall(LEAVES[name], version=leaf_row(LEAVES[name])["version"] + 1)[0] == 0xC000010000000000


def test_leaves_that_are_not_there_answer_after_the_state():
    """First a version that a leaf has not, then a module that is not ready, then a leaf that is not there."""
    bare, ready = SeamModule([], bare=True, nlp=1), SeamModule([(1 << 32, 2 << 32)])
    invalid, not_ready = STATUSES["TDX_OPERAND_INVALID"][0], STATUSES["TDX_SYS_NOT_READY"][0]
    for leaf in (12, 127, 128, 65535):
        assert bare.seamcall(leaf)[0] == not_ready and ready.seamcall(leaf)[0] == invalid
        assert bare.seamcall(leaf, version=1)[0] == ready.seamcall(leaf, version=1)[0] == invalid


def test_statuses_are_read_from_one_list():
    text = (SEAM / "status.h").read_text()
    listed = re.findall(r"X\((\w+), +0x([0-9a-f]{8}), (\w+)\)", text)
    assert {name: int(code, 16) for name, code, _ in listed} == {name: value >> 32 for value, name in
                                                                ((v << 32, n) for v, n in st.STATUS.items())}
    assert {details for _, _, details in listed} == {"PLAIN", "OPERAND", "LEVEL", "VM_LEVEL"}
    used = re.findall(r"TDX_[A-Z0-9_]+", (SEAM / "defs.pxd").read_text())
    assert {name for name in used if not name.endswith("_COUNT")} <= {name for name, _, _ in listed}


# ---- VP.INIT version 1



def vcpu(module, td):
    tdvpr = module.new_page()
    assert module.call("vp_create", rcx=tdvpr, rdx=td.tdr).ok
    for _ in range(5):
        assert module.call("vp_addcx", rcx=module.new_page(), rdx=tdvpr).ok
    return tdvpr


def params(module, n):
    """A TD for n VCPUs, none yet."""
    from tdpfast.seam import TD_PARAMS_PA, Td, td_params
    tdr = module.new_page()
    assert module.call("mng_create", rcx=tdr, rdx=module.free_hkid()).ok
    assert module.call("mng_key_config", rcx=tdr).ok
    for _ in range(6):
        assert module.call("mng_addcx", rcx=module.new_page(), rdx=tdr).ok
    module.native.write_memory(TD_PARAMS_PA, td_params(max_vcpus=n))
    assert module.call("mng_init", rcx=tdr, rdx=TD_PARAMS_PA).ok
    return Td(tdr)


def test_vp_init_with_an_x2apic_id():
    from tdpfast.seam import TdxModule
    module = TdxModule()
    td = params(module, 3)
    first, second = vcpu(module, td), vcpu(module, td)
    assert str(module.call("vp_init", version=1, rcx=first, r8=1 << 32)) == "TDX_OPERAND_INVALID:R8"
    assert module.call("vp_init", version=1, rcx=first, r8=7).ok
    again = module.call("vp_init", version=1, rcx=second, r8=7)
    assert (again.status, again.rax & 0xFFFFFFFF) == ("TDX_X2APIC_ID_NOT_UNIQUE", 7)
    assert module.native.td(td.tdr)["num_vcpus"] == 1, "what failed is not counted"
    assert module.call("vp_init", version=1, rcx=second, r8=8).ok
    assert module.call("vp_init", version=2, rcx=second).status == "TDX_OPERAND_INVALID"
    assert module.native.locks_held() == {}


def test_vp_init_version_1_takes_the_tdr_exclusive():
    from tdpfast.seam import TdxModule
    module = TdxModule()
    td = params(module, 2)
    tdvpr = vcpu(module, td)
    lock = module.native.pamt(td.tdr)[3]
    module.native.set_pamt(td.tdr, lock=lock + 4)          # some other call holds the TDR shared
    assert str(module.call("vp_init", version=1, rcx=tdvpr, r8=1)) == "TDX_OPERAND_BUSY:TDR"
    module.native.set_pamt(td.tdr, lock=lock)
    assert module.call("vp_init", version=1, rcx=tdvpr, r8=1).ok and module.native.locks_held() == {}


def test_a_td_of_build_td_has_room_for_vcpus_of_its_callers():
    from tdpfast.seam import TdxModule
    module = TdxModule()
    td = module.build_td(1, finalize=False)
    for number in range(15):
        assert module.call("vp_init", lp=5, version=1, rcx=vcpu(module, td), r8=7 + number).ok
    assert module.call("vp_init", lp=5, version=1, rcx=vcpu(module, td), r8=99).status == "TDX_MAX_VCPUS_EXCEEDED"


def test_module_1_5_01_has_no_version_1():
    module = SeamModule([(1 << 32, 2 << 32)], topology=False)
    assert module.seamcall(LEAVES["vp_init"], version=1)[0] == 0xC000010000000000


# ---- TD_PARAMS and the host's memory

def test_sept_ve_disable_is_copied_into_td_ctls():
    from tdpfast.seam import TdxModule
    module = TdxModule()
    assert module.native.td(module.build_td(attributes=1 << 28).tdr)["td_ctls"] == 1
    assert module.native.td(module.build_td(td_ctls=1).tdr)["attributes"] == 1 << 28
    assert module.native.td(module.build_td().tdr)["td_ctls"] == 0


def test_host_memory():
    from tdpfast.errors import UsageError
    module = SeamModule([(1 << 32, 2 << 32)])
    module.write_memory(0x2000_0FFC, b"abcdefgh")
    assert module.read_memory(0x2000_0FFC, 4) == b"abcd" and module.read_memory(0x2000_1000, 4) == b"efgh"
    assert module.read_memory(0x3000_0000, 3) == bytes(3)
    with pytest.raises(UsageError):
        module.read_memory(0x2000_0FFC, 5)
    with pytest.raises(UsageError):
        for i in range(65):
            module.write_memory(i << 12, b"x")
    with pytest.raises(UsageError):
        module.set_lock_word("SEPT", 1)
    module.set_lock_word("KOT", 1)
    assert module.lock_word("KOT") == 1 and "KOT" in module.locks_held()


def test_interrupted_cache_wb():
    module = SeamModule([(1 << 32, 2 << 32)])
    leaf = LEAVES["phymem_cache_wb"]
    assert module.seamcall(leaf, rcx=1)[0] == STATUSES["TDX_WBCACHE_RESUME_ERROR"][0]
    assert module.seamcall(leaf)[0] == STATUSES["TDX_NO_HKID_READY_TO_WBCACHE"][0]
    assert module.seamcall(LEAVES["mng_create"], rcx=1 << 32, rdx=40)[0] == 0
    assert module.seamcall(LEAVES["mng_vpflushdone"], rcx=1 << 32)[0] == 0
    assert module.seamcall(leaf, intr_after=1)[0] == STATUSES["TDX_INTERRUPTED_RESUMABLE"][0]
    assert module.wb_resume() == 2
    assert module.seamcall(LEAVES["mng_key_freeid"], rcx=1 << 32)[0] == STATUSES["TDX_WBCACHE_NOT_COMPLETE"][0]
    assert module.seamcall(leaf, rcx=1)[0] == 0 and module.wb_resume() == 0
    assert module.seamcall(LEAVES["mng_key_freeid"], rcx=1 << 32)[0] == 0


# ---- TDCALLs

def test_a_tdcall_is_a_row_beside_its_function():
    text = (SEAM / "guest.pyx").read_text()
    rows = {name: tdcall_row(number) for name, number in TDCALLS.items() if tdcall_row(number)}
    assert set(rows) == {"mem_page_accept", "mem_page_attr_rd", "mem_page_attr_wr", "vp_veinfo_get"}
    assert sorted(row["number"] for row in rows.values()) == sorted(
        number for number in range(-1, 70) if tdcall_row(number))
    for name in rows:
        assert len(re.findall(rf"^cdef int tdg_{name}\(", text, re.MULTILINE)) == 1, name
        assert len(re.findall(rf"^row = guest_leaf\(TDG_{name.upper()}, tdg_{name},", text, re.MULTILINE)) == 1, name
    assert (rows["mem_page_accept"]["lowest"], rows["mem_page_accept"]["highest"]) == (0, 1)
    assert rows["mem_page_attr_wr"]["checks_operands"] and not rows["vp_veinfo_get"]["recorded"]


def test_tdcalls_by_number():
    from tdpfast.seam import TdxModule
    module = TdxModule()
    td = module.build_td()
    assert module.tdcall(6).status == "NOT_IN_GUEST"
    module.vp_enter(td)
    invalid = "TDX_OPERAND_INVALID"
    before = module.native.vp(td.vcpus[0])["rip"]
    for leaf in (*range(28), 63, 64, 65535):
        if tdcall_row(leaf) is None:
            assert module.tdcall(leaf).status == invalid, leaf
    assert module.native.vp(td.vcpus[0])["rip"] > before, "an unknown TDCALL is over too"
    for name, number in TDCALLS.items():
        if row := tdcall_row(number):
            assert module.tdcall(number, version=row["version"] + 1).status == invalid, name
            assert str(module.tdcall(name, rcx=0xFFF0000000000005)) == str(
                module.tdcall(f"TDG.{name.upper().replace('_', '.')}", rcx=0xFFF0000000000005))
    attr = module.tdcall("mem_page_attr_wr", rcx=0, rdx=1, r8=0)
    assert (str(attr), attr.registers["rcx"], attr.registers["rdx"]) == ("TDX_OPERAND_INVALID:RDX", 0, 0)
    for bad in ({"leaf": "fly"}, {"leaf": 1 << 16}, {"leaf": -1}, {"leaf": 6, "version": 256}, {"leaf": 6, "rcx": -1}):
        with pytest.raises(UsageError):
            module.tdcall(**bad)
