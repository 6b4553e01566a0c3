/* normflow: actions beside a video. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-actions.h"

#include <errno.h>
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <json-glib/json-glib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_ACTION 65535
#define MAX_LINE 4096

/* Reading */

/* A member that must be a whole number of 0 to MAX. */
static gboolean
get_number (JsonObject *object, const char *name, gint64 max, gint64 *value, GError **error)
{
  JsonNode *node = json_object_get_member (object, name);
  if (!node || !JSON_NODE_HOLDS_VALUE (node) || json_node_get_value_type (node) != G_TYPE_INT64)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "\"%s\" is not there, or is not a whole number", name);
      return FALSE;
    }
  *value = json_node_get_int (node);
  if (*value < 0 || *value > max)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT,
                   "\"%s\" is %" G_GINT64_FORMAT ", not 0 to %" G_GINT64_FORMAT, name, *value, max);
      return FALSE;
    }
  return TRUE;
}

static gboolean
read_line (JsonParser *parser, const char *line, guint max_action, GArray *actions, GError **error)
{
  g_autoptr (GError) json_error = NULL;
  gint64 frame, action;
  if (!json_parser_load_from_data (parser, line, -1, &json_error))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "not JSON: %s", json_error->message);
      return FALSE;
    }
  JsonNode *root = json_parser_get_root (parser);
  if (!root || !JSON_NODE_HOLDS_OBJECT (root))
    {
      g_set_error_literal (error, NF_ERROR, NF_ERROR_FORMAT, "not a JSON object");
      return FALSE;
    }
  JsonObject *object = json_node_get_object (root);
  if (!get_number (object, "frame", G_MAXINT64, &frame, error)
      || !get_number (object, "action", max_action, &action, error))
    return FALSE;
  if (frame != actions->len)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT,
                   "frame %" G_GINT64_FORMAT " where frame %u should be: frames count from 0 without a gap",
                   frame, actions->len);
      return FALSE;
    }
  const guint value = (guint)action;
  g_array_append_val (actions, value);
  return TRUE;
}

GArray *
nf_actions_read (const char *path, guint n_actions, GError **error)
{
  g_return_val_if_fail (path, NULL);
  errno = 0;
  FILE *file = g_fopen (path, "re");
  if (!file)
    {
      g_set_error (error, NF_ERROR, errno == ENOENT ? NF_ERROR_NOT_FOUND : NF_ERROR_READ,
                   "the actions file %s cannot be opened: %s", path, g_strerror (errno));
      return NULL;
    }
  g_autoptr (GArray) actions = g_array_new (FALSE, FALSE, sizeof (guint));
  g_autoptr (JsonParser) parser = json_parser_new ();
  const guint max_action = n_actions > 0 ? n_actions - 1 : MAX_ACTION;
  g_autoptr (GError) wrong = NULL;
  char line[MAX_LINE];
  for (guint64 number = 1; !wrong && fgets (line, sizeof line, file); number++)
    {
      const gsize length = strlen (line);
      if (length == sizeof line - 1 && line[length - 1] != '\n')
        g_set_error (&wrong, NF_ERROR, NF_ERROR_FORMAT, "longer than %d bytes", MAX_LINE - 2);
      else if (*g_strchug (line))
        read_line (parser, line, max_action, actions, &wrong);
      if (wrong)
        g_prefix_error (&wrong, "the actions file %s, line %" G_GUINT64_FORMAT ": ", path, number);
    }
  if (!wrong && ferror (file))
    g_set_error (&wrong, NF_ERROR, NF_ERROR_READ, "the actions file %s cannot be read: %s", path,
                 g_strerror (errno));
  fclose (file);
  if (wrong)
    {
      g_propagate_error (error, g_steal_pointer (&wrong));
      return NULL;
    }
  return g_steal_pointer (&actions);
}

/* Writing */

struct _NfActionsWriter
{
  char *path;
  FILE *file;
  guint64 frame;
};

static gboolean
fail_write (const NfActionsWriter *self, GError **error)
{
  g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "the actions file %s cannot be written: %s", self->path,
               g_strerror (errno));
  return FALSE;
}

NfActionsWriter *
nf_actions_writer_open (const char *path, GError **error)
{
  g_return_val_if_fail (path, NULL);
  g_autoptr (NfActionsWriter) self = g_new0 (NfActionsWriter, 1);
  self->path = g_strdup (path);
  self->file = g_fopen (path, "w+e");
  if (!self->file)
    {
      fail_write (self, error);
      return NULL;
    }
  return g_steal_pointer (&self);
}

gboolean
nf_actions_writer_put (NfActionsWriter *self, guint64 pts, guint action, GError **error)
{
  g_return_val_if_fail (self && self->file, FALSE);
  g_autofree char *time
      = pts == NF_ACTIONS_NO_TIME ? g_strdup ("null") : g_strdup_printf ("%" G_GUINT64_FORMAT, pts);
  if (fprintf (self->file, "{\"frame\":%" G_GUINT64_FORMAT ",\"pts\":%s,\"action\":%u}\n", self->frame, time,
               action)
      < 0)
    return fail_write (self, error);
  self->frame++;
  return TRUE;
}

gboolean
nf_actions_writer_rewind (NfActionsWriter *self, guint64 frame, GError **error)
{
  g_return_val_if_fail (self && self->file && frame <= self->frame, FALSE);
  if (fseek (self->file, 0, SEEK_SET) != 0)
    return fail_write (self, error);
  for (guint64 lines = 0; lines < frame;)
    {
      const int c = fgetc (self->file);
      if (c == EOF)
        return fail_write (self, error);
      lines += c == '\n';
    }
  const long end = ftell (self->file);
  if (end < 0 || fseek (self->file, end, SEEK_SET) != 0 || ftruncate (fileno (self->file), end) != 0)
    return fail_write (self, error);
  self->frame = frame;
  return TRUE;
}

gboolean
nf_actions_writer_close (NfActionsWriter *self, GError **error)
{
  g_return_val_if_fail (self && self->file, FALSE);
  const gboolean bad = ferror (self->file);
  FILE *file = g_steal_pointer (&self->file);
  return fclose (file) == 0 && !bad ? TRUE : fail_write (self, error);
}

void
nf_actions_writer_free (NfActionsWriter *self)
{
  if (!self)
    return;
  if (self->file)
    fclose (self->file);
  g_free (self->path);
  g_free (self);
}
