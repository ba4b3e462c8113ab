"""The TDX module survives registers, pages and prepared states that nobody means."""
import random
from contextlib import suppress

import pytest

from tdpfast import UsageError
from tdpfast._face.seam_module import SeamModule
from tdpfast.seam import LEAVES, Td, TdxModule, tdmr_pamt_size

GIB = 1 << 30
MEMORY = [(0x100000000, 0x200000000)]
LEAF_NAMES = ("mem_sept_add", "mem_sept_rd", "mem_page_aug", "mem_page_remove", "mem_range_block",
              "mem_range_unblock", "mem_page_demote", "mem_page_promote", "mem_sept_remove", "mem_page_relocate",
              "mr_extend", "mem_page_add")
ALL = (1 << 64) - 1


@pytest.fixture
def module():
    return TdxModule()


@pytest.mark.parametrize("arguments", [
    {"tdmrs": None}, {"tdmrs": []}, {"tdmrs": [5]}, {"tdmrs": [(1, 2, 3)]}, {"tdmrs": [("a", "b")]},
    {"tdmrs": [(-GIB, GIB)]}, {"tdmrs": [(0, 1 << 47)]}, {"tdmrs": [(0, GIB)] * 2}, {"reserved": 5},
    {"reserved": [(0, ALL)], "auto": "no"}, {"dynamic_pamt": "no"}, {"logical_processors": 0},
    {"logical_processors": 65}, {"logical_processors": "x"}])
def test_constructor(arguments):
    with pytest.raises(UsageError, match="; try "):
        TdxModule(**arguments)


@pytest.mark.parametrize("call", [
    lambda m, td: m.mem_page_aug(5, 0, 0, 0), lambda m, td: m.mem_page_aug(td, -1, 0, 0),
    lambda m, td: m.mem_page_aug(td, 0, 9, 0), lambda m, td: m.mem_page_aug(td, 0, 0.5, 0),
    lambda m, td: m.vp_enter(td, 9), lambda m, td: m.vp_enter(Td(td.tdr)), lambda m, td: m.accept(0, lp=64),
    lambda m, td: m.accept(0, vcpu=-1), lambda m, td: m.mem_track(5), lambda m, td: m.call("fly"),
    lambda m, td: m.call([]), lambda m, td: m.call("mem_track", rcx=1.5), lambda m, td: m.call("mem_track", rbx=1),
    lambda m, td: m.call("mem_track", version=-1), lambda m, td: m.call("mem_track", intr_after=-2),
    lambda m, td: m.call("mem_track", "x"), lambda m, td: m.new_page(3), lambda m, td: m.build_td(-1),
    lambda m, td: m.build_td(99), lambda m, td: m.dump_sept(td, 4), lambda m, td: m.dump_sept(td, 1),
    lambda m, td: m.dump_pamt(7), lambda m, td: m.dump_pamt(-1), lambda m, td: m.inject("fly"),
    lambda m, td: m.inject(lock=[]), lambda m, td: m.inject(skip=-1), lambda m, td: m.inject(count=-2),
    lambda m, td: m.inject(status=1 << 64), lambda m, td: m.sys_config([5]), lambda m, td: m.sys_config(hkid=-1),
    lambda m, td: m.td_field(td, []), lambda m, td: m.td_field(td, "td.hkid", -1), lambda m, td: m.teardown_td(5),
    lambda m, td: m.mem_page_add(td, 0, 0, content="text"), lambda m, td: tdmr_pamt_size("a", 1),
    lambda m, td: tdmr_pamt_size(0, GIB, dynamic_pamt="x")])
def test_arguments(module, call):
    td = module.build_td()
    with pytest.raises(UsageError, match="; try "):
        call(module, td)
    module.inject_clear()
    assert module.mem_track(td).ok


@pytest.mark.parametrize("call", [
    lambda s, td: s.walk(td.tdr, 0, -1), lambda s, td: s.walk(td.tdr, 0, 5), lambda s, td: s.walk(td.tdr, 0, 0, 1),
    lambda s, td: s.walk(td.tdr, 0, 0, -1), lambda s, td: s.walk(td.tdr, 0, 0, 1 << 30),
    lambda s, td: s.sept(td.tdr, 4), lambda s, td: s.set_entry(td.tdr, 0, -3, 5),
    lambda s, td: s.set_entry(td.tdr, 0, 3, 5, 3), lambda s, td: s.pamt_used(-1), lambda s, td: s.pamt_used(6),
    lambda s, td: s.tdcall("fly"), lambda s, td: s.set_td(td.tdr, hkid=64), lambda s, td: s.set_td(td.tdr, op_state=11),
    lambda s, td: s.set_td(td.tdr, num_tdcx=10), lambda s, td: s.set_td(td.tdr, lifecycle=4),
    lambda s, td: s.write_page(td.tdr, bytes(4096)), lambda s, td: s.kot(-1), lambda s, td: s.guest_access(64, 0),
    lambda s, td: s.pamt(ALL), lambda s, td: s.td(ALL), lambda s, td: s.vp(td.tdr)])
def test_behind_the_back(module, call):
    td = module.build_td()
    with pytest.raises(UsageError):
        call(module.native, td)
    assert module.mem_track(td).ok


def test_a_td_without_a_root_stays_uninitialised(module):
    tdr = module.new_page()
    assert module.call("mng_create", rcx=tdr, rdx=40).ok
    with pytest.raises(UsageError, match="op_state"):
        module.native.set_td(tdr, op_state=2)


def test_reserved_areas_without_end():
    module = SeamModule(MEMORY, [(0x1FFFFF000, ALL)])
    assert module.pamt(0x1FFFFF000)[0] == 1 and module.pamt(0x1FFFFE000)[0] == 0
    module.reset([(1, 0x100001001)])
    assert [module.pamt(0x100000000 + page * 4096)[0] for page in range(3)] == [1, 1, 0]


def test_tdmr_info_that_lies():
    """More areas than its length says, and a call in the middle of the call."""
    module = SeamModule([], bare=True)

    class Liar(list):
        def __len__(self):
            return 3

    areas = [(0, 0)] * 3
    for pamt, reserved in ((Liar([(1, 1)] * 1000), []), (areas, Liar([(1, 1)] * 1000))):
        with pytest.raises(UsageError, match="PAMT areas"):
            module.write_tdmr_info([(0, GIB, pamt, reserved)])

    class Number:
        def __int__(self):
            module.write_tdmr_info([(0, GIB, areas, [])])
            return 1

    module.write_tdmr_info([(0, GIB, [(Number(), Number())] * 3, [(Number(), 1)] * 16)] * 8)


def hammer(module, td, gpa, draw):
    """Every leaf on an entry, and what the guest does."""
    for leaf in LEAF_NAMES:
        module.call(leaf, rcx=gpa | draw.randrange(6), rdx=td.tdr, r8=MEMORY[0][0] + (draw.getrandbits(20) << 12),
                    r9=ALL, r10=ALL, r11=ALL)
    module.mem_track(td)
    module.vp_enter(td)
    module.accept(gpa, draw.randrange(3))
    module.guest_access(gpa)
    module.td_exit()


def test_entries_that_name_no_memory(module):
    draw = random.Random(1)
    td = module.build_td()
    for level in (3, 2, 1):
        module.mem_sept_add(td, 0, level, module.new_page())
    for _ in range(400):
        raw = draw.choice([draw.getrandbits(64), 0x7, 0x87, 7 | draw.getrandbits(34) << 12, 0x8100_0000_0000_00F7 |
                           draw.getrandbits(34) << 12, 7 | MEMORY[0][0] + (draw.getrandbits(20) << 12)])
        with suppress(UsageError):      # the walk may end above
            module.native.set_entry(td.tdr, draw.choice([0, 1 << 39]), draw.randrange(4), raw)
        hammer(module, td, draw.choice([0, 1 << 39, draw.getrandbits(35) << 12]), draw)
        try:
            module.dump_sept(td)
        except UsageError:
            break                   # the TDR is no more


def test_states_that_cannot_be(module):
    """Fields and page metadata written at random, then every leaf."""
    draw = random.Random(2)
    values = (0, 1, 2, 5, 6, 7, 8, 63, 64, 100, 60000, 1 << 31, 1 << 63, ALL)
    fields = ("fatal", "op_lock", "tree_lock", "epoch_lock", "td_epoch", "refcount0", "chldcnt", "max_vcpus",
              "num_vcpus", "assoc_vcpus", "num_tdcx", "op_state", "hkid", "lifecycle")
    for _ in range(6):
        module = TdxModule()
        td = module.build_td(2)
        native = module.native
        pages = [td.tdr, *td.vcpus, module.new_page(), module.new_page()]
        for _ in range(60):
            for write, *arguments, values_of in (
                    (native.set_td, td.tdr, {draw.choice(fields): draw.choice(values)}),
                    (native.set_vp, td.vcpus[0], {"state": draw.choice(values), "lp": draw.choice(values)}),
                    (native.set_pamt, draw.choice(pages), {"pt": draw.randrange(16)}),
                    (native.set_pamt, draw.choice(pages), {"owner": draw.choice([*pages, 0, ALL])})):
                with suppress(UsageError):      # a value that the state cannot have
                    write(*arguments, **values_of)
            for leaf in LEAVES:
                module.call(leaf, draw.choice([0, 1, 2, 63]), rcx=draw.choice(pages), rdx=draw.choice(pages),
                            r8=draw.choice(pages), r9=ALL, r10=ALL, r11=ALL)
            for page in pages:
                for look in (native.td, native.vp, native.sept):
                    with suppress(UsageError):      # no longer one
                        look(page)


def test_pages_keep_to_their_owner(module):
    """A TDVPR that is said to be a TDR has the slot of no TD."""
    td = module.build_td()
    module.native.set_pamt(td.vcpus[0], pt=4)
    assert module.call("mem_track", rcx=td.vcpus[0]).status == "TDX_TD_KEYS_NOT_CONFIGURED"
    with pytest.raises(UsageError, match="no TD"):
        module.native.td(td.vcpus[0])
