"""An operation that cannot do anything is refused when the scenario is made: each operation, each way to do nothing."""

import pytest

from tdpfast._testing.generate import Generator
from tdpfast.errors import UsageError
from tdpfast.ops import OPS
from tdpfast.scenario import INSIDE, parse

PAGE = {"op": "map", "gfn": 0x205, "pfn": 0x140205}


def scenario(op, **more):
    """One with this operation, on a vCPU that is in the guest."""
    setup = [{"op": "vp_enter", "vcpu": op.get("vcpu", 0) % 2}] if op["op"] in INSIDE else []
    return parse({"name": "one", "setup": setup, "thread": [{"ops": [op]}], **more}, "here")


def valid(name):
    """An operation of that name that can do something, with all fields that say what it is about."""
    for seed in range(200):
        op = Generator(seed).operation(name, 0)
        if "filter" in OPS[name].fields:
            op["filter"] = 3
        try:
            scenario(op)
        except UsageError:
            continue
        return op
    raise AssertionError(f"no operation {name} in 200 tries")


def variants(name):
    """(what is wrong, an operation that cannot do anything)."""
    op, fields = valid(name), OPS[name].fields
    for key in OPS[name].needed:
        yield f"without {key}", {k: v for k, v in op.items() if k != key and k != "noslot"}
    if "start" in fields:
        yield "an empty range", {**op, "start": op["start"], "end": op["start"]}
        yield "a range beyond the guest", {**op, "start": 1 << 35, "end": (1 << 35) + 1}
    if "gfn" in fields:
        yield "a gfn beyond the guest", {**op, "gfn": 1 << 35}
    if "gpa" in fields:
        yield "a gpa beyond the guest", {**op, "gpa": 1 << 48}
    if "vcpu" in fields:
        yield "a vCPU that is not there", {**op, "vcpu": 6}
    if "pfn" in fields:
        private = {"private": 1} if "private" in fields else {}
        yield "a pfn beyond the module's memory", {**op, **private, "pfn": 0x50, "gfn": op.get("gfn", 0), "noslot": 0} \
            if "noslot" in fields else {**op, **private, "pfn": 0x50}
        yield "a page of the TD itself", {**op, "pfn": 0x100100}
    for key in ("mask", "filter"):
        if key in fields:
            yield f"{key} 0", {**op, key: 0}
    if "slot" in fields:
        yield "a slot that is not there", {**op, "slot": 3}


CASES = [(name, what, op) for name in OPS for what, op in variants(name)]


def test_every_operation_can_be_asked_for():
    for name in OPS:
        assert scenario(valid(name)).threads[0].ops[-1]["op"] == name


@pytest.mark.parametrize("name, what, op", CASES, ids=[f"{name}-{what.replace(' ', '-')}" for name, what, _ in CASES])
def test_refused(name, what, op):
    with pytest.raises(UsageError) as refusal:
        scenario(op)
    told = str(refusal.value)
    assert "here" in told and (name in told or (name == "raw" and "SEAMCALL leaf" in told))


@pytest.mark.parametrize("name", INSIDE)
def test_the_guest_begins_inside(name):
    with pytest.raises(UsageError, match="outside the guest"):
        parse({"name": "out", "thread": [{"ops": [valid(name)]}]}, "here")


@pytest.mark.parametrize("op, what", [
    ({"op": "poke", "gfn": 0x200, "private": 0}, "neither set nor clear"),
])
def test_what_has_nothing_to_do(op, what):
    with pytest.raises(UsageError, match=what):
        parse({"name": "idle", "setup": [PAGE], "thread": [{"ops": [op]}]}, "here")
