"""The kernel's names for design files: each has its text, compiles where it is used, and does what the text says."""

import re
import shutil

import pytest

from tdpfast.check import Limits, check
from tdpfast.design import Design
from tdpfast.errors import UsageError
from tdpfast.kernelwords import INCLUDE, TEXTS, signatures, words
from tdpfast.scenario import parse
from tdpfast.vocabulary import describe

LIMITS = Limits(max_transitions=300_000)
HEAD = '#include <linux/kvm_host.h>\n#include "tdp_mmu.h"\nTDPFAST_DESIGN("mine", .base = "v7.3");\n'
LINK = "static int tdp_mmu_link_sp(struct kvm *kvm, struct tdp_iter *iter, struct kvm_mmu_page *sp, bool shared)\n"
BASE = "\treturn base_tdp_mmu_link_sp(kvm, iter, sp, shared);\n"
needs_cc = pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="there is no C compiler")
ONE = parse({"name": "one-fault", "thread": [{"ops": [{"op": "map", "gfn": 0x600, "pfn": 0x140600}]}]}, "here")
FAULTS = parse({"name": "two-first-faults", "thread": [
    {"ops": [{"op": "map", "gfn": 0x600, "pfn": 0x140600, "retries": -1}]},
    {"ops": [{"op": "map", "gfn": 0x601, "pfn": 0x140601, "retries": -1}]}]}, "here")
HOLE = parse({"name": "fault-in-a-hole", "setup": [{"op": "map", "gfn": 0x601, "pfn": 0x140601}], "thread": [
    {"ops": [{"op": "map", "gfn": 0x600, "pfn": 0x140600, "retries": -1}]},
    {"ops": [{"op": "punch_hole", "start": 0x600, "end": 0x601, "pfn": 0x140600}]}]}, "here")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TDPFAST_CACHE", str(tmp_path_factory.getbasetemp() / "design-cache"))


@pytest.fixture
def design(tmp_path):
    def make(body, head=HEAD):
        path = tmp_path / "mine.c"
        path.write_text(head + body)
        return Design.from_file(path)
    return make


def link(body, before=""):
    return before + LINK + "{\n" + body + BASE + "}\n"


def test_each_name_has_its_text_and_each_text_its_name():
    assert set(words()) == set(signatures())
    listed = [name for rows in TEXTS.values() for names in rows for name in names.split()]
    assert len(listed) == len(set(listed)) > 400
    assert all(word.text.endswith(".") for word in words().values())


@pytest.mark.parametrize("name", ["kvm_mmu_page", "kvm", "kvm_arch", "tdp_iter", "kvm_page_fault", "kvm_tdx",
                                  "kvm_vcpu"])
def test_members_that_a_text_names_are_there(name):
    text = (INCLUDE / "types.h").read_text()
    named = re.split(r"[;:]", words()[name].text)[0]
    members = re.findall(r"\.?(\w+)(?:\[\d+\])?(?:,|\.$|$| are)", named)
    assert members
    for member in members:
        assert re.search(rf"\b{member}\b(?:\[\w*\])?[;)]", text), member


def test_what_a_name_means_is_described():
    assert describe("try_cmpxchg64")[0] == "name of <tdpfast/kvm.h>: try_cmpxchg64(p, old, v)"
    assert any("check lock" in line for line in describe("might_sleep"))


EVERYTHING = """
static DEFINE_SPINLOCK(own);
static DEFINE_MUTEX(never);
static LIST_HEAD(queue);
static struct list_head entry;
static refcount_t refs;
static atomic_t count;
static atomic_long_t longs;
static unsigned long bits[2];

static bool look(struct kvm *kvm, struct tdp_iter *iter, struct kvm_mmu_page *sp)
{
	struct kvm_tdx *kvm_tdx = to_kvm_tdx(kvm);
	u64 spte = iter->old_spte, e1, e2;
	struct kvm_mmu_page *root;
	u64 seen = 0;

	if (kvm_tdx->state != TD_STATE_RUNNABLE || READ_ONCE(kvm_tdx->wait_for_sept_zap))
		seen |= BIT_ULL(1);
	if (IS_ALIGNED(iter->gfn, KVM_PAGES_PER_HPAGE(PG_LEVEL_2M)) && ALIGN(5, 4) == 8 && ALIGN_DOWN(5, 4) == 4)
		seen |= GENMASK_ULL(3, 2);
	if (spte_ad_enabled(spte) && spte_ad_need_write_protect(spte))
		seen |= is_executable_pte(spte) && is_access_track_spte(spte);
	if (seen)
		seen |= min_t(u64, 3, 4) | max(1, 2);
	if (IS_ERR(ERR_PTR(-ENOMEM)) && PTR_ERR(ERR_PTR(-ENOMEM)) == -ENOMEM && !IS_ERR_OR_NULL(sp))
		seen |= 1;
	for_each_tdp_mmu_root_rcu(kvm, root, 0, KVM_VALID_ROOTS)
		seen += root->role.level;
	if (tdh_mem_sept_rd(&kvm_tdx->td, gfn_to_gpa(iter->gfn), iter->level, &e1, &e2))
		seen |= 1;
	if (is_obsolete_sp(kvm, sp) || !is_tdp_mmu_page(sp) || sp_has_gptes(sp) || kvm_x86_ops.link_external_spt)
		seen |= 1;
	seen += kvm_gfn_direct_bits(kvm) + kvm_is_addr_direct(kvm, 0) + kvm->mmu_invalidate_seq + smp_processor_id();
	return seen != 0;
}

static int tdp_mmu_link_sp(struct kvm *kvm, struct tdp_iter *iter, struct kvm_mmu_page *sp, bool shared)
{
	struct list_head *pos = &entry;
	int old = 0, before, after;

	lockdep_assert_not_held(&own);
	scoped_guard(spinlock, &own) {
		lockdep_assert_held_once(&own);
		list_add_tail(pos, &queue);
		KVM_BUG_ON(list_empty(&queue), kvm);
		list_del_init(pos);
		KVM_BUG_ON(!list_empty(&queue), kvm);
	}
	lockdep_assert_not_held(&own);
	{
		guard(raw_spinlock)(&own);
		KVM_BUG_ON(!lockdep_is_held(&own), kvm);
		before = atomic_read(&count);
		atomic_add(2, &count);
		atomic_sub(1, &count);
		after = atomic_read(&count);
		KVM_BUG_ON(after != before + 1, kvm);
		refcount_set(&refs, 1);
		KVM_BUG_ON(!refcount_inc_not_zero(&refs), kvm);
		KVM_BUG_ON(refcount_dec_and_test(&refs) || !refcount_dec_and_test(&refs), kvm);
		KVM_BUG_ON(refcount_inc_not_zero(&refs), kvm);
		KVM_BUG_ON(test_and_set_bit(65, bits) || !test_bit(65, bits) || bits[1] != 2, kvm);
		KVM_BUG_ON(!test_and_clear_bit(65, bits) || bits[1], kvm);
		atomic_long_inc(&longs);
		KVM_BUG_ON(atomic_cmpxchg(&count, after, before) != after, kvm);
		KVM_BUG_ON(atomic_try_cmpxchg(&count, &old, 7) != (before == 0), kvm);
		atomic_set(&count, before);
	}
	KVM_BUG_ON(mutex_trylock(&never) != 1, kvm);
	mutex_unlock(&never);
	scoped_guard(rcu)
		KVM_BUG_ON(!rcu_read_lock_held(), kvm);
	KVM_BUG_ON(!look(kvm, iter, sp), kvm);
	return base_tdp_mmu_link_sp(kvm, iter, sp, shared);
}
"""


@needs_cc
@pytest.mark.parametrize("scenario", [ONE, FAULTS], ids=lambda s: s.name)
def test_names_in_use(design, scenario):
    made = design(EVERYTHING)
    assert made.code.warnings == ""
    found = check(scenario, made, limits=Limits(max_transitions=30_000))
    assert (found.checks, bool(found.executions)) == ([], True), found.counterexample and found.counterexample.story


@needs_cc
@pytest.mark.parametrize("body, before, checks, words_", [
    ("\tmight_sleep();\n", "", ["lock"], "might_sleep"),
    ("\tmutex_lock(&m);\n\tmutex_unlock(&m);\n", "static DEFINE_MUTEX(m);\n", ["lock"], "might_sleep"),
    ("\tguard(spinlock)(&l);\n\tlockdep_assert_not_held(&l);\n", "static DEFINE_SPINLOCK(l);\n", ["lock"], "link_sp"),
    ("\trefcount_dec_and_test(&r);\n", "static refcount_t r;\n", ["kernel"], "left_ < 0"),
    ("\tlist_del(&h);\n\tif (h.next)\n\t\treturn -EIO;\n\tlist_del(&h);\n",
     "static LIST_HEAD(h);\n", ["crash"], "CRASH at mine.c"),
])
def test_misuse_is_found(design, body, before, checks, words_):
    found = check(ONE, design(link(body, before)), limits=LIMITS)
    assert found.checks == checks
    assert any(words_ in line.text for line in found.counterexample.story), [x.text for x in found.counterexample.story]


@needs_cc
@pytest.mark.parametrize("body, words_", [
    ("\tif (!kmalloc(8, 0))\n\t\treturn -ENOMEM;\n", "tdpfast_private"),
    ("\tsynchronize_rcu();\n", "call_rcu"),
    ("\tkvm_tdx_of_mine(kvm);\n", "mine.c:6"),
])
def test_what_is_not_here_says_what_is(design, body, words_):
    with pytest.raises(UsageError, match=words_):
        design(link(body))


@needs_cc
def test_the_sequence_is_the_fault_s_own_business(design):
    stale = ("static bool is_page_fault_stale(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)\n{\n"
             "\tstruct kvm_mmu_page *sp = tdp_mmu_get_root_for_fault(vcpu, fault);\n\n"
             "\tif (sp && is_obsolete_sp(vcpu->kvm, sp))\n\t\treturn true;\n\treturn %s;\n}\n")
    right = design(stale % "fault->slot && mmu_invalidate_retry_gfn(vcpu->kvm, fault->mmu_seq, fault->gfn)")
    assert check(HOLE, right, limits=LIMITS).checks == [] == check(HOLE, "v7.3", limits=LIMITS).checks
    assert check(HOLE, design(stale % "false"), limits=LIMITS).checks == ["page"]


@needs_cc
def test_words_of_a_td_are_steps(design):
    """A file may set wait_for_sept_zap by itself, a step like the core's; the TD's state is not its to change."""
    track = ("static void tdx_track(struct kvm *kvm)\n{\n\tWRITE_ONCE(to_kvm_tdx(kvm)->wait_for_sept_zap, 1);\n"
             "\tbase_tdx_track(kvm);\n\tWRITE_ONCE(to_kvm_tdx(kvm)->wait_for_sept_zap, 0);\n}\n")
    scenario = parse({"name": "zap", "setup": [{"op": "map", "gfn": 0x600, "pfn": 0x140600}], "thread": [
        {"ops": [{"op": "unmap", "start": 0x600, "end": 0x601}]}]}, "here")
    assert check(scenario, design(track), limits=LIMITS).checks == []
    with_state = track.replace("WRITE_ONCE(to_kvm_tdx(kvm)->wait_for_sept_zap, 1)", "to_kvm_tdx(kvm)->state = 0")
    found = check(scenario, design(with_state), limits=LIMITS)
    assert found.checks == ["crash"]
