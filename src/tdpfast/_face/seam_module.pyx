# cython: language_level=3
"""SeamModule: the TDX module as a Python object, register by register. The friendly form is tdpfast.seam.TdxModule."""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint8_t, int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from tdpfast._sync.atomic cimport tdp_write_once
from tdpfast._seam.module cimport *
from tdpfast._seam.state cimport (
    OPS_FAILED_IMPORT, PAMT_BYTES, PT_REG, PT_TDR, PT_TDVPR, SEAM_HKIDS, SEAM_MAX_LP, SEAM_MAX_TDMR, SEAM_TDCS_PAGES,
    SYS_READY, TD_TEARDOWN, PamtEntry, Td, TdmrInfo, Vp, host_words, page_memory, pamt_entry, pamt_touch,
    undo_page, undo_word,
)
from tdpfast._seam.guest cimport (
    GUEST_DONE, GUEST_NOT_INSIDE, GUEST_REEXECUTE, GUEST_TDEXIT, GUEST_VE, td_ept_violation, td_guest_access, tdcall,
)
from tdpfast._seam.sys cimport seam_add_tdmr, seam_reserve
from tdpfast._seam.vp cimport td_async_exit, vp_running
from tdpfast._sync.cpu cimport sync_init_cpu

from tdpfast.errors import UsageError

DONE = GUEST_DONE
TDEXIT = GUEST_TDEXIT
VE = GUEST_VE
REEXECUTE = GUEST_REEXECUTE
NOT_INSIDE = GUEST_NOT_INSIDE

cdef dict td_field = {
    "hkid": 0, "lifecycle": 1, "fatal": 2, "op_state": 3, "op_lock": 4, "tree_lock": 5, "epoch_lock": 6,
    "td_epoch": 7, "refcount0": 8, "refcount1": 9, "chldcnt": 10, "attributes": 11, "td_ctls": 12, "max_vcpus": 13,
    "num_vcpus": 14, "assoc_vcpus": 15, "num_tdcx": 16, "xfam": 17, "config_flags": 18, "mig_count": 19,
    "dirty_count": 20, "bw_epoch": 21, "notify_enables": 22,
}
cdef dict vp_field = {
    "state": 0, "lp": 1, "vcpu_epoch": 2, "num_tdvpx": 3, "rip": 4, "hp_busy": 5, "hp_expired": 6,
    "trap_exit": 7, "ve_valid": 8,
}


def bad_tdmr(start, end):
    return UsageError(f"TDMR [{start:#x}, {end:#x})", "1G aligned, below 64T, at most 8 of them, none in another",
                      "whole gigabytes")


def no_room(start, end):
    return MemoryError(f"no address space for the memory of the TDX module, {(end - start) >> 30} GiB")


cdef int fill_tdmr_info(TdmrInfo *info, int i, object fields) except -1:
    """One TDMR_INFO; nothing of the caller's runs once its areas are counted."""
    cdef int j
    start, size, pamt, reserved = fields
    pamt, reserved = tuple(tuple(area) for area in pamt), tuple(tuple(area) for area in reserved)
    if len(pamt) != 3 or len(reserved) > 16:
        raise UsageError(f"TDMR_INFO {i}", "has three PAMT areas and at most 16 reserved ones", "as many")
    info.start = start
    info.size = size
    for j, (base, length) in enumerate(pamt):
        info.pamt_base[j] = base
        info.pamt_size[j] = length
    for j, (base, length) in enumerate(reserved):
        info.rsvd_offset[j] = base
        info.rsvd_size[j] = length
    return 0


cdef int check_place(const Td *td, int vm, int level) except -1:
    """UsageError unless the TD has this VM (0: L1, 1 to 3: L2) and a table can have entries of this level."""
    if not 0 <= vm <= 3 or (vm and vm > td.num_l2):
        raise UsageError(f"VM {vm}", f"the TD has L1 (0) and {td.num_l2} L2 VMs", f"0..{td.num_l2}")
    if not 0 <= level <= 4:
        raise UsageError(f"level {level}", "not a level of an S-EPT", "0 (4K) .. 4")
    return 0


cdef uint64_t *td_word(Td *td, int field):
    cdef uint64_t *word[23]
    word[0] = &td.hkid
    word[1] = &td.lifecycle
    word[2] = &td.fatal
    word[3] = &td.op_state
    word[4] = &td.op_lock
    word[5] = &td.tree_lock
    word[6] = &td.epoch_lock
    word[7] = &td.td_epoch
    word[8] = &td.refcount[0]
    word[9] = &td.refcount[1]
    word[10] = &td.chldcnt
    word[11] = &td.attributes
    word[12] = &td.td_ctls
    word[13] = &td.max_vcpus
    word[14] = &td.num_vcpus
    word[15] = &td.assoc_vcpus
    word[16] = &td.num_tdcx
    word[17] = &td.xfam
    word[18] = &td.config_flags
    word[19] = &td.mig_count
    word[20] = &td.dirty_count
    word[21] = &td.bw_epoch
    word[22] = &td.notify_enables
    return word[field]


cdef uint64_t *vp_word(Vp *vp, int field):
    cdef uint64_t *word[9]
    word[0] = &vp.state
    word[1] = &vp.lp
    word[2] = &vp.vcpu_epoch
    word[3] = &vp.num_tdvpx
    word[4] = &vp.rip
    word[5] = &vp.hp_busy
    word[6] = &vp.hp_expired
    word[7] = &vp.trap_exit
    word[8] = &vp.ve_valid
    return word[field]


cdef uint64_t *module_lock(Seam *s, str name) except NULL:
    if name == "KOT":
        return &s.kot_lock
    if name == "WBCACHE":
        return &s.wbcache_lock
    if name == "SYS":
        return &s.sys_lock
    raise UsageError(f"lock {name!r}", "unknown", "KOT, WBCACHE or SYS")


cdef class SeamModule:
    """One TDX module and the physical memory it manages.

    Thread-safety: calls on different logical processors may run in different threads; the module's own locks decide.
    One logical processor belongs to one thread at a time. Everything that is not a call (set_*, snapshot, inject)
    wants the module to itself.
    """

    def __cinit__(self, tdmrs, reserved=(), uninitialised=(), int max_td=16, int max_vp=256, bint dynamic_pamt=False,
                  bint bare=False, int nlp=SEAM_MAX_LP, *, bint enhanced_demote=False, bint nonblocking_resize=False,
                  bint topology=True):
        cdef int i
        if not 1 <= max_td <= 60000 or not 1 <= max_vp <= 60000:
            raise UsageError(f"max_td={max_td}, max_vp={max_vp}", "must be between 1 and 60000", "the defaults")
        self.s = seam_new(max_td, max_vp)
        self.cpu = <Cpu *>calloc(SEAM_MAX_LP, sizeof(Cpu))
        if self.s == NULL or self.cpu == NULL:
            raise MemoryError
        for i in range(SEAM_MAX_LP):
            sync_init_cpu(&self.cpu[i], i)
        for start, end in tdmrs:
            if seam_add_tdmr(self.s, start, end, True) < 0:
                raise no_room(start, end) if self.short_of_memory() else bad_tdmr(start, end)
        for start, end in uninitialised:
            if seam_add_tdmr(self.s, start, end, False) < 0:
                raise bad_tdmr(start, end)
        for start, end in reserved:
            seam_reserve(self.s, start, end)
        self.s.dynamic_pamt = dynamic_pamt
        self.s.enhanced_demote = enhanced_demote
        self.s.nonblocking_resize = nonblocking_resize
        self.s.topology = topology
        if bare:
            if tdmrs or uninitialised or dynamic_pamt or not 1 <= nlp <= SEAM_MAX_LP:
                raise UsageError("a bare module", "SYS.CONFIG says what it manages, to 1..64 logical processors",
                                 "no TDMRs and options here")
            seam_not_ready(self.s, nlp)

    def __dealloc__(self):
        seam_free(self.s)
        free(self.cpu)

    def short_of_memory(self):
        """Whether the host had no address space for a TDMR that is managed, or its PAMT."""
        cdef int i
        for i in range(self.s.ntdmr):
            if self.s.tdmr[i].p4k != NULL and self.s.tdmr[i].memory == NULL:
                return True
        return False

    cdef Cpu *lp(self, int lp) except NULL:
        if not 0 <= lp < SEAM_MAX_LP:
            raise UsageError(f"logical processor {lp}", f"there are {SEAM_MAX_LP}", f"0..{SEAM_MAX_LP - 1}")
        return &self.cpu[lp]

    def reset(self, reserved=()):
        """A module that never had a TD; the TDMRs stay."""
        seam_reset(self.s)
        for start, end in reserved:
            seam_reserve(self.s, start, end)

    def write_tdmr_info(self, infos, uint64_t pa=0x10000000):
        """What TDH.SYS.CONFIG finds at pa: [(start, size, pamt, reserved)], pamt [(base, size)] for 4K, 2M, 1G,
        reserved [(offset, size)]."""
        cdef TdmrInfo info[SEAM_MAX_TDMR]
        cdef TdmrInfo *kept
        cdef int i
        infos = list(infos)
        if not 1 <= len(infos) <= SEAM_MAX_TDMR:
            raise UsageError(f"{len(infos)} TDMR_INFO entries", f"there are 1..{SEAM_MAX_TDMR}", "fewer TDMRs")
        memset(info, 0, sizeof(info))
        for i, one in enumerate(infos):
            fill_tdmr_info(&info[i], i, one)
        kept = <TdmrInfo *>calloc(len(infos), sizeof(TdmrInfo))
        if kept == NULL:
            raise MemoryError
        memcpy(kept, info, len(infos) * sizeof(TdmrInfo))
        free(self.s.info)
        self.s.info = kept
        self.s.ninfo = <int>len(infos)
        self.s.info_pa = pa

    @property
    def ready(self):
        """TDH.SYS.KEY.CONFIG is done."""
        return self.s.sys_state == SYS_READY

    @property
    def dynamic_pamt(self):
        """4K pages need a page pair per 2M."""
        return bool(self.s.dynamic_pamt)

    @property
    def enhanced_demote(self):
        """ENHANCED_DEMOTE_INTERRUPTIBILITY: TDH.MEM.PAGE.DEMOTE does not end early for an interrupt."""
        return bool(self.s.enhanced_demote)

    @property
    def nonblocking_resize(self):
        """NON-BLOCKING-RESIZE, as proposed: TDH.MEM.PAGE.DEMOTE takes a mapped or pending entry as it is."""
        return bool(self.s.nonblocking_resize)

    @property
    def topology(self):
        """Topology enumeration, later than module 1.5.01: TDH.VP.INIT has version 1."""
        return bool(self.s.topology)

    def hkids(self):
        """The state of each HKID: 0 free, 1 assigned, 2 flushed, 3 written back, 4 reserved."""
        return [self.s.kot[i] for i in range(SEAM_HKIDS)]

    def locks_held(self):
        """Names of the module's locks that somebody holds now; {} between calls."""
        cdef dict out = {}
        cdef int i
        for name, word in (("SYS", self.s.sys_lock), ("KOT", self.s.kot_lock), ("WBCACHE", self.s.wbcache_lock)):
            if word & 1:
                out[name] = word
        for i in range(self.s.ntd):
            if self.s.td[i].used:
                for name, word in (("OP_STATE", self.s.td[i].op_lock & ~<uint64_t>2),
                                   ("SEPT_TREE", self.s.td[i].tree_lock), ("TD_EPOCH", self.s.td[i].epoch_lock)):
                    if word:
                        out[f"{name} of {self.s.td[i].tdr_pa:#x}"] = word
        for i in range(3):
            for hpa, _, _, _, word in self.pamt_used(i):
                if word & ~<uint64_t>2:
                    out[f"PAMT {hpa:#x} size {i}"] = word
        return out

    def write_memory(self, uint64_t pa, bytes content not None):
        """What the VMM writes to memory outside of TDMRs: TD_PARAMS, lists of GPAs, sources of PAGE.ADD."""
        if pa >> 52 or seam_write(self.s, pa, <const char *>content, len(content)) < 0:
            raise UsageError(f"{len(content)} bytes at {pa:#x}", "the module's user has 64 pages of memory",
                             "fewer pages, below 4P")

    def read_memory(self, uint64_t pa, int size):
        """Bytes of such memory, within one page; zeroes where nothing was written."""
        cdef uint64_t *words = host_words(self.s, pa)
        if not 0 <= size <= 4096 - (pa & 0xfff):
            raise UsageError(f"{size} bytes at {pa:#x}", "not within a page", "at most to the page's end")
        return bytes(size) if words == NULL else (<char *>words)[pa & 0xfff:(pa & 0xfff) + size]

    def lock_word(self, str name not None):
        """A lock word of the module as a whole: KOT, WBCACHE or SYS."""
        return module_lock(self.s, name)[0]

    def set_lock_word(self, str name not None, uint64_t word):
        """Somebody holds that lock, or nobody does."""
        module_lock(self.s, name)[0] = word

    def wb_resume(self):
        """How far TDH.PHYMEM.CACHE.WB got before an interrupt ended it; 0: nothing is to be resumed."""
        return self.s.wb_next

    # ---- calls

    def seamcall(self, int leaf, int lp=0, uint64_t rcx=0, uint64_t rdx=0, uint64_t r8=0, uint64_t r9=0,
                 uint64_t r10=0, uint64_t r11=0, uint64_t version=0, int64_t intr_after=-1):
        """(rax, rcx, rdx, r8, r9, r10, r11) after the leaf."""
        cdef SeamRegs r
        cdef Cpu *c = self.lp(lp)
        r.rax = <uint64_t>leaf | version << 16
        r.rcx = rcx
        r.rdx = rdx
        r.r8 = r8
        r.r9 = r9
        r.r10 = r10
        r.r11 = r11
        self.s.lp[lp].intr_after = intr_after
        self.s.lp[lp].polls = 0
        with nogil:
            seamcall(c, self.s, leaf, &r)
        self.s.lp[lp].intr_after = -1
        return r.rax, r.rcx, r.rdx, r.r8, r.r9, r.r10, r.r11

    def tdcall(self, object leaf, int lp=0, uint64_t rcx=0, uint64_t rdx=0, uint64_t r8=0, int64_t intr_after=-1,
               uint8_t version=0):
        """(result, rax, rcx, rdx, r8, r9) after a TDCALL, by its number, of the VCPU on that LP."""
        cdef SeamRegs r
        cdef Cpu *c = self.lp(lp)
        cdef int res, number
        if type(leaf) is not int or not 0 <= leaf <= 0xffff:
            raise UsageError(f"TDCALL {leaf!r}", "not a leaf number", "0..65535")
        number = leaf
        memset(&r, 0, sizeof(r))
        r.rax = <uint64_t>number | <uint64_t>version << 16
        r.rcx = rcx
        r.rdx = rdx
        r.r8 = r8
        self.s.lp[lp].intr_after = intr_after
        self.s.lp[lp].polls = 0
        res = tdcall(c, self.s, number, &r)
        self.s.lp[lp].intr_after = -1
        return res, r.rax, r.rcx, r.rdx, r.r8, r.r9

    def guest_access(self, int lp, uint64_t gpa, bint same_rip=False):
        """(result, rax, rcx, rdx, r8) of a write by the VCPU on that LP."""
        cdef SeamRegs r
        memset(&r, 0, sizeof(r))
        cdef int res = td_guest_access(self.lp(lp), self.s, gpa, same_rip, &r)
        return res, r.rax, r.rcx, r.rdx, r.r8

    def ept_violation(self, int lp, uint64_t gpa):
        """As guest_access(), but the write faults whatever the S-EPT says."""
        cdef SeamRegs r
        memset(&r, 0, sizeof(r))
        cdef Vp *vp = vp_running(self.lp(lp), self.s)
        if vp == NULL:
            return GUEST_NOT_INSIDE, 0, 0, 0, 0
        cdef int res = td_ept_violation(self.lp(lp), self.s, vp, gpa, &r)
        return res, r.rax, r.rcx, r.rdx, r.r8

    def td_async_exit(self, int lp):
        """(rax, rcx, rdx) of an external-interrupt exit; rax 0 if no VCPU ran there."""
        cdef SeamRegs r
        memset(&r, 0, sizeof(r))
        cdef uint64_t reason = td_async_exit(self.lp(lp), self.s, &r)
        return reason, r.rcx, r.rdx

    def polls(self, int lp=0):
        """How often the last call on that LP looked for an interrupt."""
        self.lp(lp)
        return self.s.lp[lp].polls

    # ---- state

    cdef Td *_td(self, uint64_t tdr) except NULL:
        cdef Td *td = seam_td(self.s, tdr)
        if td == NULL:
            raise UsageError(f"TDR {tdr:#x}", "no TD has it", "the page given to mng_create")
        return td

    cdef Vp *_vp(self, uint64_t tdvpr) except NULL:
        cdef Vp *vp = seam_vp(self.s, tdvpr)
        if vp == NULL:
            raise UsageError(f"TDVPR {tdvpr:#x}", "no VCPU has it", "the page given to vp_create")
        return vp

    def td(self, uint64_t tdr):
        """The TDR and TDCS fields of a TD, as a dict."""
        cdef Td *td = self._td(tdr)
        d = {name: td_word(td, i)[0] for name, i in td_field.items()}
        d.update(levels=td.levels, gpaw=td.gpaw, num_l2=td.num_l2, mrtd=[td.mrtd[i] for i in range(6)])
        return d

    def set_td(self, uint64_t tdr, **fields):
        """Writes fields behind the module's back; for tests and prepared states. A TD without a root stays
        uninitialised."""
        cdef Td *td = self._td(tdr)
        cdef uint64_t value
        cdef dict top = {"op_state": OPS_FAILED_IMPORT if td.root[0] != NULL else 0, "hkid": SEAM_HKIDS - 1,
                         "lifecycle": TD_TEARDOWN, "num_tdcx": SEAM_TDCS_PAGES + 3}
        for name, number in fields.items():
            if name not in td_field:
                raise UsageError(f"field {name!r}", "unknown", ", ".join(td_field))
            value = number
            if name in top and value > top[name]:
                raise UsageError(f"{name}={value}", "no TD in this state has that", f"0..{top[name]}")
            td_word(td, td_field[name])[0] = value

    def vp(self, uint64_t tdvpr):
        """The TDVPS fields of a VCPU, as a dict."""
        cdef Vp *vp = self._vp(tdvpr)
        d = {name: vp_word(vp, i)[0] for name, i in vp_field.items()}
        d.update(epf_count=vp.epf_count, x2apic_id=vp.x2apic_id, index=vp.index,
                 epf_gpa=[vp.epf_gpa[i] for i in range(vp.epf_n)])
        return d

    def set_vp(self, uint64_t tdvpr, **fields):
        cdef Vp *vp = self._vp(tdvpr)
        for name, value in fields.items():
            if name not in vp_field:
                raise UsageError(f"field {name!r}", "unknown", ", ".join(vp_field))
            vp_word(vp, vp_field[name])[0] = value

    def kot(self, int hkid):
        """State of a key in the module's key ownership table: 0 free, 1 assigned, 2 flushed, 3 written back, 4 not
        for TDs."""
        if not 0 <= hkid < SEAM_HKIDS:
            raise UsageError(f"HKID {hkid}", f"there are {SEAM_HKIDS}", f"0..{SEAM_HKIDS - 1}")
        return self.s.kot[hkid]

    def in_guest(self):
        """{logical processor: TDVPR} of the VCPUs inside a TD."""
        return {i: self.s.vp[self.s.lp[i].vp - 1].tdvpr_pa for i in range(SEAM_MAX_LP) if self.s.lp[i].vp}

    cdef PamtEntry *_pamt(self, uint64_t hpa, int size) except NULL:
        cdef PamtEntry *e = pamt_entry(self.s, hpa, size) if 0 <= size <= 2 else NULL
        if e == NULL:
            raise UsageError(f"HPA {hpa:#x}, size {size}", "not in an initialised TDMR", "an HPA inside one, size 0..2")
        return e

    def pamt(self, uint64_t hpa, int size=0):
        """(page type, owner, bepoch, lock word) of a page."""
        cdef PamtEntry *e = self._pamt(hpa, size)
        return e.pt, e.owner, e.bepoch, e.lock

    def pamt_words(self, uint64_t hpa, int size=0):
        """A page's PAMT entry as the 16 bytes that module 1.5 keeps: (lock, type and owner; BEPOCH)."""
        cdef PamtEntry *e = self._pamt(hpa, size)
        return (e.lock & 0xffff) | <uint64_t>e.pt << 16 | (e.owner >> 12) << 24, e.bepoch

    def content(self, uint64_t hpa, int size=0):
        """What a guest page holds: 0 zeroes, else an id that RELOCATE and DEMOTE copy."""
        return self._pamt(hpa, size).content

    def write_page(self, uint64_t hpa, bytes content not None):
        """Gives a 4K page in use its content, behind the module's back."""
        cdef PamtEntry *e = self._pamt(hpa, 0)
        cdef uint64_t *page = page_memory(self.s, hpa)
        if len(content) != 4096:
            raise UsageError(f"{len(content)} bytes", "a page has 4096", "pad them")
        if e.pt != PT_REG:
            raise UsageError(f"HPA {hpa:#x}", "not a page of a guest",
                             "one that mem_page_add or mem_page_aug gave to it")
        undo_page(self.s, page)
        memcpy(page, <const char *>content, 4096)
        pamt_touch(self.s, e)
        e.flags |= PAMT_BYTES

    def read_page(self, uint64_t hpa):
        """The 4096 bytes that lie at a 4K page: an S-EPT page's entries, or what write_page() put there."""
        self._pamt(hpa, 0)
        return (<char *>page_memory(self.s, hpa & ~<uint64_t>0xfff))[:4096]

    def set_pamt(self, uint64_t hpa, int size=0, *, pt=None, owner=None, bepoch=None, lock=None, content=None):
        cdef PamtEntry *e = self._pamt(hpa, size)
        undo_word(self.s, &e.lock)
        pamt_touch(self.s, e)
        if pt is not None:
            if pt in (PT_TDR, PT_TDVPR) and pt != e.pt:
                e.ref = 0            # it has the type, and nothing that belongs to it
            e.pt = pt
        if owner is not None:
            e.owner = owner
        if bepoch is not None:
            e.bepoch = bepoch
        if lock is not None:
            e.lock = lock
        if content is not None:
            e.content = content

    def walk(self, uint64_t tdr, uint64_t gpa, int level=0, int vm=0):
        """(raw entry, level where the walk to that level ends)."""
        cdef uint64_t raw
        cdef int reached
        check_place(self._td(tdr), vm, level)
        seam_walk(self.s, self._td(tdr), vm, gpa, level, &raw, &reached)
        return raw, reached

    def set_entry(self, uint64_t tdr, uint64_t gpa, int level, uint64_t raw, int vm=0):
        cdef int reached = 0
        check_place(self._td(tdr), vm, level)
        cdef uint64_t *ep = seam_entry(self.s, self._td(tdr), vm, gpa, level, &reached)
        if ep == NULL or reached != level:
            raise UsageError(f"GPA {gpa:#x} level {level}", "the walk ends above", "sept_add first")
        undo_word(self.s, ep)
        tdp_write_once(ep, raw)

    def sept(self, uint64_t tdr, int vm=0):
        """[(gpa, level, raw)] of every entry that is not free, tables before what they hold."""
        cdef SeptIter it
        cdef list out = []
        check_place(self._td(tdr), vm, 0)
        sept_iter_init(&it, self.s, self._td(tdr), vm)
        while sept_iter_next(&it):
            out.append((it.gpa, it.level, it.raw))
        return out

    def pamt_used(self, int size):
        """[(hpa, page type, owner, bepoch, lock)] of entries that are not all zero, of one page size."""
        cdef list out = []
        cdef uint64_t hpa, step
        cdef PamtEntry *e
        cdef int i
        if not 0 <= size <= 2:
            raise UsageError(f"size {size}", "not a page size", "0 (4K), 1 (2M) or 2 (1G)")
        step = <uint64_t>1 << (12 + 9 * size)
        for i in range(self.s.ntdmr):
            if self.s.tdmr[i].p4k == NULL:
                continue
            hpa = self.s.tdmr[i].start
            while hpa < self.s.tdmr[i].ready:
                if hpa & 0x3fffffff == 0:
                    PyErr_CheckSignals()
                e = pamt_entry(self.s, hpa, size)
                if e.pt or e.owner or e.bepoch or e.lock:
                    out.append((hpa, e.pt, e.owner, e.bepoch, e.lock))
                hpa += step
        return out

    # ---- snapshots, injection

    def snapshot(self):
        if seam_snapshot(self.s) < 0:
            raise MemoryError

    def restore(self):
        if not self.s.tracking:
            raise UsageError("restore", "there is no snapshot", "snapshot() first")
        seam_restore(self.s)

    def inject(self, int leaf=-1, int lock=0, bint exclusive=True, int skip=0, int count=1, uint64_t status=0,
               int64_t intr_after=-1):
        """Adds an injection; its number."""
        cdef SeamInject inj
        memset(&inj, 0, sizeof(inj))
        inj.leaf = leaf
        inj.lock = lock
        inj.exclusive = exclusive
        inj.skip = skip
        inj.count = count
        inj.status = status
        inj.intr_after = intr_after
        cdef int n = seam_inject(self.s, &inj)
        if n < 0:
            raise UsageError("inject", "too many injections", "inject_clear()")
        return n

    def inject_used(self):
        return [self.s.inject[i].used for i in range(self.s.ninject)]

    def inject_clear(self):
        seam_inject_clear(self.s)
