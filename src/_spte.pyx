# cython: language_level=3
"""spte.c: SPTE layouts, constants, predicates and constructors."""
