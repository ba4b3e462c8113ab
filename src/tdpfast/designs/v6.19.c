// SPDX-License-Identifier: GPL-2.0-only
/* Linux 6.19: its MMU changes mirror SPTEs as 6.18's does, over another TDX side. */
#define RELEASE "v6.19"
#include "v6.18.c"
