/* normflow: where the time of a device went. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "profile.h"

#include "nf-ops.h"

#include <stdio.h>

#define NAME_WIDTH 40
#define LEAST_PART 0.005

static void
print_line (const char *name, guint64 launches, double seconds, double all)
{
  printf ("%s%*s %8" G_GUINT64_FORMAT " %12.3f ms %8.1f %%\n", name,
          MAX (NAME_WIDTH - (int)g_utf8_strlen (name, -1), 0), "", launches, 1e3 * seconds,
          100 * seconds / MAX (all, 1e-12));
}

void
nf_profile_print (const char *what, GPtrArray *times, double seconds)
{
  NfOpsTime others = { 0 };
  double all = 0;
  guint64 launches = 0;
  guint n_others = 0;

  for (guint i = 0; i < times->len; i++)
    {
      const NfOpsTime *time = times->pdata[i];
      all += time->seconds;
      launches += time->launches;
    }
  printf ("\n%s: %" G_GUINT64_FORMAT " commands, %.3f ms", what, launches, 1e3 * all);
  if (seconds > 0)
    printf (" of %.3f ms", 1e3 * seconds);
  printf ("\n%-*s %8s %15s %10s\n", NAME_WIDTH, "", "LAUNCHES", "TIME", "PART");
  for (guint i = 0; i < times->len; i++)
    {
      const NfOpsTime *time = times->pdata[i];
      if (time->seconds >= LEAST_PART * all)
        {
          print_line (time->name, time->launches, time->seconds, all);
          continue;
        }
      n_others++;
      others.launches += time->launches;
      others.seconds += time->seconds;
    }
  g_autofree char *name = g_strdup_printf ("%u others", n_others);
  if (n_others > 0)
    print_line (name, others.launches, others.seconds, all);
}
