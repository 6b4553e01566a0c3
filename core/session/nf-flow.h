/* normflow: the whole flow on a device. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-correction-private.h"
#include "nf-hints.h"
#include "nf-model-private.h"
#include "nf-session.h"

/* Not installed. A chain of blocks with a queue and work memory: what sessions and trainers share. One thread
 * at a time. Data are on the device, in natural token order (frames one after the other, each in raster
 * order), at most nf_flow_prepare() samples at a time; like all operations these only enqueue. */

typedef struct _NfFlow NfFlow;

NfFlow *nf_flow_new (NfModel *model, GError **error);
void nf_flow_free (NfFlow *flow);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfFlow, nf_flow_free)

NfOps *nf_flow_get_ops (NfFlow *flow);

/* Rows and columns of pixels that samples have now. */
void nf_flow_get_size (NfFlow *flow, guint *rows, guint *columns);

/* Whether values between blocks are rounded to their lattices: those of pictures that come back as they were.
 * Not at first, but with products of few bits always. SNAPPED, which must live: the lattice of these
 * pictures, or NULL for what is none. */
void nf_flow_set_on_lattice (NfFlow *flow, const NfTokens *snapped);

/* Sizes of a sample: at first those of the model. Models with rotary positions take others: rows and columns
 * in pixels, frames 0 for an image. What fails changes none. */
const NfSampleShape *nf_flow_get_shape (NfFlow *flow);
gboolean nf_flow_set_size (NfFlow *flow, guint rows, guint columns, guint frames, GError **error);
gboolean nf_flow_set_frames (NfFlow *flow, guint frames, GError **error);

/* Whether samples have the model's own size only: its positions are learned. */
gboolean nf_flow_is_of_one_size (NfFlow *flow);

/* What sizes there are, to come back to without any memory that there might not be. */
typedef struct _NfFlowSize NfFlowSize;
NfFlowSize *nf_flow_keep_size (NfFlow *flow);
void nf_flow_restore_size (NfFlow *flow, const NfFlowSize *size);
void nf_flow_size_free (NfFlowSize *size);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfFlowSize, nf_flow_size_free)

typedef enum
{
  NF_FLOW_ENCODE,
  NF_FLOW_DECODE,
  NF_FLOW_DECODE_GUIDED, /* two branches a sample */
  NF_FLOW_GRADIENTS,
  NF_FLOW_DENOISER,           /* the learned denoiser */
  NF_FLOW_DENOISER_GRADIENTS, /* and its gradients */
  NF_FLOW_N_WORKS,
} NfFlowWork;

/* Samples that go through at a time: as many as keep the arithmetic busy and the memory small. Takes the
 * memory that WORK needs. 0 on failure. */
guint nf_flow_prepare (NfFlow *flow, NfFlowWork work, GError **error);

/* Where samples go in (B, N, D), where results come out; overwritten by the next call of anything. */
NfBuffer *nf_flow_get_input (NfFlow *flow);
NfBuffer *nf_flow_get_output (NfFlow *flow);

/* (B, N), nats: half the squared norm of z, and the log-determinant. */
NfBuffer *nf_flow_get_half_square (NfFlow *flow);
NfBuffer *nf_flow_get_log_det (NfFlow *flow);

/* (B, N, 2): how many values of a token, of all blocks, decoding will find otherwise than encoding left them,
 * and how many of its samples. */
NfBuffer *nf_flow_get_misses (NfFlow *flow);

/* From now on nf_flow_forward() adds to LIST, unless it is NULL, what decoding is not to find, its first
 * sample being number FIRST. Kept by reference. */
void nf_flow_list_missed (NfFlow *flow, const NfMissedList *list, guint first);

/* Decoding puts these in the place of what it finds: SAMPLES of B pictures, or frames of B streams, kept by
 * reference; NULL: none, any more. A picture that was drafted must have them, too. */
void nf_flow_correct (NfFlow *flow, const NfCorrections *samples, guint B);

/* What B samples, first of many, are conditioned by; host memory, kept by value. NULL members are "none":
 * class -1, nf_flow_write_classes(), actions of zeros. With two branches the second has no class, NULL_TEXT
 * and no action. */
typedef struct
{
  const gint *labels;
  const float *text, *null_text; /* (B, txt_size, txt_dim) */
  const float *actions;          /* (B, frames, action_dim) */
} NfFlowCondition;

/* TEXT (COUNT, txt_size, txt_dim) becomes that of samples which are told no more than LABELS (nullable). Text
 * of one token is a class: 1 in the place of a sample's label; of none, which is -1, in the last, which the
 * official code trains with the labels that it drops. Other text becomes zeros. */
void nf_flow_write_classes (NfOps *ops, const NfConfig *config, NfView text, const gint *labels, guint count);

void nf_flow_set_condition (NfFlow *flow, const NfFlowCondition *condition, guint B, guint branches);

/* What the deep block is shown wrong, in a video of a model with a start token; kept by reference. */
void nf_flow_set_substitutes (NfFlow *flow, const NfSubstitute *substitutes, guint n);

/* What a forward pass hands to the host besides, (T, B, N, D) each with T apart by STRIDE floats, valid once
 * finished; members may be NULL: values after each block in natural order, and -log sigma in the block's own
 * order. Identities leave their part as it is. */
typedef struct
{
  float *blocks, *log_scales;
  gsize stride;
} NfFlowTrace;

/* Output z of the input x, and what the prior and the log-determinant are made of. TRACE may be NULL. */
void nf_flow_forward (NfFlow *flow, guint B, const NfFlowTrace *trace);

/* Keeps what blocks read of the input x, whose first frames are given: for nf_flow_inverse() to continue. */
void nf_flow_forward_known (NfFlow *flow, guint B);

/* Divides the output by the prior's standard deviations, so that it is standard normal also in
 * volume-preserving models, as nf_flow_inverse() wants it; half squares follow, the log-determinant misses -
 * nf_model_get_log_deviations(). */
void nf_flow_standardise (NfFlow *flow, guint B);

/* Output dL/dx of L = g (sum of z²/2 - sum of the log-determinant); Z gets z and GRADIENTS those of
 * parameters added, unless they are NULL. */
void nf_flow_backward (NfFlow *flow, guint B, float g, NfBuffer *z, NfBuffer *gradients);

/* How an inversion went. */
typedef struct
{
  guint64 passes;  /* of any rows through a block's network */
  guint64 rows;    /* that went through in all */
  double residual; /* largest change of a value that was accepted nevertheless */
  guint drafted;   /* samples of drafts that encoding confirmed */
} NfInverseReport;

/* Output x of the input z. The first GIVEN frames are those of nf_flow_forward_known(). STEP is told how
 * many of the token steps are done; FALSE from it ends early. */
gboolean nf_flow_inverse (NfFlow *flow, guint B, const NfDecodeOptions *options, guint given,
                          gboolean (*step) (gpointer data, guint done, guint all), gpointer data,
                          NfInverseReport *report, GError **error);

/* Takes what nf_flow_inverse_picture() needs, if the model is one of single pictures of 8-bit samples. Before
 * latents are written. */
gboolean nf_flow_prepare_draft (NfFlow *flow, GError **error);

/* Samples that nf_flow_inverse_picture() takes at a time, 0 if it takes none. */
guint nf_flow_drafts (NfFlow *flow);

/* What 8-bit samples of 0 are at the places of the pictures to come, (B, N, D) in natural order, in the basis
 * of pixels: to be filled for nf_flow_inverse_picture(). */
NfBuffer *nf_flow_get_places (NfFlow *flow);

/* nf_flow_inverse() for latents that are probably those of 8-bit pictures without a class, whose values are
 * to snap. What comes out is what encoding has these latents of, or else what nf_flow_inverse() says. TILES,
 * B numbers: pictures of the same tiles as those before are probably like them, which saves time. */
gboolean nf_flow_inverse_picture (NfFlow *flow, guint B, const guint *tiles, const NfDecodeOptions *options,
                                  gboolean (*step) (gpointer data, guint done, guint all), gpointer data,
                                  NfInverseReport *report, GError **error);

/* After nf_flow_prepare_draft(), if there can be drafts: adds the picture x (N, D), in host memory, to those
 * that hints are fit to, and takes these. */
gboolean nf_flow_measure_hints (NfFlow *flow, const float *x, GError **error);

/* Takes the hints in the file PATH, or none if it is NULL. */
gboolean nf_flow_read_hints (NfFlow *flow, const char *path, GError **error);

/* What drafts go by, NULL if there is nothing. */
NfHints *nf_flow_get_hints (NfFlow *flow);

/* The denoiser's target is sigma² over this times the gradient of the negative log-likelihood: of the
 * official training (arXiv 2511.20462, code). */
#define NF_FLOW_DENOISER_CONSTANT 0.3

/* FALSE with %NF_ERROR_UNSUPPORTED if the model has no such denoiser. */
gboolean nf_flow_check_denoise (NfFlow *flow, NfDenoise denoise, GError **error);

/* How noise leaves what was drawn: learned, by score, or not at all, since there is none. */
NfDenoise nf_flow_choose_denoise (NfFlow *flow, NfDenoise denoise);

/* Output (B, N, D): the input without the noise of the model's noise_std, HOW being learned or by score,
 * whose work (NF_FLOW_DENOISER, NF_FLOW_GRADIENTS) is prepared for B samples. */
void nf_flow_denoise (NfFlow *flow, NfDenoise how, guint B);

/* Output (B, N, D): what the learned denoiser says of the input. */
void nf_flow_run_denoiser (NfFlow *flow, guint B);

/* Given dL/doutput in the output after nf_flow_run_denoiser() of the same input: adds its parameters'
 * gradients.
 */
void nf_flow_denoiser_backward (NfFlow *flow, guint B, NfBuffer *gradients);
