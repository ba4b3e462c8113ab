"""What notebooks show: tables and text that HTML takes as they stand."""

from xml.etree import ElementTree

from tdpfast import Vm
from tdpfast.catalogue import catalogue
from tdpfast.check import check
from tdpfast.report import counterexample, holding


def test_walk():
    vm = Vm("v7.3")
    vm.run({"op": "map", "gfn": 0x600, "pfn": 0x100600, "private": 1})
    table = ElementTree.fromstring(vm.walk(0x600)._repr_html_())
    assert [row[0].text for row in table.iter("tr")] == ["level", "512G", "1G", "2M", "4K"]
    assert table.find("caption").text.endswith("refs 2): pfn 100600")
    assert "not mapped (none)" in vm.walk(0x601)._repr_html_()


def test_verdict():
    scenario = next(s for s in catalogue("review") if s.name == "issue2-page-reuse")
    for design in ("patch07", "v7.3"):
        verdict = check(scenario, design, gated=design == "v7.3")
        told = counterexample if verdict.checks else holding
        assert ElementTree.fromstring(verdict._repr_html_()).text == told(verdict)
