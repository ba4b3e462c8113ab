"""The pytest plugin: scenario files are tests, tdp_check fails with the story, under xdist as well."""

from importlib.util import find_spec

import pytest

pytest_plugins = ["pytester"]

SCENARIO = """name = "walk-and-zap"
[[setup]]
op = "map"
gfn = 0x600
pfn = 0x140600
[[thread]]
name = "vcpu0"
ops = [{op = "mwalk", gfn = 0x600}]
[[thread]]
name = "zapper"
ops = [{op = "unmap", start = 0x600, end = 0x601}]
"""
LONG = """name = "long"
thread = [{name = "vcpu0", ops = [{op = "map", gfn = 0x600, pfn = 0x140600, retries = -1}]},
          {name = "vcpu1", ops = [{op = "map", gfn = 0x601, pfn = 0x140601, retries = -1}]}]
"""
BROKEN = "no_hook_on_zap"


@pytest.fixture
def folder(pytester):
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\naddopts = '-p no:cacheprovider'\n")
    pytester.path.joinpath("good.tdp.toml").write_text(SCENARIO + '[expect]\n"v7.3" = "holds"\n"v6.18" = "holds"\n')
    pytester.path.joinpath("other.toml").write_text(SCENARIO)
    return pytester


def test_files_are_collected_by_pattern_or_by_name(folder):
    result = folder.runpytest_inprocess("--collect-only", "-q")
    assert result.outlines[:4] == [f"good.tdp.toml::{name}" for name in (
        "v7.3-gated", "v7.3-ungated", "v6.18-gated", "v6.18-ungated")]
    assert "other.toml" not in result.stdout.str()
    result = folder.runpytest_inprocess("--collect-only", "-q", "other.toml")
    assert result.outlines[:2] == ["other.toml::v7.3-gated", "other.toml::v7.3-ungated"]
    result = folder.runpytest_inprocess("--collect-only", "-q", "-o", "tdp_files=other.*")
    assert result.outlines[0].startswith("other.toml::") and "good" not in result.stdout.str()


def test_results_are_those_of_the_expectations(folder):
    folder.runpytest_inprocess("good.tdp.toml").assert_outcomes(passed=4)
    folder.path.joinpath("wrong.tdp.toml").write_text(SCENARIO + '[expect]\n"v7.3" = "agree"\n')
    result = folder.runpytest_inprocess("wrong.tdp.toml")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*expected agree, got holds*"])


def test_a_failure_shows_the_story_and_no_python(folder):
    result = folder.runpytest_inprocess("other.toml", "--tdp-knob", BROKEN)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*violated: *", "*CPU 0 (vcpu0)*", "*tdpfast replay tdp1-*"])
    assert "Traceback" not in result.stdout.str() and "pytest_plugin.py" not in result.stdout.str()


def test_a_token_runs_its_schedule(folder):
    token = next(word for word in folder.runpytest_inprocess("other.toml", "--tdp-knob", BROKEN).stdout.str().split()
                 if word.startswith("tdp1-"))
    result = folder.runpytest_inprocess("other.toml", "--tdp-knob", BROKEN, "--tdp-token", token)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*CPU 0 (vcpu0)*"])
    folder.runpytest_inprocess("other.toml", "--tdp-token", token).assert_outcomes(skipped=1)
    folder.runpytest_inprocess("other.toml", "--tdp-token", "tdp1-x").assert_outcomes(failed=1)


def test_designs_budget_and_seed(folder):
    result = folder.runpytest_inprocess("other.toml", "--tdp-design", "v6.18", "--tdp-design", "patch15")
    result.assert_outcomes(passed=4)
    folder.path.joinpath("long.toml").write_text(LONG)
    folder.runpytest_inprocess("long.toml", "--tdp-seconds", "0.001").assert_outcomes(skipped=2)
    result = folder.runpytest_inprocess("other.toml", "--tdp-strategy", "random", "--tdp-seed", "3", "--tdp-knob",
                                        BROKEN)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*random, not complete*"])


@pytest.mark.parametrize("options", [["--tdp-design", "v9"], ["--tdp-knob", "nothing"], ["--tdp-strategy", "luck"]])
def test_bad_options_are_errors_of_collection(folder, options):
    result = folder.runpytest_inprocess("other.toml", *options)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*unknown *; try *"])


def test_a_bad_file_is_an_error_of_collection(folder):
    folder.path.joinpath("bad.tdp.toml").write_text("name = 5\n")
    result = folder.runpytest_inprocess("bad.tdp.toml")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*bad.tdp.toml: no name*"])


def test_the_fixture(folder):
    folder.makepyfile("""
        def no_update(gfn, old_spte, new_spte, level):
            return 0

        def test_holds(tdp_check):
            assert tdp_check("other.toml").complete
            assert tdp_check("other.toml", "v6.18", gated=False).verdict == "holds"

        def test_expected(tdp_check):
            tdp_check("other.toml", hooks={"set_external_spte": no_update}, expect="agree")
            tdp_check({"name": "one", "thread": [{"name": "t", "ops": [{"op": "map", "gfn": 1, "pfn": 0x140001}]}]})

        def test_fails(tdp_check):
            tdp_check("other.toml", hooks={"set_external_spte": no_update})

        def test_fails_to_fail(tdp_check):
            tdp_check("other.toml", expect="agree")
        """)
    result = folder.runpytest_inprocess("-k", "test_the_fixture")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["*expected holds, got violated agree*", "*CPU 0 (vcpu0)*",
                                 "*expected agree, got holds*"])


@pytest.mark.skipif(not find_spec("xdist"), reason="pytest-xdist is not installed")
def test_under_xdist(folder):
    folder.runpytest_subprocess("good.tdp.toml", "other.toml", "-n", "2").assert_outcomes(passed=6)
