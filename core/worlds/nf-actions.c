/* normflow: actions beside a video. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-actions.h"
#include "nf-json.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_ACTION 65535
#define MAX_LINE 65536

/* Reading */

static gboolean
is_whole (JsonNode *node)
{
  return node && JSON_NODE_HOLDS_VALUE (node) && json_node_get_value_type (node) == G_TYPE_INT64;
}

/* A member that must be a whole number of 0 to MAX. */
static gboolean
get_number (JsonObject *object, const char *name, gint64 max, gint64 *value, GError **error)
{
  JsonNode *node = json_object_get_member (object, name);
  if (!is_whole (node))
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

/* The frame's time may be unknown. */
static gboolean
check_time (JsonObject *object, GError **error)
{
  JsonNode *node = json_object_get_member (object, "pts");
  gint64 pts;
  if (!node || JSON_NODE_HOLDS_NULL (node))
    return TRUE;
  if (is_whole (node))
    return get_number (object, "pts", G_MAXINT64, &pts, error);
  g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "\"pts\" is neither a whole number nor null");
  return FALSE;
}

/* What a line is read into. */
typedef struct
{
  guint max_action;
  gboolean known;   /* all actions have to be */
  GArray *actions;  /* guint, or NULL */
  GArray *controls; /* float, or NULL */
  guint n_controls; /* of a frame, 0 before the first */
  guint frames;
} Reading;

static gboolean
read_action (Reading *reading, JsonObject *object, GError **error)
{
  JsonNode *node = json_object_get_member (object, "action");
  const gboolean unknown = node && JSON_NODE_HOLDS_NULL (node);
  gint64 number = 0;
  if (unknown && reading->known)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT,
                   "\"action\" is null, which is unknown: here it must be known, 0 to %u (0 is none)",
                   reading->max_action);
      return FALSE;
    }
  if (!unknown && !get_number (object, "action", reading->max_action, &number, error))
    return FALSE;
  const guint action = unknown ? NF_ACTIONS_UNKNOWN : (guint)number;
  g_array_append_val (reading->actions, action);
  return TRUE;
}

static gboolean
read_controls (Reading *reading, JsonObject *object, GError **error)
{
  JsonNode *node = json_object_get_member (object, "controls");
  JsonArray *array = node && JSON_NODE_HOLDS_ARRAY (node) ? json_node_get_array (node) : NULL;
  const guint n = array ? json_array_get_length (array) : 0;
  if (n == 0 || n > NF_ACTIONS_MAX_CONTROLS)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT,
                   "\"controls\" is not there, or is no list of 1 to %d numbers", NF_ACTIONS_MAX_CONTROLS);
      return FALSE;
    }
  if (reading->n_controls > 0 && n != reading->n_controls)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%u controls, but the first frame has %u", n,
                   reading->n_controls);
      return FALSE;
    }
  reading->n_controls = n;
  for (guint i = 0; i < n; i++)
    {
      JsonNode *element = json_array_get_element (array, i);
      const gboolean number = JSON_NODE_HOLDS_VALUE (element)
                              && (json_node_get_value_type (element) == G_TYPE_INT64
                                  || json_node_get_value_type (element) == G_TYPE_DOUBLE);
      const float value = number ? (float)json_node_get_double (element) : 0;
      if (!number || !isfinite (value))
        {
          g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "control %u is not a finite number", i);
          return FALSE;
        }
      g_array_append_val (reading->controls, value);
    }
  return TRUE;
}

static gboolean
read_line (Reading *reading, JsonParser *parser, const GString *line, GError **error)
{
  gint64 frame;
  JsonObject *object = nf_json_parse_object (parser, line->str, line->len, "it", error);
  if (!object)
    return FALSE;
  if (json_object_has_member (object, "action") && json_object_has_member (object, "controls"))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT,
                   "\"action\" and \"controls\" are there, but a frame has one of them");
      return FALSE;
    }
  if (!get_number (object, "frame", G_MAXINT64, &frame, error) || !check_time (object, error)
      || (reading->actions && !read_action (reading, object, error))
      || (reading->controls && !read_controls (reading, object, error)))
    return FALSE;
  if (frame != reading->frames)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT,
                   "frame %" G_GINT64_FORMAT " where frame %u should be: frames count from 0 without a gap",
                   frame, reading->frames);
      return FALSE;
    }
  reading->frames++;
  return TRUE;
}

static FILE *
open_file (const char *path, GError **error)
{
  errno = 0;
  FILE *file = g_fopen (path, "re");
  if (!file)
    g_set_error (error, NF_ERROR, errno == ENOENT ? NF_ERROR_NOT_FOUND : NF_ERROR_READ,
                 "the actions file %s cannot be opened: %s", path, g_strerror (errno));
  return file;
}

/* The next line, of at most MAX_LINE - 1 bytes, whatever they are, but without the mark that some editors put
 * before UTF-8 where it is the FIRST; FALSE if there is none. */
static gboolean
next_line (FILE *file, GString *line, gboolean first)
{
  g_string_truncate (line, 0);
  for (int c = 0; line->len < MAX_LINE - 1 && c != '\n' && (c = getc (file)) != EOF;)
    g_string_append_c (line, (char)c);
  const gboolean found = line->len > 0;
  if (first)
    g_string_erase (line, 0, (gssize)nf_json_measure_mark (line->str, line->len));
  return found;
}

static gboolean
is_blank (const GString *line)
{
  return strspn (line->str, " \t\n\v\f\r") == line->len;
}

static gboolean
read_file (Reading *reading, const char *path, GError **error)
{
  FILE *file = open_file (path, error);
  if (!file)
    return FALSE;
  g_autoptr (JsonParser) parser = json_parser_new ();
  g_autoptr (GError) wrong = NULL;
  g_autoptr (GString) line = g_string_new (NULL);
  for (guint64 number = 1; !wrong && next_line (file, line, number == 1); number++)
    {
      if (line->len == MAX_LINE - 1 && line->str[line->len - 1] != '\n')
        g_set_error (&wrong, NF_ERROR, NF_ERROR_FORMAT, "longer than %d bytes", MAX_LINE - 2);
      else if (!is_blank (line))
        read_line (reading, parser, line, &wrong);
      if (wrong)
        g_prefix_error (&wrong, "the actions file %s, line %" G_GUINT64_FORMAT ": ", path, number);
    }
  if (!wrong && ferror (file))
    g_set_error (&wrong, NF_ERROR, NF_ERROR_READ, "the actions file %s cannot be read: %s", path,
                 g_strerror (errno));
  fclose (file);
  if (!wrong)
    return TRUE;
  g_propagate_error (error, g_steal_pointer (&wrong));
  return FALSE;
}

static GArray *
read_actions (const char *path, guint n_actions, gboolean known, GError **error)
{
  g_autoptr (GArray) actions = g_array_new (FALSE, FALSE, sizeof (guint));
  Reading reading
      = { .max_action = n_actions > 0 ? n_actions - 1 : MAX_ACTION, .known = known, .actions = actions };
  return read_file (&reading, path, error) ? g_steal_pointer (&actions) : NULL;
}

GArray *
nf_actions_read (const char *path, guint n_actions, GError **error)
{
  g_return_val_if_fail (path, NULL);
  return read_actions (path, n_actions, FALSE, error);
}

GArray *
nf_actions_read_known (const char *path, guint n_actions, GError **error)
{
  g_return_val_if_fail (path, NULL);
  return read_actions (path, n_actions, TRUE, error);
}

GArray *
nf_actions_read_controls (const char *path, guint *n_controls, GError **error)
{
  g_return_val_if_fail (path && n_controls, NULL);
  g_autoptr (GArray) controls = g_array_new (FALSE, FALSE, sizeof (float));
  Reading reading = { .controls = controls };
  if (!read_file (&reading, path, error))
    return NULL;
  *n_controls = reading.n_controls;
  return g_steal_pointer (&controls);
}

gboolean
nf_actions_has_controls (const char *path)
{
  g_return_val_if_fail (path, FALSE);
  g_autoptr (JsonParser) parser = json_parser_new ();
  g_autoptr (GString) line = g_string_new (NULL);
  FILE *file = open_file (path, NULL);
  if (!file)
    return FALSE;
  for (gboolean first = TRUE; next_line (file, line, first) && is_blank (line);)
    first = FALSE;
  fclose (file);
  JsonObject *object = nf_json_parse_object (parser, line->str, line->len, "it", NULL);
  return object && json_object_has_member (object, "controls");
}

/* Writing */

struct _NfActionsWriter
{
  char *path;
  int fd;      /* -1 once it is closed */
  int problem; /* errno of the last line that could not be written, or 0 */
  guint64 frame;
  guint n_controls; /* of each line, 0 for an action, once there is one */
};

static gboolean
fail_write (const NfActionsWriter *self, int problem, GError **error)
{
  g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "the actions file %s cannot be written: %s", self->path,
               g_strerror (problem));
  return FALSE;
}

NfActionsWriter *
nf_actions_writer_open (const char *path, GError **error)
{
  g_return_val_if_fail (path, NULL);
  g_autoptr (NfActionsWriter) self = g_new0 (NfActionsWriter, 1);
  self->path = g_strdup (path);
  self->fd = g_open (path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (self->fd < 0)
    {
      fail_write (self, errno, error);
      return NULL;
    }
  return g_steal_pointer (&self);
}

/* Whether a line with N controls, 0 for an action, is like the first one. */
static gboolean
check_kind (const NfActionsWriter *self, guint n, GError **error)
{
  if (self->frame == 0 || n == self->n_controls)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
               "the actions file %s: frame %" G_GUINT64_FORMAT
               " has %u controls, but the first frame has %u (0: an action)",
               self->path, self->frame, n, self->n_controls);
  return FALSE;
}

/* All of TEXT, or errno. */
static int
write_all (int fd, const char *text)
{
  for (gsize left = strlen (text); left > 0;)
    {
      const gssize written = write (fd, text, left);
      if (written < 0 && errno == EINTR)
        continue;
      if (written <= 0)
        return written < 0 ? errno : ENOSPC;
      text += written;
      left -= (gsize)written;
    }
  return 0;
}

/* The beginning of a line, and then what was done: N controls, or an action. At once, there to be read. */
static gboolean
put_line (NfActionsWriter *self, guint64 pts, const char *done, guint n, GError **error)
{
  if (pts > G_MAXINT64 && pts != NF_ACTIONS_NO_TIME)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "the actions file %s: frame %" G_GUINT64_FORMAT " has the time %" G_GUINT64_FORMAT
                   ", it must be at most %" G_GINT64_FORMAT " or NF_ACTIONS_NO_TIME",
                   self->path, self->frame, pts, G_MAXINT64);
      return FALSE;
    }
  g_autofree char *time
      = pts == NF_ACTIONS_NO_TIME ? g_strdup ("null") : g_strdup_printf ("%" G_GUINT64_FORMAT, pts);
  g_autofree char *line
      = g_strdup_printf ("{\"frame\":%" G_GUINT64_FORMAT ",\"pts\":%s,%s}\n", self->frame, time, done);
  const off_t end = lseek (self->fd, 0, SEEK_CUR);
  const int problem = write_all (self->fd, line);
  if (problem)
    {
      /* no part of a line stays; of what is no file it does */
      if (end >= 0 && ftruncate (self->fd, end) == 0)
        lseek (self->fd, end, SEEK_SET);
      return fail_write (self, self->problem = problem, error);
    }
  self->n_controls = n;
  self->frame++;
  return TRUE;
}

gboolean
nf_actions_writer_put (NfActionsWriter *self, guint64 pts, guint action, GError **error)
{
  g_return_val_if_fail (self && self->fd >= 0, FALSE);
  if (!check_kind (self, 0, error))
    return FALSE;
  if (action > MAX_ACTION && action != NF_ACTIONS_UNKNOWN)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "%s: an action is 0 to %d or NF_ACTIONS_UNKNOWN, not %u", self->path, MAX_ACTION, action);
      return FALSE;
    }
  g_autofree char *done = action == NF_ACTIONS_UNKNOWN ? g_strdup ("\"action\":null")
                                                       : g_strdup_printf ("\"action\":%u", action);
  return put_line (self, pts, done, 0, error);
}

gboolean
nf_actions_writer_put_controls (NfActionsWriter *self, guint64 pts, const float *controls, guint n,
                                GError **error)
{
  g_return_val_if_fail (self && self->fd >= 0 && controls, FALSE);
  if (n < 1 || n > NF_ACTIONS_MAX_CONTROLS)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "the actions file %s: frame %" G_GUINT64_FORMAT " has %u controls, it must be 1 to %d",
                   self->path, self->frame, n, NF_ACTIONS_MAX_CONTROLS);
      return FALSE;
    }
  if (!check_kind (self, n, error))
    return FALSE;
  g_autoptr (GString) done = g_string_new ("\"controls\":[");
  for (guint i = 0; i < n; i++)
    {
      char number[G_ASCII_DTOSTR_BUF_SIZE];
      if (!isfinite (controls[i]))
        {
          g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                       "the actions file %s: control %u of frame %" G_GUINT64_FORMAT
                       " is not a finite number",
                       self->path, i, self->frame);
          return FALSE;
        }
      /* nine digits are the very float */
      g_string_append_printf (done, "%s%s", i ? "," : "",
                              g_ascii_formatd (number, sizeof number, "%.9g", (double)controls[i]));
    }
  g_string_append_c (done, ']');
  return put_line (self, pts, done->str, n, error);
}

/* Where line number LINES begins, or -1 with errno. */
static off_t
find_line (int fd, guint64 lines)
{
  char part[4096];
  for (off_t at = 0;;)
    {
      const gssize n = lines ? pread (fd, part, sizeof part, at) : 0;
      if (n < 0 && errno == EINTR)
        continue;
      if (n < 0 || lines == 0)
        return n < 0 ? -1 : at;
      if (n == 0) /* somebody cut it short */
        {
          errno = EIO;
          return -1;
        }
      for (gssize i = 0; i < n && lines > 0; i++, at++)
        lines -= part[i] == '\n';
    }
}

gboolean
nf_actions_writer_rewind (NfActionsWriter *self, guint64 frame, GError **error)
{
  g_return_val_if_fail (self && self->fd >= 0 && frame <= self->frame, FALSE);
  const off_t end = find_line (self->fd, frame);
  if (end < 0 || ftruncate (self->fd, end) != 0 || lseek (self->fd, end, SEEK_SET) < 0)
    return fail_write (self, errno, error);
  self->frame = frame;
  return TRUE;
}

gboolean
nf_actions_writer_close (NfActionsWriter *self, GError **error)
{
  g_return_val_if_fail (self && self->fd >= 0, FALSE);
  if (close (self->fd) != 0 && !self->problem)
    self->problem = errno;
  self->fd = -1;
  return self->problem ? fail_write (self, self->problem, error) : TRUE;
}

void
nf_actions_writer_free (NfActionsWriter *self)
{
  if (!self)
    return;
  if (self->fd >= 0)
    close (self->fd);
  g_free (self->path);
  g_free (self);
}
