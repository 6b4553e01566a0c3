/* normflow: a flow's insides, for its two directions. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-flow.h"

/* Windows that decoding chooses from, the first is token by token. */
#define NF_FLOW_N_PACES 4

/* How fast a block was decoded with each of them, tokens a second; 0 before it was tried. */
typedef struct
{
  guint B;
  gboolean guided;
  double rate[NF_FLOW_N_PACES];
  guint trials;    /* of token by token */
  guint decodings; /* since a pace was tried again */
} NfPaces;

/* Work memory and what was measured for drafts. */
typedef struct _NfFlowDraft NfFlowDraft;
void nf_flow_draft_free (NfFlowDraft *draft, guint T);

struct _NfFlow
{
  NfModel *model;
  NfOps *ops;
  guint T;

  NfSampleShape shape;
  guint frames, rows, columns; /* of a sample; rows and columns of pixels */
  gboolean on_lattice;         /* nf_flow_set_on_lattice() */
  const NfTokens *snapped;     /* of the tokens that block 0 reads */
  guint turn;                  /* tokens within which blocks run backwards: a frame, or all of a sample */
  NfBlockSequence *sequences;  /* T, and the denoiser's */
  GPtrArray *tables;           /* of positions, owned */

  guint batch[NF_FLOW_N_WORKS];               /* samples at a time, 0 before the memory is there */
  guint capacity;                             /* samples that the buffers below hold */
  NfBuffer *input, *output, *spare, *ordered; /* (B, N, D) */
  NfBuffer *log_scales;                       /* (B, N, D), taken when asked for */
  NfBuffer *half_square, *log_det;            /* (B, N) */
  NfBuffer *misses;                           /* (B, N, 2) */
  const NfMissedList *missed;                 /* nf_flow_list_missed(); not owned */
  guint first_sample;
  const NfCorrections *corrections; /* nf_flow_correct(), of n_corrections samples; not owned */
  guint n_corrections;
  NfCorrectedBlocks corrected;     /* the same on the device */
  NfBuffer *labels;                /* (2B) ints */
  NfBuffer *text, *actions;        /* (2B, ...) */
  NfBuffer *local_text;            /* (2B frames, ...), if blocks of one frame see text */
  NfBuffer *changes;               /* (2B, rows of a window) */
  const NfSubstitute *substitutes; /* what the deep block is shown wrong; not owned */
  guint n_substitutes;
  NfBuffer **known; /* T of (B, N, D): what the block reads of frames that are given,
                       in its order; NULL where it sees one frame alone */

  GPtrArray *tapes;       /* for encoding: what block_tapes has */
  NfBlockTape **encoding; /* T, those of equal blocks are one */
  GPtrArray *kept;        /* for gradients: one a block, or one for all of equal shape */
  NfBlockTape **learning; /* T */
  gboolean recompute;     /* tapes are shared: each block's is computed again before its backward pass */
  GPtrArray *inputs;      /* for gradients: input of each block, in its order */
  GPtrArray *scratches;
  NfBlockScratch **scratch; /* T */
  GPtrArray *caches;
  NfBlockCache **cache; /* T, for decoding */
  guint cache_rows;     /* samples, each branch of them, that they are for */
  NfPaces paces[NF_MAX_BLOCKS];
  NfFlowDraft *draft; /* NULL before nf_flow_prepare_draft(), and where there can be none */
  NfBlockTape *denoiser;
  NfBlockScratch *denoiser_scratch;
};

/* Rows that go through at a time when decoding in parallel. */
#define NF_FLOW_WINDOW 32

/* Keys and values of so many samples, each branch of them, can be kept from here on; what was kept is lost.
 */
gboolean nf_flow_need_caches (NfFlow *flow, guint rows, GError **error);

/* Samples of block t's own sequences. */
guint nf_flow_samples (NfFlow *flow, guint t, guint B);

NfCondition nf_flow_condition (NfFlow *flow, guint t);

/* The first block whose network and sequence have the same sizes as those of block t. */
guint nf_flow_find_alike (NfFlow *flow, guint t);

/* A frame of B streams side by side: what nf_flow_inverse_frame() works on. Shallow blocks must be local to
 * frames. */
typedef struct
{
  guint B;
  guint f;               /* its number in the deep block's sequence */
  NfBlockCache **caches; /* T, of B samples; the deep block's holds the text and the frames before f */
  NfCondition condition;
  NfBuffer *u;            /* (B, N, D): what the deep block reads, in its order; frame f is found */
  NfBuffer *z;            /* (B, N, D): work memory */
  NfBuffer *x;            /* (B, frame, D): work memory */
  NfBuffer *changes;      /* (B, NF_FLOW_WINDOW): work memory */
  NfBuffer *latents;      /* (B, frame, D): z in natural order, then x */
  const NfTokens *tokens; /* whose lattice values fall on if they are to snap */
} NfFlowFrame;

/* frame->latents, with the tokens of the frame; NULL on failure. */
NfBuffer *nf_flow_inverse_frame (NfFlow *flow, const NfFlowFrame *frame, const NfDecodeOptions *options,
                                 gboolean (*step) (gpointer data, guint done, guint all), gpointer data,
                                 NfInverseReport *report, GError **error);
