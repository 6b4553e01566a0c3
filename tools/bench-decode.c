/* normflow bench decode: what it measures, and how it prints it. SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "bench-decode.h"
#include "profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_REPETITIONS 64
#define LEAST_REPETITIONS 3

static int
compare_doubles (gconstpointer a, gconstpointer b)
{
  return *(const double *)a < *(const double *)b ? -1 : *(const double *)a > *(const double *)b;
}

gboolean
nf_bench_row_measure (NfBenchRow *row, const NfBenchDecode *bench, gboolean warm, NfBenchRun run,
                      gpointer data, GError **error)
{
  const gint64 begin = g_get_monotonic_time ();
  double seconds[MAX_REPETITIONS] = { 0 };
  guint n = 0;

  /* the first one compiles and allocates */
  for (gint i = warm ? -1 : 0; i < MAX_REPETITIONS; i++)
    {
      if (!run (data, &row->report, &seconds[n], NULL, error))
        return FALSE;
      n += i >= 0;
      if (n >= LEAST_REPETITIONS
          && (double)(g_get_monotonic_time () - begin) > bench->seconds * G_USEC_PER_SEC)
        break;
    }
  qsort (seconds, n, sizeof *seconds, compare_doubles);
  row->seconds = seconds[n / 2];
  return !bench->profile || run (data, &row->report, &row->profiled, &row->times, error);
}

void
nf_bench_row_compare (NfBenchRow *row, const NfPicture *wanted, const NfPicture *got)
{
  for (gsize i = 0; i < wanted->size; i++)
    {
      const guint difference = (guint)ABS ((gint)wanted->data[i] - (gint)got->data[i]);
      row->differing += difference > 0;
      row->largest = MAX (row->largest, difference);
    }
}

void
nf_bench_print_header (const char *counts)
{
  printf ("%6s  %-11s %10s %9s %9s %9s %10s %9s %9s %7s\n", counts, "METHOD", "TIME (ms)", "SPEED", "ENCODES",
          "PASSES", "ROWS", "RESIDUAL", "DIFFERING", "LARGEST");
}

void
nf_bench_row_print (const NfBenchRow *row, const NfBenchDecode *bench, guint n, const char *name,
                    double sequential, double encoding)
{
  nf_progress_clear (bench->command->progress);
  printf ("%6u  %-11s %10.3f", n, name, 1e3 * row->seconds);
  if (encoding > 0 && row->unchanged)
    printf (" %9s %9s", "unchanged", "-");
  else if (encoding > 0)
    printf (" %8.2f× %8.2f×", sequential / row->seconds, row->seconds / encoding);
  if (encoding > 0)
    printf (" %9" G_GUINT64_FORMAT " %10" G_GUINT64_FORMAT " %9.2g %9" G_GUINT64_FORMAT " %7u",
            row->report.passes, row->report.rows, row->report.residual, row->differing, row->largest);
  printf ("\n");
}

void
nf_bench_row_print_profile (NfBenchRow *row, const char *what)
{
  if (row->times)
    nf_profile_print (what, row->times, row->profiled);
  g_clear_pointer (&row->times, g_ptr_array_unref);
}

NfPicture *
nf_bench_line_up (const NfPicture *from, guint width, guint height, guint tiles)
{
  g_autoptr (NfPicture) strip = nf_picture_new (from->layout, width * tiles, height);
  const guint across = from->frame.width / width, down = from->frame.height / height;

  for (guint i = 0; i < nf_picture_planes (from->layout); i++)
    {
      const NfPlane *source = &from->frame.planes[i], *target = &strip->frame.planes[i];
      guint w, h;

      nf_picture_extent (from->layout, i, width, height, &w, &h);
      for (guint t = 0; t < tiles; t++)
        {
          const guint n = t % (across * down), x = n % across * w, y = n / across * h;
          for (guint row = 0; row < h; row++)
            memcpy (target->data + (gsize)row * (gsize)target->stride + (gsize)t * w,
                    source->data + (gsize)(y + row) * (gsize)source->stride + x, w);
        }
    }
  return g_steal_pointer (&strip);
}

NfPicture *
nf_bench_read (const NfBenchDecode *bench, NfMediaReader *reader, GError **error)
{
  const NfConfig *config = nf_model_get_config (nf_session_get_model (bench->session));
  const guint width = nf_config_columns (config), height = nf_config_rows (config);
  g_autoptr (NfPicture) picture = nf_media_reader_next (reader, error);
  if (!picture || (picture->frame.width >= width && picture->frame.height >= height))
    return g_steal_pointer (&picture);
  g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s is of %ux%u, smaller than a tile of %ux%u",
               bench->video, picture->frame.width, picture->frame.height, width, height);
  return NULL;
}
