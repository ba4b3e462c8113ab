"""Every recorded fact about SPTEs."""
from pathlib import Path

import pytest

from tdpfast.conform import conform

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("release, facts", [("kvm-7.3", 8225), ("kvm-6.18", 10846)])
def test_every_fact(release, facts):
    [report] = conform([DATA / release / "spte.jsonl.gz"])
    assert report.differences == []
    assert (report.kind, report.passed, report.failed, report.skipped) == ("spte", facts, 0, 0)
    assert report.ok


def test_the_other_layout_does_not_pass():
    [report] = conform([DATA / "kvm-7.3" / "spte.jsonl.gz"], "v6.18", max_diffs=3)
    assert report.passed + report.failed == 8225 and report.failed > 1000
    assert len(report.differences) == 3 and not report.ok
