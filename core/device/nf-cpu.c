/* normflow: the processor that this runs on. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-cpu.h"

#include <stdio.h>
#include <string.h>

/* The value of the first among LINES whose name is NAME, "" if there is none. */
static const char *
find_value (char **lines, const char *name)
{
  for (; *lines; lines++)
    if (g_str_has_prefix (*lines, name))
      {
        char *colon = strchr (*lines, ':');
        if (colon)
          return g_strstrip (colon + 1);
      }
  return "";
}

#define GROUPS "/sys/fs/cgroup"

/* The smallest share that the control groups of this process have, in processors; G_MAXUINT if there is none.
 */
static guint
read_share (void)
{
  guint share = G_MAXUINT;
  g_autofree char *text = NULL;
  if (!g_file_get_contents ("/proc/self/cgroup", &text, NULL, NULL))
    return share;
  g_auto (GStrv) lines = g_strsplit (text, "\n", -1);
  for (char **line = lines; *line; line++)
    {
      if (!g_str_has_prefix (*line, "0::/"))
        continue;
      g_autofree char *path = g_strdup (*line + strlen ("0::"));
      for (char *slash = path + strlen (path); slash; slash = strrchr (path, '/'))
        {
          *slash = '\0';
          g_autofree char *file = g_strconcat (GROUPS, path, "/cpu.max", NULL), *most = NULL;
          guint64 quota, period;
          if (g_file_get_contents (file, &most, NULL, NULL)
              && sscanf (most, "%" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT, &quota, &period) == 2
              && period > 0)
            share = (guint)MIN (share, MAX ((quota + period - 1) / period, 1));
        }
      break;
    }
  return share;
}

NfCpu *
nf_cpu_read (void)
{
  NfCpu *cpu = g_new0 (NfCpu, 1);
  g_autofree char *text = NULL;
  if (!g_file_get_contents ("/proc/cpuinfo", &text, NULL, NULL))
    text = g_strdup ("");
  g_auto (GStrv) lines = g_strsplit (text, "\n", -1);
  cpu->maker = g_strdup (find_value (lines, "vendor_id"));
  const char *flags = find_value (lines, "flags");
  cpu->flags = g_strsplit (*flags ? flags : find_value (lines, "Features"), " ", -1);
  cpu->count = MIN (g_get_num_processors (), read_share ());
  return cpu;
}

void
nf_cpu_free (NfCpu *cpu)
{
  g_free (cpu->maker);
  g_strfreev (cpu->flags);
  g_free (cpu);
}

gboolean
nf_cpu_has (const NfCpu *cpu, const char *flag)
{
  return g_strv_contains ((const char *const *)cpu->flags, flag);
}
