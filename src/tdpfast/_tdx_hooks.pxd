"""vmx/tdx.c: the hooks that carry mirror changes to the module, in each design's shape."""

from tdpfast._sync cimport Cpu
from tdpfast._tdp_mmu cimport Kvm
from tdpfast._tdx cimport Tdx

cdef void tdx_hooks(Kvm *kvm, Tdx *t) noexcept nogil
