/* normflow encode: video to latents. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "files.h"
#include "latents.h"
#include "media-look.h"
#include "scan.h"
#include "times.h"

#include <stdio.h>

typedef struct
{
  NfCommand *command;
  const char *input;
  const char *output;
  NfScan scan;
  int context;        /* of a model of videos, -1 for what streams have */
  NfLatentsInfo info; /* of the file, its strings not owned */
  NfSession *session;
  NfLatentsWriter *writer; /* from the first frame on */
  guint64 n_frames;
  guint64 n_doubtful;     /* of them, those of nf_score_get_doubt(); */
  guint64 first_doubtful; /* the number of the first, */
  NfDoubt doubt;          /* and why */
  NfTimes times;
  double bits;    /* of all frames */
  double seconds; /* spent on encoding */
  char *scaled;   /* from what size, in words, */
  char *look;     /* and how samples are meant then; NULL: as they are */
} Encode;

static void
encode_clear (Encode *encode)
{
  g_clear_object (&encode->session);
  g_clear_object (&encode->scan.stream);
  g_free (encode->scaled);
  g_free (encode->look);
  g_clear_pointer (&encode->writer, nf_latents_writer_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Encode, encode_clear)

static gboolean
open_writer (Encode *encode, const NfScanFrame *frame, GError **error)
{
  const NfMediaInfo *media = nf_media_reader_get_info (frame->reader);
  const guint width = frame->picture->frame.width, height = frame->picture->frame.height;
  g_autofree char *loss = nf_media_reader_describe_loss (frame->reader);

  if (loss && !encode->command->quiet)
    nf_progress_note (encode->command->progress,
                      "normflow encode: note: %s is %s; decoding gives back exactly that", encode->input,
                      loss);
  if (encode->scan.scale)
    {
      encode->scaled = g_strdup_printf (" (scaled from %ux%u)", media->width, media->height);
      encode->look = nf_look_scale (media->look, media->width, media->height, width, height);
    }
  encode->info.width = width;
  encode->info.height = height;
  encode->info.rate_n = media->rate_n;
  encode->info.rate_d = media->rate_d;
  encode->info.look = encode->look ? encode->look : (char *)media->look;
  encode->info.text = (char *)nf_session_get_text_digest (encode->session);
  encode->writer
      = nf_latents_writer_open (encode->output, nf_session_get_model (encode->session), &encode->info, error);
  return encode->writer != NULL;
}

static gboolean
put_frame (const NfScanFrame *frame, gpointer data, GError **error)
{
  Encode *encode = data;
  const NfPicture *picture = frame->picture;
  const NfLatentsInfo *info = &encode->info;

  if (!encode->writer && !open_writer (encode, frame, error))
    return FALSE;
  if (picture->frame.width != info->width || picture->frame.height != info->height)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   "%s: frame %" G_GUINT64_FORMAT
                   " is %ux%u, but the video began with %ux%u; a latents file holds frames of one size",
                   encode->input, picture->index, picture->frame.width, picture->frame.height, info->width,
                   info->height);
      return FALSE;
    }
  if (!nf_latents_writer_put (encode->writer, frame->latents, frame->action, &frame->corrections,
                              frame->score.bits_per_dim, error))
    {
      g_prefix_error (error, "%s, frame %" G_GUINT64_FORMAT ": ", encode->input, picture->index);
      return FALSE;
    }
  /* halves go without corrections */
  const NfDoubt doubt = info->half ? nf_score_get_doubt (&frame->score) : NF_DOUBT_NONE;
  if (doubt != NF_DOUBT_NONE && encode->n_doubtful++ == 0)
    {
      encode->first_doubtful = picture->index;
      encode->doubt = doubt;
    }
  nf_times_watch (&encode->times, nf_media_reader_get_info (frame->reader), picture);
  encode->seconds += frame->seconds;
  encode->bits += frame->score.bits_per_dim;
  encode->n_frames++;
  return TRUE;
}

/* What is for models of videos alone. */
static gboolean
open_stream (Encode *encode, GError **error)
{
  NfScan *scan = &encode->scan;
  const char *option = encode->context >= 0 ? "context"
                       : scan->key_int_max  ? "key-int-max"
                       : scan->actions      ? "actions"
                       : scan->scale        ? "scale"
                                            : NULL;

  if (!nf_command_open_stream (encode->command, encode->session, &scan->stream, error)
      || !nf_command_check_stream (encode->command, scan->stream, option, error))
    return FALSE;
  encode->info.context = -1;
  if (!scan->stream)
    return TRUE;
  if (encode->context >= 0 && !nf_stream_set_context (scan->stream, (guint)encode->context, error))
    return FALSE;
  encode->info.context = (int)nf_stream_get_context (scan->stream);
  encode->info.key_int_max = scan->key_int_max;
  if (scan->actions)
    encode->info.action_dim = nf_model_get_config (nf_session_get_model (encode->session))->action_dim;
  return TRUE;
}

static gboolean
encode_file (Encode *encode, GError **error)
{
  g_autofree char *size = NULL;

  if (!nf_check_output (encode->output, encode->input, error)
      || !nf_command_check_output (encode->command, encode->output, error))
    return FALSE;
  encode->session = nf_command_open (encode->command, error);
  if (!encode->session || !open_stream (encode, error)
      || !nf_scan_file (encode->session, encode->input, &encode->scan, encode->command->progress, put_frame,
                        encode, error)
      || !nf_latents_writer_close (encode->writer, error))
    return FALSE;

  if (encode->n_doubtful)
    nf_progress_note (encode->command->progress,
                      "normflow encode: note: %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
                      " frames of %s may not come back in every byte; the first, frame %" G_GUINT64_FORMAT
                      ", has %s%s; normflow eval --check tells",
                      encode->n_doubtful, encode->n_frames, encode->input, encode->first_doubtful,
                      nf_doubt_describe (encode->doubt),
                      encode->doubt == NF_DOUBT_PRECISION ? ": see --precision" : "");
  nf_times_tell (&encode->times, encode->command, encode->input, "decoding writes", encode->info.rate_n,
                 encode->info.rate_d);
  nf_progress_clear (encode->command->progress);
  size = g_format_size_full (nf_latents_writer_get_bytes (encode->writer), G_FORMAT_SIZE_IEC_UNITS);
  if (!encode->command->quiet)
    printf ("%" G_GUINT64_FORMAT " frame%s of %ux%u%s, %.4f bits/dim, %.2f frames/s, %s in %s\n",
            encode->n_frames, encode->n_frames == 1 ? "" : "s", encode->info.width, encode->info.height,
            encode->scaled ? encode->scaled : "", encode->bits / (double)encode->n_frames,
            (double)encode->n_frames / MAX (encode->seconds, 1e-6), size, encode->output);
  return TRUE;
}

int
nf_cmd_encode (int argc, char **argv)
{
  g_auto (NfCommand) command = { 0 };
  g_auto (Encode) encode
      = { .command = &command, .scan = { .every = 1, .score = TRUE, .may_scale = TRUE }, .context = -1 };
  g_autoptr (GError) error = NULL;
  gint64 frames = G_MININT64;
  int key_int_max = 0, context = G_MININT;
  const GOptionEntry entries[]
      = { { "frames", 'n', 0, G_OPTION_ARG_INT64, &frames, "At most this many frames (default: all)", "N" },
          { "half", 0, 0, G_OPTION_ARG_NONE, &encode.info.half,
            "Half precision: half the size, but decoding is no longer exact", NULL },
          { "actions", 0, 0, G_OPTION_ARG_NONE, &encode.scan.actions,
            "Tell a model of videos the actions in VIDEO.actions.ndjson, and keep them with the latents",
            NULL },
          { "scale", 0, 0, G_OPTION_ARG_NONE, &encode.scan.scale,
            "Scale frames to the size of a model of videos, as training does", NULL },
          { "context", 0, 0, G_OPTION_ARG_INT, &context,
            "Frames that a model of videos keeps when its window is full (default: half of them)", "N" },
          { "key-int-max", 0, 0, G_OPTION_ARG_INT, &key_int_max,
            "With a model of videos: code every N-th frame by itself, so that decoding can begin there "
            "(default: only the first)",
            "N" },
          { NULL } };

  if (!nf_command_parse (
          &command, &argc, &argv, entries, NF_COMMAND_MODEL | NF_COMMAND_DEVICE, "VIDEO LATENTS.safetensors",
          "Takes a video or picture to Gaussian latents, with the score of each frame.",
          "Latents are numbers of single precision, larger than the video: a representation, not "
          "compression.\n"
          "The file is safetensors: latents (frames, rows, columns, features), bits_per_dim (frames).\n"
          "A model of videos codes each frame given those before it; frames must have its size, or "
          "be\nscaled to it with --scale.",
          2, 2))
    return NF_EXIT_USAGE;
  if (!nf_settle_number (&frames) || key_int_max < 0 || (context != G_MININT && context < 0))
    return nf_command_usage (&command,
                             "--frames takes 1 or more, --context and --key-int-max no negative numbers");
  if (!nf_check_ending (argv[2], "safetensors", &error))
    return nf_command_usage (&command, "%s", error->message);
  encode.context = MAX (context, -1);
  encode.input = argv[1];
  encode.output = argv[2];
  encode.scan.frames = (guint64)frames;
  encode.scan.key_int_max = (guint)key_int_max;
  return encode_file (&encode, &error) ? 0 : nf_command_fail (&command, error);
}
