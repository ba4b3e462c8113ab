"""Hooks that only record their calls and return what the operation scripts."""

from tdpfast._mmu.tdp_mmu cimport Kvm

cdef void hooks_record_v73(Kvm *kvm) noexcept nogil
cdef void hooks_record_v618(Kvm *kvm) noexcept nogil
