/* SPDX-License-Identifier: GPL-2.0-only */
/* The kernel's general language, as far as page-table code speaks it: bits, error pointers, counters, lists, locks that a
 * block of code holds. Included by kvm.h; built on its accesses and locks, so that each of them is a step. */
#ifndef TDPFAST_KERNEL_H
#define TDPFAST_KERNEL_H

/* ---- numbers and pointers ---- */
#define BIT(n) (1ul << (n))
#define BIT_ULL(n) (1ull << (n))
#define GENMASK_ULL(h, l) ((~0ull >> (63 - (h))) & (~0ull << (l)))
#define GENMASK(h, l) GENMASK_ULL(h, l)
#define ALIGN_DOWN(x, a) ((__typeof__(x))((u64)(x) & ~((u64)(a) - 1)))
#define ALIGN(x, a) ALIGN_DOWN((x) + (a) - 1, a)
#define IS_ALIGNED(x, a) (!((u64)(x) & ((u64)(a) - 1)))
#define round_up(x, a) ALIGN(x, a)
#define round_down(x, a) ALIGN_DOWN(x, a)
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
#define min_t(t, a, b) min((t)(a), (t)(b))
#define max_t(t, a, b) max((t)(a), (t)(b))
#define swap(a, b) do { __typeof__(a) swap_ = (a); (a) = (b); (b) = swap_; } while (0)
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define offsetof(type, member) __builtin_offsetof(type, member)
#define container_of(p, type, member) ((type *)((char *)(p) - offsetof(type, member)))
#define ERR_PTR(e) ((void *)(long)(e))
#define PTR_ERR(p) ((long)(p))
#define IS_ERR(p) ((unsigned long)(p) >= (unsigned long)-4095)
#define IS_ERR_OR_NULL(p) (!(p) || IS_ERR(p))
#define BUILD_BUG_ON(c) _Static_assert(!(c), #c)
#define static_assert _Static_assert
#define IS_ENABLED(option) 0
#define fallthrough __attribute__((fallthrough))
void *memset(void *p, int c, size_t n);
void *memcpy(void *to, const void *from, size_t n);

/* ---- counters ---- */
#define TDPF_FETCH(p, op, v) __tdpf_fetch(TDPF_LINE, p, op, (u64)(v), sizeof(*(p)))
#define atomic64_read(a) ((s64)READ_ONCE((a)->counter))
#define atomic64_set(a, v) WRITE_ONCE((a)->counter, v)
#define atomic64_add(v, a) ((void)TDPF_FETCH(&(a)->counter, 0, (s64)(v)))
#define atomic64_sub(v, a) atomic64_add(-(s64)(v), a)
#define atomic64_inc(a) atomic64_add(1, a)
#define atomic64_dec(a) atomic64_add(-1, a)
#define atomic64_inc_return(a) ((s64)TDPF_FETCH(&(a)->counter, 0, 1) + 1)
#define atomic64_dec_return(a) ((s64)TDPF_FETCH(&(a)->counter, 0, -1ll) - 1)
#define atomic64_fetch_add(v, a) ((s64)TDPF_FETCH(&(a)->counter, 0, (s64)(v)))
#define atomic64_fetch_and(v, a) ((s64)TDPF_FETCH(&(a)->counter, 1, v))
#define atomic64_fetch_or(v, a) ((s64)TDPF_FETCH(&(a)->counter, 2, v))
#define atomic64_dec_and_test(a) (!atomic64_dec_return(a))
#define atomic64_xchg(a, v) ((s64)xchg(&(a)->counter, (s64)(v)))
#define atomic64_try_cmpxchg(a, old, v) try_cmpxchg(&(a)->counter, old, (s64)(v))
#define atomic_read(a) ((int)READ_ONCE((a)->counter))
#define atomic_set(a, v) WRITE_ONCE((a)->counter, v)
#define atomic_add(v, a) ((void)TDPF_FETCH(&(a)->counter, 0, (s64)(v)))
#define atomic_sub(v, a) atomic_add(-(s64)(v), a)
#define atomic_inc(a) atomic_add(1, a)
#define atomic_dec(a) atomic_add(-1ll, a)
#define atomic_inc_return(a) ((int)TDPF_FETCH(&(a)->counter, 0, 1) + 1)
#define atomic_dec_return(a) ((int)TDPF_FETCH(&(a)->counter, 0, -1ll) - 1)
#define atomic_dec_and_test(a) (!atomic_dec_return(a))
#define atomic_xchg(a, v) ((int)xchg(&(a)->counter, (int)(v)))
#define atomic_cmpxchg(a, o, v) ((int)cmpxchg(&(a)->counter, (int)(o), (int)(v)))
#define atomic_try_cmpxchg(a, old, v) try_cmpxchg(&(a)->counter, old, (int)(v))
/* One up unless it is 0: whether it was. */
#define atomic_inc_not_zero(a) ({ \
	int was_ = atomic_read(a); \
	while (was_ && !atomic_try_cmpxchg(a, &was_, was_ + 1)) \
		; \
	was_ != 0; })
#define atomic_long_read(a) atomic64_read(a)
#define atomic_long_inc(a) atomic64_inc(a)
#define atomic_long_dec(a) atomic64_dec(a)
#define refcount_read(r) ((unsigned int)atomic_read(&(r)->refs))
#define refcount_set(r, v) atomic_set(&(r)->refs, v)
#define refcount_inc(r) WARN_ON_ONCE((int)TDPF_FETCH(&(r)->refs.counter, 0, 1) <= 0)
#define refcount_inc_not_zero(r) atomic_inc_not_zero(&(r)->refs)
#define refcount_dec_and_test(r) ({ int left_ = atomic_dec_return(&(r)->refs); WARN_ON_ONCE(left_ < 0); !left_; })
#define test_bit(n, p) (!!(READ_ONCE((p)[(n) / 64]) & BIT((n) % 64)))
#define set_bit(n, p) ((void)TDPF_FETCH(&(p)[(n) / 64], 2, BIT((n) % 64)))
#define clear_bit(n, p) ((void)TDPF_FETCH(&(p)[(n) / 64], 1, ~BIT((n) % 64)))
#define test_and_set_bit(n, p) (!!(TDPF_FETCH(&(p)[(n) / 64], 2, BIT((n) % 64)) & BIT((n) % 64)))
#define test_and_clear_bit(n, p) (!!(TDPF_FETCH(&(p)[(n) / 64], 1, ~BIT((n) % 64)) & BIT((n) % 64)))

/* ---- lists: plain stores and loads, each a step where others can see it ---- */
#define LIST_HEAD_INIT(name) { &(name), &(name) }
#define LIST_HEAD(name) struct list_head name = LIST_HEAD_INIT(name)
static inline void INIT_LIST_HEAD(struct list_head *head)
{
	head->next = head;
	head->prev = head;
}
static inline void tdpf_list_between(struct list_head *entry, struct list_head *prev, struct list_head *next)
{
	entry->next = next;
	entry->prev = prev;
	next->prev = entry;
	prev->next = entry;
}
static inline void list_add(struct list_head *entry, struct list_head *head)
{
	tdpf_list_between(entry, head, head->next);
}
static inline void list_add_tail(struct list_head *entry, struct list_head *head)
{
	tdpf_list_between(entry, head->prev, head);
}
static inline void list_del_init(struct list_head *entry)
{
	entry->next->prev = entry->prev;
	entry->prev->next = entry->next;
	INIT_LIST_HEAD(entry);
}
static inline void list_del(struct list_head *entry)
{
	entry->next->prev = entry->prev;
	entry->prev->next = entry->next;
	entry->next = entry->prev = NULL;
}
static inline bool list_empty(const struct list_head *head) { return head->next == head; }
#define list_entry(p, type, member) container_of(p, type, member)
#define list_first_entry(head, type, member) list_entry((head)->next, type, member)
#define list_for_each_entry(pos, head, member) \
	for (pos = list_first_entry(head, __typeof__(*pos), member); &pos->member != (head); \
	     pos = list_entry(pos->member.next, __typeof__(*pos), member))
#define list_for_each_entry_safe(pos, n, head, member) \
	for (pos = list_first_entry(head, __typeof__(*pos), member), \
	     n = list_entry(pos->member.next, __typeof__(*pos), member); \
	     &pos->member != (head); pos = n, n = list_entry(n->member.next, __typeof__(*n), member))

/* ---- locks ---- */
#define DEFINE_SPINLOCK(name) spinlock_t name = { 0 }
#define DEFINE_RAW_SPINLOCK(name) raw_spinlock_t name = { 0 }
#define DEFINE_MUTEX(name) struct mutex name = { { 0 } }
#define spin_lock(l) __tdpf_spin(TDPF_LINE, l, 1)
#define spin_unlock(l) __tdpf_spin(TDPF_LINE, l, 0)
#define spin_trylock(l) ((bool)__tdpf_spin_trylock(TDPF_LINE, l))
#define spin_lock_init(l) WRITE_ONCE((l)->val, 0)
#define spin_lock_irqsave(l, flags) ((void)((flags) = 0), spin_lock(l))
#define spin_unlock_irqrestore(l, flags) ((void)(flags), spin_unlock(l))
#define raw_spin_lock(l) spin_lock(l)
#define raw_spin_unlock(l) spin_unlock(l)
#define raw_spin_trylock(l) spin_trylock(l)
#define raw_spin_lock_init(l) spin_lock_init(l)
#define raw_spin_lock_irqsave(l, flags) spin_lock_irqsave(l, flags)
#define raw_spin_unlock_irqrestore(l, flags) spin_unlock_irqrestore(l, flags)
/* What sleeps does not belong under mmu_lock, a spinlock or an RCU read section: check `lock`. */
#define might_sleep() __tdpf_might_sleep(TDPF_LINE, __func__)
#define mutex_init(m) spin_lock_init(&(m)->lock)
#define mutex_lock(m) (might_sleep(), spin_lock(&(m)->lock))
#define mutex_unlock(m) spin_unlock(&(m)->lock)
#define mutex_trylock(m) spin_trylock(&(m)->lock)
#define read_lock(l) __tdpf_rwlock(TDPF_LINE, l, 0, 1)
#define read_unlock(l) __tdpf_rwlock(TDPF_LINE, l, 0, 0)
#define write_lock(l) __tdpf_rwlock(TDPF_LINE, l, 1, 1)
#define write_unlock(l) __tdpf_rwlock(TDPF_LINE, l, 1, 0)
#define cond_resched_rwlock_read(l) ((int)__tdpf_resched_lock(TDPF_LINE, l, 0))
#define cond_resched_rwlock_write(l) ((int)__tdpf_resched_lock(TDPF_LINE, l, 1))
#define need_resched() ((bool)__tdpf_need_resched())
#define rwlock_needbreak(l) ((void)(l), 0)
#define spin_needbreak(l) ((void)(l), 0)
#define cond_resched() might_sleep()
#define lockdep_is_held(l) __tdpf_is_held(l, 0)
#define lockdep_is_held_type(l, read) __tdpf_is_held(l, (read) ? 1 : 2)
#define lockdep_assert_held(l) __tdpf_lockdep(TDPF_LINE, l, 0, __func__)
#define lockdep_assert_held_read(l) __tdpf_lockdep(TDPF_LINE, l, 1, __func__)
#define lockdep_assert_held_write(l) __tdpf_lockdep(TDPF_LINE, l, 2, __func__)
#define lockdep_assert_held_once(l) lockdep_assert_held(l)
#define lockdep_assert_not_held(l) ((void)TDPF_WARN(lockdep_is_held(l), NULL, 3, #l))
#define lockdep_assert_once(c) ((void)TDPF_WARN(!(c), NULL, 3, #c))
#define lockdep_assert(c) lockdep_assert_once(c)
#define preempt_disable() barrier()
#define preempt_enable() barrier()
#define get_cpu() smp_processor_id()
#define put_cpu() barrier()
#define smp_processor_id() ((int)__tdpf_vcpu()->vcpu_id)
#define udelay(us) ((void)(us), cpu_relax())

/* A lock that a block holds: guard(spinlock)(&l); and scoped_guard(spinlock, &l) { ... } */
#define TDPF_GUARD(name, type, on, off) \
	static inline type *tdpf_guard_on_##name(type *l) { on; return l; } \
	static inline void tdpf_guard_off_##name(type **p) { type *l = *p; off; }
TDPF_GUARD(spinlock, spinlock_t, __tdpf_spin(0, l, 1), __tdpf_spin(0, l, 0))
TDPF_GUARD(raw_spinlock, raw_spinlock_t, __tdpf_spin(0, l, 1), __tdpf_spin(0, l, 0))
TDPF_GUARD(mutex, struct mutex, (__tdpf_might_sleep(0, "mutex_lock"), __tdpf_spin(0, &l->lock, 1)),
	   __tdpf_spin(0, &l->lock, 0))
TDPF_GUARD(read_lock, rwlock_t, __tdpf_rwlock(0, l, 0, 1), __tdpf_rwlock(0, l, 0, 0))
TDPF_GUARD(write_lock, rwlock_t, __tdpf_rwlock(0, l, 1, 1), __tdpf_rwlock(0, l, 1, 0))
static inline int tdpf_guard_on_rcu(void) { __tdpf_rcu(0, 1); return 1; }
static inline void tdpf_guard_off_rcu(int *p) { (void)p; __tdpf_rcu(0, 0); }
#define TDPF_HELD(name, var) \
	__attribute__((unused, cleanup(tdpf_guard_off_##name))) __auto_type var = tdpf_guard_on_##name
#define guard(name) TDPF_HELD(name, TDPF_GLUE(guard_, __COUNTER__))
#define scoped_guard(name, ...) \
	for (int once_ = 1; once_; once_ = 0) \
		for (TDPF_HELD(name, guard_)(__VA_ARGS__); once_; once_ = 0)

/* ---- what cannot be said here, with what to say instead ---- */
#define TDPF_NOT(name, why) extern void *name(u64, ...) __attribute__((error(why)))
TDPF_NOT(kmalloc, "kmalloc(): a design has no heap; use kvm->tdpfast_private or sp->tdpfast_private");
TDPF_NOT(kzalloc, "kzalloc(): a design has no heap; use kvm->tdpfast_private or sp->tdpfast_private");
TDPF_NOT(kvzalloc, "kvzalloc(): a design has no heap; use kvm->tdpfast_private or sp->tdpfast_private");
extern void kfree(const void *) __attribute__((error("kfree(): a design has no heap")));
extern void synchronize_rcu(void) __attribute__((error("synchronize_rcu(): it sleeps, and what a design replaces runs "
						       "under mmu_lock; use call_rcu()")));
extern void msleep(unsigned int) __attribute__((error("msleep(): what a design replaces runs under mmu_lock")));

#endif
