/* normflow: files that are written. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "files.h"
#include "media.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <glib/gstdio.h>
#include <normflow.h>

static gboolean
write_error (GError **error, const char *path, int number, const char *what)
{
  g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "%s: %s: %s", path, what, g_strerror (number));
  return FALSE;
}

char *
nf_temporary_name (const char *path, GError **error)
{
  g_autofree char *folder = g_path_get_dirname (path), *base = g_path_get_basename (path);
  const char *dot = strrchr (base, '.');
  int number = EEXIST;

  for (guint i = 0; number == EEXIST && i < 100; i++)
    {
      g_autofree char *name = g_strdup_printf (".%.*s.%08x%s", dot ? (int)(dot - base) : (int)strlen (base),
                                               base, g_random_int (), dot ? dot : "");
      g_autofree char *temporary = g_build_filename (folder, name, NULL);
      int fd = g_open (temporary, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);

      if (fd >= 0)
        {
          close (fd);
          return g_steal_pointer (&temporary);
        }
      number = errno;
    }
  write_error (error, path, number, "cannot be written");
  return NULL;
}

/* Whether a file can be written as PATH: where it is, or REPLACED by one that is made beside it. */
static gboolean
check_place (const char *path, gboolean replaced, GError **error)
{
  g_autofree char *folder = g_path_get_dirname (path);
  /* as long as what nf_temporary_name() makes */
  g_autofree char *beside = g_strconcat (path, ".12345678.", NULL);
  GStatBuf there, unused;
  const gboolean exists = g_stat (path, &there) == 0, stays = exists && !replaced;

  if (!*path)
    g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "an output's name is empty");
  else if (!g_file_test (folder, G_FILE_TEST_IS_DIR))
    g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "%s: there is no folder %s", path, folder);
  else if (exists && S_ISDIR (there.st_mode))
    g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "%s: is a folder; name a file to write", path);
  else if (exists && replaced && !S_ISREG (there.st_mode))
    g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "%s: is not a regular file; name another output", path);
  else if (g_access (stays ? path : folder, stays ? W_OK : W_OK | X_OK) != 0)
    write_error (error, path, errno, "cannot be written");
  else if (replaced && g_stat (beside, &unused) != 0 && errno == ENAMETOOLONG)
    write_error (error, path, errno, "cannot be written");
  else
    return TRUE;
  return FALSE;
}

/* lines of it are JSON, too */
static gboolean
is_json (const char *ending)
{
  return strcmp (ending, "json") == 0 || strcmp (ending, "ndjson") == 0;
}

gboolean
nf_check_ending (const char *path, const char *ending, GError **error)
{
  static const char *const known[]
      = { "json", "ndjson", "pdf", "pt", "pth", "safetensors", "svg", "yaml", "yml", NULL };
  const char *dot = path ? strrchr (path, '.') : NULL;
  g_autofree char *found = dot ? g_ascii_strdown (dot + 1, -1) : NULL;

  if (g_strcmp0 (path, "-") == 0)
    g_set_error_literal (error, NF_ERROR, NF_ERROR_ARGUMENT, "-: is no file's name; ./- would be one");
  else if (found && strcmp (found, ending) != 0 && !(is_json (found) && is_json (ending))
           && (nf_media_is_named (path) || g_strv_contains (known, found)))
    g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                 "%s: what is written is .%s, which .%s is not: name another output", path, ending, found);
  else
    return TRUE;
  return FALSE;
}

gboolean
nf_same_file (const char *a, const char *b)
{
  g_autofree char *base_a = NULL, *base_b = NULL, *folder_a = NULL, *folder_b = NULL;
  GStatBuf first, second;
  const gboolean there = g_stat (a, &first) == 0;

  if (there != (g_stat (b, &second) == 0))
    return FALSE;
  if (there)
    return S_ISREG (first.st_mode) && first.st_dev == second.st_dev && first.st_ino == second.st_ino;
  base_a = g_path_get_basename (a);
  base_b = g_path_get_basename (b);
  folder_a = g_path_get_dirname (a);
  folder_b = g_path_get_dirname (b);
  return !strcmp (base_a, base_b) && g_stat (folder_a, &first) == 0 && g_stat (folder_b, &second) == 0
         && first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

static gboolean
check_not_input (const char *path, const char *input, GError **error)
{
  if (!input || !nf_same_file (path, input))
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s: is input and output; name another output", path);
  return FALSE;
}

gboolean
nf_check_output (const char *path, const char *input, GError **error)
{
  return check_place (path, TRUE, error) && check_not_input (path, input, error);
}

gboolean
nf_check_outputs (const char *stream, const GPtrArray *files, const GPtrArray *inputs, GError **error)
{
  for (guint i = 0; i <= files->len; i++)
    {
      const char *path = i < files->len ? files->pdata[i] : stream;

      if (!path)
        continue;
      if (!check_place (path, i < files->len, error))
        return FALSE;
      for (guint j = 0; j < inputs->len; j++)
        if (!check_not_input (path, inputs->pdata[j], error))
          return FALSE;
      for (guint j = 0; j < i; j++)
        if (files->pdata[j] && nf_same_file (path, files->pdata[j]))
          {
            g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                         "%s: is to hold two outputs; name a file for each", path);
            return FALSE;
          }
    }
  return TRUE;
}

gboolean
nf_publish (const char *temporary, const char *path, GError **error)
{
  int fd = g_open (temporary, O_RDONLY | O_CLOEXEC, 0);
  gboolean flushed;

  if (fd < 0)
    return write_error (error, path, errno, "cannot be completed");
  flushed = fsync (fd) == 0;
  if (!flushed)
    write_error (error, path, errno, "cannot be completed");
  close (fd);
  if (flushed && g_rename (temporary, path) != 0)
    return write_error (error, path, errno, "cannot be given its name");
  return flushed;
}

void
nf_error_rename (GError *error, const char *name, const char *wanted)
{
  g_autoptr (GString) text = NULL;

  if (!error)
    return;
  text = g_string_new (error->message);
  g_string_replace (text, name, wanted, 0);
  g_free (error->message);
  error->message = g_string_free (g_steal_pointer (&text), FALSE);
}
