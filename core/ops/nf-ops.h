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

/* Gradients go into command lists, too, from here on. Such a list takes seconds more to compile, once: for
 * who takes many steps. */
gboolean nf_ops_list_gradients (NfOps *ops, GError **error);

/* A buffer of FLOATS floats and the padding, all zero. NULL after a failure, which is kept. */
NfBuffer *nf_ops_alloc (NfOps *ops, gsize floats);

/* The orthonormal basis W (D, D) of tokens, whose rows are the basis vectors, as kernels read it: as floats,
 * and in a buffer of them, likewise. */
GArray *nf_ops_arrange_basis (const float *W, guint D);
NfBuffer *nf_ops_new_basis (NfOps *ops, const float *W, guint D);

/* Waits for everything enqueued. */
gboolean nf_ops_finish (NfOps *ops, GError **error);

/* Between the parts of long work: waits for what was enqueued before the last call of this, so that the
 * device has one part to go on with and another can still be left out. */
void nf_ops_pace (NfOps *ops);

/* Transfers; BYTES of host memory, which may be reused on return. nf_ops_read() waits and reports failures so
 * far. */
void nf_ops_write (NfOps *ops, NfView to, const void *from, gsize bytes);
gboolean nf_ops_read (NfOps *ops, NfView from, void *to, gsize bytes, GError **error);

/* Reads without waiting: TO is valid after nf_ops_finish(). */
void nf_ops_read_later (NfOps *ops, NfView from, void *to, gsize bytes);

/* Where time goes. From nf_ops_start_profile() on the device notes when each command begins and ends. A
 * command's name is its kernel's, of a product with its sizes, or that of a transfer. */
typedef struct
{
  char *name;
  guint64 launches;
  double seconds;
} NfOpsTime;

gboolean nf_ops_start_profile (NfOps *ops, GError **error);

/* Waits, and ends the profile: NfOpsTimes, the longest first. NULL after a failure. Free with
 * g_ptr_array_unref(). */
GPtrArray *nf_ops_end_profile (NfOps *ops, GError **error);

void nf_ops_copy (NfOps *ops, NfView from, NfView to, gsize floats);

/* COUNT rows of FLOATS floats, FROM_STEP and TO_STEP floats apart. */
void nf_ops_copy_rows (NfOps *ops, NfView from, gsize from_step, NfView to, gsize to_step, gsize floats,
                       guint count);

void nf_ops_fill (NfOps *ops, NfView x, float value, gsize floats);

/* Packed weights, in elements of products: a float, or in its place two bfloat16 or four integers of -127 to
 * 127 if the device keeps these, the integers with a scale for each column of a panel. W
 * is (N, K) as in a state_dict: TRANSPOSED packs for y = x Wᵀ (panels over N), else for dx = dy W (panels
 * over K). */
gsize nf_ops_packed_size (NfOps *ops, guint N, guint K, gboolean transposed);
void nf_ops_pack (NfOps *ops, NfView W, NfView packed, guint N, guint K, gboolean transposed);

/* Left rows: N values as a product reads them on its left, so that nobody need do it first: in bfloat16, or,
 * if the matrix unit multiplies floats, each as a sum of three bfloat16, or of two if it multiplies them by
 * bfloat16; where instructions for integers multiply, integers of 16 bits with their unit behind them; on
 * other CPUs floats, with a gap after a row. Words (floats) from a row to the next; 0 if there is nothing to
 * gain, or N is not for it. nf_ops_row_size() is what to allocate, left rows or not. */
guint nf_ops_left_step (NfOps *ops, guint N);

/* TRUE if products and gates write left rows, of which each has a part; FALSE of integers, whose unit is not
 * known before the last value of a row. Norms have whole rows and write any. */
gboolean nf_ops_writes_parts_left (NfOps *ops);

/* Words from one row of N values to the next: left rows if LEFT, else floats. */
guint nf_ops_row_step (NfOps *ops, guint N, gboolean left);
guint nf_ops_row_size (NfOps *ops, guint N);

/* TRUE if B of a product need not be packed: ldb of NfMatmul. */
gboolean nf_ops_takes_rows (NfOps *ops);

typedef enum
{
  NF_MATMUL_BIAS = 1,
  NF_MATMUL_GELU = 2,
  NF_MATMUL_RESIDUAL = 4,
  NF_MATMUL_SAVE = 8,
  NF_MATMUL_ACCUMULATE = 16,
  NF_MATMUL_GELU_SLOPE = 32,
  NF_MATMUL_PANELS = 64, /* A is in panels of rows: of nf_ops_matmul_tn() */
  NF_MATMUL_LEFT = 128,  /* C is left rows */
  NF_MATMUL_ROUND
  = 256, /* A is none yet, where it has to be: for nf_ops_matmul() alone to say. P is work memory */
  NF_MATMUL_LEFT_A = 512, /* A is */
} NfMatmulFlags;

/* C (M, N) = A (M, K) · B, then + bias (N), P = that (SAVE), GELU, × GELU'(P) (GELU_SLOPE), + R[m % r_mod]
 * (RESIDUAL), + C (ACCUMULATE), in this order. Rows are lda, ldc, ldr floats apart; P (M, N) is dense,
 * or, where C is left rows and gradients read these, such rows as well, ldc words apart. B is
 * packed, or, if nf_ops_takes_rows(), a matrix (K, N) of floats as it is, rows ldb floats apart. C may be R
 * or, with equal strides, nothing else. */
typedef struct
{
  NfView A, B, bias, R, C, P;
  guint M, N, K;
  guint lda, ldb, ldc, ldr, r_mod;
  guint flags;
} NfMatmul;

void nf_ops_matmul (NfOps *ops, const NfMatmul *product);

/* TRUE if gradients of weights take left rows of a product as operands: they round what they multiply. */
gboolean nf_ops_gradients_read_left (NfOps *ops);

/* C (N, K) += Aᵀ X: A (M, N), rows lda apart, X (M, K), rows ldx apart. A weight's gradient. They are
 * packed into memory of OPS first (only A, if the matrix unit multiplies floats), which makes it an ordinary
 * product. A_LEFT, X_LEFT: these are left rows, and lda and ldx count words. */
void nf_ops_matmul_tn (NfOps *ops, NfView A, guint lda, gboolean a_left, NfView X, guint ldx, gboolean x_left,
                       NfView C, guint M, guint N, guint K);

/* s (N) += the sums of the columns of x (M, N), rows ldx apart; LEFT: of left rows, ldx words apart, where
 * gradients read these. */
void nf_ops_column_sums (NfOps *ops, NfView x, guint ldx, gboolean left, NfView s, guint M, guint N);

/* LAYER: (x - mean) rstd w + b, eps 1e-5. RMS: x (1 + w) / sqrt (mean of x² + 1e-6), b is not read. */
typedef enum
{
  NF_NORM_LAYER,
  NF_NORM_RMS,
} NfNormKind;

/* y = norm (x) + R; x, R, y (M, d) dense. y may be x and R may be y; with a NULL buffer there is no R. w and
 * b lie in one buffer. LEFT: y is left rows, and not x. */
void nf_ops_norm (NfOps *ops, NfNormKind kind, NfView x, NfView w, NfView b, NfView R, NfView y,
                  gboolean left, guint M, guint d);

/* dx = dL/dx, or += if ACCUMULATE; dyc = dy × normalised x, whose column sums are dw. dx may be dy unless it
 * accumulates, dyc must be another buffer. */
void nf_ops_norm_backward (NfOps *ops, NfNormKind kind, NfView x, NfView w, NfView dy, NfView dyc, NfView dx,
                           gboolean accumulate, guint M, guint d);

/* Queries and keys between product and attention. Rows are [H query heads | HKV key heads | HKV value heads]
 * of DH features, ROW floats apart, samples BATCH apart, COUNT rows a sample; row r has position POSITION0 +
 * r. First RMS norm of each query and key head (q_norm, k_norm (DH)) unless those are NULL buffers, then
 * rotation of pairs of features by TABLE (positions, DH/2, 2: cos, sin) unless that is: y_a = x_a cos - x_b
 * sin, y_b = x_b cos + x_a sin. Pairs are (2i, 2i+1), or (i, i + DH/2) if HALF_SPLIT. Values are copied; TO
 * may be FROM.
 */
typedef struct
{
  NfView from, to, q_norm, k_norm, table;
  gsize row, batch;
  guint position0, count, B, H, Hkv;
  gboolean half_split;
} NfHeads;

void nf_ops_heads (NfOps *ops, const NfHeads *heads);

/* dqkv, in rows like those of FROM, goes from the gradient after nf_ops_heads() to that before. With norms
 * only: heads->from must hold what nf_ops_heads() read, scratch (B count, (H + Hkv) DH) is work memory, and
 * dq_norm, dk_norm (DH) are added to unless their buffers are NULL. */
void nf_ops_heads_backward (NfOps *ops, const NfHeads *heads, NfView dqkv, NfBuffer *scratch, NfView dq_norm,
                            NfView dk_norm);

/* The keys and values of an attention, as it reads them (kernels/append.cl). Room for N tokens of B samples,
 * H heads of keys. */
gsize nf_ops_keys_size (NfOps *ops, guint B, guint H, guint N);

/* Bytes that attention reads of a key and its value, of one head. */
gsize nf_ops_key_bytes (NfOps *ops);

/* Puts tokens n0 .. n0+count-1 of each of B samples into KEYS, H heads of keys and, right after them in a
 * row, H heads of values; src rows are row apart, samples batch apart, in words if LEFT: src is then in left
 * rows. For a matrix unit tokens of a block come in their order. */
void nf_ops_append (NfOps *ops, NfView src, guint row, gsize batch, gboolean left, NfBuffer *keys, guint n0,
                    guint count, guint capacity, guint B, guint H);

/* Which keys a query meets; all zero: those up to its own place. Tokens after the first PREFIX ones lie in
 * frames of FRAME.
 *
 * CAUSAL with a window: a query of frame f meets the prefix and, up to its own place, frames f-window .. f.
 * FRAMES: a query of frame f meets the prefix and frames f+ahead-1-window .. f+ahead-1, as far as they exist;
 * a query of the prefix meets the prefix and frames up to ahead-1, the earlier the further it is before frame
 * 0: as if the prefix were frames before that one. */
typedef enum
{
  NF_MASK_CAUSAL,
  NF_MASK_FRAMES,
} NfMaskKind;

typedef struct
{
  NfMaskKind kind;
  guint prefix, frame, ahead, window;
} NfMask;

/* TRUE if attention can leave left rows; if it, and nf_ops_append(), can take what they read in them. */
gboolean nf_ops_attention_writes_left (NfOps *ops);
gboolean nf_ops_attention_reads_left (NfOps *ops);

/* Attention of Nq queries per sample, the first at place q0, on those of n_keys keys (0: q0 + Nq) that MASK
 * lets them meet. Query head h uses key head h / (H / Hkv); Hkv 0 means H. Samples from SPLIT on use SCALE2.
 * A query that meets no key gets 0. LEFT: out is left rows, samples of Nq rows without gaps between
 * them; out_row and out_batch are not read. Q_LEFT: Q is in left rows, q_row and q_batch count their words.
 */
typedef struct
{
  NfView Q, out;
  guint q_row, out_row;
  gsize q_batch, out_batch;
  NfBuffer *keys; /* and values, of nf_ops_append() */
  guint capacity;
  gboolean left, q_left;
  NfBuffer *stats; /* NULL, or (B, H, n_keys, 2) for the backward pass */
  guint q0, Nq, n_keys, B, H, Hkv, split;
  NfMask mask;
  float scale, scale2;
} NfAttention;

void nf_ops_attention (NfOps *ops, const NfAttention *attention);

/* Floats of each of the blocks of keys and values that the backward pass takes as work memory; 0 if it reads
 * them where they are. */
gsize nf_ops_backward_keys_size (NfOps *ops, guint B, guint H, guint N);

/* dqkv (B, N, (H + 2 Hkv) DH) of qkv, given out and dout (B, N, H DH). keys and values, each of
 * nf_ops_backward_keys_size(), are work memory. */
typedef struct
{
  NfView qkv, out, dout, dqkv;
  NfBuffer *keys, *values, *stats;
  guint N, B, H, Hkv;
  NfMask mask;
  float scale;
} NfAttentionBackward;

void nf_ops_attention_backward (NfOps *ops, const NfAttentionBackward *attention);

/* hidden = gelu_tanh (gate) × up, M rows of n, left rows if LEFT; gelu_tanh (x) = x/2 (1 + tanh (sqrt
 * (2/pi) (x + 0.044715 x³))). And its gradient; dup may be dhidden. */
void nf_ops_gate (NfOps *ops, NfView gate, NfView up, NfView hidden, gboolean left, guint M, guint n);
void nf_ops_gate_backward (NfOps *ops, NfView gate, NfView up, NfView dhidden, NfView dgate, NfView dup,
                           gsize n);

/* log sigma of a raw scale: none (sigma 1), itself, or log softplus (raw + log (e - 1)). */
typedef enum
{
  NF_SCALE_NONE,
  NF_SCALE_EXP,
  NF_SCALE_SOFTPLUS,
} NfScale;

/* How 8-bit samples and tokens meet. */
typedef struct
{
  guint p;             /* patch side */
  guint columns, rows; /* tokens in a tile's row and column */
  gboolean yuv;        /* two chroma planes of half the size */
  guint interleaved;   /* planes whose samples of one place are neighbours in a token, 0: one plane after the
                          other */
  guint D;
  gint steps; /* lattice steps in a bin; 0: 8-bit values themselves; negative (not -1): multiples of 1/(128
                 -steps) */
  NfBuffer *basis; /* NULL, or as of nf_ops_new_basis() */
} NfTokens;

/* What encoding says of values that decoding will not find. COUNTS (B, N, 2), as log_det, gets of each token
 * how many values of u and how many samples are not; LIST, unless ROOM is 0, gets what is to be put in their
 * place, in any order: of samples from FIRST_SAMPLE on, of block BLOCK. A list has ROOM + 1 times four ints,
 * the first of them being how many corrections there are, also where there is room for less; then come these,
 * as NfCorrection. It is the caller's to set the first to 0. */
typedef struct
{
  NfBuffer *counts;
  NfBuffer *list;
  guint room, first_sample, block;
} NfMissed;

/* Corrections of a block as decoding wants them. WORDS are ints: from AT on, for each of N tokens of each
 * sample, of which the first is token FIRST, where in WORDS its corrections begin, and in one place more
 * where the last end; these are two words each, the number of a value and its bits. N is 0 if there are none.
 */
typedef struct
{
  NfView words;
  guint N, first;
} NfCorrected;

/* How a block's output becomes an affine step, z = (u - mu)/sigma; see kernels/flow.cl. o has S rows a
 * sample, the first PREFIX of which say nothing, of 2D values, [raw scale | mu], or of D (NONE). With SHIFT
 * row prefix + n-1 speaks of token n, and token 0 stays as it is; without, row prefix + n. SOFT_CLIP a > 0
 * makes a tanh (o/a) of all of o first. MOST is the largest log sigma of NF_SCALE_EXP, infinite for any.
 * Flips reverse the tokens within each frame of FRAME. z is rounded to multiples of
 * 1/PER_UNIT_OUT, and u, when it is found again, to multiples of 1/PER_UNIT_IN, unless these are 0. */
typedef struct
{
  guint B, N, D, S, prefix, extra, frame;
  gboolean shift;
  NfScale scale;
  float soft_clip, most, per_unit_in, per_unit_out;
  const NfMissed *missed;  /* or NULL, if not asked */
  const NfTokens *snapped; /* u are tokens on this lattice, and snap to it when they are decoded; or NULL */
} NfAffine;

/* u, z (B, N, D); log_det (B, N) in natural order, flipped to the block's if FLIP; log_scales (B, N, D),
 * unless its buffer is NULL, gets -log sigma in the block's order, 0 for a token that stays. z goes to
 * flipped rows if OUT_FLIP. */
void nf_ops_affine (NfOps *ops, const NfAffine *a, NfView u, NfBuffer *o, NfView z, NfBuffer *log_det,
                    NfView log_scales, gboolean flip, gboolean out_flip, gboolean accumulate);

/* d_o gets all S rows, 0 in those that say nothing. The loss holds -g times the log-determinant. */
void nf_ops_affine_backward (NfOps *ops, const NfAffine *a, NfView u, NfBuffer *o, NfView dz, NfView du,
                             NfBuffer *d_o, gboolean out_flip, float g);

/* z²/2 of each token, (B N); dz = g z if DZ is not NULL. */
void nf_ops_prior (NfOps *ops, NfView z, NfBuffer *dz, NfBuffer *half_square, float g, guint M, guint D);

/* EXTRAPOLATE: raw + w_scale (raw - raw_u), mu + w_shift (mu - mu_u), after the soft clip. PRODUCT, with w =
 * w_scale: s = min (sigma/sigma_u, 1)², k = 1 + w - w s, sigma/sqrt (k), ((1 + w) mu - w s mu_u)/k. */
typedef enum
{
  NF_GUIDANCE_NONE,
  NF_GUIDANCE_EXTRAPOLATE,
  NF_GUIDANCE_PRODUCT,
} NfGuidanceKind;

/* Which tokens are decoded, n0 .. n0+count-1, and from where: row r of sample b is row b o_rows + o_first + r
 * of o; the unguided branch's samples come after all of these. Weights of token n0+r are w0 + r w_step.
 * KEEP_FIRST: token n0 stays as it is, but is snapped if SNAP says so. CHANGES: NULL, or (B, count) gets the
 * largest |new - old| of each token, no number if there is one that is none. SIGMAS: NULL, or (B, N, D) gets
 * the sigma of these tokens. CORRECTED: what
 * values are to be whatever is found. */
typedef struct
{
  guint n0, count, o_rows, o_first;
  NfGuidanceKind guidance;
  float w_scale0, w_scale_step, w_shift0, w_shift_step;
  gboolean keep_first, snap;
  NfBuffer *changes, *sigmas;
  NfCorrected corrected;
} NfInverse;

/* Those tokens of x (B, N, D) become z sigma + mu of z (B, N, D), both in block order. z may be x. Of A it
 * uses B, N, D, scale, soft_clip and most. */
void nf_ops_affine_inverse (NfOps *ops, const NfAffine *a, const NfInverse *inverse, NfView z, NfView x,
                            NfBuffer *o, const NfTokens *tokens);

/* Tokens n0 .. n0+count-1 of x (B, N, D), n0 > 0, become a first guess, one after the other: weights
 * (2 D + 1, D) times the token before, the token of z (B, N, D), and 1. */
void nf_ops_foresee (NfOps *ops, NfView z, NfView x, NfView weights, guint B, guint N, guint D, guint n0,
                     guint count);

/* What is known of samples that are alike: nf_ops_affine_inverse() found x of z with these sigmas, each
 * (B, N, D). Slopes (D, D), whose buffer may be NULL, are how a token answers to the one before it. */
typedef struct
{
  NfBuffer *z, *x, *sigmas;
  NfView slopes;
} NfRecall;

/* Those tokens of x become a first guess, one after the other: what they were in the samples that are known,
 * moved on by what is other now in z and in the token before. */
void nf_ops_recall (NfOps *ops, NfView z, NfView x, const NfRecall *recall, guint B, guint N, guint D,
                    guint n0, guint count);

/* Those tokens of x are what a sweep says that read BEFORE (B, count, D). One after the other, each is moved
 * on by SLOPES (D, D) times what the token before it moved by, and then to the nearest value of an 8-bit
 * sample: PLACES (B, N, D), in the basis of pixels, are those of samples of 0. Either is left out if its
 * buffer is NULL. CHANGES (2, B, count) gets the largest |new - BEFORE| of each token, and how far the second
 * move was at most, in the basis of pixels. */
void nf_ops_settle (NfOps *ops, NfView x, NfBuffer *before, NfView slopes, NfView places,
                    const NfTokens *tokens, NfBuffer *changes, guint B, guint N, guint n0, guint count);

/* to (B, count, D) = tokens n0-1 .. n0+count-2 of u (B, N, D), where token -1 is sos (D). And for the whole
 * sequence its gradient: du[n] += dto[n+1], dsos += the sum over B of dto[0] unless its buffer is NULL. */
void nf_ops_shift_in (NfOps *ops, NfView u, NfView sos, NfView to, guint n0, guint count, guint B, guint N,
                      guint D);
void nf_ops_shift_in_backward (NfOps *ops, NfView dto, NfView du, NfView dsos, guint B, guint N, guint D);

/* to (B, N, D) = from, times SCALE (N, D) unless its buffer is NULL, then tokens reversed within frames of
 * FRAME if FLIP. */
void nf_ops_reorder (NfOps *ops, NfView from, NfView to, guint B, guint N, guint D, gboolean flip,
                     guint frame, NfView scale);

/* x = y - k grad. */
void nf_ops_denoise (NfOps *ops, NfView y, NfView grad, NfView x, float k, gsize n);

/* h (B, N, d) += embedding of the label, labels (B) ints on the device; label -1 is the mean. And its
 * gradient. */
void nf_ops_class_embed (NfOps *ops, NfView h, NfView E, NfBuffer *labels, guint B, guint N, guint d,
                         guint classes);
void nf_ops_class_embed_backward (NfOps *ops, NfView dh, NfView dE, NfBuffer *labels, guint B, guint N,
                                  guint d, guint classes);

/* dpos (N, d) += the sum over B of dh (B, N, d), rows reversed within frames of FRAME if FLIP. */
void nf_ops_position_backward (NfOps *ops, NfView dh, NfView dpos, guint B, guint N, guint d, gboolean flip,
                               guint frame);

typedef enum
{
  NF_DEQUANTISE_NONE,
  NF_DEQUANTISE_LATTICE,
  NF_DEQUANTISE_UNIFORM,
  NF_DEQUANTISE_GAUSSIAN,
  NF_DEQUANTISE_GIVEN,
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
  guint chroma_height; /* rows of both, of yuv420 */
  guint tiles_x;
  gsize tile_bytes; /* not 0: a batch of tiles, this far apart, rather than one frame */
  gsize odd;        /* word of bytes that becomes 1 when a value that is written is no finite number */
} NfPlanes;

/* Tiles tile0 .. tile0+tiles-1 into x (tiles, N, D) and back. SEED and STREAM feed the random modes; NOISE
 * (N, D), in the basis of pixels, is added to every tile by mode GIVEN, which puts the sum on the lattice of
 * negative steps, and on the way back it is taken away again, unless it is NULL. */
void nf_ops_pixels_to_tokens (NfOps *ops, const NfPlanes *planes, const NfTokens *tokens, guint tile0,
                              guint tiles, NfDequantise mode, float std, guint64 seed, guint64 stream,
                              NfBuffer *noise, NfView x);
void nf_ops_tokens_to_pixels (NfOps *ops, NfView x, const NfPlanes *planes, const NfTokens *tokens,
                              guint tile0, guint tiles, NfBuffer *noise);

/* Tokens of tiles <-> the latents of a whole frame, (grid_height, grid_width, D). */
void nf_ops_grid (NfOps *ops, NfView tokens, NfBuffer *grid, guint tile0, guint tiles, guint tiles_x,
                  const NfTokens *t, gboolean to_grid);

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
