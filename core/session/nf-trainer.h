/* normflow: maximum-likelihood training. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-session.h"

G_BEGIN_DECLS

/**
 * NfTrainOptions:
 * @steps: total steps; the learning rate's cosine ends there
 * @warmup: steps of linear warm-up from @lr_min
 * @lr: peak learning rate; @lr_min: its floor, at both ends
 * @beta1, @beta2, @eps, @weight_decay: AdamW's
 * @clip: gradient norm is clipped to it; 0 is never
 * @ema: decay of the averaged weights; 0 is none
 * @label_dropout: share of labels, or of texts, replaced by "none"
 * @action_dropout: share of samples whose actions are left out, all of them
 * @context_errors: share of a video's patches of which the deep block is shown another patch of the same
 * frame instead, in some frames in a row: it learns to predict frames that are right from a past that is not,
 * as its own will be
 * @seed: of noise, dropout and errors
 *
 * nf_train_options_init() gives the official recipe (arXiv 2412.06329, appendix): AdamW (0.9, 0.95), weight
 * decay 1e-4.
 */
typedef struct
{
  guint64 steps;
  guint64 warmup;
  double lr;
  double lr_min;
  double beta1;
  double beta2;
  double eps;
  double weight_decay;
  double clip;
  double ema;
  double label_dropout;
  double action_dropout;
  double context_errors;
  guint64 seed;
} NfTrainOptions;

void nf_train_options_init (NfTrainOptions *options);

/**
 * NfTrainer:
 *
 * Trains one model in place. One thread at a time. Noise is drawn by (seed, step), so a resumed run continues
 * bit for bit if it is given the same batches.
 */
#define NF_TYPE_TRAINER (nf_trainer_get_type ())
G_DECLARE_FINAL_TYPE (NfTrainer, nf_trainer, NF, TRAINER, GObject)

NfTrainer *nf_trainer_new (NfModel *model, const NfTrainOptions *options, GError **error);

/**
 * nf_trainer_check:
 *
 * Needs no device. Returns: whether models of @config can be trained, and with @options; nf_trainer_new()
 * refuses the same, and devices whose precision has no gradients
 */
gboolean nf_trainer_check (const NfConfig *config, const NfTrainOptions *options, GError **error);

/**
 * NfTrainBatch:
 * @B: samples
 * @tiles: (B, frames, tile bytes) 8-bit samples, planes one after the other in the model's layout, each
 * row-major; images have one frame
 * @labels: (nullable): B class indices, -1 for none
 * @actions: (nullable): condition vectors (B, frames, action_dim): that of frame t leads to frame t. NULL for
 * none (zeros)
 * @text: (nullable): text features (B, txt_size, txt_dim); a sample whose label is below 0, if there are
 * @labels, is told nothing. NULL for none, or where classes are the text
 * @null_text: (nullable): (txt_size, txt_dim), what samples are told that are told nothing, unless classes
 * are the text; NULL for zeros, or, of one token, the class of none
 */
typedef struct
{
  guint B;
  const guint8 *tiles;
  const gint *labels;
  const float *actions;
  const float *text;
  const float *null_text;
} NfTrainBatch;

/**
 * NfTrainReport:
 * @step: steps done, this one included
 * @loss: L of the batch, nats per dimension, with N(0, I) for the prior: what the step makes smaller
 * @nll: the same by the model's prior, which in volume-preserving models has a variance of its own: the
 * negative log-likelihood
 * @denoiser_loss: mean squared error of what the learned denoiser says; NAN if there is none
 * @bits_per_dim: @nll with the constants of 8-bit data (uniform noise; NAN for Gaussian)
 * @grad_norm: before clipping
 * @lr: learning rate used
 * @skipped: loss or gradient was not finite, or the norm exploded (over 20 times its running mean): no
 * parameter changed
 */
typedef struct
{
  guint64 step;
  double loss;
  double nll;
  double denoiser_loss;
  double bits_per_dim;
  double grad_norm;
  double lr;
  gboolean skipped;
} NfTrainReport;

/**
 * nf_trainer_step:
 *
 * One step on @batch. A learned denoiser is trained in the same step by flow-score matching (arXiv
 * 2511.20462): noise_std²/0.3 times the gradient of the negative log-likelihood by the noisy input is what it
 * learns to say. The backward pass has made it anyway, unless the past had errors (context_errors): then
 * another pass without them does.
 *
 * If the device fails before parameters change, they are what they were. If it fails while they do, here or
 * in nf_trainer_evaluate(), they are lost: every call but nf_trainer_restore() then fails with
 * %NF_ERROR_DEVICE, and nothing is written.
 */
gboolean nf_trainer_step (NfTrainer *self, const NfTrainBatch *batch, NfTrainReport *report, GError **error);

/**
 * nf_trainer_evaluate:
 * @nll: (out): mean negative log-likelihood of these samples, nats per dimension, as in #NfTrainReport, with
 * noise drawn from (seed, tile)
 * @use_ema: with the averaged weights, if there are any
 */
gboolean nf_trainer_evaluate (NfTrainer *self, const NfTrainBatch *batch, gboolean use_ema, double *nll,
                              GError **error);

/** NfTrainerFunc: Uses @model, which is the trainer's own, and keeps nothing of it: no session, no reference.
 * Returns: FALSE with an error if that failed */
typedef gboolean (*NfTrainerFunc) (NfModel *model, gpointer data, GError **error);

/**
 * nf_trainer_use_model:
 *
 * Calls @func once, while the model has what nf_trainer_save_model() would write: the averaged weights, if
 * there are any. Sessions of the model may be made then.
 *
 * Returns: what @func did; FALSE with %NF_ERROR_DEVICE if the device failed, as in nf_trainer_step()
 */
gboolean nf_trainer_use_model (NfTrainer *self, NfTrainerFunc func, gpointer data, GError **error);

/** nf_trainer_get_step: Returns: steps done. */
guint64 nf_trainer_get_step (NfTrainer *self);

/** nf_trainer_save: Writes weights, both moments, the average and the step to a safetensors file, atomically.
 */
gboolean nf_trainer_save (NfTrainer *self, const char *path, GError **error);

/** nf_trainer_restore: Takes up a run where nf_trainer_save() left it; %NF_ERROR_CONFIG if it is of another
 * model. */
gboolean nf_trainer_restore (NfTrainer *self, const char *path, GError **error);

/** nf_trainer_saved_step: Says in @step how many steps the checkpoint @path has done. Needs no device. */
gboolean nf_trainer_saved_step (const char *path, guint64 *step, GError **error);

/** nf_trainer_save_model: Writes the model (averaged weights if there are any) as nf_model_save() does. */
gboolean nf_trainer_save_model (NfTrainer *self, const char *path, GHashTable *metadata, GError **error);

/** nf_loss_to_bits_per_dim: Returns: (L + 0.5 log 2π)/log 2 + 7, bits per 8-bit sample under uniform
 * dequantisation. */
double nf_loss_to_bits_per_dim (double loss);

G_END_DECLS
