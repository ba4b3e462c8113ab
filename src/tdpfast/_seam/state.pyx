# cython: language_level=3
"""The undo log of the module's state (see state.pxd)."""

from libc.string cimport memcpy


cdef void undo_push(Seam *s, uint64_t *addr, uint64_t old) noexcept nogil:
    if s.nundo == s.cap_undo:
        s.undo_lost = 1
        return
    s.undo[s.nundo].addr = addr
    s.undo[s.nundo].old = old
    s.nundo += 1


cdef void undo_page(Seam *s, uint64_t *page) noexcept nogil:
    if not s.tracking:
        return
    if s.npages == s.cap_pages:
        s.undo_lost = 1
        return
    memcpy(s.pages + s.npages * 512, page, 4096)
    undo_push(s, <uint64_t *>(<uint64_t>page | 1), s.npages)
    s.npages += 1


cdef void sept_page_init(Seam *s, uint64_t *page, uint64_t fill) noexcept nogil:
    cdef int i
    undo_page(s, page)
    for i in range(512):
        page[i] = fill
