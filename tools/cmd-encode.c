/* normflow encode: video to latents. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "latents.h"
#include "media.h"

#include <stdio.h>

typedef struct
{
  NfCommand *command;
  const char *input;
  const char *output;
  gboolean half;
  guint64 limit; /* frames, 0 for all */
  guint64 n_frames;
  double bits;    /* of all frames */
  double seconds; /* spent on encoding */
} Encode;

static void
tell (Encode *encode, guint64 total)
{
  const guint64 n = encode->n_frames;
  g_autofree char *of = total > n ? g_strdup_printf (" of %" G_GUINT64_FORMAT, total) : g_strdup ("");

  nf_progress_update (encode->command->progress,
                      "frame %" G_GUINT64_FORMAT "%s, %.4f bits/dim, %.2f frames/s", n, of,
                      encode->bits / (double)n, (double)n / MAX (encode->seconds, 1e-6));
}

static gboolean
encode_frames (Encode *encode, NfSession *session, NfMediaReader *reader, NfLatentsWriter *writer,
               const NfMediaInfo *media, GError **error)
{
  const NfConfig *config = nf_model_get_config (nf_session_get_model (session));
  const guint64 total = encode->limit && (!media->n_frames || encode->limit < media->n_frames)
                            ? encode->limit
                            : media->n_frames;
  g_autofree float *latents = NULL;
  NfGrid grid;

  if (!nf_grid_init (&grid, config, media->width, media->height, error))
    return FALSE;
  latents = g_new (float, nf_grid_latents (&grid));
  while (!encode->limit || encode->n_frames < encode->limit)
    {
      g_autoptr (GError) local = NULL;
      g_autoptr (NfPicture) picture = NULL;
      gint64 start;
      NfScore score;

      if (!nf_command_go_on (encode->command, error))
        return FALSE;
      picture = nf_media_reader_next (reader, &local);
      if (local)
        {
          g_propagate_error (error, g_steal_pointer (&local));
          return FALSE;
        }
      if (!picture)
        break;
      if (picture->frame.width != media->width || picture->frame.height != media->height)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                       "%s: frame %" G_GUINT64_FORMAT
                       " is %u×%u, but the video began with %u×%u; a latents file holds frames of one size",
                       encode->input, picture->index, picture->frame.width, picture->frame.height,
                       media->width, media->height);
          return FALSE;
        }
      start = g_get_monotonic_time ();
      if (!nf_session_encode_frame (session, &picture->frame, latents, &score, NULL, error)
          || !nf_latents_writer_put (writer, latents, score.bits_per_dim, error))
        {
          g_prefix_error (error, "%s, frame %" G_GUINT64_FORMAT ": ", encode->input, picture->index);
          return FALSE;
        }
      encode->seconds += (double)(g_get_monotonic_time () - start) / G_USEC_PER_SEC;
      encode->bits += score.bits_per_dim;
      encode->n_frames++;
      tell (encode, total);
    }
  return TRUE;
}

static gboolean
encode_file (Encode *encode, GError **error)
{
  g_autoptr (NfSession) session = NULL;
  g_autoptr (NfMediaReader) reader = NULL;
  g_autoptr (NfLatentsWriter) writer = NULL;
  g_autofree char *size = NULL;
  NfLatentsInfo info = { .half = encode->half };
  NfMediaInfo media;

  if (!nf_check_output (encode->output, encode->input, error))
    return FALSE;
  session = nf_command_open (encode->command, error);
  if (!session)
    return FALSE;
  reader = nf_media_reader_open (encode->input, nf_model_get_config (nf_session_get_model (session))->layout,
                                 error);
  if (!reader)
    return FALSE;
  media = *nf_media_reader_get_info (reader);
  g_autofree char *loss = encode->command->quiet ? NULL : nf_media_reader_describe_loss (reader);
  if (loss)
    fprintf (stderr, "normflow encode: note: %s is %s; decoding gives back exactly that\n", encode->input,
             loss);
  info.width = media.width;
  info.height = media.height;
  info.rate_n = media.rate_n;
  info.rate_d = media.rate_d;
  writer = nf_latents_writer_open (encode->output, nf_session_get_model (session), &info, error);
  if (!writer || !encode_frames (encode, session, reader, writer, &media, error)
      || !nf_latents_writer_close (writer, error))
    return FALSE;

  nf_progress_clear (encode->command->progress);
  if (nf_media_reader_get_damaged (reader))
    fprintf (stderr, "normflow encode: %s: %" G_GUINT64_FORMAT " damaged packets skipped\n", encode->input,
             nf_media_reader_get_damaged (reader));
  size = g_format_size_full (nf_latents_writer_get_bytes (writer), G_FORMAT_SIZE_IEC_UNITS);
  if (!encode->command->quiet)
    printf ("%" G_GUINT64_FORMAT " frames of %ux%u, %.4f bits/dim, %.2f frames/s, %s in %s\n",
            encode->n_frames, media.width, media.height, encode->bits / (double)encode->n_frames,
            (double)encode->n_frames / MAX (encode->seconds, 1e-6), size, encode->output);
  return TRUE;
}

int
nf_cmd_encode (int argc, char **argv)
{
  g_auto (NfCommand) command = { 0 };
  Encode encode = { .command = &command };
  g_autoptr (GError) error = NULL;
  gint64 frames = 0;
  const GOptionEntry entries[]
      = { { "frames", 'n', 0, G_OPTION_ARG_INT64, &frames, "At most so many frames (default: all)", "N" },
          { "half", 0, 0, G_OPTION_ARG_NONE, &encode.half,
            "Half precision: half the size, decoding is no longer exact", NULL },
          { NULL } };

  if (!nf_command_parse (
          &command, &argc, &argv, entries, NF_COMMAND_MODEL | NF_COMMAND_DEVICE, "VIDEO LATENTS.safetensors",
          "Takes a video or picture to Gaussian latents, with the score of each frame.",
          "Latents are numbers of single precision, larger than the video: a representation, no "
          "compression.\n"
          "The file is safetensors: latents (frames, rows, columns, features), bits_per_dim (frames).",
          2, 2))
    return NF_EXIT_USAGE;
  if (frames < 0)
    return nf_command_usage (&command, "--frames takes no negative number");
  encode.input = argv[1];
  encode.output = argv[2];
  encode.limit = (guint64)frames;
  return encode_file (&encode, &error) ? 0 : nf_command_fail (&command, error);
}
