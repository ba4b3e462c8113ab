"""VM files: a VM and operations on it, as JSON or TOML.

    [vm]                                  # arguments of tdpfast.Vm
    design = "v7.3"

    [[ops]]                               # operations of Vm.run(), in order
    op = "map"
    gfn = 0x600
    pfn = 0x100600
    private = 1

With ``module = 1`` it is a TD on an emulated module: the arguments of `tdpfast.TdVm`, and a TD's operations too.

JSON is the same with ``{"vm": {...}, "ops": [...]}``; ``setup`` is another name of ``ops``. Numbers may also be
strings like "0x600".
"""

from __future__ import annotations

import inspect
import json
import tomllib
from dataclasses import dataclass, field, fields
from typing import Any

from tdpfast._arguments import check_bool, check_shape, one_of, shown
from tdpfast._read import load_json, read_text
from tdpfast.errors import UsageError
from tdpfast.memslot import Memslot
from tdpfast.td import TdVm
from tdpfast.vm import Vm

VM_ARGUMENTS = tuple(name for name in inspect.signature(Vm).parameters if name != "hooks")
TD_ARGUMENTS = tuple(name for name in inspect.signature(TdVm).parameters if name != "hooks")


@dataclass(frozen=True)
class VmFile:
    """What a VM file says."""

    vm: dict[str, Any] = field(default_factory=dict)
    """Arguments of Vm, or of TdVm with module = 1."""
    ops: list[dict[str, Any]] = field(default_factory=list)

    def make_vm(self, **arguments: Any) -> Vm:
        """The VM; ``arguments`` go before the file's."""
        values = self.vm | arguments
        if "memslot" in values:
            values["memslot"] = _memslot(values["memslot"])
        if isinstance(values.get("memslots"), list):
            values["memslots"] = tuple(_memslot(value) for value in values["memslots"])
        for name, value in values.items():
            if isinstance(value, (list, dict, float)):
                raise UsageError(f"vm.{name} is {shown(value)}", "not a value of that argument", "see tdpfast.Vm")
        values.pop("module", None)
        return TdVm(**values) if self.on_module else Vm(**values)

    @property
    def on_module(self) -> bool:
        """Whether it is a TD on a module."""
        return check_bool("vm.module", self.vm.get("module", False))

    def script(self, *lines: str) -> str:
        """The Python program that does the same, then ``lines``."""
        arguments = [f"{name}=Memslot(**{value!r})" if name == "memslot" else
                     f"{name}=[{', '.join(f'Memslot(**{slot!r})' for slot in value)}]" if name == "memslots" else
                     f"{name}={value!r}" for name, value in self.vm.items() if name != "module"]
        kind = "TdVm" if self.on_module else "Vm"
        names = f"Memslot, {kind}" if {"memslot", "memslots"} & set(self.vm) else kind
        ops = [f"vm.run({op!r})" for op in self.ops]
        return "\n".join([f"from tdpfast import {names}", "", f"vm = {kind}({', '.join(arguments)})", *ops, *lines])


def _memslot(value: Any) -> Memslot:
    known = [f.name for f in fields(Memslot)]
    if not isinstance(value, dict) or not set(value) <= set(known):
        raise UsageError(f"vm.memslot is {shown(value)}", "not a memslot", "a table of " + ", ".join(known))
    return Memslot(**value)


def read_vm_file(path: str) -> VmFile:
    """A VM file; "-" is standard input. UsageError names what is wrong with it."""
    text = read_text(path, "an existing, readable JSON or TOML file")
    return parse_vm_file(text, "standard input" if path == "-" else path)


def parse_vm_file(text: str, name: str) -> VmFile:
    """The text of a VM file: JSON if it begins with a brace, else TOML."""
    try:
        document = load_json(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{name}: malformed", str(error), "JSON or TOML with vm and ops") from None
    except (RecursionError, ValueError) as error:
        raise UsageError(f"{name}: malformed", str(error), "a file of ordinary size and depth") from None
    check_shape(name, document)
    unknown = set(document) - {"vm", "ops", "setup", "name"}
    if unknown:
        raise UsageError(f"{name}: unknown key {min(unknown)!r}", "not part of a VM file", one_of(("vm", "ops")))
    if {"ops", "setup"} <= set(document):
        raise UsageError(f"{name}: both ops and setup", "they are two names of one list", "ops")
    if not {"vm", "ops", "setup"} & set(document):
        raise UsageError(f"{name} is empty", "it holds neither vm nor ops", "a vm or ops, see tdpfast.vmfile")
    vm, ops = document.get("vm", {}), document.get("ops", document.get("setup", []))
    if not isinstance(vm, dict) or not isinstance(ops, list) or not all(isinstance(op, dict) for op in ops):
        raise UsageError(f"{name}: malformed", "vm is a table, ops is a list of tables", "see tdpfast.vmfile")
    content = VmFile(vm, ops)
    kind, known = ("TdVm", TD_ARGUMENTS) if content.on_module else ("Vm", (*VM_ARGUMENTS, "module"))
    for key in vm:
        if key not in known:
            raise UsageError(f"{name}: unknown argument vm.{key}", f"{kind} has no such argument", one_of(known))
    return content
