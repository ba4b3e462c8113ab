"""KVM's TDX side and the module on native threads: faults, zaps and guests of one TD at the same time."""
import threading

import pytest

from tdpfast._face.batch import VcpuCore
from tdpfast._face.seam_module import SeamModule
from tdpfast._face.td import TdVmCore
from tdpfast._face.threads import ThreadEngine
from tdpfast.design import get_design

MEMORY = (0x100000000, 0x140000000)
PFN = 0x110000
GFNS = 64
PRESENT = 1 << 11


class Td:
    """A TD with one emulated CPU per thread."""

    def __init__(self, design, threads):
        self.core = TdVmCore(get_design(design), SeamModule([MEMORY]), nvcpus=threads, memory_pages=4096)
        self.vcpus = [VcpuCore(self.core, i > 0) for i in range(threads)]

    def run(self, ops, count, seed=1):
        """Operations drawn at random from one list per thread; ends with the results of ThreadEngine.finish()."""
        engine = ThreadEngine(self.vcpus)
        for i, some in enumerate(ops):
            engine.set_ops(i, some, count, 60.0, seed * 2 + 2 * i + 1)
        threads = [threading.Thread(target=engine.run_thread, args=(i,)) for i in range(1, engine.n)]
        engine.start()
        try:
            for thread in threads:
                thread.start()
            engine.run_thread(0)
        finally:
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        return engine.finish()

    def leaves(self):
        """gfn -> pfn of the mirror's leaves; a frozen SPTE fails the test."""
        out = {}
        for _root, level, gfn, value, table in self.core.sptes():
            assert table or value & PRESENT, f"SPTE {value:#x} of gfn {gfn:x} at level {level}"
            if not table:
                out[gfn] = (value & 0xFFFFFFFFFF000) >> 12
        return out

    def pages(self):
        """gfn -> pfn of what the S-EPT maps, in whatever state."""
        return {gpa >> 12: (raw & 0xFFFFFFFFFF000) >> 12
                for gpa, level, raw in self.core.module.sept(self.core.tdr, 0) if level == 0}


def fault(gfn):
    return {"op": "map", "gfn": gfn, "pfn": PFN + gfn, "write": 1, "private": 1, "retries": -1}


def zap(gfn, n=1):
    return {"op": "zap_leafs", "start": gfn, "end": gfn + n}


def sound(td, result):
    assert [(abort, done > 0) for done, _seconds, _kinds, abort in result] == [(0, True)] * len(result)
    assert all(vcpu.checks == 0 and all(n == 0 for n, _, _ in vcpu.asserts()) for vcpu in td.vcpus)
    state = td.core.kvm_state()
    assert (state["vm_bugged"], state["vm_dead"], state["wait_for_sept_zap"]) == (0, 0, 0)
    assert td.leaves() == td.pages() == {gfn: PFN + gfn for gfn in td.leaves()}
    assert td.core.stats()["pages_4k"] == len(td.leaves())


@pytest.mark.parametrize("design", ["v7.3", "v6.19", "patch07", "single-hook-4k"])
def test_faults_and_zaps(design):
    td = Td(design, 3)
    faults = [fault(gfn) for gfn in range(GFNS)]
    zaps = [zap(gfn, 1 + gfn % 4) for gfn in range(GFNS - 4)]
    sound(td, td.run([faults, faults + [{"op": "mwalk", "gfn": gfn} for gfn in range(8)], zaps + faults], 1500))


def test_tables_from_several_threads():
    td = Td("v7.3", 2)
    ops = [[fault(gfn << 9) for gfn in range(32)], [fault(gfn << 9) for gfn in range(31, -1, -1)]]
    sound(td, td.run(ops, 200))
    assert td.core.kvm_state()["sept_pages"] == td.core.stats()["sp_linked"]


def test_guests_run_meanwhile():
    td = Td("v7.3", 3)

    def guest(v):
        ops = [{"op": "vp_enter", "vcpu": v}, {"op": "td_exit", "vcpu": v}]
        return ops + [{"op": "touch", "vcpu": v, "gfn": gfn, "pfn": PFN + gfn, "retries": -1} for gfn in range(16)] + [
            {"op": "accept", "vcpu": v, "gpa": gfn << 12} for gfn in range(16)]

    sound(td, td.run([[zap(gfn) for gfn in range(16)], guest(1), guest(2)], 600))


def test_injections_of_two_threads():
    td = Td("v7.3", 2)
    busy = {"leaf": "MEM.PAGE.AUG", "lock": "sept_tree", "mode": "ex", "count": 2}
    ops = [[fault(gfn) | {"inject": [busy]} for gfn in range(first, first + 16)] + [zap(first, 16)]
           for first in (0, 16)]
    sound(td, td.run(ops, 400))
