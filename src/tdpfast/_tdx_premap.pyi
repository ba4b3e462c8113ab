# For other native modules only: see _tdx_premap.pxd.
