/* normflow: what sessions know of a model. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-blocks.h"
#include "nf-model.h"
#include "nf-parameters.h"

#include <math.h>

/* Not installed. */

/* Between calls of an #NfProgressFunc but at the ends of a phase, microseconds. */
#define NF_PROGRESS_INTERVAL (G_USEC_PER_SEC / 10)

/* Sizes of a sample: an image, or a video of frames. */
typedef struct
{
  guint N;     /* tokens of a sample */
  guint frame; /* tokens of one of its frames, N of an image */
  guint D, n_classes;
} NfSampleShape;

/* As the configuration has them. */
const NfSampleShape *nf_model_get_shape (NfModel *self);

/* Blocks of the flow that change something: identities are left out. */
guint nf_model_count_blocks (NfModel *self);

/* Block T of them. Packed for the backward pass only after nf_model_need_backward(). */
const NfFlowBlock *nf_model_get_block (NfModel *self, guint t);

/* The learned denoiser: a network that says D values of each token; NULL if the model has none. */
const NfFlowBlock *nf_model_get_denoiser (NfModel *self);

/* How its tokens relate to 8-bit samples. */
const NfTokens *nf_model_get_tokens (NfModel *self);

/* The rows of BASIS (D, D) become the vectors of the orthonormal two-dimensional DCT-II of each plane's part
 * of a token. */
void nf_model_fill_basis (const NfConfig *config, float *basis);

/* The prior's standard deviations (N, D), or a NULL buffer if they are all 1. */
NfView nf_model_get_deviations (NfModel *self);

/* One over them, or a NULL buffer; and the sums over D of their logarithms (N). */
NfView nf_model_get_precisions (NfModel *self);
const float *nf_model_get_log_deviations (NfModel *self);

const NfParameters *nf_model_get_parameters (NfModel *self);

/* All trainable values, nf_model_count_parameters() floats and the padding, once nf_model_need_theta() was
 * called; before, those alone that are no matrices. */
NfBuffer *nf_model_get_theta (NfModel *self);

/* Another number after whatever changed what the model says. */
guint64 nf_model_get_generation (NfModel *self);

/* FALSE with NF_ERROR_DATA: WHAT was computed of it are not finite. */
gboolean nf_model_refuse_computed (NfModel *self, const char *what, GError **error);

/* Operations for a user of this model. */
NfOps *nf_model_new_ops (NfModel *self, GError **error);

/* Packs weights for the backward pass if that was not yet done. Any thread. */
gboolean nf_model_need_backward (NfModel *self, GError **error);

/* FALSE with NF_ERROR_UNSUPPORTED if the precision has no gradients of parameters. */
gboolean nf_model_check_gradients (NfModel *self, GError **error);

/* For the trainer, which alone uses the model: */

/* The model is not handed out by nf_model_load() any more; FALSE with NF_ERROR_ARGUMENT if it was more than
 * once. */
gboolean nf_model_make_private (NfModel *self, GError **error);

/* Puts the matrices, too, where nf_model_get_theta() says. */
gboolean nf_model_need_theta (NfModel *self, GError **error);

/* Packs theta again, on OPS's queue, after it has changed. */
void nf_model_repack (NfModel *self, NfOps *ops);

/* The prior's standard deviation where its variance is VARIANCE: never 0, which would lose what it
 * multiplies. */
static inline float
nf_model_deviation (float variance)
{
  return fmaxf (sqrtf (variance), 1e-6f);
}

/* The prior's variances on the host, (N, D); nf_model_set_variance() takes new ones. */
const float *nf_model_get_variance (NfModel *self);
void nf_model_set_variance (NfModel *self, NfOps *ops, const float *variance);

/* Writes the model with THETA (host) in place of its own parameters. */
gboolean nf_model_write (NfModel *self, const float *theta, const char *path, GHashTable *metadata,
                         GError **error);
