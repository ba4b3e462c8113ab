"""What a design file stands for on KVM's TDX side (see DesignOps of _mmu/tdp_mmu.pxd)."""

from libc.stdint cimport uint64_t

from tdpfast._mmu.arena cimport Sp
from tdpfast._seam.module cimport SeamRegs
from tdpfast._sync.cpu cimport Cpu
from tdpfast._tdx.state cimport Tdx

cdef struct TdxOps:
    int (*tdx_sept_set_private_spte)(Cpu *c, Tdx *t, uint64_t gfn, uint64_t old_spte, uint64_t new_spte,
                                     int level) noexcept nogil
    int (*tdx_sept_map_leaf_spte)(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil
    int (*tdx_sept_map_nonleaf_spte)(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil
    int (*tdx_sept_remove_leaf_spte)(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t spte) noexcept nogil
    int (*tdx_sept_free_private_spt)(Cpu *c, Tdx *t, Sp *sp) noexcept nogil
    int (*tdx_sept_reclaim_private_spt)(Cpu *c, Tdx *t, Sp *sp) noexcept nogil
    int (*tdx_sept_split_private_spte)(Cpu *c, Tdx *t, uint64_t gfn, int level, uint64_t old_spte, uint64_t new_spte,
                                       bint shared) noexcept nogil
    uint64_t (*tdh_do_no_vcpus)(Cpu *c, Tdx *t, int leaf, uint64_t rcx, uint64_t rdx, uint64_t r8,
                                SeamRegs *r) noexcept nogil
    void (*tdx_track)(Cpu *c, Tdx *t) noexcept nogil
    int (*tdx_pamt_get)(Cpu *c, Tdx *t, uint64_t hpa) noexcept nogil
    void (*tdx_pamt_put)(Cpu *c, Tdx *t, uint64_t hpa) noexcept nogil

cdef inline const TdxOps *tdx_ops(const Tdx *t) noexcept nogil:
    return NULL if t.vm.kvm.ops == NULL else <const TdxOps *>t.vm.kvm.ops.tdx
