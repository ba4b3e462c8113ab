# cython: language_level=3
"""The page arena: allocation, poisoning, snapshot and restore (see _arena.pxd)."""

from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from tdpfast._atomic cimport tdp_fetch_add, tdp_load_acquire, tdp_try_cmpxchg

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
        new = ((head >> 32) + 1) << 32 | a.sps[index].free_next
        if tdp_try_cmpxchg(&a.free_head, &head, new):
            return &a.sps[index]
    return NULL


cdef inline void fill_page(uint64_t *page, uint64_t value) noexcept nogil:
    # The pointer comes as an argument so that the compiler need not fear that the stores change it.
    cdef int i
    for i in range(SPTE_ENTRIES):
        page[i] = value


cdef Sp *arena_alloc(Arena *a) noexcept nogil:
    """A page filled with a.fill and its descriptor in state SP_UNUSED; NULL when the arena is full."""
    cdef Sp *sp = arena_pop(a)
    cdef uint64_t index
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
    memset(sp, 0, sizeof(Sp))
    sp.index = <uint32_t>index
    sp.spt = a.base + index * SPTE_ENTRIES
    sp.state = SP_UNUSED
    sp.root_number = -1
    a.freed[index] = 0
    fill_page(sp.spt, a.fill)
    tdp_fetch_add(&a.live, 1)
    return sp


cdef void arena_free(Arena *a, Sp *sp) noexcept nogil:
    """Gives the page back, or poisons and keeps it when the arena keeps its dead. Idempotent for dead pages."""
    cdef uint64_t head, new
    if sp.state == SP_FREED or sp.state == SP_FREE:
        return
    tdp_fetch_add(&a.live, <uint64_t>-1)
    if a.keep_dead:
        sp.state = SP_FREED
        a.freed[sp.index] = 1
        fill_page(sp.spt, SPTE_POISON)
        return
    sp.state = SP_FREE
    head = tdp_load_acquire(&a.free_head)
    while True:
        sp.free_next = <uint32_t>(head & 0xffffffffu)
        new = ((head >> 32) + 1) << 32 | (sp.index + 1)
        if tdp_try_cmpxchg(&a.free_head, &head, new):
            return


cdef int arena_snapshot(Arena *a) noexcept nogil:
    """Remembers every page in use; 0, or -1 without memory. Nobody else may touch the arena meanwhile."""
    cdef uint64_t n = a.next_fresh
    cdef void *p
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
    return 0


cdef void arena_restore(Arena *a) noexcept nogil:
    """Puts the arena back to the last snapshot."""
    memcpy(a.base, a.snap_pages, a.snap_fresh << 12)
    memcpy(a.sps, a.snap_sps, a.snap_fresh * sizeof(Sp))
    memcpy(a.freed, a.snap_freed, a.snap_fresh)
    memset(a.freed + a.snap_fresh, 0, a.next_fresh - a.snap_fresh)
    a.next_fresh = a.snap_fresh
    a.live = a.snap_live
    a.free_head = a.snap_free_head
