"""What all tests share."""

import multiprocessing
import os

if "libasan" in os.environ.get("LD_PRELOAD", ""):
    # A child forked while another thread allocates would wait for the address sanitizer's lock for ever.
    multiprocessing.set_start_method("spawn")
