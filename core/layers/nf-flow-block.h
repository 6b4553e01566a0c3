/* normflow: an autoregressive flow block. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-transformer.h"

/* Not installed. One block of TARFlow (Zhai et al. 2024, arXiv 2412.06329, eq. 4 to 6), STARFlow (Gu et al.
 * 2025, arXiv 2506.06276) or STARFlow-V (arXiv 2511.20462): a causal transformer reads tokens u and says
 * scale and shift of the next one. Tokens are in block order: the block's own sequence, which for every other
 * block runs backwards within each frame.
 *
 *   h = in(u) + position (+ class)         the transformer        o = out(final_norm(h))        z[n] = (u[n]
 * - mu) / sigma
 *
 * Before the tokens may come a prefix of text; before each frame's tokens a row of the action that leads to
 * the frame. With a start token (SOS) the row of token n reads token n-1 and speaks of n; without it reads n,
 * speaks of n+1, and token 0 stays. */

typedef struct
{
  NfTransformer transformer;
  guint index; /* among the flow's blocks, those that change nothing counted */
  guint D, n_classes;
  NfLinear in, out;
  NfLinear text, action;   /* text, action features to rows; w.buffer NULL for none */
  NfNorm final_norm;       /* w.buffer NULL for none */
  NfView sos;              /* (D), or a NULL buffer */
  NfView position;         /* learned, as stored, natural order: (N, d), or a frame's; or a NULL buffer */
  NfView ordered_position; /* (N, d) in block order */
  NfView classes;          /* (n_classes, d), or a NULL buffer */
  gboolean flip;           /* block order is reversed within frames */
  NfScale scale;
  float soft_clip;
  float max_log_scale;             /* infinite for any */
  float per_unit_in, per_unit_out; /* lattices of u and z, see NfAffine and nf_blocks_round() */
  NfGuidanceKind guidance;         /* what guidance of this block means */
} NfFlowBlock;

/* The sequence of a block on samples of a size. */
typedef struct
{
  guint N;                 /* tokens of a sample */
  guint frame;             /* tokens of a frame, or of all: reversal is within */
  guint prefix;            /* rows of text */
  guint extra;             /* rows before the tokens of each frame: 1 for its action, else 0 */
  gboolean on_lattice;     /* values between blocks, to their lattices (nf_blocks_round()) */
  const NfTokens *snapped; /* see NfAffine */
  NfSequence rows;
} NfBlockSequence;

/* In COUNT frames of sample B, from frame F on, token FROM is read where token TO is. */
typedef struct
{
  guint b, f, count;
  guint to, from;
} NfSubstitute;

/* What samples are conditioned by, on the device; NULL buffers where the block has no use for it. With
 * guidance the second branch's B entries follow the first's. */
typedef struct
{
  NfView text;      /* (B, prefix, n_in of text) */
  NfView actions;   /* (B, N/frame, n_in of action) */
  NfBuffer *labels; /* (B) ints, -1 for none */
  /* errors of the past, in training: what rows read in the place of the token before them */
  const NfSubstitute *substitutes;
  guint n_substitutes;
} NfCondition;

/* Rows of a whole sequence, and where the row that belongs to token n is. */
guint nf_block_rows (const NfBlockSequence *sequence);
guint nf_block_row (const NfBlockSequence *sequence, guint n);

typedef struct
{
  GPtrArray *buffers;
  NfTape *layers;
  NfBuffer *shifted; /* (B, N, D): the tokens that rows read, if there is a start token */
  NfBuffer
      *last;   /* (M, d): what the last product reads; the transformer's output itself without a final norm */
  NfBuffer *o; /* (M, 2D) or (M, D) */
} NfBlockTape;

NfBlockTape *nf_block_tape_new (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence,
                                guint B, gboolean keep);
void nf_block_tape_free (NfBlockTape *tape);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfBlockTape, nf_block_tape_free)
gsize nf_block_tape_floats (const NfFlowBlock *block, const NfBlockSequence *sequence, gboolean keep);

/* Between dense rows (B, N, width) of tokens and their places among all (B, rows, width); OUT takes them out.
 */
void nf_block_move_tokens (NfOps *ops, const NfBlockSequence *sequence, guint B, guint width, NfView dense,
                           NfView all, gboolean out);

/* tape->o: what the network says of u (B, N, D). */
void nf_block_predict (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence,
                       NfBlockTape *tape, NfView u, guint B, const NfCondition *condition);

/* With a past in the sequence, of one sample, the last frame's tokens alone: z, log_det, dz and du are
 * theirs, u is of the whole sequence, and the rows before are those that the past has.
 *
 * z (B, N, D) and log_det (B, N, natural order) of u; z is written in the reverse order if OUT_FLIP. log_det
 * is added to if ACCUMULATE. MISSED: NULL, or its counts are added to likewise. log_scales: NULL buffer,
 * or gets -log sigma (B, N, D) in block order. */
void nf_block_forward (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence,
                       NfBlockTape *tape, NfView u, guint B, const NfCondition *condition, NfView z,
                       NfBuffer *log_det, const NfMissed *missed, NfView log_scales, gboolean out_flip,
                       gboolean accumulate);

typedef struct
{
  GPtrArray *buffers;
  NfTapeScratch *layers;
  NfBuffer *d_o, *dshifted;
} NfBlockScratch;

NfBlockScratch *nf_block_scratch_new (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence,
                                      guint B);
void nf_block_scratch_free (NfBlockScratch *scratch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfBlockScratch, nf_block_scratch_free)

/* du of dz, given the kept tape of the same u. The loss holds -g times the log-determinant. Gradients of
 * parameters are added to GRADIENTS at the places that the parameters have in theirs, unless it is NULL. */
void nf_block_backward (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence,
                        const NfBlockTape *tape, NfBlockScratch *scratch, NfView u, guint B,
                        const NfCondition *condition, NfView dz, NfView du, gboolean out_flip, float g,
                        NfBuffer *gradients);

/* The part of it up to o: from scratch->d_o, du is added to; a NULL buffer for du if there is no start token:
 * not wanted. */
void nf_block_predict_backward (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence,
                                const NfBlockTape *tape, NfBlockScratch *scratch, NfView u, guint B,
                                const NfCondition *condition, NfView du, NfBuffer *gradients);

/* Keys, values and work memory of decoding, for up to R sequences (samples × branches) and COUNT rows at a
 * time. */
typedef struct
{
  GPtrArray *buffers;
  NfCache *layers;
  NfBuffer *shifted; /* (R, COUNT, D) */
  NfBuffer *o;       /* (R, COUNT, 2D or D) */
} NfBlockCache;

NfBlockCache *nf_block_cache_new (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence,
                                  guint rows, guint count, gboolean keeps_rows);
void nf_block_cache_free (NfBlockCache *cache);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfBlockCache, nf_block_cache_free)
gsize nf_block_cache_floats (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence,
                             guint count);

/* The text goes first. BRANCHES 2: guided and unguided rows, B each. */
void nf_block_begin (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence,
                     NfBlockCache *cache, guint B, guint branches, const NfCondition *condition);

/* The same of a denoiser, whose text sees frames: those of tokens 0 .. count-1 of u (B, N, D), which go
 * through with it and are to be extended by afterwards. */
void nf_block_begin_among (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence,
                           NfBlockCache *cache, NfView u, guint B, const NfCondition *condition, guint count);

/* The action of frame f goes before its tokens; does nothing if there are none. */
void nf_block_begin_frame (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence,
                           NfBlockCache *cache, guint B, guint branches, const NfCondition *condition,
                           guint f);

/* The rows of tokens n0 .. n0+count-1 go through the network, reading u (B, N, D); cache->o (rows, count, ·)
 * gets what they say. With actions they must lie in one frame. The unguided branch's attention logits are
 * divided by TEMPERATURE. */
void nf_block_extend (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence,
                      NfBlockCache *cache, NfView u, guint B, guint branches, const NfCondition *condition,
                      guint n0, guint count, float temperature);

/* The affine step of this block on these samples. */
NfAffine nf_block_affine (const NfFlowBlock *block, const NfBlockSequence *sequence, guint B);
