"""SPTE formats: constructors, predicates and what they refuse."""
import copy
import doctest
import pickle
from itertools import combinations

import numpy as np
import pytest

import tdpfast.spte
from tdpfast import get_design
from tdpfast._face import spte_format as _spte_format
from tdpfast._face.vm import VmCore
from tdpfast.errors import TdpfastError, UsageError
from tdpfast.spte import LAYOUTS, MMUS, SPTE_DTYPE, SpteConfig

ALL = [SpteConfig(layout, mmu) for layout in LAYOUTS for mmu in MMUS]


@pytest.fixture(params=ALL, ids=lambda c: f"{c.layout}-{c.mmu}")
def config(request):
    return request.param


def test_docstring_examples():
    assert doctest.testmod(tdpfast.spte).failed == 0


def test_native_record_is_the_documented_dtype():
    assert SPTE_DTYPE.itemsize == _spte_format.SIZEOF_SPTE_FIELDS


def test_software_masks_do_not_overlap(config):
    masks = config.masks
    names = ["shadow_host_writable_mask", "shadow_mmu_writable_mask", "shadow_accessed_mask",
             "shadow_dirty_mask", "tdp_ad_mask", "shadow_nx_mask"]
    values = [masks[name] for name in names]
    values += [masks["saved_bits_mask"] << masks["saved_bits_shift"], 1 << 11, ((1 << 40) - 1) << 12]
    assert all(a & b == 0 for a, b in combinations(values, 2))


def test_frozen_is_not_present_and_not_mmio(config):
    frozen = config.FROZEN_SPTE
    assert config.is_frozen_spte(frozen)
    assert not config.is_shadow_present_pte(frozen)
    assert not config.is_mmio_spte(frozen)
    assert not frozen & (7 | config.masks["shadow_xu_mask"])    # nothing that lets a guest access
    assert frozen != config.SHADOW_NONPRESENT_VALUE


@pytest.mark.parametrize("layout, table, leaf", [
    ("7.3", 0x8000000000000d07, 0x80a0000100600f77),
    ("6.18", 0x8000000000000907, 0x8600000100600b77)])
def test_what_a_td_maps(layout, table, leaf):
    config = SpteConfig(layout)
    assert config.make_nonleaf_spte(0) == table
    made = config.make_spte(level=1, access=config.ACC_ALL, gfn=0x600, pfn=0x100600, ipat=True)
    assert made == (leaf, False, False, [])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_access_tracking_keeps_the_permissions(layout):
    config = SpteConfig(layout, "ept_noad")
    leaf = config.make_spte(level=1, access=config.ACC_ALL, gfn=0, pfn=7).spte
    marked = config.mark_spte_for_access_track(leaf)
    assert config.is_access_track_spte(marked)
    assert config.mark_spte_for_access_track(marked) == marked
    writable_and_accessed = 2 | config.masks["shadow_accessed_mask"]
    assert config.restore_acc_track_spte(marked) == leaf & ~writable_and_accessed


def test_split_and_collapse_are_inverse(config):
    huge = config.make_spte(level=2, access=config.ACC_ALL, gfn=512, pfn=1024).spte
    for index in (0, 1, 511):
        small, warns = config.make_small_spte(huge, 1, config.ACC_ALL, index)
        assert not warns and config.spte_to_pfn(small) == 1024 + index
        assert config.make_huge_spte(small, 2) == (huge, [])


def test_assertions_are_reported():
    config = SpteConfig()
    made = config.make_spte(level=2, access=15, gfn=0, pfn=0, dirty_log=True)
    assert made.warns == [("WARN", "make_spte", "dirty_log_on_huge_page")] and made.dirty
    assert config.make_small_spte(0, 1, 0, 0)[1] == [("KVM_BUG_ON", "make_small_spte", "not_a_large_leaf")]
    assert len(config.check_spte_writable_invariants(2)) == 1


def test_write_tracked_gfn_is_protected_unless_it_was_writable():
    config = SpteConfig()
    made = config.make_spte(level=1, access=15, gfn=1, pfn=1, tracked=True)
    assert made.wrprot and not config.is_writable_pte(made.spte)
    writable = config.make_spte(level=1, access=15, gfn=1, pfn=1).spte
    again = config.make_spte(level=1, access=15, gfn=1, pfn=1, tracked=True, old_spte=writable)
    assert not again.wrprot and again.spte == writable


def test_npt_with_every_address_bit_has_no_mmio_caching():
    config = SpteConfig(mmu="npt", maxphyaddr=52)
    assert not config.masks["enable_mmio_caching"] and not config.is_mmio_spte(0)


def test_config_is_a_value():
    config = SpteConfig("6.18", "npt", 48)
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(config) == hash(SpteConfig("6.18", "npt", 48)) and config != SpteConfig()
    with pytest.raises(AttributeError):
        config.layout = "7.3"
    with pytest.raises(TypeError):
        config.masks["frozen_spte"] = 0


def test_config_keeps_plain_values():
    class Bits:
        def __index__(self):
            return 46

    config = SpteConfig(maxphyaddr=Bits(), l1tf=np.True_, cache_bits=np.uint8(46), exec_only=1)
    assert repr(config) == repr(SpteConfig(maxphyaddr=46, l1tf=True, cache_bits=46))
    assert config == SpteConfig(maxphyaddr=46, l1tf=True, cache_bits=46)


@pytest.mark.parametrize("arguments", [
    {"layout": "5.0"}, {"layout": None}, {"layout": []}, {"mmu": "pae"}, {"maxphyaddr": 31},
    {"maxphyaddr": 53}, {"maxphyaddr": "52"}, {"maxphyaddr": 2**70}, {"cache_bits": 1}])
def test_bad_config(arguments):
    with pytest.raises(UsageError) as caught:
        SpteConfig(**arguments)
    assert isinstance(caught.value, TdpfastError) and isinstance(caught.value, ValueError)
    assert caught.value.what and caught.value.why and caught.value.fix


BAD_CALLS = [
    lambda c: c.is_last_spte(0, 0), lambda c: c.is_last_spte(0, 6), lambda c: c.is_last_spte(0, 2**99),
    lambda c: c.is_last_spte(0, "1"), lambda c: c.is_last_spte(-1), lambda c: c.is_last_spte(2**64),
    lambda c: c.is_last_spte("0x1"), lambda c: c.is_last_spte(None), lambda c: c.is_last_spte(1.5),
    lambda c: c.is_last_spte(int), lambda c: c.is_last_spte([[1], 2]),
    lambda c: c.is_last_spte(10**5000), lambda c: c.is_last_spte(0, 10**5000),
    lambda c: c.is_last_spte(np.array([1.0])), lambda c: c.is_last_spte(np.array([-1])),
    lambda c: c.is_last_spte(np.zeros(3, "u8"), np.ones(2, int)),
    lambda c: c.is_last_spte(np.zeros(3, "u8"), np.array([1, 6, 1])),
    lambda c: c.is_last_spte(np.zeros(3, "u8"), np.array([1.0, 2.0, 3.0])),
    lambda c: c.is_mmio_spte(0, mmio_value=-1), lambda c: c.is_rsvd_spte(0, root_level=3),
    lambda c: c.make_spte(level=1, access=99, gfn=0, pfn=0),
    lambda c: c.make_spte(level=1, access=0, gfn=0, pfn=1 << 40),
    lambda c: c.make_small_spte(0, 1, 0, 512), lambda c: c.make_huge_spte(0, 7),
    lambda c: c.make_nonleaf_spte(object()), lambda c: c.make_mmio_spte(1 << 52, 0, 0),
    lambda c: c.unpack(np.zeros(2, "U4")), lambda c: c.pack(np.zeros(3, "u8")), lambda c: c.pack([1]),
    lambda c: c.leaf_spte_change_needs_tlb_flush([1, 2], 3), lambda c: c.unpack([1, 2], [[1], [1, 2]]),
    lambda c: c.unpack([1, 2], [10**5000, 1]), lambda c: c.pack([[1], [1, 2]]),
    lambda c: c.unpack([np.zeros((2, 2)), np.zeros((2, 3))]),
]


@pytest.mark.parametrize("call", BAD_CALLS, ids=range(len(BAD_CALLS)))
def test_bad_arguments(call):
    with pytest.raises(UsageError):
        call(SpteConfig())


def test_pack_refuses_fields_too_wide():
    config = SpteConfig()
    for name, value in [("pfn", 1 << 40), ("gfn", 1 << 40), ("memtype", 8), ("ad_type", 4),
                        ("saved", 2), ("generation", 1 << 18), ("mmio_access", 1)]:
        records = np.zeros(3, SPTE_DTYPE)
        records[1][name] = value
        with pytest.raises(UsageError, match="record 1"):
            config.pack(records)


@pytest.mark.parametrize("call", [
    lambda f: f.pred_array(0, np.zeros(4, "u8"), np.ones(1, "u1"), 0, np.zeros(3, "u1")),
    lambda f: f.pred_array(99, np.zeros(4, "u8"), np.ones(1, "u1"), 0, np.zeros(4, "u1")),
    lambda f: f.pred_array(0, np.zeros(4, "u8"), np.zeros(4, "u1"), 0, np.zeros(4, "u1")),
    lambda f: f.map_array(-1, np.zeros(4, "u8"), np.zeros(4, "u8")),
    lambda f: f.map_array(0, np.zeros(4, "u8"), np.zeros(5, "u8")),
    lambda f: f.unpack_array(np.zeros(4, "u8"), np.ones(1, "u1"), 0, np.zeros(8, "u1")),
    lambda f: f.pack_array(np.zeros(225, "u1")[1:], 0, np.zeros(4, "u8")),
    lambda f: f.flush_array(np.zeros(4, "u8"), np.zeros(3, "u8"), np.zeros(4, "u1")),
    lambda f: f.make_small_spte(0, 1, 0, -1, False), lambda f: f.pred(0, 0, 0, 0)])
def test_native_layer_checks_what_keeps_it_safe(call):
    with pytest.raises(ValueError):
        call(_spte_format.SpteFormat(703, 0, 52, False, 0, True))


@pytest.mark.parametrize("call", [
    lambda f: f.pred_array(0, None, np.ones(1, "u1"), 0, np.zeros(4, "u1")),
    lambda f: f.unpack_array(np.zeros(4, "u8"), None, 0, np.zeros(8, "u1")),
    lambda f: f.pack_array(None, 0, None), lambda f: f.map_array(0, None, None),
    lambda f: f.flush_array(None, None, None), lambda f: type(f).__new__(type(f)), copy.copy])
def test_native_layer_refuses_nothing_at_all(call):
    with pytest.raises((TypeError, UsageError)):
        call(_spte_format.SpteFormat(703, 0, 52, False, 0, True))


def test_native_config_out_of_range():
    for arguments in [(1, 0, 52, 0, 0, 1), (703, 9, 52, 0, 0, 1), (703, 0, 64, 0, 0, 1)]:
        with pytest.raises(ValueError):
            _spte_format.SpteFormat(*arguments)


@pytest.mark.parametrize("kind", MMUS)
@pytest.mark.parametrize("layout, design", [("7.3", "v7.3"), ("6.18", "v6.18")])
@pytest.mark.parametrize("ipat", [False, True])
def test_fault_installs_what_make_spte_makes(layout, design, kind, ipat):
    """An unrestricted fault takes a short cut past make_spte(); it must come out at the same place, whatever the
    frame."""
    config = SpteConfig(layout, kind, maxphyaddr=46)
    core = VmCore(get_design(design), mmu=MMUS[kind], maxphyaddr=46, tdx=False, ipat=ipat,
                  slots=((0, 1 << 30, 1, 0, 0),))
    frames = (0x100000, 0xfe000, 0xfffff, 0xfdfff, 0x200, (1 << 34) - 512, 1 << 36)
    for level in (1, 2, 3):
        step = 512 ** (level - 1)
        for i, frame in enumerate(frames):
            gfn, pfn = (level * 16 + i) * 512 ** 2, frame // step * step
            core.run({"op": "map", "gfn": gfn, "pfn": pfn, "level": level, "write": 1})
            made = config.make_spte(level=level, access=config.ACC_ALL, gfn=gfn, pfn=pfn, ipat=ipat)
            stood = core.run({"op": "get_walk", "gfn": gfn})["sptes"]
            assert stood[level] == made.spte, (level, hex(pfn))
