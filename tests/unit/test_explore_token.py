"""Tokens and minimisation."""

import random

import pytest

from tdpfast import token as tokens
from tdpfast._explore.explorer import Explorer
from tdpfast._testing import toys as toys
from tdpfast.errors import UsageError
from tdpfast.minimise import cost, minimise
from tdpfast.token import NondeterminismError, Token, TokenError, TokenMismatchError, TokenVersionError

CHECK_AGREE = 1


def failing():
    explorer = Explorer(toys.freeze(2, broken=True), "random", seed=1, max_executions=100)
    return explorer, explorer.run()["failures"][CHECK_AGREE]


def made(explorer, schedule):
    digest = tokens.digest_of(explorer.replay(schedule)["steps"])
    return Token(schedule, tokens.fingerprint("toy", b"broken"), digest, "random", 1)


def test_round_trip():
    token = made(*failing())
    assert Token.parse(str(token)) == token
    assert Token.parse(f"  {token}\n") == token
    assert Token.parse(str(Token(b""))) == Token(b"")
    assert Token.parse(str(Token(bytes([16]) * 70000, seed=1 << 63))).schedule == bytes([16]) * 70000


def test_same_token_same_bytes():
    explorer, schedule = failing()
    assert str(made(explorer, schedule)) == str(made(*failing()))
    token = Token.parse(str(made(explorer, schedule)))
    token.verify(explorer.replay(token.schedule))
    assert explorer.replay(token.schedule) == explorer.replay(token.schedule)


def test_every_damaged_letter_is_noticed():
    text = str(made(*failing()))
    for i in range(len(text)):
        for letter in "a7!":
            damaged = text[:i] + letter + text[i + 1 :]
            if damaged != text:
                with pytest.raises(TokenError):
                    Token.parse(damaged)


def test_one_schedule_has_one_token():
    """Base32 leaves bits of the last letter over, and a run could be cut into two."""
    text = str(Token(b"\0", 7))
    assert Token.parse(text.upper()) == Token.parse(f" {text} ")
    for other in (text[:-1] + chr(ord(text[-1]) + 1), text.replace("tdp1", "tdp01"), text + "="):
        with pytest.raises(TokenError):
            Token.parse(other)


def test_schedules_have_a_bound():
    assert Token.parse(str(Token(bytes(tokens.MAX_STEPS)))).runs() == [(0, tokens.MAX_STEPS)]
    with pytest.raises(UsageError, match="steps"):
        Token(bytes(tokens.MAX_STEPS + 1))


@pytest.mark.parametrize("text", ["", "tdp1", "tdp1-", "tdp1-aaaa", "hello", "tdp-aaaa", "tdpx-aaaa"])
def test_text_that_is_no_token(text):
    with pytest.raises(TokenError):
        Token.parse(text)


def test_other_version_and_other_scenario():
    token = Token(b"\0\1", tokens.fingerprint("a"))
    with pytest.raises(TokenVersionError):
        Token.parse(str(token).replace("tdp1-", "tdp2-"))
    token.require(tokens.fingerprint("a"))
    with pytest.raises(TokenMismatchError):
        token.require(tokens.fingerprint("b"))
    with pytest.raises(UsageError):
        Token(b"", strategy="magic")


def test_changed_program_is_reported():
    explorer, schedule = failing()
    token = made(explorer, schedule)
    other = Explorer(toys.freeze(2))
    with pytest.raises(NondeterminismError):
        token.verify(other.replay(token.schedule))


def test_minimised_schedule_fails_with_fewer_switches():
    explorer, _ = failing()
    schedule = next(
        ran["schedule"]
        for seed in range(500)
        for ran in [explorer.try_schedule(bytes(random.Random(seed).choices(range(3), k=30)))]
        if ran["checks"] & CHECK_AGREE and cost(ran["schedule"])[0] >= 6
    )
    small = minimise(explorer, schedule, CHECK_AGREE)
    assert explorer.replay(small)["checks"] & CHECK_AGREE
    assert cost(small) < cost(schedule) and cost(small)[0] <= 3


def test_minimise_leaves_a_passing_schedule_alone():
    explorer = Explorer(toys.freeze(1))
    schedule = explorer.try_schedule(b"")["schedule"]
    assert minimise(explorer, schedule, CHECK_AGREE, attempts=20) == schedule
