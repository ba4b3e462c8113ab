# cython: language_level=3
"""Entries of page tables that no other thread of a scenario comes to are no steps of the explorer.

A zap of a root looks at thousands of empty entries. Whether another thread's step comes before or after such a look
makes no difference unless that thread may change the entry, or look at it after a change. Which entries those are is
known before the search: an entry stands for guest frames, and an operation says which ones it is about (Spans, from
tdpfast.spans). So an access of one thread is no step, but part of the step before it, when

- the entry's frames meet no span of any other thread, whatever root the table belongs to, and
- the table cannot be freed meanwhile: the thread is in an RCU read section, and grace periods wait for readers.

What is left out on purpose: a walk looks at the entry behind its range as well, and does nothing with it. What a thread
writes to a table before it links it lies outside its spans too; others get there through the link only, which is a step
of both. World.outside counts other writes beyond a thread's own spans: there must be none.
"""

from libc.stdint cimport uint64_t

from tdpfast._mmu.arena cimport SP_FREE, SP_FREED, SP_LINKED, SPTE_ENTRIES, Arena, Sp, sptep_to_sp
from tdpfast._mmu.tdp_iter cimport gfn_round_for_level, pages_per_hpage, spte_to_child_pt
from tdpfast._mmu.tdp_mmu cimport Kvm
from tdpfast._names cimport RACE_INSTALL, SYNC_LOAD
from tdpfast._ops.ops cimport Op
from tdpfast._program.world cimport MAX_SPANS, Spans, World
from tdpfast._sync.cpu cimport Cpu

from tdpfast.spans import SPANS

cdef enum:
    TOP_LEVEL = 5
    MASK_BITS = 64


cdef bint tables_in_place(const Kvm *kvm) except -1:
    """Whether each linked table hangs where its descriptor says: what a set-up wrote by hand may have linked one at
    two places, and an entry then stands for more frames than are known."""
    cdef const Arena *a = kvm.arena
    cdef const Sp *sp
    cdef const Sp *child
    cdef uint64_t *pt
    cdef uint64_t i, k, gfn
    for i in range(a.next_fresh):
        sp = &a.sps[i]
        if sp.state != SP_LINKED:
            continue
        for k in range(SPTE_ENTRIES):
            pt = spte_to_child_pt(a, sp.spt[k], sp.level)
            if pt == NULL:
                continue
            child = sptep_to_sp(a, pt)
            gfn = sp.gfn + k * pages_per_hpage(sp.level)
            if child.level != sp.level - 1 or child.ptep != &sp.spt[k] or (child.gfn ^ gfn) & ~kvm.gfn_direct_bits:
                return False
    return True


cdef bint spans_possible(World *w, tuple threads) except -1:
    """Whether all that touches tables is known: no code of a design file or of Python, no operation without a span, no
    scripted write of anything."""
    cdef int i, j
    if w.vm.kvm.ops != NULL or w.vm.kvm.hooks.python != NULL:
        return False
    for i in range(w.nthreads):
        for j in range(w.threads[i].nops):
            if threads[i][j]["op"] not in SPANS or w.threads[i].master[j].race_kind == RACE_INSTALL:
                return False
    return tables_in_place(&w.vm.kvm)


cdef int span_add(World *w, Spans *spans, const Op *op, str span) except -1:
    """Adds what an operation touches to a thread's spans."""
    cdef int level = max(1, op.level, w.vm.kvm.design.max_level)
    cdef uint64_t start = op.start, end = op.end
    if span == "none" or spans.n > MAX_SPANS:
        return 0
    if span == "gpa":
        # Levels of the guest begin with 0.
        level = max(level, op.level + 1)
        start = op.value >> 12
        end = start + 1
    elif span != "range":
        start = op.gfn
        end = start + (MASK_BITS if span == "mask" else 1)
    if span == "all" or spans.n == MAX_SPANS:
        spans.n = MAX_SPANS + 1
        return 0
    level = min(level, TOP_LEVEL)
    spans.start[spans.n] = gfn_round_for_level(start, level) & ~w.vm.kvm.gfn_direct_bits
    spans.end[spans.n] = (gfn_round_for_level(end - 1, level) + pages_per_hpage(level)) & ~w.vm.kvm.gfn_direct_bits
    spans.n += 1
    return 0


cdef inline bint touches(const Spans *spans, uint64_t gfn, uint64_t npages) noexcept nogil:
    """Whether a thread may look at the entry of these frames, or change it."""
    cdef int i
    if spans.n > MAX_SPANS:
        return True
    for i in range(spans.n):
        if spans.start[i] < gfn + npages and gfn < spans.end[i]:
            return True
    return False


cdef bint lone_entry(void *user, int agent, int kind, uint64_t obj) noexcept nogil:
    """Program.lone: whether no other thread can tell when this access happens."""
    cdef World *w = <World *>user
    cdef const Arena *a = &w.vm.arena
    cdef const Cpu *c = w.cpus[agent]
    cdef const Sp *sp
    cdef uint64_t index = (obj - <uint64_t>a.base) >> 12
    cdef uint64_t gfn, npages
    cdef int i
    if index >= a.next_fresh:            # also below the base: the difference wraps around
        return False
    sp = &a.sps[index]
    if sp.state == SP_FREE or sp.state == SP_FREED or not 1 <= sp.level <= TOP_LEVEL:
        return False
    npages = pages_per_hpage(sp.level)
    gfn = (sp.gfn + ((obj >> 3) & (SPTE_ENTRIES - 1)) * npages) & ~w.vm.kvm.gfn_direct_bits
    if kind != SYNC_LOAD and sp.state == SP_LINKED and not touches(&w.spans[agent], gfn, npages):
        w.outside += 1
    for i in range(w.nthreads):
        if i != agent and touches(&w.spans[i], gfn, npages):
            return False
    return c.rcu_depth > 0 and not c.rcu.no_grace
