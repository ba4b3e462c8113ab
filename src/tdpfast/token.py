"""Replay tokens: one failing schedule as a line of text.

A token holds the schedule (run lengths of agents), how it was found, a fingerprint of the program it belongs to and
a digest of its steps. It says so when it is damaged, of another version, from another scenario, or when the
program no longer does what it did when the token was made.
"""

import base64
import binascii
import hashlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from tdpfast._arguments import U64_MAX, check_int, one_of, shown
from tdpfast.errors import UsageError

PREFIX = "tdp"
VERSION = 1
STRATEGIES = ("dpor", "sleep", "dfs", "bound", "random", "pct", "replay")
MAX_STEPS = 1 << 22
"""No schedule is longer: a search gives up long before."""

COPY_IT = "the whole token, from tdp1- to its last letter"
REMAKE = "the token that `tdpfast check` prints now"
OR_CHECK = f"the version of tdpfast that made it, or {REMAKE}"


class TokenError(UsageError):
    """The text is not a token, or a damaged one."""


class TokenVersionError(TokenError):
    """The token was made by another version of the format."""


class TokenMismatchError(TokenError):
    """The token belongs to another scenario."""


class NondeterminismError(TokenError):
    """The program does not do what it did when the token was made."""


@dataclass(frozen=True)
class Token:
    """One schedule of one program. seed and strategy say how it was found."""

    schedule: bytes
    fingerprint: int = 0
    digest: int = 0
    strategy: str = "replay"
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.strategy, str) or self.strategy not in STRATEGIES:
            raise UsageError(f"unknown strategy {shown(self.strategy)}", "not one of them", one_of(STRATEGIES))
        if not isinstance(self.schedule, bytes) or max(self.schedule, default=0) > 31:
            raise UsageError("bad schedule", "not bytes of agents 0..31", "one byte per step")
        if len(self.schedule) > MAX_STEPS:
            raise UsageError("bad schedule", f"{len(self.schedule)} steps", f"at most {MAX_STEPS}")
        for name, top in (("fingerprint", U64_MAX), ("digest", (1 << 32) - 1), ("seed", U64_MAX)):
            object.__setattr__(self, name, check_int(name, getattr(self, name), 0, top))

    def __str__(self) -> str:
        body = bytearray([STRATEGIES.index(self.strategy)])
        body += self.fingerprint.to_bytes(8, "little") + self.digest.to_bytes(4, "little")
        _put(body, self.seed)
        for agent, steps in self.runs():
            _put(body, steps << 5 | agent)
        body += zlib.crc32(bytes(body)).to_bytes(4, "little")
        return f"{PREFIX}{VERSION}-{base64.b32encode(bytes(body)).decode().rstrip('=').lower()}"

    def runs(self) -> list[tuple[int, int]]:
        """The schedule as (agent, how many steps in a row)."""
        return [(agent, sum(1 for _ in run)) for agent, run in groupby(self.schedule)]

    @classmethod
    def parse(cls, text: str) -> "Token":
        """The token of a text; TokenError if it is none."""
        body = _unpack(text)
        if body[0] >= len(STRATEGIES):
            raise TokenError("the token is damaged", "unknown strategy", COPY_IT)
        seed, at = _get(body, 13)
        schedule = bytearray()
        while at < len(body):
            run, at = _get(body, at)
            if len(schedule) + (run >> 5) > MAX_STEPS:
                raise TokenError("the token is damaged", "its schedule is too long", COPY_IT)
            schedule += bytes([run & 31]) * (run >> 5)
        token = cls(
            bytes(schedule),
            int.from_bytes(body[1:9], "little"),
            int.from_bytes(body[9:13], "little"),
            STRATEGIES[body[0]],
            seed,
        )
        if str(token) != text.strip().lower():
            raise TokenError("the token is damaged", "no token is written so", COPY_IT)
        return token

    def require(self, fingerprint: int) -> None:
        """TokenMismatchError unless the token belongs to the program of that fingerprint."""
        if fingerprint != self.fingerprint:
            raise TokenMismatchError("the token is from another scenario", "or from an older form of this one",
                                     f"its scenario's file, or {REMAKE}")

    def verify(self, replay: dict, threads: Sequence[str] = ()) -> None:
        """NondeterminismError unless a replay did, step by step, what the token's recording did. threads: names of the
        agents, for its text."""
        what = "the program does not do what it did when the token was made"
        if replay["end"] == "diverged":
            at = len(replay["steps"])
            if at < len(self.schedule):
                agent = self.schedule[at]
                who = threads[agent] if agent < len(threads) else "the end of a grace period"
                raise NondeterminismError(what, f"step {at + 1} of {len(self.schedule)}, by {who}, cannot be made",
                                          OR_CHECK)
            raise NondeterminismError(what, f"it goes on after the last of {at} steps", OR_CHECK)
        if replay["schedule"] != self.schedule:
            raise NondeterminismError(what, f"it ended after {len(replay['schedule'])} of {len(self.schedule)} steps",
                                      OR_CHECK)
        if digest_of(replay["steps"]) != self.digest:
            raise NondeterminismError(what, "the same threads ran in the same order, but made other accesses",
                                      OR_CHECK)


def fingerprint(*parts: str | bytes) -> int:
    """64 bits that identify a program: give it whatever decides what the program does."""
    h = hashlib.blake2b(digest_size=8)
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        h.update(len(raw).to_bytes(8, "little") + raw)
    return int.from_bytes(h.digest(), "little")


def digest_of(steps: Iterable[tuple[int, int, int, int]]) -> int:
    """32 bits of what a replay did. Objects count by order of appearance: addresses differ between processes."""
    names: dict[int, int] = {}
    crc = 0
    for agent, kind, obj, _ in steps:
        number = names.setdefault(obj, len(names))
        crc = zlib.crc32(bytes((agent, kind)) + number.to_bytes(4, "little"), crc)
    return crc


def _put(out: bytearray, value: int) -> None:
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _get(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(body) or shift > 63:
            raise TokenError("the token is damaged", "it ends too early, or a number is too large", COPY_IT)
        value |= (body[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not body[at - 1] & 0x80:
            return value, at


def _unpack(text: str) -> bytes:
    """The bytes between version and checksum."""
    if not isinstance(text, str):
        raise TokenError(f"bad token {shown(text)}", "not a text", COPY_IT)
    head, dash, tail = text.strip().lower().partition("-")
    number = head.removeprefix(PREFIX)
    if not dash or number == head or not (number.isascii() and number.isdecimal() and len(number) < 10):
        raise TokenError("not a replay token", f"they begin with {PREFIX}{VERSION}-", COPY_IT)
    if int(number) != VERSION:
        raise TokenVersionError(f"the token has version {number}", f"this tdpfast reads {VERSION}", REMAKE)
    try:
        raw = base64.b32decode(tail.upper() + "=" * (-len(tail) % 8))
    except (binascii.Error, ValueError):
        raise TokenError("the token is damaged", "not base32", COPY_IT) from None
    if len(raw) < 18 or zlib.crc32(raw[:-4]).to_bytes(4, "little") != raw[-4:]:
        raise TokenError("the token is damaged", "its checksum does not fit", COPY_IT)
    return raw[:-4]
