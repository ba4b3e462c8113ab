"""tdpfast decode."""
import json

import pytest

from tdpfast.token import Token

LEAF = """\
      SPTE          PHYSICAL     FLAGS
80a0000100600f77      100600000  (LEAF|READ|WRITE|EXEC|USER_EXEC|ACCESSED|DIRTY|IPAT|HOST_WRITABLE|MMU_WRITABLE|\
SUPPRESS_VE|WB)

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
    for layout in ("6.18", "v6.18"):
        assert tdpfast("decode", "spte", "0x80000000000005a0", "--level", 2, "--layout", layout) == (0, FROZEN, "")


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
    ["0x1", "--level", "1", "--layout", "vv6.18"],
    ["0x1", "--level", "1", "--mmu", "pae"], ["0x1", "--level", "1", "--mmio-value", "?"],
    ["9" * 5000, "--level", "1"]])
def test_bad_input(tdpfast, argv):
    code, out, err = tdpfast("decode", "spte", *argv)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and "; try " in err


def test_subcommand_is_needed(tdpfast):
    assert tdpfast("decode")[0] == 2 and tdpfast("decode", "pte")[0] == 2


# ---- S-EPT entries ------------------------------------------------------------------------------------------------

PENDING = """\
  S-EPT ENTRY       PHYSICAL     FLAGS
81600001000008f0      100000000  (PENDING_EXPORTED_BLOCKEDW|IPAT|LEAF|TDEL|TDEX|TDBW|TDP|SUPPRESS_VE)

  entry        0x81600001000008f0
  state        PENDING_EXPORTED_BLOCKEDW
  state_bits   0x76
  vmm_state    17
  hpa          0x100000000
  read         no
  write        no
  exec         no
  ipat         yes
  leaf         yes
  dirty        no
  tdel         yes
  tdhp         no
  tdex         yes
  tdbw         yes
  tdb          no
  tdp          yes
  suppress_ve  yes
  memtype      WB
  l2_aliases   0
  other        0x0
"""

BUSY = """\
     STATUS       NAME
8000020000000092  TDX_OPERAND_BUSY (SEPT_TREE)

  status                    0x8000020000000092
  name                      TDX_OPERAND_BUSY
  code                      0x80000200
  details                   0x00000092
  operand                   SEPT_TREE
  class                     2
  class_name                resource busy
  number                    0
  error                     yes
  non_recoverable           no
  fatal                     no
  host_recoverability_hint  no
  reserved                  0x0
  known                     yes
"""

TOKEN = """\
  fingerprint  0x00000000deadbeef
  digest       0x00000007
  strategy     pct
  seed         12
  steps        6
  runs         3
  schedule     0x3 1x1 0x2
"""


def test_sept_entry(tdpfast):
    assert tdpfast("decode", "sept-entry", "0x81600001000008f0") == (0, PENDING, "")


@pytest.mark.parametrize("value, state", [
    ("0x80e0000000000000", "FREE"), ("0x8000000123456007", "NL_MAPPED"), ("0x80000001000000f7", "MAPPED"),
    ("0x81000001000000f0", "PENDING"), ("0x80800001000000f0", "BLOCKED"), ("0x8000000000000200", "INVALID")])
def test_sept_states(tdpfast, value, state):
    code, out, _ = tdpfast("decode", "sept-entry", value, "--json")
    fields = json.loads(out)
    assert (code, fields["state"], fields["other"]) == (0, state, "0x0")


def test_every_bit_of_an_entry_is_shown_once(tdpfast):
    none = json.loads(tdpfast("decode", "sept-entry", "0", "--json")[1])
    for bit in range(64):
        fields = json.loads(tdpfast("decode", "sept-entry", hex(1 << bit), "--json")[1])
        changed = {name for name in fields if fields[name] != none.get(name)}
        assert len(changed - {"entry", "state", "state_bits", "vmm_state"}) == 1


# ---- statuses -----------------------------------------------------------------------------------------------------

def test_status(tdpfast):
    assert tdpfast("decode", "seamcall-status", "0x8000020000000092") == (0, BUSY, "")


@pytest.mark.parametrize("value, name, operand", [
    ("0", "TDX_SUCCESS", None), ("0xc0000b0800000000", "TDX_TLB_TRACKING_NOT_DONE", None),
    ("0xc000010000000008", "TDX_OPERAND_INVALID", "R8"), ("0xffffffffffffff02", "ENTERED_TD", None),
    ("0x00000b0a00000001", "TDX_PAGE_ALREADY_ACCEPTED", "level=1"), ("0xc0ffee0000000000", "0xc0ffee00", None)])
def test_statuses(tdpfast, value, name, operand):
    fields = json.loads(tdpfast("decode", "seamcall-status", value, "--json")[1])
    assert (fields["name"], fields.get("operand")) == (name, operand)


# ---- tokens -------------------------------------------------------------------------------------------------------

def test_token(tdpfast):
    token = Token(bytes([0, 0, 0, 1, 0, 0]), 0xDEADBEEF, 7, "pct", 12)
    assert tdpfast("decode", "token", str(token)) == (0, TOKEN, "")
    fields = json.loads(tdpfast("decode", "token", str(token), "--json")[1])
    assert fields["schedule"] == [[0, 3], [1, 1], [0, 2]] and fields["strategy"] == "pct"
    assert "schedule     -\n" in tdpfast("decode", "token", str(Token(b"")))[1]


@pytest.mark.parametrize("argv", [
    ["sept-entry"], ["sept-entry", "x"], ["sept-entry", "-1"], ["sept-entry", "0x10000000000000000"],
    ["sept-entry", "1", "2"], ["seamcall-status"], ["seamcall-status", ""], ["seamcall-status", "1" * 30],
    ["token"], ["token", "tdp1-"], ["token", "tdp1-aaaa"], ["token", "tdp9-aaaa"], ["token", "0x1"]])
def test_other_bad_input(tdpfast, argv):
    code, out, err = tdpfast("decode", *argv)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
