# For other native modules only: see _explore_search.pxd.
