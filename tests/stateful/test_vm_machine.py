"""Random operations on a VM, one at a time, against models of what the tables must say."""
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tdpfast import RetPf, Vm
from tdpfast._face.external_model import ExternalModel
from tdpfast.threads import audit

GFNS = 1536
PFN = 0x100000
gfns = st.integers(0, GFNS - 1)
spans = st.tuples(gfns, st.sampled_from([1, 7, 512, GFNS])).map(lambda s: (s[0], min(GFNS, s[0] + s[1])))


class Machine(RuleBasedStateMachine):
    """A VM, the set of gfns that must be mapped in each root, and the external table's model."""

    design = "v7.3"
    tdx = True
    huge = False        # the mirror may hold huge pages

    @initialize(mmu=st.sampled_from(["ept_ad", "ept_noad"]), nx=st.booleans())
    def start(self, mmu, nx):
        self.vm = Vm(self.design, tdx=self.tdx, ungated=True, mmu=mmu, nx_huge_pages=nx, memory_pages=512)
        self.external = ExternalModel(self.vm.core, 0, GFNS) if self.tdx else None
        self.mapped = {False: set(), True: set()}
        self.failed = 0

    @rule(gfn=gfns, level=st.sampled_from([1, 1, 2]), write=st.booleans(), exec=st.booleans(), private=st.booleans(),
          prefetch=st.booleans())
    def fault(self, gfn, level, write, exec, private, prefetch):
        private = private and self.tdx
        if private and not self.huge:
            level = 1
        got = self.vm.map(gfn, PFN + gfn, level, write=write, exec=exec, private=private, prefetch=prefetch)
        if got.ret in (RetPf.RET_PF_FIXED, RetPf.RET_PF_SPURIOUS):
            size = 1 << 9 * (got.level - 1)
            base = gfn - gfn % size
            self.mapped[private].update(range(base, base + size))
        else:
            assert got.ret is RetPf.RET_PF_RETRY and self.external.failed > self.failed
            self.failed = self.external.failed

    @rule(gfn=gfns, n=st.integers(1, 900), private=st.booleans())
    def fault_range(self, gfn, n, private):
        private = private and self.tdx
        n = min(n, GFNS - gfn)
        before = self.external.failed if self.tdx else 0
        counts = self.vm.map_range(gfn, PFN + gfn, n, private=private)
        assert sum(counts.values()) == n
        if self.tdx and self.external.failed > before:
            self.failed = self.external.failed
            sptes, levels = self.vm.walk_many(range(gfn, gfn + n), private=private)
            present = self.vm.spte.is_shadow_present_pte(sptes) & self.vm.spte.is_last_spte(sptes, levels)
            self.mapped[private].update(g for g, there in zip(range(gfn, gfn + n), present.tolist()) if there)
        else:
            self.mapped[private].update(range(gfn, gfn + n))

    def unmapped(self, start, end, privates):
        """A zap takes whole huge pages: what is gone is read back, and must cover the range."""
        for private in privates:
            sptes, levels = self.vm.walk_many(range(GFNS), private=private)
            present = self.vm.spte.is_shadow_present_pte(sptes) & self.vm.spte.is_last_spte(sptes, levels)
            now = {g for g, there in enumerate(present.tolist()) if there}
            assert not now & set(range(start, end)) and now <= self.mapped[private]
            assert all(g // 512 in (start // 512, (end - 1) // 512) for g in self.mapped[private] - now
                       if not start <= g < end)
            self.mapped[private] = now

    @rule(span=spans)
    def zap_leafs(self, span):
        self.vm.zap_leafs(*span)
        self.unmapped(*span, (False, True) if self.tdx else (False,))

    @rule(span=spans, private=st.booleans(), resched=st.integers(0, 2))
    def unmap(self, span, private, resched):
        private = private and self.tdx
        self.vm.run({"op": "unmap", "start": span[0], "end": span[1], "filter": 2 if private else 1,
                     "resched": resched})
        self.unmapped(*span, (private,))

    @rule()
    def zap_all(self):
        self.vm.zap_all()
        self.mapped[False].clear()

    @rule(shared=st.booleans())
    def fast_zap(self, shared):
        self.vm.invalidate_roots(mirror=False)
        self.vm.reload()
        self.vm.zap_invalidated_roots(shared=shared)
        self.mapped[False].clear()

    @rule(span=spans)
    def wrprot(self, span):
        self.vm.wrprot_slot(*span)
        assert not self.vm.wrprot_slot(*span)

    @rule(span=spans)
    def clear_dirty(self, span):
        self.vm.clear_dirty_slot(*span)

    @rule(span=spans)
    def age(self, span):
        self.vm.age(*span)
        assert not self.vm.test_age(*span)

    @rule(span=spans, shared=st.booleans())
    def split(self, span, shared):
        self.vm.split(*span, shared=shared)

    @rule()
    def recover(self):
        if self.huge or not self.tdx:
            self.vm.recover(0, GFNS)
            for private in (False, True) if self.tdx else (False,):
                sptes, levels = self.vm.walk_many(range(GFNS), private=private)
                self.mapped[private] |= {g for g, level in enumerate(levels.tolist()) if level == 2
                                         and self.vm.spte.is_large_pte(int(sptes[g]))}

    @rule()
    def recover_nx(self):
        # Takes a table with all its pages; faults bring them back.
        zapped = self.vm.zap_possible_nx_huge_page()
        if zapped is not None and zapped.zapped:
            for private in (False, True) if self.tdx else (False,):
                sptes, levels = self.vm.walk_many(range(GFNS), private=private)
                there = self.vm.spte.is_shadow_present_pte(sptes) & self.vm.spte.is_last_spte(sptes, levels)
                self.mapped[private] &= {g for g, yes in enumerate(there.tolist()) if yes}

    @rule(every=st.sampled_from([0, 2, 5]))
    def fail(self, every):
        if self.tdx:
            self.external.fail_one_in = every

    @invariant()
    def tables_say_what_was_asked(self):
        for private in (False, True) if self.tdx else (False,):
            sptes, levels = self.vm.walk_many(range(GFNS), private=private)
            leaf = self.vm.spte.is_shadow_present_pte(sptes) & self.vm.spte.is_last_spte(sptes, levels)
            assert {g for g, yes in enumerate(leaf.tolist()) if yes} == self.mapped[private]
            for g in list(self.mapped[private])[:3]:
                assert self.vm.walk(g, private=private).pfn == PFN + g

    @invariant()
    def nothing_is_wrong(self):
        assert audit(self.vm) == []
        assert all(a.count == 0 for a in self.vm.vcpus[0].asserts.values())
        if self.tdx:
            assert self.external.faults() == {} and self.external.differences() == []

    def teardown(self):
        if hasattr(self, "vm"):
            stats = self.vm.destroy()
            assert stats["sp_live"] == stats["external_live"] == stats["pages_4k"] == stats["pages_2m"] == 0


MACHINES = {
    "direct-7.3": ("v7.3", False, True), "direct-6.18": ("v6.18", False, True), "td-7.3": ("v7.3", True, False),
    "td-patch07": ("patch07", True, False), "td-single-hook": ("single-hook", True, True),
    "td-single-hook-4k": ("single-hook-4k", True, False)}


@pytest.mark.parametrize("name", MACHINES)
def test_machine(name):
    design, tdx, huge = MACHINES[name]
    machine = type("Machine", (Machine,), {"design": design, "tdx": tdx, "huge": huge})
    from hypothesis.stateful import run_state_machine_as_test
    run_state_machine_as_test(machine, settings=settings(
        max_examples=12, stateful_step_count=25, deadline=None, derandomize=True,
        suppress_health_check=list(HealthCheck)))
