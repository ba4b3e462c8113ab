"""What several unit tests need: a TD on a module of its own."""

import pytest

from tdpfast._face.seam_module import SeamModule
from tdpfast._face.td import TdVmCore
from tdpfast.design import get_design
from tdpfast.events import ASSERT_KINDS, EVENT_KINDS, LEAF_NAMES
from tdpfast.status import sept_state, status_name


class Td:
    """A TD of a design; run() answers with the result, and keeps what happened: calls, fired, hooks."""

    def __init__(self, design, *, ungated=False, module=None, **cfg):
        self.module = module or SeamModule([(0x100000000, 0x200000000)])
        self.vm = TdVmCore(get_design(design).replace(ungated=ungated), self.module, **cfg)
        self.vm.set_tracing(True)

    def run(self, op, **fields):
        result = self.vm.run({"op": op, **fields})
        self.calls = [(LEAF_NAMES[leaf], status_name(status)) for leaf, _, _, status, _, _ in self.vm.seamcalls()]
        events = self.vm.events()
        self.fired = [f"{ASSERT_KINDS[a[0]]} {s0}/{s1}" for kind, _, _, a, s0, s1 in events
                      if EVENT_KINDS[kind] == "assert"]
        self.hooks = [(a[0], a[1], a[4] - (1 << 64) if a[4] >> 63 else a[4]) for kind, _, _, a, _, _ in events
                      if EVENT_KINDS[kind] == "set_ext"]
        return result

    @property
    def leaves(self):
        """Names of the last operation's SEAMCALLs."""
        return [name for name, _ in self.calls]

    def sept(self, gfn, level=1):
        """State of the S-EPT entry of gfn at a mapping level, and the level the walk reached."""
        raw, reached = self.module.walk(self.vm.tdr, gfn << 12, level - 1)
        return sept_state(raw), reached + 1

    def mirror(self, gfn):
        """The lowest mirror level of gfn that is present: (level, is it a leaf)."""
        sptes = self.vm.run({"op": "mwalk", "gfn": gfn})["sptes"]
        level = min(sptes)
        return level, bool(sptes[level] >> 11 & 1) and (level == 1 or bool(sptes[level] >> 7 & 1))


@pytest.fixture
def td():
    """The class Td."""
    return Td
