# For other native modules only: see _sync.pxd.
