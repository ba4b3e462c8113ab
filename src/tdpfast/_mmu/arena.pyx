# cython: language_level=3
"""The page arena: allocation, poisoning, snapshot and restore (see arena.pxd)."""

from libc.stdint cimport int32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from tdpfast._names cimport CHECK_LIFE, EV_UAF, SYNC_RMW, SYNC_STORE, UAF_CMPXCHG, UAF_READ, UAF_SP, UAF_WRITE
from tdpfast._sync.cpu cimport SLOW_CHECK, Event, trace_new
from tdpfast._sync.atomic cimport tdp_fetch_add, tdp_load_acquire, tdp_read_once32, tdp_try_cmpxchg, tdp_write_once32

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    enum: PROT_READ
    enum: PROT_WRITE
    enum: MAP_PRIVATE
    enum: MAP_ANONYMOUS
    enum: MAP_NORESERVE


cdef void *map_zeroed(size_t size) noexcept nogil:
    """Lazily committed zeroed memory, 4K-aligned; NULL on failure."""
    cdef void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    return NULL if <size_t>p == <size_t>-1 else p


cdef int arena_init(Arena *a, uint64_t npages, uint64_t fill) noexcept nogil:
    """Reserves npages pages (committed when touched); 0, or -1 without memory."""
    memset(a, 0, sizeof(Arena))
    a.base = <uint64_t *>map_zeroed(npages << 12)
    a.sps = <Sp *>map_zeroed(npages * sizeof(Sp))
    a.freed = <uint8_t *>map_zeroed(npages)
    if a.base == NULL or a.sps == NULL or a.freed == NULL:
        a.npages = npages
        arena_destroy(a)
        return -1
    a.npages = npages
    a.fill = fill
    return 0


cdef void arena_destroy(Arena *a) noexcept nogil:
    if a.base != NULL:
        munmap(a.base, a.npages << 12)
    if a.sps != NULL:
        munmap(a.sps, a.npages * sizeof(Sp))
    if a.freed != NULL:
        munmap(a.freed, a.npages)
    if a.dirty != NULL:
        munmap(a.dirty, a.npages)
    free(a.snap_pages)
    free(a.snap_sps)
    free(a.snap_freed)
    memset(a, 0, sizeof(Arena))


cdef Sp *arena_pop(Arena *a) noexcept nogil:
    """The most recently freed page, or NULL. Lock-free; the tag in the upper half defeats ABA."""
    cdef uint64_t head = tdp_load_acquire(&a.free_head)
    cdef uint64_t index, new
    while head & 0xffffffffu:
        index = (head & 0xffffffffu) - 1
        new = ((head >> 32) + 1) << 32 | <uint32_t>tdp_read_once32(<int32_t *>&a.sps[index].free_next)
        if tdp_try_cmpxchg(&a.free_head, &head, new):
            return &a.sps[index]
    return NULL


cdef inline void fill_page(uint64_t *page, uint64_t value) noexcept nogil:
    # The pointer comes as an argument so that the compiler need not fear that the stores change it.
    cdef int i
    for i in range(SPTE_ENTRIES):
        page[i] = value


cdef Sp *arena_alloc(Arena *a, const Cpu *c) noexcept nogil:
    """A page filled with a.fill and its descriptor in state SP_UNUSED; NULL when the arena (or the CPU's share of
    it, while there are shares) is full."""
    cdef Sp *sp = NULL
    cdef uint64_t index
    cdef uint32_t cpu = <uint32_t>c.id & (ARENA_SHARES - 1)
    if a.share:
        if a.share_used[cpu] == a.share:
            return NULL
        index = a.share_base + cpu * a.share + a.share_used[cpu]
        a.share_used[cpu] += 1
        sp = &a.sps[index]
    else:
        sp = arena_pop(a)
    if sp == NULL:
        index = tdp_load_acquire(&a.next_fresh)
        while True:
            if index >= a.npages:
                return NULL
            if tdp_try_cmpxchg(&a.next_fresh, &index, index + 1):
                break
        sp = &a.sps[index]
    else:
        index = sp - a.sps
    memset(sp, 0, <uint64_t>&sp.free_next - <uint64_t>sp)
    sp.index = <uint32_t>index
    sp.spt = a.base + index * SPTE_ENTRIES
    tdp_write_once32(&sp.state, SP_UNUSED)
    sp.root_number = -1
    a.freed[index] = 0
    fill_page(sp.spt, a.fill)
    tdp_fetch_add(&a.live, 1)
    return sp


cdef void arena_free(Arena *a, Sp *sp) noexcept nogil:
    """Gives the page back, or poisons and keeps it when the arena keeps its dead. Idempotent for dead pages."""
    if sp.state == SP_FREED or sp.state == SP_FREE:
        return
    tdp_fetch_add(&a.live, <uint64_t>-1)
    if a.keep_dead:
        tdp_write_once32(&sp.state, SP_FREED)
        a.freed[sp.index] = 1
        if a.dirty != NULL:
            a.dirty[sp.index] = 1
        fill_page(sp.spt, SPTE_POISON)
        return
    arena_push(a, sp)


cdef void arena_push(Arena *a, Sp *sp) noexcept nogil:
    """The page can be allocated again. Lock-free."""
    cdef uint64_t head = tdp_load_acquire(&a.free_head)
    cdef uint64_t new
    tdp_write_once32(&sp.state, SP_FREE)
    while True:
        tdp_write_once32(<int32_t *>&sp.free_next, <int32_t>(head & 0xffffffffu))
        new = ((head >> 32) + 1) << 32 | (sp.index + 1)
        if tdp_try_cmpxchg(&a.free_head, &head, new):
            return


cdef void arena_bury(Arena *a) noexcept nogil:
    """Gives back the dead that the arena kept. Nobody else may touch the arena meanwhile."""
    cdef uint64_t i
    for i in range(a.next_fresh):
        if a.sps[i].state == SP_FREED:
            a.freed[i] = 0
            arena_push(a, &a.sps[i])


cdef void sp_note_uaf(Arena *a, Cpu *c, Sp *sp, int kind) noexcept nogil:
    """Use after free: one record per table, kind and operation, with a running count; each use of a header is told."""
    cdef Event *e
    cdef int i
    c.found.checks |= CHECK_LIFE
    if c.tables.uaf_count == 0:
        c.tables.uaf_gfn = sp.gfn
        c.tables.uaf_level = sp.level
    c.tables.uaf_count += 1
    if c.trace == NULL or c.dead:
        return
    if sp.uaf_op != a.op_seq:
        sp.uaf_op = a.op_seq
        for i in range(4):
            sp.uaf_event[i] = 0
    if kind != UAF_SP and sp.uaf_event[kind] and sp.uaf_event[kind] <= c.trace.n:
        c.trace.ev[sp.uaf_event[kind] - 1].a[3] += 1
        return
    e = trace_new(c, EV_UAF)
    e.a[0] = kind
    e.a[1] = sp.level
    e.a[2] = sp.gfn
    e.a[3] = 1
    sp.uaf_event[kind] = <uint32_t>c.trace.n


cdef void on_freed(Cpu *c, int kind, uint64_t addr) noexcept nogil:
    cdef Arena *a = <Arena *>c.tables.arena
    cdef int what = UAF_READ
    if kind == SYNC_STORE or (kind == SYNC_RMW and c.offer.arg == 1):
        what = UAF_WRITE
    elif kind == SYNC_RMW:
        what = UAF_CMPXCHG
    sp_note_uaf(a, c, sptep_to_sp(a, <uint64_t *>addr), what)


cdef void arena_watch(Arena *a, Cpu *c) noexcept nogil:
    """Looks for accesses to freed tables on this CPU; the arena must keep its dead."""
    c.tables.freed = a.freed
    c.tables.base = <uint64_t>a.base
    c.tables.count = a.npages
    c.tables.dirty = a.dirty
    c.tables.arena = a
    c.tables.on_freed = on_freed
    c.slow |= SLOW_CHECK


cdef int arena_snapshot(Arena *a, uint64_t share) noexcept nogil:
    """Remembers every page in use and gives each CPU `share` pages for what follows (0: no shares). 0, or -1 when
    there is no memory or no room. Nobody else may touch the arena meanwhile."""
    cdef uint64_t n = a.next_fresh
    cdef void *p
    if n + share * ARENA_SHARES > a.npages:
        return -1
    if a.dirty == NULL:
        a.dirty = <uint8_t *>map_zeroed(a.npages)
        if a.dirty == NULL:
            return -1
    memset(a.dirty, 0, n)
    if n > a.snap_cap:
        p = realloc(a.snap_pages, n << 12)
        if p == NULL:
            return -1
        a.snap_pages = <uint64_t *>p
        p = realloc(a.snap_sps, n * sizeof(Sp))
        if p == NULL:
            return -1
        a.snap_sps = <Sp *>p
        p = realloc(a.snap_freed, n)
        if p == NULL:
            return -1
        a.snap_freed = <uint8_t *>p
        a.snap_cap = n
    memcpy(a.snap_pages, a.base, n << 12)
    memcpy(a.snap_sps, a.sps, n * sizeof(Sp))
    memcpy(a.snap_freed, a.freed, n)
    a.snap_fresh = n
    a.snap_live = a.live
    a.snap_free_head = a.free_head
    a.share = share
    a.share_base = n
    memset(a.share_used, 0, sizeof(a.share_used))
    if share:
        a.next_fresh = n + share * ARENA_SHARES
    return 0


cdef void arena_restore(Arena *a) noexcept nogil:
    """Puts the arena back to the last snapshot: copies the pages that were written since."""
    cdef uint64_t i
    for i in range(a.snap_fresh):
        if a.dirty[i]:
            a.dirty[i] = 0
            memcpy(a.base + i * SPTE_ENTRIES, a.snap_pages + i * SPTE_ENTRIES, 4096)
    memcpy(a.sps, a.snap_sps, a.snap_fresh * sizeof(Sp))
    memcpy(a.freed, a.snap_freed, a.snap_fresh)
    memset(a.freed + a.snap_fresh, 0, a.next_fresh - a.snap_fresh)
    memset(a.share_used, 0, sizeof(a.share_used))
    a.next_fresh = a.snap_fresh + a.share * ARENA_SHARES
    a.live = a.snap_live
    a.free_head = a.snap_free_head
