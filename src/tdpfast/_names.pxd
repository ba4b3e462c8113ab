"""Every number that has a name and is shared with Python, and nothing else: one enum per kind of thing.

Python derives its tables from these (OpKind.__members__ and so on), so that a name is written once. The order of OpKind,
EventKind and the codes of the other enums are part of tokens and recordings: what is new goes to the end.
"""

cpdef enum SyncKind:
    SYNC_START = 0
    SYNC_LOAD            # reads *obj
    SYNC_STORE           # writes *obj
    SYNC_RMW             # xchg, cmpxchg, and
    SYNC_READ_LOCK       # blocks while a writer holds obj (RwLock)
    SYNC_READ_UNLOCK
    SYNC_WRITE_LOCK      # blocks while anybody holds obj (RwLock)
    SYNC_WRITE_UNLOCK
    SYNC_SPIN_LOCK       # blocks while obj (SpinLock) is held
    SYNC_SPIN_UNLOCK
    SYNC_TRY_SHARED      # module lock words: never block
    SYNC_PUT_SHARED
    SYNC_TRY_EXCL
    SYNC_PUT_EXCL
    SYNC_RCU_LOCK
    SYNC_RCU_UNLOCK
    SYNC_CALL_RCU
    SYNC_RCU_FREE        # offered by the grace-period agent: frees the page obj
    SYNC_RETRY           # a retry loop goes round: useless until another CPU writes something
    SYNC_WAIT            # blocks until *(uint32_t *)obj == y_arg
    SYNC_HOOK            # a Python hook is to be called on the scheduler's stack
    SYNC_OP              # the next operation of the thread's list begins
    SYNC_ABORT           # BUG() or a livelock: the fiber is never resumed
    SYNC_DONE            # the thread's body returned

cpdef enum AssertKind:
    ASSERT_WARN = 0
    ASSERT_KVM_BUG_ON
    ASSERT_BUG
    ASSERT_LOCKDEP

cpdef enum Check:        # bits
    CHECK_AGREE = 1
    CHECK_LIFE = 2
    CHECK_PAGE = 4
    CHECK_LOCK = 8
    CHECK_PROGRESS = 16
    CHECK_STAT = 32
    CHECK_FROZEN = 64
    CHECK_EPOCH = 128
    CHECK_PAMT = 256
    CHECK_KERNEL = 512
    CHECK_CRASH = 1024
    CHECK_HANG = 2048
    CHECK_DIRTY = 4096
    CHECK_TLB = 8192
    CHECK_DATA = 16384
    CHECK_TRACK = 32768
    CHECK_REFS = 65536
    CHECK_LEAK = 131072
    CHECK_FIXED = 262144

cpdef enum NoMem:        # what an allocation is for that fails on purpose
    NOMEM_TABLE = 0      # a page-table page; of a fault: topping up the vCPU's caches
    NOMEM_SEPT           # a page for the external table
    NOMEM_PAMT           # a page pair for dynamic PAMT
    NOMEM_KINDS

cpdef enum CodeFault:    # how a design file's code ended an execution
    FAULT_CRASH = 0      # SIGSEGV, SIGBUS, SIGFPE or SIGILL in it
    FAULT_HANG           # its code runs on without a step
    FAULT_WILD           # an access that belongs to nobody

cpdef enum EventKind:
    EV_CHG = 0           # as_id gfn level old new
    EV_SET_EXT           # gfn level old new ret
    EV_LINK_EXT          # gfn level ret has_page
    EV_REMOVE_EXT        # gfn level old
    EV_FREE_EXT          # gfn level page ret has_page
    EV_FLUSH_ALL
    EV_FLUSH_RANGE       # gfn npages
    EV_FLUSH_SLOT        # base npages
    EV_YIELD             # write
    EV_SPLIT             # gfn level huge_spte errno
    EV_DIRTY             # gfn
    EV_RACE              # gfn level before after
    EV_ASSERT            # kind; fn, id
    EV_SEAM              # leaf; the module's own record has the operands
    EV_REQ               # request
    EV_KICK              # vcpu; status
    EV_TD_EXIT           # vcpu; status
    EV_WAIT_FOR_SEPT_ZAP # vcpu
    EV_SEAMCALL_FAILED   # leaf rax
    EV_RESET_PADDR       # page
    EV_FREE_PAGE         # page
    EV_KEYID_FREE        # hkid
    EV_LIVELOCK          # why
    EV_RCU_FREE          # level gfn direct
    EV_UAF               # kind level gfn
    EV_RCU_AGAIN         # level gfn state
    EV_STEP              # one access of the explorer: kind obj value
    EV_OP                # operation index begins
    EV_OP_END            # operation index ret
    EV_GET_PAGE          # level gfn mirror
    EV_PREPARE_ZAP       # level gfn mirror
    EV_SPTE_FROZEN       # gfn level old
    EV_FAST_PF           # gfn error_code old new ret
    EV_PY_HOOK           # gfn level ret what (PyHookWhat); s0 hook, s1 label
    EV_CODE_FAULT        # what (CodeFault) line pc

cpdef enum UafKind:
    UAF_READ = 0
    UAF_WRITE
    UAF_CMPXCHG
    UAF_SP

cpdef enum RetPf:
    RET_PF_CONTINUE = 0
    RET_PF_RETRY = 1
    RET_PF_EMULATE = 2
    RET_PF_WRITE_PROTECTED = 3
    RET_PF_INVALID = 4
    RET_PF_FIXED = 5
    RET_PF_SPURIOUS = 6

cpdef enum Errno:        # what the kernel's functions return, negative
    EPERM = 1
    ENOENT = 2
    EINTR = 4
    EIO = 5
    EAGAIN = 11
    ENOMEM = 12
    EFAULT = 14
    EBUSY = 16
    EEXIST = 17
    EINVAL = 22
    ENOSPC = 28
    EOPNOTSUPP = 95

cpdef enum Roots:        # enum kvm_tdp_mmu_root_types
    KVM_INVALID_ROOTS = 1
    KVM_DIRECT_ROOTS = 2
    KVM_MIRROR_ROOTS = 4
    KVM_VALID_ROOTS = 6

cpdef enum Filter:       # enum kvm_gfn_range_filter
    KVM_FILTER_SHARED = 1
    KVM_FILTER_PRIVATE = 2

cpdef enum Gate:         # when __handle_changed_spte() propagates a change to the external table
    GATE_HELPER = 0          # v6.1x: not there; set_external_spte_present() before the bookkeeping
    GATE_ELIF_PRESENT        # patch07: not for removed tables, only for present new values
    GATE_ELIF_MIRROR         # patch15, v7.3: not for removed tables
    GATE_IF_MIRROR           # single-hook: always
    GATE_TWICE               # RFCv5: before the bookkeeping, and again in it for what was a leaf

cpdef enum Reclaim:      # how a table's external page is taken back
    RECLAIM_OP_RCU = 0       # int free_external_spt(); the page itself is freed by the RCU callback
    RECLAIM_OP_NOW           # void free_external_spt() frees the page, before call_rcu()
    RECLAIM_IN_SET           # by set_external_spte(), after call_rcu()

cpdef enum Dispatch:     # KVM's TDX side
    DISPATCH_V618 = 0        # link / set / remove / free
    DISPATCH_PATCH07         # set (to present) / remove / free
    DISPATCH_V73             # set / free
    DISPATCH_SINGLE          # set only
    DISPATCH_HUGEPAGE        # set / free, with demote

cpdef enum SplitShared:  # what the TDX side makes of a split under the read lock
    SPLIT_ASSERT = 0         # lockdep complains, then BLOCK, TRACK, DEMOTE as under the write lock
    SPLIT_REFUSE             # WARN, -EOPNOTSUPP
    SPLIT_IGNORE             # -EBUSY, and this vCPU's next fault there asks for 2M
    SPLIT_UNBLOCK            # BLOCK, TRACK, DEMOTE without kicks; on BUSY UNBLOCK, -EBUSY
    SPLIT_NONBLOCKING        # DEMOTE of an entry that is not blocked; -EBUSY on BUSY

cpdef enum HookId:
    HOOK_SET = 0
    HOOK_FREE
    HOOK_REMOVE

cpdef enum ChangeKind:
    CHANGE_MAP_LEAF = 1
    CHANGE_MAP_TABLE
    CHANGE_ZAP_LEAF
    CHANGE_ZAP_TABLE
    CHANGE_LEAF_LEAF
    CHANGE_COLLAPSE
    CHANGE_SPLIT
    CHANGE_TABLE_TABLE

cpdef enum OpKind:       # operations
    OP_MAP = 0
    OP_ZAP_LEAFS
    OP_UNMAP
    OP_ZAP_ALL
    OP_INVALIDATE_ROOTS
    OP_ZAP_INVALIDATED_ROOTS
    OP_RELOAD
    OP_PUT_ROOT
    OP_ALLOC_ROOT
    OP_WRPROT_SLOT
    OP_CLEAR_DIRTY_SLOT
    OP_CLEAR_DIRTY_PT_MASKED
    OP_WRITE_PROTECT_GFN
    OP_SPLIT
    OP_RECOVER
    OP_AGE
    OP_TEST_AGE
    OP_GET_WALK
    OP_FAST_PF_LAST
    OP_ZAP_NX
    OP_POKE
    OP_POKE_RAW
    OP_SET_DIRTY_LOG
    OP_TRACK
    OP_SET_GEN
    OP_ZAP_SPTE
    OP_ZAP_NX_SP
    OP_MWALK
    OP_SYNC_RCU
    OP_UNINIT
    OP_PUT_ROOTS
    OP_FAST_PAGE_FAULT
    OP_GMEM_CONVERT
    OP_HONOR_ACCEPT
    OP_VP_ENTER          # from here on: what only a TD has
    OP_TD_EXIT
    OP_ACCEPT
    OP_GUEST_ACCESS
    OP_TOUCH
    OP_RAW
    OP_POPULATE
    OP_FINALIZE
    OP_RELEASE_HKID
    OP_VCPU_FREE
    OP_VM_DESTROY
    OP_FREE_PFN
    OP_PAMT_GET
    OP_PAMT_PUT
    OP_GUEST_ACCEPT
    OP_PREFAULT
    OP_MAP_EXCLUSIVE
    OP_PUNCH_HOLE
    OP_SET_ATTRIBUTES
    OP_MOVE_SLOT
    OP_VCPU_CREATE
    OP_RECOVER_NX
    OP_ACCESS

cpdef enum RaceKind:
    RACE_NONE = 0
    RACE_HW
    RACE_INSTALL

cpdef enum GuestRet:     # OpResult.kind of guest operations
    GUEST_RET_STATUS = 0     # rax is a TDCALL status
    GUEST_RET_NO_FAULT
    GUEST_RET_VE
    GUEST_RET_TDEXIT
    GUEST_RET_REEXECUTE
    GUEST_RET_NOT_INSIDE
    GUEST_RET_NONE           # no guest operation was run

cpdef enum PyHook:
    PY_SET_EXTERNAL_SPTE = 0
    PY_LINK_EXTERNAL_SPT
    PY_REMOVE_EXTERNAL_SPTE
    PY_FREE_EXTERNAL_SPT
    PY_SPLIT_EXTERNAL_SPT

cpdef enum PyHookWhat:   # how a step ended
    PY_YIELDED = 0
    PY_ANSWERED
    PY_NATIVE                # the hook below is to run

cpdef enum SeamLeaf:     # leaf numbers
    TDH_VP_ENTER = 0
    TDH_MNG_ADDCX = 1
    TDH_MEM_PAGE_ADD = 2
    TDH_MEM_SEPT_ADD = 3
    TDH_VP_ADDCX = 4
    TDH_MEM_PAGE_RELOCATE = 5
    TDH_MEM_PAGE_AUG = 6
    TDH_MEM_RANGE_BLOCK = 7
    TDH_MNG_KEY_CONFIG = 8
    TDH_MNG_CREATE = 9
    TDH_VP_CREATE = 10
    TDH_MNG_RD = 11
    TDH_MNG_WR = 13
    TDH_MEM_PAGE_DEMOTE = 15
    TDH_MR_EXTEND = 16
    TDH_MR_FINALIZE = 17
    TDH_VP_FLUSH = 18
    TDH_MNG_VPFLUSHDONE = 19
    TDH_MNG_KEY_FREEID = 20
    TDH_MNG_INIT = 21
    TDH_VP_INIT = 22
    TDH_MEM_PAGE_PROMOTE = 23
    TDH_PHYMEM_PAGE_RDMD = 24
    TDH_MEM_SEPT_RD = 25
    TDH_VP_RD = 26
    TDH_MNG_KEY_RECLAIMID = 27
    TDH_PHYMEM_PAGE_RECLAIM = 28
    TDH_MEM_PAGE_REMOVE = 29
    TDH_MEM_SEPT_REMOVE = 30
    TDH_SYS_KEY_CONFIG = 31
    TDH_SYS_INIT = 33
    TDH_SYS_RD = 34
    TDH_SYS_LP_INIT = 35
    TDH_SYS_TDMR_INIT = 36
    TDH_MEM_TRACK = 38
    TDH_MEM_RANGE_UNBLOCK = 39
    TDH_PHYMEM_CACHE_WB = 40
    TDH_PHYMEM_PAGE_WBINVD = 41
    TDH_VP_WR = 43
    TDH_SYS_CONFIG = 45
    TDH_PHYMEM_PAMT_ADD = 58
    TDH_PHYMEM_PAMT_REMOVE = 59
    TDH_EXPORT_BLOCKW = 65
    TDH_EXPORT_RESTORE = 66
    TDH_EXPORT_UNBLOCKW = 75

cpdef enum OtherLeaf:    # what module 1.5 has and tdpfast does not: a call is answered as one of an unknown leaf
    TDH_MEM_RD = 12
    TDH_MEM_WR = 14
    TDH_SYS_INFO = 32
    TDH_SYS_RDALL = 37
    TDH_MEM_SEPT_WR = 42
    TDH_SYS_LP_SHUTDOWN = 44
    TDH_SERVTD_BIND = 48
    TDH_SERVTD_PREBIND = 49
    TDH_SYS_SHUTDOWN = 52
    TDH_SYS_UPDATE = 53
    TDH_EXPORT_ABORT = 64
    TDH_EXPORT_MEM = 68
    TDH_EXPORT_PAUSE = 70
    TDH_EXPORT_TRACK = 71
    TDH_EXPORT_STATE_IMMUTABLE = 72
    TDH_EXPORT_STATE_TD = 73
    TDH_EXPORT_STATE_VP = 74
    TDH_IMPORT_ABORT = 80
    TDH_IMPORT_END = 81
    TDH_IMPORT_COMMIT = 82
    TDH_IMPORT_MEM = 83
    TDH_IMPORT_TRACK = 84
    TDH_IMPORT_STATE_IMMUTABLE = 85
    TDH_IMPORT_STATE_TD = 86
    TDH_IMPORT_STATE_VP = 87
    TDH_MIG_STREAM_CREATE = 96

cpdef enum TdCall:       # TDCALL leaf numbers
    TDG_VP_VMCALL = 0
    TDG_VP_INFO = 1
    TDG_MR_RTMR_EXTEND = 2
    TDG_VP_VEINFO_GET = 3
    TDG_MR_REPORT = 4
    TDG_VP_CPUIDVE_SET = 5
    TDG_MEM_PAGE_ACCEPT = 6
    TDG_VM_RD = 7
    TDG_VM_WR = 8
    TDG_VP_RD = 9
    TDG_VP_WR = 10
    TDG_SYS_RD = 11
    TDG_SYS_RDALL = 12
    TDG_SERVTD_RD = 18
    TDG_SERVTD_WR = 20
    TDG_MR_VERIFYREPORT = 22
    TDG_MEM_PAGE_ATTR_RD = 23
    TDG_MEM_PAGE_ATTR_WR = 24
    TDG_VP_ENTER = 25
    TDG_VP_INVEPT = 26
    TDG_VP_INVVPID = 27

cpdef enum InjectLock:   # whose lock another logical processor holds during the call
    INJ_NONE = 0
    INJ_TDR
    INJ_OP_STATE
    INJ_SEPT_TREE
    INJ_EPOCH
    INJ_ENTRY
    INJ_PAMT_R8
    INJ_PAMT_PAGE
    INJ_PAMT_RCX

cpdef enum Strategy:
    EXPLORE_DPOR = 0
    EXPLORE_SLEEP
    EXPLORE_DFS
    EXPLORE_BOUND
    EXPLORE_RANDOM
    EXPLORE_PCT

cpdef enum EndKind:
    END_RUNNING = 0
    END_DONE             # every thread returned
    END_STUCK            # nobody can go on: deadlock, or a retry loop in a state nobody changes
    END_ABORT            # BUG() or a livelock that the code itself saw
    END_SPIN             # loops that keep each other awake went round too often with one key
    END_STEPS            # too long
    END_PRUNED           # sleep sets: everything from here was explored on another path
    END_DIVERGED         # the program did not repeat itself

cpdef enum Limit:
    MAX_THREADS = 16         # of a scenario
    MAX_NATIVE_THREADS = 20  # of a stress run
    MAX_CPUS = 24            # of one VM, those of its threads and of RCU included
    TDX_MAX_VCPUS = 8
    HOST_LP = 33             # logical processors from here on are KVM's own threads'; vCPU v of a TD runs on 1 + v
    MAX_PFN_BITS = 40        # of a host frame number
    GPA_BITS_4 = 35          # the shared bit of a TD's gfns, with 4-level and with 5-level tables
    GPA_BITS_5 = 39
    TD_PARAMS_PA = 0x20000000    # where tdpfast's own users of the module write TD_PARAMS
    SEAM_LEAVES = 128        # numbers of SEAMCALL leaves are below this
