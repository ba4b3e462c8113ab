# For other native modules only: see _ops.pxd.
