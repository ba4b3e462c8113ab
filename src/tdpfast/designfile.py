"""Designs as code: one C file in the kernel's style, compiled when it is used.

`Design.from_file("mine.c")` compiles the file with the machine's C compiler (CC, else cc, gcc or clang), instrumented
so that the explorer sees each of its accesses, and keeps the result by content under TDPFAST_CACHE (else
XDG_CACHE_HOME/tdpfast, else ~/.cache/tdpfast).
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shlex
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tdpfast._program.code_api import api
from tdpfast._program.code_bases import bases
from tdpfast._program.code_calls import FUNCTIONS, LoadedCode, layout
from tdpfast._program.code_crash import arm
from tdpfast._program.code_tables import api as api_tables
from tdpfast.design import DISPATCH_HUGEPAGE, DISPATCH_SINGLE, Design, get_design, parse_knobs, with_knobs
from tdpfast.errors import UsageError

INCLUDE = Path(__file__).parent / "include"
RUNTIME = INCLUDE / "tdpfast" / "runtime.h"
COMMON = ("-std=gnu11", "-g", "-O1", "-fPIC", "-fno-strict-aliasing", "-ffreestanding", "-fno-builtin",
          "-fno-common", "-fno-omit-frame-pointer", "-fvisibility=hidden")
OWN = ("-fsanitize=thread", "-fstack-clash-protection", "-Wall", "-Wextra", "-Wno-unused-parameter",
       "-Wno-sign-compare", "-Wframe-larger-than=2048")
LINK = ("-shared", "-nostdlib", "-Wl,-z,defs,-z,now,--build-id=none")
MAX_DATA = 32 << 10
"""Bytes of static data a file may have: they are put back before every execution."""
LINE_BITS = 20
"""TDPF_LINE_BITS of types.h."""
DIAGNOSTIC = re.compile(
    r"^(?P<file>[^:\n]+):(?P<line>\d+):(?:\d+:)? (?P<kind>warning|error|fatal error): (?P<text>.*)$", re.MULTILINE)
_loaded: dict[str, tuple[LoadedCode, ctypes.CDLL]] = {}


@dataclass(frozen=True)
class Code:
    """The compiled form of one design file, as a Design carries it from process to process.

    file: the name lines are shown with. shown: the path as it was given. path: the source. library: what it was
    compiled to. text: a hash of what the file and its own includes say, which tokens are tied to. functions: those it
    defines. warnings: the compiler's, with the file's own lines. included: (depth, name) of its own includes.
    """

    file: str
    shown: str
    path: str
    library: str
    text: str
    functions: tuple[str, ...] = ()
    warnings: str = ""
    included: tuple[tuple[int, str], ...] = ()

    def load(self) -> int:
        """The address of the core's table for this file, loaded into this process once."""
        if self.library not in _loaded:
            _loaded[self.library] = _load(self)
        arm()
        return _loaded[self.library][0].address

    def at(self, line: int) -> str:
        """``mine.c:15`` for a line as the header's macros hand it on (TDPF_LINE)."""
        depth, number = line >> LINE_BITS, line & ((1 << LINE_BITS) - 1)
        names = {name for at, name in self.included if at == depth} if depth else {self.file}
        return f"{' or '.join(sorted(names)) or self.file}:{number}"

    def where(self, pc: int) -> str:
        """``mine.c:15`` for an offset in its machine code, the innermost line of the file itself."""
        return _where(self, pc)

    def name_of(self, address: int) -> str | None:
        """What a word of the file's static data is called; None: the address is not in it."""
        if self.library not in _loaded:
            return None
        start = _image(self.library, _loaded[self.library][1])
        for value, size, name in _objects(self.library):
            if start + value <= address < start + value + size:
                offset = address - start - value
                return f"{self.file} {name}" + (f"+{offset}" if offset else "")
        return None


def from_file(path: str | os.PathLike[str], name: str | None = None) -> Design:
    """The Design that a file describes; name: instead of the one it gives itself.

    Raises UsageError for a file that cannot be read or compiled, a missing compiler, symbol or base, a wrong signature,
    and a function that the base has no use for.
    """
    code = compile_file(Path(path))
    _, library = _loaded.setdefault(code.library, _load(code))
    try:
        told = _Told.in_dll(library, "tdpfast_design")
    except ValueError:
        raise UsageError(f"{code.file} is no design", "it does not say TDPFAST_DESIGN(...)",
                         'TDPFAST_DESIGN("mine", .base = "v7.3")') from None
    words = (told.knobs or b"").decode().replace(",", " ").split()
    base = with_knobs(get_design((told.base or b"v7.3").decode()), parse_knobs(words))
    own = name or (told.name or b"").decode() or Path(path).stem
    _check_base(code, base)
    return base.replace(name=own, code=code)


def compile_file(path: Path) -> Code:
    """Compiles a file unless that was done before."""
    try:
        path.read_bytes()
    except OSError as error:
        raise UsageError(f"design file {str(path)!r}", error.strerror or "not readable", "a C file") from None
    compiler, version = _compiler()
    cache = cache_dir()
    include = _layout_dir(cache)
    search = ("-I", str(include), "-I", str(INCLUDE))
    source = str(path)
    seen = _run([*compiler, *COMMON, *search, "-E", source], path)
    runtime = _runtime(compiler, version, cache, search)
    whole = _hash(seen, runtime.name, version, " ".join((*COMMON, *OWN, *LINK)))
    library = cache / f"{whole}.so"
    notes = cache / f"{whole}.txt"
    if not (library.exists() and notes.exists()):
        _build(compiler, path, search, runtime, library, notes)
    functions, _, warnings = notes.read_text().partition("\n")
    text = _hash(_own_text(seen), version, " ".join((*COMMON, *OWN)))
    return Code(path.name, source, str(path.resolve()), str(library), text, tuple(functions.split()), warnings,
                _included(seen))


def cache_dir() -> Path:
    """Where compiled files are kept."""
    given = os.environ.get("TDPFAST_CACHE")
    home = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tdpfast"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cache directory {str(home)!r}", error.strerror or "not writable",
                         "TDPFAST_CACHE=DIRECTORY") from None
    return home


class _Told(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("base", ctypes.c_char_p), ("knobs", ctypes.c_char_p))


def _hash(*parts: str) -> str:
    h = hashlib.blake2b(digest_size=16)
    for part in parts:
        h.update(len(part).to_bytes(8, "little") + part.encode("utf-8", "surrogateescape"))
    return h.hexdigest()


@functools.cache
def _version(command: str) -> str:
    try:
        out = subprocess.run([*shlex.split(command), "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return out.stdout if out.returncode == 0 else ""


def _compiler() -> tuple[list[str], str]:
    """The C compiler as a command, and which one it is."""
    given = os.environ.get("CC")
    for command in [given] if given else ["cc", "gcc", "clang"]:
        words = shlex.split(command)
        if words and shutil.which(words[0]) and (version := _version(command)):
            return words, version
    raise UsageError("no C compiler", f"CC={given} does not run" if given else "there is no cc, gcc or clang",
                     "install gcc or clang, or set CC")


def _run(command: list[str], path: Path, step: str = "does not compile") -> str:
    out = subprocess.run(command, capture_output=True, text=True, check=False, errors="surrogateescape",
                         env={**os.environ, "LC_ALL": "C"})
    if out.returncode:
        raise UsageError(f"{path.name} {step}", _first_error(out.stderr, path),
                         "the function's prototype in <tdpfast/kvm.h>" if "conflicting types" in out.stderr
                         else "names that <tdpfast/kvm.h> has" if "undefined reference" in out.stderr
                         else "a file that compiles")
    return out.stderr if "-c" in command else out.stdout


def _first_error(text: str, path: Path) -> str:
    """The first complaint, with the file's own line."""
    for found in DIAGNOSTIC.finditer(text):
        if "error" in found["kind"]:
            return f"{Path(found['file']).name}:{found['line']}: {found['text']}"
    for line in text.splitlines():
        if "undefined reference" in line:
            return f"{path.name}:{line.rpartition(path.name + ':')[2]}" if path.name + ":" in line else line
    return (text.strip().splitlines() or ["no reason given"])[-1]


def _own_warnings(text: str, path: Path) -> str:
    """Warnings about the file and what it includes of its own, a line each."""
    return "\n".join(f"{Path(f['file']).name}:{f['line']}: warning: {f['text']}" for f in DIAGNOSTIC.finditer(text)
                     if f["kind"] == "warning" and not Path(f["file"]).is_relative_to(INCLUDE))


def _own_text(preprocessed: str) -> str:
    """The lines of a preprocessed file that are not of our headers."""
    out, ours = [], False
    for line in preprocessed.splitlines():
        marker = re.match(r'# \d+ "([^"]*)"', line)
        if marker:
            ours = Path(marker[1]).is_relative_to(INCLUDE) or marker[1].startswith("<") or "layout.h" in marker[1]
        elif not ours and line.strip():
            out.append(line)
    return "\n".join(out)


def _included(preprocessed: str) -> tuple[tuple[int, str], ...]:
    """(depth, name) of the files of the design's own that it includes."""
    depth, found = 0, set()
    for name, flags in re.findall(r'^# \d+ "([^"]*)"([ \d]*)$', preprocessed, re.MULTILINE):
        if "1" in flags.split():
            depth += 1
            if not Path(name).is_relative_to(INCLUDE) and not name.startswith("<") and "layout.h" not in name:
                found.add((depth, Path(name).name))
        elif "2" in flags.split():
            depth -= 1
    return tuple(sorted(found))


def _write(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as f:
        f.write(text)
    os.replace(f.name, path)


def _layout_dir(cache: Path) -> Path:
    """The directory whose tdpfast/layout.h says where the core keeps its members."""
    text = "".join(f"#define TDPF_{name} {value}\n" for name, value in sorted(layout().items()))
    folder = cache / f"layout-{_hash(text)}"
    header = folder / "tdpfast" / "layout.h"
    if not header.exists():
        header.parent.mkdir(parents=True, exist_ok=True)
        _write(header, text)
    return folder


def _runtime(compiler: list[str], version: str, cache: Path, search: tuple[str, ...]) -> Path:
    """The object that is linked to every file."""
    texts = [f.read_text() for f in sorted((INCLUDE / "tdpfast").glob("*.h"))]
    out = cache / f"runtime-{_hash(version, *texts, *search)}.o"
    if not out.exists():
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = Path(folder) / "runtime.o"
            _run([*compiler, *COMMON, "-O2", *search, "-c", "-x", "c", str(RUNTIME), "-o", str(made)], RUNTIME)
            os.replace(made, out)
    return out


def _build(compiler: list[str], path: Path, search: tuple[str, ...], runtime: Path, library: Path, notes: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        obj, made = Path(folder) / "design.o", Path(folder) / "design.so"
        gcc = "clang" not in _version(shlex.join(compiler))
        own = [*OWN, *(["--param", "tsan-distinguish-volatile=1"] if gcc else [])]
        said = _run([*compiler, *COMMON, *own, *search, "-c", str(path), "-o", str(obj)], path)
        _run([*compiler, *LINK, str(obj), str(runtime), "-o", str(made)], path, "does not link")
        defined = [name for _, _, kind, name in _symbols(str(obj)) if name in FUNCTIONS and kind in "tTW"]
        os.replace(made, library)
    _write(notes, " ".join(defined) + "\n" + _own_warnings(said, path))


def _symbols(path: str) -> list[tuple[int, int, str, str]]:
    """(value, size, kind, name) of the symbols of an object, from its own table."""
    raw = Path(path).read_bytes()
    shoff, = struct.unpack_from("<Q", raw, 40)
    shentsize, shnum = struct.unpack_from("<HH", raw, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", raw, shoff + i * shentsize) for i in range(shnum)]
    out = []
    for section in sections:
        if section[1] != 2:             # SHT_SYMTAB
            continue
        names = sections[section[6]][4]
        for at in range(section[4], section[4] + section[5], 24):
            name, info, _other, index, value, size = struct.unpack_from("<IBBHQQ", raw, at)
            end = raw.index(b"\0", names + name)
            kind = "U" if index == 0 else {1: "d", 2: "t"}.get(info & 15, "?")
            out.append((value, size, kind if info >> 4 == 0 else kind.upper(), raw[names + name:end].decode()))
    return out


@functools.lru_cache(64)
def _objects(path: str) -> list[tuple[int, int, str]]:
    return [(value, size, name) for value, size, kind, name in _symbols(path)
            if kind in "dD" and size and not name.startswith("tdpf_")]


def _segments(path: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Of the loaded image: its whole range, and its writable data without what is read-only after loading."""
    raw = Path(path).read_bytes()
    phoff, = struct.unpack_from("<Q", raw, 32)
    size, n = struct.unpack_from("<HH", raw, 54)
    heads = [struct.unpack_from("<IIQQQQQQ", raw, phoff + i * size) for i in range(n)]
    loads = [h for h in heads if h[0] == 1]
    end = max(h[3] + h[6] for h in loads)
    data = [(h[3], h[3] + h[6]) for h in loads if h[1] & 2]
    start, stop = data[-1] if data else (end, end)
    for h in heads:
        if h[0] == 0x6474E552 and start <= h[3] < stop:     # PT_GNU_RELRO
            start = max(start, (h[3] + h[6] + 4095) & ~4095)
    return (0, end), (min(start, stop), stop)


def _image(path: str, library: ctypes.CDLL) -> int:
    """The address the image begins at."""
    value = next(v for v, _, kind, name in _symbols(path) if name == "tdpf_load" and kind != "U")
    return ctypes.addressof(ctypes.c_char.in_dll(library, "tdpf_load")) - value


def _load(code: Code) -> tuple[LoadedCode, ctypes.CDLL]:
    path = Path(code.library)
    if not path.exists():
        again = compile_file(Path(code.path))
        if again.text != code.text:
            raise UsageError(f"design file {code.path}", "it says something else than when it was read",
                             "reading it again")
        path = Path(again.library)
    library = ctypes.CDLL(str(path))
    start = _image(str(path), library)
    where: dict[str, int] = {}
    for value, _, kind, name in _symbols(str(path)):
        if kind != "U":
            where.setdefault(name, start + value)       # the file's own come before what was linked to it
    (low, high), (data, data_end) = _segments(str(path))
    if data_end - data > MAX_DATA:
        raise UsageError(f"{code.file} has {data_end - data} bytes of static data",
                         f"more than {MAX_DATA}, which are put back before every execution",
                         "kvm->tdpfast_private and sp->tdpfast_private")
    table = LoadedCode({name: where[name] for name in code.functions}, (start + low, start + high),
                       (start + data, start + data_end))
    for name, address in {**api(), **api_tables()}.items():
        ctypes.c_void_p.in_dll(library, "tdpf_" + name).value = address
    for name, address in bases().items():
        ctypes.c_void_p.in_dll(library, "tdpf_base_" + name).value = address
        ctypes.c_void_p.in_dll(library, "tdpf_call_" + name).value = address
    table.loaded()
    return table, library


@functools.lru_cache(4096)
def _where(code: Code, pc: int) -> str:
    tool = shutil.which("addr2line")
    if tool is None:
        return code.file
    out = subprocess.run([tool, "-i", "-e", code.library, hex(pc)], capture_output=True, text=True, check=False)
    lines = [line.split(" ")[0] for line in out.stdout.splitlines()]
    own = [line for line in lines if not line.startswith(str(INCLUDE)) and not line.startswith("??")]
    return Path(own[0]).name if own else code.file


def _check_base(code: Code, base: Design) -> None:
    """UsageError for a function that nothing of this base, nor of the file, calls."""
    own = set(code.functions)
    splits = base.split_op or base.dispatch in (DISPATCH_SINGLE, DISPATCH_HUGEPAGE)
    for name, there, callers in (
            ("tdx_sept_split_private_spte", splits, {"tdx_sept_set_private_spte"}),
            ("tdx_sept_reclaim_private_spt", base.dispatch == DISPATCH_SINGLE, {"tdx_sept_set_private_spte"}),
            ("tdx_sept_free_private_spt", base.dispatch != DISPATCH_SINGLE, {"handle_removed_pt"}),
            ("tdx_pamt_get", base.dynamic_pamt, set()), ("tdx_pamt_put", base.dynamic_pamt, set())):
        if name in own and not there and not callers & own:
            raise UsageError(f"{code.file} defines {name}()", f"base {base.name} never calls it",
                             "another base, or a definition of " + " or ".join(sorted(callers or {"its caller"})))
