# For other native modules only: see _checks.pxd.
