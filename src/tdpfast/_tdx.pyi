# For other native modules only: see _tdx.pxd.
