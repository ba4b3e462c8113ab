"""A VM in the middle of an operation: hooks, signal handlers, finalisers and other threads call it all the same."""
import copy
import gc
import pickle
import signal
import threading
import time

import numpy as np
import pytest

from tdpfast import Memslot, UsageError, Vm, VmEnded
from tdpfast.seam import TdxModule
from tdpfast.spte import SpteCells
from tdpfast.threads import audit, run_threads

MAP = {"op": "map", "gfn": 5, "pfn": 5, "private": 1}


def armed(box, call):
    """A hook that calls `call` with the VM in the box, if there is one."""
    def hook(*_):
        if box:
            call(box[0])

    return hook


@pytest.mark.parametrize("call", [
    lambda vm: vm.map(7, 7), lambda vm: vm.vcpus[1].map(7, 7), lambda vm: vm.map_range(0, 0, 9),
    lambda vm: vm.zap_leafs(0, 9), lambda vm: vm.vcpus[1].run({"op": "zap_all"}), lambda vm: vm.destroy(),
    lambda vm: vm.create_vcpu(), lambda vm: vm.walk_many([1]), lambda vm: vm.clear_events(), lambda vm: vm.events,
    lambda vm: run_threads(vm, [[MAP]] * 2)])
def test_hooks_that_call_their_vm(call):
    """Each of these waited for itself for ever."""
    box = []
    vm = Vm(hooks={"set_external_spte": armed(box, call)})
    vm.create_vcpu()
    box.append(vm)
    with pytest.raises(UsageError, match="from a hook"):
        vm.map(5, 5)
    box.clear()
    assert vm.map(5, 5).ret.name == "RET_PF_FIXED"
    assert vm.destroy()["sp_live"] == 0


def test_hooks_of_threads_that_call_their_vm():
    box = []
    vm = Vm(hooks={"set_external_spte": armed(box, lambda vm: vm.map(7, 7))})
    box.append(vm)
    with pytest.raises(UsageError, match="from a hook"):
        run_threads(vm, [[MAP], [{**MAP, "gfn": 6}]])
    box.clear()
    assert vm.map(5, 5) and audit(vm) == []


def test_hooks_may_look():
    seen = []
    vm = Vm(hooks={"set_external_spte": lambda *_: seen.append((vm.stats, vm.dump(), vm.walk(5).entries))})
    vm.map(5, 5)
    assert seen[0][2]


def test_hooks_may_use_another_vm():
    other = Vm()
    vm = Vm(hooks={"set_external_spte": armed([other], lambda vm: vm.map(9, 9))})
    assert vm.map(5, 5).ret.name == "RET_PF_FIXED" and other.walk(9).pfn == 9


@pytest.mark.parametrize("hooks", [5, "x", [1], {"set_external_spte": 5}, {5: print}, {"fly": print}])
def test_hooks_that_are_none(hooks):
    with pytest.raises(UsageError):
        Vm(hooks=hooks)


@pytest.fixture
def timer():
    """timer(handler, seconds, every): the handler runs after so long, and then as often (0: once)."""
    before = signal.getsignal(signal.SIGALRM)

    def start(handler, seconds, every):
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, seconds, every)

    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_signal_handlers_that_call_their_vm(timer):
    vm = Vm(memory_pages=64, trace="off")
    seen = []

    def handler(*_):
        try:
            seen.append(vm.map(3, 3).ret)
        except UsageError as error:
            seen.append(error.what)

    timer(handler, 0.001, 0.001)
    end = time.monotonic() + 5
    while len(seen) < 20 and time.monotonic() < end:
        vm.map(5, 5)
        vm.zap_leafs(0, 9)
        vm.map_range(0, 0, 100_000)
    assert len(seen) >= 20
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert audit(vm) == []


@pytest.mark.parametrize("call", [
    lambda vm: run_threads(vm, [[MAP]] * 2, count=1 << 60), lambda vm: run_threads(vm, [[MAP]] * 2, seconds=1e8),
    lambda vm: vm.map_range(0, 0, 1 << 34)])
def test_interrupts(timer, call):
    vm = Vm(memory_pages=64, trace="off")
    timer(signal.default_int_handler, 0.1, 0)
    with pytest.raises(KeyboardInterrupt):
        call(vm)
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert vm.map(5, 5) and audit(vm) == []


def test_destroyed_under_other_threads():
    vm = Vm(trace="off")
    ended = []

    def work(vcpu):
        try:
            while True:
                vcpu.map(1, 1)
        except VmEnded as error:
            ended.append(error.why)

    threads = [threading.Thread(target=work, args=(vm.create_vcpu(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert vm.destroy()["sp_live"] == 0
    for thread in threads:
        thread.join()
    assert ended == ["destroyed"] * 3


def test_one_run_after_the_other():
    vm = Vm(trace="off")
    ops = [[{**MAP, "gfn": gfn, "retries": -1} for gfn in range(64)], [{"op": "zap_leafs", "start": 0, "end": 64}]]
    done = []
    threads = [threading.Thread(target=lambda: done.append(run_threads(vm, ops, count=500).ops)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [1000] * 3 and audit(vm) == []


@pytest.mark.parametrize("thing", [Vm(), Vm().vcpus[0], TdxModule()])
def test_no_copies(thing):
    for make in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(UsageError, match="a copy"):
            make(thing)


def test_views_outlive_their_vm():
    vm = Vm()
    vm.map(5, 5)
    arena, table, writable = vm.arena, vm.table(0), vm.writable_arena()
    vm.destroy()
    del vm
    gc.collect()
    writable[:] = 7
    assert int(arena.sum()) == 7 * arena.size and int(table[0]) == 7


@pytest.mark.parametrize("arguments", [
    {"tdx": "no"}, {"tdx": 2}, {"ungated": np.zeros(3)}, {"l1tf": "yes"}, {"ipat": []}, {"pml": 0.5},
    {"trace": np.zeros(2)}, {"want_mirror": None}, {"memslot": 10**5000}, {"mmu": 10**5000}])
def test_flags_are_true_or_false(arguments):
    with pytest.raises(UsageError):
        Vm(**arguments)


@pytest.mark.parametrize("call", [
    lambda vm: vm.map(0, 0, write="no"), lambda vm: vm.map(0, 0, private="x"), lambda vm: vm.map(0, 0, hook=5),
    lambda vm: vm.map(0, 0, retries=0.0), lambda vm: vm.zap_leafs(0, 1, flush="x"),
    lambda vm: vm.unmap(0, 1, shared=[]), lambda vm: vm.set_dirty_log("off"),
    lambda vm: vm.fast_page_fault(0, write=2), lambda vm: vm.map_range(0, 0, 1, user=()),
    lambda vm: vm.invalidate_roots(direct="no"), lambda vm: vm.age(0, 1, private=np.zeros(2))])
def test_flags_of_methods(call):
    with pytest.raises(UsageError):
        call(Vm(ungated=True))


def test_numbers_of_numpy():
    vm = Vm()
    assert vm.map(np.int64(5), np.uint64(5), np.uint8(1), write=np.bool_(True)).ret.name == "RET_PF_FIXED"
    assert vm.map_range(np.int64(8), np.int64(8), np.int64(2)) and Memslot(np.int64(0), np.int64(5)).end == 5


def test_messages_are_short():
    with pytest.raises(UsageError) as info:
        Vm("x" * 100_000)
    assert len(str(info.value)) < 2000


def test_indexes_with_a_mind_of_their_own():
    class Index:
        def __index__(self):
            raise ZeroDivisionError

    for call in (SpteCells(np.zeros(2, np.uint64)).load, lambda i: Vm().map(i, 0)):
        with pytest.raises(ZeroDivisionError):
            call(Index())


@pytest.mark.resident
@pytest.mark.parametrize("calls", [3000])
def test_memory_of_dead_vms(calls):
    def resident():
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * 4096

    def churn(n):
        for _ in range(n):
            vm = Vm()
            vm.map(1, 1)
            vm.destroy()

    churn(500)
    before = resident()
    churn(calls)
    assert resident() - before < 8 << 20
