# cython: language_level=3
"""Which shared words a step changes beside the one it offered (see watch.pxd).

The explorer takes for private what no step offers. Here that is looked at: copies of every table and structure are
compared after each step. A page that its CPU took and nobody else can reach yet is private indeed and left out; the
rest is counted by field, with the locks that were held every time. What is read without an offer, this cannot see:
tests/discovery/test_soundness.py does, by what the reduction then misses.
"""

from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from tdpfast._names cimport SYNC_CALL_RCU, SYNC_LOAD, SYNC_PUT_EXCL, SYNC_RCU_FREE, SYNC_RCU_LOCK, SYNC_RMW, SYNC_WAIT
from tdpfast._mmu.arena cimport ARENA_SHARES, SP_UNUSED, SPTE_ENTRIES, Arena
from tdpfast._seam.module cimport seam_td
from tdpfast._seam.state cimport PT_EPT, PT_NDA, PT_TDCX, Seam, SeamUndo, Tdmr, page_memory, pamt_entry
from tdpfast._seam.defs cimport SEPT_TDEL
from tdpfast._sync.cpu cimport Cpu, Rcu
from tdpfast._tdx.pamt cimport PamtHost, pamt_host
from tdpfast._mmu.arena cimport Sp
from tdpfast._mmu.tdp_mmu cimport Kvm
from tdpfast._seam.state cimport Td, Vp
from tdpfast._tdx.state cimport Tdx
from tdpfast._program.world cimport Touch, Watch, World

cdef enum:
    TOUCHES = 4096
    PAMT_BYTES_EACH = 32


cdef Watch *watch_new(void *user) noexcept nogil:
    """For a World whose snapshot is taken; NULL without memory."""
    cdef World *x = <World *>user
    cdef Watch *w = <Watch *>calloc(1, sizeof(Watch))
    if w == NULL:
        return NULL
    w.npages = x.vm.arena.next_fresh
    w.pages = <uint8_t *>malloc(w.npages << 12)
    w.sps = <Sp *>calloc(w.npages, sizeof(Sp))
    w.index = <uint32_t *>malloc(w.npages * sizeof(uint32_t))
    w.td = <Td *>malloc(x.t.seam.ntd * sizeof(Td))
    w.vp = <Vp *>malloc(x.t.seam.nvp * sizeof(Vp))
    if w.pages == NULL or w.sps == NULL or w.index == NULL or w.td == NULL or w.vp == NULL:
        watch_free(w)
        return NULL
    return w


cdef void watch_free(Watch *w) noexcept nogil:
    if w != NULL:
        free(w.pages)
        free(w.sps)
        free(w.index)
        free(w.td)
        free(w.vp)
        free(w)


cdef void list_pages(Watch *w, const Arena *a) noexcept nogil:
    cdef uint64_t i
    cdef int cpu
    w.nindex = 0
    for i in range(a.snap_fresh):
        w.index[w.nindex] = <uint32_t>i
        w.nindex += 1
    for cpu in range(ARENA_SHARES):
        for i in range(a.share_used[cpu]):
            w.index[w.nindex] = <uint32_t>(a.share_base + cpu * a.share + i)
            w.nindex += 1


cdef void copy_all(Watch *w, World *x) noexcept nogil:
    cdef Arena *a = &x.vm.arena
    cdef uint64_t k, i
    for k in range(w.nindex):
        i = w.index[k]
        memcpy(w.pages + (i << 12), a.base + i * SPTE_ENTRIES, 4096)
        w.sps[i] = a.sps[i]
    w.kvm = x.vm.kvm
    w.tdx = x.t[0]
    memcpy(w.td, x.t.seam.td, x.t.seam.ntd * sizeof(Td))
    memcpy(w.vp, x.t.seam.vp, x.t.seam.nvp * sizeof(Vp))
    w.nundo = x.t.seam.nundo


# ---- what changed ---------------------------------------------------------------------------------------------

cdef struct Step:            # the step that was just made
    Watch *w
    World *x
    Cpu *c                   # whose it was; NULL: the grace-period agent
    int32_t kind
    uint64_t obj
    uint64_t arg
    uint32_t held


cdef uint32_t locks_held(World *x, const Cpu *c) noexcept nogil:
    cdef uint32_t held = 0
    cdef PamtHost *h = pamt_host(x.t.seam)
    cdef Td *td = seam_td(x.t.seam, x.t.tdr_pa)
    cdef int v
    if c != NULL:
        held |= (HOLDS_MMU_WRITE if c.held.mmu_write else 0) | (HOLDS_MMU if c.held.mmu_read or c.held.mmu_write else 0)
        held |= HOLDS_SLOTS_LOCK if c.held.slots_lock else 0
    if x.vm.kvm.tdp_mmu_pages_lock.val:
        held |= HOLDS_PAGES_LOCK
    if h != NULL and h.lock.val:
        held |= HOLDS_PAMT_LOCK
    if td != NULL and td.epoch_lock & 1:
        held |= HOLDS_EPOCH
    if td != NULL and pamt_entry(x.t.seam, x.t.tdr_pa, 0).lock & 1:
        held |= HOLDS_TDR
    for v in range(x.t.nvcpus):
        if x.t.guest_busy[v]:
            held |= HOLDS_VCPU
    return held


cdef void note(Step *s, int region, uint64_t offset, uint32_t held) noexcept nogil:
    cdef uint64_t key = 1 + (<uint64_t>region << 32 | offset)
    cdef uint32_t i = <uint32_t>((key * 0x9e3779b97f4a7c15u) >> 52)
    cdef Touch *t
    for _ in range(TOUCHES):
        t = &s.w.touch[i & (TOUCHES - 1)]
        if t.key == 0 or t.key == key:
            t.held = held if t.key == 0 else t.held & held
            t.key = key
            t.count += 1
            t.kind = s.kind
            return
        i += 1


cdef inline bint offered(const Step *s, uint64_t addr) noexcept nogil:
    """Whether the step said that it would touch the word at addr."""
    cdef Rcu *r = &s.x.vm.kvm.rcu
    if SYNC_RCU_LOCK <= s.kind <= SYNC_RCU_FREE and <uint64_t>r <= addr < <uint64_t>(r + 1):
        return True
    if s.kind == SYNC_RCU_FREE:
        return addr >> 12 == s.obj >> 12
    return (SYNC_LOAD <= s.kind <= SYNC_PUT_EXCL or s.kind == SYNC_WAIT) and (addr ^ s.obj) >> 3 == 0


cdef void compare(Step *s, int region, const void *now, const void *before, uint64_t size) noexcept nogil:
    """Word by word; offsets are within the structure."""
    cdef const uint64_t *a = <const uint64_t *>now
    cdef const uint64_t *b = <const uint64_t *>before
    cdef uint64_t i
    if memcmp(now, before, size) == 0:
        return
    for i in range(size // 8):
        if a[i] != b[i] and not offered(s, <uint64_t>(a + i)):
            note(s, region, 8 * i, s.held)


cdef void compare_tables(Step *s) noexcept nogil:
    cdef Arena *a = &s.x.vm.arena
    cdef uint64_t *page
    cdef uint64_t i, n
    cdef int k
    for n in range(s.w.nindex):
        i = s.w.index[n]
        if s.w.sps[i].state <= SP_UNUSED:
            continue
        # A grace period's end is about the page and all that belongs to it; so is a call_rcu().
        page = a.base + i * SPTE_ENTRIES
        if (s.kind == SYNC_RCU_FREE and s.obj == <uint64_t>page) or (
                s.kind == SYNC_CALL_RCU and s.arg == <uint64_t>page):
            continue
        compare(s, WATCH_SP, &a.sps[i], &s.w.sps[i], <uint64_t>&a.sps[i].uaf_op - <uint64_t>&a.sps[i])
        if memcmp(page, s.w.pages + (i << 12), 4096) == 0:
            continue
        for k in range(SPTE_ENTRIES):
            if page[k] != (<uint64_t *>(s.w.pages + (i << 12)))[k] and not offered(s, <uint64_t>(page + k)):
                note(s, WATCH_PAGE, a.sps[i].level, s.held)


cdef inline bint within(uint64_t addr, const void *start, uint64_t size) noexcept nogil:
    return start != NULL and addr - <uint64_t>start < size


cdef void note_word(Step *s, uint64_t addr) noexcept nogil:
    """A word of the module that changed without an offer: which field of what, and whether its own lock is held."""
    cdef Seam *m = s.x.t.seam
    cdef PamtHost *h = pamt_host(m)
    cdef Tdmr *t
    cdef uint64_t size, offset
    cdef uint64_t pins = <uint64_t>s.x.t.pins
    cdef uint32_t own
    cdef int i
    if within(addr, s.x.t.pins, s.x.t.npins * sizeof(uint64_t)):
        # The counts of a 2M frame are one object, which its first stands for.
        offset = (((addr - pins) >> 3) + s.x.t.pin_base & ~<uint64_t>511) - s.x.t.pin_base
        if s.kind != SYNC_RMW or s.obj != pins + 8 * offset:
            note(s, WATCH_TDX, <uint64_t>&s.x.t.pins - <uint64_t>s.x.t, s.held)
        return
    for i in range(m.ntdmr):
        t = &m.tdmr[i]
        size = t.end - t.start
        if within(addr, t.memory, size):
            own = HOLDS_ENTRY if (<uint64_t *>addr)[0] & SEPT_TDEL else 0
            note(s, WATCH_SEPT, 0, s.held | own)
            return
        if (within(addr, t.p4k, (size >> 12) * PAMT_BYTES_EACH) or within(addr, t.p2m, (size >> 21) * PAMT_BYTES_EACH)
                or within(addr, t.p1g, (size >> 30) * PAMT_BYTES_EACH)):
            offset = addr & (PAMT_BYTES_EACH - 1)
            own = HOLDS_ENTRY if (<uint64_t *>(addr - offset))[0] & 1 else 0
            note(s, WATCH_PAMT, offset, s.held | own)
            return
    if within(addr, h, m.host_bytes):
        offset = addr - <uint64_t>h
        note(s, WATCH_HOST, min(offset, <uint64_t>&h.refs[0] - <uint64_t>h), s.held)
    elif not within(addr, m.td, m.ntd * sizeof(Td)):       # those are compared as a whole
        note(s, WATCH_SEAM, 0, s.held)


cdef void compare_module(Step *s) noexcept nogil:
    cdef Seam *m = s.x.t.seam
    cdef SeamUndo *u
    cdef uint64_t addr, i = s.w.nundo
    cdef int k
    while i < m.nundo:
        u = &m.undo[i]
        i += 1
        addr = <uint64_t>u.addr
        if addr & 1:
            note(s, WATCH_SEPT_PAGE, 0, s.held)
        elif (<uint64_t *>addr)[0] != u.old and not offered(s, addr):
            note_word(s, addr)
    for k in range(m.ntd):
        if m.td[k].used or s.w.td[k].used:
            compare(s, WATCH_TD, &m.td[k], &s.w.td[k], sizeof(Td))
    for k in range(m.nvp):
        if m.vp[k].used or s.w.vp[k].used:
            compare(s, WATCH_VP, &m.vp[k], &s.w.vp[k], sizeof(Vp))


cdef void watch_step(void *user, int agent, int kind, uint64_t obj, uint64_t arg) noexcept nogil:
    """Program.watch: agent made a step that offered (kind, obj, arg). agent < 0: an execution begins."""
    cdef World *x = <World *>user
    cdef Step s
    cdef uint64_t k
    s.x = x
    s.w = x.watch
    s.c = x.cpus[agent] if 0 <= agent < x.nthreads else NULL
    s.kind = kind
    s.obj = obj
    s.arg = arg
    if agent < 0:
        # Pages that the last execution took are not there yet.
        for k in range(x.vm.arena.snap_fresh, s.w.npages):
            s.w.sps[k].state = 0
    list_pages(s.w, &x.vm.arena)
    if agent >= 0:
        s.held = locks_held(x, s.c)
        compare_tables(&s)
        compare(&s, WATCH_KVM, &x.vm.kvm, &s.w.kvm, sizeof(Kvm))
        compare(&s, WATCH_TDX, x.t, &s.w.tdx, sizeof(Tdx))
        compare_module(&s)
    copy_all(s.w, x)


# ---- names ----------------------------------------------------------------------------------------------------

cdef enum:
    ORIGIN = 1 << 12         # where the structures below are thought to lie: nobody is asked for a field of nothing


cdef dict offsets(dict fields):
    """Places of fields from the beginning of their structure; 0 is the beginning."""
    return {place - ORIGIN if place else 0: name for place, name in fields.items()}


cdef str field_of(dict fields, uint64_t offset):
    """The field a word lies in: the last that begins at or before it."""
    starts = [start for start in fields if start <= offset]
    return fields[max(starts)] if starts else "?"


cdef dict sp_fields():
    cdef Sp *p = <Sp *>ORIGIN
    return offsets({<uint64_t>&p.spt: "spt", <uint64_t>&p.gfn: "gfn", <uint64_t>&p.ptep: "ptep",
            <uint64_t>&p.next: "next", <uint64_t>&p.nx_next: "nx_next", <uint64_t>&p.nx_prev: "nx_prev",
            <uint64_t>&p.external_spt: "external_spt",
            <uint64_t>&p.root_count: "root_count", <uint64_t>&p.rcu_head: "rcu_head",
            <uint64_t>&p.index: "state", <uint64_t>&p.level: "level", <uint64_t>&p.is_mirror: "flags"})


cdef dict kvm_fields():
    cdef Kvm *p = <Kvm *>ORIGIN
    return offsets({0: "spte", <uint64_t>&p.design: "design", <uint64_t>&p.hooks: "hooks", <uint64_t>&p.arena: "arena",
            <uint64_t>&p.rcu: "rcu", <uint64_t>&p.mmu_lock: "mmu_lock",
            <uint64_t>&p.tdp_mmu_pages_lock: "tdp_mmu_pages_lock", <uint64_t>&p.tdp_mmu_roots: "tdp_mmu_roots",
            <uint64_t>&p.nroots: "nroots", <uint64_t>&p.gfn_direct_bits: "gfn_direct_bits",
            <uint64_t>&p.vcpu_root: "vcpu_root", <uint64_t>&p.slots: "slot", <uint64_t>&p.lpage: "lpage",
            <uint64_t>&p.nslots: "slot_counts", <uint64_t>&p.invalidate: "invalidate",
            <uint64_t>&p.nfreed & ~<uint64_t>7: "gmem",
            <uint64_t>&p.has_mirror & ~<uint64_t>7: "flags", <uint64_t>&p.vm_bugged & ~<uint64_t>7: "vm_bugged",
            <uint64_t>&p.users & ~<uint64_t>7: "users", <uint64_t>&p.users_count: "users_count",
            <uint64_t>&p.mmio_generation: "mmio_generation",
            <uint64_t>&p.tracked: "tracked", <uint64_t>&p.ntracked: "ntracked", <uint64_t>&p.nx_head: "nx_list",
            <uint64_t>&p.pages: "pages", <uint64_t>&p.tdp_mmu_pages: "tdp_mmu_pages",
            <uint64_t>&p.nx_lpage_splits: "nx_lpage_splits", <uint64_t>&p.nx_possible: "nx_possible",
            <uint64_t>&p.mmio_created: "mmio_created", <uint64_t>&p.external_next: "external_next",
            <uint64_t>&p.cut: "cut",
            <uint64_t>&p.hook_failures: "hook_failures", <uint64_t>&p.tlb: "tlb", <uint64_t>&p.log: "log"})


cdef dict tdx_fields():
    cdef Tdx *p = <Tdx *>ORIGIN
    return offsets({0: "pages", <uint64_t>&p.nvcpus: "nvcpus_hkid", <uint64_t>&p.state: "state_wait",
            <uint64_t>&p.pre_fault_allowed & ~<uint64_t>7: "owned", <uint64_t>&p.nr_premapped: "nr_premapped",
            <uint64_t>&p.pins: "pins", <uint64_t>&p.pinned: "pinned", <uint64_t>&p.request_2m: "request_2m",
            <uint64_t>&p.tdr_owned & ~<uint64_t>7: "owned", <uint64_t>&p.page_add_src: "page_add_src",
            <uint64_t>&p.guest_busy: "guest_busy", <uint64_t>&p.loaded: "loaded", <uint64_t>&p.sept_base: "sept_base",
            <uint64_t>&p.sept_next: "sept_next", <uint64_t>&p.sept_owned: "sept_owned",
            <uint64_t>&p.sept_state: "sept_state", <uint64_t>&p.sept_share_used: "sept_share_used",
            <uint64_t>&p.until_kick: "until_kick", <uint64_t>&p.last_failure: "last_failure"})


cdef dict td_fields():
    cdef Td *p = <Td *>ORIGIN
    return offsets({0: "used", <uint64_t>&p.hkid: "hkid", <uint64_t>&p.lifecycle: "lifecycle",
            <uint64_t>&p.fatal: "fatal", <uint64_t>&p.op_state: "op_state", <uint64_t>&p.op_lock: "op_lock",
            <uint64_t>&p.tree_lock: "tree_lock",
            <uint64_t>&p.epoch_lock: "epoch_lock", <uint64_t>&p.td_epoch: "td_epoch", <uint64_t>&p.refcount: "refcount",
            <uint64_t>&p.chldcnt: "chldcnt", <uint64_t>&p.attributes: "attributes",
            <uint64_t>&p.num_vcpus: "num_vcpus", <uint64_t>&p.assoc_vcpus: "assoc_vcpus",
            <uint64_t>&p.num_tdcx: "num_tdcx", <uint64_t>&p.levels: "levels", <uint64_t>&p.root: "root",
            <uint64_t>&p.xfam: "xfam", <uint64_t>&p.sha: "measurement", <uint64_t>&p.tdcx_pa: "tdcx_pa"})


cdef dict vp_fields():
    cdef Vp *p = <Vp *>ORIGIN
    return offsets({0: "used", <uint64_t>&p.state: "state", <uint64_t>&p.lp: "lp",
            <uint64_t>&p.vcpu_epoch: "vcpu_epoch", <uint64_t>&p.num_tdvpx: "num_tdvpx", <uint64_t>&p.rip: "rip",
            <uint64_t>&p.ve_valid: "ve",
            <uint64_t>&p.pend_nmi: "pend_nmi", <uint64_t>&p.hp_busy: "host_priority",
            <uint64_t>&p.trap_exit: "trap_exit", <uint64_t>&p.epf_count: "zero_step",
            <uint64_t>&p.td: "td"})


cdef dict host_fields():
    cdef PamtHost *p = <PamtHost *>ORIGIN
    return offsets({0: "lock", <uint64_t>&p.pages_out: "pages_out", <uint64_t>&p.nranges: "ranges",
            <uint64_t>&p.refs: "refs"})


cdef str watch_name(void *user, uint64_t obj):
    """The field of KVM's or the module's structures that a word lies in, or ""."""
    cdef World *x = <World *>user
    cdef Arena *a = &x.vm.arena
    cdef Td *td = seam_td(x.t.seam, x.t.tdr_pa)
    if within(obj, &x.vm.kvm, sizeof(Kvm)):
        return "Kvm." + field_of(kvm_fields(), obj - <uint64_t>&x.vm.kvm)
    if within(obj, x.t, sizeof(Tdx)):
        return "Tdx." + field_of(tdx_fields(), obj - <uint64_t>x.t)
    if within(obj, a.sps, a.npages * sizeof(Sp)):
        return "Sp." + field_of(sp_fields(), (obj - <uint64_t>a.sps) % sizeof(Sp))
    if td != NULL and within(obj, td, sizeof(Td)):
        return "Td." + field_of(td_fields(), obj - <uint64_t>td)
    return "Seam" if within(obj, x.t.seam, sizeof(Seam)) else ""


cdef list watch_report(Watch *w):
    """What was touched without an offer, by field: (name, how often, HOLDS_* bits held every time, kind of the last
    step), sorted."""
    cdef int i
    regions = {WATCH_PAGE: ("table", None), WATCH_SP: ("Sp", sp_fields()), WATCH_KVM: ("Kvm", kvm_fields()),
               WATCH_TDX: ("Tdx", tdx_fields()), WATCH_TD: ("Td", td_fields()), WATCH_VP: ("Vp", vp_fields()),
               WATCH_PAMT: ("PAMT", {0: "lock", 8: "owner", 16: "bepoch", 24: "page"}),
               WATCH_SEPT: ("S-EPT entry", None), WATCH_SEPT_PAGE: ("S-EPT page", None),
               WATCH_HOST: ("PAMT counts", host_fields()), WATCH_SEAM: ("Seam", None)}
    found = {}
    for i in range(TOUCHES):
        if w.touch[i].key:
            region, fields = regions[(w.touch[i].key - 1) >> 32]
            name = region if fields is None else f"{region}.{field_of(fields, (w.touch[i].key - 1) & 0xffffffff)}"
            count, held, _ = found.get(name, (0, 0xffffffff, 0))
            found[name] = (count + w.touch[i].count, held & w.touch[i].held, w.touch[i].kind)
    return sorted((name, *rest) for name, rest in found.items())


# ---- nothing is left behind -------------------------------------------------------------------------------------

cdef inline uint64_t mixed(uint64_t sum, uint64_t value) noexcept nogil:
    sum = (sum ^ value) * 0x9e3779b97f4a7c15u
    return sum ^ (sum >> 29)


cdef uint64_t mixed_words(uint64_t sum, const void *words, uint64_t size) noexcept nogil:
    cdef uint64_t i
    for i in range(size // 8):
        sum = mixed(sum, (<const uint64_t *>words)[i])
    return sum


cdef uint64_t watch_image(void *user) noexcept nogil:
    """A digest of everything an execution can change, all of it and not only what changed: equal before and after a
    reset. Slow: it reads the whole PAMT."""
    cdef World *x = <World *>user
    cdef Seam *s = x.t.seam
    cdef Arena *a = &x.vm.arena
    cdef Tdmr *t = &s.tdmr[0]
    cdef uint64_t sum = 0, i
    cdef uint64_t n = (t.end - t.start) >> 12
    sum = mixed_words(sum, a.base, a.snap_fresh << 12)
    sum = mixed_words(sum, a.sps, a.snap_fresh * sizeof(Sp))
    sum = mixed_words(sum, &x.vm.kvm, sizeof(Kvm))
    sum = mixed_words(sum, x.t, sizeof(Tdx))
    sum = mixed_words(sum, s.td, s.ntd * sizeof(Td))
    sum = mixed_words(sum, s.vp, s.nvp * sizeof(Vp))
    sum = mixed_words(sum, s.lp, sizeof(s.lp))
    sum = mixed_words(sum, s.host, s.host_bytes) if s.host != NULL else sum
    sum = mixed_words(sum, t.p2m, (n >> 9) * PAMT_BYTES_EACH)
    for i in range(n):
        if t.p4k[i].pt != PT_NDA or t.p4k[i].lock or t.p4k[i].bepoch or t.p4k[i].owner:
            sum = mixed_words(mixed(sum, i), &t.p4k[i], PAMT_BYTES_EACH)
        if t.p4k[i].pt == PT_EPT or t.p4k[i].pt == PT_TDCX:
            sum = mixed_words(sum, page_memory(s, t.start + (i << 12)), 4096)
    return sum
