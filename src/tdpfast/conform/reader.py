"""Reading recordings: .jsonl, .jsonl.gz and .json, with errors that name file and line."""
from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from tdpfast._arguments import shown
from tdpfast.errors import UsageError


def read_records(path: str | Path) -> Iterator[tuple[int, object]]:
    """The (line, record) pairs of a file; records of a JSON array count from 1, an object is one record.

    Raises:
        UsageError: the file cannot be read or is not JSON.
    """
    try:
        with _open(path) as stream:
            if str(path).removesuffix(".gz").endswith(".json"):
                document = _parse(path, 1, stream.read())
                records = document if isinstance(document, list) else [document]
                yield from enumerate(records, 1)
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
