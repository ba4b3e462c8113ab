# For other native modules only: see _tdx_gmem.pxd.
