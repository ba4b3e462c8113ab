"""Records of the native core as the joined recordings write them."""

from __future__ import annotations

from tdpfast._face.seam_tables import leaf_row
from tdpfast.conform._stack_text import fold_reclaimed
from tdpfast.conform.names import PAGE, PageNames
from tdpfast.events import EVENT_KINDS, LEAF_NAMES, mmu_event, signed, visible
from tdpfast.status import status_name

ROWS = {name: leaf_row(number) or {} for number, name in LEAF_NAMES.items()}
REGISTERS = ("rcx", "rdx", "r8", "r9")


class Translator:
    """Turns the records of one TD into events; names S-EPT pages in the order in which they are first used."""

    def __init__(self, vm, names: PageNames, variant: bool, freed_with_result: bool):
        self.vm = vm
        self.names = names
        self.variant = variant
        self.freed_with_result = freed_with_result
        self.pages: set[int] = set()

    def translate(self, records: list, op: dict) -> tuple[list, list]:
        """Events in the files' form, and the parts a composed operation was made of."""
        calls = self.vm.seamcalls()
        events: list = []
        parts = []
        for record in records:
            kind = EVENT_KINDS[record[0]]
            if kind == "op_end":
                parts.append((record[3][0], record[3], events))
                events = []
                continue
            event = self.event(kind, record, calls, op)
            if event is not None:
                events.append(event)
        return fold_reclaimed(events), [(w, v, fold_reclaimed(e)) for w, v, e in parts]

    def event(self, kind: str, record: tuple, calls: list, op: dict) -> list | None:
        a = record[3]
        if kind == "seam":
            return self.seam(calls[a[1]], op)
        if kind == "set_ext":
            out = ["set_ext", a[0], a[1], visible(a[2], a[1]), visible(a[3], a[1]), signed(a[4])]
            return [*out, "injected"] if a[5] else out
        if kind == "free_ext":
            out = ["free_ext", a[0], a[1], self.names.name(a[2]) if a[2] else "PA(NULL)"]
            out += [signed(a[3])] if self.freed_with_result else []
            return [*out, "injected"] if a[5] else out
        if kind == "remove_ext":
            return ["rm_ext", a[0], a[1], visible(a[2], a[1])]
        if kind == "req":
            return ["req", "VM_DEAD" if a[0] else "OUTSIDE_GUEST_MODE"]
        if kind in ("kick", "td_exit"):
            return [kind, a[0], f"TDEXIT:reason={a[1] & 0xFFFFFFFF}"]
        if kind in ("wait_for_sept_zap", "keyid_free"):
            return [kind, a[0]]
        if kind == "seamcall_failed":
            return [kind, LEAF_NAMES[a[0]], hex(a[1])]
        if kind in ("reset_paddr", "free_page"):
            return [kind, self.names.name(a[0])]
        if kind == "LIVELOCK":
            return ["LIVELOCK", "frozen child"] if a[0] and self.variant else ["LIVELOCK"]
        if kind == "rcu_free":
            if not self.variant:
                return None
            return ["rcu_free", a[0], a[1], "direct"] if a[2] else ["rcu_free", a[0], a[1]]
        if kind == "uaf":
            return ["uaf", ("read", "write", "cmpxchg", "sp")[a[0]], a[1], a[2], a[3]]
        if kind == "rcu_again":
            return ["rcu_again", a[0], a[1], "freed" if a[2] == 5 else "queued"]
        return mmu_event(record, 703)

    def seam(self, call: tuple, op: dict) -> list:
        """One SEAMCALL: leaf, operands, status, changed registers, and who held what."""
        leaf, lp, inject, status, before, after = call
        name = LEAF_NAMES[leaf]
        if ROWS[name]["takes_page"]:
            self.pages.add(before[2] & PAGE)
        count = max(ROWS[name]["operands"], 1)
        operands = [self.operand(name, i, before[i]) for i in range(count)]
        changed = {reg: self.names.name(y) for reg, x, y in zip(REGISTERS, before, after) if x != y}
        if name.startswith("MEM.") and name != "MEM.TRACK":
            changed = {"rcx": self.names.name(after[0]), "rdx": hex(after[1]), **{
                k: v for k, v in changed.items() if k not in ("rcx", "rdx")}}
            changed = {k: v for k, v in changed.items()
                       if before[REGISTERS.index(k)] != after[REGISTERS.index(k)]}
        text = status_name(status)
        rax = status
        if name == "VP.ENTER" and text == "ENTERED_TD":
            rax = 0
        elif name == "VP.ENTER" and status & 0xFFFFFFFF00000000 == 0 and status:
            text = f"TDEXIT:reason={status & 0xFFFF}"
        out = ["seam", name, operands, text, hex(rax), changed]
        if lp:
            out.append({"lp": lp})
        if inject:
            j = op["inject"][inject - 1]
            out.append({"held": f"{j['lock']}:{j.get('mode', 'ex')}"})
        return out

    def operand(self, name: str, index: int, value: int) -> str:
        if index == 2 and name in ("MEM.SEPT.ADD", "MEM.PAGE.DEMOTE"):
            return self.names.first_use(value)
        return self.names.name(value)
