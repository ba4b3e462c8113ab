"""An event is one row, and has one name wherever a trace shows it."""

import re
from pathlib import Path

import pytest

from tdpfast import TdVm, Vm
from tdpfast._names import EventKind
from tdpfast.catalogue import catalogue
from tdpfast.check import check, replay_token
from tdpfast.design import PRESETS
from tdpfast.events import EVENT_KINDS, EVENTS, FORMS
from tdpfast.token import Token
from tdpfast.trace import EVENT_FIELDS, fields_of, read_record, replay_trace, trace_event, trace_lines, trace_name

SOURCE = Path(__file__).parents[2] / "src" / "tdpfast"
KERNEL = {  # the formats of mmutrace.h, 7.3
    "kvm_tdp_mmu_spte_changed": r"as id \d+ gfn [0-9a-f]+ level \d old_spte [0-9a-f]+ new_spte [0-9a-f]+",
    "kvm_mmu_split_huge_page": r"gfn [0-9a-f]+ spte [0-9a-f]+ level \d errno -?\d+",
    "kvm_mmu_get_page": r"sp gen 0 gfn [0-9a-f]+ l\d 8-byte q0 direct r?wux nxe !?ad root 0 sync new",
    "kvm_mmu_prepare_zap_page": r"sp gen 0 gfn [0-9a-f]+ l\d 8-byte q0 direct r?wux nxe !?ad root 0 sync",
    "fast_page_fault": r"vcpu \d+ gva [0-9a-f]+ error_code [A-Z|-]* sptep 0{16} old 0(x[0-9a-f]+)? new [0-9a-f]+ "
                       r"spurious [01] fixed [01]",
}
LINE = re.compile(r"^ *(?:CPU \d+/KVM|rcu)-\d+ +\[\d{3}\] \.{5} +\d+\.\d{6}: (\w+):(?: (.+))?$")


def shown(lines):
    """(name, text) of the lines of a trace; each is a kernel line in its format or one of ours."""
    out = []
    for line in lines:
        name, text = LINE.match(line).groups()
        assert name.startswith("tdpfast_") or re.fullmatch(KERNEL[name], text), line
        out.append((name, text or ""))
    return out


def test_every_kind_has_its_row_and_happens_somewhere():
    assert set(EVENTS) == set(EVENT_KINDS) == set(EVENT_FIELDS)
    native = "".join(path.read_text() for path in SOURCE.rglob("*.pyx"))
    for kind in EventKind.__members__:
        assert re.search(rf"\b(trace\w*|e = trace_new)\([^)]*\b{kind}\b", native), f"nothing emits {kind}"


def test_rows_say_what_can_be_read():
    for row in EVENTS.values():
        fields = fields_of(row)
        assert all(field.form in FORMS or field.form in ("s0", "s1") for field in fields), row
        assert len([field for field in fields if field.form not in ("s0", "s1")]) <= 8
        assert row.trace == "" or row.trace in KERNEL or row.trace.startswith("tdpfast_")
    names = [row.trace for row in EVENTS.values() if row.trace]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_every_row_can_be_shown(kind):
    numbers = {"rcu_again": (1, 2, 4, 0, 0, 0, 0, 0), "get_page": (1, 0x200, 1, 15, 0, 0, 0, 0),
               "prepare_zap": (1, 0x200, 1, 15, 0, 0, 0, 0)}.get(kind, (0, 1, 1, 1, 4, 0, 0, 0))
    record = read_record(EVENT_KINDS.index(kind), 1, 7, numbers, "function", "id")
    assert list(record.fields) == [name for name in EVENT_FIELDS[kind] if name != "record"]
    assert str(record).split()[0] == kind
    if trace_name(record):
        shown(trace_lines([record]))


def churn(vm):
    """Events of many kinds, of a VM whose records are kept."""
    vm.map(0x600, 0x140600)
    vm.map(0x601, 0x140601)
    vm.zap_leafs(0x600, 0x601)


def test_the_same_event_has_the_same_name_everywhere():
    names = set()
    for vm in (Vm("v7.3", trace="all"), Vm("v6.18", trace="all"), Vm("single-hook", ungated=True, trace="all"),
               Vm("v7.3", tdx=False, mmu="ept_noad", trace="all"), TdVm("v7.3", trace="all")):
        churn(vm)
        vm.destroy()
        names |= {name for name, _ in shown(trace_lines(vm.records()))}
    scenario = next(s for s in catalogue("review") if s.name == "issue3-zap-of-table")
    for design in ("single-hook", "patch07", "v6.18"):
        token = Token.parse(check(scenario, design, gated=False).token)
        program = replay_token(token, [scenario], PRESETS.values())[2]
        text = replay_trace(program)
        replayed = {name for name, _ in shown(line for line in text.splitlines() if not line.startswith("#"))}
        assert "tdpfast_set_external_spte" in replayed or "tdpfast_assert" in replayed
        names |= replayed
    assert {"kvm_mmu_get_page", "kvm_mmu_prepare_zap_page", "kvm_tdp_mmu_spte_changed", "tdpfast_set_external_spte",
            "tdpfast_remove_external_spte", "tdpfast_free_external_spt", "tdpfast_link_external_spt",
            "tdpfast_seamcall", "tdpfast_request", "tdpfast_use_after_free", "tdpfast_rcu_free"} <= names
    assert names <= {row.trace for row in EVENTS.values()} | {row.other[1] for row in EVENTS.values()}


def test_a_table_without_dirty_bits_says_so():
    for mmu, word in (("ept_ad", " nxe ad "), ("ept_noad", " nxe !ad ")):
        vm = Vm("v7.3", tdx=False, mmu=mmu, trace="all")
        vm.map(0x600, 0x140600)
        pages = [trace_event(r) for r in vm.records() if r.kind == "get_page"]
        assert pages and all(word in text for text in pages)


def test_a_split_is_called_by_its_hook():
    numbers = (0x200, 2, 0, 0, 0, 0, 1, 0)
    record = read_record(int(EventKind.EV_SET_EXT), 0, 0, numbers, None, None)
    assert trace_event(record).startswith("tdpfast_split_external_spt: gfn 200 ")
