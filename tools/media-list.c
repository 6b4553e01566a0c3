/* normflow: lists of media files. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "media.h"
#include "nf-error.h"

#include <errno.h>
#include <string.h>

#define MAX_DEPTH 32

static const char *const picture_extensions[]
    = { "png", "jpg", "jpeg", "bmp", "ppm", "pgm", "tif", "tiff", "webp", NULL };
static const char *const video_extensions[]
    = { "mp4", "mkv", "mov", "webm", "avi", "m4v", "mpg", "mpeg", "ts", "m2ts",
        "mts", "ogv", "flv", "wmv",  "3gp", "y4m", "gif", "mxf",  NULL };

gboolean
nf_media_has_any_ending (const char *path, const char *const *endings)
{
  const char *dot = strrchr (path, '.');
  g_autofree char *lower = NULL;

  if (!dot || strchr (dot, G_DIR_SEPARATOR))
    return FALSE;
  lower = g_ascii_strdown (dot + 1, -1);
  return g_strv_contains (endings, lower);
}

gboolean
nf_media_has_ending (const char *path, const char *ending)
{
  return nf_media_has_any_ending (path, (const char *const[]){ ending, NULL });
}

gboolean
nf_media_is_picture (const char *path)
{
  return nf_media_has_any_ending (path, picture_extensions);
}

gboolean
nf_media_is_named (const char *path)
{
  return nf_media_has_any_ending (path, video_extensions) || nf_media_is_picture (path);
}

static int
compare_names (gconstpointer a, gconstpointer b)
{
  return strcmp (*(const char *const *)a, *(const char *const *)b);
}

static gboolean
list_folder (const char *folder, guint depth, GPtrArray *files, GError **error)
{
  g_autoptr (GDir) dir = NULL;
  g_autoptr (GError) local = NULL;
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);
  const char *name;

  if (depth > MAX_DEPTH)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_READ, "%s: folders are nested more than %d deep", folder,
                   MAX_DEPTH);
      return FALSE;
    }
  dir = g_dir_open (folder, 0, &local);
  if (!dir)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_READ, "%s: the folder cannot be read: %s", folder,
                   local->message);
      return FALSE;
    }
  while ((name = g_dir_read_name (dir)))
    if (name[0] != '.')
      g_ptr_array_add (names, g_build_filename (folder, name, NULL));
  g_ptr_array_sort (names, compare_names);

  for (guint i = 0; i < names->len; i++)
    {
      const char *path = names->pdata[i];

      if (g_file_test (path, G_FILE_TEST_IS_DIR))
        {
          if (!g_file_test (path, G_FILE_TEST_IS_SYMLINK) && !list_folder (path, depth + 1, files, error))
            return FALSE;
        }
      else if (nf_media_is_named (path))
        g_ptr_array_add (files, g_strdup (path));
    }
  return TRUE;
}

GPtrArray *
nf_media_list (const char *const *paths, GError **error)
{
  g_autoptr (GPtrArray) files = g_ptr_array_new_with_free_func (g_free);

  for (gsize i = 0; paths && paths[i]; i++)
    {
      guint before = files->len;

      if (!g_file_test (paths[i], G_FILE_TEST_EXISTS))
        {
          g_set_error (error, NF_ERROR, NF_ERROR_NOT_FOUND, "%s: there is no such file or folder", paths[i]);
          return NULL;
        }
      if (!g_file_test (paths[i], G_FILE_TEST_IS_DIR))
        g_ptr_array_add (files, g_strdup (paths[i]));
      else if (!list_folder (paths[i], 0, files, error))
        return NULL;
      if (files->len == before)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_NOT_FOUND, "%s: the folder holds no video or picture",
                       paths[i]);
          return NULL;
        }
    }
  return g_steal_pointer (&files);
}

GPtrArray *
nf_media_list_once (const char *const *paths, GError **error)
{
  g_autoptr (GPtrArray) all = nf_media_list (paths, error), files = NULL;
  g_autoptr (GHashTable) seen = g_hash_table_new (g_str_hash, g_str_equal);

  if (!all)
    return NULL;
  files = g_ptr_array_new_with_free_func (g_free);
  for (guint i = 0; i < all->len; i++)
    {
      g_autofree char *path = g_canonicalize_filename (all->pdata[i], NULL);

      if (g_hash_table_contains (seen, path))
        continue;
      g_hash_table_add (seen, path);
      g_ptr_array_add (files, g_steal_pointer (&path));
    }
  return g_steal_pointer (&files);
}

gboolean
nf_media_is_of_file (const GError *error)
{
  static const int codes[]
      = { NF_ERROR_NOT_FOUND, NF_ERROR_READ, NF_ERROR_FORMAT, NF_ERROR_UNSUPPORTED, NF_ERROR_DATA };

  for (guint i = 0; i < G_N_ELEMENTS (codes); i++)
    if (g_error_matches (error, NF_ERROR, codes[i]))
      return TRUE;
  return FALSE;
}

static void
left_file_free (NfMediaLeftFile *file)
{
  g_free (file->path);
  g_free (file->reason);
  g_free (file);
}

void
nf_media_left_out_init (NfMediaLeftOut *self, const char *const *paths, const NfMediaInspection *inspection)
{
  self->named = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  for (gsize i = 0; paths && paths[i]; i++)
    g_hash_table_add (self->named, g_canonicalize_filename (paths[i], NULL));
  self->needed = inspection && inspection->needed ? g_hash_table_ref (inspection->needed) : NULL;
  self->files = g_ptr_array_new_with_free_func ((GDestroyNotify)left_file_free);
}

void
nf_media_left_out_clear (NfMediaLeftOut *self)
{
  g_clear_pointer (&self->named, g_hash_table_unref);
  g_clear_pointer (&self->needed, g_hash_table_unref);
  g_clear_pointer (&self->files, g_ptr_array_unref);
}

static gboolean
is_needed (const NfMediaLeftOut *self, const char *path)
{
  g_autofree char *shown = g_filename_display_name (path);

  return self->needed && g_hash_table_contains (self->needed, shown);
}

gboolean
nf_media_leave_out (NfMediaLeftOut *self, const char *path, GError *wrong, GError **error)
{
  if (!nf_media_is_of_file (wrong) || g_hash_table_contains (self->named, path) || is_needed (self, path))
    {
      g_propagate_error (error, wrong);
      return FALSE;
    }
  NfMediaLeftFile *file = g_new (NfMediaLeftFile, 1);
  *file = (NfMediaLeftFile){ g_strdup (path), g_strdup (wrong->message) };
  g_ptr_array_add (self->files, file);
  g_error_free (wrong);
  return TRUE;
}

gboolean
nf_media_check_left (const NfMediaLeftOut *self, GError **error)
{
  if (self->files->len < self->n)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_DATA, "none of the %u files can be used: %s", self->n,
               ((const NfMediaLeftFile *)self->files->pdata[0])->reason);
  return FALSE;
}
