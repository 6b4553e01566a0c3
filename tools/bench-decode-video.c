/* normflow bench decode: frames of a model of videos. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench-decode.h"

#include "nf-stream-private.h"

#include <math.h>
#include <stdio.h>

static const NfDecodeMethod all_methods[] = { NF_DECODE_SEQUENTIAL, NF_DECODE_JACOBI, NF_DECODE_AUTO };

typedef struct
{
  NfBenchDecode *bench;
  NfStream *stream;
  GPtrArray *frames, *decoded; /* NfPictures, the first of them a key frame */
  float *latents;              /* of all of them */
  GPtrArray *corrections;      /* of each, GArrays of NfCorrection */
  const NfDecodeOptions *options;
} Video;

/* Frames of the video, its first tile of each, up to as many as are wanted. */
static gboolean
read_frames (Video *self, guint wanted, GError **error)
{
  const NfBenchDecode *bench = self->bench;
  const NfConfig *config = nf_model_get_config (nf_session_get_model (bench->session));
  g_autoptr (NfMediaReader) reader = nf_media_reader_open (bench->video, config->layout, error);

  if (!reader || !nf_media_reader_seek (reader, (guint64)bench->frame, error))
    return FALSE;
  while (self->frames->len < wanted)
    {
      g_autoptr (GError) problem = NULL;
      g_autoptr (NfPicture) picture = nf_bench_read (bench, reader, &problem);
      if (problem)
        {
          g_propagate_error (error, g_steal_pointer (&problem));
          return FALSE;
        }
      if (!picture)
        break;
      g_ptr_array_add (self->frames,
                       nf_bench_line_up (picture, nf_config_columns (config), nf_config_rows (config), 1));
    }
  if (self->frames->len > 0 && (self->frames->len == wanted || !bench->frames))
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
               "%s has %u frames from frame %" G_GINT64_FORMAT " on, not %u: give --frames or --frame less",
               bench->video, self->frames->len, bench->frame, wanted);
  return FALSE;
}

static gboolean
draw_frames (Video *self, guint wanted, GError **error)
{
  static const NfDecodeOptions options = { .snap = TRUE };
  const NfConfig *config = nf_model_get_config (nf_session_get_model (self->bench->session));

  while (self->frames->len < wanted)
    {
      g_autoptr (NfPicture) picture
          = nf_picture_new (config->layout, nf_config_columns (config), nf_config_rows (config));
      nf_progress_update (self->bench->command->progress, "drawing frames, %u of %u", self->frames->len + 1,
                          wanted);
      if (!nf_command_go_on (self->bench->command, error)
          || !nf_stream_sample (self->stream, 1, (guint64)self->bench->frame + self->frames->len, 1, NULL,
                                &options, NULL, &picture->frame, error))
        return FALSE;
      g_ptr_array_add (self->frames, g_steal_pointer (&picture));
    }
  return TRUE;
}

/* All frames there (without options) or back, from a key frame on. */
static gboolean
run_frames (Video *self, NfDecodeReport *report, double *seconds, GError **error)
{
  const gsize n = nf_stream_count_latents (self->stream);

  *report = (NfDecodeReport){ 0 };
  nf_stream_reset (self->stream);
  const gint64 start = g_get_monotonic_time ();
  for (guint i = 0; i < self->frames->len; i++)
    {
      const NfPicture *frame = g_ptr_array_index (self->frames, i),
                      *decoded = g_ptr_array_index (self->decoded, i);
      NfDecodeReport of_frame = { 0 };
      GArray *items = g_ptr_array_index (self->corrections, i);
      NfCorrections corrections = { (const NfCorrection *)(gpointer)items->data, items->len };
      NfDecodeOptions options = self->options ? *self->options : (NfDecodeOptions){ 0 };
      options.corrections = &corrections;
      if (!nf_command_go_on (self->bench->command, error)
          || !(self->options ? nf_stream_decode (self->stream, self->latents + i * n, NULL, FALSE, &options,
                                                 &decoded->frame, error)
                             : nf_stream_encode (self->stream, &frame->frame, NULL, self->latents + i * n,
                                                 NULL, NULL, error)))
        return FALSE;
      if (!self->options)
        {
          nf_stream_get_corrections (self->stream, &corrections);
          g_array_set_size (items, 0);
          g_array_append_vals (items, corrections.items, (guint)corrections.n);
        }
      if (self->options)
        nf_stream_get_decode_report (self->stream, &of_frame);
      report->passes += of_frame.passes;
      report->rows += of_frame.rows;
      report->residual = MAX (report->residual, of_frame.residual);
    }
  *seconds = (double)(g_get_monotonic_time () - start) / G_USEC_PER_SEC;
  return TRUE;
}

static gboolean
run (gpointer data, NfDecodeReport *report, double *seconds, GPtrArray **times, GError **error)
{
  Video *self = data;
  NfOps *ops = self->stream->ops;
  if (times && !nf_ops_start_profile (ops, error))
    return FALSE;
  if (!run_frames (self, report, seconds, error))
    return FALSE;
  return !times || (*times = nf_ops_end_profile (ops, error)) != NULL;
}

static gboolean
measure_methods (Video *self, const NfDecodeMethod *methods, guint n_methods, GError **error)
{
  NfBenchDecode *bench = self->bench;
  const guint n = self->frames->len;
  NfBenchRow encoding = { 0 }, rows[G_N_ELEMENTS (all_methods)] = { 0 };
  double sequential = NAN;

  gboolean done = nf_bench_row_measure (&encoding, bench, TRUE, run, self, error);
  if (done)
    nf_bench_row_print (&encoding, bench, n, "(encode)", 0, 0);
  for (guint i = 0; i < n_methods && done; i++)
    {
      const char *name = nf_decode_method_name (methods[i]);
      NfDecodeOptions options = bench->command->decoding;
      options.method = methods[i];
      options.snap = TRUE;
      self->options = &options;
      nf_progress_update (bench->command->progress, "%u frames, %s", n, name);
      done = nf_bench_row_measure (&rows[i], bench, TRUE, run, self, error);
      self->options = NULL;
      if (!done)
        break;
      for (guint f = 0; f < n; f++)
        nf_bench_row_compare (&rows[i], g_ptr_array_index (self->frames, f),
                              g_ptr_array_index (self->decoded, f));
      if (methods[i] == NF_DECODE_SEQUENTIAL)
        sequential = rows[i].seconds;
      nf_bench_row_print (&rows[i], bench, n, name, sequential, encoding.seconds);
    }
  for (guint i = 0; i <= n_methods; i++)
    {
      g_autofree char *what = g_strdup_printf ("%u %s, %s", n, n == 1 ? "frame" : "frames",
                                               i ? nf_decode_method_name (methods[i - 1]) : "encode");
      nf_bench_row_print_profile (i ? &rows[i - 1] : &encoding, what);
    }
  return done;
}

gboolean
nf_bench_decode_video (NfBenchDecode *bench, GError **error)
{
  const NfConfig *config = nf_model_get_config (nf_session_get_model (bench->session));
  const guint wanted = bench->frames ? bench->frames : config->frames;
  const NfDecodeMethod asked[] = { NF_DECODE_SEQUENTIAL, bench->command->decoding.method };
  Video video = { .bench = bench };
  g_autoptr (NfStream) stream = NULL;
  g_autoptr (GPtrArray) frames = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_picture_unref),
                        decoded = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_picture_unref);

  if (!nf_command_open_decoder (bench->command, bench->session, &stream, error))
    return FALSE;
  video.stream = stream;
  video.frames = frames;
  video.decoded = decoded;
  if (!(bench->video ? read_frames (&video, wanted, error) : draw_frames (&video, wanted, error)))
    return FALSE;
  for (guint i = 0; i < frames->len; i++)
    g_ptr_array_add (decoded, nf_picture_new_like (g_ptr_array_index (frames, i)));
  g_autofree float *latents = g_new (float, nf_stream_count_latents (stream) * frames->len);
  video.latents = latents;
  g_autoptr (GPtrArray) corrections = g_ptr_array_new_with_free_func ((GDestroyNotify)g_array_unref);
  for (guint i = 0; i < frames->len; i++)
    g_ptr_array_add (corrections, g_array_new (FALSE, FALSE, sizeof (NfCorrection)));
  video.corrections = corrections;
  nf_bench_print_header ("FRAMES");
  if (asked[1] == NF_DECODE_AUTO)
    return measure_methods (&video, all_methods, G_N_ELEMENTS (all_methods), error);
  return measure_methods (&video, asked, asked[1] == NF_DECODE_SEQUENTIAL ? 1 : 2, error);
}
