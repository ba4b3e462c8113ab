"""Every native module has a stub, and the stub names what the module has."""

import ast
import importlib
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


def public(thing):
    """Public names a module or class defines itself, without what it imports."""
    module = getattr(thing, "__module__", None) or thing.__name__
    return {n for n, v in vars(thing).items() if not n.startswith("_")
            and getattr(v, "__module__", module) in (module, None)}


@pytest.mark.parametrize("name", MODULES)
def test_stub(name):
    module = importlib.import_module(f"tdpfast.{name}")
    assert module.__file__.endswith(tuple(EXTENSION_SUFFIXES))
    defined = names(stub(name).body)
    assert all(hasattr(module, n) for n in defined), "the stub names what the module lacks"
    own = {n for n in public(module) if not type(vars(module)[n]).__name__ == "module"}
    imported = {n for n in own if getattr(vars(module)[n], "__module__", f"tdpfast.{name}") != f"tdpfast.{name}"}
    assert own - imported <= set(defined), "the module has what its stub does not name"
    for n, node in defined.items():
        if isinstance(node, ast.ClassDef):
            cls, inside = getattr(module, n), names(node.body)
            assert all(hasattr(cls, k) for k in inside if k != "__init__" and not isinstance(inside[k], ast.AnnAssign))
            assert {k for k in vars(cls) if not k.startswith("_")} <= set(inside), n
