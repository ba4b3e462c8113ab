# For other native modules only: see _watch.pxd.
