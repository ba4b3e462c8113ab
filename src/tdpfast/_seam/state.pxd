"""What the TDX module keeps: its state, and how it is looked up and written. No lock is taken here.

Snapshot and restore are for one thread (the explorer): writes to PAMT entries, their lock words and S-EPT entries go
through an undo log while Seam.tracking is set; everything else is copied.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tdpfast._sync.atomic cimport (
    tdp_cpu_relax, tdp_read_once, tdp_store_release, tdp_try_cmpxchg, tdp_unlikely, tdp_write_once,
)
from tdpfast._sync.cpu cimport Cpu
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
    OPS_FOR_WRITE = 0x7ce    # MNG.WR, VP.WR

cdef enum VpState:
    VP_UNINITIALIZED = 0
    VP_READY = 1
    VP_ACTIVE = 2

cdef enum KotState:
    KOT_FREE = 0
    KOT_ASSIGNED = 1
    KOT_FLUSHED = 2
    KOT_WRITTEN_BACK = 3
    KOT_RESERVED = 4

cdef enum:
    SEAM_MAX_TDMR = 8
    SEAM_MAX_LP = 64
    SEAM_MAX_INJECT = 32
    SEAM_HOST_PAGES = 64
    SEAM_HKIDS = 64
    SEAM_EPF_LIST = 32
    SEAM_TDCS_PAGES = 6
    SEAM_TDVPX_PAGES = 5
    SEAM_MAX_TDVPX = 14      # whatever the number of L2 VMs
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

cdef struct HostPage:
    uint64_t pa
    uint64_t word[512]

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
    uint64_t td_ctls     # bit 0: PENDING_VE_DISABLE, from ATTRIBUTES bit 28
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
    uint64_t tsc_frequency
    uint64_t eptp_controls
    uint64_t mr_config[18]   # MRCONFIGID, MROWNER, MROWNERCONFIG
    uint64_t mig_count   # pages exported and not restored
    uint64_t dirty_count # of them those whose newest content was not exported
    uint64_t bw_epoch    # TD_EPOCH at the last EXPORT.BLOCKW

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
    uint64_t ve_qual     # exit qualification
    uint64_t pend_nmi
    uint64_t hp_busy     # a TDCALL met the host-priority bit
    uint64_t hp_expired  # ... for longer than HP_LOCK_TIMEOUT
    uint64_t trap_exit   # it left by a trap-like TD exit, which the host may hint at on the next VP.ENTER
    uint32_t epf_count   # zero-step: EPT violations where it was entered last
    uint32_t epf_n
    uint64_t epf_gpa[32]
    uint16_t td          # slot of its TD
    uint32_t index
    uint64_t x2apic_id   # VP.INIT version 1; -1: none was given
    uint64_t tdvpx_pa[16]

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
    uint64_t wb_hkids        # those that the running CACHE.WB writes back, one bit each
    uint64_t wb_next         # the part it goes on with; 0: none was interrupted
    # initialisation
    uint64_t sys_lock        # sharex
    uint64_t sys_state       # SysState
    uint64_t lp_ready        # logical processors that did TDH.SYS.LP.INIT, one bit each
    uint64_t global_hkid
    int32_t nlp              # logical processors that have to
    bint dynamic_pamt        # 4K entries need a page pair, see _seam_pamt
    bint enhanced_demote     # ENHANCED_DEMOTE_INTERRUPTIBILITY: DEMOTE does not give way to interrupts
    bint topology            # topology enumeration, later than 1.5.01: VP.INIT has version 1
    bint nonblocking_resize  # NON-BLOCKING-RESIZE: DEMOTE takes an entry that is not blocked
    TdmrInfo *info           # what the VMM wrote for TDH.SYS.CONFIG, as if at info_pa
    int32_t ninfo
    uint64_t info_pa
    HostPage *host_page      # memory outside of TDMRs that the VMM wrote to
    int32_t nhost_page
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
    uint64_t wb_copy[2]
    int32_t snap_td
    int32_t snap_vp
    # what an S-EPT entry names that names no memory; only entries written behind the module's back do
    PamtEntry nowhere[512]
    uint64_t nowhere_page[512]
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

cdef inline void pamt_set(Seam *s, PamtEntry *e, int pt, uint64_t owner) noexcept nogil:
    """A page gets a use: type, owner, BEPOCH 0."""
    pamt_touch(s, e)
    e.pt = <uint8_t>pt
    e.flags = 0
    e.owner = owner
    tdp_write_once(&e.bepoch, 0)

cdef inline void pamt_control(Seam *s, PamtEntry *e, int pt, uint64_t owner) noexcept nogil:
    """A page becomes a control page: BEPOCH stays."""
    pamt_touch(s, e)
    e.pt = <uint8_t>pt
    e.flags = 0
    e.owner = owner

cdef inline void pamt_free(Seam *s, PamtEntry *e) noexcept nogil:
    """A page loses its use. Owner and BEPOCH stay, as in the module."""
    pamt_touch(s, e)
    e.pt = PT_NDA

cdef void sept_page_init(Seam *s, uint64_t *page, uint64_t fill) noexcept nogil

# ---- the host's memory ----
cdef inline uint64_t *host_words(Seam *s, uint64_t pa) noexcept nogil:
    """The words of a page outside of TDMRs; NULL for one that the VMM never wrote, which is zeroes."""
    cdef int i
    for i in range(s.nhost_page):
        if s.host_page[i].pa == pa & ~<uint64_t>0xfff:
            return &s.host_page[i].word[0]
    return NULL

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

cdef inline SeamLp *lp_of(Seam *s, Cpu *c) noexcept nogil:
    return &s.lp[<uint32_t>c.lp & 63]

cdef inline bint interrupt_pending(Seam *s, Cpu *c) noexcept nogil:
    """One poll for a pending interrupt."""
    cdef SeamLp *lp = lp_of(s, c)
    cdef uint64_t polls = tdp_read_once(&lp.polls) + 1
    cdef int64_t after = <int64_t>tdp_read_once(<uint64_t *>&lp.intr_after)
    tdp_write_once(&lp.polls, polls)
    return after >= 0 and polls > <uint64_t>after
