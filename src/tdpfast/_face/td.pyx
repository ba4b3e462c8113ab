# cython: language_level=3
"""The Python-owned TD: a VmCore whose hooks are KVM's TDX side on a TDX module."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from tdpfast._names cimport GPA_BITS_4, GPA_BITS_5, HOST_LP, SPLIT_NONBLOCKING, TDX_MAX_VCPUS
from tdpfast._mmu.arena cimport SP_FREED, SP_QUEUED, Sp, arena_watch, hpa_to_sp
from tdpfast._sync.atomic cimport tdp_read_once32
from tdpfast._ops.ops cimport op_map
from tdpfast._seam.module cimport seam_td
from tdpfast._seam.state cimport PamtEntry, SeamRecord, Td, Tdmr
from tdpfast._seam.record cimport SEAM_RECORDED, seam_record, seam_records, seam_trace
from tdpfast._spte cimport SPTE_BASE_ADDR_MASK, is_last_spte, is_shadow_present_pte
from tdpfast._sync.cpu cimport SLOW_CHECK
from tdpfast._mmu.tdp_iter cimport pages_per_hpage
from tdpfast._mmu.tdp_mmu cimport MAX_ATTRIBUTES as ATTRIBUTES_OF_A_TD, Attribute, Kvm, kvm_set_special
from tdpfast._tdx.tdx cimport tdx_vcpu_inside
from tdpfast._tdx.design cimport TdxDesign
from tdpfast._tdx.state cimport TDX_SEPT_PAGES, TDX_TDCS_PAGES, TDX_TDCX_PAGES
from tdpfast._tdx.hooks cimport tdx_hooks
from tdpfast._tdx.gmem cimport tdx_fault_cancelled, tdx_fault_state
from tdpfast._tdx.ops cimport tdx_op_begin, tdx_op_end, tdx_reenter
from tdpfast._tdx.pamt cimport pamt_balanced, pamt_host, pamt_host_init
from tdpfast._tdx.premap cimport pin_count, pins_free, pins_init
from tdpfast._tdx.td cimport TdConfig, tdx_td_build

from tdpfast.errors import TdpfastError, UsageError

# Where a TD's pages lie in the module's first TDMR; the next TD's follow behind.
TD_STRIDE = 0x10000000
MAX_ATTRIBUTES = ATTRIBUTES_OF_A_TD      # stores of memory attributes that a VM remembers


def tdx_knobs():
    """The knobs that KVM's TDX side reads, in its struct's order."""
    cdef TdxDesign d
    memset(&d, 0, sizeof(TdxDesign))
    return tuple(d)


cdef class TdVmCore(VmCore):
    """A TD built on a SeamModule (which may hold several). Not thread-safe by itself, as VmCore."""

    def __cinit__(self):
        self.t = <Tdx *>calloc(1, sizeof(Tdx))
        if self.t == NULL:
            raise MemoryError("no memory for a TD")

    def __dealloc__(self):
        if self.t != NULL:
            free(self.t.sept_state)
            free(self.t.sept_state_copy)
            pins_free(self.t)
            free(self.t)

    def __init__(self, design, SeamModule module not None, *, int levels=4, bint runnable=True, int nvcpus=3,
                 bint pending_ve_disable=False, uint64_t attributes=0, bint want_direct=True, int hkid=33,
                 uint64_t base=0x100100000, uint64_t memory_pages=16384, bint keep_dead=False,
                 int livelock_after=0, bint cut_at_next=False, uint32_t spin_limit=1000, int lp_base=0, bint tdx=True,
                 slots=None, attributes_of=(), int mmu=0, int maxphyaddr=52, bint pml=False,
                 bint nx=False):
        cdef TdConfig cfg
        cdef uint64_t err
        if levels not in (4, 5):
            raise UsageError(f"a TD with {levels} levels", "S-EPT roots have 4 or 5", "use 4 or 5")
        if not 0 <= nvcpus <= TDX_MAX_VCPUS:
            raise UsageError(f"{nvcpus} vCPUs", "a TD has at most 8 here", "use 0..8")
        if not 0 <= lp_base < HOST_LP - nvcpus:
            raise UsageError(f"lp_base {lp_base}", f"vCPUs act on logical processors below {HOST_LP}", "0 and up")
        if runnable and nvcpus == 0:
            raise UsageError("a runnable TD without vCPUs", "MR.FINALIZE wants one (TDX_NO_VCPUS)",
                             "a vCPU, or a TD that is not runnable")
        shared_gfn = <uint64_t>1 << (GPA_BITS_5 if levels == 5 else GPA_BITS_4)
        VmCore.__init__(self, design, root_level=levels, tdx=tdx, mmu=mmu, maxphyaddr=maxphyaddr, pml=pml, ipat=not tdx,
                        direct_gfn_bits=shared_gfn if tdx else 0, slots=slots or ((0, shared_gfn, tdx, 0, 0),),
                        want_direct=want_direct, nx=nx, memory_pages=memory_pages, keep_dead=keep_dead)
        self.set_attributes(attributes_of)
        self.cpus[0].retry.limit = spin_limit
        self.module = module
        self.t.seam = module.s
        self.t.vm = self.vm
        self.t.design = vars(design)
        self.set_up_pamt(design)
        self.set_up_resize(design)
        if design.premap and pins_init(self.t):
            raise MemoryError("no memory for the references to pages")
        self.t.livelock_after = livelock_after
        self.t.cut_at_next = cut_at_next
        self.t.sept_state = <unsigned char *>calloc(TDX_SEPT_PAGES, 1)
        self.t.sept_state_copy = <unsigned char *>calloc(TDX_SEPT_PAGES, 1)
        if self.t.sept_state == NULL or self.t.sept_state_copy == NULL:
            raise MemoryError("no memory for a TD")
        self.t.reenter_fn = tdx_reenter
        memset(&cfg, 0, sizeof(cfg))
        cfg.tdr_pa = base
        cfg.tdcs_base = base + 0x10000
        cfg.tdvpr_base = base + 0x20000
        cfg.sept_base = base + 0x1000000
        cfg.hkid = hkid
        cfg.nvcpus = nvcpus
        cfg.lp_base = lp_base
        cfg.levels = levels
        cfg.gpaw = levels == 5
        cfg.runnable = runnable
        cfg.attributes = attributes
        cfg.td_ctls = pending_ve_disable
        tdx_hooks(&self.vm.kvm, self.t)     # what the module refuses kills the VM, with its vCPUs
        err = tdx_td_build(self.cpus[0], self.t, &cfg)
        if err:
            raise TdpfastError(f"the module refused to build the TD (status {err:#x}); is hkid {hkid} or its memory"
                               f" at {base:#x} taken by another TD?")
        kvm_set_special(&self.vm.kvm, self.vm.kvm.ops, &self.t.cut)
        self.vm.tdx = self.t
        self.vm.nvcpus = nvcpus
        self.vm.op_begin = tdx_op_begin
        self.vm.op_end = tdx_op_end
        self.vm.fault_cancelled = tdx_fault_cancelled
        self.vm.fault_state = tdx_fault_state

    cdef int set_attributes(self, object ranges) except -1:
        """Memory attributes the TD begins with: (start, end, private), later ones over earlier ones."""
        cdef Kvm *kvm = &self.vm.kvm
        cdef Attribute *a
        if len(ranges) > ATTRIBUTES_OF_A_TD:
            raise UsageError(f"{len(ranges)} ranges of memory attributes", f"more than {ATTRIBUTES_OF_A_TD}", "fewer")
        for start, end, private in ranges:
            a = &kvm.attributes[kvm.nattributes]
            a.start = start
            a.end = end
            a.is_private = private
            kvm.nattributes += 1
        kvm.nposted = kvm.nattributes
        return 0

    cdef int made(self) except -1:
        if self.vm.tdx == NULL:
            raise UsageError("a TD that is not there", "it was not made", "a TdVmCore that __init__() made")
        return 0

    cdef set_up_pamt(self, design):
        """Dynamic PAMT is an option of the module: it is set before its first TD, and all its TDs have it."""
        cdef bint used = any([self.t.seam.td[i].used for i in range(self.t.seam.ntd)])
        if bool(design.dynamic_pamt) != self.module.dynamic_pamt:
            if used or not design.dynamic_pamt:
                raise UsageError(f"design {design.name!r}", "differs from its module in dynamic_pamt",
                                 "the same for all TDs of a module")
            self.t.seam.dynamic_pamt = True
        if self.t.seam.dynamic_pamt and pamt_host_init(self.t.seam) < 0:
            raise UsageError("dynamic PAMT", "no memory for its counts and page pairs", "TDMRs close to each other")

    cdef set_up_resize(self, design):
        """What the design wants of DEMOTE are options of the module as well: a module without a TD gets them. One that
        has TDs may lack them: then ENHANCED_DEMOTE_INTERRUPTIBILITY keeps the TD at 4K, and a split without BLOCK
        could never work."""
        cdef bint nonblocking = design.split_shared == SPLIT_NONBLOCKING
        if not any([self.t.seam.td[i].used for i in range(self.t.seam.ntd)]):
            self.t.seam.enhanced_demote = self.t.seam.enhanced_demote or bool(design.enhanced_demote)
            self.t.seam.nonblocking_resize = self.t.seam.nonblocking_resize or nonblocking
        if nonblocking and not self.t.seam.nonblocking_resize:
            raise UsageError(f"design {design.name!r}", "needs a module with NON-BLOCKING-RESIZE",
                             "a module without TDs, or SeamModule(..., nonblocking_resize=True)")

    def pin_count(self, uint64_t pfn):
        """References that KVM holds to a page; None for a design that holds none, or a page outside the TDMRs."""
        cdef uint64_t *pins
        self.made()
        pins = pin_count(self.t, pfn)
        return None if pins == NULL else pins[0]

    @property
    def nr_premapped(self):
        """Mirror leaves that wait for their PAGE.ADD, as KVM counts them up to 6.18."""
        self.made()
        return self.t.nr_premapped

    def guest_inhibits(self):
        """The 2M frames (gfn >> 9) for which the guest asked for small pages; None when there were too many: all."""
        self.made()
        if self.vm.kvm.lpage.inhibit_all:
            return None
        return [self.vm.kvm.lpage.inhibit[i] for i in range(self.vm.kvm.lpage.ninhibit)]

    def revive(self):
        """As VmCore.revive(): slots_lock is dropped as well."""
        self.made()
        VmCore.revive(self)
        self.t.slots_lock.val = 0

    def pamt_counts(self):
        """{2M range: users} as the kernel counts them, and how many pages are out for pairs."""
        cdef uint64_t i
        self.made()
        if pamt_host(self.t.seam) == NULL:
            return {}, 0
        h = pamt_host(self.t.seam)
        return {h.base + (i << 21): h.refs[i] for i in range(h.nranges) if h.refs[i]}, h.pages_out

    def pamt_check(self):
        """None when the counts are right, else (range, users, live pages)."""
        cdef uint64_t hpa = 0
        cdef int64_t refs = 0, live = 0
        self.made()
        return None if pamt_balanced(self.t.seam, &hpa, &refs, &live) else (hpa, refs, live)

    def set_tracing(self, bint on):
        """As VmCore.set_tracing(), with the module's calls."""
        self.made()
        VmCore.set_tracing(self, on)
        seam_record(self.t.seam, on)

    def trace_calls(self, bint on):
        """Whether the module's calls are in the traces of the CPUs that make them; without records for seamcalls()."""
        self.made()
        seam_trace(self.t.seam, on)

    def run(self, fields):
        """As VmCore.run(); the module's call records begin anew."""
        self.made()
        if tdp_read_once32(&self.t.seam.observed) == SEAM_RECORDED:
            seam_record(self.t.seam, True)
        return VmCore.run(self, fields)

    def seamcalls(self):
        """The SEAMCALLs since the last run(): (leaf, lp, injection, status, before, after), each of the last two
        (rcx, rdx, r8, r9)."""
        cdef uint64_t i, n
        cdef SeamRecord *r
        self.made()
        cdef SeamRecord *records = seam_records(self.t.seam, &n)
        if records == NULL:
            return []
        out = []
        try:
            for i in range(n):
                r = &records[i]
                out.append((r.leaf, r.lp, r.inject, r.status, (r.before.rcx, r.before.rdx, r.before.r8, r.before.r9),
                            (r.after.rcx, r.after.rdx, r.after.r8, r.after.r9)))
        finally:
            free(records)
        return out

    def pages(self):
        """{page: name} of the TD's control pages, as the recordings name them."""
        cdef int i, v
        self.made()
        out = {self.t.tdr_pa: "TDR"}
        for i in range(TDX_TDCS_PAGES):
            out[self.t.tdcs_pa[i]] = f"TDCS{i}"
        for v in range(self.t.nvcpus):
            out[self.t.tdvpr_pa[v]] = f"TDVPR{v}"
            for i in range(TDX_TDCX_PAGES):
                out[self.t.tdcx_pa[v][i]] = f"TDCX{v}.{i + 1}"
        return out

    @property
    def sept_range(self):
        """(start, end) of the HPAs KVM takes S-EPT pages from."""
        self.made()
        return self.t.sept_base, self.t.sept_base + (<uint64_t>TDX_SEPT_PAGES << 12)

    @property
    def tdr(self):
        """HPA of the TDR."""
        self.made()
        return self.t.tdr_pa

    @property
    def nvcpus(self):
        """How many vCPUs the TD has."""
        self.made()
        return self.t.nvcpus

    def vcpu_loaded(self, int vcpu):
        """Whether the vCPU is associated with a logical processor."""
        self.made()
        return bool(0 <= vcpu < self.t.nvcpus and self.t.loaded[vcpu])

    def set_hkid(self, int hkid):
        """What KVM takes for the TD's HKID from now on, -1 for none; the module is not told. For recordings."""
        self.made()
        if not -1 <= hkid < 64:
            raise UsageError(f"HKID {hkid}", "there are 64", "-1 or 0..63")
        self.t.hkid = hkid

    def kvm_state(self):
        """KVM's view of the TD, as the recordings' `kvm`."""
        self.made()
        return {
            "hkid": self.t.hkid, "state": self.t.state, "wait_for_sept_zap": self.t.wait_for_sept_zap,
            "vm_bugged": int(self.vm.kvm.vm_bugged), "vm_dead": int(self.vm.kvm.vm_dead),
            "sept_pages": <int64_t>self.t.sept_owned, "pre_fault_allowed": int(self.t.pre_fault_allowed),
            "tdr_owned": int(self.t.tdr_owned), "tdcs_owned": int(self.t.tdcs_owned),
        }

    def watch_freed(self, bint on):
        """Looks for accesses to freed tables from now on; needs keep_dead."""
        self.made()
        if on:
            arena_watch(&self.vm.arena, self.cpus[0])
        else:
            self.cpus[0].slow &= ~<uint32_t>SLOW_CHECK

    def dangling(self):
        """Present mirror SPTEs whose table is freed or queued: (level, gfn, "freed" or "queued"), pre-order."""
        self.made()
        out = []
        cdef Sp *root = self.vm.kvm.tdp_mmu_roots
        while root != NULL:
            if root.is_mirror:
                self.find_dangling(root, out)
            root = root.next
        return out

    cdef find_dangling(self, Sp *sp, list out):
        cdef uint64_t value
        cdef Sp *child
        cdef int i
        for i in range(512):
            value = sp.spt[i]
            if not is_shadow_present_pte(value) or is_last_spte(value, sp.level):
                continue
            child = hpa_to_sp(&self.vm.arena, value & SPTE_BASE_ADDR_MASK)
            if child == NULL:
                continue
            if child.state == SP_FREED or child.state == SP_QUEUED:
                out.append((sp.level, sp.gfn + i * pages_per_hpage(sp.level),
                            "freed" if child.state == SP_FREED else "queued"))
            else:
                self.find_dangling(child, out)

    def describe_module(self, uint64_t obj):
        """The name of a module lock word or S-EPT entry, as the explorer's steps show it."""
        self.made()
        cdef Td *td = seam_td(self.t.seam, self.t.tdr_pa)
        cdef Tdmr *m = &self.t.seam.tdmr[0]
        cdef uint64_t hpa
        cdef int i
        if td != NULL:
            if obj == <uint64_t>&td.op_lock:
                return "OP_STATE lock"
            if obj == <uint64_t>&td.tree_lock:
                return "SEPT_TREE lock"
            if obj == <uint64_t>&td.epoch_lock:
                return "TD_EPOCH lock"
            if obj == <uint64_t>&td.td_epoch:
                return "TD_EPOCH"
            if <uint64_t>&td.refcount[0] <= obj <= <uint64_t>&td.refcount[1]:
                return "REFCOUNT"
        if obj == <uint64_t>&self.t.wait_for_sept_zap:
            return "wait_for_sept_zap"
        if pamt_host(self.t.seam) != NULL:
            if obj == <uint64_t>&pamt_host(self.t.seam).lock:
                return "pamt_lock"
            i = <int>((obj - <uint64_t>pamt_host(self.t.seam).refs) >> 3)
            if 0 <= i < <int>pamt_host(self.t.seam).nranges:
                return f"PAMT users of {pamt_host(self.t.seam).base + (<uint64_t>i << 21):#x}"
        for i in range(TDX_MAX_VCPUS):
            if obj == <uint64_t>&self.t.guest_busy[i]:
                return f"vCPU {i} mode"
        if <uint64_t>m.p4k <= obj < <uint64_t>(m.p4k + ((m.end - m.start) >> 12)):
            hpa = m.start + (((obj - <uint64_t>m.p4k) // sizeof(PamtEntry)) << 12)
            return f"PAMT 4K {hpa:#x}"
        if <uint64_t>m.p2m <= obj < <uint64_t>(m.p2m + ((m.end - m.start) >> 21)):
            hpa = m.start + (((obj - <uint64_t>m.p2m) // sizeof(PamtEntry)) << 21)
            return f"PAMT 2M {hpa:#x}"
        if <uint64_t>m.p1g <= obj < <uint64_t>(m.p1g + ((m.end - m.start) >> 30)):
            hpa = m.start + (((obj - <uint64_t>m.p1g) // sizeof(PamtEntry)) << 30)
            return f"PAMT 1G {hpa:#x}"
        if <uint64_t>m.memory <= obj < <uint64_t>m.memory + (m.end - m.start):
            hpa = m.start + ((obj - <uint64_t>m.memory) & ~<uint64_t>0xfff)
            return f"S-EPT entry {obj >> 3 & 511} of page {hpa:#x}"
        return "module state"

    def in_guest(self):
        """The vCPUs that are inside the TD."""
        self.made()
        return [v for v in range(self.t.nvcpus) if tdx_vcpu_inside(self.t, v)]
