/* normflow: what a run trains on. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "captions.h"
#include "clips.h"
#include "common.h"
#include "reels.h"
#include "train-run.h"

G_BEGIN_DECLS

typedef struct
{
  NfTrainRun *run;
  const NfTrainPlaces *places;
  NfCommand *command;   /* that it is for */
  NfClips *clips;       /* of images, */
  NfReels *reels;       /* or of videos */
  NfCaptions *captions; /* of either, or NULL */
  GPtrArray *validation;
  guint n_tiles; /* of validation */
} NfTrainData;

void nf_train_data_clear (NfTrainData *data);

/* Opens what RUN says, and completes its configuration by what that tells: actions, classes, the size of
 * texts. A run that goes on must find what it began with. */
gboolean nf_train_data_open (NfTrainData *data, GError **error);

/* The batch of step STEP, valid until the next call. */
gboolean nf_train_data_batch (NfTrainData *data, guint64 step, NfTrainBatch *batch, GError **error);

/* Number of files, 0 for a world; their names. */
guint nf_train_data_count (const NfTrainData *data);
const char *nf_train_data_get_path (const NfTrainData *data, guint i);

/* What was left out of the files that folders bring. */
const NfMediaLeftOut *nf_train_data_get_left_out (const NfTrainData *data);

G_END_DECLS
