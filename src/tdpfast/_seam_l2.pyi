# For other native modules only: see _seam_l2.pxd.
