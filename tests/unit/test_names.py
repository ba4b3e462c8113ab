"""Names and numbers that Python and native code share are written once, in _names.pxd; what is derived agrees."""

import dataclasses

import pytest

from tdpfast import _names as names
from tdpfast._face.td import tdx_knobs
from tdpfast._face.vm import OP_NAMES, mmu_knobs
from tdpfast.checks import MEANING, NAMES, WEIGHT
from tdpfast.design import Design
from tdpfast.events import EVENT_KINDS
from tdpfast.ops import OPS
from tdpfast.seam import LEAVES, LOCKS
from tdpfast.vcpu import RetPf

ENUMS = [getattr(names, name) for name in vars(names) if isinstance(vars(names)[name], type)]


@pytest.mark.parametrize("enum", ENUMS, ids=lambda enum: enum.__name__)
def test_numbers_of_one_kind_are_distinct(enum):
    numbers = [int(value) for value in enum.__members__.values()]
    assert len(numbers) == len(set(numbers)) and numbers


def test_every_operation_has_its_fields_and_every_check_its_meaning():
    assert tuple(OPS) == OP_NAMES
    assert tuple(NAMES) == tuple(MEANING) and set(WEIGHT) == set(NAMES)
    assert [1 << i for i in range(len(NAMES))] == [int(bit) for bit in names.Check.__members__.values()]


def test_a_knob_is_a_field_of_design_and_a_line_of_one_struct():
    fields = [field.name for field in dataclasses.fields(Design) if field.name not in ("name", "code")]
    assert sorted(fields) == sorted(mmu_knobs() + tdx_knobs())


def test_public_enums_are_the_cores():
    assert {member.name: int(member) for member in RetPf} == {
        name: int(value) for name, value in names.RetPf.__members__.items()}
    assert LEAVES["mem_page_aug"] == 6 and LOCKS["tdr"] == 1 and EVENT_KINDS[0] == "chg"
