/* SPDX-License-Identifier: GPL-2.0-only */
/* Crashes and hangs of a design file's code stay verdicts: a signal in it sends its fiber on in a function that ends the
 * execution, so that the search goes on.
 *
 * On a fiber the frame that failed is left: the fiber continues at the top of its own stack, which nobody returns to. On
 * a native thread the CPU's landing is where BUG() goes as well. The handlers act only while a design file's code is on
 * the CPU; everything else goes to whoever handled the signal before. */
#ifndef TDPFAST_CODE_CRASH_H
#define TDPFAST_CODE_CRASH_H

#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <ucontext.h>

/* What the core says about the CPU that runs: 0 none of the file's code, 1 on a fiber, 2 on a native thread. */
typedef int (*tdp_code_where)(uint64_t pc, uint64_t *stack_end);
typedef void (*tdp_code_ended)(void);
typedef int (*tdp_code_ticked)(void);

static struct {
	tdp_code_where where;
	tdp_code_ended crashed, hung;
	tdp_code_ticked ticked;
	struct sigaction before[5];
	int armed;
} tdp_code;

static const int tdp_code_signals[5] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };

#if defined(__x86_64__)
#define TDP_PC(uc) ((uint64_t)(uc)->uc_mcontext.gregs[REG_RIP])
static void tdp_code_continue(ucontext_t *uc, uint64_t stack_end, tdp_code_ended fn)
{
	/* As if called: the stack is 8 off a multiple of 16. */
	uc->uc_mcontext.gregs[REG_RSP] = (greg_t)((stack_end - 1024) & ~(uint64_t)15) - 8;
	uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)fn;
}
#else
#define TDP_PC(uc) 0
static void tdp_code_continue(ucontext_t *uc, uint64_t stack_end, tdp_code_ended fn)
{
	(void)uc; (void)stack_end;
	fn();
}
#endif

static void tdp_code_signal(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	uint64_t stack_end = 0;
	int where = tdp_code.where(TDP_PC(uc), &stack_end);
	int i;

	(void)info;
	if (where == 1) {
		tdp_code_continue(uc, stack_end, tdp_code.crashed);
		return;
	}
	if (where == 2)
		tdp_code.crashed();
	for (i = 0; i < 5; i++)
		if (tdp_code_signals[i] == sig)
			sigaction(sig, &tdp_code.before[i], NULL);
}

static void tdp_code_tick(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	uint64_t stack_end = 0;

	(void)sig; (void)info;
	if (tdp_code.ticked() && tdp_code.where(TDP_PC(uc), &stack_end) == 1)
		tdp_code_continue(uc, stack_end, tdp_code.hung);
}

/* Installs the handlers once, and the stack they run on for the calling thread. */
static void tdp_code_arm(tdp_code_where where, tdp_code_ended crashed, tdp_code_ended hung, tdp_code_ticked ticked)
{
	struct sigaction sa;
	stack_t old, own;
	int i;

	if (sigaltstack(NULL, &old) == 0 && (old.ss_flags & SS_DISABLE)) {
		memset(&own, 0, sizeof(own));
		own.ss_size = 65536;
		own.ss_sp = malloc(own.ss_size);
		if (own.ss_sp)
			sigaltstack(&own, NULL);
	}
	if (tdp_code.armed)
		return;
	tdp_code.armed = 1;
	tdp_code.where = where;
	tdp_code.crashed = crashed;
	tdp_code.hung = hung;
	tdp_code.ticked = ticked;
	memset(&sa, 0, sizeof(sa));
	sa.sa_sigaction = tdp_code_signal;
	sa.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
	for (i = 0; i < 5; i++)
		sigaction(tdp_code_signals[i], &sa, &tdp_code.before[i]);
	sa.sa_sigaction = tdp_code_tick;
	sa.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
	sigaction(SIGPROF, &sa, NULL);
}

static void tdp_code_timer(int on)
{
	struct itimerval t;

	memset(&t, 0, sizeof(t));
	if (on)
		t.it_interval.tv_usec = t.it_value.tv_usec = 50000;
	setitimer(ITIMER_PROF, &t, NULL);
}
#endif
