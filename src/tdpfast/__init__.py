"""tdpfast: KVM's x86 TDP MMU for TDX guests, emulated."""

from tdpfast.design import PRESETS, Design, get_design
from tdpfast.errors import TdpfastError, UsageError, VmEnded
from tdpfast.spte import SpteConfig
from tdpfast.td import TdVcpu, TdVm
from tdpfast.vm import MapResult, Memslot, RetPf, Vcpu, Vm

__all__ = ["PRESETS", "Design", "MapResult", "Memslot", "RetPf", "SpteConfig", "TdVcpu", "TdVm",
           "TdpfastError", "UsageError", "Vcpu", "Vm", "VmEnded", "get_design"]
