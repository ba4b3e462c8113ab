# For other native modules only: see _arena.pxd.
