"""Imports go one way: between rooms, within a room, and from Python."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "tdpfast"
# The arrows between rooms, as the docs draw them. _names and _spte are single modules at the bottom.
BELOW = {
    "_names": set(),
    "_spte": {"_names"},
    "_sync": {"_names"},
    "_mmu": {"_names", "_spte", "_sync"},
    "_ops": {"_names", "_spte", "_sync", "_mmu"},
    "_seam": {"_names", "_sync"},
    "_tdx": {"_names", "_spte", "_sync", "_mmu", "_ops", "_seam"},
    "_face": {"_names", "_spte", "_sync", "_mmu", "_ops", "_seam", "_tdx"},
    "_explore": {"_names", "_sync"},
    "_program": {"_names", "_spte", "_sync", "_mmu", "_ops", "_seam", "_tdx", "_face", "_explore"},
    "_testing": {"_names", "_spte", "_sync", "_mmu", "_ops", "_seam", "_explore", "_face"},
}
# What native modules take from Python: errors and checks of arguments, which take nothing native but the names, and the
# table of operations.
PYTHON_BELOW = {"errors", "_arguments", "ops", "spans"}


def module_of(path):
    """The name of a native file within tdpfast: _spte, _mmu.tdp_mmu."""
    if path.parent == SOURCE:
        return path.stem
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def natives():
    return sorted([*SOURCE.glob("*.pyx"), *PACKAGE.rglob("*.pyx"), *PACKAGE.rglob("*.pxd")])


def built():
    """Native modules in the order of CMakeLists.txt."""
    out = []
    for line in re.findall(r"^tdpfast_(module|room)\(([^)]*)\)", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE):
        words = line[1].split()
        out += [words[-1]] if line[0] == "module" else [f"{words[0]}.{word}" for word in words[1:]]
    return out


def cimports(path):
    """Modules of tdpfast that a native file cimports, its own header apart."""
    found = set(re.findall(r"^\s*from tdpfast\.([\w.]+) cimport", path.read_text(), re.MULTILINE))
    return found - {module_of(path)}


def python_imports(path):
    """Modules of tdpfast that a file imports at run time."""
    text = path.read_text()
    if path.suffix == ".py":
        found = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tdpfast":
                inner = node.module.split(".")[1:]
                found |= {".".join(inner)} if inner else {alias.name for alias in node.names}
                found |= {".".join([*inner, alias.name]) for alias in node.names} if inner else set()
            elif isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("tdpfast.")}
        return found
    return set(re.findall(r"^\s*(?:from|import) tdpfast\.([\w.]+)(?! cimport)\b(?:$| import| +#)", text, re.MULTILINE))


def room(module):
    return module.split(".")[0]


@pytest.mark.parametrize("path", natives(), ids=module_of)
def test_no_arrow_against_the_order(path):
    own = room(module_of(path))
    for other in cimports(path):
        assert room(other) == own or room(other) in BELOW[own], f"{module_of(path)} cimports {other}"


def test_modules_are_listed_in_the_direction_of_import():
    order = built()
    place = {module: i for i, module in enumerate(order)}
    for path in natives():
        module = module_of(path)
        for other in cimports(path):
            if module in place and other in place:
                assert place[other] < place[module], f"{module} cimports {other}, which is listed after it"


def test_every_native_file_is_built_and_used():
    modules = {module_of(path) for path in natives() if path.suffix == ".pyx"}
    assert set(built()) == modules and len(built()) == len(modules)
    used = set()
    for path in natives():
        used |= cimports(path) | python_imports(path)
    for top in (PACKAGE, ROOT / "tests", ROOT / "bench"):
        for path in top.rglob("*.py"):
            used |= python_imports(path)
    headers = {module_of(path) for path in natives() if path.suffix == ".pxd"}
    assert modules | headers <= used, sorted((modules | headers) - used)


def cycles(edges):
    """A list of modules that lead back to the first of them; empty without one."""
    done, path = set(), []

    def visit(node):
        if node in path:
            return path[path.index(node):] + [node]
        if node in done:
            return []
        path.append(node)
        for other in sorted(edges.get(node, ())):
            found = visit(other)
            if found:
                return found
        done.add(path.pop())
        return []

    for start in sorted(edges):
        found = visit(start)
        if found:
            return found
    return []


def test_no_cycle_of_native_modules():
    edges = {}
    for path in natives():
        edges.setdefault(module_of(path), set()).update(cimports(path))
    assert cycles(edges) == []
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}}), "a cycle would be seen"


def test_native_modules_take_little_from_python():
    for path in natives():
        for other in python_imports(path):
            own = room(module_of(path))
            native = other.startswith("_") and other != "_arguments"
            assert other in PYTHON_BELOW or (native and (room(other) == own or room(other) in BELOW[own])), (
                f"{module_of(path)} imports {other}")


def toplevel(path):
    """Modules that a Python file imports when it is imported itself."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tdpfast":
            inner = ".".join(node.module.split(".")[1:])
            found |= {f"{inner}.{alias.name}" if inner else alias.name for alias in node.names} | {inner}
    return found - {""}


def test_no_cycle_of_python_modules():
    """Imports at the head of a file; within a function is where a cycle would be broken, and there are few."""
    edges = {}
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    for name, path in names.items():
        edges[name] = {other for other in toplevel(path) if other in names and other != name}
    edges.pop("", None)
    for name in list(edges):
        # A package's __init__ may gather its own modules; they may not look back at it.
        edges[name] = {other for other in edges[name] if not name.startswith(other + ".")} - {""}
    assert cycles(edges) == []
