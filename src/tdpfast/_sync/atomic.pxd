from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

cdef extern from "tdpfast/_sync/atomic.h" nogil:
    uint64_t tdp_read_once(const uint64_t *p) noexcept
    void tdp_write_once(uint64_t *p, uint64_t v) noexcept
    uint8_t tdp_read_once8(const uint8_t *p) noexcept
    void tdp_write_once8(uint8_t *p, uint8_t v) noexcept
    int32_t tdp_read_once32(const int32_t *p) noexcept
    void tdp_write_once32(int32_t *p, int32_t v) noexcept
    uint64_t tdp_load_acquire(const uint64_t *p) noexcept
    void tdp_store_release(uint64_t *p, uint64_t v) noexcept
    void tdp_store_seq(uint64_t *p, uint64_t v) noexcept
    uint64_t tdp_load_seq(const uint64_t *p) noexcept
    uint64_t tdp_xchg(uint64_t *p, uint64_t v) noexcept
    uint64_t tdp_fetch_and(uint64_t *p, uint64_t v) noexcept
    uint64_t tdp_fetch_or(uint64_t *p, uint64_t v) noexcept
    uint64_t tdp_fetch_add(uint64_t *p, uint64_t v) noexcept
    bint tdp_try_cmpxchg(uint64_t *p, uint64_t *old, uint64_t v) noexcept
    bint tdp_try_cmpxchg32(uint32_t *p, uint32_t *old, uint32_t v) noexcept
    bint tdp_try_cmpxchg8(uint8_t *p, uint8_t old, uint8_t v) noexcept
    int32_t tdp_xchg32(int32_t *p, int32_t v) noexcept
    uint32_t tdp_load32(const uint32_t *p) noexcept
    void tdp_store32(uint32_t *p, uint32_t v) noexcept
    uint32_t tdp_fetch_or32(uint32_t *p, uint32_t v) noexcept
    uint32_t tdp_fetch_and32(uint32_t *p, uint32_t v) noexcept
    uint32_t tdp_fetch_add32(uint32_t *p, uint32_t v) noexcept
    void tdp_cpu_relax() noexcept
    void tdp_cpu_yield() noexcept
    bint tdp_unlikely(bint x) noexcept
    bint tdp_likely(bint x) noexcept

    cdef struct tdp_landing:
        pass
    bint tdp_guarded_call(tdp_landing *l, void (*fn)(void *) noexcept, void *arg) noexcept
    void tdp_escape(tdp_landing *l) noexcept
