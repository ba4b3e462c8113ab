"""spte.c against formulas of its own: each bit of an SPTE written down from the format, for any arguments."""

import numpy as np
import pytest

from tdpfast.spte import LAYOUTS, MMUS, SpteConfig

PHYSICAL = [{}, {"maxphyaddr": 46}, {"maxphyaddr": 46, "l1tf": True, "cache_bits": 44}, {"maxphyaddr": 40}]
CONFIGS = [SpteConfig(layout, mmu, **physical) for layout in LAYOUTS for mmu in MMUS for physical in PHYSICAL]
ADDRESS = 0x000FFFFFFFFFF000
PRESENT, HUGE, SUPPRESS_VE = 1 << 11, 1 << 7, 1 << 63


class Bits:
    """Where a format keeps what, as the manuals and the kernel's comments name it."""

    def __init__(self, config):
        new = config.layout == "7.3"
        self.new, self.npt = new, config.mmu == "npt"
        self.ad_on = config.mmu != "ept_noad"
        self.ad_shift = 60 if new else 52
        self.ad_off = 1 << self.ad_shift
        self.acc = {"r": 1, "w": 2, "u": 4, "x": 8} if new else {"x": 1, "w": 2, "u": 4}
        self.r, self.w = 1, 2
        if self.npt:
            self.x, self.nx, self.user, self.accessed, self.dirty = 0, 1 << 63, 4, 1 << 5, 1 << 6
            self.always, self.host, self.mmu, self.track = 1, 1 << 9, 1 << 10, 0
            self.xu = 0
        else:
            self.x, self.nx, self.accessed, self.dirty = 4, 0, 1 << 8, 1 << 9
            self.user = 0 if new else 1
            self.xu = 1 << 10 if new else 0
            self.always = SUPPRESS_VE
            self.host, self.mmu = (1 << 53, 1 << 55) if new else (1 << 57, 1 << 58)
            self.track = 7 | self.xu
        self.saved_from = 1 | 4 | (1 << 10 if new else 0)
        self.saved_shift = 52 if new else 54

    def permissions(self, access):
        """R, X, user and NX of an access mask; W apart."""
        spte = self.x if access & self.acc["x"] else self.nx
        if access & self.acc["u"]:
            spte |= self.user | self.xu
        if self.new and access & 1:
            spte |= self.r
        return spte

    def tracked(self, spte):
        """mark_spte_for_access_track()"""
        off = (spte >> self.ad_shift) & 3 == 1
        if not off:
            return spte & ~self.accessed
        if spte & self.track == 0:
            return spte
        return (spte | (spte & self.saved_from) << self.saved_shift) & ~(self.track | self.accessed)

    def restored(self, spte):
        """restore_acc_track_spte()"""
        saved = spte >> self.saved_shift & self.saved_from
        return spte & ~(self.track | self.saved_from << self.saved_shift) | saved

    def without_execute(self, spte):
        return self.change(spte, self.nx, self.x | self.xu)

    def change(self, spte, on, off):
        """modify_spte_protections()"""
        away = (spte >> self.ad_shift) & 3 == 1 and spte & self.track == 0
        if away:
            spte = self.restored(spte)
        spte = (spte | on) & ~off
        return self.tracked(spte) if away else spte


def memory_type(bits, pfn, ipat):
    if bits.npt:
        return 0
    if 0xFE000 <= pfn < 0x100000:
        return 0
    return 6 << 3 | (0x40 if ipat else 0)


def leaf(bits, a):
    """make_spte(): the SPTE, whether it was write-protected, whether the page was marked dirty."""
    access = a["access"]
    spte = PRESENT | bits.always | a["pfn"] << 12 | memory_type(bits, a["pfn"], a["ipat"])
    if a["ad_disabled"]:
        spte |= bits.ad_off
    elif a["pml"] and a["guest_mode"]:
        spte |= 2 << bits.ad_shift
    ahead = a["prefetch"] and not a["synchronizing"]
    if not ahead:
        spte |= bits.accessed
    if a["level"] > 1:
        spte |= HUGE
        if a["nx_huge_pages"]:
            access &= ~(bits.acc["x"] | (bits.acc["u"] if bits.xu else 0))
    spte |= bits.permissions(access)
    old_leaf = a["level"] == 1 or a["old_spte"] & HUGE
    protect = False
    if a["host_writable"]:
        spte |= bits.host
        if access & 2:
            protect = bool(a["tracked"]) and not (old_leaf and a["old_spte"] & 2)
            if not protect:
                spte |= 2 | bits.mmu | bits.dirty
    if ahead:
        spte = bits.tracked(spte)
    return spte, protect, bool(spte & 2 and a["dirty_log"])


def arguments(rng, config):
    flags = ("ad_disabled", "prefetch", "synchronizing", "host_writable", "nx_huge_pages", "tracked", "dirty_log",
             "guest_mode", "pml", "ipat")
    out = {name: bool(rng.integers(2)) for name in flags}
    out["level"] = int(rng.integers(1, 4))
    out["access"] = int(rng.integers(config.ACC_ALL + 1))
    out["gfn"] = int(rng.integers(1 << 40))
    out["pfn"] = int(rng.choice((rng.integers(1 << 40), rng.integers(0xFDFF0, 0x100010), rng.integers(1 << 20))))
    out["old_spte"] = int(rng.choice(np.array([0, SUPPRESS_VE, 2, 0x82, 0x80], dtype=np.uint64)))
    return out


def check_make_spte(config, seed, count):
    bits, rng = Bits(config), np.random.default_rng(seed)
    for _ in range(count):
        a = arguments(rng, config)
        made = config.make_spte(**a)
        assert tuple(made[:3]) == leaf(bits, a), (config, a)


def check_changes(config, seed, count):
    """What changes an SPTE, on any 64 bits that are present, and on what make_spte() makes."""
    bits, rng = Bits(config), np.random.default_rng(seed)
    for _ in range(count):
        made = config.make_spte(**{**arguments(rng, config), "level": 2}).spte
        spte = int(rng.choice(np.array([made, int(rng.integers(1 << 63)) << 1 | int(rng.integers(2)),
                                        bits.tracked(made)], dtype=np.uint64)))
        assert int(config.mark_spte_for_access_track(spte)) == bits.tracked(spte), hex(spte)
        assert int(config.restore_acc_track_spte(spte)) == bits.restored(spte), hex(spte)
        level, index, nx = int(rng.integers(1, 3)), int(rng.integers(512)), bool(rng.integers(2))
        access = int(rng.integers(config.ACC_ALL + 1))
        small = spte | index << 12 + 9 * (level - 1)
        if level == 1:
            small &= ~HUGE
            if nx and (bits.new or access & bits.acc["x"]):
                on = bits.permissions(access & (bits.acc["x"] | (bits.acc["u"] if bits.xu else 0))) if (
                    bits.new) else bits.x
                if bits.new:
                    on &= bits.x | bits.nx | bits.xu
                small = bits.change(small, on, (bits.x | bits.xu | bits.nx) & ~on)
        assert config.make_small_spte(spte, level, access, index, nx)[0] == small, (
            config, hex(spte), level, access, nx)
        level = int(rng.integers(2, 4))
        huge = (spte | HUGE) & ~(((1 << 9 * (level - 1)) - 1) << 12)
        if nx:
            huge = bits.without_execute(huge)
        assert config.make_huge_spte(spte, level, nx)[0] == huge, (config, hex(spte), level, nx)


def check_mmio(config, seed, count):
    """The generation and the gfn of an MMIO SPTE come back, and no bit of the gfn that L1TF could use is left."""
    rng = np.random.default_rng(seed)
    masks = config.masks
    low = 7 if config.layout == "7.3" else 8
    for _ in range(count):
        gfn, generation = int(rng.integers(1 << (min(config.maxphyaddr, 46) - 12))), int(rng.integers(1 << 62))
        access, value = int(rng.integers(config.ACC_ALL + 1)), int(rng.choice((0, masks["shadow_mmio_value"])))
        spte = config.make_mmio_spte(gfn, access, generation, value)
        keep = generation & (1 << low + 11) - 1
        relocated = masks["shadow_nonpresent_or_rsvd_mask"]
        gpa = gfn << 12
        assert spte == (value | (access & masks["shadow_mmio_access_mask"]) | gpa | relocated
                        | (gpa & relocated) << 5 | (keep & (1 << low) - 1) << 3 | (keep >> low) << 52), config
        assert int(config.get_mmio_spte_generation(spte)) == keep
        if relocated:
            assert spte & relocated == relocated and relocated == 0x1F << config.cache_bits - 5
        if not config.l1tf:
            assert int(config.get_mmio_spte_gfn(spte)) == gfn


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.layout}-{c.mmu}-{c.maxphyaddr}-{int(c.l1tf)}")
def test_every_bit(config):
    check_make_spte(config, 1, 120)
    check_changes(config, 2, 80)
    check_mmio(config, 3, 60)


@pytest.mark.slow
def test_every_bit_for_many_arguments():
    for i, config in enumerate(CONFIGS):
        check_make_spte(config, 100 + i, 20_000)
        check_changes(config, 200 + i, 10_000)
        check_mmio(config, 300 + i, 5_000)
