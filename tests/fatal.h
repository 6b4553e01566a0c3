/* normflow: what GLib calls fatal ends a test. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdlib.h>

/* With G_DEBUG=fatal-criticals GLib traps, which does not end a process once LLVM, which PoCL compiles with,
 * has taken the signal. */
static void
nf_test_log (const char *domain, GLogLevelFlags level, const char *message, gpointer data)
{
  g_log_default_handler (domain, level, message, data);
  if (level & G_LOG_FLAG_FATAL)
    abort ();
}

static void __attribute__ ((constructor)) nf_test_take_log (void)
{
  g_log_set_default_handler (nf_test_log, NULL);
}
