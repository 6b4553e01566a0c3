/* normflow: video that a sub-command writes. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "output.h"
#include "files.h"

#include <stdio.h>
#include <string.h>

#include <glib/gstdio.h>

struct _NfOutput
{
  char *path;
  char *input;     /* or NULL */
  char *temporary; /* NULL for sequences, and once it has its name */
  NfMediaWriter *writer;
  guint64 n_frames;
  gboolean said; /* why it cannot be completed */
};

void
nf_output_free (NfOutput *self)
{
  g_clear_pointer (&self->writer, nf_media_writer_free);
  if (self->temporary)
    g_unlink (self->temporary);
  g_free (self->temporary);
  g_free (self->path);
  g_free (self->input);
  g_free (self);
}

/* Errors speak of the file that was asked for. */
static gboolean
result (NfOutput *self, gboolean done, GError *local, GError **error)
{
  if (done)
    return TRUE;
  if (self->temporary)
    nf_error_rename (local, self->temporary, self->path);
  g_propagate_error (error, local);
  return FALSE;
}

/* The next picture of a sequence must not take the place of what is read. */
static gboolean
check_next (const NfOutput *self, GError **error)
{
  g_autofree char *name = self->input && nf_media_is_sequence (self->path)
                              ? nf_media_picture_name (self->path, self->n_frames)
                              : NULL;

  return !name || nf_check_output (name, self->input, error);
}

static void
note_times (NfCommand *command, const char *path, int rate_n, int rate_d)
{
  const char *coarse = nf_media_writer_describe_times (path, rate_n, rate_d);

  if (coarse && !command->quiet)
    nf_progress_note (command->progress,
                      "normflow %s: note: %s does not hold the times of %.6g frames a second: %s; .mp4, .mov "
                      "and .y4m do",
                      command->name, path, (double)rate_n / rate_d, coarse);
}

NfOutput *
nf_output_open (NfCommand *command, const char *path, const char *input, NfPixelLayout layout, guint width,
                guint height, int rate_n, int rate_d, const char *look, GError **error)
{
  g_autoptr (NfOutput) self = g_new0 (NfOutput, 1);
  GError *local = NULL;

  self->path = g_strdup (path);
  self->input = g_strdup (input);
  if (!nf_check_output (path, input, error) || (command && !nf_command_check_output (command, path, error)))
    return NULL;
  if (!check_next (self, error))
    return NULL;
  if (!nf_media_is_sequence (self->path))
    {
      self->temporary = nf_temporary_name (path, error);
      if (!self->temporary)
        return NULL;
    }
  self->writer = nf_media_writer_open (self->temporary ? self->temporary : path, layout, width, height,
                                       rate_n, rate_d, look, &local);
  if (!result (self, self->writer != NULL, local, error))
    return NULL;
  if (command)
    note_times (command, path, rate_n, rate_d);
  return g_steal_pointer (&self);
}

gboolean
nf_output_put (NfOutput *self, const NfFrame *frame, GError **error)
{
  GError *local = NULL;
  gboolean done;

  if (self->n_frames == 1 && nf_media_is_picture (self->path) && !nf_media_is_sequence (self->path))
    {
      g_set_error (
          error, NF_ERROR, NF_ERROR_ARGUMENT,
          "%s: is one picture, but there are more frames; put one %%04d into its name for a sequence, or "
          "ask for one frame",
          self->path);
      return FALSE;
    }
  if (!check_next (self, error))
    return FALSE;
  done = nf_media_writer_put (self->writer, frame, &local);
  self->n_frames += done;
  return result (self, done, local, error);
}

static gboolean
publish (NfOutput *self, GError **error)
{
  GError *local = NULL;
  const gboolean done = !self->temporary || nf_publish (self->temporary, self->path, &local);
  if (!result (self, done, local, error))
    return FALSE;
  g_clear_pointer (&self->temporary, g_free);
  return TRUE;
}

gboolean
nf_output_close (NfOutput *self, GError **error)
{
  GError *local = NULL;
  const gboolean done = nf_media_writer_close (self->writer, &local);
  self->said = !(result (self, done, local, error) && publish (self, error));
  return !self->said;
}

/* Where frames of what was not completed go: a fragment takes the place of no file that is there. */
static char *
fragment_path (const NfOutput *self, const char *beside)
{
  if (!self->temporary || !g_file_test (self->path, G_FILE_TEST_EXISTS))
    return g_strdup (self->path);
  const char *slash = strrchr (self->path, '/'), *dot = strrchr (slash ? slash : self->path, '.');
  const int stem = dot ? (int)(dot - self->path) : (int)strlen (self->path);
  for (guint i = 1;; i++)
    {
      g_autofree char *number = i > 1 ? g_strdup_printf ("-%u", i) : g_strdup ("");
      g_autofree char *path = g_strdup_printf ("%.*s.partial%s%s", stem, self->path, number, dot ? dot : "");
      g_autofree char *other = g_strconcat (path, beside, NULL);
      if (!g_file_test (path, G_FILE_TEST_EXISTS) && !g_file_test (other, G_FILE_TEST_EXISTS))
        return g_steal_pointer (&path);
    }
}

/* Whether what there is so far can be read without its end. */
static gboolean
can_break_off (NfOutput *self)
{
  GStatBuf status;
  return self->temporary && nf_media_can_break_off (self->path) && g_stat (self->temporary, &status) == 0
         && status.st_size > 0;
}

const char *
nf_output_keep (NfOutput *self, NfCommand *command, const char *beside)
{
  g_autoptr (GError) error = NULL;
  GError *local = NULL;
  g_autofree char *path = fragment_path (self, beside);
  const gboolean said = self->said;
  const char *but = strcmp (path, self->path) == 0 ? "" : ", and the file that was there stays";

  nf_progress_clear (command->progress);
  if (!self->n_frames)
    return NULL;
  g_free (self->path);
  self->path = g_steal_pointer (&path);
  /* without its end, where there is no room for that */
  const gboolean whole = nf_media_writer_close (self->writer, &local), kept = whole || can_break_off (self);
  if (kept)
    g_clear_error (&local);
  if (!result (self, kept, local, &error) || !nf_check_output (self->path, self->input, &error)
      || !(whole ? nf_output_close (self, &error) : publish (self, &error)))
    {
      if (!said)
        fprintf (stderr, "normflow %s: %s\n", command->name, error->message);
      return NULL;
    }
  if (!whole)
    fprintf (stderr, "normflow %s: %s holds the first frames, as many as could be written%s\n", command->name,
             self->path, but);
  else if (self->n_frames == 1)
    fprintf (stderr, "normflow %s: %s holds the first frame%s\n", command->name, self->path, but);
  else
    fprintf (stderr, "normflow %s: %s holds the first %" G_GUINT64_FORMAT " frames%s\n", command->name,
             self->path, self->n_frames, but);
  return self->path;
}

gboolean
nf_output_end (NfOutput *self, gboolean written, NfCommand *command, GError **error)
{
  if (written && nf_output_close (self, error))
    return TRUE;
  nf_output_keep (self, command, NULL);
  return FALSE;
}
