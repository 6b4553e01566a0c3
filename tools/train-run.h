/* normflow: a training run and its settings. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <normflow.h>

G_BEGIN_DECLS

/* What a step draws from a file depends on what is in it; this tells most other files of the same name. */
typedef struct
{
  char *name;     /* for people */
  guint64 frames; /* 0 if they were not counted */
  guint64 bytes;
} NfTrainSource;

/* (element-type NfTrainSource) */
GArray *nf_train_sources_new (void);

/* Everything that decides what a run computes; kept beside the checkpoint so that --resume needs no other
 * option. */
typedef struct
{
  NfConfig config;
  NfTrainOptions train;
  guint batch;
  double holdout;
  double scales[16];
  guint n_scales;
  gboolean labels;
  char **classes; /* their names, or those of the model that it began from; NULL if there are none, and before
                     files are opened */
  char *captions; /* file of text features, or NULL or empty */
  char *captions_digest;
  gboolean actions;
  char *world; /* simulated instead of files, or NULL or empty */
  guint64 validate_every;
  guint validation_tiles;
  char **files;
  char **validation;
  GArray *sources; /* all files in FILES; NULL before they are opened, and in settings from before they were
                      kept */
  GArray *validation_sources; /* all in VALIDATION, likewise */
  char *init;
  char *command;
  char *log;
  guint64 log_every;
  char *samples; /* folder of pictures, or NULL */
  guint64 sample_every;
  char *precision;  /* of matrix products; NULL before there is a device, and in settings from before it was
                       kept */
  char *arithmetic; /* what multiplies in it, likewise */
  /* Where the run stands. */
  double best;
  guint64 best_tiles; /* that its mean is over: those with a finite loss */
  guint64 best_step;
  guint64 skipped;
  gboolean other_output; /* what there is at its output was there before the run */
  double seconds;
} NfTrainRun;

void nf_train_run_clear (NfTrainRun *run);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (NfTrainRun, nf_train_run_clear)

/* Of this process alone: where it writes, how often, and how far it goes. */
typedef struct
{
  char *output;
  char *checkpoint;
  double save_every;
  guint64 cache;
  guint64 stop_after;
  gboolean resume;
  gboolean moved;            /* files to go on with are where this process was told */
  gboolean validation_moved; /* those that judge, likewise */
  gboolean other_log;        /* than that of the run so far */
  double minutes;
} NfTrainPlaces;

void nf_train_places_clear (NfTrainPlaces *places);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (NfTrainPlaces, nf_train_places_clear)

/* Whether texts are told. */
gboolean nf_train_has_captions (const NfTrainRun *run);

/* Settings are kept in a file beside the checkpoint: its name. (transfer full) */
char *nf_train_settings_path (const char *checkpoint);

gboolean nf_train_save_settings (const NfTrainRun *run, const char *checkpoint, GError **error);
gboolean nf_train_load_settings (NfTrainRun *run, const char *checkpoint, GError **error);

/* Refuses to begin a run whose checkpoint would take the place of one that has steps left to do. */
gboolean nf_train_check_begun (const char *checkpoint, GError **error);

G_END_DECLS
