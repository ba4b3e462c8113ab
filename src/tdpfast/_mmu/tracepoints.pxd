"""mmutrace.h: tracepoints about tables."""

from tdpfast._mmu.arena cimport Sp, sp_hpa
from tdpfast._sync.cpu cimport Cpu, Event, trace_new

cdef inline void trace_page(Cpu *c, int kind, const Sp *sp) noexcept nogil:
    """Tracepoints kvm_mmu_get_page and kvm_mmu_prepare_zap_page: what they show of a kvm_mmu_page."""
    cdef Event *e
    if c.trace == NULL:
        return
    e = trace_new(c, kind)
    e.a[0] = sp.level
    e.a[1] = sp.gfn
    e.a[2] = sp.is_mirror
    e.a[3] = sp.access
    e.a[4] = sp.ad_disabled
    e.a[5] = sp_hpa(sp)
