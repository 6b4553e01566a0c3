/* normflow: training tiles from videos and pictures. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "clips.h"
#include "media.h"
#include "nf-error.h"
#include "nf-random.h"
#include "scan.h"

#include <math.h>
#include <string.h>

/* A chunk of steps takes its tiles from this many places of the clips, some frames from each: places cost a
 * seek, frames are cheap. */
#define PLACES 24
#define FRAMES_PER_PLACE 4
#define FRAME_STRIDE 5
#define POOL (PLACES * FRAMES_PER_PLACE)
#define CHUNK_TILES 4096
#define MAX_READERS 8
#define NAMED_DAMAGED 3
#define SHOWN_CLASSES 8

/* Philox streams: what the numbers are for. Chunks add their index. */
#define STREAM_PLACES (G_GUINT64_CONSTANT (1) << 56)
#define STREAM_TILES (G_GUINT64_CONSTANT (2) << 56)
#define STREAM_VALIDATION (G_GUINT64_CONSTANT (3) << 56)

typedef struct
{
  char *path;
  guint64 n_frames; /* all */
  guint64 n_train;  /* the first ones; 0 if the whole file is held out */
  gint label;
  NfMediaReader *reader; /* NULL while closed */
  guint64 used;
} Clip;

typedef struct
{
  guint64 index;
  guint8 *tiles; /* (steps, B, tile bytes) */
  gint *labels;
  GError *error;
} Chunk;

struct _NfClips
{
  NfClipsOptions options;
  double *scales;
  gsize tile_bytes;
  guint steps; /* of a chunk */
  GPtrArray *clips;
  GPtrArray *classes;
  double *cumulative; /* of the chance of each clip */

  GHashTable *cache; /* (clip << 40 | frame) → NfPicture */
  guint64 cached;
  guint64 clock;

  Chunk *chunk;
  guint64 pending; /* chunk the thread works on */
  GThread *thread;
  NfMediaInspection inspection; /* of files of nf_clips_validation() */
  NfMediaLeftOut left_out;

  GMutex lock; /* of what is below, which the thread tells */
  guint64 damaged;
  GPtrArray *damaged_files; /* each once */
};

static void
clip_free (gpointer data)
{
  Clip *clip = data;

  nf_media_reader_free (clip->reader);
  g_free (clip->path);
  g_free (clip);
}

static void
chunk_free (Chunk *chunk)
{
  if (!chunk)
    return;
  g_clear_error (&chunk->error);
  g_free (chunk->tiles);
  g_free (chunk->labels);
  g_free (chunk);
}

void
nf_clips_free (NfClips *self)
{
  if (!self)
    return;
  if (self->thread)
    chunk_free (g_thread_join (self->thread));
  chunk_free (self->chunk);
  g_clear_pointer (&self->cache, g_hash_table_unref);
  g_clear_pointer (&self->clips, g_ptr_array_unref);
  g_clear_pointer (&self->classes, g_ptr_array_unref);
  g_clear_pointer (&self->damaged_files, g_ptr_array_unref);
  nf_media_left_out_clear (&self->left_out);
  g_mutex_clear (&self->lock);
  g_free (self->cumulative);
  g_free (self->scales);
  g_free (self);
}

guint
nf_clips_count (NfClips *self)
{
  return self->clips->len;
}

guint64
nf_clips_get_frames (NfClips *self)
{
  guint64 n = 0;

  for (guint i = 0; i < self->clips->len; i++)
    n += ((Clip *)self->clips->pdata[i])->n_train;
  return n;
}

guint
nf_clips_get_classes (NfClips *self)
{
  return self->options.labels ? self->classes->len : 0;
}

const char *
nf_clips_get_class (NfClips *self, guint i)
{
  return self->classes->pdata[i];
}

const char *
nf_clips_get_path (NfClips *self, guint i)
{
  return ((Clip *)self->clips->pdata[i])->path;
}

guint64
nf_clips_get_length (NfClips *self, guint i)
{
  return ((Clip *)self->clips->pdata[i])->n_frames;
}

guint64
nf_clips_get_damaged (NfClips *self)
{
  g_mutex_lock (&self->lock);
  const guint64 damaged = self->damaged;
  g_mutex_unlock (&self->lock);
  return damaged;
}

char *
nf_clips_describe_damage (NfClips *self)
{
  GString *text = g_string_new (NULL);

  g_mutex_lock (&self->lock);
  g_string_append_printf (text, "%" G_GUINT64_FORMAT, self->damaged);
  for (guint i = 0; i < MIN (self->damaged_files->len, NAMED_DAMAGED); i++)
    g_string_append_printf (text, "%s%s", i ? ", " : ", of ", (char *)self->damaged_files->pdata[i]);
  if (self->damaged_files->len > NAMED_DAMAGED)
    g_string_append_printf (text, " and %u more files", self->damaged_files->len - NAMED_DAMAGED);
  g_mutex_unlock (&self->lock);
  return g_string_free (text, FALSE);
}

/* A frame of CLIP could not be had. */
static void
tell_damage (NfClips *self, Clip *clip)
{
  g_autofree char *name = g_filename_display_name (clip->path);

  g_mutex_lock (&self->lock);
  self->damaged++;
  if (!g_ptr_array_find_with_equal_func (self->damaged_files, name, g_str_equal, NULL))
    g_ptr_array_add (self->damaged_files, g_steal_pointer (&name));
  g_mutex_unlock (&self->lock);
  g_clear_pointer (&clip->reader, nf_media_reader_free);
}

const NfMediaLeftOut *
nf_clips_get_left_out (NfClips *self)
{
  return &self->left_out;
}

/* Files are many, open files few: the reader that was longest unused is closed. */
static NfMediaReader *
clip_open (NfClips *self, Clip *clip, GError **error)
{
  if (!clip->reader)
    {
      Clip *oldest = NULL;
      guint open = 0;

      for (guint i = 0; i < self->clips->len; i++)
        {
          Clip *other = self->clips->pdata[i];

          if (!other->reader)
            continue;
          open++;
          if (!oldest || other->used < oldest->used)
            oldest = other;
        }
      if (open >= MAX_READERS)
        g_clear_pointer (&oldest->reader, nf_media_reader_free);
      clip->reader = nf_media_reader_open (clip->path, self->options.layout, error);
      if (!clip->reader)
        return NULL;
    }
  clip->used = ++self->clock;
  return clip->reader;
}

/* Keeps a decoded frame, if there is room. */
static void
keep_frame (NfClips *self, guint number, guint64 frame, NfPicture *picture)
{
  const guint64 key = (guint64)number << 40 | frame;

  if (self->cached + picture->size > self->options.cache)
    return;
  self->cached += picture->size;
  g_hash_table_insert (self->cache, g_memdup2 (&key, sizeof key), nf_picture_ref (picture));
}

static NfPicture *
clip_frame (NfClips *self, guint number, guint64 frame, GError **error)
{
  Clip *clip = self->clips->pdata[number];
  guint64 key = (guint64)number << 40 | frame;
  NfPicture *cached = g_hash_table_lookup (self->cache, &key);
  NfMediaReader *reader;
  g_autoptr (NfPicture) picture = NULL;

  if (cached)
    return nf_picture_ref (cached);
  reader = clip_open (self, clip, error);
  if (!reader || (frame > 0 && !nf_media_reader_seek (reader, frame, error))
      || (frame == 0 && nf_media_reader_get_position (reader) != 0
          && !nf_media_reader_seek (reader, 0, error)))
    return NULL;
  picture = nf_media_reader_next (reader, error);
  if (!picture)
    {
      if (error && !*error)
        g_set_error (error, NF_ERROR, NF_ERROR_READ, "%s: frame %" G_GUINT64_FORMAT " cannot be decoded",
                     clip->path, frame);
      return NULL;
    }
  keep_frame (self, number, frame, picture);
  return g_steal_pointer (&picture);
}

/* Shrinks PICTURE (taken over) by SCALE, to even sides. */
static NfPicture *
shrink (NfPicture *picture, double scale, GError **error)
{
  g_autoptr (NfPicture) owned = picture;
  guint width = (guint)(picture->frame.width * scale + 0.5),
        height = (guint)(picture->frame.height * scale + 0.5);

  if (scale == 1)
    return g_steal_pointer (&owned);
  return nf_picture_scale (owned, MAX (width & ~1u, 2), MAX (height & ~1u, 2), error);
}

/* One tile at (X, Y), both even for 4:2:0; beyond the last row and column, these repeat, as encoding
 * pads. */
static void
cut (const NfPicture *picture, const NfClipsOptions *options, guint x, guint y, gboolean mirrored,
     guint8 *out)
{
  for (guint i = 0; i < nf_picture_planes (picture->layout); i++)
    {
      const NfPlane *plane = &picture->frame.planes[i];
      guint half = picture->layout == NF_PIXELS_YUV420 && i > 0 ? 2 : 1;
      const guint columns = options->width / half, rows = options->height / half, x0 = x / half,
                  y0 = y / half;
      guint width, height;

      nf_picture_extent (picture->layout, i, picture->frame.width, picture->frame.height, &width, &height);
      for (guint r = 0; r < rows; r++, out += columns)
        {
          const guint8 *row = plane->data + (gssize)MIN (y0 + r, height - 1) * plane->stride;

          for (guint c = 0; c < columns; c++)
            out[mirrored ? columns - 1 - c : c] = row[MIN (x0 + c, width - 1)];
        }
    }
}

/* Where a tile lies: anywhere inside the picture, but one in eight on the grid that encoding uses, whose last
 * tiles hang over the edge. */
static void
place_tile (const NfPicture *picture, const NfClipsOptions *options, const guint32 random[4], guint *x,
            guint *y)
{
  const guint step = picture->layout == NF_PIXELS_YUV420 ? 2 : 1, columns = options->width,
              rows = options->height, width = picture->frame.width, height = picture->frame.height;

  if (random[3] >> 29 == 0)
    {
      *x = (guint)((guint64)random[0] * ((width + columns - 1) / columns) >> 32) * columns;
      *y = (guint)((guint64)random[1] * ((height + rows - 1) / rows) >> 32) * rows;
    }
  else
    {
      *x = (guint)((guint64)random[0] * ((width > columns ? width - columns : 0) / step + 1) >> 32) * step;
      *y = (guint)((guint64)random[1] * ((height > rows ? height - rows : 0) / step + 1) >> 32) * step;
    }
}

typedef struct
{
  guint clip;
  guint64 frame;
  double scale;
} PoolFrame;

/* The frames of chunk INDEX. */
static void
draw_pool (NfClips *self, guint64 index, PoolFrame pool[POOL])
{
  for (guint p = 0; p < PLACES; p++)
    {
      guint32 random[4];
      guint clip = 0;
      guint64 n, start;
      double u;

      nf_random_u32x4 (self->options.seed, STREAM_PLACES + index, p, random);
      u = random[0] * 0x1p-32 * self->cumulative[self->clips->len - 1];
      while (clip + 1 < self->clips->len && self->cumulative[clip] <= u)
        clip++;
      n = ((Clip *)self->clips->pdata[clip])->n_train;
      start = (guint64)((random[1] * 0x1p-32 + random[2] * 0x1p-64) * (double)n);
      for (guint f = 0; f < FRAMES_PER_PLACE; f++)
        {
          guint scale
              = self->options.n_scales ? ((random[3] >> (8 * f)) & 0xff) * self->options.n_scales / 256 : 0;

          pool[p * FRAMES_PER_PLACE + f] = (PoolFrame){ clip, MIN (start + f * FRAME_STRIDE, n - 1),
                                                        self->options.n_scales ? self->scales[scale] : 1 };
        }
    }
}

static int
compare_clips (gconstpointer a, gconstpointer b, gpointer data)
{
  const PoolFrame *pool = data, *x = &pool[*(const guint *)a], *y = &pool[*(const guint *)b];

  if (x->clip != y->clip)
    return x->clip < y->clip ? -1 : 1;
  return (x->frame > y->frame) - (x->frame < y->frame);
}

static gpointer
make_chunk (gpointer data)
{
  NfClips *self = data;
  Chunk *chunk = g_new0 (Chunk, 1);
  gsize n = (gsize)self->steps * self->options.batch;
  PoolFrame pool[POOL];
  guint order[POOL];
  g_autofree guint *sources = g_new (guint, n);
  g_autoptr (NfPicture) last = NULL;
  g_autoptr (GError) first_error = NULL;
  guint last_clip = 0;

  chunk->index = self->pending;
  chunk->tiles = g_malloc (n * self->tile_bytes);
  chunk->labels = self->options.labels ? g_new (gint, n) : NULL;
  draw_pool (self, chunk->index, pool);
  for (gsize t = 0; t < n; t++)
    {
      guint32 random[4];

      nf_random_u32x4 (self->options.seed, STREAM_TILES + chunk->index, 2 * t, random);
      sources[t] = (guint)((guint64)random[0] * POOL >> 32);
    }

  /* Clip by clip and forwards, the order that decoding likes; tiles have their places whatever the order. */
  for (guint i = 0; i < POOL; i++)
    order[i] = i;
  g_qsort_with_data (order, POOL, sizeof *order, compare_clips, pool);
  for (guint i = 0; i < POOL; i++)
    {
      const PoolFrame *from = &pool[order[i]];
      g_autoptr (GError) error = NULL;
      NfPicture *picture = clip_frame (self, from->clip, from->frame, &error);

      if (picture)
        picture = shrink (picture, from->scale, &error);
      if (picture)
        {
          nf_picture_unref (last);
          last = picture;
          last_clip = from->clip;
        }
      else
        {
          /* A frame that cannot be decoded must not end a long run: the one before takes its place. */
          tell_damage (self, self->clips->pdata[from->clip]);
          if (!first_error)
            first_error = g_steal_pointer (&error);
          if (!last)
            {
              /* None yet: its tiles are taken from the next that can be decoded. */
              if (i + 1 < POOL)
                for (gsize t = 0; t < n; t++)
                  if (sources[t] == order[i])
                    sources[t] = order[i + 1];
              continue;
            }
        }
      for (gsize t = 0; t < n; t++)
        if (sources[t] == order[i])
          {
            guint32 random[4];
            guint x, y;

            nf_random_u32x4 (self->options.seed, STREAM_TILES + chunk->index, 2 * t + 1, random);
            place_tile (last, &self->options, random, &x, &y);
            cut (last, &self->options, x, y, random[2] >> 31, chunk->tiles + t * self->tile_bytes);
            if (chunk->labels)
              chunk->labels[t] = ((Clip *)self->clips->pdata[last_clip])->label;
          }
    }
  if (!last)
    chunk->error = g_steal_pointer (&first_error);
  return chunk;
}

static void
start_chunk (NfClips *self, guint64 index)
{
  self->pending = index;
  self->thread = g_thread_new ("clips", make_chunk, self);
}

const guint8 *
nf_clips_batch (NfClips *self, guint64 step, const gint **labels, GError **error)
{
  guint64 index = step / self->steps;
  gsize first = (gsize)(step % self->steps) * self->options.batch;

  while (!self->chunk || self->chunk->index != index)
    {
      if (!self->thread)
        start_chunk (self, index);
      chunk_free (self->chunk);
      self->chunk = g_thread_join (self->thread);
      self->thread = NULL;
      if (self->chunk->error)
        {
          g_propagate_error (error, g_error_copy (self->chunk->error));
          return NULL;
        }
      if (self->chunk->index == index)
        start_chunk (self, index + 1);
    }
  if (labels)
    *labels = self->chunk->labels ? self->chunk->labels + first : NULL;
  return self->chunk->tiles + first * self->tile_bytes;
}

static gboolean
check_options (const NfClipsOptions *options, GError **error)
{
  if (options->width < 1 || options->width > 4096 || options->height < 1 || options->height > 4096
      || options->batch < 1 || options->batch > 65536)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "batches of %u tiles of %ux%u pixels are not possible",
                   options->batch, options->width, options->height);
      return FALSE;
    }
  if (!(options->holdout >= 0 && options->holdout < 1))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "a held-out share of %g is not possible: it goes from 0 to less than 1", options->holdout);
      return FALSE;
    }
  for (guint i = 0; i < options->n_scales; i++)
    if (!(options->scales[i] >= NF_CLIPS_MIN_SCALE && options->scales[i] <= 1))
      {
        g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                     "a scale of %g is not possible: they go from 1/64 to 1", options->scales[i]);
        return FALSE;
      }
  return TRUE;
}

/* How many of N are trained on: a single one is. */
static guint64
train_share (double holdout, guint64 n)
{
  return n > 1 ? nf_scan_holdout_start (holdout, n) : n;
}

static int
compare_names (gconstpointer a, gconstpointer b)
{
  return strcmp (*(const char *const *)a, *(const char *const *)b);
}

static char *
class_of (const NfClips *self, const Clip *clip)
{
  g_autofree char *folder = g_path_get_dirname (clip->path);
  return self->options.labels == NF_CLIPS_NAMES ? g_path_get_basename (clip->path)
                                                : g_filename_display_basename (folder);
}

/* For people. */
static char *
list_classes (const NfClips *self)
{
  GString *text = g_string_new (NULL);

  for (guint k = 0; k < MIN (self->classes->len, SHOWN_CLASSES); k++)
    g_string_append_printf (text, "%s%s", k ? ", " : "", (char *)self->classes->pdata[k]);
  if (self->classes->len > SHOWN_CLASSES)
    g_string_append_printf (text, " and %u more", self->classes->len - SHOWN_CLASSES);
  return g_string_free (text, FALSE);
}

static gboolean
add_classes (NfClips *self, GError **error)
{
  g_autoptr (GHashTable) places = g_hash_table_new (g_str_hash, g_str_equal);
  const char *const *given = self->options.classes;

  for (guint k = 0; given && given[k]; k++)
    g_ptr_array_add (self->classes, g_strdup (given[k]));
  for (guint i = 0; !given && i < self->clips->len; i++)
    {
      char *name = class_of (self, self->clips->pdata[i]);

      if (g_hash_table_contains (places, name))
        g_free (name);
      else
        {
          g_hash_table_insert (places, name, NULL);
          g_ptr_array_add (self->classes, name);
        }
    }
  if (!given)
    g_ptr_array_sort (self->classes, compare_names);
  for (guint k = 0; k < self->classes->len; k++)
    g_hash_table_insert (places, self->classes->pdata[k], GINT_TO_POINTER ((gint)k));
  for (guint i = 0; i < self->clips->len; i++)
    {
      Clip *clip = self->clips->pdata[i];
      g_autofree char *name = class_of (self, clip);
      gpointer label;

      if (!g_hash_table_lookup_extended (places, name, NULL, &label))
        {
          g_autofree char *known = list_classes (self);

          g_set_error (
              error, NF_ERROR, NF_ERROR_DATA,
              "%s: the folder %s is not one of the classes %s: name it after one of them, or leave it out",
              clip->path, name, known);
          return FALSE;
        }
      clip->label = GPOINTER_TO_INT (label);
    }
  return TRUE;
}

/* Of pictures, the last of each folder are held out, whatever lies between them. */
static void
hold_pictures_out (NfClips *self)
{
  g_autoptr (GPtrArray) pictures = g_ptr_array_new ();
  for (guint i = 0; i < self->clips->len; i++)
    {
      Clip *clip = self->clips->pdata[i];
      if (clip->n_frames == 1 && nf_media_is_picture (clip->path))
        g_ptr_array_add (pictures, clip->path);
    }
  g_autoptr (GHashTable) held = nf_scan_held_pictures (pictures, self->options.holdout);
  for (guint i = 0; i < self->clips->len; i++)
    {
      Clip *clip = self->clips->pdata[i];
      if (g_hash_table_contains (held, clip->path))
        clip->n_train = 0;
    }
}

/* How many frames a file has. A picture is not read before it is its turn: there may be very many, and one
 * that cannot be decoded is replaced like a frame, or left out of those that are held out. */
static gboolean
count_frames (NfClips *self, Clip *clip, GError **error)
{
  clip->n_frames = 1;
  if (nf_media_is_picture (clip->path))
    return TRUE;
  NfMediaReader *reader = clip_open (self, clip, error);
  if (!reader || !nf_media_reader_index (reader, error))
    return FALSE;
  clip->n_frames = nf_media_reader_get_info (reader)->n_frames;
  return TRUE;
}

NfClips *
nf_clips_new (const char *const *paths, const NfClipsOptions *options, GError **error)
{
  g_autoptr (NfClips) self = g_new0 (NfClips, 1);
  g_autoptr (GPtrArray) files = NULL;
  double total = 0;
  guint64 tile;

  if (!check_options (options, error))
    return NULL;
  self->options = *options;
  self->scales = g_memdup2 (options->scales, options->n_scales * sizeof (double));
  self->options.scales = self->scales;
  if (options->inspection)
    self->inspection
        = (NfMediaInspection){ .go_on = options->inspection->go_on, .data = options->inspection->data };
  self->options.inspection = &self->inspection;
  g_mutex_init (&self->lock);
  self->damaged_files = g_ptr_array_new_with_free_func (g_free);
  nf_media_left_out_init (&self->left_out, paths, options->inspection);
  tile = nf_frame_samples (options->layout, options->width, options->height);
  self->tile_bytes = (gsize)tile;
  self->steps = CLAMP (CHUNK_TILES / options->batch, 1, 256);
  self->clips = g_ptr_array_new_with_free_func (clip_free);
  self->classes = g_ptr_array_new_with_free_func (g_free);
  self->cache = g_hash_table_new_full (g_int64_hash, g_int64_equal, g_free, (GDestroyNotify)nf_picture_unref);

  files = nf_media_list_once (paths, error);
  if (!files)
    return NULL;
  if (!files->len)
    {
      g_set_error_literal (error, NF_ERROR, NF_ERROR_ARGUMENT,
                           "no file to train on: name videos, pictures or folders of them");
      return NULL;
    }
  for (guint i = 0; i < files->len; i++)
    {
      Clip *clip = g_new0 (Clip, 1);
      GError *wrong = NULL;

      g_ptr_array_add (self->clips, clip);
      if (options->inspection && options->inspection->go_on
          && !options->inspection->go_on (i, files->len, options->inspection->data, error))
        return NULL;
      clip->path = g_strdup (files->pdata[i]);
      clip->label = -1;
      if (count_frames (self, clip, &wrong))
        clip->n_train = train_share (options->holdout, clip->n_frames);
      else if (nf_media_leave_out (&self->left_out, clip->path, wrong, error))
        g_ptr_array_set_size (self->clips, (gint)self->clips->len - 1);
      else
        return NULL;
    }
  self->left_out.n = files->len;
  if (!nf_media_check_left (&self->left_out, error))
    return NULL;
  /* what is held out of them is looked at again */
  g_clear_pointer (&self->left_out.needed, g_hash_table_unref);

  hold_pictures_out (self);
  if (options->labels && !add_classes (self, error))
    return NULL;

  /* Long videos count more than short ones, but not in proportion: their frames are much alike. */
  self->cumulative = g_new (double, self->clips->len);
  for (guint i = 0; i < self->clips->len; i++)
    {
      total += sqrt ((double)((Clip *)self->clips->pdata[i])->n_train);
      self->cumulative[i] = total;
    }
  return g_steal_pointer (&self);
}

void
nf_clips_validation_free (NfClipsValidation *set)
{
  if (!set)
    return;
  g_free (set->name);
  g_free (set->tiles);
  g_free (set->labels);
  g_free (set->actions);
  g_free (set);
}

#define VALIDATION_FRAMES 8

/* N of the frames FIRST .. FIRST + COUNT - 1, evenly spread. In the place of one that cannot be decoded is
 * the one before or behind; only of none is an error. */
static gboolean
validation_frames (NfClips *self, NfClips *owner, guint number, guint64 first, guint64 count, guint n,
                   NfPicture **pictures, GError **error)
{
  Clip *clip = owner->clips->pdata[number];
  g_autoptr (GError) first_error = NULL;
  guint found = n, missing = 0;

  for (guint f = 0; f < n; f++)
    {
      g_autoptr (GError) local = NULL;

      pictures[f] = clip_frame (owner, number, first + f * count / n, &local);
      if (pictures[f])
        {
          found = f;
          continue;
        }
      missing++;
      g_clear_pointer (&clip->reader, nf_media_reader_free);
      if (!first_error)
        first_error = g_steal_pointer (&local);
      if (f > 0 && pictures[f - 1])
        pictures[f] = nf_picture_ref (pictures[f - 1]);
    }
  if (found == n)
    {
      g_propagate_error (error, g_steal_pointer (&first_error));
      return FALSE;
    }
  for (guint f = n; f-- > 0;)
    if (!pictures[f])
      pictures[f] = nf_picture_ref (pictures[f + 1]);
  for (; missing; missing--)
    tell_damage (self, clip);
  return TRUE;
}

/* N tiles of frames FIRST .. FIRST + COUNT - 1. */
static NfClipsValidation *
validation_set (NfClips *self, NfClips *owner, guint number, guint64 first, guint64 count, guint n,
                GError **error)
{
  const Clip *clip = owner->clips->pdata[number];
  NfPicture *pictures[VALIDATION_FRAMES] = { NULL };
  const guint n_frames = (guint)MIN (count, VALIDATION_FRAMES);
  if (!validation_frames (self, owner, number, first, count, n_frames, pictures, error))
    return NULL;

  NfClipsValidation *set = g_new0 (NfClipsValidation, 1);
  set->name = g_path_get_basename (clip->path);
  const guint64 stream = STREAM_VALIDATION + g_str_hash (set->name);
  set->unseen = self != owner;
  set->n_tiles = n;
  set->tiles = g_malloc (n * self->tile_bytes);
  set->labels = self->options.labels ? g_new (gint, n) : NULL;
  for (guint t = 0; t < n; t++)
    {
      const NfPicture *picture = pictures[t % n_frames];
      guint32 random[4];
      guint x, y;

      nf_random_u32x4 (self->options.seed, stream, t, random);
      place_tile (picture, &self->options, random, &x, &y);
      cut (picture, &self->options, x, y, FALSE, set->tiles + t * self->tile_bytes);
      if (set->labels)
        set->labels[t] = set->unseen ? -1 : clip->label;
    }
  for (guint f = 0; f < n_frames; f++)
    nf_picture_unref (pictures[f]);
  return set;
}

/* Which clips of OWNER have something held out. (element-type guint) */
static GArray *
held_out (NfClips *owner, gboolean unseen)
{
  GArray *held = g_array_new (FALSE, FALSE, sizeof (guint));

  for (guint i = 0; owner && i < owner->clips->len; i++)
    {
      Clip *clip = owner->clips->pdata[i];

      if (unseen || clip->n_train < clip->n_frames)
        g_array_append_val (held, i);
    }
  return held;
}

GPtrArray *
nf_clips_validation (NfClips *self, const char *const *extra, guint n_tiles, GError **error)
{
  g_autoptr (GPtrArray) sets = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_clips_validation_free);
  g_autoptr (NfClips) unseen = NULL;
  guint each, n_extra, n_own;

  g_return_val_if_fail (!self->thread, NULL);
  if (extra && extra[0])
    {
      NfClipsOptions options = self->options;

      options.holdout = 0;
      options.labels = NF_CLIPS_NO_LABELS;
      options.cache = 0;
      unseen = nf_clips_new (extra, &options, error);
      if (!unseen)
        return NULL;
      self->left_out.n += unseen->left_out.n;
      g_ptr_array_extend_and_steal (self->left_out.files, g_steal_pointer (&unseen->left_out.files));
      unseen->left_out.files = g_ptr_array_ref (self->left_out.files);
    }
  g_autoptr (GArray) own = held_out (self, FALSE), others = held_out (unseen, TRUE);
  each = own->len + others->len ? MAX (n_tiles / (own->len + others->len), 1) : 0;
  /* With more files than tiles, the EXTRA ones were asked for by name: if they do not fit, they get half at
   * least. */
  n_own = MIN (own->len, n_tiles);
  n_extra = MIN (others->len, MAX (n_tiles - n_own, (n_tiles + 1) / 2));
  n_own = MIN (n_own, n_tiles - n_extra);

  for (guint from = 0; from < 2; from++)
    {
      NfClips *owner = from ? unseen : self;
      const GArray *held = from ? others : own;
      const guint n = from ? n_extra : n_own;

      g_autoptr (GError) last_wrong = NULL;
      guint made = 0;

      /* evenly spread, so that each folder has its share */
      for (guint k = 0; k < n; k++)
        {
          const guint i = g_array_index (held, guint, (guint64)k * held->len / n);
          Clip *clip = owner->clips->pdata[i];
          const guint64 first = from ? 0 : clip->n_train;
          GError *wrong = NULL;
          NfClipsValidation *set
              = validation_set (self, owner, i, first, clip->n_frames - first, each, &wrong);

          g_prefix_error (&wrong, "what is held out of ");
          g_clear_error (&last_wrong);
          if (!set)
            last_wrong = g_error_copy (wrong);
          else
            g_ptr_array_add (sets, set);
          made += set != NULL;
          if (!set && !nf_media_leave_out (&owner->left_out, clip->path, wrong, error))
            return NULL;
        }
      /* what was asked for by name, and without any there would be nothing to judge by */
      if (last_wrong && !made && (from || !n_extra))
        {
          g_propagate_error (error, g_steal_pointer (&last_wrong));
          return NULL;
        }
    }
  return g_steal_pointer (&sets);
}
