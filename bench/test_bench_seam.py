"""Cost of every leaf of the module: native loops of calls, beside one bare atomic add, which is what taking or giving
back one of the module's locks costs at least. Each benchmark is a life that ends where it began; parts are its
leaves."""
import time

import pytest

from tdpfast._testing import baselines as _baselines
from tdpfast._testing.seam_bench import run, run_guest
from tdpfast.seam import FIELDS, LEAVES, TD_PARAMS_PA, TdxModule, td_params
from tdpfast.status import ENTERED_TD

TABLES = 16
N = TABLES * 512
LARGE = 64                       # large pages, and tables added and removed
GIB = 1 << 30
SOURCE = 0x10_0000               # of PAGE.ADD: a page of the host's


def atomic_add():
    return "a bare atomic add", lambda: _baselines.atomic("fetch_add", 1 << 14) / (1 << 14)


def shown(leaf):
    """As the specification spells it: mem_page_aug -> PAGE.AUG."""
    return leaf.upper().replace("_", ".").removeprefix("MEM.").replace("TRACK", "MEM.TRACK")


class Machine:
    """A TD with tables for N small pages from GPA 0 and for LARGE large ones from 1 GiB."""

    def __init__(self):
        self.module = TdxModule()
        self.native = self.module.native
        self.td = self.module.build_td(vcpus=1)
        for gpa, level in ((0, 3), (0, 2), (GIB, 2), *((i << 21, 1) for i in range(TABLES))):
            assert self.module.mem_sept_add(self.td, gpa, level, self.module.new_page()).ok
        self.pages = self.module.new_page(2)
        self.others = self.module.new_page(2)

    def loop(self, parts, leaf, n=N, expect=0, **operands):
        ns, statuses = run(self.native, LEAVES[leaf], n, **operands)
        assert statuses == {expect: n}, (leaf, {hex(status): count for status, count in statuses.items()})
        parts.add(shown(leaf), ns / n)

    def small(self, parts, leaf, pages=None):
        """A leaf on the N small pages."""
        operands = {"rcx_step": 4096, "rdx": self.td.tdr}
        if pages is not None:
            operands.update(r8=pages, r8_step=4096)
        self.loop(parts, leaf, **operands)

    def large(self, parts, leaf, n=LARGE, **operands):
        """A leaf on the LARGE entries at level 1 (2M)."""
        self.loop(parts, leaf, n, rcx=GIB | 1, rcx_step=1 << 21, rdx=self.td.tdr, **operands)

    def track(self, parts, n=1000):
        self.loop(parts, "mem_track", n, rcx=self.td.tdr)

    def guest(self, parts, name, what, n=N, expect=0, **operands):
        ns, results = run_guest(self.native, what, n, 1, **operands)
        assert results == {expect: n}, (what, results)
        parts.add(name, ns / n)


@pytest.fixture(scope="module")
def machine():
    return Machine()


def lives(benchmark, parts, life, rounds=10):
    def one():
        parts.begin()
        life()

    benchmark.pedantic(one, rounds=rounds, warmup_rounds=1)
    parts.note()


def test_page(benchmark, machine, parts):
    """AUG, RD, BLOCK, UNBLOCK, RELOCATE, REMOVE of N pages, and what is asked of physical pages."""
    m, p = machine, parts(*atomic_add())

    def life():
        m.small(p, "mem_page_aug", m.pages)
        m.small(p, "mem_sept_rd")
        m.loop(p, "phymem_page_rdmd", rcx=m.pages, rcx_step=4096)
        m.small(p, "mem_range_block")
        m.track(p)
        m.small(p, "mem_range_unblock")
        m.small(p, "mem_range_block")
        m.track(p)
        m.small(p, "mem_page_relocate", m.others)
        m.small(p, "mem_range_block")
        m.track(p)
        m.small(p, "mem_page_remove")
        m.loop(p, "phymem_page_wbinvd", rcx=m.pages, rcx_step=4096)

    lives(benchmark, p, life)
    assert m.native.td(m.td.tdr)["chldcnt"] == 12 + TABLES + 3


def test_table(benchmark, machine, parts):
    """S-EPT pages: ADD, BLOCK, REMOVE. (BLOCK and TRACK are those of a page.)"""
    m, p = machine, parts(*atomic_add())

    def life():
        m.large(p, "mem_sept_add", r8=m.pages, r8_step=4096)
        m.large(p, "mem_range_block")
        m.track(p)
        m.large(p, "mem_sept_remove")

    lives(benchmark, p, life, 20)


def test_large_page(benchmark, machine, parts):
    """2M pages: AUG, ACCEPT, DEMOTE, PROMOTE, REMOVE."""
    m, p = machine, parts(*atomic_add())

    def life():
        m.large(p, "mem_page_aug", n=LARGE, r8=m.pages, r8_step=1 << 21)
        m.guest(p, "VP.ENTER, TD exit", "enter_exit", 1, ENTERED_TD, rcx=m.td.vcpus[0])
        assert m.module.vp_enter(m.td).ok
        m.guest(p, "ACCEPT 2M", "accept", LARGE, rcx=GIB | 1, rcx_step=1 << 21)
        m.module.td_exit()
        m.large(p, "mem_range_block")
        m.track(p)
        m.large(p, "mem_page_demote", r8=m.others, r8_step=4096, r9=2**64 - 1)
        m.large(p, "mem_range_block")
        m.track(p)
        m.large(p, "mem_page_promote")
        m.large(p, "mem_range_block")
        m.track(p)
        m.large(p, "mem_page_remove")

    lives(benchmark, p, life, 20)


def test_guest(benchmark, machine, parts):
    """What a vCPU does: entry and exit, ACCEPT of N pages, attributes, memory accesses."""
    m, p = machine, parts(*atomic_add())
    quiet = parts(*atomic_add())
    quiet.begin()

    def life():
        m.small(quiet, "mem_page_aug", m.pages)
        m.guest(p, "VP.ENTER, TD exit", "enter_exit", 2000, ENTERED_TD, rcx=m.td.vcpus[0])
        assert m.module.vp_enter(m.td).ok
        m.guest(p, "ACCEPT", "accept", rcx_step=4096)
        m.guest(p, "ATTR.RD", "attr_rd", rcx_step=4096)
        m.guest(p, "ATTR.WR", "attr_wr", rcx_step=4096)
        m.guest(p, "memory access", "access", rcx_step=4096)
        m.module.td_exit()
        m.small(quiet, "mem_range_block")
        m.track(quiet)
        m.small(quiet, "mem_page_remove")

    lives(benchmark, p, life)


class Life:
    """The leaves of a TD's life, once or a few times each; a figure includes the clock's two reads."""

    def __init__(self, parts):
        self.module = TdxModule()
        self.parts = parts
        self.first = {n: self.module.new_page() for n in ("tdr", "tdvpr")}
        self.module.native.write_memory(TD_PARAMS_PA, td_params(max_vcpus=1))
        self.control = [self.module.new_page() for _ in range(11)]
        self.tables = [self.module.new_page() for _ in range(3)]
        self.pages = self.module.new_page(1)

    def __call__(self, leaf, n=1, lp=0, **operands):
        ns, statuses = run(self.module.native, LEAVES[leaf], n, lp, **operands)
        assert statuses == {0: n}, (leaf, statuses)
        self.parts.add(shown(leaf), ns / n)

    def raw(self, leaf, lp=0, **registers):
        """For leaves with operands in r10 and r11."""
        start = time.perf_counter_ns()
        assert self.module.call(leaf, lp, **registers).ok
        self.parts.add(shown(leaf) + " from Python", time.perf_counter_ns() - start)

    def build(self):
        tdr, tdvpr = self.first.values()
        self("mng_create", rcx=tdr, rdx=self.module.free_hkid())
        self("mng_key_config", rcx=tdr)
        for page in self.control[:6]:
            self("mng_addcx", rcx=page, rdx=tdr)
        self.raw("mng_init", rcx=tdr, rdx=TD_PARAMS_PA)
        self("vp_create", rcx=tdvpr, rdx=tdr)
        for page in self.control[6:]:
            self("vp_addcx", rcx=page, rdx=tdvpr)
        self("vp_init", lp=1, rcx=tdvpr)
        for page, level in zip(self.tables, (3, 2, 1)):
            self("mem_sept_add", rcx=level, rdx=tdr, r8=page, r9=2**64 - 1)
        self("mem_page_add", 512, rcx_step=4096, rdx=tdr, r8=self.pages, r8_step=4096, r9=SOURCE)
        self("mr_extend", 512, rcx_step=4096, rdx=tdr)
        self("mr_finalize", rcx=tdr)

    def fields(self):
        tdr, tdvpr = self.first.values()
        self("mng_rd", 1000, rcx=tdr, rdx=FIELDS["td.chldcnt"])
        self("vp_rd", 1000, lp=1, rcx=tdvpr, rdx=FIELDS["vp.index"])
        self("sys_rd", 1000, rdx=FIELDS["sys.max_tdmrs"])

    def teardown(self):
        tdr, tdvpr = self.first.values()
        self("vp_flush", lp=1, rcx=tdvpr)
        self("mng_vpflushdone", rcx=tdr)
        self("phymem_cache_wb")
        self("mng_key_freeid", rcx=tdr)
        self("phymem_page_reclaim", 512, rcx=self.pages, rcx_step=4096)
        for page in (*self.tables, *self.control, tdvpr, tdr):
            self("phymem_page_reclaim", rcx=page)


def test_td(benchmark, parts):
    """From MNG.CREATE to the last RECLAIM, with 512 measured pages."""
    p = parts(*atomic_add())
    life = Life(p)

    def one():
        life.build()
        life.fields()
        life.teardown()

    lives(benchmark, p, one)
    assert {page["type"] for page in life.module.dump_pamt()} == {"NDA"}


def test_call_from_python(beside, machine):
    """SEPT.RD from Python, register by register, against the native loop."""
    native, tdr = machine.native, machine.td.tdr

    def loop():
        ns, _ = run(native, LEAVES["mem_sept_rd"], 2000, rcx_step=4096, rdx=tdr)
        return ns / 2000

    def calls():
        for _ in range(2000):
            native.seamcall(25, 0, 0, tdr)

    beside(calls, 2000, "the same in a native loop", loop)


def test_restore_after_one_aug(beside, machine):
    """Snapshot restore for an explorer: one AUG and back, against another call from Python."""
    native = machine.native
    tdr, page = machine.td.tdr, machine.pages
    native.snapshot()

    def plain():
        start = time.perf_counter_ns()
        for _ in range(500):
            native.seamcall(25, 0, 0, tdr)
        return (time.perf_counter_ns() - start) / 500

    def once():
        for _ in range(500):
            native.seamcall(6, 0, 0, tdr, page)
            native.restore()

    beside(once, 500, "one SEPT.RD from Python", plain)
    assert machine.module.dump_sept(machine.td)[-1]["state"] == "NL_MAPPED"
