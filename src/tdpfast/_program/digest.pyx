# cython: language_level=3
"""The digest of a final state (see digest.pxd): tables, descriptors, KVM's and the module's state, results.

It is a sum over words, of what each one says beyond the state the execution began with, so its cost is that of what
changed. Places are offsets, not addresses, so that every process comes to the same number. Left out is what only
records need (operation numbers, steps, places in the trace), and the grace-period counters, which only ever
order what else is in it.
"""

from libc.stdint cimport uint32_t
from libc.string cimport memcmp

from tdpfast._names cimport TDX_MAX_VCPUS
from tdpfast._mmu.arena cimport ARENA_SHARES, SP_FREED, SPTE_ENTRIES, Arena, Sp
from tdpfast._ops.ops cimport OpResult
from tdpfast._seam.state cimport SEAM_HKIDS, SEAM_MAX_LP, Seam, SeamLp, SeamUndo, Td, Tdmr, Vp
from tdpfast._sync.cpu cimport Cpu
from tdpfast._mmu.hardware cimport TLB_ENTRIES
from tdpfast._mmu.tdp_mmu cimport Kvm
from tdpfast._tdx.state cimport Tdx
from tdpfast._program.world cimport ThreadOps, World

cdef enum Region:            # upper bits of a place
    AT_PAGE = 1
    AT_SP
    AT_KVM
    AT_TDX
    AT_TD
    AT_VP
    AT_LP
    AT_MEMORY
    AT_PAMT
    AT_HOST
    AT_RESULT
    AT_PIN


cdef inline uint64_t mix(uint64_t place, uint64_t value) noexcept nogil:
    cdef uint64_t x = (place * 0x9e3779b97f4a7c15u) ^ value
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u
    x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9u
    return x ^ (x >> 32)


cdef inline uint64_t at(int region, uint64_t offset) noexcept nogil:
    return <uint64_t>region << 56 | offset


cdef struct Sum:             # a list of words of one region
    uint64_t place
    uint64_t sum
    const Tdx *t


cdef inline void begin(Sum *k, int region, uint64_t index) noexcept nogil:
    k.place = at(region, index << 12)


cdef inline void put(Sum *k, uint64_t value) noexcept nogil:
    k.sum += mix(k.place, value)
    k.place += 1


# ---- KVM's side -----------------------------------------------------------------------------------------------

cdef inline uint64_t number(const Arena *a, const Sp *sp) noexcept nogil:
    return 0 if sp == NULL else <uint64_t>(sp - a.sps) + 1


cdef void put_sp(Sum *k, const Arena *a, const Sp *sp, uint64_t index) noexcept nogil:
    begin(k, AT_SP, index)
    put(k, sp.gfn)
    put(k, <uint64_t>sp.ptep - <uint64_t>a.base if sp.ptep != NULL else ~<uint64_t>0)
    put(k, number(a, sp.next) | number(a, sp.nx_next) << 32)
    put(k, number(a, sp.nx_prev) | <uint64_t>sp.is_root << 32 | <uint64_t>sp.scheduled_to_zap << 40)
    put(k, sp.external_spt)
    put(k, sp.root_count)
    put(k, <uint64_t>sp.state | <uint64_t>sp.level << 8 | <uint64_t><uint32_t>sp.root_number << 32)
    put(k, <uint64_t>sp.is_mirror | <uint64_t>sp.invalid << 8 | <uint64_t>sp.ad_disabled << 16
        | <uint64_t>sp.access << 24 | <uint64_t>sp.nx_huge_page_disallowed << 32 | <uint64_t>sp.nx_tracked << 40
        | <uint64_t>(sp.rcu_head.epoch != 0) << 48)


cdef void put_tables(Sum *k, const Arena *a) noexcept nogil:
    """Pages of the snapshot that were written, and those that the CPUs' shares gave out. What a freed page holds is
    nobody's business."""
    cdef const uint64_t *page
    cdef const uint64_t *old
    cdef uint64_t i, n, index
    cdef int w, cpu
    for i in range(a.snap_fresh):
        if memcmp(&a.sps[i], &a.snap_sps[i], sizeof(Sp)):
            put_sp(k, a, &a.sps[i], i)
        if not a.dirty[i] or a.sps[i].state == SP_FREED:
            continue
        page = a.base + i * SPTE_ENTRIES
        old = a.snap_pages + i * SPTE_ENTRIES
        for w in range(SPTE_ENTRIES):
            if page[w] != old[w]:
                k.sum += mix(at(AT_PAGE, i * SPTE_ENTRIES + w), page[w])
    for cpu in range(ARENA_SHARES):
        for n in range(a.share_used[cpu]):
            index = a.share_base + cpu * a.share + n
            put_sp(k, a, &a.sps[index], index)
            if a.sps[index].state == SP_FREED:
                continue
            page = a.base + index * SPTE_ENTRIES
            for w in range(SPTE_ENTRIES):
                if page[w] != a.fill:
                    k.sum += mix(at(AT_PAGE, index * SPTE_ENTRIES + w), page[w])


cdef void put_kvm(Sum *k, const Kvm *kvm) noexcept nogil:
    cdef uint32_t i
    begin(k, AT_KVM, 0)
    put(k, kvm.mmu_lock.val | kvm.tdp_mmu_pages_lock.val << 32)
    put(k, number(kvm.arena, kvm.tdp_mmu_roots) | <uint64_t>kvm.nroots << 32)
    put(k, number(kvm.arena, kvm.vcpu_root[0]) | number(kvm.arena, kvm.vcpu_root[1]) << 32)
    put(k, number(kvm.arena, kvm.vcpu_root[2]) | number(kvm.arena, kvm.vcpu_root[3]) << 32)
    put(k, kvm.users_count | <uint64_t>kvm.workers << 32 | <uint64_t>kvm.destroyed << 63)
    for i in range(kvm.nslots):
        put(k, kvm.slots[i].dirty_log | <uint64_t>kvm.slots[i].invalid << 32)
    put(k, <uint64_t>kvm.vm_bugged << 8 | <uint64_t>kvm.vm_dead << 16 | <uint64_t>kvm.users << 24)
    put(k, kvm.mmio_generation)
    put(k, number(kvm.arena, kvm.nx_head) | number(kvm.arena, kvm.nx_tail) << 32)
    for i in range(3):
        put(k, kvm.pages[i])
    put(k, kvm.tdp_mmu_pages)
    put(k, kvm.nx_lpage_splits)
    put(k, kvm.nx_possible)
    put(k, kvm.mmio_created)
    put(k, kvm.hook_failures)
    begin(k, AT_KVM, 1)
    for i in range(kvm.ntracked):
        put(k, kvm.tracked[i] | <uint64_t>kvm.track_armed[i] << 63)
    begin(k, AT_KVM, 5)
    for i in range(TLB_ENTRIES):
        if kvm.tlb.entry[i].cpu:
            k.sum += mix(at(AT_KVM, 6 << 12 | kvm.tlb.entry[i].gfn << 16 | kvm.tlb.entry[i].cpu << 4),
                         kvm.tlb.entry[i].pfn | <uint64_t>kvm.tlb.entry[i].writable << 62)
    for i in range(kvm.log.n):
        put(k, kvm.log.page[i].state)
    begin(k, AT_KVM, 3)
    put(k, kvm.invalidate.seq | kvm.invalidate.in_progress << 56)
    put(k, <uint64_t>kvm.nattributes << 16 | <uint64_t>kvm.nposted << 32)
    for i in range(kvm.nattributes):
        put(k, kvm.attributes[i].start ^ kvm.attributes[i].end << 30 ^ <uint64_t>kvm.attributes[i].is_private << 63)
    for i in range(kvm.nfreed):
        k.sum += mix(at(AT_KVM, 4 << 12 | kvm.freed[i].gfn), kvm.freed[i].pfn)
    begin(k, AT_KVM, 2)
    put(k, kvm.lpage.ninhibit | <uint64_t>kvm.lpage.inhibit_all << 32)
    for i in range(kvm.lpage.ninhibit):
        put(k, kvm.lpage.inhibit[i])


cdef void put_tdx(Sum *k, const Tdx *t) noexcept nogil:
    cdef uint64_t i
    cdef int cpu, v
    begin(k, AT_TDX, 0)
    put(k, <uint64_t><uint32_t>t.hkid | <uint64_t>t.state << 32)
    put(k, t.wait_for_sept_zap | <uint64_t>t.pre_fault_allowed << 32 | <uint64_t>t.tdr_owned << 33
        | <uint64_t>t.tdcs_owned << 34)
    put(k, t.page_add_src)
    put(k, t.sept_owned)
    put(k, <uint64_t>t.nr_premapped)
    for v in range(TDX_MAX_VCPUS):
        put(k, t.guest_busy[v] | <uint64_t>t.loaded[v] << 32)
    # Pages for the S-EPT: those from before, then each CPU's share as far as it was used.
    begin(k, AT_TDX, 1)
    for i in range(t.sept_share_base):
        k.sum += mix(at(AT_TDX, 2 << 12 | i), t.sept_state[i])
    for cpu in range(32):
        put(k, t.request_2m[cpu])
        put(k, t.sept_share_used[cpu])
        for i in range(t.sept_share_used[cpu]):
            put(k, t.sept_state[t.sept_share_base + cpu * t.vm.arena.share + i])


# ---- the module -----------------------------------------------------------------------------------------------

cdef uint64_t place_of(const Sum *k, const Seam *s, uint64_t addr) noexcept nogil:
    """Where a word of the undo log lies; 0 for one of a Td, which counts as a whole."""
    cdef const Tdmr *m
    cdef uint64_t size, base
    cdef int i
    for i in range(s.ntdmr):
        m = &s.tdmr[i]
        size = m.end - m.start
        base = <uint64_t>i << 48
        if addr - <uint64_t>m.memory < size:
            return at(AT_MEMORY, base | (addr - <uint64_t>m.memory))
        if addr - <uint64_t>m.p4k < (size >> 12) * 32:
            return at(AT_PAMT, base | (addr - <uint64_t>m.p4k))
        if addr - <uint64_t>m.p2m < (size >> 21) * 32:
            return at(AT_PAMT, base | <uint64_t>1 << 46 | (addr - <uint64_t>m.p2m))
        if addr - <uint64_t>m.p1g < (size >> 30) * 32:
            return at(AT_PAMT, base | <uint64_t>1 << 47 | (addr - <uint64_t>m.p1g))
    if addr - <uint64_t>s.host < s.host_bytes:
        return at(AT_HOST, addr - <uint64_t>s.host)
    if addr - <uint64_t>k.t.pins < k.t.npins * 8:
        return at(AT_PIN, addr - <uint64_t>k.t.pins)
    return 0


cdef void swap_page(Sum *k, const Seam *s, uint64_t *page, uint64_t *copy, bint count) noexcept nogil:
    cdef uint64_t place = place_of(k, s, <uint64_t>page) if count else 0
    cdef uint64_t value
    cdef int i
    for i in range(512):
        value = page[i]
        if value != copy[i]:
            if count:
                k.sum += mix(place + 8 * <uint64_t>i, value) - mix(place + 8 * <uint64_t>i, copy[i])
            page[i] = copy[i]
            copy[i] = value


cdef void swap_record(Sum *k, Seam *s, SeamUndo *u, bint count) noexcept nogil:
    """The word, or page, of a record changes places with what it was; count: adds the difference."""
    cdef uint64_t addr = <uint64_t>u.addr
    cdef uint64_t value, place
    if addr & 1:
        swap_page(k, s, <uint64_t *>(addr - 1), s.pages + u.old * 512, count)
        return
    value = (<uint64_t *>addr)[0]
    if value != u.old:
        place = place_of(k, s, addr) if count else 0
        if place:
            k.sum += mix(place, value) - mix(place, u.old)
        (<uint64_t *>addr)[0] = u.old
        u.old = value


cdef void put_undone(Sum *k, Seam *s) noexcept nogil:
    """PAMT entries and S-EPT pages, by what the undo log says of them: going back through it, each record adds what
    its word is beyond what it was, so a word that came to be what it had been adds nothing. Then forward again."""
    cdef uint64_t i = s.nundo
    while i > 0:
        i -= 1
        swap_record(k, s, &s.undo[i], True)
    for i in range(s.nundo):
        swap_record(k, s, &s.undo[i], False)


cdef void put_words(Sum *k, const void *words, uint64_t size) noexcept nogil:
    cdef uint64_t i
    for i in range(size // 8):
        put(k, (<const uint64_t *>words)[i])


cdef void put_module(Sum *k, Seam *s) noexcept nogil:
    cdef const Td *td
    cdef int i
    put_undone(k, s)
    for i in range(s.ntd):
        td = &s.td[i]
        if memcmp(td, &s.td_copy[i], sizeof(Td)) if i < s.snap_td else td.used:
            begin(k, AT_TD, i)
            put_words(k, td, <uint64_t>&td.root[0] - <uint64_t>td)
            # Addresses of roots are of this process.
            put_words(k, &td.xfam, <uint64_t>(td + 1) - <uint64_t>&td.xfam)
    for i in range(s.nvp):
        if memcmp(&s.vp[i], &s.vp_copy[i], sizeof(Vp)) if i < s.snap_vp else s.vp[i].used:
            begin(k, AT_VP, i)
            put_words(k, &s.vp[i], sizeof(Vp))
    for i in range(SEAM_MAX_LP):
        if memcmp(&s.lp[i], &s.lp_copy[i], sizeof(SeamLp)):
            begin(k, AT_LP, i)
            put(k, s.lp[i].vp)
            put(k, s.lp[i].entry_rip)
    begin(k, AT_LP, SEAM_MAX_LP)
    if memcmp(s.kot, s.kot_copy, SEAM_HKIDS):
        put_words(k, s.kot, SEAM_HKIDS)
    put(k, s.kot_lock)
    put(k, s.wbcache_lock)


# ---- what the operations returned -----------------------------------------------------------------------------

cdef void put_results(Sum *k, const Arena *a, const ThreadOps *t, const Cpu *c, int thread) noexcept nogil:
    cdef const OpResult *r
    cdef int i, j
    begin(k, AT_RESULT, thread)
    put(k, <uint64_t>t.done | <uint64_t>c.abort << 32)
    put(k, number(a, <const Sp *>c.root[0]) | number(a, <const Sp *>c.root[1]) << 32)
    put(k, number(a, <const Sp *>c.root[2]) | number(a, <const Sp *>c.root[3]) << 32)
    for i in range(t.done):
        r = &t.res[i]
        put(k, <uint64_t>r.ret)
        put(k, r.pfn)
        put(k, r.spte)
        put(k, r.gfn)
        put(k, r.rax)
        put(k, <uint64_t><uint32_t>r.level | <uint64_t><uint32_t>r.root_level << 32)
        put(k, <uint64_t><uint32_t>r.sp_level | <uint64_t><uint32_t>r.tries << 32)
        put(k, <uint64_t><uint32_t>r.kind | <uint64_t><uint32_t>r.flags << 32)
        for j in range(6):
            put(k, r.sptes[j] if r.has_spte[j] else 1)
        for j in range(4):
            put(k, r.out[j])


cdef uint64_t world_digest(void *user) noexcept nogil:
    """Program.digest of a scenario. Leaves everything as it is."""
    cdef World *w = <World *>user
    cdef Sum k
    cdef int i
    k.sum = 0
    k.t = w.t
    put_tables(&k, &w.vm.arena)
    put_kvm(&k, &w.vm.kvm)
    put_tdx(&k, w.t)
    put_module(&k, w.t.seam)
    for i in range(w.nthreads):
        put_results(&k, &w.vm.arena, &w.threads[i], w.cpus[i], i)
    return k.sum
