"""Random bursts of operations on real threads, one after the other on the same VM: nothing may be wrong in between."""
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tdpfast import Vm
from tdpfast._face.external_model import ExternalModel
from tdpfast.threads import audit, run_threads

GFNS = 1024
PFN = 0x100000
gfns = st.integers(0, GFNS - 1)
spans = st.tuples(gfns, st.sampled_from([0, 1, 9, 512, GFNS])).map(
    lambda s: {"start": s[0], "end": min(GFNS, s[0] + s[1])})
flags = st.integers(0, 1)


def on_spans(name, **fields):
    """The operation on some range."""
    return st.builds(lambda span, more: {"op": name, **span, **more}, spans, st.fixed_dictionaries(fields))


def faults(private, levels):
    return st.builds(lambda gfn, level, write, exec: {
        "op": "map", "gfn": gfn, "pfn": PFN + gfn, "level": level, "write": write, "exec": exec, "private": private,
        "retries": -1}, gfns, st.sampled_from(levels), flags, flags)


def common(direct_filter):
    """What today's callers do on any VM. direct_filter: the attribute filter of ageing, which a mirror never sees."""
    return [on_spans("zap_leafs"), on_spans("unmap", filter=st.just(3), resched=flags),
            on_spans("age", filter=st.just(direct_filter)), on_spans("test_age", filter=st.just(direct_filter)),
            st.just({"op": "zap_all"}), st.just({"op": "reload"}), st.just({"op": "invalidate_roots", "types": 2}),
            on_spans("zap_invalidated_roots", shared=flags).map(lambda op: {"op": op["op"], "shared": op["shared"]})]


DIRECT = st.one_of(
    faults(0, [1, 1, 2]), faults(0, [1, 2]), *common(3), on_spans("wrprot_slot", resched=flags),
    on_spans("clear_dirty_slot"), on_spans("split", shared=flags), st.just({"op": "zap_nx"}),
    st.just({"op": "recover", "start": 0, "end": GFNS, "max_level": 2}),
    st.builds(lambda gfn, write, present: {"op": "fast_page_fault", "gfn": gfn, "write": write, "present": present},
              gfns, flags, flags))
TD = st.one_of(faults(1, [1]), faults(1, [1]), faults(0, [1, 2]), *common(1),
               gfns.map(lambda gfn: {"op": "mwalk", "gfn": gfn}))


class Machine(RuleBasedStateMachine):
    """A VM whose threads do what hypothesis drew, each list many times over."""

    design = "v7.3"
    tdx = True

    @initialize(mmu=st.sampled_from(["ept_ad", "ept_noad"]), nx=st.booleans(), fail=st.sampled_from([0, 3, 7]))
    def start(self, mmu, nx, fail):
        """fail: one hook call in so many says -EBUSY."""
        self.vm = Vm(self.design, tdx=self.tdx, mmu=mmu, nx_huge_pages=nx, trace="off", memory_pages=4096)
        self.model = ExternalModel(self.vm.core, 0, GFNS) if self.tdx else None
        if self.tdx:
            self.model.fail_one_in = fail

    @rule(data=st.data(), threads=st.integers(2, 4), seed=st.integers(0, 1 << 30))
    def burst(self, data, threads, seed):
        one = TD if self.tdx else DIRECT
        ops = [data.draw(st.lists(one, min_size=1, max_size=12)) for _ in range(threads)]
        result = run_threads(self.vm, ops, count=300, seconds=20, seed=seed)
        assert result.ended is None and [thread.ops for thread in result.threads] == [300] * threads
        self.nothing_is_wrong()

    def nothing_is_wrong(self):
        assert audit(self.vm) == []
        assert [a for vcpu in self.vm.vcpus for a in vcpu.asserts.values() if a.count] == []
        assert self.vm.stats["vm_bugged"] == 0
        if self.model is not None:
            assert self.model.faults() == {} and self.model.differences() == []

    def teardown(self):
        if hasattr(self, "vm"):
            stats = self.vm.destroy()
            assert stats["sp_live"] == stats["external_live"] == stats["pages_4k"] == stats["pages_2m"] == 0


def run(design, tdx, examples):
    machine = type("Machine", (Machine,), {"design": design, "tdx": tdx})
    run_state_machine_as_test(machine, settings=settings(
        max_examples=examples, stateful_step_count=6, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck)))


@pytest.mark.parametrize("tdx", [False, True])
@pytest.mark.parametrize("design", ["v7.3", "v6.18"])
def test_bursts(design, tdx):
    run(design, tdx, 15)


@pytest.mark.slow
@pytest.mark.parametrize("tdx", [False, True])
def test_many_bursts(tdx):
    run("v7.3", tdx, 300)
