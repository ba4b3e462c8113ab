"""Arrays of SPTEs: every value round-trips, and an array answers as its elements do."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tdpfast._face.spte_format import MAPS, PREDICATES
from tdpfast.spte import LAYOUTS, MMUS, SPTE_DTYPE, SpteConfig

CONFIGS = [SpteConfig(layout, mmu, maxphyaddr=46, l1tf=True, cache_bits=44)
           for layout in LAYOUTS for mmu in MMUS]
configs = st.sampled_from(CONFIGS)
u64 = st.integers(0, 2**64 - 1)


def sptes(config):
    """Any number, and more often than chance what KVM would write."""
    likely = [config.FROZEN_SPTE, config.SHADOW_NONPRESENT_VALUE, config.make_nonleaf_spte(0x1000),
              config.make_mmio_spte(5, 2, 9), config.make_spte(level=1, access=3, gfn=1, pfn=1).spte]
    return st.one_of(st.sampled_from(likely), u64, u64.map(lambda x: x | 0x800))


@st.composite
def cases(draw):
    config = draw(configs)
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    values = draw(hnp.arrays(np.uint64, shape, elements=sptes(config)))
    return config, values, draw(st.integers(1, 5)), draw(st.sampled_from([None, 0, 6]))


@settings(max_examples=200)
@given(cases())
def test_pack_undoes_unpack(case):
    config, values, level, mmio_value = case
    records = config.unpack(values, level, mmio_value=mmio_value)
    assert records.dtype == SPTE_DTYPE and records.shape == values.shape
    packed = config.pack(records, mmio_value=mmio_value)
    assert packed.dtype == np.uint64 and np.array_equal(packed, values)


@settings(max_examples=100)
@given(cases())
def test_array_is_elementwise(case):
    config, values, level, _ = case
    for name in PREDICATES:
        predicate = getattr(config, name)
        expected = [predicate(int(v), level) for v in values.flat]
        assert predicate(values, level).ravel().tolist() == expected
        assert all(type(x) is bool for x in expected)
    for name in MAPS:
        extract = getattr(config, name)
        assert extract(values).ravel().tolist() == [extract(int(v)) for v in values.flat]
    flushes = config.leaf_spte_change_needs_tlb_flush(values, values[...] ^ np.uint64(1 << 55))
    assert flushes.ravel().tolist() == [
        config.leaf_spte_change_needs_tlb_flush(int(v), int(v) ^ 1 << 55) for v in values.flat]


@given(configs, u64, st.integers(1, 5))
def test_fields_say_what_the_predicates_say(config, spte, level):
    record = config.unpack(spte, level)
    assert record["present"] == (config.is_shadow_present_pte(spte) and not record["frozen"])
    if record["present"]:
        assert record["leaf"] == config.is_last_spte(spte, level)
        assert record["pfn"] == config.spte_to_pfn(spte)
        assert record["exec"] == config.is_executable_pte(spte)
        assert record["write"] == config.is_writable_pte(spte)
        assert (record["ad_type"] != 1) == config.spte_ad_enabled(spte)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.layout}-{c.mmu}")
def test_made_sptes_are_all_fields(config):
    """Nothing that KVM makes is left over as `other`."""
    made = [config.make_spte(level=level, access=config.ACC_ALL, gfn=0, pfn=512 * 512,
                             ad_disabled=ad, prefetch=prefetch).spte
            for level in (1, 2, 3) for ad in (0, 1) for prefetch in (0, 1)]
    made += [config.make_nonleaf_spte(0x5000), config.make_mmio_spte(77, 2, 12345),
             config.FROZEN_SPTE, config.SHADOW_NONPRESENT_VALUE]
    assert not config.unpack(made)["other"].any()


def test_mmio_fields_come_back():
    for config in CONFIGS:
        record = config.unpack(config.make_mmio_spte(0xffffffff, 0, 0x1ffff))
        assert (record["mmio"], record["gfn"], record["generation"]) == (True, 0xffffffff, 0x1ffff)


def test_one_level_per_value():
    config = SpteConfig()
    leaf = config.make_spte(level=2, access=15, gfn=0, pfn=512).spte
    table = config.make_nonleaf_spte(0x1000)
    values = np.array([[leaf, table], [table, leaf]], np.uint64)
    assert config.is_last_spte(values, np.array([2, 1])).tolist() == [[True, True], [False, True]]
    assert config.unpack(values, np.array([[2], [3]]))["leaf"].tolist() == [[True, False], [False, True]]


def test_strided_readonly_narrow_and_empty_input():
    config = SpteConfig()
    values = np.arange(20, dtype=np.uint64)[::-3]
    values.flags.writeable = False
    assert np.array_equal(config.pack(config.unpack(values)), values)
    assert config.spte_to_pfn(np.arange(3, dtype=np.uint8)).dtype == np.uint64
    assert config.unpack(np.empty((0, 3), np.uint64)).shape == (0, 3)
    assert config.is_large_pte([0x80, 0]).tolist() == [True, False]
    assert config.is_large_pte(np.uint64(0x80)) is True
    assert config.is_large_pte(np.array(0x80, np.uint64)).shape == ()
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix([[0x80, 0]], np.uint64)
    assert config.is_large_pte(matrix).tolist() == [[True, False]] and config.unpack(matrix).shape == (1, 2)
    misaligned = np.frombuffer(b"\0" * 113, np.uint8)[1:].view(SPTE_DTYPE)
    assert config.pack(misaligned).tolist() == [config.SHADOW_NONPRESENT_VALUE] * 2
