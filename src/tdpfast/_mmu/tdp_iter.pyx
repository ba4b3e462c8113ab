# cython: language_level=3
"""tdp_iter.c: all of it is inline, see tdp_iter.pxd."""
