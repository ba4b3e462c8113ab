"""tdpfast walk: run operations on a VM and show the way to a gfn."""
from __future__ import annotations

import json
from itertools import zip_longest
from typing import Any

import click

from tdpfast._write import check_place, write_whole
from tdpfast.errors import UsageError, VmEnded
from tdpfast.td import TdVm
from tdpfast.timeline import timeline
from tdpfast.trace import TRACE_HEADER, trace_lines
from tdpfast.vm import Vm
from tdpfast.vmfile import VmFile, read_vm_file
from tdpfast.walk import Entry


class Number(click.ParamType):
    """A gfn: decimal, or hexadecimal with 0x."""

    name = "gfn"

    def convert(self, value, param, ctx):
        try:
            return int(value, 0)
        except ValueError:
            raise UsageError(f"bad gfn {value!r}", "not a number", "hexadecimal with 0x, or decimal") from None


@click.command("walk")
@click.argument("file")
@click.argument("gfns", nargs=-1, type=Number(), metavar="[GFN]...")
@click.option("--shared", is_flag=True, help="Walk a TD's direct root, not its mirror.")
@click.option("--dump", is_flag=True, help="Show every entry of every root.")
@click.option("--events", is_flag=True, help="Show what happened as tracefs does; tdpfast_* lines are ours.")
@click.option("--perfetto", metavar="FILE", help="Write what happened as JSON for Perfetto and Chrome into FILE.")
@click.option("--stats", is_flag=True, help="Show the statistics by their debugfs names.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--python", "as_python", is_flag=True, help="Print the Python program that does the same.")
def command(file, gfns, shared, dump, events, perfetto, stats, as_json, as_python):
    """Run the operations of FILE (JSON or TOML with vm and ops; - is standard input) on a VM, then show the way
    from the root to each GFN; of a TD on a module (module = 1 in vm) in the mirror, then in the S-EPT.

    Exit code 1: an operation ended the VM (BUG() or a livelock); what is shown is the state it left.
    """
    content = read_vm_file(file)
    if not (gfns or dump or events or stats or perfetto):
        raise UsageError("nothing to show", "no GFN and no option", "a GFN, --dump, --events, --perfetto or --stats")
    if perfetto is not None:
        if as_python:
            raise UsageError("--perfetto with --python", "nothing is run", "one of them")
        check_place(perfetto)
    if as_python:
        click.echo(script(content, gfns, shared, dump, events, stats))
        return 0
    vm = content.make_vm(trace="all")
    ended = run_ops(vm, content.ops)
    if perfetto is not None:
        write_whole(perfetto, timeline(vm.records()))
    private = vm.tdx and not shared
    shown: dict[str, Any] = {}
    if events:
        shown["events"] = list(trace_lines(vm.records()))
    if gfns:
        shown["walks"] = [vm.walk(gfn, private=private) for gfn in gfns]
        if isinstance(vm, TdVm) and private:
            shown["sept"] = [vm.sept_walk(gfn) for gfn in gfns]
    if dump:
        shown["dump"] = vm.dump().splitlines()
    if stats:
        shown["stats"] = vm.stats
    if shown or as_json:
        click.echo(as_object(shown, ended) if as_json else as_text(shown))
    if ended is not None:
        click.echo(f"warning: {ended}", err=True)
    return 0 if ended is None else 1


def run_ops(vm: Vm, ops: list[dict[str, Any]]) -> VmEnded | None:
    """Runs the operations; what ended the VM, or None. UsageError names the operation."""
    for i, op in enumerate(ops):
        try:
            vm.run(op)
        except VmEnded as ended:
            return ended
        except UsageError as error:
            raise UsageError(f"op {i}: {error.what}", error.why, error.fix) from error
    return None


def as_text(shown: dict[str, Any]) -> str:
    """Sections separated by an empty line."""
    sections = []
    if "events" in shown:
        sections.append("\n".join([TRACE_HEADER, *shown["events"]]))
    walks, sept = shown.get("walks", ()), shown.get("sept", ())
    sections += [str(walk) for pair in zip_longest(walks, sept) for walk in pair if walk is not None]
    if "dump" in shown:
        sections.append("\n".join(shown["dump"]))
    if "stats" in shown:
        sections.append("\n".join(f"{name} {value}" for name, value in shown["stats"].items()))
    return "\n\n".join(sections)


def as_object(shown: dict[str, Any], ended: VmEnded | None) -> str:
    """One JSON object with the same sections."""
    out = dict(shown)
    if "walks" in out:
        out["walks"] = [{"gfn": walk.gfn, "private": walk.private, "root": walk.root.root_number, "pfn": walk.pfn,
                         "entries": [entry_object(entry) for entry in walk.entries]} for walk in out["walks"]]
    if "sept" in out:
        out["sept"] = [{"gfn": walk.gfn, "entries": [e._asdict() | {"entry": hex(e.entry), "hpa": hex(e.hpa)}
                                                     for e in walk.entries]} for walk in out["sept"]]
    out["ended"] = None if ended is None else ended.why
    return json.dumps(out)


def entry_object(entry: Entry) -> dict[str, Any]:
    """An entry with its numbers as kernel tools write them."""
    return {"level": entry.level, "index": entry.index, "gfn": entry.gfn, "spte": hex(entry.spte),
            "kind": entry.kind, "physical": None if entry.physical is None else hex(entry.physical),
            "flags": list(entry.flags)}


def script(content: VmFile, gfns: tuple[int, ...], shared: bool, dump: bool, events: bool, stats: bool) -> str:
    """The Python program that does what the command line does."""
    tdx = content.vm.get("tdx", True)
    private = bool(tdx) and not shared
    lines = ["print(*trace_lines(vm.records()), sep='\\n')"] if events else []
    sept = content.on_module and private
    lines += [line for gfn in gfns for line in
              [f"print(vm.walk({gfn:#x}, private={private}))"] + [f"print(vm.sept_walk({gfn:#x}))"] * sept]
    lines += ["print(vm.dump())"] if dump else []
    lines += ["print(vm.stats)"] if stats else []
    shown = VmFile(content.vm | {"trace": "all"}, content.ops) if events else content
    text = shown.script(*lines)
    return f"from tdpfast.trace import trace_lines\n{text}" if events else text


