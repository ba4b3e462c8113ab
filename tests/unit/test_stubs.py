"""Every native module has a stub, and the stub names what the module has."""

import ast
import importlib
import re
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import tdpfast

SOURCE = Path(__file__).parents[2] / "src"
MODULES = sorted(path.stem for path in SOURCE.glob("_*.pyx"))


def stub(name):
    text = (Path(tdpfast.__file__).parent / f"{name}.pyi").read_text()
    return ast.parse(text)


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


def own(name):
    """Public names that the source of a native module defines for Python."""
    text = (SOURCE / f"{name}.pyx").read_text()
    return {found for found in re.findall(r"^(?:def |cpdef \w+ |cdef class |class )?([A-Za-z]\w*)(?: = |\(|:| *\()",
                                          text, re.MULTILINE)
            if found in vars(importlib.import_module(f"tdpfast.{name}"))}


@pytest.mark.parametrize("name", MODULES)
def test_stub(name):
    module = importlib.import_module(f"tdpfast.{name}")
    assert module.__file__.endswith(tuple(EXTENSION_SUFFIXES))
    defined = names(stub(name).body)
    assert all(hasattr(module, n) for n in defined if not n.startswith("_")), "the stub names what the module lacks"
    assert own(name) <= set(defined), "the module has what its stub does not name"
    for n, node in defined.items():
        if isinstance(node, ast.ClassDef):
            cls, inside = getattr(module, n), names(node.body)
            assert all(hasattr(cls, k) for k in inside if k not in ("__init__", "__buffer__")), n
            assert {k for k in vars(cls) if not k.startswith("_")} <= set(inside), n
