/* normflow decode: latents to video. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "latents.h"
#include "output.h"

#include <stdio.h>

typedef struct
{
  NfCommand *command;
  const char *input;
  const char *output;
  guint64 first;
  guint64 limit; /* frames, 0 for all */
  guint64 n_frames;
  guint64 total;
  gint64 start;
  double residual; /* largest of all frames */
} Decode;

/* Of one frame, as sessions tell it. */
static void
tell (const char *phase, double fraction, gpointer data)
{
  const Decode *decode = data;
  const double done = (double)decode->n_frames + fraction;
  const double seconds = (double)(g_get_monotonic_time () - decode->start) / G_USEC_PER_SEC;

  nf_progress_update (decode->command->progress,
                      "frame %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT ", %3.0f %%, %.2f frames/s",
                      decode->n_frames + 1, decode->total, 100 * done / (double)decode->total,
                      done / MAX (seconds, 1e-6));
}

static gboolean
decode_frames (Decode *decode, NfSession *session, NfLatentsReader *reader, NfOutput *output, GError **error)
{
  const NfLatentsInfo *info = nf_latents_reader_get_info (reader);
  g_autoptr (NfPicture) picture = nf_picture_new (info->layout, info->width, info->height);
  g_autofree float *latents = g_new (float, (gsize)info->grid_height * info->grid_width * info->features);

  NfDecodeOptions options = decode->command->decoding;
  NfDecodeReport report = { 0 };

  options.snap = TRUE;
  nf_session_set_progress (session, tell, decode);
  for (decode->start = g_get_monotonic_time (); decode->n_frames < decode->total; decode->n_frames++)
    {
      if (!nf_command_go_on (decode->command, error))
        return FALSE;
      nf_latents_reader_get (reader, decode->first + decode->n_frames, latents);
      if (!nf_session_decode_frame (session, latents, -1, &options, &picture->frame, error)
          || !nf_output_put (output, &picture->frame, error))
        {
          g_prefix_error (error, "frame %" G_GUINT64_FORMAT ": ", decode->first + decode->n_frames);
          return FALSE;
        }
      nf_session_get_decode_report (session, &report);
      decode->residual = MAX (decode->residual, report.residual);
    }
  return TRUE;
}

static gboolean
decode_file (Decode *decode, GError **error)
{
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (decode->input, error);
  g_autoptr (NfLatentsReader) reader = file ? nf_latents_reader_open (file, error) : NULL;
  g_autoptr (NfSession) session = NULL;
  g_autoptr (NfOutput) output = NULL;
  const NfLatentsInfo *info;

  if (!reader)
    return FALSE;
  info = nf_latents_reader_get_info (reader);
  if (decode->first >= info->n_frames)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "%s holds %" G_GUINT64_FORMAT " frames, counted from 0: --first %" G_GUINT64_FORMAT
                   " is beyond them",
                   decode->input, info->n_frames, decode->first);
      return FALSE;
    }
  decode->total = info->n_frames - decode->first;
  if (decode->limit)
    decode->total = MIN (decode->total, decode->limit);
  session = nf_command_open (decode->command, error);
  if (!session || !nf_latents_reader_check_model (reader, nf_session_get_model (session), error))
    return FALSE;
  output = nf_output_open (decode->output, decode->input, info->layout, info->width, info->height,
                           info->rate_n, info->rate_d, error);
  if (!output)
    return FALSE;
  if (!decode_frames (decode, session, reader, output, error))
    {
      nf_progress_clear (decode->command->progress);
      nf_output_keep (output, decode->command->name);
      return FALSE;
    }
  if (!nf_output_close (output, error))
    return FALSE;

  nf_progress_clear (decode->command->progress);
  if (!decode->command->quiet)
    printf ("%" G_GUINT64_FORMAT " frames of %ux%u, %.2f frames/s, in %s\n", decode->n_frames, info->width,
            info->height,
            (double)decode->n_frames * G_USEC_PER_SEC
                / (double)MAX (g_get_monotonic_time () - decode->start, 1),
            decode->output);
  if (decode->residual > 0)
    fprintf (stderr,
             "normflow decode: values that were taken before they had settled were off by up to %.3g\n",
             decode->residual);
  return TRUE;
}

int
nf_cmd_decode (int argc, char **argv)
{
  g_auto (NfCommand) command = { 0 };
  Decode decode = { .command = &command };
  g_autoptr (GError) error = NULL;
  gint64 first = 0, frames = 0;
  const GOptionEntry entries[]
      = { { "first", 0, 0, G_OPTION_ARG_INT64, &first, "Begin with this frame, counted from 0 (default: 0)",
            "I" },
          { "frames", 'n', 0, G_OPTION_ARG_INT64, &frames, "At most so many frames (default: all)", "N" },
          { NULL } };

  if (!nf_command_parse (
          &command, &argc, &argv, entries, NF_COMMAND_MODEL | NF_COMMAND_DEVICE | NF_COMMAND_DECODING,
          "LATENTS.safetensors VIDEO", "Takes latents of normflow encode back to the video they came from.",
          "The name of the video says how it is written: .mkv (FFV1, lossless), .y4m (raw), "
          ".mp4, .mov, .png\n"
          "(one picture, or a sequence if the name has %d in it). It takes the model that "
          "encoded, and gives\n"
          "back the very bytes that were encoded, unless the latents are of half precision.",
          2, 2))
    return NF_EXIT_USAGE;
  if (first < 0 || frames < 0)
    return nf_command_usage (&command, "--first and --frames take no negative numbers");
  decode.input = argv[1];
  decode.output = argv[2];
  decode.first = (guint64)first;
  decode.limit = (guint64)frames;
  return decode_file (&decode, &error) ? 0 : nf_command_fail (&command, error);
}
