/* normflow: what a run trains on. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "train-data.h"
#include "common.h"

#include <errno.h>
#include <string.h>

#include <glib/gstdio.h>

void
nf_train_data_clear (NfTrainData *data)
{
  g_clear_pointer (&data->clips, nf_clips_free);
  g_clear_pointer (&data->reels, nf_reels_free);
  g_clear_pointer (&data->captions, nf_captions_free);
  g_clear_pointer (&data->validation, g_ptr_array_unref);
}

gboolean
nf_train_data_batch (NfTrainData *data, guint64 step, NfTrainBatch *batch, GError **error)
{
  *batch = (NfTrainBatch){ .B = data->run->batch };
  if (data->clips)
    batch->tiles = nf_clips_batch (data->clips, step, &batch->labels, error);
  return (data->reels ? nf_reels_batch (data->reels, step, batch, error) : batch->tiles != NULL)
         && (!data->captions
             || nf_captions_tell (data->captions, batch, data->run->train.seed, step * batch->B, error));
}

guint
nf_train_data_count (const NfTrainData *data)
{
  return data->reels ? nf_reels_count (data->reels) : nf_clips_count (data->clips);
}

const char *
nf_train_data_get_path (const NfTrainData *data, guint i)
{
  return data->reels ? nf_reels_get_path (data->reels, i) : nf_clips_get_path (data->clips, i);
}

/* The classes of the data are those of the model: of a STARFlow a text of one token, whose last feature is no
 * class. */
static gboolean
settle_classes (NfTrainData *data, GError **error)
{
  NfConfig *config = &data->run->config;
  const guint n = nf_clips_get_classes (data->clips);
  const gboolean text = config->family == NF_FAMILY_STARFLOW;

  /* else --config, the checkpoint or the model of --init said how many */
  if (!config->n_classes && !config->txt_size && !data->places->resume
      && !(data->run->init && *data->run->init))
    {
      config->n_classes = text ? 0 : n;
      config->txt_size = text;
      config->txt_dim = text ? n + 1 : 0;
    }
  const guint classes = nf_config_classes (config), has = text && classes ? classes - 1 : classes;
  if (has != n)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG,
                   data->run->classes ? "%u classes have names, but the model has %u"
                                      : "the files lie in %u folders, but the model has %u classes",
                   n, has);
      return FALSE;
    }
  if (!data->run->classes)
    {
      data->run->classes = g_new0 (char *, n + 1);
      for (guint i = 0; i < n; i++)
        data->run->classes[i] = g_strdup (nf_clips_get_class (data->clips, i));
    }
  return TRUE;
}

/* The text of a new model is that of the data. */
static gboolean
open_captions (NfTrainData *data, GError **error)
{
  NfTrainRun *run = data->run;
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);
  for (guint i = 0; data->clips && i < nf_clips_get_classes (data->clips); i++)
    g_ptr_array_add (names, g_strdup (nf_clips_get_class (data->clips, i)));
  for (guint i = 0; data->reels && i < nf_reels_count (data->reels); i++)
    g_ptr_array_add (names, g_path_get_basename (nf_reels_get_path (data->reels, i)));
  data->captions = nf_captions_open (run->captions, names, error);
  if (!data->captions)
    return FALSE;
  if (!run->config.txt_size && !data->places->resume && !(run->init && *run->init)
      && !nf_captions_get_size (data->captions, &run->config, error))
    return FALSE;
  if (!nf_config_check (&run->config, run->captions, error)
      || !nf_captions_check (data->captions, &run->config, error))
    return FALSE;

  const char *digest = nf_captions_get_digest (data->captions);
  if (run->captions_digest && strcmp (run->captions_digest, digest) != 0)
    {
      g_set_error (
          error, NF_ERROR, NF_ERROR_DATA,
          "%s holds other text than the run began with: put that back, or start another run from the "
          "model with --init",
          run->captions);
      return FALSE;
    }
  g_free (run->captions_digest);
  run->captions_digest = g_strdup (digest);
  return TRUE;
}

/* Files that the run began with. */
static GHashTable *
list_needed (const NfTrainRun *run)
{
  GHashTable *needed = g_hash_table_new (g_str_hash, g_str_equal);
  for (guint i = 0; run->sources && i < run->sources->len; i++)
    g_hash_table_add (needed, g_array_index (run->sources, NfTrainSource, i).name);
  return needed;
}

/* Of many files, looking at them takes a while. */
static gboolean
go_on (guint i, guint n, gpointer data, GError **error)
{
  NfCommand *command = data;
  nf_progress_update (command->progress, "looking at the files, %u of %u", i + 1, n);
  return nf_command_go_on (command, error);
}

/* Tiles to train on. */
static gboolean
open_clips (NfTrainData *data, GError **error)
{
  NfTrainRun *run = data->run;
  g_autoptr (GHashTable) needed = list_needed (run);
  const NfMediaInspection inspection = { needed, go_on, data->command };
  const NfClipsOptions options = { .layout = run->config.layout,
                                   .width = nf_config_columns (&run->config),
                                   .height = nf_config_rows (&run->config),
                                   .batch = run->batch,
                                   .seed = run->train.seed,
                                   .holdout = run->holdout,
                                   .scales = run->scales,
                                   .n_scales = run->n_scales,
                                   .labels = run->labels                   ? NF_CLIPS_FOLDERS
                                             : nf_train_has_captions (run) ? NF_CLIPS_NAMES
                                                                           : NF_CLIPS_NO_LABELS,
                                   .classes = run->labels ? (const char *const *)run->classes : NULL,
                                   .cache = data->places->cache,
                                   .inspection = &inspection };

  data->clips = nf_clips_new ((const char *const *)run->files, &options, error);
  if (!data->clips)
    return FALSE;
  if ((run->labels && !settle_classes (data, error))
      || (nf_train_has_captions (run) && !open_captions (data, error)))
    return FALSE;
  data->validation = run->validation_tiles ? nf_clips_validation (
                         data->clips, (const char *const *)run->validation, run->validation_tiles, error)
                                           : g_ptr_array_new ();
  return data->validation != NULL;
}

/* Videos to train on. */
static gboolean
open_reels (NfTrainData *data, GError **error)
{
  NfTrainRun *run = data->run;
  NfConfig *config = &run->config;
  g_autoptr (GHashTable) needed = list_needed (run);
  const NfMediaInspection inspection = { needed, go_on, data->command };
  NfWorldPattern pattern;

  if (run->world && *run->world)
    {
      if (!nf_world_pattern_from_name (run->world, &pattern))
        return nf_wrong_choice ("--world", run->world, nf_world_choices (), error);
      if (run->actions && !config->action_dim)
        config->action_dim = nf_world_pattern_actions (pattern);
      if (config->action_dim && config->action_dim < nf_world_pattern_actions (pattern))
        {
          g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "%s has %u actions, the model has action_dim %u",
                       run->world, nf_world_pattern_actions (pattern), config->action_dim);
          return FALSE;
        }
      data->reels = nf_reels_new_world (pattern, config, run->batch, run->train.seed, error);
    }
  else
    data->reels = nf_reels_new_files ((const char *const *)run->files, config, run->batch, run->train.seed,
                                      run->holdout, run->actions, &inspection, error);
  if (!data->reels)
    return FALSE;
  if (nf_train_has_captions (run))
    {
      nf_reels_label_files (data->reels);
      if (!open_captions (data, error))
        return FALSE;
    }
  if (run->actions && !config->action_dim)
    {
      config->action_dim = nf_reels_get_actions (data->reels);
      if (!config->action_dim)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                       "--actions: all actions beside the videos are unknown (null), so there are none to "
                       "learn: leave --actions out, or say how many the model is to know (action_dim in "
                       "--config)");
          return FALSE;
        }
      nf_reels_set_action_dim (data->reels, config->action_dim);
    }
  const gboolean controls = nf_reels_have_controls (data->reels);
  if (run->actions && !data->places->resume && !(run->init && *run->init) && controls)
    config->controls = TRUE;
  if (run->actions && config->controls != controls)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG,
                   "%s tells %s, but the model is one of %s (controls in its configuration)",
                   run->world && *run->world ? "the world" : "what lies beside the videos",
                   controls ? "controls" : "actions", config->controls ? "controls" : "actions");
      return FALSE;
    }
  data->validation = nf_reels_validation (data->reels, run->validation_tiles, error);
  return data->validation != NULL;
}

const NfMediaLeftOut *
nf_train_data_get_left_out (const NfTrainData *data)
{
  return data->reels ? nf_reels_get_left_out (data->reels) : nf_clips_get_left_out (data->clips);
}

/* Files that a run began with, and those of now. */
typedef struct
{
  const GArray *began, *now;
  gboolean moved;            /* the latter are elsewhere */
  guint *folders[2];         /* of them, the first file in the same folder; NULL if folders mean nothing */
  const GPtrArray *left_out; /* of others (element-type NfMediaLeftFile), or NULL */
} Sources;

/* (transfer full) */
static guint *
find_folders (const GArray *sources)
{
  g_autoptr (GHashTable) first = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  guint *folders = g_new (guint, sources->len + 1);

  for (guint i = 0; i < sources->len; i++)
    {
      char *folder = g_path_get_dirname (g_array_index (sources, NfTrainSource, i).name);
      gpointer known;

      folders[i] = g_hash_table_lookup_extended (first, folder, NULL, &known) ? GPOINTER_TO_UINT (known) : i;
      g_hash_table_insert (first, folder, GUINT_TO_POINTER (folders[i]));
    }
  return folders;
}

static gboolean
is_named (const Sources *self, const char *a, const char *b)
{
  g_autofree char *base_a = self->moved ? g_path_get_basename (a) : NULL;
  g_autofree char *base_b = self->moved ? g_path_get_basename (b) : NULL;

  return self->moved ? !strcmp (base_a, base_b) : !strcmp (a, b);
}

static gboolean
has_source (const Sources *self, const GArray *sources, const char *name)
{
  for (guint i = 0; i < sources->len; i++)
    if (is_named (self, g_array_index (sources, NfTrainSource, i).name, name))
      return TRUE;
  return FALSE;
}

/* (transfer full) */
static char *
describe_absence (const Sources *self, const char *name)
{
  for (guint i = 0; self->left_out && i < self->left_out->len; i++)
    {
      const NfMediaLeftFile *file = self->left_out->pdata[i];
      g_autofree char *shown = g_filename_display_name (file->path);

      if (is_named (self, shown, name))
        return g_strdup_printf ("it was left out (%s)", file->reason);
    }
  if (!self->moved)
    return g_strdup ("it is no longer there");
  g_autofree char *base = g_path_get_basename (name), *shown = nf_shorten (base);
  return g_strdup_printf ("none of the files named is %s", shown);
}

/* Whether file I of now is that of what the run began with; either list may have ended. */
static gboolean
check_source (const Sources *self, guint i, GError **error)
{
  const NfTrainSource *a = i < self->began->len ? &g_array_index (self->began, NfTrainSource, i) : NULL,
                      *b = i < self->now->len ? &g_array_index (self->now, NfTrainSource, i) : NULL;
  g_autofree char *what = NULL;

  if (a && b && is_named (self, a->name, b->name))
    {
      const gboolean same = a->frames == b->frames && a->bytes == b->bytes;
      if (same && (!self->folders[0] || self->folders[0][i] == self->folders[1][i]))
        return TRUE;
      what = same ? g_strdup ("folders part the files otherwise")
                  : g_strdup_printf ("it has %" G_GUINT64_FORMAT " frames in %" G_GUINT64_FORMAT
                                     " bytes, and had %" G_GUINT64_FORMAT " in %" G_GUINT64_FORMAT,
                                     b->frames, b->bytes, a->frames, a->bytes);
    }
  else if (!b || (a && !has_source (self, self->now, a->name)))
    {
      b = a;
      what = describe_absence (self, a->name);
    }
  else
    what = g_strdup (has_source (self, self->began, b->name) ? "it had another place among them"
                                                             : "it was not there, or was left out");
  g_autofree char *shown = nf_shorten (b->name);
  g_set_error (error, NF_ERROR, NF_ERROR_DATA,
               "%s is not what the run began with: %s; --resume goes on with the same files: put them back, "
               "name them where they are now, or start another run from the model with --init",
               shown, what);
  return FALSE;
}

static gboolean
check_all (const Sources *self, GError **error)
{
  for (guint i = 0; i < MAX (self->began->len, self->now->len); i++)
    if (!check_source (self, i, error))
      return FALSE;
  return TRUE;
}

static gboolean
add_source (GArray *sources, const char *path, guint64 frames, GError **error)
{
  GStatBuf status;

  if (g_stat (path, &status) != 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_READ, "%s: %s", path, g_strerror (errno));
      return FALSE;
    }
  const NfTrainSource source = { g_filename_display_name (path), frames, (guint64)status.st_size };
  g_array_append_val (sources, source);
  return TRUE;
}

/* A run goes on with the files that it began with, all of them and as they were. */
static gboolean
check_sources (NfTrainData *data, GError **error)
{
  NfTrainRun *run = data->run;
  g_autoptr (GArray) now = nf_train_sources_new ();
  gboolean pictures = FALSE;

  for (guint i = 0; i < nf_train_data_count (data); i++)
    {
      const char *path = nf_train_data_get_path (data, i);
      if (!add_source (now, path,
                       data->reels ? nf_reels_get_length (data->reels, i)
                                   : nf_clips_get_length (data->clips, i),
                       error))
        return FALSE;
      pictures = pictures || nf_media_is_picture (path);
    }
  if (run->sources)
    {
      Sources sources
          = { run->sources, now, data->places->moved, .left_out = nf_train_data_get_left_out (data)->files };
      /* folders are classes, and of a folder's pictures a part is held out */
      const gboolean matter = sources.moved && data->clips && (run->labels || pictures);
      g_autofree guint *before = matter ? find_folders (run->sources) : NULL;
      g_autofree guint *after = matter ? find_folders (now) : NULL;

      sources.folders[0] = before;
      sources.folders[1] = after;
      if (!check_all (&sources, error))
        return FALSE;
      g_array_unref (run->sources);
    }
  run->sources = g_steal_pointer (&now);
  return TRUE;
}

/* What it is judged by is kept as well, for when that has moved. */
static gboolean
check_validation (NfTrainData *data, GError **error)
{
  NfTrainRun *run = data->run;
  g_autoptr (GArray) now = nf_train_sources_new ();
  g_autoptr (GPtrArray) files = nf_media_list ((const char *const *)run->validation, error);

  for (guint i = 0; files && i < files->len; i++)
    if (!add_source (now, files->pdata[i], 0, error))
      return FALSE;
  if (!files
      || (run->validation_sources && data->places->validation_moved
          && !check_all (&(const Sources){ run->validation_sources, now, TRUE }, error)))
    return FALSE;
  g_clear_pointer (&run->validation_sources, g_array_unref);
  run->validation_sources = g_steal_pointer (&now);
  return TRUE;
}

gboolean
nf_train_data_open (NfTrainData *data, GError **error)
{
  /* at last with actions and classes that the data told */
  if (!(data->run->config.frames ? open_reels (data, error) : open_clips (data, error))
      || !check_sources (data, error) || !check_validation (data, error)
      || !nf_config_check (&data->run->config, "the options", error))
    return FALSE;
  for (guint i = 0; i < data->validation->len; i++)
    data->n_tiles += ((NfClipsValidation *)data->validation->pdata[i])->n_tiles;
  return TRUE;
}
