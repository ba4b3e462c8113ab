"""Hooks that are generator functions: interrupted between their steps under the explorer, run to their end
elsewhere."""

import copy

import pytest

from tdpfast import RetPf, Vm
from tdpfast._face.seam_module import SeamModule
from tdpfast._face.td import TdVmCore
from tdpfast._program.pyhooks import install
from tdpfast.check import MEMORY, Limits, check, replay_token
from tdpfast.design import PRESETS, get_design
from tdpfast.errors import UsageError
from tdpfast.scenario import parse
from tdpfast.story import columns_text
from tdpfast.threads import audit, run_threads
from tdpfast.token import NondeterminismError, Token
from tdpfast.trace import replay_trace

MAP = {"op": "map", "gfn": 0x200, "pfn": 0x140200, "private": 1}
FAULTS = [{"ops": [{**MAP, "gfn": gfn, "pfn": 0x140000 + gfn, "retries": -1}]} for gfn in (0x201, 0x202)]
TWO_FAULTS = parse({"name": "two", "setup": [MAP], "thread": FAULTS}, "here")
THEN_ZAP = parse({"name": "then-zap", "setup": [MAP], "thread": [
    {"ops": FAULTS[0]["ops"]},
    {"ops": [*FAULTS[1]["ops"], {"op": "zap_leafs", "start": 0x200, "end": 0x203}]}]}, "here")


def a_leaf(new_spte, level):
    return level == 1 and new_spte >> 11 & 1


class Marked:
    """Maps a leaf unless somebody else is at it, who is then taken to have done it. Cleans up behind itself."""

    def __init__(self, label="marked"):
        self.busy, self.label, self.open = set(), label, 0

    def plain(self, gfn, old_spte, new_spte, level):
        return 0 if self.busy else None

    def steps(self, gfn, old_spte, new_spte, level):
        if not a_leaf(new_spte, level):
            return None
        if self.busy:
            return 0
        self.busy.add(gfn)
        self.open += 1
        try:
            yield self.label
        finally:
            self.busy.discard(gfn)
            self.open -= 1


class Counted:
    """Counts the leaves it maps and removes only so many: wrong once an addition is lost."""

    def __init__(self):
        self.count, self.saved, self.resets = 0, None, 0

    def reset(self):
        self.resets += 1
        if self.saved is None:
            self.saved = copy.copy(self.count)
        self.count = self.saved

    def removed(self):
        self.count -= 1
        return None if self.count >= 0 else 0

    def plain(self, gfn, old_spte, new_spte, level):
        if a_leaf(new_spte, level):
            self.count += 1
        elif a_leaf(old_spte, level):
            return self.removed()
        return None

    def steps(self, gfn, old_spte, new_spte, level):
        if a_leaf(new_spte, level):
            count = self.count
            yield "read the count"
            self.count = count + 1
        elif a_leaf(old_spte, level):
            return self.removed()
        return None


def hooked(hook):
    return {"set_external_spte": hook}


# ---- under the explorer -----------------------------------------------------------------------------------------

def test_wrong_only_when_interrupted():
    plain = check(TWO_FAULTS, "v7.3", hooks=hooked(Marked().plain))
    assert (plain.verdict, plain.complete) == ("holds", True)
    marked = Marked()
    found = check(TWO_FAULTS, "v7.3", hooks=hooked(marked.steps))
    assert (found.checks, found.complete) == (["agree"], True)
    assert marked.open == 0 and not marked.busy
    again = check(TWO_FAULTS, "v7.3", hooks=hooked(Marked().steps))
    assert again.token == found.token and again.counterexample.story == found.counterexample.story
    assert (again.executions, again.transitions) == (found.executions, found.transitions)


def test_the_token_replays_to_the_same_steps():
    token = Token.parse(check(TWO_FAULTS, "v7.3", hooks=hooked(Marked().steps)).token)
    runs = []
    for _ in range(2):
        hooks = hooked(Marked().steps)
        _, _, program, replay = replay_token(token, [TWO_FAULTS], [PRESETS["v7.3"]], hooks)
        runs.append((replay["schedule"], [(a, k, program.describe(o), v) for a, k, o, v in replay["steps"]],
                     replay_trace(program)))
    assert runs[0] == runs[1] and runs[0][0] == token.schedule
    objects = [name for _, _, name, _ in runs[0][1]]
    assert "hook set_external_spte" in objects and "hook set_external_spte after 'marked'" in objects
    assert "tdpfast_py_hook: set_external_spte gfn 201 level 1 yields 'marked'\n" in runs[0][2]


def test_a_token_knows_the_steps_of_its_hook():
    token = Token.parse(check(TWO_FAULTS, "v7.3", hooks=hooked(Marked().steps)).token)
    with pytest.raises(NondeterminismError):
        replay_token(token, [TWO_FAULTS], [PRESETS["v7.3"]], hooked(Marked().plain))


def test_the_story_shows_the_steps():
    found = check(TWO_FAULTS, "v7.3", hooks=hooked(Marked("half  \n way" + "!" * 60).steps))
    text = columns_text(found.counterexample.story, found.threads, width=180)
    assert "hook set_external_spte gfn 201 4K yields 'half way!!!" in text and "!" * 40 not in text
    assert "hook set_external_spte gfn 202 4K returns 0" in text
    assert "hook set_external_spte gfn 201 4K asks for the native hook" in text


@pytest.mark.parametrize("limits", [
    Limits("sleep"), Limits("bound", bound=1),
    Limits("random", seed=3, max_executions=200), Limits("pct", seed=3, max_executions=200)], ids=lambda x: x.strategy)
def test_every_strategy(limits):
    marked = Marked()
    assert "agree" in check(TWO_FAULTS, "v7.3", limits=limits, hooks=hooked(marked.steps)).checks
    assert marked.open == 0
    assert check(TWO_FAULTS, "v7.3", limits=limits, hooks=hooked(Marked().plain)).checks == []


def test_without_reduction():
    marked = Marked()
    found = check(TWO_FAULTS, "v7.3", hooks=hooked(marked.steps), limits=Limits("dfs", max_executions=2000))
    assert (found.executions, marked.open) == (2000, 0)


def test_a_bound_of_no_preemption_misses_it():
    limits = Limits("bound", bound=0)
    assert check(TWO_FAULTS, "v7.3", limits=limits, hooks=hooked(Marked().steps)).checks == []


def test_state_that_is_taken_back():
    counted = Counted()
    found = check(THEN_ZAP, "v7.3", hooks=hooked(counted.steps), reset=counted.reset)
    assert found.checks == ["agree"] and found.complete and counted.resets > found.executions
    counted = Counted()
    holds = check(THEN_ZAP, "v7.3", hooks=hooked(counted.plain), reset=counted.reset)
    assert (holds.verdict, holds.complete) == ("holds", True)
    for _ in range(2):
        counted = Counted()
        token = Token.parse(found.token)
        replay = replay_token(token, [THEN_ZAP], [PRESETS["v7.3"]], hooked(counted.steps), counted.reset)[3]
        assert replay["schedule"] == token.schedule


def test_a_loop_waits_for_what_another_hook_does():
    """A fault that finds a hook at work is busy; once that is done, going round again is not useless."""
    marked = Marked()

    def hook(gfn, old_spte, new_spte, level):
        if a_leaf(new_spte, level) and marked.busy:
            return -16
        return (yield from marked.steps(gfn, old_spte, new_spte, level))

    found = check(TWO_FAULTS, "v7.3", hooks=hooked(hook))
    assert (found.verdict, found.complete) == ("holds", True)

    def stuck(gfn, old_spte, new_spte, level):
        yield
        return -16 if gfn == 0x201 else None

    assert check(TWO_FAULTS, "v7.3", hooks=hooked(stuck)).checks == ["progress"]


def test_generators_of_executions_that_are_cut_are_closed():
    """A BUG() in one thread leaves the other's hook between its steps."""
    closed = []

    def hook(gfn, old_spte, new_spte, level):
        if a_leaf(new_spte, level):
            try:
                for i in range(3):
                    yield f"step {i}"
            except GeneratorExit:
                closed.append((gfn, i))
                raise

    shared = {"op": "map", "gfn": 0x200, "pfn": 0x140200, "private": 0, "map_writable": 0}
    bug = parse({"name": "bug", "setup": [MAP, shared], "thread": [
        *FAULTS[:1], {"ops": [{**shared, "pfn": 0x140300, "write": 1}]}]}, "here")
    found = check(bug, "v7.3", hooks=hooked(hook))
    assert "kernel" in found.checks and set(closed) == {(0x201, 0), (0x201, 1), (0x201, 2)}


@pytest.mark.parametrize("body, error, text", [
    ("yield\n raise ZeroDivisionError", ZeroDivisionError, None), ("yield 5", UsageError, "yielded 5"),
    ("yield b'x'", UsageError, "yielded b'x'"), ("yield\n return 7", UsageError, "returned 7"),
    ("yield\n return 'x'", UsageError, "returned 'x'"), ("raise ZeroDivisionError\n yield", ZeroDivisionError, None)])
def test_errors(body, error, text):
    space = {}
    exec(f"def hook(gfn, old_spte, new_spte, level):\n {body}", space)
    with pytest.raises(error, match=text):
        check(TWO_FAULTS, "v7.3", hooks=hooked(space["hook"]))
    only_later = {"set_external_spte": lambda gfn, *args: space["hook"](gfn, *args) if gfn == 0x201 else None}
    with pytest.raises(error, match=text):
        check(TWO_FAULTS, "v7.3", hooks=only_later)
    vm = Vm(hooks=hooked(space["hook"]))
    for _ in range(2):
        with pytest.raises(error, match=text):
            vm.map(1, 1)
    assert audit(vm) == []


def test_a_generator_that_will_not_be_closed():
    def hook(gfn, old_spte, new_spte, level):
        try:
            while gfn == 0x201:
                yield
        except GeneratorExit:
            yield

    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        check(TWO_FAULTS, "v7.3", hooks=hooked(hook), limits=Limits("random", max_executions=1))


def test_bad_resets():
    hooks = hooked(lambda *args: None)
    with pytest.raises(UsageError, match="not callable"):
        check(TWO_FAULTS, "v7.3", hooks=hooks, reset=5)
    with pytest.raises(TypeError):
        check(TWO_FAULTS, "v7.3", hooks=hooks, reset=lambda argument: None)


def test_an_error_ends_the_search():
    calls = []

    def hook(gfn, *args):
        yield
        if gfn == 0x201:
            calls.append(gfn)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        check(TWO_FAULTS, "v7.3", hooks=hooked(hook), limits=Limits("random", max_executions=1 << 40,
                                                                    max_transitions=1 << 60))
    assert calls


# ---- elsewhere --------------------------------------------------------------------------------------------------

def test_a_vm_runs_them_to_their_end():
    seen = []

    def hook(gfn, old_spte, new_spte, level):
        seen.append((gfn, level, "begun"))
        yield "half"
        seen.append((gfn, level, "done"))
        return -16 if gfn == 7 else None

    vm = Vm(hooks=hooked(hook), trace="all")
    assert vm.map(1, 1).ret is RetPf.RET_PF_FIXED and vm.map(7, 7).ret is RetPf.RET_PF_RETRY
    assert seen[-2:] == [(7, 1, "begun"), (7, 1, "done")] and len(seen) == 2 * 5
    steps = [r.fields for r in vm.records() if r.kind == "py_hook"]
    assert [(s["what"], s["label"], s["ret"]) for s in steps[-2:]] == [("yields", "half", 0), ("returns", "", -16)]
    assert {s["hook"] for s in steps} == {"set_external_spte"}
    assert vm.map_range(8, 8, 3) == {RetPf.RET_PF_FIXED: 3} and audit(vm) == []


def test_a_td_runs_them_to_their_end():
    vm = TdVmCore(get_design("v7.3"), SeamModule([MEMORY]), nvcpus=1)
    marked = Marked()
    install(vm, hooked(marked.steps))
    assert vm.run(MAP)["ret"] == RetPf.RET_PF_FIXED and marked.open == 0
    assert vm.kvm_state()["sept_pages"] >= 3


def test_threads_run_them_to_their_end():
    seen = set()

    def hook(gfn, old_spte, new_spte, level):
        yield
        seen.add((gfn, level))

    vm = Vm(hooks=hooked(hook), trace="off")
    run_threads(vm, [[{**MAP, "gfn": 512 * i + k, "retries": -1} for k in range(50)] for i in range(4)])
    assert {(512 * i + k, 1) for i in range(4) for k in range(50)} <= seen and audit(vm) == []


def test_one_that_waits_for_ever():
    def hook(gfn, *args):
        while gfn == 7:
            yield

    vm = Vm(hooks=hooked(hook))
    with pytest.raises(UsageError, match="for ever"):
        vm.map(7, 7)
    assert vm.map(8, 8).ret is RetPf.RET_PF_FIXED
