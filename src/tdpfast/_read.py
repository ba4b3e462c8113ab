"""Reading what users write: files of ordinary size, in UTF-8."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tdpfast._arguments import shown
from tdpfast.errors import UsageError

MAX_CHARS = 1 << 26
"""A file is not read beyond it: no scenario is that large, and /dev/zero has no end."""


def read_text(path: str | Path, fix: str) -> str:
    """The text of a file, without a byte order mark; "-" as a str is standard input. UsageError, with `fix`, for what
    cannot be read, is not UTF-8, or is larger than MAX_CHARS."""
    if not isinstance(path, (str, Path)):
        raise UsageError(f"bad path {shown(path)}", "neither str nor Path", fix)
    name = "standard input" if path == "-" else str(path)
    try:
        if path == "-":
            text = sys.stdin.read(MAX_CHARS + 1).removeprefix("\ufeff")
        else:
            with open(path, encoding="utf-8-sig") as stream:
                text = stream.read(MAX_CHARS + 1)
    except OSError as error:
        raise UsageError(f"cannot read {name}", error.strerror or str(error), fix) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read {name}", f"not UTF-8: {error.reason}", fix) from None
    except (ValueError, AttributeError) as error:       # a NUL in the path; closed or no standard input
        raise UsageError(f"cannot read {name}", str(error), fix) from None
    if len(text) > MAX_CHARS:
        raise UsageError(f"{name} is too large", f"more than {MAX_CHARS} characters", fix)
    return text


def load_json(text: str) -> Any:
    """json.loads(), but a key that stands twice is a ValueError: which of them counts would be a guess."""
    return json.loads(text, object_pairs_hook=_no_twins)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twin!r} stands twice in one object")
    return found
