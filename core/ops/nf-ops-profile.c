/* normflow: where time goes. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-ops-profile.h"

typedef struct
{
  cl_event event;
  NfOpsTime *time;
} Noted;

struct _NfOpsProfile
{
  GArray *events;    /* of Noted */
  GHashTable *times; /* NfOpsTimes by name */
};

#define MAX_NOTED 4096

static void
time_free (gpointer data)
{
  NfOpsTime *time = data;
  g_free (time->name);
  g_free (time);
}

NfOpsProfile *
nf_ops_profile_new (void)
{
  NfOpsProfile *self = g_new (NfOpsProfile, 1);
  self->events = g_array_new (FALSE, TRUE, sizeof (Noted));
  self->times = g_hash_table_new_full (g_str_hash, g_str_equal, NULL, time_free);
  return self;
}

/* Adds up what has been noted. */
static void
gather (NfOpsProfile *self)
{
  for (guint i = 0; i < self->events->len; i++)
    {
      const Noted *noted = &g_array_index (self->events, Noted, i);
      cl_ulong start = 0, end = 0;
      if (!noted->event) /* the command was refused */
        continue;
      if (clWaitForEvents (1, &noted->event) == CL_SUCCESS
          && clGetEventProfilingInfo (noted->event, CL_PROFILING_COMMAND_START, sizeof start, &start, NULL)
                 == CL_SUCCESS
          && clGetEventProfilingInfo (noted->event, CL_PROFILING_COMMAND_END, sizeof end, &end, NULL)
                 == CL_SUCCESS)
        {
          noted->time->launches++;
          noted->time->seconds += 1e-9 * (double)(end - start);
        }
      clReleaseEvent (noted->event);
    }
  g_array_set_size (self->events, 0);
}

cl_event *
nf_ops_profile_note (NfOpsProfile *self, const char *what, const char *detail)
{
  if (self->events->len >= MAX_NOTED)
    gather (self);
  char *name = *detail ? g_strdup_printf ("%s %s", what, detail) : g_strdup (what);
  NfOpsTime *time = g_hash_table_lookup (self->times, name);
  if (time)
    g_free (name);
  else
    {
      time = g_new0 (NfOpsTime, 1);
      time->name = name;
      g_hash_table_insert (self->times, time->name, time);
    }
  const Noted noted = { .time = time };
  g_array_append_val (self->events, noted);
  return &g_array_index (self->events, Noted, self->events->len - 1).event;
}

static gint
compare_times (gconstpointer a, gconstpointer b)
{
  const NfOpsTime *x = *(NfOpsTime *const *)a, *y = *(NfOpsTime *const *)b;
  return (x->seconds < y->seconds) - (x->seconds > y->seconds);
}

GPtrArray *
nf_ops_profile_end (NfOpsProfile *self)
{
  gather (self);
  GPtrArray *times = g_ptr_array_new_with_free_func (time_free);
  GHashTableIter iter;
  gpointer time;
  g_hash_table_iter_init (&iter, self->times);
  while (g_hash_table_iter_next (&iter, NULL, &time))
    {
      g_ptr_array_add (times, time);
      g_hash_table_iter_steal (&iter);
    }
  g_ptr_array_sort (times, compare_times);
  nf_ops_profile_free (self);
  return times;
}

void
nf_ops_profile_free (NfOpsProfile *self)
{
  gather (self);
  g_array_unref (self->events);
  g_hash_table_unref (self->times);
  g_free (self);
}
