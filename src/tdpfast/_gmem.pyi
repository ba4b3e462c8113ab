# For other native modules only: see _gmem.pxd.
