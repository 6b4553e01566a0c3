/* normflow: maximum-likelihood training. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-session.h"

G_BEGIN_DECLS

/**
 * NfTrainOptions:
 * @steps: total steps; the learning rate's cosine ends there
 * @warmup: steps of linear warm-up from @lr_min
 * @lr: peak learning rate, 0 to 1
 * @lr_min: its floor, at both ends, 0 to 1
 * @beta1: AdamW's, 0 to 0.999999
 * @beta2: likewise
 * @eps: AdamW's, 1e-30 to 1
 * @weight_decay: AdamW's, 0 to 1
 * @clip: gradient norm is clipped to it, up to 1e30; 0 is never
 * @ema: decay of the averaged weights, up to 0.9999999; 0 is none
 * @label_dropout: share, 0 to 1, of labels, or of texts, replaced by "none"
 * @action_dropout: share, 0 to 1, of samples whose actions are left out, all of them
 * @context_errors: share, 0 to 1, of a video's patches of which the deep block is shown another patch of the
 * same frame instead, in some frames in a row: it learns to predict frames that are right from a past that is
 * not, as its own will be
 * @seed: of noise, dropout and errors
 *
 * nf_train_options_init() gives the official recipe (arXiv 2412.06329, appendix): AdamW (0.9, 0.95), weight
 * decay 1e-4; with 10000 steps, 100 of them of warm-up, to 1e-4 from 1e-6, and no dropout, clipping or
 * average.
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

/** nf_train_options_init: @options: (out caller-allocates): what training is without anybody's word. */
void nf_train_options_init (NfTrainOptions *options);

/**
 * NfTrainer:
 *
 * Trains one model in place. One thread at a time. Noise is drawn by (seed, step), so a resumed run continues
 * bit for bit if it is given the same batches.
 */
#define NF_TYPE_TRAINER (nf_trainer_get_type ())
G_DECLARE_FINAL_TYPE (NfTrainer, nf_trainer, NF, TRAINER, GObject)

/**
 * nf_trainer_new:
 * @model: what is trained, and changes; a reference is held to it. nf_model_new() and
 * nf_model_load_unshared() give one that nobody else has
 * @options: copied; there is no default for NULL, see nf_train_options_init()
 *
 * Returns: (transfer full): a trainer at step 0, or NULL with what nf_trainer_check() refuses,
 * %NF_ERROR_UNSUPPORTED (the precision has no gradients), %NF_ERROR_ARGUMENT (others have loaded the model,
 * and share it), %NF_ERROR_DATA (the model's file changed after it was loaded) or device errors.
 */
NfTrainer *nf_trainer_new (NfModel *model, const NfTrainOptions *options, GError **error);

/**
 * nf_trainer_check:
 *
 * Needs no device; nf_trainer_new() refuses the same, and more.
 *
 * Returns: whether models of @config can be trained, and with @options; FALSE with %NF_ERROR_ARGUMENT (a
 * value of @options is out of range, or not for such models), %NF_ERROR_UNSUPPORTED (models of latents) or
 * %NF_ERROR_CONFIG (a learned denoiser without Gaussian noise).
 */
gboolean nf_trainer_check (const NfConfig *config, const NfTrainOptions *options, GError **error);

/**
 * NfTrainBatch:
 * @B: samples, 1 or more
 * @tiles: (B, frames, tile bytes) 8-bit samples, planes one after the other in the model's layout, each
 * row-major; images have one frame
 * @labels: (nullable): B class indices, 0 to nf_config_classes() - 1, -1 for none
 * @actions: (nullable): condition vectors (B, frames, action_dim): that of frame t leads to frame t. NULL for
 * none (zeros)
 * @text: (nullable): text features (B, txt_size, txt_dim); a sample whose label is below 0, if there are
 * @labels, is told nothing. NULL for none, or where classes are the text
 * @null_text: (nullable): (txt_size, txt_dim), what samples are told that are told nothing, unless classes
 * are the text; NULL for zeros, or, of one token, the class of none
 *
 * Samples, all the caller's, that a call looks at and does not keep. Values must be finite.
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
 * @grad_norm: of the gradients of all parameters, before clipping
 * @lr: learning rate used
 * @skipped: loss or gradient was not finite, or the norm exploded (over 20 times its running mean): no
 * parameter changed
 *
 * What a step did.
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
 * @report: (out caller-allocates): what it did
 *
 * One step on @batch. A learned denoiser is trained in the same step by flow-score matching (arXiv
 * 2511.20462): noise_std²/0.3 times the gradient of the negative log-likelihood by the noisy input is what it
 * learns to say. The backward pass has made it anyway, unless the past had errors (context_errors): then
 * another pass without them does.
 *
 * If the device fails before parameters change, they are what they were. If it fails while they do, here or
 * in nf_trainer_evaluate(), they are lost: every call but nf_trainer_restore() then fails with
 * %NF_ERROR_DEVICE, and nothing is written.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT (no samples, a label out of range, text or actions that the model
 * does not take), %NF_ERROR_DATA (text or actions are not finite) or device errors. Loss or gradients that
 * are not finite are no error, but said in @report.
 */
gboolean nf_trainer_step (NfTrainer *self, const NfTrainBatch *batch, NfTrainReport *report, GError **error);

/**
 * nf_trainer_evaluate:
 * @nll: (out): mean negative log-likelihood of these samples, nats per dimension, as in #NfTrainReport, with
 * noise drawn from (seed, tile)
 * @use_ema: with the averaged weights, if there are any
 *
 * Changes nothing: no step is done.
 *
 * Returns: FALSE as nf_trainer_step() does.
 */
gboolean nf_trainer_evaluate (NfTrainer *self, const NfTrainBatch *batch, gboolean use_ema, double *nll,
                              GError **error);

/**
 * NfTrainerFunc:
 * @model: the trainer's own
 * @data: the caller's
 *
 * Uses @model, and keeps nothing of it: no session, no reference.
 *
 * Returns: FALSE with an error if that failed.
 */
typedef gboolean (*NfTrainerFunc) (NfModel *model, gpointer data, GError **error);

/**
 * nf_trainer_use_model:
 * @func: (scope call): called in this thread
 * @data: for @func
 *
 * Calls @func once, while the model has what nf_trainer_save_model() would write: the averaged weights, if
 * there are any. Sessions of the model may be made then.
 *
 * Returns: what @func did, with its error; FALSE with device errors if the device failed, as in
 * nf_trainer_step().
 */
gboolean nf_trainer_use_model (NfTrainer *self, NfTrainerFunc func, gpointer data, GError **error);

/** nf_trainer_get_step: Returns: steps done. */
guint64 nf_trainer_get_step (NfTrainer *self);

/**
 * nf_trainer_save:
 * @path: safetensors file, replaced atomically
 *
 * Writes weights, both moments, the average and the step: what nf_trainer_restore() needs.
 *
 * Returns: FALSE with %NF_ERROR_DATA (a value is not finite), %NF_ERROR_WRITE or device errors; the file is
 * then what it was.
 */
gboolean nf_trainer_save (NfTrainer *self, const char *path, GError **error);

/**
 * nf_trainer_restore:
 * @path: a file of nf_trainer_save()
 *
 * Takes up a run where it was left. All of the file is checked before any of it is taken.
 *
 * Returns: FALSE with what nf_tensor_file_open() fails with, %NF_ERROR_CONFIG (a file of another model, or no
 * checkpoint), %NF_ERROR_FORMAT (not a whole one; one without averages, where @self has them), %NF_ERROR_DATA
 * (a value is not finite) or what nf_config_from_json() says of its configuration; the trainer is then what
 * it was. With device errors parameters are lost, as in nf_trainer_step().
 */
gboolean nf_trainer_restore (NfTrainer *self, const char *path, GError **error);

/**
 * nf_trainer_saved_step:
 * @path: a file of nf_trainer_save()
 * @step: (out): steps done
 *
 * Needs no device.
 *
 * Returns: FALSE with what nf_tensor_file_open() fails with, %NF_ERROR_FORMAT (no checkpoint, or an
 * impossible step) or %NF_ERROR_DATA (a value is not finite).
 */
gboolean nf_trainer_saved_step (const char *path, guint64 *step, GError **error);

/**
 * nf_trainer_save_model:
 * @path: as of nf_model_save(), as is @metadata
 *
 * Writes the model (averaged weights if there are any) as nf_model_save() does.
 *
 * Returns: FALSE with %NF_ERROR_DATA (a value is not finite), %NF_ERROR_ARGUMENT (@metadata is not UTF-8),
 * %NF_ERROR_WRITE or device errors; the file is then what it was.
 */
gboolean nf_trainer_save_model (NfTrainer *self, const char *path, GHashTable *metadata, GError **error);

/**
 * nf_loss_to_bits_per_dim:
 * @loss: L, nats per dimension, without the 0.5 log 2π, as in #NfTrainReport
 *
 * Returns: (L + 0.5 log 2π)/log 2 + 7, bits per 8-bit sample under uniform dequantisation.
 */
double nf_loss_to_bits_per_dim (double loss);

G_END_DECLS
