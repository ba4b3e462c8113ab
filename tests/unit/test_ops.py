"""What the rows of OPS say about an operation is what the operation does: its locks, its roots, what it changes."""

from collections import Counter

import pytest

from tdpfast._explore.explorer import KIND_NAMES, Explorer
from tdpfast._face.seam_module import SeamModule
from tdpfast._face.td import TdVmCore
from tdpfast._face.vm import SMALL, WORDS
from tdpfast._ops.ops import functions
from tdpfast._program.program import ScenarioProgram
from tdpfast.check import MEMORY
from tdpfast.design import get_design
from tdpfast.ops import LOCKS, OPS, TD_MODIFIERS, check_op

GFN, PFN = 0x600, 0x140600
PAGE = {"gfn": GFN, "pfn": PFN}
RANGE = {"start": GFN, "end": GFN + 1}
MAP = {"op": "map", **PAGE}
SHARED = {**MAP, "private": 0}
ENTER = {"op": "vp_enter", "vcpu": 0}
INVALID = {"op": "invalidate_roots", "types": 2}
GONE = {"op": "invalidate_roots", "types": 6}
PUT = {"op": "put_roots"}
ZAP = {"op": "zap_invalidated_roots"}
# Per operation: (set-up, fields), one pair per thing it can be about.
EXAMPLES = {
    "map": [((), PAGE), ((), PAGE | {"private": 0}), ((), PAGE | {"private": 0, "noslot": 1})],
    "zap_leafs": [((MAP,), RANGE)], "unmap": [((MAP, SHARED), RANGE), ((MAP, SHARED), RANGE | {"filter": 1})],
    "zap_all": [((MAP,), {})], "invalidate_roots": [((MAP,), {})],
    "zap_invalidated_roots": [((SHARED, INVALID), {"shared": 1}), ((SHARED, INVALID), {"shared": 0})],
    "reload": [((), {}), ((SHARED, GONE), {})], "put_root": [((GONE, ZAP), {}), ((GONE, ZAP), {"private": 1})],
    "alloc_root": [((), {}), ((), {"private": 1}), ((GONE, PUT), {}),
                   ((GONE, PUT), {"private": 1})],
    "wrprot_slot": [((MAP, SHARED), RANGE)], "clear_dirty_slot": [((MAP, SHARED), RANGE)],
    "clear_dirty_pt_masked": [((MAP, SHARED), {"gfn": GFN, "mask": 1})],
    "write_protect_gfn": [((MAP, SHARED), {"gfn": GFN})],
    "split": [((MAP, SHARED), RANGE), ((MAP, SHARED), RANGE | {"shared": 1})], "recover": [((MAP, SHARED), RANGE)],
    "age": [((MAP, SHARED), RANGE)], "test_age": [((MAP, SHARED), RANGE)],
    "get_walk": [((SHARED,), {"gfn": GFN})], "fast_pf_last": [((SHARED,), {"gfn": GFN})], "zap_nx": [((MAP,), {})],
    "poke": [((MAP, SHARED), {"gfn": GFN, "set": 1 << 8, "private": private}) for private in (0, 1)],
    "poke_raw": [((), {"gfn": GFN, "level": 4, "value": 0x8000000000000000, "private": private}) for private in (0, 1)],
    "set_dirty_log": [((), {"on": 1})], "track": [((), {"gfn": GFN})], "set_gen": [((), {"gen": 7})],
    "zap_spte": [((MAP,), {"gfn": GFN}), ((MAP,), {"gfn": GFN, "shared": 0})],
    "zap_nx_sp": [((MAP,), {"gfn": GFN})], "mwalk": [((MAP,), {"gfn": GFN})], "sync_rcu": [((), {})],
    "uninit": [((MAP, {"op": "put_roots"}), {})], "put_roots": [((GONE, ZAP), {})],
    "fast_page_fault": [((SHARED,), {"gfn": GFN, "write": 1}), ((MAP,), {"gfn": GFN, "private": 1})],
    "gmem_convert": [((MAP,), RANGE)], "honor_accept": [((MAP,), {"gfn": GFN})],
    "vp_enter": [((), {})], "td_exit": [((ENTER,), {})], "accept": [((MAP, ENTER), {"gpa": GFN << 12})],
    "guest_access": [((MAP, ENTER), {"gpa": GFN << 12})], "touch": [((ENTER,), PAGE)],
    "raw": [((), {"leaf": "MEM.TRACK"})], "populate": [((), PAGE)], "finalize": [((), {})],
    "release_hkid": [((), {})], "vcpu_free": [((ENTER, {"op": "td_exit"}, {"op": "release_hkid"}), {})],
    "vm_destroy": [(({"op": "release_hkid"}, {"op": "vcpu_free", "vcpu": 0}), {})],
    "free_pfn": [((MAP,), PAGE), ((), PAGE)], "pamt_get": [((), {"pfn": PFN})], "pamt_put": [((), {"pfn": PFN})],
    "guest_accept": [((ENTER,), {"gpa": GFN << 12, "pfn": PFN})], "prefault": [((), PAGE)],
    "map_exclusive": [((), PAGE)], "punch_hole": [((MAP,), RANGE | {"pfn": PFN})],
    "set_attributes": [((MAP,), RANGE | {"private": 0})], "move_slot": [((MAP,), RANGE)], "vcpu_create": [((), {})],
    "recover_nx": [((MAP,), {})], "access": [((SHARED,), {"gfn": GFN, "write": 1})],
}
# Written by operations that are not rare, and why that is right.
ALLOWED = {
    # Which injections act until the next kick: an operation that has such is rare itself.
    "Seam",
    # A vCPU was entered once. Who kicks it and enters again waits for the end of that entry, which is offered.
    "Tdx.loaded",
}
ANYWAY = ["raw"]             # any SEAMCALL
BUILDING = ("populate", "finalize")
STORES = ("store", "rmw")


def steps_of(name, setup, fields, design="v7.3", **options):
    """What one run of the operation on a thread of its own offered: [(kind, field or object)]."""
    vm = TdVmCore(get_design(design).replace(ungated=True), SeamModule([MEMORY]), nvcpus=1, memory_pages=4096,
                  runnable=name not in BUILDING)
    for op in setup:
        assert vm.run(op)["ret"] not in ("BUG", "LIVELOCK")
    program = ScenarioProgram(vm, [[{"op": name, **fields}]], every_entry=True, **options)
    explorer = Explorer(program, "dpor", max_executions=1, states=False)
    replay = explorer.replay(explorer.step()["schedule"])
    return [(KIND_NAMES[kind], program.field(obj) or program.describe(obj)) for agent, kind, obj, _ in replay["steps"]
            if agent == 0]


def rare_words(name):
    """(fields that it reads, fields that it writes) of those that sync_rare() offers."""
    more = Counter()
    for example in EXAMPLES[name]:
        for design in ("v7.3", "v6.16"):
            more |= (Counter(steps_of(name, *example, design=design, rare=True))
                     - Counter(steps_of(name, *example, design=design, rare=False)))
    return ({what for kind, what in more if kind not in STORES}, {what for kind, what in more if kind in STORES})


def test_there_is_an_example_of_each():
    assert tuple(OPS) == tuple(functions()) and set(OPS) == set(EXAMPLES)


def test_only_rare_operations_change_what_others_read():
    """What sync_rare() offers is not offered without a rare operation: two others must not meet there."""
    words = {name: rare_words(name) for name in OPS}
    common = [name for name, spec in OPS.items() if not spec.rare]
    read = set().union(*(words[name][0] for name in common))
    written = set().union(*(words[name][1] for name in common))
    assert {what for what in written if what in read and what not in ALLOWED} == set()
    read, written = (set().union(*(pair[side] for pair in words.values())) for side in (0, 1))
    needless = [name for name, spec in OPS.items()
                if spec.rare and not words[name][1] & read and not words[name][0] & written]
    assert needless == ANYWAY


@pytest.mark.parametrize("name", OPS)
def test_roots_are_those_without_which_it_does_something_else(name):
    used = 0
    for example in EXAMPLES[name]:
        both = steps_of(name, *example, rare=False, roots=3)
        used |= sum(bit for bit in (1, 2) if steps_of(name, *example, rare=False, roots=3 ^ bit) != both)
    assert used == OPS[name].roots


@pytest.mark.parametrize("name", OPS)
def test_the_lock_is_held_as_the_row_says(name):
    for setup, fields in EXAMPLES[name]:
        locks = [kind for kind, what in steps_of(name, setup, fields) if what == "Kvm.mmu_lock"]
        lock = OPS[name].lock
        if lock == "shared":
            lock = "read" if fields.get("shared", OPS[name].fields["shared"]) else "write"
        assert lock in LOCKS
        if lock in ("read", "write"):
            assert locks[0] == f"{lock}_lock" and locks[-1] == f"{lock}_unlock"
        elif not lock:
            assert not locks


def test_every_field_has_its_place():
    for name, spec in OPS.items():
        for key in spec.defaults(td=True):
            assert key in WORDS or key in SMALL or (name, key) == ("raw", "leaf")
        assert set(spec.td_fields) <= set(spec.fields) and not set(spec.fields) & set(TD_MODIFIERS)
        check_op({"op": name} | dict.fromkeys(spec.fields, 0), td=True)
