/* normflow bench decode: one token at a time against many. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "media.h"
#include "profile.h"

#include "nf-ops.h"
#include "nf-session-private.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <glib/gstdio.h>

#define MAX_SIDE 16384
#define MAX_REPETITIONS 64
#define OTHERS 4      /* pictures that hints are measured on */
#define MAX_DRAFTED 8 /* tiles side by side that `auto` may draft */
#define SECONDS 3.0   /* for each measurement, unless --seconds says something else */

/* One method on one number of tiles. */
typedef struct
{
  double seconds; /* median */
  NfDecodeReport report;
  guint64 differing; /* 8-bit values */
  guint largest;     /* of their differences */
  GPtrArray *times;  /* of commands of one more run, NULL without a profile */
  double profiled;   /* seconds of that run */
} Row;

typedef struct
{
  NfCommand *command;
  NfSession *session;
  char *hints;       /* a file of those measured on other pictures than the ones decoded; NULL: none */
  float *before;     /* latents of the frame before, which fresh sessions have decoded; NULL: none */
  const char *video; /* NULL: pictures are drawn from the model */
  gint64 frame;
  double seconds;
  gboolean profile;
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
make_picture (BenchDecode *bench, guint tiles, gint64 frame, GError **error)
{
  const NfConfig *config = nf_model_get_config (nf_session_get_model (bench->session));
  const guint width = nf_config_columns (config), height = nf_config_rows (config);

  if (bench->video)
    {
      g_autoptr (NfMediaReader) reader = nf_media_reader_open (bench->video, config->layout, error);
      g_autoptr (NfPicture) picture = NULL;
      if (!reader || !nf_media_reader_seek (reader, (guint64)frame, error)
          || !(picture = nf_media_reader_next (reader, error)))
        {
          if (error && !*error)
            g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s has no frame %" G_GINT64_FORMAT,
                         bench->video, frame);
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
  nf_random_normal (1, (guint64)frame, nf_grid_latents (&grid), 1, latents);
  if (!nf_session_decode_frame (bench->session, latents, -1, NULL, &drawn->frame, error))
    return NULL;
  return g_steal_pointer (&drawn);
}

static int
compare_doubles (gconstpointer a, gconstpointer b)
{
  return *(const double *)a < *(const double *)b ? -1 : *(const double *)a > *(const double *)b;
}

/* The session of a run on frames like OUT: BENCH's, or, if it is to be FRESH, one that has decoded nothing
 * yet, or the frame before alone, and knows hints, if any, of other pictures. */
static NfSession *
open_session (BenchDecode *bench, gboolean fresh, NfPicture *out, GError **error)
{
  static const NfDecodeOptions draft = { .snap = TRUE, .method = NF_DECODE_DRAFT };
  if (!fresh)
    return g_object_ref (bench->session);
  g_autoptr (NfSession) session = nf_session_new (nf_session_get_model (bench->session), error);
  if (!session || !nf_session_read_hints (session, bench->hints, error)
      || (bench->before && !nf_session_decode_frame (session, bench->before, -1, &draft, &out->frame, error)))
    return NULL;
  return g_steal_pointer (&session);
}

/* Encodes PICTURE to LATENTS (OPTIONS NULL) or decodes them to OUT. */
static gboolean
run_once (BenchDecode *bench, NfSession *session, const NfPicture *picture, float *latents,
          const NfDecodeOptions *options, NfPicture *out, double *seconds, GError **error)
{
  const gint64 start = g_get_monotonic_time ();
  if (!nf_command_go_on (bench->command, error)
      || !(options ? nf_session_decode_frame (session, latents, -1, options, &out->frame, error)
                   : nf_session_encode_frame (session, &picture->frame, latents, NULL, NULL, error)))
    return FALSE;
  *seconds = (double)(g_get_monotonic_time () - start) / G_USEC_PER_SEC;
  return TRUE;
}

/* ROW's median time of run_once(), its report, and its profile if one is wanted. */
static gboolean
measure (BenchDecode *bench, const NfPicture *picture, float *latents, const NfDecodeOptions *options,
         NfPicture *out, gboolean fresh, Row *row, GError **error)
{
  const gint64 begin = g_get_monotonic_time ();
  double seconds[MAX_REPETITIONS] = { 0 };
  guint n = 0;

  /* the first one compiles and allocates */
  for (gint run = fresh ? 0 : -1; run < MAX_REPETITIONS; run++)
    {
      g_autoptr (NfSession) session = open_session (bench, fresh, out, error);
      if (!session || !run_once (bench, session, picture, latents, options, out, &seconds[n], error))
        return FALSE;
      nf_session_get_decode_report (session, &row->report);
      n += run >= 0;
      if (n >= 3 && (double)(g_get_monotonic_time () - begin) > bench->seconds * G_USEC_PER_SEC)
        break;
    }
  qsort (seconds, n, sizeof *seconds, compare_doubles);
  row->seconds = seconds[n / 2];
  if (!bench->profile)
    return TRUE;
  g_autoptr (NfSession) session = open_session (bench, fresh, out, error);
  NfOps *ops = session ? nf_session_get_ops (session) : NULL;
  if (!ops || !nf_ops_start_profile (ops, error)
      || !run_once (bench, session, picture, latents, options, out, &row->profiled, error))
    return FALSE;
  row->times = nf_ops_end_profile (ops, error);
  return row->times != NULL;
}

/* Whether a row is one of the method that was asked for; all are for comparison if none was. */
static gboolean
is_wanted (BenchDecode *bench, NfDecodeMethod method, gboolean fresh)
{
  switch (bench->command->decoding.method)
    {
    case NF_DECODE_AUTO:
      return TRUE;
    case NF_DECODE_DRAFT:
      return method == NF_DECODE_SEQUENTIAL || fresh;
    default:
      return method == NF_DECODE_SEQUENTIAL || method == bench->command->decoding.method;
    }
}

static gboolean
measure_method (BenchDecode *bench, const NfPicture *picture, float *latents, NfDecodeMethod method,
                gboolean fresh, Row *row, GError **error)
{
  g_autoptr (NfPicture) out = nf_picture_new_like (picture);
  NfDecodeOptions options = bench->command->decoding;

  if (!(fresh && options.method == NF_DECODE_DRAFT))
    options.method = method;
  options.snap = TRUE;
  options.afresh = !bench->before; /* else it would be the same frame again and again */
  if (!measure (bench, picture, latents, &options, out, fresh, row, error))
    return FALSE;
  for (gsize i = 0; i < picture->size; i++)
    {
      const guint difference = (guint)ABS ((gint)picture->data[i] - (gint)out->data[i]);
      row->differing += difference > 0;
      row->largest = MAX (row->largest, difference);
    }
  return TRUE;
}

/* Measures hints on pictures of which none is decoded, to bench->hints; not if there are none. */
static gboolean
measure_hints (BenchDecode *bench, GError **error)
{
  g_autoptr (NfSession) session = NULL;
  gint64 frames = OTHERS + 1;
  guint done = 0;

  if (bench->video)
    {
      const NfConfig *config = nf_model_get_config (nf_session_get_model (bench->session));
      g_autoptr (NfMediaReader) reader = nf_media_reader_open (bench->video, config->layout, error);
      if (!reader || !nf_media_reader_index (reader, error))
        return FALSE;
      frames = (gint64)nf_media_reader_get_info (reader)->n_frames;
    }
  session = nf_session_new (nf_session_get_model (bench->session), error);
  if (!session)
    return FALSE;
  for (gint64 i = 0; i < OTHERS; i++)
    {
      const gint64 frame = (2 * i + 1) * frames / (2 * OTHERS);
      if (frame == bench->frame)
        continue;
      nf_progress_update (bench->command->progress, "measuring hints, %u of %d", done + 1, OTHERS);
      g_autoptr (NfPicture) picture = make_picture (bench, 1, frame, error);
      if (!picture || !nf_command_go_on (bench->command, error))
        return FALSE;
      if (!nf_session_measure_hints (session, &picture->frame, error))
        {
          if (!g_error_matches (*error, NF_ERROR, NF_ERROR_UNSUPPORTED))
            return FALSE;
          g_clear_error (error); /* a model whose pictures are not drafted */
          return TRUE;
        }
      done++;
    }
  if (done == 0)
    return TRUE;
  g_autofree char *path = NULL;
  const int fd = g_file_open_tmp ("normflow-XXXXXX.safetensors", &path, error);
  if (fd < 0)
    return FALSE;
  close (fd);
  bench->hints = g_steal_pointer (&path);
  return nf_session_write_hints (session, bench->hints, error);
}

static void
print_row (BenchDecode *bench, guint tiles, const char *name, const Row *row, double sequential,
           double encoding)
{
  nf_progress_clear (bench->command->progress);
  printf ("%5u  %-11s %10.3f %8.2f× %8.2f× %9" G_GUINT64_FORMAT " %10" G_GUINT64_FORMAT
          " %9.2g %9" G_GUINT64_FORMAT " %7u\n",
          tiles, name, 1e3 * row->seconds, sequential / row->seconds, row->seconds / encoding,
          row->report.passes, row->report.rows, row->report.residual, row->differing, row->largest);
}

/* Prints and frees it, if there is one. */
static void
print_profile (guint tiles, const char *name, Row *row)
{
  g_autofree char *what = g_strdup_printf ("%u %s, %s", tiles, tiles == 1 ? "tile" : "tiles", name);
  if (row->times)
    nf_profile_print (what, row->times, row->profiled);
  g_clear_pointer (&row->times, g_ptr_array_unref);
}

/* Latents, N of them, of the frame before the one that is decoded. */
static float *
encode_before (BenchDecode *bench, guint tiles, gsize n, GError **error)
{
  g_autoptr (NfPicture) picture = make_picture (bench, tiles, bench->frame - 1, error);
  g_autofree float *latents = g_new (float, n);
  if (!picture || !nf_session_encode_frame (bench->session, &picture->frame, latents, NULL, NULL, error))
    return NULL;
  return g_steal_pointer (&latents);
}

static gboolean
bench_tiles (BenchDecode *bench, guint tiles, GError **error)
{
  static const struct
  {
    const char *name;
    NfDecodeMethod method;
    gboolean fresh, hints, before;
  } ways[] = { { "sequential", NF_DECODE_SEQUENTIAL, FALSE, FALSE, FALSE },
               { "jacobi", NF_DECODE_JACOBI, FALSE, FALSE, FALSE },
               { "auto", NF_DECODE_AUTO, FALSE, FALSE, FALSE },
               { "auto, first", NF_DECODE_AUTO, TRUE, FALSE, FALSE },
               { "with hints", NF_DECODE_AUTO, TRUE, TRUE, FALSE },
               { "recalling", NF_DECODE_DRAFT, TRUE, TRUE, TRUE } };
  const NfConfig *config = nf_model_get_config (nf_session_get_model (bench->session));
  g_autoptr (NfPicture) picture = make_picture (bench, tiles, bench->frame, error);
  const gboolean drafts = bench->hints && tiles <= MAX_DRAFTED;
  g_autofree char *hints = g_steal_pointer (&bench->hints);
  Row encoding = { 0 }, rows[G_N_ELEMENTS (ways)] = { 0 };
  double sequential = NAN;
  NfGrid grid;
  gboolean done;

  done = picture && nf_grid_init (&grid, config, picture->frame.width, picture->frame.height, error);
  g_autofree float *latents = done ? g_new (float, nf_grid_latents (&grid)) : NULL;
  done = done && measure (bench, picture, latents, NULL, NULL, FALSE, &encoding, error);
  g_autofree float *before = NULL;
  if (done && drafts && bench->video && bench->frame > 0)
    done = (before = encode_before (bench, tiles, nf_grid_latents (&grid), error)) != NULL;
  if (done)
    {
      nf_progress_clear (bench->command->progress);
      printf ("%5u  %-11s %10.3f\n", tiles, "(encode)", 1e3 * encoding.seconds);
    }
  for (guint i = 0; i < G_N_ELEMENTS (ways) && done; i++)
    {
      Row *row = &rows[i];
      /* drafts of a picture that was decoded before would flatter */
      if (drafts ? ways[i].method == NF_DECODE_AUTO && !ways[i].fresh : ways[i].fresh)
        continue;
      if ((ways[i].before && !before) || !is_wanted (bench, ways[i].method, ways[i].fresh))
        continue;
      nf_progress_update (bench->command->progress, "%u tiles, %s", tiles, ways[i].name);
      bench->hints = ways[i].hints ? hints : NULL;
      bench->before = ways[i].before ? before : NULL;
      done = measure_method (bench, picture, latents, ways[i].method, ways[i].fresh, row, error);
      if (ways[i].method == NF_DECODE_SEQUENTIAL)
        sequential = row->seconds;
      if (done)
        print_row (bench, tiles, ways[i].name, row, sequential, encoding.seconds);
    }
  bench->hints = g_steal_pointer (&hints);
  bench->before = NULL;
  print_profile (tiles, "encode", &encoding);
  for (guint i = 0; i < G_N_ELEMENTS (ways); i++)
    print_profile (tiles, ways[i].name, &rows[i]);
  return done;
}

static gboolean
check_model (BenchDecode *bench, GError **error)
{
  NfModel *model = nf_session_get_model (bench->session);
  const NfConfig *config = nf_model_get_config (model);
  const char *name = bench->command->model ? bench->command->model : nf_model_get_path (model);
  if (!config->frames && config->layout != NF_PIXELS_LATENT)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
               "%s is a model of %s: bench decode needs one of pictures, such as normflow-yuv420-32; "
               "normflow bench step decode -m %s measures this one's decoding, token by token",
               name,
               config->frames ? "videos, which decodes frames one after another"
                              : "another model's latents, which has no pictures",
               name);
  return FALSE;
}

static gboolean
bench_all (BenchDecode *bench, char **tiles, GError **error)
{
  bench->session = nf_command_open (bench->command, error);
  if (!bench->session || !check_model (bench, error))
    return FALSE;
  const NfConfig *config = nf_model_get_config (nf_session_get_model (bench->session));
  nf_progress_clear (bench->command->progress);
  printf ("%s: %u tokens of %u values a tile of %ux%u, %u blocks; latents of %s\n\n",
          nf_model_get_path (nf_session_get_model (bench->session)), nf_config_tokens (config),
          nf_config_features (config), nf_config_columns (config), nf_config_rows (config), config->n_blocks,
          bench->video ? bench->video : "pictures drawn from the model");
  printf ("%5s  %-11s %10s %9s %9s %9s %10s %9s %9s %7s\n", "TILES", "METHOD", "TIME (ms)", "SPEED",
          "ENCODES", "PASSES", "ROWS", "RESIDUAL", "DIFFERING", "LARGEST");
  if (!measure_hints (bench, error))
    return FALSE;
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
          { "profile", 'p', 0, G_OPTION_ARG_NONE, &bench.profile,
            "Where the time goes: each kernel's launches and time on the device", NULL },
          { NULL } };

  if (!nf_command_parse (
          &command, &argc, &argv, entries, NF_COMMAND_MODEL | NF_COMMAND_DEVICE | NF_COMMAND_DECODING,
          "[VIDEO]", "Decodes the same latents by each method.",
          "Tiles are those of a frame of VIDEO, encoded first; without one, pictures that the model draws.\n"
          "SPEED is against sequential, ENCODES against encoding the same; medians. PASSES are runs of a\n"
          "block's network, ROWS the tokens that went through in all. RESIDUAL is the largest change of a\n"
          "value that was taken before it had settled; DIFFERING 8-bit values are not those that were\n"
          "encoded, LARGEST is by how much. \"auto, first\" is what a session takes for its first picture,\n"
          "without hints; \"with hints\" the same with hints measured on four other frames of VIDEO (or "
          "other\n"
          "drawn pictures): normflow hints keeps such beside a model. \"recalling\" is a draft of such a\n"
          "session that has drafted the frame before --frame, as in a stream. With --method there is only\n"
          "sequential and that one; with --method draft these three, as drafts whatever the clock says.",
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
  if (bench.hints)
    g_unlink (bench.hints);
  g_free (bench.hints);
  return done ? 0 : nf_command_fail (&command, error);
}
