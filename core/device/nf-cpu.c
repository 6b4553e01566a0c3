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

/* Quota and period of a group: FOLDER of version 2, "max" for no quota, or of version 1, -1 for none. */
static gboolean
read_quota (const char *folder, guint64 *quota, guint64 *period)
{
  g_autofree char *both = g_strconcat (folder, "/cpu.max", NULL),
                  *quotas = g_strconcat (folder, "/cpu.cfs_quota_us", NULL),
                  *periods = g_strconcat (folder, "/cpu.cfs_period_us", NULL), *text = NULL, *of = NULL;
  if (g_file_get_contents (both, &text, NULL, NULL))
    return sscanf (text, "%" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT, quota, period) == 2;
  return g_file_get_contents (quotas, &text, NULL, NULL) && g_file_get_contents (periods, &of, NULL, NULL)
         && *text != '-' && sscanf (text, "%" G_GUINT64_FORMAT, quota) == 1
         && sscanf (of, "%" G_GUINT64_FORMAT, period) == 1;
}

guint
nf_cpu_read_share (const char *list, const char *groups)
{
  guint share = G_MAXUINT;
  g_autofree char *text = NULL;
  if (!g_file_get_contents (list, &text, NULL, NULL))
    return share;
  g_auto (GStrv) lines = g_strsplit (text, "\n", -1);
  for (char **line = lines; *line; line++)
    {
      /* number:controllers:/path; version 2 names no controllers, and version 1 has a hierarchy for each */
      g_auto (GStrv) parts = g_strsplit (*line, ":", 3);
      if (g_strv_length (parts) < 3)
        continue;
      g_auto (GStrv) controllers = g_strsplit (parts[1], ",", -1);
      if (*parts[1] && !g_strv_contains ((const char *const *)controllers, "cpu"))
        continue;
      for (char *slash = parts[2] + strlen (parts[2]); slash; slash = strrchr (parts[2], '/'))
        {
          *slash = '\0';
          g_autofree char *folder = g_strconcat (groups, *parts[1] ? "/cpu" : "", parts[2], NULL);
          guint64 quota, period;
          if (read_quota (folder, &quota, &period) && period > 0)
            share = (guint)MIN (share, MAX ((quota + period - 1) / period, 1));
        }
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
  cpu->count = MIN (g_get_num_processors (), nf_cpu_read_share ("/proc/self/cgroup", GROUPS));
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
