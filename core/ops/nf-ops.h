/* normflow: operations on device tensors. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-device-private.h"

/* Not installed. An NfOps is one in-order queue with its own kernel objects: one thread at a time. An
 * operation only enqueues; the first failure is kept, everything after it does nothing, and nf_ops_finish()
 * or nf_ops_read() reports it. Sizes are in floats unless said otherwise.
 *
 * Letters: B batch, N tokens, D features, d width, H heads, M rows, K inner size of a product. Every
 * activation buffer comes from nf_ops_alloc(), which adds NF_PADDING readable floats at its end (kernels load
 * whole vectors). */

#define NF_PADDING 64

typedef struct _NfOps NfOps;

/* Part of a buffer, AT floats from its start. A NULL buffer is allowed where an operation says so. */
typedef struct
{
  NfBuffer *buffer;
  gsize at;
} NfView;

static inline NfView
nf_view (NfBuffer *buffer, gsize at)
{
  return (NfView){ buffer, at };
}

static inline NfView
nf_view_add (NfView view, gsize floats)
{
  return (NfView){ view.buffer, view.at + floats };
}

/* Kernels for heads of HEAD_DIM features and tokens of FEATURES values. */
NfOps *nf_ops_new (NfDevice *device, guint head_dim, guint features, GError **error);
void nf_ops_free (NfOps *ops);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfOps, nf_ops_free)

NfDevice *nf_ops_get_device (NfOps *ops);

/* A buffer of FLOATS floats and the padding, all zero. NULL after a failure, which is kept. */
NfBuffer *nf_ops_alloc (NfOps *ops, gsize floats);

/* Waits for everything enqueued. */
gboolean nf_ops_finish (NfOps *ops, GError **error);

/* Transfers; BYTES of host memory, which may be reused on return. nf_ops_read() waits and reports failures so
 * far. */
void nf_ops_write (NfOps *ops, NfView to, const void *from, gsize bytes);
gboolean nf_ops_read (NfOps *ops, NfView from, void *to, gsize bytes, GError **error);

/* Reads without waiting: TO is valid after nf_ops_finish(). */
void nf_ops_read_later (NfOps *ops, NfView from, void *to, gsize bytes);

void nf_ops_copy (NfOps *ops, NfView from, NfView to, gsize floats);
void nf_ops_fill (NfOps *ops, NfView x, float value, gsize floats);

/* Packed weights. W is (N, K) as in a state_dict: TRANSPOSED packs for y = x Wᵀ (panels over N), else for dx
 * = dy W (panels over K). */
gsize nf_ops_packed_size (NfOps *ops, guint N, guint K, gboolean transposed);
void nf_ops_pack (NfOps *ops, NfView W, NfView packed, guint N, guint K, gboolean transposed);

typedef enum
{
  NF_MATMUL_BIAS = 1,
  NF_MATMUL_GELU = 2,
  NF_MATMUL_RESIDUAL = 4,
  NF_MATMUL_SAVE = 8,
  NF_MATMUL_ACCUMULATE = 16,
  NF_MATMUL_GELU_SLOPE = 32,
  NF_MATMUL_PANELS = 64, /* A is in panels of rows: of nf_ops_matmul_tn() */
} NfMatmulFlags;

/* C (M, N) = A (M, K) · B, then + bias (N), P = that (SAVE), GELU, × GELU'(P) (GELU_SLOPE), + R[m % r_mod]
 * (RESIDUAL), + C (ACCUMULATE), in this order. Rows are lda, ldc, ldr floats apart; P (M, N) is dense. B is
 * packed. C may be R or, with equal strides, nothing else. */
typedef struct
{
  NfView A, B, bias, R, C, P;
  guint M, N, K;
  guint lda, ldc, ldr, r_mod;
  guint flags;
} NfMatmul;

void nf_ops_matmul (NfOps *ops, const NfMatmul *product);

/* C (N, K) += Aᵀ X: A (M, N), rows lda apart, X (M, K), rows ldx apart. A weight's gradient. Both are packed
 * into memory of OPS first, which costs little beside the product and makes it an ordinary one. */
void nf_ops_matmul_tn (NfOps *ops, NfView A, guint lda, NfView X, guint ldx, NfView C, guint M, guint N,
                       guint K);

/* s (N) += the sums of the columns of x (M, N), rows ldx apart. */
void nf_ops_column_sums (NfOps *ops, NfView x, guint ldx, NfView s, guint M, guint N);

/* y = (x - mean) rstd w + b, eps 1e-5, x and y (M, d). w and b lie in one buffer. */
void nf_ops_layernorm (NfOps *ops, NfView x, NfView w, NfView b, NfView y, guint M, guint d);

/* dx += dL/dx; dyc = dy × normalised x, whose column sums are dw. */
void nf_ops_layernorm_backward (NfOps *ops, NfView x, NfView w, NfView dy, NfView dyc, NfView dx, guint M,
                                guint d);

/* The keys of an attention, in blocks that attention reads as vectors. */
typedef struct
{
  guint B, H, N;  /* samples, heads, capacity in tokens */
  guint blocks;   /* blocks of a head, even */
  NfBuffer *keys; /* (B, H, blocks, DH, VW) */
} NfKeys;

gsize nf_ops_keys_size (NfOps *ops, guint B, guint H, guint N);
guint nf_ops_key_blocks (NfOps *ops, guint N);

/* Puts tokens n0 .. n0+count-1 of each of B samples into KEYS; src rows are row apart, samples batch apart.
 */
void nf_ops_append (NfOps *ops, NfView src, guint row, gsize batch, NfBuffer *keys, guint n0, guint count,
                    guint capacity, guint B, guint H);

/* Causal attention of Nq queries per sample, the first at place q0, on the keys up to each query's own place.
 * Samples from SPLIT on use SCALE2. */
typedef struct
{
  NfView Q, V, out;
  guint q_row, v_row, out_row;
  gsize q_batch, v_batch, out_batch;
  NfBuffer *keys;
  guint capacity;
  NfBuffer *stats; /* NULL, or (B, H, Nq, 2) for the backward pass */
  guint q0, Nq, B, H, split;
  float scale, scale2;
} NfAttention;

void nf_ops_attention (NfOps *ops, const NfAttention *attention);

/* dqkv (B, N, 3d) of qkv (B, N, 3d), given out and dout (B, N, d). values are V in the form of keys. */
void nf_ops_attention_backward (NfOps *ops, NfView qkv, NfBuffer *keys, NfBuffer *values, NfView out,
                                NfView dout, NfBuffer *stats, NfView dqkv, guint N, guint B, guint H,
                                float scale);

/* The affine step; see kernels/flow.cl. u, z (B, N, D), o (B, N, 2D or D), log_det (B, N). */
void nf_ops_affine (NfOps *ops, NfView u, NfBuffer *o, NfView z, NfBuffer *log_det, guint B, guint N, guint D,
                    gboolean nvp, gboolean flip, gboolean out_flip, gboolean accumulate);
void nf_ops_affine_backward (NfOps *ops, NfView u, NfBuffer *o, NfView dz, NfView du, NfBuffer *d_o, guint B,
                             guint N, guint D, gboolean nvp, gboolean out_flip, float g);

/* z²/2 of each token, (B N); dz = g z if DZ is not NULL. */
void nf_ops_prior (NfOps *ops, NfView z, NfBuffer *dz, NfBuffer *half_square, float g, guint M, guint D);

/* How 8-bit samples and tokens meet. */
typedef struct
{
  guint p;      /* patch side */
  guint side;   /* tokens in a tile's row */
  gboolean yuv; /* two chroma planes of half the size */
  guint D;
  gint steps;      /* lattice steps in a bin; 0: 8-bit values themselves */
  NfBuffer *basis; /* NULL, or (D, D) orthonormal */
} NfTokens;

typedef struct
{
  float w_scale, w_shift;
  gboolean guided;
  gboolean snap;
} NfInverse;

/* Token n of u (B, N, D) becomes u exp(alpha) + mu, guided and snapped. */
void nf_ops_affine_inverse (NfOps *ops, NfView u, NfBuffer *o, guint B, guint N, guint n, gboolean nvp,
                            const NfInverse *inverse, const NfTokens *tokens);

/* to (B, N, D) = from, times SCALE (N, D) unless its buffer is NULL, then tokens reversed if FLIP. */
void nf_ops_reorder (NfOps *ops, NfView from, NfView to, guint B, guint N, guint D, gboolean flip,
                     NfView scale);

/* x = y - k grad. */
void nf_ops_denoise (NfOps *ops, NfView y, NfView grad, NfView x, float k, gsize n);

/* h (B, N, d) += embedding of the label, labels (B) ints on the device; label -1 is the mean. And its
 * gradient. */
void nf_ops_class_embed (NfOps *ops, NfView h, NfView E, NfBuffer *labels, guint B, guint N, guint d,
                         guint classes);
void nf_ops_class_embed_backward (NfOps *ops, NfView dh, NfView dE, NfBuffer *labels, guint B, guint N,
                                  guint d, guint classes);

/* dpos (N, d) += the sum over B of dh (B, N, d), rows reversed if FLIP. */
void nf_ops_position_backward (NfOps *ops, NfView dh, NfView dpos, guint B, guint N, guint d, gboolean flip);

typedef enum
{
  NF_DEQUANTISE_NONE,
  NF_DEQUANTISE_LATTICE,
  NF_DEQUANTISE_UNIFORM,
  NF_DEQUANTISE_GAUSSIAN,
} NfDequantise;

/* Planes of 8-bit samples in one device buffer: byte offset, bytes between rows and between samples of each.
 */
typedef struct
{
  NfBuffer *bytes;
  guint64 at[3];
  gint stride[3];
  gint step[3];
  guint width, height;
  guint tiles_x;
  gsize tile_bytes; /* not 0: a batch of tiles, this far apart, rather than one frame */
} NfPlanes;

/* Tiles tile0 .. tile0+tiles-1 into x (tiles, N, D) and back. SEED and STREAM feed the random modes. */
void nf_ops_pixels_to_tokens (NfOps *ops, const NfPlanes *planes, const NfTokens *tokens, guint tile0,
                              guint tiles, NfDequantise mode, float std, guint64 seed, guint64 stream,
                              NfView x);
void nf_ops_tokens_to_pixels (NfOps *ops, NfView x, const NfPlanes *planes, const NfTokens *tokens,
                              guint tile0, guint tiles);

/* Tokens of tiles <-> the latents of a whole frame, (grid_height, grid_width, D). */
void nf_ops_grid (NfOps *ops, NfView tokens, NfBuffer *grid, guint tile0, guint tiles, guint tiles_x,
                  guint side, guint D, gboolean to_grid);

/* AdamW on N values; average is kept if ema >= 0. */
typedef struct
{
  NfBuffer *theta, *grad, *m, *v, *average;
  gsize n;
  float clip, lr, beta1, beta2, fix1, fix2, eps, decay, ema;
} NfAdamW;

void nf_ops_adamw (NfOps *ops, const NfAdamW *adamw);

/* Number of partial sums that nf_ops_sum_squares() makes of N values, and where they go. */
guint nf_ops_sum_parts (gsize n);
void nf_ops_sum_squares (NfOps *ops, NfView x, gsize n, NfBuffer *partial);
