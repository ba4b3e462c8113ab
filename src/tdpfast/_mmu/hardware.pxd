"""What hardware and userspace know beside KVM: translations that processors keep, and what the dirty log says.

Searches of scenarios with guest accesses (`access`) fill it; elsewhere both are empty and cost a look at a word. Only
direct roots: what a TD's processors keep of the S-EPT is the module's epochs.
"""

from libc.stdint cimport uint32_t, uint64_t

from tdpfast._mmu.arena cimport Arena, Sp
from tdpfast._spte cimport SpteCfg
from tdpfast._sync.cpu cimport Cpu

cdef enum:
    TLB_ENTRIES = 16
    MAX_LOGGED = 8

cdef struct TlbEntry:        # one translation of a direct root that a processor keeps
    Sp *root
    uint64_t gfn
    uint64_t npages
    uint64_t pfn
    uint32_t cpu         # 1 + the CPU that keeps it; 0: unused
    uint32_t owed        # 1 + the CPU that changed its SPTE and has not flushed since; 0: it is what the SPTE says
    uint32_t writable
    uint32_t late        # that CPU has let go of mmu_lock since

cdef struct Tlb:             # of all processors
    uint64_t gen         # stands for all of it where the scheduler is asked
    uint32_t on
    uint32_t next        # the entry that the next translation takes
    uint64_t owing       # CPUs (bits) that changed what one of these says
    TlbEntry entry[TLB_ENTRIES]

cdef enum LogState:
    LOG_UNKNOWN = 0      # nothing is promised
    LOG_CLEAN            # taken out of the log: the next write must be seen
    LOG_DIRTY            # in the log

cdef struct LoggedPage:
    uint64_t gfn
    uint64_t state       # LogState

cdef struct DirtyLog:        # what the dirty log says of the gfns that guest accesses write
    uint64_t n
    uint64_t fetches     # how often pages were taken out
    LoggedPage page[MAX_LOGGED]

cdef void tlb_insert(Cpu *c, Tlb *tlb, Sp *root, uint64_t gfn, uint64_t npages, uint64_t pfn,
                     bint writable) noexcept nogil
cdef const TlbEntry *tlb_find(Cpu *c, const Tlb *tlb, const Sp *root, uint64_t gfn, bint write) noexcept nogil
cdef bint tlb_maps(const Tlb *tlb, uint64_t gfn, uint64_t pfn) noexcept nogil
cdef void tlb_leaf_gone(Cpu *c, Tlb *tlb, const Arena *arena, const Sp *sp, uint64_t gfn, uint64_t npages) noexcept nogil
cdef void tlb_flush(Cpu *c, Tlb *tlb, uint64_t gfn, uint64_t npages) noexcept nogil
cdef void tlb_forget(Tlb *tlb, const Sp *root, int cpu) noexcept nogil
cdef void tlb_unlocking(Cpu *c, Tlb *tlb) noexcept nogil
cdef void spte_bits_lost(Cpu *c, const SpteCfg *cfg, uint64_t old_spte, uint64_t now) noexcept nogil
cdef void log_mark(DirtyLog *log, uint64_t gfn) noexcept nogil
cdef void log_fetch(DirtyLog *log, uint64_t gfn, uint64_t mask) noexcept nogil
cdef void log_promise(Cpu *c, DirtyLog *log, uint64_t start, uint64_t end, uint64_t fetches) noexcept nogil
cdef bint log_promised(const DirtyLog *log, uint64_t gfn) noexcept nogil
