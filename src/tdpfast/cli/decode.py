"""tdpfast decode: the fields of a page table entry, a module's answer, a replay token."""
from __future__ import annotations

import json

import click

from tdpfast.errors import UsageError
from tdpfast.show import FLAGS, LEVELS, MEMTYPES, fields_of, kind_of
from tdpfast.spte import LAYOUTS, MMUS, SpteConfig
from tdpfast.status import describe_entry, describe_status
from tdpfast.token import Token

AD_TYPES = ("enabled", "disabled", "write-protect only", "invalid")


class Layout(click.Choice):
    """A layout, also by the name of the design that has it."""

    def convert(self, value, param, ctx):
        return super().convert({f"v{name}": name for name in self.choices}.get(value, value), param, ctx)


@click.group("decode")
def command():
    """Show the fields of a page table entry, a SEAMCALL status or a replay token."""


@command.command("spte")
@click.argument("value")
@click.option("--level", type=click.IntRange(1, 5), required=True, metavar="1-5",
              help="PG_LEVEL of the entry: 1 is 4K.")
@click.option("--layout", type=Layout(list(LAYOUTS)), default="7.3", show_default=True,
              help="Also written as the design is called: v6.18.")
@click.option("--mmu", type=click.Choice(list(MMUS)), default="ept_ad", show_default=True)
@click.option("--maxphyaddr", type=click.IntRange(32, 52), default=52, show_default=True)
@click.option("--mmio-value", help="The VM's shadow_mmio_value (a TD has 0).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def decode_spte(value, level, layout, mmu, maxphyaddr, mmio_value, as_json):
    """Show every field of the SPTE VALUE, a number like 0x80a0000100600f77."""
    spte = _number("VALUE", value)
    mmio = None if mmio_value is None else _number("--mmio-value", mmio_value)
    config = SpteConfig(layout=layout, mmu=mmu, maxphyaddr=maxphyaddr)
    fields = describe(config, spte, level, mmio)
    click.echo(json.dumps(fields) if as_json else _text(fields))


@command.command("sept-entry")
@click.argument("value")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def decode_sept_entry(value, as_json):
    """Show every field of the S-EPT entry VALUE, as the TDX module keeps it in memory."""
    fields = describe_entry(_number("VALUE", value, "an S-EPT entry"))
    fields["memtype"] = MEMTYPES.get(fields["memtype"], f"reserved {fields['memtype']}")
    if as_json:
        click.echo(json.dumps(fields))
        return
    words = [fields["state"], *(name.upper() for name, on in fields.items() if on is True)]
    click.echo(_heading("S-EPT ENTRY", fields["entry"], fields.get("hpa", "-"), words))
    click.echo(_rows(fields))


@command.command("seamcall-status")
@click.argument("value")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def decode_seamcall_status(value, as_json):
    """Show every field of the status VALUE, what a SEAMCALL or TDCALL leaves in RAX."""
    fields = describe_status(_number("VALUE", value, "a status"))
    if as_json:
        click.echo(json.dumps(fields))
        return
    click.echo(f"{'STATUS':^16}  NAME\n{fields['status'].removeprefix('0x'):>16}  {_named(fields)}\n")
    click.echo(_rows(fields))


@command.command("token")
@click.argument("token")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def decode_token(token, as_json):
    """Show what a replay TOKEN holds: whose schedule, how it was found, and the schedule as run lengths."""
    parsed = Token.parse(token)
    runs = parsed.runs()
    fields = {"fingerprint": f"{parsed.fingerprint:#018x}", "digest": f"{parsed.digest:#010x}",
              "strategy": parsed.strategy, "seed": parsed.seed, "steps": len(parsed.schedule), "runs": len(runs)}
    if as_json:
        click.echo(json.dumps(fields | {"schedule": runs}))
        return
    click.echo(_rows(fields | {"schedule": " ".join(f"{agent}x{n}" for agent, n in runs) or "-"}))


def describe(config: SpteConfig, spte: int, level: int, mmio_value: int | None = None) -> dict:
    """Every field of one SPTE, in the order in which they are shown."""
    fields = fields_of(config, spte, level, mmio_value)
    shown = {"spte": hex(spte), "layout": config.layout, "mmu": config.mmu, "level": level,
             "size": LEVELS[level], "kind": kind_of(config, spte, fields)}
    if fields["present"]:
        shown["physical"] = hex(fields["pfn"] << 12)
        shown["pfn"] = hex(fields["pfn"])
        shown |= {name: fields[name] for name in FLAGS}
        if config.mmu != "npt":
            shown["memtype"] = MEMTYPES.get(fields["memtype"], f"reserved {fields['memtype']}")
        shown["ad_type"] = AD_TYPES[fields["ad_type"]]
        shown["saved"] = hex(fields["saved"])
        shown["access_tracked"] = config.is_access_track_spte(spte)
        shown["needs_atomic_update"] = config.kvm_tdp_mmu_spte_need_atomic_update(spte, level)
        shown["reserved_bits_set"] = config.is_rsvd_spte(spte, level)
    if fields["mmio"]:
        shown |= {"gfn": hex(fields["gfn"]), "generation": fields["generation"],
                  "access": fields["mmio_access"]}
    shown["other"] = hex(fields["other"])
    return shown


def _text(fields: dict) -> str:
    words = [fields["kind"].upper()]
    words += [name.upper() for name in FLAGS if fields.get(name)]
    if "memtype" in fields:
        words.append(fields["memtype"])
    return _heading("SPTE", fields["spte"], fields.get("physical", "-"), words) + "\n" + _rows(fields)


def _heading(name: str, value: str, physical: str, words: list[str]) -> str:
    """The line crash's vtop prints: entry, address, flags."""
    return (f"{name:^16}  {'PHYSICAL':^13}  FLAGS\n"
            f"{value.removeprefix('0x'):>16}  {physical.removeprefix('0x'):>13}  ({'|'.join(words)})\n")


def _rows(fields: dict) -> str:
    """One field a line."""
    width = max(map(len, fields))
    return "\n".join(f"  {name:<{width}}  {_show(value)}" for name, value in fields.items())


def _named(fields: dict) -> str:
    return f"{fields['name']} ({fields['operand']})" if fields.get("operand") else fields["name"]


def _show(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _number(name: str, text: str, what: str = "an SPTE") -> int:
    try:
        value = int(text, 0)
    except ValueError:
        raise UsageError(f"bad {name} {text!r}", "not a number", "hexadecimal with 0x, or decimal") from None
    if not 0 <= value < 1 << 64:
        raise UsageError(f"bad {name} {text}", f"{what} has 64 bits", "0..0xffffffffffffffff")
    return value
