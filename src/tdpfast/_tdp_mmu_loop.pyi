# For other native modules only: see _tdp_mmu_loop.pxd.
