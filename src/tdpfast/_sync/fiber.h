/* SPDX-License-Identifier: GPL-2.0-only */
/* Fibers: stacks that a scheduler switches to and from by hand.
 *
 * On x86-64 a switch saves rbp, rsp and the address to go on at; the compiler saves what else is live, because the
 * switch is inlined and clobbers everything. It resumes by pop and jmp, not by ret: a ret to an address that no call
 * pushed costs a misprediction each time. Elsewhere ucontext does it, slowly.
 *
 * Stacks are mapped once, with a guard page below, and re-armed for each run: three stores. */
#ifndef TDPFAST_FIBER_H
#define TDPFAST_FIBER_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__x86_64__) && !defined(TDPFAST_UCONTEXT)
#define TDPFAST_FIBER_ASM 1
#else
#include <ucontext.h>
#endif

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#define TDP_FIBER_STACK ((size_t)256 << 10)

typedef void (*tdp_fiber_fn)(void *arg);

typedef struct tdp_fiber {
	void *sp;            /* where to go on; valid while suspended */
	char *map;           /* the whole mapping, guard page first */
	size_t map_len;
#ifndef TDPFAST_FIBER_ASM
	ucontext_t uc;
	tdp_fiber_fn fn;
	void *arg;
#endif
} tdp_fiber;

/* 0, or -1 when no memory is left. */
static inline int tdp_fiber_map(tdp_fiber *f)
{
	size_t guard = (size_t)sysconf(_SC_PAGESIZE);
	void *m;

	memset(f, 0, sizeof(*f));
	m = mmap(NULL, TDP_FIBER_STACK + guard, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (m == MAP_FAILED)
		return -1;
	if (mprotect(m, guard, PROT_NONE)) {
		munmap(m, TDP_FIBER_STACK + guard);
		return -1;
	}
	f->map = (char *)m;
	f->map_len = TDP_FIBER_STACK + guard;
	return 0;
}

/* A run that was cut short left frames behind, and the address sanitizer still knows them. */
static inline void tdp_fiber_forget(tdp_fiber *f)
{
#ifdef __SANITIZE_ADDRESS__
	__asan_unpoison_memory_region(f->map + f->map_len - TDP_FIBER_STACK, TDP_FIBER_STACK);
#else
	(void)f;
#endif
}

static inline void tdp_fiber_unmap(tdp_fiber *f)
{
	if (f->map)
		munmap(f->map, f->map_len);
	f->map = NULL;
}

#ifdef TDPFAST_FIBER_ASM

/* First entry: the function and its argument lie on the stack; rsp is 16-byte aligned at the call. */
__asm__(".text\n"
	".p2align 4\n"
	".type tdp_fiber_start_, @function\n"
	"tdp_fiber_start_:\n"
	".cfi_startproc\n"
	".cfi_undefined rip\n"
	"	popq %rdi\n"
	"	popq %rax\n"
	"	xorl %ebp, %ebp\n"
	"	callq *%rax\n"
	"	ud2\n"
	".cfi_endproc\n"
	".size tdp_fiber_start_, .-tdp_fiber_start_\n");

#ifdef __AVX512F__
#define TDP_FIBER_WIDE , "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", \
	"xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31", "k1", "k2", "k3", "k4", "k5", "k6", "k7"
#else
#define TDP_FIBER_WIDE
#endif

/* Leaves the running stack (its place goes to *from) for the one suspended in *to. The red zone is stepped over. */
static inline __attribute__((always_inline)) void tdp_fiber_switch(tdp_fiber *from, tdp_fiber *to)
{
	void **save = &from->sp;
	void *load = to->sp;

	__asm__ volatile("leaq -128(%%rsp), %%rsp\n\t"
			 "pushq %%rbp\n\t"
			 "leaq 1f(%%rip), %%rax\n\t"
			 "pushq %%rax\n\t"
			 "movq %%rsp, (%0)\n\t"
			 "movq %1, %%rsp\n\t"
			 "popq %%rax\n\t"
			 "jmpq *%%rax\n\t"
			 "1:\n\t"
			 "popq %%rbp\n\t"
			 "leaq 128(%%rsp), %%rsp\n\t"
			 : "+D"(save), "+S"(load)
			 :
			 : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
			   "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
			   "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "memory", "cc" TDP_FIBER_WIDE);
}

/* fn(arg) runs at the next switch to f. It must not return. */
static inline void tdp_fiber_arm(tdp_fiber *f, tdp_fiber_fn fn, void *arg)
{
	void **top = (void **)(((uintptr_t)f->map + f->map_len) & ~(uintptr_t)63);
	void *start;

	tdp_fiber_forget(f);
	__asm__("leaq tdp_fiber_start_(%%rip), %0" : "=r"(start));
	top -= 8;
	top[-1] = (void *)fn;
	top[-2] = arg;
	top[-3] = start;
	f->sp = top - 3;
}

#else

static inline void tdp_fiber_switch(tdp_fiber *from, tdp_fiber *to)
{
	swapcontext(&from->uc, &to->uc);
}

static void tdp_fiber_start_(unsigned int hi, unsigned int lo)
{
	tdp_fiber *f = (tdp_fiber *)(uintptr_t)(((uint64_t)hi << 32) | lo);

	f->fn(f->arg);
	__builtin_trap();
}

static inline void tdp_fiber_arm(tdp_fiber *f, tdp_fiber_fn fn, void *arg)
{
	uint64_t self = (uint64_t)(uintptr_t)f;
	size_t guard = f->map_len - TDP_FIBER_STACK;

	tdp_fiber_forget(f);
	getcontext(&f->uc);
	f->uc.uc_stack.ss_sp = f->map + guard;
	f->uc.uc_stack.ss_size = TDP_FIBER_STACK;
	f->uc.uc_link = NULL;
	f->fn = fn;
	f->arg = arg;
	makecontext(&f->uc, (void (*)(void))tdp_fiber_start_, 2, (unsigned int)(self >> 32), (unsigned int)self);
}

#endif
#endif
