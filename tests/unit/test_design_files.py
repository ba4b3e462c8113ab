"""Designs as C files: compiled, explored, judged as the built-in ones; what goes wrong in them stays a verdict."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tdpfast import TdVm
from tdpfast.catalogue import catalogue
from tdpfast.check import Limits, check, check_many, replay_token
from tdpfast.conform import conform_file
from tdpfast.design import Design
from tdpfast.errors import UsageError
from tdpfast.scenario import parse
from tdpfast.token import Token, TokenMismatchError

TDPFAST = Path(sys.executable).parent / "tdpfast"
DESIGNS = Path(__file__).parents[2] / "src" / "tdpfast" / "designs"
pytestmark = pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="there is no C compiler")
FAULTS = parse({"name": "two-first-faults", "thread": [
    {"ops": [{"op": "map", "gfn": 0x600, "pfn": 0x140600, "retries": -1}]},
    {"ops": [{"op": "map", "gfn": 0x601, "pfn": 0x140601, "retries": -1}]}]}, "here")
ONE = parse({"name": "one-fault", "thread": [{"ops": [{"op": "map", "gfn": 0x600, "pfn": 0x140600}]}]}, "here")
LIMITS = Limits(max_transitions=300_000)
HEAD = '#include <tdpfast/kvm.h>\nTDPFAST_DESIGN("mine", .base = "v7.3");\n'
LINK = "static int tdp_mmu_link_sp(struct kvm *kvm, struct tdp_iter *iter, struct kvm_mmu_page *sp, bool shared)\n"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TDPFAST_CACHE", str(tmp_path_factory.getbasetemp() / "design-cache"))


@pytest.fixture
def design(tmp_path):
    def make(body, head=HEAD, name="mine.c"):
        path = tmp_path / name
        path.write_text(head + body)
        return Design.from_file(path)
    return make


def verdict(scenario, design, gated=True):
    found = check(scenario, design, gated=gated, limits=LIMITS)
    return found.verdict, found.complete, found.checks


def assert_twin(name, scenarios, gated):
    twin = Design.from_file(DESIGNS / f"{name}.c")
    limits = replace(LIMITS, every_entry=True)      # a file's code may touch any entry, so that each is a step of it
    for scenario in scenarios:
        own = check(scenario, twin, gated=gated, limits=limits)
        base = check(scenario, name, gated=gated, limits=limits)
        assert (own.verdict, own.checks, own.executions) == (base.verdict, base.checks, base.executions), scenario.name


@pytest.mark.parametrize("gated", [True, False])
def test_the_twin_of_v7_3_answers_as_the_built_in_one(gated):
    assert_twin("v7.3", [FAULTS, *catalogue("review")], gated)


@pytest.mark.slow
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("name", ["v6.18", "v6.19", "patch07", "hugepage", "v7.3"])
def test_every_twin_answers_as_the_built_in_one(name, gated):
    assert_twin(name, [FAULTS, *catalogue("review"), *catalogue("paths")], gated)


def test_every_example_compiles_without_a_warning():
    for path in sorted(DESIGNS.glob("*.c")):
        made = Design.from_file(path)
        assert (made.code.warnings, bool(made.code.functions)) == ("", True), path.name


@pytest.mark.parametrize("recording, name, passed, failed", [
    ("designs-7.3/v7.3-named", "v7.3", 105, 0), ("designs-7.3/patch07-named", "patch07", 105, 0),
    ("designs-7.3/single-hook-named", "single-hook", 103, 2), ("stack-7.3-1.5/named", "v7.3", 76, 0),
    ("more-7.3/v7.3-named", "v7.3", 3, 0)])
def test_recordings_pass_on_the_twin(recording, name, passed, failed):
    data = Path(__file__).parents[1] / "conformance" / "data" / f"{recording}.jsonl.gz"
    report = conform_file(data, Design.from_file(DESIGNS / f"{name}.c"), max_diffs=1000)
    assert report.failed == failed, report.differences[:2]
    assert (report.passed, report.skipped) == (passed, 0)


@pytest.mark.parametrize("name, faults", [
    ("link-without-freeze", ["life"]), ("lock-per-table-before", ["life"]), ("lock-per-table-after", []),
    ("removed-after-external", []), ("single-hook", [])])
def test_two_first_faults_on_the_examples(name, faults):
    found = check(FAULTS, Design.from_file(DESIGNS / f"{name}.c"), limits=LIMITS)
    assert [c for c in found.checks if c == "life"] == faults


def test_tables_propagated_before_their_removal_take_agree_from_issues_1_and_3():
    own = Design.from_file(DESIGNS / "removed-after-external.c")
    changed = 0
    for scenario in catalogue("review"):
        if scenario.issue in ("1", "3"):
            base, new = (set(check(scenario, d, gated=False, limits=LIMITS).checks) for d in ("v7.3", own))
            changed += "agree" in base and "agree" not in new
    assert changed


def test_a_function_of_the_file_runs_on_a_vm(design):
    made = design(LINK + "{\n\treturn -EBUSY;\n}\n")
    assert TdVm(made).map(0x600, 0x140600).ret != TdVm("v7.3").map(0x600, 0x140600).ret


def test_a_lost_update_by_plain_c_is_explored_and_named(design):
    made = design("static u64 count;\n" + LINK + "{\n\tu64 was = count;\n\n\tbarrier();\n\tcount = was + 1;\n"
                  "\tbarrier();\n\tKVM_BUG_ON(count != was + 1, kvm);\n"
                  "\treturn base_tdp_mmu_link_sp(kvm, iter, sp, shared);\n}\n")
    found = check(FAULTS, made, limits=LIMITS)
    assert found.executions > 10
    assert "kernel" in found.checks
    assert any("mine.c:" in line.text and "count" in line.text for line in found.counterexample.story)


def test_static_data_is_put_back(design):
    made = design("static u64 calls;\n" + LINK + "{\n\tif (calls++ > 100)\n\t\tKVM_BUG_ON(1, kvm);\n"
                  "\treturn base_tdp_mmu_link_sp(kvm, iter, sp, shared);\n}\n")
    assert verdict(FAULTS, made)[2] == []


@pytest.mark.parametrize("body, check_, words", [
    ("\treturn *(int *)0;\n", "crash", "CRASH at mine.c:5"),
    ("\tint a[1 << 16];\n\ta[iter->level] = 1;\n\treturn a[iter->level] + tdp_mmu_link_sp(kvm, iter, sp, shared);\n",
     "crash", "CRASH at mine.c"),
    ("\tfor (;;)\n\t\tbarrier();\n\treturn 0;\n", "hang", "HANG"),
    ("\t*(u64 *)((unsigned long)kvm + (1ul << 40)) = 1;\n\treturn 0;\n", "crash", "belongs to nobody"),
])
def test_what_goes_wrong_is_a_verdict(design, body, check_, words):
    found = check(ONE, design(LINK + "{\n" + body + "}\n"), limits=LIMITS)
    assert (found.verdict, found.counterexample.check) == ("violated", check_)
    assert any(words in line.text for line in found.counterexample.story)


def test_a_file_that_kills_its_process_is_a_crash(design):
    made = design(LINK + '{\n\t__asm__ volatile("mov $39, %%eax; syscall; mov %%eax, %%edi; mov $9, %%esi;'
                  ' mov $62, %%eax; syscall" ::: "rax", "rdi", "rsi", "rcx", "r11", "memory");\n\treturn 0;\n}\n')
    found, = check_many([(ONE, made, True)], limits=LIMITS, jobs=1)
    assert (found.verdict, found.checks) == ("violated", ["crash"])


def test_a_token_is_tied_to_the_file_s_content(design):
    bad = LINK + "{\n\tKVM_BUG_ON(1, kvm);\n\treturn base_tdp_mmu_link_sp(kvm, iter, sp, shared);\n}\n"
    made = design(bad)
    token = Token.parse(check(ONE, made, limits=LIMITS).token)
    scenario, replayed, _, _ = replay_token(token, [ONE], [made])
    assert (scenario.name, replayed.name) == ("one-fault", "mine")
    with pytest.raises(TokenMismatchError):
        replay_token(token, [ONE], ["v7.3"])
    with pytest.raises(TokenMismatchError):
        replay_token(token, [ONE], [design(bad.replace("(1, kvm)", "(2, kvm)"))])


@pytest.mark.parametrize("body, words", [
    ("static int tdp_mmu_link_sp(int x) { return x; }\n", ("mine.c:3", "conflicting types")),
    (LINK + "{\n\treturn no_such_thing(iter);\n}\n", ("mine.c:5", "no_such_thing")),
    ("int x = y;\n", ("mine.c:3", "undeclared")),
    ("static void tdx_pamt_put(struct page *page) {}\n", ("tdx_pamt_put", "never calls it")),
    ("static volatile char much[1 << 16];\n" + LINK + "{\n\treturn ++much[iter->level];\n}\n",
     ("static data", "tdpfast_private")),
])
def test_bad_files_are_one_clear_error(design, body, words):
    with pytest.raises(UsageError) as error:
        design(body)
    assert all(word in str(error.value) for word in words), error.value


def test_no_compiler_no_design_no_file(design, monkeypatch, tmp_path):
    with pytest.raises(UsageError, match="TDPFAST_DESIGN"):
        design("", head="#include <tdpfast/kvm.h>\n")
    with pytest.raises(UsageError, match="unknown design"):
        design("", head='#include <tdpfast/kvm.h>\nTDPFAST_DESIGN("x", .base = "v9");\n')
    with pytest.raises(UsageError, match="No such file"):
        Design.from_file(tmp_path / "none.c")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(UsageError, match="no C compiler"):
        design("")


def test_warnings_have_the_file_s_lines(design):
    made = design("static int odd(void)\n{\n\tint unused;\n\treturn 0;\n}\n" + LINK + "{\n\treturn odd();\n}\n")
    assert made.code.warnings == "mine.c:5: warning: unused variable ‘unused’ [-Wunused-variable]" or (
        "mine.c:5: warning: unused variable" in made.code.warnings)


def test_the_header_s_list_is_the_core_s():
    from tdpfast._program import code_api, code_bases, code_tables
    from tdpfast._program.code_calls import FUNCTIONS
    from tdpfast.designfile import INCLUDE

    text = (INCLUDE / "tdpfast" / "api.h").read_text()
    api, functions = text.split("#define TDPF_FUNCTIONS")
    names = [line.split(", ")[1] for line in api.split("\n") if line.startswith("\tX(")]
    assert sorted(names) == sorted([*code_api.api(), *code_tables.api()])
    names = [line.split(", ")[1] for line in functions.split("\n") if line.startswith("\tX(")]
    assert tuple(names) == FUNCTIONS
    assert set(code_bases.bases()) == set(FUNCTIONS)


def new(*arguments):
    return subprocess.run([TDPFAST, "design", "new", *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", sorted(p.stem for p in DESIGNS.glob("*.c")))
def test_a_new_file_is_the_example_it_begins_with(name, tmp_path):
    path = tmp_path / "mine.c"
    made = new(path, "--from", name)
    assert made.returncode == 0, made.stderr
    mine, example = Design.from_file(path), Design.from_file(DESIGNS / f"{name}.c")
    assert mine.code.functions == example.code.functions and mine.code.warnings == ""
    assert mine.replace(name="", code=None) == example.replace(name="", code=None)
    found, other = (check(FAULTS, d, limits=LIMITS) for d in (mine, example))
    assert (found.checks, found.executions) == (other.checks, other.executions)


def test_a_new_file_with_chosen_functions(tmp_path):
    path = tmp_path / "mine.c"
    assert new(path, "--from", "v6.19", "--function", "handle_removed_pt").returncode == 0
    assert Design.from_file(path).code.functions == ("handle_removed_pt",)
    assert "remove_external_spte" in path.read_text(), "what the function needs of the file comes with it"
    for bad in ((path,), (tmp_path / "a.c", "--from", "v9"), (tmp_path / "a.c", "--function", "nothing"),
                (tmp_path / "mine.txt",), (tmp_path / "no" / "a.c",)):
        said = new(*bad)
        assert (said.returncode, said.stderr[:7], said.stdout) == (2, "error: ", ""), bad


def test_lines_of_a_file_that_is_included_are_its_own(tmp_path):
    (tmp_path / "part.h").write_text("\n\nstatic void part(struct kvm *kvm)\n{\n"
                                     "\tWRITE_ONCE(kvm->tdpfast_private[0], 1);\n\tKVM_BUG_ON(1, kvm);\n}\n")
    (tmp_path / "mine.c").write_text(HEAD + '#include "part.h"\n' + LINK + "{\n\tpart(kvm);\n\tcpu_relax();\n"
                                     "\treturn base_tdp_mmu_link_sp(kvm, iter, sp, shared);\n}\n")
    made = Design.from_file(tmp_path / "mine.c")
    assert made.code.included == ((1, "part.h"),)
    story = check(FAULTS, made, limits=LIMITS).counterexample.story
    assert any("part.h:5" in line.text for line in story), [line.text for line in story]


def test_a_file_is_compiled_once(design, monkeypatch):
    made = design(LINK + "{\n\treturn base_tdp_mmu_link_sp(kvm, iter, sp, shared);\n}\n")
    before = os.stat(made.code.library).st_mtime_ns
    again = Design.from_file(made.code.path)
    assert (again, os.stat(again.code.library).st_mtime_ns) == (made, before)


def test_the_command_explores_it_and_replays_its_token(design, tmp_path):
    made = design(LINK + "{\n\tKVM_BUG_ON(1, kvm);\n\treturn base_tdp_mmu_link_sp(kvm, iter, sp, shared);\n}\n")
    scenario = tmp_path / "one.toml"
    scenario.write_text('name = "one"\n[[thread]]\nops = [{op = "map", gfn = 0x600, pfn = 0x140600}]\n')
    command = [TDPFAST, "check", scenario, "--design", made.code.path, "--design", "v7.3", "--gated"]
    brief = subprocess.run([*command, "--brief"], capture_output=True, text=True, check=False)
    assert brief.returncode == 1 and "mine" in brief.stdout and "v7.3" in brief.stdout, brief.stderr
    found = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    token = json.loads(found.stdout.splitlines()[0])["token"]
    replay = subprocess.run([TDPFAST, "replay", token, "--design", made.code.path, "--file", scenario],
                            capture_output=True, text=True, check=False)
    assert replay.returncode == 1 and "mine, gated: kernel" in replay.stdout, replay.stderr
