"""What Python imports of a native module has a stub, and the stub names what the module has."""

import ast
import importlib
import re
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "tdpfast"
STUBS = sorted(PACKAGE.rglob("*.pyi"))


def module_name(path):
    return ".".join(("tdpfast", *path.relative_to(PACKAGE).with_suffix("").parts))


def source_of(path):
    beside = path.with_suffix(".pyx")
    return beside if beside.exists() else PACKAGE.parent / beside.name


def names(body):
    """Name -> node of what a stub's module or class defines."""
    found = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign):
            found[node.target.id] = node
        elif isinstance(node, ast.Assign):
            found[node.targets[0].id] = node
    return found


def own(path):
    """Public names that the source of a native module defines for Python."""
    module = importlib.import_module(module_name(path))
    return {found for found in re.findall(r"^(?:def |cpdef \w+ |cdef class |class )?([A-Za-z]\w*)(?: = |\(|:| *\()",
                                          source_of(path).read_text(), re.MULTILINE)
            if found in vars(module)}


@pytest.mark.parametrize("path", STUBS, ids=module_name)
def test_stub(path):
    module = importlib.import_module(module_name(path))
    assert module.__file__.endswith(tuple(EXTENSION_SUFFIXES))
    defined = names(ast.parse(path.read_text()).body)
    assert all(hasattr(module, n) for n in defined if not n.startswith("_")), "the stub names what the module lacks"
    assert own(path) <= set(defined), "the module has what its stub does not name"
    for n, node in defined.items():
        if isinstance(node, ast.ClassDef):
            cls, inside = getattr(module, n), names(node.body)
            assert all(hasattr(cls, k) for k in inside if k not in ("__init__", "__buffer__")), n
            assert {k for k in vars(cls) if not k.startswith("_")} <= set(inside), n


def test_what_python_imports_has_a_stub():
    imported = set()
    for top in ("src", "tests", "bench"):
        for path in (ROOT / top).rglob("*.py"):
            text = path.read_text()
            imported |= set(re.findall(r"from tdpfast\.(_\w+\.\w+|_names|_spte) import", text))
            for found, room in re.findall(r"from tdpfast\.(_\w+) import (\w+)", text):
                imported |= {f"{found}.{room}"}
    native = {".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.pyx")} | {"_spte"}
    stubs = {module_name(path).removeprefix("tdpfast.") for path in STUBS}
    assert imported & native <= stubs
    assert stubs <= native


def test_stub_of_names_is_written_from_its_header():
    space = {"__file__": str(ROOT / "tools" / "names_stub.py"), "__name__": "names_stub"}
    exec((ROOT / "tools" / "names_stub.py").read_text(), space)
    assert space["stub"](space["HEADER"].read_text()) == (PACKAGE / "_names.pyi").read_text()
