"""The native classes survive what Python can hand them: objects that were never made, None, lists that lie, calls in
the middle of calls. Each of these once ended the process, hung it, or wrote past an array."""
import gc
import signal
import threading
from contextlib import suppress

import numpy as np
import pytest

from tdpfast import PRESETS, UsageError, Vm
from tdpfast._explore.explorer import Explorer, ProgramRef
from tdpfast._face.batch import SIZEOF_EVENT, ArenaView, VcpuCore, describe_sp, root_indexes
from tdpfast._face.external_model import ExternalModel
from tdpfast._face.seam_module import SeamModule
from tdpfast._face.td import TdVmCore
from tdpfast._face.threads import ThreadEngine
from tdpfast._face.vm import VmCore
from tdpfast._program.program import ScenarioProgram
from tdpfast._program.pyhooks import install
from tdpfast._testing import baselines as _baselines
from tdpfast._testing import seam_bench as _seam_bench
from tdpfast._testing.toys import script

DESIGN = PRESETS["v7.3"]
MEMORY = [(0x100000000, 0x200000000)]
MAP = {"op": "map", "gfn": 5, "pfn": 0x140005}
ZAP = {"op": "zap_leafs", "start": 0, "end": 99}


def bare(cls):
    """An object whose __init__() never ran."""
    return cls.__new__(cls)


def td(**arguments):
    return TdVmCore(DESIGN, SeamModule(MEMORY), memory_pages=8192, keep_dead=True, **arguments)


def program(hook=None):
    vm = td()
    if hook is not None:
        install(vm, {"set_external_spte": hook})
    return ScenarioProgram(vm, [[MAP], [ZAP]])


@pytest.mark.parametrize("call", [
    lambda vm: vm.run(MAP), lambda vm: vm.set_tracing(True), lambda vm: vm.revive(), VcpuCore,
    lambda vm: VcpuCore(vm, True), lambda vm: ExternalModel(vm, 0, 512), lambda vm: install(vm, {}),
    lambda vm: describe_sp(vm, 0)])
def test_a_vm_that_was_not_made(call):
    for cls in (VmCore, TdVmCore):
        with pytest.raises(UsageError):
            call(bare(cls))


def test_what_a_vm_that_was_not_made_shows():
    vm = bare(VmCore)
    assert (vm.roots(), vm.sptes(), vm.events(), vm.ended, vm.checks, root_indexes(vm)) == ([], [], [], False, 0, [])
    assert vm.stats()["sp_live"] == 0 and len(memoryview(ArenaView(vm))) == 0


@pytest.mark.parametrize("call", [
    TdVmCore.pages, TdVmCore.kvm_state, TdVmCore.seamcalls, TdVmCore.dangling, TdVmCore.in_guest, TdVmCore.pamt_counts,
    TdVmCore.pamt_check, lambda vm: vm.sept_range, lambda vm: vm.tdr, lambda vm: vm.nvcpus,
    lambda vm: vm.vcpu_loaded(0), lambda vm: vm.set_hkid(1), lambda vm: vm.pin_count(1),
    lambda vm: vm.nr_premapped, TdVmCore.guest_inhibits, TdVmCore.revive,
    lambda vm: vm.watch_freed(True), lambda vm: vm.describe_module(0),
    lambda vm: ScenarioProgram(vm, [[MAP]])])
def test_a_td_that_was_not_made(call):
    with pytest.raises(UsageError, match="was not made"):
        call(bare(TdVmCore))


@pytest.mark.parametrize("call", [
    lambda e: e.run(), lambda e: e.step(), lambda e: e.progress(), lambda e: e.result(), lambda e: e.replay(b""),
    lambda e: e.try_schedule(b"")])
def test_an_explorer_that_was_not_made(call):
    with pytest.raises(UsageError, match="was not made"):
        call(bare(Explorer))


@pytest.mark.parametrize("call", [
    lambda p: p.finding(), lambda p: p.describe(5), lambda p: p.record(True), lambda p: p.raise_hook_error(),
    lambda p: p.life_by_use(True), lambda p: p.cpu_of(0), lambda p: p.watch(), lambda p: p.image(),
    lambda p: p.failed(), Explorer])
def test_a_program_that_was_not_made(call):
    with pytest.raises(UsageError, match="was not made"):
        call(bare(ScenarioProgram))


@pytest.mark.parametrize("call", [
    VcpuCore, ArenaView, root_indexes, lambda vm: describe_sp(vm, 0), lambda vm: ExternalModel(vm, 0, 1),
    lambda vm: ScenarioProgram(vm, [[MAP]]), lambda vm: install(vm, {}), lambda vm: ThreadEngine([vm]), Explorer,
    lambda vm: _seam_bench.run(vm, 0, 1), lambda vm: _seam_bench.run_guest(vm, "accept", 1, 0),
    lambda vm: _baselines.raw_walk(vm, True, 1, 1), lambda vm: TdVmCore(DESIGN, vm)])
def test_none(call):
    with pytest.raises((TypeError, UsageError)):
        call(None)


def test_objects_are_made_once():
    module = SeamModule(MEMORY)
    for thing, arguments in ((VmCore(DESIGN), (DESIGN,)), (TdVmCore(DESIGN, module), (DESIGN, module)),
                             (Explorer(one := program()), (one,)), (one, (one.vm, [[MAP]]))):
        with pytest.raises(UsageError, match="once"):
            thing.__init__(*arguments)


@pytest.mark.parametrize("arguments", [
    {"root_level": 3}, {"root_level": 6}, {"root_level": -1}, {"memory_pages": 0}, {"memory_pages": 1 << 63},
    {"mmu": 3}, {"maxphyaddr": 0}])
def test_vm_core_arguments(arguments):
    with pytest.raises(UsageError):
        VmCore(DESIGN, **arguments)


def test_a_vm_runs_nothing_of_a_td():
    core = Vm().core
    engine = ThreadEngine([VcpuCore(core)])
    for call in (core.run, VcpuCore(core).run, lambda op: VcpuCore(core).repeat(op, 2),
                 lambda op: engine.set_ops(0, [op], 1, 0, 0)):
        with pytest.raises(UsageError, match="no TD"):
            call({"op": "vp_enter"})


@pytest.mark.parametrize("fields", [
    {"op": []}, {"op": None}, {"op": "map", "race": [1]}, {"op": "map", "race": []}, {"op": "map", "hook": {"a": 1}},
    {"op": "map", "hook": [1 << 40]}, {"op": "map", "hook": [1, "x"]}, {"op": "map", "race": ["1", "hw", 2]},
    {"op": "map", "race": [1, "hw", 1 << 70]}, {"op": "map", "level": None}, 5, None])
def test_operations_nobody_checked(fields):
    core = VcpuCore(Vm().core)
    with suppress(UsageError, TypeError, OverflowError, IndexError, KeyError):
        core.run(fields)
    assert core.run({"op": "map", "gfn": 1, "pfn": 1, "private": 1})["ret"] == 5


def test_faults_nobody_checked():
    core = VcpuCore(Vm().core)
    flags = (True, True, True, False, True, True, False)
    for level in (-1, 0, 4, 1 << 30):
        with pytest.raises(UsageError, match="level"):
            core.fault(0, 0, level, *flags, 0)
    with pytest.raises(UsageError, match="write"):
        core.fault(0, 0, 1, "yes", *flags[1:], 0)
    core.fault((1 << 64) - 1, (1 << 64) - 1, 3, *flags, 0)
    with pytest.raises(UsageError):
        core.map_range({"op": "zap_all"}, 3)
    core.map_range({"op": "map", "gfn": (1 << 52) - 1}, 300)


def test_events_go_where_they_are_asked_to():
    vm = Vm()
    vm.map(1, 1)
    core = vm.vcpus[0]._core
    size = SIZEOF_EVENT * core.nevents
    core.copy_events(np.zeros(size + 1, np.uint8)[1:])          # not aligned
    for wrong in (None, np.zeros(3, np.uint8)):
        with pytest.raises(UsageError):
            core.copy_events(wrong)


# ---- threads

def test_an_engine_and_its_vcpus():
    vm = Vm()
    core = vm.vcpus[0]._core
    for wrong in ([], [1], [core, core], [core, Vm().vcpus[0]._core]):
        with pytest.raises(UsageError):
            ThreadEngine(wrong)
    engine = ThreadEngine([core])
    for seconds in (-1.0, float("nan"), float("inf"), 1e300):
        with pytest.raises(UsageError, match="seconds"):
            engine.set_ops(0, [{"op": "map"}], 1, seconds, 0)


def test_operations_that_change_their_list():
    """Lowering runs the mapping's own code, which may set other operations or lengthen the list."""
    engine = ThreadEngine([Vm().vcpus[0]._core])
    ops = [None, {"op": "map"}, {"op": "map"}]

    class Evil(dict):
        def keys(self):
            ops.extend([{"op": "map"}] * 50)
            engine.set_ops(0, [{"op": "zap_all"}], 1, 0, 0)
            return super().keys()

    ops[0] = Evil(op="map")
    engine.set_ops(0, ops, 3, 0, 0)
    engine.start()
    engine.run_thread(0)
    assert engine.finish()[0][2] == {"map": 3}


def test_a_running_thread_is_left_alone():
    vm = Vm(trace="off")
    core = vm.vcpus[0]._core
    engine = ThreadEngine([core])
    engine.set_ops(0, [{"op": "get_walk"}], 0, 0, 0)
    engine.start()
    thread = threading.Thread(target=engine.run_thread, args=(0,))
    thread.start()
    while True:
        try:
            engine.finish()
        except UsageError:
            break
    for call in (lambda: engine.set_ops(0, [{"op": "map"}], 1, 0, 0), engine.start, lambda: engine.run_thread(0),
                 lambda: core.run({"op": "map"}), core.clear):
        with pytest.raises(UsageError):
            call()
    engine.stop()
    thread.join()
    assert engine.finish()[0][3] == 0


@pytest.fixture
def alarm():
    """alarm(seconds): KeyboardInterrupt after so long."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("call", [
    lambda core: core.repeat({"op": "get_walk"}, (1 << 64) - 1),
    lambda core: core.map_range({"op": "map", "private": 1}, 1 << 60),
    lambda core: lonely(core)])     # noqa: PLW0108 -- defined below
def test_long_calls_can_be_interrupted(alarm, call):
    vm = Vm(memory_pages=64, trace="off")
    alarm(0.05)
    with pytest.raises(KeyboardInterrupt):
        call(vm.vcpus[0]._core)
    assert vm.walk(0).entries and vm.zap_leafs(0, 1) in (True, False)


def lonely(core):
    """One thread of two, whose mate never comes."""
    engine = ThreadEngine([core, VcpuCore(core.vm, True)])
    for i in range(2):
        engine.set_ops(i, [{"op": "map"}], 1, 0, 0)
    engine.start()
    engine.run_thread(0)


def test_a_run_begins_once():
    """The second start() would lose the roots that the first one borrowed."""
    vm = Vm()
    engine = ThreadEngine([vm.vcpus[0]._core])
    assert engine.finish() == [(0, 0.0, {}, 0)]
    engine.start(True, 1)
    with pytest.raises(UsageError, match="finish"):
        engine.start()
    engine.finish()
    engine.start()
    engine.finish()
    assert vm.map(5, 5) and vm.destroy()["sp_live"] == 0
    for call in (engine.measured, engine.last_op, engine.run_thread):
        for i in (-1, 1, 1 << 40):
            with pytest.raises(UsageError, match="no thread"):
                call(i)


def test_bare_loops_look_first():
    """What they would read, or write, must be there."""
    vm = Vm()
    vm.map_range(0, 0, 512)
    assert _baselines.raw_walk(vm.core, True, 512, 1) > 0
    for n, step in ((513, 1), (2, 1 << 18), (2, (1 << 64) - 1)):
        with pytest.raises(UsageError, match="is not there"):
            _baselines.raw_walk(vm.core, True, n, step)
    with pytest.raises(UsageError, match="no such root"):
        _baselines.raw_walk(bare(VmCore), False, 1, 1)
    for size in (0, 1 << 63):
        with pytest.raises(UsageError, match="bytes"):
            _baselines.copy(size, 1)


# ---- the explorer

@pytest.mark.parametrize("arguments", [
    {"seed": -1}, {"seed": 1 << 64}, {"first": -1}, {"max_executions": -1}, {"max_transitions": 1 << 64},
    {"wanted": 1 << 32}, {"max_steps": 0}, {"retry_bound": 0}, {"retry_bound": 1 << 31}, {"bound": -1}, {"bound": None},
    {"depth": 65}, {"strategy": None}, {"strategy": []}, {"max_seconds": float("nan")}, {"max_seconds": "x"},
    {"prefix": None}, {"prefix": 1 << 40}, {"prefix": "ab"}, {"prefix": [0]}, {"states": "x"}, {"stop_first": None}])
def test_explorer_arguments(arguments):
    one = program()
    explorer = bare(Explorer)
    with pytest.raises(UsageError, match="; try "):
        explorer.__init__(one, **arguments)
    with pytest.raises(UsageError):
        explorer.run()
    assert Explorer(one).run()["complete"]


@pytest.mark.parametrize("schedule", ["ab", None, 5, 1 << 60, -1, [300], [0]])
def test_schedules_are_bytes(schedule):
    explorer = Explorer(program())
    for call in (explorer.replay, explorer.try_schedule):
        with pytest.raises(UsageError, match="schedule"):
            call(schedule)


def test_schedules_of_nobody():
    explorer = Explorer(program())
    for schedule in (b"\xff" * 100, bytes(range(256)), b"\x03" * 9):
        assert explorer.replay(schedule)["end"] == "diverged"
        assert explorer.try_schedule(schedule)["end"] == "done"


@pytest.mark.parametrize("threads", [None, 5, "ab", [], [[]] * 17, [None], [5], ["ab"], [[None]], [[5]], [{}], {}])
def test_threads_of_a_program(threads):
    with pytest.raises(UsageError):
        ScenarioProgram(td(), threads)


def test_a_list_that_lies_about_its_length():
    class Liar(list):
        calls = 0

        def __len__(self):
            Liar.calls += 1
            return 16 if Liar.calls > 1 else 1

    one = ScenarioProgram(td(), Liar([[MAP]] * 2))
    assert one.nthreads == 2


def test_an_exploration_and_its_progress():
    """While a search runs nobody else explores, and what is asked in between is answered."""
    explorer = Explorer(program(), "random", max_transitions=2_000_000)
    for wrong in (5, "x"):
        with pytest.raises(UsageError, match="callable"):
            explorer.run(wrong)
    seen = []

    def progress(one):
        for call in (one.step, one.run, lambda: one.replay(b"")):
            with pytest.raises(UsageError, match="inside another"):
                call()
        seen.append((one.progress(), one.result()["executions"], one.states()))

    assert explorer.run(progress)["finished"]
    assert seen and all(0 < share <= 1 and n for share, n, _ in seen)


@pytest.mark.parametrize("call", [
    lambda e, p: e.step(), lambda e, p: p.image(), lambda e, p: p.watch(), lambda e, p: e.try_schedule(b"")])
@pytest.mark.parametrize("generator", [False, True])
def test_a_hook_that_goes_on_with_its_own_exploration(call, generator):
    box = []

    def plain(*_):
        if box:
            call(*box)

    def steps(*_):
        yield "before"
        plain()

    one = program(steps if generator else plain)
    box += [Explorer(one), one]
    box[0].run()
    with pytest.raises(UsageError, match="inside another"):
        one.raise_hook_error()


def test_what_a_cut_generator_and_a_reset_call():
    """Both run in the middle of an exploration, too."""
    box = []

    def closed(*_):
        try:
            yield "before"
        finally:
            if box:
                box[0].run(MAP)

    vm = td()
    install(vm, {"set_external_spte": closed})
    one = ScenarioProgram(vm, [[MAP], [ZAP]])
    box.append(vm)
    Explorer(one, max_executions=20).run()
    with pytest.raises(UsageError, match="from a hook"):
        one.raise_hook_error()
    vm = td()
    install(vm, {"set_external_spte": lambda *_: None}, lambda: vm.run(MAP))
    one = ScenarioProgram(vm, [[MAP], [ZAP]])
    Explorer(one, max_executions=20).run()
    with pytest.raises(UsageError, match="from a hook"):
        one.raise_hook_error()


def test_a_hook_that_explores():
    box = []

    def hook(*_):
        if box:
            box[0].replay(b"")

    one = program(hook)
    box.append(Explorer(one))
    assert box[0].run()["finished"]
    with pytest.raises(UsageError, match="inside another"):
        one.raise_hook_error()


def test_a_hook_that_runs_an_operation_of_its_vm():
    armed = []

    def hook(*_):
        if armed:
            armed[0].run(MAP)

    one = program(hook)
    armed.append(one.vm)
    Explorer(one, max_executions=20).run()
    with pytest.raises(UsageError, match="from a hook"):
        one.raise_hook_error()
    core = VmCore(DESIGN, slots=((0, 1 << 35, 1, 0, 0),), direct_gfn_bits=1 << 35)
    install(core, {"set_external_spte": lambda *_: core.run({"op": "map", "gfn": 7, "private": 1})})
    with pytest.raises(UsageError, match="from a hook"):
        core.run({"op": "map", "gfn": 5, "private": 1})


def test_one_exploration_at_a_time():
    """Two explorers of one program, or of one TD, from two threads."""
    vm = td()
    ops = [[MAP, {**MAP, "gfn": 0x205, "pfn": 0x140205}], [ZAP], [MAP]]
    one, other = ScenarioProgram(vm, ops), ScenarioProgram(vm, ops)
    found = []
    limits = {"max_transitions": 60_000}

    def explore(target):
        try:
            found.append(Explorer(target, "dfs", **limits).run()["executions"] > 0)
        except UsageError:
            found.append("refused")

    threads = [threading.Thread(target=explore, args=(p,)) for p in (one, one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and True in found
    assert Explorer(one, **limits).run()["executions"] > 0


def test_explorers_in_cycles():
    for _ in range(3):
        box = []
        one = program(lambda *_, box=box: box and None)
        explorer = Explorer(one, max_executions=2)
        explorer.run()
        box += [explorer, one, one.vm, np.frombuffer(ArenaView(one.vm), np.uint64)]
        del explorer, one, box
        gc.collect()


@pytest.mark.parametrize("code", [[()], [None], [5], [("load",) * 9], [("fly",)], [("load", 99)], [("spin", 0, 99)]])
def test_scripts(code):
    with pytest.raises(UsageError, match="; try "):
        script([code])


def test_empty_programs():
    with pytest.raises(UsageError, match="empty"):
        Explorer(ProgramRef())
