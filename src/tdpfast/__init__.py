"""tdpfast: KVM's x86 TDP MMU for TDX guests, emulated."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tdpfast.design import PRESETS, Design, get_design
    from tdpfast.errors import TdpfastError, UsageError, VmEnded
    from tdpfast.spte import SpteConfig
    from tdpfast.td import TdVcpu, TdVm
    from tdpfast.vm import MapResult, Memslot, RetPf, Vcpu, Vm

__all__ = ["PRESETS", "Design", "MapResult", "Memslot", "RetPf", "SpteConfig", "TdVcpu", "TdVm",
           "TdpfastError", "UsageError", "Vcpu", "Vm", "VmEnded", "get_design"]

# Imported when it is asked for: the command has to know what to do with a Ctrl-C before anything else.
_HOME = {"PRESETS": "design", "Design": "design", "get_design": "design", "TdpfastError": "errors",
         "UsageError": "errors", "VmEnded": "errors", "SpteConfig": "spte", "TdVcpu": "td", "TdVm": "td",
         "MapResult": "vm", "Memslot": "vm", "RetPf": "vm", "Vcpu": "vm", "Vm": "vm"}
_ROOMS = ("design", "errors", "spte", "td", "vcpu", "vm", "seam", "status", "ops", "walk", "trace", "events")


def __getattr__(name: str) -> object:
    if name in _HOME:
        value = getattr(import_module(f"tdpfast.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in _ROOMS:
        return import_module(f"tdpfast.{name}")
    raise AttributeError(f"module 'tdpfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
