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
    try:
        target = place.resolve()
        if target.exists() and not target.is_file():
            raise IsADirectoryError(None, "no ordinary file")
        with open(_beside(target), "x", encoding="utf-8"):
            _beside(target).unlink()
    except (OSError, ValueError, RuntimeError) as error:       # a NUL in the path; links in a circle
        raise UsageError(f"cannot write {path}", getattr(error, "strerror", None) or str(error),
                         "a file in a directory that exists and is writable") from None
    return place


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name[:200]}.{os.getpid()}")


def write_whole(path: str | Path, text: str) -> None:
    """Writes a file; what stood there stays until the new one is complete, and a symbolic link stays one. OSError when
    there is no room."""
    target = check_place(path).resolve()
    temporary = _beside(target)
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
