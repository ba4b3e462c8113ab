// SPDX-License-Identifier: GPL-2.0-only
/* Linked to every design file: the way from it into the core, what -fsanitize=thread calls, and the functions that the
 * file does not define. Compiled without the sanitizer. */
#include <tdpfast/types.h>
#include <tdpfast/api.h>

#define POINTER(result, name, params, args) \
	result (*tdpf_##name) params __attribute__((visibility("default"))); \
	result __tdpf_##name params { return tdpf_##name args; }
TDPF_API(POINTER)

/* A definition in the file is found in the file itself; these are for references that nothing else defines. */
#define FUNCTION(result, name, params, args) \
	result (*tdpf_base_##name) params __attribute__((visibility("default"))); \
	result base_##name params { return tdpf_base_##name args; } \
	result (*tdpf_call_##name) params __attribute__((visibility("default"))); \
	__attribute__((weak)) result name params { return tdpf_call_##name args; }
TDPF_FUNCTIONS(FUNCTION)

void *memset(void *p, int c, size_t n)
{
	char *to = p;

	__tdpf_plain(p, n, 1, __builtin_return_address(0));
	while (n--) {
		*to++ = (char)c;
		__asm__ volatile("" ::: "memory");
	}
	return p;
}

void *memcpy(void *to, const void *from, size_t n)
{
	char *t = to;
	const char *f = from;

	__tdpf_plain(from, n, 0, __builtin_return_address(0));
	__tdpf_plain(to, n, 1, __builtin_return_address(0));
	while (n--) {
		*t++ = *f++;
		__asm__ volatile("" ::: "memory");
	}
	return to;
}

void __tsan_init(void) {}
void __tsan_func_entry(void *pc) { (void)pc; }
void __tsan_func_exit(void) {}
void *__tsan_memset(void *p, int c, size_t n) { return memset(p, c, n); }
void *__tsan_memcpy(void *to, const void *from, size_t n) { return memcpy(to, from, n); }
void __tsan_read_range(void *p, size_t n) { __tdpf_plain(p, n, 0, __builtin_return_address(0)); }
void __tsan_write_range(void *p, size_t n) { __tdpf_plain(p, n, 1, __builtin_return_address(0)); }
void __tsan_vptr_update(void **p, void *v) { (void)v; __tdpf_plain(p, 8, 1, __builtin_return_address(0)); }

#define PLAIN(n) \
	void __tsan_read##n(void *p) { __tdpf_plain(p, n, 0, __builtin_return_address(0)); } \
	void __tsan_write##n(void *p) { __tdpf_plain(p, n, 1, __builtin_return_address(0)); } \
	void __tsan_unaligned_read##n(void *p) { __tdpf_plain(p, n, 0, __builtin_return_address(0)); } \
	void __tsan_unaligned_write##n(void *p) { __tdpf_plain(p, n, 1, __builtin_return_address(0)); } \
	void __tsan_volatile_read##n(void *p) { __tdpf_plain(p, n, 0, __builtin_return_address(0)); } \
	void __tsan_volatile_write##n(void *p) { __tdpf_plain(p, n, 1, __builtin_return_address(0)); }
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)

/* __atomic builtins of the file. */
#define ATOMIC(bits, type) \
	type __tsan_atomic##bits##_load(const volatile type *p, int mo) { (void)mo; return (type)__tdpf_load(0, p, bits / 8); } \
	void __tsan_atomic##bits##_store(volatile type *p, type v, int mo) { (void)mo; __tdpf_store(0, p, v, bits / 8); } \
	type __tsan_atomic##bits##_exchange(volatile type *p, type v, int mo) \
	{ (void)mo; return (type)__tdpf_xchg(0, p, v, bits / 8); } \
	type __tsan_atomic##bits##_fetch_add(volatile type *p, type v, int mo) \
	{ (void)mo; return (type)__tdpf_fetch(0, p, 0, v, bits / 8); } \
	type __tsan_atomic##bits##_fetch_sub(volatile type *p, type v, int mo) \
	{ (void)mo; return (type)__tdpf_fetch(0, p, 0, -(u64)v, bits / 8); } \
	type __tsan_atomic##bits##_fetch_and(volatile type *p, type v, int mo) \
	{ (void)mo; return (type)__tdpf_fetch(0, p, 1, v, bits / 8); } \
	type __tsan_atomic##bits##_fetch_or(volatile type *p, type v, int mo) \
	{ (void)mo; return (type)__tdpf_fetch(0, p, 2, v, bits / 8); } \
	type __tsan_atomic##bits##_fetch_xor(volatile type *p, type v, int mo) \
	{ (void)mo; return (type)__tdpf_fetch(0, p, 3, v, bits / 8); } \
	int __tsan_atomic##bits##_compare_exchange_strong(volatile type *p, type *old, type v, int mo, int fail) \
	{ (void)mo; (void)fail; return __tdpf_cmpxchg(0, p, old, v, bits / 8); } \
	int __tsan_atomic##bits##_compare_exchange_weak(volatile type *p, type *old, type v, int mo, int fail) \
	{ (void)mo; (void)fail; return __tdpf_cmpxchg(0, p, old, v, bits / 8); }
ATOMIC(8, u8)
ATOMIC(16, u16)
ATOMIC(32, u32)
ATOMIC(64, u64)
void __tsan_atomic_thread_fence(int mo) { (void)mo; __sync_synchronize(); }
void __tsan_atomic_signal_fence(int mo) { (void)mo; }
