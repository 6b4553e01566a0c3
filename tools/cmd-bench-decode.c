/* normflow bench decode: one token at a time against many. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench-decode.h"
#include "command.h"

#include "nf-session-private.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include <glib/gstdio.h>

#define MAX_FRAMES 65536
#define OTHERS 4      /* pictures that hints are measured on */
#define MAX_DRAFTED 8 /* tiles side by side that `auto` may draft */
#define SECONDS 3.0   /* for each measurement, unless --seconds says something else */

typedef struct
{
  NfBenchDecode base;
  char *hints;   /* a file of those measured on other pictures than the ones decoded; NULL: none */
  float *before; /* latents of the frame before, which fresh sessions have decoded; NULL: none */
  NfCorrections corrections; /* of the frame that is decoded */
} BenchDecode;

/* What is decoded: of the video, or drawn. */
static NfPicture *
make_picture (BenchDecode *bench, guint tiles, gint64 frame, GError **error)
{
  const NfConfig *config = nf_model_get_config (nf_session_get_model (bench->base.session));
  const guint width = nf_config_columns (config), height = nf_config_rows (config);

  if (bench->base.video)
    {
      g_autoptr (NfMediaReader) reader = nf_media_reader_open (bench->base.video, config->layout, error);
      g_autoptr (GError) problem = NULL;
      if (!reader || !nf_media_reader_seek (reader, (guint64)frame, error))
        return NULL;
      g_autoptr (NfPicture) picture = nf_bench_read (&bench->base, reader, &problem);
      if (problem)
        g_propagate_error (error, g_steal_pointer (&problem));
      else if (!picture)
        g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s has no frame %" G_GINT64_FORMAT,
                     bench->base.video, frame);
      return picture ? nf_bench_line_up (picture, width, height, tiles) : NULL;
    }

  g_autoptr (NfPicture) drawn = nf_picture_new (config->layout, width * tiles, height);
  NfGrid grid;
  if (!nf_grid_init (&grid, config, width * tiles, height, error))
    return NULL;
  g_autofree float *latents = g_new (float, nf_grid_latents (&grid));
  nf_random_normal (1, (guint64)frame, nf_grid_latents (&grid), 1, latents);
  if (!nf_session_decode_frame (bench->base.session, latents, -1, NULL, &drawn->frame, error))
    return NULL;
  return g_steal_pointer (&drawn);
}

/* The session of a run on frames like OUT: BENCH's, or, if it is to be FRESH, one that has decoded nothing
 * yet, or the frame before alone, and knows hints, if any, of other pictures. */
static NfSession *
open_session (BenchDecode *bench, gboolean fresh, NfPicture *out, GError **error)
{
  static const NfDecodeOptions draft = { .snap = TRUE, .method = NF_DECODE_DRAFT };
  if (!fresh)
    return g_object_ref (bench->base.session);
  g_autoptr (NfSession) session = nf_session_new (nf_session_get_model (bench->base.session), error);
  if (!session || !nf_session_read_hints (session, bench->hints, error)
      || (bench->before && !nf_session_decode_frame (session, bench->before, -1, &draft, &out->frame, error)))
    return NULL;
  return g_steal_pointer (&session);
}

/* A picture, there (without options) or back. */
typedef struct
{
  BenchDecode *bench;
  const NfPicture *picture;
  float *latents;
  const NfDecodeOptions *options;
  NfPicture *out;
  gboolean fresh; /* in sessions of their own */
} Run;

static gboolean
run (gpointer data, NfDecodeReport *report, double *seconds, GPtrArray **times, GError **error)
{
  const Run *self = data;
  g_autoptr (NfSession) session = open_session (self->bench, self->fresh, self->out, error);
  NfOps *ops = session ? nf_session_get_ops (session) : NULL;
  if (!ops || (times && !nf_ops_start_profile (ops, error)))
    return FALSE;
  const gint64 start = g_get_monotonic_time ();
  if (!nf_command_go_on (self->bench->base.command, error)
      || !(self->options
               ? nf_session_decode_frame (session, self->latents, -1, self->options, &self->out->frame, error)
               : nf_session_encode_frame (session, &self->picture->frame, self->latents, NULL, NULL, error)))
    return FALSE;
  *seconds = (double)(g_get_monotonic_time () - start) / G_USEC_PER_SEC;
  nf_session_get_decode_report (session, report);
  return !times || (*times = nf_ops_end_profile (ops, error)) != NULL;
}

/* Whether a row is one of the method that was asked for; all are for comparison if none was. */
static gboolean
is_wanted (BenchDecode *bench, NfDecodeMethod method, gboolean fresh)
{
  switch (bench->base.command->decoding.method)
    {
    case NF_DECODE_AUTO:
      return TRUE;
    case NF_DECODE_DRAFT:
      return method == NF_DECODE_SEQUENTIAL || fresh;
    default:
      return method == NF_DECODE_SEQUENTIAL || method == bench->base.command->decoding.method;
    }
}

static gboolean
measure_method (BenchDecode *bench, const NfPicture *picture, float *latents, NfDecodeMethod method,
                gboolean fresh, NfBenchRow *row, GError **error)
{
  g_autoptr (NfPicture) out = nf_picture_new_like (picture);
  NfDecodeOptions options = bench->base.command->decoding;
  Run data = { bench, picture, latents, &options, out, fresh };

  if (!(fresh && options.method == NF_DECODE_DRAFT))
    options.method = method;
  options.snap = TRUE;
  options.corrections = &bench->corrections;
  options.afresh = !bench->before; /* else it would be the same frame again and again */
  if (!nf_bench_row_measure (row, &bench->base, !fresh, run, &data, error))
    return FALSE;
  nf_bench_row_compare (row, picture, out);
  return TRUE;
}

/* Measures hints on pictures of which none is decoded, to bench->hints; not if there are none. */
static gboolean
measure_hints (BenchDecode *bench, GError **error)
{
  g_autoptr (NfSession) session = NULL;
  gint64 frames = OTHERS + 1;
  guint done = 0;

  if (bench->base.video)
    {
      const NfConfig *config = nf_model_get_config (nf_session_get_model (bench->base.session));
      g_autoptr (NfMediaReader) reader = nf_media_reader_open (bench->base.video, config->layout, error);
      if (!reader || !nf_media_reader_index (reader, error))
        return FALSE;
      frames = (gint64)nf_media_reader_get_info (reader)->n_frames;
    }
  session = nf_session_new (nf_session_get_model (bench->base.session), error);
  if (!session)
    return FALSE;
  for (gint64 i = 0; i < OTHERS; i++)
    {
      const gint64 frame = (2 * i + 1) * frames / (2 * OTHERS);
      if (frame == bench->base.frame)
        continue;
      nf_progress_update (bench->base.command->progress, "measuring hints, %u of %d", done + 1, OTHERS);
      g_autoptr (NfPicture) picture = make_picture (bench, 1, frame, error);
      if (!picture || !nf_command_go_on (bench->base.command, error))
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

/* Latents, N of them, of the frame before the one that is decoded. */
static float *
encode_before (BenchDecode *bench, guint tiles, gsize n, GError **error)
{
  g_autoptr (NfPicture) picture = make_picture (bench, tiles, bench->base.frame - 1, error);
  g_autofree float *latents = g_new (float, n);
  if (!picture || !nf_session_encode_frame (bench->base.session, &picture->frame, latents, NULL, NULL, error))
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
  const NfConfig *config = nf_model_get_config (nf_session_get_model (bench->base.session));
  g_autoptr (NfPicture) picture = make_picture (bench, tiles, bench->base.frame, error);
  const gboolean drafts = bench->hints && tiles <= MAX_DRAFTED;
  g_autofree char *hints = g_steal_pointer (&bench->hints);
  NfBenchRow encoding = { 0 }, rows[G_N_ELEMENTS (ways)] = { 0 };
  double sequential = NAN;
  NfGrid grid;
  gboolean done;

  done = picture && nf_grid_init (&grid, config, picture->frame.width, picture->frame.height, error);
  g_autofree float *latents = done ? g_new (float, nf_grid_latents (&grid)) : NULL;
  done = done
         && nf_bench_row_measure (&encoding, &bench->base, TRUE, run,
                                  &(Run){ .bench = bench, .picture = picture, .latents = latents }, error);
  /* the session's own until it encodes again, which it may */
  if (done)
    nf_session_get_corrections (bench->base.session, &bench->corrections);
  g_autofree NfCorrection *items
      = g_memdup2 (bench->corrections.items, bench->corrections.n * sizeof *bench->corrections.items);
  bench->corrections.items = items;
  g_autofree float *before = NULL;
  if (done && drafts && bench->base.video && bench->base.frame > 0)
    done = (before = encode_before (bench, tiles, nf_grid_latents (&grid), error)) != NULL;
  if (done)
    nf_bench_row_print (&encoding, &bench->base, tiles, "(encode)", 0, 0);
  for (guint i = 0; i < G_N_ELEMENTS (ways) && done; i++)
    {
      NfBenchRow *row = &rows[i];
      /* drafts of a picture that was decoded before would flatter */
      if (drafts ? ways[i].method == NF_DECODE_AUTO && !ways[i].fresh : ways[i].fresh)
        continue;
      if ((ways[i].before && !before) || !is_wanted (bench, ways[i].method, ways[i].fresh))
        continue;
      nf_progress_update (bench->base.command->progress, "%u tiles, %s", tiles, ways[i].name);
      bench->hints = ways[i].hints ? hints : NULL;
      bench->before = ways[i].before ? before : NULL;
      done = measure_method (bench, picture, latents, ways[i].method, ways[i].fresh, row, error);
      row->unchanged = ways[i].before && row->report.passes == 0;
      if (ways[i].method == NF_DECODE_SEQUENTIAL)
        sequential = row->seconds;
      if (done)
        nf_bench_row_print (row, &bench->base, tiles, ways[i].name, sequential, encoding.seconds);
    }
  bench->hints = g_steal_pointer (&hints);
  bench->before = NULL;
  bench->corrections = (NfCorrections){ 0 };
  for (guint i = 0; i <= G_N_ELEMENTS (ways); i++)
    {
      g_autofree char *what = g_strdup_printf ("%u %s, %s", tiles, tiles == 1 ? "tile" : "tiles",
                                               i ? ways[i - 1].name : "encode");
      nf_bench_row_print_profile (i ? &rows[i - 1] : &encoding, what);
    }
  return done;
}

static gboolean
bench_pictures (BenchDecode *bench, char **tiles, GError **error)
{
  nf_bench_print_header ("TILES");
  if (!measure_hints (bench, error))
    return FALSE;
  for (guint i = 0; tiles[i]; i++)
    if (!bench_tiles (bench, (guint)g_ascii_strtoull (tiles[i], NULL, 10), error))
      return FALSE;
  return TRUE;
}

/* TILES: NULL if none were asked for, which models of videos have none of. */
static gboolean
check_model (NfBenchDecode *bench, const char *tiles, GError **error)
{
  NfModel *model = nf_session_get_model (bench->session);
  const NfConfig *config = nf_model_get_config (model);
  const char *name = bench->command->model ? bench->command->model : nf_model_get_path (model);
  if (config->layout == NF_PIXELS_LATENT)
    g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                 "%s is a model of another model's latents, which has no pictures: bench decode needs one of "
                 "pixels, such as normflow-yuv420-32; normflow bench step decode -m %s measures this one's "
                 "decoding, token by token",
                 name, name);
  else if (config->frames ? tiles != NULL : bench->frames > 0)
    g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED, "%s is for models of %s, which %s is not",
                 config->frames ? "--tiles" : "--frames", config->frames ? "pictures" : "videos", name);
  else
    return TRUE;
  return FALSE;
}

static gboolean
bench_all (BenchDecode *bench, const char *tiles, char **numbers, GError **error)
{
  NfBenchDecode *base = &bench->base;
  base->session = nf_command_open (base->command, error);
  if (!base->session || !check_model (base, tiles, error))
    return FALSE;
  const NfConfig *config = nf_model_get_config (nf_session_get_model (base->session));
  g_autofree char *drawn
      = g_strdup_printf ("%s drawn from the model", config->frames ? "frames" : "pictures");
  nf_progress_clear (base->command->progress);
  printf ("%s: %u tokens of %u values a %s of %ux%u, %u blocks; latents of %s\n\n",
          nf_model_get_path (nf_session_get_model (base->session)), nf_config_tokens (config),
          nf_config_features (config), config->frames ? "frame" : "tile", nf_config_columns (config),
          nf_config_rows (config), config->n_blocks, base->video ? base->video : drawn);
  return config->frames ? nf_bench_decode_video (base, error) : bench_pictures (bench, numbers, error);
}

int
nf_cmd_bench_decode (int argc, char **argv)
{
  g_auto (NfCommand) command = { 0 };
  BenchDecode bench = { .base = { .command = &command, .seconds = SECONDS } };
  gint64 frames = G_MININT64;
  g_autofree char *tiles = NULL;
  g_auto (GStrv) numbers = NULL;
  g_autoptr (GError) error = NULL;
  const GOptionEntry entries[]
      = { { "tiles", 't', 0, G_OPTION_ARG_STRING, &tiles, "Numbers of tiles side by side (default: 1,8,64)",
            "N,N,…" },
          { "frame", 0, 0, G_OPTION_ARG_INT64, &bench.base.frame,
            "Frame of VIDEO, counted from 0 (default: 0)", "I" },
          { "frames", 'n', 0, G_OPTION_ARG_INT64, &frames,
            "Frames from there on, for models of videos (default: as many as the model sees at a time)",
            "N" },
          { "seconds", 0, 0, G_OPTION_ARG_DOUBLE, &bench.base.seconds,
            "Seconds for each measurement (default: 3)", "S" },
          { "profile", 'p', 0, G_OPTION_ARG_NONE, &bench.base.profile,
            "Where the time goes: each kernel's launches and time on the device", NULL },
          { NULL } };

  if (!nf_command_parse (
          &command, &argc, &argv, entries, NF_COMMAND_MODEL | NF_COMMAND_DEVICE | NF_COMMAND_DECODING,
          "[VIDEO]", "Decodes the same latents by each method.",
          "Tiles are those of a frame of VIDEO, encoded first; without one, pictures that the model draws.\n"
          "For models of videos it is one tile of frames, one after another from a key frame on, without\n"
          "actions. SPEED is against sequential, ENCODES against encoding the same; medians. PASSES are\n"
          "runs of a block's network, ROWS the tokens that went through in all. RESIDUAL is the largest\n"
          "change of a value that was taken before it had settled; DIFFERING 8-bit values are not those\n"
          "that were encoded, by LARGEST at most. \"auto, first\" is what a session takes for its first\n"
          "picture, without hints; \"with hints\" the same with hints measured on four other frames of\n"
          "VIDEO (or other drawn pictures): normflow hints keeps such hints beside a model. \"recalling\"\n"
          "is a draft of such a session that has drafted the frame before --frame, as in a stream;\n"
          "\"unchanged\" if that shows the same. Videos have none of these three. With --method there are\n"
          "only sequential and that one; with --method draft, for pictures, these three, drafting\n"
          "whatever the clock says.",
          0, 1))
    return NF_EXIT_USAGE;
  if (bench.base.frame < 0)
    return nf_command_usage (&command, "--frame takes no negative number");
  if (!nf_settle_number (&frames) || frames > MAX_FRAMES)
    return nf_command_usage (&command, "--frames takes 1 to %d", MAX_FRAMES);
  bench.base.frames = (guint)frames;
  if (!(bench.base.seconds >= 0 && bench.base.seconds <= 3600))
    return nf_command_usage (&command, "--seconds %g is out of range: 0 to 3600", bench.base.seconds);
  numbers = g_strsplit (tiles ? tiles : "1,8,64", ",", -1);
  for (guint i = 0; numbers[i]; i++)
    {
      guint64 n;
      if (!g_ascii_string_to_unsigned (numbers[i], 10, 1, NF_MAX_SIDE / 16, &n, NULL))
        return nf_command_usage (&command, "--tiles takes numbers of 1 to %d, not \"%s\"", NF_MAX_SIDE / 16,
                                 numbers[i]);
    }
  bench.base.video = argc > 1 ? argv[1] : NULL;
  nf_command_catch_signals (&command);
  const gboolean done = bench_all (&bench, tiles, numbers, &error);
  g_clear_object (&bench.base.session);
  if (bench.hints)
    g_unlink (bench.hints);
  g_free (bench.hints);
  return done ? 0 : nf_command_fail (&command, error);
}
