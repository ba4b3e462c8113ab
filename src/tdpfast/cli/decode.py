"""tdpfast decode: the fields of a page table entry."""
from __future__ import annotations

import json

import click

from tdpfast.errors import UsageError
from tdpfast.show import FLAGS, LEVELS, MEMTYPES, fields_of, kind_of
from tdpfast.spte import LAYOUTS, MMUS, SpteConfig

AD_TYPES = ("enabled", "disabled", "write-protect only", "invalid")


@click.group("decode")
def command():
    """Show the fields of a page table entry."""


@command.command("spte")
@click.argument("value")
@click.option("--level", type=click.IntRange(1, 5), required=True, metavar="1-5",
              help="PG_LEVEL of the entry: 1 is 4K.")
@click.option("--layout", type=click.Choice(list(LAYOUTS)), default="7.3", show_default=True)
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
    physical = fields.get("physical", "-").removeprefix("0x")
    words = [fields["kind"].upper()]
    words += [name.upper() for name in FLAGS if fields.get(name)]
    if "memtype" in fields:
        words.append(fields["memtype"])
    value = fields["spte"].removeprefix("0x")
    lines = [f"{'SPTE':^16}  {'PHYSICAL':^13}  FLAGS",
             f"{value:>16}  {physical:>13}  ({'|'.join(words)})", ""]
    width = max(map(len, fields))
    lines += [f"  {name:<{width}}  {_show(value)}" for name, value in fields.items()]
    return "\n".join(lines)


def _show(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _number(name: str, text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        raise UsageError(f"bad {name} {text!r}", "not a number", "hexadecimal with 0x, or decimal") from None
    if not 0 <= value < 1 << 64:
        raise UsageError(f"bad {name} {text}", "an SPTE has 64 bits", "0..0xffffffffffffffff")
    return value
