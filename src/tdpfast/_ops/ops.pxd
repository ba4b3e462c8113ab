"""The operations of a VM, as the conformance files and the scenarios name them, run on one emulated CPU."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from tdpfast._mmu.arena cimport Arena
from tdpfast._sync.cpu cimport Cpu
from tdpfast._mmu.tdp_mmu cimport Fault, Kvm, Slot

cdef enum:
    OP_MAX_SCRIPT = 64
    OP_MAX_INJECT = 8
    OP_MAX_HOOK_RULES = 8

cdef struct Inject:      # another LP holds a module lock around matching SEAMCALLs
    int32_t leaf
    int32_t lock
    int32_t exclusive
    int32_t skip
    int32_t count        # -1: always
    int32_t until_kick
    int32_t intr         # an interrupt is pending on the caller's processor
    int32_t slot
    int32_t used

cdef struct HookRule:    # the hook returns ret without running KVM's TDX side
    int32_t hook         # 0 set, 1 free, 2 remove
    int32_t kind
    int32_t level        # 0: any
    int32_t has_gfn
    uint64_t gfn
    int32_t skip
    int32_t count
    int32_t ret
    int32_t seen
    int32_t used

cdef struct Op:
    int32_t kind
    int32_t level        # map: goal level; split: target; *.min_level; recover: max_level
    uint64_t gfn
    uint64_t pfn
    uint64_t start
    uint64_t end
    uint64_t mask
    uint64_t value       # poke_raw value, set_gen gen, guest gpa
    uint64_t set_bits
    uint64_t clear_bits
    int32_t write
    int32_t exec_
    int32_t user
    int32_t present      # fast_page_fault
    int32_t prefetch
    int32_t map_writable
    int32_t is_private
    int32_t noslot
    int32_t filter
    int32_t flush
    int32_t may_block
    int32_t types
    int32_t shared
    int32_t on           # on, wrprot
    int32_t resched
    int32_t race_kind
    int32_t race_n
    uint64_t race_set
    uint64_t race_clear
    int32_t retries      # of RET_PF_RETRY, as tdx_handle_ept_violation() does; -1: until something else
    int32_t tries
    int32_t rcu
    int32_t vcpu
    int32_t same_rip
    int32_t reenter
    int32_t no_gp
    int32_t gp_at_yield
    int32_t gp_at_retry
    int32_t leaf         # raw SEAMCALL
    uint64_t regs[3]
    uint64_t src
    int32_t measure
    int32_t hole         # its part in an invalidation that several operations make up (HOLE_*)
    int32_t pinned       # set_attributes: somebody holds a reference to a folio
    int32_t slot         # number of the memslot; -1: the one that holds the gfn, set_dirty_log: each
    int32_t guest_mode   # the vCPU runs L2
    int32_t smm          # the vCPU is in system management mode
    int32_t version      # raw SEAMCALL
    int32_t to_zap       # recover_nx: so many tables at most
    int32_t nscript
    int32_t script[OP_MAX_SCRIPT]
    int32_t ninject
    Inject inject[OP_MAX_INJECT]
    int32_t nrules
    HookRule rules[OP_MAX_HOOK_RULES]
    uint32_t nomem_armed
    uint32_t nomem_skip[3]       # by NoMem: so many allocations succeed, so many fail then
    uint32_t nomem_count[3]
    uint32_t nomem_used
    uint64_t log_fetches         # of the dirty log, when the operation began

cdef struct OpResult:
    int64_t ret
    int32_t level
    uint64_t pfn
    int32_t root_level
    uint64_t sptes[6]
    uint8_t has_spte[6]
    uint64_t spte
    uint64_t gfn
    int32_t sp_level
    int32_t tries
    uint64_t rax
    uint64_t out[4]      # rcx rdx r8 r9 of a guest operation
    int32_t kind         # what a guest operation ended with
    int32_t flags

cdef struct Vm

cdef struct Vm:
    Kvm kvm
    Arena arena
    void *tdx
    void (*op_begin)(Cpu *c, Vm *vm, Op *op) noexcept nogil      # KVM's TDX side arms injections
    void (*op_end)(Cpu *c, Vm *vm, Op *op) noexcept nogil
    int nvcpus           # of a TD
    bint (*fault_cancelled)(Cpu *c, Vm *vm) noexcept nogil   # stops local retries of a fault
    uint64_t (*fault_state)(Cpu *c, Vm *vm) noexcept nogil   # what else the next try depends on
    Op *current          # the operation a single-threaded run is in

ctypedef void (*OpFn)(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil

cdef enum OpLock:        # in the order of ops.LOCKS
    OP_LOCK_NONE = 0
    OP_LOCK_READ
    OP_LOCK_WRITE
    OP_LOCK_SHARED       # for read if op.shared, else for write
    OP_LOCK_OWN

cdef struct OpRow:       # what the core knows about one operation; OPS in ops.py says it
    OpFn fn              # runs it, mmu_lock held as lock says
    int lock
    int roots            # of its vCPU's own: 1 direct, 2 mirror
    bint ends_roots
    bint td_only
    bint on_vcpu         # it has a field vcpu
    bint refused_gated
    bint refused_private
    bint refused_slot
    bint on_slot         # it has a field slot
    bint flushes         # its result says that a flush of the TLB is due

cdef OpRow *op_row(int kind) noexcept nogil
cdef bint op_refused(const Kvm *kvm, const OpRow *row, const Op *op) noexcept nogil
cdef bint slot_named(const Kvm *kvm, Op *op) noexcept nogil
cdef const Slot *op_slot(const Kvm *kvm, const Op *op) noexcept nogil
cdef void op_map(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil
cdef void op_fault(const Kvm *kvm, const Op *op, Fault *fault) noexcept nogil
cdef void vm_run_op(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil
cdef void vm_run_op_guarded(Cpu *c, Vm *vm, Op *op, OpResult *res) noexcept nogil
