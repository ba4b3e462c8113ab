"""What the methods of Vm and Vcpu promise, where a careless caller would notice that it is not kept."""

import threading

import numpy as np
import pytest

from tdpfast import Memslot, RetPf, UsageError, Vm, VmEnded
from tdpfast.threads import audit, run_threads


def together(*bodies):
    errors = []

    def run(body):
        try:
            body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_scripted_hooks_answer_their_own_vcpu():
    vm = Vm(trace="off")
    other = vm.create_vcpu()
    seen = {0: set(), 1: set()}

    def scripted():
        for i in range(3000):
            seen[0].add(vm.map(i % 512, i % 512, hook=[-16]).ret)

    def plain():
        for i in range(3000):
            seen[1].add(other.map(0x400 + i % 512, i % 512).ret)

    vm.map(0, 0)
    vm.map(0x400, 0)
    vm.zap_leafs(0, 0x800)
    together(scripted, plain)
    assert seen == {0: {RetPf.RET_PF_RETRY}, 1: {RetPf.RET_PF_FIXED, RetPf.RET_PF_SPURIOUS}}


def test_a_hook_that_raises_is_not_asked_again():
    calls = []

    def hook(*args):
        calls.append(args)
        raise KeyError("mine")

    with Vm(hooks={"set_external_spte": hook}) as vm:
        for run in (lambda: vm.map(1, 1, retries=-1), lambda: vm.map_range(1, 1, 100),
                    lambda: run_threads(vm, [[{"op": "map", "gfn": 1, "pfn": 1, "private": 1, "retries": -1}]],
                                        count=50)):
            calls.clear()
            with pytest.raises(KeyError, match="mine"):
                run()
            assert len(calls) == 1
        vm.zap_all()


def test_an_operation_that_ends_the_vm_says_so_from_then_on():
    vm = Vm(hooks={"set_external_spte": lambda *args: -16})
    with pytest.raises(VmEnded, match="LIVELOCK"):
        vm.map(1, 1, retries=-1)
    errors = []
    for _ in range(3):
        with pytest.raises(VmEnded, match="LIVELOCK") as caught:
            vm.map_range(1, 1, 2)
        errors.append(caught.value)
    assert len(set(map(id, errors))) == 3


@pytest.mark.parametrize("arguments, top", [
    ({"tdx": False, "maxphyaddr": 40}, (1 << 28) - 1), ({"maxphyaddr": 46}, (1 << 33) - 1),
    ({"tdx": False, "root_level": 5}, (1 << 40) - 1), ({"tdx": False}, (1 << 36) - 1), ({}, (1 << 35) - 1),
    ({"root_level": 5}, (1 << 39) - 1)])
def test_all_that_can_be_mapped_can_be_zapped(arguments, top):
    vm = Vm(**arguments)
    assert vm.max_gfn == top
    vm.map(top, 5, private=False)
    vm.zap_all()
    assert vm.walk(top, private=False).pfn is None
    with pytest.raises(UsageError):
        vm.map(top + 1, 5, private=False)
    assert not any(vm.destroy().values())


def test_a_shared_bit_beyond_maxphyaddr():
    with pytest.raises(UsageError, match="shared_bit"):
        Vm(root_level=5, shared_bit=44)
    with pytest.raises(UsageError, match="shared_bit"):
        Vm(maxphyaddr=40, shared_bit=30)


def single(vm, gfn, pfn, n, level=1, **access):
    counts = {}
    for i in range(n):
        step = i << 9 * (level - 1)
        ret = vm.map(gfn + step, pfn if access.get("noslot") else pfn + step, level, **access).ret
        counts[ret] = counts.get(ret, 0) + 1
    return counts


def told(vm):
    return [(record.kind, sorted(record.fields.items())) for record in vm.records()], vm.vcpus[0].asserts, vm.stats


@pytest.mark.parametrize("design", ["v7.3", "v6.18", "v6.16", "rfcv5"])
@pytest.mark.parametrize("case", range(40))
def test_a_range_is_as_many_faults(design, case):
    rng = np.random.default_rng([case, len(design)])
    options = {"tdx": bool(rng.integers(2)), "memory_pages": int(rng.choice([8, 9, 12, 64])), "trace": "all",
               "ungated": bool(rng.integers(2))}
    before = [(int(rng.choice([0, 0x200, 0x3FE00, 1 << 18, 1 << 27])) + int(rng.integers(4)), int(rng.integers(1, 3)))
              for _ in range(rng.integers(5))]
    gfn, level, n = int(rng.choice([0, 0x200, 0x3FE00])), int(rng.integers(1, 3)), int(rng.integers(1, 5))
    access = {"noslot": bool(rng.integers(6) == 0), "write": bool(rng.integers(2)),
              "prefetch": bool(rng.integers(4) == 0)}
    results = []
    for how in (single, Vm.map_range):
        vm = Vm(design, **options)
        try:
            for place, size in before:
                vm.map(place & -(1 << 9 * (size - 1)), place & -(1 << 9 * (size - 1)), size)
            results.append((how(vm, gfn, gfn, n, level, **access), told(vm), vm.arena.tobytes()))
        except VmEnded as ended:
            results.append((ended.why, told(vm)))
    assert results[0] == results[1]


def test_roots_are_invalidated_and_zapped_by_one_at_a_time():
    vm = Vm(tdx=False, trace="off", memory_pages=8192)
    vcpus = [vm.create_vcpu(), vm.create_vcpu()]

    def body(vcpu):
        def run():
            for i in range(150):
                vcpu.map_range(0, 0, 256)
                vm_of = vcpu.vm
                with_own = {"op": "invalidate_roots", "types": 2}
                vcpu._run(with_own)
                vcpu._run({"op": "zap_invalidated_roots", "shared": i & 1})
                vcpu.reload()
                assert vm_of is vm
        return run

    together(*map(body, vcpus))
    assert audit(vm) == []
    assert not any(vm.destroy().values())


def test_reload_gives_the_roots_that_are_missing():
    vm = Vm()
    vm.vcpus[0].put_roots()
    assert vm.get_walk(5).leaf == -1
    assert vm.reload() == 0
    assert vm.map(5, 5).ret == RetPf.RET_PF_FIXED and vm.map(6, 6, private=False).ret == RetPf.RET_PF_FIXED
    vm.put_root(private=False)
    assert vm.get_walk(6, private=False).leaf == -1
    vm.alloc_root(private=False)
    assert vm.get_walk(6, private=False).leaf == 1
    small = Vm(tdx=False, memory_pages=8)
    small.map_range(0, 0, 512 * 8)
    small.invalidate_roots()
    with pytest.raises(UsageError, match="no memory for a root"):
        small.reload()
    small.zap_invalidated_roots()
    small.reload()
    assert small.map(5, 5).ret == RetPf.RET_PF_FIXED


def test_hardware_writes_to_the_direct_root_of_a_td():
    vm = Vm()
    vm.map(9, 9, private=False)
    vm.map(9, 9)
    assert vm.poke(9, set=1 << 8) is not None and not vm.poke_raw(9, 0)
    assert vm.poke_raw(10, 0x5a0) and vm.get_walk(10, private=False).sptes[1] == 0x5a0
    for call in (lambda: vm.poke(9, set=1 << 8, private=True), lambda: vm.poke_raw(9, 0, private=True)):
        with pytest.raises(UsageError, match="hardware walks no mirror"):
            call()
    assert Vm(ungated=True).poke(9, private=True) is None


def test_what_a_hook_returns_is_no_refusal():
    vm = Vm("v7.3", ungated=True)
    vm.map(5, 5)
    assert vm.run({"op": "zap_spte", "gfn": 5, "level": 1, "hook": [-22]})["ret"] == -22


@pytest.mark.parametrize("op", [
    {"op": "map", "gfn": 1 << 36, "pfn": 5}, {"op": "get_walk", "gfn": "0x1000000000"},
    {"op": "zap_leafs", "start": 1 << 36, "end": 1 << 37}, {"op": "map", "gfn": 10 ** 5000, "pfn": 5},
    {"op": "map", "gfn": 5, "pfn": 5, "write": 10 ** 5000}, {"op": "map", "gfn": 5, "pfn": 5, "resched": 10 ** 5000},
    {"op": "map", "gfn": 5, "pfn": 5, "hook": [10 ** 5000]}, {"op": "map", "gfn": 5, "pfn": 5, "hook": 10 ** 5000},
    {"op": "map", "gfn": 5, "pfn": 5, "race": [10 ** 5000, "hw", 1, 2]}])
def test_operations_out_of_range(op):
    with pytest.raises(UsageError):
        Vm(tdx=False).run(op)


def test_numpy_integers_are_integers_in_operations():
    vm = Vm()
    assert vm.run({"op": "map", "gfn": np.int64(5), "pfn": np.uint32(5), "private": np.int8(1),
                   "hook": [np.int64(-16)]})["ret"] == 1
    assert Memslot(np.uint8(100), np.uint8(200)).end == 300


def test_more_gfns_than_can_be_tracked():
    vm = Vm(tdx=False)
    for gfn in range(64):
        vm.track(gfn)
    vm.track(5)
    with pytest.raises(UsageError, match="64 gfns are tracked"):
        vm.track(64)
    vm.track(5, on=False)
    vm.track(64)


def test_vcpus_are_not_made_while_the_vm_ends():
    for _ in range(50):
        vm = Vm(tdx=False)
        made = []

        def make(vm=vm, made=made):
            try:
                for _ in range(8):
                    made.append(vm.create_vcpu())
                    made[-1].map(5, 5)
            except VmEnded:
                pass

        together(make, vm.destroy)
        assert vm.stats["sp_live"] == 0


def test_modifiers():
    vm = Vm(tdx=False)
    vm.map_range(0, 0, 4)
    with vm.modifiers(resched=1):
        vm.zap_all()
    assert any(record.kind == "yield" for record in vm.records())
    vm.map(5, 5)
    with vm.modifiers(race=[0, "hw", 1 << 9, 0]):
        vm.age(0, 8)
        assert any(record.kind == "race" for record in vm.records())
        with vm.modifiers(resched=1), pytest.raises(UsageError, match="within modifiers"):
            vm.map_range(0, 0, 4)
        with pytest.raises(UsageError, match="within modifiers"):
            vm.walk_many([1])
    vm.age(0, 8)
    assert not any(record.kind == "race" for record in vm.records())
    td = Vm()
    with td.modifiers(hook=[-16, -16]):
        assert td.map(1, 1, retries=-1).tries == 3
    for bad in ({"what": 1}, {"race": 5}, {"hook": "x"}, {"inject": []}, {"op": "map"}):
        with pytest.raises(UsageError), vm.modifiers(**bad):
            vm.map(1, 1)


def test_no_gfns_are_no_walks():
    sptes, levels = Vm().walk_many([])
    assert sptes.shape == levels.shape == (0,)


@pytest.mark.parametrize("level", [0, 4, 5])
def test_min_level_is_a_level_of_pages(level):
    vm = Vm(tdx=False)
    for call in (lambda: vm.wrprot_slot(0, 8, min_level=level), lambda: vm.write_protect_gfn(0, min_level=level)):
        with pytest.raises(UsageError, match="min_level"):
            call()
