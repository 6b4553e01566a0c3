/* normflow: how likely a frame is, and whether it comes back. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/**
 * NfScore:
 * @log_likelihood: nats, log p of the 8-bit frame (a lower bound: uniform dequantisation) or of the
 * real-valued one (Gaussian noise); = log_prior + log_det + the constant of the 8-bit scale. Of a stream with
 * Gaussian noise (nf_stream_encode()) that of the noisy frame less the noise's own
 * @log_prior: nats, log N(z; 0, I)
 * @log_det: nats, log |det dz/dx| of the flow (volume-preserving models: of the flow and the division by the
 * prior's deviations)
 * @num_dims: samples of the real frame (padding not counted)
 * @bits_per_dim: -log_likelihood / (num_dims ln 2); padded samples cost bits too, so it is a bound for any
 * size
 * @n_missed: values between blocks that decoding will find otherwise than encoding left them
 * @n_lost: samples that decoding will snap to another point of their lattice than encoding had them on; what
 * follows in their tile reads that, even where the byte is the same
 * @rounded: whether products round what weights are multiplied by, to bfloat16 (bf16) or to integers
 * (int8-weights, but for int8=fma): there a value that is found otherwise may change the third digit of
 * others, and all that follow in its tile. FALSE in bf16-weights, whatever its form
 * @limited: whether the model limits its scales (max_log_scale)
 */
typedef struct
{
  double log_likelihood;
  double log_prior;
  double log_det;
  guint64 num_dims;
  double bits_per_dim;
  guint64 n_missed;
  guint64 n_lost;
  gboolean rounded;
  gboolean limited;
} NfScore;

/**
 * NF_SCORE_FAR:
 *
 * Bits per dimension from which on a frame is so unlike what the model has learnt that not every byte of it
 * may come back without its corrections: raw samples have 8, and where a frame has hundreds, latents are so
 * large that float32 may lack the last bits of others.
 */
#define NF_SCORE_FAR 100.0

/**
 * NfDoubt: why not every byte of a frame may come back without its corrections.
 * @NF_DOUBT_NONE: nothing speaks against it
 * @NF_DOUBT_FAR: it is far from all that the model has learnt
 * @NF_DOUBT_PRECISION: it has values that the bits of the precision do not hold
 */
typedef enum
{
  NF_DOUBT_NONE,
  NF_DOUBT_FAR,
  NF_DOUBT_PRECISION,
} NfDoubt;

/**
 * nf_score_get_doubt:
 * @score: of a frame
 *
 * A frame is in doubt that scores %NF_SCORE_FAR and more, or if some of its samples are lost, as those of a
 * model that diverged in training are, or some of its values are missed. The last says nothing where a model
 * does not limit its scales and products multiply floats as they are: lattices between blocks hold for scales
 * of up to 2 there, and a few values of real frames are missed without harm.
 *
 * With its corrections (#NfCorrection) it comes back nevertheless.
 *
 * Returns: why not every byte of the frame may come back without.
 */
NfDoubt nf_score_get_doubt (const NfScore *score);

/**
 * nf_doubt_describe: Returns: (transfer none) (nullable): what the frame has, in words that follow "it has";
 * NULL for %NF_DOUBT_NONE.
 */
const char *nf_doubt_describe (NfDoubt doubt);

G_END_DECLS
