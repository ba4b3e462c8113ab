# cython: language_level=3
"""The shared names for Python: an enum for each of _names.pxd (see there)."""
