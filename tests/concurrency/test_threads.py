"""Operations on several threads: real races, and what must hold when everybody is done."""
import random

import pytest

from tdpfast import Vm, get_design
from tdpfast._face.external_model import ExternalModel
from tdpfast.threads import audit, run_threads

GFNS = 2048
THREADS = 4
ACCESSED, DIRTY = 1 << 8, 1 << 9      # of EPT


def random_op(rng, private, huge):
    """One operation; ``private``: some go to the mirror; ``huge``: the mirror may hold huge pages.

    No write tracking: without write_protect_gfn() under the same lock a later fault rightly warns."""
    a = rng.randrange(GFNS)
    b = min(GFNS, a + rng.choice([1, 8, 512, GFNS]))
    mirror = private and rng.random() < 0.6
    span = {"start": a, "end": b}
    kinds = [
        (50, {"op": "map", "gfn": a, "pfn": 0x100000 + a, "level": rng.choice([1, 1, 2]) if huge or not mirror else 1,
              "write": rng.randrange(2), "exec": rng.randrange(2), "private": int(mirror), "retries": -1,
              "prefetch": int(rng.random() < 0.1)}),
        (8, {"op": "zap_leafs", **span}),
        (4, {"op": "unmap", **span, "filter": 3, "resched": rng.randrange(2)}),
        (6, {"op": "age", **span}),
        (6, {"op": "wrprot_slot", **span, "resched": rng.randrange(2)}),
        (4, {"op": "clear_dirty_slot", **span}),
        (2, {"op": "write_protect_gfn", "gfn": a}),
        (2, {"op": "invalidate_roots", "types": 2}),
        (2, {"op": "zap_invalidated_roots", "shared": rng.randrange(2)}),
        (1, {"op": "zap_all"}),
        (1, {"op": "zap_nx"}),
        (2, {"op": "reload"}),
        (2, {"op": "poke", "gfn": a, "set": 0x300}),
        (2, {"op": "get_walk", "gfn": a}),
        (2, {"op": "mwalk" if private else "fast_pf_last", "gfn": a}),
        (4, {"op": "fast_page_fault", "gfn": a, "write": rng.randrange(2), "present": rng.randrange(2)}),
    ]
    if huge or not private:
        kinds += [(6, {"op": "split", **span, "shared": rng.randrange(2)}),
                  (6, {"op": "recover", "start": 0, "end": GFNS, "max_level": 2})]
    return rng.choices([op for _, op in kinds], [weight for weight, _ in kinds])[0]


def stress(vm, seed, *, private, huge, count=3000):
    rng = random.Random(seed)
    ops = [[random_op(rng, private, huge) for _ in range(300)] for _ in range(THREADS)]
    if vm.design.bug_new_present and private:
        # There, a present mirror SPTE that becomes another one under the write lock is a KVM_BUG_ON().
        ops = [[op for op in some if op["op"] != "write_protect_gfn"] for some in ops]
    return run_threads(vm, ops, count=count, seconds=20, seed=seed)


def asserts(vm):
    return {(kind, a.function, a.id) for vcpu in vm.vcpus for kind, a in vcpu.asserts.items() if a.count}


@pytest.mark.parametrize("nx", [False, True])
@pytest.mark.parametrize("mmu", ["ept_ad", "ept_noad"])
@pytest.mark.parametrize("design", ["v7.3", "v6.18"])
def test_direct_roots(design, mmu, nx):
    vm = Vm(design, tdx=False, mmu=mmu, nx_huge_pages=nx, trace="off", memory_pages=4096)
    result = stress(vm, 11, private=False, huge=True)
    assert result.ended is None and result.ops > THREADS
    assert audit(vm) == [] and asserts(vm) == set()
    stats = vm.destroy()
    assert all(stats[name] == 0 for name in ("sp_live", "sp_linked", "pages_4k", "pages_2m", "nx_possible"))


@pytest.mark.parametrize("design, huge, fail", [
    ("v7.3", False, 0), ("v7.3", False, 7), ("patch07", False, 0), ("single-hook", True, 0),
    ("single-hook", True, 7), ("single-hook-4k", False, 3)])
def test_mirror_and_direct_roots(design, huge, fail):
    vm = Vm(design, ungated=True, trace="off", memory_pages=4096)
    model = ExternalModel(vm.core, 0, GFNS)
    model.fail_one_in = fail
    result = stress(vm, 12, private=True, huge=huge)
    assert result.ended is None and (model.failed > 0) == (fail > 0)
    assert audit(vm) == [] and model.faults() == {} and model.differences() == []
    assert asserts(vm) == set() and vm.stats["vm_bugged"] == 0
    stats = vm.destroy()
    assert stats["sp_live"] == stats["external_live"] == stats["pages_4k"] == 0


@pytest.mark.parametrize("mmu", ["ept_ad", "ept_noad"])
@pytest.mark.parametrize("design", ["v7.3", "v6.18"])
def test_fast_page_faults_against_write_protection(design, mmu):
    vm = Vm(design, tdx=False, mmu=mmu, trace="off")
    pages = 32
    vm.map_range(0, 0x1000, pages)
    mapped = {gfn: vm.get_walk(gfn).sptes[1] for gfn in range(pages)}
    faults = [{"op": "fast_page_fault", "gfn": gfn, "write": 1, "present": p} for gfn in range(pages) for p in (0, 1)]
    protect = [{"op": "wrprot_slot", "start": gfn, "end": gfn + 4} for gfn in range(pages)]
    clear = [{"op": "clear_dirty_slot", "start": 0, "end": pages}, {"op": "age", "start": 0, "end": pages},
             {"op": "clear_dirty_pt_masked", "gfn": 0, "mask": 0xffff, "wrprot": 1},
             {"op": "poke", "gfn": 3, "set": DIRTY}]
    result = run_threads(vm, [faults, faults, protect, clear], count=4000, seconds=20, seed=5)
    assert result.ended is None and audit(vm) == [] and asserts(vm) == set()
    assert vm.stats["pages_4k"] == pages
    # Whatever happened, nothing was lost that the fast path cannot give back.
    vm.wrprot_slot(0, pages)
    for gfn, spte in mapped.items():
        assert vm.fast_page_fault(gfn).name == "RET_PF_FIXED"
        now = vm.get_walk(gfn).sptes[1]
        assert (now ^ spte) & ~(ACCESSED | DIRTY) == 0


def test_traces_are_per_thread():
    vm = Vm(tdx=False)
    maps = [[{"op": "map", "gfn": 512 * i + k, "pfn": k, "retries": -1} for k in range(100)] for i in range(THREADS)]
    run_threads(vm, maps)
    for i, vcpu in enumerate(vm.vcpus):
        leaves = [r for r in vcpu.records() if r.kind == "chg" and r.fields["level"] == 1]
        assert [r.fields["gfn"] for r in leaves] == [512 * i + k for k in range(100)]
        assert {r.cpu for r in leaves} == {i}


def test_in_order_and_counted():
    vm = Vm(tdx=False, trace="off")
    result = run_threads(vm, [[{"op": "map", "gfn": 1, "pfn": 1}, {"op": "zap_leafs", "start": 0, "end": 9}]], count=7)
    assert result.threads[0].by_op == {"map": 4, "zap_leafs": 3} and vm.stats["pages_4k"] == 1
    assert vm.map(2, 2).ret.name == "RET_PF_FIXED"      # vCPU 0 has its roots back


def test_a_bug_ends_everybody():
    vm = Vm(tdx=False, trace="off")
    spin = [{"op": "map", "gfn": 5, "pfn": 5, "write": 1}]
    # The first of the two must not lose its fault to a race for the table above.
    bug = [*spin, {"op": "map", "gfn": 1, "pfn": 1, "map_writable": 0, "retries": -1},
           {"op": "map", "gfn": 1, "pfn": 2, "map_writable": 0, "write": 1}]
    result = run_threads(vm, [spin, bug, spin], seconds=30)
    assert result.ended == "BUG" and result.threads[1].ended == "BUG"
    with pytest.raises(RuntimeError, match="leaf_pfn_changed"):
        vm.map(0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("knob", ["no_freeze", "no_rollback"])
def test_broken_designs_are_seen(knob):
    faults = [{"op": "map", "gfn": gfn, "pfn": gfn, "write": 1, "private": 1} for gfn in range(4)]
    faults.append({"op": "zap_leafs", "start": 0, "end": 4})
    protect = [{"op": "wrprot_slot", "start": gfn, "end": gfn + 1} for gfn in range(4)]

    def seen(seed):
        vm = Vm(get_design("v7.3").replace(**{knob: True}), ungated=True, trace="off", memory_pages=4096)
        model = ExternalModel(vm.core, 0, GFNS)
        model.fail_one_in = 7 if knob == "no_rollback" else 0
        result = run_threads(vm, [faults, faults, protect, protect], seconds=3, seed=seed)
        return bool(result.ended or model.faults() or model.differences() or audit(vm))

    assert any(seen(seed) for seed in range(8))
