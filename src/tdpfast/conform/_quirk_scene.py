"""What the replayers of quirks share: a machine in a situation, calls on it, and what came out."""
from __future__ import annotations

from tdpfast.conform._seam_rig import AUX, LEAF, NULL_PA, TABLE, TDR, CannotSetUp, Places, Rig
from tdpfast.conform._seam_states import prepare

LP = 1
"""The logical processor on which VCPUs run."""
NO_L2 = dict(r9=NULL_PA, r10=NULL_PA, r11=NULL_PA)
HPA = 0x000F_FFFF_FFFF_F000
RWX = 7
TDEL, TDHP, TDB, TDP = 1 << 11, 1 << 52, 1 << 55, 1 << 56


def counter(entry: int) -> int:
    """Progress of an interrupted ACCEPT, in 4K pages."""
    return entry >> 12 & 0x1FF


class Scene:
    """One quirk's machine.

    Addresses, epochs and counts that the recorder chose are taken from the evidence, so that another recording of the
    same quirk runs in its own situation. What the module answers never is.
    """

    def __init__(self, rig: Rig, evidence: dict):
        self.rig = rig
        self.evidence = evidence

    # ---- what the evidence says about the situation

    def given(self, name: str, default: int) -> int:
        """A number of the evidence; "pamt.bepoch" is one in a PAMT entry. The default where it has none."""
        value = self.evidence
        for part in name.split("."):
            if not isinstance(value, dict):
                raise TypeError(f"{name} is a number")
            if part not in value:
                return default
            value = value[part]
        return as_number(value)

    # ---- the machine

    def start(self, level: int = 0, state: str = "FREE", variant=None, *, page: int | None = None,
              aux: int | None = None, table: int | None = None, tdr: int | None = None, gpa: int = 0, epoch: int = 1,
              **build) -> None:
        """The entry of a guest address in a state, as `prepare()` makes it.

        page: the guest page, or the entry that names it. aux: the free page. table: the S-EPT page of the entry.
        epoch: TD_EPOCH before anything was blocked.

        Raises:
            CannotSetUp: there are no entries or pages of that level, or a call that has to succeed did not.
        """
        if level > (build.get("levels", 4) - 1 if state == "FREE" else 3 if state.startswith("NL_") else 2):
            raise CannotSetUp(f"no {state} entry at level {level}")
        at = Places(tdr=tdr or TDR[0], gpa=gpa, table=_with(TABLE, level, table),
                    leaf=_with(LEAF, level, page and page & HPA & -(1 << 12 + 9 * level)),
                    aux=aux & HPA if aux else AUX)
        self.rig.build(lambda rig: prepare(rig, level, state, variant, epoch), (level, state, str(variant), epoch),
                       at=at, **build)
        self.level = level

    @property
    def at(self) -> Places:
        return self.rig.at

    def rcx(self, level: int | None = None, gpa: int | None = None) -> int:
        """The operand that names an entry; the one of start() unless told."""
        level = self.level if level is None else level
        return (self.at.gpa if gpa is None else gpa) & -(1 << 12 + 9 * level) | level

    def host(self, op: str, level: int | None = None, *, intr_after: int = -1, **registers) -> Answer:
        """A SEAMCALL on the entry and the TD, unless registers say otherwise."""
        registers = dict(rcx=self.rcx(level), rdx=self.at.tdr) | registers
        result, status, rax, out = self.rig.call(op, 0, intr_after, **registers)
        return Answer(result, status, rax, out, registers)

    def block(self) -> None:
        """RANGE.BLOCK of the entry."""
        self.rig.must("mem_range_block", rcx=self.rcx(), rdx=self.at.tdr)

    def track(self) -> None:
        self.rig.must("mem_track", rcx=self.at.tdr)

    def enter(self) -> None:
        self.rig.must("vp_enter", LP, rcx=self.rig.vcpu(0))

    def exit(self) -> None:
        self.rig.module.td_async_exit(LP)

    def accept(self, level: int | None = None, polls: int = -1, gpa: int | None = None) -> Answer:
        """The guest's ACCEPT; an interrupt comes after so many polls."""
        return Answer(*self.rig.call("accept", LP, polls, rcx=self.rcx(level, gpa)))

    def entry(self, level: int | None = None, child: int = 0) -> int:
        """An entry as it lies in memory: of start()'s level, or the child-th one below."""
        level = self.level if level is None else level
        gpa = self.at.entry_gpa(self.level) + (child << 12 + 9 * level)
        return self.rig.module.walk(self.at.tdr, gpa, level)[0]

    def change(self, clear: int, bits: int, level: int | None = None, child: int = 0) -> None:
        """Change bits of an entry behind the module's back."""
        level = self.level if level is None else level
        gpa = self.at.entry_gpa(self.level) + (child << 12 + 9 * level)
        self.rig.module.set_entry(self.at.tdr, gpa, level, self.entry(level, child) & ~clear | bits)

    def pamt(self, hpa: int, size: int = 0) -> dict:
        """A PAMT entry as the recordings write it."""
        pt, owner, bepoch, lock = self.rig.module.pamt(hpa, size)
        return dict(lock=lock, pt=pt, owner=owner, bepoch=bepoch)

    def set_pamt(self, hpa: int, size: int = 0, **fields) -> None:
        self.rig.module.set_pamt(hpa, size, **fields)

    def td(self) -> dict:
        return self.rig.module.td(self.at.tdr)

    def set_td(self, **fields) -> None:
        self.rig.module.set_td(self.at.tdr, **fields)

    def guest_page(self) -> int:
        return self.at.leaf[self.level]


class Answer:
    """What a call came to; registers it does not give back keep what went in."""

    def __init__(self, result: str, status: str, rax: int, out: dict, given: dict | None = None):
        self.result, self.status, self.rax = result, status, rax
        self.registers = (given or {}) | out

    def done(self) -> Answer:
        """The same, if the call succeeded; CannotSetUp otherwise."""
        if self.status != "TDX_SUCCESS":
            raise CannotSetUp(f"the call answered {self.status}")
        return self

    def show(self, *names: str) -> dict:
        """The outcome under the recordings' names: status, res, rax and registers."""
        values = dict(status=self.status, res=self.result, rax=self.rax) | self.registers
        return {name: values[name] for name in names}


def _with(usual: dict, level: int, value: int | None) -> dict:
    return usual | {level: value} if value else usual


def as_number(value) -> int:
    """A recorded number: hexadecimal or decimal text, or a JSON number; ValueError unless it has at most 64 bits."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError(f"{value!r} is no number")
    number = int(value, 0) if isinstance(value, str) else value
    if not -(1 << 63) <= number < 1 << 64:
        raise ValueError("a number of more than 64 bits")
    return number


def same(want, got) -> bool:
    """Whether a recorded value and a measured one are the same; numbers are compared as numbers."""
    if isinstance(want, dict):
        return isinstance(got, dict) and all(name in got and same(want[name], got[name]) for name in want)
    if isinstance(want, list):
        return isinstance(got, list) and len(want) == len(got) and all(map(same, want, got))
    if isinstance(got, int):
        return as_number(want) == got
    return want == got
