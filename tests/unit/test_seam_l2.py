"""L2 VMs: the pages beside an L1 table, aliases of leaves and their attributes, what calls return about them."""
import pytest

from tdpfast.conform._seam_rig import AUX, LEAF, NULL_PA, TABLE, TDR, TDVPR, Rig

LP = 1
BIT63 = 1 << 63
POOL = 0x1_1800_0000
SMALL, LARGE = 0, 0x20_0000          # GPAs of the two guest pages of a scene
R, W, XS, XU, VGP, PWA, SSS, VALID = 1, 2, 4, 8, 0x10, 0x20, 0x40, 0x8000


@pytest.fixture
def rig():
    return Rig()


def l2_pages(n, base=POOL):
    """R9..R11 for n L2 VMs."""
    return dict(zip(("r9", "r10", "r11"), [base + i * 4096 for i in range(n)] + [NULL_PA] * (3 - n)))


def table(rig, level, gpa=0, n=None):
    """An S-EPT page at level, with one for each of the first n L2 VMs."""
    n = rig.module.td(TDR[0])["num_l2"] if n is None else n
    rig.must("mem_sept_add", rcx=gpa | level, rdx=TDR[0], r8=TABLE[level], version=1,
             **l2_pages(n, POOL + level * 0x1_0000 + gpa // 512))


def scene(rig, bottom=0, *, num_l2=2, **build):
    """Tables for all VMs down to level bottom; at 0 also a 4K and a 2M page, accepted."""
    rig.build(num_l2=num_l2, **build)
    for level in range(3, bottom, -1):
        table(rig, level)
    if bottom == 0:
        rig.must("mem_page_aug", rcx=SMALL, rdx=TDR[0], r8=LEAF[0])
        rig.must("mem_page_aug", rcx=LARGE | 1, rdx=TDR[0], r8=LEAF[1])
        rig.must("vp_enter", LP, rcx=TDVPR[0])
        for rcx in (SMALL, LARGE | 1):
            assert rig.call("accept", LP, rcx=rcx)[1] == "TDX_SUCCESS"


def write(rig, attr, mask, rcx=LARGE | 1):
    """ATTR.WR by the guest; attr and mask by VM, from 1."""
    def word(values):
        return sum(value << 16 * vm for vm, value in enumerate(values, 1))
    _, status, _, out = rig.call("attr_wr", LP, rcx=rcx, rdx=word(attr), r8=word(mask))
    return status, out["rcx"], out["rdx"]


def l2_entry(rig, vm=1, gpa=LARGE, level=1):
    return rig.module.walk(TDR[0], gpa, level, vm)[0]


def tracked_block(rig, rcx):
    """Blocks a range, with nobody inside any more."""
    rig.module.td_async_exit(LP)
    rig.must("mem_range_block", rcx=rcx, rdx=TDR[0])
    rig.must("mem_track", rcx=TDR[0])


# ---- SEPT.ADD -----------------------------------------------------------------------------------------------

def add(rig, level=3, version=1, rdx=TDR[0], intr=-1, **pages):
    given = dict(r8=AUX, r9=NULL_PA, r10=NULL_PA, r11=NULL_PA) | pages
    _, status, _, out = rig.call("sept_add", intr_after=intr, rcx=level, rdx=rdx, version=version, **given)
    return status, out


def test_sept_add_returns_the_pages_without_bit_63_whatever_its_status(rig):
    rig.build(num_l2=1)
    status, out = add(rig, rdx=TDR[0] | 2, r8=AUX | BIT63, r9=POOL | BIT63)
    assert (status, out["r8"], out["r9"], out["r10"]) == ("TDX_OPERAND_INVALID:RDX", AUX, POOL, NULL_PA)
    assert add(rig, rdx=TDR[0] | 2, version=0, r8=AUX | BIT63)[1]["r8"] == AUX | BIT63


def test_sept_add_marks_what_exists_though_it_fails_later(rig):
    rig.build(num_l2=1)
    table(rig, 3)
    status, out = add(rig, rdx=TDR[0] | 1, r9=POOL + 0x9000, r10=POOL + 0xa000)
    assert status == "TDX_OPERAND_INVALID:R10"
    assert [out[r] for r in ("r8", "r9", "r10")] == [AUX | BIT63, POOL + 0x9000 | BIT63, POOL + 0xa000]


def test_sept_add_does_not_take_an_l2_table_for_granted(rig):
    rig.build(num_l2=1)
    table(rig, 3)
    status, out = add(rig, r8=NULL_PA, r9=POOL + 0x9000)
    assert status == "TDX_L2_SEPT_ENTRY_NOT_FREE:vm=1,level=3"
    assert (out["rcx"], out["rdx"], out["r9"]) == (0x407, 1 << 16 | 196 << 8 | 3, POOL + 0x9000)


def test_sept_add_without_a_page_is_wrong_in_version_0_whatever_the_entry(rig):
    rig.build()
    assert add(rig, version=0, r8=NULL_PA)[0] == "TDX_OPERAND_INVALID:R8"
    table(rig, 3)
    assert add(rig, version=0, r8=NULL_PA)[0] == "TDX_OPERAND_INVALID:R8"


# ---- large pages --------------------------------------------------------------------------------------------

def demote(rig, rdx=TDR[0], **pages):
    given = dict(r8=AUX, r9=NULL_PA, r10=NULL_PA, r11=NULL_PA) | pages
    _, status, _, out = rig.call("page_demote", rcx=LARGE | 1, rdx=rdx, **given)
    return status, out


def test_demote_does_not_look_at_pages_of_vms_that_are_not_there(rig):
    scene(rig, num_l2=1)
    tracked_block(rig, LARGE | 1)
    status, out = demote(rig, r9=POOL | BIT63, r10=12345)
    assert (status, out["r9"], out["r10"]) == ("TDX_SUCCESS", POOL | BIT63, 12345)
    assert l2_entry(rig) == POOL | 0x407


def test_demote_keeps_the_attributes_of_an_alias(rig):
    scene(rig, num_l2=1)
    write(rig, [VALID | R | VGP | PWA], [0x7f])
    tracked_block(rig, LARGE | 1)
    assert demote(rig, r9=POOL)[0] == "TDX_SUCCESS"
    for i in (0, 511):
        assert l2_entry(rig, gpa=LARGE + i * 4096, level=0) == LEAF[1] + i * 4096 | 3 << 57 | 0xf1


def small_pages(rig, num_l2, attr):
    """512 accepted 4K pages with attributes for each VM, blocked and tracked."""
    rig.build(num_l2=num_l2)
    for level in (3, 2, 1):
        table(rig, level)
    for i in range(512):
        rig.must("mem_page_aug", rcx=i * 4096, rdx=TDR[0], r8=LEAF[1] + i * 4096)
    rig.must("vp_enter", LP, rcx=TDVPR[0])
    for i in range(512):
        rig.call("accept", LP, rcx=i * 4096)
        if any(attr):
            write(rig, attr, [0x7f] * num_l2, i * 4096)
    tracked_block(rig, 1)


def promote(rig, intr=-1):
    _, status, _, out = rig.call("page_promote", intr_after=intr, rcx=1, rdx=TDR[0], version=1)
    return status, [out[r] for r in ("rcx", "r9", "r10", "r11")]


@pytest.mark.parametrize("polls, status", [(1, "TDX_INTERRUPTED_RESTARTABLE"), (2, "TDX_INTERRUPTED_RESTARTABLE"),
                                           (3, "TDX_SUCCESS")])
def test_promote_looks_for_interrupts_before_each_l2_table(rig, polls, status):
    small_pages(rig, 2, [0, 0])
    assert promote(rig, polls)[0] == status
    assert rig.module.polls() == min(polls + 1, 3)


def test_promote_merges_free_l2_tables_and_aliases(rig):
    small_pages(rig, 2, [0, VALID | R | XS])
    base = POOL + 0x1_0000
    assert promote(rig) == ("TDX_SUCCESS", [TABLE[1], base, base + 4096, NULL_PA])
    assert l2_entry(rig, 1, 0) == 0
    assert l2_entry(rig, 2, 0) == LEAF[1] | 0xf5
    assert rig.module.walk(TDR[0], 0, 1)[0] == LEAF[1] | 0x8800_0000_0000_00f7


@pytest.mark.parametrize("attr, other", [([VALID | R], VALID | R | W), ([0], VALID | R)])
def test_promote_wants_l2_tables_uniform(rig, attr, other):
    small_pages(rig, 1, attr)
    rig.must("mem_range_unblock", rcx=1, rdx=TDR[0])
    rig.must("vp_enter", LP, rcx=TDVPR[0])
    write(rig, [VALID], [0x7f], 7 * 4096)
    write(rig, [other], [0x7f], 9 * 4096)
    tracked_block(rig, 1)
    assert promote(rig)[0] == "TDX_EPT_INVALID_PROMOTE_CONDITIONS:RCX"


@pytest.mark.parametrize("op", ["page_promote", "sept_remove"])
def test_a_locked_l2_table_is_busy(rig, op):
    if op == "page_promote":
        small_pages(rig, 1, [0])
    else:
        scene(rig, 1, num_l2=1)
        table(rig, 1)
        tracked_block(rig, 1)
    page = POOL + 0x1_0000
    rig.module.set_pamt(page, lock=4)
    before = rig.module.td(TDR[0])["chldcnt"]
    assert rig.call(op, rcx=1, rdx=TDR[0])[1] == "TDX_OPERAND_BUSY:RCX"
    assert rig.module.pamt(page)[3] == 6
    assert rig.module.td(TDR[0])["chldcnt"] == before
    rig.module.set_pamt(page, lock=0)
    assert rig.call(op, rcx=1, rdx=TDR[0])[1] == "TDX_SUCCESS"


# ---- attributes ---------------------------------------------------------------------------------------------

def test_attributes_are_checked_after_the_address(rig):
    scene(rig)
    assert write(rig, [0x8100], [0x7fff], LARGE | 0x801)[0] == "TDX_OPERAND_INVALID:RCX"
    assert write(rig, [0x8101], [0x7fff]) == ("TDX_PAGE_ATTR_INVALID", 0, 0)
    assert write(rig, [0x0101], [0])[0] == "TDX_OPERAND_INVALID:RDX"


@pytest.mark.parametrize("attr, ok", [
    (R, True), (XS, True), (XU, True), (XS | SSS, True), (R | W | XS | XU | VGP | PWA | SSS, True), (XS | VGP, True),
    (W, False), (XS | PWA, False), (R | 0x80, False), (R | 0x100, False)])
def test_which_attributes_an_alias_may_have(rig, attr, ok):
    scene(rig)
    status, _, shown = write(rig, [VALID | attr], [0x7fff])
    assert (status, shown) == (("TDX_SUCCESS", (VALID | attr) << 16) if ok else ("TDX_PAGE_ATTR_INVALID", 0))
    assert (l2_entry(rig) != 0) == ok


def test_attributes_go_through_the_blocked_entry_and_back(rig):
    scene(rig, num_l2=1)
    attr = VALID | R | W | XU | VGP | PWA | SSS
    write(rig, [attr], [0x7f])
    open_entry = l2_entry(rig)
    assert open_entry == LEAF[1] | 1 << 60 | 3 << 57 | 0x4f3
    tracked_block(rig, LARGE | 1)
    assert l2_entry(rig) == LEAF[1] | 1 << 60 | 1 << 59 | 3 << 57 | 1 << 55 | 0xe8
    rig.must("mem_range_unblock", rcx=LARGE | 1, rdx=TDR[0])
    assert l2_entry(rig) == open_entry
    rig.must("vp_enter", LP, rcx=TDVPR[0])
    assert rig.call("attr_rd", LP, rcx=LARGE)[3]["rdx"] == attr << 16


def test_nothing_to_write_is_shown_as_it_was_asked(rig):
    scene(rig)
    assert write(rig, [VALID | XS, 0], [R | W, 0]) == ("TDX_SUCCESS", LARGE | 1, (VALID | XS) << 16)
    assert l2_entry(rig) == 0


def test_an_alias_that_goes_is_shown_as_valid_only(rig):
    scene(rig)
    write(rig, [VALID | R | SSS], [0x7f])
    assert write(rig, [VALID | SSS], [R | SSS]) == ("TDX_SUCCESS", LARGE | 1, VALID << 16)
    assert l2_entry(rig) == 0
    assert rig.module.walk(TDR[0], LARGE, 1)[0] == LEAF[1] | 0x8000_0000_0000_00f7


def test_illegal_attributes_of_one_vm_write_none(rig):
    scene(rig)
    write(rig, [VALID | R], [0x7f])
    before = l2_entry(rig)
    assert write(rig, [VALID | W, VALID | R], [0x7f, 0x7f]) == (
        "TDX_PAGE_ATTR_INVALID", 0, (VALID | R) << 16 | (VALID | R) << 32)
    assert (l2_entry(rig), l2_entry(rig, 2)) == (before, 0)


def test_a_missing_table_wins_over_illegal_attributes(rig):
    rig.build(num_l2=2)
    for level in (3, 2):
        table(rig, level)
    table(rig, 1, n=1)
    rig.must("mem_page_aug", rcx=SMALL, rdx=TDR[0], r8=LEAF[0])
    rig.must("vp_enter", LP, rcx=TDVPR[0])
    assert write(rig, [VALID | W, VALID | R], [0x7f, 0x7f], SMALL) == ("TDX_L2_SEPT_WALK_FAILED:vm=2,level=1", 0, 0)


def test_a_host_that_waits_keeps_its_priority_over_new_attributes(rig):
    scene(rig)
    raw = rig.module.walk(TDR[0], LARGE, 1)[0]
    rig.module.set_entry(TDR[0], LARGE, 1, raw | 1 << 11)
    assert write(rig, [VALID | R], [0x7f])[0] == "TDX_OPERAND_BUSY:RCX"
    rig.call("sept_rd", rcx=LARGE | 1, rdx=TDR[0])
    rig.module.set_entry(TDR[0], LARGE, 1, raw | 1 << 52)
    assert write(rig, [VALID | R], [0x7f])[0] == "TDX_OPERAND_BUSY:RCX"
    assert rig.module.walk(TDR[0], LARGE, 1)[0] == raw | 1 << 52


def test_a_debugger_sees_all_permissions_of_a_table(rig):
    scene(rig, 1, num_l2=2, debug=1)
    out = rig.call("sept_rd", rcx=2, rdx=TDR[0] | 1)[3]
    assert out["r8"] == 0x800f_800f_0000
