# cython: language_level=3
"""SEAMCALLs in traces, and records of them (see record.pxd)."""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from tdpfast._names cimport EV_SEAM
from tdpfast._sync.atomic cimport tdp_write_once32
from tdpfast._seam.state cimport SEAM_MAX_LP, Seam, SeamRecord, SeamRegs, side_lock, side_unlock
from tdpfast._sync.cpu cimport Cpu, Event, trace_new


cdef void seam_record(Seam *s, bint on) noexcept nogil:
    """Has each seamcall() leave a SeamRecord and an EV_SEAM event in its CPU's trace, or none of both. What was
    recorded is dropped."""
    side_lock(s)
    if not on:
        free(s.record)
        s.record = NULL
        s.cap_record = 0
    s.nrecord = 0
    tdp_write_once32(&s.observed, SEAM_RECORDED if on else SEAM_UNSEEN)
    side_unlock(s)


cdef void seam_trace(Seam *s, bint on) noexcept nogil:
    """Has each seamcall() leave an EV_SEAM event in its CPU's trace, and no SeamRecord."""
    seam_record(s, False)
    tdp_write_once32(&s.observed, SEAM_TRACED if on else SEAM_UNSEEN)


cdef void observe_call(Cpu *c, Seam *s, int leaf, SeamRegs *before, SeamRegs *after, int inject) noexcept nogil:
    cdef int64_t index = record_call(c, s, leaf, before, after, inject)
    cdef Event *e
    if c.trace == NULL:
        return
    e = trace_new(c, EV_SEAM)
    e.a[0] = <uint64_t>leaf
    e.a[1] = <uint64_t>index
    e.a[2] = after.rax
    e.a[3] = before.rcx
    e.a[4] = before.rdx
    e.a[5] = before.r8
    e.a[6] = c.lp & (SEAM_MAX_LP - 1)
    e.a[7] = inject != 0


cdef int64_t record_call(Cpu *c, Seam *s, int leaf, SeamRegs *before, SeamRegs *after, int inject) noexcept nogil:
    """Index of the record of a call; -1 without one, or without memory for it."""
    cdef int64_t index = -1
    cdef SeamRecord *record
    side_lock(s)
    if s.observed == SEAM_RECORDED and record_room(s):
        index = <int64_t>s.nrecord
        s.nrecord += 1
        record = &s.record[index]
        record.leaf = leaf
        record.lp = c.lp & (SEAM_MAX_LP - 1)
        record.inject = inject
        record.status = after.rax
        record.before = before[0]
        record.after = after[0]
    side_unlock(s)
    return index


cdef bint record_room(Seam *s) noexcept nogil:
    """Room for one more record; False without memory."""
    cdef uint64_t cap = 2 * s.cap_record if s.cap_record else 64
    cdef SeamRecord *grown
    if s.nrecord == s.cap_record:
        grown = <SeamRecord *>realloc(s.record, cap * sizeof(SeamRecord))
        if grown == NULL:
            return False
        s.record = grown
        s.cap_record = cap
    return True


cdef SeamRecord *seam_records(Seam *s, uint64_t *n) noexcept nogil:
    """A copy of what was recorded, to be freed, and how many they are; NULL without any, or without memory."""
    cdef SeamRecord *out = NULL
    side_lock(s)
    n[0] = s.nrecord
    if s.nrecord:
        out = <SeamRecord *>malloc(s.nrecord * sizeof(SeamRecord))
    if out != NULL:
        memcpy(out, s.record, s.nrecord * sizeof(SeamRecord))
    side_unlock(s)
    return out
