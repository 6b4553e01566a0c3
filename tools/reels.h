/* normflow: training samples of several frames. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <normflow.h>

#include "clips.h"

G_BEGIN_DECLS

/*
 * Random pieces of videos, as long as a model's samples, whole frames each: from files, which are kept in
 * memory at the model's size, or from a world that is simulated as it is needed. The batch of a step is a
 * pure function of seed, step, options and files, so a resumed run sees the batches it would have seen.
 */
typedef struct _NfReels NfReels;

void nf_reels_free (NfReels *self);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfReels, nf_reels_free)

/* A world of the model's size, played by "mixed" (see policy.h). With CONFIG's action_dim, actions are told.
 */
NfReels *nf_reels_new_world (NfWorldPattern pattern, const NfConfig *config, guint batch, guint64 seed,
                             GError **error);

/* Videos; frames are resampled to the model's size, whatever their shape. HOLDOUT: last share of each that is
 * never trained on. ACTIONS: read the actions file beside each. Files that PATHS name, and those that
 * INSPECTION (nullable) says are needed, must be sound and long enough; of those that a folder brings, others
 * are left out. */
NfReels *nf_reels_new_files (const char *const *paths, const NfConfig *config, guint batch, guint64 seed,
                             double holdout, gboolean actions, const NfMediaInspection *inspection,
                             GError **error);

/* What of the files was; of a world nothing. */
const NfMediaLeftOut *nf_reels_get_left_out (NfReels *self);

/* Of files, not of a world: the file that a sample is from is its label, by number. */
void nf_reels_label_files (NfReels *self);

/* Number of files, 0 for a world, their names and their frames, held out or not; frames to train on, 0 for a
 * world, where there is no end of them. */
guint nf_reels_count (NfReels *self);
const char *nf_reels_get_path (NfReels *self, guint i);
guint64 nf_reels_get_length (NfReels *self, guint i);
guint64 nf_reels_get_frames (NfReels *self);

/* Actions that there are in the files or the world, with action 0; of files with controls, how many of these.
 */
guint nf_reels_get_actions (NfReels *self);

/* Whether the files have controls. */
gboolean nf_reels_have_controls (NfReels *self);

/* The width of condition vectors, if it is not known before the files are: nf_reels_get_actions() or more. */
void nf_reels_set_action_dim (NfReels *self, guint action_dim);

/* The batch of step STEP, counted from 0; valid until the next call. */
gboolean nf_reels_batch (NfReels *self, guint64 step, NfTrainBatch *batch, GError **error);

/* N fixed samples that are not trained on; of files about as many each, in a set of its own.
 * (element-type NfClipsValidation) Empty if nothing is held out. */
GPtrArray *nf_reels_validation (NfReels *self, guint n, GError **error);

G_END_DECLS
