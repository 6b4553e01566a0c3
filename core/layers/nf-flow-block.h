/* normflow: an autoregressive flow block. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-linear.h"

/* Not installed. One block of TARFlow (Zhai et al. 2024, arXiv 2412.06329, eq. 4 to 6): a causal pre-norm
 * transformer reads tokens u and says log-scale and shift of the next one. Tokens are in block order: the
 * block's own sequence, which for odd blocks runs from the last token of the image to the first.
 *
 *   h = u W_in + b + position (+ class)      K times:  h += proj(attention(norm(h)));  h +=
 * fc2(gelu(fc1(norm(h)))) o = h W_out + b                          z[n] = (u[n] - mu[n-1]) exp(-alpha[n-1]),
 * z[0] = u[0] */

typedef struct
{
  guint N, D, d, H, head_dim, hidden, K, n_classes;
  gboolean nvp;
} NfBlockShape;

/* The affine step of B samples. */
NfAffine nf_block_affine (const NfBlockShape *shape, guint B);

typedef struct
{
  NfView w, b;
} NfNorm;

typedef struct
{
  NfNorm attention_norm;
  NfLinear qkv, proj;
  NfNorm mlp_norm;
  NfLinear fc1, fc2;
} NfLayerWeights;

typedef struct
{
  NfLinear in, out;
  NfView position;         /* (N, d) as stored, natural order */
  NfView ordered_position; /* (N, d) in block order */
  NfView classes;          /* (n_classes, d), or a NULL buffer */
  gboolean flip;           /* block order is reversed */
  NfLayerWeights *layers;  /* K */
} NfBlockWeights;

/* What a forward pass computes, for up to B samples. A tape that keeps has buffers of its own for every
 * layer, so that the backward pass finds them; one that does not uses the same buffers again and again. */
typedef struct
{
  GPtrArray *buffers; /* owns them all */
  gboolean keep;
  guint B;
  NfBuffer **h;         /* K + 1: input of each layer, output of the last (M, d) */
  NfBuffer **a1, **a2;  /* K: after the norms (M, d) */
  NfBuffer **qkv;       /* K: (M, 3d) */
  NfBuffer **attention; /* K: (M, d) */
  NfBuffer **stats;     /* K: softmax statistics, NULL unless kept */
  NfBuffer **middle;    /* K: between attention and MLP (M, d) */
  NfBuffer **before;    /* K: before GELU (M, hidden), NULL unless kept */
  NfBuffer **hidden;    /* K: after it */
  NfBuffer *o;          /* (M, 2D) or (M, D) */
  NfBuffer *keys;
} NfTape;

NfTape *nf_tape_new (NfOps *ops, const NfBlockShape *shape, guint B, gboolean keep);
void nf_tape_free (NfTape *tape);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfTape, nf_tape_free)

/* Floats that a tape takes for one sample. */
gsize nf_tape_floats (const NfBlockShape *shape, gboolean keep);

/* z (B, N, D) and log_det (B, N, natural order) of u; z is written in the order of the next block if
 * OUT_FLIP. log_det is added to if ACCUMULATE. labels: (B) ints on the device if the model has classes. */
void nf_block_forward (NfOps *ops, const NfBlockShape *shape, const NfBlockWeights *weights, NfTape *tape,
                       NfView u, guint B, NfBuffer *labels, NfView z, NfBuffer *log_det, gboolean out_flip,
                       gboolean accumulate);

/* Work memory of the backward pass, for up to B samples. */
typedef struct
{
  GPtrArray *buffers;
  NfBuffer *dh, *da, *dyc, *dqkv, *dhidden, *dout, *d_o, *keys, *values;
} NfBlockScratch;

NfBlockScratch *nf_block_scratch_new (NfOps *ops, const NfBlockShape *shape, guint B);
void nf_block_scratch_free (NfBlockScratch *scratch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfBlockScratch, nf_block_scratch_free)

/* du of dz, given the kept tape of the same u. The loss holds -g times the log-determinant. Gradients of
 * parameters are added to GRADIENTS at the places that the parameters have in theirs, unless it is NULL. */
void nf_block_backward (NfOps *ops, const NfBlockShape *shape, const NfBlockWeights *weights,
                        const NfTape *tape, NfBlockScratch *scratch, NfView u, guint B, NfBuffer *labels,
                        NfView dz, NfView du, gboolean out_flip, float g, NfBuffer *gradients);

/* Keys, values and work memory of token-by-token decoding, for up to R rows (samples × branches). */
typedef struct
{
  GPtrArray *buffers;
  guint rows;
  NfBuffer **keys; /* K */
  NfBuffer **qkv;  /* K: (R, N, 3d): the values stay where the product wrote them */
  NfBuffer *h, *a, *attention, *hidden, *o;
} NfBlockCache;

NfBlockCache *nf_block_cache_new (NfOps *ops, const NfBlockShape *shape, guint rows);
void nf_block_cache_free (NfBlockCache *cache);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfBlockCache, nf_block_cache_free)
gsize nf_block_cache_floats (const NfBlockShape *shape);

/* Token n of u (B, N, D) goes through the network; cache->o gets what it says of token n+1. With BRANCHES 2
 * rows B .. 2B-1 are the unguided branch: their attention logits are divided by TEMPERATURE and labels holds
 * 2B entries. */
void nf_block_step (NfOps *ops, const NfBlockShape *shape, const NfBlockWeights *weights, NfBlockCache *cache,
                    NfView u, guint B, guint branches, guint n, NfBuffer *labels, float temperature);
