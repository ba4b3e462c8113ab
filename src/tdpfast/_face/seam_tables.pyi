STATUSES: dict[str, tuple[int, str]]
OPERAND_IDS: dict[str, int]
LEAF_NUMBERS: dict[str, int]
PAGE_TYPES: dict[str, int]
LIFECYCLE: dict[str, int]
OP_STATES: dict[str, int]
OP_STATE_SETS: dict[str, int]
ENTRY_BITS: dict[str, int]
FREE_ENTRY: int

def sept_facts(entry: int) -> dict | None: ...
def leaf_row(number: int) -> dict | None: ...
def tdcall_row(number: int) -> dict | None: ...
