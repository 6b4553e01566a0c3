/* normflow: a session's insides. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-flow.h"
#include "nf-staging.h"
#include "nf-trainer.h"

/* The frame that the staged samples show, if it was decoded. */
typedef struct
{
  gboolean valid;
  guint64 generation; /* of the model */
  guint width, height;
  gint label;
  NfDecodeOptions options;
  float *latents;      /* of the grid */
  GArray *corrections; /* NfCorrection */
} NfShown;

struct _NfSession
{
  GObject parent_instance;

  NfModel *model;
  NfFlow *flow;
  GCancellable *cancellable;
  NfProgressFunc progress;
  gpointer progress_data;
  gint64 last_progress;
  double before, share; /* of a work of several calls: what was done before this one, and its share */

  /* of the last frame's size */
  NfStaging staging;
  NfBuffer *grid;  /* latents of the frame */
  NfBuffer *black; /* a sample of 0 */
  gsize grid_size;
  float *half_square, *log_det, *misses; /* per token, of misses two, tile by tile */
  gsize n_tokens;
  NfMissedList missed;
  NfShown shown;

  NfBuffer *drawn; /* samples on their way to lose their noise */
  gsize n_drawn;   /* floats of it */

  float *text, *null_text, *actions; /* of samples to come */
  char *text_digest, *text_path;     /* the latter of the file that text is from, or NULL */
  guint n_text, n_actions;           /* how many of them, 0 for none */
  gint text_at;                      /* the one of them for all samples, -1 if each has its own */

  NfInverseReport report;
  guint kept; /* tiles of the last frame decoded */
  NfSessionStats stats;
};

/* What a trainer, or a session, computes with, for a profile. */
NfOps *nf_trainer_get_ops (NfTrainer *self);
NfOps *nf_session_get_ops (NfSession *self);

/* FALSE with %NF_ERROR_CANCELLED once the session is. */
gboolean nf_session_go_on (NfSession *self, GError **error);

/* The same before each batch of work that only enqueues: one batch at most is still on its way. Nothing is
 * once it says FALSE. */
gboolean nf_session_next_batch (NfSession *self, GError **error);

gboolean nf_session_check_finite (const char *what, const float *x, gsize n, GError **error);

/* The same of WHAT was computed of MODEL, whose fault it may be. */
gboolean nf_session_check_computed (NfModel *model, const char *what, const float *x, gsize n,
                                    GError **error);

gboolean nf_session_check_labels (NfSession *self, const gint *labels, guint B, GError **error);
gboolean nf_session_check_sigma (double sigma, GError **error);

/* What nf_session_get_text_digest() says of TEXT (B, txt_size, txt_dim), nullable. */
char *nf_session_digest_text (const NfConfig *config, const float *text, guint B);

/* Refuses calls of B samples if text or actions were set for another number. */
gboolean nf_session_check_condition (NfSession *self, const gint *labels, guint B, GError **error);

/* Conditions samples first .. first+count-1 of a call. */
void nf_session_condition (NfSession *self, const gint *labels, guint first, guint count, guint branches);

/* Tiles or samples that go through at a time, at most LIMIT: each time about as many. */
guint nf_session_share (guint all, guint limit);

gboolean nf_session_check_options (NfSession *self, const NfDecodeOptions *options, GError **error);

/* What OPTIONS ask for, noise considered: in DRAWN, denoise says how it leaves, and snap is off of what was
 * drawn. Takes the memory for it, so before anything is decoded. */
gboolean nf_session_prepare_drawn (NfSession *self, const NfDecodeOptions *options, NfDecodeOptions *drawn,
                                   GError **error);

/* OPTIONS of a part of a call that began at START (monotonic time): its budget is what is left of the call's.
 */
NfDecodeOptions nf_session_spend (const NfDecodeOptions *options, gint64 start);

/* The flow's output, samples first .. first+count-1 of a call, loses its noise. */
gboolean nf_session_finish_drawn (NfSession *self, const NfDecodeOptions *drawn, const gint *labels,
                                  guint first, guint count, GError **error);

/* Progress of decoding, for nf_flow_inverse(): samples before this batch, in it, and in all; and the most of
 * the batch that was done, which drafts that are given up begin anew. */
typedef struct
{
  NfSession *session;
  guint before, batch, all;
  double most;
} NfDecodeProgress;

gboolean nf_session_tell_decode (gpointer data, guint done, guint all);

/* dL/dx into GRAD_X for L = g (half squares - log-determinants), unless that is NULL; adds these sums to SUMS
 * and parameters' gradients to GRADIENTS. */
gboolean nf_session_add_gradients (NfSession *self, const float *x, guint B, const gint *labels, float g,
                                   double sums[2], float *grad_x, NfBuffer *gradients, GError **error);

/* Gradients of all parameters in the order of their list. */
gboolean nf_session_read_gradients (NfSession *self, NfBuffer *gradients, float *out, GError **error);

/* Seconds since *LAST, which becomes now; and one more frame that took these. */
double nf_stats_lap (gint64 *last);
void nf_stats_count_frame (NfSessionStats *stats, double upload, double kernels, double download);
