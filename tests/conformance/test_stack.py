"""Every recorded case of KVM and the TDX module as one, as released and in every design."""
from pathlib import Path

import pytest

from tdpfast.conform import conform

DATA = Path(__file__).parent / "data"
VARIANTS = ("v7.3", "patch07", "single-hook", "single-hook-4k")


@pytest.mark.parametrize("name, cases", [
    ("stack-7.3-1.5/named", 76), ("stack-7.3-1.5/stack", 700),
    *((f"designs-7.3/{variant}-named", 105) for variant in VARIANTS),
    *((f"designs-7.3/{variant}-random", 266) for variant in VARIANTS),
    ("more-7.3/stack", 2), ("more-7.3/v7.3-named", 3), ("more-7.3/v7.3-random", 1), ("more-7.3/patch07-named", 2),
])
def test_every_case(name, cases):
    [report] = conform([DATA / f"{name}.jsonl.gz"])
    assert report.differences == []
    assert (report.kind, report.passed, report.failed, report.skipped) == ("stack", cases, 0, 0)


@pytest.mark.parametrize("design, failed", [("patch07", 60), ("single-hook", 60)])
def test_another_design_does_not_pass(design, failed):
    [report] = conform([DATA / "designs-7.3" / "v7.3-named.jsonl.gz"], design, max_diffs=3)
    assert report.passed + report.failed == 105 and report.failed > failed
    assert len(report.differences) == 3 and not report.ok
