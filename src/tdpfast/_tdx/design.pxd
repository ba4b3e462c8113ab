"""A design as KVM's TDX side reads it (see _mmu/design.pxd)."""

from libc.stdint cimport int32_t

cdef struct TdxDesign:
    int32_t dispatch
    bint dynamic_pamt        # 4K pages need PAMT memory, counted per 2M range
    bint premap              # 6.16 to 6.18: before finalisation mapping only counts, PAGE.ADD follows; pages are pinned
    bint demote_retry        # an interrupted DEMOTE is called again without bound
    bint enhanced_demote     # 2M only on a module with ENHANCED_DEMOTE_INTERRUPTIBILITY
    bint vp_init_unlocked    # TDH.VP.INIT without mmu_lock (up to 6.18)
    # wrong on purpose
    bint no_track            # removal without TDH.MEM.TRACK
    bint no_block            # removal without TDH.MEM.RANGE.BLOCK
    bint pamt_no_put         # an S-EPT update that failed keeps the PAMT reference it took
    bint pamt_dec_outside    # tdx_pamt_put() drops the count to 0 before it takes pamt_lock
    bint prefault_first      # finalisation allows pre-faults before it says RUNNABLE
    bint keep_sept_wait      # wait_for_sept_zap stays set after the retry
