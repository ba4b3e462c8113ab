# For other native modules only: see _ops_record.pxd.
