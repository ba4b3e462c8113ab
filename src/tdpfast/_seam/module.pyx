# cython: language_level=3
"""The TDX module as one object (see module.pxd)."""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from tdpfast._names cimport (
    INJ_ENTRY, INJ_EPOCH, INJ_NONE, INJ_OP_STATE, INJ_PAMT_R8, INJ_PAMT_RCX, INJ_SEPT_TREE, INJ_TDR, SEAM_LEAVES,
    SYNC_LOAD, SYNC_PUT_EXCL, SYNC_TRY_EXCL,
)
from tdpfast._sync.atomic cimport (
    tdp_fetch_add, tdp_fetch_and, tdp_fetch_or, tdp_read_once, tdp_read_once32, tdp_try_cmpxchg, tdp_unlikely,
    tdp_write_once32,
)
from tdpfast._seam.defs cimport *
from tdpfast._seam.leaf cimport *
from tdpfast._seam.locks cimport *
from tdpfast._seam.record cimport SEAM_UNSEEN, observe_call
from tdpfast._seam.state cimport *
from tdpfast._seam.steps cimport *
from tdpfast._sync.cpu cimport sync_load, sync_point, sync_rare

# The families put their leaves' rows into the table when they are imported.
import tdpfast._seam.large
import tdpfast._seam.md
import tdpfast._seam.migrate
import tdpfast._seam.mr
import tdpfast._seam.page
import tdpfast._seam.pamt
import tdpfast._seam.phymem
import tdpfast._seam.sept
import tdpfast._seam.sys
import tdpfast._seam.td
import tdpfast._seam.vp

cdef Leaf *rows = leaf_row(0)
cdef Leaf no_leaf            # for numbers beyond the table

cdef enum:
    UNDO_RECORDS = 1 << 22       # lazily committed
    UNDO_PAGES = 1 << 13


# ---- instance -----------------------------------------------------------------------------------------------

cdef Seam *seam_new(int max_td, int max_vp) noexcept nogil:
    cdef Seam *s = <Seam *>calloc(1, sizeof(Seam))
    if s == NULL:
        return NULL
    s.ntd = max_td
    s.nvp = max_vp
    s.td = <Td *>calloc(max_td, sizeof(Td))
    s.vp = <Vp *>calloc(max_vp, sizeof(Vp))
    if s.td == NULL or s.vp == NULL:
        seam_free(s)
        return NULL
    s.hkid_shift = 46
    s.seamrr_start = 0x7c000000
    s.seamrr_end = 0x7e000000
    s.hkid_private = 32
    s.hkid_bits = <uint64_t>0x3f << 46
    s.pa_reserved = ~((<uint64_t>1 << 46) - 1)
    s.nlp = SEAM_MAX_LP
    s.lp_ready = ~<uint64_t>0
    s.sys_state = SYS_READY
    s.global_hkid = s.hkid_private
    seam_reset(s)
    return s


cdef void seam_not_ready(Seam *s, int nlp) noexcept nogil:
    """A module that was just loaded: nothing of TDH.SYS.* was done, and nlp logical processors have to."""
    s.nlp = nlp
    s.lp_ready = 0
    s.sys_state = SYS_INIT_PENDING
    s.kot[s.global_hkid] = KOT_FREE


cdef void seam_free(Seam *s) noexcept nogil:
    cdef uint64_t size
    cdef int i
    if s == NULL:
        return
    for i in range(s.ntdmr):
        size = s.tdmr[i].end - s.tdmr[i].start
        seam_unmap(s.tdmr[i].p4k, (size >> 12) * sizeof(PamtEntry))
        seam_unmap(s.tdmr[i].p2m, (size >> 21) * sizeof(PamtEntry))
        seam_unmap(s.tdmr[i].p1g, (size >> 30) * sizeof(PamtEntry))
        seam_unmap(s.tdmr[i].memory, size)
    seam_unmap(s.host, s.host_bytes)
    free(s.info)
    seam_unmap(s.host_page, SEAM_HOST_PAGES * sizeof(HostPage))
    seam_unmap(s.undo, UNDO_RECORDS * sizeof(SeamUndo))
    seam_unmap(s.pages, <uint64_t>UNDO_PAGES << 12)
    free(s.td_copy)
    free(s.vp_copy)
    free(s.record)
    free(s.td)
    free(s.vp)
    free(s)


cdef int seam_write(Seam *s, uint64_t pa, const void *bytes, size_t n) noexcept nogil:
    """Wants the module to itself, or a page of its own that is there already."""
    cdef size_t done = 0, part
    cdef HostPage *page
    cdef int i
    if s.host_page == NULL:
        s.host_page = <HostPage *>seam_map(SEAM_HOST_PAGES * sizeof(HostPage))
        if s.host_page == NULL:
            return -1
    while done < n:
        page = NULL
        for i in range(s.nhost_page):
            if s.host_page[i].pa == (pa + done) & ~<uint64_t>0xfff:
                page = &s.host_page[i]
        if page == NULL:
            if s.nhost_page == SEAM_HOST_PAGES:
                return -1
            page = &s.host_page[s.nhost_page]
            memset(page, 0, sizeof(HostPage))
            page.pa = (pa + done) & ~<uint64_t>0xfff
            s.nhost_page += 1
        part = min(n - done, 4096 - ((pa + done) & 0xfff))
        memcpy(<char *>page.word + ((pa + done) & 0xfff), <const char *>bytes + done, part)
        done += part
    return 0


cdef void seam_reset(Seam *s) noexcept nogil:
    """Back to a module that never had a TD. Reserved areas have to be set again."""
    cdef uint64_t size
    cdef int i
    seam_snapshot_drop(s)
    memset(s.td, 0, s.ntd * sizeof(Td))
    memset(s.vp, 0, s.nvp * sizeof(Vp))
    memset(s.kot, 0, SEAM_HKIDS)
    memset(s.kot, KOT_RESERVED, s.hkid_private)          # the shared ones
    s.kot[s.global_hkid] = KOT_RESERVED                  # and the module's own
    s.kot_lock = s.wbcache_lock = s.sys_lock = 0
    s.wb_hkids = s.wb_next = 0
    s.nhost_page = 0
    seam_zero(s.host, s.host_bytes)
    s.ninject = s.inject_owned = 0
    s.nrecord = 0
    for i in range(SEAM_MAX_LP):
        memset(&s.lp[i], 0, sizeof(SeamLp))
        s.lp[i].intr_after = -1
    for i in range(s.ntdmr):
        size = s.tdmr[i].end - s.tdmr[i].start
        seam_zero(s.tdmr[i].p4k, (size >> 12) * sizeof(PamtEntry))
        seam_zero(s.tdmr[i].p2m, (size >> 21) * sizeof(PamtEntry))
        seam_zero(s.tdmr[i].p1g, (size >> 30) * sizeof(PamtEntry))
        seam_zero(s.tdmr[i].memory, size)


# ---- calls --------------------------------------------------------------------------------------------------

cdef inline const Leaf *row_of(int leaf) noexcept nogil:
    return &rows[leaf] if 0 <= leaf < SEAM_LEAVES else &no_leaf


cdef inline bint has_versions(const Seam *s, const Leaf *row) noexcept nogil:
    return row.version != 0 and (s.topology or not row.flags & LEAF_V1_EXCL)


cdef inline uint64_t leaf_run(Cpu *c, Seam *s, const Leaf *row, SeamRegs *r) noexcept nogil:
    """The steps that the row asks for, the leaf itself, and whatever is still held given back."""
    cdef Call k
    cdef uint64_t status = call_enter(c, s, row, r, &k)
    if status == TDX_SUCCESS:
        status = row.fn(c, s, r, &k)
    if k.held:
        call_leave(c, s, &k)
    return status


cdef uint64_t seamcall(Cpu *c, Seam *s, int leaf, SeamRegs *r) noexcept nogil:
    """Runs one SEAMCALL leaf; regs.rax bits 23:16 choose its version, those above are reserved. May yield. Returns
    and sets RAX. A version of a leaf that has none is refused first, then a module that is not ready, then a leaf that
    does not exist."""
    cdef const Leaf *row = row_of(leaf)
    if r.rax >> 16 and (r.rax >> 24 or not has_versions(s, row)):
        r.rax = TDX_OPERAND_INVALID
        return r.rax
    if tdp_unlikely(s.sys_state != SYS_READY) and not row.flags & LEAF_EARLY:
        r.rax = TDX_SYS_NOT_READY
        return r.rax
    if row.fn == NULL:
        r.rax = TDX_OPERAND_INVALID
        return r.rax
    if tdp_unlikely(tdp_read_once32(&s.ninject) != 0 or tdp_read_once32(&s.observed) != SEAM_UNSEEN):
        return seamcall_slow(c, s, leaf, r)
    r.rax = leaf_run(c, s, row, r)
    return r.rax


cdef uint64_t seamcall_slow(Cpu *c, Seam *s, int leaf, SeamRegs *r) noexcept nogil:
    cdef SeamRegs before = r[0]
    cdef SeamInject inj
    cdef SeamLp *lp = lp_of(s, c)
    cdef int64_t intr = lp.intr_after
    cdef uint64_t *word = NULL
    cdef int which = inject_find(c, s, leaf, &inj)
    if which == 0:
        r.rax = leaf_run(c, s, row_of(leaf), r)
    elif inj.status != 0:
        r.rax = inj.status
    else:
        if inj.intr_after >= 0:
            lp.intr_after = inj.intr_after
            lp.polls = 0
        if inj.lock != INJ_NONE:
            word = inject_word(c, s, &inj, leaf, r)
            if word != NULL:
                if not inject_hold(c, s, &inj, word):
                    word = NULL
            if word == NULL and inj.intr_after < 0:
                inject_undo(c, s, which - 1)
                which = 0
        r.rax = leaf_run(c, s, row_of(leaf), r)
        if word != NULL:
            inject_drop(c, s, &inj, word)
        lp.intr_after = intr
    if tdp_read_once32(&s.observed) != SEAM_UNSEEN:
        observe_call(c, s, leaf, &before, r, which)
    return r.rax


cdef int inject_find(Cpu *c, Seam *s, int leaf, SeamInject *inj) noexcept nogil:
    """1 + the index of the injection that acts on this call, and a copy of it; 0: none."""
    cdef int which = 0
    cdef int i
    if tdp_read_once32(&s.ninject) == 0:
        return 0
    sync_rare(c, SYNC_LOAD, <uint64_t>&s.side_lock)
    side_lock(s)
    for i in range(s.ninject):
        if inject_matches(c, &s.inject[i], leaf):
            inj[0] = s.inject[i]
            which = i + 1
            break
    side_unlock(s)
    return which


cdef void inject_undo(Cpu *c, Seam *s, int index) noexcept nogil:
    """Nobody holds what is not there or what others hold: the injection did not act."""
    side_lock(s)
    s.inject[index].used -= 1
    if s.inject[index].count >= 0:
        s.inject[index].count += 1
        c.used_up -= 1
    side_unlock(s)


cdef bint inject_matches(Cpu *c, SeamInject *inj, int leaf) noexcept nogil:
    if inj.leaf != -1 and inj.leaf != leaf or inj.count == 0 or (inj.cpu and inj.cpu != c.id + 1):
        return False
    if inj.skip > 0:
        inj.skip -= 1
        c.used_up += 1
        return False
    if inj.count > 0:
        inj.count -= 1
        c.used_up += 1
    inj.used += 1
    return True


cdef uint64_t *inject_entry(Cpu *c, Seam *s, const Td *td, uint64_t gpa, int level) noexcept nogil:
    """As seam_entry(), offering each entry it reads; NULL if the walk ends above level. May yield."""
    cdef uint64_t *page = <uint64_t *>td.root[0]
    cdef uint64_t e
    cdef int at = td.levels - 1
    if level > at or page == NULL:
        return NULL
    while at > level:
        e = sync_load(c, &page[sept_index(gpa, at)])
        if e & SEPT_PS or e & SEPT_HPA == 0:
            return NULL
        page = page_memory(s, e & SEPT_HPA)
        if page == NULL:
            return NULL
        at -= 1
    return &page[sept_index(gpa, at)]


cdef uint64_t inject_tdr(Seam *s, const Leaf *row, const SeamRegs *r) noexcept nogil:
    """The TDR that a call is about."""
    cdef PamtEntry *e
    cdef uint64_t named = r.rcx if row.about == TDR_IN_RCX or row.about == TDVPR_IN_RCX else r.rdx
    if row.about == TDR_IN_RCX or row.about == TDR_IN_RDX or row.about == ABOUT_NOBODY:
        return named & ~<uint64_t>0xfff
    e = pamt_entry(s, named & SEPT_HPA, 0)
    return e.owner if e != NULL else 0


cdef uint64_t *inject_word(Cpu *c, Seam *s, SeamInject *inj, int leaf, SeamRegs *r) noexcept nogil:
    """The lock word an injection is about; NULL if this call has none such. May yield."""
    cdef const Leaf *row = row_of(leaf)
    cdef uint64_t tdr
    cdef Td *td
    cdef PamtEntry *e = NULL
    cdef uint64_t raw
    cdef uint64_t *ep
    cdef int level = <int>(r.rcx & 7)
    if inj.lock == INJ_NONE:
        return NULL
    if inj.lock == INJ_PAMT_R8:
        e = pamt_entry(s, r.r8 & SEPT_HPA, level if row.flags & LEAF_R8_SIZED and level < 2 else 0)
    elif inj.lock == INJ_PAMT_RCX:
        e = pamt_entry(s, r.rcx & SEPT_HPA & ~s.hkid_bits, 1 if row.flags & LEAF_RCX_RANGE else 0)
    if inj.lock == INJ_PAMT_R8 or inj.lock == INJ_PAMT_RCX:
        return &e.lock if e != NULL else NULL
    tdr = inject_tdr(s, row, r)
    td = seam_td(s, tdr)
    if td == NULL:
        return NULL
    if inj.lock == INJ_TDR:
        return &pamt_named(s, tdr, 0).lock
    if inj.lock == INJ_OP_STATE:
        return &td.op_lock
    if inj.lock == INJ_SEPT_TREE:
        return &td.tree_lock
    if inj.lock == INJ_EPOCH:
        return &td.epoch_lock
    ep = inject_entry(c, s, td, r.rcx & SEPT_HPA, level)
    if ep == NULL or inj.lock == INJ_ENTRY:
        return ep
    raw = sync_load(c, ep)
    e = entry_pamt(s, raw, level)
    return &e.lock if e != NULL and raw & SEPT_HPA else NULL


cdef bint inject_hold(Cpu *c, Seam *s, SeamInject *inj, uint64_t *word) noexcept nogil:
    """The other processor takes the lock, if it is to be had: nobody holds what others hold already."""
    cdef bint plain = inj.lock == INJ_SEPT_TREE or inj.lock == INJ_EPOCH
    cdef uint64_t old, held
    sync_point(c, SYNC_TRY_EXCL, <uint64_t>word)
    undo_word(s, word)
    if inj.lock == INJ_ENTRY:
        return not tdp_fetch_or(word, SEPT_TDEL) & SEPT_TDEL
    old = tdp_read_once(word)
    while not (old & 1 or (inj.exclusive and old >> (1 if plain else 2))):
        held = old | 1 if inj.exclusive else old + (2 if plain else 4)
        if tdp_try_cmpxchg(word, &old, held):    # at once: a reader may come meanwhile
            return True
    return False


cdef void inject_drop(Cpu *c, Seam *s, SeamInject *inj, uint64_t *word) noexcept nogil:
    """As the holder would: an exclusive release rewrites the word, but host priority stays."""
    cdef bint plain = inj.lock == INJ_SEPT_TREE or inj.lock == INJ_EPOCH
    sync_point(c, SYNC_PUT_EXCL, <uint64_t>word)
    undo_word(s, word)
    if inj.lock == INJ_ENTRY:
        tdp_fetch_and(word, ~SEPT_TDEL)
    elif inj.exclusive:
        tdp_fetch_and(word, 0 if plain else 2)
    else:
        tdp_fetch_add(word, <uint64_t>-2 if plain else <uint64_t>-4)


cdef int seam_inject(Seam *s, const SeamInject *inject) noexcept nogil:
    """Adds an injection; its index, or -1. The caller owns it."""
    cdef int index = -1
    side_lock(s)
    if s.ninject < SEAM_MAX_INJECT:
        index = s.ninject
        s.inject[index] = inject[0]
        s.inject_owned += 1
        tdp_write_once32(&s.ninject, index + 1)
    side_unlock(s)
    return index


cdef void seam_inject_off(Seam *s, int index) noexcept nogil:
    """An injection acts no more."""
    side_lock(s)
    s.inject[index].count = 0
    side_unlock(s)


cdef int seam_inject_put(Seam *s, int index) noexcept nogil:
    """Its owner is done with an injection; how often it acted. Places are given out again once all are put, so
    that no number changes its meaning."""
    cdef int used
    side_lock(s)
    s.inject[index].count = 0
    used = s.inject[index].used
    s.inject_owned -= 1
    if s.inject_owned == 0:
        tdp_write_once32(&s.ninject, 0)
    side_unlock(s)
    return used


cdef void seam_inject_clear(Seam *s) noexcept nogil:
    """Drops all injections, whoever owns them."""
    side_lock(s)
    s.inject_owned = 0
    tdp_write_once32(&s.ninject, 0)
    side_unlock(s)


# ---- snapshots ----------------------------------------------------------------------------------------------

cdef int used_td(Seam *s) noexcept nogil:
    cdef int n = s.ntd
    while n > 0 and not s.td[n - 1].used:
        n -= 1
    return n


cdef int used_vp(Seam *s) noexcept nogil:
    cdef int n = s.nvp
    while n > 0 and not s.vp[n - 1].used:
        n -= 1
    return n


cdef int seam_snapshot(Seam *s) noexcept nogil:
    """What seam_restore() goes back to, as often as wanted; 0, or -1 without memory."""
    if s.undo == NULL:
        s.undo = <SeamUndo *>seam_map(UNDO_RECORDS * sizeof(SeamUndo))
        s.pages = <uint64_t *>seam_map(<uint64_t>UNDO_PAGES << 12)
        s.td_copy = <Td *>calloc(s.ntd, sizeof(Td))
        s.vp_copy = <Vp *>calloc(s.nvp, sizeof(Vp))
    if s.undo == NULL or s.pages == NULL or s.td_copy == NULL or s.vp_copy == NULL:
        return -1
    s.cap_undo = UNDO_RECORDS
    s.cap_pages = UNDO_PAGES
    s.nundo = s.npages = 0
    s.undo_lost = 0
    s.snap_td = used_td(s)
    s.snap_vp = used_vp(s)
    memcpy(s.td_copy, s.td, s.snap_td * sizeof(Td))
    memcpy(s.vp_copy, s.vp, s.snap_vp * sizeof(Vp))
    memcpy(s.lp_copy, s.lp, sizeof(s.lp))
    memcpy(s.kot_copy, s.kot, SEAM_HKIDS)
    s.wb_copy[0] = s.wb_hkids
    s.wb_copy[1] = s.wb_next
    s.tracking = 1
    return 0


cdef void seam_restore(Seam *s) noexcept nogil:
    """Back to the snapshot; it stays armed. Costs what was touched since."""
    cdef uint64_t i = s.nundo
    cdef uint64_t addr
    while i > 0:
        i -= 1
        addr = <uint64_t>s.undo[i].addr
        if addr & 1:
            memcpy(<void *>(addr - 1), s.pages + s.undo[i].old * 512, 4096)
        else:
            (<uint64_t *>addr)[0] = s.undo[i].old
    s.nundo = s.npages = 0
    memcpy(s.td, s.td_copy, s.snap_td * sizeof(Td))
    memcpy(s.vp, s.vp_copy, s.snap_vp * sizeof(Vp))
    memcpy(s.lp, s.lp_copy, sizeof(s.lp))
    memcpy(s.kot, s.kot_copy, SEAM_HKIDS)
    s.wb_hkids = s.wb_copy[0]
    s.wb_next = s.wb_copy[1]
    s.kot_lock = s.wbcache_lock = 0


cdef void seam_snapshot_drop(Seam *s) noexcept nogil:
    s.tracking = 0
    s.nundo = s.npages = 0


# ---- inspection ---------------------------------------------------------------------------------------------

cdef Td *seam_td(Seam *s, uint64_t tdr_pa) noexcept nogil:
    cdef PamtEntry *e = pamt_entry(s, tdr_pa, 0)
    return &s.td[e.ref - 1] if e != NULL and e.pt == PT_TDR and e.ref != 0 else NULL


cdef Vp *seam_vp(Seam *s, uint64_t tdvpr_pa) noexcept nogil:
    cdef PamtEntry *e = pamt_entry(s, tdvpr_pa, 0)
    return &s.vp[e.ref - 1] if e != NULL and e.pt == PT_TDVPR and e.ref != 0 else NULL


cdef uint64_t *seam_entry(Seam *s, const Td *td, int vm, uint64_t gpa, int level, int *reached) noexcept nogil:
    """The S-EPT entry of gpa at level, or where the walk ends above; NULL without a root. Takes no lock."""
    cdef uint64_t *page = <uint64_t *>td.root[vm]
    cdef uint64_t e
    cdef int at = td.levels - 1
    if page == NULL:
        return NULL
    while at > level:
        e = tdp_read_once(&page[sept_index(gpa, at)])
        if e & SEPT_PS or e & SEPT_HPA == 0:
            break
        page = page_memory(s, e & SEPT_HPA)
        if page == NULL:
            return NULL
        at -= 1
    reached[0] = at
    return &page[sept_index(gpa, at)]


cdef int seam_walk(Seam *s, const Td *td, int vm, uint64_t gpa, int level, uint64_t *raw, int *reached) noexcept nogil:
    """Raw entry and level where a walk to level ends (blocked tables are walked through); its public state."""
    cdef uint64_t *ep = seam_entry(s, td, vm, gpa, level, reached)
    if ep == NULL:
        raw[0] = 0
        reached[0] = td.levels
        return -1
    raw[0] = tdp_read_once(ep)
    return <int>sept_public(raw[0])


cdef const PamtEntry *pamt_peek(Seam *s, uint64_t hpa, int size) noexcept nogil:
    return pamt_entry(s, hpa, size)


cdef void sept_iter_init(SeptIter *it, Seam *s, const Td *td, int vm) noexcept nogil:
    memset(it, 0, sizeof(SeptIter))
    it.s = s
    it.td = td
    it.vm = vm
    it.page[0] = <uint64_t *>td.root[vm]
    it.depth = 0 if it.page[0] != NULL else -1


cdef bint sept_iter_next(SeptIter *it) noexcept nogil:
    """Moves to the next entry that is not free (host-priority residue counts); False at the end."""
    cdef uint64_t e
    cdef uint64_t fill = SEPT_FREE if it.vm == 0 else 0
    cdef int i, d, top = it.td.levels - 1
    while it.depth >= 0:
        d = it.depth
        if it.index[d] == 512:
            it.depth -= 1
            continue
        e = tdp_read_once(&it.page[d][it.index[d]])
        it.index[d] += 1
        if e == fill:
            continue
        it.gpa = 0
        for i in range(d + 1):
            it.gpa |= <uint64_t>(it.index[i] - 1) << (12 + 9 * (top - i))
        it.level = top - d
        it.raw = e
        if it.level > 0 and not e & SEPT_PS and e & SEPT_HPA:
            it.depth = d + 1
            it.page[d + 1] = page_memory(it.s, e & SEPT_HPA)
            it.index[d + 1] = 0
            if it.page[d + 1] == NULL:
                it.depth = d
        return True
    return False
