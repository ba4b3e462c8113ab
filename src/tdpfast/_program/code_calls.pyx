# cython: language_level=3
"""A design file's functions as the core calls them, and the table of them.

An adapter call_f() enters the file: it says which CPU runs (running_cpu()) and calls without it. Contracts and lock modes are those of the function named.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from tdpfast._mmu.arena cimport SP_LINKED, Sp
from tdpfast._mmu.tdp_iter cimport TdpIter
from tdpfast._mmu.tdp_mmu cimport (
    PRIVATE_WORDS, DesignOps, Fault, Kvm, base___handle_changed_spte, base___tdp_mmu_set_spte_atomic, base_handle_changed_spte,
    base_handle_removed_pt, base_tdp_mmu_free_sp_rcu_callback, base_tdp_mmu_set_spte, base_tdp_mmu_set_spte_atomic,
    base_tdp_mmu_unlink_sp, sp_unlinked,
)
from tdpfast._mmu.tdp_mmu_map cimport base_tdp_mmu_map_handle_target_level, base_tdp_mmu_split_huge_page
from tdpfast._mmu.invalidate cimport base_is_page_fault_stale
from tdpfast._mmu.tdp_mmu_slot cimport base_age_gfn_range, base_clear_dirty_gfn_range, base_wrprot_gfn_range
from tdpfast._mmu.tdp_mmu_sp cimport base_tdp_mmu_link_sp
from tdpfast._mmu.tdp_mmu_zap cimport base___tdp_mmu_zap_root, base_tdp_mmu_zap_leafs
from tdpfast._program.code_api cimport CodeFile, calls
from tdpfast._program.code_tables cimport api_rcu_begun
from tdpfast._seam.module cimport SeamRegs
from tdpfast._sync.atomic cimport tdp_write_once32
from tdpfast._sync.cpu cimport Cpu, RcuHead, run_as, running_cpu
from tdpfast._tdx.design_ops cimport TdxOps
from tdpfast._tdx.hooks cimport base_tdx_sept_set_private_spte
from tdpfast._tdx.pamt cimport base_tdx_pamt_get, base_tdx_pamt_put
from tdpfast._tdx.split cimport base_tdx_sept_split_private_spte
from tdpfast._tdx.state cimport Tdx
from tdpfast._tdx.tdx cimport (
    base_tdh_do_no_vcpus, base_tdx_sept_free_private_spt, base_tdx_sept_map_leaf_spte, base_tdx_sept_map_nonleaf_spte,
    base_tdx_sept_reclaim_private_spt, base_tdx_sept_remove_leaf_spte, base_tdx_track,
)

from tdpfast._names import SeamLeaf

FUNCTIONS = (
    "__tdp_mmu_set_spte_atomic", "tdp_mmu_set_spte_atomic", "__handle_changed_spte", "handle_changed_spte",
    "handle_removed_pt", "tdp_mmu_set_spte", "tdp_mmu_link_sp", "tdp_mmu_unlink_sp", "tdp_mmu_split_huge_page",
    "tdp_mmu_map_handle_target_level", "is_page_fault_stale", "clear_dirty_gfn_range", "wrprot_gfn_range",
    "age_gfn_range", "__tdp_mmu_zap_root", "tdp_mmu_zap_leafs", "tdp_mmu_free_sp_rcu_callback",
    "tdx_sept_set_private_spte", "tdx_sept_map_leaf_spte", "tdx_sept_map_nonleaf_spte", "tdx_sept_remove_leaf_spte",
    "tdx_sept_free_private_spt", "tdx_sept_reclaim_private_spt", "tdx_sept_split_private_spte", "tdx_do_no_vcpus",
    "tdx_track", "tdx_pamt_get", "tdx_pamt_put",
)
"""What a file may define, by the place of each in CodeFile.fn."""


cdef struct Saved:           # what a call of the file leaves as it was
    uint32_t line
    uint32_t called
    uint64_t pc
    uint64_t uaf


cdef inline void enter(Cpu *c, Saved *s) noexcept nogil:
    s.line = c.code.line
    s.called = c.code.called
    s.pc = c.code.pc
    s.uaf = c.code.uaf
    c.code.line = 0
    c.code.uaf = 0
    c.code.pc = 0
    c.code.depth += 1
    run_as(c)


cdef inline void leave(Cpu *c, const Saved *s) noexcept nogil:
    c.code.depth -= 1
    c.code.line = s.line
    c.code.called = s.called
    c.code.pc = s.pc
    c.code.uaf = s.uaf
    # An outer call of the file, or the core on another CPU of this OS thread, sets the word again when it needs it.


cdef inline void *file_fn(const Kvm *kvm, int which) noexcept nogil:
    return (<const CodeFile *>kvm.ops.file).fn[which]


# ---- the core calls the file --------------------------------------------------------------------------------------

cdef int call___tdp_mmu_set_spte_atomic(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil:
    cdef int ret
    cdef Saved s
    enter(c, &s)
    ret = (<int (*)(Kvm *, TdpIter *, uint64_t) noexcept nogil>file_fn(kvm, 0))(kvm, iter, new_spte)
    leave(c, &s)
    return ret


cdef int call_tdp_mmu_set_spte_atomic(Cpu *c, Kvm *kvm, TdpIter *iter, uint64_t new_spte) noexcept nogil:
    cdef int ret
    cdef Saved s
    enter(c, &s)
    ret = (<int (*)(Kvm *, TdpIter *, uint64_t) noexcept nogil>file_fn(kvm, 1))(kvm, iter, new_spte)
    leave(c, &s)
    return ret


cdef int call___handle_changed_spte(Cpu *c, Kvm *kvm, Sp *sp, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                                    int level, bint shared) noexcept nogil:
    cdef int ret
    cdef Saved s
    enter(c, &s)
    ret = (<int (*)(Kvm *, Sp *, uint64_t, uint64_t, uint64_t, int, bint) noexcept nogil>file_fn(kvm, 2))(kvm, sp,
        gfn, old_spte, new_spte, level, shared)
    leave(c, &s)
    return ret


cdef void call_handle_changed_spte(Cpu *c, Kvm *kvm, Sp *sp, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                                   int level, bint shared) noexcept nogil:
    cdef Saved s
    enter(c, &s)
    (<void (*)(Kvm *, Sp *, uint64_t, uint64_t, uint64_t, int, bint) noexcept nogil>file_fn(kvm, 3))(kvm, sp, gfn,
        old_spte, new_spte, level, shared)
    leave(c, &s)


cdef void call_handle_removed_pt(Cpu *c, Kvm *kvm, uint64_t *pt, bint shared) noexcept nogil:
    cdef Saved s
    enter(c, &s)
    (<void (*)(Kvm *, uint64_t *, bint) noexcept nogil>file_fn(kvm, 4))(kvm, pt, shared)
    leave(c, &s)


cdef uint64_t call_tdp_mmu_set_spte(Cpu *c, Kvm *kvm, uint64_t *sptep, uint64_t old_spte, uint64_t new_spte,
                                    uint64_t gfn, int level) noexcept nogil:
    cdef uint64_t ret
    cdef Saved s
    enter(c, &s)
    ret = (<uint64_t (*)(Kvm *, int, uint64_t *, uint64_t, uint64_t, uint64_t, int) noexcept nogil>file_fn(kvm,
        5))(kvm, 0, sptep, old_spte, new_spte, gfn, level)
    leave(c, &s)
    return ret


cdef int call_tdp_mmu_link_sp(Cpu *c, Kvm *kvm, TdpIter *iter, Sp *sp, bint shared) noexcept nogil:
    cdef int ret
    cdef Saved s
    enter(c, &s)
    tdp_write_once32(&sp.state, SP_LINKED)
    ret = (<int (*)(Kvm *, TdpIter *, Sp *, bint) noexcept nogil>file_fn(kvm, 6))(kvm, iter, sp, shared)
    leave(c, &s)
    return ret


cdef void call_tdp_mmu_unlink_sp(Cpu *c, Kvm *kvm, Sp *sp) noexcept nogil:
    cdef Saved s
    enter(c, &s)
    sp_unlinked(sp)
    (<void (*)(Kvm *, Sp *) noexcept nogil>file_fn(kvm, 7))(kvm, sp)
    leave(c, &s)


cdef int call_tdp_mmu_split_huge_page(Cpu *c, Kvm *kvm, TdpIter *iter, Sp *sp, bint shared) noexcept nogil:
    cdef int ret
    cdef Saved s
    enter(c, &s)
    ret = (<int (*)(Kvm *, TdpIter *, Sp *, bint) noexcept nogil>file_fn(kvm, 8))(kvm, iter, sp, shared)
    leave(c, &s)
    return ret


cdef int call_tdp_mmu_map_handle_target_level(Cpu *c, Kvm *kvm, Fault *fault, TdpIter *iter) noexcept nogil:
    cdef int ret
    cdef Saved s
    enter(c, &s)
    ret = (<int (*)(Cpu *, Fault *, TdpIter *) noexcept nogil>file_fn(kvm, 9))(c, fault, iter)
    leave(c, &s)
    return ret


cdef bint call_is_page_fault_stale(Cpu *c, Kvm *kvm, Fault *fault) noexcept nogil:
    cdef bint ret
    cdef Saved s
    enter(c, &s)
    ret = (<uint8_t (*)(Cpu *, Fault *) noexcept nogil>file_fn(kvm, 10))(c, fault)
    leave(c, &s)
    return ret


cdef void call_clear_dirty_gfn_range(Cpu *c, Kvm *kvm, Sp *root, uint64_t start, uint64_t end) noexcept nogil:
    cdef Saved s
    enter(c, &s)
    (<void (*)(Kvm *, Sp *, uint64_t, uint64_t) noexcept nogil>file_fn(kvm, 11))(kvm, root, start, end)
    leave(c, &s)


cdef bint call_wrprot_gfn_range(Cpu *c, Kvm *kvm, Sp *root, uint64_t start, uint64_t end,
                                int min_level) noexcept nogil:
    cdef bint ret
    cdef Saved s
    enter(c, &s)
    ret = (<uint8_t (*)(Kvm *, Sp *, uint64_t, uint64_t, int) noexcept nogil>file_fn(kvm, 12))(kvm, root, start,
        end, min_level)
    leave(c, &s)
    return ret


cdef bint call_age_gfn_range(Cpu *c, Kvm *kvm, Sp *root, uint64_t start, uint64_t end, bint test_only) noexcept nogil:
    cdef bint ret
    cdef Saved s
    enter(c, &s)
    ret = (<uint8_t (*)(Kvm *, Sp *, uint64_t, uint64_t, bint) noexcept nogil>file_fn(kvm, 13))(kvm, root, start,
        end, test_only)
    leave(c, &s)
    return ret


cdef void call___tdp_mmu_zap_root(Cpu *c, Kvm *kvm, Sp *root, bint shared, int zap_level) noexcept nogil:
    cdef Saved s
    enter(c, &s)
    (<void (*)(Kvm *, Sp *, bint, int) noexcept nogil>file_fn(kvm, 14))(kvm, root, shared, zap_level)
    leave(c, &s)


cdef bint call_tdp_mmu_zap_leafs(Cpu *c, Kvm *kvm, Sp *root, uint64_t start, uint64_t end, bint can_yield,
                                 bint flush) noexcept nogil:
    cdef bint ret
    cdef Saved s
    enter(c, &s)
    ret = (<uint8_t (*)(Kvm *, Sp *, uint64_t, uint64_t, bint, bint) noexcept nogil>file_fn(kvm, 15))(kvm, root,
        start, end, can_yield, flush)
    leave(c, &s)
    return ret


cdef void call_tdp_mmu_free_sp_rcu_callback(Cpu *c, Kvm *kvm, RcuHead *head) noexcept nogil:
    cdef Saved s
    enter(c, &s)
    api_rcu_begun(head)
    (<void (*)(RcuHead *) noexcept nogil>file_fn(kvm, 16))(head)
    leave(c, &s)


cdef int call_tdx_sept_set_private_spte(Cpu *c, Tdx *t, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                                        int level) noexcept nogil:
    cdef int ret
    cdef Saved s
    enter(c, &s)
    ret = (<int (*)(Kvm *, uint64_t, uint64_t, uint64_t, int) noexcept nogil>file_fn(&t.vm.kvm, 17))(&t.vm.kvm, gfn,
        old_spte, new_spte, level)
    leave(c, &s)
    return ret


cdef int call_tdx_sept_map_leaf_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t new_spte) noexcept nogil:
    cdef int ret
    cdef Saved s
    enter(c, &s)
    ret = (<int (*)(Kvm *, uint64_t, int, uint64_t) noexcept nogil>file_fn(&t.vm.kvm, 18))(&t.vm.kvm, gfn, level,
        new_spte)
    leave(c, &s)
    return ret


cdef int call_tdx_sept_map_nonleaf_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t new_spte) noexcept nogil:
    cdef int ret
    cdef Saved s
    enter(c, &s)
    ret = (<int (*)(Kvm *, uint64_t, int, uint64_t) noexcept nogil>file_fn(&t.vm.kvm, 19))(&t.vm.kvm, gfn, level,
        new_spte)
    leave(c, &s)
    return ret


cdef int call_tdx_sept_remove_leaf_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t old_spte) noexcept nogil:
    cdef int ret
    cdef Saved s
    enter(c, &s)
    ret = (<int (*)(Kvm *, uint64_t, int, uint64_t) noexcept nogil>file_fn(&t.vm.kvm, 20))(&t.vm.kvm, gfn, level,
        old_spte)
    leave(c, &s)
    return ret


cdef int call_tdx_sept_free_private_spt(Cpu *c, Tdx *t, Sp *sp) noexcept nogil:
    cdef int ret
    cdef Saved s
    enter(c, &s)
    ret = (<int (*)(Kvm *, uint64_t, int, Sp *) noexcept nogil>file_fn(&t.vm.kvm, 21))(&t.vm.kvm, sp.gfn, sp.level,
        sp)
    leave(c, &s)
    return ret


cdef int call_tdx_sept_reclaim_private_spt(Cpu *c, Tdx *t, Sp *sp) noexcept nogil:
    cdef int ret
    cdef Saved s
    enter(c, &s)
    ret = (<int (*)(Kvm *, uint64_t, int, Sp *) noexcept nogil>file_fn(&t.vm.kvm, 22))(&t.vm.kvm, sp.gfn, sp.level,
        sp)
    leave(c, &s)
    return ret


cdef int call_tdx_sept_split_private_spte(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t old_spte,
                                          uint64_t new_spte, bint shared) noexcept nogil:
    cdef int ret
    cdef Saved s
    enter(c, &s)
    ret = (<int (*)(Kvm *, uint64_t, int, uint64_t, uint64_t, bint) noexcept nogil>file_fn(&t.vm.kvm,
        23))(&t.vm.kvm, gfn, level, old_spte, new_spte, shared)
    leave(c, &s)
    return ret


cdef uint64_t call_tdx_do_no_vcpus(Cpu *c, Tdx *t, int leaf, uint64_t rcx, uint64_t rdx, uint64_t r8,
                                   SeamRegs *r) noexcept nogil:
    cdef uint64_t ret
    cdef Saved s
    enter(c, &s)
    ret = (<uint64_t (*)(Kvm *, int, uint64_t, uint64_t, uint64_t) noexcept nogil>file_fn(&t.vm.kvm, 24))(&t.vm.kvm,
        leaf, rcx, rdx, r8)
    leave(c, &s)
    return ret


cdef void call_tdx_track(Cpu *c, Tdx *t) noexcept nogil:
    cdef Saved s
    enter(c, &s)
    (<void (*)(Kvm *) noexcept nogil>file_fn(&t.vm.kvm, 25))(&t.vm.kvm)
    leave(c, &s)


cdef int call_tdx_pamt_get(Cpu *c, Tdx *t, uint64_t page) noexcept nogil:
    cdef int ret
    cdef Saved s
    enter(c, &s)
    ret = (<int (*)(uint64_t) noexcept nogil>file_fn(&t.vm.kvm, 26))(page)
    leave(c, &s)
    return ret


cdef void call_tdx_pamt_put(Cpu *c, Tdx *t, uint64_t page) noexcept nogil:
    cdef Saved s
    enter(c, &s)
    (<void (*)(uint64_t) noexcept nogil>file_fn(&t.vm.kvm, 27))(page)
    leave(c, &s)


cdef void call_own_rcu_callback(Cpu *c, Kvm *kvm, RcuHead *head) noexcept nogil:
    cdef Saved s
    cdef void *func = head.func
    head.func = NULL
    enter(c, &s)
    api_rcu_begun(head)
    (<void (*)(RcuHead *) noexcept nogil>func)(head)
    leave(c, &s)


# ---- the table ----------------------------------------------------------------------------------------------------

cdef void restore_data(const DesignOps *ops) noexcept nogil:
    cdef const CodeFile *f = <const CodeFile *>ops.file
    memcpy(<void *>f.data, <const void *>f.copy, f.data_end - f.data)


cdef class LoadedCode:
    """The table of one loaded file: what a VM's core is given. address: of its DesignOps, valid while this lives.

    functions: {name: address} of what the file defines; text, data: its [start, end) in memory. The file stays loaded
    for the life of the process."""
    cdef DesignOps ops
    cdef TdxOps tdx
    cdef CodeFile file

    def __cinit__(self, dict functions, tuple text, tuple data):
        cdef int i
        for i, name in enumerate(FUNCTIONS):
            self.file.fn[i] = <void *><size_t>functions.get(name, 0)
        self.file.text, self.file.text_end = text
        self.file.data, self.file.data_end = data
        self.file.copy = <uint64_t>malloc(self.file.data_end - self.file.data + 1)
        if self.file.copy == 0:
            raise MemoryError("no memory for a design file's static data")
        self.ops.file = &self.file
        self.ops.tdx = &self.tdx
        self.ops.restore = restore_data
        self.ops.own_rcu_callback = call_own_rcu_callback
        self.fill()

    def __dealloc__(self):
        free(<void *>self.file.copy)

    def loaded(self):
        """The pointers of the file are set: its static data is copied as every execution will find it."""
        memcpy(<void *>self.file.copy, <const void *>self.file.data, self.file.data_end - self.file.data)

    @property
    def address(self):
        return <size_t>&self.ops

    cdef void fill(self) noexcept:
        self.ops.__tdp_mmu_set_spte_atomic = (
            call___tdp_mmu_set_spte_atomic if self.file.fn[0] != NULL else base___tdp_mmu_set_spte_atomic)
        self.ops.tdp_mmu_set_spte_atomic = (
            call_tdp_mmu_set_spte_atomic if self.file.fn[1] != NULL else base_tdp_mmu_set_spte_atomic)
        self.ops.__handle_changed_spte = (
            call___handle_changed_spte if self.file.fn[2] != NULL else base___handle_changed_spte)
        self.ops.handle_changed_spte = (
            call_handle_changed_spte if self.file.fn[3] != NULL else base_handle_changed_spte)
        self.ops.handle_removed_pt = call_handle_removed_pt if self.file.fn[4] != NULL else base_handle_removed_pt
        self.ops.tdp_mmu_set_spte = call_tdp_mmu_set_spte if self.file.fn[5] != NULL else base_tdp_mmu_set_spte
        self.ops.tdp_mmu_link_sp = call_tdp_mmu_link_sp if self.file.fn[6] != NULL else base_tdp_mmu_link_sp
        self.ops.tdp_mmu_unlink_sp = call_tdp_mmu_unlink_sp if self.file.fn[7] != NULL else base_tdp_mmu_unlink_sp
        self.ops.tdp_mmu_split_huge_page = (
            call_tdp_mmu_split_huge_page if self.file.fn[8] != NULL else base_tdp_mmu_split_huge_page)
        self.ops.tdp_mmu_map_handle_target_level = (
            call_tdp_mmu_map_handle_target_level if self.file.fn[9] != NULL else base_tdp_mmu_map_handle_target_level)
        self.ops.is_page_fault_stale = call_is_page_fault_stale if self.file.fn[10] != NULL else base_is_page_fault_stale
        self.ops.clear_dirty_gfn_range = (
            call_clear_dirty_gfn_range if self.file.fn[11] != NULL else base_clear_dirty_gfn_range)
        self.ops.wrprot_gfn_range = call_wrprot_gfn_range if self.file.fn[12] != NULL else base_wrprot_gfn_range
        self.ops.age_gfn_range = call_age_gfn_range if self.file.fn[13] != NULL else base_age_gfn_range
        self.ops.__tdp_mmu_zap_root = call___tdp_mmu_zap_root if self.file.fn[14] != NULL else base___tdp_mmu_zap_root
        self.ops.tdp_mmu_zap_leafs = call_tdp_mmu_zap_leafs if self.file.fn[15] != NULL else base_tdp_mmu_zap_leafs
        self.ops.tdp_mmu_free_sp_rcu_callback = (
            call_tdp_mmu_free_sp_rcu_callback if self.file.fn[16] != NULL else base_tdp_mmu_free_sp_rcu_callback)
        self.tdx.tdx_sept_set_private_spte = (
            call_tdx_sept_set_private_spte if self.file.fn[17] != NULL else base_tdx_sept_set_private_spte)
        self.tdx.tdx_sept_map_leaf_spte = (
            call_tdx_sept_map_leaf_spte if self.file.fn[18] != NULL else base_tdx_sept_map_leaf_spte)
        self.tdx.tdx_sept_map_nonleaf_spte = (
            call_tdx_sept_map_nonleaf_spte if self.file.fn[19] != NULL else base_tdx_sept_map_nonleaf_spte)
        self.tdx.tdx_sept_remove_leaf_spte = (
            call_tdx_sept_remove_leaf_spte if self.file.fn[20] != NULL else base_tdx_sept_remove_leaf_spte)
        self.tdx.tdx_sept_free_private_spt = (
            call_tdx_sept_free_private_spt if self.file.fn[21] != NULL else base_tdx_sept_free_private_spt)
        self.tdx.tdx_sept_reclaim_private_spt = (
            call_tdx_sept_reclaim_private_spt if self.file.fn[22] != NULL else base_tdx_sept_reclaim_private_spt)
        self.tdx.tdx_sept_split_private_spte = (
            call_tdx_sept_split_private_spte if self.file.fn[23] != NULL else base_tdx_sept_split_private_spte)
        self.tdx.tdh_do_no_vcpus = call_tdx_do_no_vcpus if self.file.fn[24] != NULL else base_tdh_do_no_vcpus
        self.tdx.tdx_track = call_tdx_track if self.file.fn[25] != NULL else base_tdx_track
        self.tdx.tdx_pamt_get = call_tdx_pamt_get if self.file.fn[26] != NULL else base_tdx_pamt_get
        self.tdx.tdx_pamt_put = call_tdx_pamt_put if self.file.fn[27] != NULL else base_tdx_pamt_put


def layout():
    """Where the core keeps what include/tdpfast/types.h names: {macro: number}."""
    cdef Kvm *kvm = NULL
    cdef Sp *sp = NULL
    cdef TdpIter *it = NULL
    cdef Fault *fault = NULL
    cdef Cpu *cpu = NULL
    cdef Tdx *tdx = NULL
    return {
        "RCU_HEAD_SIZE": sizeof(RcuHead), "SP_SIZE": sizeof(Sp), "KVM_SIZE": sizeof(Kvm), "ITER_SIZE": sizeof(TdpIter),
        "FAULT_SIZE": sizeof(Fault), "PRIVATE_WORDS": <int>PRIVATE_WORDS,
        "SP_SPT": <size_t>&sp.spt, "SP_GFN": <size_t>&sp.gfn, "SP_PTEP": <size_t>&sp.ptep,
        "SP_EXTERNAL_SPT": <size_t>&sp.external_spt, "SP_ROOT_COUNT": <size_t>&sp.root_count,
        "SP_RCU_HEAD": <size_t>&sp.rcu_head, "SP_NX": <size_t>&sp.nx_huge_page_disallowed,
        "SP_PRIVATE": <size_t>&sp.private_word, "SP_LEVEL": <size_t>&sp.level, "SP_IS_MIRROR": <size_t>&sp.is_mirror,
        "SP_INVALID": <size_t>&sp.invalid, "SP_AD_DISABLED": <size_t>&sp.ad_disabled,
        "SP_ACCESS": <size_t>&sp.access, "SP_GUEST_MODE": <size_t>&sp.guest_mode, "SP_SMM": <size_t>&sp.smm,
        "SP_SCHEDULED": <size_t>&sp.scheduled_to_zap,
        "KVM_MMU_LOCK": <size_t>&kvm.mmu_lock, "KVM_BUGGED": <size_t>&kvm.vm_bugged,
        "KVM_DEAD": <size_t>&kvm.vm_dead, "KVM_PRIVATE": <size_t>&kvm.private_words,
        "KVM_TDP_MMU_PAGES": <size_t>&kvm.tdp_mmu_pages, "KVM_PAGES_LOCK": <size_t>&kvm.tdp_mmu_pages_lock,
        "KVM_MMIO_VALUE": <size_t>&kvm.shadow_mmio_value, "KVM_DIRECT_BITS": <size_t>&kvm.gfn_direct_bits,
        "KVM_INVALIDATE_SEQ": <size_t>&kvm.invalidate.seq,
        "KVM_INVALIDATE_IN_PROGRESS": <size_t>&kvm.invalidate.in_progress,
        "ITER_NEXT": <size_t>&it.next_last_level_gfn, "ITER_YIELDED_GFN": <size_t>&it.yielded_gfn,
        "ITER_GFN": <size_t>&it.gfn, "ITER_GFN_BITS": <size_t>&it.gfn_bits, "ITER_OLD": <size_t>&it.old_spte,
        "ITER_SPTEP": <size_t>&it.sptep, "ITER_PATH": <size_t>&it.pt_path, "ITER_ROOT_LEVEL": <size_t>&it.root_level,
        "ITER_MIN_LEVEL": <size_t>&it.min_level, "ITER_LEVEL": <size_t>&it.level, "ITER_AS_ID": <size_t>&it.as_id,
        "ITER_VALID": <size_t>&it.valid, "ITER_YIELDED": <size_t>&it.yielded,
        "FAULT_GFN": <size_t>&fault.gfn, "FAULT_PFN": <size_t>&fault.pfn, "FAULT_ERROR": <size_t>&fault.error_code,
        "FAULT_MAX_LEVEL": <size_t>&fault.max_level, "FAULT_REQ_LEVEL": <size_t>&fault.req_level,
        "FAULT_GOAL_LEVEL": <size_t>&fault.goal_level, "FAULT_WRITE": <size_t>&fault.write,
        "FAULT_EXEC": <size_t>&fault.exec_, "FAULT_USER": <size_t>&fault.user, "FAULT_PRESENT": <size_t>&fault.present,
        "FAULT_PREFETCH": <size_t>&fault.prefetch, "FAULT_MAP_WRITABLE": <size_t>&fault.map_writable,
        "FAULT_PRIVATE": <size_t>&fault.is_private, "FAULT_NX": <size_t>&fault.huge_page_disallowed,
        "FAULT_NX_WORKAROUND": <size_t>&fault.nx_huge_page_workaround_enabled, "FAULT_SLOT": <size_t>&fault.slot,
        "FAULT_SEQ": <size_t>&fault.mmu_seq, "FAULT_NOSLOT": <size_t>&fault.noslot,
        "CPU_VM": <size_t>&cpu.vm, "CPU_ID": <size_t>&cpu.id,
        "TDX_TDR": <size_t>&tdx.tdr_pa, "TDX_HKID": <size_t>&tdx.hkid,
        "TDX_STATE": <size_t>&tdx.state, "TDX_WAIT": <size_t>&tdx.wait_for_sept_zap,
        "TDX_PRE_FAULT": <size_t>&tdx.pre_fault_allowed, "TDX_PREMAPPED": <size_t>&tdx.nr_premapped,
        "TDX_ADD_SRC": <size_t>&tdx.page_add_src,
        **{name: int(leaf) for name, leaf in SeamLeaf.__members__.items()},
    }
