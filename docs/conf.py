"""Sphinx: `make docs` builds these pages; a warning is an error."""

from importlib.metadata import version as installed

project = "tdpfast"
author = "The tdpfast authors"
release = version = installed("tdpfast")
extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "KVM's x86 TDP MMU for TDX guests, emulated", "page_width": "72em",
                      "sidebar_width": "15em", "fixed_sidebar": True}
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
