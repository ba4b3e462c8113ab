"""Recorded constants of the module against what calls answer: layouts of operands and answers, what is allowed when."""
from __future__ import annotations

import re
from typing import Any

from tdpfast import status as st
from tdpfast._face import seam_tables as native
from tdpfast.conform._constant_tables import (
    NOT_EMULATED,
    STATE_ENTRIES,
    Cases,
    facts_of,
    field,
    found,
    leaf_name,
    left_out,
    mask,
)
from tdpfast.conform._quirk_scene import LP, NO_L2, TDEL, TDHP, Scene, as_number
from tdpfast.conform._seam_rig import LEAF, NULL_PA, SOURCE, TDCX
from tdpfast.conform.result import Result, compare
from tdpfast.seam import FIELDS, LEAVES, TD_PARAMS_PA, tdmr_pamt_size

_ALL = 2**64 - 1
_INVALID = "TDX_OPERAND_INVALID"


def _bits(text: str) -> list[int]:
    high, low = field(text)
    return list(range(low, high + 1))


def module(section: dict, scene: Scene) -> Cases:
    """The version by TDH.SYS.RD; the rest says where the recorder got its values."""
    scene.start()
    read = [scene.rig.must("sys_rd", rdx=FIELDS[f"sys.{part}_version"])[3] for part in ("major", "minor", "update")]
    for name, text in section.items():
        if name == "version":
            yield name, compare(text, f"{read[0]}.{read[1]}.{read[2]:02}")
        else:
            yield name, left_out("where the recorder got its values")


# ---- operands

_RAX = {"leaf": (15, 0), "version": (23, 16), "reserved_must_be_0": (63, 24)}


def rax_layout(section: dict, scene: Scene) -> Cases:
    """A leaf without versions refuses any bit of them and any reserved bit, and there is no leaf beyond the last."""
    scene.start(0, "MAPPED")
    for name, text in section.items():
        if name == "leaf":
            got = {scene.rig.module.seamcall(1 << bit)[0] >> 32 for bit in _bits(text) if bit > 5}
        else:
            got = {scene.host("sept_rd", version=1 << bit - 16).rax >> 32 for bit in _bits(text)}
        yield name, compare(({0xC0000100}, field(text)), (got, _RAX[name]))


def gpa_operand(section: dict, scene: Scene) -> Cases:
    """Bit by bit in RCX of SEPT.RD, on a TD of five levels without tables: what is decoded at all gets further."""
    scene.start(4, levels=5)
    refused = _INVALID + ":RCX"
    got: Any
    for name, text in section.items():
        if name.startswith("reserved"):
            yield name, compare({refused}, {scene.host("sept_rd", rcx=1 << bit).status for bit in _bits(text)})
        elif name == "level":
            # One more than the field can hold is the next bit, which is reserved.
            got = [scene.host("sept_rd", rcx=level).status == refused for level in range((1 << len(_bits(text))) + 1)]
            yield name, compare([level > 4 for level in range(len(got) - 1)] + [True], got)
        elif name == "gpa":
            got = {scene.host("sept_rd", rcx=1 << bit).status == refused for bit in _bits(text) if bit < 47}
            yield name, compare(({False}, hex(mask(text))), (got, hex(native.ENTRY_BITS["HPA"])))
        elif name == "alignment":
            base, step = map(int, found(r"1<<\((\d+)\+(\d+)\*level\)", text).groups())
            got = [[scene.host("sept_rd", rcx=1 << base + step * level - less | level).status == refused
                    for less in (0, 1)] for level in range(1, 4)]
            yield name, compare([[False, True]] * 3, got)
        else:
            yield name, Result("skipped", f"unknown field {name!r} of RCX")


def tdr_operand(section: dict, scene: Scene) -> Cases:
    """Which bits beside the TDR's address a leaf refuses, and what bit 0 does."""
    refused = _INVALID + ":RDX"
    got: Any
    for name, text in section.items():
        if name == "plain":
            scene.start(0, "MAPPED")
            got = {scene.host("range_block", rdx=scene.at.tdr | 1 << bit).status for bit in range(12)}
            yield name, compare({refused}, got)
        elif name == "sept_rd":
            got = [_with_flag(scene, debug) for debug in (0, 1)]
            yield name, compare([refused, "TDX_SUCCESS"], got)
        elif name == "sept_add/demote":
            scene.start(1, "NL_MAPPED", ["empty", None])
            reserved = [bit for part in re.findall(r"(\d+:\d+) reserved", text) for bit in _bits(part)]
            got = {scene.host("sept_add", rdx=scene.at.tdr | 1 << bit, r8=scene.at.aux, **NO_L2).status
                   for bit in reserved}
            flag = scene.host("sept_add", rdx=scene.at.tdr | 1, r8=scene.at.aux, **NO_L2).status
            yield name, compare(({refused}, "TDX_SUCCESS"), (got, flag))
        else:
            yield name, Result("skipped", f"unknown form {name!r} of RDX")


def _with_flag(scene: Scene, debug: int) -> str:
    scene.start(0, "MAPPED", debug=debug)
    return scene.host("sept_rd", rdx=scene.at.tdr | 1).status


# ---- answers

def returned_entry(section: dict, scene: Scene) -> Cases:
    """RCX of SEPT.RD for entries with every bit set that says nothing about the state."""
    kinds: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for state, bits in STATE_ENTRIES.items():
        if state in ("FREE", "REMOVED"):
            continue
        leaf = not state.startswith("NL_")
        scene.start(0 if leaf else 1)
        entry = bits | _ALL & ~native.ENTRY_BITS["STATE"] & ~TDEL
        scene.rig.module.set_entry(scene.at.tdr, 0, scene.level, entry)
        kinds[leaf].append((entry, scene.host("sept_rd").registers["rcx"]))
    for name, text in section.items():
        if name == "FREE":
            scene.start(0)
            yield name, compare(as_number(text.split()[0]), scene.host("sept_rd").registers["rcx"])
            continue
        leaf = name.startswith("leaf")
        shown = as_number(text) if name.endswith("mask") else sum(
            mask(part) for part in re.findall(r"\((\d+(?::\d+)?)\)", text))
        yield name, compare([hex(entry & shown) for entry, _ in kinds[leaf]], [hex(rcx) for _, rcx in kinds[leaf]])


def returned_level(section: dict, scene: Scene) -> Cases:
    """RDX of SEPT.RD at each level, and of an L2 walk that fails."""
    seen = []
    for level, state in ((0, "MAPPED"), (1, "PENDING"), (2, "NL_MAPPED"), (3, "FREE")):
        scene.start(level, state, ["empty", None] if state == "NL_MAPPED" else None)
        seen.append((level, facts_of(state)["public"], scene.host("sept_rd").registers["rdx"]))
    scene.start(1, num_l2=1)
    failed = scene.host("sept_add", version=1, r8=scene.at.aux, **NO_L2 | dict(r9=scene.at.aux + 4096))
    for name, text in section.items():
        low = field(text)[1]
        if name == "vm":
            yield name, compare((1, "TDX_L2_SEPT_WALK_FAILED"), (
                (failed.registers["rdx"] & mask(text)) >> low, failed.status.split(":")[0]))
        else:
            got = [(rdx & mask(text)) >> low for _, _, rdx in seen]
            yield name, compare([level if name == "level" else public for level, public, _ in seen], got)


def init_values(section: dict, scene: Scene) -> Cases:
    """What SEPT.ADD fills a table and an L2 VM's table with."""
    scene.start(3, num_l2=1)
    scene.rig.must("mem_sept_add", rcx=scene.rcx(), rdx=scene.at.tdr, version=1, r8=scene.at.aux,
                   **NO_L2 | dict(r9=scene.at.aux + 4096))
    for name, text in section.items():
        page = scene.rig.module.read_page(scene.at.aux + (4096 if name.startswith("l2") else 0))
        yield name, compare({hex(as_number(text))}, {hex(int.from_bytes(page[i:i + 8], "little"))
                                                     for i in range(0, 4096, 8)})


def page_sizes(section: dict, scene: Scene) -> Cases:
    """R8 of RDMD for a page of each size."""
    for name, number in section.items():
        level = {"PT_4KB": 0, "PT_2MB": 1, "PT_1GB": 2}[name]
        scene.start(level, "MAPPED")
        yield name, compare(number, scene.host("rdmd", rcx=LEAF[level], rdx=0).registers["r8"])


def pamt_entry(section: dict, scene: Scene) -> Cases:
    """The module's 16 bytes, with one field after the other all ones."""
    scene.start()
    ones = dict(lock=0xFFFF, pt=0xFF, owner=native.ENTRY_BITS["HPA"], bepoch=_ALL)
    for name, text in section.items():
        if name == "size":
            read = scene.rig.must("sys_rd", rdx=FIELDS["sys.pamt_4k_entry_size"])[3]
            yield name, compare((text, text), (read, tdmr_pamt_size(0, 1 << 30)[0] >> 18))
            continue
        scene.set_pamt(scene.at.aux, **dict.fromkeys(ones, 0) | {name: ones[name]})
        low, high = scene.rig.module.pamt_words(scene.at.aux)
        yield name, compare(hex(mask(text)), hex(low | high << 64))


def eeq(section: dict, scene: Scene) -> Cases:
    """RDX of exits: ACCEPT of 2M inside a 1G page, ATTR.WR and an access where nobody may."""
    exits = {}
    scene.start(2, "PENDING")
    scene.enter()
    rdx = scene.accept(1).registers["rdx"]
    want = {"req_sept_level": 1, "err_sept_level": 2, "err_sept_state (public)": 2, "err_sept_is_leaf": 1,
            "vm_index": 0}
    exits["ACCEPT"] = rdx
    scene.start(0, "FREE")
    scene.enter()
    exits["ATTR_WR"] = scene.rig.call("attr_wr", LP, rcx=0)[3]["rdx"]
    scene.start(0, "PENDING")
    scene.set_td(td_ctls=1)
    scene.enter()
    exits["PENDING_EPT_VIOLATION"] = scene.rig.call("guest_access", LP, gpa=0)[3]["rdx"]
    for name, value in section.items():
        if isinstance(value, dict):
            for part, text in value.items():
                yield part, compare(want.get(part), (rdx & mask(text)) >> field(text)[1])
            continue
        for number, kind in re.findall(r"(\d+)=(\w+)", value):
            if kind not in exits:
                yield f"{name} {kind}", left_out("an exit that tdpfast has no call for")
                continue
            yield f"{name} {kind}", compare(int(number), (exits[kind] & mask(value)) >> field(value)[1])


# ---- locks

def locks(section: dict, scene: Scene) -> Cases:
    """What a lock word looks like to a call that wants the lock, and after one that did not get it."""
    for name, text in section.items():
        if name == "sept entry":
            lock_bit, priority_bit = (int(bit) for bit in re.findall(r"bit (\d+)", text)[:2])
            scene.start(0, "MAPPED")
            scene.change(0, 1 << lock_bit)
            status = scene.host("sept_rd").status
            yield name, compare((1 << lock_bit | 1 << priority_bit, "TDX_OPERAND_BUSY:RCX"),
                                (scene.entry() & (TDEL | TDHP), status))
            continue
        bits = {what: int(bit) for bit, what in re.findall(r"bit(\d+) (exclusive|host priority)", text)}
        reader = 1 << field(found(r"(15:\d+) readers", text)[1])[1]
        held = 1 << bits["exclusive"]
        priority = 1 << bits["host priority"] if "host priority" in bits else 0
        lock = "op_lock" if priority else "tree_lock"
        yield name, compare([(held | reader | priority, False), (reader, True), (0, True)],
                            [_after_reader(scene, lock, word) for word in (held, reader, priority)])


def _after_reader(scene: Scene, lock: str, word: int) -> tuple[int, bool]:
    """The word after a call that wants to share the lock, and whether it could."""
    scene.start(0, "MAPPED")
    scene.set_td(**{lock: word})
    ok = scene.host("sept_rd").status == "TDX_SUCCESS"
    return scene.td()[lock], ok


# ---- what is allowed in which OP_STATE

_CALLS = {
    "vp_enter": lambda scene: dict(rcx=scene.rig.vcpu(0)), "vp_flush": lambda scene: dict(rcx=scene.rig.vcpu(0)),
    "mng_addcx": lambda scene: dict(rcx=scene.at.aux, rdx=scene.at.tdr),
    "mng_init": lambda scene: dict(rcx=scene.at.tdr, rdx=TD_PARAMS_PA),
    "vp_addcx": lambda scene: dict(rcx=scene.at.aux, rdx=scene.rig.vcpu(0)),
    "vp_create": lambda scene: dict(rcx=scene.at.aux, rdx=scene.at.tdr),
    "vp_init": lambda scene: dict(rcx=scene.rig.vcpu(0)),
    "mng_rd": lambda scene: dict(rcx=scene.at.tdr, rdx=FIELDS["td.op_state"]),
    "mng_wr": lambda scene: dict(rcx=scene.at.tdr, rdx=FIELDS["td.notify_enables"]),
    "vp_rd": lambda scene: dict(rcx=scene.rig.vcpu(0), rdx=FIELDS["vp.index"]),
    "vp_wr": lambda scene: dict(rcx=scene.rig.vcpu(0), rdx=FIELDS["vp.pend_nmi"]),
    "mr_extend": lambda scene: dict(rcx=0, rdx=scene.at.tdr), "mr_finalize": lambda scene: dict(rcx=scene.at.tdr),
    "mem_track": lambda scene: dict(rcx=scene.at.tdr),
    "mem_page_add": lambda scene: dict(rcx=0, rdx=scene.at.tdr, r8=scene.at.aux, r9=SOURCE),
}
"""Leaf -> operands; leaves on an entry have the same ones."""


def op_state_allowed(section: dict, scene: Scene) -> Cases:
    """Each leaf in each OP_STATE: allowed is where the answer is something else than that it is not."""
    for leaf, states in section.items():
        name = leaf_name(leaf)
        if name not in LEAVES:
            yield leaf, left_out(NOT_EMULATED)
            continue
        got = [state for state, number in native.OP_STATES.items() if _allows(scene, name, number)]
        yield leaf, compare(sorted(states), sorted(got))


def _allows(scene: Scene, leaf: str, op_state: int) -> bool:
    scene.start(0)
    scene.set_td(op_state=op_state)
    registers = _CALLS.get(leaf, lambda scene: dict(rcx=0, rdx=scene.at.tdr, r8=scene.at.aux, r9=NULL_PA))(scene)
    rax = scene.rig.module.seamcall(LEAVES[leaf], LP, **registers)[0]
    return st.status_name(rax) != "TDX_OP_STATE_INCORRECT"


# ---- the recorder's machine

def memory_map(section: dict, scene: Scene) -> Cases:
    """Whether the machine that replays the recordings answers as one with this map."""
    scene.start()
    for name, value in section.items():
        check = _MAP.get(name)
        yield name, check(value, scene) if check else left_out("a fact of the recorder's harness")


def _range(text: str) -> tuple[int, int]:
    start, size, unit = found(r"^(0x[0-9a-f]+) size (\d+)([GM])B", text).groups()
    return int(start, 16), int(start, 16) + (int(size) << (30 if unit == "G" else 20))


def _page(scene: Scene, hpa: int) -> tuple[str, int]:
    """Status and type that RDMD gives of a page."""
    answer = scene.host("rdmd", rcx=hpa, rdx=0)
    return answer.status, answer.registers["rcx"]


_OUTSIDE = "TDX_OPERAND_ADDR_RANGE_ERROR:RCX"


def _tdmr0(text: str, scene: Scene) -> Result:
    start, end = _range(text)
    low, high = (int(part, 16) for part in found(r"(0x[0-9a-f]+)\.\.(0x[0-9a-f]+)", text).groups())
    reserved = [_page(scene, hpa)[1] == native.PAGE_TYPES["RSVD"] for hpa in (low - 4096, low, high - 4096, high)]
    got = [_page(scene, hpa)[0] for hpa in (start - 4096, start, end - 4096, end)]
    return compare(([_OUTSIDE, "TDX_SUCCESS", "TDX_SUCCESS", _OUTSIDE], [False, True, True, False]), (got, reserved))


def _tdmr1(text: str, scene: Scene) -> Result:
    return compare({_OUTSIDE}, {_page(scene, hpa)[0] for hpa in _range(text)})


def _pages(kind: str, step: int = 0):
    def check(value, scene: Scene) -> Result:
        pages = value if isinstance(value, list) else [found(r"^0x[0-9a-f]+", value)[0]]
        got = {_page(scene, as_number(page) + step) for page in pages}
        return compare({("TDX_SUCCESS", native.PAGE_TYPES[kind])}, got)
    return check


def _root(value: str, scene: Scene) -> Result:
    """TDCX pages lie one after the other, and SEPT.RD at the top level reads from the one that is the root."""
    page = as_number(found(r"^0x[0-9a-f]+", value)[0])
    root = page + int(found(r"root S-EPT = page (\d+)", value)[1]) * 4096
    scene.start(2, "FREE")
    entry = int.from_bytes(scene.rig.module.read_page(root)[:8], "little")
    return compare((TDCX, scene.entry(3)), (page, entry))


def _source(text: str, scene: Scene) -> Result:
    scene.start(0, op_state=1)
    start, end = _range(text)
    got = [scene.host("page_add", r8=scene.at.aux + i * 4096, r9=hpa).status
           for i, hpa in enumerate((start, end - 4096))]
    return compare(["TDX_SUCCESS", "TDX_EPT_ENTRY_STATE_INCORRECT:RCX"], got)


def _seamrr(text: str, scene: Scene) -> Result:
    scene.start(0, op_state=1)
    got = {scene.host("page_add", r8=scene.at.aux, r9=hpa).status.split(":")[0] for hpa in (
        _range(text)[0], _range(text)[1] - 4096)}
    return compare({_INVALID}, got)


def _reserved_bits(text, scene: Scene) -> Result:
    bits = _bits(text) if isinstance(text, str) else range(text, 64)
    return compare({_INVALID + ":RCX"}, {scene.host("rdmd", rcx=scene.at.aux | 1 << bit, rdx=0).status for bit in bits})


def _create(scene: Scene, hkid: int) -> str:
    """What a TD with that key would get."""
    return st.status_name(scene.rig.module.seamcall(LEAVES["mng_create"], rcx=scene.at.aux, rdx=hkid)[0])


def _hkids(value, scene: Scene) -> Result:
    """Assigned keys are those of the TDs."""
    keys = scene.rig.module.hkids()
    return compare(value, [hkid for hkid, state in enumerate(keys) if state == 1])


_MAP = {
    "TDMR0": _tdmr0, "TDMR1": _tdmr1, "uncovered": lambda text, scene: compare(
        True, _page(scene, 0x2000_0000)[0].split(":")[0] in text), "shared(source pages)": _source, "SEAMRR": _seamrr,
    "TDR": _pages("TDR"), "TDCX page i of TD0": _root, "TDVPR (vcpu v of TD0)": _pages("TDVPR"),
    "MAX_PA": _reserved_bits, "HKID bits": _reserved_bits, "TD hkids": _hkids,
    "private_hkid_min": lambda value, scene: compare(_INVALID + ":RDX", _create(scene, value - 1)),
    "global hkid": lambda value, scene: compare("TDX_HKID_NOT_FREE", _create(scene, value)),
}

ANSWERS = {
    "module": module, "rax_input_layout": rax_layout, "gpa_operand_rcx": gpa_operand, "tdr_operand_rdx": tdr_operand,
    "rcx_returned_entry": returned_entry, "rdx_returned_level_state": returned_level,
    "sept_entry_init_values": init_values, "page_sizes": page_sizes, "pamt_entry": pamt_entry,
    "guest_accept_eeq_rdx": eeq, "locks": locks, "op_state_allowed": op_state_allowed,
    "harness_memory_map": memory_map,
}
"""Section -> what compares it with what the module answers."""
