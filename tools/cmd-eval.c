/* normflow eval: bits per dimension of videos and pictures. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "files.h"
#include "json.h"
#include "noise.h"
#include "plot.h"
#include "scan.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <glib/gstdio.h>
#include <json-glib/json-glib.h>

#define NAME "eval"
#define MAX_SIGMAS 8

/* What the command line says; G_MININT64 and NULL: nothing. */
typedef struct
{
  char *json, *plot, *map, *denoise;
  double sigmas[MAX_SIGMAS]; /* that --denoise says, */
  guint n_sigmas;            /* and how many; 0: frames are scored */
  gint64 frames, every, map_frame;
  double holdout;
  gboolean peers, check, actions, scale;
} Options;

static void
options_clear (Options *options)
{
  g_free (options->json);
  g_free (options->plot);
  g_free (options->map);
  g_free (options->denoise);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Options, options_clear)

typedef struct
{
  NfCommand *command;
  const Options *options;
  NfScan scan;
  NfSession *session;
  NfStream *stream;         /* of a model of videos, else NULL */
  NfStream *decoder;        /* of --check, likewise */
  NfProgress *progress;     /* not owned */
  NfMediaPeers *peers;      /* NULL without --peers */
  NfDecodeOptions decoding; /* of --check */
  FILE *out;                /* of words */
  FILE *json; /* open once there is a line to write: what was there before stays until then; NULL: not yet, or
                 no lines */

  /* Of the file at work. */
  const char *path;
  char *scaled; /* to what size and from which, in words; NULL: not scaled */
  char *name;   /* to show: the path as it was given, or from the given folder on */
  GArray *seconds;
  GArray *bits;
  GArray *png;
  GArray *ffv1;
  double dims;
  double model_bits;
  double png_bits;
  double ffv1_bits;
  double encode_seconds;
  double decode_seconds;
  guint64 wrong_frames;
  guint64 wrong_samples;

  /* Of all files. */
  guint n_scored;
  double all_dims;
  double all_model_bits;
  double all_png_bits;
  double all_ffv1_bits;
  guint64 all_wrong_frames;

  /* The map to draw: of the frame that was asked for, or of the worst one. */
  double map_score;
  NfPicture *map_picture;
  NfGrid map_grid;
  float *map;
  char *map_name;
} Eval;

static void
eval_clear (Eval *eval)
{
  g_clear_object (&eval->session);
  g_clear_object (&eval->stream);
  g_clear_object (&eval->decoder);
  g_free (eval->name);
  g_free (eval->scaled);
  g_clear_pointer (&eval->peers, nf_media_peers_free);
  g_clear_pointer (&eval->seconds, g_array_unref);
  g_clear_pointer (&eval->bits, g_array_unref);
  g_clear_pointer (&eval->png, g_array_unref);
  g_clear_pointer (&eval->ffv1, g_array_unref);
  g_clear_pointer (&eval->map_picture, nf_picture_unref);
  g_free (eval->map);
  g_free (eval->map_name);
  if (eval->options->json && eval->json)
    fclose (eval->json);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Eval, eval_clear)

static gboolean
open_json (Eval *eval, GError **error)
{
  if (!eval->options->json || eval->json)
    return TRUE;
  eval->json = g_fopen (eval->options->json, "w");
  if (eval->json)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "--json %s: %s", eval->options->json, g_strerror (errno));
  return FALSE;
}

static gboolean
write_line (Eval *eval, JsonBuilder *builder, GError **error)
{
  g_autofree char *text = NULL;

  if (!open_json (eval, error))
    return FALSE;
  if (!eval->json)
    return TRUE;
  json_builder_end_object (builder);
  text = nf_json_text (builder, FALSE);
  if (fprintf (eval->json, "%s\n", text) < 0 || fflush (eval->json) != 0)
    {
      g_set_error (error, NF_ERROR, errno == EPIPE ? NF_ERROR_CANCELLED : NF_ERROR_WRITE,
                   "the lines of JSON cannot be written: %s", g_strerror (errno));
      return FALSE;
    }
  return TRUE;
}

/* Samples in which two frames of one size differ. */
static guint64
count_wrong (const NfPicture *a, const NfPicture *b)
{
  guint64 wrong = 0;

  if (!memcmp (a->data, b->data, a->size))
    return 0;
  for (gsize i = 0; i < a->size; i++)
    wrong += a->data[i] != b->data[i];
  return wrong;
}

/* Decodes FRAME; *WRONG is how many samples did not come back, if it is one of those asked for. */
static gboolean
check_frame (Eval *eval, const NfScanFrame *frame, guint64 *wrong, GError **error)
{
  const NfPicture *picture = frame->picture;
  g_autoptr (NfPicture) decoded = nf_picture_new_like (picture);
  gint64 start = g_get_monotonic_time ();

  memset (decoded->data, 0, decoded->size);
  eval->decoding.corrections = &frame->corrections;
  if (eval->decoder ? !nf_stream_decode (eval->decoder, frame->latents, frame->action, FALSE, &eval->decoding,
                                         &decoded->frame, error)
                    : !nf_session_decode_frame (eval->session, frame->latents, -1, &eval->decoding,
                                                &decoded->frame, error))
    return FALSE;
  nf_command_keep_residual (eval->command, eval->decoder ? NULL : eval->session, eval->decoder);
  if (frame->between)
    return TRUE;
  eval->decode_seconds += (double)(g_get_monotonic_time () - start) / G_USEC_PER_SEC;
  *wrong = count_wrong (picture, decoded);
  eval->wrong_samples += *wrong;
  eval->wrong_frames += *wrong > 0;
  if (*wrong)
    nf_progress_note (eval->progress,
                      "%s, frame %" G_GUINT64_FORMAT ": %" G_GUINT64_FORMAT " of %" G_GSIZE_FORMAT
                      " samples came back changed",
                      eval->path, picture->index, *wrong, picture->size);
  return TRUE;
}

static gboolean
eval_frame (const NfScanFrame *frame, gpointer data, GError **error)
{
  Eval *eval = data;
  NfPicture *picture = frame->picture;
  const NfScore *score = &frame->score;
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  double seconds = isfinite (picture->seconds) ? picture->seconds : (double)picture->index;
  guint64 wrong;

  if (eval->options->scale && !eval->scaled)
    {
      const NfMediaInfo *from = nf_media_reader_get_info (frame->reader);

      eval->scaled = g_strdup_printf (" of %ux%u (scaled from %ux%u)", picture->frame.width,
                                      picture->frame.height, from->width, from->height);
    }
  if (frame->between)
    return !eval->options->check || check_frame (eval, frame, &wrong, error);
  json_builder_begin_object (builder);
  nf_json_add_string (builder, "file", eval->name);
  nf_json_add_int (builder, "frame", picture->index);
  nf_json_add_double (builder, "pts", picture->seconds);
  nf_json_add_double (builder, "bits_per_dim", score->bits_per_dim);
  nf_json_add_double (builder, "log_likelihood", score->log_likelihood);
  nf_json_add_double (builder, "log_prior", score->log_prior);
  nf_json_add_double (builder, "log_det", score->log_det);
  nf_json_add_int (builder, "dims", score->num_dims);
  g_array_append_val (eval->seconds, seconds);
  g_array_append_val (eval->bits, score->bits_per_dim);
  eval->dims += (double)score->num_dims;
  eval->model_bits += score->bits_per_dim * (double)score->num_dims;
  eval->encode_seconds += frame->seconds;

  if (eval->peers)
    {
      NfMediaBits bits;
      double png, ffv1;

      if (!nf_media_peers_measure (eval->peers, &picture->frame, &bits, error))
        return FALSE;
      png = (double)bits.png / (double)score->num_dims;
      ffv1 = (double)bits.ffv1 / (double)score->num_dims;
      g_array_append_val (eval->png, png);
      g_array_append_val (eval->ffv1, ffv1);
      eval->png_bits += (double)bits.png;
      eval->ffv1_bits += (double)bits.ffv1;
      nf_json_add_int (builder, "png_bits", bits.png);
      nf_json_add_int (builder, "ffv1_bits", bits.ffv1);
    }
  if (eval->options->check)
    {
      if (!check_frame (eval, frame, &wrong, error))
        return FALSE;
      nf_json_add_int (builder, "differing", wrong);
    }

  if (eval->options->map
      && (eval->options->map_frame < 0 ? score->bits_per_dim > eval->map_score
                                       : picture->index == (guint64)eval->options->map_frame))
    {
      g_clear_pointer (&eval->map_picture, nf_picture_unref);
      g_free (eval->map);
      g_free (eval->map_name);
      eval->map_score = score->bits_per_dim;
      eval->map_picture = nf_picture_ref (picture);
      eval->map_grid = frame->grid;
      eval->map
          = g_memdup2 (frame->map, (gsize)frame->grid.grid_width * frame->grid.grid_height * sizeof (float));
      eval->map_name = g_strdup (eval->name);
    }
  return write_line (eval, builder, error);
}

static const NfConfig *
get_config (const Eval *eval)
{
  return nf_model_get_config (nf_session_get_model (eval->session));
}

static gboolean
is_noisy (const Eval *eval)
{
  return nf_config_is_noisy (get_config (eval));
}

/* Whether scores are no bits of 8-bit samples: streams add noise and take its entropy off; to pictures none
 * is added, and theirs are the density of noisy samples at what has none. */
static gboolean
is_density (const Eval *eval)
{
  return !eval->stream && is_noisy (eval);
}

static void
print_summary (const Eval *eval)
{
  FILE *out = eval->out;
  guint n = eval->bits->len;
  g_autofree double *sorted = nf_scan_sorted ((const double *)(gpointer)eval->bits->data, n);
  double mean = eval->model_bits / eval->dims;

  fprintf (out,
           "%s: %u frame%s%s, %.4f bits/dim (median %.4f, 5 %% %.4f, 95 %% %.4f), %.2f frames/s encoded\n",
           eval->name, n, n == 1 ? "" : "s", eval->scaled ? eval->scaled : "", mean,
           nf_scan_quantile (sorted, n, 0.5), nf_scan_quantile (sorted, n, 0.05),
           nf_scan_quantile (sorted, n, 0.95), n / MAX (eval->encode_seconds, 1e-9));
  if (eval->peers && is_density (eval))
    fprintf (
        out,
        "  PNG %.4f bits/sample, FFV1 %.4f\n"
        "  (this model's noise is Gaussian: its bits/dim are of the density that it gives noisy samples from "
        "-1 to 1, at the frame as it is, and do not compare)\n",
        eval->png_bits / eval->dims, eval->ffv1_bits / eval->dims);
  else if (eval->peers)
    fprintf (out, "  PNG %.4f bits/sample (flow %+.1f %%), FFV1 %.4f (flow %+.1f %%)\n",
             eval->png_bits / eval->dims, 100 * (eval->model_bits / eval->png_bits - 1),
             eval->ffv1_bits / eval->dims, 100 * (eval->model_bits / eval->ffv1_bits - 1));
  if (eval->peers && !is_density (eval) && is_noisy (eval))
    fprintf (
        out,
        "  (this model's noise hides bits of a sample: the flow does not count those, PNG and FFV1 do)\n");
  if (eval->options->check)
    fprintf (out,
             "  decoded at %.2f frames/s: %s (%" G_GUINT64_FORMAT " frame%s, %" G_GUINT64_FORMAT
             " sample%s differ)\n",
             n / MAX (eval->decode_seconds, 1e-9),
             eval->wrong_frames ? "NOT lossless" : "every byte came back", eval->wrong_frames,
             eval->wrong_frames == 1 ? "" : "s", eval->wrong_samples, eval->wrong_samples == 1 ? "" : "s");
}

static void
reset_file (Eval *eval, const char *path)
{
  eval->path = path;
  g_clear_pointer (&eval->scaled, g_free);
  g_free (eval->name);
  eval->name = g_filename_display_name (path);
  if (eval->decoder)
    nf_stream_reset (eval->decoder);
  g_array_set_size (eval->seconds, 0);
  g_array_set_size (eval->bits, 0);
  g_array_set_size (eval->png, 0);
  g_array_set_size (eval->ffv1, 0);
  eval->dims = eval->model_bits = eval->png_bits = eval->ffv1_bits = 0;
  eval->encode_seconds = eval->decode_seconds = 0;
  eval->wrong_frames = eval->wrong_samples = 0;
}

static gboolean
plot_file (const Eval *eval, const char *path, GError **error)
{
  g_autofree char *title = g_strdup_printf ("Bits per dimension of %s", eval->name);
  const double *x = (const double *)(gpointer)eval->seconds->data;
  NfPlotCurve curves[3]
      = { { "flow", x, (const double *)(gpointer)eval->bits->data, eval->bits->len, TRUE },
          { "FFV1, intra", x, (const double *)(gpointer)eval->ffv1->data, eval->ffv1->len, FALSE },
          { "PNG", x, (const double *)(gpointer)eval->png->data, eval->png->len, FALSE } };

  return nf_plot_curves (path, title, eval->name, "time in s", "bits per sample", curves,
                         eval->peers && !is_density (eval) ? 3 : 1, error);
}

/* Denoising */

typedef struct
{
  char *filters;
  NfMediaFilter *filter;
  double error; /* sum of squared differences */
} Strength;

typedef struct
{
  double sigma;
  double noisy;
  double flow;
  double seconds;
  GArray *hqdn3d; /* of Strength */
  GArray *nlmeans;
} Noise;

typedef struct
{
  NfSession *session;
  GPtrArray *noises; /* of Noise */
  guint width;
  guint height;
  double samples;
  guint frames;
} Denoise;

static void
strength_clear (gpointer data)
{
  Strength *strength = data;

  nf_media_filter_free (strength->filter);
  g_free (strength->filters);
}

static void
noise_free (gpointer data)
{
  Noise *noise = data;

  g_array_unref (noise->hqdn3d);
  g_array_unref (noise->nlmeans);
  g_free (noise);
}

static void
add_strength (GArray *strengths, char *filters)
{
  Strength strength = { .filters = filters };

  g_array_append_val (strengths, strength);
}

/* Strengths around where each filter is best for noise of SIGMA; the best is picked afterwards by PSNR, which
 * favours the peers. */
static Noise *
noise_new (double sigma)
{
  static const double hqdn3d[] = { 1, 2, 3, 4.5, 7 }, nlmeans[] = { 0.4, 0.6, 0.8, 1.1 };
  double steps = sigma * 127.5;
  Noise *noise = g_new0 (Noise, 1);

  noise->sigma = sigma;
  noise->hqdn3d = g_array_new (FALSE, TRUE, sizeof (Strength));
  noise->nlmeans = g_array_new (FALSE, TRUE, sizeof (Strength));
  g_array_set_clear_func (noise->hqdn3d, strength_clear);
  g_array_set_clear_func (noise->nlmeans, strength_clear);
  for (guint i = 0; i < G_N_ELEMENTS (hqdn3d); i++)
    {
      char s[G_ASCII_DTOSTR_BUF_SIZE];

      g_ascii_formatd (s, sizeof s, "%.3f", hqdn3d[i] * steps);
      /* Without and with its filter over time; it takes 0 for "not given". */
      add_strength (noise->hqdn3d, g_strdup_printf ("hqdn3d=%s:%s:0.001:0.001", s, s));
      add_strength (noise->hqdn3d, g_strdup_printf ("hqdn3d=%s:%s:%s:%s", s, s, s, s));
    }
  for (guint i = 0; i < G_N_ELEMENTS (nlmeans); i++)
    {
      char s[G_ASCII_DTOSTR_BUF_SIZE];

      g_ascii_formatd (s, sizeof s, "%.3f", CLAMP (nlmeans[i] * steps, 1, 30));
      add_strength (noise->nlmeans, g_strdup_printf ("nlmeans=s=%s", s));
    }
  return noise;
}

static gboolean
run_strengths (GArray *strengths, const NfPicture *clean, const NfPicture *noisy, GError **error)
{
  for (guint i = 0; i < strengths->len; i++)
    {
      Strength *strength = &g_array_index (strengths, Strength, i);
      g_autoptr (NfPicture) filtered = NULL;

      if (!strength->filter)
        strength->filter = nf_media_filter_new (strength->filters, clean->layout, clean->frame.width,
                                                clean->frame.height, error);
      filtered = strength->filter ? nf_media_filter_run (strength->filter, &noisy->frame, error) : NULL;
      if (!filtered)
        return FALSE;
      strength->error += nf_picture_squared_error (clean, filtered);
    }
  return TRUE;
}

static gboolean
denoise_frame (const NfScanFrame *frame, gpointer data, GError **error)
{
  Denoise *denoise = data;
  const NfPicture *clean = frame->picture;

  if (denoise->frames && (clean->frame.width != denoise->width || clean->frame.height != denoise->height))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED, "frames change size within the file");
      return FALSE;
    }
  denoise->width = clean->frame.width;
  denoise->height = clean->frame.height;
  denoise->samples += (double)clean->size;
  denoise->frames++;
  for (guint i = 0; i < denoise->noises->len; i++)
    {
      Noise *noise = denoise->noises->pdata[i];
      g_autoptr (NfPicture) noisy = nf_picture_add_noise (clean, noise->sigma, 0);
      g_autoptr (NfPicture) cleaned = nf_picture_new_like (clean);
      gint64 start = g_get_monotonic_time ();

      noise->noisy += nf_picture_squared_error (clean, noisy);
      if (!nf_session_denoise_frame (denoise->session, &noisy->frame, noise->sigma, &cleaned->frame, error))
        return FALSE;
      noise->seconds += (double)(g_get_monotonic_time () - start) / G_USEC_PER_SEC;
      noise->flow += nf_picture_squared_error (clean, cleaned);
      if (!run_strengths (noise->hqdn3d, clean, noisy, error)
          || !run_strengths (noise->nlmeans, clean, noisy, error))
        return FALSE;
    }
  return TRUE;
}

static const Strength *
best_strength (const GArray *strengths)
{
  const Strength *best = &g_array_index (strengths, Strength, 0);

  for (guint i = 1; i < strengths->len; i++)
    if (g_array_index (strengths, Strength, i).error < best->error)
      best = &g_array_index (strengths, Strength, i);
  return best;
}

static gboolean
denoise_file (Eval *eval, GError **error)
{
  const Options *options = eval->options;
  Denoise denoise = { .session = eval->session };
  g_autoptr (GPtrArray) noises = g_ptr_array_new_with_free_func (noise_free);
  NfScan plain = eval->scan;

  plain.score = FALSE;
  denoise.noises = noises;
  for (guint i = 0; i < options->n_sigmas; i++)
    g_ptr_array_add (noises, noise_new (options->sigmas[i]));
  if (!nf_scan_file (eval->session, eval->path, &plain, eval->progress, denoise_frame, &denoise, error))
    return FALSE;
  nf_progress_clear (eval->progress);
  for (guint i = 0; i < noises->len; i++)
    {
      const Noise *noise = noises->pdata[i];
      const Strength *hqdn3d = best_strength (noise->hqdn3d), *nlmeans = best_strength (noise->nlmeans);
      double noisy = nf_psnr (noise->noisy, denoise.samples), flow = nf_psnr (noise->flow, denoise.samples);
      double h = nf_psnr (hqdn3d->error, denoise.samples), n = nf_psnr (nlmeans->error, denoise.samples);
      g_autofree char *before = nf_words ("%.2f", noisy), *by_flow = nf_words ("%.2f", flow),
                      *by_hqdn3d = nf_words ("%.2f", h), *by_nlmeans = nf_words ("%.2f", n),
                      *flow_gain = nf_words ("%+.2f", flow - noisy),
                      *hqdn3d_gain = nf_words ("%+.2f", h - noisy),
                      *nlmeans_gain = nf_words ("%+.2f", n - noisy);

      fprintf (eval->out,
               "%s: sigma %g, %u frame%s: noisy %s dB; flow %s (%s, %.2f frames/s), %s %s (%s), "
               "%s %s (%s)\n",
               eval->name, noise->sigma, denoise.frames, denoise.frames == 1 ? "" : "s", before, by_flow,
               flow_gain, denoise.frames / MAX (noise->seconds, 1e-9), hqdn3d->filters, by_hqdn3d,
               hqdn3d_gain, nlmeans->filters, by_nlmeans, nlmeans_gain);
      if (eval->options->json)
        {
          g_autoptr (JsonBuilder) builder = json_builder_new ();

          json_builder_begin_object (builder);
          nf_json_add_string (builder, "file", eval->name);
          nf_json_add_double (builder, "sigma", noise->sigma);
          nf_json_add_int (builder, "frames", denoise.frames);
          nf_json_add_double (builder, "psnr_noisy", noisy);
          nf_json_add_double (builder, "psnr_flow", flow);
          nf_json_add_double (builder, "psnr_hqdn3d", h);
          nf_json_add_double (builder, "psnr_nlmeans", n);
          if (!write_line (eval, builder, error))
            return FALSE;
        }
    }
  return TRUE;
}

static gboolean
parse_sigmas (const char *text, double sigmas[MAX_SIGMAS], guint *n, GError **error)
{
  g_auto (GStrv) parts = g_strsplit (text, ",", -1);

  for (*n = 0; parts[*n]; (*n)++)
    {
      char *end = NULL;
      double sigma = g_ascii_strtod (parts[*n], &end);

      if (end == parts[*n] || *end || !(sigma > 0 && sigma <= 1) || *n >= MAX_SIGMAS)
        {
          g_set_error (
              error, NF_ERROR, NF_ERROR_ARGUMENT,
              "--denoise %s: up to %d numbers above 0, up to 1, with commas between them, such as 0.02,0.05",
              text, MAX_SIGMAS);
          return FALSE;
        }
      sigmas[*n] = sigma;
    }
  if (*n)
    return TRUE;
  g_set_error_literal (error, NF_ERROR, NF_ERROR_ARGUMENT, "--denoise needs a number such as 0.05");
  return FALSE;
}

/* Of several files, each has a plot and the name of the file in its name, the NUMBER-th of that name. */
static char *
plot_path (const char *path, const char *file, guint number, guint n_files)
{
  g_autofree char *name = g_path_get_basename (file);
  const char *dot = strrchr (path, '.');
  char *last;

  if (n_files < 2)
    return g_strdup (path);
  last = strrchr (name, '.');
  if (last)
    *last = '\0';
  if (number > 1)
    {
      char *numbered = g_strdup_printf ("%s-%u", name, number);

      g_free (name);
      name = numbered;
    }
  return dot && !strchr (dot, G_DIR_SEPARATOR)
             ? g_strdup_printf ("%.*s-%s%s", (int)(dot - path), path, name, dot)
             : g_strdup_printf ("%s-%s", path, name);
}

/* Where plots of FILES go, each somewhere else though names of files may be alike. */
static GPtrArray *
plot_paths (const char *path, const GPtrArray *files)
{
  g_autoptr (GPtrArray) paths = g_ptr_array_new_with_free_func (g_free);

  for (guint i = 0; i < files->len; i++)
    {
      char *found = plot_path (path, files->pdata[i], 1, files->len);

      for (guint n = 2; g_ptr_array_find_with_equal_func (paths, found, g_str_equal, NULL); n++)
        {
          g_free (found);
          found = plot_path (path, files->pdata[i], n, files->len);
        }
      g_ptr_array_add (paths, found);
    }
  return g_steal_pointer (&paths);
}

/* No output may take the place of what is read, or of another one. */
static gboolean
check_places (const Eval *eval, const GPtrArray *files, const GPtrArray *plots, GError **error)
{
  const Options *options = eval->options;
  g_autoptr (GPtrArray) inputs = g_ptr_array_new_with_free_func (g_free), outputs = g_ptr_array_new ();

  for (guint i = 0; i < files->len; i++)
    {
      g_ptr_array_add (inputs, g_strdup (files->pdata[i]));
      if (options->actions)
        g_ptr_array_add (inputs, g_strconcat (files->pdata[i], NF_ACTIONS_SUFFIX, NULL));
    }
  g_ptr_array_add (outputs, options->map);
  for (guint i = 0; plots && i < plots->len; i++)
    g_ptr_array_add (outputs, plots->pdata[i]);
  return nf_command_check_outputs (eval->command, options->json, outputs, inputs, error);
}

/* All that PATHS name; with HOLDOUT the pictures among them that training keeps away, and all videos. */
static GPtrArray *
list_files (const char *const *paths, double holdout, GError **error)
{
  g_autoptr (GPtrArray) named = nf_media_list (paths, error);
  if (!named || holdout == 0)
    return g_steal_pointer (&named);
  g_autoptr (GPtrArray) files = nf_media_list_once (paths, error), pictures = g_ptr_array_new ();
  for (guint i = 0; files && i < files->len; i++)
    if (nf_media_is_picture (files->pdata[i]))
      g_ptr_array_add (pictures, files->pdata[i]);
  if (!files)
    return NULL;
  g_autoptr (GHashTable) held = nf_scan_held_pictures (pictures, holdout),
                         seen = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  GPtrArray *kept = g_ptr_array_new_with_free_func (g_free);
  /* by the names that they were given */
  for (guint i = 0; i < named->len; i++)
    {
      char *path = g_canonicalize_filename (named->pdata[i], NULL);
      const gboolean wanted = !nf_media_is_picture (path) || g_hash_table_contains (held, path);
      if (g_hash_table_add (seen, path) && wanted)
        g_ptr_array_add (kept, g_strdup (named->pdata[i]));
    }
  if (kept->len > 0)
    return kept;
  g_ptr_array_unref (kept);
  g_set_error (error, NF_ERROR, NF_ERROR_NOT_FOUND,
               "--holdout %g: a single picture of a folder is trained on, and there is nothing else",
               holdout);
  return NULL;
}

/* Says what is wrong; FALSE means NF_EXIT_USAGE, as it does of the checks that follow. */
static gboolean
parse (NfCommand *command, Options *options, int *argc, char ***argv)
{
  const GOptionEntry entries[] = {
    { "frames", 'n', 0, G_OPTION_ARG_INT64, &options->frames, "At most N frames of each file", "N" },
    { "every", 0, 0, G_OPTION_ARG_INT64, &options->every, "Every K-th frame", "K" },
    { "holdout", 0, 0, G_OPTION_ARG_DOUBLE, &options->holdout,
      "Only the last share of each video and of each folder's pictures, as train holds it out", "SHARE" },
    { "json", 0, 0, G_OPTION_ARG_FILENAME, &options->json,
      "Write the lines of JSON to FILE (default: standard output)", "FILE" },
    { "plot", 0, 0, G_OPTION_ARG_FILENAME, &options->plot, "Curve over time", "FILE.png" },
    { "map", 0, 0, G_OPTION_ARG_FILENAME, &options->map,
      "Bits of each patch over the frame with the highest score", "FILE.png" },
    { "map-frame", 0, 0, G_OPTION_ARG_INT64, &options->map_frame, "Number of the frame to map instead", "N" },
    { "peers", 0, 0, G_OPTION_ARG_NONE, &options->peers,
      "Also report what FFV1 (intra) and PNG take, in bits per sample", NULL },
    { "check", 0, 0, G_OPTION_ARG_NONE, &options->check, "Decode each frame and compare every byte", NULL },
    { "actions", 0, 0, G_OPTION_ARG_NONE, &options->actions,
      "Tell a model of videos the actions in FILE.actions.ndjson beside each video", NULL },
    { "scale", 0, 0, G_OPTION_ARG_NONE, &options->scale,
      "Scale frames to the size of a model of videos, as training does", NULL },
    { "denoise", 0, 0, G_OPTION_ARG_STRING, &options->denoise,
      "Instead of scores: PSNR after removing noise of SIGMA ([-1, 1] scale), beside hqdn3d and "
      "nlmeans at their best strength",
      "SIGMA,…" },
    { NULL }
  };
  return nf_command_parse (
      command, argc, argv, entries, NF_COMMAND_MODEL | NF_COMMAND_DEVICE | NF_COMMAND_DECODING,
      "FILE|FOLDER…", "Scores frames: bits per dimension under a flow, one line of JSON each, and a summary.",
      NULL, 1, G_MAXINT);
}

/* Which frames are scored, and which of them is drawn. */
static gboolean
check_frames (NfCommand *command, Options *options)
{
  const gint64 map_frame = options->map_frame;

  if (!nf_settle_number (&options->frames) || options->every < 1
      || !(options->holdout >= 0 && options->holdout < 1))
    nf_command_usage (command, "--frames and --every take 1 or more, --holdout from 0 to less than 1");
  else if (map_frame != G_MININT64 && !options->map)
    nf_command_usage (command, "--map-frame says what --map draws: give both");
  else if (map_frame != G_MININT64 && map_frame < 0)
    nf_command_usage (command, "--map-frame takes no negative number");
  /* where the held-out share begins is known of each file later */
  else if (map_frame >= 0 && !(options->holdout > 0)
           && (map_frame % options->every != 0
               || (options->frames && map_frame / options->every >= options->frames)))
    nf_command_usage (
        command, "--map-frame %" G_GINT64_FORMAT " is not one of the frames that --every and --frames choose",
        map_frame);
  else
    return TRUE;
  return FALSE;
}

static gboolean
check_options (NfCommand *command, Options *options)
{
  const char *of_scores = options->check   ? "check"
                          : options->peers ? "peers"
                          : options->plot  ? "plot"
                          : options->map   ? "map"
                                           : NULL;
  g_autoptr (GError) error = NULL;

  if (command->decodes && !options->check)
    nf_command_usage (command, "--%s says how --check decodes: give both", command->decodes);
  else if ((options->denoise && !parse_sigmas (options->denoise, options->sigmas, &options->n_sigmas, &error))
           || !nf_check_ending (options->plot, "png", &error)
           || !nf_check_ending (options->map, "png", &error)
           || !nf_check_ending (options->json, "json", &error))
    nf_command_usage (command, "%s", error->message);
  else if (options->n_sigmas && of_scores)
    nf_command_usage (command, "--denoise has no scores: not with --%s", of_scores);
  else if (options->n_sigmas && options->actions)
    nf_command_usage (command, "--actions is for all frames in a row: not with --denoise");
  else
    return TRUE;
  return FALSE;
}

static void
eval_init (Eval *eval, NfCommand *command, const Options *options)
{
  /* Lines of JSON and words never mix on one stream. */
  const gboolean lines = !options->json && !options->n_sigmas;

  *eval = (Eval){ .command = command,
                  .options = options,
                  .scan = { .score = TRUE,
                            .may_scale = TRUE,
                            .scale = options->scale,
                            .actions = options->actions,
                            .frames = (guint64)options->frames,
                            .every = (guint64)options->every,
                            .holdout = options->holdout },
                  .progress = command->progress,
                  .decoding = command->decoding,
                  .out = lines ? stderr : stdout,
                  .json = lines ? stdout : NULL,
                  .seconds = g_array_new (FALSE, FALSE, sizeof (double)),
                  .bits = g_array_new (FALSE, FALSE, sizeof (double)),
                  .png = g_array_new (FALSE, FALSE, sizeof (double)),
                  .ffv1 = g_array_new (FALSE, FALSE, sizeof (double)),
                  .map_score = -INFINITY };
  eval->decoding.snap = TRUE;
}

/* Opens the model and, of one of videos, its streams. */
static gboolean
open_model (Eval *eval, GError **error)
{
  NfCommand *command = eval->command;
  const Options *options = eval->options;

  eval->session = nf_command_open (command, error);
  if (!eval->session)
    return FALSE;
  if (options->n_sigmas
          ? !nf_command_check_pictures (command, eval->session, "--denoise", NF_VIDEOS_KEEP_NOISE,
                                        NF_MODEL_NOISY, error)
          : !nf_command_open_stream (command, eval->session, &eval->stream, error)
                || (eval->stream && options->check
                    && !nf_command_open_decoder (command, eval->session, &eval->decoder, error)))
    return FALSE;
  eval->scan.stream = eval->stream;
  if (!nf_command_check_stream (command, eval->stream, options->scale ? "scale" : NULL, error))
    return FALSE;
  if (options->peers)
    eval->peers = nf_media_peers_new (get_config (eval)->layout);
  return TRUE;
}

/* If the file is wrong that is said, and others go on; FALSE if something else is. */
static gboolean
eval_file (Eval *eval, const char *path, const char *plot, GError **error)
{
  const gboolean denoise = eval->options->n_sigmas > 0;
  g_autoptr (GError) local = NULL;

  reset_file (eval, path);
  if (denoise ? !denoise_file (eval, &local)
              : !nf_scan_file (eval->session, path, &eval->scan, eval->progress, eval_frame, eval, &local))
    {
      if (nf_media_is_of_file (local))
        {
          nf_command_fail (eval->command, local);
          return TRUE;
        }
      g_propagate_error (error, g_steal_pointer (&local));
      return FALSE;
    }
  eval->n_scored++;
  if (denoise)
    return TRUE;
  nf_progress_clear (eval->progress);
  print_summary (eval);
  eval->all_dims += eval->dims;
  eval->all_model_bits += eval->model_bits;
  eval->all_png_bits += eval->png_bits;
  eval->all_ffv1_bits += eval->ffv1_bits;
  eval->all_wrong_frames += eval->wrong_frames;
  return !plot || plot_file (eval, plot, error);
}

static void
print_total (const Eval *eval, guint n_files)
{
  const double dims = eval->all_dims, mean = eval->all_model_bits / dims;

  if (eval->n_scored < n_files)
    fprintf (eval->out, "%u of %u files: %.4f bits/dim", eval->n_scored, n_files, mean);
  else
    fprintf (eval->out, "all %u files: %.4f bits/dim", n_files, mean);
  if (eval->peers)
    fprintf (eval->out, "; PNG %.4f, FFV1 %.4f bits/sample", eval->all_png_bits / dims,
             eval->all_ffv1_bits / dims);
  fputs ("\n", eval->out);
}

static gboolean
plot_map (const Eval *eval, GError **error)
{
  g_autofree char *title = NULL;

  if (!eval->map)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "--map-frame %" G_GINT64_FORMAT ": that frame was not scored", eval->options->map_frame);
      return FALSE;
    }
  title = g_strdup_printf ("%s, frame %" G_GUINT64_FORMAT ": %.3f bits/dim", eval->map_name,
                           eval->map_picture->index, eval->map_score);
  return nf_plot_map (eval->options->map, title, eval->map_name, "bits per sample", eval->map_picture,
                      eval->map, eval->map_grid.grid_width, eval->map_grid.grid_height,
                      get_config (eval)->patch_size, error);
}

static gboolean
close_json (Eval *eval, GError **error)
{
  if (!open_json (eval, error))
    return FALSE;
  if (!eval->options->json || fclose (g_steal_pointer (&eval->json)) == 0)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "--json %s: %s", eval->options->json, g_strerror (errno));
  return FALSE;
}

/* Scores, or with --denoise denoises, what PATHS name. Returns: the exit status. */
static int
eval_files (NfCommand *command, const Options *options, const char *const *paths)
{
  g_auto (Eval) eval;
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) files = NULL, plots = NULL;

  eval_init (&eval, command, options);
  files = list_files (paths, options->holdout, &error);
  if (!files)
    return nf_command_fail (command, error);
  plots = options->plot ? plot_paths (options->plot, files) : NULL;
  if (options->n_sigmas && !command->model)
    command->model = g_strdup (NF_MODEL_NOISY);
  if (!check_places (&eval, files, plots, &error) || !open_model (&eval, &error))
    return nf_command_fail (command, error);
  for (guint i = 0; i < files->len; i++)
    if (!eval_file (&eval, files->pdata[i], plots ? plots->pdata[i] : NULL, &error))
      return nf_command_fail (command, error);
  if (!eval.n_scored)
    return NF_EXIT_FAILED;
  if (files->len > 1 && !options->n_sigmas)
    print_total (&eval, files->len);
  if ((options->map && !plot_map (&eval, &error)) || !close_json (&eval, &error))
    return nf_command_fail (command, error);
  nf_command_tell_residual (command);
  return eval.all_wrong_frames || eval.n_scored < files->len ? NF_EXIT_FAILED : 0;
}

int
nf_cmd_eval (int argc, char **argv)
{
  if (argc > 1 && strcmp (argv[1], "world") == 0)
    {
      argv[1] = (char *)"eval world";
      return nf_cmd_eval_world (argc - 1, argv + 1);
    }

  g_auto (NfCommand) command = { .name = NAME };
  g_auto (Options) options = { .frames = G_MININT64, .every = 1, .map_frame = G_MININT64 };

  if (!parse (&command, &options, &argc, &argv) || !check_frames (&command, &options)
      || !check_options (&command, &options))
    return NF_EXIT_USAGE;
  return eval_files (&command, &options, (const char *const *)argv + 1);
}
