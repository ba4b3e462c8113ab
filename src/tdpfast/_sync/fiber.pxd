"""Fibers of _fiber.h. Never switch inside a running Python callback: CPython keeps state on the C stack."""

cdef extern from "tdpfast/_sync/fiber.h" nogil:
    ctypedef struct tdp_fiber:
        char *map
        size_t map_len
    ctypedef void (*tdp_fiber_fn)(void *arg) noexcept nogil
    int tdp_fiber_map(tdp_fiber *f) noexcept
    void tdp_fiber_unmap(tdp_fiber *f) noexcept
    void tdp_fiber_switch(tdp_fiber *src, tdp_fiber *dst) noexcept
    void tdp_fiber_arm(tdp_fiber *f, tdp_fiber_fn fn, void *arg) noexcept
