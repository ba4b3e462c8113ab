"""Writing files that users name: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from tdpfast._arguments import shown
from tdpfast.errors import UsageError


def check_place(path: str | Path, fix: str = "a file in a directory that exists") -> Path:
    """The path; UsageError unless a file can be written there, before there is anything to lose."""
    if not isinstance(path, (str, Path)):
        raise UsageError(f"bad path {shown(path)}", "neither str nor Path", fix)
    place = Path(path)
    if "\0" in str(path) or place.is_dir() or not place.parent.is_dir() or not os.access(place.parent, os.W_OK):
        raise UsageError(f"cannot write {path}", "no such directory, or not writable",
                         "a file in a directory that exists")
    return place


def write_whole(path: str | Path, text: str) -> None:
    """Writes a file; what stood there stays until the new one is complete. OSError when there is no room."""
    place = check_place(path)
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)
