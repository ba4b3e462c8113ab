# For other native modules only: see _fast_pf.pxd.
