/* normflow bench decode: one token at a time against many. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "media.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SIDE 16384
#define MAX_REPETITIONS 64
#define SECONDS 3.0 /* for each measurement, unless --seconds says something else */

/* One method on one number of tiles. */
typedef struct
{
  double seconds; /* median */
  NfDecodeReport report;
  guint64 differing; /* 8-bit values */
  guint largest;     /* of their differences */
} Row;

typedef struct
{
  NfCommand *command;
  NfSession *session;
  const char *video; /* NULL: pictures are drawn from the model */
  gint64 frame;
  double seconds;
} BenchDecode;

/* The first tiles of FROM, in reading order, side by side. They begin again where FROM has too few. */
static NfPicture *
line_up (const NfPicture *from, guint width, guint height, guint tiles)
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

/* What is decoded: of the video, or drawn. */
static NfPicture *
make_picture (BenchDecode *bench, guint tiles, GError **error)
{
  const NfConfig *config = nf_model_get_config (nf_session_get_model (bench->session));
  const guint width = nf_config_columns (config), height = nf_config_rows (config);

  if (bench->video)
    {
      g_autoptr (NfMediaReader) reader = nf_media_reader_open (bench->video, config->layout, error);
      g_autoptr (NfPicture) picture = NULL;
      if (!reader || !nf_media_reader_seek (reader, (guint64)bench->frame, error)
          || !(picture = nf_media_reader_next (reader, error)))
        {
          if (error && !*error)
            g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s has no frame %" G_GINT64_FORMAT,
                         bench->video, bench->frame);
          return NULL;
        }
      if (picture->frame.width < width || picture->frame.height < height)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s is of %ux%u, smaller than a tile of %ux%u",
                       bench->video, picture->frame.width, picture->frame.height, width, height);
          return NULL;
        }
      return line_up (picture, width, height, tiles);
    }

  g_autoptr (NfPicture) drawn = nf_picture_new (config->layout, width * tiles, height);
  NfGrid grid;
  if (!nf_grid_init (&grid, config, width * tiles, height, error))
    return NULL;
  g_autofree float *latents = g_new (float, nf_grid_latents (&grid));
  nf_random_normal (1, 0, nf_grid_latents (&grid), 1, latents);
  if (!nf_session_decode_frame (bench->session, latents, -1, NULL, &drawn->frame, error))
    return NULL;
  return g_steal_pointer (&drawn);
}

static int
compare_doubles (gconstpointer a, gconstpointer b)
{
  return *(const double *)a < *(const double *)b ? -1 : *(const double *)a > *(const double *)b;
}

/* Median time of encoding PICTURE to LATENTS (OPTIONS NULL) or of decoding them to OUT. */
static gboolean
measure (BenchDecode *bench, const NfPicture *picture, float *latents, const NfDecodeOptions *options,
         NfPicture *out, double *median, GError **error)
{
  const gint64 begin = g_get_monotonic_time ();
  double seconds[MAX_REPETITIONS];
  guint n = 0;

  for (gint run = -2; run < MAX_REPETITIONS; run++)
    {
      const gint64 start = g_get_monotonic_time ();
      if (!nf_command_go_on (bench->command, error)
          || !(options
                   ? nf_session_decode_frame (bench->session, latents, -1, options, &out->frame, error)
                   : nf_session_encode_frame (bench->session, &picture->frame, latents, NULL, NULL, error)))
        return FALSE;
      const gint64 end = g_get_monotonic_time ();
      if (run
          >= 0) /* the first one compiles and allocates, on the second `auto` measures what drafts go by */
        seconds[n++] = (double)(end - start) / G_USEC_PER_SEC;
      if (n >= 3 && (double)(end - begin) > bench->seconds * G_USEC_PER_SEC)
        break;
    }
  qsort (seconds, n, sizeof *seconds, compare_doubles);
  *median = seconds[n / 2];
  return TRUE;
}

static gboolean
measure_method (BenchDecode *bench, const NfPicture *picture, float *latents, NfDecodeMethod method, Row *row,
                GError **error)
{
  g_autoptr (NfPicture) out = nf_picture_new (picture->layout, picture->frame.width, picture->frame.height);
  NfDecodeOptions options = bench->command->decoding;

  options.method = method;
  options.snap = TRUE;
  options.afresh = TRUE; /* it is the same frame again and again */
  if (!measure (bench, picture, latents, &options, out, &row->seconds, error))
    return FALSE;
  nf_session_get_decode_report (bench->session, &row->report);
  for (gsize i = 0; i < picture->size; i++)
    {
      const guint difference = (guint)ABS ((gint)picture->data[i] - (gint)out->data[i]);
      row->differing += difference > 0;
      row->largest = MAX (row->largest, difference);
    }
  return TRUE;
}

static gboolean
bench_tiles (BenchDecode *bench, guint tiles, GError **error)
{
  static const NfDecodeMethod methods[] = { NF_DECODE_SEQUENTIAL, NF_DECODE_JACOBI, NF_DECODE_AUTO };
  const NfConfig *config = nf_model_get_config (nf_session_get_model (bench->session));
  g_autoptr (NfPicture) picture = make_picture (bench, tiles, error);
  double encoding, sequential = NAN;
  NfGrid grid;

  if (!picture || !nf_grid_init (&grid, config, picture->frame.width, picture->frame.height, error))
    return FALSE;
  g_autofree float *latents = g_new (float, nf_grid_latents (&grid));
  if (!measure (bench, picture, latents, NULL, NULL, &encoding, error))
    return FALSE;
  nf_progress_clear (bench->command->progress);
  printf ("%5u  %-10s %11.3f\n", tiles, "(encode)", 1e3 * encoding);
  for (guint i = 0; i < G_N_ELEMENTS (methods); i++)
    {
      const char *name = nf_decode_method_name (methods[i]);
      Row row = { 0 };

      nf_progress_update (bench->command->progress, "%u tiles, %s", tiles, name);
      if (!measure_method (bench, picture, latents, methods[i], &row, error))
        return FALSE;
      if (methods[i] == NF_DECODE_SEQUENTIAL)
        sequential = row.seconds;
      nf_progress_clear (bench->command->progress);
      printf ("%5u  %-10s %11.3f %8.2f× %8.2f× %9" G_GUINT64_FORMAT " %10" G_GUINT64_FORMAT
              " %9.2g %9" G_GUINT64_FORMAT " %7u\n",
              tiles, name, 1e3 * row.seconds, sequential / row.seconds, row.seconds / encoding,
              row.report.passes, row.report.rows, row.report.residual, row.differing, row.largest);
    }
  return TRUE;
}

static gboolean
bench_all (BenchDecode *bench, char **tiles, GError **error)
{
  bench->session = nf_command_open (bench->command, error);
  if (!bench->session)
    return FALSE;
  const NfConfig *config = nf_model_get_config (nf_session_get_model (bench->session));
  nf_progress_clear (bench->command->progress);
  printf ("%s: %u tokens of %u values a tile of %ux%u, %u blocks; latents of %s\n\n",
          nf_model_get_path (nf_session_get_model (bench->session)), nf_config_tokens (config),
          nf_config_features (config), nf_config_columns (config), nf_config_rows (config), config->n_blocks,
          bench->video ? bench->video : "pictures drawn from the model");
  printf ("%5s  %-10s %11s %9s %9s %9s %10s %9s %9s %7s\n", "TILES", "METHOD", "TIME (ms)", "SPEED",
          "ENCODES", "PASSES", "ROWS", "RESIDUAL", "DIFFERING", "LARGEST");
  for (guint i = 0; tiles[i]; i++)
    if (!bench_tiles (bench, (guint)g_ascii_strtoull (tiles[i], NULL, 10), error))
      return FALSE;
  return TRUE;
}

int
nf_cmd_bench_decode (int argc, char **argv)
{
  g_auto (NfCommand) command = { 0 };
  BenchDecode bench = { .command = &command, .seconds = SECONDS };
  g_autofree char *tiles = NULL;
  g_auto (GStrv) numbers = NULL;
  g_autoptr (GError) error = NULL;
  const GOptionEntry entries[]
      = { { "tiles", 't', 0, G_OPTION_ARG_STRING, &tiles, "Numbers of tiles side by side (default: 1,8,64)",
            "N,N,…" },
          { "frame", 0, 0, G_OPTION_ARG_INT64, &bench.frame, "Of VIDEO, counted from 0 (default: 0)", "I" },
          { "seconds", 0, 0, G_OPTION_ARG_DOUBLE, &bench.seconds, "For each measurement (default: 3)", "S" },
          { NULL } };

  if (!nf_command_parse (
          &command, &argc, &argv, entries, NF_COMMAND_MODEL | NF_COMMAND_DEVICE | NF_COMMAND_DECODING,
          "[VIDEO]", "Decodes the same latents by each method.",
          "Tiles are those of a frame of VIDEO, encoded first; without one, pictures that the model draws.\n"
          "SPEED is against sequential, ENCODES against encoding the same; medians. PASSES are runs of a "
          "block's "
          "network,\nROWS the tokens that went through in all. RESIDUAL is the largest change of a value "
          "that was "
          "taken before\nit had settled; DIFFERING 8-bit values are not those that were encoded, LARGEST is "
          "by "
          "how much.",
          0, 1))
    return NF_EXIT_USAGE;
  if (bench.frame < 0)
    return nf_command_usage (&command, "--frame takes no negative number");
  if (!(bench.seconds >= 0 && bench.seconds <= 3600))
    return nf_command_usage (&command, "--seconds %g is out of range: 0 to 3600", bench.seconds);
  numbers = g_strsplit (tiles ? tiles : "1,8,64", ",", -1);
  for (guint i = 0; numbers[i]; i++)
    {
      guint64 n;
      if (!g_ascii_string_to_unsigned (numbers[i], 10, 1, MAX_SIDE / 16, &n, NULL))
        return nf_command_usage (&command, "--tiles takes numbers of 1 to %d, not \"%s\"", MAX_SIDE / 16,
                                 numbers[i]);
    }
  bench.video = argc > 1 ? argv[1] : NULL;
  nf_command_catch_signals (&command);
  const gboolean done = bench_all (&bench, numbers, &error);
  g_clear_object (&bench.session);
  return done ? 0 : nf_command_fail (&command, error);
}
