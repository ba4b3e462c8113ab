"""Whatever is passed to a public method, it is a UsageError and changes nothing."""
import numpy as np
import pytest

from tdpfast import Memslot, UsageError, Vm
from tdpfast._face.external_model import ExternalModel
from tdpfast.threads import run_threads

BIG = 1 << 60
WRONG = [
    ("map", (-1, 0)), ("map", (1 << 35, 0)), ("map", (0, 1 << 40)), ("map", (0, 0, 0)), ("map", (0, 0, 4)),
    ("map", ("0", 0)), ("map", (0.5, 0)), ("map", (None, 0)), ("map", (BIG, BIG)),
    ("map_range", (0, 0, -1)), ("map_range", (0, 0, BIG)), ("map_range", (1, 0, 1, 2)), ("map_range", (0, 1, 1, 2)),
    ("map_range", (0, (1 << 40) - 1, 2)), ("map_range", (0, 0, 1, 9)),
    ("zap_leafs", (-1, 5)), ("zap_leafs", (5, 4)), ("zap_leafs", (0, BIG)), ("zap_leafs", (1 << 35, 1 << 35)),
    ("zap_leafs", ("a", "b")), ("unmap", (9, 1)), ("split", (9, 1)), ("recover", (9, 1)), ("age", (9, 1)),
    ("test_age", (9, 1)), ("wrprot_slot", (9, 1)), ("clear_dirty_slot", (9, 1)),
    ("clear_dirty_pt_masked", (-1, 0)), ("clear_dirty_pt_masked", (0, 1 << 64)), ("clear_dirty_pt_masked", (0, -1)),
    ("write_protect_gfn", (-1,)), ("track", (BIG,)), ("track", ("x",)), ("set_memslots_generation", (-1,)),
    ("get_walk", (BIG,)), ("fast_page_fault_last_sptep", (BIG,)), ("walk", (BIG,)), ("walk", (None,)),
    ("walk_many", ([-1],)), ("walk_many", ([BIG],)), ("walk_many", ([0.5],)), ("walk_many", (["a"],)),
    ("walk_many", (None,)), ("table", (-1,)), ("table", (99999,)), ("table", ("x",)), ("sp", (99999,)),
    ("decode_table", (99999,)), ("decode_table", (None,)), ("entries", (0,)), ("poke", (BIG,)),
]


@pytest.fixture
def vm():
    vm = Vm(ungated=True)
    vm.map(1, 1)
    return vm


@pytest.mark.parametrize("method, args", WRONG)
def test_arguments(vm, method, args):
    before = vm.dump(), vm.stats
    with pytest.raises(UsageError) as info:
        getattr(vm, method)(*args)
    assert "; try " in str(info.value)
    assert (vm.dump(), vm.stats) == before


@pytest.mark.parametrize("method, args, keywords", [
    ("map", (0, 0), {"retries": -2}), ("map", (0, 0), {"hook": [1]}), ("map", (0, 0), {"hook": ["x"]}),
    ("map", (0, 0), {"hook": [0] * 65}), ("split", (0, 1), {"target_level": 3}), ("recover", (0, 1), {"max_level": 4}),
    ("wrprot_slot", (0, 1), {"min_level": 0}), ("write_protect_gfn", (0,), {"min_level": 9}),
    ("unmap", (0, 1), {"shared": False, "private": False}), ("age", (0, 1), {"shared": False}),
    ("invalidate_roots", (), {"direct": False, "mirror": False}), ("poke", (0,), {"set": -1}),
    ("zap_leafs", (0, 1), {"hook": [-5000]})])
def test_keywords(vm, method, args, keywords):
    with pytest.raises(UsageError):
        getattr(vm, method)(*args, **keywords)


@pytest.mark.parametrize("op", [
    None, [], {}, {"op": None}, {"op": "fly"}, {"op": []}, {"op": "map", "gfm": 1}, {"op": "map", "gfn": "x"},
    {"op": "map", "gfn": 1.5}, {"op": "map", "gfn": -1}, {"op": "map", "level": 0}, {"op": "map", "level": 4},
    {"op": "map", "write": "yes"}, {"op": "map", "write": 1 << 40}, {"op": "zap_leafs", "start": 2, "end": 1},
    {"op": "split", "target_level": 9}, {"op": "map", "hook": 7}, {"op": "map", "hook": [2]},
    {"op": "map", "race": 5}, {"op": "map", "race": [1, "fly", 0]}, {"op": "map", "race": [1, "hw", "?", 0]},
    {"op": "map", "race": [-1, "hw", 0, 0]}, {"op": "map", "race": []}])
def test_run(vm, op):
    with pytest.raises(UsageError):
        vm.run(op)


@pytest.mark.parametrize("arguments", [
    {"design": "v1"}, {"design": None}, {"root_level": 3}, {"root_level": 6}, {"mmu": "pae"}, {"mmu": 5},
    {"maxphyaddr": 20}, {"maxphyaddr": 60}, {"cache_bits": 7}, {"shared_bit": 36}, {"shared_bit": -1},
    {"memslot": 5}, {"memory_pages": 0}, {"memory_pages": 1 << 40}, {"trace": "some"}, {"trace": []},
    {"mmio_generation": -1}])
def test_constructor(arguments):
    with pytest.raises(UsageError):
        Vm(**arguments)


def test_memslot():
    for args in ((-1, 5), (0, -1), (1 << 53, 1), (0, 1 << 60), ("a", 1)):
        with pytest.raises(UsageError):
            Memslot(*args)


def test_private_memory_needs_a_td():
    vm = Vm(tdx=False)
    for call in (lambda: vm.map(0, 0, private=True), lambda: vm.walk(0, private=True),
                 lambda: vm.walk_many([0], private=True), lambda: vm.get_walk(0, private=True)):
        with pytest.raises(UsageError, match="not a TD"):
            call()


def test_no_root_to_walk():
    with pytest.raises(UsageError, match="root"):
        Vm(want_mirror=False).walk(0)


def test_too_many_vcpus():
    vm = Vm()
    with pytest.raises(UsageError, match="full"):
        for _ in range(100):
            vm.create_vcpu()


@pytest.mark.parametrize("ops, keywords", [
    ([], {}), ([[]], {}), ([[{"op": "fly"}]], {}), ([[None]], {}), ([[{"op": "map"}]] * 99, {}),
    ([[{"op": "map", "hook": [-5]}]], {}), ([[{"op": "map", "race": [0, "hw", 0, 0]}]], {}),
    ([[{"op": "map"}]], {"count": -1}), ([[{"op": "map"}]], {"seconds": -1}), ([[{"op": "map"}]], {"seed": -1})])
def test_run_threads(ops, keywords):
    with pytest.raises(UsageError):
        run_threads(Vm(), ops, **keywords)


def test_model():
    for base, n in ((0, 0), (0, 1 << 30), (1 << 60, 1)):
        with pytest.raises(UsageError):
            ExternalModel(Vm().core, base, n)


# Tables as no operation leaves them: looking must be safe whatever stands there.

def test_looking_at_wild_tables(vm):
    arena = vm.writable_arena()
    table = vm.spte.make_nonleaf_spte
    random = np.random.default_rng(3)
    arena[0, 1] = table(0x10000000000)                  # to the root itself
    arena[0, 2] = table(0x10000000000 + 99 * 4096)      # beyond the pages in use
    arena[0, 3] = table(0x5000)                         # no table page
    arena[0, 4] = arena[0, 0]                           # a table that hangs twice
    arena[1] = random.integers(0, 1 << 63, 512, dtype=np.uint64)
    assert vm.dump().count("root") == 2
    for gfn in (0, 1, 1 << 27, 2 << 27, 3 << 27, 4 << 27):
        assert vm.walk(gfn).entries and vm.walk(gfn, private=False).entries
    vm.walk_many(random.integers(0, 1 << 35, 1000))
    vm.walk_many(random.integers(0, 1 << 35, 1000), private=False)
    assert vm.get_walk(2 << 27).leaf == 4
    for root in vm.roots:
        assert list(vm.entries(root))
    vm.core.sptes()
