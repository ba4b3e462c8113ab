"""Hooks written in Python, on a VM, on a TD, and under the explorer."""

import pytest

from tdpfast import RetPf, Vm
from tdpfast._face.seam_module import SeamModule
from tdpfast._face.td import TdVmCore
from tdpfast._face.vm import VmCore
from tdpfast._program.pyhooks import install
from tdpfast.catalogue import catalogue
from tdpfast.check import MEMORY, check, replay_token
from tdpfast.design import PRESETS, get_design
from tdpfast.errors import UsageError
from tdpfast.scenario import parse
from tdpfast.threads import audit, run_threads
from tdpfast.token import Token, TokenMismatchError

MAP = {"op": "map", "gfn": 0x200, "pfn": 0x140200, "private": 1}
TWO_FAULTS = parse({"name": "two", "setup": [MAP], "thread": [
    {"ops": [{**MAP, "gfn": 0x201, "pfn": 0x140201, "retries": -1}]},
    {"ops": [{**MAP, "gfn": 0x202, "pfn": 0x140202, "retries": -1}]}]}, "here")


def core():
    return VmCore(get_design("v7.3"), direct_gfn_bits=1 << 35, slots=((0, 1 << 35, 1, 0, 0),))


def td():
    return TdVmCore(get_design("v7.3"), SeamModule([MEMORY]), nvcpus=1)


@pytest.fixture(params=[core, td], ids=["recorded", "module"])
def vm(request):
    return request.param()


def mapped(vm):
    return [gfn for root, level, gfn, value, table, *_ in vm.sptes() if not table]


def test_none_runs_the_native_hook(vm):
    calls = []
    install(vm, {"set_external_spte": lambda *args: calls.append(args)})
    assert vm.run(MAP)["ret"] == RetPf.RET_PF_FIXED and mapped(vm) == [0x200]
    assert [level for _, _, _, level in calls] == [4, 3, 2, 1]
    assert calls[-1][0] == 0x200
    if isinstance(vm, TdVmCore):
        assert vm.kvm_state()["sept_pages"] >= 3


def test_an_errno_rolls_back(vm):
    install(vm, {"set_external_spte": lambda gfn, old, new, level: -16 if level == 1 else None})
    assert vm.run(MAP)["ret"] == RetPf.RET_PF_RETRY and mapped(vm) == []
    install(vm, {"set_external_spte": lambda *args: None})
    assert vm.run(MAP)["ret"] == RetPf.RET_PF_FIXED and mapped(vm) == [0x200]


def test_zero_is_an_answer_of_its_own():
    vm = td()
    install(vm, {"set_external_spte": lambda *args: 0})
    assert vm.run(MAP)["ret"] == RetPf.RET_PF_FIXED
    vm.set_tracing(True)
    vm.run({**MAP, "gfn": 0x201, "pfn": 0x140201})
    assert vm.seamcalls() == []


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), UsageError("no")])
def test_exceptions_surface(vm, error):
    def hook(*args):
        raise error

    install(vm, {"set_external_spte": hook})
    with pytest.raises(type(error)):
        vm.run(MAP)
    assert mapped(vm) == [] and not vm.ended
    install(vm, {"set_external_spte": lambda *args: None})
    assert vm.run(MAP)["ret"] == RetPf.RET_PF_FIXED


@pytest.mark.parametrize("value", [1, -4096, "x", 0.5, [], 1 << 70])
def test_bad_return(vm, value):
    install(vm, {"set_external_spte": lambda *args: value})
    with pytest.raises(UsageError, match="returned"):
        vm.run(MAP)


def test_a_hook_of_the_wrong_arity(vm):
    install(vm, {"set_external_spte": lambda: 0})
    with pytest.raises(TypeError):
        vm.run(MAP)


@pytest.mark.parametrize("hooks, message", [
    ({"set": print}, "no such hook"), ({5: print}, "no such hook"), ({"set_external_spte": 5}, "not callable"),
    ({"set_external_spte": None}, "not callable")])
def test_bad_hooks(vm, hooks, message):
    with pytest.raises(UsageError, match=message):
        install(vm, hooks)
    with pytest.raises(UsageError, match=message):
        Vm(hooks=hooks)
    with pytest.raises(UsageError, match=message):
        check(TWO_FAULTS, "v7.3", hooks=hooks)


def test_vm_takes_hooks():
    calls = []
    with Vm(hooks={"set_external_spte": lambda *args: calls.append(args)}) as vm:
        assert vm.map(1, 1).ret is RetPf.RET_PF_FIXED and vm.map_range(2, 2, 5) == {RetPf.RET_PF_FIXED: 5}
        assert [gfn for gfn, _, _, level in calls if level == 1] == [1, 2, 3, 4, 5, 6]
        vm.zap_leafs(1, 2)
        assert calls[-1][0] == 1 and vm.spte.is_shadow_present_pte(calls[-1][1])
    refuse = Vm(hooks={"set_external_spte": lambda gfn, *args: -16 if gfn == 7 else None})
    assert [refuse.map(gfn, gfn).ret for gfn in (6, 7, 8)] == [RetPf.RET_PF_FIXED, RetPf.RET_PF_RETRY,
                                                               RetPf.RET_PF_FIXED]


def test_vm_raises_what_a_hook_raises_once():
    class Boom(Exception):
        pass

    def hook(gfn, *args):
        if gfn == 7:
            raise Boom

    vm = Vm(hooks={"set_external_spte": hook})
    for call in (lambda: vm.map(7, 7), lambda: vm.map_range(6, 6, 3), lambda: vm.run({**MAP, "gfn": 7}),
                 lambda: run_threads(vm, [[{**MAP, "gfn": 7}], [{**MAP, "gfn": 9}]])):
        with pytest.raises(Boom):
            call()
        assert vm.map(1, 1).ret in (RetPf.RET_PF_FIXED, RetPf.RET_PF_SPURIOUS) and audit(vm) == []
    bad = Vm(hooks={"set_external_spte": lambda *args: 1})
    with pytest.raises(UsageError, match="return of hook set_external_spte"):
        bad.map(1, 1)


def test_threads_call_hooks():
    seen = set()
    vm = Vm(hooks={"set_external_spte": lambda gfn, old, new, level: seen.add((gfn, level))}, trace="off")
    run_threads(vm, [[{**MAP, "gfn": 512 * i + k, "retries": -1} for k in range(50)] for i in range(4)])
    assert {(512 * i + k, 1) for i in range(4) for k in range(50)} <= seen and audit(vm) == []


def test_hooks_of_618():
    calls = []
    names = ("set_external_spte", "link_external_spt", "remove_external_spte", "free_external_spt")
    vm = Vm("v6.18", hooks={name: lambda *args, name=name: calls.append(name) for name in names})
    vm.map(1, 1)
    assert calls == ["link_external_spt"] * 3 + ["set_external_spte"]
    vm.zap_leafs(1, 2)
    assert calls[4:] == ["remove_external_spte"]
    vm.destroy()
    assert calls[5:] == ["free_external_spt"] * 3


# ---- under the explorer -----------------------------------------------------------------------------------------

def same(a, b):
    return {**a.to_json(), "seconds": 0} == {**b.to_json(), "seconds": 0} and a.counterexample == b.counterexample


def test_exploring_with_hooks_that_do_nothing_holds():
    plain = check(TWO_FAULTS, "v7.3")
    hooked = check(TWO_FAULTS, "v7.3", hooks={"set_external_spte": lambda *args: None})
    assert plain.verdict == hooked.verdict == "holds" and plain.complete and hooked.complete


def test_exploring_with_hooks_is_deterministic():
    hooks = {"set_external_spte": lambda gfn, old, new, level: 0 if gfn == 0x201 else None}
    first, second = (check(TWO_FAULTS, "v7.3", hooks=hooks) for _ in range(2))
    assert first.checks == ["agree"] and same(first, second)
    # A mirror leaf nobody told the module about.
    assert "gfn 201" in first.counterexample.story[-1].text
    token = Token.parse(first.token)
    _, _, _, replay = replay_token(token, [TWO_FAULTS], [PRESETS["v7.3"]], hooks)
    assert replay["schedule"] == token.schedule
    with pytest.raises(TokenMismatchError):
        replay_token(token, [TWO_FAULTS], PRESETS.values())


def test_a_hook_that_is_always_busy_is_a_loop_without_progress():
    hooks = {"set_external_spte": lambda gfn, old, new, level: -16 if gfn == 0x201 else None}
    assert check(TWO_FAULTS, "v7.3", hooks=hooks).checks == ["progress"]


def test_a_hook_repairs_a_design():
    scenario = next(s for s in catalogue("review") if s.name == "issue4-persistent-error")
    assert "progress" in check(scenario, "v7.3", gated=False).checks
    # The rule of the scenario sits in the hook below.
    assert check(scenario, "v7.3", gated=False, hooks={"set_external_spte": lambda *args: 0 if args[3] == 1 and args[1]
                 >> 11 & 1 else None}).checks == []


def test_what_a_hook_raises_under_the_explorer():
    def hook(gfn, *args):
        if gfn == 0x201:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        check(TWO_FAULTS, "v7.3", hooks={"set_external_spte": hook})
    with pytest.raises(UsageError, match="returned 7"):
        check(TWO_FAULTS, "v7.3", hooks={"set_external_spte": lambda gfn, *args: 7 if gfn == 0x202 else None})
    with pytest.raises(UsageError, match="returned 7"):
        check(TWO_FAULTS, "v7.3", hooks={"set_external_spte": lambda *args: 7})     # in the set-up
