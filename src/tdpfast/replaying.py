"""Tokens: whose they are, their schedules run again, and what can come after them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tdpfast._arguments import U64_MAX, check_int, shown
from tdpfast.building import Hooks, Reset, _known, build, explore, program_print
from tdpfast.design import Design, get_design
from tdpfast.errors import UsageError
from tdpfast.scenario import Scenario
from tdpfast.search import check
from tdpfast.token import Token, TokenMismatchError
from tdpfast.verdict import Limits, Verdict


def replay_token(token: Token, scenarios: Iterable[Scenario], designs: Iterable[Design],
                 hooks: Hooks | None = None, reset: Reset | None = None) -> tuple:
    """(scenario, design, program, replay) of the program a token belongs to; the replay is checked step by step.

    hooks, reset: those of the check() that made the token.
    Raises TokenMismatchError when it belongs to none of them, NondeterminismError when the program changed.
    """
    scenario, design, every_entry = owner_of(token, scenarios, designs, hooks)
    program = build(scenario, design, hooks, reset, every_entry=every_entry)
    program.record(True)
    explorer = explore(program, Limits())
    replay = explorer.replay(token.schedule)
    program.raise_hook_error()
    token.verify(replay, [t.name for t in scenario.threads])
    return scenario, design, program, replay


def owner_of(token: Token, scenarios: Iterable[Scenario], designs: Iterable[Design],
             hooks: Hooks | None = None) -> tuple[Scenario, Design, bool]:
    """The scenario and the design, gated or not, that a token belongs to, and whether every entry is a step on it;
    TokenMismatchError: none of them."""
    if not isinstance(token, Token):
        raise UsageError(f"bad token {shown(token)}", "not a Token", "Token.parse(text)")
    presets, tried = [get_design(design) for design in designs], 0
    for scenario in scenarios:
        _known(scenario)
        for design in presets:
            for ungated in (False,) if design.dynamic_pamt else (False, True):
                candidate = design.replace(ungated=ungated)
                tried += 1
                for every_entry in (False, True):
                    if program_print(scenario, candidate, hooks, every_entry=every_entry) == token.fingerprint:
                        return scenario, candidate, every_entry
    raise TokenMismatchError(
        "the token is from another scenario (or from an older form of this one)",
        f"its fingerprint {token.fingerprint:#018x} is none of the {tried} scenarios and designs known here",
        "the version of tdpfast and the scenario file that it was made with (replay --file FILE)")


def continue_token(token: Token, scenarios: Iterable[Scenario], designs: Iterable[Design], *, keep: int | None = None,
                   limits: Limits = Limits()) -> Verdict:
    """Follows the first `keep` steps of a token (default: up to its last context switch) and explores what can
    follow. Raises TokenMismatchError, and UsageError if those steps do not fit the program any more."""
    scenario, design, every_entry = owner_of(token, scenarios, designs)
    if keep is None:
        last = token.schedule[-1:]
        keep = len(token.schedule.rstrip(last)) if last else 0
    if check_int("keep", keep, 0, U64_MAX) > len(token.schedule):
        raise UsageError(f"keep {keep}", "the token has fewer steps", f"0..{len(token.schedule)}")
    return check(scenario, design, gated=not design.ungated, limits=replace(limits, every_entry=every_entry),
                 prefix=token.schedule[:keep])
