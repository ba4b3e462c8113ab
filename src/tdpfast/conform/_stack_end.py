"""The end of a joined case: the state after the operations, the teardown, and what it leaves behind."""

from __future__ import annotations

from tdpfast._arguments import shared_gfn
from tdpfast.conform._stack_text import expand_sept, expand_sptes_dead
from tdpfast.conform.mmu import dump_sptes, first_difference
from tdpfast.conform.names import PageNames
from tdpfast.status import PAGE_TYPES, sept_state

STATS = ("pages_4k", "pages_2m", "pages_1g", "sp_linked", "sp_live", "vm_bugged", "nx_lpage_splits", "nx_possible",
         "mmio_created")
LIFECYCLE_TEARDOWN = 3
TDMR = range(0x100000000, 0x200000000)


class End:
    """Compares what the TD of one case ends in with its record."""

    def __init__(self, record: dict, vm, module, names: PageNames, pages: set[int]):
        self.record = record
        self.pages = pages
        self.vm = vm
        self.module = module
        self.names = names
        self.epoch = 0

    # ---- state

    def difference(self) -> str | None:
        """The first difference after the last operation; a case cut short by BUG or a livelock says less."""
        record = self.record
        if "roots" in record:
            text = self.compare_mmu()
            if text:
                return text
        text = first_difference("sept", expand_sept(record["sept"]), self.sept())
        if text:
            return text
        return (compare_fields("kvm", record["kvm"], self.vm.kvm_state()) or self.compare_pamt(record["pamt"])
                or compare_fields("tdx", record["tdx"], self.tdx()))

    def compare_mmu(self) -> str | None:
        record = self.record
        for what, recorded, got in (("roots", record["roots"], self.vm.roots()),
                                    ("sptes", expand_sptes_dead(record["sptes"]), dump_sptes(self.vm))):
            text = first_difference(what, recorded, got)
            if text:
                return text
        stats = self.vm.stats()
        return compare_fields("stats", record["stats"], {key: stats[key] for key in STATS})

    def sept(self) -> list:
        out = []
        for gpa, level, raw in self.module.sept(self.vm.tdr):
            state = sept_state(raw)
            text = self.names.name(raw) if state.startswith("NL_") else hex(raw)
            out.append([hex(gpa), level, text, state])
        return out

    def touched(self) -> list[int]:
        """The pages a record may speak of: those it names, and those given to the module."""
        pages = {self.names.address(entry[0]) for entry in self.record["pamt"]} | self.pages | {self.vm.tdr}
        return sorted(page for page in pages if page in TDMR)

    def compare_pamt(self, recorded: list) -> str | None:
        """Every recorded entry is there, and no other of the pages touched is other than zero."""
        want = {(self.names.address(page), size): [pt, "-" if owner in (0, "0x0") else owner, bepoch, lock]
                for page, size, pt, owner, bepoch, lock in recorded}
        zero = [0, "-", 0, 0]
        for page in self.touched():
            for size in range(3):
                key = (page & -(1 << (12 + 9 * size)), size)
                pt, owner, bepoch, lock = self.module.pamt(*key)
                got = [pt, self.names.name(owner) if owner else "-", bepoch, lock]
                if want.get(key, zero) != got:
                    return f"pamt {self.names.name(key[0])}/{size}: recorded {want.get(key, zero)}, got {got}"
        return None

    def tdx(self) -> dict:
        """The module's view of the TD."""
        td = self.module.td(self.vm.tdr)
        return {
            "td_epoch": td["td_epoch"], "refcount": [td["refcount0"], td["refcount1"]], "chldcnt": td["chldcnt"],
            "assoc_vcpus": td["assoc_vcpus"], "op_state": td["op_state"], "lifecycle": td["lifecycle"],
            "sept_lock": td["tree_lock"], "op_lock": td["op_lock"], "epoch_lock": td["epoch_lock"],
            "in_guest": self.vm.in_guest(), "kot": self.module.kot(td["hkid"]),
        }

    # ---- teardown

    def note_epoch(self) -> None:
        """Remembers the TD's epoch for the time when its TDR is gone."""
        if self.module.pamt(self.vm.tdr)[0]:
            self.epoch = self.module.td(self.vm.tdr)["td_epoch"]

    def teardown_ops(self, mode: str) -> list[dict]:
        """The operations of a teardown mode, in KVM's order."""
        release = [{"op": "release_hkid"}] if mode in ("normal", "no_zap") else []
        zap = [{"op": "unmap", "start": 0, "end": shared_gfn(self.record["cfg"].get("levels"))}]
        if "no_zap" in mode:
            zap = []
        return [*({"op": "td_exit", "vcpu": v} for v in self.vm.in_guest()), *zap, *release, {"op": "zap_all"},
                {"op": "vcpu_free", "vcpu": 0}, {"op": "put_roots"}, {"op": "vcpu_free", "vcpu": 1},
                {"op": "vcpu_free", "vcpu": 2}, {"op": "uninit"}, {"op": "vm_destroy"}]

    def compare_left(self, teardown: dict) -> str | None:
        """What the teardown leaked, and the TD as the module has it at the end."""
        leak = dict(teardown["leak"])
        pages = [tuple(entry) for entry in leak.pop("pamt_not_free")]
        text = compare_fields("leak", leak, {**self.vm.stats(), **self.vm.kvm_state()})
        if text:
            return text
        mine = self.not_free()
        if sorted(pages) != sorted(mine):
            return f"leak.pamt_not_free: recorded {sorted(pages)}, got {sorted(mine)}"
        return compare_fields("teardown.tdx", teardown["tdx"], self.tdx_gone())

    def not_free(self) -> list[tuple[str, str]]:
        """(page, type) of the TD's pages that the module still holds."""
        out = []
        for page in sorted({*self.touched(), *self.names.names}):
            pt = self.module.pamt(page, 0)[0]
            if pt:
                out.append((self.names.name(page), PAGE_TYPES[pt]))
        return out

    def tdx_gone(self) -> dict:
        """As tdx(), of a TD whose TDR may have gone back to the host: then it was torn down and owned nothing."""
        if self.module.pamt(self.vm.tdr)[0]:
            return self.module.td(self.vm.tdr)
        return {"lifecycle": LIFECYCLE_TEARDOWN, "chldcnt": 0, "td_epoch": self.epoch}


def compare_fields(what: str, recorded: dict, got: dict) -> str | None:
    """The first recorded field that differs."""
    for key, value in recorded.items():
        if key not in got or got[key] != value:
            return f"{what}.{key}: recorded {value}, got {got.get(key)}"
    return None
