"""vmx/tdx.c: the hooks that carry mirror changes to the module, in each design's shape."""

from tdpfast._sync.cpu cimport Cpu
from tdpfast._mmu.tdp_mmu cimport Kvm
from tdpfast._tdx.state cimport Tdx

cdef void tdx_hooks(Kvm *kvm, Tdx *t) noexcept nogil
