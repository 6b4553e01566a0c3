/* normflow: training tiles from videos and pictures. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>
#include "media.h"
#include "nf-config.h"

G_BEGIN_DECLS

#define NF_CLIPS_MIN_SCALE (1.0 / 64)

typedef enum
{
  NF_CLIPS_NO_LABELS,
  NF_CLIPS_FOLDERS, /* the folder that it lies in */
  NF_CLIPS_NAMES,   /* its own name, without folders */
} NfClipsLabels;

/*
 * NfClipsOptions:
 * layout, width, height: of the model; a tile is nf_config_tile_bytes() of it
 * batch: B, tiles of a step
 * seed: of everything random
 * holdout: last share of each video's frames, and of each folder's pictures, that is never trained on
 * scales, n_scales: factors, NF_CLIPS_MIN_SCALE to 1, by which frames are shrunk before cutting, each as
 * likely as the others; none means 1
 * labels: what is a file's class
 * classes: (nullable): names of all classes by number, which those of the files are among; else these are
 * all, sorted
 * cache: bytes of decoded frames to keep
 * inspection: (nullable): how files are looked at before they are used
 */
typedef struct
{
  NfPixelLayout layout;
  guint width, height;
  guint batch;
  guint64 seed;
  double holdout;
  const double *scales;
  guint n_scales;
  NfClipsLabels labels;
  const char *const *classes;
  guint64 cache;
  const NfMediaInspection *inspection;
} NfClipsOptions;

/*
 * Random tiles of videos and pictures. The batch of a step is a pure function of seed, step, options and
 * files, so a resumed run sees the batches it would have seen; work goes in chunks of steps that a thread
 * prepares ahead. Memory: two chunks of tiles and the cache.
 */
typedef struct _NfClips NfClips;

/* Files that PATHS name must be sound; of those that a folder brings, others are left out. */
NfClips *nf_clips_new (const char *const *paths, const NfClipsOptions *options, GError **error);
void nf_clips_free (NfClips *self);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfClips, nf_clips_free)

/* Number of files, frames to train on, classes (0 without labels); name of a class or file; frames of a file,
 * held out or not. */
guint nf_clips_count (NfClips *self);
guint64 nf_clips_get_frames (NfClips *self);
guint nf_clips_get_classes (NfClips *self);
const char *nf_clips_get_class (NfClips *self, guint i);
const char *nf_clips_get_path (NfClips *self, guint i);
guint64 nf_clips_get_length (NfClips *self, guint i);

/* What of the files, and of those of nf_clips_validation(), was left out. */
const NfMediaLeftOut *nf_clips_get_left_out (NfClips *self);

/* Frames that could not be had so far and were replaced by others: how many; in words, of which files.
 * (transfer full) */
guint64 nf_clips_get_damaged (NfClips *self);
char *nf_clips_describe_damage (NfClips *self);

/* The B tiles of step STEP, counted from 0, and their LABELS (NULL without classes); valid until the next
 * call. Steps are usually asked for in order. */
const guint8 *nf_clips_batch (NfClips *self, guint64 step, const gint **labels, GError **error);

/* Fixed samples that are not trained on, from one file: tiles, or, with nf_reels_validation(), videos. */
typedef struct
{
  char *name;
  gboolean unseen; /* a whole file kept away from training, not the end of one */
  guint n_tiles;
  guint8 *tiles;
  gint *labels;   /* NULL without classes, or labels of files */
  float *actions; /* NULL without actions */
} NfClipsValidation;

void nf_clips_validation_free (NfClipsValidation *set);

/* About N_TILES tiles, spread over what is held out of the training files and over the EXTRA files
 * (nullable). Of more files than tiles some are taken, evenly spread, of EXTRA half of the tiles or all there
 * are. Call before the first nf_clips_batch(). (element-type NfClipsValidation), empty if there is nothing
 * held out. */
GPtrArray *nf_clips_validation (NfClips *self, const char *const *extra, guint n_tiles, GError **error);

G_END_DECLS
