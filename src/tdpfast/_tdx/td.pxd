"""vmx/tdx.c: a TD's life on KVM's side: build, vCPUs, HKID release, teardown."""

from libc.stdint cimport uint64_t

from tdpfast._sync.cpu cimport Cpu
from tdpfast._tdx.state cimport Tdx

cdef struct TdConfig:
    uint64_t tdr_pa
    uint64_t tdcs_base       # TDCS page i at + i * 4K
    uint64_t tdvpr_base      # vCPU v: TDVPR at + v * 64K, its TDCX pages behind it
    uint64_t sept_base
    int hkid
    int nvcpus
    int lp_base
    int levels
    int gpaw
    bint runnable
    uint64_t attributes
    uint64_t td_ctls

cdef uint64_t tdx_td_build(Cpu *c, Tdx *t, const TdConfig *cfg) noexcept nogil
cdef void tdx_slots_lock(Cpu *c, Tdx *t) noexcept nogil
cdef void tdx_slots_unlock(Cpu *c, Tdx *t) noexcept nogil
cdef int tdx_finalize(Cpu *c, Tdx *t, uint64_t *hw_error) noexcept nogil
cdef void tdx_mmu_release_hkid(Cpu *c, Tdx *t) noexcept nogil
cdef int tdx_vcpu_create(Cpu *c, Tdx *t, uint64_t *hw_error) noexcept nogil
cdef void tdx_vcpu_free(Cpu *c, Tdx *t, int vcpu) noexcept nogil
cdef void tdx_vm_destroy(Cpu *c, Tdx *t) noexcept nogil
