/* normflow: training samples of several frames. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "reels.h"
#include "media.h"
#include "policy.h"
#include "scan.h"

#include <string.h>

/* A world has been going for up to so many frames when a sample begins: its beginning is not all there is. */
#define MAX_WARM_UP 256

/* Philox streams; the counter is the sample's place in the step. */
#define STREAM_TRAIN 0
#define STREAM_VALIDATION (G_GUINT64_CONSTANT (1) << 62)

typedef struct
{
  char *path;
  GPtrArray *frames; /* of bytes in the model's layout */
  guint64 n_train;   /* the first ones */
  GArray *actions;   /* guint of each frame, or NULL */
  GArray *controls;  /* floats of each frame in their place, or NULL */
} Reel;

struct _NfReels
{
  NfConfig config;
  guint batch;
  guint64 seed;
  gsize tile_bytes;

  gboolean is_world;
  NfWorldPattern pattern;
  GPtrArray *files;    /* of Reel, empty for a world */
  guint64 *cumulative; /* places where a sample may begin, up to each file */
  guint n_actions;     /* or controls of a frame */
  gboolean controlled; /* by controls rather than actions */
  gboolean told;       /* actions are */
  NfMediaLeftOut left_out;

  guint8 *tiles;
  float *actions;
  gint *labels; /* or NULL */
};

static void
reel_free (gpointer data)
{
  Reel *reel = data;
  g_free (reel->path);
  g_ptr_array_unref (reel->frames);
  g_clear_pointer (&reel->actions, g_array_unref);
  g_clear_pointer (&reel->controls, g_array_unref);
  g_free (reel);
}

void
nf_reels_free (NfReels *self)
{
  if (!self)
    return;
  g_ptr_array_unref (self->files);
  g_free (self->cumulative);
  g_free (self->tiles);
  g_free (self->actions);
  g_free (self->labels);
  nf_media_left_out_clear (&self->left_out);
  g_free (self);
}

static NfReels *
reels_new (const NfConfig *config, guint batch, guint64 seed)
{
  NfReels *self = g_new0 (NfReels, 1);
  self->config = *config;
  self->batch = batch;
  self->seed = seed;
  self->tile_bytes = nf_config_tile_bytes (config);
  self->files = g_ptr_array_new_with_free_func (reel_free);
  self->tiles = g_malloc ((gsize)batch * config->frames * self->tile_bytes);
  return self;
}

NfReels *
nf_reels_new_world (NfWorldPattern pattern, const NfConfig *config, guint batch, guint64 seed, GError **error)
{
  g_autoptr (NfReels) self = reels_new (config, batch, seed);
  g_autoptr (NfWorld) world
      = nf_world_new (pattern, nf_config_columns (config), nf_config_rows (config), 0, error);
  if (!world)
    return NULL;
  self->is_world = TRUE;
  self->pattern = pattern;
  self->n_actions = nf_world_pattern_actions (pattern);
  self->told = config->action_dim > 0;
  nf_reels_set_action_dim (self, config->action_dim);
  return g_steal_pointer (&self);
}

/* Samples in planes one after the other without gaps. */
static guint8 *
pack (const NfPicture *picture)
{
  guint8 *bytes = g_malloc (picture->size), *out = bytes;
  for (guint i = 0; i < nf_picture_planes (picture->layout); i++)
    {
      const NfPlane *plane = &picture->frame.planes[i];
      guint width, height;
      nf_picture_extent (picture->layout, i, picture->frame.width, picture->frame.height, &width, &height);
      for (guint y = 0; y < height; y++, out += width)
        memcpy (out, plane->data + (gssize)y * plane->stride, width);
    }
  return bytes;
}

static gboolean
read_frames (NfReels *self, Reel *reel, GError **error)
{
  g_autoptr (NfMediaReader) reader = nf_media_reader_open (reel->path, self->config.layout, error);
  g_autoptr (GError) local = NULL;
  NfPicture *next;
  if (!reader)
    return FALSE;
  while ((next = nf_media_reader_next (reader, &local)))
    {
      g_autoptr (NfPicture) picture = next;
      g_autoptr (NfPicture) scaled = nf_picture_scale (picture, nf_config_columns (&self->config),
                                                       nf_config_rows (&self->config), error);
      if (!scaled)
        return FALSE;
      g_ptr_array_add (reel->frames, pack (scaled));
    }
  if (local)
    {
      g_propagate_error (error, g_steal_pointer (&local));
      return FALSE;
    }
  return TRUE;
}

static gboolean
check_length (const Reel *reel, const char *path, guint frames, GError **error)
{
  if (frames >= reel->frames->len)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s has actions of %u frames, the video has %u", path,
               frames, reel->frames->len);
  return FALSE;
}

/* Numbers for each frame, as many in all files. */
static gboolean
read_controls (NfReels *self, Reel *reel, const char *path, GError **error)
{
  guint n;
  reel->controls = nf_actions_read_controls (path, &n, error);
  if (!reel->controls || !check_length (reel, path, n ? reel->controls->len / n : 0, error))
    return FALSE;
  const guint wanted = self->config.action_dim ? self->config.action_dim
                       : self->n_actions       ? self->n_actions
                                               : n;
  if (n != wanted)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "%s has %u controls a frame, it must be %u", path, n,
                   wanted);
      return FALSE;
    }
  self->n_actions = n;
  return TRUE;
}

static gboolean
read_actions (NfReels *self, Reel *reel, GError **error)
{
  g_autofree char *path = g_strconcat (reel->path, NF_ACTIONS_SUFFIX, NULL);
  const gboolean controlled = nf_actions_has_controls (path);
  if (self->files->len > 0 && controlled != self->controlled)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "%s has %s, the files before it have %s", path,
                   controlled ? "controls" : "actions", controlled ? "actions" : "controls");
      return FALSE;
    }
  self->controlled = controlled;
  if (controlled)
    return read_controls (self, reel, path, error);
  reel->actions = nf_actions_read (path, self->config.action_dim, error);
  if (!reel->actions || !check_length (reel, path, reel->actions->len, error))
    return FALSE;
  for (guint i = 0; i < reel->actions->len; i++)
    if (g_array_index (reel->actions, guint, i) != NF_ACTIONS_UNKNOWN)
      self->n_actions = MAX (self->n_actions, g_array_index (reel->actions, guint, i) + 1);
  return TRUE;
}

/* A file with all of its frames, if they are enough. */
static Reel *
read_reel (NfReels *self, const char *path, double holdout, GError **error)
{
  Reel *reel = g_new0 (Reel, 1);
  reel->path = g_strdup (path);
  reel->frames = g_ptr_array_new_with_free_func (g_free);
  if (read_frames (self, reel, error))
    {
      reel->n_train = holdout > 0 ? nf_scan_holdout_start (holdout, reel->frames->len) : reel->frames->len;
      if (reel->n_train < self->config.frames)
        g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                     "%s: there are %" G_GUINT64_FORMAT
                     " frames to train on, a sample has %u; --frames can be fewer",
                     reel->path, reel->n_train, self->config.frames);
      else if (!self->told || read_actions (self, reel, error))
        return reel;
    }
  reel_free (reel);
  return NULL;
}

NfReels *
nf_reels_new_files (const char *const *paths, const NfConfig *config, guint batch, guint64 seed,
                    double holdout, gboolean actions, const NfMediaInspection *inspection, GError **error)
{
  g_autoptr (NfReels) self = reels_new (config, batch, seed);
  g_autoptr (GPtrArray) files = nf_media_list_once (paths, error);
  guint64 places = 0;
  if (!files)
    return NULL;
  self->told = actions;
  self->cumulative = g_new (guint64, files->len);
  nf_media_left_out_init (&self->left_out, paths, inspection);
  self->left_out.n = files->len;
  for (guint i = 0; i < files->len; i++)
    {
      GError *wrong = NULL;
      if (inspection && inspection->go_on && !inspection->go_on (i, files->len, inspection->data, error))
        return NULL;
      Reel *reel = read_reel (self, files->pdata[i], holdout, &wrong);
      if (reel)
        {
          places += reel->n_train - config->frames + 1;
          self->cumulative[self->files->len] = places;
          g_ptr_array_add (self->files, reel);
        }
      else if (!nf_media_leave_out (&self->left_out, files->pdata[i], wrong, error))
        return NULL;
    }
  if (!nf_media_check_left (&self->left_out, error))
    return NULL;
  nf_reels_set_action_dim (self, config->action_dim);
  return g_steal_pointer (&self);
}

void
nf_reels_label_files (NfReels *self)
{
  g_return_if_fail (!self->is_world && !self->labels);
  self->labels = g_new (gint, self->batch);
}

const NfMediaLeftOut *
nf_reels_get_left_out (NfReels *self)
{
  return &self->left_out;
}

guint
nf_reels_count (NfReels *self)
{
  return self->files->len;
}

const char *
nf_reels_get_path (NfReels *self, guint i)
{
  return ((Reel *)self->files->pdata[i])->path;
}

guint64
nf_reels_get_length (NfReels *self, guint i)
{
  return ((Reel *)self->files->pdata[i])->frames->len;
}

guint64
nf_reels_get_frames (NfReels *self)
{
  guint64 n = 0;
  for (guint i = 0; i < self->files->len; i++)
    n += ((Reel *)self->files->pdata[i])->n_train;
  return n;
}

guint
nf_reels_get_actions (NfReels *self)
{
  return self->n_actions;
}

gboolean
nf_reels_have_controls (NfReels *self)
{
  return self->controlled;
}

void
nf_reels_set_action_dim (NfReels *self, guint action_dim)
{
  g_return_if_fail (!self->told || action_dim == 0 || action_dim >= self->n_actions);
  self->config.action_dim = action_dim;
  g_free (self->actions);
  self->actions = self->told && action_dim
                      ? g_new (float, (gsize)self->batch * self->config.frames * action_dim)
                      : NULL;
}

/* The vector of what leads to a frame. */
static void
tell_action (const NfReels *self, float *row, guint action)
{
  memset (row, 0, self->config.action_dim * sizeof *row);
  if (action != NF_ACTIONS_UNKNOWN)
    row[action] = 1;
}

/* A piece of the world of RANDOM. ACTIONS may be NULL. */
static gboolean
play (const NfReels *self, const guint32 random[4], guint8 *tiles, float *actions, GError **error)
{
  const NfConfig *config = &self->config;
  const guint width = nf_config_columns (config), height = nf_config_rows (config),
              warm_up = 1 + random[2] % MAX_WARM_UP;
  const guint64 seed = (guint64)random[0] << 32 | random[1];
  g_autoptr (NfWorld) world = nf_world_new (self->pattern, width, height, seed, error);
  g_autoptr (NfPicture) picture = nf_picture_new (config->layout, width, height);
  NfPolicy policy;
  if (!world)
    return FALSE;
  nf_policy_init (&policy, "mixed", seed);
  for (guint t = 0; t < warm_up + config->frames - 1; t++)
    {
      const guint action = nf_policy_act (&policy, world);
      if (!nf_world_step (world, action, error))
        return FALSE;
      if (t + 1 < warm_up)
        continue;
      nf_world_render (world, config->layout, &picture->frame);
      memcpy (tiles, picture->data, self->tile_bytes);
      tiles += self->tile_bytes;
      if (actions)
        tell_action (self, actions, action);
      if (actions)
        actions += config->action_dim;
    }
  return TRUE;
}

/* Frames FIRST and on of REEL. */
static void
copy_piece (const NfReels *self, const Reel *reel, guint64 first, guint8 *tiles, float *actions)
{
  const NfConfig *config = &self->config;
  for (guint t = 0; t < config->frames; t++)
    {
      memcpy (tiles + t * self->tile_bytes, reel->frames->pdata[first + t], self->tile_bytes);
      if (!actions)
        continue;
      float *row = actions + (gsize)t * config->action_dim;
      /* what led to the very first frame is not known */
      if (first + t == 0)
        tell_action (self, row, NF_ACTIONS_UNKNOWN);
      else if (reel->controls)
        memcpy (row, &g_array_index (reel->controls, float, (first + t - 1) * config->action_dim),
                config->action_dim * sizeof *row);
      else
        tell_action (self, row, g_array_index (reel->actions, guint, first + t - 1));
    }
}

gboolean
nf_reels_batch (NfReels *self, guint64 step, NfTrainBatch *batch, GError **error)
{
  const gsize sample = self->config.frames * self->tile_bytes;
  const gsize row = (gsize)self->config.frames * self->config.action_dim;
  for (guint i = 0; i < self->batch; i++)
    {
      float *actions = self->actions ? self->actions + i * row : NULL;
      guint32 random[4];
      nf_random_u32x4 (self->seed, STREAM_TRAIN + step, i, random);
      if (self->is_world)
        {
          if (!play (self, random, self->tiles + i * sample, actions, error))
            return FALSE;
          continue;
        }
      const guint64 all = self->cumulative[self->files->len - 1];
      const guint64 place = ((guint64)random[0] << 32 | random[1]) % all;
      guint k = 0;
      while (self->cumulative[k] <= place)
        k++;
      copy_piece (self, self->files->pdata[k], place - (k ? self->cumulative[k - 1] : 0),
                  self->tiles + i * sample, actions);
      if (self->labels)
        self->labels[i] = (gint)k;
    }
  *batch = (NfTrainBatch){
    .B = self->batch, .tiles = self->tiles, .actions = self->actions, .labels = self->labels
  };
  return TRUE;
}

static NfClipsValidation *
new_set (const NfReels *self, const char *name, guint n)
{
  NfClipsValidation *set = g_new0 (NfClipsValidation, 1);
  set->name = g_path_get_basename (name);
  set->n_tiles = n;
  set->tiles = g_malloc (n * self->config.frames * self->tile_bytes);
  set->actions
      = self->actions ? g_new (float, (gsize)n * self->config.frames * self->config.action_dim) : NULL;
  return set;
}

GPtrArray *
nf_reels_validation (NfReels *self, guint n, GError **error)
{
  g_autoptr (GPtrArray) sets = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_clips_validation_free);
  const gsize sample = self->config.frames * self->tile_bytes,
              row = (gsize)self->config.frames * self->config.action_dim;

  if (self->is_world && n)
    {
      NfClipsValidation *set = new_set (self, nf_world_pattern_name (self->pattern), n);
      g_ptr_array_add (sets, set);
      for (guint i = 0; i < n; i++)
        {
          guint32 random[4];
          nf_random_u32x4 (self->seed, STREAM_VALIDATION, i, random);
          if (!play (self, random, set->tiles + i * sample, set->actions ? set->actions + i * row : NULL,
                     error))
            return NULL;
        }
    }
  for (guint k = 0; k < self->files->len; k++)
    {
      const Reel *reel = self->files->pdata[k];
      const guint64 held = reel->frames->len - reel->n_train;
      const guint each = MAX (n / self->files->len, 1);
      if (held < self->config.frames || !n)
        continue;
      NfClipsValidation *set = new_set (self, reel->path, each);
      g_ptr_array_add (sets, set);
      for (guint i = 0; i < each; i++)
        copy_piece (self, reel, reel->n_train + (held - self->config.frames) * i / MAX (each - 1, 1),
                    set->tiles + i * sample, set->actions ? set->actions + i * row : NULL);
      set->labels = self->labels ? g_new (gint, each) : NULL;
      for (guint i = 0; set->labels && i < each; i++)
        set->labels[i] = (gint)k;
    }
  return g_steal_pointer (&sets);
}
