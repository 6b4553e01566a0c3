/* normflow: where the time of a device went. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* A table of TIMES, of nf_ops_end_profile(), under WHAT; commands that take less than a two-hundredth of all
 * together, in one line. SECONDS is what passed meanwhile, 0 if nobody asked. */
void nf_profile_print (const char *what, GPtrArray *times, double seconds);

G_END_DECLS
