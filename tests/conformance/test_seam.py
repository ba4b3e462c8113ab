"""Every recorded answer of the TDX module."""
from pathlib import Path

import pytest

from tdpfast.conform import conform

DATA = Path(__file__).parent / "data" / "tdx-1.5"


@pytest.mark.parametrize("name, rows", [
    ("state_matrix", 10052), ("seq", 1500), ("seq_l2", 300), ("tlb_tracking", 585), ("op_state_matrix", 624),
    ("hpa_matrix", 489), ("contention", 845), ("check_order", 2412),
])
def test_every_row(name, rows):
    [report] = conform([DATA / f"{name}.jsonl.gz"])
    assert report.differences == []
    assert (report.kind, report.passed, report.failed, report.skipped) == ("seam", rows, 0, 0)


@pytest.mark.parametrize("name, passed, skipped", [
    ("guest", 380, 0), ("cache_wb", 149, 0), ("mng_init", 599, 0), ("life", 265, 59), ("migration", 1045, 0),
    ("seq_more", 417, 0), ("seq_large", 45, 0),
])
def test_lives(name, passed, skipped):
    """What is skipped reads or writes metadata fields that tdpfast does not have."""
    [report] = conform([DATA.parent / "tdx-1.5-life" / f"{name}.jsonl.gz"])
    assert report.differences == []
    assert (report.kind, report.passed, report.failed, report.skipped) == ("seam", passed, 0, skipped)
