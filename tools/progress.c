/* normflow: progress on a terminal or in a log. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "progress.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define TERMINAL_INTERVAL (G_USEC_PER_SEC / 5)
#define LOG_INTERVAL (30 * G_USEC_PER_SEC)

struct _NfProgress
{
  gboolean quiet;
  gboolean terminal;
  gboolean drawn;
  gint64 next;
};

NfProgress *
nf_progress_new (gboolean quiet)
{
  NfProgress *self = g_new0 (NfProgress, 1);
  const char *term = g_getenv ("TERM");

  self->quiet = quiet;
  self->terminal = isatty (STDERR_FILENO) && g_strcmp0 (term, "dumb") != 0;
  /* What ends within half a second needs no line, and a log none in its first interval. */
  self->next = g_get_monotonic_time () + (self->terminal ? G_USEC_PER_SEC / 2 : LOG_INTERVAL);
  return self;
}

void
nf_progress_free (NfProgress *self)
{
  if (!self)
    return;
  nf_progress_clear (self);
  g_free (self);
}

gboolean
nf_progress_due (NfProgress *self)
{
  return !self->quiet && g_get_monotonic_time () >= self->next;
}

void
nf_progress_clear (NfProgress *self)
{
  if (self->drawn)
    {
      fputs ("\r\033[K", stderr);
      fflush (stderr);
    }
  self->drawn = FALSE;
}

void
nf_progress_update (NfProgress *self, const char *format, ...)
{
  g_autofree char *line = NULL;
  va_list args;

  if (!nf_progress_due (self))
    return;
  va_start (args, format);
  line = g_strdup_vprintf (format, args);
  va_end (args);

  if (self->terminal)
    {
      struct winsize size = { 0 };
      glong columns = 80;

      if (ioctl (STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1)
        columns = size.ws_col;
      /* A line that wraps could not be redrawn. */
      if (g_utf8_validate (line, -1, NULL) && g_utf8_strlen (line, -1) >= columns)
        *g_utf8_offset_to_pointer (line, columns - 1) = '\0';
      fprintf (stderr, "\r\033[K%s", line);
      self->drawn = TRUE;
    }
  else
    fprintf (stderr, "%s\n", line);
  fflush (stderr);
  self->next = g_get_monotonic_time () + (self->terminal ? TERMINAL_INTERVAL : LOG_INTERVAL);
}

void
nf_progress_note (NfProgress *self, const char *format, ...)
{
  g_autofree char *line = NULL;
  va_list args;

  va_start (args, format);
  line = g_strdup_vprintf (format, args);
  va_end (args);
  nf_progress_clear (self);
  fprintf (stderr, "%s\n", line);
  fflush (stderr);
}

void
nf_progress_model (const char *phase, double fraction, gpointer data)
{
  nf_progress_update (data, "%s %3.0f %%", phase, 100 * fraction);
}

char *
nf_progress_duration (double seconds)
{
  guint64 s;

  if (!(seconds >= 0) || seconds > 1e9)
    return g_strdup ("?");
  s = (guint64)llround (seconds);
  if (s >= 3600)
    return g_strdup_printf ("%" G_GUINT64_FORMAT ":%02u:%02u", s / 3600, (guint)(s / 60 % 60),
                            (guint)(s % 60));
  return g_strdup_printf ("%u:%02u", (guint)(s / 60), (guint)(s % 60));
}
