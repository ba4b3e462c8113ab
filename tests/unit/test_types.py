"""What the public modules offer is annotated: every argument and every result of every function and method."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "tdpfast"


def public(path):
    """Not a module or package of its own with an underscore, nor the command line, whose arguments click checks."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] != "cli" and not any(part.startswith("_") for part in parts if part != "__init__.py")


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if public(path))
STUBS = sorted(PACKAGE.rglob("*.pyi"))


def functions(body, owner=""):
    """(name, node, whether it is a method) of the public functions and of the public classes' public methods."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from functions(node.body, node.name + ".")
        elif isinstance(node, ast.FunctionDef):
            special = node.name.startswith("__") and node.name.endswith("__")
            if special or not node.name.startswith("_"):
                yield owner + node.name, node, bool(owner)


def missing(node, method):
    """Names of what a function leaves unsaid; "return" is its result."""
    arguments = node.args
    taken = [*arguments.posonlyargs, *arguments.args]
    if method and not any(getattr(d, "id", "") == "staticmethod" for d in node.decorator_list):
        taken = taken[1:]
    taken += [*arguments.kwonlyargs, *filter(None, (arguments.vararg, arguments.kwarg))]
    unsaid = [argument.arg for argument in taken if argument.annotation is None]
    return unsaid + (["return"] if node.returns is None and node.name != "__init__" else [])


@pytest.mark.parametrize("path", MODULES + STUBS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_everything_public_is_annotated(path):
    found = {name: missing(node, method) for name, node, method in functions(ast.parse(path.read_text()).body)}
    assert {name: what for name, what in found.items() if what} == {}


def test_what_is_not_annotated_would_be_seen():
    text = "class A:\n def f(self, x, *, y: int): ...\ndef g(a: int, *more) -> int: ...\ndef _h(x): ...\n"
    found = {name: missing(node, method) for name, node, method in functions(ast.parse(text).body)}
    assert found == {"A.f": ["x", "return"], "g": ["more"]}
