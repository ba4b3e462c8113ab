"""The Python-owned TD: a VmCore whose hooks are KVM's TDX side on a TDX module."""

from tdpfast._mmu.arena cimport Sp
from tdpfast._face.seam_module cimport SeamModule
from tdpfast._tdx.state cimport Tdx
from tdpfast._face.vm cimport VmCore

cdef class TdVmCore(VmCore):
    cdef Tdx *t
    cdef readonly SeamModule module
    cdef find_dangling(self, Sp *sp, list out)
    cdef int set_attributes(self, object ranges) except -1
    cdef int made(self) except -1
    cdef set_up_pamt(self, design)
    cdef set_up_resize(self, design)
