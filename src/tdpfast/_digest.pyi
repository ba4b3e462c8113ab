# For other native modules only: see _digest.pxd.
