/* SPDX-License-Identifier: GPL-2.0-only */
/* Atomic accesses of the core, with the kernel's meaning: READ_ONCE and WRITE_ONCE are relaxed, every
 * read-modify-write is fully ordered. */
#ifndef TDPFAST_ATOMIC_H
#define TDPFAST_ATOMIC_H

#include <sched.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>

#ifdef __SANITIZE_THREAD__
/* What follows from a pointer is ordered by the dependency, which the sanitizer does not see. */
#define TDP_READ_ONCE __ATOMIC_ACQUIRE
#define TDP_WRITE_ONCE __ATOMIC_RELEASE
#else
#define TDP_READ_ONCE __ATOMIC_RELAXED
#define TDP_WRITE_ONCE __ATOMIC_RELAXED
#endif
static inline uint64_t tdp_read_once(const uint64_t *p) { return __atomic_load_n(p, TDP_READ_ONCE); }
static inline void tdp_write_once(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, TDP_WRITE_ONCE); }
static inline uint8_t tdp_read_once8(const uint8_t *p) { return __atomic_load_n(p, TDP_READ_ONCE); }
static inline void tdp_write_once8(uint8_t *p, uint8_t v) { __atomic_store_n(p, v, TDP_WRITE_ONCE); }
static inline int32_t tdp_read_once32(const int32_t *p) { return __atomic_load_n(p, TDP_READ_ONCE); }
static inline void tdp_write_once32(int32_t *p, int32_t v) { __atomic_store_n(p, v, TDP_WRITE_ONCE); }
static inline uint64_t tdp_load_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void tdp_store_release(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void tdp_store_seq(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
static inline uint64_t tdp_load_seq(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
static inline uint64_t tdp_xchg(uint64_t *p, uint64_t v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }
static inline uint64_t tdp_fetch_and(uint64_t *p, uint64_t v) { return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST); }
static inline uint64_t tdp_fetch_or(uint64_t *p, uint64_t v) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }
static inline uint64_t tdp_fetch_add(uint64_t *p, uint64_t v) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }

/* On failure *old is refreshed, as try_cmpxchg64() does. */
static inline int tdp_try_cmpxchg(uint64_t *p, uint64_t *old, uint64_t v)
{
	return __atomic_compare_exchange_n(p, old, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static inline int tdp_try_cmpxchg32(uint32_t *p, uint32_t *old, uint32_t v)
{
	return __atomic_compare_exchange_n(p, old, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
static inline int tdp_try_cmpxchg8(uint8_t *p, uint8_t old, uint8_t v)
{
	return __atomic_compare_exchange_n(p, &old, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
static inline int32_t tdp_xchg32(int32_t *p, int32_t v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }
static inline uint32_t tdp_load32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
static inline void tdp_store32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
static inline uint32_t tdp_fetch_or32(uint32_t *p, uint32_t v) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }
static inline uint32_t tdp_fetch_and32(uint32_t *p, uint32_t v) { return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST); }
static inline uint32_t tdp_fetch_add32(uint32_t *p, uint32_t v) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }

static inline void tdp_cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#else
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
#endif
}

static inline void tdp_cpu_yield(void) { sched_yield(); }

#define tdp_unlikely(x) __builtin_expect(!!(x), 0)
#define tdp_likely(x) __builtin_expect(!!(x), 1)

/* Runs fn(arg); nonzero if it left through tdp_escape(). Only frames without Python objects may be left so. */
struct tdp_landing { jmp_buf jb; };
static inline int tdp_guarded_call(struct tdp_landing *l, void (*fn)(void *), void *arg)
{
	if (_setjmp(l->jb))
		return 1;
	fn(arg);
	return 0;
}
static inline void tdp_escape(struct tdp_landing *l) { _longjmp(l->jb, 1); }

#endif
