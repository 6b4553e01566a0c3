/* normflow: a transformer. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-linear.h"

/* Not installed. K layers that read and write a residual stream h of rows of d floats:
 *
 *   h += post(proj(attention(heads(qkv(norm(h))))))      heads: qk-norm and rotation, if there are any
 *   h += post(MLP(norm(h)))                              MLP: fc2(gelu(fc1 x)), or fc2(gelu_tanh(gate x) fc1
 * x)
 *
 * (Vaswani et al. 2017; pre-norm, Xiong et al. 2020; grouped queries, Ainslie et al. 2023; rotary positions,
 * Su et al. 2021.) post is a norm, or nothing. A sample is a sequence of S rows. */

typedef struct
{
  guint d, hidden, K;
  guint H, Hkv, head_dim;
  NfNormKind norm;
  gboolean qk_norm, post_norm, gated, half_split;
} NfTransformerShape;

/* Weight and bias among the parameters; RMS norms have no bias. */
typedef struct
{
  NfView w, b;
} NfNorm;

typedef struct
{
  NfNorm attention_norm, attention_post, mlp_norm, mlp_post;
  NfView query_norm, key_norm;
  NfLinear qkv, proj;
  NfLinear gate, fc1, fc2;
} NfLayerWeights;

typedef struct
{
  NfTransformerShape shape;
  NfLayerWeights *layers; /* K */
} NfTransformer;

typedef struct _NfCache NfCache;

/* How rows of a sequence see each other: MASK, and positions: TABLE (S, DH/2, 2), cosines and sines, NULL
 * buffer for none. The backward pass of one sequence without gradients of parameters may leave out rows
 * before FIRST, if these see no row from it on: what it writes of them means nothing. So may the forward pass
 * into a tape that keeps, if PAST has what these rows are to the others, in its sequence SAMPLE. */
typedef struct
{
  guint S, first;
  NfMask mask;
  NfView table;
  const NfCache *past; /* or NULL */
  guint sample;
} NfSequence;

/* Which rows are left rows of a product (nf-ops.h). */
typedef struct
{
  gboolean a, attention, hidden;
} NfLeftRows;

/* What a forward pass computes, for up to B samples. A tape that keeps has buffers of its own for every
 * layer, so that the backward pass finds them; one that does not uses the same buffers again and again. */
typedef struct
{
  GPtrArray *buffers; /* owns them all */
  gboolean keep;
  NfLeftRows left;     /* a1 and a2, attention, hidden; if hidden is, so is before */
  NfBuffer **h;        /* K + 1: input of each layer, output of the last (M, d) */
  NfBuffer **a1, **a2; /* K: after the norms (M, d) */
  NfBuffer *
      *raw; /* K: the product (M, (H + 2 Hkv) DH); qkv itself unless there are qk-norms to keep it for */
  NfBuffer **qkv;       /* K: after heads */
  NfBuffer **attention; /* K: (M, H DH) */
  NfBuffer **stats;     /* K: softmax statistics, NULL unless kept */
  NfBuffer **sub1;      /* K: before the attention's post-norm (M, d) */
  NfBuffer **middle;    /* K: between attention and MLP (M, d) */
  NfBuffer **gate;      /* K: (M, hidden), if gated */
  NfBuffer **before;    /* K: before the activation (M, hidden), NULL unless kept */
  NfBuffer **hidden;    /* K: after it */
  NfBuffer **sub2;      /* K: before the MLP's post-norm */
  NfBuffer *keys;
} NfTape;

NfTape *nf_tape_new (NfOps *ops, const NfTransformerShape *shape, guint S, guint B, gboolean keep);
void nf_tape_free (NfTape *tape);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfTape, nf_tape_free)

/* Floats that a tape takes for one sample. */
gsize nf_tape_floats (const NfTransformerShape *shape, guint S, gboolean keep);

/* From tape->h[0] (B, S, d) to tape->h[K]. */
void nf_transformer_forward (NfOps *ops, const NfTransformer *transformer, const NfSequence *sequence,
                             NfTape *tape, guint B);

/* Work memory of the backward pass, for up to B samples. */
typedef struct
{
  GPtrArray *buffers;
  NfBuffer *dh; /* (M, d): the gradient of the output when the pass begins, of the input when it ends */
  NfBuffer *da, *dyc, *dsub, *dqkv, *dout, *dhidden, *dgate, *dheads, *keys, *values;
} NfTapeScratch;

NfTapeScratch *nf_tape_scratch_new (NfOps *ops, const NfTransformerShape *shape, guint S, guint B);
void nf_tape_scratch_free (NfTapeScratch *scratch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfTapeScratch, nf_tape_scratch_free)

/* scratch->dh in place, given the kept tape. Gradients of parameters are added to GRADIENTS at the places
 * that the parameters have in theirs, unless it is NULL. */
void nf_transformer_backward (NfOps *ops, const NfTransformer *transformer, const NfSequence *sequence,
                              const NfTape *tape, NfTapeScratch *scratch, guint B, NfBuffer *gradients);

/* dx = or += (ACCUMULATE) the gradient through a norm of x whose output has gradient dy; DYC is work memory.
 */
void nf_norm_backward (NfOps *ops, NfNormKind kind, const NfNorm *norm, NfView x, NfView dy, NfView dyc,
                       NfView dx, gboolean accumulate, guint M, guint d, NfBuffer *gradients);

/* Keys and values of sequences that grow, for up to R of them and S rows each, and work memory for up to R ×
 * COUNT new rows. One that KEEPS_ROWS can be the past of an NfSequence. */
struct _NfCache
{
  GPtrArray *buffers;
  guint rows, S, count;
  gboolean keeps_rows;
  NfBuffer **keys; /* K, of nf_ops_append() */
  NfBuffer **qkv;  /* K: (R, S, (H + 2 Hkv) DH), or, unless rows are kept, the new ones of one layer */
  NfBuffer *h;     /* (R, COUNT, d): input and output of nf_transformer_extend() */
  NfBuffer *a, *attention, *hidden, *gate, *sub;
};

NfCache *nf_cache_new (NfOps *ops, const NfTransformerShape *shape, guint rows, guint S, guint count,
                       gboolean keeps_rows);
void nf_cache_free (NfCache *cache);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfCache, nf_cache_free)
gsize nf_cache_floats (NfOps *ops, const NfTransformerShape *shape, guint S, guint count);

/* Rows q0 .. q0+count-1 of R sequences: cache->h (R, count, d) goes through the layers and meets the rows
 * before; their keys and values are put at their places, over what was there. Rows past q0+count-1 are
 * forgotten in effect. The attention logits of sequences from SPLIT on are divided by TEMPERATURE. The same
 * bits as nf_transformer_forward(). */
void nf_transformer_extend (NfOps *ops, const NfTransformer *transformer, const NfSequence *sequence,
                            NfCache *cache, guint R, guint q0, guint count, guint split, float temperature);
