"""Every recorded case of the TDP MMU."""
from pathlib import Path

import pytest

from tdpfast.conform import conform

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("file, cases", [
    ("kvm-7.3/mmu-mirror", 1234), ("kvm-7.3/mmu-direct", 1264),
    ("kvm-6.18/mmu-mirror", 1281), ("kvm-6.18/mmu-direct", 1264)])
def test_every_case(file, cases):
    [report] = conform([DATA / f"{file}.jsonl.gz"])
    assert report.differences == []
    assert (report.kind, report.passed, report.failed, report.skipped) == ("mmu", cases, 0, 0)


def test_the_other_design_does_not_pass():
    [report] = conform([DATA / "kvm-7.3" / "mmu-mirror.jsonl.gz"], "v6.18", max_diffs=1)
    assert report.failed > 1000
