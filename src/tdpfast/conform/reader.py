"""Reading recordings: .jsonl, .jsonl.gz and .json, with errors that name file and line."""
from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tdpfast._arguments import shown
from tdpfast.errors import UsageError

CHUNK = 1 << 16          # characters


def read_records(path: str | Path) -> Iterator[tuple[int, object]]:
    """The (line, record) pairs of a file; records of a JSON array count from 1, an object is one record.

    Raises:
        UsageError: the file cannot be read or is not JSON.
    """
    try:
        with _open(path) as stream:
            if str(path).removesuffix(".gz").endswith(".json"):
                yield from enumerate(_elements(path, stream), 1)
            else:
                for line, text in enumerate(stream, 1):
                    if text.strip():
                        yield line, _parse(path, line, text.strip())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UsageError(f"cannot read {path}", f"damaged gzip: {error}", "a complete copy") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}", error.strerror or str(error),
                         "an existing, readable file") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read {path}", f"not UTF-8: {error.reason}",
                         "a .jsonl, .jsonl.gz or .json recording") from None


def _open(path):
    if not isinstance(path, (str, Path)) or "\0" in str(path):
        raise UsageError(f"cannot read {shown(path)}", "not the name of a file", "an existing, readable file")
    if str(path).endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8")
    return open(path, encoding="utf-8")


def _elements(path: str | Path, stream: IO[str]) -> Iterator[Any]:
    """The elements of a JSON array, read piece by piece, or the one value that the file holds."""
    text = _Text(path, stream)
    if text.next() != "[":
        yield _parse(path, text.line, text.buffer + stream.read())
        return
    text.drop(1)
    while text.next() != "]":
        yield text.value()
        if text.next() == ",":
            text.drop(1)
            if text.next() != "]":
                continue
        elif text.next() == "]":
            break
        raise text.malformed("another record, or the end of the array, is missing")
    text.drop(1)
    if text.next():
        raise text.malformed("something follows the array")


class _Text:
    """A stream of JSON, of which only what is being parsed is held."""

    def __init__(self, path: str | Path, stream: IO[str]):
        self.path, self.stream = path, stream
        self.buffer, self.line = "", 1

    def more(self, n: int = CHUNK) -> bool:
        read = self.stream.read(n)
        self.buffer += read
        return read != ""

    def drop(self, n: int) -> None:
        self.line += self.buffer.count("\n", 0, n)
        self.buffer = self.buffer[n:]

    def next(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            self.drop(len(self.buffer) - len(self.buffer.lstrip(" \t\r\n")))
            if self.buffer or not self.more():
                return self.buffer[:1]

    def value(self) -> Any:
        """The value that begins here."""
        size = CHUNK
        while True:
            try:
                found, end = json.JSONDecoder().raw_decode(self.buffer)
                if end < len(self.buffer) or not self.more():      # a number may go on in the next piece
                    self.drop(end)
                    return found
            except ValueError:
                if not self.more(size):
                    return _parse(self.path, self.line, self.buffer)
                size *= 2
            except RecursionError:
                return _parse(self.path, self.line, self.buffer)

    def malformed(self, why: str) -> UsageError:
        return UsageError(f"{self.path}:{self.line}: malformed JSON", why, "one array of records")


def _parse(path, line: int, text: str):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = line + error.lineno - 1
        raise UsageError(f"{path}:{where}: malformed JSON", f"{error.msg}, column {error.colno}",
                         "one complete JSON record per line") from None
    except (RecursionError, ValueError) as error:
        raise UsageError(f"{path}:{line}: malformed JSON", str(error),
                         "a record of ordinary size and depth") from None
