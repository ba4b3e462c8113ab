# cython: language_level=3
"""The external table's model: see external_model.pxd."""

from libc.stdlib cimport calloc, free
from libc.string cimport memset

from tdpfast._names cimport (
    EBUSY, EV_FREE_EXT, EV_LINK_EXT, EV_REMOVE_EXT, EV_SET_EXT, RECLAIM_IN_SET, RECLAIM_OP_NOW, SYNC_LOAD,
)
from tdpfast._mmu.arena cimport SPTE_ENTRIES, Sp, hpa_to_sp
from tdpfast._sync.atomic cimport tdp_fetch_add, tdp_read_once, tdp_store_release, tdp_xchg
from tdpfast._spte cimport SPTE_BASE_ADDR_MASK, is_last_spte, is_shadow_present_pte
from tdpfast._sync.cpu cimport Cpu, sync_point, trace3, trace5
from tdpfast._mmu.tdp_mmu cimport spte_to_child_sp
from tdpfast._face.vm cimport VmCore

from tdpfast.errors import UsageError

cdef extern from *:
    """
    #define MODEL_TABLE 1ull
    #define MODEL_BUSY 2ull
    """
    const uint64_t MODEL_TABLE
    const uint64_t MODEL_BUSY

FAULTS = ("concurrent", "stale", "not_empty", "outside", "no_table")


cdef inline uint64_t in_model(uint64_t spte, int level) noexcept nogil:
    if not is_shadow_present_pte(spte):
        return 0
    return spte if is_last_spte(spte, level) else MODEL_TABLE


cdef void model_fault(Model *m, int kind, uint64_t gfn, int level) noexcept nogil:
    if tdp_fetch_add(&m.faults[kind], 1) == 0:
        m.fault_gfn[kind] = gfn
        m.fault_level[kind] = level


cdef uint64_t *model_entry(Model *m, uint64_t gfn, int level) noexcept nogil:
    cdef int shift = 9 * (level - 1)
    cdef uint64_t index = (gfn >> shift) - (m.base >> shift)
    if level < 1 or level > 5 or index >= m.count[level]:
        model_fault(m, MODEL_OUTSIDE, gfn, level)
        return NULL
    return &m.entry[level][index]


cdef uint64_t *model_below(Model *m, uint64_t gfn, int level, int i) noexcept nogil:
    """Entry i of the table at an entry; NULL where the model ends."""
    cdef int shift = 9 * (level - 2)
    cdef uint64_t index = (gfn >> shift) + <uint64_t>i - (m.base >> shift)
    if level < 2 or index >= m.count[level - 1]:
        return NULL
    return &m.entry[level - 1][index]


cdef void model_check_empty(Model *m, uint64_t gfn, int level) noexcept nogil:
    """No entry below the table at this entry."""
    cdef uint64_t *below
    cdef int i
    for i in range(SPTE_ENTRIES):
        below = model_below(m, gfn, level, i)
        if below != NULL and tdp_read_once(below) != 0:
            model_fault(m, MODEL_NOT_EMPTY, gfn, level)
            return


cdef void model_check_table(Model *m, const Kvm *kvm, uint64_t gfn, int level) noexcept nogil:
    """A table of the external table is there to hold this entry."""
    cdef uint64_t *above
    if level >= kvm.root_level:
        return
    above = model_entry(m, gfn, level + 1)
    if above != NULL and tdp_read_once(above) != MODEL_TABLE:
        model_fault(m, MODEL_NO_TABLE, gfn, level)


cdef void model_demote(Model *m, Kvm *kvm, uint64_t gfn, uint64_t new_spte, int level) noexcept nogil:
    """A leaf becomes a table: its pages are what the new table says."""
    cdef const Sp *child = spte_to_child_sp(kvm, new_spte)
    cdef uint64_t *below
    cdef int i
    if child == NULL:
        return
    for i in range(SPTE_ENTRIES):
        below = model_below(m, gfn, level, i)
        if below != NULL:
            tdp_store_release(below, in_model(child.spt[i], level - 1))


cdef void model_change(Model *m, Kvm *kvm, uint64_t gfn, uint64_t old, uint64_t new, uint64_t new_spte,
                       int level) noexcept nogil:
    """One entry from old to new, both as in_model() writes them."""
    cdef uint64_t *p = model_entry(m, gfn, level)
    cdef uint64_t found
    if p == NULL:
        return
    found = tdp_xchg(p, MODEL_BUSY)
    if found == MODEL_BUSY:
        model_fault(m, MODEL_CONCURRENT, gfn, level)
    elif found != old:
        model_fault(m, MODEL_STALE, gfn, level)
    if new:
        model_check_table(m, kvm, gfn, level)
    if new == MODEL_TABLE and old > MODEL_BUSY:
        model_demote(m, kvm, gfn, new_spte, level)
    elif (new == MODEL_TABLE) != (old == MODEL_TABLE):
        model_check_empty(m, gfn, level)
    tdp_store_release(p, new)


cdef int model_set_external_spte(Cpu *c, Kvm *kvm, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                                 int level) noexcept nogil:
    cdef Model *m = <Model *>kvm.hooks.opaque
    cdef Sp *child
    cdef int ret = 0
    sync_point(c, SYNC_LOAD, <uint64_t>&m.calls)     # where others may come between, as in a SEAMCALL
    if is_shadow_present_pte(new_spte) and not is_shadow_present_pte(old_spte) and m.fail_one_in:
        if tdp_fetch_add(&m.calls, 1) % m.fail_one_in == m.fail_one_in - 1:
            tdp_fetch_add(&m.failed, 1)
            ret = -EBUSY
    trace5(c, EV_SET_EXT, gfn, level, old_spte, new_spte, <uint64_t>ret)
    if ret:
        return ret
    model_change(m, kvm, gfn, in_model(old_spte, level), in_model(new_spte, level), new_spte, level)
    if (kvm.design.reclaim == RECLAIM_IN_SET and in_model(old_spte, level) == MODEL_TABLE
            and in_model(new_spte, level) != MODEL_TABLE):
        child = spte_to_child_sp(kvm, old_spte)
        if child != NULL and child.external_spt:
            child.external_spt = 0
            tdp_fetch_add(&kvm.external_live, <uint64_t>-1)
    return 0


cdef int model_link_external_spt(Cpu *c, Kvm *kvm, uint64_t gfn, int level, uint64_t external_spt) noexcept nogil:
    sync_point(c, SYNC_LOAD, <uint64_t>kvm.hooks.opaque)
    trace5(c, EV_LINK_EXT, gfn, level, 0, external_spt != 0, 0)
    model_change(<Model *>kvm.hooks.opaque, kvm, gfn, 0, MODEL_TABLE, 0, level)
    return 0


cdef void model_remove_external_spte(Cpu *c, Kvm *kvm, uint64_t gfn, int level, uint64_t spte) noexcept nogil:
    trace3(c, EV_REMOVE_EXT, gfn, level, spte)
    model_change(<Model *>kvm.hooks.opaque, kvm, gfn, in_model(spte, level), 0, 0, level)


cdef int model_free_external_spt(Cpu *c, Kvm *kvm, uint64_t gfn, int level, Sp *sp) noexcept nogil:
    trace5(c, EV_FREE_EXT, gfn, level, sp.external_spt, 0, sp.external_spt != 0)
    model_change(<Model *>kvm.hooks.opaque, kvm, gfn, MODEL_TABLE, 0, 0, level + 1)
    if kvm.design.reclaim == RECLAIM_OP_NOW and sp.external_spt:
        sp.external_spt = 0
        tdp_fetch_add(&kvm.external_live, <uint64_t>-1)
    return 0


cdef void hooks_model(Kvm *kvm, Model *m) noexcept nogil:
    """Replaces the recording hooks of a VM; those for pages of the external table stay."""
    kvm.hooks.opaque = m
    kvm.hooks.set_external_spte = model_set_external_spte
    if kvm.hooks.free_external_spt != NULL:
        kvm.hooks.free_external_spt = model_free_external_spt
    if kvm.hooks.link_external_spt != NULL:
        kvm.hooks.link_external_spt = model_link_external_spt
    kvm.hooks.remove_external_spte = model_remove_external_spte


cdef class ExternalModel:
    """A model of the external table for gfns [base_gfn, base_gfn + npages), installed on a VM with an empty mirror.

    Thread-safety: the hooks run on any CPU at any time; the methods read while nobody runs.
    """
    cdef Model m
    cdef VmCore vm

    def __cinit__(self, VmCore vm not None, uint64_t base_gfn, uint64_t npages):
        cdef int level
        if npages == 0 or npages > 1 << 24 or base_gfn > 1 << 52:
            raise UsageError(f"a model of {npages} pages", "out of range", "1..2^24 pages")
        vm.check_hook()
        memset(&self.m, 0, sizeof(Model))
        self.m.base = base_gfn
        for level in range(1, 6):
            self.m.count[level] = ((base_gfn + npages - 1 >> 9 * (level - 1)) - (base_gfn >> 9 * (level - 1))) + 1
            self.m.entry[level] = <uint64_t *>calloc(self.m.count[level], sizeof(uint64_t))
            if self.m.entry[level] == NULL:
                raise MemoryError("no memory for the model")
        self.vm = vm
        vm.keep = (vm.keep, self) if vm.keep is not None else self
        hooks_model(&vm.vm.kvm, &self.m)

    def __dealloc__(self):
        cdef int level
        for level in range(1, 6):
            free(self.m.entry[level])

    @property
    def fail_one_in(self):
        """Every n-th hook call that maps something new returns -EBUSY; 0 = none does."""
        return self.m.fail_one_in

    @fail_one_in.setter
    def fail_one_in(self, uint64_t n):
        self.m.fail_one_in = n

    @property
    def failed(self):
        """Hook calls that were made to fail."""
        return self.m.failed

    def faults(self):
        """What the hooks saw that must not be: name -> (count, gfn and level of the first)."""
        return {name: (self.m.faults[i], self.m.fault_gfn[i], self.m.fault_level[i])
                for i, name in enumerate(FAULTS) if self.m.faults[i]}

    def differences(self, Py_ssize_t most=10):
        """Where the model and the mirror differ: (level, gfn, mirror entry, model entry), `most` at the most.
        1 stands for a table."""
        cdef Sp *root = self.vm.vm.kvm.tdp_mmu_roots
        cdef int level
        cdef uint64_t i, spte
        out = []
        seen = {}
        while root != NULL:
            if root.is_mirror:
                self.collect(root, seen)
            root = root.next
        for level in range(1, 6):
            for i in range(self.m.count[level]):
                if self.m.entry[level][i]:
                    gfn = ((self.m.base >> 9 * (level - 1)) + i) << 9 * (level - 1)
                    spte = seen.pop((level, gfn), 0)
                    if spte != self.m.entry[level][i] and len(out) < most:
                        out.append((level, gfn, spte, self.m.entry[level][i]))
        out += [(level, gfn, spte, 0) for (level, gfn), spte in seen.items()][:most - len(out)]
        return out

    cdef collect(self, const Sp *sp, dict seen):
        cdef const Sp *child
        cdef uint64_t value
        cdef int i
        for i in range(SPTE_ENTRIES):
            value = sp.spt[i]
            if not is_shadow_present_pte(value):
                continue
            seen[sp.level, sp.gfn + (<uint64_t>i << 9 * (sp.level - 1))] = in_model(value, sp.level)
            if not is_last_spte(value, sp.level):
                child = hpa_to_sp(&self.vm.vm.arena, value & SPTE_BASE_ADDR_MASK)
                if child != NULL and child.level == sp.level - 1:
                    self.collect(child, seen)
