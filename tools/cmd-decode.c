/* normflow decode: latents to video. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "latents.h"
#include "output.h"

#include <stdio.h>
#include <string.h>

typedef struct
{
  NfCommand *command;
  const char *input;
  const char *output;
  guint64 first;
  guint64 limit; /* frames, 0 for all */
  guint64 n_frames;
  guint at_once; /* of them, those in work */
  guint64 total;
  gint64 start;
} Decode;

/* Of the frames in work, as sessions tell it. */
static void
tell (const char *phase, double fraction, gpointer data)
{
  const Decode *decode = data;
  const double done = (double)decode->n_frames + decode->at_once * fraction;
  const double seconds = (double)(g_get_monotonic_time () - decode->start) / G_USEC_PER_SEC;

  nf_progress_update (decode->command->progress,
                      "frame %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT ", %3.0f %%, %.2f frames/s",
                      decode->n_frames + 1, decode->total, 100 * done / (double)decode->total,
                      done / MAX (seconds, 1e-6));
}

/* Frames that go through the flow at once. */
typedef struct
{
  guint n;
  GPtrArray *pictures;
  float **latents;            /* n, in one piece of memory */
  GPtrArray *items;           /* n GArrays of NfCorrection, */
  NfCorrections *corrections; /* which these are of */
  NfFrame *frames;
} Group;

static void
group_clear (Group *group)
{
  g_clear_pointer (&group->pictures, g_ptr_array_unref);
  if (group->latents)
    g_free (group->latents[0]);
  g_clear_pointer (&group->latents, g_free);
  g_clear_pointer (&group->items, g_ptr_array_unref);
  g_clear_pointer (&group->corrections, g_free);
  g_clear_pointer (&group->frames, g_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Group, group_clear)

static void
group_init (Group *group, const NfLatentsInfo *info, guint n)
{
  const gsize size = (gsize)info->grid_height * info->grid_width * info->features;

  group->n = n;
  group->pictures = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_picture_unref);
  group->latents = g_new (float *, n);
  group->frames = g_new (NfFrame, n);
  group->latents[0] = g_new (float, n *size);
  group->items = g_ptr_array_new_with_free_func ((GDestroyNotify)g_array_unref);
  group->corrections = g_new0 (NfCorrections, n);
  for (guint i = 0; i < n; i++)
    {
      NfPicture *picture = nf_picture_new (info->layout, info->width, info->height);
      g_ptr_array_add (group->pictures, picture);
      group->frames[i] = picture->frame;
      g_ptr_array_add (group->items, g_array_new (FALSE, FALSE, sizeof (NfCorrection)));
      group->latents[i] = group->latents[0] + i * size;
    }
}

static gboolean
decode_frames (Decode *decode, NfSession *session, NfLatentsReader *reader, NfOutput *output, GError **error)
{
  const NfLatentsInfo *info = nf_latents_reader_get_info (reader);
  NfDecodeOptions options = decode->command->decoding;
  g_auto (Group) group = { 0 };
  /* a budget is a frame's */
  const guint n
      = options.budget_ms > 0 ? 1 : nf_session_get_frames_at_once (session, info->width, info->height, error);

  if (n == 0)
    return FALSE;
  group_init (&group, info, (guint)MIN (n, decode->total));
  options.snap = TRUE;
  options.corrections = group.corrections;
  nf_session_set_progress (session, tell, decode);
  for (decode->start = g_get_monotonic_time (); decode->n_frames < decode->total;
       decode->n_frames += decode->at_once)
    {
      const guint64 first = decode->first + decode->n_frames;
      decode->at_once = (guint)MIN (group.n, decode->total - decode->n_frames);
      if (!nf_command_go_on (decode->command, error))
        return FALSE;
      for (guint i = 0; i < decode->at_once; i++)
        {
          if (!nf_latents_reader_get (reader, first + i, group.latents[i], error))
            return FALSE;
          group.corrections[i]
              = nf_latents_reader_get_corrections (reader, first + i, g_ptr_array_index (group.items, i));
        }
      if (!nf_session_decode_frames (session, (const float *const *)group.latents, decode->at_once, -1,
                                     &options, group.frames, error))
        {
          g_prefix_error (error, "%s, frame %" G_GUINT64_FORMAT ": ", decode->input, first);
          return FALSE;
        }
      for (guint i = 0; i < decode->at_once; i++)
        if (!nf_output_put (output, &group.frames[i], error))
          return FALSE;
      nf_command_keep_residual (decode->command, session, NULL);
    }
  return TRUE;
}

/* Each frame after those that it was predicted from: from the last key frame on. */
static gboolean
decode_stream (Decode *decode, NfStream *stream, NfLatentsReader *reader, NfOutput *output, GError **error)
{
  const NfLatentsInfo *info = nf_latents_reader_get_info (reader);
  const guint64 end = decode->first + decode->total;
  g_autofree float *latents = g_new (float, nf_stream_count_latents (stream)),
                   *action = g_new (float, MAX (info->action_dim, 1));
  g_autoptr (GArray) items = g_array_new (FALSE, FALSE, sizeof (NfCorrection));
  g_autoptr (NfPicture) picture = nf_picture_new (info->layout, info->width, info->height);
  NfDecodeOptions options = decode->command->decoding;

  options.snap = TRUE;
  decode->start = g_get_monotonic_time ();
  for (guint64 i = info->key_int_max ? decode->first - decode->first % info->key_int_max : 0; i < end; i++)
    {
      if (!nf_command_go_on (decode->command, error))
        return FALSE;
      if (i == decode->first)
        decode->start = g_get_monotonic_time ();
      tell ("", 0, decode);
      if (info->key_int_max && i % info->key_int_max == 0)
        nf_stream_reset (stream);
      if (!nf_latents_reader_get (reader, i, latents, error)
          || !nf_latents_reader_get_action (reader, i, action, error))
        return FALSE;
      const NfCorrections corrections = nf_latents_reader_get_corrections (reader, i, items);
      options.corrections = &corrections;
      if (!nf_stream_decode (stream, latents, info->action_dim ? action : NULL, FALSE, &options,
                             &picture->frame, error))
        {
          g_prefix_error (error, "%s, frame %" G_GUINT64_FORMAT ": ", decode->input, i);
          return FALSE;
        }
      if (i >= decode->first && !nf_output_put (output, &picture->frame, error))
        return FALSE;
      nf_command_keep_residual (decode->command, NULL, stream);
      if (i >= decode->first)
        decode->n_frames++;
    }
  return TRUE;
}

/* A stream as the one that encoded, if there was one. */
static gboolean
open_stream (Decode *decode, NfSession *session, const NfLatentsInfo *info, NfStream **stream, GError **error)
{
  if (!nf_command_open_decoder (decode->command, session, stream, error))
    return FALSE;
  if (*stream && !nf_stream_set_context (*stream, (guint)info->context, error))
    {
      g_prefix_error (error, "%s: ", decode->input);
      return FALSE;
    }
  return TRUE;
}

static void
warn_of_ways (const NfLatentsInfo *info, NfSession *session)
{
  NfDevice *device = nf_model_get_device (nf_session_get_model (session));
  const char *precision = nf_device_get_precision (device), *arithmetic = nf_device_get_arithmetic (device),
             *text = nf_session_get_text_digest (session);

  if (info->precision && strcmp (info->precision, precision) != 0)
    fprintf (stderr,
             "normflow decode: these latents were made in %s and are decoded in %s, which may give other "
             "samples back; leave --precision out\n",
             info->precision, precision);
  else if (info->arithmetic && !nf_device_arithmetic_agrees (precision, info->arithmetic, arithmetic))
    fprintf (stderr,
             "normflow decode: these latents were made in %s by %s and are decoded by %s, which may give "
             "other samples back; leave out what asks for that, or take a device that has %s (see: normflow "
             "devices)\n",
             precision, info->arithmetic, arithmetic, info->arithmetic);
  if (info->text && text && strcmp (info->text, text) != 0)
    fprintf (
        stderr,
        "normflow decode: these latents were made with the text features %s, but those of --text are %s, "
        "which give other samples back; %s\n",
        info->text, text,
        strcmp (info->text, NF_NO_TEXT) == 0 ? "leave it out" : "give the file that they were made with");
}

static gboolean
decode_file (Decode *decode, GError **error)
{
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (decode->input, error);
  g_autoptr (NfLatentsReader) reader = file ? nf_latents_reader_open (file, error) : NULL;
  g_autoptr (NfSession) session = NULL;
  g_autoptr (NfStream) stream = NULL;
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
  if (!nf_media_check_look (info->look, error))
    {
      g_prefix_error (error, "%s: ", decode->input);
      return FALSE;
    }
  decode->total = info->n_frames - decode->first;
  if (decode->limit)
    decode->total = MIN (decode->total, decode->limit);
  /* as they were made, unless another way is asked for: only that gives every byte back */
  if (info->precision)
    nf_command_prefer (decode->command, info->precision, info->arithmetic);
  session = nf_command_open (decode->command, error);
  if (!session || !nf_latents_reader_check_model (reader, nf_session_get_model (session), error)
      || !open_stream (decode, session, info, &stream, error))
    return FALSE;
  warn_of_ways (info, session);
  output = nf_output_open (decode->command, decode->output, decode->input, info->layout, info->width,
                           info->height, info->rate_n, info->rate_d, info->look, error);
  if (!output)
    return FALSE;
  const char *loss = nf_media_writer_describe_loss (decode->output, info->layout);
  if (loss && !decode->command->quiet)
    nf_progress_note (decode->command->progress,
                      "normflow decode: note: %s does not hold the very bytes: %s; .mkv does", decode->output,
                      loss);
  const gboolean written = stream ? decode_stream (decode, stream, reader, output, error)
                                  : decode_frames (decode, session, reader, output, error);
  if (!nf_output_end (output, written, decode->command, error))
    return FALSE;

  nf_progress_clear (decode->command->progress);
  if (!decode->command->quiet)
    printf ("%" G_GUINT64_FORMAT " frame%s of %ux%u, %.2f frames/s, in %s\n", decode->n_frames,
            decode->n_frames == 1 ? "" : "s", info->width, info->height,
            (double)decode->n_frames * G_USEC_PER_SEC
                / (double)MAX (g_get_monotonic_time () - decode->start, 1),
            decode->output);
  nf_command_tell_residual (decode->command);
  return TRUE;
}

int
nf_cmd_decode (int argc, char **argv)
{
  g_auto (NfCommand) command = { 0 };
  Decode decode = { .command = &command };
  g_autoptr (GError) error = NULL;
  gint64 first = 0, frames = G_MININT64;
  const GOptionEntry entries[]
      = { { "first", 0, 0, G_OPTION_ARG_INT64, &first, "Begin with this frame, counted from 0 (default: 0)",
            "I" },
          { "frames", 'n', 0, G_OPTION_ARG_INT64, &frames, "At most this many frames (default: all)", "N" },
          { NULL } };

  if (!nf_command_parse (
          &command, &argc, &argv, entries, NF_COMMAND_MODEL | NF_COMMAND_DEVICE | NF_COMMAND_DECODING,
          "LATENTS.safetensors VIDEO", "Takes latents of normflow encode back to the video they came from.",
          "The name of the video says how it is written: .mkv (FFV1, lossless), .y4m (raw; RGB becomes\n"
          "4:2:0), .mp4, .mov (with loss), .png (one picture, or a sequence if the name has %d in it;\n"
          "Y'CbCr becomes RGB). With the model that encoded, decoding gives back the very bytes that were\n"
          "encoded, unless the latents are of half precision or the format of the video cannot hold them.",
          2, 2))
    return NF_EXIT_USAGE;
  if (first < 0 || !nf_settle_number (&frames))
    return nf_command_usage (&command, "--first takes no negative number, --frames 1 or more");
  if (!nf_media_check_name (argv[2], &error))
    return nf_command_usage (&command, "%s", error->message);
  decode.input = argv[1];
  decode.output = argv[2];
  decode.first = (guint64)first;
  decode.limit = (guint64)frames;
  return decode_file (&decode, &error) ? 0 : nf_command_fail (&command, error);
}
