"""A debug aid for the explorer: after every step, which shared words changed that the step had not offered."""

from libc.stdint cimport uint64_t

from tdpfast._program.world cimport Watch

cdef enum WatchRegion:
    WATCH_PAGE = 0           # a table of KVM's
    WATCH_SP                 # its descriptor
    WATCH_KVM
    WATCH_TDX
    WATCH_TD
    WATCH_VP
    WATCH_PAMT
    WATCH_SEPT
    WATCH_SEPT_PAGE          # a whole S-EPT page, initialised
    WATCH_HOST               # the kernel's counts for dynamic PAMT
    WATCH_SEAM               # anything else of the module that the undo log names

cdef enum WatchHeld:         # what the agent that made the step holds after it
    HOLDS_MMU_WRITE = 1
    HOLDS_MMU = 2            # in either mode
    HOLDS_PAGES_LOCK = 4     # somebody does, as for the next four
    HOLDS_PAMT_LOCK = 8
    HOLDS_ENTRY = 16         # the PAMT entry's or the S-EPT entry's own lock
    HOLDS_EPOCH = 32
    HOLDS_TDR = 64
    HOLDS_VCPU = 128         # the vCPU's processor does one thing at a time
    HOLDS_SLOTS_LOCK = 256

cdef Watch *watch_new(void *user) noexcept nogil
cdef void watch_free(Watch *w) noexcept nogil
cdef void watch_step(void *user, int agent, int kind, uint64_t obj, uint64_t arg) noexcept nogil
cdef list watch_report(Watch *w)
cdef str watch_name(void *user, uint64_t obj)
cdef uint64_t watch_image(void *user) noexcept nogil
