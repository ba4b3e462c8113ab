"""How a schedule ended: a line for each check that is violated, with both sides, who did it and when."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tdpfast._explore.explorer import KIND_NAMES
from tdpfast.audit import audit
from tdpfast.checks import MEANING, WEIGHT, names_of
from tdpfast.events import WHOLE
from tdpfast.trace import Record
from tdpfast.words import at, op_text

if TYPE_CHECKING:
    from tdpfast.story import Teller


def endings(teller: Teller, replay: dict) -> list[str]:
    """Lines of what is violated, the check that tells most first."""
    checks = set(names_of(replay["checks"]))
    found: dict[str, list[str]] = {}
    if replay["end"] == "done":
        for difference in audit(teller.program.vm):
            found.setdefault(difference.check, []).append(difference.text)
    if "life" in checks:
        found["life"] = [*lifetimes(teller), *found.get("life", [])]
    for check, asserts in (("lock", ("LOCKDEP",)), ("kernel", ("WARN", "KVM_BUG_ON", "BUG"))):
        found[check] = list(fired(teller, asserts))
    if replay["end"] in ("stuck", "spin"):
        found["progress"] = list(standstill(teller))
    return [f"{check}: {text}" for check in WEIGHT if check in checks
            for text in found.get(check) or [MEANING[check]]]


def who(teller: Teller, cpu: int) -> str:
    """A thread by its number and name; RCU for the one after the last."""
    if cpu >= teller.nthreads:
        return "RCU"
    return f"CPU {cpu} ({teller.scenario.threads[cpu].name})"


def fired(teller: Teller, kinds: tuple[str, ...]) -> Iterator[str]:
    """Assertions of these kinds, each once: who met it, and how it held mmu_lock."""
    held: dict[int, str] = {}
    seen: set[str] = set()
    for record in teller.records:
        f = record.fields
        if record.kind == "step":
            kind = KIND_NAMES[f["kind"]]
            if kind in ("read_lock", "write_lock") and teller.name(f["object"]) == "mmu_lock":
                held[record.cpu] = f"with mmu_lock held for {kind[:-5]}"
            elif kind in ("read_unlock", "write_unlock") and teller.name(f["object"]) == "mmu_lock":
                held.pop(record.cpu, None)
        elif record.kind == "assert" and f["assert"] in kinds:
            name = f"{f['assert']} {f['function']}/{f['id']}"
            if name not in seen:
                seen.add(name)
                how = f" {held.get(record.cpu, 'without mmu_lock')}" if f["assert"] == "LOCKDEP" else ""
                yield f"{name}: {who(teller, record.cpu)}{how}, step {record.step}"


def lifetimes(teller: Teller) -> list[str]:
    """Of every table that was used after it was freed: who freed it, when its grace period ended, who used it, and in
    which read section."""
    queued: dict[tuple[int, int], Record] = {}
    freed: dict[tuple[int, int], Record] = {}
    since: dict[int, int] = {}
    out: dict[tuple[int, int], str] = {}
    for record in teller.records:
        f = record.fields
        if record.kind == "step":
            kind = KIND_NAMES[f["kind"]]
            if kind == "rcu_lock":
                since[record.cpu] = record.step
            elif kind == "rcu_unlock":
                since.pop(record.cpu, None)
            elif kind == "call_rcu":
                page = teller.program.place_of(f["arg"])
                if page and page[0] in teller.tables:
                    _, level, gfn = teller.tables[page[0]]
                    queued[gfn, level] = record
        elif record.kind == "rcu_free":
            freed[f["gfn"], f["level"]] = record
        elif record.kind == "uaf" and (f["gfn"], f["level"]) not in out:
            key = f["gfn"], f["level"]
            out[key] = life_text(teller, key, queued.get(key) or unlinked(teller, key, record.step), freed.get(key),
                                 record, since.get(record.cpu))
        elif record.kind == "rcu_again" and (f["gfn"], f["level"]) not in out:
            key = f["gfn"], f["level"]
            first = queued.get(key)
            out[key] = (f"table {at(*key)}: {who(teller, record.cpu)} gives it to call_rcu() at step {record.step}, "
                        f"though it is {f['state']} already"
                        + (f" ({who(teller, first.cpu)}, step {first.step})" if first else ""))
    return list(out.values())


def unlinked(teller: Teller, key: tuple[int, int], before: int) -> Record | None:
    """The last write that took the table of an entry away; None if nobody did."""
    gfn, level = key
    found = None
    for record in teller.records:
        if record.kind != "step" or record.step > before:
            continue
        entry = teller.entry(record.fields["object"])
        if (entry is not None and entry.side != "sept" and (entry.gfn, entry.level) == (gfn, level + 1)
                and entry.text(record.fields["before"]) == "table" and entry.text(record.fields["after"]) == "NP"):
            found = record
    return found


def life_text(teller: Teller, key: tuple[int, int], queued: Record | None, freed: Record | None, use: Record,
              since: int | None) -> str:
    """One use of a freed table as a sentence."""
    text = f"table {at(*key)}: "
    if queued is not None and KIND_NAMES[queued.fields["kind"]] == "call_rcu":
        text += f"{who(teller, queued.cpu)} gave it to call_rcu() at step {queued.step}, "
    elif queued is not None:
        text += (f"{who(teller, queued.cpu)} took it out of {at(key[0], key[1] + 1)} at step {queued.step} and freed "
                 "it without a grace period, ")
    if freed is not None:
        text += f"its grace period ended at step {freed.step}, "
    what = {"read": "reads", "write": "writes", "cmpxchg": "changes", "header": "looks at the kvm_mmu_page of"}
    text += f"{who(teller, use.cpu)} {what[use.fields['access']]} it at step {use.step}"
    if since is None:
        return f"{text}, outside of any RCU read section"
    text += f", in a read section that began at step {since}"
    if freed is None:
        return text
    return f"{text}, {'after' if since > freed.step else 'before'} that end"


def standstill(teller: Teller) -> Iterator[str]:
    """Who cannot go on, and what each looks at."""
    last: dict[int, Any] = {}
    ended: dict[int, bool] = {}
    for record in teller.records:
        if record.kind == "op" or (record.kind == "op_end" and record.fields["kind"] == WHOLE):
            ended[record.cpu] = record.kind == "op_end"
        elif record.kind == "step" and record.cpu < teller.nthreads:
            last[record.cpu] = record
    for cpu in sorted(last):
        if ended.get(cpu, True):
            continue
        text = f"{who(teller, cpu)} goes round in {op_text(teller.op[cpu])}"
        looked = [entry for (other, entry), value in teller.known.items() if other == cpu and entry in teller.frozen]
        if looked:
            by, over = teller.frozen[looked[-1]]
            done = "which has returned" if ended.get(by, True) else "which is in an operation"
            text += (f": {looked[-1]} is FROZEN by {who(teller, by)}, over {looked[-1].text(over)}, {done}"
                     if by != cpu else f": {looked[-1]} is FROZEN, by itself")
        yield text
