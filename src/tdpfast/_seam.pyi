# For other native modules only: see _seam.pxd.
