"""The pytest plugin: scenario files are tests, and `tdp_check` checks a scenario within one.

Files named ``*.tdp.toml`` are collected (the ini option ``tdp_files`` has other patterns), and so is any scenario file
named on the command line: a test for each design that its expectations name, gated and ungated. A test passes if the
result is what the file expects; where it expects nothing, if no check is violated. The story of what failed is the
failure's text.

    def test_mine(tdp_check):
        tdp_check("fault-against-zap.toml", "v7.3")
        tdp_check("fault-against-zap.toml", "v7.3", gated=False, expect="agree")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tdpfast.check import Limits, Verdict
    from tdpfast.scenario import Scenario

# tdpfast is imported when the first scenario is met: the plugin is loaded by every run of pytest.

DEFAULT_FILES = ("*.tdp.toml",)
DEFAULT_DESIGNS = ("v7.3",)


class Unexpected(Exception):
    """A result that is not the expected one; its text is the whole report."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the plugin."""
    group = parser.getgroup("tdpfast", "scenarios of tdpfast")
    group.addoption("--tdp-design", action="append", default=[], metavar="D",
                    help="Check scenario files under this design (repeatable); default: those that they name.")
    group.addoption("--tdp-knob", action="append", default=[], metavar="K",
                    help="Replace a knob of the designs (repeatable), as tdpfast check --knob does.")
    group.addoption("--tdp-strategy", default="dpor", metavar="S", help="How to search; default: dpor.")
    group.addoption("--tdp-seed", type=int, default=0, metavar="N", help="For random and pct.")
    group.addoption("--tdp-seconds", type=float, default=0.0, metavar="T",
                    help="Time budget of each search; one that ends before it found anything is skipped.")
    group.addoption("--tdp-token", default=None, metavar="TOKEN",
                    help="Run this token's schedule instead of searches, in the scenario file that it belongs to.")
    parser.addini("tdp_files", "patterns of scenario files", type="args", default=list(DEFAULT_FILES))


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> ScenarioFile | None:
    """Scenario files by pattern, or named on the command line."""
    if file_path.suffix not in (".toml", ".json"):
        return None
    named = parent.session.isinitpath(file_path)
    if not named and not any(file_path.match(pattern) for pattern in parent.config.getini("tdp_files")):
        return None
    return ScenarioFile.from_parent(parent, path=file_path)


class ScenarioFile(pytest.File):
    """A scenario file: a test for each design, gated and ungated."""

    def collect(self) -> Iterator[ScenarioItem]:
        """The tests of the file; a bad file is an error of collection."""
        from tdpfast.design import parse_knobs, with_knobs
        from tdpfast.errors import UsageError
        from tdpfast.scenario import load
        try:
            scenario = load(self.path)
            names = self.config.getoption("--tdp-design") or list(dict.fromkeys(
                [*scenario.expect, *scenario.expect_gated])) or list(DEFAULT_DESIGNS)
            knobs = parse_knobs(self.config.getoption("--tdp-knob"))
            designs = [with_knobs(name, knobs) for name in names]
            limits_of(self.config)
        except UsageError as error:
            raise self.CollectError(str(error)) from None
        if self.config.getoption("--tdp-token"):
            yield ScenarioItem.from_parent(self, name="token", scenario=scenario, design=None, gated=True)
            return
        for design in designs:
            for gated in (True, False):
                name = f"{design.name}-{'gated' if gated else 'ungated'}"
                yield ScenarioItem.from_parent(self, name=name, scenario=scenario, design=design, gated=gated)


class ScenarioItem(pytest.Item):
    """One result of a scenario file; without a design, the schedule of a token."""

    def __init__(self, *, scenario: Scenario, design: Any, gated: bool, **more: Any) -> None:
        super().__init__(**more)
        self.scenario, self.design, self.gated = scenario, design, gated

    def runtest(self) -> None:
        """Searches, and compares with what the file expects."""
        if self.design is None:
            replay(self.scenario, self.config.getoption("--tdp-token"), self.config.getoption("--tdp-knob"))
            return
        from tdpfast.check import check
        from tdpfast.report import unexpected
        verdict = check(self.scenario, self.design, gated=self.gated, limits=limits_of(self.config))
        said = self.scenario.expect_gated if self.gated else self.scenario.expect
        surprise = unexpected(verdict, self.scenario)
        if surprise is None and verdict.design not in said and verdict.verdict == "violated":
            surprise = f"violated: {' '.join(verdict.checks)}"
        if text := judged(verdict, surprise):
            raise Unexpected(text)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *_: Any, **__: Any) -> Any:
        """The story alone: no Python of ours failed."""
        if isinstance(excinfo.value, Unexpected):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where the test stands: its file, no line."""
        return self.path, None, f"{self.scenario.name}: {self.name}"


def limits_of(config: pytest.Config) -> Limits:
    """The limits that the options ask for."""
    from tdpfast.check import Limits
    strategy = config.getoption("--tdp-strategy")
    walks = 10_000 if strategy in ("random", "pct") else 0
    return Limits(strategy=strategy, seed=config.getoption("--tdp-seed"), seconds=config.getoption("--tdp-seconds"),
                  max_executions=walks)


def judged(verdict: Verdict, surprise: str | None) -> str:
    """The whole report of a result that surprises, else nothing; skips where a time budget ended the search."""
    from tdpfast.report import counterexample, holding
    if verdict.verdict == "unknown" and verdict.timed_out:
        pytest.skip(f"the time budget of {verdict.scenario} ran out before anything was found")
    if surprise is None:
        return ""
    show = counterexample if verdict.verdict == "violated" else holding
    return f"{surprise.rstrip()}\n\n{show(verdict)}"


def replay(scenario: Scenario, text: str, knobs: Iterable[str]) -> None:
    """Runs a token's schedule; skips where it belongs to another scenario."""
    from tdpfast.check import replay_token
    from tdpfast.checks import names_of
    from tdpfast.design import parse_knobs, presets_with
    from tdpfast.story import columns_text, tell
    from tdpfast.token import Token, TokenMismatchError
    try:
        _, design, program, run = replay_token(Token.parse(text), [scenario], presets_with(parse_knobs(knobs)))
    except TokenMismatchError as error:
        pytest.skip(str(error))
    if run["checks"]:
        story = columns_text(tell(program, scenario, run), [thread.name for thread in scenario.threads])
        raise Unexpected(f"violated on {design.name}: {' '.join(names_of(run['checks']))}\n\n{story}")


@pytest.fixture
def tdp_check(request: pytest.FixtureRequest) -> Callable[..., Verdict]:
    """tdp_check(scenario, design="v7.3", *, gated=True, expect="holds", hooks=None, reset=None): checks a scenario (a
    Scenario, the mapping of a file, or the path of one), and fails with the story unless the result is `expect`:
    "holds", or names of checks that must be violated, separated by blanks. The Verdict. Strategy, seed and budget are
    those of the command line."""
    from dataclasses import replace

    from tdpfast.check import check
    from tdpfast.report import unexpected
    from tdpfast.scenario import Scenario, load, parse
    config = request.config

    def run(scenario: Scenario | Mapping[str, Any] | str | Path, design: Any = DEFAULT_DESIGNS[0], *,
            gated: bool = True, expect: str = "holds", hooks: Any = None, reset: Any = None) -> Verdict:
        if isinstance(scenario, Mapping):
            scenario = parse(dict(scenario), request.node.name)
        elif not isinstance(scenario, Scenario):
            scenario = load(scenario)
        verdict = check(scenario, design, gated=gated, limits=limits_of(config), hooks=hooks, reset=reset)
        asked = {verdict.design: expect}
        surprise = unexpected(verdict, replace(scenario, expect=asked, expect_gated=asked))
        if text := judged(verdict, surprise):
            pytest.fail(text, pytrace=False)
        return verdict

    return run
