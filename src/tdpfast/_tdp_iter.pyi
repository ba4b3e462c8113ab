# For other native modules only: see _tdp_iter.pxd.
