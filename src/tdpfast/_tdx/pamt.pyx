# cython: language_level=3
"""Dynamic PAMT on KVM's side: tdx_pamt_get() and tdx_pamt_put() (see pamt.pxd).

A count per 2M range says how many 4K pages of it the module may hold. It leaves 0 only under pamt_lock, after
PAMT.ADD, and reaches 0 only there, before PAMT.REMOVE (atomic_dec_and_lock()).

An earlier posting, the knob pamt_dec_outside, drops it to 0 before it takes the lock. A get may then find the pair
still there (TDX_HPA_RANGE_NOT_FREE): it sets the count to 1, and the put, which looks again under the lock, leaves the
pair alone. That is not enough: when the get's own put comes first and removes the pair, the other put finds the count
0 again, removes a pair that is gone, and counts a user that nobody is.

The pair of a range is a fixed one of a pool at the end of the last TDMR; pages_out counts what the kernel's caches
would have given out. Both functions may yield; get may be called under mmu_lock in either mode, put as well.
"""

from libc.string cimport memset

from tdpfast._names cimport EIO, ENOMEM, EV_SEAMCALL_FAILED, NOMEM_PAMT, SYNC_RMW, SYNC_STORE, TDH_PHYMEM_PAMT_ADD, TDH_PHYMEM_PAMT_REMOVE
from tdpfast._sync.atomic cimport tdp_fetch_add, tdp_read_once, tdp_unlikely, tdp_write_once
from tdpfast._seam.module cimport SeamRegs, seamcall
from tdpfast._seam.state cimport PT_NDA, PT_PAMT, PT_RSVD, PamtEntry, pamt_entry, undo_word
from tdpfast._seam.defs cimport TDX_HPA_RANGE_NOT_FREE, TDX_SUCCESS, seam_map
from tdpfast._sync.cpu cimport no_memory, spin_lock, spin_unlock, sync_load, sync_point, sync_try_cmpxchg, trace3
from tdpfast._mmu.tdp_mmu cimport kvm_warn
from tdpfast._tdx.design_ops cimport TdxOps, tdx_ops

cdef enum:
    PAIR = 8192              # bytes of a page pair
    RANGE_2M = 1             # the page size in RCX


cdef int pamt_host_init(Seam *s) noexcept nogil:
    """The counts for all ranges from the first TDMR to the last; 0, or -1 without memory for them or the pool."""
    cdef uint64_t start, end, n, bytes
    cdef PamtHost *h
    if s.host != NULL:
        return 0
    if s.ntdmr == 0:
        return -1
    start = s.tdmr[0].start
    end = s.tdmr[s.ntdmr - 1].end
    n = (end - start) >> 21
    if n * PAIR > (s.tdmr[s.ntdmr - 1].end - s.tdmr[s.ntdmr - 1].start) // 2:
        return -1
    bytes = sizeof(PamtHost) + n * sizeof(uint64_t)
    h = <PamtHost *>seam_map(bytes)
    if h == NULL:
        return -1
    h.base = start
    h.nranges = n
    h.pool = end - n * PAIR
    s.host = h
    s.host_bytes = bytes
    return 0


cdef PamtHost *pamt_host(const Seam *s) noexcept nogil:
    return <PamtHost *>s.host


cdef uint64_t *pamt_refs(Seam *s, uint64_t hpa) noexcept nogil:
    """The count of the range of an HPA; NULL outside the TDMRs."""
    cdef PamtHost *h = pamt_host(s)
    if h == NULL or hpa < h.base or (hpa - h.base) >> 21 >= h.nranges:
        return NULL
    return &h.refs[(hpa - h.base) >> 21]


cdef void pages_taken(Seam *s, PamtHost *h, int64_t n) noexcept nogil:
    undo_word(s, &h.pages_out)
    tdp_fetch_add(&h.pages_out, <uint64_t>n)


cdef void ref_add(Cpu *c, Seam *s, uint64_t *ref) noexcept nogil:
    sync_point(c, SYNC_RMW, <uint64_t>ref)
    undo_word(s, ref)
    tdp_fetch_add(ref, 1)


cdef bint ref_inc_not_zero(Cpu *c, Seam *s, uint64_t *ref) noexcept nogil:
    cdef uint64_t old = sync_load(c, ref)
    while old != 0:
        undo_word(s, ref)
        if sync_try_cmpxchg(c, ref, &old, old + 1):
            return True
    return False


cdef uint64_t pamt_call(Cpu *c, Seam *s, int leaf, uint64_t hpa) noexcept nogil:
    """PAMT.ADD or REMOVE for the range of an HPA. Yields."""
    cdef PamtHost *h = pamt_host(s)
    cdef SeamRegs r
    memset(&r, 0, sizeof(r))
    r.rcx = (hpa >> 21 << 21) | RANGE_2M
    r.rdx = h.pool + ((hpa - h.base) >> 21) * PAIR
    r.r8 = r.rdx + 4096
    return seamcall(c, s, leaf, &r)


cdef int add_pair(Cpu *c, Seam *s, PamtHost *h, uint64_t *ref, uint64_t hpa) noexcept nogil:
    """The count is, or was, 0: under pamt_lock. 0, or -EIO."""
    cdef uint64_t err
    if sync_load(c, ref) != 0:
        ref_add(c, s, ref)           # lost the race to another get
        pages_taken(s, h, -2)
        return 0
    err = pamt_call(c, s, TDH_PHYMEM_PAMT_ADD, hpa)
    if err == TDX_SUCCESS:
        sync_point(c, SYNC_STORE, <uint64_t>ref)
        undo_word(s, ref)
        tdp_write_once(ref, 1)
        return 0
    pages_taken(s, h, -2)
    if err >> 32 == TDX_HPA_RANGE_NOT_FREE >> 32:
        ref_add(c, s, ref)           # a put dropped it to 0 and has not got the lock yet
        return 0
    trace3(c, EV_SEAMCALL_FAILED, TDH_PHYMEM_PAMT_ADD, err, 0)
    return -EIO


cdef int tdx_pamt_get(Cpu *c, Tdx *t, uint64_t hpa) noexcept nogil:
    cdef const TdxOps *ops = tdx_ops(t)
    if tdp_unlikely(ops != NULL):
        return ops.tdx_pamt_get(c, t, hpa)
    return base_tdx_pamt_get(c, t, hpa)


cdef int base_tdx_pamt_get(Cpu *c, Tdx *t, uint64_t hpa) noexcept nogil:
    """One more user of the 2M range of a 4K page: the module can hold the page from now on. 0, -EIO, or -ENOMEM."""
    cdef PamtHost *h = pamt_host(t.seam)
    cdef uint64_t *ref
    cdef int ret
    if not t.design.dynamic_pamt:
        return 0
    ref = pamt_refs(t.seam, hpa)
    if ref == NULL:
        return -EIO
    if no_memory(c, NOMEM_PAMT):
        return -ENOMEM
    pages_taken(t.seam, h, 2)
    if ref_inc_not_zero(c, t.seam, ref):
        pages_taken(t.seam, h, -2)
        return 0
    undo_word(t.seam, &h.lock.val)
    spin_lock(c, &h.lock)
    ret = add_pair(c, t.seam, h, ref, hpa)
    spin_unlock(c, &h.lock)
    return ret


cdef uint64_t ref_sub(Cpu *c, Seam *s, uint64_t *ref) noexcept nogil:
    """The count after it."""
    sync_point(c, SYNC_RMW, <uint64_t>ref)
    undo_word(s, ref)
    return tdp_fetch_add(ref, <uint64_t>-1) - 1


cdef bint ref_dec_not_last(Cpu *c, Seam *s, uint64_t *ref) noexcept nogil:
    cdef uint64_t old = sync_load(c, ref)
    while old > 1:
        undo_word(s, ref)
        if sync_try_cmpxchg(c, ref, &old, old - 1):
            return True
    return False


cdef void remove_pair(Cpu *c, Tdx *t, PamtHost *h, uint64_t *ref, uint64_t hpa) noexcept nogil:
    """Under pamt_lock; the count is 1 and ours, or, dropped outside, was 0."""
    cdef uint64_t err
    if t.design.pamt_dec_outside:
        if sync_load(c, ref) != 0:
            return                   # lost the race to a get
    elif ref_sub(c, t.seam, ref) != 0:
        return
    err = pamt_call(c, t.seam, TDH_PHYMEM_PAMT_REMOVE, hpa)
    if err == TDX_SUCCESS:
        pages_taken(t.seam, h, -2)
        return
    ref_add(c, t.seam, ref)
    kvm_warn(c, b"tdx_pamt_put", b"seamcall_failed")
    trace3(c, EV_SEAMCALL_FAILED, TDH_PHYMEM_PAMT_REMOVE, err, 0)


cdef void tdx_pamt_put(Cpu *c, Tdx *t, uint64_t hpa) noexcept nogil:
    cdef const TdxOps *ops = tdx_ops(t)
    if tdp_unlikely(ops != NULL):
        ops.tdx_pamt_put(c, t, hpa)
    else:
        base_tdx_pamt_put(c, t, hpa)


cdef void base_tdx_pamt_put(Cpu *c, Tdx *t, uint64_t hpa) noexcept nogil:
    """One user less of the 2M range of a 4K page: the module does not hold the page any more. Cannot fail."""
    cdef PamtHost *h = pamt_host(t.seam)
    cdef uint64_t *ref
    if not t.design.dynamic_pamt:
        return
    ref = pamt_refs(t.seam, hpa)
    if ref == NULL:
        return
    if t.design.pamt_dec_outside:
        if ref_sub(c, t.seam, ref) != 0:
            return
    elif ref_dec_not_last(c, t.seam, ref):
        return
    undo_word(t.seam, &h.lock.val)
    spin_lock(c, &h.lock)
    remove_pair(c, t, h, ref, hpa)
    spin_unlock(c, &h.lock)


# ---- the check ----------------------------------------------------------------------------------------------

cdef int64_t live_pages(Seam *s, uint64_t hpa) noexcept nogil:
    """4K pages of a 2M range that the module holds."""
    cdef const PamtEntry *e = pamt_entry(s, hpa, 0)
    cdef int64_t n = 0
    cdef int i
    for i in range(512):
        if e[i].pt != PT_NDA and e[i].pt != PT_RSVD:
            n += 1
    return n


cdef bint pamt_balanced(Seam *s, uint64_t *range_hpa, int64_t *refs, int64_t *live) noexcept nogil:
    """At quiescence: each count is the number of live 4K pages of its range, a pair is there where it is not 0, and no
    page of a pair is lost. False: the first range that is wrong (the pool: range_hpa is 0, pages out and wanted)."""
    cdef PamtHost *h = pamt_host(s)
    cdef const PamtEntry *e
    cdef int64_t pairs = 0
    cdef uint64_t i
    if h == NULL:
        return True
    for i in range(h.nranges):
        range_hpa[0] = h.base + (i << 21)
        e = pamt_entry(s, range_hpa[0], 1)
        if e == NULL or (e.pt != PT_PAMT and h.refs[i] == 0):
            continue
        pairs += e.pt == PT_PAMT
        refs[0] = <int64_t>h.refs[i]
        live[0] = live_pages(s, range_hpa[0])
        if refs[0] != live[0] or (e.pt == PT_PAMT) != (refs[0] != 0):
            return False
    range_hpa[0] = 0
    refs[0] = <int64_t>tdp_read_once(&h.pages_out)
    live[0] = 2 * pairs
    return refs[0] == live[0]
