# For other native modules only: see _seam_record.pxd.
