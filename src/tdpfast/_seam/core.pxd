"""The TDX module's state, its locks and the steps every leaf shares.

Lock words have the module's own layout. sharex: bit 0 exclusive, bits 15:1 readers. sharex_hp (PAMT entries,
OP_STATE): bit 0 exclusive, bit 1 host priority, bits 15:2 readers. S-EPT entry: bit 11 lock, bit 52 host priority.
All of them are try-locks: a leaf never waits.

Snapshot and restore are for one thread (the explorer): writes to PAMT entries, their lock words and S-EPT entries go
through an undo log while Seam.tracking is set; everything else is copied.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tdpfast._names cimport SYNC_PUT_EXCL, SYNC_PUT_SHARED, SYNC_TRY_EXCL, SYNC_TRY_SHARED
from tdpfast._sync.atomic cimport (
    tdp_cpu_relax, tdp_fetch_add, tdp_fetch_and, tdp_fetch_or, tdp_read_once, tdp_store_release, tdp_try_cmpxchg,
    tdp_unlikely, tdp_write_once,
)
from tdpfast._sync.cpu cimport Cpu, sync_point
from tdpfast._seam.defs cimport *

cdef enum PageType:
    PT_NDA = 0
    PT_RSVD = 1
    PT_REG = 3
    PT_TDR = 4
    PT_TDCX = 5
    PT_TDVPR = 6
    PT_EPT = 8
    PT_PAMT = 15         # a 2M entry whose 4K entries live in a page pair (dynamic PAMT)

cdef enum Lifecycle:
    TD_HKID_ASSIGNED = 0
    TD_KEYS_CONFIGURED = 1
    TD_BLOCKED = 2
    TD_TEARDOWN = 3

cdef enum SysState:      # of the module
    SYS_INIT_PENDING = 0
    SYS_INIT_DONE = 1
    SYS_CONFIG_DONE = 2
    SYS_READY = 3

cdef enum PamtFlag:      # of 4K entries
    PAMT_BYTES = 1       # the page's content is in its backing memory
    PAMT_PAGE = 2        # one of a page pair that holds 4K entries

cdef enum OpState:
    OPS_UNINITIALIZED = 0
    OPS_INITIALIZED = 1
    OPS_RUNNABLE = 2
    OPS_LIVE_EXPORT = 3
    OPS_PAUSED_EXPORT = 4
    OPS_POST_EXPORT = 5
    OPS_MEMORY_IMPORT = 6
    OPS_STATE_IMPORT = 7
    OPS_POST_IMPORT = 8
    OPS_LIVE_IMPORT = 9
    OPS_FAILED_IMPORT = 10

cdef enum:               # sets of OpState, one bit each: which leaf runs where
    OPS_TRACKED = 0x20c      # TLB tracking needed; VP.ENTER allowed
    OPS_IMPORTING = 0x3c0
    OPS_FOR_SEPT_ADD = 0x3ce
    OPS_FOR_AUG = 0x20e
    OPS_FOR_CHANGE = 0x33e   # BLOCK, UNBLOCK, DEMOTE, PROMOTE, RELOCATE
    OPS_FOR_REMOVE = 0x73e
    OPS_FOR_READ = 0x7fe     # SEPT.RD, SEPT.REMOVE
    OPS_FOR_TRACK = 0x3fe
    OPS_FOR_BUILD = 0x002    # PAGE.ADD, MR.EXTEND, MR.FINALIZE, VP.INIT
    OPS_FOR_VP = 0x082
    OPS_FOR_NEW = 0x001
    OPS_FOR_ALL = 0x7ff

cdef enum VpState:
    VP_UNINITIALIZED = 0
    VP_READY = 1
    VP_ACTIVE = 2

cdef enum:
    SEAM_MAX_TDMR = 8
    SEAM_MAX_LP = 64
    SEAM_MAX_INJECT = 32
    SEAM_HKIDS = 64
    SEAM_EPF_LIST = 32
    SEAM_TDCS_PAGES = 6
    SEAM_TDVPX_PAGES = 5
    SEAM_ROOT_PAGE = 3       # of the TDCX pages, the one that is the root of the S-EPT
    SEAM_ZERO_STEP = 6       # faults at one RIP that are only counted

cdef struct PamtEntry:   # 32 bytes. A 2M entry of type PT_PAMT has its page pair in owner and bepoch
    uint64_t lock
    uint64_t owner       # HPA of the TDR
    uint64_t bepoch
    uint32_t content     # what the page holds: 0 zeroes, else a content id
    uint16_t ref         # TDR: 1 + its slot of Seam.td; TDVPR: 1 + its slot of Seam.vp
    uint8_t pt
    uint8_t flags        # PamtFlag

cdef struct Tdmr:
    uint64_t start       # [start, end) of HPA; 1G aligned
    uint64_t end
    PamtEntry *p4k       # NULL: PAMT not initialised
    PamtEntry *p2m
    PamtEntry *p1g
    uint8_t *memory      # backing of the range; S-EPT pages and pages added with their bytes are touched
    uint64_t ready       # [start, ready) is initialised, in whole gigabytes
    uint64_t lock        # TDH.SYS.TDMR.INIT works on it

cdef struct TdmrInfo:    # TDMR_INFO; pamt by page size
    uint64_t start
    uint64_t size
    uint64_t pamt_base[3]
    uint64_t pamt_size[3]
    uint64_t rsvd_offset[16]
    uint64_t rsvd_size[16]

cdef struct Td:
    uint64_t used
    uint64_t tdr_pa
    uint64_t hkid
    uint64_t lifecycle
    uint64_t fatal
    uint64_t op_state
    uint64_t op_lock     # sharex_hp
    uint64_t tree_lock   # sharex
    uint64_t epoch_lock  # sharex
    uint64_t td_epoch
    uint64_t refcount[2]
    uint64_t chldcnt
    uint64_t attributes
    uint64_t td_ctls     # bit 0: PENDING_VE_DISABLE
    uint64_t max_vcpus
    uint64_t num_vcpus
    uint64_t assoc_vcpus
    uint64_t num_tdcx
    int32_t levels       # 4 or 5
    int32_t gpaw         # 0: 48-bit guest addresses, shared bit 47; 1: 52, shared bit 51
    int32_t num_l2
    uint64_t *root[4]    # 0: L1; 1..3: the L2 VMs
    uint64_t xfam
    uint64_t config_flags
    uint64_t notify_enables
    uint64_t tsc_multiplier
    uint64_t sha[8]      # SHA-384 of the build so far
    uint64_t sha_blocks  # of 128 bytes
    uint64_t mrtd[6]     # its digest, once finalised
    uint64_t tdcx_pa[16]

cdef struct Vp:
    uint64_t used
    uint64_t tdvpr_pa
    uint64_t state
    uint64_t lp          # 1 + the logical processor it is associated with; 0: none
    uint64_t vcpu_epoch
    uint64_t num_tdvpx
    uint64_t rip
    uint64_t ve_valid    # VE_INFO not yet read by the guest
    uint64_t ve_gpa
    uint64_t pend_nmi
    uint64_t hp_busy     # a TDCALL met the host-priority bit
    uint64_t hp_expired  # ... for longer than HP_LOCK_TIMEOUT
    uint64_t trap_exit   # it left by a trap-like TD exit, which the host may hint at on the next VP.ENTER
    uint32_t epf_count   # zero-step: EPT violations where it was entered last
    uint32_t epf_n
    uint64_t epf_gpa[32]
    uint16_t td          # slot of its TD
    uint32_t index

cdef struct SeamLp:
    int64_t intr_after   # an interrupt is pending after so many polls; -1: never
    uint64_t polls
    uint64_t entry_rip   # where the last VP.ENTER here would have resumed the guest
    uint32_t vp          # 1 + the slot of the VCPU running here

cdef struct SeamRegs:
    uint64_t rax         # in: leaf, version in bits 23:16; out: status
    uint64_t rcx
    uint64_t rdx
    uint64_t r8
    uint64_t r9
    uint64_t r10
    uint64_t r11

cdef struct SeamInject:
    int32_t leaf         # leaf number; -1: any
    int32_t lock         # InjectLock
    int32_t exclusive
    int32_t skip         # matching calls let through first
    int32_t count        # calls it then acts on; -1: always
    int32_t used
    uint64_t status      # nonzero: this status instead of the call
    int64_t intr_after   # >= 0: an interrupt is pending after so many polls
    int32_t cpu          # 1 + the number of the CPU whose calls it is about; 0: any

cdef struct SeamRecord:  # one SEAMCALL, for traces
    int32_t leaf
    int32_t lp
    int32_t inject       # 1 + index of the injection that acted
    uint64_t status
    SeamRegs before
    SeamRegs after

cdef struct SeamUndo:
    uint64_t *addr       # bit 0 set: a whole page, old = index of its copy
    uint64_t old

cdef struct Seam:
    Tdmr tdmr[8]
    int32_t ntdmr
    int32_t ntd
    int32_t nvp
    Td *td
    Vp *vp
    SeamLp lp[64]
    uint64_t pa_reserved     # HPA bits that must be 0: HKID and above MAX_PA
    uint64_t hkid_bits
    int32_t hkid_shift
    int32_t hkid_private     # the first private HKID
    uint64_t seamrr_start    # [start, end): the module's own memory, no source of PAGE.ADD
    uint64_t seamrr_end
    uint64_t kot_lock        # sharex
    uint64_t wbcache_lock
    uint8_t kot[64]          # state of each HKID (KotState)
    # initialisation
    uint64_t sys_lock        # sharex
    uint64_t sys_state       # SysState
    uint64_t lp_ready        # logical processors that did TDH.SYS.LP.INIT, one bit each
    uint64_t global_hkid
    int32_t nlp              # logical processors that have to
    bint dynamic_pamt        # 4K entries need a page pair, see _seam_pamt
    bint enhanced_demote     # ENHANCED_DEMOTE_INTERRUPTIBILITY: DEMOTE does not give way to interrupts
    bint nonblocking_resize  # NON-BLOCKING-RESIZE: DEMOTE takes an entry that is not blocked
    TdmrInfo *info           # what the VMM wrote for TDH.SYS.CONFIG, as if at info_pa
    int32_t ninfo
    uint64_t info_pa
    void *host               # the kernel's counts for it; the module never looks
    uint64_t host_bytes
    # broken designs
    uint32_t no_track_check
    uint32_t no_block_check
    # injection and trace, for whoever holds side_lock; nobody yields inside
    uint64_t side_lock
    int32_t ninject
    int32_t inject_owned
    SeamInject inject[32]
    int32_t observed     # SEAM_*: what calls leave behind
    SeamRecord *record
    uint64_t nrecord
    uint64_t cap_record
    # snapshot
    uint32_t tracking
    uint32_t undo_lost
    uint64_t nundo
    uint64_t cap_undo
    uint64_t npages
    uint64_t cap_pages
    SeamUndo *undo
    uint64_t *pages
    Td *td_copy
    Vp *vp_copy
    SeamLp lp_copy[64]
    uint8_t kot_copy[64]
    int32_t snap_td
    int32_t snap_vp
    # what an S-EPT entry names that names no memory; only entries written behind the module's back do
    PamtEntry nowhere[512]
    uint64_t nowhere_page[512]

cdef enum Held:
    HELD_TDR_SHARED = 1
    HELD_TDR_EXCL = 2
    HELD_OP_STATE = 4
    HELD_TREE_SHARED = 8
    HELD_TREE_EXCL = 16
    HELD_ENTRY = 32

cdef struct PageHold:    # a physical page looked up through the PAMT, and the locks that keeps
    PamtEntry *leaf      # NULL: nothing held
    PamtEntry *p2m
    PamtEntry *p1g
    int32_t size         # of leaf: 0 4K, 1 2M, 2 1G
    bint excl

cdef struct Call:        # one SEAMCALL on a TD
    Td *td
    PageHold tdr
    uint64_t gpa
    uint64_t *ep         # S-EPT entry found
    uint64_t entry       # its value, without lock and host-priority bits
    int32_t level
    uint32_t held

# ---- undo log ----
cdef void undo_push(Seam *s, uint64_t *addr, uint64_t old) noexcept nogil
cdef void undo_page(Seam *s, uint64_t *page) noexcept nogil

cdef inline void undo_word(Seam *s, uint64_t *addr) noexcept nogil:
    if tdp_unlikely(s.tracking != 0):
        undo_push(s, addr, addr[0])

cdef inline void undo_taken(Seam *s, uint64_t *used) noexcept nogil:
    """A slot was taken, beyond those a snapshot copies perhaps."""
    if tdp_unlikely(s.tracking != 0):
        undo_push(s, used, 0)

# ---- the list of injections and the call records ----
cdef inline void side_lock(Seam *s) noexcept nogil:
    cdef uint64_t old = 0
    while not tdp_try_cmpxchg(&s.side_lock, &old, 1):
        old = 0
        tdp_cpu_relax()

cdef inline void side_unlock(Seam *s) noexcept nogil:
    tdp_store_release(&s.side_lock, 0)

# ---- PAMT ----
cdef inline Tdmr *tdmr_of(Seam *s, uint64_t hpa) noexcept nogil:
    cdef int i
    for i in range(s.ntdmr):
        if s.tdmr[i].start <= hpa < s.tdmr[i].end:
            return &s.tdmr[i]
    return NULL

cdef inline PamtEntry *pamt_entry(Seam *s, uint64_t hpa, int size) noexcept nogil:
    """The PAMT entry of a page of that size (0 4K, 1 2M, 2 1G); NULL outside an initialised TDMR."""
    cdef Tdmr *t = tdmr_of(s, hpa)
    if t == NULL or hpa >= t.ready:
        return NULL
    if size == 0:
        return &t.p4k[(hpa - t.start) >> 12]
    if size == 1:
        return &t.p2m[(hpa - t.start) >> 21]
    return &t.p1g[(hpa - t.start) >> 30]

cdef inline PamtEntry *pamt_named(Seam *s, uint64_t hpa, int size) noexcept nogil:
    """As pamt_entry(), of a page that an S-EPT entry names: never NULL, and 512 entries from a 2M or 1G page on."""
    cdef PamtEntry *e = pamt_entry(s, hpa, size)
    return &s.nowhere[0] if e == NULL else e

cdef inline void pamt_touch(Seam *s, PamtEntry *e) noexcept nogil:
    """Call before an entry (its lock word apart) is written."""
    cdef uint64_t *w = <uint64_t *>e
    if tdp_unlikely(s.tracking != 0):
        undo_push(s, w + 1, w[1])
        undo_push(s, w + 2, w[2])
        undo_push(s, w + 3, w[3])

cdef inline uint64_t *page_memory(Seam *s, uint64_t hpa) noexcept nogil:
    """Content of a page of an initialised TDMR; never NULL for an HPA that passed pamt_entry()."""
    cdef Tdmr *t = tdmr_of(s, hpa)
    if t == NULL or t.memory == NULL:
        return NULL
    return <uint64_t *>(t.memory + ((hpa - t.start) & ~<uint64_t>0xfff))

cdef inline uint64_t *table_named(Seam *s, uint64_t hpa) noexcept nogil:
    """As page_memory(), of a table that an S-EPT entry names: never NULL."""
    cdef uint64_t *page = page_memory(s, hpa)
    return &s.nowhere_page[0] if page == NULL else page

# ---- locks; each is one step and may yield ----
cdef inline bint sharex_try_shared(Cpu *c, uint64_t *l) noexcept nogil:
    """A failed attempt leaves the reader count one higher, as the module's does."""
    sync_point(c, SYNC_TRY_SHARED, <uint64_t>l)
    return tdp_fetch_add(l, 2) & 1 == 0

cdef inline void sharex_put_shared(Cpu *c, uint64_t *l) noexcept nogil:
    sync_point(c, SYNC_PUT_SHARED, <uint64_t>l)
    tdp_fetch_add(l, <uint64_t>-2)

cdef inline bint sharex_try_excl(Cpu *c, uint64_t *l) noexcept nogil:
    cdef uint64_t old = 0
    sync_point(c, SYNC_TRY_EXCL, <uint64_t>l)
    return tdp_try_cmpxchg(l, &old, 1)

cdef inline void sharex_put_excl(Cpu *c, uint64_t *l) noexcept nogil:
    sync_point(c, SYNC_PUT_EXCL, <uint64_t>l)
    tdp_store_release(l, 0)

cdef inline bint hp_try_shared(Cpu *c, Seam *s, uint64_t *l) noexcept nogil:
    """Host side: failure sets the host-priority bit (and leaves the count), success clears it."""
    cdef uint64_t old
    sync_point(c, SYNC_TRY_SHARED, <uint64_t>l)
    undo_word(s, l)
    old = tdp_fetch_add(l, 4)
    if tdp_unlikely(old & 3 != 0):
        if old & 1:
            tdp_fetch_or(l, 2)
            return False
        tdp_fetch_and(l, ~<uint64_t>2)
    return True

cdef inline void hp_put_shared(Cpu *c, Seam *s, uint64_t *l) noexcept nogil:
    sync_point(c, SYNC_PUT_SHARED, <uint64_t>l)
    undo_word(s, l)
    tdp_fetch_add(l, <uint64_t>-4)

cdef inline bint hp_try_excl(Cpu *c, Seam *s, uint64_t *l) noexcept nogil:
    cdef uint64_t old
    sync_point(c, SYNC_TRY_EXCL, <uint64_t>l)
    undo_word(s, l)
    old = tdp_read_once(l)
    while old & ~<uint64_t>2 == 0:
        if tdp_try_cmpxchg(l, &old, 1):
            return True
    tdp_fetch_or(l, 2)
    return False

cdef inline bint hp_promote(Cpu *c, Seam *s, uint64_t *l) noexcept nogil:
    """Shared to exclusive; only the last reader can. On failure the shared hold is gone too."""
    cdef uint64_t old = 4
    sync_point(c, SYNC_TRY_EXCL, <uint64_t>l)
    undo_word(s, l)
    while old & ~<uint64_t>2 == 4:
        if tdp_try_cmpxchg(l, &old, 1):
            return True
    tdp_fetch_or(l, 2)
    tdp_fetch_add(l, <uint64_t>-4)
    return False

cdef inline void hp_put_excl(Cpu *c, Seam *s, uint64_t *l) noexcept nogil:
    sync_point(c, SYNC_PUT_EXCL, <uint64_t>l)
    undo_word(s, l)
    if tdp_read_once(l) == 1:
        tdp_store_release(l, 0)
    else:
        tdp_fetch_and(l, 2)      # whoever failed meanwhile keeps the host's priority

# ---- S-EPT entries ----
cdef inline int sept_index(uint64_t gpa, int level) noexcept nogil:
    return <int>((gpa >> (12 + 9 * level)) & 511)

cdef inline uint64_t level_size(int level) noexcept nogil:
    return <uint64_t>1 << (12 + 9 * level)

cdef inline uint64_t entry_clean(uint64_t entry, int level) noexcept nogil:
    """Without the progress of an interrupted ACCEPT, which a 2M leaf holds in the low bits of its page."""
    if level == 1 and sept_flags(entry) & ST_ACCEPTABLE:
        return entry & ~SEPT_COUNTER
    return entry

cdef inline bint entry_try_lock(Cpu *c, Seam *s, uint64_t *ep, uint64_t *entry) noexcept nogil:
    """Host side. *entry: the value, without lock and host-priority bits."""
    cdef uint64_t old
    sync_point(c, SYNC_TRY_EXCL, <uint64_t>ep)
    undo_word(s, ep)
    old = tdp_fetch_or(ep, SEPT_TDEL)
    entry[0] = old & ~(SEPT_TDEL | SEPT_TDHP)
    if tdp_unlikely(old & (SEPT_TDEL | SEPT_TDHP) != 0):
        if old & SEPT_TDEL:
            tdp_fetch_or(ep, SEPT_TDHP)
            return False
        tdp_fetch_and(ep, ~SEPT_TDHP)
    return True

cdef inline void entry_unlock(Cpu *c, Seam *s, uint64_t *ep) noexcept nogil:
    sync_point(c, SYNC_PUT_EXCL, <uint64_t>ep)
    undo_word(s, ep)
    tdp_fetch_and(ep, ~SEPT_TDEL)

cdef inline void entry_write_unlock(Cpu *c, Seam *s, uint64_t *ep, uint64_t v) noexcept nogil:
    """Publishes the new value and gives the lock back in one store."""
    sync_point(c, SYNC_PUT_EXCL, <uint64_t>ep)
    undo_word(s, ep)
    tdp_store_release(ep, v)

# ---- the steps leaves share ----
cdef inline uint64_t regs_version(const SeamRegs *r) noexcept nogil:
    return r.rax >> 16

cdef inline SeamLp *lp_of(Seam *s, Cpu *c) noexcept nogil:
    return &s.lp[<uint32_t>c.lp & 63]

cdef inline bint interrupt_pending(Seam *s, Cpu *c) noexcept nogil:
    """One poll for a pending interrupt."""
    cdef SeamLp *lp = lp_of(s, c)
    cdef uint64_t polls = tdp_read_once(&lp.polls) + 1
    cdef int64_t after = <int64_t>tdp_read_once(<uint64_t *>&lp.intr_after)
    tdp_write_once(&lp.polls, polls)
    return after >= 0 and polls > <uint64_t>after

cdef inline uint64_t leaf_pa_check(Seam *s, uint64_t pa, uint64_t opid) noexcept nogil:
    if pa & (s.pa_reserved | 0xfff):
        return TDX_OPERAND_INVALID | opid
    return TDX_SUCCESS

cdef uint64_t page_lock(Cpu *c, Seam *s, uint64_t hpa, int size, bint excl, uint64_t opid,
                        PageHold *h) noexcept nogil
cdef void page_unlock(Cpu *c, Seam *s, PageHold *h) noexcept nogil
cdef int small_page_used(Cpu *c, const PamtEntry *small, bint strict) noexcept nogil
cdef uint64_t page_lock_new(Cpu *c, Seam *s, uint64_t hpa, int size, uint64_t opid, PageHold *h) noexcept nogil
cdef uint64_t td_lock(Cpu *c, Seam *s, uint64_t tdr_pa, bint excl, uint64_t opid, Call *k) noexcept nogil
cdef uint64_t td_keys(Call *k) noexcept nogil
cdef uint64_t td_ready(Call *k) noexcept nogil
cdef uint64_t build_enter(Cpu *c, Seam *s, uint64_t tdr_pa, Call *k) noexcept nogil
cdef uint64_t op_state_lock(Cpu *c, Seam *s, Call *k, uint64_t allowed) noexcept nogil
cdef uint64_t gpa_decode(Call *k, uint64_t rcx, int lowest, int highest) noexcept nogil
cdef uint64_t tree_lock(Cpu *c, Call *k, bint excl) noexcept nogil
cdef uint64_t sept_find(Cpu *c, Seam *s, Call *k, SeamRegs *r) noexcept nogil
cdef uint64_t mem_enter(Cpu *c, Seam *s, SeamRegs *r, Call *k, uint64_t tdr_pa, uint64_t ops, int lowest, int highest,
                        bint tree_excl) noexcept nogil
cdef void call_leave(Cpu *c, Seam *s, Call *k) noexcept nogil
cdef void regs_entry(SeamRegs *r, uint64_t entry, int level) noexcept nogil
cdef int sept_walk(Cpu *c, Seam *s, uint64_t *root, uint64_t gpa, int top, int level, uint64_t **ep,
                   uint64_t *entry) noexcept nogil
cdef int sept_leaf(Cpu *c, Seam *s, Td *td, uint64_t gpa, uint64_t **ep, uint64_t *entry) noexcept nogil
cdef uint64_t blocked_and_tracked(Cpu *c, Seam *s, Call *k, PamtEntry *page, SeamRegs *r) noexcept nogil
cdef PamtEntry *entry_pamt(Seam *s, uint64_t entry, int level) noexcept nogil
cdef void sept_page_init(Seam *s, uint64_t *page, uint64_t fill) noexcept nogil

cdef inline uint64_t call_fail(Cpu *c, Seam *s, Call *k, uint64_t status) noexcept nogil:
    call_leave(c, s, k)
    return status

cdef inline uint64_t call_fail_entry(Cpu *c, Seam *s, Call *k, SeamRegs *r, uint64_t status) noexcept nogil:
    """As call_fail(); RCX and RDX describe the entry."""
    regs_entry(r, k.entry, k.level)
    call_leave(c, s, k)
    return status

cdef inline void pamt_set(Seam *s, PamtEntry *e, int pt, uint64_t owner) noexcept nogil:
    """A page gets a use: type, owner, BEPOCH 0."""
    pamt_touch(s, e)
    e.pt = <uint8_t>pt
    e.flags = 0
    e.owner = owner
    tdp_write_once(&e.bepoch, 0)

cdef inline void pamt_free(Seam *s, PamtEntry *e) noexcept nogil:
    """A page loses its use. Owner and BEPOCH stay, as in the module."""
    pamt_touch(s, e)
    e.pt = PT_NDA
