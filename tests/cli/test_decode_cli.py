"""tdpfast decode spte."""
import json

import pytest

LEAF = """\
      SPTE          PHYSICAL     FLAGS
80a0000100600f77      100600000  (LEAF|READ|WRITE|EXEC|USER_EXEC|ACCESSED|DIRTY|IPAT|HOST_WRITABLE|MMU_WRITABLE|SUPPRESS_VE|WB)

  spte                 0x80a0000100600f77
  layout               7.3
  mmu                  ept_ad
  level                1
  size                 4K
  kind                 leaf
  physical             0x100600000
  pfn                  0x100600
  read                 yes
  write                yes
  exec                 yes
  user_exec            yes
  user                 no
  accessed             yes
  dirty                yes
  ipat                 yes
  large                no
  host_writable        yes
  mmu_writable         yes
  suppress_ve          yes
  memtype              WB
  ad_type              enabled
  saved                0x0
  access_tracked       no
  needs_atomic_update  no
  reserved_bits_set    no
  other                0x0
"""

FROZEN = """\
      SPTE          PHYSICAL     FLAGS
80000000000005a0              -  (FROZEN)

  spte    0x80000000000005a0
  layout  6.18
  mmu     ept_ad
  level   2
  size    2M
  kind    frozen
  other   0x0
"""


def test_leaf(tdpfast):
    assert tdpfast("decode", "spte", "0x80a0000100600f77", "--level", 1) == (0, LEAF, "")


def test_frozen(tdpfast):
    assert tdpfast("decode", "spte", "0x80000000000005a0", "--level", 2, "--layout", "6.18") == (
        0, FROZEN, "")


@pytest.mark.parametrize("value, options, kind", [
    ("0x8000000000000000", [], "none"), ("0", [], "non-present"), ("0", ["--mmio-value", "0"], "mmio"),
    ("0x8000000000000d07", ["--level", "2"], "table"), ("0x8000000000000d87", ["--level", "2"], "leaf"),
    ("0x6d000000000c63c6", [], "mmio"), ("0x8000000000000821", ["--mmu", "npt"], "leaf"),
    ("9223372036854776224", [], "frozen")])
def test_kinds(tdpfast, value, options, kind):
    code, out, _ = tdpfast("decode", "spte", value, "--json", *(options or []),
                           *([] if "--level" in options else ["--level", "1"]))
    assert code == 0 and json.loads(out)["kind"] == kind


def test_mmio_fields(tdpfast):
    _, out, _ = tdpfast("decode", "spte", "0x6d000000000c63c6", "--level", 1, "--json")
    fields = json.loads(out)
    assert (fields["gfn"], fields["generation"], fields["other"]) == ("0xc6", 223352, "0x0")


@pytest.mark.parametrize("argv", [
    ["xyz", "--level", "1"], ["-1", "--level", "1"], ["0x10000000000000000", "--level", "1"],
    ["0x1", "--level", "6"], ["0x1"], ["--level", "1"], ["0x1", "--level", "1", "--layout", "9"],
    ["0x1", "--level", "1", "--mmu", "pae"], ["0x1", "--level", "1", "--mmio-value", "?"],
    ["9" * 5000, "--level", "1"]])
def test_bad_input(tdpfast, argv):
    code, out, err = tdpfast("decode", "spte", *argv)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and "; try " in err


def test_subcommand_is_needed(tdpfast):
    assert tdpfast("decode")[0] == 2 and tdpfast("decode", "pte")[0] == 2
