/* normflow hints: hints that speed up decoding single pictures. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "files.h"
#include "media.h"
#include "nf-hints.h"

#include <stdio.h>

#define PICTURES 16
#define MAX_PICTURES 10000

typedef struct
{
  NfCommand *command;
  NfSession *session;
  guint pictures, done;
} Hints;

/* One tile of the picture, another place for each. */
static gboolean
measure_tile (Hints *hints, const NfPicture *picture, GError **error)
{
  const NfConfig *config = nf_model_get_config (nf_session_get_model (hints->session));
  const guint width = MIN (nf_config_columns (config), picture->frame.width),
              height = MIN (nf_config_rows (config), picture->frame.height);
  /* even places, so that chroma samples stay with their pixels */
  const guint x
      = (guint)(nf_random_uniform (1, 0, 2 * hints->done) * (picture->frame.width - width + 1)) & ~1u,
      y = (guint)(nf_random_uniform (1, 0, 2 * hints->done + 1) * (picture->frame.height - height + 1)) & ~1u;
  NfFrame tile = picture->frame;

  tile.width = width;
  tile.height = height;
  for (guint i = 0; i < nf_picture_planes (picture->layout); i++)
    {
      guint left, top;
      nf_picture_extent (picture->layout, i, x, y, &left, &top);
      tile.planes[i].data
          += (gsize)top * (gsize)tile.planes[i].stride + (gsize)left * (gsize)tile.planes[i].step;
    }
  return nf_session_measure_hints (hints->session, &tile, error);
}

/* SHARE frames of a file, evenly apart; those that cannot be decoded are passed over. */
static gboolean
measure_file (Hints *hints, const char *path, guint share, GError **error)
{
  const NfConfig *config = nf_model_get_config (nf_session_get_model (hints->session));
  g_autoptr (NfMediaReader) reader = nf_media_reader_open (path, config->layout, error);
  if (!reader || !nf_media_reader_index (reader, error))
    return FALSE;
  const guint64 frames = MAX (nf_media_reader_get_info (reader)->n_frames, 1);
  share = (guint)MIN (share, frames);
  for (guint i = 0; i < share; i++)
    {
      const guint64 index = (2 * (guint64)i + 1) * frames / (2 * (guint64)share);
      nf_progress_update (hints->command->progress, "picture %u of %u", hints->done + 1, hints->pictures);
      if (!nf_command_go_on (hints->command, error))
        return FALSE;
      g_autoptr (GError) local = NULL;
      g_autoptr (NfPicture) picture
          = nf_media_reader_seek (reader, index, &local) ? nf_media_reader_next (reader, &local) : NULL;
      if (!picture)
        {
          nf_progress_note (hints->command->progress, "%s: frame %" G_GUINT64_FORMAT " cannot be decoded",
                            path, index);
          continue;
        }
      if (!measure_tile (hints, picture, error))
        return FALSE;
      hints->done++;
    }
  return TRUE;
}

static gboolean
check_place (const NfCommand *command, const char *output, const GPtrArray *files, GError **error)
{
  g_autoptr (GPtrArray) outputs = g_ptr_array_new ();

  g_ptr_array_add (outputs, (gpointer)output);
  return nf_command_check_outputs (command, NULL, outputs, files, error);
}

int
nf_cmd_hints (int argc, char **argv)
{
  g_auto (NfCommand) command = { 0 };
  g_autoptr (NfSession) session = NULL;
  g_autoptr (GPtrArray) files = NULL;
  g_autofree char *output = NULL;
  g_autoptr (GError) error = NULL;
  gint pictures = PICTURES;
  const GOptionEntry entries[]
      = { { "output", 'o', 0, G_OPTION_ARG_FILENAME, &output,
            "Write to FILE (default: x.hints.safetensors beside x.safetensors, where it is found)", "FILE" },
          { "pictures", 'n', 0, G_OPTION_ARG_INT, &pictures, "Tiles to measure on (default: 16)", "N" },
          { NULL } };

  if (!nf_command_parse (
          &command, &argc, &argv, entries, NF_COMMAND_MODEL | NF_COMMAND_DEVICE, "FILE|FOLDER…",
          "Measures hints with which a few pictures at a time are decoded in fewer passes, and keeps them "
          "beside the model.",
          "Tiles are taken from frames evenly over all files. Videos and pictures should be like those\n"
          "that will be decoded. Hints decide how long decoding takes, never what comes out: every picture\n"
          "is checked by encoding it.",
          1, G_MAXINT))
    return NF_EXIT_USAGE;
  if (pictures < 1 || pictures > MAX_PICTURES)
    return nf_command_usage (&command, "--pictures takes 1 to %d, not %d", MAX_PICTURES, pictures);
  if (!nf_check_ending (output, "safetensors", &error))
    return nf_command_usage (&command, "%s", error->message);
  files = nf_media_list ((const char *const *)argv + 1, &error);
  if (files && (!output || check_place (&command, output, files, &error)))
    session = nf_command_open (&command, &error);
  if (session && !output)
    {
      output = nf_hints_path_beside (nf_model_get_path (nf_session_get_model (session)));
      check_place (&command, output, files, &error);
    }
  if (session && !error)
    {
      Hints hints = { &command, session, (guint)pictures, 0 };
      const guint n = MIN (files->len, hints.pictures);
      for (guint i = 0; i < n && !error; i++)
        measure_file (&hints, files->pdata[i * files->len / n], (hints.pictures - hints.done) / (n - i),
                      &error);
      if (!error && hints.done == 0)
        g_set_error (&error, NF_ERROR, NF_ERROR_DATA, "there is no frame that can be decoded");
      if (!error)
        nf_session_write_hints (session, output, &error);
      nf_progress_clear (command.progress);
      if (!error && !command.quiet)
        fprintf (stderr, "normflow hints: measured on %u tiles of %u file%s\n", hints.done, n,
                 n == 1 ? "" : "s");
    }
  return error ? nf_command_fail (&command, error) : 0;
}
