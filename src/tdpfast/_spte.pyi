SPTE_WARNS: tuple[tuple[str, str, str], ...]
