"""Inputs that native code must not see as they are: odd buffers, tables in a circle, numbers beyond all bounds."""

import numpy as np
import pytest

from tdpfast import TdVm, UsageError, Vm
from tdpfast._face.spte_format import SpteFormat
from tdpfast.catalogue import catalogue
from tdpfast.check import Limits, check
from tdpfast.seam import TdxModule
from tdpfast.spte import SpteCells
from tdpfast.threads import audit
from tdpfast.vmfile import parse_vm_file

ODD = [
    np.zeros(2, [("a", "<u8"), ("b", "u1")]), np.zeros(2, [("a", "<u8")]), np.zeros(2, "V8"), np.zeros(2, "S8"),
    np.zeros(2, "U2"), np.zeros(2, "c16"), np.zeros(2, "f8"), np.zeros(2, "M8[s]"), np.zeros(2, object),
    np.zeros(2, ">u8"), np.zeros(2, [("a", "<u8", (2,))]), np.zeros((1, 2), np.uint64), np.zeros(4, np.uint64)[::2],
    np.array(7, np.uint64), b"12345678", bytearray(8), None, 3, "text", [1, 2]]


class Index:
    """An integer by __index__ alone."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


@pytest.mark.parametrize("array", ODD, ids=lambda a: str(getattr(a, "dtype", type(a).__name__)))
def test_buffers_of_any_kind(array):
    """Cython's reader of buffer formats does not survive records: all are looked at before."""
    vm, form = Vm(), SpteFormat(703, 0, 46, False, 52, True)
    core = vm.vcpus[0]._core
    words, octets = np.zeros(2, np.uint64), np.zeros(2, np.uint8)
    for call in (lambda: SpteCells(array), lambda: form.map_array(0, array, words),
                 lambda: form.map_array(0, words, array), lambda: form.flush_array(words, array, octets),
                 lambda: form.pred_array(0, array, octets, 0, octets),
                 lambda: form.unpack_array(array, octets, 0, octets),
                 lambda: form.pack_array(octets, 0, array), lambda: core.walk_many(False, array, words, octets),
                 lambda: core.walk_many(False, words, array, octets)):
        with pytest.raises(UsageError):
            call()


@pytest.mark.parametrize("array", [a for a in ODD if isinstance(a, np.ndarray) and a.dtype != object
                                   and a.dtype.kind != "u"], ids=lambda a: str(a.dtype))
def test_public_arrays_of_any_kind(array):
    vm = Vm()
    for call in (lambda: vm.walk_many(array), lambda: vm.spte.is_shadow_present_pte(array),
                 lambda: vm.spte.unpack(array, 1), lambda: vm.spte.is_last_spte(np.zeros(2, np.uint64), array)):
        with pytest.raises(UsageError):
            call()


@pytest.mark.parametrize("value", [0x10000000807, 0x10000001807, 0x1000000f807], ids=["itself", "child", "no table"])
def test_audit_of_tables_in_a_circle(value):
    vm = Vm()
    vm.map(5, 5)
    assert audit(vm) == []
    vm.writable_arena()[vm.roots[0].index, 1] = value
    assert any("points to no table" in text or "hangs at" in text for text in audit(vm))


def test_audit_of_a_table_that_hangs_everywhere():
    """Each table is visited once: else 512 ** 3 of them."""
    vm = Vm()
    vm.map(5, 5)
    arena = vm.writable_arena()
    for index in range(len(arena)):
        sp = vm.sp(index)
        if sp is not None and sp.level > 1 and sp.is_mirror:
            arena[index] = arena[index, 0]
    assert any("hangs at" in text for text in audit(vm))


@pytest.mark.parametrize("call", [
    lambda m: m.give_lps(0, 1 << 40), lambda m: m.give_lps(-1, 1), lambda m: m.give_lps(1.5, 2),
    lambda m: m.take_lps(1 << 40, 32), lambda m: m.take_lps(1, 1 << 40), lambda m: m.take_lps("x", 5),
    lambda m: m.call("mem_track", rcx=1.5), lambda m: m.new_range(1 << 60)])
def test_numbers_of_a_module(call):
    module = TdxModule()
    with pytest.raises(UsageError):
        call(module)


def test_integers_of_any_kind():
    vm, module = Vm(), TdxModule()
    vm.map(5, 5)
    for gfn in (np.uint8(5), np.int8(5), np.uint16(5), np.uint64(5), np.int64(5), Index(5)):
        assert vm.walk(gfn).pfn == 5
    assert len(str(vm.walk(np.uint8(240)))) > 0
    assert module.call("mem_track", rcx=Index(1)).rax == module.call("mem_track", rcx=1).rax
    assert module.new_range(Index(4096)) % 4096 == 0
    module.build_td(levels=Index(4))
    with pytest.raises(UsageError):
        vm.spte.is_last_spte(range(1 << 62), 1)


def test_scripted_hooks_of_a_td():
    td = TdVm()
    assert td.map(5, 0x140005, hook=[-16]).pfn == 0x140005
    with td.modifiers(resched=1):
        assert td.map(6, 0x140006).tries == 1


def test_a_vm_file_without_a_module():
    content = parse_vm_file("[vm]\nmodule = 0\n[[ops]]\nop = 'map'\ngfn = 5\npfn = 5\n", "here")
    vm = content.make_vm()
    assert isinstance(vm, Vm) and not isinstance(vm, TdVm)
    assert "module" not in content.script()


def test_all_executions_are_as_many_as_the_limit_allows():
    scenario = next(s for s in catalogue("paths") if s.name == "two-faults-same-gfn")
    shown = check(scenario, "v7.3", limits=Limits(max_transitions=3000), show_all=1 << 40)
    assert shown.verdict != "violated" and 1 <= len(shown.examples) < 3000
